"""What has to hold on eight devices of one process; tests/test_sharding.py runs this file in one."""

import re

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import model, relative_error, slow
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import glmcore
from glmcore.programs import run_fit
from glmcore.rows import row_sums
from glmcore.solvers.base import with_default_tol
from glmcore_sklearn import ClassifierGLM

N, P, K = 15_001, 6, 3
#: Rows that the eight shards have together: 2048 each, also of data that were spread by hand.
PADDED, BY_HAND = 8 * 2048, 8 * 1999
CASES = {
    "UnRegularized": (glmcore.UnRegularized(), glmcore.LBFGS()),
    "Ridge": (glmcore.Ridge(0.01), glmcore.Newton()),
    "Lasso": (glmcore.Lasso(0.01), glmcore.ProximalGradient()),
    "ElasticNet": (glmcore.ElasticNet(0.01), glmcore.ProximalNewton()),
}


@pytest.fixture(scope="module")
def mesh():
    assert jax.device_count() == 8
    return jax.make_mesh((4, 2), ("hosts", "devices"))  # explicit axes, as JAX makes them


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = 3 + rng.standard_normal((BY_HAND, P)) * np.logspace(-1, 1, P)
    y = np.argmax(X @ rng.standard_normal((P, K)) / 5 + rng.gumbel(size=(BY_HAND, K)), axis=1)
    return X.astype(np.float32), y, rng.integers(0, 4, BY_HAND).astype(np.float32)


@pytest.fixture(scope="module")
def spread(mesh, data):
    X, y, weight = data
    return glmcore.shard_rows(X[:N], y[:N], mesh, sample_weight=weight[:N])


def same(found, expected, tol=2e-5):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    return all(relative_error(a, b) < tol for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["UnRegularized", slow("Ridge"), slow("Lasso"), "ElasticNet"])
def test_a_fit_gives_the_answer_of_one_device(name, data, spread):
    penalty, solver = CASES[name]
    X, y, weight = (column[:N] for column in data)
    Xs, ys, ws = spread
    assert Xs.shape == (PADDED, P) and len(Xs.devices()) == 8
    one = glmcore.fit(model(penalty), X, y, sample_weight=weight, solver=solver)
    many = glmcore.fit(model(penalty), Xs, ys, sample_weight=ws, solver=solver)
    assert many.converged
    assert same(many.params, one.params, 3e-5)
    assert abs(float(many.objective - one.objective)) < 1e-6


MOVED = re.compile(r"= (.*?) (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)(-start)?\(")


@pytest.mark.parametrize("name", ["UnRegularized", slow("Lasso"), "ElasticNet"])
def test_the_rows_stay_where_they_are(name, spread):
    penalty, solver = CASES[name]
    solver = with_default_tol(solver, np.float32)
    compiled = eqx.filter_jit(run_fit).lower(model(penalty), *spread, None, None, solver).compile()
    text = getattr(compiled, "compiled", compiled).as_text()
    moved = [
        (kind, [int(size) for size in shape.split(",") if size])
        for arrays, kind, _ in MOVED.findall(text)
        for shape in re.findall(r"\w\d+\[([\d,]*)\]", arrays)
    ]
    assert any(kind == "all-reduce" for kind, _ in moved)
    for kind, shape in moved:
        # The weights may meet, where rows are sampled by weight, and so may the sample; a shard has
        # 2048 rows, and whatever else were made of rows would show.
        sampled = kind == "all-reduce" and max(shape, default=1) <= 8192
        assert np.prod(shape) < 2048 or len(shape) == 1 or sampled, (kind, shape)


@pytest.mark.parametrize("n, p, n_weights", [(2048, 72, K), (1536, 1, 1), (1536, 2, K)])
def test_sums_of_rows_meet_once(mesh, n, p, n_weights):
    rng = np.random.default_rng(0)
    X, weights = rng.standard_normal((8 * n, p)), rng.standard_normal((n_weights, 8 * n))
    rows = ("hosts", "devices")
    Xs = jax.device_put(X.astype(np.float32), jax.NamedSharding(mesh, jax.P(rows, None)))
    ws = jax.device_put(weights.astype(np.float32), jax.NamedSharding(mesh, jax.P(None, rows)))
    found = jax.jit(row_sums).lower(ws, Xs).compile()
    assert relative_error(found(ws, Xs), weights @ X) < 1e-5
    assert [kind for _, kind, _ in MOVED.findall(found.as_text())] == ["all-reduce"]


def test_rows_spread_by_hand_need_no_padding_of_the_user(mesh, data):
    X, y, weight = data
    by_row = jax.NamedSharding(mesh, jax.P(("hosts", "devices")))
    penalty, solver = CASES["Lasso"]
    one = glmcore.fit(model(penalty), X, y, solver=solver, sample_weight=weight)
    Xs, ys = jax.device_put(X, by_row), jax.device_put(y, by_row)
    many = glmcore.fit(model(penalty), Xs, ys, solver=solver, sample_weight=weight)
    assert same(many.params, one.params)
    log_proba = model(penalty).log_proba(many.params, Xs)  # on the same mesh
    assert same(log_proba, model(penalty).log_proba(one.params, X))
    assert log_proba.sharding.is_equivalent_to(jax.NamedSharding(mesh, jax.P(by_row.spec[0], None)), 2)


def test_steps_and_predictions(data, spread):
    penalty, solver = CASES["Ridge"]
    X, y, weight = (column[:N] for column in data)
    Xs, ys, ws = spread
    glm = model(penalty)
    params = glm.initialize_params(X, y, weight)
    one = glmcore.init_state(glm, params, X, y, solver=solver, sample_weight=weight)
    many = glmcore.init_state(glm, params, Xs, ys, solver=solver, sample_weight=ws)
    here = there = params
    for _ in range(2):
        here, one = glmcore.update(glm, here, one, X, y, solver=solver, sample_weight=weight)
        there, many = glmcore.update(glm, there, many, Xs, ys, solver=solver, sample_weight=ws)
    assert same(there, here)
    log_proba = glmcore.local_rows(glm.log_proba(there, Xs), N)
    assert log_proba.shape == (N, K) and same(log_proba, glm.log_proba(here, X))


def test_the_estimator_takes_sharded_rows(mesh, data):
    X, y, _ = data
    by_row = jax.NamedSharding(mesh, jax.P(("hosts", "devices")))
    Xs, names = jax.device_put(X, by_row), np.array(["a", "b", "c"])[y]
    one = ClassifierGLM(3, regularizer_strength=0.01).fit(X, names)
    many = ClassifierGLM(3, regularizer_strength=0.01).fit(Xs, names)
    assert same(many.coef_, one.coef_)
    proba = many.predict_proba(Xs)
    assert len(proba.devices()) == 8 and same(proba, one.predict_proba(X))
    assert len(many.predict_proba(X).devices()) == 1
    assert (many.predict(Xs) == one.predict(X)).mean() > 0.9999
    assert same(many.score(Xs, names), one.score(X, names))


def test_bad_values_are_found_where_they_are(data, spread):
    Xs, ys, ws = spread
    glm = model(glmcore.Ridge(0.01))
    with pytest.raises(ValueError, match="y must hold class indices from 0 to 2, found 7 to 9"):
        glmcore.fit(glm, Xs, ys + 7 - (ys == 2) * 0, sample_weight=ws)
    for bad in (ws * np.nan, ws - 1, ws * 0):
        with pytest.raises(ValueError, match="sample_weight must be finite"):
            glmcore.fit(glm, Xs, ys, sample_weight=bad)
    X, y, weight = (column[:N] for column in data)
    idle = np.where((weight == 0)[:, None], np.float32(np.nan), X)
    with_nan = glmcore.shard_rows(idle, y, Xs.sharding.mesh, sample_weight=weight)
    solver = CASES["Ridge"][1]
    clean = glmcore.fit(glm, Xs, ys, sample_weight=ws, solver=solver)
    dirty = glmcore.fit(glm, *with_nan[:2], sample_weight=with_nan[2], solver=solver)
    assert same(dirty.params, clean.params, 1e-6)


@pytest.mark.slow
def test_batches_in_and_out_of_a_mesh_of_the_context(mesh):
    X, y = np.random.default_rng(0).normal(size=(60, P)).astype(np.float32), np.arange(60) % K
    glm = model(glmcore.Ridge(0.1))
    with jax.set_mesh(mesh):
        inside = glmcore.fit_batches(glm, [(X, y)])
    np.testing.assert_allclose(glmcore.fit_batches(glm, [(X, y)]).params.coef, inside.params.coef, atol=1e-6)


def test_inside_a_mesh_with_explicit_axes(mesh, data):
    X, y, weight = data
    by_row = jax.NamedSharding(mesh, jax.P(("hosts", "devices")))
    glm = model(glmcore.Ridge(0.01))
    solver = glmcore.LBFGS(tol=1e-6)
    one = glmcore.fit(glm, X, y, sample_weight=weight, solver=solver)
    with jax.set_mesh(mesh):
        rows = jax.device_put(X, by_row), jax.device_put(y, by_row)
        many = glmcore.fit(glm, *rows, sample_weight=jax.device_put(weight, by_row), solver=solver)
        assert jax.typeof(many.params.coef).sharding.mesh == mesh.abstract_mesh
        assert same(many.params, one.params)
        assert glm.sample(jax.random.key(0), many.params, rows[0]).shape == (BY_HAND,)
        with pytest.raises(ValueError, match=r"inside jax.jit or .*, found explicit \['hosts', 'devices'\]"):
            jax.jit(lambda X, y: glmcore.fit(glm, X, y))(*rows)


@pytest.mark.slow
def test_other_verbs_inside_a_mesh_with_explicit_axes(mesh, data):
    X, y, _ = data
    by_row = jax.NamedSharding(mesh, jax.P(("hosts", "devices")))
    glm, sparse = model(glmcore.Ridge(0.01)), model(glmcore.Lasso(0.01))
    params = glm.initialize_params(X, y)
    path = glmcore.regularization_path(sparse, X, y, n_strengths=3)
    step, _ = glmcore.update(glm, params, glmcore.init_state(glm, params, X, y), X, y)
    with jax.set_mesh(mesh):
        rows = jax.device_put(X, by_row), jax.device_put(y, by_row)
        assert same(glmcore.regularization_path(sparse, *rows, n_strengths=3).objective, path.objective)
        state = glmcore.init_state(glm, params, *rows)
        assert same(glmcore.update(glm, params, state, *rows)[0], step)
        assert glm.optimality(params, *rows) == pytest.approx(1, rel=1e-4)
        assert model(glmcore.UnRegularized()).degrees_of_freedom(params, rows[0]) == (P + 1) * (K - 1)


def test_a_program_closes_over_rows_that_are_spread(data, spread):
    X, y, weight = (column[:N] for column in data)
    Xs, ys, ws = spread
    fit = jax.jit(lambda strength: glmcore.fit(model(glmcore.Ridge(strength)), Xs, ys, sample_weight=ws))
    assert same(fit(0.01).params, glmcore.fit(model(glmcore.Ridge(0.01)), X, y, sample_weight=weight).params)


@pytest.mark.slow
def test_lanes_are_fitted_where_they_are():
    X, y = np.random.default_rng(0).normal(size=(60, P)).astype(np.float32), np.arange(60) % K
    glm = model(glmcore.Ridge(0.1))
    weights = np.random.default_rng(1).exponential(size=(16, 60)).astype(np.float32)
    over_weights = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight))
    explicit, auto = (jax.make_mesh((8,), ("lanes",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto))
    found = over_weights(jax.device_put(weights, NamedSharding(auto, PartitionSpec("lanes"))))
    np.testing.assert_allclose(found.params.coef, over_weights(weights).params.coef, atol=1e-5)
    with pytest.raises(ValueError, match=r"a mesh of automatic axes, found explicit \['lanes'\]"):
        over_weights(jax.device_put(weights, NamedSharding(explicit, PartitionSpec("lanes"))))


@pytest.mark.parametrize(
    "X, y, weight, message",
    [
        (np.ones((3, 2)), np.zeros(4, int), None, r"y must have 3 rows as X has, found shape \(4,\)"),
        (np.ones(3), np.zeros(3, int), None, r"X must be 2-D, \(n, p\)"),
        ({"a": np.ones((3, 2)), "b": np.ones((4, 2))}, np.zeros(3, int), None, "X must have 3 rows"),
        (np.ones((3, 2)), np.zeros(3, int), np.ones(2), "sample_weight must have 3 rows"),
    ],
)
def test_what_cannot_be_spread_is_refused(X, y, weight, message):
    with pytest.raises(ValueError, match=message):
        glmcore.shard_rows(X, y, sample_weight=weight)


def test_a_pytree_of_integers_is_spread_as_it_is():
    X = {"a": np.arange(6).reshape(3, 2), "b": np.ones((3, 1), np.float32)}
    Xs, y, weight = glmcore.shard_rows(X, np.array([0, 1, 1]))
    assert Xs["a"].dtype == np.int32 and float(weight.sum()) == 3
    assert glmcore.local_rows(Xs["a"], 3).tolist() == X["a"].tolist()
    with pytest.raises(ValueError, match="n_rows must be at most 4096"):
        glmcore.local_rows(y, 5000)
