"""Rows padded to a bucket, so that data of nearby lengths share one compiled program.

Padded rows are zeros of weight 0: they add nothing to any sum, and nobody outside sees them.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

#: Fewest rows of a program, and bytes up to which lengths are powers of two.
_FEWEST_ROWS = 256
_SMALL_BYTES = 16 * 2**20
#: Rows that are summed in the dtype of the data.
_MEAN_ROWS = 8192
#: Bytes on whose multiples an array has to begin for JAX to take it as it is.
_ALIGNMENT = 64


def bucket(n_rows: int, row_bytes: int) -> int:
    """Rows that ``n_rows`` are padded to.

    A power of two, at least 256; above 16 MB a step of an eighth of it, so that no more than
    12.5 % are added.

    Examples
    --------
    >>> from glmcore.padding import bucket
    >>> [bucket(n, row_bytes=16) for n in (90, 300, 4096)]
    [256, 512, 4096]
    >>> bucket(1_000_000, row_bytes=80)
    1048576
    """
    power = max(_FEWEST_ROWS, 1 << (n_rows - 1).bit_length())
    if power * row_bytes <= _SMALL_BYTES:
        return power
    step = max(1, power // 16)
    return -(-n_rows // step) * step


def pad_rows(X: PyTree, *columns: Any, n_models: int = 1, at_least: int = 0) -> tuple[Any, ...]:
    """``X`` and per-row arrays, padded with zeros to the bucket of their rows.

    Arrays are padded on the device that they live on; those that are traced, or spread over
    several, stay as they are.  Where many models share the rows, ``n_models`` of them, idle rows
    cost more and are fewer.  With ``at_least``, the rows of an earlier batch, a smaller one
    shares its program.

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
    leaves = jax.tree.leaves((X, columns))
    if not all(map(_in_one_place, leaves)):
        return (X, *columns)
    n_rows, target = _rows_and_bucket(X, n_models, at_least)
    if target == n_rows:
        return (X, *columns)
    return jax.tree.map(lambda leaf: _padded(leaf, target), (X, *columns))


def centred_rows(X: PyTree, weight: Any, *columns: Any) -> tuple[Any, ...]:
    """Centre of ``X`` under ``weight``, and what :func:`pad_rows` returns with ``X`` centred and
    weights that sum to one.

    The one copy that a fit makes of its data: centring while padding costs no more than
    padding, and the compiled program needs no copy of its own.  Arrays that are traced, or live
    elsewhere than on one CPU, are only padded and the centre is None.
    """
    leaves = jax.tree.leaves((X, weight, columns))
    if not all(map(on_host, leaves)):
        return (None, *pad_rows(X, weight, *columns))
    _, target = _rows_and_bucket(X)
    share = _padded(weight, target)
    share /= share.sum(dtype=np.float64)
    rows, structure = jax.tree.flatten(X)
    rows = [np.asarray(leaf) for leaf in rows]
    with np.errstate(all="ignore"):  # not finite is for the status of the fit to say
        centres = [_mean(leaf, share) for leaf in rows]
        centred = [_centred(leaf, mean, target) for leaf, mean in zip(rows, centres)]
    centre = np.concatenate(centres)
    return (
        centre,
        jax.tree.unflatten(structure, centred),
        share,
        *(_padded(column, target) for column in columns),
    )


def _padded(rows: Any, target: int) -> Any:
    if not on_host(rows):
        return _padded_there(rows, target)
    padded = aligned((target, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    padded[len(rows) :] = 0
    return padded


@functools.partial(jax.jit, static_argnums=1)
def _padded_there(rows: jax.Array, target: int) -> jax.Array:
    return jnp.zeros((target, *rows.shape[1:]), rows.dtype).at[: len(rows)].set(rows)


def _mean(rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mean of every column; products of blocks of rows, summed in float64."""
    starts = range(0, len(rows), _MEAN_ROWS)
    blocks = (slice(start, min(start + _MEAN_ROWS, len(rows))) for start in starts)
    # In one layout, so that the sum does not depend on that of X; not by BLAS, whose threads
    # would go on waiting for work while the compiled program runs.
    sums = (np.einsum("n,np->p", share[b], np.ascontiguousarray(rows[b])) for b in blocks)
    return sum(s.astype(np.float64) for s in sums).astype(rows.dtype)


def _centred(rows: np.ndarray, centre: np.ndarray, target: int) -> np.ndarray:
    n_rows = len(rows)
    centred = aligned((target, *rows.shape[1:]), rows.dtype)
    centred[n_rows:] = 0

    def subtract(block: slice) -> None:
        np.subtract(rows[block], centre, out=centred[block])

    if rows.nbytes < _SMALL_BYTES:
        subtract(slice(n_rows))
        return centred
    # NumPy lets go of the interpreter, and two threads are nearer to the memory bus than one.
    half = n_rows // 2
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(subtract, b) for b in (slice(half), slice(half, n_rows))]:
            done.result()
    return centred


def _rows_and_bucket(X: PyTree, n_models: int = 1, at_least: int = 0) -> tuple[int, int]:
    rows = jax.tree.leaves(X)
    row_bytes = n_models * sum(leaf.shape[1] * leaf.dtype.itemsize for leaf in rows)
    return rows[0].shape[0], bucket(max(rows[0].shape[0], at_least), row_bytes)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that a compiled program reads where it lies: JAX copies others first."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
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
