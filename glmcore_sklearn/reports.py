"""The words in which an estimator tells how a fit ended."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import glmcore

#: What to change for a status: arguments of ``ClassifierGLM``.
ADVICE = {
    "out_of_steps": "raise maxiter or tol in solver_kwargs",
    "stalled": "enable x64 in JAX, or raise tol in solver_kwargs",
    "far_from_zero": "subtract the mean of the features, or enable x64 in JAX",
    "separable": 'use a penalty, such as regularizer="Ridge"',
}
#: The same for estimators with scikit-learn's arguments.
SKLEARN_ADVICE = {
    "out_of_steps": "raise max_iter or tol",
    "stalled": "pass X in float64, or raise tol",
    "far_from_zero": "subtract the mean of the features, or pass X in float64",
    "separable": "lower C, which makes the penalty stronger",
}


def _not_converged(result, solver, advice):
    """What happened, how far the fit came, and what to change."""
    tol = glmcore.default_tol(result.objective.dtype) if solver.tol is None else float(solver.tol)
    return (
        f"{type(solver).__name__} did not converge in {int(result.n_iter)} steps: "
        f"{glmcore.Status[result.status]}. Optimality residual {float(result.optimality):.1e}, "
        f"tol {tol:.1e}. To change that, {advice}."
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
    advice : dict from names of statuses to what to change
    """
    status = glmcore.status_name(result.status)
    if status == "nonfinite":
        raise ValueError(
            f"{type(solver).__name__}: {glmcore.Status[result.status]} after {int(result.n_iter)} steps; look for "
            "huge values in X, init_params or the coef_ of a warm start, or a custom inverse_link_function that gives NaN"
        )
    if status == "missing_class":
        seen = np.bincount(y[weight > 0], minlength=len(classes))
        missing = classes[seen == 0].tolist()
        warnings.warn(f"the weights of the classes {missing} are all zero: they are left out", stacklevel=3)
    elif status != "converged":
        warnings.warn(_not_converged(result, solver, advice[status]), ConvergenceWarning, stacklevel=3)


def warn_of_unused_strength(regularizer, strength):
    """One UserWarning for a strength without a penalty that it could be of."""
    if strength is not None and isinstance(regularizer, glmcore.UnRegularized):
        warnings.warn(f"regularizer_strength={strength!r} is not used: the regularizer is UnRegularized", stacklevel=3)
