"""Coefficients that a mask holds at zero: the others are at the optimum of what is left."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import in_float64, is_status, model, slow, small

import glmcore

X, Y = small(3, n=80, p=5)
#: A feature for one class, one for two of them, one for none and two for all.
MASK = np.ones((5, 3), int)
MASK[0], MASK[1], MASK[2] = (1, 0, 0), (0, 1, 1), 0
PENALTIES = {
    "Ridge": (0.05,),
    "Lasso": (0.02,),
    "ElasticNet": (0.02, 0.5),
    "GroupLasso": (0.02,),
    "UnRegularized": (),
}
SMOOTH = ("LBFGS", "BFGS", "NonlinearCG", "GradientDescent", "SVRG")
OTHERS = ("ProximalNewton", "ProxSVRG")
RUNS = [pytest.param(kind, None, id=kind) for kind in ("Ridge", "Lasso", "UnRegularized")]
RUNS += [slow(kind, None, id=kind) for kind in ("ElasticNet", "GroupLasso")]
RUNS += [slow("Ridge", s, id=f"Ridge-{s}") for s in (*SMOOTH, *OTHERS)]
RUNS += [slow("GroupLasso", s, id=f"GroupLasso-{s}") for s in OTHERS]


def masked(kind, mask=MASK):
    return model(getattr(glmcore, kind)(*PENALTIES[kind]), mask=mask)


def kkt_residual(kind, params, X, y, mask):
    """Norm of the least subgradient in the coefficients that are free, features centred and scaled, and in the
    intercept; relative to the loss gradient of the null model."""
    twin, (coef, intercept) = getattr(oracle, kind)(*PENALTIES[kind]), in_float64(params)
    mean, centred, std = oracle.centre_and_scale(X)
    scale = twin.scales(std, coef.shape[1])

    def norm(coef, intercept, push):
        gradient, level = oracle.loss_gradient(coef, intercept, centred, y)
        free = np.where(mask, push(np.where(mask, gradient, 0)) / scale, 0)
        return np.sqrt(np.sum(free**2) + np.sum(level**2))

    least = norm(coef, intercept + mean @ coef, lambda gradient: twin.least_subgradient(coef, gradient))
    return least / norm(0 * coef, oracle.null_intercept(y, coef.shape[1]), lambda gradient: gradient)


@pytest.mark.parametrize("kind, solver", RUNS)
def test_the_free_coefficients_are_optimal(kind, solver, x64):
    glm = masked(kind)
    result = glmcore.fit(glm, X, Y, solver=None if solver is None else getattr(glmcore, solver)())
    coef = np.asarray(result.params.coef)
    assert is_status(result, "converged")
    assert np.all(coef[MASK == 0] == 0)
    assert kkt_residual(kind, result.params, X, Y, MASK) < 2e-8
    assert float(glm.optimality(result.params, X, Y)) < 2e-8
    # Only what a mask leaves alone has a free level.
    if kind in ("Ridge", "UnRegularized"):
        np.testing.assert_allclose(coef[3:].sum(axis=1), 0, atol=1e-9)


@pytest.mark.slow
def test_a_feature_that_is_masked_for_all_classes_is_not_there(x64):
    whole, part = masked("Ridge", np.repeat([[1], [0], [1], [1], [0]], 3, axis=1)), masked("Ridge", None)
    kept = [0, 2, 3]
    found, expected = glmcore.fit(whole, X, Y), glmcore.fit(part, X[:, kept], Y)
    np.testing.assert_allclose(found.params.coef[jnp.array(kept)], expected.params.coef, atol=1e-8)
    np.testing.assert_allclose(found.params.intercept, expected.params.intercept, atol=1e-8)
    assert int(whole.degrees_of_freedom(found.params, X)) == int(part.degrees_of_freedom(expected.params, X[:, kept]))


@pytest.mark.slow
def test_start_and_update_keep_to_the_mask(x64):
    glm, rng = masked("Ridge"), np.random.default_rng(0)
    wild = glmcore.GLMParams(rng.standard_normal((5, 3)), rng.standard_normal(3))
    free = glmcore.fit(glm, X, Y, init_params=wild)
    np.testing.assert_allclose(free.params.coef, glmcore.fit(glm, X, Y).params.coef, atol=1e-7)
    state = glmcore.init_state(glm, wild, X, Y)
    params, _ = glmcore.update(glm, wild, state, X, Y)
    assert np.all(np.asarray(params.coef)[MASK == 0] == 0)


def test_least_norm_where_features_are_collinear(x64):
    """Without a penalty: coefficients are the pseudoinverse's of their own predictors, level left out."""
    doubled = np.concatenate([X[:, :4], X[:, :1] + X[:, 3:4]], axis=1)
    mask = np.ones((5, 3), bool)
    mask[0], mask[1], mask[3] = (1, 1, 0), (1, 0, 1), 1
    glm = masked("UnRegularized", mask)
    result = glmcore.fit(glm, doubled, Y)
    coef = in_float64(result.params)[0]
    centring = np.eye(3) - 1 / 3
    effect = np.einsum("np,kl->nlpk", doubled - doubled.mean(axis=0), centring) * mask
    effect = effect.reshape(len(Y) * 3, 15)
    least = np.linalg.pinv(effect, rcond=1e-10) @ (effect @ coef.ravel())
    np.testing.assert_allclose(coef.ravel(), least, atol=1e-8)
    assert kkt_residual("UnRegularized", result.params, doubled, Y, mask) < 2e-8
    rank = np.linalg.matrix_rank(effect, tol=1e-8)
    assert int(glm.degrees_of_freedom(result.params, doubled)) == rank + 2


def test_least_norm_of_a_feature_masked_in_a_class_without_weight(x64):
    mask = np.ones((X.shape[1], 3), bool)
    mask[0, 1] = False  # the others of this feature are free all the same
    weight = (Y != 1).astype(float)
    start = glmcore.GLMParams(np.full(mask.shape, 2.0), np.zeros(3))
    result = glmcore.fit(masked("UnRegularized", mask), X, Y, sample_weight=weight, init_params=start)
    assert result.converged
    np.testing.assert_allclose(result.params.coef.sum(axis=1), 0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Ridge", "UnRegularized"])
def test_a_batch_of_masks(kind, x64):
    masks = np.stack([MASK, np.ones_like(MASK), MASK[:, ::-1]]).astype(bool)
    glm, rows = masked(kind, None), (jnp.asarray(X), jnp.asarray(Y))

    @eqx.filter_jit
    @jax.vmap
    def fits(mask):
        return glmcore.fit(dataclasses.replace(glm, mask=mask), *rows)

    batch = fits(jnp.asarray(masks))
    for lane, mask in enumerate(masks):
        single = glmcore.fit(masked(kind, mask), X, Y)
        assert batch.converged[lane]
        np.testing.assert_allclose(batch.params.coef[lane], single.params.coef, atol=1e-6)
        assert np.all(np.asarray(batch.params.coef)[lane][~mask] == 0)


@pytest.mark.slow
def test_a_mask_and_weights_in_lanes(x64):
    weights = np.random.default_rng(1).integers(0, 3, (9, len(Y))).astype(float)
    glm, rows = masked("Ridge"), (jnp.asarray(X), jnp.asarray(Y))
    batch = eqx.filter_jit(jax.vmap(lambda w: glmcore.fit(glm, *rows, sample_weight=w)))(jnp.asarray(weights))
    for lane, weight in enumerate(weights):
        single = glmcore.fit(glm, X, Y, sample_weight=weight)
        np.testing.assert_allclose(batch.params.coef[lane], single.params.coef, atol=1e-6)


@pytest.mark.slow
def test_paths_and_batches_of_rows_keep_to_the_mask(x64):
    path = glmcore.regularization_path(masked("Lasso"), X, Y, [0.5, 1.0])
    single = glmcore.fit(masked("Lasso"), X, Y)
    np.testing.assert_allclose(path.params.coef[1], single.params.coef, atol=1e-6)
    streamed = glmcore.fit_batches(masked("Ridge"), [(X[:30], Y[:30]), (X[30:], Y[30:])])
    np.testing.assert_allclose(streamed.params.coef, glmcore.fit(masked("Ridge"), X, Y).params.coef, atol=1e-6)


def test_parameters_that_are_free():
    """K - 1 a feature at most, and only where the level is free is one of K not a parameter."""
    params = glmcore.GLMParams(np.zeros((5, 3)), np.zeros(3))
    assert int(masked("Ridge").degrees_of_freedom(params, X)) == 1 + 2 + 0 + 2 + 2 + 2
    two = np.array([True, True, False])
    assert int(masked("Ridge").degrees_of_freedom(params, X, present=two)) == 1 + 1 + 0 + 1 + 1 + 1


class Unknown(glmcore.AbstractPenalty):
    """Not smooth, and of no class that the library knows."""

    smooth = False

    def value(self, coef):
        return jnp.max(jnp.abs(coef))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: masked("Ridge", 2 * MASK), "mask must hold 0 and 1 only, found"),
        (lambda: model(Unknown(), mask=MASK), "a mask needs a smooth penalty or one of glmcore's"),
        (lambda: glmcore.fit(masked("Ridge", MASK[:4]), X, Y), r"mask must have shape \(5, 3\), found \(4, 3\)"),
        (lambda: glmcore.fit(masked("Ridge", {"a": MASK}), X, Y), "mask must mirror X"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
