"""Derivatives of an optimum beside finite differences of the fit, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model, slow, small

import glmcore

N, P, EPS = 60, 4, 1e-5
rng = np.random.default_rng(0)
X = rng.normal(size=(N, P)) + np.array([0, 3, 0, -2])
WEIGHT = rng.uniform(0.5, 2, N)
NOISE, TRUTH = rng.gumbel(size=(N, 4)), rng.normal(size=(P, 4))


def labels(K):
    return np.argmax(((X - X.mean(axis=0)) @ TRUTH + 1.5 * NOISE)[:, :K], axis=1)


class Bumps(glmcore.AbstractPenalty):
    """Not known to the library; neighbours may all be far from zero together."""

    strength: jax.Array
    smooth = True

    def value(self, coef):
        return self.strength * (jnp.sum(jnp.diff(coef, axis=0) ** 2) + jnp.sum(jnp.diff(coef, axis=1) ** 4))


def steeper(eta):
    return jax.nn.log_softmax(jnp.sinh(eta))


def twice(eta):
    """Blind to the level of the classes, which the library cannot know."""
    return jax.nn.log_softmax(2 * eta)


def elastic(strength_and_ratio):
    return glmcore.ElasticNet(strength_and_ratio[0], strength_and_ratio[1])


def two_groups(strength):
    return glmcore.GroupLasso(strength, np.repeat(np.eye(2), 2, axis=1)[:, :, None] * np.ones(3))


def none(_):
    return glmcore.UnRegularized()


MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
CASES = {
    "ridge": (glmcore.Ridge, 0.05, 3, {}),
    "ridge, each class its own": (glmcore.Ridge, np.array([[0.05, 0.1, 0.2]]), 3, {}),
    "ridge, no intercept": (glmcore.Ridge, 0.05, 3, {"fit_intercept": False}),
    "ridge, mask": (glmcore.Ridge, 0.05, 3, {"mask": MASK}),
    "ridge, link": (glmcore.Ridge, 0.05, 3, {"inverse_link": steeper}),
    "ridge, blind link": (glmcore.Ridge, 0.05, 3, {"inverse_link": twice}),
    "none": (none, 0.0, 3, {}),
    "lasso, two classes": (glmcore.Lasso, 0.02, 2, {}),
    "lasso, mask": (glmcore.Lasso, 0.01, 3, {"mask": MASK}),
    "elastic net": (elastic, np.array([0.04, 0.6]), 3, {}),
    "groups": (two_groups, np.array([0.02, 0.03]), 3, {}),
    "own penalty": (Bumps, 0.1, 3, {}),
}
#: Where the level of the classes is nobody's business, and that of an optimum any.
BLIND = ("ridge, blind link", "own penalty")
SLOW = ("ridge", "ridge, mask", "ridge, link", "lasso, mask", "lasso, two classes", "elastic net")


@pytest.mark.parametrize("case", [slow(case) if case in SLOW else case for case in CASES])
def test_the_derivative_in_strengths_features_and_weights(case, x64):
    penalty, strength, K, options = CASES[case]
    y, direction = labels(K), np.random.default_rng(1)
    projection = direction.normal(size=(P + 1, K))
    if case in BLIND:
        projection -= projection.mean(axis=1, keepdims=True)
    kind = glmcore.default_solver(penalty(strength), n_params=(P + 1) * K, n_rows=N)
    solver = type(kind)(tol=1e-13)

    def value(data):
        strength, X, weight = data
        glm = model(penalty(strength), K, **options)
        found = glmcore.fit(glm, X, y, sample_weight=weight, solver=solver)
        stacked = jnp.concatenate([found.params.coef, found.params.intercept[None, :]])
        return jnp.sum(projection * stacked) + found.objective

    data = jax.tree.map(jnp.asarray, (strength, X, WEIGHT))
    slope = jax.grad(value)(data)
    for i in range(3):
        move = [direction.normal(size=x.shape) * (x if i == 0 else 1) if i == j else 0 * x for j, x in enumerate(data)]
        there, back = (value(jax.tree.map(lambda x, d: x + sign * EPS * d, data, tuple(move))) for sign in (1, -1))
        along = sum(jnp.sum(s * d) for s, d in zip(slope, move))
        np.testing.assert_allclose(along, (there - back) / (2 * EPS), rtol=1e-5, atol=1e-6)


def total(strength, features=X, K=3, **options):
    found = glmcore.fit(model(glmcore.Ridge(strength), K), features, labels(3), **options)
    return sum(jnp.sum(jnp.sin(w)) for w in jax.tree.leaves(found.params.coef))


STRENGTHS = jnp.array([0.05, 0.5])


def test_of_many_fits_and_forward(x64):
    def close(strength):
        return total(strength, solver=glmcore.LBFGS(tol=1e-11))

    expected = [jax.jvp(close, (s,), (1.0,))[1] for s in (0.05, 0.5)]
    summed = jax.jit(jax.grad(lambda strengths: jnp.sum(jax.vmap(close)(strengths))))(STRENGTHS)
    np.testing.assert_allclose(summed, expected, rtol=1e-6)


@pytest.mark.slow
def test_of_the_second_order_and_many_of_them(x64):
    step, slope = 1e-6, jax.grad(lambda s: total(s, solver=glmcore.Newton(tol=1e-14)))
    bend = (slope(0.05 + step) - slope(0.05 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(slope)(0.05), bend, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(slope)(STRENGTHS), [slope(s) for s in (0.05, 0.5)], rtol=1e-6)


def test_float32_far_from_zero_in_a_tree_without_rows_of_a_class():
    with jax.enable_x64(True):
        expected = jax.grad(total)(0.05)
    far = (X + np.array([3e3, 0, 0, 0])).astype(np.float32)
    found = jax.grad(total)(0.05, {"a": far[:, :1], "b": far[:, 1:]}, K=4)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_gradient_alone_leaves_values_to_look_at():
    told = []
    jax.grad(lambda s: total(s, callback=told.append))(0.05)
    assert told[-1].done
    with pytest.raises(ValueError, match="strength must be finite and not negative, found -0.05"):
        jax.grad(total)(-0.05)
    with pytest.raises(ValueError, match="callback cannot be called from inside"):
        jax.jit(lambda s: total(s, callback=told.append))(0.05)


def test_another_strength_is_no_other_program(programs):
    slope = jax.grad(total)
    slope(0.05)
    with programs:
        slope(0.06)
    assert not programs.events


def test_where_a_fit_starts_and_how_it_stops_moves_nothing():
    def value(start, tol):
        options = {"init_params": (start * np.ones((P, 3)), np.zeros(3)), "solver": glmcore.LBFGS(tol=tol)}
        return total(0.05, **options)

    assert jax.grad(value, argnums=(0, 1))(0.1, 1e-6) == (0, 0)


def test_derivatives_at_weights_of_zero(x64):
    X, y = small()
    glm, weight = model(glmcore.Ridge(0.1)), np.ones(60)
    weight[:5] = 0
    params = glmcore.fit(glm, X, y, sample_weight=weight, solver=glmcore.Newton(tol=1e-13)).params

    def loss(weight):
        return glm.loss(params, X, y, weight)

    def coef(weight):
        return glmcore.fit(glm, X, y, sample_weight=weight, solver=glmcore.Newton(tol=1e-13)).params.coef[0, 0]

    for function in (loss, coef):
        slope = jax.grad(function)(jnp.asarray(weight))
        for row in (0, 4, 20):
            step = 1e-5 * (np.arange(60) == row)
            found = (-3 * function(weight) + 4 * function(weight + step) - function(weight + 2 * step)) / 2e-5
            np.testing.assert_allclose(slope[row], found, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [1e-40, 1e37, 1e300])
def test_the_size_of_weights_leaves_derivatives_alone(size):
    X, y = small()

    def coef(strength, weight):
        return glmcore.fit(model(glmcore.Ridge(strength)), X, y, sample_weight=weight).params.coef[0, 0]

    slope = jax.grad(coef)
    np.testing.assert_allclose(slope(0.1, np.full(60, size)), slope(0.1, np.ones(60)), rtol=1e-3)


@pytest.mark.parametrize("anything", [1e30, 1e37, np.nan])
def test_what_rows_of_weight_zero_hold_leaves_derivatives_alone(anything):
    X, y = small()
    X, weight = X.astype(np.float32), np.r_[np.zeros(5), np.ones(55)].astype(np.float32)
    held = np.where(weight[:, None] > 0, X, np.float32(anything))

    def slope(X):
        def coef(strength):
            return glmcore.fit(model(glmcore.Ridge(strength)), X, y, sample_weight=weight).params.coef[0, 0]

        return jax.grad(coef)(0.1)

    np.testing.assert_allclose(slope(held), slope(X), rtol=1e-3)


def test_without_a_penalty_collinear_features_stay_out_of_their_null_space(x64):
    features = np.column_stack([X, X[:, 0] - 2 * X[:, 1]])
    y, glm = labels(3), model(glmcore.UnRegularized())

    def coef(weight):
        return glmcore.fit(glm, features, y, sample_weight=weight).params.coef

    move = np.random.default_rng(1).normal(size=N)
    found = jax.jvp(coef, (jnp.asarray(WEIGHT),), (jnp.asarray(move),))[1]
    expected = (coef(WEIGHT + 1e-4 * move) - coef(WEIGHT - 1e-4 * move)) / 2e-4
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(np.array([1, -2, 0, 0, -1]) @ np.asarray(found)).max() < 1e-8


@pytest.mark.parametrize("kind", [glmcore.Lasso, lambda s: glmcore.ElasticNet(s, 1.0)], ids=["Lasso", "ElasticNet"])
def test_of_equal_features_backward_and_forward(kind, x64):
    features, y = np.column_stack([X, X[:, 0]]), labels(3)

    def value(strength, of_least_norm=lambda coef: coef):
        coef = of_least_norm(glmcore.fit(model(kind(strength)), features, y).params.coef)
        return jnp.sum(coef**2) + jnp.sum(coef[0] * jnp.arange(3))  # which differs among the equal ones

    def as_equals(coef):
        return coef.at[jnp.array([0, 4])].set((coef[0] + coef[4])[None, :] / 2)

    found = jax.grad(value)(0.02)
    slope = (value(0.02 + EPS, as_equals) - value(0.02 - EPS, as_equals)) / (2 * EPS)
    np.testing.assert_allclose(found, slope, rtol=1e-4)
    np.testing.assert_allclose(jax.jvp(value, (0.02,), (1.0,))[1], found, rtol=1e-8)


def test_of_collinear_features_without_a_strength_nothing_moves_in_their_null_space(x64):
    features, y = np.column_stack([X, X[:, 0] - 2 * X[:, 1]]), labels(3)

    def fit(strength):
        glm = model(glmcore.Ridge(strength * np.array([0, 0, 1, 1, 0])[:, None]))
        return glm, glmcore.fit(glm, features, y).params

    def value(strength):
        glm, params = fit(strength)
        return glm.loss(params, features, y)

    found = jax.jacobian(lambda strength: fit(strength)[1].coef)(0.02)
    assert np.abs(np.array([1, -2, 0, 0, -1]) @ np.asarray(found)).max() < 1e-6 * np.abs(found).max()
    np.testing.assert_allclose(jax.grad(value)(0.02), (value(0.02 + EPS) - value(0.02 - EPS)) / (2 * EPS), rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float64"], indirect=True)
def test_of_a_link_that_is_blind_to_another_direction(precision):
    def link(eta):
        scale = jnp.array([1, 2, 0.5], precision)
        return jax.nn.log_softmax(eta * jnp.broadcast_to(scale, eta.shape), axis=-1)

    def value(strength):
        glm = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(strength), inverse_link=link)
        params = glmcore.fit(glm, X.astype(precision), labels(3)).params
        return params, jnp.sum(jnp.sin(glm.log_proba(params, X.astype(precision))))

    found = jax.jacrev(value)(0.1)
    step = 1e-2 if precision == "float32" else 1e-4
    slope = (value(0.1 + step)[1] - value(0.1 - step)[1]) / (2 * step)
    np.testing.assert_allclose(found[1], slope, rtol=1e-2 if precision == "float32" else 1e-5)
    assert np.abs(found[0].intercept).max() < 100 * np.abs(found[0].coef).max()
