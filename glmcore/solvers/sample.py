"""Rows from which a solver estimates the Hessian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from glmcore.problem import Problem


class Sample(eqx.Module):
    """So many rows, spread evenly, enough of them for a Hessian, and what bends there.

    ``design`` holds the scaled features and, last, the intercept's column; ``penalty`` is the
    penalty's own curvature, which keeps what is not fitted from being singular.
    """

    design: Float[Array, "m p1"]
    weight: Float[Array, " m"]
    hessian: Float[Array, "K K m"]
    curvature: Float[Array, "K m"]
    penalty: Float[Array, "p1 K"]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "K n"], most: int) -> "Sample":
        X, y, weight = problem.X, problem.y, problem.weight
        if weight.size > most:
            rows, weight = _spread(weight, most)
            X, y, eta = X[rows], y[rows], eta[:, rows]
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


def _spread(
    weight: Float[Array, " n"], most: int
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """Every so-manieth row (rows are often sorted by class) and its weight; where most of the
    weight lies on other rows, rows at equal distances in cumulative weight."""
    stride = -(-weight.size // most)
    every = jnp.arange(0, weight.size, stride, dtype=jnp.int32)
    found = jnp.sum(weight[every])

    def as_they_come():
        return every, weight[every] / found

    def by_weight():
        cumulative = jnp.cumsum(weight)
        middle = (jnp.arange(every.size) + 0.5).astype(weight.dtype) / every.size
        rows = jnp.searchsorted(cumulative, middle * cumulative[-1]).astype(jnp.int32)
        return rows, jnp.full_like(middle, 1 / every.size)

    return jax.lax.cond(found > 0.1 / stride, as_they_come, by_weight)
