"""L-BFGS on many problems at once: all lanes take every step together, each with its own step size.

One product with the features forward and one back serves the trial points of all lanes.  A lane
that accepts its trial gets a new direction, a lane that refuses it a smaller step; a lane that has
arrived waits.  Nothing of n rows is kept from step to step.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.solvers.line_search import highest_accepted
from glmcore.solvers.pairs import Pairs
from glmcore.solvers.refresh import Refresh

_MEMORY = 8
_SLOPE_LEFT = 0.9
#: Refusals in a row after which a lane has failed.
_REFUSALS = 12
#: Steps after which lanes are left behind, and steps after which the last few of them are.
_MOST_STEPS = 200
_STEPS_FOR_FEW = 32
_FEW = 16

#: Inner coordinates of all lanes, class by class, the intercept last.
Points = Float[Array, "L K p1"]
PerLane = Float[Array, " L"]


class Lockstep(eqx.Module):
    """Where all lanes stand; ``smooth`` is the model times the gradient."""

    points: Points
    objective: PerLane
    gradient: Points
    smooth: Points
    direction: Points
    slope: PerLane
    alpha: PerLane
    low: PerLane
    high: PerLane
    model: Any
    pairs: Pairs
    refusals: Int[Array, " L"]
    n_iter: Int[Array, " L"]
    arrived: Bool[Array, " L"]
    count: Int[Array, ""]

    @property
    def under_way(self) -> Bool[Array, " L"]:
        return ~self.arrived & (self.refusals < _REFUSALS)

    @property
    def mostly_under_way(self) -> Bool[Array, ""]:
        return 2 * jnp.sum(self.under_way) >= self.arrived.size

    @property
    def worth_a_step(self) -> Bool[Array, ""]:
        """Whether to go on, or to leave the lanes that are under way to somebody else."""
        number = jnp.sum(self.under_way)
        few = (number * _FEW <= self.arrived.size) & (self.count >= _STEPS_FOR_FEW)
        return (number > 0) & ~few & (self.count < _MOST_STEPS)


def descend(
    evaluate: Callable[[Points], tuple[PerLane, Points]],
    model: Any,
    refresh: Optional[Refresh],
    is_far: Callable[[Lockstep], Bool[Array, ""]],
    arrived: Callable[[PerLane, Points, PerLane], Bool[Array, " L"]],
    start: Points,
    at_start: Optional[tuple[PerLane, Points]],
) -> Lockstep:
    """Steps until every lane has arrived, has failed, or is left behind.

    Parameters
    ----------
    evaluate : callable
        Objective and gradient of every lane.
    model : module with a method ``apply``
        An inverse Hessian, roughly, times a gradient.
    refresh : Refresh, optional
        How the model is made anew from the points where the lanes have got to, while most of them
        are under way.
    is_far : callable
        Whether then so many steps are left that this pays.
    arrived : callable
        Whether a lane is done, from its objective, its gradient and the slope of its next
        direction.
    start : array of shape (L, K, p1)
        Where each lane starts.
    at_start : tuple of arrays, optional
        What ``evaluate`` finds at ``start``, if that is known.
    """

    def look(at: Lockstep, trial: Points) -> tuple[PerLane, Points]:
        if at_start is None:
            return evaluate(trial)
        return jax.lax.cond(at.count < 0, lambda: at_start, lambda: evaluate(trial))

    def step(at: Lockstep) -> Lockstep:
        move = _along(at.alpha, at.direction)
        trial = at.points + move
        objective, gradient = look(at, trial)
        slope = _dot(gradient, at.direction)
        decreased = objective <= highest_accepted(at.objective, at.alpha * at.slope)
        accepted = decreased & (jnp.abs(slope) <= -_SLOPE_LEFT * at.slope) & at.under_way
        moved = _remember(at, move, trial, gradient, accepted)
        direction = _where(accepted, _direction(moved), at.direction)
        slope_there = _dot(moved.gradient, direction)
        objective = jnp.where(accepted, objective, at.objective)
        alpha, low, high = _bracket(at, slope, decreased)
        there = arrived(objective, moved.gradient, slope_there)
        return dataclasses.replace(
            moved,
            objective=objective,
            direction=direction,
            slope=slope_there,
            alpha=jnp.where(accepted, 1, alpha),
            low=jnp.where(accepted, 0, low),
            high=jnp.where(accepted, jnp.inf, high),
            refusals=jnp.where(accepted, 0, at.refusals + at.under_way),
            n_iter=at.n_iter + at.under_way,
            arrived=at.arrived | (there & accepted),
            count=at.count + 1,
        )

    at = _blank(start, model)
    if refresh is None:
        return jax.lax.while_loop(lambda at: at.worth_a_step, step, at)

    stretch = partial(
        refresh.stretch,
        lambda at: at.count,
        lambda at: at.worth_a_step,
        step,
        lambda at: at.worth_a_step & at.mostly_under_way & is_far(at),
        lambda at: _renewed(at, refresh.anew(at.points)),
    )
    return jax.lax.while_loop(lambda at: at.worth_a_step, stretch, at)


def _blank(start: Points, model: Any) -> Lockstep:
    """Nothing is known yet: the first step goes nowhere, from an infinite objective, and looks
    around, so that ``evaluate`` is compiled once."""
    one = jnp.ones_like(start[:, 0, 0])
    none = jnp.zeros(one.shape, jnp.int32)
    return Lockstep(
        points=start,
        objective=jnp.inf * one,
        gradient=jnp.zeros_like(start),
        smooth=jnp.zeros_like(start),
        direction=jnp.zeros_like(start),
        slope=0 * one,
        alpha=one,
        low=0 * one,
        high=jnp.inf * one,
        model=model,
        pairs=jax.vmap(lambda point: Pairs.empty(point, _MEMORY))(_flat(start)),
        refusals=none,
        n_iter=none - 1,
        arrived=jnp.zeros(one.shape, bool),
        count=jnp.full((), -1, jnp.int32),
    )


def _renewed(at: Lockstep, model: Any) -> Lockstep:
    """With another model and, for lanes under way, its directions, without past steps, which were seen
    from farther away."""
    smooth = model.apply(at.gradient)
    fresh = dataclasses.replace(at, model=model, smooth=smooth, pairs=at.pairs.forget())
    direction = _where(at.under_way, _direction(fresh), at.direction)
    one = jnp.ones_like(at.alpha)
    return dataclasses.replace(
        fresh, direction=direction, slope=_dot(at.gradient, direction), alpha=one, low=0 * one, high=jnp.inf * one
    )


def _bracket(
    at: Lockstep, slope: PerLane, decreased: Bool[Array, " L"]
) -> tuple[PerLane, PerLane, PerLane]:
    """Next trial step and new ends of the bracket of lanes that refused one."""
    too_far = ~decreased | ~(slope <= 0)  # NaN is too far
    low = jnp.where(too_far, at.low, at.alpha)
    high = jnp.where(too_far, at.alpha, at.high)
    return jnp.where(jnp.isinf(high), 4 * low, (low + high) / 2), low, high


def _remember(
    at: Lockstep, move: Points, trial: Points, gradient: Points, accepted: Bool[Array, " L"]
) -> Lockstep:
    """At the trial points that are accepted, with the steps to them among the pairs."""
    smooth = at.model.apply(gradient)
    change, smoothed = gradient - at.gradient, smooth - at.smooth
    product, expected = _dot(move, change), _dot(change, smoothed)
    curved = accepted & (product > 0) & (expected > 0)
    # Others teach nothing, may hold NaN, and are put aside below.
    known = (jnp.where(curved[:, None], _flat(part), 1) for part in (move, change, smoothed))
    pairs = jax.vmap(Pairs.remember)(at.pairs, *known)
    return dataclasses.replace(
        at,
        points=_where(accepted, trial, at.points),
        gradient=_where(accepted, gradient, at.gradient),
        smooth=_where(accepted, smooth, at.smooth),
        pairs=jax.tree.map(lambda new, old: _where(curved, new, old), pairs, at.pairs),
    )


def _direction(at: Lockstep) -> Points:
    direction = jax.vmap(Pairs.direction)(at.pairs, _flat(at.gradient), _flat(at.smooth))
    return direction.reshape(at.gradient.shape)


def _flat(points: Points) -> Float[Array, "L d"]:
    return points.reshape(len(points), -1)


def _dot(a: Points, b: Points) -> PerLane:
    return jnp.sum(a * b, axis=(1, 2))


def _along(scale: PerLane, points: Points) -> Points:
    return scale[:, None, None] * points


def _where(condition: Bool[Array, " L"], a: Points, b: Any) -> Points:
    return jnp.where(condition[:, None, None], a, b)
