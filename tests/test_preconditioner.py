"""The model of the Hessian that descent begins with."""

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from glmcore.programs import make_problem
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
    gradient = glmcore.GLMParams(*np.split(np.random.default_rng(0).standard_normal((7, 4)), [6]))
    gradient = jax.tree.map(jnp.asarray, glmcore.GLMParams(gradient.coef, gradient.intercept[0]))
    for one, other in zip(jax.tree.leaves(shared.apply(gradient)), jax.tree.leaves(own.apply(gradient))):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_of_two_classes_it_is_the_inverse_hessian(x64):
    X, y = rare_classes(500, 6, 2)
    model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.01))
    problem = make_problem(model, jnp.asarray(X), jnp.asarray(y), jnp.ones(500))
    point = glmcore.GLMParams(*map(jnp.asarray, (np.outer(np.arange(6), [-0.1, 0.1]), [0.3, -0.3])))
    eta = problem.predictor(point)
    gradient = problem.look(eta).gradient
    step = Preconditioner.of(problem, eta).apply(gradient)
    flat = jnp.concatenate([step.coef, step.intercept[None, :]]).T.ravel()
    expected = jnp.concatenate([gradient.coef, gradient.intercept[None, :]]).T.ravel()
    np.testing.assert_allclose(dense_hessian(problem, eta) @ flat, expected, atol=1e-10)


def test_rare_classes_cost_few_steps_where_all_share_a_block():
    X, y = rare_classes(1500, 200, 10)
    model = glmcore.GLM(glmcore.Categorical(10), glmcore.Ridge(1e-2))
    result = glmcore.fit(model, X.astype(np.float32), y)
    assert result.converged and result.state.solver.preconditioner.root.shape[0] == 1
    assert result.n_iter < 40
