"""SVRG and ProxSVRG: the optimum of the oracle, statuses that are true, batches that are reproducible."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import (
    build,
    data,
    in_float64,
    is_status,
    model,
    n_classes,
    reference,
    relative_error,
    relative_gap,
    slow,
    small,
    status,
)

import glmcore
from glmcore import SVRG, ProxSVRG
from glmcore.solvers.svrg import Sampler
from glmcore_sklearn import ClassifierGLM

F64 = np.dtype("float64")
BOTH = [(SVRG, ("Ridge", 0.05)), (ProxSVRG, ("Lasso", 0.02))]
each = pytest.mark.parametrize("solver, spec", BOTH, ids=["SVRG", "ProxSVRG"])


# ---------------------------------------------------------------- the optimum


def reaches(name, spec, solver, tol):
    X, y = data(name, F64)
    penalty, twin = build(*spec)
    coef, _, best = reference(name, *spec)
    result = glmcore.fit(model(penalty, n_classes(name)), X, y, solver=solver(tol=tol))
    found = in_float64(result.params)
    assert is_status(result, "converged"), f"{status(result)}, {result.optimality}"
    assert result.optimality <= tol and oracle.kkt_residual(twin, *found, X, y) <= 1.5 * tol
    # The residual squared over the curvature of the flattest feature, which is small here.
    assert abs(relative_gap(twin, result.params, X, y, best)) <= 1e-9
    np.testing.assert_array_equal(found[0] == 0, coef == 0)


@pytest.mark.parametrize("solver, spec", [(SVRG, ("Ridge", 1e-4)), slow(ProxSVRG, ("Lasso", 1e-4))])
def test_arrival_on_features_that_hardly_bend_the_loss(solver, spec):
    """Where a small residual is no sign of a small gap, of which the rate of the epochs tells."""
    X, y = data("wine", np.float32)
    penalty, twin = build(*spec)
    best = reference("wine", *spec, dtype="float32")[2]
    result = glmcore.fit(model(penalty), X, y, solver=solver(maxiter=3000))
    assert is_status(result, "converged")
    assert relative_gap(twin, result.params, X, y, best) < 1e-6


# A program is compiled for each shape and penalty: what is not slow shares those of 60 x 4.
@pytest.mark.parametrize(
    "name, strength, tol",
    [("iris", 1.0, 1e-10), ("iris", 1e-2, 1e-10), slow("digits", 1.0, 1e-8),
     slow("wine", 1.0, 1e-10), slow("wine", 1e-2, 1e-10), slow("breast_cancer", 1.0, 1e-10),
     slow("breast_cancer", 1e-2, 1e-10), slow("digits", 1e-2, 1e-8)],
)  # fmt: skip
def test_ridge(name, strength, tol, x64):
    reaches(name, ("Ridge", strength), SVRG, tol)


@pytest.mark.parametrize(
    "name, spec",
    [("iris", ("Lasso", 0.02)), ("wine", ("GroupLasso", 0.02)),
     slow("breast_cancer", ("Lasso", 0.02)), slow("iris", ("ElasticNet", 0.02, 0.5)), slow("iris", ("Ridge", 1e-2))],
    ids=lambda v: v if isinstance(v, str) else v[0],
)  # fmt: skip
def test_every_penalty_with_a_prox(name, spec, x64):
    reaches(name, spec, ProxSVRG, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [SVRG, ProxSVRG])
def test_without_a_penalty_and_in_float32(solver):
    X, y = small()
    result = glmcore.fit(model(glmcore.UnRegularized()), X.astype(np.float32), y, solver=solver())
    coef, _, best = oracle.reference_fit(oracle.UnRegularized(), X, y, 3)
    assert is_status(result, "converged"), status(result)
    assert relative_error(result.objective, best) <= 1e-5
    assert relative_error(result.params.coef, coef) <= 1e-2


@each
def test_weights_are_repeated_rows(solver, spec, x64):
    X, y = small()
    weight = np.random.default_rng(0).integers(0, 5, 60).astype(float)
    penalty, twin = build(*spec)
    rows = np.repeat(np.arange(60), weight.astype(int))
    dirty = np.where(weight[:, None] > 0, X, np.nan)
    weighted = glmcore.fit(model(penalty), dirty, y, solver=solver(tol=1e-10), sample_weight=3 * weight)
    repeated = glmcore.fit(model(penalty), X[rows], y[rows], solver=solver(tol=1e-10))
    assert weighted.converged and repeated.converged
    np.testing.assert_allclose(weighted.params.coef, repeated.params.coef, atol=1e-8)
    assert relative_error(weighted.objective, oracle.reference_fit(twin, X, y, 3, weight)[2]) <= 1e-12


@each
def test_a_class_that_is_left_out(solver, spec, x64):
    X, y = small()
    left_out = glmcore.fit(model(build(*spec)[0]), X, y, solver=solver(), sample_weight=(y < 2).astype(float))
    assert is_status(left_out, "missing_class")
    np.testing.assert_array_equal(left_out.params.coef[:, 2], np.zeros(4))


@pytest.mark.slow
def test_any_start(x64):
    X, y = small()
    glm, rng = model(glmcore.Lasso(0.02)), np.random.default_rng(0)
    start = glmcore.GLMParams(jnp.asarray(30 * rng.standard_normal((4, 3))), jnp.asarray(30 * rng.standard_normal(3)))
    result = glmcore.fit(glm, X, y, solver=ProxSVRG(), init_params=start)
    best = oracle.reference_fit(oracle.Lasso(0.02), X, y, 3)[2]
    assert is_status(result, "converged") and relative_error(result.objective, best) <= 1e-9
    again = glmcore.fit(glm, X, y, solver=ProxSVRG(), init_params=result.params)
    assert is_status(again, "converged") and again.n_iter <= 1


def test_a_long_row_does_not_slow_the_fit(x64):
    """Long rows are drawn more often, so that it is their mean that bounds the step size."""
    X, y = (np.array(a) for a in small(n=200))
    plain = glmcore.fit(model(glmcore.Ridge(1e-3)), X, y, solver=SVRG())
    X[5] *= 30
    X[7] *= -10
    result = glmcore.fit(model(glmcore.Ridge(1e-3)), X, y, solver=SVRG())
    assert result.converged and result.n_iter <= 3 * plain.n_iter


# ---------------------------------------------------------------- statuses


@each
@pytest.mark.parametrize("stepsize", [20.0, 1e4, 1e30])
def test_a_step_size_that_is_too_large_is_told(solver, spec, stepsize, x64):
    X, y = small()
    result = glmcore.fit(model(build(*spec)[0]), X, y, solver=solver(stepsize=stepsize, maxiter=60))
    assert not result.converged
    assert is_status(result, "nonfinite") or is_status(result, "out_of_steps"), status(result)


@each
def test_a_given_step_size_is_kept_and_reaches_the_optimum(solver, spec, x64):
    X, y = small()
    penalty, twin = build(*spec)
    result = glmcore.fit(model(penalty), X, y, solver=solver(stepsize=0.5))
    assert is_status(result, "converged") and result.state.solver.stepsize == 0.5
    assert relative_error(result.objective, oracle.reference_fit(twin, X, y, 3)[2]) <= 1e-9
    few = glmcore.fit(model(penalty), X, y, solver=solver(stepsize=0.5, maxiter=2))
    assert is_status(few, "out_of_steps") and few.n_iter == 2


@each
def test_zero_tolerance_ends_at_the_rounding_level(solver, spec, x64):
    X, y = small()
    result = glmcore.fit(model(build(*spec)[0]), X, y, solver=solver(tol=0.0))
    assert is_status(result, "stalled") or is_status(result, "converged"), status(result)
    assert result.optimality <= 100 * np.finfo(F64).eps


@each
def test_features_that_are_not_finite(solver, spec, x64):
    X, y = (np.array(a) for a in small())
    X[3, 1] = np.nan
    assert is_status(glmcore.fit(model(build(*spec)[0]), X, y, solver=solver()), "nonfinite")


@pytest.mark.slow
def test_separable_classes_never_converge():
    X, _ = small()
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    assert not glmcore.fit(model(glmcore.UnRegularized()), X.astype(np.float32), y, solver=SVRG(maxiter=20)).converged


# ---------------------------------------------------------------- batches


@each
def test_a_seed_decides(solver, spec, programs, x64):
    X, y = small()
    glm = model(build(*spec)[0])
    first = glmcore.fit(glm, X, y, solver=solver(maxiter=3))
    with programs:
        same = glmcore.fit(glm, X, y, solver=solver(maxiter=3, seed=0))
        other = glmcore.fit(glm, X, y, solver=solver(maxiter=3, seed=1))
    np.testing.assert_array_equal(same.params.coef, first.params.coef)
    assert np.any(np.asarray(other.params.coef) != np.asarray(first.params.coef))
    assert (programs.compiled, programs.traced) == (0, 0)


@pytest.mark.parametrize("size", [slow(7), slow(1), slow(60), slow(1000)])
def test_every_batch_size_reaches_the_optimum(size, x64):
    X, y = small()
    penalty, twin = build("Ridge", 0.05)
    result = glmcore.fit(model(penalty), X, y, solver=SVRG(batch_size=size))
    assert is_status(result, "converged"), status(result)
    assert relative_error(result.objective, oracle.reference_fit(twin, X, y, 3)[2]) <= 1e-9


def test_rows_are_drawn_in_proportion(x64):
    weight = jnp.array([0.0, 0.1, 0.0, 0.4, 0.5, 0.0, 0.0])
    sampler = Sampler(jnp.cumsum(weight), jnp.ones(7))
    batches = np.asarray(sampler.batches(jax.random.key(3), 500, 4))
    share = np.bincount(batches.ravel(), minlength=7) / batches.size
    np.testing.assert_allclose(share, weight, atol=5e-3)
    assert np.all(np.diff(batches, axis=1) >= 0)  # one from each stratum
    assert set(np.asarray(sampler.rows(jnp.array([0.0, 1.0])))) == {1, 4}


# ---------------------------------------------------------------- update


def start(glm, X, y, solver):
    params = glm.initialize_params(jnp.asarray(X), jnp.asarray(y))
    return params, glmcore.init_state(glm, params, X, y, solver=solver)


@each
def test_updates_are_the_steps_of_fit(solver, spec, x64):
    X, y = small()
    penalty, twin = build(*spec)
    glm = model(penalty)
    params, state = start(glm, X, y, solver())
    for _ in range(3):
        params, state = glmcore.update(glm, params, state, X, y, solver=solver())
        assert relative_error(state.objective, oracle.objective(twin, *in_float64(params), X, y)) < 1e-11
    result = glmcore.fit(glm, X, y, solver=solver(maxiter=3))
    np.testing.assert_allclose(params.coef, result.params.coef, atol=1e-10)
    restored = pickle.loads(pickle.dumps(state))
    for kept in (state, restored, result.state):
        found, _ = glmcore.update(glm, params, kept, X, y, solver=solver())
        np.testing.assert_allclose(found.coef, glmcore.fit(glm, X, y, solver=solver(maxiter=4)).params.coef, atol=1e-10)


@each
def test_batches_may_be_ragged_and_lack_classes(solver, spec, programs, x64):
    X, y = small()
    glm, twin = model(build(*spec)[0]), build(*spec)[1]
    params, state = start(glm, X, y, solver())
    first = oracle.objective(twin, *in_float64(params), X, y)
    params, state = glmcore.update(glm, params, state, X, y, solver=solver())
    rng = np.random.default_rng(0)
    others = model(build(spec[0], 2 * spec[1])[0])
    with programs:
        for _ in range(5):
            rows = rng.permutation(60)
            for batch in (rows[:31], rows[31:], np.flatnonzero(y == 1)[:7], rows[:1]):
                params, state = glmcore.update(glm, params, state, X[batch], y[batch], solver=solver(tol=1e-2, maxiter=3))
                assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((params, state.objective)))
        glmcore.update(others, params, state, X, y, solver=solver(), sample_weight=np.linspace(0, 1, 60))
        glmcore.update(glm, params, state, X, y, solver=solver(stepsize=0.1))
    assert (programs.compiled, programs.traced) == (0, 0)
    for _ in range(5):
        params, state = glmcore.update(glm, params, state, X, y, solver=solver())
    assert oracle.objective(twin, *in_float64(params), X, y) < first


@pytest.mark.slow
def test_lanes_of_vmap(x64):
    X, y = (jnp.asarray(a) for a in small())
    batch = jax.jit(jax.vmap(lambda s: glmcore.fit(model(glmcore.Ridge(s)), X, y, solver=SVRG()).objective))(jnp.array([0.05, 0.5]))
    for found, strength in zip(batch, (0.05, 0.5)):
        assert relative_error(found, oracle.reference_fit(oracle.Ridge(strength), X, y, 3)[2]) <= 1e-9


# ---------------------------------------------------------------- the user's side


@pytest.mark.parametrize("name, regularizer", [("SVRG", "Ridge"), slow("ProxSVRG", "GroupLasso")])
def test_the_estimator(name, regularizer):
    X, y = small()
    kwargs = {"n_classes": 3, "regularizer": regularizer, "regularizer_strength": 0.02}
    settings = {"stepsize": 0.3, "batch_size": 10, "seed": 4}
    found = ClassifierGLM(**kwargs, solver_name=name.lower(), solver_kwargs=settings).set_classes(y)
    assert found.solver_name == name and f"solver_name='{name}'" in repr(found)
    params = found.initialize_params(X, y)
    state = found.initialize_optimizer_and_state(params, X, y)
    for _ in range(30):
        params, state = found.update(params, state, X, y)
    exact = ClassifierGLM(**kwargs).fit(X, y)  # the programs of fits are test_classifier's
    np.testing.assert_allclose(found.coef_, exact.coef_, atol=1e-2)
    assert int(found.n_iter_) == 30


def test_refusals():
    for bad in (0, -3, 2.5, True, "many", np.nan):
        with pytest.raises(ValueError, match="batch_size must be a positive whole number or None, found"):
            SVRG(batch_size=bad)
    assert SVRG(batch_size=np.int64(8)) == SVRG(batch_size=8.0)
    X, y = small()
    with pytest.raises(ValueError, match="ProxSVRG: stepsize must be finite and not negative, found -1"):
        glmcore.fit(model(glmcore.Lasso()), X, y, solver=ProxSVRG(stepsize=-1))
    with pytest.raises(ValueError, match="SVRG needs a differentiable penalty and Lasso is not"):
        glmcore.fit(model(glmcore.Lasso()), X, y, solver=SVRG())
