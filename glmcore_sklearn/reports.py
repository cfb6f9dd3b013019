"""The words in which an estimator tells how a fit ended."""

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning

import glmcore
from glmcore_sklearn.warn import warn

#: What to change for a status, and how to get more digits: arguments of ``ClassifierGLM``.
ADVICE = {
    "out_of_steps": "raise maxiter or tol in solver_kwargs",
    "stalled": "raise tol in solver_kwargs",
    "far_from_zero": "subtract the mean of the features",
    "separable": 'use a penalty, such as regularizer="Ridge", on all features',
    "more digits": "enable x64 in JAX",
}
#: The same for estimators with scikit-learn's arguments.
SKLEARN_ADVICE = {
    "out_of_steps": "raise max_iter or tol",
    "stalled": "raise tol",
    "far_from_zero": "subtract the mean of the features",
    "separable": "lower C, which makes the penalty stronger",
    "more digits": "pass X in float64",
}
#: Targets that a message names.
_SHOWN = 5


def what_to_change(status, dtype, advice):
    """What to do about a fit of this dtype that ended with this status."""
    lacks_digits = status in ("stalled", "far_from_zero") and dtype != np.float64
    return f"{advice[status]}, or {advice['more digits']}" if lacks_digits else advice[status]


def _not_converged(result, solver, status, advice):
    """What happened, how far the fit came, and what to change."""
    return (
        f"{type(solver).__name__} did not converge in {int(result.n_iter)} steps: {glmcore.Status[result.status]}. "
        f"Optimality residual {_how_far(solver, result.optimality, status, advice)}"
    )


def _how_far(solver, optimality, status, advice):
    """The residual beside its bound, and what to change."""
    tol = glmcore.default_tol(optimality.dtype) if solver.tol is None else float(solver.tol)
    found = f"{float(optimality):.1e}, tol {tol:.1e}"
    if status == "out_of_steps" and float(optimality) <= tol:
        found += ": that is within, but the objective is still to fall by more than tol/100 of itself"
    if status == "stalled" and float(optimality) <= tol:
        found += (
            ": that is within, but the objective may still be to fall by more than tol/100 of itself, and where a few "
            "values of a feature lie far out less than tol is asked for"
        )
    return f"{found}. To change that, {what_to_change(status, optimality.dtype, advice)}."


def _not_finite(result, solver):
    return (
        f"{type(solver).__name__}: {glmcore.Status[result.status]} after {int(result.n_iter)} steps; look for huge "
        "values in X, init_params or the coef_ of a warm start, or a custom inverse_link_function that gives NaN"
    )


def report(result, solver, y, weight, classes, advice=ADVICE):
    """Turn the status of a fit into a ValueError, a warning or nothing.

    Parameters
    ----------
    result : glmcore.FitResult
    solver : glmcore.AbstractSolver
    y : ndarray of shape (n_samples,)
        Class indices.
    weight : ndarray of shape (n_samples,)
    classes : ndarray of shape (K,)
    advice : dict
        What to change for each status that is no success.
    """
    status = glmcore.status_name(result.status)
    if status == "nonfinite":
        raise ValueError(_not_finite(result, solver))
    if status == "missing_class":
        seen = np.bincount(y[weight > 0], minlength=len(classes))
        missing = classes[seen == 0].tolist()
        warn(f"the weights of the classes {missing} are all zero: they are left out")
    elif status not in ("converged", "stopped"):  # it is the callback of a user that stops a fit
        warn(_not_converged(result, solver, status, advice), ConvergenceWarning)


def report_targets(result, solver, present, classes):
    """Turn the statuses of the fits of many targets into a ValueError or at most two warnings.

    Parameters
    ----------
    result : glmcore_sklearn.many.Fits
    solver : glmcore.AbstractSolver
    present : ndarray of bool, shape (n_targets, K)
        Which classes the rows with weight hold.
    classes : ndarray of shape (K,)
    """
    status = np.array(glmcore.status_name(result.status))
    if (bad := np.flatnonzero(status == "nonfinite")).size:
        raise ValueError(f"targets {_few(bad)}: {_not_finite(_of_target(result, bad[0]), solver)}")
    lacking = np.flatnonzero(~present.all(axis=1))
    if lacking.size:
        missing = classes[~present[lacking[0]]].tolist()
        warn(
            f"targets {_few(lacking)} lack some of the classes, {lacking[0]} for one {missing}: they are fitted on "
            "those they have",
        )
    failed = np.flatnonzero((status != "converged") & (status != "missing_class"))
    if failed.size:
        worst = failed[np.argmax(np.asarray(result.optimality)[failed])]
        warn(
            f"{failed.size} of {status.size} targets did not converge: {_few(failed)}. The worst is target {worst}: "
            + _not_converged(_of_target(result, worst), solver, status[worst], ADVICE),
            ConvergenceWarning,
        )


def report_many(found, used, of, advice):
    """Turn the statuses of many fits of one model into a ValueError, one warning or nothing.

    Parameters
    ----------
    found : glmcore_sklearn.grid.Cells or glmcore.PathResult
        ``status``, ``converged`` and ``optimality`` are arrays of one shape, an entry a fit.
    used : ndarray of bool, of that shape, or True
        The fits to tell of.
    of : callable
        From the index of a fit to its solver and the words that say which fit it is.
    advice : dict
        As in :func:`report`.
    """
    status, converged, optimality = jax.tree.map(np.asarray, (found.status, found.converged, found.optimality))
    used = np.broadcast_to(used, converged.shape)
    bad = np.argwhere(used & ~converged)
    if not len(bad):
        return
    names = glmcore.status_name(jax.tree.map(lambda s: s[tuple(bad.T)], status))
    name = "nonfinite" if "nonfinite" in names else names[0]
    solver, where = of(bad[names.index(name)])
    words = (
        f"{type(solver).__name__} did not converge in {len(bad)} of {np.sum(used)} fits, first {where}: "
        f"{glmcore.Status[glmcore.status_named(name)]}."
    )
    if name == "nonfinite":
        raise ValueError(f"{words} Look for huge values in X.")
    warn(
        f"{words} Largest optimality residual {_how_far(solver, np.max(optimality[used]), name, advice)}",
        ConvergenceWarning,
    )


def _of_target(result, target):
    numbers = (result.status, result.n_iter, result.objective, result.optimality)
    status, *rest = jax.tree.map(lambda leaf: leaf[target], numbers)
    return result._replace(status=status, n_iter=rest[0], objective=rest[1], optimality=rest[2])


def _few(targets):
    """The first of some numbers, as text."""
    shown = ", ".join(map(str, targets[:_SHOWN]))
    return f"{shown}, ... ({targets.size} in all)" if targets.size > _SHOWN else shown


def warn_of_unused_strength(regularizer, strength):
    """One UserWarning for a strength without a penalty that it could be of."""
    if strength is not None and isinstance(regularizer, glmcore.UnRegularized):
        warn(f"regularizer_strength={strength!r} is not used: the regularizer is UnRegularized")
