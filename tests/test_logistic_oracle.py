"""``LogisticRegression`` against the optimum of scikit-learn's objective, by scikit-learn itself or, with an l1 part, by
the slow oracle, on centred features in float64."""

import functools
import warnings

import numpy as np
import oracle
import pytest
from helpers import relative_error
from sklearn import datasets
from sklearn.linear_model import LogisticRegression as Theirs

from glmcore_sklearn import LogisticRegression
from glmcore_sklearn.linear import log_softmax

DATA = ("iris", "wine", "breast_cancer", "digits")
C_VALUES = (1e-3, 1.0, 1e3)
L1_RATIOS = (0.0, 0.5, 1.0)


@functools.cache
def load(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X - X.mean(axis=0), y


def weights(y, weighted):
    """Sample weights of which some are 0, on top of class weights; or neither."""
    if not weighted:
        return None, None
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, len(y)) / 2.0, {0: 2.0, 1: 0.5}


@functools.cache
def reference(name, C, l1_ratio, weighted):
    """coef_ and intercept_ at the optimum."""
    X, y = load(name)
    weight, class_weight = weights(y, weighted)
    if l1_ratio == 0:
        model = Theirs(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a reference that has not converged is none
            model.fit(X, y, sample_weight=weight)
        return model.coef_, model.intercept_
    # saga stops where coefficients stand still, be it at 0 with the intercept still on its way: no reference.
    K, total = len(np.unique(y)), per_sample(y, weight, class_weight)
    ratios = 2 - l1_ratio if K == 2 else 1
    penalty = oracle.ElasticNet(ratios / (C * total.sum()), l1_ratio / ratios)
    coef, intercept, _ = oracle.reference_fit(penalty, X, y, K, weight=total)
    if K == 2:
        coef, intercept = coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
    return coef.T, intercept


def per_sample(y, weight, class_weight):
    factors = np.array([(class_weight or {}).get(label, 1.0) for label in y])
    return factors if weight is None else factors * weight


def fit(name, C, l1_ratio, weighted, dtype, **kwargs):
    X, y = load(name)
    weight, class_weight = weights(y, weighted)
    solver = "ProximalNewton" if l1_ratio else "lbfgs"
    model = LogisticRegression(C=C, l1_ratio=l1_ratio, class_weight=class_weight, solver=solver, **kwargs)
    return model.fit(X.astype(dtype), y, sample_weight=weight)


def proba(coef, intercept, X):
    eta = X @ coef.T + intercept
    return np.exp(log_softmax(eta[:, 0] if len(coef) == 1 else eta))


def objective(coef, intercept, C, l1_ratio, X, y, weight):
    """scikit-learn's, in float64."""
    likelihood = np.take_along_axis(proba(coef, intercept, X), y[:, None], axis=1)[:, 0]
    penalty = l1_ratio * np.abs(coef).sum() + (1 - l1_ratio) / 2 * np.square(coef).sum()
    return penalty - C * np.sum(weight * np.log(likelihood))


def check_float64(name, C, l1_ratio, weighted):
    (coef, intercept), (X, _) = reference(name, C, l1_ratio, weighted), load(name)
    found = fit(name, C, l1_ratio, weighted, np.float64, tol=1e-12, max_iter=1_000_000)
    assert relative_error(found.coef_, coef) < 1e-6
    assert relative_error(found.predict_proba(X), proba(coef, intercept, X)) < 1e-6


def check_float32(name, C, l1_ratio, weighted):
    best, (X, y) = reference(name, C, l1_ratio, weighted), load(name)
    found = fit(name, C, l1_ratio, weighted, np.float32, tol=1e-9, max_iter=2000)
    if C <= 1:
        assert np.abs(found.predict_proba(X.astype(np.float32)) - proba(*best, X)).max() < 1e-4
        return
    weight = per_sample(y, *weights(y, weighted))
    got = found.coef_.astype(float), found.intercept_.astype(float)
    found, best = (objective(*params, C, l1_ratio, X, y, weight) for params in (got, best))
    assert (found - best) / best < 1e-5


@pytest.mark.parametrize("C", C_VALUES)
@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
def test_iris(C, l1_ratio):
    check_float64("iris", C, l1_ratio, weighted=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # float32 may say that it has stalled
@pytest.mark.parametrize("C", C_VALUES)
def test_iris_in_float32(C):
    check_float32("iris", C, 0.5, weighted=True)


cells = [
    pytest.mark.parametrize("name", DATA),
    pytest.mark.parametrize("C", C_VALUES),
    pytest.mark.parametrize("l1_ratio", L1_RATIOS),
    pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"]),
    pytest.mark.slow,
]


def over_all_cells(test):
    return functools.reduce(lambda test, mark: mark(test), cells, test)


#: Cells with an l1 part, or without, in which some fit misses its bound, and why.
NOT_YET = {
    ("float64", "digits", 1e3, True): "with weights the Lasso's oracle finds no optimum: a relative KKT residual of 9e-5",
    ("float32", "digits", 1e3, True): "with weights the Lasso's oracle finds no optimum: a relative KKT residual of 9e-5",
    ("float32", "breast_cancer", 1.0, True): "probabilities to 1.8e-4 at a gap of 8e-9: float32 does not tell more",
    ("float32", "digits", 1.0, False): "with weights 9.2e-5 to 1.004e-4, by the rounding of the threads' sums",
    ("float32", "digits", 1.0, True): "with weights 9.4e-5, by the rounding of the threads' sums perhaps more",
}


def expect_what_is_not_yet(request, dtype, name, C, l1_ratio):
    reason = NOT_YET.get((dtype, name, C, l1_ratio > 0))
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))


@over_all_cells
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 1e-12 may be below the rounding level
def test_all_in_float64(name, C, l1_ratio, weighted, request):
    expect_what_is_not_yet(request, "float64", name, C, l1_ratio)
    check_float64(name, C, l1_ratio, weighted)


@over_all_cells
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_in_float32(name, C, l1_ratio, weighted, request):
    expect_what_is_not_yet(request, "float32", name, C, l1_ratio)
    check_float32(name, C, l1_ratio, weighted)
