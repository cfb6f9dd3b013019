"""The accelerated gradient scheme that ProximalGradient and GradientDescent share.

FISTA (Beck & Teboulle, 2009) with the gradient restart of O'Donoghue & Candes (2015).  The
sufficient-decrease test compares the exact divergence of the loss with the quadratic model, so
that it does not drown in the rounding error of the objective; the linear predictor of an
extrapolated point is the extrapolation of predictors, so a step reads X once forward and once
back.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.params import GLMParams
from glmcore.problem import Look, Problem
from glmcore.solvers.base import AbstractSolver, Standing, as_float, is_rounding
from glmcore.tree import tree_dot, tree_norm, tree_sub

#: The step size may grow by the first factor a step; a refused one shrinks by the second.
_GROW = 1.1
_SHRINK = 0.6
_MAX_TRIALS = 60
#: Steps without a better residual or objective after which rounding is blamed, and by how many
#: roundings an objective has to be better.
_PATIENCE, _ROUNDINGS = 500, 10
#: By how much the residual has to fall from one mark to the next, and since a mark for its rate to
#: tell anything.
_MARK, _TELLING = 30.0, 4.0
#: What a gap is multiplied by that is predicted from the rate.
_CAUTION = 4


class Decline(eqx.Module):
    """How fast the residual falls: the last two marks, and at which step each was passed, of ``count``
    steps."""

    marks: Float[Array, "2"]
    passed: Int[Array, "2"]
    count: Int[Array, ""]

    @classmethod
    def starting(cls, residual: Float[Array, ""]) -> "Decline":
        return cls(jnp.stack([residual, residual]), jnp.zeros(2, jnp.int32), jnp.zeros((), jnp.int32))

    def to(self, residual: Float[Array, ""]) -> "Decline":
        """After one more step."""
        count, is_mark = self.count + 1, residual < self.marks[1] / _MARK
        marks = jnp.where(is_mark, jnp.stack([self.marks[1], residual]), self.marks)
        passed = jnp.where(is_mark, jnp.stack([self.passed[1], count]), self.passed)
        return Decline(marks, passed, count)

    def gap(self, residual: Float[Array, ""]) -> Float[Array, ""]:
        """How far the objective is above its minimum; 0 as long as nothing is known.

        With the least curvature m and the largest L the residual of an accelerated gradient falls by
        the factor 1 - sqrt(m / L) a step, and the gap is its square over 2 m.  L is taken to be 1/2,
        as in one feature: of features that are correlated less than a quarter may be found, hence
        ``_CAUTION``, and sometimes a fortieth.
        """
        rate = self._rate(residual)
        return jnp.where(rate > 0, _CAUTION * jnp.square(residual / jnp.where(rate > 0, rate, 1)), 0)

    def gap_after(self, gain: Float[Array, ""], residual: Float[Array, ""]) -> Float[Array, ""]:
        """The same after a step that lowered the objective by ``gain``: gaps fall as the squares of
        residuals do, and gains with them."""
        rate = self._rate(residual)
        return jnp.where(rate > 0, _CAUTION * gain / jnp.expm1(2 * jnp.where(rate > 0, rate, 1)), 0)

    def _rate(self, residual: Float[Array, ""]) -> Float[Array, ""]:
        """By how much the logarithm of the residual falls in a step, 0 as long as it is not known."""
        tiny = jnp.finfo(residual.dtype).tiny
        before, now = (jnp.log(jnp.maximum(r, tiny)) for r in (self.marks[0], residual))
        fall, steps = before - now, (self.count - self.passed[0]).astype(residual.dtype)
        return jnp.where(fall > jnp.log(_TELLING).astype(fall.dtype), fall / steps, 0)


class AcceleratedState(eqx.Module):
    """Step size, momentum and the previous point."""

    stepsize: Float[Array, ""]
    momentum: Float[Array, ""]
    previous: GLMParams


class AcceleratedCache(eqx.Module):
    """Linear predictors of the current and the previous point on these rows, and the best optimality
    residual and objective so far."""

    eta: Float[Array, "C n"]
    previous_eta: Float[Array, "C n"]
    best: Float[Array, ""]
    lowest: Float[Array, ""]
    since_best: Int[Array, ""]
    decline: Decline
    progress: Standing


def as_stepsize(stepsize: Any) -> Any:
    """None, the line search, is 0: given or not, it is the same program."""
    return as_float(0.0 if stepsize is None else stepsize)


class AbstractAccelerated(AbstractSolver):
    """FISTA; subclasses say how the penalty enters."""

    stepsize: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def metric(self, problem: Problem) -> Float[Array, "p K"]:
        """By what the gradient of each coefficient is divided."""

    @abc.abstractmethod
    def gradient(self, problem: Problem, params: GLMParams, loss: GLMParams) -> GLMParams:
        """Gradient of the part that is linearised, given that of the loss."""

    @abc.abstractmethod
    def excess(self, problem: Problem, new: GLMParams, old: GLMParams) -> Float[Array, ""]:
        """By how much that part, without the loss, exceeds its tangent at ``old``."""

    @abc.abstractmethod
    def prox(self, problem: Problem, params: GLMParams, stepsize: Array) -> GLMParams:
        """Proximal operator of the rest."""

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> AcceleratedState:
        loss, _ = problem.curvature()
        # 1 / curvature of one feature: an optimistic start that the line search corrects.
        stepsize = jnp.where(self.stepsize > 0, self.stepsize, 1 / loss)
        return AcceleratedState(stepsize, jnp.ones_like(stepsize), params)

    def evaluate(
        self,
        problem: Problem,
        params: GLMParams,
        look: Look,
        state: AcceleratedState,
    ) -> AcceleratedCache:
        optimality = problem.optimality(params, look.gradient)
        objective = look.loss + problem.penalty_value(params.coef)
        return AcceleratedCache(
            eta=look.eta,
            previous_eta=problem.predictor(state.previous),
            best=optimality,
            lowest=objective,
            since_best=jnp.zeros((), jnp.int32),
            decline=Decline.starting(optimality),
            progress=Standing(
                objective=objective,
                optimality=optimality,
                gap=jnp.zeros_like(look.loss),
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
        loss_gradient = problem.gradient(residual)
        gradient = self.gradient(problem, ahead, loss_gradient)
        trial = self._descend(problem, ahead, eta_ahead, gradient, state.stepsize)
        step = tree_sub(trial.params, params)
        # Restart where the momentum points uphill.
        uphill = tree_dot(tree_sub(ahead, trial.params), step) > 0
        # The loss is blind to the level of the classes: gradients would only creep along it.
        new = GLMParams(problem.level(trial.params.coef), trial.params.intercept)
        # The gradient at the new point differs from the one at hand by no more than this.
        drift = tree_norm(self._by_metric(problem, tree_sub(ahead, trial.params)))
        optimality = problem.optimality(new, loss_gradient) + drift / trial.stepsize
        objective = problem.loss(trial.eta) + problem.penalty_value(new.coef)
        rounding = _ROUNDINGS * jnp.finfo(objective.dtype).eps * jnp.abs(objective)
        lower = objective < cache.lowest - rounding
        better = (optimality < cache.best) | lower
        since_best = jnp.where(better, 0, cache.since_best + 1)
        decline = cache.decline.to(optimality)
        state = AcceleratedState(trial.stepsize, jnp.where(uphill, 1, momentum), params)
        return new, state, AcceleratedCache(
            eta=trial.eta,
            previous_eta=cache.eta,
            best=jnp.minimum(optimality, cache.best),
            lowest=jnp.where(lower, objective, cache.lowest),
            since_best=since_best,
            decline=decline,
            progress=Standing(objective, optimality, decline.gap(optimality), since_best >= _PATIENCE),
        )

    def finish(self, problem: Problem, params: GLMParams, cache: AcceleratedCache) -> Standing:
        exact = problem.optimality_of(params)
        return eqx.tree_at(lambda p: p.optimality, cache.progress, exact)

    def _descend(
        self,
        problem: Problem,
        ahead: GLMParams,
        eta_ahead: Float[Array, "C n"],
        gradient: GLMParams,
        given: Float[Array, ""],
    ) -> "_Trial":
        """The largest of the shrinking step sizes whose quadratic model is above the loss.

        A step that moves the predictor by its rounding says nothing about the step size, which stays.
        """
        fixed = jnp.asarray(self.stepsize > 0)

        metric = self.metric(problem)

        def attempt(trial: _Trial) -> _Trial:
            stepsize = jnp.where(fixed, trial.stepsize, _SHRINK * trial.stepsize)
            coef = ahead.coef - stepsize * gradient.coef / metric
            intercept = ahead.intercept - stepsize * gradient.intercept
            new = self.prox(problem, GLMParams(coef, intercept), stepsize)
            step = tree_sub(new, ahead)
            # Of the point, not of the step: predictors must not drift over thousands of steps.
            eta = problem.predictor(new)
            room = tree_dot(step, self._by_metric(problem, step)) / (2 * stepsize)
            excess = problem.divergence(eta - eta_ahead, eta_ahead)
            below = excess + self.excess(problem, new, ahead) <= room
            blind = is_rounding(excess, new)
            stepsize = jnp.where(blind & ~fixed, given, stepsize)
            return _Trial(stepsize, new, eta, below | fixed | blind, trial.count + 1)

        start = jnp.where(fixed, self.stepsize, given * _GROW / _SHRINK)
        none = jnp.zeros((), jnp.int32)
        first = _Trial(start, ahead, eta_ahead, none > 0, none)
        return jax.lax.while_loop(
            lambda trial: ~trial.accepted & (trial.count < _MAX_TRIALS), attempt, first
        )

    def _by_metric(self, problem: Problem, params: GLMParams) -> GLMParams:
        return GLMParams(self.metric(problem) * params.coef, params.intercept)


class _Trial(eqx.Module):
    stepsize: Float[Array, ""]
    params: GLMParams
    eta: Float[Array, "C n"]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]
