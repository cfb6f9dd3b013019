"""Many models at once: one ``jax.vmap`` of fits, or ``ClassifierPopulationGLM``, against a loop of scikit-learn's.

Both start from NumPy arrays.  A time counts if every model of the batch is within the gap of the
better of the two answers to it.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import glmcore
from benchmarks.objective import objective
from benchmarks.problems import SIGNAL, Task, load_digits, standardised, synthetic
from benchmarks.race import GAP, blas_threads_for
from glmcore_sklearn import ClassifierPopulationGLM

STRENGTH = 1e-3
#: scikit-learn's ladder; the fastest solver on a few models, at the tolerance that they need.
SOLVERS = ("newton-cholesky", "newton-cg", "lbfgs")
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FEW = 5


class Batch(NamedTuple):
    """Models to fit; arrays whose entry of ``axes`` is 0 have an axis of models first."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    axes: tuple
    size: int

    def models(self) -> Iterator[tuple]:
        """(X, y, weight) of one model after the other."""
        for lane in range(self.size):
            yield tuple(a if axis is None else a[lane] for a, axis in zip(self[:3], self.axes))


def separate(size: int) -> Batch:
    """Data sets of their own."""
    data = [_labelled(np.random.default_rng(lane), 500, 20) for lane in range(size)]
    X, y = map(np.stack, zip(*data))
    return Batch(X, y, np.ones(500, np.float32), (0, 0, None), size)


def targets(size: int) -> Batch:
    """Labels of their own for features that all share."""
    X = synthetic(5000, 40, 3)[0]
    y = np.stack([_labels(np.random.default_rng(lane), X) for lane in range(size)])
    return Batch(X, y, np.ones(5000, np.float32), (None, 0, None), size)


def bootstraps(size: int) -> Batch:
    """Resamples of the digits, as weights."""
    X, y = standardised(load_digits)
    n, rng = len(y), np.random.default_rng(0)
    weight = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)]
    axes = (None, None, 0)
    return Batch(X.astype(np.float32), y.astype(np.int32), np.float32(weight), axes, size)


def vmap(batch: Batch) -> Callable[[], list]:
    """What fits the batch by one ``jax.vmap``."""
    fit = jax.vmap(partial(_fit, _n_classes(batch)), in_axes=batch.axes)

    def run():
        coef, intercept = map(np.asarray, fit(*batch[:3]))
        return list(zip(coef, intercept))

    return run


def estimator(batch: Batch) -> Callable[[], list]:
    """What fits targets by one estimator."""
    model = ClassifierPopulationGLM(_n_classes(batch), regularizer_strength=STRENGTH)

    def run():
        model.fit(batch.X, batch.y.T)
        return list(zip(np.moveaxis(model.coef_, 1, 0), model.intercept_))

    return run


#: Name, how a batch of some size is made, its size, and how it is fitted.
BATCHES: dict[str, tuple[Callable[[int], Batch], int, Callable]] = {
    "many-separate": (separate, 1000, vmap),
    "many-targets": (targets, 200, vmap),
    "many-targets-estimator": (targets, 200, estimator),
    "many-bootstraps": (bootstraps, 500, vmap),
}


def many(name: str, repeat: int, quick: bool) -> dict:
    """Seconds and largest gap of both tools on one of ``BATCHES``; ``quick``: a tenth of it."""
    make, size, fitted = BATCHES[name]
    batch = make(size // 10 if quick else size)
    run = fitted(batch)
    with blas_threads_for(next(batch.models())[0]):
        ours, cold = _timed(run)
        times = [_timed(run)[1] for _ in range(repeat)]
        solver, tolerance = _fastest(batch, ours)
        theirs, loop = _loop(batch, batch.size, solver, tolerance)
    objectives = np.array([_objectives(batch, fits) for fits in (ours, theirs)])
    best = np.min(objectives, axis=0)
    gaps = np.max((objectives - best) / best, axis=1).tolist()
    return {
        "shape": [batch.size, *batch.X.shape[-2:], _n_classes(batch)],
        "glmcore": {"seconds": statistics.median(times), "cold": cold, "gap": gaps[0]},
        "scikit-learn": {"seconds": loop, "gap": gaps[1], "solver": solver, "tolerance": tolerance},
    }


def _timed(run: Callable[[], list]):
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def _n_classes(batch: Batch) -> int:
    return int(batch.y.max()) + 1


def _fit(n_classes, X, y, weight):
    model = glmcore.GLM(glmcore.Categorical(n_classes), glmcore.Ridge(STRENGTH))
    return tuple(glmcore.fit(model, X, y, sample_weight=weight).params)


def _fastest(batch: Batch, ours) -> tuple[str, float]:
    """The solver and tolerance of scikit-learn that is fastest on the first models, of those
    that bring each within a third of the gap."""
    best, found = _objectives(batch, ours[:FEW]), []
    for solver in SOLVERS:
        for tolerance in TOLERANCES:
            fits, seconds = _loop(batch, FEW, solver, tolerance)
            values = _objectives(batch, fits)
            best = np.minimum(best, values)
            if np.max((values - best) / best) <= GAP / 3:
                found.append((seconds, solver, tolerance))
                break
    return min(found)[1:]


def _loop(batch: Batch, size: int, solver: str, tolerance: float):
    fits = []
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _, (X, y, weight) in zip(range(size), batch.models()):
            C = 1 / (STRENGTH * weight.sum(dtype=np.float64))
            model = LogisticRegression(C=C, solver=solver, tol=tolerance, max_iter=1000)
            model.fit(X, y, sample_weight=weight)
            fits.append((model.coef_.T, model.intercept_))
    return fits, time.perf_counter() - start


def _objectives(batch: Batch, fits) -> np.ndarray:
    tasks = (Task(X, y, len(fits[0][1]), "ridge", STRENGTH) for X, y, _ in batch.models())
    weights = (weight for *_, weight in batch.models())
    return np.array([objective(t, *fit, w) for t, fit, w in zip(tasks, fits, weights)])


def _labelled(rng, n: int, p: int):
    X = rng.standard_normal((n, p)).astype(np.float32)
    return X, _labels(rng, X)


def _labels(rng, X: np.ndarray, n_classes: int = 3) -> np.ndarray:
    coef = SIGNAL * rng.standard_normal((X.shape[1], n_classes)) / np.sqrt(X.shape[1])
    return np.argmax(X @ coef + rng.gumbel(size=(len(X), n_classes)), axis=1).astype(np.int32)
