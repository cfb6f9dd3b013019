"""Sums over the rows of a chunk, computed in blocks that stay in a core's cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

#: Numbers in the features of a block: few enough that XLA keeps a block on one core (the chunks
#: are what the cores share) and the core keeps it in its cache.
_BLOCK_NUMBERS = 2**16


def over_blocks(
    function: Callable[..., PyTree],
    combine: PyTree[Callable[[Any, Any], Any]],
    first: PyTree[float],
    X: Float[Array, "n p"],
    y: Int[Array, " n"],
    weight: Float[Array, " n"],
    n_rows: Int[Array, ""],
) -> PyTree:
    """``function(X, y, weight)`` of blocks of the first ``n_rows`` rows, combined.

    ``combine`` and ``first``, with which the first block is combined, may be trees of which each
    leaf is for a part of the result.  A block may reach beyond ``n_rows``, to rows of weight 0.
    """
    size = block_rows(*X.shape)
    like = jax.eval_shape(function, X[:size], y[:size], weight[:size])

    def add(index: Int[Array, ""], total: PyTree) -> PyTree:
        block = (jax.lax.dynamic_slice_in_dim(x, index * size, size) for x in (X, y, weight))
        return jax.tree.map(jax.tree.map, combine, total, function(*block))

    def filled(value: float, part: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), part)

    start = jax.tree.map(filled, first, like)
    return jax.lax.fori_loop(0, -(-n_rows // size), add, start)


def block_rows(n_rows: int, n_features: int) -> int:
    """Rows of a block: a power of two, and so a divisor of those of a chunk.

    Examples
    --------
    >>> from glmcore.sweeps import block_rows
    >>> block_rows(65536, 50), block_rows(4096, 784), block_rows(256, 4)
    (512, 64, 256)
    """
    largest = max(_BLOCK_NUMBERS // n_features, 64)
    return min(n_rows, 512, 1 << (largest.bit_length() - 1))
