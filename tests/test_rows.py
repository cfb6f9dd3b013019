"""Sums over rows, whatever the blocks that they are cut into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmcore.rows import row_products, row_squares, row_sums, row_triangle

# Few rows, few features, many of both, and rows that no block divides.
sizes = [(300, 70), (40_000, 30), (16_384, 80), (17_500, 64), (16_411, 64)]
shapes = pytest.mark.parametrize("n, p", sizes)
# Rows as short as a vector of a CPU, side by side where their number is even.
short = [(512, 3), (16_384, 1), (16_384, 5), (17_500, 11), (16_411, 4), (8192, 16)]


@pytest.mark.parametrize("n, p", [*sizes, *short])
@pytest.mark.parametrize("n_weights", [1, 2, 18])
@pytest.mark.parametrize("lanes", [None, 3])
def test_sums_of_rows(n, p, n_weights, lanes, x64):
    rng = np.random.default_rng(n)
    X = jnp.asarray(rng.standard_normal((n, p)))
    weights = jnp.asarray(rng.standard_normal((lanes or 1, n_weights, n)))
    if lanes is None:
        found = row_sums(weights[0], X)[None]
    else:
        found = jax.vmap(row_sums, in_axes=(0, None))(weights, X)
    np.testing.assert_allclose(found, np.asarray(weights) @ np.asarray(X), rtol=0, atol=1e-10)


@shapes
def test_squares_and_products_of_rows(n, p, x64):
    rng = np.random.default_rng(n)
    X, weight = rng.standard_normal((n, p)), rng.standard_normal((3, 3, n))
    weight = weight + weight.swapaxes(0, 1)
    np.testing.assert_allclose(jax.jit(row_squares)(weight[0, 0], X), weight[0, 0] @ X**2, rtol=0, atol=1e-9)
    expected = [[X.T @ (one[:, None] * X) for one in row] for row in weight]
    np.testing.assert_allclose(jax.jit(row_products)(weight, X), expected, rtol=0, atol=1e-9)


@shapes
def test_the_triangle_of_rows_has_their_products(n, p, x64):
    X = np.random.default_rng(n).standard_normal((n, p))
    triangle = np.asarray(jax.jit(row_triangle)(X))
    np.testing.assert_array_equal(triangle, np.triu(triangle))
    np.testing.assert_allclose(triangle.T @ triangle, X.T @ X, rtol=0, atol=1e-9)
