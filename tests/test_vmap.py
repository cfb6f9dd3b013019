"""A batch of fits equals a loop over them, each lane with its own end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import is_status, model, slow, small

import glmcore
from glmcore import GLMParams

KINDS = {"Ridge": (glmcore.Ridge, 0.05), "Lasso": (glmcore.Lasso, 0.02)}
#: What is not smooth is fitted lane by lane: the same programs as for Ridge, but for that.
each = pytest.mark.parametrize(
    "make, strength", [KINDS["Ridge"], slow(*KINDS["Lasso"])], ids=KINDS
)


def lanes():
    return [small(seed=seed) for seed in (0, 5, 6)]


def over(function, axes=0):
    return eqx.filter_jit(jax.vmap(function, axes))


def of_lane(batch, lane):
    return jax.tree.map(lambda leaf: leaf[lane], batch)


def agree(batch, lane, single):
    assert bool(of_lane(batch.status, lane) == single.status), glmcore.Status[single.status]
    np.testing.assert_allclose(batch.objective[lane], single.objective, rtol=1e-8)
    np.testing.assert_allclose(batch.params.coef[lane], single.params.coef, atol=1e-6)
    np.testing.assert_allclose(batch.params.intercept[lane], single.params.intercept, atol=1e-6)


@each
def test_over_data(make, strength, x64):
    glm = model(make(strength))
    X, y = (jnp.asarray(np.stack(part)) for part in zip(*lanes()))
    batch = over(lambda X, y: glmcore.fit(glm, X, y))(X, y)
    assert batch.n_iter.shape == (3,) and batch.params.coef.shape == (3, 4, 3)
    for lane, (features, labels) in enumerate(lanes()):
        agree(batch, lane, glmcore.fit(glm, features, labels))


@pytest.mark.parametrize("dtype", [np.float32, slow(np.float64), slow(np.int64)])
def test_arrays_of_numpy(dtype):
    """Outside a program, where they are fitted as they lie; the longer ones in JAX's float32."""
    glm, (X, y) = model(glmcore.Ridge(0.05)), map(np.stack, zip(*lanes()))
    X, fit = (3 * X).astype(dtype), jax.vmap(lambda X, y: glmcore.fit(glm, X, y))
    batch, expected = fit(X, y), fit(jnp.asarray(X), jnp.asarray(y))
    assert bool(eqx.tree_equal(batch, expected))


@each
def test_over_labels_and_weights(make, strength, x64):
    """Many targets on one X, and folds as weights."""
    glm, (X, _) = model(make(strength)), small()
    labels = np.stack([y for _, y in lanes()])
    weights = np.random.default_rng(0).integers(0, 3, (3, 60)).astype(float)
    X = jnp.asarray(X)
    batch = over(lambda y, w: glmcore.fit(glm, X, y, sample_weight=w))(jnp.asarray(labels), jnp.asarray(weights))
    for lane in range(3):
        agree(batch, lane, glmcore.fit(glm, X, labels[lane], sample_weight=weights[lane]))


@each
def test_over_strengths(make, strength, x64):
    X, y = (jnp.asarray(a) for a in small())
    strengths = jnp.array([0.01, 0.1, 0.5])
    batch = over(lambda s: glmcore.fit(model(make(s)), X, y))(strengths)
    penalties = make(strengths)  # or a batch of penalties
    also = over(lambda p: glmcore.fit(model(p), X, y))(penalties)
    for lane, s in enumerate((0.01, 0.1, 0.5)):
        agree(batch, lane, glmcore.fit(model(make(s)), X, y))
    np.testing.assert_allclose(also.params.coef, batch.params.coef, atol=1e-12)


@pytest.mark.slow
def test_over_starts(x64):
    X, y = (jnp.asarray(a) for a in small())
    glm, rng = model(glmcore.Ridge(0.05)), np.random.default_rng(0)
    coefs, intercepts = jnp.asarray(rng.standard_normal((3, 4, 3))), jnp.asarray(rng.standard_normal((3, 3)))
    batch = over(lambda c, b: glmcore.fit(glm, X, y, init_params=GLMParams(c, b)))(coefs, intercepts)
    single = glmcore.fit(glm, X, y)
    for lane in range(3):
        agree(batch, lane, single)


@pytest.mark.parametrize("make, strength", [*KINDS.values(), slow(lambda _: glmcore.UnRegularized(), 0)], ids=[*KINDS, "UnRegularized"])
def test_a_lane_that_fails_leaves_the_others_alone(make, strength, x64):
    glm = model(make(strength))
    X, y = (np.stack([np.array(part)] * 4) for part in small())
    weight = np.ones((4, 60))
    X[1, 3, 2] = np.nan
    weight[2] = y[0] < 2
    y[3] = np.digitize(X[3, :, 0], [-0.5, 0.5])  # separable
    batch = over(lambda X, y, w: glmcore.fit(glm, X, y, sample_weight=w))(*map(jnp.asarray, (X, y, weight)))
    expected = ["converged", "nonfinite", "missing_class", "separable" if strength == 0 else "converged"]
    for lane, name in enumerate(expected):
        assert is_status(of_lane(batch, lane), name), glmcore.Status[of_lane(batch.status, lane)]
    np.testing.assert_array_equal(batch.converged, [name in ("converged", "missing_class") for name in expected])
    for lane in (0, 2) if strength == 0 else (0, 2, 3):
        agree(batch, lane, glmcore.fit(glm, X[lane], y[lane], sample_weight=weight[lane]))
    assert is_status(glmcore.fit(glm, X[1], y[1]), "nonfinite")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_lane_with_a_label_that_is_no_class(label, x64):
    glm = model(glmcore.Ridge(0.1))
    X, y = map(jnp.asarray, small())
    labels = jnp.stack([y, y.at[5].set(label), y.at[5].set(label)])
    weights = jnp.ones((3, 60)).at[2, 5].set(0)  # a row that does not count may have any label
    batch = over(lambda y, w: glmcore.fit(glm, X, y, sample_weight=w))(labels, weights)
    for lane, name in enumerate(("converged", "unknown_label", "converged")):
        assert is_status(of_lane(batch, lane), name), glmcore.Status[of_lane(batch.status, lane)]
    agree(batch, 0, glmcore.fit(glm, X, y))
    agree(batch, 2, glmcore.fit(glm, X, y, sample_weight=weights[2]))


def test_a_label_that_is_no_class_inside_a_program():
    glm = model(glmcore.Ridge(0.1))
    X, y = map(jnp.asarray, small())
    strange = y.at[5].set(3)
    path = jax.jit(lambda y: glmcore.regularization_path(glm, X, y, n_strengths=2))(strange)
    assert glmcore.status_name(path.status) == ["unknown_label"] * 2
    params = glm.initialize_params(X, y)
    state = glmcore.init_state(glm, params, X, y)
    after, told = jax.jit(lambda y: glmcore.update(glm, params, state, X, y))(strange)
    np.testing.assert_array_equal(after.coef, params.coef)
    assert jnp.isnan(told.objective) and jnp.isnan(told.held_out.log_likelihood)


@pytest.mark.slow
def test_trouble_among_lanes_that_share_features(x64):
    """Targets by strengths, one batch inside the other: a target lacks a class, another is
    separable, another has weights that are not numbers."""
    X = jnp.asarray(small()[0])
    labels = np.stack([small(seed=seed)[1] for seed in range(4)])
    labels[1] = np.minimum(labels[1], 1)
    labels[2] = np.digitize(X[:, 0], [-0.5, 0.5])
    weights = np.random.default_rng(0).integers(1, 3, (4, 60)).astype(float)
    weights[3, 5] = np.nan
    strengths = jnp.array([0.01, 0.3])
    start = GLMParams(jnp.full((4, 3), 0.1), jnp.zeros(3))

    def fit(strength, y, w):
        return glmcore.fit(model(glmcore.Ridge(strength)), X, y, init_params=start, sample_weight=w)

    batch = over(lambda s: jax.vmap(lambda y, w: fit(s, y, w))(jnp.asarray(labels), jnp.asarray(weights)))(strengths)
    for outer, strength in enumerate(strengths):
        found = of_lane(batch, outer)
        for lane, name in enumerate(("converged", "missing_class", "converged", "nonfinite")):
            assert is_status(of_lane(found, lane), name)
        for lane in range(3):
            agree(found, lane, fit(strength, labels[lane], weights[lane]))


@pytest.mark.slow
def test_data_sets_by_folds(x64):
    """Lanes of lanes: folds of each of several data sets, the inner ones sharing features."""
    glm = model(glmcore.Ridge(0.05))
    X, y = (jnp.asarray(np.stack(part)) for part in zip(*lanes()))
    weights = np.random.default_rng(0).integers(0, 3, (2, 60)).astype(float)

    def folds(X, y):
        return jax.vmap(lambda w: glmcore.fit(glm, X, y, sample_weight=w))(jnp.asarray(weights))

    batch = over(folds)(X, y)
    for lane, fold in ((0, 1), (2, 0)):
        single = glmcore.fit(glm, *lanes()[lane], sample_weight=weights[fold])
        agree(of_lane(batch, lane), fold, single)


@pytest.mark.slow
def test_weights_far_from_the_shared_centre(x64):
    """Blocks of rows: a feature that grows with time is far from its mean in every one of them,
    and others vary in some blocks only."""
    rng, time = np.random.default_rng(0), np.arange(300)
    parts = (time, rng.standard_normal(300), time % 50 == 0, time // 100)
    X, y = np.column_stack(parts).astype(float), rng.integers(0, 3, 300)
    glm, weights = model(glmcore.Ridge(0.05)), np.repeat(np.eye(10), 30, axis=1)
    shared = jnp.asarray(X), jnp.asarray(y)
    batch = over(lambda w: glmcore.fit(glm, *shared, sample_weight=w))(jnp.asarray(weights))
    for lane in (0, 3, 9):
        agree(batch, lane, glmcore.fit(glm, X, y, sample_weight=weights[lane]))


def test_more_lanes_than_fit_in_a_chunk(x64, monkeypatch):
    monkeypatch.setitem(glmcore.many._CHUNK_BYTES, "cpu", 20_000)
    monkeypatch.setitem(glmcore.many._OWN_CHUNK_BYTES, "cpu", 20_000)
    glm, (X, _) = model(glmcore.Ridge(0.05)), small()
    labels = np.stack([small(seed=seed)[1] for seed in range(8)])
    batch = over(lambda y: glmcore.fit(glm, jnp.asarray(X), y))(jnp.asarray(labels))
    for lane in (0, 4, 7):
        agree(batch, lane, glmcore.fit(glm, X, labels[lane]))


@pytest.mark.parametrize("solver", [None, glmcore.LBFGS(), slow(glmcore.BFGS())], ids=lambda s: type(s).__name__)
def test_no_lanes_have_no_results(solver):
    X, y = small()
    glm = model(glmcore.Ridge(0.1))
    over_weights = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight, solver=solver))
    for weights in (np.ones((0, 60)), np.ones((2, 0, 60))):
        result = (over_weights if weights.ndim == 2 else jax.vmap(over_weights))(weights)
        assert result.params.coef.shape == (*weights.shape[:-1], 4, 3)
        assert result.n_iter.shape == weights.shape[:-1]


@pytest.mark.slow
def test_update_over_lanes(x64):
    glm = model(glmcore.Ridge(0.05))
    X, y = (jnp.asarray(np.stack(part)) for part in zip(*lanes()))

    @jax.jit
    @jax.vmap
    def two_steps(X, y):
        params = glm.initialize_params(X, y)
        state = glmcore.init_state(glm, params, X, y)
        for _ in range(2):
            params, state = glmcore.update(glm, params, state, X, y)
        return params, state.objective

    params, objective = two_steps(X, y)
    for lane in range(3):
        one, state = glm.initialize_params(X[lane], y[lane]), None
        state = glmcore.init_state(glm, one, X[lane], y[lane])
        for _ in range(2):
            one, state = glmcore.update(glm, one, state, X[lane], y[lane])
        np.testing.assert_allclose(params.coef[lane], one.coef, atol=1e-10)
        np.testing.assert_allclose(objective[lane], state.objective, rtol=1e-10)


@pytest.mark.parametrize("axes", [slow((0, 0, 0)), (None, 0, 0), slow((None, None, 0))], ids=str)
def test_updates_go_on_from_the_states_of_lanes(axes, x64):
    """Where features, labels and weights, or fewer of them, differ between 8 lanes."""
    glm, solver = model(glmcore.Ridge(0.05)), glmcore.LBFGS()
    X, y = map(np.stack, zip(*(small(seed=seed) for seed in range(8))))
    weight = np.random.default_rng(0).integers(0, 3, (8, 60)).astype(float)
    data = [jnp.asarray(a if axis == 0 else a[0]) for a, axis in zip((X, y, weight), axes)]
    *rows, weight = data

    def fit(X, y, weight):
        return glmcore.fit(glm, X, y, solver=solver, sample_weight=weight)

    def update(params, state, X, y, weight):
        return glmcore.update(glm, params, state, X, y, solver=solver, sample_weight=weight)

    fit, update = over(fit, axes), over(update, (0, 0, *axes))
    first, whole = fit(*rows, jnp.where(jnp.arange(60) < 40, weight, 0)), fit(*data)
    params, state = first.params, first.state
    for _ in range(25):
        params, state = update(params, state, *data)
    assert not np.any(np.isclose(first.objective, whole.objective, rtol=1e-3))
    np.testing.assert_allclose(state.objective, whole.objective, rtol=1e-9)


def test_lanes_of_numpy_arrays_inside_jit():
    X, y = small()
    weights = np.stack([np.ones(60), np.arange(60) % 2]).astype(np.float32)

    def objectives(weights, strength):
        return jax.vmap(lambda weight: glmcore.fit(model(glmcore.Ridge(strength)), X, y, sample_weight=weight).objective)(weights)

    inside = jax.jit(lambda strength: objectives(weights, strength))(0.1)
    np.testing.assert_allclose(inside, objectives(jnp.asarray(weights), 0.1), rtol=1e-5)


@pytest.mark.parametrize("trouble", [False, slow(True)])
def test_states_of_lanes_outside_jit_are_as_inside(trouble):
    """Resamples share the model of the Hessian that is in their states; a lane with trouble has its own."""
    X, y = small()
    X, glm = X.astype(np.float32), model(glmcore.Ridge(0.05))
    weights = np.random.default_rng(0).integers(0, 3, (9, 60)).astype(np.float32)
    if trouble:
        weights[4, 5] = np.nan
    fits = jax.vmap(lambda weight: glmcore.fit(glm, X, y, solver=glmcore.LBFGS(), sample_weight=weight).state)
    outside, inside = fits(weights), jax.jit(fits)(weights)
    roots = [state.solver.preconditioner.root for state in (outside, inside)]
    assert np.ptp(roots[0], axis=0).any() == trouble
    np.testing.assert_allclose(*roots, rtol=1e-3, atol=1e-3)
    assert jax.tree.map(np.shape, outside) == jax.tree.map(np.shape, inside)


@pytest.mark.parametrize("differs", ["labels", "weights"])
def test_the_model_of_the_hessian_in_the_state_of_a_lane_is_that_of_its_fit(differs):
    """Here of one block for all classes, since one for each would cost more than it saves."""
    rng = np.random.default_rng(0)
    n, p, size = 2048, 230, 8 if differs == "weights" else 2
    X, glm = rng.normal(size=(n, p)).astype(np.float32), model(glmcore.Ridge(0.01))
    y = rng.choice(3, (size, n), p=[0.9, 0.07, 0.03])
    weight = rng.integers(0, 3, (size, n)).astype(np.float32)
    axes = (None, 0) if differs == "weights" else (0, None)
    data = [a if axis == 0 else a[0] for a, axis in zip((y, weight), axes)]

    def fit(y, weight):
        return glmcore.fit(glm, X, y, solver=glmcore.LBFGS(), sample_weight=weight)

    root = jax.vmap(fit, axes)(*data).state.solver.preconditioner.root
    one = fit(*(a[0] for a in (y, weight))).state.solver.preconditioner.root
    root = root if root.ndim == 3 else root[0]
    assert root.shape == one.shape == (1, p + 1, p + 1)
    gradients = rng.normal(size=(p + 1, 50))
    here, there = (np.sum((root[0] @ gradients) ** 2, axis=0) for root in (root, one))
    np.testing.assert_allclose(here, there, rtol=0.4)  # each from somewhere on the way


@pytest.mark.parametrize("retry", ["never", None, 1, np.array([True, False])])
def test_retry_is_yes_or_no(retry):
    X, y = small()
    with pytest.raises(TypeError, match="retry must be True or False, found"):
        glmcore.fit(model(glmcore.Ridge(0.05)), X, y, retry=retry)


def test_lanes_with_trouble_outside_jit_are_as_inside():
    X, y = small()
    X, glm = X.astype(np.float32), model(glmcore.Ridge(0.05))
    weights = np.random.default_rng(0).integers(0, 3, (12, 60)).astype(np.float32)
    weights[1], weights[2, 5], weights[3], weights[4, y == 1] = 0, np.nan, weights[3] * 1e30, 0
    fits = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight))
    outside, inside = fits(weights), jax.jit(fits)(weights)
    assert glmcore.status_name(outside.status) == glmcore.status_name(inside.status)
    assert {"converged", "nonfinite", "missing_class"} <= set(glmcore.status_name(outside.status))
    for a, b in zip(jax.tree.leaves(outside.params), jax.tree.leaves(inside.params)):
        np.testing.assert_allclose(a, b, atol=1e-4)

    told = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight, retry=False))
    for found in (told(weights), jax.jit(told)(weights)):
        names = np.array(glmcore.status_name(found.status))
        unfinished = names == "running"
        assert unfinished[1:3].all() and not unfinished[5:].any()
        expected = np.array(glmcore.status_name(outside.status))
        assert np.all(names[~unfinished] == expected[~unfinished])
        np.testing.assert_allclose(found.params.coef[~unfinished], outside.params.coef[~unfinished], atol=1e-4)

    broken = np.stack([X, np.where(np.arange(240).reshape(60, 4) == 7, np.nan, X), 1e30 * X])
    each = jax.vmap(lambda X: glmcore.fit(glm, X, y))
    outside, inside = each(broken), jax.jit(each)(broken)
    assert glmcore.status_name(outside.status) == glmcore.status_name(inside.status)
    np.testing.assert_allclose(outside.params.coef[0], inside.params.coef[0], atol=1e-4)


def test_weights_whose_sum_overflows_are_those_over_the_largest_of_them():
    X, y = small()
    glm = model(glmcore.Ridge(0.02))
    weight = np.linspace(1, 2, len(y), dtype=np.float32)

    def fit(weight):
        return glmcore.fit(glm, X, y, sample_weight=weight)

    expected = fit(weight)
    large = jnp.asarray(weight * np.float32(1e38))
    assert not np.isfinite(large.sum())
    lanes = jnp.stack([weight, large])
    many = [jax.tree.map(lambda leaf: leaf[1], how(lanes)) for how in (jax.vmap(fit), jax.jit(jax.vmap(fit)))]
    for result in (fit(large), jax.jit(fit)(large), *many):
        assert is_status(result, "converged")
        np.testing.assert_allclose(result.params.coef, expected.params.coef, atol=1e-5)
