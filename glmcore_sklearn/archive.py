"""Trees of plain values in a file: written whole or not at all, read without trust.

An archive is an uncompressed ``.npz`` file with the members ``header`` (JSON: format, version, libraries), ``content``
(JSON: the tree) and ``array_0``, ``array_1``, … (the arrays in it). It holds no pickle and no name that the reader
would import. In ``content`` null, booleans, numbers, strings and lists stand for themselves; everything else is an
object with one key, the kind of the value: ``{"tuple": [1, 2]}``, ``{"array": "array_0"}``.
"""

import math
import os
import struct
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmcore import npz

FORMAT = "glmcore"
# Well within Python's recursion limit, so that a program deeper in its stack can load what another one saved.
MAX_DEPTH = 100
_NO_FUNCTIONS: Mapping[str, Callable] = types.MappingProxyType({})


class Codec(NamedTuple):
    """How values of one class become a tree, and a tree such a value.

    Parameters
    ----------
    name : str
        What the archive calls the class.
    kind : type
        The exact class: a subclass would come back as something else and is not matched.
    to_tree : callable
        From a value to a tree that `save` can write.
    from_tree : callable
        From that tree to the value. It sees whatever a file says and should raise where that makes no sense.

    Examples
    --------
    >>> codec = Codec("slice", slice, lambda s: [s.start, s.stop, s.step], lambda tree: slice(*tree))
    >>> codec.from_tree(codec.to_tree(slice(3)))
    slice(None, 3, None)
    """

    name: str
    kind: type
    to_tree: Callable[[Any], Any]
    from_tree: Callable[[Any], Any]


def save(
    path: str | os.PathLike,
    content: dict,
    codecs: Sequence[Codec] = (),
    functions: Mapping[str, Callable] = _NO_FUNCTIONS,
) -> Path:
    """Write a tree of plain values to an ``.npz`` archive, all of it or nothing.

    Parameters
    ----------
    path : str or path
        The file; ``.npz`` is appended where it is missing. An existing file keeps its mode.
    content : dict
        Nested dict, list and tuple of None, bool, int, float, str, bytes, NumPy scalars, NumPy and JAX arrays,
        object arrays of such scalars, callables, and what `codecs` handle. Subclasses of these are refused.
    codecs : sequence of Codec
        How to write values of other classes.
    functions : mapping of str to callable
        Callables that `load` will know by name. Of any other only the name is kept, for the message that asks for it.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    TypeError
        A value has no place in an archive; the message says where in `content` it is. Nothing was written.
    ValueError
        `content` is nested more than 100 levels deep or contains itself. Nothing was written.
    OSError
        The file cannot be written; `FileNotFoundError` names a missing directory. An existing file is as it was.

    Notes
    -----
    Type, dtype, shape and every bit come back. Not kept: which places share one object, the weak type and the devices
    of a JAX array, the memory order of an object array.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(f"{folder}/model", {"coef": np.zeros(2), "classes": ("a", "b")})
    ...     path.name, load(path)
    ('model.npz', {'coef': array([0., 0.]), 'classes': ('a', 'b')})
    """
    if type(content) is not dict:
        raise TypeError(f"content must be a dict, not {npz.full_name(type(content))}")
    path = npz.with_suffix(path)
    writer = _Writer(codecs, functions)
    try:
        node = writer.node(content, ())
        documents = {"header": npz.to_document(npz.new_header(FORMAT)), "content": npz.to_document(node)}
    except RecursionError as error:
        raise ValueError("content is nested too deeply or contains itself") from error
    npz.write_atomically(path, {**documents, **writer.arrays})
    return path


def load(
    path: str | os.PathLike,
    mapping: Mapping[str, Any] | None = None,
    codecs: Sequence[Codec] = (),
    functions: Mapping[str, Callable] = _NO_FUNCTIONS,
) -> dict:
    """Read the tree that `save` wrote. No code of the file runs, whoever wrote it.

    Parameters
    ----------
    path : str or path
        The file, with or without ``.npz``.
    mapping : mapping of str to object, optional
        What takes the place of saved callables, by their place in the tree (``"params.solver_kwargs.callback"``) or
        the last name of it (``"callback"``). It wins over `functions`.
    codecs : sequence of Codec
        How to rebuild values of other classes. Classes that are not in it are not rebuilt.
    functions : mapping of str to callable
        The callables that `save` knew by name.

    Returns
    -------
    dict
        The tree. It takes at most a small multiple of the file's size in memory.

    Raises
    ------
    ValueError
        The file is foreign, damaged or of a newer format; a callable is missing from `mapping`; or `mapping` has a key
        for which the file has no use. The message begins with the name of the file.
    FileNotFoundError, PermissionError, IsADirectoryError
        The file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(f"{folder}/model", {"link": lambda eta: 2 * eta})
    ...     load(path, {"link": abs})
    {'link': <built-in function abs>}
    """
    mapping = dict(mapping or {})
    with npz.opened(path) as archive:
        archive.header(FORMAT)
        reader = _Reader(archive.read, codecs, functions, mapping)
        content = npz.typed(reader.value(archive.document("content"), ()), dict)
        archive.check_all_read()
        if unused := sorted(set(mapping) - reader.used, key=str):
            raise npz.Refused(f"it has no use for {unused} of mapping_dict; it can use {sorted(reader.known)}")
    return content


_SCALARS = (  # those that JSON has no exact word for, as text
    Codec("int", int, hex, lambda text: int(text, 16)),  # decimals of many digits are slow, and refused by Python
    Codec("float", float, lambda x: struct.pack(">d", x).hex(), lambda t: struct.unpack(">d", bytes.fromhex(t))[0]),
    Codec("bytes", bytes, bytes.hex, bytes.fromhex),
    Codec("numpy_str", np.str_, str.__str__, np.str_),  # NumPy's own __str__ loses trailing NULs, as its buffer does
    Codec("numpy_bytes", np.bytes_, lambda x: x.hex(), lambda text: np.bytes_(bytes.fromhex(text))),
)
_SCALAR_BY_KIND = {codec.kind: codec for codec in _SCALARS}
_SCALAR_BY_NAME = {codec.name: codec for codec in _SCALARS}


class _Writer:
    """Turns values into JSON nodes and collects the arrays among them. `_Reader` is its mirror image."""

    def __init__(self, codecs: Sequence[Codec], functions: Mapping[str, Callable]) -> None:
        self.codecs = {codec.kind: codec for codec in codecs}
        self.function_names = {id(function): name for name, function in functions.items()}
        self.arrays: dict[str, np.ndarray] = {}

    def node(self, value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if len(path) > MAX_DEPTH:
            raise ValueError(f"content is nested more than {MAX_DEPTH} levels deep or contains itself")
        if kind in self.codecs:
            return {"codec": [self.codecs[kind].name, self.node(self.codecs[kind].to_tree(value), path)]}
        if _is_json(value):
            return value
        if kind in _SCALAR_BY_KIND:
            return {_SCALAR_BY_KIND[kind].name: _SCALAR_BY_KIND[kind].to_tree(value)}
        if kind is list:
            return [self.node(item, (*path, str(i))) for i, item in enumerate(value)]
        if kind is tuple:
            return {"tuple": self.node(list(value), path)}
        if kind is dict:
            return {"dict": [[self.node(key, path), self.node(item, (*path, str(key)))] for key, item in value.items()]}
        if isinstance(value, np.generic):
            _check_dtype(value.dtype, path)
            return {"scalar": [value.dtype.str, value.tobytes().hex()]}
        if isinstance(value, jax.Array) or kind in (np.ndarray, np.memmap):
            return self.array(value, path)
        if callable(value):
            known = self.function_names.get(id(value))
            return {"callable": npz.full_name(value)} if known is None else {"function": known}
        raise TypeError(f"cannot save {_where(path)}: there is no codec for {npz.full_name(kind)}")

    def array(self, value: Any, path: tuple[str, ...]) -> dict:
        if value.dtype == object:
            if others := [type(item) for item in value.flat if not _is_scalar(item)]:
                raise TypeError(f"cannot save {_where(path)}: an object array that holds {npz.full_name(others[0])}")
            return {"objects": [list(value.shape), self.node(list(value.flat), path)]}
        _check_dtype(value.dtype, path)
        name = f"array_{len(self.arrays)}"
        self.arrays[name] = np.asarray(value)
        return {"jax" if isinstance(value, jax.Array) else "array": name}


class _Reader:
    """Turns JSON nodes back into values. `_Writer` is its mirror image."""

    def __init__(
        self,
        read_array: Callable[[str], np.ndarray],
        codecs: Sequence[Codec],
        functions: Mapping[str, Callable],
        mapping: Mapping[str, Any],
    ) -> None:
        self.read_array = read_array
        self.codecs = {codec.name: codec for codec in codecs}
        self.functions = functions
        self.mapping = mapping
        self.known: set[str] = set()  # the keys of mapping that the file could use
        self.used: set[str] = set()

    def value(self, node: Any, path: tuple[str, ...]) -> Any:
        if len(path) > MAX_DEPTH:
            raise npz.Refused(f"its content is nested more than {MAX_DEPTH} levels deep")
        if type(node) is list:
            return [self.value(item, (*path, str(i))) for i, item in enumerate(node)]
        if type(node) is not dict:
            return node
        [(kind, body)] = node.items()
        if kind in _SCALAR_BY_NAME:
            return _SCALAR_BY_NAME[kind].from_tree(npz.typed(body, str))
        match kind:
            case "tuple":
                return tuple(self.value(npz.typed(body, list), path))
            case "dict":
                return self.dictionary(npz.typed(body, list), path)
            case "array":
                return self.read_array(npz.typed(body, str))
            case "jax":
                with jax.enable_x64(True):  # here only: keeps 64-bit arrays as they are
                    return jnp.asarray(self.read_array(npz.typed(body, str)))
            case "scalar":
                dtype, bits = npz.typed(body, list)
                [scalar] = npz.valid(np.frombuffer(bytes.fromhex(bits), npz.parse_dtype(dtype)))
                return scalar
            case "objects":
                return self.objects(*npz.typed(body, list), path)
            case "codec":
                return self.coded(*npz.typed(body, list), path)
            case "callable" | "function":
                return self.function(kind, npz.typed(body, str), path)
        raise npz.Refused(f"it holds a value of the unknown kind {kind!r}")

    def dictionary(self, pairs: list, path: tuple[str, ...]) -> dict:
        result = {}
        for pair in pairs:
            key_node, item = npz.typed(pair, list)
            key = self.value(key_node, path)
            if key in result:
                raise npz.Refused(f"its {_where(path)} has the key {key!r} twice")
            result[key] = self.value(item, (*path, str(key)))
        return result

    def objects(self, shape: Any, items: Any, path: tuple[str, ...]) -> np.ndarray:
        shape = tuple(npz.typed(size, int) for size in npz.typed(shape, list))
        values = self.value(npz.typed(items, list), path)
        if min(shape, default=0) < 0 or not all(map(_is_scalar, values)):
            raise npz.Refused(f"its {_where(path)} is no object array that glmcore writes")
        return np.fromiter(values, dtype=object, count=len(values)).reshape(shape)

    def coded(self, name: Any, tree: Any, path: tuple[str, ...]) -> Any:
        if name not in self.codecs:
            raise npz.Refused(f"{_where(path)} is of the class {name!r}, which cannot be loaded")
        try:
            return self.codecs[name].from_tree(self.value(tree, path))
        except npz.Refused:
            raise
        except Exception as error:
            raise npz.Refused(f"{_where(path)} is no valid {name} ({error})") from error

    def function(self, kind: str, name: str, path: tuple[str, ...]) -> Any:
        keys = (".".join(path), path[-1])
        self.known.update(keys)
        for key in keys:
            if key in self.mapping:
                self.used.add(key)
                return self.mapping[key]
        if kind == "function" and name in self.functions:
            return self.functions[name]
        missing = f"{_where(path)} was the callable {name}, which is not stored"
        raise npz.Refused(f"{missing}; give mapping_dict[{path[-1]!r}]")


def _is_json(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return value is None or type(value) in (bool, str) or type(value) is float and math.isfinite(value)


def _is_scalar(value: Any) -> bool:
    return _is_json(value) or type(value) in _SCALAR_BY_KIND or isinstance(value, np.generic)


def _check_dtype(dtype: Any, path: tuple[str, ...]) -> None:
    if not (isinstance(dtype, np.dtype) and npz.DTYPE.fullmatch(dtype.str)):  # JAX's random keys have no NumPy dtype
        raise TypeError(f"cannot save {_where(path)}: it has dtype {dtype}")


def _where(path: tuple[str, ...]) -> str:
    return repr(".".join(path)) if path else "content"



