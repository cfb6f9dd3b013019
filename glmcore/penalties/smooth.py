"""Smooth penalties: none, and Ridge."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from glmcore.penalties.base import AbstractScalablePenalty
from glmcore.penalties.strengths import (
    as_strength,
    check_strength,
    per_entry,
    show,
    take_rows,
    where_alike,
    without_class_mean,
)
from glmcore.tree import tree_sum


class UnRegularized(AbstractScalablePenalty):
    """No penalty.

    Examples
    --------
    >>> from glmcore import UnRegularized
    >>> UnRegularized()
    UnRegularized()
    """

    smooth = True

    def value(self, coef: PyTree) -> Float[Array, ""]:
        return jnp.zeros((), jax.tree.leaves(coef)[0].dtype)

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        return coef

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        return gradient

    def common_scale(self, scale: PyTree) -> PyTree:
        return scale

    def curvature(self, coef: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, coef)

    def pressure(self, gradient: PyTree) -> PyTree:
        return jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), gradient)

    def on_features(self, coef: PyTree, index: Int[Array, " q"]) -> "UnRegularized":
        return self

    def level(self, coef: PyTree, present: Bool[Array, " K"]) -> PyTree:
        return without_class_mean(coef, present)

    def check(self, coef: PyTree) -> None:
        pass


class Ridge(AbstractScalablePenalty):
    r"""Squared l2 penalty.

    .. math:: \tfrac12 s \sum w^2

    Parameters
    ----------
    strength : float, array or pytree, default 1.0
        s, not negative: a number, an array that broadcasts to coef, or a pytree of these.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from glmcore import Ridge
    >>> Ridge(0.5).value(jnp.array([[3.0, 4.0]]))
    Array(6.25, dtype=float32)
    """

    strength: PyTree = eqx.field(default=1.0, converter=as_strength)
    smooth = True

    def __repr__(self) -> str:
        return show(self)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        return tree_sum(lambda w, s: s * w * w / 2, coef, per_entry(self.strength, coef))

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        strength, step = per_entry(self.strength, coef), per_entry(step, coef)
        return jax.tree.map(lambda v, s, t: v / (1 + t * s), coef, strength, step)

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        strength = per_entry(self.strength, coef)
        return jax.tree.map(lambda w, g, s: g + s * w, coef, gradient, strength)

    def common_scale(self, scale: PyTree) -> PyTree:
        return scale

    def curvature(self, coef: PyTree) -> PyTree:
        return per_entry(self.strength, coef)

    def pressure(self, gradient: PyTree) -> PyTree:
        return jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), gradient)

    def on_features(self, coef: PyTree, index: Int[Array, " q"]) -> "Ridge":
        return Ridge(take_rows(self.strength, coef, index))

    def level(self, coef: PyTree, present: Bool[Array, " K"]) -> PyTree:
        strength = per_entry(self.strength, coef)
        return jax.tree.map(where_alike, without_class_mean(coef, present), coef, strength)

    def check(self, coef: PyTree) -> None:
        check_strength(self, coef)
