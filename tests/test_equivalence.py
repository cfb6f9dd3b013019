"""Coefficients equal those of scikit-learn's ``LogisticRegression`` at the C of the table in API.md."""

import functools
import warnings

import jax
import numpy as np
import oracle
import pytest
from helpers import relative_error, slow
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from glmcore_sklearn import ClassifierGLM

C = 0.7
DATA = {"breast_cancer": 2, "iris": 3, "wine": 3}
L1_RATIOS = (0.0, slow(0.5), 1.0)


@functools.cache
def standardised(name):
    """Ten columns at most: enough to tell, and quick for coordinate-free saga."""
    X, y = oracle.load(name)
    X = X[:, :10]
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def peer(X, y, l1_ratio, sample_weight=None, class_weight=None):
    """A converged float64 LogisticRegression: (coef (K or 1, p), intercept)."""
    settings = {"C": C, "l1_ratio": l1_ratio, "tol": 1e-12, "max_iter": 200_000, "class_weight": class_weight}
    solver = "newton-cg" if l1_ratio == 0 else "saga"
    with warnings.catch_warnings():
        # newton-cg says that its line search failed when it is at the rounding level.
        warnings.simplefilter("ignore" if l1_ratio == 0 else "error")
        model = LogisticRegression(solver=solver, random_state=0, **settings).fit(X, y, sample_weight)
    return model.coef_, model.intercept_


def ours(K, total_weight, l1_ratio, **kwargs):
    """The row of the table."""
    if K >= 3:
        strength, ratio = 1 / (C * total_weight), l1_ratio
    else:
        strength, ratio = (2 - l1_ratio) / (C * total_weight), l1_ratio / (2 - l1_ratio)
    if ratio == 0:
        penalty = {"regularizer": "Ridge", "regularizer_strength": strength}
    elif ratio == 1:
        penalty = {"regularizer": "Lasso", "regularizer_strength": strength}
    else:
        penalty = {"regularizer": "ElasticNet", "regularizer_strength": (strength, ratio)}
    return ClassifierGLM(n_classes=K, **penalty, **kwargs)


def compare(model, expected, K):
    coef, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    assert coef.dtype == np.float64
    if K == 2:
        assert relative_error((coef[:, 1] - coef[:, 0])[None], expected[0]) <= 1e-6
        assert relative_error(intercept[1] - intercept[0], expected[1]) <= 1e-6
    else:
        assert relative_error(coef.T, expected[0]) <= 1e-6
        # scikit-learn leaves the level of the intercept where its solver ended.
        assert relative_error(intercept, expected[1] - expected[1].mean()) <= 1e-6


@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
@pytest.mark.parametrize("name", ["breast_cancer", "iris", slow("wine")])
def test_coefficients_equal_those_of_scikit_learn(name, l1_ratio, x64):
    X, y = standardised(name)
    model = ours(DATA[name], len(y), l1_ratio, solver_kwargs={"tol": 1e-11, "maxiter": 50_000}).fit(X, y)
    compare(model, peer(X, y, l1_ratio), DATA[name])


@pytest.mark.parametrize("l1_ratio", L1_RATIOS)
@pytest.mark.parametrize("name", DATA)
def test_the_default_tolerance_is_close(name, l1_ratio, x64):
    """The objective is within 1e-9 of its minimum, so the coefficients are within about its root."""
    X, y = standardised(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = ours(DATA[name], len(y), l1_ratio).fit(X, y)
    expected = peer(X, y, l1_ratio)
    found = np.asarray(model.coef_).T
    found = found[1:] - found[:1] if DATA[name] == 2 else found
    assert relative_error(found, expected[0]) <= 3e-5


@pytest.mark.parametrize("name", ["breast_cancer", "iris"])
def test_weights_enter_the_table_by_their_sum(name, x64):
    """W is the sum of the weights, class weights included."""
    X, y = standardised(name)
    K = DATA[name]
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    class_weight = dict(enumerate([0.5, 2.0, 1.5][:K]))
    total = weight * np.array([class_weight[k] for k in y])
    for l1_ratio in (0.0, 0.5):
        model = ours(K, total.sum(), l1_ratio, solver_kwargs={"tol": 1e-11, "maxiter": 50_000})
        compare(model.fit(X, y, sample_weight=total), peer(X, y, l1_ratio, weight, class_weight), K)


def test_predictions_agree(x64):
    X, y = standardised("iris")
    model = ours(3, len(y), 0.0, solver_kwargs={"tol": 1e-11}).fit(X, y)
    coef, intercept = peer(X, y, 0.0)
    expected = oracle.log_proba(coef.T, intercept, X)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))
    assert jax.config.jax_enable_x64
