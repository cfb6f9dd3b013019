"""Strengths: numbers, arrays or pytrees that fit the coefficients."""


import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from glmcore.penalties.base import AbstractPenalty
from glmcore.tree import is_concrete


def as_strength(strength: PyTree) -> PyTree:
    # NumPy scalars, not Python floats, which a jit would bake into the program; float64, so
    # that nothing is lost before the dtype of the data is known; copies, for a penalty does not
    # change with somebody's array.
    def convert(leaf):
        if isinstance(leaf, jax.Array):
            return leaf
        try:
            return np.array(leaf, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"a strength must be a number or an array of numbers, found {leaf!r}") from error

    return jax.tree.map(convert, strength)


def per_entry(strength: PyTree, coef: PyTree) -> PyTree:
    """One strength a leaf of ``coef``, in its float dtype and broadcast to its shape."""
    if jax.tree.structure(strength) != jax.tree.structure(coef):
        strength = jax.tree.map(lambda _: strength, coef)

    def spread(s, w):
        dtype = w.dtype if jnp.issubdtype(w.dtype, jnp.floating) else float
        return jnp.broadcast_to(jnp.asarray(s).astype(dtype), w.shape)

    return jax.tree.map(spread, strength, coef)


def take_rows(strength: PyTree, coef: PyTree, index: Int[Array, " q"]) -> Array:
    """The strength of chosen rows of ``coef``, its leaves stacked; as many columns as before."""
    leaves, parts = jax.tree.leaves(coef), jax.tree.leaves(strength)
    if jax.tree.structure(strength) != jax.tree.structure(coef):
        parts = parts * len(leaves)
        if np.ndim(parts[0]) < 2 or np.shape(parts[0])[0] == 1:
            return parts[0]
    columns = leaves[0].shape[1] if differs_by_class(strength) else 1
    rows = [jnp.broadcast_to(s, (w.shape[0], columns)) for s, w in zip(parts, leaves)]
    return jnp.concatenate(rows)[index]


def differs_by_class(strength: PyTree) -> bool:
    return any(np.ndim(s) > 0 and np.shape(s)[-1] > 1 for s in jax.tree.leaves(strength))


def where_alike(levelled: Array, coef: Array, *strengths: Array) -> Array:
    """``levelled`` in rows in which no strength differs by class, the others as they are in ``coef``."""
    alike = [jnp.all(s == s[..., :1], axis=-1, keepdims=True) for s in strengths]
    return jnp.where(functools.reduce(jnp.logical_and, alike), levelled, coef)


def without_class_mean(coef: PyTree, present: Bool[Array, " K"]) -> PyTree:
    return jax.tree.map(lambda w: w - jnp.mean(w, axis=-1, keepdims=True, where=present), coef)


def check_strength(penalty: AbstractPenalty, coef: PyTree) -> None:
    check_values(type(penalty).__name__, penalty.strength)
    check_fits(penalty, "strength", penalty.strength, coef)


def check_values(name: str, strength: PyTree) -> None:
    if not is_concrete(strength):
        return
    for leaf in map(np.asarray, jax.tree.leaves(strength)):
        if leaf.size and not 0 <= leaf.min() <= leaf.max() < np.inf:
            raise ValueError(
                f"{name}: strength must be finite and not negative, found {abbreviate(leaf)}"
            )


def exceeds_rounding(strength: PyTree) -> bool:
    """Whether no strength is zero, in any dtype."""
    least = np.finfo(np.float32).tiny
    return all(np.all(np.asarray(leaf) > least) for leaf in jax.tree.leaves(strength))


def check_fits(penalty: AbstractPenalty, field: str, strength: PyTree, coef: PyTree) -> None:
    name = f"{type(penalty).__name__}: {field}"
    leaves = jax.tree.leaves(strength)
    if jax.tree.structure(strength) != jax.tree.structure(coef):
        if len(leaves) != 1 or jax.tree.structure(strength) != jax.tree.structure(0):
            raise ValueError(
                f"{name} must be one number or array, or mirror the features "
                f"{jax.tree.structure(coef)}; found {jax.tree.structure(strength)}"
            )
        leaves = leaves * len(jax.tree.leaves(coef))
    for shape, w in zip(map(np.shape, leaves), jax.tree.leaves(coef)):
        if not _broadcasts(shape, w.shape):
            raise ValueError(f"{name} of shape {shape} does not broadcast to coef of shape {w.shape}")


def _broadcasts(shape: tuple, target: tuple) -> bool:
    fits = zip(reversed(shape), reversed(target))
    return len(shape) <= len(target) and all(m in (1, n) for m, n in fits)


def abbreviate(values: np.ndarray) -> str:
    return np.array2string(np.asarray(values), threshold=8, edgeitems=3)


def show(penalty: AbstractPenalty) -> str:
    """``Ridge()`` with the default fields, ``Ridge(0.1)`` with others."""
    shown, changed = [], 0
    for position, field in enumerate(dataclasses.fields(penalty), start=1):
        value = getattr(penalty, field.name)
        shown.append(_show_value(value))
        if shown[-1] != _show_value(getattr(type(penalty)(), field.name)):
            changed = position
    return f"{type(penalty).__name__}({', '.join(shown[:changed])})"


def _show_value(value: Any) -> str:
    if isinstance(value, (np.ndarray, jax.Array)) and is_concrete(value):
        return repr(value.item()) if value.ndim == 0 else f"array{value.shape}"
    return eqx.tree_pformat(value)
