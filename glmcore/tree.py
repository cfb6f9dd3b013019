"""Arithmetic on pytrees of arrays."""

import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree


def tree_sum(function: Callable[..., Array], *trees: PyTree) -> Float[Array, ""]:
    """Sum ``function`` over all entries of all leaves."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(jax.tree.map(function, *trees)))


def tree_dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Inner product of two pytrees of the same structure."""
    return tree_sum(jnp.multiply, a, b)


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose derivative at 0 is 0 instead of infinite; 0 of less, as rounding leaves it."""
    nothing = x <= 0  # NaN is not
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, x)))


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


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no entry of any leaf is infinite or NaN."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def where_needed(
    needed: Bool[Array, ""], function: Callable[..., PyTree], *args: PyTree
) -> PyTree:
    """``function(*args)`` if it is needed, else zeros.

    A ``cond`` of which vmap does not make a ``select``: of a batch it is computed if one of
    them needs it.
    """
    arrays, static = eqx.partition(args, eqx.is_array)

    def compute(arrays):
        return function(*eqx.combine(arrays, static))

    @jax.custom_batching.custom_vmap
    def choose(needed, arrays):
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(compute, arrays))
        return jax.lax.cond(needed, compute, lambda _: zeros, arrays)

    @choose.def_vmap
    def of_batch(axis_size, in_batched, needed, arrays):
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[1])
        batch = jax.vmap(compute, in_axes=(axes,), axis_size=axis_size)
        result = where_needed(jnp.any(needed), batch, arrays)
        return result, jax.tree.map(lambda _: True, result)

    return choose(needed, arrays)


def module_of(kind: type, **fields: Any) -> Any:
    """A module of these fields, neither converted nor checked: its constructor, or
    ``dataclasses.replace``, takes longer than a step on a small batch."""
    module = object.__new__(kind)
    vars(module).update(fields)
    return module


def is_real(x: Any) -> bool:
    """Whether ``x`` is an array of real numbers: no text, dates, objects, random keys or complex numbers."""
    dtype = getattr(x, "dtype", None)
    # Short floats have the kind "V", random keys none.
    return getattr(dtype, "kind", None) in ("b", "i", "u", "f") or (
        dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    )


def as_count(x: Any, name: str, expected: str = "a positive whole number") -> int:
    """A positive whole number as a Python one, of which there may be a program each."""
    if not isinstance(x, numbers.Real) or isinstance(x, bool) or x % 1 != 0 or x < 1:
        raise ValueError(f"{name} must be {expected}, found {x!r}")
    return int(x)


def is_at_hand(tree: PyTree) -> bool:
    """Whether all leaves are arrays whose values this process can show."""
    return is_concrete(tree) and all(
        isinstance(leaf, np.ndarray)
        or getattr(leaf, "is_fully_addressable", False)
        or getattr(leaf, "is_fully_replicated", False)
        for leaf in jax.tree.leaves(tree)
    )


def sample_dtype(leaves: list) -> Any:
    """The float dtype of features: their own, and JAX's default for integers."""
    if all(leaf.dtype == np.float32 for leaf in leaves):
        return np.dtype(np.float32)
    floating = [leaf.dtype.newbyteorder("=") for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    least = jnp.float32 if len(floating) == len(leaves) else jax.dtypes.canonicalize_dtype(float)
    # What is longer than JAX has is as long as it has.
    floating = (dtype if dtype.itemsize <= 8 else float for dtype in floating)
    with jax.numpy_dtype_promotion("standard"):  # however strict the user is
        return jnp.result_type(*map(jax.dtypes.canonicalize_dtype, floating), least)


def unmapped(x: Any) -> Any:
    """The whole batch, of which ``x`` is one entry to a function under ``jax.vmap``."""
    while isinstance(x, jax.core.Tracer) and hasattr(x, "val"):
        x = x.val
    return x


def is_mapped_only(tree: PyTree) -> bool:
    """Whether all that is traced is batches of arrays at hand: nothing is differentiated."""

    def is_batch(x: Any) -> bool:
        batch = unmapped(x)
        is_array = isinstance(batch, (jax.Array, np.ndarray)) and is_concrete(batch)
        return is_array and batch.dtype == x.dtype  # JAX may have no float64

    return all(is_batch(x) for x in jax.tree.leaves(tree) if isinstance(x, jax.core.Tracer))


def is_concrete(tree: PyTree) -> bool:
    """Whether the values of all arrays can be looked at now, outside any jax transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
