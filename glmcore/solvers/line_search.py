"""Descent along a direction, with a line search on the cached linear predictor.

Along a direction D the linear predictor is ``eta + alpha X D``: one product with X for the
direction, and every trial step touches n x K numbers only.  The first trial is nearly always
taken, so a step reads X once forward and once back.

What remembers past steps and turns a gradient into a direction is a :class:`AbstractMemory`:
that is all in which L-BFGS, BFGS and nonlinear conjugate gradients differ.
"""

import abc
from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.params import GLMParams
from glmcore.problem import Look, Problem
from glmcore.solvers.base import AbstractSolver, Standing
from glmcore.solvers.row_space import RowSpace
from glmcore.tree import tree_dot, tree_norm, tree_sub, tree_where

_ARMIJO = 1e-4
_MAX_TRIALS = 25
#: The linear predictor, to which each step adds its change, is computed anew at the end if it began
#: so far from zero, or after so many steps, and so many times at most.
_FAR, _LONG = 32, 32
_MOST_ANCHORED = 5


class AbstractMemory(eqx.Module):
    """What a solver knows of the Hessian."""

    def smoothed(self, problem: Problem, gradient: GLMParams, rows: Optional[RowSpace]) -> GLMParams:
        """A model of the inverse Hessian that no step changes times ``gradient``; ``rows`` is the part of
        it, if any, that only a fit has."""
        return gradient

    @abc.abstractmethod
    def direction(
        self, problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, smooth: GLMParams
    ) -> GLMParams:
        """Minus an inverse Hessian times the gradient of the objective where the linear
        predictor is ``eta``; ``smooth`` is what :meth:`smoothed` makes of it."""

    @abc.abstractmethod
    def remember(
        self, step: GLMParams, change: GLMParams, smoothed: GLMParams, gradient: GLMParams
    ) -> "AbstractMemory":
        """The memory after ``step``, which changed the gradient by ``change`` to ``gradient`` and
        what :meth:`smoothed` makes of that by ``smoothed``; ``step`` and ``change`` have a positive
        inner product."""

    @abc.abstractmethod
    def forget(self) -> "AbstractMemory":
        """The memory without past steps."""


class DescentCache(eqx.Module):
    """Linear predictor, gradient of the objective, what the memory's ``smoothed`` makes of that and the next
    direction on these rows, and ``rows``, which outlives a step.

    The linear predictor is the sum of the changes of the steps ``since`` it was last computed from
    the parameters, when its largest entry was ``widest``; that it was ``anchored`` so many times.
    """

    eta: Float[Array, "C n"]
    gradient: GLMParams
    smooth: GLMParams
    direction: GLMParams
    rows: Optional[RowSpace]
    slope: Float[Array, ""]
    failures: Int[Array, ""]
    progress: Standing
    widest: Float[Array, ""]
    since: Int[Array, ""]
    anchored: Int[Array, ""]

    @property
    def directed(self) -> Bool[Array, ""]:
        """Whether there is a direction to go."""
        return self.failures >= 0

    @classmethod
    def of(
        cls,
        eta: Float[Array, "C n"],
        objective: Float[Array, ""],
        gradient: GLMParams,
        smooth: GLMParams,
        direction: GLMParams,
        rows: Optional[RowSpace],
        failures: Int[Array, ""],
        widest: Float[Array, ""],
        since: Int[Array, ""],
        anchored: Int[Array, ""],
    ) -> "DescentCache":
        slope = tree_dot(gradient, direction)
        # On a quadratic with the inverse Hessian behind `direction`, half the slope is the gap.
        stalled = (failures >= 2) | (anchored >= _MOST_ANCHORED)
        progress = Standing(objective, tree_norm(gradient), -slope / 2, stalled)
        return cls(eta, gradient, smooth, direction, rows, slope, failures, progress, widest, since, anchored)

    def by(self, problem: Problem, memory: AbstractMemory, rows: Optional[RowSpace]) -> "DescentCache":
        """The same point with the direction that ``memory`` gives, and ``rows``."""
        smooth = memory.smoothed(problem, self.gradient, rows)
        direction = memory.direction(problem, self.eta, self.gradient, smooth)
        objective, failures = self.progress.objective, jnp.maximum(self.failures, 0)
        age = self.widest, self.since, self.anchored
        return DescentCache.of(self.eta, objective, self.gradient, smooth, direction, rows, failures, *age)


class AbstractDescent(AbstractSolver):
    """Line-search descent for smooth penalties; subclasses say what they remember."""

    carries_predictor = True
    #: Share of the slope that may be left at the end of a line search.
    slope_left: eqx.AbstractClassVar[float]

    @abc.abstractmethod
    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> AbstractMemory:
        """The memory before the first step."""

    def evaluate(
        self,
        problem: Problem,
        params: GLMParams,
        look: Look,
        state: AbstractMemory,
    ) -> DescentCache:
        return self.blank(problem, params, look).by(problem, state, None)

    def blank(self, problem: Problem, params: GLMParams, look: Look) -> DescentCache:
        objective = look.loss + problem.penalty_value(params.coef)
        gradient = problem.penalised(params, look.gradient)
        nowhere = jax.tree.map(jnp.zeros_like, params)
        undirected, none = jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32)
        age = jnp.max(jnp.abs(look.eta)), none, none
        rows = self.row_space(problem, look.eta)
        return DescentCache.of(look.eta, objective, gradient, nowhere, nowhere, rows, undirected, *age)

    def row_space(self, problem: Problem, eta: Float[Array, "C n"]) -> Optional[RowSpace]:
        """Room for what a refresh of a fit learns of the rows."""
        return None

    def drifted(self, cache: DescentCache) -> Bool[Array, ""]:
        # Once in doubt, only what is seen right after it was computed counts.
        again = (cache.anchored > 0) & (cache.anchored < _MOST_ANCHORED) & (cache.since > 1)
        first = (cache.anchored == 0) & ((cache.widest > _FAR) | (cache.since > _LONG))
        return again | first

    def anchored(self, problem: Problem, params: GLMParams, cache: DescentCache) -> DescentCache:
        # From the largest objective a line search takes the first trial, which goes nowhere.
        eta, zero, none = problem.predictor(params), jnp.zeros_like(cache.slope), jnp.zeros((), jnp.int32)
        most = jnp.full_like(zero, jnp.finfo(zero.dtype).max)
        return DescentCache(
            eta=eta,
            gradient=cache.gradient,
            smooth=cache.smooth,
            direction=jax.tree.map(jnp.zeros_like, params),
            rows=cache.rows,
            slope=zero,
            failures=none,
            progress=Standing(most, most, zero, jnp.zeros((), bool)),
            widest=jnp.max(jnp.abs(eta)),
            since=none,
            anchored=cache.anchored + 1,
        )

    def step(
        self, problem: Problem, params: GLMParams, state: AbstractMemory, cache: DescentCache
    ) -> tuple[GLMParams, AbstractMemory, DescentCache]:
        def move():
            change = problem.predictor(cache.direction)
            trial = _line_search(problem, params, cache, change, self.slope_left)
            accepted = trial.accepted
            step = jax.tree.map(lambda d: jnp.where(accepted, trial.alpha * d, 0), cache.direction)
            there = jax.tree.map(jnp.add, params, step)
            gradient = problem.penalised(there, problem.gradient(trial.residual))
            gradient = tree_where(accepted, gradient, cache.gradient)
            objective = jnp.where(accepted, trial.objective, cache.progress.objective)
            return there, step, trial.alpha, change, gradient, objective, accepted

        def stay():
            objective, done = cache.progress.objective, jnp.ones((), bool)
            nowhere = jnp.zeros_like(objective), jnp.zeros_like(cache.eta)
            return params, cache.direction, *nowhere, cache.gradient, objective, done

        moved = jax.lax.cond(cache.directed, move, stay)
        there, step, alpha, change, gradient, objective, accepted = moved
        # Out here, or XLA would transpose the change anew, and keep what it came from until then.
        eta = cache.eta + jnp.where(accepted, alpha * change, 0)
        smooth = state.smoothed(problem, gradient, cache.rows)
        remembered = _remember(state, step, cache, gradient, smooth)
        # After a failed search: forget the past, try the preconditioned gradient once more.
        state = tree_where(accepted, remembered, state.forget())
        failures = jnp.where(accepted, 0, cache.failures + 1)
        direction = state.direction(problem, eta, gradient, smooth)
        age = cache.widest, cache.since + 1, cache.anchored
        return there, state, DescentCache.of(
            eta, objective, gradient, smooth, direction, cache.rows, failures, *age
        )


def _remember(
    state: AbstractMemory, step: GLMParams, before: DescentCache, gradient: GLMParams, smooth: GLMParams
) -> AbstractMemory:
    change, smoothed = tree_sub(gradient, before.gradient), tree_sub(smooth, before.smooth)
    eps = jnp.finfo(gradient.intercept.dtype).eps
    curved = tree_dot(step, change) > eps * tree_norm(step) * tree_norm(change)
    return tree_where(curved, state.remember(step, change, smoothed, gradient), state)


class _Trial(eqx.Module):
    """A line search under way: the last trial step and the bracket around a minimum."""

    alpha: Float[Array, ""]
    next_alpha: Float[Array, ""]
    low: Float[Array, ""]
    low_slope: Float[Array, ""]
    high: Float[Array, ""]
    objective: Float[Array, ""]
    residual: Float[Array, "C n"]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def first(cls, cache: DescentCache) -> "_Trial":
        start = cache.progress.objective
        one = jnp.ones_like(start)
        return cls(
            alpha=one,
            next_alpha=one,
            low=0 * one,
            low_slope=cache.slope,
            high=jnp.inf * one,
            objective=start,
            residual=jnp.zeros_like(cache.eta),
            accepted=jnp.zeros((), bool),
            count=jnp.zeros((), jnp.int32),
        )

    def bracket(
        self, slope: Float[Array, ""], decreased: Bool[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Next trial step and new ends of the bracket, after one at ``next_alpha``."""
        alpha = self.next_alpha
        too_far = ~decreased | ~(slope <= 0)  # NaN is too far
        low = jnp.where(too_far, self.low, alpha)
        # An end that stays counts for half each time, or steep slopes at one end and flat ones at
        # the other would hardly move the bracket (the Illinois method).
        low_slope = jnp.where(too_far, self.low_slope / 2, slope)
        high = jnp.where(too_far, alpha, self.high)
        # The zero of the slope between its ends where they bracket one, else the middle.
        share = jnp.where(too_far & (slope > 0), self.low_slope / (self.low_slope - slope), 0.5)
        inside = low + jnp.clip(share, 0.1, 0.9) * (high - low)
        return jnp.where(jnp.isinf(high), 4 * low, inside), low, low_slope, high


def highest_accepted(start: Float[Array, "..."], change: Float[Array, "..."]) -> Float[Array, "..."]:
    """The objective up to which a step is accepted that starts at ``start`` and to first order
    changes it by ``change``: sufficient decrease (Armijo), up to the rounding error."""
    return start + _ARMIJO * change + 10 * jnp.finfo(start.dtype).eps * jnp.abs(start)


def _line_search(
    problem: Problem,
    params: GLMParams,
    cache: DescentCache,
    change: Float[Array, "C n"],
    slope_left: float,
) -> _Trial:
    """Strong Wolfe conditions, the first up to the rounding error of the objective."""
    start, start_slope = cache.progress.objective, cache.slope

    def penalty(alpha):
        return problem.penalty_value(params.coef + alpha * cache.direction.coef)

    def attempt(trial: _Trial) -> _Trial:
        # Rows that seem to change, or XLA would write a one-hot matrix of the labels, and which
        # weights are zero, before the loop.
        rows = trial.next_alpha, problem.y, problem.weight
        alpha, *rows = jax.lax.optimization_barrier(rows)
        here = eqx.tree_at(lambda q: (q.y, q.weight), problem, rows)
        loss, residual = here.loss_and_residual(cache.eta + alpha * change)
        value, penalty_slope = jax.jvp(penalty, (alpha,), (jnp.ones_like(alpha),))
        objective = loss + value
        slope = jnp.sum(residual * change) + penalty_slope
        decreased = objective <= highest_accepted(start, alpha * start_slope)
        accepted = decreased & (jnp.abs(slope) <= -slope_left * start_slope)
        bracket = trial.bracket(slope, decreased)
        return _Trial(alpha, *bracket, objective, residual, accepted, trial.count + 1)

    return jax.lax.while_loop(
        lambda trial: ~trial.accepted & (trial.count < _MAX_TRIALS), attempt, _Trial.first(cache)
    )
