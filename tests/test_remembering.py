"""What is remembered from one call to the next."""

import gc
import weakref

import jax
import jax.numpy as jnp
import pytest

import glmcore
from glmcore.remembering import remembering_last


def counted():
    calls = []

    @remembering_last
    def look(a, b, n):
        calls.append((a, b, n))
        return len(calls)

    return look, calls


def test_equal_modules_are_not_the_same():
    look, _ = counted()
    a, b, twin = glmcore.Ridge(0.1), glmcore.Ridge(0.2), glmcore.Ridge(0.1)
    assert [look(a, b, 1), look(a, b, 1), look(twin, b, 1), look(a, b, 1)] == [1, 1, 2, 3]


def test_other_arguments_count():
    look, _ = counted()
    a, b = glmcore.Ridge(0.1), glmcore.Ridge(0.2)
    assert [look(a, b, (1, "x")), look(a, b, (1, "x")), look(a, b, (2, "x"))] == [1, 1, 2]


def test_modules_are_not_kept_alive():
    look, calls = counted()
    a, b = glmcore.Ridge(0.1), glmcore.Ridge(0.2)
    look(a, b, 1)
    calls.clear()
    alive = weakref.ref(a)
    del a
    gc.collect()
    assert alive() is None


def test_a_failure_is_not_remembered():
    @remembering_last
    def refuse(penalty):
        raise ValueError("no")

    ridge = glmcore.Ridge(0.1)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            refuse(ridge)


def test_no_tracer_outlives_its_trace():
    X, y = jnp.arange(12.0).reshape(6, 2) % 5, jnp.array([0, 1, 0, 1, 1, 0])

    @jax.jit
    def step(strength, tol):
        model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(strength))
        solver = glmcore.LBFGS(tol=tol)
        params = model.initialize_params(X, y)
        state = glmcore.init_state(model, params, X, y, solver=solver)
        return glmcore.update(model, params, state, X, y, solver=solver)[0].coef

    with jax.checking_leaks():
        step(0.1, 1e-3)


def test_update_still_refuses_another_batch_and_another_solver():
    model = glmcore.GLM(glmcore.Categorical(2), glmcore.Lasso(0.1))
    X, y = jnp.ones((6, 2)), jnp.array([0, 1, 0, 1, 1, 0])
    params, solver = model.initialize_params(X, y), glmcore.ProximalGradient()
    state = glmcore.init_state(model, params, X, y, solver=solver)
    for _ in range(2):
        glmcore.update(model, params, state, X, y, solver=solver)
    for bad in ({"solver": glmcore.LBFGS()}, {"X": jnp.ones((6, 3))}):
        with pytest.raises(ValueError):
            glmcore.update(model, params, state, **{"X": X, "y": y, "solver": solver, **bad})
