"""Sums rounded once, against exact rational arithmetic, and their derivative."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmcore.rounding import compensated_sum, two_product_error

numbers = st.floats(-(2**40), 2**40, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_scalar_product_is_rounded_once(pairs):
    a, b = (np.array(side, np.float32)[:, None] for side in zip(*pairs))
    total, cut = compensated_sum(jnp.asarray(a * b), two_product_error(jnp.asarray(a), jnp.asarray(b)))
    exact = sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a[:, 0], b[:, 0]))
    size = sum(abs(float(x) * float(y)) for x, y in zip(a[:, 0], b[:, 0]))
    twice_rounded = 2 * len(pairs) ** 2 * np.finfo(np.float32).eps ** 2 * size
    assert abs(float(total[0]) - float(exact)) <= np.spacing(np.float32(abs(float(exact)))) + twice_rounded
    assert abs(float(total[0]) + float(cut[0]) - float(exact)) <= twice_rounded + math.ulp(float(exact))


@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev])
def test_the_derivative_of_a_compensated_sum_is_that_of_a_sum(differentiate):
    terms, errors = jnp.arange(6.0).reshape(3, 2), jnp.zeros((3, 2))
    total, cut = differentiate(compensated_sum, argnums=(0, 1))(terms, errors)
    expected = np.broadcast_to(np.eye(2)[:, None, :], (2, 3, 2))
    for found in total:
        np.testing.assert_array_equal(found, expected)
    for found in cut:
        np.testing.assert_array_equal(found, 0)


def test_compensated_sums_of_a_batch_are_those_of_each():
    terms = jnp.asarray(np.random.default_rng(0).standard_normal((4, 50, 3)) * 1e4, jnp.float32)
    batch = jax.vmap(compensated_sum)(terms, 0 * terms)
    for i, (total, cut) in enumerate(zip(*batch)):
        alone = compensated_sum(terms[i], 0 * terms[i])
        np.testing.assert_array_equal(total, alone[0])
        np.testing.assert_allclose(cut, alone[1], atol=1e-6)
