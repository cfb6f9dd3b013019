"""Accelerated gradient descent."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.accelerated import AbstractAccelerated, as_stepsize
from glmcore.solvers.base import as_float, as_int


class GradientDescent(AbstractAccelerated):
    """Accelerated gradient descent with restart, for smooth penalties.

    The gradient of each coefficient is divided by the curvature of its penalty relative to
    that of the loss, so that a strong penalty does not dictate the step size of the others.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-8 in float64.  The gap that the
        rate predicts at which the residual falls has to be below tol/100 of the objective, too.
    maxiter : int, default 10000
        Largest number of steps.
    stepsize : float, optional
        Fixed step size in centred and scaled coordinates.  Default (None or 0): a line search.

    Examples
    --------
    >>> from glmcore import GradientDescent
    >>> int(GradientDescent(maxiter=500).maxiter)
    500
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=10_000, converter=as_int)
    stepsize: Any = eqx.field(default=None, converter=as_stepsize)
    needs_smooth = True

    def metric(self, problem: Problem) -> Float[Array, "p K"]:
        loss, penalty = problem.curvature()
        return 1 + penalty / loss

    def gradient(self, problem: Problem, params: GLMParams, loss: GLMParams) -> GLMParams:
        return problem.penalised(params, loss)

    def excess(self, problem: Problem, new: GLMParams, old: GLMParams) -> Float[Array, ""]:
        return problem.penalty_excess(new.coef, old.coef)

    def prox(self, problem: Problem, params: GLMParams, stepsize: Array) -> GLMParams:
        return params
