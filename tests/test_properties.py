"""What must hold for any data: symmetries of the model, which a fit has to share."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import oracle
import pytest
from helpers import build, in_float64, model, relative_gap

import glmcore

N, P, K = 30, 3, 3
SPECS = {
    "Ridge": ("Ridge", 0.05),
    "Lasso": ("Lasso", 0.03),
    "ElasticNet": ("ElasticNet", 0.04, 0.6),
    "GroupLasso": ("GroupLasso", 0.03),
}
each = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(max_examples=8)


def problem(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P)) * 10 ** rng.uniform(-2, 2, P) + rng.uniform(-20, 20, P)
    y = rng.integers(0, K, N)
    y[:K] = np.arange(K)
    return rng, X, y


def fit(spec, X, y, weight=None):
    with jax.enable_x64(True):
        result = glmcore.fit(model(build(*spec)[0]), X, y, sample_weight=weight)
    assert bool(result.converged)
    return in_float64(result.params)


def close(found, expected, X):
    """Equal in what is visible: differences in units of the features."""
    spread = X.std(axis=0)[:, None]
    np.testing.assert_allclose(found[0] * spread, expected[0] * spread, atol=2e-6)
    np.testing.assert_allclose(found[1] + X.mean(axis=0) @ found[0], expected[1] + X.mean(axis=0) @ expected[0], atol=2e-6)


@each
@few
@hypothesis.given(seed=seeds)
def test_a_fit_is_optimal(spec, seed):
    _, X, y = problem(seed)
    twin = build(*spec)[1]
    coef, intercept = fit(spec, X, y)
    assert oracle.kkt_residual(twin, coef, intercept, X, y) < 1.5e-8
    value = oracle.objective(twin, coef, intercept, X, y)
    best = oracle.reference_fit(twin, X, y, K)[2]
    assert value - best <= 1e-9 * best


@each
@few
@hypothesis.given(seed=seeds)
def test_order_means_nothing(spec, seed):
    rng, X, y = problem(seed)
    coef, intercept = fit(spec, X, y)
    rows, features, classes = rng.permutation(N), rng.permutation(P), rng.permutation(K)
    moved = np.argsort(classes)[y]
    close(fit(spec, X[rows], y[rows]), (coef, intercept), X)
    close(fit(spec, X[:, features], y), (coef[features], intercept), X[:, features])
    close(fit(spec, X, moved), (coef[:, classes], intercept[classes]), X)


@each
@few
@hypothesis.given(seed=seeds)
def test_weights_are_repeated_rows(spec, seed):
    rng, X, y = problem(seed)
    # Six rows twice and six not at all: the number of rows, and so the program, stays the same.
    weight = np.ones(N)
    chosen = K + rng.permutation(N - K)[:12]
    weight[chosen[:6]], weight[chosen[6:]] = 2.0, 0.0
    rows = np.repeat(np.arange(N), weight.astype(int))
    hypothesis.assume(len(np.unique(y[rows])) == K)
    close(fit(spec, X, y, weight), fit(spec, X[rows], y[rows]), X)
    close(fit(spec, X, y, 1000 * weight), fit(spec, X, y, weight), X)


@each
@few
@hypothesis.given(seed=seeds)
def test_shifted_features_move_the_intercept_only(spec, seed):
    rng, X, y = problem(seed)
    shift = rng.uniform(-50, 50, P)
    coef, intercept = fit(spec, X, y)
    found = fit(spec, X + shift, y)
    spread = X.std(axis=0)[:, None]
    np.testing.assert_allclose(found[0] * spread, coef * spread, atol=2e-6)
    np.testing.assert_allclose(
        oracle.log_proba(*found, X + shift), oracle.log_proba(coef, intercept, X), atol=1e-5
    )


@few
@hypothesis.given(seed=seeds, factor=st.floats(0.01, 100))
def test_scaled_features_with_scaled_strength_scale_the_coefficients(seed, factor):
    _, X, y = problem(seed)
    coef, intercept = fit(("Ridge", 0.05), X, y)
    found = fit(("Ridge", 0.05 * factor**2), X * factor, y)
    close((found[0] * factor, found[1]), (coef, intercept), X)


@few
@hypothesis.given(seed=seeds)
def test_float32_is_as_good_as_it_says(seed):
    _, X, y = problem(seed)
    X = X.astype(np.float32)
    for spec in (SPECS["Ridge"], SPECS["Lasso"]):
        penalty, twin = build(*spec)
        result = glmcore.fit(model(penalty), X, y)
        assert result.converged
        best = oracle.reference_fit(twin, X.astype(np.float64), y, K)[2]
        assert relative_gap(twin, result.params, X, y, best) <= 1e-5
