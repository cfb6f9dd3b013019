"""A fit as a solver sees it: a loss of the linear predictor, a penalty, scaled coefficients."""

import abc
from typing import Any, ClassVar, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.observations import AbstractObservations, InverseLink, is_log_softmax
from glmcore.params import GLMParams, stack_rows
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty
from glmcore.tree import tree_norm

#: Added to the linear predictor of a class without weight: its probability underflows to 0.
_ABSENT = -1e5
#: Up to so many times the dtype's relative rounding error the whole of :attr:`Problem.rounding` is
#: allowed for.  It is a bound: 1 to 9 % of it were found, and a smaller ``tol`` gets a share.
_ROUNDING_WORTH = 25
#: By how much coefficients are multiplied to see whether a penalty holds them at all.
_FAR = 2.0**40
#: Hessian products that estimate the curvature of a penalty the library does not know.
_PROBES = 16


class Extremes(eqx.Module):
    """Largest values over samples; that of two sets of samples is the larger of the two.

    ``behind`` and ``ahead``: by how much the label of a sample is behind or ahead of the best
    other class.  Over the samples of each class ``top`` is the largest centred linear predictor
    and ``inside`` the largest of its negative, over all others ``outside`` and ``bottom``.
    """

    behind: Float[Array, ""]
    ahead: Float[Array, ""]
    inside: Float[Array, " K"]
    outside: Float[Array, " K"]
    top: Float[Array, " K"]
    bottom: Float[Array, " K"]


class Look(eqx.Module):
    """The loss where the linear predictor is ``eta``, its derivative in that, which is the
    ``residual``, and in the parameters."""

    eta: Float[Array, "C n"]
    loss: Float[Array, ""]
    residual: Float[Array, "C n"]
    gradient: GLMParams


class Problem(eqx.Module):
    r"""The objective of a fit in centred and scaled coordinates.

    .. math:: F(w, b) = \sum_i \omega_i \ell_i(\eta_i) + P(a w), \quad
              \eta = (X - m)(a w) + b, \quad \sum_i \omega_i = 1

    Everything that touches n rows goes through the methods that are abstract here.  ``y`` and
    ``weight`` are the labels of the samples and their shares of the total weight, or of groups of
    samples with one label; ``n_rows``, perhaps rounded, is for guesses at what is worth its cost.
    What a solver keeps as the linear predictor is C contrasts of the K outputs: one of two classes,
    see :meth:`AbstractObservations.contrasts`.  Coefficients where ``mask`` is False are zero:
    nothing here sees or gives others.
    """

    y: eqx.AbstractVar[Int[Array, " n"]]
    weight: eqx.AbstractVar[Float[Array, " n"]]
    present: eqx.AbstractVar[Bool[Array, " K"]]
    coordinates: eqx.AbstractVar[Coordinates]
    observations: eqx.AbstractVar[AbstractObservations]
    penalty: eqx.AbstractVar[AbstractPenalty]
    mask: eqx.AbstractVar[Optional[Bool[Array, "p K"]]]
    inverse_link: eqx.AbstractVar[InverseLink]
    fit_intercept: eqx.AbstractVar[bool]
    n_rows: eqx.AbstractVar[int]
    #: Whether the predictor of a sum is the sum of the predictors to the last bit.
    predicts_exactly: ClassVar[bool] = False

    def start(self, params: GLMParams) -> GLMParams:
        """Inner parameters without what this problem has no place for: an intercept where none
        is fitted, coefficients that are masked or of classes that are left out."""
        coef = self.masked(jnp.where(self.present[None, :], params.coef, 0))
        intercept = params.intercept if self.fit_intercept else jnp.zeros_like(params.intercept)
        return GLMParams(coef, intercept)

    def masked(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        """``coef`` with zeros where the mask has them."""
        return coef if self.mask is None else jnp.where(self.mask, coef, 0)

    @property
    def stretch(self) -> Float[Array, "p K"]:
        """Factor from inner coefficients to those of the features; 0 where there is nothing to fit."""
        return self.masked(self.coordinates.varying_scale)

    # The loss, through the linear predictor

    @abc.abstractmethod
    def predictor(self, params: GLMParams) -> Float[Array, "C n"]:
        """The linear predictor, linear in ``params``: a sum of steps is a sum of predictors."""

    @abc.abstractmethod
    def loss_and_residual(
        self, eta: Float[Array, "C n"]
    ) -> tuple[Float[Array, ""], Float[Array, "C n"]]:
        """The loss and its derivative in every entry of the linear predictor."""

    @abc.abstractmethod
    def divergence(
        self, change: Float[Array, "C n"], eta: Float[Array, "C n"]
    ) -> Float[Array, ""]:
        """By how much the loss at ``eta + change`` exceeds its tangent at ``eta``."""

    @abc.abstractmethod
    def gradient(self, residual: Float[Array, "C n"]) -> GLMParams:
        """Gradient of the loss in ``params`` from that in the linear predictor."""

    @abc.abstractmethod
    def hessian_product(
        self, direction: GLMParams, eta: Float[Array, "C n"]
    ) -> GLMParams:
        """The Hessian of the loss times ``direction``."""

    @abc.abstractmethod
    def sampled(
        self, eta: Float[Array, "C n"], least: int
    ) -> tuple[Float[Array, "m p"], Int[Array, " m"], Float[Array, " m"], Float[Array, "C m"]]:
        """Features, labels, weights and linear predictors of rows spread evenly, ``least`` of them
        or up to twice as many, which stand for all where a Hessian is estimated."""

    @abc.abstractmethod
    def null_predictor(self) -> Float[Array, "C n"]:
        """The linear predictor of :meth:`null_params`, without a look at the features."""

    @abc.abstractmethod
    def null_optimality(self) -> Float[Array, ""]:
        """Gradient norm of the loss at the null model: the yardstick of ``tol``."""

    @abc.abstractmethod
    def triangle(self) -> tuple[Float[Array, "m p"], Int[Array, ""]]:
        """The triangular factor of the rows with weight, each feature scaled to unit variance,
        and their number."""

    @abc.abstractmethod
    def extremes(self, params: GLMParams) -> Extremes:
        """How far the linear predictors of the samples reach, class by class."""

    def look(self, eta: Float[Array, "C n"]) -> Look:
        """Loss, residual and gradient where the linear predictor is ``eta``: one product back."""
        loss, residual = self.loss_and_residual(eta)
        return Look(eta, loss, residual, self.gradient(residual))

    def loss(self, eta: Float[Array, "C n"]) -> Float[Array, ""]:
        return self.loss_and_residual(eta)[0]  # XLA drops what nobody uses

    def hessian(
        self, eta: Float[Array, "C m"], y: Int[Array, " m"]
    ) -> Float[Array, "C C m"]:
        """Second derivatives of each sample's loss in its linear predictor."""
        return self.observations.hessian(self.without_absent(eta), y, self.inverse_link)

    def between_outputs(self, products: Float[Array, "C C *shape"]) -> Float[Array, "K K *shape"]:
        """Second derivatives between outputs, from those between contrasts."""
        outputs = self.observations.outputs
        last = jnp.moveaxis(products, (0, 1), (-2, -1))
        return jnp.moveaxis(outputs(outputs(last).mT).mT, (-2, -1), (0, 1))

    def class_curvature(
        self, eta: Float[Array, "C m"], y: Int[Array, " m"]
    ) -> Float[Array, "K m"]:
        """Second derivatives of each sample's loss in the linear predictor of one class."""
        return self.observations.curvature(self.without_absent(eta), y, self.inverse_link)

    # The penalty, on the user's scale

    def penalty_value(self, coef: Float[Array, "p K"]) -> Float[Array, ""]:
        return self.penalty.value(self.coordinates.coef_to_user(self.masked(coef)))

    def penalty_gradient(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        return jax.grad(self.penalty_value)(coef)

    def unheld(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        """``coef`` without the features that the penalty holds, if only for some class: what remains
        costs nothing however large it is."""
        free = coef
        if self.penalty.smooth or isinstance(self.penalty, AbstractScalablePenalty):
            slope = self.penalty_gradient(_FAR * jnp.where(coef == 0, 1, coef))
            free = jnp.where(jnp.all(slope == 0, axis=1, keepdims=True), coef, 0)
        costs_nothing = self.penalty_value(_FAR * free) == self.penalty_value(jnp.zeros_like(coef))
        return jnp.where(costs_nothing, free, 0)

    def penalised(self, params: GLMParams, loss_gradient: GLMParams) -> GLMParams:
        """The gradient of the objective from that of the loss."""
        coef = loss_gradient.coef + self.penalty_gradient(params.coef)
        return GLMParams(coef, loss_gradient.intercept)

    def penalty_excess(
        self, new: Float[Array, "p K"], old: Float[Array, "p K"]
    ) -> Float[Array, ""]:
        """By how much a smooth penalty at ``new`` exceeds its tangent at ``old``."""
        if isinstance(self.penalty, AbstractScalablePenalty):
            _, quadratic = self.curvature()
            return jnp.sum(quadratic * jnp.square(new - old)) / 2
        tangent = jnp.sum(self.penalty_gradient(old) * (new - old))
        return self.penalty_value(new) - self.penalty_value(old) - tangent

    def prox(self, coef: Float[Array, "p K"], step: Array) -> Float[Array, "p K"]:
        """Proximal operator of the penalty in these coordinates: with u = a w the quadratic
        term is divided by a^2, so its step is multiplied by it."""
        scale = self.coordinates.scale
        moved = self.penalty.prox(
            self.coordinates.split(scale * coef), self.coordinates.split(step * scale**2)
        )
        return self.masked(stack_rows(moved) / scale)

    def level(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        """Coefficients at the level of the classes that the penalty likes best: the loss is
        blind to it where the probabilities are."""
        if not (self.shift_invariant and isinstance(self.penalty, AbstractScalablePenalty)):
            return coef
        user = self.coordinates.coef_to_user(coef)
        levelled = stack_rows(self.penalty.level(user, self.present)) / self.coordinates.scale
        # Coefficients that are masked or of a class that is left out stay 0.
        free = self.present[None, :]
        if self.mask is not None:
            free = free & jnp.all(self.mask | ~free, axis=1, keepdims=True)
        return jnp.where(free, levelled, coef)

    def pressure(self, gradient: Float[Array, "p K"]) -> Float[Array, "p K"]:
        """How many times the strengths a loss gradient is, see
        :meth:`AbstractScalablePenalty.pressure`."""
        user = self.coordinates.split(gradient / self.coordinates.scale)
        return self.masked(stack_rows(self.penalty.pressure(user)))

    def groups(self) -> Optional[Int[Array, "p K"]]:
        """The group of each coefficient, see :meth:`AbstractScalablePenalty.groups`."""
        found = self.penalty.groups(self.coordinates.split(self.coordinates.scale))
        return None if found is None else stack_rows(jax.tree.map(jnp.asarray, found))

    def curvature(self) -> tuple[Float[Array, ""], Float[Array, "p K"]]:
        r"""A cheap model of the Hessian in these coordinates.

        The loss bends by about ``c = (1 - sum pbar^2) / (K - 1)`` along a feature of unit
        variance (the mean over classes of Boehning's bound at the class frequencies, or at equal
        ones where all rows are of one class, as those of a batch may be), the penalty by its
        quadratic part.
        """
        frequencies = self.observations.frequencies(self.y, self.weight)
        n_present = jnp.maximum(jnp.sum(self.present), 2).astype(frequencies.dtype)
        spread = 1 - jnp.sum(frequencies**2)
        alone = spread <= frequencies.size * jnp.finfo(spread.dtype).eps
        loss = jnp.where(alone, 1 / n_present, spread / (n_present - 1))
        scale = self.coordinates.scale
        if not isinstance(self.penalty, AbstractScalablePenalty):
            return loss, self._probed_curvature()
        quadratic = stack_rows(self.penalty.curvature(self.coordinates.split(scale)))
        return loss, quadratic * scale**2

    def _probed_curvature(self) -> Float[Array, "p K"]:
        """Diagonal of the Hessian of an unknown penalty at 0, from products with random signs
        (Hutchinson, 1989); 0 where it is not smooth."""
        zero = jnp.zeros_like(self.coordinates.scale)
        if not self.penalty.smooth:
            return zero

        def product(signs):
            return signs * jax.jvp(self.penalty_gradient, (zero,), (signs,))[1]

        signs = jax.random.rademacher(jax.random.key(0), (_PROBES, *zero.shape), zero.dtype)
        diagonal = jnp.mean(jax.vmap(product)(signs), axis=0)
        return jnp.maximum(jnp.nan_to_num(diagonal, posinf=0.0, neginf=0.0), 0)

    # Optimality

    def null_params(self) -> GLMParams:
        """Zero coefficients and the intercept of the model without features."""
        scale = self.coordinates.scale
        intercept = self.observations.null_predictor(self.y, self.weight)
        if not self.fit_intercept:
            intercept = jnp.zeros_like(intercept)
        return GLMParams(jnp.zeros_like(scale), intercept.astype(scale.dtype))

    def objective(self, params: GLMParams) -> Float[Array, ""]:
        return self.loss(self.predictor(params)) + self.penalty_value(params.coef)

    def optimality(self, params: GLMParams, loss_gradient: GLMParams) -> Float[Array, ""]:
        """Norm of the least subgradient of the objective: 0 exactly at an optimum."""
        scale = self.coordinates.scale
        if isinstance(self.penalty, AbstractScalablePenalty):
            least = self.penalty.least_subgradient(
                self.coordinates.coef_to_user(params.coef),
                self.coordinates.split(loss_gradient.coef / scale),
            )
            coef = stack_rows(least) * scale
        elif self.penalty.smooth:
            coef = self.penalised(params, loss_gradient).coef
        else:
            coef = params.coef - self.prox(params.coef - loss_gradient.coef, jnp.ones(()))
        return tree_norm((coef, loss_gradient.intercept))

    def optimality_of(self, params: GLMParams) -> Float[Array, ""]:
        """:meth:`optimality`, gradient included: one pass forward and one back."""
        return self.optimality(params, self.look(self.predictor(params)).gradient)

    @property
    def rounding(self) -> Float[Array, ""]:
        """How much of a gradient norm may be rounding: its entries are means of products of
        order one."""
        n_params = self.coordinates.scale.size + self.present.size
        return jnp.finfo(self.weight.dtype).eps * jnp.sqrt(n_params).astype(self.weight.dtype)

    def yardstick(self, null: Float[Array, ""], tol: Any) -> Float[Array, ""]:
        """What optimality residuals are relative to: the gradient norm ``null`` of the null
        model, unless ``tol`` of that is less than the rounding of a gradient."""
        least = _ROUNDING_WORTH * jnp.finfo(null.dtype).eps
        return jnp.maximum(null, self.rounding / jnp.maximum(tol, least))

    def separable(self, params: GLMParams) -> Bool[Array, ""]:
        """Whether ``params`` prove that the likelihood has no maximum.

        Scaled up without bound, they (or the predictor of one class alone) would go on raising
        it: no label is beaten by another class, or the predictor of a class is on no sample of
        the class lower than on any other sample (ties are quasi-complete separation).
        """
        reach = self.extremes(params)
        all_right = (reach.behind <= 0) & (reach.ahead > 0)
        apart = (-reach.inside >= reach.outside) & (reach.top > -reach.bottom)
        if not self.fit_intercept:
            apart &= (reach.inside <= 0) & (reach.outside <= 0)
        return all_right | jnp.any(apart & self.present)

    @property
    def shift_invariant(self) -> bool:
        """Whether adding a constant to all classes leaves the probabilities as they are."""
        return is_log_softmax(self.inverse_link)

    def without_absent(self, eta: Float[Array, "C n"]) -> Float[Array, "C n"]:
        """``eta`` where a class that is left out is far below the others."""
        return eta + self.observations.contrasts(self.absence)[:, None]

    @property
    def absence(self) -> Float[Array, " K"]:
        """What that adds to the linear predictor of each class."""
        return jnp.where(self.present, 0, _ABSENT).astype(self.weight.dtype)
