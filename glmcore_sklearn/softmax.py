"""scikit-learn's logistic regression in terms of ``glmcore``: objective, coefficients, solver names.

scikit-learn minimises ``C * sum_i w_i NLL_i + l1_ratio * |W|_1 + (1 - l1_ratio) / 2 * |W|_2^2``, with one row of W a
class, and a single row for two classes, where ``glmcore`` has two columns that differ by it.
"""

import inspect

import jax
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError

import glmcore
from glmcore_sklearn import names
from glmcore_sklearn.remembered import remembered

#: Solvers of scikit-learn that handle an l1 part.
_L1_SOLVERS = ("liblinear", "saga")
#: What its other names stand for here: the default by penalty and shape, or one of the table.
_SOLVERS = {
    "lbfgs": None,
    "liblinear": None,
    "newton-cg": "Newton",
    "newton-cholesky": "Newton",
    "sag": None,
    "saga": None,
}


def strength_and_ratio(C, l1_ratio, total_weight, n_classes):
    r"""Strength and ratio of the penalty of ``C`` and ``l1_ratio`` for samples of so much weight; both may be arrays.

    For K >= 3 the strength is ``1 / (C W)`` and the ratio that of scikit-learn.  For K = 2 its row u is the
    difference of our columns -u/2 and u/2, where ``|u|_1`` costs as much and ``|u|_2^2`` half: the strength is
    ``(2 - l1_ratio) / (C W)``, the ratio ``l1_ratio / (2 - l1_ratio)``.

    Examples
    --------
    >>> strength_and_ratio(C=2.0, l1_ratio=0.5, total_weight=10.0, n_classes=2)
    (0.075, 0.333...)
    """
    ratio_sum = 2 - l1_ratio if n_classes == 2 else 1
    return ratio_sum / (C * total_weight), l1_ratio / ratio_sum


def make_penalty(C, l1_ratio, total_weight, n_classes):
    r"""The penalty of ``C`` and ``l1_ratio`` for samples of so much weight, see :func:`strength_and_ratio`.

    Examples
    --------
    >>> make_penalty(C=2.0, l1_ratio=0, total_weight=10.0, n_classes=3)
    Ridge(0.05)
    """
    if np.isinf(C):
        return glmcore.UnRegularized()
    strength, ratio = strength_and_ratio(C, l1_ratio, total_weight, n_classes)
    return glmcore.Ridge(strength) if l1_ratio == 0 else glmcore.ElasticNet(strength, ratio)


@remembered
def make_model(C, l1_ratio, total_weight, n_classes, fit_intercept):
    """The softmax model with the penalty of :func:`make_penalty`."""
    penalty = make_penalty(C, l1_ratio, total_weight, n_classes)
    return glmcore.GLM(glmcore.Categorical(n_classes), penalty, fit_intercept=fit_intercept)


def from_params(params):
    """``coef_`` and ``intercept_`` in scikit-learn's shapes, on the host.

    Examples
    --------
    >>> coef, intercept = from_params(glmcore.GLMParams(np.array([[-1.0, 1.0]]), np.array([0.5, -0.5])))
    >>> coef, intercept
    (array([[2.]]), array([-1.]))
    """
    coef, intercept = rows(jax.device_get(params))
    return np.array(coef, order="C"), np.array(intercept)


def rows(params):
    """Coefficients, a row a class, and intercepts; of two classes those of the second one alone."""
    coef, intercept = params.coef.T, params.intercept
    if len(intercept) > 2:
        return coef, intercept
    return coef[1:] - coef[:1], intercept[1:] - intercept[:1]


def to_params(coef, intercept):
    """The pair that :func:`from_params` was given, of two classes the columns that sum to zero."""
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return np.ascontiguousarray(coef.T), intercept


def check_solver(solver, C, l1_ratio, dual, n_classes):
    """Refuse what scikit-learn refuses of its own solvers, with a ValueError."""
    if dual and solver != "liblinear":
        raise ValueError(f"solver={solver!r} has no dual formulation: dual must be False, found {dual}")
    if dual and l1_ratio > 0:
        raise ValueError(f"solver='liblinear' has a dual formulation for l1_ratio=0 only, found l1_ratio={l1_ratio}")
    if solver not in _SOLVERS:
        return
    if l1_ratio > 0 and solver not in _L1_SOLVERS:
        raise ValueError(
            f"solver={solver!r} handles l1_ratio=0 only, found l1_ratio={l1_ratio}; use 'saga', or our "
            "'ProximalNewton', 'ProximalGradient' or 'ProxSVRG'"
        )
    if solver == "liblinear" and (0 < l1_ratio < 1 or np.isinf(C)):
        raise ValueError(
            f"solver='liblinear' handles l1_ratio of 0 or 1 and a finite C, found l1_ratio={l1_ratio} and C={C}; "
            "use 'saga'"
        )
    if solver == "liblinear" and n_classes > 2:
        raise ValueError(
            f"The 'liblinear' solver does not support multiclass classification, found {n_classes} classes; use "
            "another solver, which fits one softmax"
        )


def make_solver(solver, penalty, size, tol, max_iter, random_state=None):
    """The solver of ``glmcore`` for a name of scikit-learn, a name of ours or an optax transformation.

    The default goes by the ``size`` of the fit, parameters and rows, but with None it is that of steps on batches.
    """
    settings = {"tol": tol, "maxiter": int(max_iter)}  # which may be a bool
    if glmcore.Optax.takes(solver):
        return glmcore.Optax(solver, **settings)
    if solver not in _SOLVERS and solver.casefold() not in map(str.casefold, names.SOLVERS):
        known = ", ".join([*_SOLVERS, *names.SOLVERS])
        raise InvalidParameterError(f"unknown solver {solver!r}; known are {known}")
    kind = names.solver_class(_SOLVERS.get(solver, solver), penalty, size)
    if random_state is not None and "seed" in inspect.signature(kind).parameters:
        settings["seed"] = check_random_state(random_state).randint(2**31 - 1)
    return kind(**settings)


def precision(dtype):
    """JAX's local context for arrays of this dtype; the global setting stays the user's."""
    return jax.enable_x64(dtype == np.float64)
