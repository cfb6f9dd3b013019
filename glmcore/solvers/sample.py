"""Rows from which a solver estimates the Hessian."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glmcore.problem import Problem


class Sample(eqx.Module):
    """Every so-manieth row, enough of them for a Hessian, and what bends there.

    ``design`` holds the scaled features and, last, the intercept's column; ``penalty`` is the
    penalty's own curvature, which keeps what is not fitted from being singular.
    """

    design: Float[Array, "m p1"]
    weight: Float[Array, " m"]
    eta: Float[Array, "K m"]
    hessian: Float[Array, "K K m"]
    curvature: Float[Array, " m"]
    penalty: Float[Array, "p1 K"]
    fair: Bool[Array, ""]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "K n"], most: int) -> "Sample":
        n, p = problem.X.shape
        # Every stride-th row: rows are often sorted by class.
        stride = -(-n // most)
        scale = jnp.mean(problem.coordinates.varying_scale, axis=1)
        intercept = jnp.full_like(problem.weight[::stride, None], problem.fit_intercept)
        weight = problem.weight[::stride]
        sampled = jnp.sum(weight)
        _, quadratic = problem.curvature()
        unfitted = jnp.full_like(quadratic[:1], not problem.fit_intercept)
        eta, y = eta[:, ::stride], problem.y[::stride]
        return cls(
            design=jnp.concatenate([problem.X[::stride] * scale[None, :], intercept], axis=1),
            weight=weight / jnp.where(sampled > 0, sampled, 1),
            eta=eta,
            hessian=problem.hessian(eta, y),
            curvature=problem.mean_curvature(eta, y),
            penalty=jnp.concatenate([quadratic, unfitted]),
            # Weights may pass over the rows that were picked.
            fair=sampled > 0.1 / stride,
        )
