"""The methods of GLM against the oracle, and under every transformation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import build, in_float64, model, relative_error, slow, small

import glmcore
from glmcore import GLMParams
from glmcore.dense import _spread

K, P = 3, 4
X64, Y = small()
N = len(Y)
RNG = np.random.default_rng(1)
COEF, INTERCEPT = RNG.standard_normal((P, K)), RNG.standard_normal(K)
WEIGHT = np.random.default_rng(2).integers(0, 4, N).astype(float)
PENALTIES = [
    ("UnRegularized",), ("Ridge", 0.3), ("Lasso", 0.03), ("ElasticNet", 0.05, 0.4), ("GroupLasso", 0.05),
]  # fmt: skip
each = pytest.mark.parametrize("spec", PENALTIES, ids=lambda spec: spec[0])


def data(dtype, X=X64):
    return jnp.asarray(X, dtype), jnp.asarray(Y)


def params(dtype, coef=COEF, intercept=INTERCEPT):
    return GLMParams(jnp.asarray(coef, dtype), jnp.asarray(intercept, dtype))


@eqx.filter_jit
def call(glm, method, *args):
    return getattr(glm, method)(*args)


def test_linear_predictor(precision):
    X, _ = data(precision)
    found = call(model(glmcore.Ridge()), "linear_predictor", params(precision), X)
    assert found.dtype == precision
    np.testing.assert_allclose(found, X64 @ COEF + INTERCEPT, atol=100 * np.finfo(precision).eps)


def test_linear_predictor_of_a_pytree_is_the_sum_over_its_leaves():
    X, _ = data(np.float32)
    glm, whole = model(glmcore.Ridge()), params(np.float32)
    split = GLMParams({"a": whole.coef[:1], "b": [whole.coef[1:]]}, whole.intercept)
    found = glm.linear_predictor(split, {"a": X[:, :1], "b": [X[:, 1:]]})
    np.testing.assert_allclose(found, glm.linear_predictor(whole, X), rtol=1e-5, atol=1e-6)


def test_log_proba(precision):
    X, _ = data(precision)
    found = call(model(glmcore.Ridge()), "log_proba", params(precision), X)
    np.testing.assert_allclose(found, oracle.log_proba(COEF, INTERCEPT, X64), atol=100 * np.finfo(precision).eps)


@each
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_loss_and_objective(spec, weight, precision):
    penalty, twin = build(*spec)
    args = (params(precision), *data(precision), weight)
    bound = 30 * np.finfo(precision).eps
    loss, objective = (call(model(penalty), name, *args) for name in ("loss", "objective"))
    assert loss.dtype == objective.dtype == precision
    assert relative_error(loss, oracle.loss(COEF, INTERCEPT, X64, Y, weight)) < bound
    assert relative_error(objective, oracle.objective(twin, COEF, INTERCEPT, X64, Y, weight)) < bound


def test_gradients_against_the_oracle_and_finite_differences(x64):
    glm = model(glmcore.Ridge(0.3))
    X, y = data(np.float64)
    gradient = jax.jit(jax.grad(glm.loss))(params(np.float64), X, y, WEIGHT)
    expected = oracle.loss_gradient(COEF, INTERCEPT, X64, Y, WEIGHT)
    np.testing.assert_allclose(gradient.coef, expected[0], atol=1e-14)
    np.testing.assert_allclose(gradient.intercept, expected[1], atol=1e-14)
    twin = oracle.Ridge(0.3)
    gradient = jax.jit(jax.grad(glm.objective))(params(np.float64), X, y, WEIGHT)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        dc, di = rng.standard_normal((P, K)), rng.standard_normal(K)
        ahead, behind = (
            oracle.objective(twin, COEF + h * dc, INTERCEPT + h * di, X64, Y, WEIGHT) for h in (1e-5, -1e-5)
        )
        slope = np.sum(gradient.coef * dc) + np.sum(gradient.intercept * di)
        assert abs(slope - (ahead - behind) / 2e-5) < 1e-8


def test_weights_are_repeated_rows(x64):
    glm = model(glmcore.Ridge(0.3))
    rows = np.repeat(np.arange(N), WEIGHT.astype(int))
    X, y = data(np.float64)
    for method in ("loss", "objective", "optimality"):
        weighted = call(glm, method, params(np.float64), X, y, WEIGHT)
        repeated = call(glm, method, params(np.float64), X[rows], y[rows])
        np.testing.assert_allclose(weighted, repeated, rtol=1e-12)


def test_rows_without_weight_may_hold_anything(precision):
    X = np.where(WEIGHT[:, None] > 0, X64, np.nan)
    for spec in PENALTIES[1:3]:
        glm = model(build(*spec)[0])
        for method in ("loss", "objective", "optimality"):
            clean, dirty = (
                call(glm, method, params(precision), *data(precision, values), WEIGHT) for values in (X64, X)
            )
            assert np.isfinite(dirty)
            np.testing.assert_allclose(dirty, clean, rtol=30 * np.finfo(precision).eps)


@pytest.mark.parametrize("method", ["loss", "objective"])
def test_derivatives_do_not_see_rows_without_weight(method):
    X = np.where(WEIGHT[:, None] > 0, X64, np.nan)
    function = getattr(model(glmcore.Ridge(0.3)), method)
    clean, dirty = (
        jax.jit(jax.grad(function))(params(np.float32), *data(np.float32, values), jnp.asarray(WEIGHT, jnp.float32))
        for values in (X64, X)
    )
    np.testing.assert_allclose(dirty.coef, clean.coef, atol=1e-5)


@each
@pytest.mark.parametrize("weight", [slow(None), WEIGHT], ids=["unweighted", "weighted"])
def test_optimality_is_the_kkt_residual(spec, weight, precision):
    penalty, twin = build(*spec)
    sparse = np.where(np.abs(COEF) < 0.5, 0.0, COEF)
    sparse[0] = 0
    for coef in (np.zeros((P, K)), sparse, 0.01 * COEF):
        args = (params(precision, coef), *data(precision), weight)
        found = call(model(penalty), "optimality", *args)
        expected = oracle.kkt_residual(twin, coef, INTERCEPT, X64, Y, weight)
        assert found.dtype == precision
        assert relative_error(found, expected) < 300 * np.finfo(precision).eps


@pytest.mark.parametrize("name", ["shifted", "scaled", "shifted_scaled"])
def test_optimality_does_not_depend_on_the_units(name, x64):
    X, y = oracle.load(name)
    for spec in PENALTIES:
        penalty, twin = build(*spec)
        coef = COEF / X.std(axis=0)[:, None]
        intercept = -X.mean(axis=0) @ coef
        found = call(model(penalty), "optimality", params(np.float64, coef, intercept), jnp.asarray(X), jnp.asarray(y))
        assert relative_error(found, oracle.kkt_residual(twin, coef, intercept, X, y)) < 1e-9


@each
def test_optimality_vanishes_at_the_oracles_optimum(spec, x64):
    penalty, twin = build(*spec)
    coef, intercept, _ = oracle.reference_fit(twin, X64, Y, K)
    assert call(model(penalty), "optimality", params(np.float64, coef, intercept), *data(np.float64)) < 1e-9


def test_initialize_params_is_the_null_model(precision):
    X, y = data(precision)
    found = call(model(glmcore.Ridge()), "initialize_params", X, y, WEIGHT)
    assert found.intercept.dtype == found.coef.dtype == precision
    np.testing.assert_array_equal(found.coef, np.zeros((P, K)))
    np.testing.assert_allclose(
        found.intercept, oracle.null_intercept(Y, K, WEIGHT), atol=30 * np.finfo(precision).eps
    )


def test_initialize_params_without_intercept_and_for_a_pytree():
    X, y = data(np.float32)
    found = model(glmcore.Ridge(), fit_intercept=False).initialize_params(X, y)
    np.testing.assert_array_equal(found.intercept, np.zeros(K))
    found = model(glmcore.Ridge()).initialize_params({"a": X[:, :1], "b": X[:, 1:]}, y)
    assert {name: leaf.shape for name, leaf in found.coef.items()} == {"a": (1, K), "b": (3, K)}


def test_initialize_params_gives_an_absent_class_a_finite_floor():
    X, y = data(np.float32)
    found = model(glmcore.Ridge()).initialize_params(X, jnp.where(y == 2, 0, y))
    assert np.all(np.isfinite(found.intercept)) and np.argmin(found.intercept) == 2


def test_sample():
    X = jnp.zeros((20_000, P))
    found = model(glmcore.Ridge()).sample(jax.random.key(1), params(np.float32), X)
    assert found.shape == (20_000,) and jnp.issubdtype(found.dtype, jnp.integer)
    share = np.bincount(found, minlength=K) / 20_000
    np.testing.assert_allclose(share, np.exp(oracle.log_proba(COEF, INTERCEPT, np.zeros((1, P))))[0], atol=0.015)


def test_numpy_arrays_are_as_good_as_jax_arrays():
    """A loop of one's own has its labels from NumPy."""
    glm, X = model(glmcore.Ridge(0.3)), X64.astype(np.float32)
    at = params(np.float32)
    for method in ("loss", "objective", "optimality"):
        np.testing.assert_allclose(
            getattr(glm, method)(at, X, Y), call(glm, method, at, *data(np.float32)), rtol=1e-5
        )
    glm.initialize_params(X, Y)
    glm.sample(jax.random.key(0), at, X)
    glm.degrees_of_freedom(GLMParams(np.asarray(at.coef), np.asarray(at.intercept)), X)


# ---------------------------------------------------------------- degrees of freedom

SPARSE = np.array([[1.0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])  # 1 + 2 + 2 (at most K - 1) + 0


def dof(spec, X=X64, coef=COEF, weight=None, **kwargs):
    args = (params(np.float32, coef), jnp.asarray(X, jnp.float32), weight)
    found = call(model(build(*spec)[0], **kwargs), "degrees_of_freedom", *args)
    assert jnp.issubdtype(found.dtype, jnp.integer)
    return int(found)


def test_degrees_of_freedom_of_smooth_penalties():
    assert dof(("Ridge", 0.3)) == P * (K - 1) + K - 1
    assert dof(("Ridge", 0.3), fit_intercept=False) == P * (K - 1)
    assert dof(("UnRegularized",)) == P * (K - 1) + K - 1


def test_degrees_of_freedom_without_a_penalty_count_the_rank():
    duplicate, constant = X64.copy(), X64.copy()
    duplicate[:, 3] = duplicate[:, 0] - 2 * duplicate[:, 1]
    constant[:, 3] = 5.0
    assert dof(("UnRegularized",), duplicate) == 3 * (K - 1) + K - 1
    assert dof(("UnRegularized",), constant) == 3 * (K - 1) + K - 1
    assert dof(("UnRegularized",), constant, fit_intercept=False) == 4 * (K - 1)
    assert dof(("Ridge", 0.3), duplicate) == P * (K - 1) + K - 1
    # Rank of the centred X: a column that is another plus a constant adds nothing.
    shifted = X64.copy()
    shifted[:, 3] = shifted[:, 0] + 7
    assert dof(("UnRegularized",), shifted) == 3 * (K - 1) + K - 1
    assert dof(("UnRegularized",), shifted, fit_intercept=False) == 4 * (K - 1)


def test_degrees_of_freedom_without_a_penalty_count_used_rows_only():
    weight = np.where(np.arange(N) < 3, 1.0, 0.0)  # three rows, centred: rank 2
    assert dof(("UnRegularized",), weight=weight) == 2 * (K - 1) + K - 1


def test_degrees_of_freedom_do_not_depend_on_the_units():
    assert dof(("UnRegularized",), X64 * [1e-6, 1, 1e4, 1e6]) == P * (K - 1) + K - 1


@pytest.mark.parametrize("spec", PENALTIES[2:], ids=lambda spec: spec[0])
def test_degrees_of_freedom_of_sparse_penalties(spec):
    assert dof(spec, coef=SPARSE) == 5 + K - 1
    assert dof(spec, coef=SPARSE, fit_intercept=False) == 5
    assert dof(spec, coef=0 * SPARSE) == K - 1


def test_degrees_of_freedom_of_pytrees():
    X, coef = jnp.asarray(X64, jnp.float32), jnp.asarray(SPARSE, jnp.float32)
    split = {"a": X[:, :1], "b": X[:, 1:]}
    at = GLMParams({"a": coef[:1], "b": coef[1:]}, jnp.zeros(K))
    assert int(model(glmcore.Lasso()).degrees_of_freedom(at, split)) == 7
    assert int(model(glmcore.Ridge()).degrees_of_freedom(at, split)) == 10
    assert int(model(glmcore.UnRegularized()).degrees_of_freedom(at, split)) == 10


# ---------------------------------------------------------------- transformations


@pytest.mark.parametrize("spec", [("Ridge", 0.3), ("ElasticNet", 0.05, 0.4)], ids=lambda spec: spec[0])
def test_methods_batch_and_differentiate_under_jit(spec):
    glm = model(build(*spec)[0])
    X, y = data(np.float32)
    scales = np.array([0.5, 1.0, 2.0], np.float32)
    many = GLMParams(jnp.asarray(COEF * scales[:, None, None], jnp.float32), jnp.zeros((3, K)))

    @jax.jit
    @jax.vmap
    def batch(at):
        return {
            "linear_predictor": glm.linear_predictor(at, X),
            "log_proba": glm.log_proba(at, X),
            "loss": glm.loss(at, X, y),
            "objective": glm.objective(at, X, y),
            "optimality": glm.optimality(at, X, y),
            "degrees_of_freedom": glm.degrees_of_freedom(at, X),
            "gradient": jax.grad(glm.objective)(at, X, y).coef,
            "sample": glm.sample(jax.random.key(0), at, X),
        }

    found = batch(many)
    for lane, scale in enumerate(scales):
        at = params(np.float32, COEF * scale, np.zeros(K))
        for name in ("linear_predictor", "log_proba"):
            np.testing.assert_allclose(found[name][lane], call(glm, name, at, X), rtol=1e-4, atol=1e-5)
        for name in ("loss", "objective", "optimality"):
            np.testing.assert_allclose(found[name][lane], call(glm, name, at, X, y), rtol=1e-5)
        assert found["degrees_of_freedom"][lane] == call(glm, "degrees_of_freedom", at, X)
    assert np.all(np.isfinite(found["gradient"])) and found["sample"].shape == (3, N)


def test_optimality_is_differentiable():
    glm = model(glmcore.Ridge(0.3))
    gradient = jax.jit(jax.grad(glm.optimality))(params(np.float32), *data(np.float32))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_params_unpack_and_are_immutable():
    coef, intercept = params(np.float32)
    assert coef.shape == (P, K) and intercept.shape == (K,)
    with pytest.raises(AttributeError):
        params(np.float32).coef = coef
    assert in_float64(params(np.float32))[0].shape == (P, K)


@pytest.mark.parametrize("n", [20, 21, 29, 1000])
@pytest.mark.parametrize("heavy", [slice(None), slice(1, 2)], ids=["equal", "one row"])
def test_a_hessian_is_formed_from_as_many_rows_as_asked_for(n, heavy):
    weight = np.full(n, 1e-6, np.float32)
    weight[heavy] = 1
    rows, share = _spread(jnp.asarray(weight / weight.sum()), n_rows=10)
    assert rows.size == 10 and rows.min() >= 0 and rows.max() < n
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
    assert share[rows == 1].sum() > 0.99 if heavy.start else np.ptp(np.diff(rows)) <= 1


def test_rows_for_a_hessian_are_spread_over_blocks_with_idle_rows_in_their_midst():
    place = np.arange(40 * 512) % 512
    used = (place < 100) | ((place >= 300) & (place < 400))
    rows, share = map(np.asarray, _spread(jnp.asarray((used / used.sum()).astype(np.float32)), n_rows=800))
    assert (np.diff(rows) > 0).all() and 0.4 < used[rows].mean() < 0.6
    np.testing.assert_allclose(share[place[rows] >= 300].sum(), 0.5, atol=0.03)
    assert np.ptp(place[rows]) > 380


def test_the_rows_for_a_hessian_do_not_depend_on_the_padding():
    weight = np.random.default_rng(0).uniform(1, 2, 3000).astype(np.float32)
    padded = np.zeros((2, 2048), np.float32)
    padded[:, :1500] = weight.reshape(2, -1)
    rows, share = _spread(jnp.asarray(weight), n_rows=100)
    found, found_share = _spread(jnp.asarray(padded.ravel()), n_rows=100)
    np.testing.assert_array_equal(np.where(found < 2048, found, found - 548), rows)
    np.testing.assert_allclose(found_share, share, rtol=1e-6)


@pytest.mark.parametrize("weight", [np.array([2.0]), np.array(1.0), np.ones(59), np.ones((60, 1))])
def test_weights_of_another_shape_are_refused(weight):
    X, y = map(jnp.asarray, small())
    glm = model(glmcore.Ridge(0.1))
    params = glm.initialize_params(X, y)
    for method in (glm.loss, glm.objective, glm.optimality):
        with pytest.raises(ValueError, match=r"sample_weight must have shape \(60,\), found"):
            method(params, X, y, weight)


@pytest.mark.parametrize("link", [None, lambda eta: jax.nn.log_softmax(2 * eta)])
def test_labels_of_no_class_have_no_likelihood(link):
    X, y = map(jnp.asarray, small())
    glm = glmcore.GLM(glmcore.Categorical(3), inverse_link=link)
    params = glm.initialize_params(X, y)
    bad = y.at[0].set(-1).at[1].set(3)
    likelihood = glmcore.log_likelihood(glm, params, X, bad)
    np.testing.assert_array_equal(np.isnan(likelihood), np.arange(60) < 2)
    assert np.isnan(glm.loss(params, X, bad)) and np.isnan(glm.optimality(params, X, bad))
    assert np.isnan(glm.initialize_params(X, bad).intercept).all()
    weight = jnp.ones(60).at[:2].set(0)
    np.testing.assert_allclose(glm.loss(params, X, bad, weight), glm.loss(params, X, y, weight), rtol=1e-6)


def test_methods_compute_integer_features_in_the_dtype_of_a_fit(x64):
    X, y = small()
    X = np.round(3 * X).astype(int)
    glm = model(glmcore.Ridge(0.1))
    result = glmcore.fit(glm, X, y)
    for features in (X, jnp.asarray(X), jnp.asarray(X * 1.0)):
        np.testing.assert_allclose(glm.optimality(result.params, features, y), result.optimality, rtol=1e-3)
        assert glm.initialize_params(features, y).intercept.dtype == np.float64


def test_strict_promotion_of_dtypes_is_for_the_users_own_code():
    X, y = small()
    X, glm, sparse = X.astype(np.float32), model(glmcore.Ridge(0.1)), model(glmcore.Lasso(0.01))
    with jax.numpy_dtype_promotion("strict"):
        result, path = glmcore.fit(glm, X, y), glmcore.regularization_path(sparse, X, y, n_strengths=3)
        assert result.converged and path.converged.all() and glm.optimality(result.params, X, y) < 1e-5


def test_optimality_is_what_tol_bounds_where_there_is_nothing_to_learn():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 20)).astype(np.float32)
    y = rng.integers(0, 3, 20_000)
    glm = model(glmcore.Ridge(1e-3))
    result = glmcore.fit(glm, X, y)
    assert result.converged
    assert glm.optimality(result.params, jnp.asarray(X), jnp.asarray(y)) < 3e-6


@pytest.mark.parametrize("penalty", [glmcore.Ridge(1.0), glmcore.UnRegularized(), glmcore.Lasso(0.1)])
@pytest.mark.parametrize("solver", [None, slow(glmcore.LBFGS()), glmcore.ProximalGradient()])
def test_weight_on_one_class_only_leaves_the_others_out(penalty, solver):
    X, y = small()
    if isinstance(solver, glmcore.LBFGS) and not penalty.smooth:
        return
    result = glmcore.fit(model(penalty), X.astype(np.float32), y, sample_weight=1.0 * (y == 0), solver=solver)
    assert glmcore.status_name(result.status) == "missing_class"
    assert not np.any(result.params.coef)
