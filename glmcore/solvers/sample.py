"""Rows from which a solver estimates the Hessian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.problem import Problem
from glmcore.rows import sum_over_blocks

#: Least curvature of a class beside that of the mean class.
LEAST_CURVATURE = 1e-3


class Sample(eqx.Module):
    """Rows spread evenly, enough of them for a Hessian, and what bends there.

    ``curvature`` is what bends in every class, as the directions in which the classes add up to zero
    see it, and ``penalty`` the penalty's own, which keeps what is not fitted from being singular.
    """

    X: Float[Array, "m p"]
    scale: Float[Array, " p"]
    fit_intercept: bool = eqx.field(static=True)
    weight: Float[Array, " m"]
    hessian: Float[Array, "C C m"]
    curvature: Float[Array, "K m"]
    penalty: Float[Array, "p1 K"]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "C n"], least: int) -> "Sample":
        X, y, weight, eta = problem.sampled(eta, least)
        _, quadratic = problem.curvature()
        K = problem.present.size
        unfitted = jnp.full_like(quadratic[:1], not problem.fit_intercept)
        return cls(
            X=X,
            scale=jnp.mean(problem.coordinates.varying_scale, axis=1),
            fit_intercept=problem.fit_intercept,
            weight=weight,
            hessian=problem.hessian(eta, y),
            curvature=jnp.maximum(problem.class_curvature(eta, y), 0) * (K / max(K - 1, 1)),
            penalty=jnp.concatenate([quadratic, unfitted]),
        )

    @property
    def own_curvature(self) -> Float[Array, "blocks m"]:
        """That of every class, or once where both of two classes bend alike."""
        return self.curvature[:1] if len(self.hessian) == 1 else self.curvature

    @property
    def mean_curvature(self) -> Float[Array, "one m"]:
        return jnp.mean(self.curvature, axis=0)[None, :]

    @property
    def design(self) -> Float[Array, "m p1"]:
        """The scaled features and, last, the intercept's column."""
        return self._scaled(self.X)

    def bent(self, curvature: Float[Array, "blocks m"]) -> Float[Array, "blocks m"]:
        """What each row bends, of which that of a class that is left out, or certain everywhere, has a
        little of the mean of all: its block would be singular."""
        bent = self.weight[None, :] * curvature
        mean = jnp.mean(bent, axis=0) + jnp.finfo(bent.dtype).eps * self.weight
        total, typical = jnp.sum(bent, axis=1, keepdims=True), jnp.sum(mean)
        missing = jnp.maximum(LEAST_CURVATURE * typical - total, 0) / typical
        return bent + missing * mean[None, :]

    def grams(self, weights: Float[Array, "blocks m"]) -> Float[Array, "blocks p1 p1"]:
        """``design.T @ (weight[:, None] * design)`` of each row of ``weights``."""

        def of_block(weights: Float[Array, "blocks b"], X: Float[Array, "b p"]) -> Float[Array, "blocks p1 p1"]:
            design = self._scaled(X)
            # One after the other: all weighted copies of the design would not fit in a cache.
            return jax.lax.map(lambda weight: design.T @ (weight[:, None] * design), weights)

        return sum_over_blocks(of_block, weights, self.X, self.X.shape[1] + 1)

    def squares(self, weights: Float[Array, "blocks m"]) -> Float[Array, "blocks p1"]:
        """``weights @ design**2``: the diagonals of these."""

        def of_block(weights: Float[Array, "blocks b"], X: Float[Array, "b p"]) -> Float[Array, "blocks p1"]:
            return weights @ jnp.square(self._scaled(X))

        return sum_over_blocks(of_block, weights, self.X, self.X.shape[1] + 1)

    def _scaled(self, X: Float[Array, "b p"]) -> Float[Array, "b p1"]:
        intercept = jnp.full_like(X[:, :1], self.fit_intercept)
        return jnp.concatenate([X * self.scale[None, :], intercept], axis=1)
