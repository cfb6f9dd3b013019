"""BFGS with a dense inverse Hessian."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from glmcore.params import GLMParams, unstacked
from glmcore.problem import Problem
from glmcore.solvers.base import as_float, as_int
from glmcore.solvers.lbfgs import refresh
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory
from glmcore.solvers.preconditioner import Preconditioner
from glmcore.solvers.refresh import Refresh


class InverseHessian(AbstractMemory):
    """A dense estimate, and the one that it starts from."""

    matrix: Float[Array, "d d"]
    start: Float[Array, "d d"]

    @classmethod
    def of(cls, preconditioner: Preconditioner) -> "InverseHessian":
        """The matrix that ``preconditioner`` is."""
        flat, unravel = ravel_pytree(unstacked(preconditioner.level))

        def applied(unit: Float[Array, " d"]) -> Float[Array, " d"]:
            point = unravel(unit)
            if preconditioner.mask is not None:
                point = GLMParams(jnp.where(preconditioner.mask, point.coef, 0), point.intercept)
            return ravel_pytree(preconditioner.apply(point))[0]

        matrix = jax.vmap(applied)(jnp.eye(flat.size, dtype=flat.dtype))
        return cls(matrix, matrix)

    def direction(
        self, problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, smooth: GLMParams
    ) -> GLMParams:
        flat, unravel = ravel_pytree(gradient)
        return unravel(-(self.matrix @ flat))

    def remember(
        self, step: GLMParams, change: GLMParams, smoothed: GLMParams, gradient: GLMParams
    ) -> "InverseHessian":
        """Nocedal & Wright, Numerical Optimization, equation 6.17."""
        s, y = ravel_pytree(step)[0], ravel_pytree(change)[0]
        product = s @ y
        Hy = self.matrix @ y
        cross = jnp.outer(s, Hy) / product
        square = (1 + (y @ Hy) / product) / product * jnp.outer(s, s)
        return InverseHessian(self.matrix - cross - cross.T + square, self.start)

    def forget(self) -> "InverseHessian":
        return InverseHessian(self.start, self.start)


class BFGS(AbstractDescent):
    """BFGS for smooth penalties; keeps two matrices of (p K + K)² numbers, so for small models.

    It starts, and goes on, as :class:`LBFGS` does on more rows than features, from the inverse Hessian of
    the Gram matrix of the scaled features.

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
    >>> from glmcore import BFGS
    >>> int(BFGS(maxiter=50).maxiter)
    50
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    needs_smooth = True
    slope_left = 0.9

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> InverseHessian:
        return InverseHessian.of(Preconditioner.shared(problem, eta))

    def refresh(self, problem: Problem) -> Refresh:
        return refresh(problem, lambda preconditioner, _: InverseHessian.of(preconditioner))
