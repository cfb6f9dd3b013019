"""Limited-memory BFGS."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import as_count, as_float, as_int
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory, DescentCache
from glmcore.solvers.preconditioner import Preconditioner, affords_classes, is_renewed

#: After so many steps the preconditioner is made anew where the fit has got to: early if it has a
#: block a class, since then few steps are left.
_FIRST_REFRESH = 5
_FIRST_SHARED_REFRESH = 25


class Pairs(AbstractMemory):
    r"""The last steps s and the changes y of gradient that they made, newest last.

    Every pair is scaled to ``<s, y> = 1``, so that with the preconditioner M (an inverse
    Hessian) and R the upper triangle of ``<s_i, y_j>``, whose diagonal is one, the inverse
    Hessian of Byrd, Nocedal & Schnabel (1994, theorem 2.2) is

    .. math:: \gamma M + S^T R^{-T} (I + \gamma Y M Y^T) R^{-1} S
              - \gamma S^T R^{-T} Y M - \gamma M Y^T R^{-1} S

    A few products with matrices of ``memory`` rows, no recursion.
    """

    preconditioner: Preconditioner
    steps: Float[Array, "memory d"]
    changes: Float[Array, "memory d"]
    smoothed: Float[Array, "memory d"]  # the preconditioner times each change
    inverse_triangle: Float[Array, "memory memory"]
    products: Float[Array, "memory memory"]  # of changes and smoothed changes

    @classmethod
    def empty(cls, preconditioner: Preconditioner, params: GLMParams, memory: int) -> "Pairs":
        vectors = jnp.zeros((memory, ravel_pytree(params)[0].size), params.intercept.dtype)
        square = jnp.zeros((memory, memory), vectors.dtype)
        return cls(preconditioner, vectors, vectors, vectors, square, square)

    @property
    def gamma(self) -> Float[Array, ""]:
        """Scale of the preconditioner: the curvature seen last over the one expected."""
        last = self.products[-1, -1]
        return jnp.where(last > 0, 1 / jnp.where(last > 0, last, 1), 1)

    def direction(
        self, problem: Problem, eta: Float[Array, "K n"], gradient: GLMParams
    ) -> GLMParams:
        g, unravel = ravel_pytree(gradient)
        along = self.inverse_triangle @ (self.steps @ g)
        back = along + self.gamma * (self.products @ along - self.smoothed @ g)
        quasi_newton = (self.inverse_triangle.T @ back) @ self.steps
        smooth = ravel_pytree(self.preconditioner.apply(gradient))[0]
        return unravel(-(quasi_newton + self.gamma * (smooth - along @ self.smoothed)))

    def remember(self, step: GLMParams, change: GLMParams, gradient: GLMParams) -> "Pairs":
        s, y = ravel_pytree(step)[0], ravel_pytree(change)[0]
        length = jnp.sqrt(s @ y)
        s, y = s / length, y / length
        smoothed = ravel_pytree(self.preconditioner.apply(change))[0] / length
        # The triangle loses its first row and column and gains a last column <s_i, y>; the
        # inverse of a trailing block is the trailing block of the inverse.
        inverse = self.inverse_triangle[1:, 1:]
        products = self.smoothed[1:] @ y
        return Pairs(
            preconditioner=self.preconditioner,
            steps=_push(self.steps, s),
            changes=_push(self.changes, y),
            smoothed=_push(self.smoothed, smoothed),
            inverse_triangle=_bordered(
                inverse, -inverse @ (self.steps[1:] @ y), jnp.zeros_like(products), jnp.ones_like(length)
            ),
            products=_bordered(self.products[1:, 1:], products, products, y @ smoothed),
        )

    def forget(self) -> "Pairs":
        fresh = jax.tree.map(jnp.zeros_like, self)
        return eqx.tree_at(lambda m: m.preconditioner, fresh, self.preconditioner)


def _push(vectors: Float[Array, "memory d"], new: Float[Array, " d"]) -> Float[Array, "memory d"]:
    return jnp.concatenate([vectors[1:], new[None]])


def _bordered(
    block: Float[Array, "k k"],
    column: Float[Array, " k"],
    row: Float[Array, " k"],
    corner: Float[Array, ""],
) -> Float[Array, "k1 k1"]:
    top = jnp.concatenate([block, column[:, None]], axis=1)
    return jnp.concatenate([top, jnp.append(row, corner)[None, :]])


class LBFGS(AbstractDescent):
    """Limited-memory BFGS for smooth penalties (the default for Ridge and UnRegularized).

    The first inverse Hessian of every direction is that of the Gram matrix of the scaled
    features (p up to 1024; a diagonal beyond), weighted by the curvature of the loss where the
    fit stood when it was made: after 5, 25, 125, ... steps with a block for each class, where that
    costs little beside the steps, else after 25, 125, ... with one for all.

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
    memory: int = eqx.field(default=10, static=True, converter=partial(as_count, name="memory"))
    needs_smooth = True
    slope_left = 0.9

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "K n"]
    ) -> Pairs:
        # With all probabilities alike, as they are at the start, so are the blocks of the classes.
        preconditioner = Preconditioner.shared(problem, eta)
        if affords_classes(problem):
            preconditioner = preconditioner.repeated(eta.shape[0])
        return Pairs.empty(preconditioner, params, self.memory)

    def refresh(
        self, problem: Problem, n_iter: Int[Array, ""], state: Pairs, cache: DescentCache
    ) -> tuple[Pairs, DescentCache]:
        def anew():
            # What the pairs tell was seen from farther away: without them fewer steps are needed.
            preconditioner = Preconditioner.of(problem, cache.eta)
            fresh = eqx.tree_at(lambda pairs: pairs.preconditioner, state.forget(), preconditioner)
            return fresh, fresh.direction(problem, cache.eta, cache.gradient)

        def as_it_is():
            return state, cache.direction

        first = _FIRST_REFRESH if affords_classes(problem) else _FIRST_SHARED_REFRESH
        due = is_renewed(n_iter, first)
        state, direction = jax.lax.cond(due, anew, as_it_is)
        return state, cache.along(direction)
