"""The model of the Hessian that descent begins with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow

import glmcore
from glmcore.programs import make_problem
from glmcore.solvers import preconditioner, row_space
from glmcore.solvers.newton import dense_hessian
from glmcore.solvers.preconditioner import Preconditioner


def rare_classes(n, p, K):
    """Features that tell classes apart, of which each is half as frequent as the one before."""
    rng = np.random.default_rng(p)
    X = rng.standard_normal((n, p))
    eta = 1.5 * X @ rng.standard_normal((p, K)) / np.sqrt(p) - np.log(2) * np.arange(K)
    return X, np.argmax(eta + rng.gumbel(size=(n, K)), axis=1).astype(np.int32)


def test_at_the_null_model_one_block_stands_for_those_of_all_classes(x64):
    X, y = rare_classes(500, 6, 4)
    model = glmcore.GLM(glmcore.Categorical(4), glmcore.Ridge(1e-9))
    problem = make_problem(model, jnp.asarray(X), jnp.asarray(y), jnp.ones(500))
    eta = problem.null_predictor()
    shared, own = Preconditioner.shared(problem, eta), Preconditioner.of(problem, eta)
    assert shared.root.shape == (1, 7, 7) and own.root.shape == (4, 7, 7)
    draw = jnp.asarray(np.random.default_rng(0).standard_normal((7, 4)))
    gradient = glmcore.GLMParams(draw[:-1], draw[-1])
    for one, other in zip(jax.tree.leaves(shared.apply(gradient)), jax.tree.leaves(own.apply(gradient))):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_of_two_classes_it_is_the_inverse_hessian(x64):
    X, y = rare_classes(500, 6, 2)
    model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.01))
    problem = make_problem(model, jnp.asarray(X), jnp.asarray(y), jnp.ones(500))
    point = glmcore.GLMParams(*map(jnp.asarray, (np.outer(np.arange(6), [-0.1, 0.1]), [0.3, -0.3])))
    eta = problem.predictor(point)
    gradient = problem.look(eta).gradient
    slope = jnp.concatenate([gradient.coef, gradient.intercept[None, :]]).T.ravel()
    for model in (Preconditioner.of(problem, eta), Preconditioner.shared(problem, eta)):
        step = model.apply(gradient)
        flat = jnp.concatenate([step.coef, step.intercept[None, :]]).T.ravel()
        np.testing.assert_allclose(dense_hessian(problem, eta) @ flat, slope, atol=1e-10)


@pytest.mark.parametrize("K, own", [(2, True), (4, True), (4, False)])
# Of the intercept, which no more than 10 p1 roundings hold, what is left are differences of large numbers.
@pytest.mark.parametrize("fit_intercept, rtol", [(True, 1e-2), (False, 1e-6)])
def test_of_few_rows_it_is_that_of_their_gram_matrix(K, own, fit_intercept, rtol, x64, monkeypatch):
    X, y = rare_classes(20, 40, K)
    model = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.01), fit_intercept=fit_intercept)
    problem = make_problem(model, jnp.asarray(X), jnp.asarray(y), jnp.ones(20))
    draw = jnp.asarray(np.random.default_rng(0).standard_normal((41, K)))
    point = problem.start(glmcore.GLMParams(draw[:-1] / 10, draw[-1]))
    eta = problem.predictor(point)
    if not own:
        monkeypatch.setattr(row_space, "affordable", lambda *size: 0)
    rows = row_space.RowSpace.of(problem, eta)
    blocks = K if own and K > 2 else 1
    assert rows.root.shape == (blocks, 20, 20)
    diagonal = Preconditioner.of_diagonal(problem, eta)
    whole = (Preconditioner.of if own else Preconditioner.shared)(problem, eta)
    found = diagonal.apply(point, lambda slope: rows.solve(problem, slope, diagonal.solve))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole.apply(point))):
        # Entries below a hundredth of the largest hold rounding of that one.
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-2 * rtol * np.abs(other).max())


@pytest.mark.parametrize("K", [2, 5])
def test_few_rows_of_features_that_are_much_alike_cost_few_steps(K):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((100, 1200)) / np.arange(1, 1201)) @ rng.standard_normal((1200, 1200))
    y = np.argmax(X[:, :K] + rng.gumbel(size=(100, K)), axis=1)
    model = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(1e-3))
    result = glmcore.fit(model, X.astype(np.float32), y)
    # With the diagonal only, hundreds.
    assert result.converged and 50 < result.n_iter < 90


@pytest.mark.parametrize("n, p, K", [(1000, 30, 2), (1000, 200, 6), (100, 300, 2)])
@pytest.mark.parametrize("first, others", [(1.0, 1e-2), (1e3, 1e-2)])
def test_a_penalty_that_holds_one_class_most_costs_few_steps(n, p, K, first, others):
    X, y = rare_classes(n, p, K)
    strength = np.full((1, K), others, np.float32)
    strength[:, 0] = first
    result = glmcore.fit(glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(strength)), X.astype(np.float32), y)
    assert result.converged and result.n_iter < 60


@pytest.mark.parametrize("n, p, K", [(400, 8, 2), slow(400, 200, 4)])
def test_lanes_end_with_the_model_of_single_fits(n, p, K):
    X, y = rare_classes(n, p, K)
    model, solver = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.1)), glmcore.LBFGS()
    X, y = X.astype(np.float32), np.stack([y, y[::-1]])
    lanes = jax.vmap(lambda y: glmcore.fit(model, X, y, solver=solver))(y).state.solver.preconditioner
    one = glmcore.fit(model, X, y[0], solver=solver).state.solver.preconditioner
    assert jax.tree.map(jnp.shape, lanes) == jax.tree.map(lambda leaf: (2, *leaf.shape), one)
    gradient = glmcore.GLMParams(jnp.ones((p, K)).at[:, 0].set(-2), jnp.arange(1.0 * K))
    found = jax.tree.map(lambda leaf: leaf[0], jax.vmap(lambda model: model.apply(gradient))(lanes))
    for one_leaf, leaf in zip(jax.tree.leaves(one.apply(gradient)), jax.tree.leaves(found)):
        np.testing.assert_allclose(leaf, one_leaf, rtol=0, atol=0.5 * np.max(np.abs(one_leaf)))


def test_rare_classes_cost_few_steps_where_all_share_a_block():
    X, y = rare_classes(1500, 200, 10)
    model = glmcore.GLM(glmcore.Categorical(10), glmcore.Ridge(1e-2))
    result = glmcore.fit(model, X.astype(np.float32), y)
    assert result.converged and result.state.solver.preconditioner.root.shape[0] == 1
    assert result.n_iter < 40


def test_a_fit_that_begins_with_a_refresh_has_a_model_even_if_it_ends_at_once(x64, monkeypatch):
    """Where a block a class costs too much the model is compiled once, as a refresh."""
    X, y = rare_classes(90, 7, 3)
    model, solver = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(0.01)), glmcore.LBFGS()
    own = glmcore.fit(model, X, y, solver=solver)
    for name in ("_MULTIPLICATIONS", "_STEPS_WORTH"):
        monkeypatch.setattr(preconditioner, name, 0)
    X, y = X[:80], y[:80]  # a program of its own
    first = glmcore.fit(model, X, y, solver=dataclasses.replace(solver, memory=9))
    expected = glmcore.fit(model, X, y, solver=glmcore.Newton())
    np.testing.assert_allclose(first.objective, expected.objective, rtol=1e-10)
    told = []
    for callback in (None, told.append):
        again = glmcore.fit(
            model, X, y, solver=dataclasses.replace(solver, memory=9), init_params=first.params, callback=callback
        )
        assert int(again.n_iter) == 0 and glmcore.Status[again.status] == "converged"
        found = again.state.solver.preconditioner
        problem = make_problem(model, jnp.asarray(X), jnp.asarray(y), jnp.ones(80))
        there = Preconditioner.shared(problem, problem.predictor(problem.coordinates.from_user(first.params)))
        assert found.root.shape == (1, 8, 8) and own.state.solver.preconditioner.root.shape == (3, 8, 8)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9), found, there)
    assert told
