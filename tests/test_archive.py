"""Archives: every value comes back exactly, a failed save leaves no trace, a hostile file is a ValueError."""

import doctest
import errno
import io
import json
import math
import os
import pickle
import random
import stat
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from fractions import Fraction
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mutation import mutated, with_checksums

from glmcore_sklearn import archive
from glmcore_sklearn.archive import Codec, load, save

pytestmark = pytest.mark.filterwarnings("error")

FRACTION = Codec("Fraction", Fraction, lambda f: (f.numerator, f.denominator), lambda tree: Fraction(*tree))
FUNCTIONS = {"jax.nn.log_softmax": jax.nn.log_softmax}
HEADER = {"format": "glmcore", "version": 1, "libraries": {}}


def identical(a, b):
    """Same type, same shape, same bits, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(identical, a.items(), b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, float) and not isinstance(a, np.generic):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, np.generic) and not isinstance(a, (np.str_, np.bytes_)):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (np.ndarray, jax.Array)):
        same_bits = identical(list(a.flat), list(b.flat)) if a.dtype == object else bits(a) == bits(b)
        return a.shape == b.shape and a.dtype == b.dtype and same_bits
    return a == b


def bits(array):
    return np.asarray(array).tobytes()


def round_trip(folder, content, **kwargs):
    return load(save(Path(folder) / "archive.npz", content, **kwargs), **kwargs)


# --------------------------------------------------------------------------------------------------------- values

ODD_NAN = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]

VALUES = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -1, 2**63 - 1, -(2**63), 2**64, -(10**5000)],
    "floats": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, ODD_NAN],
    "strings": ["", "é\U0001f600", "a\0b\0", '"\\\n', "\ud83d", "\ud83d\ude00", "{'dict': 1}"],
    "bytes": [b"", b"\0\xff\0"],
    "empties": [[], (), {}],
    "nested": [1, (2, [3, ({"a": (4,)},)])],
    "keys": {"b": 1, "a": 2, 3: 4, -1: 5, None: 6, 1.5: 7, b"x": 8, (1, "a"): 9, np.int64(77): 10, np.str_("n"): 11},
    "boolean key": {True: 1, "1": 2},
    "reserved names": {"array": "array_0", "dict": [["a", 1]], "codec": ["Fraction", [1, 2]]},
    "numpy scalars": [np.float32(0.1), np.float64(-0.0), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)],
    "more numpy scalars": [np.longdouble(1) / 3, np.complex64(1 - 2j), np.float16(np.nan)],
    "numpy times": [np.datetime64("2020-01-01"), np.datetime64("NaT", "s"), np.timedelta64(5, "ms"), np.timedelta64(5, "s")],
    "numpy texts": [np.str_(""), np.str_("a\0"), np.bytes_(b""), np.bytes_(b"a\0")],
    "0-d": np.array(1.5),
    "empty arrays": [np.zeros((0, 3)), np.zeros((3, 0), np.int8), np.array([], "<U3")],
    "bool array": np.array([[True, False]]),
    "texts": [np.array(["", "é\U0001f600"]), np.array([b"ab", b"\0c"]), np.array(["x"], ">U4")],
    "times": [np.array(["2020-01-01", "NaT"], "M8[D]"), np.array([1, 2], "m8[25s]"), np.array([1], "m8[ns]")],
    "byte order": [np.arange(3, dtype=">f8"), np.arange(3, dtype=">i2")],
    "wide": [np.arange(3, dtype=np.longdouble) / 3, np.arange(3) * 1j],
    "special floats": np.array([0.0, -0.0, np.nan, ODD_NAN, np.inf]),
    "views": [np.arange(10)[::-3], np.arange(12).reshape(3, 4)[:, 1:3], np.broadcast_to(np.float32(1), (2, 2))],
    "objects": np.array([["a", 1, 1.5], [True, b"b\0", None]], dtype=object),
    "object extras": np.array([np.str_("a"), np.int8(1), math.nan, -0.0, 2**100, "\ud83d"], dtype=object),
    "empty objects": [np.array([], dtype=object), np.zeros((2, 0, 3), dtype=object)],
    "0-d object": np.array("a", dtype=object),
    "jax": [jnp.arange(3), jnp.float32(-0.0), jnp.zeros((2, 0)), jnp.array([True]), jnp.array([1 + 2j])],
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_comes_back_exactly(tmp_path, name):
    content = {"value": VALUES[name]}
    assert identical(round_trip(tmp_path, content), content)


def test_everything_at_once(tmp_path):
    assert identical(round_trip(tmp_path, VALUES), VALUES)


def test_identical_sees_differences():
    pairs = [(1, True), (0.0, -0.0), ((1,), [1]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1: 0}, {1.0: 0})]
    pairs += [(np.zeros(2), np.zeros((2, 1))), (np.zeros(1), jnp.zeros(1)), (np.zeros(1), -np.zeros(1))]
    pairs += [("a", np.str_("a")), (np.zeros(1), np.zeros(1, ">f8")), (np.array(1, object), np.array(True, object))]
    assert not any(identical(a, b) for a, b in pairs)


def test_arrays_are_writable_aligned_and_keep_their_order(tmp_path):
    content = {"c": np.ones((2, 3)), "f": np.asfortranarray(np.ones((2, 3)))}
    loaded = round_trip(tmp_path, content)
    assert loaded["c"].flags.c_contiguous and not loaded["c"].flags.f_contiguous
    assert loaded["f"].flags.f_contiguous and not loaded["f"].flags.c_contiguous
    assert all(array.flags.writeable and array.flags.aligned and array.flags.owndata for array in loaded.values())


def test_arrays_mapped_from_files_come_back_as_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "data", dtype=np.float64, mode="w+", shape=(3,))
    assert identical(round_trip(tmp_path, {"x": mapped}), {"x": np.zeros(3)})


def test_64_bit_jax_arrays_keep_their_dtype_and_the_setting(tmp_path):
    before = jax.config.jax_enable_x64
    with jax.enable_x64(True):
        content = {"x": jnp.array([0.1], jnp.float64)}
    loaded = round_trip(tmp_path, content)
    assert loaded["x"].dtype == np.float64 and bits(loaded["x"]) == bits(content["x"])
    assert jax.config.jax_enable_x64 == before


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
SCALARS |= st.floats(width=32).map(np.float32) | st.integers(-9, 9).map(np.int16) | st.text().map(np.str_)
DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes()
    | hnp.unicode_string_dtypes(min_len=1)
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.datetime64_dtypes()
    | hnp.timedelta64_dtypes()
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = hnp.arrays(DTYPES, SHAPES) | hnp.arrays(object, SHAPES, elements=SCALARS)
KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


def nests(children):
    lists = st.lists(children, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(KEYS, children, max_size=4)


JAX_ARRAYS = hnp.arrays(st.sampled_from([np.float32, np.int32, np.uint8, np.bool_]), SHAPES).map(jnp.asarray)
TREES = st.recursive(SCALARS | ARRAYS | JAX_ARRAYS, nests, max_leaves=12)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_any_tree_comes_back_exactly(tmp_path_factory, content):
    assert identical(round_trip(tmp_path_factory.getbasetemp(), content), content)


def test_codecs_rebuild_only_what_the_table_names(tmp_path):
    content = {"fractions": [Fraction(1, 3), {"a": Fraction(-2)}]}
    path = save(tmp_path / "f", content, [FRACTION])
    assert identical(load(path, codecs=[FRACTION]), content)
    with pytest.raises(ValueError, match="'fractions.0' is of the class 'Fraction', which cannot be loaded"):
        load(path)


def test_codecs_may_nest_hold_arrays_and_take_over_a_plain_kind(tmp_path):
    box = Codec("Box", OrderedDict, lambda d: [np.arange(2), *d.values()], lambda tree: OrderedDict(x=tree[1]))
    content = {"box": OrderedDict(x=Fraction(1, 2))}
    assert identical(round_trip(tmp_path, content, codecs=[box, FRACTION]), content)
    shout = Codec("str", str, lambda text: [ord(c) for c in text], lambda tree: "".join(map(chr, tree)).upper())
    assert load(save(tmp_path / "s", {1: "a"}, [shout]), codecs=[shout]) == {1: "A"}


def test_a_codec_that_refuses_its_tree_says_where(tmp_path):
    def refuse(tree):
        raise KeyError("strength")

    path = save(tmp_path / "f", {"penalty": Fraction(1)}, [FRACTION])
    with pytest.raises(ValueError, match="cannot load '.*f.npz': 'penalty' is no valid Fraction .*strength"):
        load(path, codecs=[FRACTION._replace(from_tree=refuse)])


# ------------------------------------------------------------------------------------------------------ callables


def square(x):
    return x**2


CALLABLES = {"params": {"inverse_link_function": square, "solver_kwargs": {"callback": [abs]}}}


@pytest.mark.parametrize("prefix", ["", "params."])
def test_mapping_replaces_callables_by_last_name_or_full_path(tmp_path, prefix):
    path = save(tmp_path / "f", CALLABLES)
    loaded = load(path, {f"{prefix}inverse_link_function": np.exp, "params.solver_kwargs.callback.0": len})
    assert loaded == {"params": {"inverse_link_function": np.exp, "solver_kwargs": {"callback": [len]}}}


def test_the_full_path_tells_equal_last_names_apart(tmp_path):
    path = save(tmp_path / "f", {"a": {"f": square}, "b": {"f": square}})
    assert load(path, {"f": abs}) == {"a": {"f": abs}, "b": {"f": abs}}
    assert load(path, {"f": abs, "b.f": len}) == {"a": {"f": abs}, "b": {"f": len}}


def test_a_missing_callable_names_its_key_and_its_original(tmp_path):
    path = save(tmp_path / "f", CALLABLES)
    message = r"f.npz': 'params.inv.*test_archive.square.*mapping_dict\['inverse_link_function'\]"
    with pytest.raises(ValueError, match=message):
        load(path)


def test_an_unused_key_names_itself_and_those_that_could_be(tmp_path):
    path = save(tmp_path / "f", {"link": square})
    with pytest.raises(ValueError, match=r"no use for \['lnk'\] of mapping_dict.*\['link'\]"):
        load(path, {"link": abs, "lnk": abs})
    with pytest.raises(ValueError, match=r"no use for \['link'\] of mapping_dict.*\[\]"):
        load(save(tmp_path / "g", {}), {"link": abs})


def test_known_functions_need_no_mapping_but_obey_one(tmp_path):
    content = {"link": jax.nn.log_softmax}
    path = save(tmp_path / "f", content, functions=FUNCTIONS)
    assert load(path, functions=FUNCTIONS) == content
    assert load(path, {"link": abs}, functions=FUNCTIONS) == {"link": abs}
    with pytest.raises(ValueError, match=r"jax.nn.log_softmax.*mapping_dict\['link'\]"):
        load(path)


def test_a_callable_is_not_taken_for_a_known_one_of_its_name(tmp_path):
    name = f"{square.__module__}.{square.__qualname__}"
    path = save(tmp_path / "f", {"link": square}, functions={name: abs})
    with pytest.raises(ValueError, match="mapping_dict"):
        load(path, functions={name: abs})


class Doubling:
    def __call__(self, x):
        return 2 * x


ANY_CALLABLE = [np.exp, [].append, Fraction, (1).__add__, jax.jit(square), partial(square), Doubling()]


@pytest.mark.parametrize("value", ANY_CALLABLE)
def test_any_callable_can_be_saved_by_name(tmp_path, value):
    assert load(save(tmp_path / "f", {"f": value}), {"f": None}) == {"f": None}


# ----------------------------------------------------------------------------------------------- refused by saving

REFUSED = {
    "set": ({1}, TypeError, "'a.0.b': there is no codec for set"),
    "complex": (1j, TypeError, "complex"),
    "subclass of dict": (OrderedDict(a=1), TypeError, "collections.OrderedDict"),
    "structured array": (np.zeros(2, "i4,f4"), TypeError, "'a.0.b': it has dtype"),
    "structured scalar": (np.zeros(2, "i4,f4")[0], TypeError, "it has dtype"),
    "void array": (np.zeros(2, "V3"), TypeError, "it has dtype"),
    "empty strings": (np.ndarray(2, "U0"), TypeError, "it has dtype"),
    "variable strings": (np.array(["a"], np.dtypes.StringDType()), TypeError, "it has dtype"),
    "bfloat16": (jnp.zeros(2, jnp.bfloat16), TypeError, "it has dtype bfloat16"),
    "random key": (jax.random.key(0), TypeError, "it has dtype key"),
    "masked array": (np.ma.masked_array([1], [True]), TypeError, "MaskedArray"),
    "objects with a list": (np.array([[1], "a"], dtype=object), TypeError, "'a.0.b': an object array that holds list"),
    "objects with a function": (np.array([abs], dtype=object), TypeError, "builtin_function_or_method|abs"),
    "key": ({frozenset(): 1}, TypeError, "frozenset"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved_says_where_and_writes_nothing(tmp_path, name):
    value, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        save(tmp_path / "f", {"a": [{"b": value}]})
    assert os.listdir(tmp_path) == []


def test_content_must_be_a_dict(tmp_path):
    with pytest.raises(TypeError, match="content must be a dict, not list"):
        save(tmp_path / "f", [1])


def nested(depth):
    content = value = {}
    for _ in range(depth):
        value["a"] = value = {}
    return content


def test_depth_is_limited_where_loading_is(tmp_path):
    assert round_trip(tmp_path, nested(archive.MAX_DEPTH)) == nested(archive.MAX_DEPTH)
    with pytest.raises(ValueError, match="100 levels"):
        save(tmp_path / "g", nested(archive.MAX_DEPTH + 1))


def test_content_that_contains_itself_is_refused(tmp_path):
    content = {}
    content["a"] = content
    with pytest.raises(ValueError, match="contains itself"):
        save(tmp_path / "f", content)
    endless = FRACTION._replace(to_tree=lambda f: f)
    with pytest.raises(ValueError, match="contains itself"):
        save(tmp_path / "f", {"a": Fraction(1)}, [endless])


# ---------------------------------------------------------------------------------------------------- file and name


@pytest.mark.parametrize(
    "name, written", [("m", "m.npz"), ("m.npz", "m.npz"), ("m.v1", "m.v1.npz"), ("é ü", "é ü.npz")]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_the_suffix_is_added_where_it_is_missing(tmp_path, name, written, kind):
    path = save(kind(tmp_path / name), {"a": 1})
    assert path == tmp_path / written and os.listdir(tmp_path) == [written]
    assert load(kind(tmp_path / name)) == load(kind(tmp_path / written)) == {"a": 1}


def test_relative_paths_and_renamed_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save("m", {"a": 1}) == Path("m.npz")
    os.rename("m.npz", "renamed")
    assert load("renamed") == {"a": 1}


def test_numpy_can_read_the_archive_without_pickle(tmp_path):
    path = save(tmp_path / "f", VALUES)
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
        assert json.loads(archive["header"].tobytes())["format"] == "glmcore"


def test_missing_directories_and_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no directory '.*absent'"):
        save(tmp_path / "absent" / "m", {})
    with pytest.raises(FileNotFoundError, match="m.npz"):
        load(tmp_path / "m")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom modes stop")
def test_an_unreadable_file_is_a_permission_error(tmp_path):
    save(tmp_path / "m", {}).chmod(0)
    with pytest.raises(PermissionError):
        load(tmp_path / "m")


@pytest.mark.skipif(os.name != "posix", reason="modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_an_ordinary_file(tmp_path, umask):
    old = os.umask(umask)
    try:
        path = save(tmp_path / "m", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    save(path, {"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_stays_a_link(tmp_path):
    real = save(tmp_path / "real", {"a": 1})
    link = tmp_path / "link.npz"
    link.symlink_to(real)
    save(link, {"a": 2})
    assert link.is_symlink() and load(real) == {"a": 2}


def write_some_then_fail(stream, **members):
    stream.write(b"PK")
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(*args):
    raise KeyboardInterrupt


def fail(*args):
    raise OSError("boom")


FAILURES = {
    "write": (np, "savez", write_some_then_fail, OSError),
    "fsync": (os, "fsync", fail, OSError),
    "replace": (os, "replace", fail, OSError),
    "interrupted fsync": (os, "fsync", interrupt, KeyboardInterrupt),
    "interrupted replace": (os, "replace", interrupt, KeyboardInterrupt),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    module, function, failure, error = FAILURES[name]
    path = save(tmp_path / "m", {"a": 1})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, function, failure)
        with pytest.raises(error):
            save(path, {"a": np.arange(1000)})
        with pytest.raises(error):
            save(tmp_path / "new", {"a": np.arange(1000)})
    assert os.listdir(tmp_path) == ["m.npz"] and path.read_bytes() == before
    assert load(save(path, {"a": 2})) == {"a": 2}


def test_a_directory_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: fail() if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd))
    assert round_trip(tmp_path, {"a": 1}) == {"a": 1}


def test_saving_onto_a_directory_leaves_nothing(tmp_path):
    (tmp_path / "m.npz").mkdir()
    with pytest.raises(OSError):
        save(tmp_path / "m", {})
    assert os.listdir(tmp_path) == ["m.npz"]


# ----------------------------------------------------------------------------------------------------------- header


def test_the_header_says_what_wrote_the_file(tmp_path):
    with np.load(save(tmp_path / "m", {})) as members:
        header = json.loads(members["header"].tobytes())
    assert header["format"] == "glmcore" and header["version"] == 1
    assert header["libraries"]["numpy"] == np.__version__ and header["libraries"]["jax"] == jax.__version__
    assert {"python", "numpy", "jax"} <= set(header["libraries"]) <= {"python", "numpy", "jax", "glmcore"}


def npy(array, **kwargs):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **kwargs)
    return stream.getvalue()


def document(node):
    text = node if isinstance(node, str) else json.dumps(node)
    return npy(np.frombuffer(text.encode(), np.uint8))


def pack(path, content, header=HEADER, compression=zipfile.ZIP_STORED, **members):
    """An archive of any content, however wrong."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("header.npy", document(header))
        archive.writestr("content.npy", content if isinstance(content, bytes) else document(content))
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def refused(path, match=None, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        load(path, **kwargs)
    assert str(caught.value).startswith(f"cannot load '{path}': ") and caught.value.__cause__ is not None


def test_pack_makes_archives_that_load(tmp_path):
    assert load(pack(tmp_path / "m.npz", {"dict": [["a", {"array": "array_0"}]]}, array_0=npy(1)))["a"] == 1


def test_a_newer_format_asks_to_upgrade(tmp_path):
    header = {"format": "glmcore", "version": 2, "libraries": {"glmcore": "9.1"}, "more": []}
    path = pack(tmp_path / "m.npz", {"new": 1}, header, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")
    path = pack(tmp_path / "m.npz", {"new": 1}, header, other=b"")
    refused(path, r"9\.1 wrote it in the newer format 2; upgrade glmcore")


WRONG_HEADERS = {
    **{"list": [], "string": "glmcore", "empty": {}, "not json": "{", "deep": "[" * 100_000},
    **{"other format": {"format": "other"}, "only the format": {"format": "glmcore"}},
    **{f"version {version!r}": {**HEADER, "version": version} for version in ("1", 0, -1, True, 1.0, None, [])},
    **{"no libraries": {**HEADER, "libraries": []}, "wrong library": {**HEADER, "libraries": {"numpy": 2}}},
    "huge version": '{"format": "glmcore", "libraries": {}, "version": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_a_wrong_header_is_refused(tmp_path, name):
    refused(pack(tmp_path / "m.npz", {"dict": []}, WRONG_HEADERS[name]))


# ---------------------------------------------------------------------------------------------------- hostile files


class Evil:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_the_archive_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    evil = np.empty(1, object)
    evil[0] = Evil(str(trap))
    pickled = npy(evil, allow_pickle=True)
    content = {"dict": [["a", {"array": "array_0"}]]}
    refused(pack(tmp_path / "a.npz", content, array_0=pickled), "not an array|dtype '|O'")
    refused(pack(tmp_path / "b.npz", pickled), "dtype")
    refused(pack(tmp_path / "c.npz", content, array_0=pickle.dumps(evil)), "not an array")
    np.savez(tmp_path / "d.npz", header=evil)
    refused(tmp_path / "d.npz", "dtype")
    (tmp_path / "e.npz").write_bytes(pickle.dumps(evil))
    refused(tmp_path / "e.npz", "not an .npz archive")
    assert not trap.exists()
    with np.load(tmp_path / "d.npz", allow_pickle=True) as archive:
        archive["header"][0].close()
    assert trap.exists()  # the trap works


FOREIGN = {
    "empty": b"",
    "text": b"not a model\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "npy": npy(np.zeros(3)),
    "zip start": b"PK\x03\x04" + bytes(100),
    "empty zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(tmp_path, name):
    path = tmp_path / "m.npz"
    path.write_bytes(FOREIGN[name])
    refused(path)


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, a=np.zeros(3))
    refused(path, "glmcore did not write it")
    np.savez_compressed(path, a=np.zeros(3))
    refused(path, "glmcore did not write it")
    np.savez(path, header=np.zeros(3), content=np.zeros(3))
    refused(path)


def array_node(name="array_0", kind="array"):
    return {"dict": [["a", {kind: name}]]}


def header_of(descr="<f8", shape="(2,)", order="False", version=b"\x01\x00"):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


WRONG_ARRAYS = {
    "claims more": (header_of(shape="(1000000000000,)") + bytes(16), "not as long as its member"),
    "overflows": (header_of(shape=f"({2**32}, {2**32}, 4)"), "not as long as its member"),
    "claims less": (header_of() + bytes(24), "not as long"),
    "huge number": (header_of(shape=f"({'9' * 5000},)"), "digits"),
    "negative": (header_of(shape="(-1,)"), "not an array"),
    "call": (header_of(shape="(exit(),)"), "not an array"),
    "many dimensions": (header_of(shape="(" + "1, " * 5000 + ")") + bytes(8), None),
    "object": (header_of("|O") + bytes(16), r"dtype '\|O'"),
    "structured": (header_of("i4,f4") + bytes(16), "dtype"),
    "structured list": (npy(np.zeros(2, "i4,f4")), "not an array"),
    "subarray": (header_of("(2,)f8") + bytes(32), "dtype"),
    "void": (header_of("|V8") + bytes(16), "dtype"),
    "empty strings": (header_of("<U0", f"({10**15},)"), "dtype"),
    "no such dtype": (header_of("<i3") + bytes(6), None),
    "huge strings": (header_of("<U99999999999", "(0,)"), None),
    "steps of zero": (header_of("<M8[0D]") + bytes(16), "dtype"),
    "not canonical": (header_of("=f8") + bytes(16), "dtype"),
    "bool": (header_of("|b1") + b"\x01\x02", "no such value"),
    "text": (header_of("<U1") + b"\xff" * 8, "no such value"),
    "text of the other end": (header_of(">U1") + b"\0\0\0a" + b"\0\xff\0\0", "no such value"),
    "version 2": (npy(np.zeros(2), version=(2, 0)), "not an array"),
    "length": (b"\x93NUMPY\x01\x00\xff\xff" + header_of()[10:] + bytes(16), "not an array"),
    "empty": (b"", "not an array"),
    "text member": (b"x" * 100, "not an array"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
@pytest.mark.parametrize("kind", ["array", "jax"])
def test_wrong_arrays_are_refused(tmp_path, name, kind):
    data, match = WRONG_ARRAYS[name]
    refused(pack(tmp_path / "m.npz", array_node(kind=kind), array_0=data), match)


def test_strings_are_no_jax_array(tmp_path):
    refused(pack(tmp_path / "m.npz", array_node(kind="jax"), array_0=npy(["a"])))


EIGHT = "00" * 8
WRONG_BODIES = {
    "unknown": [1],
    "__reduce__": [[]],
    "Fraction": [[1, 2]],
    "int": [5, "x", "", []],
    "float": ["00", 1.0, None],
    "bytes": ["0", {}],
    "numpy_str": [1],
    "numpy_bytes": ["zz", [1]],
    "tuple": ["ab", {}, None],
    "dict": [{}, "ab", ["ab"], [["a"]], [[[], 1]], [[{"dict": []}, 1]], [["a", 1], ["a", 2]], [[1, 1], [True, 2]]],
    "array": ["array_9", 0, None, ["array_0"], "../../etc/passwd", "header", "content"],
    "jax": [{}, "array_9"],
    "scalar": [
        *("ab", ["<f8"], ["<f8", ""], ["<f8", "00"], ["<f8", EIGHT * 2], ["<f8", 8], [1, "00"]),
        *(["|O", EIGHT], ["i4,f4", EIGHT], ["(1,)f8", EIGHT], ["|b1", "02"], ["<U1", "ffffffff"]),
    ],
    "objects": [
        *({}, [[1]], "ab", [[2], "ab"], [3, [1, 2, 3]], ["3", [1, 2, 3]], [[3], []], [[10**12], []]),
        *([[-2], [1, 2]], [[True], [1]], [[1.0], [1]], [[1] * 100, [1]]),
        *([[1], [[1]]], [[1], [{"tuple": []}]], [[1], [{"codec": ["Fraction", [1, 2]]}]]),
    ],
    "codec": [
        *("ab", [], ["Fraction", 1], ["Fraction", [1, 0]], ["Fraction", [1, {"unknown": 1}]]),
        *(["os.system", ["true"]], [["Fraction"], [1, 2]], [{}, 1]),
    ],
    "function": ["os.system", "__class__", 1, ["a"]],
    "callable": ["os.system", "jax.nn.log_softmax", None],
}
WRONG_NODES = [{kind: body} for kind, bodies in WRONG_BODIES.items() for body in bodies]
WRONG_NODES += [{}, {"tuple": [], "list": []}]


@pytest.mark.parametrize("node", WRONG_NODES, ids=lambda node: json.dumps(node)[:40])
def test_wrong_nodes_are_refused(tmp_path, node):
    for content in (node, {"dict": [["a", [{"tuple": [node]}]]]}, {"dict": [["a", {"objects": [[1], [node]]}]]}):
        refused(pack(tmp_path / "m.npz", content), codecs=[FRACTION], functions=FUNCTIONS)


WRONG_DOCUMENTS = {
    "not json": "{",
    "deep": "[" * 100_000,
    "deep but closed": "[" * 400 + "]" * 400,
    "deep codecs": '{"codec": ["Fraction", ' * 300 + "1" + "]}" * 300,
    "huge integer": '{"dict": [["a", ' + "9" * 100_000 + "]]}",
    "long integer": '{"dict": [["a", ' + "9" * 30 + "]]}",
    "list": "[]",
    "null": "null",
    "string": '"content"',
    "empty": "",
    "trailing": '{"dict": []} x',
}


@pytest.mark.parametrize("name", WRONG_DOCUMENTS)
def test_wrong_documents_are_refused(tmp_path, name):
    refused(pack(tmp_path / "m.npz", WRONG_DOCUMENTS[name]), codecs=[FRACTION])


def test_bytes_that_are_no_text_are_refused(tmp_path):
    refused(pack(tmp_path / "m.npz", npy(np.full(9, 255, np.uint8))), "UnicodeDecodeError")


def test_members_must_be_there_be_used_and_be_used_once(tmp_path):
    path = tmp_path / "m.npz"
    refused(pack(path, array_node()), "'array_0' is absent or used twice")
    twice = {"dict": [["a", {"array": "array_0"}], ["b", {"array": "array_0"}]]}
    refused(pack(path, twice, array_0=npy(1)), "'array_0' is absent or used twice")
    refused(pack(path, {"dict": []}, array_0=npy(1)), "does not use.*array_0")
    refused(pack(path, {"dict": []}, **{"../../evil": npy(1)}), "does not use.*evil")
    refused(pack(path, {"dict": []}, **{"/etc/passwd": b""}), "does not use")
    assert os.listdir(tmp_path) == ["m.npz"]


def test_duplicate_members_are_refused(tmp_path):
    path = pack(tmp_path / "m.npz", array_node(), array_0=npy(1))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("array_0.npy", npy(2))
    refused(path, "two members of the same name")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_bombs_are_refused_unread(tmp_path, compression):
    path = pack(tmp_path / "m.npz", array_node(), array_0=npy(1))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", document(HEADER))
        archive.writestr("content.npy", document(array_node()))
        archive.writestr("array_0.npy", npy(np.zeros(10**6)), compression)
    assert path.stat().st_size < 10**5
    refused(path, "compressed")


def test_overlapping_members_are_refused(tmp_path):
    names = [f"array_{i}" for i in range(50)]
    content = {"dict": [[name, {"array": name}] for name in names]}
    path = pack(tmp_path / "m.npz", content, array_0=npy(np.zeros(1000)))
    with zipfile.ZipFile(path, "a") as archive:
        kernel = archive.getinfo("array_0.npy")
        for name in names[1:]:
            overlapping = zipfile.ZipInfo(f"{name}.npy")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(overlapping, field, getattr(kernel, field))
            archive.filelist.append(overlapping)
        archive._didModify = True
    refused(path, "claim more bytes")


def peak_memory(path):
    tracemalloc.start()
    try:
        load(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_near_the_size_of_the_file(tmp_path):
    path = save(tmp_path / "m", {"a": np.zeros(10**6), "b": np.zeros(10**6)})
    assert peak_memory(path) < 2 * path.stat().st_size


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path):
    path = save(tmp_path / "m", {"a": np.full(100, 7, np.uint8)})
    data = path.read_bytes()
    at = data.index(bytes([7] * 100))
    path.write_bytes(data[:at] + b"\x06" + data[at + 1 :])
    refused(path, "Bad CRC-32")


def test_an_encrypted_member_is_refused(tmp_path):
    path = pack(tmp_path / "m.npz", {"dict": []})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")


# ------------------------------------------------------------------------------------------------------------- fuzz

FUZZED = {
    "params": {"regularizer": Fraction(1, 3), "link": jax.nn.log_softmax, "kwargs": {"tol": 1e-6, "x": ("a", b"b")}},
    "coef_": {"a": jnp.ones((2, 3)), "b": [np.arange(6.0).reshape(2, 3)]},
    "classes_": np.array(["cat", "dog", "é"]),
    "labels": np.array(["a", 1, None], dtype=object),
    "mask": np.array([[True, False]]),
    "count": np.int64(3),
}


def fuzz(folder, seed, count, repair):
    """How many of the mutations loaded; raises if one does anything but load or be refused."""
    rng = random.Random(seed)
    options = {"codecs": [FRACTION], "functions": FUNCTIONS}
    path = save(folder / "m", FUZZED, **options)
    data = path.read_bytes()
    loaded = 0
    for _ in range(count):
        path.write_bytes(repair(mutated(data, rng)))
        try:
            content = load(path, **options)
        except ValueError as error:
            assert str(error).startswith(f"cannot load '{path}': ") and error.__cause__ is not None
        else:
            loaded += 1
            assert repair is with_checksums or identical(content, FUZZED)
    return loaded


@pytest.mark.parametrize("repair", [bytes, with_checksums])
@pytest.mark.parametrize("count", [300, slow(10_000)])
def test_mutated_files_load_equal_or_are_refused(tmp_path, repair, count):
    loaded = fuzz(tmp_path, seed=count, count=count, repair=repair)
    assert 0 < loaded < count  # both happen, so the test has teeth


def test_every_truncation_is_refused(tmp_path):
    path = save(tmp_path / "m", {"a": np.arange(3), "b": "c"})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path)


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(archive).failed == 0
