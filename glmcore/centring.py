"""Rows in the memory of the host, centred: the one copy that a fit makes of its data."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from glmcore.coordinates import is_sure
from glmcore.padding import aligned, bucket_of, on_host, pad_rows, padded
from glmcore.tree import is_concrete

#: Numbers that are worked on at once, few enough to stay in a cache and many enough for two threads
#: not to wait for the interpreter, and rows that are summed in the dtype of the data.
_CACHED_NUMBERS = 2**18
_SUMMED_ROWS = 8192
#: Numbers of columns that are looked at more closely, at once.
_GATHERED_NUMBERS = 2**21
#: Rows that tell whether some values may lie far out, by so many times their range, and how far; one in so
#: many of these, at either end, may be such a value itself.
_FEW_ROWS, _SOME_ROWS = 16, 128
_FAR_OUT, _FAR_OUT_ROWS = 100, 32
#: Where a few values lie so many times as far out as the others, gradients in the spread of these are to be so
#: small.  Below, heavy tails are as common as such values.
_ISOLATED, _LEFT_OUT = 5e3, 1e-3
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
    centre = np.zeros(p, rows.dtype)
    centred = aligned((len(share), p), rows.dtype)
    centred[n:] = 0

    def sums(block: slice) -> np.ndarray:
        # In one layout, so that the sum does not depend on that of X; not by BLAS, whose threads
        # would go on waiting for work while the compiled program runs.
        total = np.zeros(p)
        for b in _pieces(block, p):
            total += _sum(share[b], np.ascontiguousarray(rows[b]))
        return total

    def squares(block: slice) -> np.ndarray:
        total, room = np.zeros(p), np.empty_like(centred[: _piece_rows(p)])
        for b in _pieces(block, p):
            np.subtract(rows[b], centre, out=centred[b])
            total += _sum(share[b], np.square(centred[b], out=room[: b.stop - b.start]))
        return total

    if fit_intercept:
        centre = _over_rows(sums, rows).astype(rows.dtype)
    second = _over_rows(squares, rows)
    deviation = np.sqrt(second)
    doubtful = np.flatnonzero(~is_sure(second, centre.astype(np.float64), np.finfo(rows.dtype)))
    if doubtful.size:
        closer = _quietly(_look_closer, centred[:n], share[:n], doubtful, fit_intercept)
        deviation[doubtful] = closer
    return centred, Moments(centre, deviation.astype(rows.dtype))


def seeing_all(solver: Any, X: PyTree, n: int, moments: Optional[Moments] = None) -> Any:
    """The solver with a lower tolerance where a few values lie far out: to their scale, which is that of their
    features, gradients of all the other rows are small wherever they are.

    Of features that NumPy can read, n rows and perhaps padding, whose ``moments`` may be known.
    """
    leaves = jax.tree.leaves(X)
    if not all(map(on_host, leaves)):
        return solver
    with np.errstate(all="ignore"):
        leaves = [np.asarray(x)[:n] for x in leaves]
        deviation = np.concatenate([np.std(x, axis=0) for x in leaves]) if moments is None else moments.deviation
        far = isolation(leaves, deviation)
    if far < _ISOLATED or not is_concrete(solver.tol) or _LEFT_OUT / far >= solver.tol:
        return solver
    return dataclasses.replace(solver, tol=_LEFT_OUT / far)


def isolation(X: list[np.ndarray], deviation: Float[np.ndarray, " p"]) -> float:
    """How many times the ``deviation`` of a feature is the spread of nearly all of its values, where a
    few lie far out; 1 where none do."""
    n = len(X[0])
    if n < _FEW_ROWS:
        return 1.0
    few = [x[:: n // _FEW_ROWS][:_FEW_ROWS].reshape(2, _FEW_ROWS // 2, x.shape[1]) for x in X]
    spread = np.concatenate([(halves.max(axis=1) - halves.min(axis=1)).min(axis=0) for halves in few])
    suspect = (deviation > _FAR_OUT * spread) & (spread > 0)
    if not suspect.any():
        return 1.0
    columns = np.flatnonzero(suspect)
    some = np.concatenate([x[:: max(1, n // _SOME_ROWS)] for x in X], axis=1)[:, columns]
    some = np.sort(some.astype(np.float64), axis=0)
    few_out = len(some) // _FAR_OUT_ROWS
    spread = (some[-1 - few_out] - some[few_out]) / 4
    ratio = deviation[columns] / np.where(spread > 0, spread, np.inf)  # the others are constant but for a few
    return float(ratio.max(initial=1.0))


def _look_closer(
    rows: Float[np.ndarray, "n p"],
    share: Float[np.ndarray, " n"],
    columns: Int[np.ndarray, " q"],
    fit_intercept: bool,
) -> Float[np.ndarray, " q"]:
    """The deviation of columns of which squares and mean are no better than rounding."""
    some = max(1, _GATHERED_NUMBERS // len(rows))
    if len(columns) > some:
        parts = (columns[start : start + some] for start in range(0, len(columns), some))
        return np.concatenate([_look_closer(rows, share, part, fit_intercept) for part in parts])
    used, values = share > 0, rows.take(columns, axis=1)
    if not used.all():
        values, share = values[used], share[used]
    low, high = values.min(axis=0), values.max(axis=0)
    deviation, varies = np.zeros(len(columns)), low != high
    values, weight = values[:, varies].astype(np.float64), share.astype(np.float64)
    size = np.maximum(np.abs(low), np.abs(high))[varies].astype(np.float64)
    values /= size  # squares neither overflow nor vanish
    variance = _sum(weight, np.square(values)) - fit_intercept * np.square(_sum(weight, values))
    deviation[varies] = size * np.sqrt(np.maximum(variance, 0))
    # Below the root of the smallest number the inverse square has no value.
    return np.where(deviation < np.sqrt(np.finfo(rows.dtype).tiny), 0, deviation)


def _sum(weight: Float[np.ndarray, " n"], rows: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " p"]:
    return np.einsum("n,np->p", weight, rows)


def _piece_rows(p: int) -> int:
    return max(1, min(_SUMMED_ROWS, _CACHED_NUMBERS // max(p, 1)))


def _pieces(block: slice, p: int) -> Iterator[slice]:
    size = _piece_rows(p)
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
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_quietly, work, slice(n // 2, n))
        return _quietly(work, slice(0, n // 2)) + other.result()


def _quietly(work: Callable, *args: Any) -> np.ndarray:
    """Without NumPy's warnings: not finite is for the status of the fit to say."""
    with np.errstate(all="ignore"):
        return work(*args)
