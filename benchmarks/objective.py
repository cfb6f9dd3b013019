"""The objective in float64 NumPy, outside every tool: it alone says how good an answer is."""

import numpy as np
from scipy.special import entr, logsumexp

#: Rows that are in float64 at a time.
BLOCK = 2**16


def penalty_value(penalty, coef, strength) -> float:
    """The penalty of :class:`benchmarks.problems.Task`."""
    coef = np.asarray(coef, np.float64)
    if penalty == "ridge":
        return 0.5 * strength * np.sum(coef**2)
    if penalty == "lasso":
        return strength * np.sum(np.abs(coef))
    return strength * np.sqrt(coef.shape[1]) * np.sum(np.linalg.norm(coef, axis=1))


def objective(task, coef, intercept, weight=None) -> float:
    """Mean negative log-likelihood, of rows weighted by ``weight`` (n,), plus penalty."""
    weight = np.ones(len(task.y)) if weight is None else np.asarray(weight, np.float64)
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    total = 0.0
    for start in range(0, len(task.y), BLOCK):
        rows, y = task.X[start : start + BLOCK], task.y[start : start + BLOCK]
        eta = rows.astype(np.float64) @ coef + intercept
        nll = logsumexp(eta, axis=1) - eta[np.arange(len(y)), y]
        total += np.sum(weight[start : start + BLOCK] * nll)
    return total / np.sum(weight) + penalty_value(task.penalty, coef, task.strength)


def relative_gap(task, coef, intercept, best) -> float:
    """(F - best) / best, the number that a time is a time to; infinity if F is not finite."""
    gap = float((objective(task, coef, intercept) - best) / best)
    return gap if np.isfinite(gap) else np.inf


def dual_norm(penalty, gradient) -> float:
    """Largest value of <gradient, coef> where a sparse penalty of strength 1 is at most 1."""
    if penalty == "lasso":
        return np.max(np.abs(gradient))
    return np.max(np.linalg.norm(gradient, axis=1)) / np.sqrt(gradient.shape[1])


def strength_of_null_model(penalty, X, y, n_classes) -> float:
    """The least strength of a sparse penalty at which all coefficients are zero."""
    excess = np.full((len(y), n_classes), np.bincount(y, minlength=n_classes) / len(y))
    excess[np.arange(len(y)), y] -= 1.0
    return float(dual_norm(penalty, X.astype(np.float64).T @ excess / len(y)))


def lower_bound(task, gradient, proba) -> float:
    """The dual objective at the residuals of some parameters: no optimum is below it.

    With residuals r_i = p_i - e_{y_i} that sum to zero over the rows (the intercept's
    optimality) and g = X' r / n, every point p_i of the simplices bounds the optimum from below by

    - ridge: mean_i H(p_i) - |g|^2 / (2 s), H the entropy
    - lasso, group lasso: mean_i H(p_i) if dual_norm(g) <= s; r is shrunk until it is.

    Parameters
    ----------
    gradient : array of shape (p, K)
        g, the gradient of the mean negative log-likelihood.
    proba : array of shape (n, K)
        The p_i.
    """
    if task.penalty == "ridge":
        return np.sum(entr(proba)) / len(proba) - np.sum(gradient**2) / (2 * task.strength)
    shrink = min(1.0, task.strength / dual_norm(task.penalty, gradient))
    labels = np.eye(task.n_classes)[task.y]
    return np.sum(entr(labels + shrink * (proba - labels))) / len(proba)
