"""Rows padded to a bucket, so that data of nearby lengths share one compiled program.

Padded rows are zeros of weight 0: they add nothing to any sum, and nobody outside sees them.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from glmcore.tree import as_count

#: Fewest rows of a program, rows up to which lengths are powers of two, and bytes up to which they
#: are quarters between them, eighths, and sixteenths.
_FEWEST_ROWS, _FEW_ROWS = 256, 1024
_SMALL_BYTES, _LARGE_BYTES, _HUGE_BYTES = 2**24, 2**25, 2**26
#: Bytes on whose multiples an array has to begin for JAX to take it as it is.
_ALIGNMENT = 64


def bucket(n_rows: int, row_bytes: int) -> int:
    """Rows that ``n_rows`` are padded to.

    A power of two, at least 256; from 1024 on the next quarter between two of them, so that no more
    than 25 % are added; above 16 MB the next eighth, 12.5 %, above 32 MB the next sixteenth, and above 64 MB, where
    memory counts for more than a program, the next sixty-fourth.

    Examples
    --------
    >>> from glmcore.padding import bucket
    >>> [bucket(n, row_bytes=16) for n in (90, 300, 4096, 5000)]
    [256, 512, 4096, 5120]
    >>> bucket(1_000_000, row_bytes=80)
    1007616
    """
    power = max(_FEWEST_ROWS, 1 << (n_rows - 1).bit_length())
    n_bytes = power * row_bytes
    if n_bytes <= _SMALL_BYTES and power <= _FEW_ROWS:
        return power
    limits = (_SMALL_BYTES, 8), (_LARGE_BYTES, 16), (_HUGE_BYTES, 32)
    parts = next((parts for limit, parts in limits if n_bytes <= limit), 128)
    step = power // parts
    return -(-n_rows // step) * step


def pad_rows(X: PyTree, *columns: Any, n_models: Any = 1, at_least: Any = 0) -> tuple[Any, ...]:
    """``X`` and per-row arrays, padded with zeros to the bucket of their rows.

    Arrays are padded on the device that they live on; those that are traced, or spread over
    several, stay as they are.

    Parameters
    ----------
    X : array of shape (n, p), or a pytree of these
    *columns : arrays whose first axis are the rows
        Labels and weights, say; in weights the rows that are added count nothing.
    n_models : int, default 1
        How many models share the rows: the more, the more idle rows cost, and the fewer they are.
    at_least : int, default 0
        Rows of an earlier batch, whose program a smaller one then shares.

    Returns
    -------
    X, *columns
        With as many rows as the bucket has.

    Raises
    ------
    ValueError
        If ``n_models`` or ``at_least`` are no counts.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, weight = glmcore.pad_rows(np.ones((90, 4)), np.ones(90))
    >>> X.shape, int(weight.sum())
    ((256, 4), 90)
    >>> glmcore.pad_rows(np.ones((90, 4)), at_least=1000)[0].shape
    (1024, 4)
    """
    n_models, at_least = as_count(n_models, "n_models"), at_least and as_count(at_least, "at_least")
    leaves = jax.tree.leaves((X, columns))
    if not all(map(_in_one_place, leaves)):
        return (X, *columns)
    target = bucket_of(X, n_models, at_least)
    if target == len(leaves[0]):
        return (X, *columns)
    return jax.tree.map(lambda leaf: padded(leaf, target), (X, *columns))


def bucket_of(X: PyTree, n_models: int = 1, at_least: int = 0) -> int:
    """Rows that those of ``X`` are padded to."""
    leaves = jax.tree.leaves(X)
    row_bytes = n_models * sum(leaf.shape[1] * leaf.dtype.itemsize for leaf in leaves)
    return bucket(max(len(leaves[0]), at_least), row_bytes)


def padded(rows: Any, target: int) -> Any:
    """A copy with zeros up to ``target`` rows."""
    if not on_host(rows):
        return _padded_there(rows, target)
    longer = aligned((target, *rows.shape[1:]), rows.dtype)
    longer[: len(rows)] = rows
    longer[len(rows) :] = 0
    return longer


@functools.partial(jax.jit, static_argnums=1)
def _padded_there(rows: jax.Array, target: int) -> jax.Array:
    return jnp.zeros((target, *rows.shape[1:]), rows.dtype).at[: len(rows)].set(rows)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that a compiled program reads where it lies: JAX copies others first."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGNMENT
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def _in_one_place(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return isinstance(leaf, np.ndarray) or len(leaf.devices()) == 1


def on_host(leaf: Any) -> bool:
    """Whether NumPy reads ``leaf`` where it lies: an array of its own, or one on one CPU."""
    if isinstance(leaf, np.ndarray):
        return True
    return _in_one_place(leaf) and next(iter(leaf.devices())).platform == "cpu"
