"""Mutated files and hostile calls: ``python -m tests.fuzz [--files N] [--calls N] [--seed N]``.

Whatever is passed, a call gives a right answer or raises a ValueError, a TypeError or what it documents, in words for
its caller; it does not crash or hang, runs no code of a file and leaves what it was passed and was called on as they
were.  A process of its own, without the shape checks of the tests, which users do not have either.
"""

import argparse
import contextlib
import faulthandler
import pathlib
import random
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore_sklearn import load_model
from tests import hostile
from tests.entries import Entry, all_entries
from tests.mutation import mutated, with_checksums

#: Seconds after which a call counts as one that hangs.
TIME_LIMIT = 100
DOCUMENTED = (
    ValueError,
    TypeError,
    NotFittedError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
#: Words of Python, NumPy and JAX about their own business.
INTERNAL = re.compile(
    r"has no attribute|'NoneType' object|not subscriptable|unsupported operand|truth value|dot_general|out of bounds|"
    r"jaxpr|Traced|has no len|to unpack|could not be broadcast|Incompatible shapes|valid JAX type|required positional|ufunc"
)


class Trouble(AssertionError):
    """A call that did what no call may do."""


# Files


class Watch:
    """Notices code that runs and processes that start while it is on."""

    EVENTS = (
        "exec",
        "compile",
        "pickle.find_class",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "subprocess.Popen",
        "marshal.loads",
    )

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if self.on and event in self.EVENTS:
            self.seen.append(event)

    def __call__(self, function: Callable, *args: Any) -> Any:
        self.on = True
        try:
            return function(*args)
        finally:
            self.on = False


def fuzz_file(read: Callable[[pathlib.Path], Any], data: bytes, count: int, seed: int, watch: Watch) -> Counter:
    """How many mutations of a file were loaded and refused; a plain one loads as what was saved or not at all."""
    rng, outcomes = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fuzzed.npz"
        path.write_bytes(data)
        expected = read(path)
        for index in range(count):
            changed = mutated(data, rng)
            repaired = index % 2 == 1
            path.write_bytes(with_checksums(changed) if repaired else changed)
            faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
            try:
                found = watch(read, path)
            except ValueError as error:
                if not str(error).startswith(f"cannot load '{path}': "):
                    raise Trouble(f"mutation {index} with the seed {seed}: {error}") from error
                outcomes["refused"] += 1
            else:
                if not repaired and found != expected:
                    raise Trouble(f"mutation {index} with the seed {seed} loads as something else")
                outcomes["loaded"] += 1
    if watch.seen:
        raise Trouble(f"code ran while files were read: {set(watch.seen)}")
    return outcomes


def read_model(path: pathlib.Path) -> tuple:
    """What is in the file of a model, to compare."""
    model = load_model(path)
    return repr(model), *(
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((model.classes_, model.coef_, model.intercept_))
    )


def read_checkpoint(path: pathlib.Path) -> bytes:
    """The answer of a fit that is resumed from the file, to compare."""
    model = glmcore.GLM(glmcore.Categorical(hostile.K), glmcore.Ridge(0.01))
    result = glmcore.fit(
        model, hostile.X, hostile.Y, solver=glmcore.LBFGS(maxiter=30), callback=glmcore.Checkpoint(path)
    )
    return np.asarray(result.params.coef).tobytes()


def fuzz_files(count: int, seed: int) -> None:
    watch = Watch()
    model = hostile.FOLDER / "model.npz"
    checkpoint = hostile.FOLDER / "fuzz.npz"
    read_checkpoint(checkpoint)  # writes it
    for read, path, share in ((read_model, model, count - count // 4), (read_checkpoint, checkpoint, count // 4)):
        outcomes = fuzz_file(read, path.read_bytes(), share, seed, watch)
        print(f"{share} mutated files for {read.__name__}: {dict(outcomes)}", flush=True)


# Calls


ENTRIES = all_entries()
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.unicode_string_dtypes(min_len=1),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
NAMED = st.sampled_from(sorted(hostile.HOSTILE)).map(lambda name: (name, hostile.HOSTILE[name]))
VALUES = st.integers(0, 9).flatmap(lambda n: NAMED if n else ARRAYS.map(lambda array: (repr(array), array)))


@st.composite
def calls(draw: Callable) -> tuple:
    """An entry, and one or two of its arguments with hostile values."""
    entry = draw(st.sampled_from(ENTRIES))
    names = draw(st.lists(st.sampled_from(sorted(entry.arguments)), min_size=1, max_size=2, unique=True))
    values = {name: draw(VALUES) for name in names}
    hypothesis.assume(not any(label in entry.without for label, _ in values.values()))
    return entry, values


def snapshot(tree: Any) -> list:
    """What must not change: which objects there are, and the bytes of the arrays."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
    arrays = [leaf.tobytes() for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.dtype != object]
    return [*map(id, leaves), *arrays]


def same_answer(result: Any, expected: Any) -> bool:
    found, wanted = (getattr(r, "coef_", getattr(getattr(r, "params", r), "coef", r)) for r in (result, expected))
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return all(a is b or np.array_equal(a, b) or np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)


def check_call(entry: Entry, values: dict) -> str:
    """Make the call; its outcome, or Trouble."""
    given = {name: value for name, (_, value) in values.items()}
    arguments = {**entry.arguments, **given}
    owner = {} if entry.owner is None else vars(entry.owner)
    state, before, passed = dict(owner), snapshot(owner), snapshot(arguments)
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    try:
        result = entry.function(**arguments)
        outcome = "answered"
    except DOCUMENTED as error:
        outcome = "refused"
        if INTERNAL.search(str(error)):
            raise Trouble(f"words of an internal error: {type(error).__name__}: {error}") from error
        if snapshot(owner) != before:
            raise Trouble(f"changed by a call that raised: {error}") from error
    else:
        entry.check(result)
        if all(label in hostile.DISGUISED and name == "X" for name, (label, _) in values.items()):
            expected = entry.function(**entry.arguments)
            if not same_answer(result, expected):
                raise Trouble("another answer for the same features")
    finally:
        owner.clear()
        owner.update(state)
    if snapshot(arguments) != passed:
        raise Trouble("an argument was changed")
    return outcome


def fuzz_calls(count: int, seed: int) -> None:
    outcomes = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(calls())
    def run(call: tuple) -> None:
        entry, values = call
        hypothesis.note(f"{entry.name}: {', '.join(f'{name}={label}' for name, (label, _) in values.items())}")
        outcomes[check_call(entry, values)] += 1

    run()
    print(f"{sum(outcomes.values())} hostile calls: {dict(outcomes)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    for name, count in (("files", 10_000), ("calls", 2_000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # What a call writes to a name that is made up goes with the folder.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        fuzz_files(arguments.files, arguments.seed)
        fuzz_calls(arguments.calls, arguments.seed)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
