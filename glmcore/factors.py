"""Factorisations, each of one matrix: a program may run at the same time as others.

On a CPU jaxlib's LAPACK calls share a stack of matrices out among the threads of XLA's pool, and
wait for them on a thread of that pool.  Where all of its threads wait in this way, as those of
two fits at once on two cores or of one fit on eight devices do, none is left for the work and
the programs never end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: Rows up to which a triangle is inverted row by row on a CPU.
_TILE_ROWS = 32
#: Bytes of a row up to which LAPACK factorises a matrix by itself.
_LAPACK_BYTES = 768


def _one_by_one(factorise: Callable) -> Callable:
    """``factorise``, which under ``jax.vmap`` takes one matrix after the other on a CPU."""
    single = jax.custom_batching.custom_vmap(factorise)

    @single.def_vmap
    def stack(size, batched, *matrices):
        matrices = [
            x if has_axis else jnp.broadcast_to(x, (size, *x.shape))
            for x, has_axis in zip(matrices, batched, strict=True)
        ]
        factors = jax.lax.platform_dependent(
            *matrices,
            cpu=lambda *stacks: jax.lax.map(lambda each: single(*each), stacks),
            default=jax.vmap(factorise),
        )
        return factors, jax.tree.map(lambda _: True, factors)

    return single


@_one_by_one
def cholesky_solve(matrix: Float[Array, "p p"], b: Float[Array, " p"]) -> Float[Array, " p"]:
    """Solution of ``matrix @ x = b``, NaN if the matrix is not positive definite."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix, symmetrize_input=False), True), b)


def inverse_root(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """The inverse R of the lower triangle L with ``L @ L.T = matrix``, so that ``R.T @ R`` is the inverse of
    that; NaN if there is none.

    LAPACK's triangular solves on a CPU, and factorisations of more than some hundred rows, start threads,
    which then wait for more work, for 40 ms, on the cores that the passes over the data need.
    """

    def whole(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
        identity = jnp.eye(len(matrix), dtype=matrix.dtype)
        return jax.scipy.linalg.solve_triangular(_cholesky(matrix), identity, lower=True)

    return jax.lax.platform_dependent(matrix, cpu=_inverse_root_by_tiles, default=whole)


@_one_by_one
def _cholesky(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


def _inverse_root_by_tiles(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Tile by tile along the diagonal: what the factor has below one is taken off the rest.  Unrolled, since
    most of what a loop of one shape multiplies were zeros."""
    p, most = len(matrix), _LAPACK_BYTES // matrix.dtype.itemsize
    size = -(-p // -(-p // most))
    inverse, left = jnp.zeros((0, 0), matrix.dtype), jnp.zeros((p, 0), matrix.dtype)
    while len(matrix):
        root = _inverse_of_triangle(_cholesky(matrix[:size, :size]))
        corner = -root @ (left[: len(root)] @ inverse)
        inverse = jnp.block([[inverse, jnp.zeros_like(corner.T)], [corner, root]])
        below = matrix[size:, :size] @ root.T
        left = jnp.concatenate([left[size:], below], axis=1)
        matrix = matrix[size:, size:] - below @ below.T
    return inverse


def _inverse_of_triangle(factor: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Tiles along the diagonal first, then pair by pair: with the inverses of A and C that of
    [[A, 0], [B, C]] has -C^-1 B A^-1 in its corner."""
    p = len(factor)
    n_tiles = 1 << ((p - 1) // _TILE_ROWS).bit_length()
    size = -(-p // n_tiles)
    padding = jnp.eye(size * n_tiles - p, dtype=factor.dtype)
    factor = jax.scipy.linalg.block_diag(factor, padding)
    inverse = _inverse_by_rows(_tiles(factor, size))
    while len(inverse) > 1:
        first, second = inverse[::2], inverse[1::2]
        below = _tiles(factor, 2 * size)[:, size:, :size]
        corner = -second @ (below @ first)
        inverse = jnp.block([[first, jnp.zeros_like(first)], [corner, second]])
        size *= 2
    return inverse[0, :p, :p]


def _tiles(matrix: Float[Array, "p p"], size: int) -> Float[Array, "n size size"]:
    """The tiles along the diagonal."""
    n = len(matrix) // size
    return jnp.moveaxis(jnp.diagonal(matrix.reshape(n, size, n, size), axis1=0, axis2=2), -1, 0)


def _inverse_by_rows(triangles: Float[Array, "n p p"]) -> Float[Array, "n p p"]:
    """By substitution, a row of all of them at a time."""
    p = triangles.shape[-1]
    identity = jnp.eye(p, dtype=triangles.dtype)
    pivots = 1 / jnp.diagonal(triangles, axis1=1, axis2=2)
    strict = jnp.tril(triangles, -1)

    def add_row(i: Int[Array, ""], inverse: Float[Array, "n p p"]) -> Float[Array, "n p p"]:
        row = jax.lax.dynamic_slice_in_dim(strict, i, 1, axis=1)
        unit = jax.lax.dynamic_slice_in_dim(identity, i, 1)
        pivot = jax.lax.dynamic_slice_in_dim(pivots, i, 1, axis=1)
        new = pivot[:, :, None] * (unit[None] - row @ inverse)
        return jax.lax.dynamic_update_slice_in_dim(inverse, new, i, axis=1)

    return jax.lax.fori_loop(0, p, add_row, jnp.zeros_like(triangles))


@_one_by_one
def qr_triangle(matrix: Float[Array, "m p"]) -> Float[Array, "r p"]:
    """R of the QR factorisation."""
    return jnp.linalg.qr(matrix, mode="r")


@_one_by_one
def qr_basis(matrix: Float[Array, "m p"]) -> Float[Array, "m r"]:
    """Q of the QR factorisation."""
    return jnp.linalg.qr(matrix)[0]


@_one_by_one
def right_singular(matrix: Float[Array, "m p"]) -> tuple[Float[Array, " r"], Float[Array, "p p"]]:
    """Singular values, largest first, and all right singular vectors, as rows."""
    return jnp.linalg.svd(matrix, full_matrices=True)[1:]


def diagonal_of(matrix: Float[Array, "p p"]) -> Float[Array, " p"]:
    """The diagonal of a square matrix as a slice, where ``jnp.diagonal`` gathers."""
    return matrix.ravel()[:: len(matrix) + 1]
