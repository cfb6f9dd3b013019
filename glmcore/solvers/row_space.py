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
from glmcore.penalties import AbstractPenalty
from glmcore.problem import Problem
from glmcore.rows import row_sums
from glmcore.solvers.preconditioner import affordable, least_held, stretching
from glmcore.solvers.sample import Sample

#: Rows up to which their products with each other are formed.
_MOST_ROWS = 1024


class RowSpace(eqx.Module):
    """The inverse, once it ``is_formed``.

    ``root_bent`` is the square root of S and ``root`` the inverse of a Cholesky factor of the matrix in
    brackets, of each class or one for all.  ``inward`` is by what a feature is multiplied to be a column
    of A D^-1/2, and ``outward`` that D^-1/2, stretched for each class where all have one matrix.
    """

    root: Float[Array, "blocks m m"]
    root_bent: Float[Array, "blocks m"]
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
            root_bent=jnp.zeros((blocks, m), dtype),
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
        held = jnp.mean(sample.penalty, axis=1)[None, :] + least_held(jnp.sum(mean, axis=1)[:, None], squares)
        if _owns_blocks(problem):
            bent, stretch = sample.bent(sample.own_curvature), jnp.ones_like(sample.penalty.T)
        else:
            bent, own = mean, sample.squares(sample.bent(sample.curvature))
            stretch = stretching(squares + held, own + held)
        rows, root_bent = sample.design / jnp.sqrt(held), jnp.sqrt(bent)
        among = (rows @ rows.T)[None]
        among = root_bent[:, :, None] * among * root_bent[:, None, :] + jnp.eye(len(rows), dtype=rows.dtype)[None]
        return cls(
            root=jax.vmap(inverse_root)(among),
            root_bent=root_bent,
            inward=jnp.append(sample.scale, problem.fit_intercept) / jnp.sqrt(held[0]),
            outward=(stretch / jnp.sqrt(held)).T,
            is_formed=jnp.ones((), bool),
        )

    def solve(self, problem: DenseProblem, stacked: Float[Array, "p1 K"], otherwise: Callable) -> Float[Array, "p1 K"]:
        """The inverse times ``stacked``; before it is formed what ``otherwise`` makes of that."""

        def by_rows(stacked: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
            start = self.outward * stacked
            columns = self.inward[:, None] * start
            seen = self.root_bent * problem.predicted(columns[:-1], columns[-1])
            if len(self.root) == 1:
                solved = seen @ self.root[0].T @ self.root[0]
            else:
                solved = (self.root.mT @ (self.root @ seen[:, :, None]))[:, :, 0]
            solved = jax.lax.optimization_barrier(self.root_bent * solved)
            back = jnp.append(row_sums(solved, problem.X), jnp.sum(solved, axis=1, keepdims=True), axis=1)
            return self.outward * (start - self.inward[:, None] * back.T)

        # A lambda, since JAX hashes a branch and a bound method hashes its module.
        return jax.lax.cond(self.is_formed, by_rows, lambda stacked: otherwise(stacked), stacked)


def has_few_rows(problem: Problem) -> bool:
    """Whether to go by the space of the rows."""
    if not isinstance(problem, DenseProblem):
        return False
    return goes_by_rows(*problem.X.shape, problem.X.dtype, problem.penalty, problem.mask)


def goes_by_rows(n: int, p: int, dtype: Any, penalty: AbstractPenalty, mask: Any) -> bool:
    """The same for n rows of p features; padding does not change it.  Not where classes are masked or
    penalised differently: each would need products of the rows of its own."""
    alike = mask is None and all(np.ndim(leaf) == 0 or np.shape(leaf)[-1] == 1 for leaf in jax.tree.leaves(penalty))
    return alike and bucket(n, p * np.dtype(dtype).itemsize) <= min(p, _MOST_ROWS)


def _owns_blocks(problem: DenseProblem) -> bool:
    """Whether each class has a matrix of its own."""
    m, (p, K) = problem.n_rows, problem.coordinates.scale.shape
    return K * m**3 <= affordable(m, p, K)
