"""The inverse of a cheap model of the Hessian: one p x p block that all classes share.

The Hessian of the loss is a sum over rows of ``H_i (x) x_i x_i'`` with a K x K matrix H_i.  With
the mean curvature ``v_i = tr(H_i) / (K - 1)`` in its place, it is the Gram matrix of the features
weighted by v: at the null model a stand-in for Boehning's bound (Boehning, 1992), and later, where
most samples are classified without doubt and bend no more, far closer to the Hessian than that.
"""

from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.sample import Sample

#: Features up to which the Gram matrix is formed; its rows are at least so many, and so many a
#: feature.
_GRAM_FEATURES = 1024
_GRAM_ROWS = 8192
_GRAM_ROWS_PER_FEATURE = 4


class Preconditioner(eqx.Module):
    """Inverse of a model of the Hessian.

    ``root`` is the inverse of a Cholesky factor of each class's block, in which the intercept
    comes last: a solver applies it at every step, and products leave the processor to the passes
    over the data, where LAPACK's threads would go on waiting for work.  With too many features
    it is None and the inverse is that of ``diagonal``.
    """

    root: Optional[Float[Array, "p1 p1"]]
    diagonal: Float[Array, "p1 K"]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "K n"]) -> "Preconditioner":
        """The model at the parameters whose linear predictor is ``eta``."""
        p = problem.X.shape[1]
        sample = Sample.of(problem, eta, max(_GRAM_ROWS, _GRAM_ROWS_PER_FEATURE * p))
        weight = sample.weight * jnp.maximum(sample.curvature, 0)
        loss = jnp.sum(weight)
        diagonal = loss + sample.penalty
        if p > _GRAM_FEATURES:
            return cls(None, diagonal)
        identity = jnp.eye(p + 1, dtype=loss.dtype)
        gram = sample.design.T @ (weight[:, None] * sample.design)
        # Features nobody penalises may be collinear: keep the factor positive definite.
        jitter = loss * p * 10 * jnp.finfo(loss.dtype).eps
        block = gram + jnp.diag(jnp.mean(sample.penalty, axis=1) + jitter)
        factor = jnp.linalg.cholesky(block)
        root = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
        return cls(root, diagonal)

    def apply(self, gradient: GLMParams) -> GLMParams:
        stacked = jnp.concatenate([gradient.coef, gradient.intercept[None, :]])
        if self.root is None:
            solved = stacked / self.diagonal
        else:
            solved = self.root.T @ (self.root @ stacked)
        return GLMParams(solved[:-1], solved[-1])
