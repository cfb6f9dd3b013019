"""The estimator of glmcore: the same core behind the checks of inputs and labels.

Its objective is that of the benchmark; the default tolerance has to reach the gap.
"""

from functools import partial

import numpy as np

from benchmarks.peers.base import Fit, Peer, Rung, installed
from glmcore_sklearn import ClassifierGLM

REGULARIZERS = {"ridge": "Ridge", "lasso": "Lasso", "group lasso": "GroupLasso"}


def estimator(task) -> ClassifierGLM:
    return ClassifierGLM(
        task.n_classes,
        regularizer=REGULARIZERS[task.penalty],
        regularizer_strength=task.strength,
    )


def _fit(task) -> Fit:
    fitted = estimator(task).fit(task.X, task.y)
    return Fit(np.asarray(fitted.coef_), np.asarray(fitted.intercept_), fitted.n_iter_)


def _fits(task):
    yield Rung("default", partial(_fit, task))


PEERS = [Peer("ClassifierGLM", "", partial(installed, "glmcore"), _fits)]
