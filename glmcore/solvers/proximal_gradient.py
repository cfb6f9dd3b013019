"""Accelerated proximal gradient."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.accelerated import AbstractAccelerated, as_stepsize
from glmcore.solvers.base import as_float, as_int


class ProximalGradient(AbstractAccelerated):
    """Accelerated proximal gradient (FISTA): for penalties that are not smooth the default of large
    fits and of streams.

    Where hardly anything bends, as with a tiny strength on few rows, it may say that it has converged
    too far above the minimum: ``ProximalNewton`` knows the curvature and predicts the distance better.

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
    >>> from glmcore import ProximalGradient
    >>> int(ProximalGradient(maxiter=500).maxiter)
    500
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=10_000, converter=as_int)
    stepsize: Any = eqx.field(default=None, converter=as_stepsize)
    needs_smooth = False

    def metric(self, problem: Problem) -> Float[Array, "p K"]:
        return jnp.ones_like(problem.coordinates.scale)

    def gradient(self, problem: Problem, params: GLMParams, loss: GLMParams) -> GLMParams:
        return loss

    def excess(self, problem: Problem, new: GLMParams, old: GLMParams) -> Float[Array, ""]:
        return jnp.zeros((), old.intercept.dtype)

    def prox(self, problem: Problem, params: GLMParams, stepsize: Array) -> GLMParams:
        return GLMParams(problem.prox(params.coef, stepsize), params.intercept)
