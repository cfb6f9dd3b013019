"""The inverse of a model of the Hessian where there are fewer rows than features.

The model is that of :class:`~glmcore.solvers.preconditioner.Preconditioner`, a block a class: D + A' S A,
with m rows A of scaled features, what each of them bends S, and the curvature of the penalty D.  Its
inverse needs no more than a factor of m rows (Woodbury, 1950):

.. math:: (D + A^T S A)^{-1} = D^{-1} - D^{-1} A^T S^{1/2}
          (1 + S^{1/2} A D^{-1} A^T S^{1/2})^{-1} S^{1/2} A D^{-1}
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from glmcore.dense import DenseProblem
from glmcore.factors import inverse_root
from glmcore.padding import bucket
from glmcore.problem import Problem
from glmcore.rows import row_sums
from glmcore.solvers.preconditioner import affordable, least_held, stretching
from glmcore.solvers.sample import Sample

#: Rows up to which their products with each other are formed.
_MOST_ROWS = 1024


class RowSpace(eqx.Module):
    """The inverse, once it ``is_formed``.

    ``bent`` is the square root of S and ``root`` the inverse of a Cholesky factor of the matrix in
    brackets, of each class or one for all.  ``inward`` is by what a feature is multiplied to be a column
    of A D^-1/2, for a D that all classes share, and ``outward`` what makes D^-1/2 that of each class.
    """

    root: Float[Array, "blocks m m"]
    bent: Float[Array, "blocks m"]
    inward: Float[Array, " p1"]
    outward: Float[Array, "p1 K"]
    is_formed: Bool[Array, ""]

    @classmethod
    def blank(cls, problem: DenseProblem, eta: Float[Array, "C m"]) -> "RowSpace":
        """Room for that of ``problem``."""
        (C, m), (p, K), dtype = eta.shape, problem.coordinates.scale.shape, eta.dtype
        blocks = K if _owns_blocks(problem) and C > 1 else 1
        return cls(
            root=jnp.zeros((blocks, m, m), dtype),
            bent=jnp.zeros((blocks, m), dtype),
            inward=jnp.zeros(p + 1, dtype),
            outward=jnp.zeros((p + 1, K), dtype),
            is_formed=jnp.zeros((), bool),
        )

    @classmethod
    def of(cls, problem: DenseProblem, eta: Float[Array, "C m"]) -> "RowSpace":
        """That at the parameters whose linear predictor is ``eta``."""
        sample = Sample.of(problem, eta, problem.n_rows)
        mean = sample.bent(sample.mean_curvature)
        squares = sample.squares(mean)
        penalty = sample.penalty.T + least_held(jnp.sum(mean, axis=1)[:, None], squares)
        shared = jnp.mean(penalty, axis=0, keepdims=True)
        if _owns_blocks(problem):
            bent, outward = sample.bent(sample.own_curvature), jnp.sqrt(shared / penalty)
        else:
            bent = mean
            outward = stretching(squares + shared, sample.squares(sample.bent(sample.curvature)) + penalty)
        rows = sample.design / jnp.sqrt(shared)
        bent = jnp.sqrt(bent)
        among = rows @ rows.T
        among = bent[:, :, None] * among[None] * bent[:, None, :] + jnp.eye(len(rows), dtype=rows.dtype)[None]
        return cls(
            root=jax.vmap(inverse_root)(among),
            bent=bent,
            inward=jnp.append(sample.scale, problem.fit_intercept) / jnp.sqrt(shared[0]),
            outward=(outward / jnp.sqrt(shared)).T,
            is_formed=jnp.ones((), bool),
        )

    def solve(self, problem: DenseProblem, stacked: Float[Array, "p1 K"], otherwise: Callable) -> Float[Array, "p1 K"]:
        """The inverse times ``stacked``; before it is formed what ``otherwise`` makes of that."""

        def by_rows(stacked: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
            start = self.outward * stacked
            columns = self.inward[:, None] * start
            seen = self.bent * problem.predicted(columns[:-1], columns[-1])
            if len(self.root) == 1:
                solved = seen @ self.root[0].T @ self.root[0]
            else:
                solved = (self.root.mT @ (self.root @ seen[:, :, None]))[:, :, 0]
            solved = jax.lax.optimization_barrier(self.bent * solved)
            back = jnp.append(row_sums(solved, problem.X), jnp.sum(solved, axis=1, keepdims=True), axis=1)
            return self.outward * (start - self.inward[:, None] * back.T)

        return jax.lax.cond(self.is_formed, by_rows, lambda stacked: otherwise(stacked), stacked)


def has_few_rows(problem: Problem) -> bool:
    """Whether to go by the space of the rows."""
    if not isinstance(problem, DenseProblem) or problem.mask is not None:
        return False
    return are_few_rows(*problem.X.shape, problem.X.dtype)


def are_few_rows(n: int, p: int, dtype: Any) -> bool:
    """The same of a number of rows, as many as there are or padded."""
    return bucket(n, p * np.dtype(dtype).itemsize) <= min(p, _MOST_ROWS)


def _owns_blocks(problem: DenseProblem) -> bool:
    """Whether each class has a matrix of its own."""
    m, (p, K) = problem.n_rows, problem.coordinates.scale.shape
    return K * m**3 <= affordable(m, p, K)
