"""The optimum of a problem in float64, by NumPy and SciPy alone and with a proof of how good it is.

Ridge problems go to SciPy's L-BFGS-B, sparse ones to FISTA with restarts (Beck & Teboulle 2009;
O'Donoghue & Candès 2015).  Neither is fast and neither is timed.  The proof is the duality gap:
the lower bound of :func:`benchmarks.objective.lower_bound` holds for whatever parameters it is
computed from once the intercept is optimal for them, which a few Newton steps see to.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from benchmarks.objective import lower_bound, penalty_value

#: Relative duality gap that a reference must have; what is asked of the tools is 100 times more.
PROVEN = 1e-8


class Reference(NamedTuple):
    """The best objective known, and how far above the optimum it can be at most, relative to it."""

    objective: float
    duality_gap: float


class _Problem:
    """The task in float64, with the intercept as the last row of the parameters (p + 1, K)."""

    def __init__(self, task):
        self.task = task
        self.X = task.X.astype(np.float64)
        self.rows = np.arange(len(task.y))

    def loss(self, params):
        """Mean negative log-likelihood, its gradient, and the probabilities."""
        eta = self.X @ params[:-1] + params[-1]
        level = logsumexp(eta, axis=1)
        loss = np.mean(level - eta[self.rows, self.task.y])
        proba = np.exp(eta - level[:, None])
        residual = proba / len(self.rows)
        residual[self.rows, self.task.y] -= 1 / len(self.rows)
        return loss, np.vstack([self.X.T @ residual, residual.sum(axis=0)]), proba

    def value(self, loss, params):
        return loss + penalty_value(self.task.penalty, params[:-1], self.task.strength)

    def certified(self, params) -> Reference:
        """The objective at ``params`` and its distance from the lower bound."""
        loss, gradient, proba = self.loss(params)
        for _ in range(3):  # Newton steps of the intercept, on which the bound relies
            weights = np.diag(proba.mean(axis=0)) - proba.T @ proba / len(proba)
            step = np.linalg.lstsq(weights, gradient[-1])[0]
            params = np.vstack([params[:-1], params[-1:] - step])
            loss, gradient, proba = self.loss(params)
        best = self.value(loss, params)
        return Reference(best, (best - lower_bound(self.task, gradient[:-1], proba)) / best)

    def curvature(self):
        """Bound on the second derivative of the loss: half the largest eigenvalue of X' X / n
        (Böhning 1992), the column of ones included."""
        X = np.hstack([self.X, np.ones((len(self.X), 1))])
        return 0.5 * np.linalg.eigvalsh(X.T @ X / len(X))[-1]


def reference(task) -> Reference:
    """The optimum of ``task``.

    Raises
    ------
    RuntimeError
        If the duality gap stays above ``PROVEN``.
    """
    problem = _Problem(task)
    found = _smooth(problem) if task.penalty == "ridge" else _sparse(problem)
    if not found.duality_gap <= PROVEN:
        raise RuntimeError(f"the reference is known to {found.duality_gap:.1e} only")
    return found


def _smooth(problem, steps=2000) -> Reference:
    shape = (problem.X.shape[1] + 1, problem.task.n_classes)

    def value_and_gradient(flat):
        params = flat.reshape(shape)
        loss, gradient, _ = problem.loss(params)
        gradient[:-1] += problem.task.strength * params[:-1]
        return problem.value(loss, params), gradient.ravel()

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0.0, "gtol": 1e-9, "maxcor": 30}
    start = np.zeros(shape[0] * shape[1])
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return problem.certified(found.x.reshape(shape))


def _sparse(problem, steps=20_000, check_every=100) -> Reference:
    step = 1 / problem.curvature()
    params = ahead = np.zeros((problem.X.shape[1] + 1, problem.task.n_classes))
    momentum = 1.0
    for count in range(1, steps + 1):
        moved = _prox(problem.task, ahead - step * problem.loss(ahead)[1], step)
        if np.vdot(ahead - moved, moved - params) > 0:  # the momentum points uphill
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - params)
        params, momentum = moved, following
        if count % check_every == 0 and problem.certified(params).duality_gap <= PROVEN:
            break
    return problem.certified(params)


def _prox(task, params, step):
    """argmin_u |u - params|^2 / 2 + step * penalty(u); the intercept stays as it is."""
    coef, threshold = params[:-1], step * task.strength
    if task.penalty == "lasso":
        shrunk = np.sign(coef) * np.maximum(np.abs(coef) - threshold, 0.0)
    else:
        norm = np.linalg.norm(coef, axis=1, keepdims=True)
        threshold *= np.sqrt(task.n_classes)
        shrunk = coef * np.maximum(1 - threshold / np.maximum(norm, 1e-300), 0.0)
    return np.vstack([shrunk, params[-1:]])
