"""Limited-memory BFGS."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import as_float, as_int
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory
from glmcore.solvers.preconditioner import Preconditioner
from glmcore.tree import tree_axpy, tree_dot


class Pairs(AbstractMemory):
    """The last steps and the changes of gradient that they made, newest last."""

    preconditioner: Preconditioner
    steps: GLMParams  # leading axis: memory
    changes: GLMParams
    inverse_products: Float[Array, " memory"]  # 1 / <step, change>; 0 for an empty slot
    gamma: Float[Array, ""]

    def direction(self, gradient: GLMParams) -> GLMParams:
        """The two-loop recursion (Nocedal & Wright, Numerical Optimization, algorithm 7.4)."""

        def backward(q, pair):
            step, change, inverse_product = pair
            weight = inverse_product * tree_dot(step, q)
            return tree_axpy(-weight, change, q), weight

        def forward(q, pair):
            step, change, inverse_product, weight = pair
            correction = weight - inverse_product * tree_dot(change, q)
            return tree_axpy(correction, step, q), None

        pairs = (self.steps, self.changes, self.inverse_products)
        q, weights = jax.lax.scan(backward, gradient, pairs, reverse=True)
        q = jax.tree.map(lambda x: self.gamma * x, self.preconditioner.apply(q))
        q, _ = jax.lax.scan(forward, q, (*pairs, weights))
        return jax.tree.map(jnp.negative, q)

    def remember(self, step: GLMParams, change: GLMParams, gradient: GLMParams) -> "Pairs":
        def push(memory, new):
            return jnp.concatenate([memory[1:], new[None]])

        product = tree_dot(step, change)
        return Pairs(
            preconditioner=self.preconditioner,
            steps=jax.tree.map(push, self.steps, step),
            changes=jax.tree.map(push, self.changes, change),
            inverse_products=push(self.inverse_products, 1 / product),
            gamma=product / tree_dot(change, self.preconditioner.apply(change)),
        )

    def forget(self) -> "Pairs":
        fresh = (jnp.zeros_like(self.inverse_products), jnp.ones_like(self.gamma))
        return eqx.tree_at(lambda m: (m.inverse_products, m.gamma), self, fresh)


class LBFGS(AbstractDescent):
    """Limited-memory BFGS for smooth penalties (the default for Ridge and UnRegularized).

    The first inverse Hessian of every direction is that of the Gram matrix of the scaled
    features (p up to 1024; a diagonal beyond).

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 3e-6 in float32, 1e-8 in float64.  The predicted
        distance of the objective to its minimum has to be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of steps.
    memory : int, default 10
        Pairs of step and gradient change that are kept.

    Examples
    --------
    >>> from glmcore import LBFGS
    >>> LBFGS(tol=1e-4, maxiter=50).memory
    10
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    memory: int = eqx.field(default=10, static=True)
    needs_smooth = True
    slope_left = 0.9

    def init(self, problem: Problem, params: GLMParams) -> Pairs:
        empty = jax.tree.map(lambda w: jnp.zeros((self.memory, *w.shape), w.dtype), params)
        one = jnp.ones((), params.intercept.dtype)
        return Pairs(
            preconditioner=Preconditioner.of(problem),
            steps=empty,
            changes=empty,
            inverse_products=jnp.zeros(self.memory, one.dtype),
            gamma=one,
        )
