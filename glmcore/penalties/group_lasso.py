"""The penalty that sets groups of coefficients to zero together."""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from glmcore.penalties.base import AbstractScalablePenalty
from glmcore.penalties.strengths import (
    abbreviate,
    as_strength,
    check_values,
    per_entry,
    show,
    without_class_mean,
)
from glmcore.tree import is_concrete, safe_sqrt


def _as_mask(mask: Optional[PyTree]) -> Optional[PyTree]:
    # A copy: whoever changes theirs later does not change the penalty.
    return jax.tree.map(lambda m: m if isinstance(m, jax.Array) else np.array(m), mask)


class GroupLasso(AbstractScalablePenalty):
    r"""Group lasso: whole groups of coefficients are zero together.

    .. math:: s \sum_g \sqrt{\mathrm{size}(g)} \, \lVert w_g \rVert_2

    Parameters
    ----------
    strength : float or array of shape (n_groups,), default 1.0
        s, not negative.
    mask : array of 0/1 of shape (n_groups, p, K), or a pytree of these, optional
        ``mask[g, j, k]`` is 1 where the coefficient of feature j and class k is in group g.
        Groups must not overlap; entries in no group are not penalised.  Without a mask every
        feature is one group of its K coefficients.  All entries of a group count in its size, those
        that a feature mask or a class without rows holds at zero too.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from glmcore import GroupLasso
    >>> GroupLasso(0.0).prox(jnp.array([[3.0, 4.0], [0.1, 0.2]]), 1.0)
    Array([[3. , 4. ],
           [0.1, 0.2]], dtype=float32)
    >>> GroupLasso(1.0).prox(jnp.array([[0.1, 0.2]]), 1.0)
    Array([[0., 0.]], dtype=float32)
    """

    strength: PyTree = eqx.field(default=1.0, converter=as_strength)
    mask: Optional[PyTree] = eqx.field(default=None, converter=_as_mask)
    smooth = False

    def __repr__(self) -> str:
        return show(self)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        return jnp.sum(self._threshold(groups, norm) * norm)

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        threshold = self._threshold(groups, norm) * groups.max(per_entry(step, coef))
        return groups.scale(coef, _shrink_factor(norm, threshold))

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        threshold = self._threshold(groups, norm)
        zero = norm == 0
        push = jnp.where(zero, 0, threshold / jnp.where(zero, 1, norm))
        inside = _shrink_factor(safe_sqrt(groups.sum(jnp.square, gradient)), threshold)
        shrunk = groups.scale(gradient, jnp.where(zero, inside, 1))
        return jax.tree.map(jnp.add, shrunk, groups.scale(coef, push, outside=0.0))

    def common_scale(self, scale: PyTree) -> PyTree:
        groups = self._groups(scale)
        log_sum = groups.sum(jnp.log, scale)
        log_mean = log_sum / jnp.maximum(groups.sizes, 1).astype(log_sum.dtype)
        return groups.select(jnp.exp(log_mean), scale)

    def curvature(self, coef: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, coef)

    def pressure(self, gradient: PyTree) -> PyTree:
        groups = self._groups(gradient)
        norm = safe_sqrt(groups.sum(jnp.square, gradient))
        threshold = self._threshold(groups, norm)
        penalised = threshold > 0
        ratio = jnp.where(penalised, norm / jnp.where(penalised, threshold, 1), jnp.inf)
        return groups.select(ratio, jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), gradient))

    def groups(self, coef: PyTree) -> PyTree:
        return self._groups(coef).index

    def on_features(
        self, coef: PyTree, index: Int[Array, " q"]
    ) -> Optional["GroupLasso"]:
        if self.mask is not None:
            return None
        strength = jnp.asarray(self.strength)
        return GroupLasso(strength[index] if strength.ndim else strength)

    def level(self, coef: PyTree, present: Bool[Array, " K"]) -> PyTree:
        levelled = without_class_mean(coef, present)
        if self.mask is None:
            return levelled
        # Only a feature none of whose coefficients is in a group has a free level.
        free = jax.tree.map(lambda m: ~jnp.any(m > 0, axis=(0, 2))[:, None], self.mask)
        return jax.tree.map(jnp.where, free, levelled, coef)

    def check(self, coef: PyTree) -> None:
        check_values("GroupLasso", self.strength)
        if self.mask is not None:
            _check_mask(self.mask, coef)
        n_groups = self._groups(coef).n_groups
        found = [np.shape(leaf) for leaf in jax.tree.leaves(self.strength)]
        if found not in ([()], [(n_groups,)]) or not jax.tree_util.all_leaves([self.strength]):
            raise ValueError(
                f"GroupLasso: strength must be a number or of shape ({n_groups},), one a group; "
                f"found shape {found[0] if len(found) == 1 else found}"
            )

    def _groups(self, coef: PyTree) -> "_Groups":
        if self.mask is None:
            return _Groups.of_features(coef)
        return _Groups.of_mask(self.mask)

    def _threshold(self, groups: "_Groups", norm: Array) -> Float[Array, " n_groups"]:
        return jnp.asarray(self.strength).astype(norm.dtype) * jnp.sqrt(
            groups.sizes.astype(norm.dtype)
        )


class _Groups(eqx.Module):
    """Sums over groups; ``index`` holds the group of each entry, n_groups meaning none."""

    index: PyTree
    n_groups: int = eqx.field(static=True)
    sizes: Array

    @classmethod
    def of_features(cls, coef: PyTree) -> "_Groups":
        leaves, structure = jax.tree.flatten(coef)
        index, start = [], 0
        for leaf in leaves:
            rows = np.arange(start, start + leaf.shape[0])[:, None]
            index.append(np.broadcast_to(rows, leaf.shape))
            start += leaf.shape[0]
        sizes = jnp.full((start,), leaves[0].shape[-1])
        return cls(jax.tree.unflatten(structure, index), start, sizes)

    @classmethod
    def of_mask(cls, mask: PyTree) -> "_Groups":
        n_groups = jax.tree.leaves(mask)[0].shape[0]

        def index(m):
            member = jnp.asarray(m) > 0
            return jnp.where(jnp.any(member, axis=0), jnp.argmax(member, axis=0), n_groups)

        sizes = sum(jnp.sum(jnp.asarray(m) > 0, axis=(1, 2)) for m in jax.tree.leaves(mask))
        return cls(jax.tree.map(index, mask), n_groups, sizes)

    def sum(self, function, tree: PyTree) -> Float[Array, " n_groups"]:
        def of_leaf(leaf, index):
            return jax.ops.segment_sum(
                function(leaf).ravel(), jnp.ravel(index), num_segments=self.n_groups + 1
            )

        return sum(jax.tree.leaves(jax.tree.map(of_leaf, tree, self.index)))[:-1]

    def max(self, tree: PyTree) -> Float[Array, " n_groups"]:
        """The largest of the entries (none negative) of each group."""

        def of_leaf(leaf, index):
            zeros = jnp.zeros(self.n_groups + 1, leaf.dtype)
            return zeros.at[jnp.ravel(index)].max(leaf.ravel())

        leaves = jax.tree.leaves(jax.tree.map(of_leaf, tree, self.index))
        return jnp.max(jnp.stack(leaves), axis=0)[:-1]

    def select(self, per_group: Array, outside: PyTree) -> PyTree:
        """Entries of their group's value, and of ``outside`` where they are in none."""

        def of_leaf(index, other):
            values = jnp.append(per_group, 0)[index].astype(other.dtype)
            return jnp.where(index == self.n_groups, other, values)

        return jax.tree.map(of_leaf, self.index, outside)

    def scale(self, tree: PyTree, factor: Array, outside: float = 1.0) -> PyTree:
        """Multiply each group by its factor, and entries in no group by ``outside``."""
        extended = jnp.append(factor, outside)
        return jax.tree.map(
            lambda leaf, index: leaf * extended[index].astype(jnp.result_type(leaf, extended)), tree, self.index
        )


def _shrink_factor(norm: Array, threshold: Array) -> Array:
    return jnp.maximum(1 - threshold / jnp.where(norm > 0, norm, 1), 0)


def _check_mask(mask: PyTree, coef: PyTree) -> None:
    if jax.tree.structure(mask) != jax.tree.structure(coef):
        raise ValueError(
            f"GroupLasso: mask must mirror the features {jax.tree.structure(coef)}, "
            f"found {jax.tree.structure(mask)}"
        )
    leaves = list(zip(jax.tree.leaves(mask), jax.tree.leaves(coef)))
    n_groups = np.shape(leaves[0][0])[0] if np.ndim(leaves[0][0]) else 0
    for m, w in leaves:
        if np.shape(m) != (n_groups, *w.shape) or n_groups == 0:
            expected = ", ".join(map(str, ("n_groups", *w.shape)))
            raise ValueError(
                f"GroupLasso: mask must have shape ({expected}), found {np.shape(m)}"
            )
        if not is_concrete(m):
            continue
        m = np.asarray(m)
        if not np.all((m == 0) | (m == 1)):
            raise ValueError(f"GroupLasso: mask must hold 0 and 1 only, found {abbreviate(m)}")
        if np.any(m.sum(axis=0) > 1):
            entry = tuple(int(i) for i in np.argwhere(m.sum(axis=0) > 1)[0])
            raise ValueError(
                f"GroupLasso: groups must not overlap, but coef{list(entry)} is in groups "
                f"{np.flatnonzero(m[(slice(None), *entry)]).tolist()}"
            )
