"""Factorisations, each of one matrix: a program may run at the same time as others.

On a CPU jaxlib's LAPACK calls share a stack of matrices out among the threads of XLA's pool, and
wait for them on a thread of that pool.  Where all of its threads wait in this way, as those of
two fits at once on two cores or of one fit on eight devices do, none is left for the work and
the programs never end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
def cholesky(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """The lower triangle L with ``L @ L.T = matrix``; NaN if there is none."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@_one_by_one
def cholesky_solve(factor: Float[Array, "p p"], b: Float[Array, " p"]) -> Float[Array, " p"]:
    """Solution of ``L @ L.T @ x = b``."""
    return jax.scipy.linalg.cho_solve((factor, True), b)


@_one_by_one
def inverse_lower(factor: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Inverse of a lower triangle."""
    identity = jnp.eye(factor.shape[0], dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


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
