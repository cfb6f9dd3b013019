"""Sums over rows, whatever the blocks that they are cut into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmcore.rows import row_sums


# Few rows, few features, many of both, and rows that no block divides.
@pytest.mark.parametrize("n, p", [(300, 70), (40_000, 30), (16_384, 80), (17_500, 64), (16_411, 64)])
@pytest.mark.parametrize("lanes", [None, 3])
def test_sums_of_rows(n, p, lanes, x64):
    rng = np.random.default_rng(n)
    X = jnp.asarray(rng.standard_normal((n, p)))
    weights = jnp.asarray(rng.standard_normal((lanes or 1, 2, n)))
    if lanes is None:
        found = row_sums(weights[0], X)[None]
    else:
        found = jax.vmap(row_sums, in_axes=(0, None))(weights, X)
    np.testing.assert_allclose(found, np.asarray(weights) @ np.asarray(X), rtol=0, atol=1e-10)
