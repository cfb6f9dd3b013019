"""Sums rounded once, against exact rational arithmetic, and their derivative."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmcore.rounding import compensated_dot

numbers = st.floats(-(2**40), 2**40, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


def exactly(terms, a, b):
    """The sums as fractions, and those of sizes."""
    rows = [[Fraction(float(x)) for x in row] for row in terms]
    rows += [[Fraction(float(x)) * Fraction(float(y)) for y in row] for (x,), row in zip(a, b)]
    return [sum(column) for column in zip(*rows)], [float(sum(map(abs, column))) for column in zip(*rows)]


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_scalar_product_is_rounded_once(pairs):
    a, b = (np.array(side, np.float32)[:, None] for side in zip(*pairs))
    (total,), (cut,) = compensated_dot(*map(jnp.asarray, (b[:1], a, b)))
    (exact,), (size,) = exactly(b[:1], a, b)
    twice_rounded = 2 * (4 * len(pairs) + 1) ** 2 * np.finfo(np.float32).eps ** 2 * size
    assert abs(float(total) - float(exact)) <= np.spacing(np.float32(abs(float(exact)))) + twice_rounded
    assert abs(float(total) + float(cut) - float(exact)) <= twice_rounded + math.ulp(float(exact))


@pytest.mark.parametrize("options", [None, False, True], ids=["eager", "jit", "hasty jit"])
def test_so_it_is_however_it_is_compiled(options, precision):
    """Compilers contract a product and a sum to one operation, that rounds once."""
    rng = np.random.default_rng(0)
    a, b = (1e5 + rng.normal(size=(4, 1))).astype(precision), rng.normal(size=(4, 3)).astype(precision)
    scale = (0.5 + rng.random((4, 1))).astype(precision)
    hasty = {"xla_cpu_use_fusion_emitters": False} if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11) else {}
    hasty = {**hasty, "xla_backend_optimization_level": 3 if options is False else 1}

    def function(a, scale, b):
        coef = scale * b
        return *compensated_dot(0 * b[:1], -a, coef), coef

    if options is not None:
        function = jax.jit(function, compiler_options=hasty)
    total, cut, coef = map(np.asarray, function(*map(jnp.asarray, (a, scale, b))))
    exact, _ = exactly(0 * b[:1], -a, coef)
    error = [abs(Fraction(float(t)) + Fraction(float(c)) - e) for t, c, e in zip(total, cut, exact)]
    assert max(error) < 1e-12 * 1e5 if precision == np.float32 else max(error) < 1e-26 * 1e5
    assert np.abs(cut).max() <= np.spacing(np.abs(total)).max() / 2


@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev])
def test_the_derivative_of_a_compensated_sum_is_that_of_a_sum(differentiate):
    terms, a, b = jnp.arange(6.0).reshape(3, 2), jnp.arange(2.0)[:, None], jnp.ones((2, 2))
    total, cut = differentiate(compensated_dot, argnums=(0, 1, 2))(terms, a, b)
    np.testing.assert_array_equal(total[0], np.broadcast_to(np.eye(2)[:, None, :], (2, 3, 2)))
    np.testing.assert_array_equal(total[1], np.ones((2, 2, 1)))
    np.testing.assert_array_equal(total[2], np.eye(2)[:, None, :] * np.asarray(a)[None])
    for found in cut:
        np.testing.assert_array_equal(found, 0)


def test_compensated_sums_of_a_batch_are_those_of_each():
    rng = np.random.default_rng(0)
    terms, a, b = (jnp.asarray(rng.normal(size=(4, *shape)) * 1e4, jnp.float32) for shape in ((50, 3), (5, 1), (5, 3)))
    batch = jax.vmap(compensated_dot)(terms, a, b)
    for i, (total, cut) in enumerate(zip(*batch)):
        alone = compensated_dot(terms[i], a[i], b[i])
        np.testing.assert_array_equal(total, alone[0])
        np.testing.assert_allclose(cut, alone[1], rtol=1e-6)
