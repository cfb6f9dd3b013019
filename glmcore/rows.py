"""Sums over rows, which is where the time goes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from glmcore.factors import qr_triangle

#: Largest weights that are less or more than these are scaled, and those of a batch refused.
LEAST_WEIGHT, MOST_WEIGHT = 1e-15, 1e15
#: Rows of a block.  XLA runs one product over n rows on a CPU up to four times slower than blocks of
#: some hundred, and blocks round better besides: of fewer rows where the sums of all blocks stay in a
#: cache, unless there is one row of weights only.
BLOCK_ROWS, _SMALL_BLOCK_ROWS = 512, 128
#: Features of a row that is short, rows of which some are put together, and rows of a block of these.
_VECTOR, _MANY_ROWS, _WIDE_BLOCK_ROWS = 16, 256, 64
#: Numbers that are worked on at once, so that they stay in a cache.
_CACHED_NUMBERS = 2**20


def row_shares(weight: Float[Array, "*L n"]) -> Float[Array, "*L n"]:
    """Weights over their sum."""
    weight = moderate(weight, jnp.max(weight, axis=-1, keepdims=True))
    return weight / jnp.sum(weight, axis=-1, keepdims=True)


def moderate(weight: Float[Array, "*L n"], high: Float[Array, "..."]) -> Float[Array, "*L n"]:
    """Weights, of which only ratios count and the largest is ``high``, whose sum does not overflow."""
    # In two steps: the inverse of a large number of float32 is zero to XLA.
    root = jnp.where((LEAST_WEIGHT < high) & (high < MOST_WEIGHT), 1, 1 / jnp.sqrt(high))
    return weight * root * root


def row_sums(weights: Float[Array, "K n"], X: Float[Array, "n p"]) -> Float[Array, "K p"]:
    """``weights @ X``."""
    (K, n), p = weights.shape, X.shape[1]
    side = _side_by_side(K, n, p)
    if side > 1:  # each is weighted by the weights of all, and only what its own give is kept
        weights = weights.reshape(K, -1, side).swapaxes(1, 2).reshape(K * side, -1)
        weights, wide = jax.lax.optimization_barrier(weights), X.reshape(-1, side, p).reshape(-1, side * p)
        # No block is of more rows than one that lies on one device.
        size = min(_WIDE_BLOCK_ROWS, BLOCK_ROWS // side)
        sums = _block_sums(weights, wide, _n_blocks(n // side, size))
        return jnp.einsum("kiip->kp", sums.reshape(K, side, side, p))
    n_blocks = _n_blocks(n)
    if K > 1 and n > BLOCK_ROWS and K * n * p <= _SMALL_BLOCK_ROWS * _CACHED_NUMBERS:
        n_blocks = max(n_blocks, _n_blocks(n, _SMALL_BLOCK_ROWS))
    return _block_sums(weights, X, n_blocks)


def _block_sums(
    weights: Float[Array, "K n"], X: Float[Array, "n p"], n_blocks: int
) -> Float[Array, "K p"]:
    (K, _), p = weights.shape, X.shape[1]
    weights = weights.reshape(K, n_blocks, -1)
    sums = jnp.einsum("kbn,bnp->bkp", weights, X.reshape(n_blocks, -1, p))
    return jnp.sum(sums, axis=0)


def _side_by_side(K: int, n: int, p: int) -> int:
    """How many short rows to take as one: of rows no longer than a vector, products take up to four
    times as long."""
    width = _VECTOR if K > 1 else 2 * _VECTOR
    if n <= _MANY_ROWS or p > width or K > _VECTOR:
        return 1
    side = max(2, 1 << (-(-width // p) - 1).bit_length())
    return side if n % side == 0 else 1


def row_squares(weight: Float[Array, " n"], X: Float[Array, "n p"]) -> Float[Array, " p"]:
    """``weight @ X**2``, which overflows only where the result does."""
    n_blocks, p = _n_blocks(X.shape[0]), X.shape[1]
    X = X.reshape(n_blocks, -1, p)
    weighted = weight.reshape(n_blocks, -1, 1) * X
    return jnp.sum(jnp.einsum("bnp,bnp->bp", weighted, X), axis=0)


def row_products(weights: Float[Array, "K K n"], X: Float[Array, "n p"]) -> Float[Array, "K K p p"]:
    """``X.T @ (weights[j, k, :, None] * X)`` of all j and k, in which ``weights`` are symmetric."""
    p, K = X.shape[1], weights.shape[0]
    one, other = np.triu_indices(K)
    n_pairs = len(one)

    def products(weights: Float[Array, "pairs m"], X: Float[Array, "m p"]) -> Float[Array, "pairs_p p"]:
        # Rows along the last axis: the products vectorise.
        weighted = weights[:, None, :] * X.T[None, :, :]
        return weighted.reshape(-1, len(X)) @ X

    sums = sum_over_blocks(products, weights[one, other], X, n_pairs * p)
    pair = np.zeros((K, K), int)
    pair[one, other] = pair[other, one] = np.arange(n_pairs)
    return sums.reshape(n_pairs, p, p)[pair]


def sum_over_blocks(
    of_block: Callable, weights: Float[Array, "K n"], X: Float[Array, "n p"], width: int
) -> Float[Array, "*shape"]:
    """The sum of what ``of_block`` makes of blocks of rows, weights and features, each so small that
    ``width`` numbers a row of it stay in a cache."""
    n = len(X)
    n_blocks = _n_blocks(n, max(BLOCK_ROWS, _CACHED_NUMBERS // width))
    if n_blocks == 1:
        return of_block(weights, X)
    size = n // n_blocks

    def add(index: Int[Array, ""], total: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        some = jax.lax.dynamic_slice_in_dim(weights, index * size, size, axis=1)
        return total + of_block(some, jax.lax.dynamic_slice_in_dim(X, index * size, size))

    shape = jax.eval_shape(of_block, weights[:, :size], X[:size])
    return jax.lax.fori_loop(0, n_blocks, add, jnp.zeros(shape.shape, shape.dtype))


def row_triangle(X: Float[Array, "n p"]) -> Float[Array, "m p"]:
    """A triangle R with ``R.T @ R = X.T @ X``: of the triangles of blocks of rows, eight at a
    time, so that X stays where its rows are (Demmel et al., 2012, "Communication-optimal parallel
    and sequential QR and LU factorizations")."""
    p = X.shape[1]
    n_blocks = _n_blocks(X.shape[0], max(BLOCK_ROWS, 1 << (2 * p - 1).bit_length()))
    while n_blocks > 1:
        X = _triangles(X.reshape(n_blocks, -1, p)).reshape(-1, p)
        n_blocks = 1 if n_blocks % 8 else n_blocks // 8
    return qr_triangle(X)


def _triangles(blocks: Float[Array, "n_blocks m p"]) -> Float[Array, "n_blocks r p"]:
    """The triangle of every block; at a time one on each device, which has the same many."""
    n_devices = jax.device_count()
    if n_devices == 1 or blocks.shape[0] % n_devices:
        return jax.lax.map(qr_triangle, blocks)
    per_device = blocks.reshape(n_devices, -1, *blocks.shape[1:])

    def nth(i: Int[Array, ""]) -> Float[Array, "n_devices r p"]:
        blocks = jax.lax.dynamic_index_in_dim(per_device, i, axis=1, keepdims=False)
        return jnp.linalg.qr(blocks, mode="r")

    triangles = jax.lax.map(nth, jnp.arange(per_device.shape[1], dtype=jnp.int32))
    return triangles.swapaxes(0, 1).reshape(-1, *triangles.shape[2:])


def _n_blocks(n: int, block_rows: int = BLOCK_ROWS) -> int:
    """Blocks of ``block_rows`` rows, or of down to half as many, that n rows are cut into; 1 if no
    such block divides n (padded rows the first one does)."""
    return next((n // size for size in range(block_rows, block_rows // 2, -1) if n % size == 0), 1)
