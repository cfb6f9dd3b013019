"""Proximal Newton's method on a working set of parameters."""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.params import GLMParams, stacked, unstacked
from glmcore.penalties import AbstractScalablePenalty
from glmcore.problem import Look, Problem
from glmcore.solvers.base import AbstractSolver, Standing, as_float, as_int
from glmcore.solvers.line_search import highest_accepted
from glmcore.solvers.quadratic import Quadratic, minimise
from glmcore.tree import as_count, tree_dot, tree_sub, tree_where

#: Sizes of a working set; with more entries that are not zero the Hessian is not formed.
_CAPACITIES = (128, 256, 512, 2048)
#: A Hessian serves again while a step leaves less than this of the optimality residual.
_CONTRACTION = 0.3
#: Steps between looks at the level of the classes.
_LEVEL_EVERY = 4
_MAX_TRIALS = 20
#: Steps without a better residual, and line searches in a row, that rounding is blamed for.
_PATIENCE, _FAILURES = 30, 3
#: By how many roundings an objective falls that is not at its rounding level.
_ROUNDINGS = 32


class ProximalNewtonState(eqx.Module):
    """The Hessian at hand and whether it still is good enough."""

    quadratic: Quadratic
    tier: Int[Array, ""]
    stale: Bool[Array, ""]
    damping: Float[Array, ""]
    count: Int[Array, ""]


class ProximalNewtonCache(eqx.Module):
    """Linear predictor and gradient of the loss on these rows."""

    eta: Float[Array, "C n"]
    loss: Float[Array, ""]
    gradient: GLMParams
    best: Float[Array, ""]
    since_best: Int[Array, ""]
    failures: Int[Array, ""]
    progress: Standing


def _as_capacities(given: Any) -> Optional[tuple[int, ...]]:
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or not given:
        raise TypeError(f"capacities must be a tuple of whole numbers or None, found {given!r}")
    return tuple(sorted(as_count(each, "capacities") for each in given))


class ProximalNewton(AbstractSolver):
    """Proximal Newton on a working set, for penalties that are not smooth: the default of a path,
    and of a fit of few parameters.

    A step minimises the loss to second order plus the penalty, over the entries that are not
    zero and those next to become so, by FISTA on their Hessian (Lee, Sun & Saunders, 2014) and,
    of up to 1024 entries, a factor of it while signs stay, and searches along the line to that
    minimum.  The Hessian is formed from at least 8192 rows, and again only when a step brings
    little; the gradient always is that of all rows and all entries.  Where more than 2048 entries
    are not zero, products with the Hessian of all rows take its place.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-8 in float64.  The predicted
        distance of the objective to its minimum has to be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of steps.
    capacities : tuple of int, optional
        Sizes that a working set may have, growing: a program holds a branch for each.  The last one
        has to hold all entries that are not zero.

    Examples
    --------
    >>> from glmcore import ProximalNewton
    >>> int(ProximalNewton(maxiter=50).maxiter)
    50
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    capacities: Optional[tuple[int, ...]] = eqx.field(default=None, static=True, converter=_as_capacities)
    needs_smooth = False

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> ProximalNewtonState:
        none = jnp.zeros((), jnp.int32)
        return ProximalNewtonState(
            quadratic=Quadratic.empty(params, self._sizes(params)),
            tier=none,
            stale=jnp.ones((), bool),
            damping=jnp.zeros((), params.intercept.dtype),
            count=none,
        )

    def evaluate(
        self,
        problem: Problem,
        params: GLMParams,
        look: Look,
        state: ProximalNewtonState,
    ) -> ProximalNewtonCache:
        none, infinite = jnp.zeros((), jnp.int32), jnp.full_like(look.loss, jnp.inf)
        return _cache(problem, params, look.eta, look.loss, look.gradient, infinite, none, none)

    def step(
        self,
        problem: Problem,
        params: GLMParams,
        state: ProximalNewtonState,
        cache: ProximalNewtonCache,
    ) -> tuple[GLMParams, ProximalNewtonState, ProximalNewtonCache]:
        score = _score(problem, params, cache.gradient)
        state = self._with_hessian(problem, params, state, cache, score)
        target = self._target(problem, params, state, cache, score)
        trial = _line_search(problem, params, cache, target)
        before_step = params
        params = tree_where(trial.accepted, trial.params, params)
        moved = params
        count = state.count + 1
        # The loss is blind to the level of the classes.
        coef = jax.lax.cond(
            count % _LEVEL_EVERY == 0,
            lambda: problem.level(params.coef),
            lambda: params.coef,
        )
        params = GLMParams(coef, params.intercept)
        eta = jnp.where(trial.accepted, trial.eta, cache.eta)
        loss = jnp.where(trial.accepted, trial.loss, cache.loss)
        gradient = tree_where(trial.accepted, problem.gradient(trial.residual), cache.gradient)
        change = tree_sub(gradient, cache.gradient)
        quadratic = state.quadratic.learnt(tree_sub(moved, before_step), change)
        failures = jnp.where(trial.accepted, 0, cache.failures + 1)
        before = cache.progress.optimality
        gap = cache.progress.gap
        cache = _cache(
            problem, params, eta, loss, gradient, cache.best, cache.since_best + 1, failures, cache.progress.objective
        )
        left = cache.progress.optimality / jnp.maximum(before, jnp.finfo(before.dtype).tiny)
        # Half the slope was the gap, which falls with the square of the residual.
        gap = jnp.where(trial.accepted, -trial.slope / 2 * left**2, gap)
        cache = eqx.tree_at(lambda c: c.progress.gap, cache, gap)
        slow = left > _CONTRACTION
        less = jnp.where(state.damping > 0.01, state.damping / 4, 0)
        more = jnp.maximum(4 * state.damping, 1)
        damping = jnp.where(trial.accepted, less, more)
        state = ProximalNewtonState(
            quadratic, state.tier, slow | ~trial.accepted, damping, count
        )
        return params, state, cache

    def under(
        self, problem: Problem, params: GLMParams, cache: ProximalNewtonCache
    ) -> ProximalNewtonCache:
        """The cache of the same point under the penalty of ``problem``: no pass over the rows."""
        none, infinite = jnp.zeros((), jnp.int32), jnp.full_like(cache.loss, jnp.inf)
        return _cache(problem, params, cache.eta, cache.loss, cache.gradient, infinite, none, none)

    def _sizes(self, params: GLMParams) -> tuple[int, ...]:
        """Sizes of working sets, the last one large enough for all entries if it may be: their
        Hessian costs no more than that of any set of half of them."""
        total = params.coef.size + params.intercept.size
        allowed = self.capacities or _CAPACITIES
        return (*(size for size in allowed[:-1] if 2 * size <= total), min(allowed[-1], total))

    def _with_hessian(
        self,
        problem: Problem,
        params: GLMParams,
        state: ProximalNewtonState,
        cache: ProximalNewtonCache,
        score: Float[Array, "p1 K"],
    ) -> ProximalNewtonState:
        """The state with a Hessian of the working set that is wanted now."""
        sizes = self._sizes(params)
        wanted = 5 * jnp.sum(jnp.isinf(score)) // 4
        smaller = jnp.asarray(sizes[:-1], jnp.int32)
        tier = jnp.sum(wanted > smaller).astype(jnp.int32)
        missing = jnp.any(~state.quadratic.entries.chosen & (score > 1))

        def form(size):
            return lambda: state.quadratic.anew(problem, cache.eta, score, size)

        def anew():
            return jax.lax.switch(tier, [form(size) for size in sizes]), tier

        def as_it_is():
            return state.quadratic, state.tier

        quadratic, tier = jax.lax.cond(state.stale | missing, anew, as_it_is)
        return eqx.tree_at(lambda s: (s.quadratic, s.tier), state, (quadratic, tier))

    def _target(
        self,
        problem: Problem,
        params: GLMParams,
        state: ProximalNewtonState,
        cache: ProximalNewtonCache,
        score: Float[Array, "p1 K"],
    ) -> GLMParams:
        """The penalised minimum of the model."""
        sizes = self._sizes(params)
        largest = state.quadratic.largest_eigenvalue()

        def on_set(size):
            return lambda: state.quadratic.minimum(
                problem, params, cache.gradient, size, largest, state.damping
            )

        def formed():
            return jax.lax.switch(state.tier, [on_set(size) for size in sizes])

        if not self._may_overflow(params):
            return formed()
        overflow = jnp.sum(jnp.isinf(score)) >= sizes[-1]
        return jax.lax.cond(
            overflow, lambda: _by_products(problem, params, cache, state.damping), formed
        )

    def _may_overflow(self, params: GLMParams) -> bool:
        total = params.coef.size + params.intercept.size
        return _CAPACITIES[-1] <= self._sizes(params)[-1] < total


def _cache(
    problem, params, eta, loss, gradient, best, since_best, failures, before=-jnp.inf
) -> ProximalNewtonCache:
    optimality = problem.optimality(params, gradient)
    objective = loss + problem.penalty_value(params.coef)
    # On its way to zero a group may take many steps of one residual.
    falls = objective < before - _ROUNDINGS * jnp.finfo(loss.dtype).eps * jnp.abs(objective)
    since_best = jnp.where((optimality < best) | falls, 0, since_best)
    stalled = (since_best >= _PATIENCE) | (failures >= _FAILURES)
    # At the null model the residual tells all, elsewhere nothing is known before a step.
    gap = jnp.where(jnp.any(params.coef != 0), jnp.inf, 0).astype(loss.dtype)
    return ProximalNewtonCache(
        eta=eta,
        loss=loss,
        gradient=gradient,
        best=jnp.minimum(optimality, best),
        since_best=since_best,
        failures=failures,
        progress=Standing(objective, optimality, gap, stalled),
    )


def _score(problem: Problem, params: GLMParams, gradient: GLMParams) -> Float[Array, "p1 K"]:
    """How much each entry belongs in the working set: above 1 it moves, infinite where it
    stands there already."""
    intercept = jnp.where(problem.present & problem.fit_intercept, jnp.inf, 0)
    if isinstance(problem.penalty, AbstractScalablePenalty):
        pressure = problem.pressure(gradient.coef)
    else:
        pressure = jnp.full_like(params.coef, 2)
    used = problem.present[None, :] & (problem.coordinates.deviation > 0)[:, None]
    coef = problem.masked(jnp.where(used, jnp.where(params.coef != 0, jnp.inf, pressure), 0))
    return jnp.concatenate([coef, intercept[None, :].astype(coef.dtype)])


def _by_products(
    problem: Problem,
    params: GLMParams,
    cache: ProximalNewtonCache,
    damping: Float[Array, ""],
) -> GLMParams:
    """The penalised minimum of the model on all entries, without its Hessian."""
    unit, _ = problem.curvature()

    def product(step: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        return stacked(problem.hessian_product(unstacked(step), cache.eta)) + damping * unit * step

    def multiply(_, vector):
        return (lambda bent: bent / jnp.linalg.norm(bent))(product(vector))

    start = stacked(params)
    vector = jnp.cos(jnp.arange(start.size, dtype=start.dtype)).reshape(start.shape)
    vector = jax.lax.fori_loop(0, 8, multiply, vector / jnp.linalg.norm(vector))
    length = jnp.full_like(start, 1 / (1.2 * jnp.linalg.norm(product(vector))))

    def prox(point: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        return jnp.concatenate([problem.prox(point[:-1], length[:-1]), point[-1:]])

    return unstacked(minimise(product, stacked(cache.gradient), prox, start, length))


class _Trial(eqx.Module):
    params: GLMParams
    eta: Float[Array, "C n"]
    loss: Float[Array, ""]
    residual: Float[Array, "C n"]
    share: Float[Array, ""]
    slope: Float[Array, ""]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]


def _line_search(
    problem: Problem, params: GLMParams, cache: ProximalNewtonCache, target: GLMParams
) -> _Trial:
    """Backtracking from ``target`` to ``params``, on their linear predictors."""
    step = tree_sub(target, params)
    # Of the point, not of the step: predictors must not drift over many steps.
    change = problem.predictor(target) - cache.eta
    start = cache.progress.objective
    decrease = tree_dot(cache.gradient, step) + (
        problem.penalty_value(target.coef) - problem.penalty_value(params.coef)
    )

    def attempt(trial: _Trial) -> _Trial:
        share = trial.share / 2
        whole = share == 1  # then the zeros of the target are kept to the last bit
        at = jax.tree.map(lambda w, t, d: jnp.where(whole, t, w + share * d), params, target, step)
        eta = cache.eta + share * change
        loss, residual = problem.loss_and_residual(eta)
        objective = loss + problem.penalty_value(at.coef)
        enough = objective <= highest_accepted(start, share * jnp.minimum(decrease, 0))
        return _Trial(at, eta, loss, residual, share, decrease, enough, trial.count + 1)

    first = _Trial(
        params=params,
        eta=cache.eta,
        loss=cache.loss,
        residual=jnp.zeros_like(cache.eta),
        share=jnp.full_like(start, 2),
        slope=decrease,
        accepted=jnp.zeros((), bool),
        count=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(
        lambda trial: ~trial.accepted & (trial.count < _MAX_TRIALS), attempt, first
    )
