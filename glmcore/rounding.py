"""Sums of products that are rounded once, and what rounding cut off.

Ogita, Rump & Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 26 (2005).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def compensated_dot(
    terms: Float[Array, "m K"], a: Float[Array, "p 1"], b: Float[Array, "p K"]
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Sum of ``terms`` and of ``a * b`` over the first axes, rounded once, and what rounding cut off.

    One reduction of pairs, in any order: the rounding error of each addition (Knuth's two-sum) joins those
    before it.  Products are those of halves, which are exact: a compiler may round them with a sum, at once.
    """

    def add(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        total, error = _two_sum(one[0], other[0])
        return total, one[1] + other[1] + error

    products = [x * y for x in _halves(a) for y in _halves(b)]
    terms = jnp.concatenate([terms, *products])
    zero = jnp.zeros((), terms.dtype)
    return _two_sum(*jax.lax.reduce((terms, jnp.zeros_like(terms)), (zero, zero), add, (0,)))


@compensated_dot.defjvp
def _of_tangents(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    # JAX differentiates reductions by sums and products only.
    (_, a, b), (terms, da, db) = primals, tangents
    total = jnp.sum(terms, axis=0) + jnp.sum(da * b + a * db, axis=0)
    return compensated_dot(*primals), (total, jnp.zeros_like(total))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(a: Array) -> tuple[Array, Array]:
    """The upper half of the digits of a number, and the rest."""
    lower = (jnp.finfo(a.dtype).nmant + 2) // 2
    bits = jax.lax.bitcast_convert_type(a, jnp.int32 if a.dtype.itemsize == 4 else jnp.int64)
    high = jax.lax.bitcast_convert_type((bits >> lower) << lower, a.dtype)
    return high, a - high
