"""What tells one fit from another: its data, its model and its solver."""

import dataclasses
import functools
import hashlib
import types
from typing import Any, NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from glmcore.npz import full_name
from glmcore.params import stack_columns

#: Odd constants of the finaliser of MurmurHash3.
_FIRST, _SECOND = 0x85EBCA6B, 0xC2B2AE35
#: Settings of a solver that say when it ends and not what it does.
_ENDS = ("tol", "maxiter")
_MOST_LETTERS = 300


class Identity(NamedTuple):
    """The data, the model and the solver of a fit, each in words that end with what they hold."""

    data: str
    model: str
    solver: str

    @classmethod
    def of(cls, model: Any, solver: Any, shape: tuple, digest: np.ndarray) -> "Identity":
        """The identity of a fit to data of ``(rows, features, dtype)`` with a :func:`digest_rows`."""
        n_rows, n_features, dtype = shape
        text = "".join(f"{int(part):08x}" for part in digest)
        data = f"{n_rows} rows of {n_features} features, {np.dtype(dtype)}, digest {text}"
        return cls(data, describe(model), describe(solver, without=_ENDS))

    def difference(self, other: "Identity") -> Optional[str]:
        """In what ``other`` differs from this, in words; None if they are the same."""
        return next(
            (
                f"another {name}: {_shortened(theirs)}, expected {_shortened(ours)}"
                for name, ours, theirs in zip(self._fields, self, other)
                if ours != theirs
            ),
            None,
        )


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


# Data


def digest_rows(
    X: PyTree[Float[Array, "n _"]], y: Int[Array, " n"], weight: Float[Array, " n"], ordered: bool
) -> UInt32[Array, "2"]:
    """64 bits that change with any bit of a row that has weight, and with the order if asked to.

    Two sums over rows modulo 2^32: those of parts of the data add up to that of all, and no
    rounding makes them another on another machine.
    """
    place = _mixed(jnp.arange(y.size, dtype=jnp.uint32)) if ordered else jnp.zeros(y.shape, jnp.uint32)
    rows, start = (place, place), 1
    for column in (stack_columns(X), weight[:, None], y.astype(jnp.int32)[:, None]):
        words = _words(column)
        salt = _mixed(start + jnp.arange(words.shape[1], dtype=jnp.uint32))[None, :]
        words = _mixed(words ^ salt)
        sums = (jnp.sum(part, axis=1, dtype=jnp.uint32) for part in (words, words * (salt | 1)))
        rows = tuple(row + part for row, part in zip(rows, sums))
        start += words.shape[1]
    used = (jnp.where(weight > 0, _mixed(row), 0) for row in rows)
    return jnp.stack([jnp.sum(row, dtype=jnp.uint32) for row in used])


def _words(column: Array) -> UInt32[Array, "n w"]:
    """The bits of a matrix, 32 at a time."""
    words = jax.lax.bitcast_convert_type(column, jnp.uint32)
    return words.reshape(len(column), -1)


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A permutation of 32 bits in which every bit of ``x`` moves all."""
    x = (x ^ (x >> 16)) * jnp.uint32(_FIRST)
    x = (x ^ (x >> 13)) * jnp.uint32(_SECOND)
    return x ^ (x >> 16)


# Models and solvers


def describe(value: Any, without: tuple[str, ...] = ()) -> str:
    """``value`` in words that do not change from process to process.

    A function is its name and what it closes over: its code is not looked at.

    Examples
    --------
    >>> import glmcore
    >>> from glmcore.identity import describe
    >>> describe(glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(0.1)))
    'GLM(observations=Categorical(n_classes=3), penalty=Ridge(strength=0.1), inverse_link=None, fit_intercept=True, mask=None)'
    """
    return _described(value, without, ())


def _described(value: Any, without: tuple[str, ...], above: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(value)
    if id(value) in above:  # a function that knows itself
        return "..."
    above = (*above, id(value))
    parts = [(label, part) for label, part in _parts(value) if label not in without]
    inside = [f"{label}={_described(part, (), above)}" if label else _described(part, (), above) for label, part in parts]
    name = full_name(value) if hasattr(value, "__qualname__") else type(value).__qualname__
    return f"{name}({', '.join(inside)})" if inside or not hasattr(value, "__qualname__") else name


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What a value is made of, each part with its name."""
    if isinstance(value, dict):
        return [(repr(key), item) for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [("", item) for item in value]
    if hasattr(value, "__wrapped__"):  # a jitted function
        return [("", value.__wrapped__)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return [("", item) for item in (*(value.__defaults__ or ()), *cells)]
    if isinstance(value, functools.partial):
        return [("", value.func), *(("", item) for item in value.args), *value.keywords.items()]
    if isinstance(value, types.MethodType):
        return [("", value.__self__)]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return []
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return list(vars(value).items())


def _array(value: Any) -> str:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.ndim == 0:
        return str(array)
    return f"{array.dtype}{list(array.shape)}:{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
