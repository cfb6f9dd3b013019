"""Rows from which a solver estimates the Hessian."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.problem import Problem


class Sample(eqx.Module):
    """Rows spread evenly, enough of them for a Hessian, and what bends there.

    ``design`` holds the scaled features and, last, the intercept's column; ``penalty`` is the
    penalty's own curvature, which keeps what is not fitted from being singular.
    """

    design: Float[Array, "m p1"]
    weight: Float[Array, " m"]
    hessian: Float[Array, "C C m"]
    curvature: Float[Array, "K m"]
    penalty: Float[Array, "p1 K"]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "C n"], least: int) -> "Sample":
        X, y, weight, eta = problem.sampled(eta, least)
        scale = jnp.mean(problem.coordinates.varying_scale, axis=1)
        intercept = jnp.full_like(weight[:, None], problem.fit_intercept)
        _, quadratic = problem.curvature()
        unfitted = jnp.full_like(quadratic[:1], not problem.fit_intercept)
        return cls(
            design=jnp.concatenate([X * scale[None, :], intercept], axis=1),
            weight=weight,
            hessian=problem.hessian(eta, y),
            curvature=problem.class_curvature(eta, y),
            penalty=jnp.concatenate([quadratic, unfitted]),
        )
