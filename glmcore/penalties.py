"""Penalties on the coefficients: their value, their proximal operator and what a solver asks.

Strengths are array fields: another strength is another value, never another program.  A
strength is a scalar, an array that broadcasts to ``coef``, or a pytree that mirrors a pytree
``coef``.
"""

import abc
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from glmcore.tree import is_concrete, safe_sqrt, tree_sum


class AbstractPenalty(eqx.Module):
    r"""What a penalty is to the library; subclass it to bring your own.

    ``smooth`` says whether ``value`` can be differentiated everywhere; then that is all that a
    solver for smooth problems asks.  ``ProximalGradient`` asks for a method besides,

    .. math:: prox(coef, step) = \arg\min_u \tfrac12 \lVert u - coef \rVert^2 + step \cdot value(u)

    where ``step`` is a number, or entries that broadcast to ``coef`` (then the quadratic term is
    divided by them entry by entry).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> class Smoothness(glmcore.AbstractPenalty):
    ...     smooth = True
    ...     def value(self, coef):
    ...         return jnp.sum(jnp.diff(coef, axis=0) ** 2)
    >>> Smoothness().value(jnp.array([[0.0], [1.0], [3.0]]))
    Array(5., dtype=float32)
    """

    smooth: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def value(self, coef: PyTree) -> Float[Array, ""]:
        """The penalty of ``coef``."""


class AbstractScalablePenalty(AbstractPenalty):
    """A penalty that can be carried exactly through a rescaling of the features."""

    @abc.abstractmethod
    def prox(self, coef: PyTree, step: Any) -> PyTree:
        """Proximal operator, see :class:`AbstractPenalty`."""

    @abc.abstractmethod
    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        """The element of least norm of ``gradient`` + the subdifferential at ``coef``."""

    @abc.abstractmethod
    def common_scale(self, scale: PyTree) -> PyTree:
        """The closest scale (per entry of coef) under which the prox keeps its closed form."""

    @abc.abstractmethod
    def curvature(self, coef: PyTree) -> PyTree:
        """Second derivative of the quadratic part, per entry of ``coef``."""

    @abc.abstractmethod
    def level(self, coef: PyTree) -> PyTree:
        """Shift the classes of each feature by the constant that costs least, of several the
        one of least l2 norm.  The softmax does not see such a shift."""

    @abc.abstractmethod
    def check(self, coef: PyTree) -> None:
        """Raise a ValueError if a strength has a bad value or does not fit ``coef``."""


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

    def level(self, coef: PyTree) -> PyTree:
        return jax.tree.map(_without_class_mean, coef)

    def check(self, coef: PyTree) -> None:
        pass


def _as_strength(strength: PyTree) -> PyTree:
    # NumPy scalars, not Python floats, which a jit would bake into the program; float64, so
    # that nothing is lost before the dtype of the data is known.
    def convert(leaf):
        return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype=np.float64)

    return jax.tree.map(convert, strength)


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

    strength: PyTree = eqx.field(default=1.0, converter=_as_strength)
    smooth = True

    def __repr__(self) -> str:
        return _repr(self)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        return tree_sum(lambda w, s: s * w * w / 2, coef, _match(self.strength, coef))

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        strength, step = _match(self.strength, coef), _match(step, coef)
        return jax.tree.map(lambda v, s, t: v / (1 + t * s), coef, strength, step)

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        strength = _match(self.strength, coef)
        return jax.tree.map(lambda w, g, s: g + s * w, coef, gradient, strength)

    def common_scale(self, scale: PyTree) -> PyTree:
        return scale

    def curvature(self, coef: PyTree) -> PyTree:
        return _match(self.strength, coef)

    def level(self, coef: PyTree) -> PyTree:
        return _shift_classes(_without_class_mean, coef, self.strength)

    def check(self, coef: PyTree) -> None:
        _check_strength(self, coef)


class Lasso(AbstractScalablePenalty):
    r"""l1 penalty, which sets coefficients to exactly zero.

    .. math:: s \sum |w|

    Parameters
    ----------
    strength : float, array or pytree, default 1.0
        s, not negative: a number, an array that broadcasts to coef, or a pytree of these.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from glmcore import Lasso
    >>> Lasso(0.5).prox(jnp.array([[3.0, -0.2]]), 1.0)
    Array([[2.5, 0. ]], dtype=float32)
    """

    strength: PyTree = eqx.field(default=1.0, converter=_as_strength)
    smooth = False

    def __repr__(self) -> str:
        return _repr(self)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        return tree_sum(lambda w, s: s * jnp.abs(w), coef, _match(self.strength, coef))

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        strength, step = _match(self.strength, coef), _match(step, coef)
        return jax.tree.map(lambda v, s, t: _shrink(v, t * s), coef, strength, step)

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        strength = _match(self.strength, coef)
        return jax.tree.map(_l1_subgradient, coef, gradient, strength)

    def common_scale(self, scale: PyTree) -> PyTree:
        return scale

    def curvature(self, coef: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, coef)

    def level(self, coef: PyTree) -> PyTree:
        return _shift_classes(lambda w: w - _l1_level(w, jnp.inf), coef, self.strength)

    def check(self, coef: PyTree) -> None:
        _check_strength(self, coef)


class ElasticNet(AbstractScalablePenalty):
    r"""A mixture of the Lasso and Ridge.

    .. math:: s \left(r \sum |w| + \tfrac12 (1 - r) \sum w^2\right)

    Parameters
    ----------
    strength : float, array or pytree, default 1.0
        s, not negative: a number, an array that broadcasts to coef, or a pytree of these.
    ratio : float, array or pytree, default 0.5
        r, the share of the l1 part, 0 < r <= 1.

    Examples
    --------
    >>> from glmcore import ElasticNet
    >>> ElasticNet(0.1, 0.9)
    ElasticNet(0.1, 0.9)
    """

    strength: PyTree = eqx.field(default=1.0, converter=_as_strength)
    ratio: PyTree = eqx.field(default=0.5, converter=_as_strength)
    smooth = False

    def __repr__(self) -> str:
        return _repr(self)

    def _parts(self, coef: PyTree) -> tuple[PyTree, PyTree]:
        strength, ratio = _match(self.strength, coef), _match(self.ratio, coef)
        l1 = jax.tree.map(jnp.multiply, strength, ratio)
        return l1, jax.tree.map(lambda s, r: s * (1 - r), strength, ratio)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        return tree_sum(lambda w, a, b: a * jnp.abs(w) + b * w * w / 2, coef, *self._parts(coef))

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        def shrink(v, a, b, t):
            return _shrink(v, t * a) / (1 + t * b)

        return jax.tree.map(shrink, coef, *self._parts(coef), _match(step, coef))

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        def subgradient(w, g, a, b):
            return _l1_subgradient(w, g + b * w, a)

        return jax.tree.map(subgradient, coef, gradient, *self._parts(coef))

    def common_scale(self, scale: PyTree) -> PyTree:
        return scale

    def curvature(self, coef: PyTree) -> PyTree:
        return self._parts(coef)[1]

    def level(self, coef: PyTree) -> PyTree:
        def shift(w, ratio):
            return w - _l1_level(w, ratio[..., :1] / (1 - ratio[..., :1]))

        if _differs_by_class((self.strength, self.ratio)):
            return coef
        return jax.tree.map(shift, coef, _match(self.ratio, coef))

    def check(self, coef: PyTree) -> None:
        _check_strength(self, coef)
        _check_fits(self, "ratio", self.ratio, coef)
        if is_concrete(self.ratio):
            for ratio in map(np.asarray, jax.tree.leaves(self.ratio)):
                if not np.all((ratio > 0) & (ratio <= 1)):
                    raise ValueError(f"ElasticNet: ratio must be in (0, 1], found {_short(ratio)}")


def _as_mask(mask: Optional[PyTree]) -> Optional[PyTree]:
    return jax.tree.map(lambda m: m if isinstance(m, jax.Array) else np.asarray(m), mask)


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
        feature is one group of its K coefficients.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from glmcore import GroupLasso
    >>> GroupLasso(1.0).prox(jnp.array([[3.0, 4.0], [0.1, 0.2]]), 1.0).round(3)
    Array([[2.151, 2.869],
           [0.   , 0.   ]], dtype=float32)
    """

    strength: PyTree = eqx.field(default=1.0, converter=_as_strength)
    mask: Optional[PyTree] = eqx.field(default=None, converter=_as_mask)
    smooth = False

    def __repr__(self) -> str:
        return _repr(self)

    def value(self, coef: PyTree) -> Float[Array, ""]:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        return jnp.sum(self._threshold(groups, norm) * norm)

    def prox(self, coef: PyTree, step: Any) -> PyTree:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        threshold = self._threshold(groups, norm) * groups.max(_match(step, coef))
        return groups.scale(coef, _shrink_factor(norm, threshold))

    def least_subgradient(self, coef: PyTree, gradient: PyTree) -> PyTree:
        groups = self._groups(coef)
        norm = safe_sqrt(groups.sum(jnp.square, coef))
        threshold = self._threshold(groups, norm)
        zero = norm == 0
        push = jnp.where(zero, 0, threshold / jnp.where(zero, 1, norm))
        inside = _shrink_factor(safe_sqrt(groups.sum(jnp.square, gradient)), threshold)
        shrunk = groups.scale(gradient, jnp.where(zero, inside, 1))
        return jax.tree.map(jnp.add, shrunk, groups.scale(coef, push, outside=0))

    def common_scale(self, scale: PyTree) -> PyTree:
        groups = self._groups(scale)
        log_sum = groups.sum(jnp.log, scale)
        log_mean = log_sum / jnp.maximum(groups.sizes, 1).astype(log_sum.dtype)
        return groups.select(jnp.exp(log_mean), scale)

    def curvature(self, coef: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, coef)

    def level(self, coef: PyTree) -> PyTree:
        if self.mask is None:
            return _shift_classes(_without_class_mean, coef, 0.0)
        # Only a feature none of whose coefficients is in a group has a free level.
        free = jax.tree.map(lambda m: ~jnp.any(m > 0, axis=(0, 2))[:, None], self.mask)
        shift = _without_class_mean
        return jax.tree.map(lambda f, w: jnp.where(f, shift(w), w), free, coef)

    def check(self, coef: PyTree) -> None:
        _check_values("GroupLasso", self.strength)
        if self.mask is not None:
            _check_mask(self.mask, coef)
        n_groups = self._groups(coef).n_groups
        if np.shape(self.strength) not in ((), (n_groups,)):
            raise ValueError(
                f"GroupLasso: strength must be a number or of shape ({n_groups},), one a group; "
                f"found shape {np.shape(self.strength)}"
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

    def scale(self, tree: PyTree, factor: Array, outside: float = 1) -> PyTree:
        """Multiply each group by its factor, and entries in no group by ``outside``."""
        extended = jnp.append(factor, outside)
        return jax.tree.map(
            lambda leaf, index: leaf * extended[index].astype(leaf.dtype), tree, self.index
        )


def _match(strength: PyTree, coef: PyTree) -> PyTree:
    """One strength a leaf of ``coef``, in its dtype and broadcast to its shape."""
    if jax.tree.structure(strength) != jax.tree.structure(coef):
        strength = jax.tree.map(lambda _: strength, coef)
    return jax.tree.map(
        lambda s, w: jnp.broadcast_to(jnp.asarray(s).astype(w.dtype), w.shape), strength, coef
    )


def _shrink(v: Array, threshold: Array) -> Array:
    return v - jnp.clip(v, -threshold, threshold)


def _shrink_factor(norm: Array, threshold: Array) -> Array:
    return jnp.maximum(1 - threshold / jnp.where(norm > 0, norm, 1), 0)


def _l1_subgradient(w: Array, gradient: Array, strength: Array) -> Array:
    return jnp.where(w == 0, _shrink(gradient, strength), gradient + strength * jnp.sign(w))


def _without_class_mean(coef: Array) -> Array:
    return coef - jnp.mean(coef, axis=-1, keepdims=True)


def _l1_level(coef: Array, l1_per_l2: Any) -> Array:
    r"""The u that minimises :math:`\sum_k l_1 |w_k - u| + \tfrac12 l_2 (w_k - u)^2` in each row.

    It is the median of the K entries and the K + 1 zeros that the derivative has where j of
    them are below u (Li & Osher, 2009).  For l2 = 0 the latter are infinite but for the mean
    in the middle (K even): of all medians the one nearest to the mean.
    """
    n_classes = coef.shape[-1]
    mean = jnp.mean(coef, axis=-1, keepdims=True)
    excess = (n_classes - 2 * np.arange(n_classes + 1)) / n_classes
    excess = excess.reshape((1,) * (coef.ndim - 1) + (-1,)).astype(coef.dtype)
    zeros = jnp.where(excess == 0, mean, mean + l1_per_l2 * excess)
    candidates = jnp.sort(jnp.concatenate([coef, zeros], axis=-1), axis=-1)
    return candidates[..., n_classes, None]


def _differs_by_class(strength: PyTree) -> bool:
    return any(np.ndim(s) > 0 and np.shape(s)[-1] > 1 for s in jax.tree.leaves(strength))


def _shift_classes(shift, coef: PyTree, strength: PyTree) -> PyTree:
    """Apply ``shift`` unless strengths that differ between classes fix the level."""
    return coef if _differs_by_class(strength) else jax.tree.map(shift, coef)


def _check_strength(penalty: AbstractPenalty, coef: PyTree) -> None:
    _check_values(type(penalty).__name__, penalty.strength)
    _check_fits(penalty, "strength", penalty.strength, coef)


def _check_values(name: str, strength: PyTree) -> None:
    if not is_concrete(strength):
        return
    for leaf in map(np.asarray, jax.tree.leaves(strength)):
        if not np.all(np.isfinite(leaf) & (leaf >= 0)):
            raise ValueError(
                f"{name}: strength must be finite and not negative, found {_short(leaf)}"
            )


def _check_fits(penalty: AbstractPenalty, field: str, strength: PyTree, coef: PyTree) -> None:
    name = f"{type(penalty).__name__}: {field}"
    leaves = jax.tree.leaves(strength)
    if jax.tree.structure(strength) != jax.tree.structure(coef):
        if len(leaves) != 1 or jax.tree.structure(strength) != jax.tree.structure(0):
            raise ValueError(
                f"{name} must be one number or array, or mirror the features "
                f"{jax.tree.structure(coef)}; found {jax.tree.structure(strength)}"
            )
        leaves = leaves * len(jax.tree.leaves(coef))
    for leaf, w in zip(leaves, jax.tree.leaves(coef)):
        try:
            fits = np.broadcast_shapes(np.shape(leaf), w.shape) == w.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} of shape {np.shape(leaf)} does not broadcast to coef of shape {w.shape}"
            )


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
            raise ValueError(f"GroupLasso: mask must hold 0 and 1 only, found {_short(m)}")
        if np.any(m.sum(axis=0) > 1):
            entry = tuple(int(i) for i in np.argwhere(m.sum(axis=0) > 1)[0])
            raise ValueError(
                f"GroupLasso: groups must not overlap, but coef{list(entry)} is in groups "
                f"{np.flatnonzero(m[(slice(None), *entry)]).tolist()}"
            )


def _short(values: np.ndarray) -> str:
    return np.array2string(np.asarray(values), threshold=8, edgeitems=3)


def _repr(penalty: AbstractPenalty) -> str:
    """``Ridge()`` at the default strength, ``Ridge(0.1)`` otherwise."""

    def show(value):
        leaf = isinstance(value, (np.ndarray, jax.Array))
        if not leaf or not is_concrete(value):
            return eqx.tree_pformat(value)
        return repr(value.item()) if value.ndim == 0 else f"array{value.shape}"

    default = type(penalty)()
    fields = ["strength", *({"ElasticNet": ["ratio"], "GroupLasso": ["mask"]}.get(type(penalty).__name__, []))]
    shown = {f: show(getattr(penalty, f)) for f in fields}
    changed = [f for f in fields if shown[f] != show(getattr(default, f))]
    if not changed:
        return f"{type(penalty).__name__}()"
    upto = fields[: fields.index(changed[-1]) + 1]
    return f"{type(penalty).__name__}({', '.join(shown[f] for f in upto)})"
