"""Accelerated (proximal) gradient with a line search and restart.

FISTA (Beck & Teboulle, 2009) with the gradient restart of O'Donoghue & Candes (2015).  The
sufficient-decrease test compares the exact divergence of the loss with the quadratic model, so
that it does not drown in the rounding error of the objective; the linear predictor of an
extrapolated point is the extrapolation of predictors, so a step reads X once forward and once
back.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import AbstractSolver, Progress, as_float, as_int
from glmcore.tree import tree_dot, tree_norm, tree_sub

#: The step size may grow by the first factor a step; a refused one shrinks by the second.
_GROW = 1.1
_SHRINK = 0.6
_MAX_TRIALS = 60
#: Steps without a better residual after which rounding is blamed.
_PATIENCE = 500


class AcceleratedState(eqx.Module):
    """Step size, momentum and the previous point."""

    stepsize: Float[Array, ""]
    momentum: Float[Array, ""]
    previous: GLMParams


class AcceleratedCache(eqx.Module):
    """Linear predictors of the current and the previous point on these rows."""

    eta: Float[Array, "n K"]
    previous_eta: Float[Array, "n K"]
    best: Float[Array, ""]
    since_best: Int[Array, ""]
    progress: Progress


def _as_stepsize(stepsize: Any) -> Any:
    return as_float(0.0 if stepsize is None else stepsize)


class ProximalGradient(AbstractSolver):
    """Accelerated proximal gradient (FISTA): the default for penalties that are not smooth.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-7 in float64.
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
    stepsize: Any = eqx.field(default=None, converter=_as_stepsize)
    needs_smooth = False

    def init(self, problem: Problem, params: GLMParams) -> AcceleratedState:
        loss, _ = problem.curvature()
        # 1 / curvature of one feature: an optimistic start that the line search corrects.
        stepsize = jnp.where(self.stepsize > 0, self.stepsize, 1 / loss)
        return AcceleratedState(stepsize, jnp.ones_like(stepsize), params)

    def evaluate(
        self, problem: Problem, params: GLMParams, state: AcceleratedState
    ) -> AcceleratedCache:
        eta = problem.predictor(params)
        loss, residual = problem.loss_and_residual(eta)
        optimality = problem.optimality(params, problem.gradient(residual))
        return AcceleratedCache(
            eta=eta,
            previous_eta=problem.predictor(state.previous),
            best=optimality,
            since_best=jnp.zeros((), jnp.int32),
            progress=Progress(
                objective=loss + problem.penalty_value(params.coef),
                optimality=optimality,
                gap=jnp.zeros_like(loss),
                stalled=jnp.zeros((), bool),
            ),
        )

    def step(
        self, problem: Problem, params: GLMParams, state: AcceleratedState, cache: AcceleratedCache
    ) -> tuple[GLMParams, AcceleratedState, AcceleratedCache]:
        momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        inertia = (state.momentum - 1) / momentum
        ahead = jax.tree.map(lambda w, v: w + inertia * (w - v), params, state.previous)
        eta_ahead = cache.eta + inertia * (cache.eta - cache.previous_eta)
        _, residual = problem.loss_and_residual(eta_ahead)
        gradient = problem.gradient(residual)
        trial = self._descend(problem, ahead, eta_ahead, gradient, state.stepsize)
        step = tree_sub(trial.params, params)
        # Restart where the momentum points uphill.
        uphill = tree_dot(tree_sub(ahead, trial.params), step) > 0
        # The loss is blind to the level of the classes: gradients would only creep along it.
        new = GLMParams(problem.level(trial.params.coef), trial.params.intercept)
        # The gradient at the new point differs from the one at hand by no more than this.
        drift = tree_norm(tree_sub(ahead, trial.params)) / trial.stepsize
        optimality = problem.optimality(new, gradient) + drift
        since_best = jnp.where(optimality < cache.best, 0, cache.since_best + 1)
        objective = problem.loss(trial.eta) + problem.penalty_value(new.coef)
        none = jnp.zeros_like(objective)
        state = AcceleratedState(trial.stepsize, jnp.where(uphill, 1, momentum), params)
        return new, state, AcceleratedCache(
            eta=trial.eta,
            previous_eta=cache.eta,
            best=jnp.minimum(optimality, cache.best),
            since_best=since_best,
            progress=Progress(objective, optimality, none, since_best >= _PATIENCE),
        )

    def finish(self, problem: Problem, params: GLMParams, cache: AcceleratedCache) -> Progress:
        exact = problem.optimality_of(params)
        return eqx.tree_at(lambda p: p.optimality, cache.progress, exact)

    def _descend(
        self,
        problem: Problem,
        ahead: GLMParams,
        eta_ahead: Float[Array, "n K"],
        gradient: GLMParams,
        stepsize: Float[Array, ""],
    ) -> "_Trial":
        """The largest of the shrinking step sizes whose quadratic model is above the loss."""
        fixed = jnp.asarray(self.stepsize > 0)

        def attempt(trial: _Trial) -> _Trial:
            stepsize = jnp.where(fixed, trial.stepsize, _SHRINK * trial.stepsize)
            moved = jax.tree.map(lambda w, g: w - stepsize * g, ahead, gradient)
            new = GLMParams(problem.prox(moved.coef, stepsize), moved.intercept)
            step = tree_sub(new, ahead)
            # Of the point, not of the step: predictors must not drift over thousands of steps.
            eta = problem.predictor(new)
            room = tree_dot(step, step) / (2 * stepsize)
            below = problem.divergence(eta - eta_ahead, eta_ahead) <= room
            return _Trial(stepsize, new, eta, below | fixed, trial.count + 1)

        start = jnp.where(fixed, self.stepsize, stepsize * _GROW / _SHRINK)
        none = jnp.zeros((), jnp.int32)
        first = _Trial(start, ahead, eta_ahead, none > 0, none)
        return jax.lax.while_loop(
            lambda trial: ~trial.accepted & (trial.count < _MAX_TRIALS), attempt, first
        )


class _Trial(eqx.Module):
    stepsize: Float[Array, ""]
    params: GLMParams
    eta: Float[Array, "n K"]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]
