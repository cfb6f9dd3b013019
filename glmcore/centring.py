"""Rows in the memory of the host, centred: the one copy that a fit makes of its data."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from glmcore.coordinates import CENTRE_ROUNDINGS
from glmcore.padding import aligned, bucket_of, on_host, pad_rows, padded

#: Numbers that are worked on at once, so that they stay in a cache, and rows that are summed in
#: the dtype of the data.
_CACHED_NUMBERS = 2**16
_SUMMED_ROWS = 8192
#: Bytes from which a second thread pays.
_LARGE_BYTES = 2**24


class Moments(NamedTuple):
    """Weighted mean of every feature, 0 without an intercept, and its standard deviation, exactly
    0 if it does not vary."""

    centre: Any
    deviation: Any


def centred_rows(X: PyTree, y: Any, weight: Any, fit_intercept: bool) -> tuple[Any, ...]:
    """What :func:`~glmcore.padding.pad_rows` returns, with ``X`` centred and weights that sum to
    one, and the moments of ``X``.

    Centring while padding costs no more than padding, and the compiled program needs no copy of
    its own.  Arrays that are traced, or live elsewhere than on one CPU, are only padded: the
    moments are None.
    """
    if not all(map(on_host, jax.tree.leaves((X, y, weight)))):
        return *pad_rows(X, y, weight), None
    target = bucket_of(X)
    share = padded(weight, target)
    share /= share.sum(dtype=np.float64)
    leaves, structure = jax.tree.flatten(X)
    centred, moments = zip(*(_centred(np.asarray(x), share, fit_intercept) for x in leaves))
    moments = Moments(*map(np.concatenate, zip(*moments)))
    return jax.tree.unflatten(structure, centred), padded(y, target), share, moments


def _centred(
    rows: Float[np.ndarray, "n p"], share: Float[np.ndarray, " target"], fit_intercept: bool
) -> tuple[Float[np.ndarray, "target p"], Moments]:
    """Rows of weight ``share``, of which the last ones are padding, and their moments."""
    n, p = rows.shape
    centre, info = np.zeros(p, rows.dtype), np.finfo(rows.dtype)
    centred = aligned((len(share), p), rows.dtype)
    centred[n:] = 0

    def sums(block: slice) -> np.ndarray:
        # In one layout, so that the sum does not depend on that of X; not by BLAS, whose threads
        # would go on waiting for work while the compiled program runs.
        parts = (_sum(share[b], np.ascontiguousarray(rows[b])) for b in _pieces(block, p))
        return sum(parts, np.zeros(p))

    def squares(block: slice) -> np.ndarray:
        def part(b: slice) -> np.ndarray:
            np.subtract(rows[b], centre, out=centred[b])
            return _sum(share[b], np.square(centred[b]))

        return sum(map(part, _pieces(block, p)), np.zeros(p))

    if fit_intercept:
        centre = _over_rows(sums, rows).astype(rows.dtype)
    second = _over_rows(squares, rows)
    deviation = np.sqrt(second)
    # What is large against the rounding error of the centre has its mean at 0.
    noise = np.square(CENTRE_ROUNDINGS * info.eps * centre.astype(np.float64))
    sure = (second > np.maximum(noise, info.tiny / info.eps)) & (second < info.max)
    if not sure.all():
        doubtful = np.flatnonzero(~sure)
        deviation[doubtful] = _quietly(_look_closer, centred, share, doubtful, fit_intercept)
    return centred, Moments(centre, deviation.astype(rows.dtype))


def _look_closer(
    rows: Float[np.ndarray, "n p"],
    share: Float[np.ndarray, " n"],
    columns: Int[np.ndarray, " q"],
    fit_intercept: bool,
) -> Float[np.ndarray, " q"]:
    """The deviation of columns of which squares and mean are no better than rounding."""

    def pieces() -> Iterator[tuple]:
        for b in _pieces(slice(0, len(rows)), rows.shape[1]):
            used = share[b] > 0
            if used.any():
                yield share[b][used].astype(np.float64), rows[b][used][:, columns]

    low = np.min([values.min(axis=0) for _, values in pieces()], axis=0)
    high = np.max([values.max(axis=0) for _, values in pieces()], axis=0)
    size = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    unit = np.where(size > 0, size, 1)  # squares neither overflow nor vanish
    mean = sum(_sum(weight, values / unit) for weight, values in pieces())
    second = sum(_sum(weight, np.square(values / unit)) for weight, values in pieces())
    deviation = unit * np.sqrt(np.maximum(second - fit_intercept * np.square(mean), 0))
    # Below the root of the smallest number the inverse square has no value.
    constant = (low == high) | (deviation < np.sqrt(np.finfo(rows.dtype).tiny))
    return np.where(constant, 0, deviation)


def _sum(weight: Float[np.ndarray, " n"], rows: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " p"]:
    return np.einsum("n,np->p", weight, rows)


def _pieces(block: slice, p: int) -> Iterator[slice]:
    size = max(1, min(_SUMMED_ROWS, _CACHED_NUMBERS // max(p, 1)))
    for start in range(block.start, block.stop, size):
        yield slice(start, min(start + size, block.stop))


def _over_rows(
    work: Callable[[slice], np.ndarray], rows: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, " p"]:
    """The sum of ``work`` over rows: NumPy lets go of the interpreter, and two threads are nearer
    to the memory bus than one."""
    n = len(rows)
    if rows.nbytes < _LARGE_BYTES:
        return _quietly(work, slice(0, n))
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(partial(_quietly, work), (slice(0, n // 2), slice(n // 2, n))))


def _quietly(work: Callable, *args: Any) -> np.ndarray:
    """Without NumPy's warnings: not finite is for the status of the fit to say."""
    with np.errstate(all="ignore"):
        return work(*args)
