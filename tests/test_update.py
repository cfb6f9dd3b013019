"""``update``: single steps over batches."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from helpers import GAP, build, in_float64, model, mostly_float32, relative_error, relative_gap, slow, small

import glmcore
from glmcore import GLMParams

SPECS = [("Ridge", 0.05), ("Lasso", 0.02)]
each = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec[0])


def start(glm, X, y, **kwargs):
    params = glm.initialize_params(jax.tree.map(jnp.asarray, X), jnp.asarray(y))
    return params, glmcore.init_state(glm, params, X, y, **kwargs)


@each
@mostly_float32
def test_full_batches_reach_the_optimum_of_fit(spec, precision):
    X, y = small()
    X = (10 * X + 100).astype(precision)
    penalty, twin = build(*spec)
    glm = model(penalty)
    params, state = start(glm, X, y)
    for _ in range(150):
        params, state = glmcore.update(glm, params, state, X, y)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert relative_gap(twin, params, X, y, best) <= GAP[precision]
    assert int(state.n_iter) == 150
    assert relative_error(state.objective, best) <= GAP[precision]
    assert params.coef.dtype == params.intercept.dtype == precision


@each
def test_params_are_on_the_users_scale_and_state_tells_the_objective(spec, x64):
    X, y = small()
    X = 10 * X + 100
    glm, twin = model(build(*spec)[0]), build(*spec)[1]
    params, state = start(glm, X, y)
    for _ in range(3):
        params, state = glmcore.update(glm, params, state, X, y)
        assert relative_error(state.objective, oracle.objective(twin, *in_float64(params), X, y)) < 1e-11
    np.testing.assert_allclose(glm.objective(params, jnp.asarray(X), jnp.asarray(y)), state.objective, rtol=1e-11)


@each
def test_the_coordinates_are_frozen(spec):
    X, y = small()
    X = X.astype(np.float32)
    glm = model(build(*spec)[0])
    params, state = start(glm, X, y)
    before = state.coordinates
    params, state = glmcore.update(glm, params, state, 7 * X + 3, y)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state.coordinates)):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(before.centre, X.mean(axis=0), atol=1e-6)


@each
def test_batches_may_lack_classes_and_be_ragged(spec):
    X, y = small(n=60)
    X = X.astype(np.float32)
    glm = model(build(*spec)[0])
    params, state = start(glm, X, y)
    order = np.argsort(y, kind="stable")  # batches of nearly one class each
    first = glm.objective(params, jnp.asarray(X), jnp.asarray(y))
    for _ in range(4):
        for rows in (order[:25], order[25:50], order[50:]):
            params, state = glmcore.update(glm, params, state, X[rows], y[rows])
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((params, state.objective)))
    assert int(state.n_iter) == 12
    one_class = np.flatnonzero(y == 1)[:10]
    params, state = glmcore.update(glm, params, state, X[one_class], y[one_class])
    assert np.all(np.isfinite(params.coef)) and np.isfinite(first)


STREAMED = [
    glmcore.LBFGS(),
    slow(glmcore.BFGS()),
    slow(glmcore.NonlinearCG()),
    slow(glmcore.GradientDescent()),
    glmcore.SVRG(),
    glmcore.ProxSVRG(),
    glmcore.ProximalGradient(),
]


@pytest.mark.parametrize("solver", STREAMED, ids=lambda solver: type(solver).__name__)
def test_a_first_batch_of_a_single_class_is_no_end(solver):
    X, y = small()
    X = X.astype(np.float32)
    penalty, twin = build("Ridge", 0.05)
    glm = model(penalty)
    params, state = start(glm, X, np.zeros_like(y), solver=solver)
    for _ in range(40):
        params, state = glmcore.update(glm, params, state, X, y, solver=solver)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert relative_gap(twin, params, X, y, best) <= 1e-3


#: Solvers whose step size a stream carries on, and others.
STEPPING = [glmcore.GradientDescent(), glmcore.SVRG()]
OTHERS = [glmcore.ProxSVRG(), glmcore.ProximalGradient(), glmcore.LBFGS(), glmcore.BFGS(), glmcore.NonlinearCG()]


@pytest.mark.parametrize("solver", [*STEPPING, *map(slow, OTHERS)], ids=lambda solver: type(solver).__name__)
def test_a_stream_that_rested_at_an_optimum_learns_what_comes_next(solver):
    """Steps that rounding leads do not wear down the step size."""
    glm, first, then = model(glmcore.Ridge(0.05)), small(seed=0), small(seed=1)
    params = glm.initialize_params(*first)
    state = glmcore.init_state(glm, params, *first, solver=solver)
    for rows, n_steps in ((first, 200), (then, 100)):
        for _ in range(n_steps):
            params, state = glmcore.update(glm, params, state, *rows, solver=solver)
        best = glmcore.fit(glm, *rows)
        assert float(state.optimality) < 5e-6
        assert abs(float(glm.objective(params, *rows) - best.objective)) < 1e-6


@pytest.mark.parametrize("solver", STREAMED, ids=lambda solver: type(solver).__name__)
def test_a_feature_that_the_first_batch_does_not_know_is_learnt(solver):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=600), 1e3 + 1e3 * (rng.random(600) < 0.3)]).astype(np.float32)
    X[:60, 1] = 1e3
    eta = X[:, :1] * [1, 0, -1] + (X[:, 1:] - 1e3) * [3e-3, 0, -3e-3]
    y = (eta + rng.gumbel(size=(600, 3))).argmax(axis=1)
    penalty, twin = build("Ridge", 1e-8)
    glm = model(penalty)
    params, state = start(glm, X[:60], y[:60], solver=solver)
    for _ in range(40):
        params, state = glmcore.update(glm, params, state, X, y, solver=solver)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert relative_gap(twin, params, X, y, best) <= 1e-5


def test_a_first_batch_of_one_row_is_no_end():
    X, y = small()
    X = X.astype(np.float32)
    penalty, twin = build("Ridge", 0.05)
    glm = model(penalty)
    params, state = start(glm, X[:1], y[:1])
    for _ in range(40):
        params, state = glmcore.update(glm, params, state, X, y)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert relative_gap(twin, params, X, y, best) <= 1e-4


@each
def test_shuffled_batches_go_downhill(spec):
    X, y = small()
    X = X.astype(np.float32)
    glm, twin = model(build(*spec)[0]), build(*spec)[1]
    params, state = start(glm, X, y)
    first = oracle.objective(twin, *in_float64(params), X.astype(np.float64), y)
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows = rng.permutation(60)
        for batch in (rows[:30], rows[30:]):
            params, state = glmcore.update(glm, params, state, X[batch], y[batch])
    assert oracle.objective(twin, *in_float64(params), X.astype(np.float64), y) < first


@each
def test_weights_are_repeated_rows(spec, x64):
    X, y = small()
    weight = np.where(np.arange(60) < 30, 2.0, 0.0)
    glm = model(build(*spec)[0])
    params, state = start(glm, X, y)
    a, _ = glmcore.update(glm, params, state, np.where(weight[:, None] > 0, X, np.nan), y, sample_weight=weight)
    rows = np.repeat(np.arange(30), 2)
    b, _ = glmcore.update(glm, params, state, X[rows], y[rows])
    np.testing.assert_allclose(a.coef, b.coef, atol=1e-12)
    np.testing.assert_allclose(a.intercept, b.intercept, atol=1e-12)


def test_the_state_is_a_pytree_and_survives_pickle():
    X, y = small()
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    params, state = start(glm, X, y)
    params, state = glmcore.update(glm, params, state, X, y)
    leaves, structure = jax.tree.flatten(state)
    rebuilt = jax.tree.unflatten(structure, leaves)
    expected, _ = glmcore.update(glm, params, state, X, y)
    for other in (rebuilt, pickle.loads(pickle.dumps(state))):
        found, _ = glmcore.update(glm, params, other, X, y)
        np.testing.assert_array_equal(found.coef, expected.coef)


def test_the_state_of_a_fit_goes_on(x64):
    X, y = small()
    penalty, twin = build("Ridge", 0.05)
    result = glmcore.fit(model(penalty), X, y, solver=glmcore.LBFGS(maxiter=3))
    params, state = result.params, result.state
    for _ in range(30):
        params, state = glmcore.update(model(penalty), params, state, X, y)
    assert relative_gap(twin, params, X, y, oracle.reference_fit(twin, X, y, 3)[2]) <= 1e-9
    assert int(state.n_iter) == 33


def test_optax_tells_the_objective_before_its_step_and_takes_the_step_of_fit(x64):
    X, y = small()
    glm, solver = model(glmcore.Ridge(0.05)), glmcore.Optax(optax.adam(0.1), maxiter=2)
    params = glm.initialize_params(X, y)
    state = glmcore.init_state(glm, params, X, y, solver=solver)
    for _ in range(2):
        before = glm.objective(params, X, y)
        params, state = glmcore.update(glm, params, state, X, y, solver=solver)
        np.testing.assert_allclose(state.objective, before, rtol=1e-12)
    fitted = glmcore.fit(glm, X, y, solver=solver)
    np.testing.assert_allclose(glm.log_proba(params, X), glm.log_proba(fitted.params, X), rtol=1e-10)
    # A fit removes the level of the classes, to which steps of Adam add.
    np.testing.assert_allclose(glm.objective(fitted.params, X, y), fitted.objective, rtol=1e-12)
    level = jnp.mean(params.coef, axis=1, keepdims=True)
    levelled = glmcore.GLMParams(params.coef - level, params.intercept)
    np.testing.assert_allclose(glm.objective(levelled, X, y), fitted.objective, rtol=1e-12)


def test_update_works_under_jit_and_in_a_scan():
    X, y = small()
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y)
    glm = model(glmcore.Ridge(0.05))
    params, state = start(glm, X, y)

    @jax.jit
    def run(params, state):
        def body(carry, _):
            params, state = glmcore.update(glm, *carry, X, y)
            return (params, state), state.objective

        return jax.lax.scan(body, (params, state), length=5)

    (scanned, _), objectives = run(params, state)
    for _ in range(5):
        params, state = glmcore.update(glm, params, state, X, y)
    np.testing.assert_allclose(scanned.coef, params.coef, atol=1e-5)
    assert np.all(np.diff(objectives) <= 1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        glmcore.LBFGS(),
        glmcore.GradientDescent(),
        glmcore.ProximalGradient(),
        glmcore.SVRG(),
        glmcore.Optax(optax.adam(0.1)),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_a_batch_that_is_not_finite_teaches_nothing(solver):
    X, y = small()
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y)
    glm = model(glmcore.Ridge(0.05))
    params, state = start(glm, X, y, solver=solver)
    params, state = glmcore.update(glm, params, state, X, y, solver=solver)
    step = jax.jit(lambda X, y: glmcore.update(glm, params, state, X, y, solver=solver))
    for bad in ((X.at[3, 1].set(jnp.nan), y), (X.at[3, 1].set(jnp.inf), y), (X, y.at[3].set(7))):
        found, told = step(*bad)
        assert not np.isfinite(told.objective)
        same = jax.tree.map(np.array_equal, (found, told.solver), (params, state.solver))
        assert jax.tree.all(same)
        assert told.held_out.log_likelihood == state.held_out.log_likelihood
        assert told.n_iter == state.n_iter == 1
    moved, told = step(X, y)
    assert told.n_iter == 2 and np.any(moved.coef != params.coef)


def test_a_step_to_infinity_is_not_taken():
    X, y = small()
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y)
    glm, solver = model(glmcore.Ridge(0.05)), glmcore.Optax(optax.sgd(np.inf))
    params, state = start(glm, X, y, solver=solver)
    moved, told = glmcore.update(glm, params, state, X, y, solver=solver)
    np.testing.assert_array_equal(moved.coef, params.coef)
    assert told.n_iter == 0


def test_a_pytree_of_features():
    X, y = small()
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    split = {"a": X[:, :1], "b": X[:, 1:]}
    params, state = start(glm, split, y)
    params, state = glmcore.update(glm, params, state, split, y)
    whole, whole_state = start(glm, X, y)
    whole, _ = glmcore.update(glm, whole, whole_state, X, y)
    np.testing.assert_allclose(in_float64(params)[0], whole.coef, atol=1e-5)


def test_bad_batches_are_refused_in_words():
    X, y = small()
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    params, state = start(glm, X, y)
    with pytest.raises(ValueError, match="y must hold class indices from 0 to 2, found 0 to 3"):
        glmcore.update(glm, params, state, X, np.where(y == 2, 3, y))
    with pytest.raises(ValueError, match=r"coef must have shape \(4, 3\), found \(3, 3\)"):
        glmcore.update(glm, GLMParams(params.coef[:3], params.intercept), state, X, y)
    with pytest.raises(ValueError, match="coef must have shape|features|columns"):
        glmcore.update(glm, params, state, X[:, :3], y)
    with pytest.raises(ValueError, match="strength must be finite and not negative"):
        glmcore.update(model(glmcore.Ridge(-1)), params, state, X, y)
