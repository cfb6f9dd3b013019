"""The inverse of a cheap model of the Hessian.

Along a feature of unit variance the loss bends by about c (:meth:`Problem.curvature`), so
``c G + diag(penalty)`` with G the Gram matrix of the scaled features stands in for Boehning's
bound ``(I - 11'/K)/2 (x) G`` on the Hessian (Boehning, 1992), one p x p block for every class.
"""

from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem

#: Features up to which the Gram matrix is formed, and rows that estimate it.
_GRAM_FEATURES = 1024
_GRAM_ROWS = 8192


class Preconditioner(eqx.Module):
    """Inverse of a model of the Hessian: per class a p x p Cholesky factor, or a diagonal."""

    factor: Optional[Float[Array, "p p"]]
    diagonal: Float[Array, "p K"]
    intercept: Float[Array, ""]

    @classmethod
    def of(cls, problem: Problem) -> "Preconditioner":
        loss, penalty = problem.curvature()
        n, p = problem.X.shape
        diagonal = loss + penalty
        if p > _GRAM_FEATURES:
            return cls(None, diagonal, loss)
        # Every stride-th row: rows are often sorted by class.
        stride = max(1, n // max(_GRAM_ROWS, 8 * p))
        scale = jnp.mean(problem.coordinates.varying_scale, axis=1)
        rows = problem.X[::stride] * scale[None, :]
        weight = problem.weight[::stride]
        sampled = jnp.sum(weight)
        gram = (rows * weight[:, None]).T @ rows / jnp.where(sampled > 0, sampled, 1)
        # Weights may pass over the rows that were picked; then features count as uncorrelated.
        fair = sampled > 0.1 / stride
        gram = jnp.where(fair, gram, jnp.eye(p, dtype=gram.dtype))
        # Features nobody penalises may be collinear: keep the factor positive definite.
        jitter = loss * p * 10 * jnp.finfo(gram.dtype).eps
        matrix = loss * gram + jnp.diag(jnp.mean(penalty, axis=1) + jitter)
        return cls(jnp.linalg.cholesky(matrix), diagonal, loss)

    def apply(self, gradient: GLMParams) -> GLMParams:
        if self.factor is None:
            coef = gradient.coef / self.diagonal
        else:
            coef = jax.scipy.linalg.cho_solve((self.factor, True), gradient.coef)
        return GLMParams(coef, gradient.intercept / self.intercept)
