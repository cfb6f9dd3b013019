"""Inverses of Cholesky factors and solutions by them, whatever the tiles that they are cut into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmcore.factors import cholesky_solve, inverse_root


# One tile, one that is full, two, and three; in each one to four of triangles.
@pytest.mark.parametrize("p", [1, 5, 96, 97, 200])
@pytest.mark.parametrize("lanes", [None, 3])
def test_the_inverse_of_a_cholesky_factor(p, lanes, x64):
    rng = np.random.default_rng(p)
    X = rng.standard_normal((lanes or 1, 2 * p, p))
    matrices = X.swapaxes(1, 2) @ X + np.eye(p)
    if lanes is None:
        found = inverse_root(jnp.asarray(matrices[0]))[None]
    else:
        found = jax.vmap(inverse_root)(jnp.asarray(matrices))
    expected = np.linalg.inv(np.linalg.cholesky(matrices))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.all(np.triu(found, 1) == 0)
    b = rng.standard_normal((lanes or 1, p))
    solved = jax.vmap(cholesky_solve)(jnp.asarray(matrices), jnp.asarray(b))
    np.testing.assert_allclose(solved, np.linalg.solve(matrices, b[:, :, None])[:, :, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [0, 120, 199])
def test_without_a_factor_it_is_nan(bad, x64):
    # Positive definite up to one row, in the first tile or the last.
    matrix = jnp.eye(200).at[bad, bad].set(-1)
    assert np.isnan(inverse_root(matrix)[-1, -1])
    assert np.any(np.isnan(cholesky_solve(matrix, jnp.ones(200))))
