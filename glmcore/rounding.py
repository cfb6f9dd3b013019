"""Error-free transformations: sums and products together with their rounding errors.

Ogita, Rump & Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 26 (2005).
"""

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


def compensated_sum(
    terms: Float[Array, "m K"], errors: Float[Array, "m K"]
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Sum of ``terms + errors`` over the first axis, rounded once, and what rounding cut off.

    Halves are added pairwise, the rounding error of each addition (Knuth's two-sum) joining
    ``errors``: log2(m) vectorised steps.
    """
    while terms.shape[0] > 1:
        if terms.shape[0] % 2:
            zero = jnp.zeros_like(terms[:1])
            terms = jnp.concatenate([terms, zero])
            errors = jnp.concatenate([errors, zero])
        half = terms.shape[0] // 2
        total, error = _two_sum(terms[:half], terms[half:])
        terms, errors = total, errors[:half] + errors[half:] + error
    total, cut = _two_sum(terms[0], errors[0])
    return total, cut


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(a: Array) -> tuple[Array, Array]:
    bits = jnp.finfo(a.dtype).nmant + 1
    shifted = a * (2.0 ** ((bits + 1) // 2) + 1)
    high = shifted - (shifted - a)
    return high, a - high
