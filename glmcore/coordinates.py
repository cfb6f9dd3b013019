"""The coordinates in which a problem is solved: features centred, coefficients scaled.

With a centre ``m`` (p,) and a scale ``a`` (p, K),

    coef = a * coef',    intercept = intercept' - m @ coef,

so that ``X @ coef + intercept = (X - m) @ (a * coef') + intercept'``.  The penalty is always
evaluated at ``coef``, on the user's own scale: the change of coordinates moves no optimum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from glmcore.params import GLMParams, split_rows, stack_columns, stack_rows
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty
from glmcore.rounding import compensated_sum, two_product_error


class Coordinates(eqx.Module):
    """An affine change of parameters, frozen with the data it was measured on.

    Parameters
    ----------
    centre : array of shape (p,)
        Subtracted from every row of the features.
    scale : array of shape (p, K)
        Factor from inner to user's coefficients.
    deviation : array of shape (p,)
        Weighted standard deviation of every feature; 0 for a constant one.
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
        weight: Float[Array, " n"],
        penalty: AbstractPenalty,
        n_outputs: int,
        fit_intercept: bool,
    ) -> "Coordinates":
        """Centre and scale of ``X`` under ``weight``, as far as ``penalty`` allows."""
        leaves, structure = jax.tree.flatten(X)
        widths = tuple(leaf.shape[1] for leaf in leaves)
        matrix = _used(stack_columns(X), weight)
        share = (weight / jnp.sum(weight))[:, None]
        centre = jnp.zeros(matrix.shape[1], matrix.dtype)
        if fit_intercept:
            # Twice: the mean of what is left after the first corrects its rounding error.
            centre = jnp.sum(share * matrix, axis=0)
            centre = centre + jnp.sum(share * (matrix - centre[None, :]), axis=0)
        variance = jnp.sum(share * jnp.square(matrix - centre[None, :]), axis=0)
        # A constant feature, seen through the rounding of its mean.
        constant = variance <= jnp.square(2 * jnp.finfo(matrix.dtype).eps * centre)
        deviation = jnp.where(constant, 0, jnp.sqrt(variance))
        scale = jnp.where(constant, 1, 1 / jnp.where(constant, 1, deviation))
        scale = jnp.broadcast_to(scale[:, None], (scale.shape[0], n_outputs))
        return cls(
            centre=centre,
            scale=_allowed_scale(penalty, scale, structure, widths),
            deviation=deviation,
            structure=structure,
            widths=widths,
        )

    def features(
        self, X: PyTree[Float[Array, "n _"]], weight: Float[Array, " n"]
    ) -> Float[Array, "n p"]:
        """Centred features in one matrix; constant ones and rows without weight are 0."""
        centred = stack_columns(X) - self.centre[None, :]
        return _used(jnp.where(self.deviation[None, :] > 0, centred, 0), weight)

    def split(self, coef: Float[Array, "p K"]) -> PyTree[Float[Array, "_ K"]]:
        """Cut a matrix into the leaves that the user's features have."""
        return split_rows(coef, self.structure, self.widths)

    def coef_to_user(self, coef: Float[Array, "p K"]) -> PyTree[Float[Array, "_ K"]]:
        return self.split(self.scale * coef)

    def to_user(self, params: GLMParams) -> GLMParams:
        coef = self.scale * params.coef
        intercept, _ = self.intercept_to_user(params)
        return GLMParams(self.split(coef), intercept)

    def intercept_to_user(
        self, params: GLMParams
    ) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        """The user's intercept, rounded once, and the rounding error that the dtype forces."""
        offsets = self.centre[:, None] * (self.scale * params.coef)
        terms = jnp.concatenate([params.intercept[None, :], -offsets])
        remainder = two_product_error(self.centre[:, None], self.scale * params.coef)
        zero = jnp.zeros_like(params.intercept)[None, :]
        return compensated_sum(terms, jnp.concatenate([zero, -remainder]))

    def from_user(self, params: GLMParams) -> GLMParams:
        coef = stack_rows(params.coef)
        return GLMParams(coef / self.scale, params.intercept + self.centre @ coef)


def _used(matrix: Float[Array, "n p"], weight: Float[Array, " n"]) -> Float[Array, "n p"]:
    # Selected, not multiplied: a row without weight may hold anything, NaN included.
    return jnp.where((weight > 0)[:, None], matrix, 0)


def _allowed_scale(
    penalty: AbstractPenalty,
    scale: Float[Array, "p K"],
    structure: jax.tree_util.PyTreeDef,
    widths: tuple[int, ...],
) -> Float[Array, "p K"]:
    if not isinstance(penalty, AbstractScalablePenalty):
        return jnp.ones_like(scale)
    return stack_rows(penalty.common_scale(split_rows(scale, structure, widths)))
