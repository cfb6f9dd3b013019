"""The coordinates in which a problem is solved: features centred, coefficients scaled.

With a centre ``m`` (p,) and a scale ``a`` (p, K),

    coef = a * coef',    intercept = intercept' - m @ coef,

so that ``X @ coef + intercept = (X - m) @ (a * coef') + intercept'``.  The penalty is always
evaluated at ``coef``, on the user's own scale: the change of coordinates moves no optimum.
"""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from glmcore.params import GLMParams, split_rows, stack_columns, stack_rows
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty
from glmcore.rounding import compensated_dot
from glmcore.rows import row_squares, row_sums
from glmcore.tree import safe_sqrt, where_needed

#: Roundings of the centre below which a deviation may be no deviation at all.
CENTRE_ROUNDINGS = 1000


class Coordinates(eqx.Module):
    """An affine change of parameters, frozen with the data it was measured on.

    Parameters
    ----------
    centre : array of shape (p,)
        Subtracted from every row of the features.
    scale : array of shape (p, K)
        Factor from inner to user's coefficients.
    deviation : array of shape (p,)
        Weighted standard deviation of every feature; 0 for a constant one, but see
        :meth:`of_stream`.
    """

    centre: Float[Array, " p"]
    scale: Float[Array, "p K"]
    deviation: Float[Array, " p"]
    structure: jax.tree_util.PyTreeDef = eqx.field(static=True)
    widths: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def measure(
        cls,
        X: PyTree[Float[Array, "n _"]],
        share: Float[Array, " n"],
        penalty: AbstractPenalty,
        n_outputs: int,
        fit_intercept: bool,
        moments: Optional[tuple[Float[Array, " p"], Float[Array, " p"]]] = None,
        in_lanes: bool = False,
    ) -> tuple["Coordinates", Float[Array, "n p"]]:
        """Centre and scale of ``X`` under weights that sum to one, as far as ``penalty`` allows, and
        the centred features; with ``moments``, centre and deviation, ``X`` has been centred
        before.  ``in_lanes`` costs less under vmap and cannot be differentiated."""
        leaves, structure = jax.tree.flatten(X)
        widths = tuple(leaf.shape[1] for leaf in leaves)
        features = stack_columns(X)
        if moments is not None:
            return cls.of(*moments, penalty, n_outputs, structure, widths), features
        if fit_intercept:
            centre = row_sums(share[None, :], features)[0]
            features = features - centre[None, :]
        else:
            centre = jnp.zeros(features.shape[1], features.dtype)
        deviation = _deviation(features, centre, share, fit_intercept, in_lanes)
        return cls.of(centre, deviation, penalty, n_outputs, structure, widths), features

    @classmethod
    def of(
        cls,
        centre: Float[Array, " p"],
        deviation: Float[Array, " p"],
        penalty: AbstractPenalty,
        n_outputs: int,
        structure: jax.tree_util.PyTreeDef,
        widths: tuple[int, ...],
    ) -> "Coordinates":
        """Features to unit variance, as far as ``penalty`` allows."""
        constant = deviation == 0
        scale = jnp.where(constant, 1, 1 / jnp.where(constant, 1, deviation))
        scale = jnp.broadcast_to(scale[:, None], (scale.shape[0], n_outputs))
        scale = _allowed_scale(penalty, scale, structure, widths)
        return cls(centre, scale, deviation, structure, widths)

    def of_stream(self, penalty: AbstractPenalty) -> "Coordinates":
        """The same where features that do not vary here may do so later: until they are seen to,
        their size stands in for their deviation, or 1 where that is 0."""
        size = jnp.where(self.centre == 0, 1, jnp.abs(self.centre))
        deviation = jnp.where(self.deviation > 0, self.deviation, size)
        n_outputs = self.scale.shape[1]
        return self.of(self.centre, deviation, penalty, n_outputs, self.structure, self.widths)

    def features(self, X: PyTree[Float[Array, "n _"]]) -> Float[Array, "n p"]:
        """Centred features in one matrix."""
        return stack_columns(X) - self.centre[None, :]

    @property
    def varying_scale(self) -> Float[Array, "p K"]:
        """The scale, 0 for constant features: in sums over rows they play no part."""
        return jnp.where(self.deviation[:, None] > 0, self.scale, 0)

    @property
    def unit(self) -> Float[Array, " p"]:
        """By what a feature is multiplied to have unit variance; 0 for a constant one."""
        varies = self.deviation > 0
        return jnp.where(varies, 1 / jnp.where(varies, self.deviation, 1), 0)

    def on_features(self, index: Int[Array, " q"]) -> "Coordinates":
        """Those of chosen features, in one matrix."""
        parts = (self.centre[index], self.scale[index], self.deviation[index])
        return Coordinates(*parts, jax.tree.structure(0), (index.size,))

    def split(self, coef: Float[Array, "p K"]) -> PyTree[Float[Array, "_ K"]]:
        """Cut a matrix into the leaves that the user's features have."""
        return split_rows(coef, self.structure, self.widths)

    def coef_to_user(self, coef: Float[Array, "p K"]) -> PyTree[Float[Array, "_ K"]]:
        return self.split(self.scale * coef)

    def to_user(self, params: GLMParams) -> GLMParams:
        return self.to_user_and_cut(params)[0]

    def to_user_and_cut(
        self, params: GLMParams, level: Float[Array, ""] | float = 0.0
    ) -> tuple[GLMParams, Float[Array, " K"]]:
        """The user's parameters, with an intercept that is lower by ``level``, and what its rounding, once, cut off."""
        coef, centre = self.scale * params.coef, self.centre[:, None]
        terms = jnp.stack([params.intercept, jnp.full_like(params.intercept, -level)])
        intercept, cut = compensated_dot(terms, -centre, coef)
        return GLMParams(self.split(coef), intercept), cut

    def from_user(self, params: GLMParams) -> GLMParams:
        coef = stack_rows(params.coef)
        return GLMParams(coef / self.scale, params.intercept + self.centre @ coef)


def is_sure(second: Any, centre: Any, info: Any) -> Any:
    """Whether second moments around a rounded centre tell the variance: what is large against the
    rounding error of the centre has its mean at 0.  For arrays of NumPy or JAX."""
    noise = (CENTRE_ROUNDINGS * info.eps * centre) ** 2
    return (second > noise) & (second > info.tiny / info.eps) & (second <= info.max)


def _deviation(
    features: Float[Array, "n p"],
    centre: Float[Array, " p"],
    share: Float[Array, " n"],
    fit_intercept: bool,
    in_lanes: bool,
) -> Float[Array, " p"]:
    """Standard deviation of each centred feature, exactly 0 for one that does not vary."""
    info = jnp.finfo(features.dtype)
    second = row_squares(share, features)
    doubtful = ~is_sure(second, centre, info)

    def look_closer(features, share):
        used = (share > 0)[:, None]
        low = jnp.min(jnp.where(used, features, jnp.inf), axis=0)
        high = jnp.max(jnp.where(used, features, -jnp.inf), axis=0)
        size = jnp.maximum(jnp.abs(low), jnp.abs(high))
        unit = jnp.where(size > 0, size, 1)  # squares neither overflow nor vanish
        scaled = features / unit[None, :]
        mean = row_sums(share[None, :], scaled)[0]
        variance = row_squares(share, scaled) - fit_intercept * jnp.square(mean)
        deviation = unit * safe_sqrt(variance)
        # Below the root of the smallest number the inverse square has no value.
        constant = (low == high) | (deviation < jnp.sqrt(info.tiny))
        return jnp.where(constant, 0, deviation)

    rows = (features, share)
    if in_lanes:
        closer = where_needed(jnp.any(doubtful), look_closer, *rows)
    else:
        zero = jnp.zeros_like(second)
        closer = jax.lax.cond(jnp.any(doubtful), look_closer, lambda *_: zero, *rows)
    return jnp.where(doubtful, closer, safe_sqrt(second))


def _allowed_scale(
    penalty: AbstractPenalty,
    scale: Float[Array, "p K"],
    structure: jax.tree_util.PyTreeDef,
    widths: tuple[int, ...],
) -> Float[Array, "p K"]:
    if not isinstance(penalty, AbstractScalablePenalty):
        return jnp.ones_like(scale)
    return stack_rows(penalty.common_scale(split_rows(scale, structure, widths)))
