"""Inverses of triangles, whatever the tiles that they are cut into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmcore.factors import inverse_lower


# One tile, one that is full, two of which one is padded, and four.
@pytest.mark.parametrize("p", [1, 5, 96, 97, 200])
@pytest.mark.parametrize("lanes", [None, 3])
def test_the_inverse_of_a_triangle(p, lanes, x64):
    rng = np.random.default_rng(p)
    X = rng.standard_normal((lanes or 1, 2 * p, p))
    factors = np.linalg.cholesky(X.swapaxes(1, 2) @ X + np.eye(p))
    if lanes is None:
        found = inverse_lower(jnp.asarray(factors[0]))[None]
    else:
        found = jax.vmap(inverse_lower)(jnp.asarray(factors))
    np.testing.assert_allclose(found, np.linalg.inv(factors), rtol=0, atol=1e-12)
    assert np.all(np.triu(found, 1) == 0)
