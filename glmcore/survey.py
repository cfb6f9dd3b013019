"""The first pass over batches: centre and scale, classes, and a sample of rows."""

from typing import Any, NamedTuple, Optional

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from glmcore.coordinates import is_sure
from glmcore.identity import digest_rows
from glmcore.reading import Chunk, Reader
from glmcore.rows import LEAST_WEIGHT
from glmcore.sweeps import over_blocks

#: Bytes of the features of the sample, and the rows that it has in any case and at most.
_SAMPLE_BYTES = 2**24
_FEWEST_ROWS = 8192
_FEWEST_ROWS_PER_FEATURE = 4
_MOST_ROWS = 2**16


class Survey(NamedTuple):
    """What one pass tells of the data.

    Attributes
    ----------
    centre, deviation : array of shape (p,)
        As in :class:`~glmcore.coordinates.Coordinates`.
    class_means : array of shape (K, p)
        Mean of the centred features in each class, 0 for a class without weight.
    class_weights : array of shape (K,)
        Sum of the weights in each class, in float64.
    n_used : int
        Rows with weight.
    digest : array of shape (2,), or None
        :func:`~glmcore.identity.digest_rows`, in whatever order they come.
    X, y, weight : arrays of m rows
        A sample, spread evenly over the weight, about its original scale.
    room : int
        Rows to pad the sample to, so that all samples of as many features share their programs;
        0 if it is all rows.
    """

    centre: np.ndarray
    deviation: np.ndarray
    class_means: np.ndarray
    class_weights: np.ndarray
    n_used: int
    digest: Optional[np.ndarray]
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    room: int


class _Moments(NamedTuple):
    """Sums over rows: of weights and shifted features in each class, of squares; extremes."""

    class_weights: Any
    class_sums: Any
    squares: Any
    n_used: Any
    extremes: Any  # the largest of -x and x
    digest: Any  # None unless asked for


def survey(reader: Reader, n_classes: int, fit_intercept: bool, with_digest: bool) -> Survey:
    """Pass over the batches once, or twice if features lie in a very different place or scale
    than the first rows promise."""
    sample = _SystematicSample(reader.shape)
    shift = np.zeros(sum(reader.shape.widths), reader.shape.dtype)
    if fit_intercept:  # until the centre is known
        shift = np.nan_to_num(reader.first_rows.mean(axis=0, dtype=np.float64)).astype(shift.dtype)
    unit = np.ones_like(shift)
    moments = _sweep(reader, n_classes, shift, unit, sample, with_digest)
    digest = moments.digest
    centre, second, class_means = _standardised(moments, shift, unit, fit_intercept)
    low, high = -moments.extremes[0], moments.extremes[1]
    info = np.finfo(reader.shape.dtype)
    doubtful = ~is_sure(second, centre, info)
    if np.any(doubtful & (low < high)):
        shift = centre.astype(shift.dtype)
        reach = np.maximum(np.abs(low - shift), np.abs(high - shift))
        unit = np.where(reach > 0, reach, 1).astype(shift.dtype)
        moments = _sweep(reader, n_classes, shift, unit, None, False)
        centre, second, class_means = _standardised(moments, shift, unit, fit_intercept)
    deviation = np.sqrt(np.maximum(second, 0))
    constant = doubtful & ((low == high) | (deviation < np.sqrt(info.tiny)))
    return Survey(
        centre.astype(info.dtype),
        np.where(constant, 0, deviation).astype(info.dtype),
        class_means.astype(info.dtype),
        moments.class_weights,
        int(moments.n_used),
        digest,
        *sample.rows(),
        sample.room,
    )


def _moments(
    n_classes: int,
    shift: Float[Array, " p"],
    unit: Float[Array, " p"],
    with_digest: bool,
    X: Float[Array, "n p"],
    y: Int[Array, " n"],
    weight: Float[Array, " n"],
    n_rows: Int[Array, ""],
) -> tuple[tuple, Float[Array, "2 p"], Optional[UInt32[Array, "2"]]]:
    def of_block(X, y, weight):
        used = (weight > 0)[:, None]
        # A maximum may drop a NaN once XLA has vectorised it: an infinity stays.
        both = (jnp.where(jnp.isnan(X), jnp.inf, x) for x in (-X, X))
        extremes = jnp.stack([jnp.max(jnp.where(used, x, -jnp.inf), axis=0) for x in both])
        X = jnp.where(used, (X - shift[None, :]) / unit[None, :], 0)
        own = y[None, :] == jnp.arange(n_classes, dtype=jnp.int32)[:, None]
        own = jnp.where(own, weight[None, :], 0)
        n_used = jnp.sum((weight > 0).astype(weight.dtype))
        return (jnp.sum(own, axis=1), own @ X, weight @ (X * X), n_used), extremes

    combine, first = (jnp.add, jnp.maximum), (0.0, -np.inf)
    sums, extremes = over_blocks(of_block, combine, first, X, y, weight, n_rows)
    digest = digest_rows(X, y, weight, ordered=False) if with_digest else None
    return sums, extremes, digest


def _sweep(
    reader: Reader, n_classes: int, shift: np.ndarray, unit: np.ndarray, sample: Any, with_digest: bool
) -> _Moments:
    total, reach, digest = None, None, np.zeros(2, np.uint32) if with_digest else None
    for chunk, (sums, extremes, part) in reader.sweep(_moments, n_classes, shift, unit, with_digest):
        _check_finite(chunk, extremes)
        sums = [np.asarray(part, np.float64) for part in sums]
        total = sums if total is None else [a + b for a, b in zip(total, sums)]
        reach = extremes if reach is None else np.maximum(reach, extremes)
        if with_digest:
            digest = digest + part
        if sample is not None:
            sample.add(chunk)
    if total is None or not total[0].any():
        raise ValueError("batches must hold rows with weight, found none")
    mean_weight = total[0].sum() / total[3]
    if mean_weight < LEAST_WEIGHT:
        raise ValueError(
            f"weights must be at least {LEAST_WEIGHT:g} on average, for only their ratios count; "
            f"found {mean_weight:.1e}"
        )
    return _Moments(*total, reach, digest)


def _standardised(
    moments: _Moments, shift: np.ndarray, unit: np.ndarray, fit_intercept: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, mean square around it and class means, in float64, on the scale of the data."""
    total = moments.class_weights.sum()
    mean = moments.class_sums.sum(axis=0) / total if fit_intercept else np.zeros(unit.shape)
    with np.errstate(over="ignore"):
        second = (moments.squares / total - mean**2) * unit.astype(np.float64) ** 2
    weights = moments.class_weights[:, None]
    sums = np.where(weights > 0, moments.class_sums / np.where(weights > 0, weights, 1) - mean, 0)
    return shift + unit * mean, second, unit * sums


def _check_finite(chunk: Chunk, extremes: np.ndarray) -> None:
    if np.isfinite(extremes).all() or not chunk.weight[: chunk.n_rows].any():
        return
    row, column = np.argwhere(~np.isfinite(chunk.X[: chunk.n_rows]))[0]
    value, before = chunk.X[row, column], 0
    for batch, first, length in chunk.sources:
        if row < before + length:
            raise ValueError(
                f"batch {batch}: X must be finite where the weight is not 0, found {value} in row "
                f"{first + row - before}, column {column}"
            )
        before += length


class _SystematicSample:
    """Rows at equal distances in cumulative weight; all rows while they are few."""

    def __init__(self, shape: Any):
        p = sum(shape.widths)
        fewest = max(_FEWEST_ROWS, _FEWEST_ROWS_PER_FEATURE * p)
        self.size = max(fewest, min(_MOST_ROWS, _SAMPLE_BYTES // (p * shape.dtype.itemsize)))
        self._spacing = 0.0
        self._passed = 0.0
        self._columns: list = []
        self._n_rows = 0

    def add(self, chunk: Chunk) -> None:
        """Look at the next rows; a sample that would grow to twice its size is thinned before."""
        X, y, weight = (column[: chunk.n_rows] for column in chunk[:3])
        total = float(weight.sum(dtype=np.float64))
        n_new = total / self._spacing if self._spacing else np.count_nonzero(weight)
        if self._n_rows + n_new >= 2 * self.size:
            self._spacing = (self._passed + total) / self.size
            kept, self._columns, self._n_rows, self._passed = self._columns, [], 0, 0.0
            for columns in kept:
                self._pick(*columns)
        if self._spacing:
            self._pick(X, y, weight)
        else:
            used = np.flatnonzero(weight)
            self._keep(X[used], y[used], weight[used])
            self._passed += total

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels and weights of the sample."""
        X, y, weight = (np.concatenate(column) for column in zip(*self._columns))
        return X, y, weight

    @property
    def room(self) -> int:
        """The most rows that the sample may have, or 0 while it has all."""
        return 2 * self.size if self._spacing else 0

    def _keep(self, X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        if len(y):
            self._columns.append((X, y, weight))
            self._n_rows += len(y)

    def _pick(self, X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        """Keep the rows in which the cumulative weight, of which some has passed before them,
        passes an odd multiple of half the spacing."""
        cumulative = np.cumsum(weight, dtype=np.float64)
        passed, self._passed = self._passed, self._passed + float(cumulative[-1])
        first, last = (np.floor(c / self._spacing + 0.5) for c in (passed, self._passed))
        marks = (np.arange(first, last) + 0.5) * self._spacing - passed
        index = np.minimum(np.searchsorted(cumulative, marks), len(weight) - 1)
        self._keep(X[index], y[index], np.full(index.shape, self._spacing, weight.dtype))
