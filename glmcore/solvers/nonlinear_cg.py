"""Preconditioned nonlinear conjugate gradients."""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import as_float, as_int
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory, DescentCache
from glmcore.solvers.preconditioner import Preconditioner
from glmcore.solvers.row_space import RowSpace
from glmcore.tree import tree_axpy, tree_dot, tree_where

#: What half the slope is multiplied by to be the gap: a block that all classes share, and one past
#: step, know little of the directions in which least bends.
_CAUTION = 20


class Conjugate(AbstractMemory):
    """The last step, and its weight in the next direction."""

    preconditioner: Preconditioner
    step: GLMParams
    weight: Float[Array, ""]
    gamma: Float[Array, ""]

    def smoothed(self, problem: Problem, gradient: GLMParams, rows: Optional[RowSpace]) -> GLMParams:
        return self.preconditioner.apply(gradient)

    def direction(
        self, problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, smooth: GLMParams
    ) -> GLMParams:
        steepest = jax.tree.map(lambda g: -self.gamma * g, smooth)
        conjugate = tree_axpy(self.weight, self.step, steepest)
        return tree_where(tree_dot(conjugate, gradient) < 0, conjugate, steepest)

    def remember(
        self, step: GLMParams, change: GLMParams, smoothed: GLMParams, gradient: GLMParams
    ) -> "Conjugate":
        """Hestenes & Stiefel's weight, not below 0 (a restart)."""
        product = tree_dot(step, change)
        # The curvature just seen scales the gradient, so that 1 is a good first trial step.
        gamma = product / tree_dot(change, smoothed)
        weight = gamma * tree_dot(gradient, smoothed) / product
        return Conjugate(self.preconditioner, step, jnp.maximum(weight, 0), gamma)

    def forget(self) -> "Conjugate":
        fresh = (jnp.zeros_like(self.weight), jnp.ones_like(self.gamma))
        return eqx.tree_at(lambda m: (m.weight, m.gamma), self, fresh)


class NonlinearCG(AbstractDescent):
    """Nonlinear conjugate gradients for smooth penalties; keeps one past step.

    Preconditioned by the Gram matrix of the scaled features (p up to 1024; a diagonal beyond).

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-8 in float64.  The predicted
        distance of the objective to its minimum has to be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of steps.

    Examples
    --------
    >>> from glmcore import NonlinearCG
    >>> int(NonlinearCG(maxiter=50).maxiter)
    50
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    needs_smooth = True
    slope_left = 0.1

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> Conjugate:
        one = jnp.ones((), params.intercept.dtype)
        return Conjugate(Preconditioner.shared(problem, eta), jax.tree.map(jnp.zeros_like, params), 0 * one, one)

    def step(
        self, problem: Problem, params: GLMParams, state: Conjugate, cache: DescentCache
    ) -> tuple[GLMParams, Conjugate, DescentCache]:
        params, state, cache = super().step(problem, params, state, cache)
        return params, state, eqx.tree_at(lambda c: c.progress.gap, cache, _CAUTION * cache.progress.gap)
