"""Arithmetic on pytrees of arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def tree_sum(function: Callable[..., Array], *trees: PyTree) -> Float[Array, ""]:
    """Sum ``function`` over all entries of all leaves."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(jax.tree.map(function, *trees)))


def tree_dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Inner product of two pytrees of the same structure."""
    return tree_sum(jnp.multiply, a, b)


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose derivative at 0 is 0 instead of infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def tree_norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm of all entries, with derivative 0 at 0."""
    return safe_sqrt(tree_sum(jnp.square, tree))


def tree_axpy(scale: Array, x: PyTree, y: PyTree) -> PyTree:
    """``scale * x + y``, leaf by leaf."""
    return jax.tree.map(lambda a, b: scale * a + b, x, y)


def tree_sub(a: PyTree, b: PyTree) -> PyTree:
    """``a - b``, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def tree_where(condition: Bool[Array, ""], a: PyTree, b: PyTree) -> PyTree:
    """``a`` where the condition holds, else ``b``, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def is_concrete(tree: PyTree) -> bool:
    """Whether the values of all arrays can be looked at now, outside any jax transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
