"""A fit as a solver sees it: one matrix of centred features, scaled coefficients."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.observations import AbstractObservations, InverseLink, is_log_softmax
from glmcore.params import GLMParams, stack_rows
from glmcore.penalties import AbstractPenalty, AbstractScalablePenalty
from glmcore.rows import row_sums
from glmcore.tree import tree_norm

#: Added to the linear predictor of a class without weight: its probability underflows to 0.
_ABSENT = -1e5
#: Hessian products that estimate the curvature of a penalty the library does not know.
_PROBES = 16


class Problem(eqx.Module):
    r"""The objective of a fit in centred and scaled coordinates.

    .. math:: F(w, b) = \sum_i \omega_i \ell_i(\eta_i) + P(a w), \quad
              \eta = (X - m)(a w) + b, \quad \sum_i \omega_i = 1

    Everything that touches n rows goes through ``predictor``, ``loss``, ``loss_and_residual``
    and ``gradient``: one product with X forward, one back.
    """

    X: Float[Array, "n p"]
    y: Int[Array, " n"]
    weight: Float[Array, " n"]
    present: Bool[Array, " K"]
    coordinates: Coordinates
    observations: AbstractObservations
    penalty: AbstractPenalty
    inverse_link: InverseLink = eqx.field(static=True)
    fit_intercept: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        model,
        features: Float[Array, "n p"],
        y: Int[Array, " n"],
        weight: Float[Array, " n"],
        coordinates: Coordinates,
        may_lack_classes: bool = False,
    ) -> "Problem":
        """The problem of fitting ``model`` to features centred by ``coordinates``.

        A class without weight is left out, unless these are rows of a batch that may lack it.
        """
        weight = weight / jnp.sum(weight)
        present = (model.observations.frequencies(y, weight) > 0) | may_lack_classes
        return cls(
            X=features,
            y=y.astype(jnp.int32),
            weight=weight,
            present=present,
            coordinates=coordinates,
            observations=model.observations,
            penalty=model.penalty,
            inverse_link=model.inverse_link,
            fit_intercept=model.fit_intercept,
        )

    def start(self, params: GLMParams) -> GLMParams:
        """Inner parameters without what this problem has no place for: an intercept where none
        is fitted, coefficients of classes that are left out."""
        coef = jnp.where(self.present[None, :], params.coef, 0)
        intercept = params.intercept if self.fit_intercept else jnp.zeros_like(params.intercept)
        return GLMParams(coef, intercept)

    def rows(self, index: Int[Array, " m"], weight: Float[Array, " m"]) -> "Problem":
        """The problem of chosen rows, with weights of their own that need not sum to one."""

        def take(x: Array) -> Array:
            return x.at[index].get(mode="promise_in_bounds")

        parts = (take(self.X), take(self.y), weight)
        return eqx.tree_at(lambda q: (q.X, q.y, q.weight), self, parts)

    # The loss, through the linear predictor

    def predictor(self, params: GLMParams) -> Float[Array, "K n"]:
        """The linear predictor, linear in ``params``: a sum of steps is a sum of predictors."""
        product = self.X @ (self.coordinates.varying_scale * params.coef)
        # The barriers keep XLA from turning the transpose into a product in a slow layout, and
        # from transposing once for each of its readers.
        transposed = jax.lax.optimization_barrier(product).T
        return jax.lax.optimization_barrier(transposed + params.intercept[:, None])

    def loss(self, eta: Float[Array, "K n"]) -> Float[Array, ""]:
        return self.loss_and_residual(eta)[0]  # XLA drops what nobody uses

    def loss_and_residual(
        self, eta: Float[Array, "K n"]
    ) -> tuple[Float[Array, ""], Float[Array, "K n"]]:
        """The loss and its derivative in every entry of the linear predictor."""
        nll, residual = self.observations.value_and_residual(
            self._without_absent(eta), self.y, self.inverse_link
        )
        return self._mean(nll), self.weight[None, :] * residual

    def divergence(
        self, change: Float[Array, "K n"], eta: Float[Array, "K n"]
    ) -> Float[Array, ""]:
        """By how much the loss at ``eta + change`` exceeds its tangent at ``eta``."""
        excess = self.observations.divergence(
            change, self._without_absent(eta), self.y, self.inverse_link
        )
        return self._mean(excess)

    def gradient(self, residual: Float[Array, "K n"]) -> GLMParams:
        """Gradient of the loss in ``params`` from that in the linear predictor."""
        coef = row_sums(residual, self.X).T * self.coordinates.varying_scale
        if not self.fit_intercept:
            return GLMParams(coef, jnp.zeros_like(residual[:, 0]))
        return GLMParams(coef, jnp.sum(residual, axis=1))

    def hessian(
        self, eta: Float[Array, "K m"], y: Int[Array, " m"]
    ) -> Float[Array, "K K m"]:
        """Second derivatives of each sample's loss in its linear predictor."""
        return self.observations.hessian(self._without_absent(eta), y, self.inverse_link)

    def class_curvature(
        self, eta: Float[Array, "K m"], y: Int[Array, " m"]
    ) -> Float[Array, "K m"]:
        """Second derivatives of each sample's loss in the linear predictor of one class."""
        return self.observations.curvature(self._without_absent(eta), y, self.inverse_link)

    def hessian_product(
        self, direction: GLMParams, eta: Float[Array, "K n"]
    ) -> GLMParams:
        """The Hessian of the loss times ``direction``: one pass forward and one back."""
        change = self.predictor(direction)
        _, bend = jax.jvp(lambda eta: self.loss_and_residual(eta)[1], (eta,), (change,))
        return self.gradient(bend)

    # The penalty, on the user's scale

    def penalty_value(self, coef: Float[Array, "p K"]) -> Float[Array, ""]:
        return self.penalty.value(self.coordinates.coef_to_user(coef))

    def penalty_gradient(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        return jax.grad(self.penalty_value)(coef)

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
        return stack_rows(moved) / scale

    def level(self, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
        """Coefficients at the level of the classes that the penalty likes best: the loss is
        blind to it where the probabilities are."""
        if not (self.shift_invariant and isinstance(self.penalty, AbstractScalablePenalty)):
            return coef
        user = self.coordinates.coef_to_user(coef)
        levelled = stack_rows(self.penalty.level(user)) / self.coordinates.scale
        # The coef of a class that is left out stays 0.
        return jnp.where(jnp.all(self.present), levelled, coef)

    def curvature(self) -> tuple[Float[Array, ""], Float[Array, "p K"]]:
        r"""A cheap model of the Hessian in these coordinates.

        The loss bends by about ``c = (1 - sum pbar^2) / (K - 1)`` along a feature of unit
        variance (the mean over classes of Boehning's bound at the class frequencies), the
        penalty by its quadratic part.
        """
        frequencies = self.observations.frequencies(self.y, self.weight)
        n_present = jnp.maximum(jnp.sum(self.present), 2).astype(frequencies.dtype)
        loss = (1 - jnp.sum(frequencies**2)) / (n_present - 1)
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

    def null_predictor(self) -> Float[Array, "K n"]:
        """The linear predictor of :meth:`null_params`, without a look at the features."""
        intercept = self.null_params().intercept
        return jnp.broadcast_to(intercept[:, None], (intercept.size, self.y.size))

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
            coef = loss_gradient.coef + self.penalty_gradient(params.coef)
        else:
            coef = params.coef - self.prox(params.coef - loss_gradient.coef, jnp.ones(()))
        return tree_norm((coef, loss_gradient.intercept))

    def optimality_of(self, params: GLMParams) -> Float[Array, ""]:
        """:meth:`optimality`, gradient included: one pass forward and one back."""
        _, residual = self.loss_and_residual(self.predictor(params))
        return self.optimality(params, self.gradient(residual))

    def null_optimality(self) -> Float[Array, ""]:
        """Gradient norm of the loss at the null model: the yardstick of ``tol``."""
        # Where a fit starts at the null model, XLA computes this once.
        _, residual = self.loss_and_residual(self.null_predictor())
        return tree_norm(self.gradient(residual))

    @property
    def rounding(self) -> Float[Array, ""]:
        """How much of a gradient norm may be rounding: its entries are means of products of
        order one."""
        n_params = self.coordinates.scale.size + self.present.size
        return jnp.finfo(self.weight.dtype).eps * jnp.sqrt(n_params).astype(self.weight.dtype)

    def separable(self, params: GLMParams) -> Bool[Array, ""]:
        """Whether ``params`` prove that the likelihood has no maximum.

        Scaled up without bound, they (or the predictor of one class alone) would go on raising
        it: no label is beaten by another class, or the predictor of a class is on no sample of
        the class lower than on any other sample (ties are quasi-complete separation).
        """
        eta = self._without_absent(self.predictor(params))
        used = (self.weight > 0)[None, :]
        classes = jnp.arange(self.present.size, dtype=jnp.int32)
        own = (self.y[None, :] == classes[:, None]) & used
        best_other = jnp.max(jnp.where(own, -jnp.inf, eta), axis=0, keepdims=True)
        lead = jnp.where(own, eta - best_other, jnp.inf)
        all_right = (jnp.min(lead) >= 0) & (jnp.max(jnp.where(own, lead, -jnp.inf)) > 0)
        centred = eta - jnp.mean(eta, axis=0, keepdims=True, where=self.present[:, None])
        inside = jnp.min(jnp.where(own, centred, jnp.inf), axis=1)
        outside = jnp.max(jnp.where(own | ~used, -jnp.inf, centred), axis=1)
        top = jnp.max(jnp.where(own, centred, -jnp.inf), axis=1)
        bottom = jnp.min(jnp.where(own | ~used, jnp.inf, centred), axis=1)
        apart = (inside >= outside) & (top > bottom)
        if not self.fit_intercept:
            apart &= (inside >= 0) & (outside <= 0)
        return all_right | jnp.any(apart & self.present)

    @property
    def shift_invariant(self) -> bool:
        """Whether adding a constant to all classes leaves the probabilities as they are."""
        return is_log_softmax(self.inverse_link)

    def _without_absent(self, eta: Float[Array, "K n"]) -> Float[Array, "K n"]:
        return eta + jnp.where(self.present, 0, _ABSENT).astype(eta.dtype)[:, None]

    def _mean(self, per_sample: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(self.weight > 0, self.weight * per_sample, 0))
