"""The functions of glmcore.

Its objective is that of the benchmark.  There is no ladder: the default tolerance has to reach the
gap, that is the claim.
"""

from functools import partial

import numpy as np

import glmcore
from benchmarks.peers.base import Fit, Peer, Rung, installed

PENALTIES = {"ridge": glmcore.Ridge, "lasso": glmcore.Lasso, "group lasso": glmcore.GroupLasso}


def model(task) -> glmcore.GLM:
    return glmcore.GLM(glmcore.Categorical(task.n_classes), PENALTIES[task.penalty](task.strength))


def _fit(task) -> Fit:
    result = glmcore.fit(model(task), task.X, task.y)
    params = result.params
    return Fit(np.asarray(params.coef), np.asarray(params.intercept), int(result.n_iter))


def _fits(task):
    yield Rung("default", partial(_fit, task))


PEERS = [Peer("glmcore.fit", "", partial(installed, "glmcore"), _fits)]
