"""Error-free transformations: sums and products together with their rounding errors.

Ogita, Rump & Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 26 (2005).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def two_product_error(
    a: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``a * b`` minus its rounded value, exactly (Dekker's product, algorithm 3.3)."""
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = a * b - a_high * b_high - a_low * b_high - a_high * b_low
    return a_low * b_low - error


@jax.custom_jvp
def compensated_sum(
    terms: Float[Array, "m K"], errors: Float[Array, "m K"]
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Sum of ``terms + errors`` over the first axis, rounded once, and what rounding cut off.

    One reduction of pairs, in any order: the rounding error of each addition (Knuth's two-sum)
    joins the errors.
    """

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        total, error = _two_sum(a[0], b[0])
        return total, a[1] + b[1] + error

    zero = jnp.zeros((), terms.dtype)
    return _two_sum(*jax.lax.reduce((terms, errors), (zero, zero), add, (0,)))


@compensated_sum.defjvp
def _of_tangents(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    # JAX differentiates reductions by sums and products only.
    result = compensated_sum(*primals)
    total = jnp.sum(tangents[0] + tangents[1], axis=0)
    return result, (total, jnp.zeros_like(total))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(a: Array) -> tuple[Array, Array]:
    bits = jnp.finfo(a.dtype).nmant + 1
    shifted = a * (2.0 ** ((bits + 1) // 2) + 1)
    high = shifted - (shifted - a)
    return high, a - high
