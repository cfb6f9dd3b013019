"""Streams: rows a second of online learners, and what they have learned after one pass.

Each learner sees the same batches once, in the order in which they come.  The learning rate of each
is the best of a few, by the log-loss on rows that none has seen.
"""

import time
from functools import partial

import numpy as np
import optax
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from benchmarks.problems import synthetic
from glmcore_sklearn import ClassifierGLM, LogisticRegression

N_ROWS, N_HELD_OUT, P, N_CLASSES = 500_000, 50_000, 100, 5
BATCHES = (256, 4096)
RATES = (0.003, 0.01, 0.03)
#: Strengths of the l2 penalty, on which the default learning rate of SGDClassifier depends.
ALPHAS = (1e-5, 1e-4, 1e-3)
#: Rows that decide which setting is the best.
TRIAL_ROWS = 100_000


def streams(quick: bool) -> dict:
    """Seconds a batch and held-out log-loss of each learner for each size of batch."""
    shrink = 50 if quick else 1
    X, y = synthetic((N_ROWS + N_HELD_OUT) // shrink, P, N_CLASSES)
    held_out = slice(N_ROWS // shrink, None)
    data = X[: N_ROWS // shrink], y[: N_ROWS // shrink], X[held_out], y[held_out]
    found = {}
    for size in BATCHES:
        n_steps = len(data[1]) // size
        found[str(size)] = {name: _best(settings(n_steps), data, size) for name, settings in LEARNERS.items()}
        print(f"  {size}: {found[str(size)]}", flush=True)
    return found


class Updates:
    """``ClassifierGLM.update`` with an optax transformation."""

    def __init__(self, transformation):
        self.model = ClassifierGLM(N_CLASSES, regularizer_strength=1e-6, solver_name=transformation)

    def partial_fit(self, X, y, classes):
        self.model.set_classes(classes)
        params = self.model.initialize_params(X, y)
        self.moving = params, self.model.initialize_optimizer_and_state(params, X, y)
        self.step(X, y)

    def step(self, X, y):
        self.moving = self.model.update(*self.moving, X, y)

    def predict_proba(self, X):
        return np.asarray(self.model.predict_proba(X, return_type="proba"))


class PartialFits:
    """An estimator with ``partial_fit``."""

    def __init__(self, estimator):
        self.model = estimator
        self.partial_fit = self.step = estimator.partial_fit
        self.predict_proba = estimator.predict_proba


def _adam(make, n_steps):
    for rate in RATES:
        yield f"adam, cosine from {rate}", partial(make, optax.adam(optax.cosine_decay_schedule(rate, n_steps)))


def _sgd(n_steps):
    for average in (False, True):
        for alpha in ALPHAS:
            settings = {"alpha": alpha, "average": average, "random_state": 0}
            make = partial(SGDClassifier, "log_loss", **settings)
            yield f"alpha={alpha}, average={average}", lambda make=make: PartialFits(make())


#: For each learner a function from the number of steps to settings and what makes it.
LEARNERS = {
    "ClassifierGLM.update": partial(_adam, Updates),
    "LogisticRegression.partial_fit": partial(
        _adam, lambda transformation: PartialFits(LogisticRegression(solver=transformation, C=np.inf))
    ),
    "SGDClassifier.partial_fit": _sgd,
}


def _best(settings, data, size) -> dict:
    X, y, held_X, held_y = data
    few = slice(min(TRIAL_ROWS, len(y)))
    tried = {setting: (_run(make(), X[few], y[few], held_X, held_y, size)[1], make) for setting, make in settings}
    setting = min(tried, key=lambda setting: tried[setting][0])
    seconds, loss = _run(tried[setting][1](), X, y, held_X, held_y, size)
    return {"setting": setting, "seconds": seconds, "log_loss": loss}


def _run(learner, X, y, held_X, held_y, size) -> tuple[float, float]:
    """Seconds a batch, after the first, and held-out log-loss after one pass."""
    learner.partial_fit(X[:size], y[:size], classes=np.arange(N_CLASSES))
    starts = range(size, len(y), size)
    before = time.perf_counter()
    for start in starts:
        learner.step(X[start : start + size], y[start : start + size])
    np.asarray(learner.model.coef_)  # JAX may still be at it
    seconds = (time.perf_counter() - before) / len(starts)
    return seconds, log_loss(held_y, learner.predict_proba(held_X))
