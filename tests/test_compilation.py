"""Compiled by type and shape, never by value: a second fit adds no program and no trace."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model, slow, small

import glmcore
from glmcore import jit, many

ROOT = Path(__file__).parent.parent
N, P, K = 60, 4, 3
X, Y = small(seed=3)
X = X.astype(np.float32)
OTHER, OTHER_Y = small(seed=4)
OTHER = OTHER.astype(np.float32)
WEIGHT = np.linspace(0.5, 2, N, dtype=np.float32)
MASK = np.zeros((2, P, K), int)
MASK[0, 0] = MASK[1, 1:] = 1
OTHER_MASK = MASK[::-1].copy()

CASES = {
    "Ridge LBFGS": (glmcore.Ridge, [(0.1,), (0.2,), (1,)], glmcore.LBFGS),
    "UnRegularized LBFGS": (glmcore.UnRegularized, [(), (), ()], glmcore.LBFGS),
    "Lasso ProximalGradient": (glmcore.Lasso, [(0.1,), (0.2,), (1,)], glmcore.ProximalGradient),
    "ElasticNet ProximalGradient": (glmcore.ElasticNet, [(0.1, 0.5), (0.2, 0.9), (1, 1)], glmcore.ProximalGradient),
    "GroupLasso ProximalGradient": (glmcore.GroupLasso, [(0.1, MASK), (0.2, OTHER_MASK), (1, MASK)], glmcore.ProximalGradient),
    "Lasso ProxSVRG": (glmcore.Lasso, [(0.1,), (0.2,), (1,)], glmcore.ProxSVRG),
    **{
        f"Ridge {name}": (glmcore.Ridge, [(0.1,), (0.2,), (1,)], getattr(glmcore, name))
        for name in ("GradientDescent", "BFGS", "NonlinearCG", "SVRG")
        if hasattr(glmcore, name)
    },
}  # fmt: skip
QUICK_CASES = [
    pytest.param(*case, id=name, marks=() if name in ("Ridge LBFGS", "Lasso ProximalGradient") else pytest.mark.slow)
    for name, case in CASES.items()
]


def has(solver, option):
    return option in solver.__dataclass_fields__


@pytest.mark.parametrize("penalty, strengths, solver", QUICK_CASES)
def test_a_second_fit_adds_no_program(penalty, strengths, solver, programs):
    first, second, third = strengths
    glmcore.fit(model(penalty(*first)), X, Y, solver=solver())
    again = [
        ("instances", penalty(*first), X, Y, {}),
        ("data", penalty(*first), OTHER, OTHER_Y, {}),
        ("strength", penalty(*second), X, Y, {}),
        ("integer strength", penalty(*third), X, Y, {}),
        ("weights", penalty(*first), X, Y, {"sample_weight": WEIGHT}),
        ("weights as a list", penalty(*first), X, Y, {"sample_weight": list(map(float, WEIGHT))}),
        ("tol", penalty(*first), X, Y, {"solver": solver(tol=1e-3)}),
        ("maxiter", penalty(*first), X, Y, {"solver": solver(maxiter=7)}),
        ("integer tol", penalty(*first), X, Y, {"solver": solver(tol=1)}),
        ("NumPy tol and maxiter", penalty(*first), X, Y, {"solver": solver(tol=np.float32(1e-3), maxiter=np.int64(9))}),
        ("float64 data", penalty(*first), X.astype(np.float64), Y, {}),
        ("labels of another width", penalty(*first), X, Y.astype(np.int32), {}),
    ]  # fmt: skip
    if has(solver, "stepsize"):
        again += [("stepsize", penalty(*first), X, Y, {"solver": solver(stepsize=0.1)})]
    added = {}
    for name, instance, features, labels, kwargs in again:
        with programs:
            glmcore.fit(model(instance), features, labels, **{"solver": solver(), **kwargs})
        if programs.compiled or programs.traced:
            added[name] = (programs.compiled, programs.traced)
    assert not added, f"(compiled, traced) programs added by {added}"


def test_jax_arrays_share_the_program_of_numpy_arrays(programs):
    glm = model(glmcore.Ridge(0.1))
    glmcore.fit(glm, X, Y)
    features, labels, weight = jnp.asarray(X), jnp.asarray(Y), jnp.asarray(WEIGHT)
    glmcore.fit(glm, features, labels, sample_weight=weight)
    strength = jnp.asarray(0.3)
    glmcore.fit(model(glmcore.Ridge(strength)), features, labels)
    with programs:
        glmcore.fit(glm, features, labels)
        glmcore.fit(glm, features, labels, sample_weight=weight)
        glmcore.fit(model(glmcore.Ridge(2 * 0.1)), features, labels)
    assert (programs.compiled, programs.traced) == (0, 0)


def test_starts_share_one_program(programs):
    glm = model(glmcore.Ridge(0.1))
    starts = [glmcore.GLMParams(jnp.full((P, K), v), jnp.full(K, v)) for v in (0.1, 0.2)]
    glmcore.fit(glm, X, Y, init_params=starts[0])
    with programs:
        glmcore.fit(model(glmcore.Ridge(0.7)), OTHER, OTHER_Y, init_params=starts[1])
    assert (programs.compiled, programs.traced) == (0, 0)


@pytest.mark.parametrize("penalty, solver", [(glmcore.Ridge, glmcore.LBFGS), (glmcore.Lasso, glmcore.ProximalGradient)])
def test_a_second_update_adds_no_program(penalty, solver, programs):
    glm = model(penalty(0.1))
    params = glm.initialize_params(jnp.asarray(X), jnp.asarray(Y))
    state = glmcore.init_state(glm, params, X, Y)
    params, state = glmcore.update(glm, params, state, X, Y)
    others = model(penalty(0.3))
    with programs:
        fresh = glmcore.init_state(others, params, OTHER, OTHER_Y, solver=solver(tol=1e-2))
        params, fresh = glmcore.update(others, params, fresh, OTHER, OTHER_Y, solver=solver(tol=1e-2, maxiter=3))
        params, fresh = glmcore.update(glm, params, state, X, Y, sample_weight=WEIGHT)
        params, fresh = glmcore.update(glm, params, fresh, OTHER, OTHER_Y)
    assert (programs.compiled, programs.traced) == (0, 0)


def test_a_second_fit_with_another_callback_adds_no_program(programs):
    glm = model(glmcore.Ridge(0.1))
    glmcore.fit(glm, X, Y, callback=lambda report: None)
    with programs:
        glmcore.fit(model(glmcore.Ridge(0.3)), OTHER, OTHER_Y, callback=lambda report: None)
    assert (programs.compiled, programs.traced) == (0, 0)


def test_a_link_compiles_once_a_function_object(programs):
    def link(eta):
        return jax.nn.log_softmax(2 * eta)

    def fit(function, strength):
        glmcore.fit(model(glmcore.Ridge(strength), inverse_link=function), X, Y)

    fit(link, 0.1)
    with programs:
        fit(link, 0.2)
    assert programs.compiled == 0


def test_a_fit_is_one_program(programs):
    """One jit boundary: nothing is compiled or run beside it.  (And the counter counts.)"""
    features, labels = np.tile(X, (10, 3))[:, :11], np.tile(Y, 10)  # a shape that no other test has
    with programs:
        glmcore.fit(model(glmcore.Ridge(0.1)), features, labels)
    assert programs.compiled == 1


def test_small_programs_compiled_in_a_hurry_give_the_same(monkeypatch):
    monkeypatch.setattr(jit, "hasty_options", jit.known_options)
    X, y = small()
    glm = model(glmcore.Ridge(0.1))
    hasty = jit.quick_jit(lambda params, X, y: glm.objective(params, X, y))
    params = glm.initialize_params(X, y)
    np.testing.assert_allclose(hasty(params, X, y), glm.objective(params, X, y), rtol=1e-6)
    inside = jax.jit(lambda number: number + hasty(params, X, y))  # where options are refused
    np.testing.assert_allclose(inside(1.0), 1 + glm.objective(params, X, y), rtol=1e-6)


def test_what_users_run_is_compiled_with_options_and_right():
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    variables |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, "-W", "error::UserWarning", str(ROOT / "tests" / "without_flags.py")]
    done = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_batching_alone_makes_no_program_to_be_a_part_of(monkeypatch):
    options = jit.known_options()
    assert options
    monkeypatch.setattr(jit, "_nothing", lambda: jax.jit(lambda: 0, compiler_options=options))
    inside = []

    def look(number):
        inside.append(jit.inside_program())
        return number

    look(1.0), jax.vmap(look)(jnp.ones(2)), jax.vmap(jax.vmap(look))(jnp.ones((2, 2)))
    assert inside == [False] * 3
    jax.jit(look)(1.0), jax.jit(jax.vmap(look))(jnp.ones(2)), jax.vmap(jax.jit(look))(jnp.ones(2))
    jax.lax.map(look, jnp.ones(2))
    assert inside[3:] and all(inside[3:])


def test_arrays_of_another_byte_order(x64):
    X, y = small()
    glm = model(glmcore.Ridge(0.1))
    params = glm.initialize_params(X, y)
    np.testing.assert_array_equal(
        glmcore.log_likelihood(glm, params, X.astype(">f8"), y), glmcore.log_likelihood(glm, params, X, y)
    )


@pytest.mark.parametrize("penalty", [glmcore.Ridge(0.1), slow(glmcore.Lasso(0.1))], ids=repr)
@pytest.mark.parametrize("n_models", [None, slow(3)])
def test_products_are_exact_where_jax_would_round_their_factors(penalty, n_models, monkeypatch):
    def precisions(n):
        """Of the products in a fit, or in one of many, to ``n`` rows."""
        fit = functools.partial(glmcore.fit, model(penalty))
        if n_models is None:
            return _precisions(fit, X[:n], Y[:n])
        return _precisions(jax.vmap(fit, in_axes=(None, 0)), X[:n], np.stack([Y[:n]] * n_models))

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")  # which rounds nothing
    assert precisions(41) == {False}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert precisions(42) == {True}
    with jax.default_matmul_precision("tensorfloat32"):
        assert precisions(43) == {False}


def test_gradients_of_the_model_are_exact_where_jax_would_round_their_factors(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    glm = model(glmcore.Ridge(0.1))
    params = glm.initialize_params(X, Y)
    assert _precisions(jax.grad(glm.objective), params, X, Y) == {True}
    assert _precisions(glm.optimality, params, X, Y) == {True}


def _precisions(function, *args):
    """Whether the products that ``function`` is made of are exact on any device."""
    products = re.findall(r"dot_general\[.*?\] \w+ \w+", str(jax.make_jaxpr(function)(*args)), re.DOTALL)
    assert products
    return {"HIGHEST" in product for product in products}


def test_a_vmap_needs_the_program_of_single_fits_for_lanes_with_trouble_only(monkeypatch):
    X, y = small(n=90)
    X, glm, singles = X.astype(np.float32), model(glmcore.Ridge(0.1)), []
    single = many._single
    monkeypatch.setattr(many, "_single", lambda args: singles.append(args) or single(args))
    strengths = np.geomspace(0.1, 0.01, 4, dtype=np.float32)
    targets = np.stack([np.roll(y, shift) for shift in range(4)])
    over_targets = jax.vmap(lambda y: glmcore.fit(glm, X, y).status)
    over_strengths = jax.vmap(lambda strength: glmcore.fit(model(glmcore.Ridge(strength)), X, y).status)
    over_weights = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight).status)
    assert set(glmcore.status_name(over_targets(targets)) + glmcore.status_name(over_strengths(strengths))) == {"converged"}
    assert not singles
    weights = np.ones((3, 90), np.float32)
    weights[1, 7] = np.nan
    assert glmcore.status_name(over_weights(weights)) == ["converged", "nonfinite", "converged"]
    assert len(singles) == 1
    once = jax.vmap(lambda weight: glmcore.fit(glm, X, y, sample_weight=weight, retry=False).status)
    assert glmcore.status_name(jax.jit(once)(weights)) == ["converged", "running", "converged"]
    assert len(singles) == 1
    assert glmcore.status_name(jax.jit(over_weights)(weights)) == ["converged", "nonfinite", "converged"]
    assert len(singles) == 2


def test_numbers_that_are_equal_are_not_the_same():
    times = jit.quick_jit(lambda x, k: x * k)
    x = np.arange(4)
    assert [times(x, k).dtype.kind for k in (1, 1.0, True, 1)] == ["i", "f", "i", "i"]
    full = jit.quick_jit(lambda x, k: jnp.full(x.shape, k))
    assert [np.signbit(full(x, k)).any() for k in (0.0, -0.0, 0.0)] == [False, True, False]
