"""L-BFGS with a line search on the cached linear predictor.

Along a direction D the linear predictor is ``eta + alpha X D``: one product with X for the
direction, and every trial step touches n x K numbers only.  The first trial is nearly always
taken, so a step reads X once forward and once back.

The initial inverse Hessian of each direction is the inverse of ``c G + diag(penalty)`` with G
the Gram matrix of the scaled features, as far as p allows (Nocedal & Wright, Numerical
Optimization, 2006, section 7.2, with this matrix for H0).
"""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import AbstractSolver, Progress, as_float, as_int
from glmcore.tree import tree_axpy, tree_dot, tree_norm, tree_sub, tree_where

#: Features up to which the Gram matrix is formed, and rows that estimate it.
_GRAM_FEATURES = 1024
_GRAM_ROWS = 8192

_ARMIJO = 1e-4
_WOLFE = 0.9
_MAX_TRIALS = 25


class Preconditioner(eqx.Module):
    """Inverse of a model of the Hessian: per class a p x p Cholesky factor, or a diagonal."""

    factor: Optional[Float[Array, "p p"]]
    diagonal: Float[Array, "p K"]
    intercept: Float[Array, ""]

    @classmethod
    def of(cls, problem: Problem) -> "Preconditioner":
        loss, penalty = problem.curvature()
        n, p = problem.X.shape
        diagonal = loss + penalty
        if p > _GRAM_FEATURES:
            return cls(None, diagonal, loss)
        # Every stride-th row: rows are often sorted by class.
        stride = max(1, n // max(_GRAM_ROWS, 8 * p))
        scale = jnp.mean(problem.coordinates.scale, axis=1)
        rows = problem.X[::stride] * scale[None, :]
        weight = problem.weight[::stride]
        gram = (rows * weight[:, None]).T @ rows / jnp.sum(weight)
        # Features nobody penalises may be collinear: keep the factor positive definite.
        jitter = loss * p * 10 * jnp.finfo(gram.dtype).eps
        matrix = loss * gram + jnp.diag(jnp.mean(penalty, axis=1) + jitter)
        return cls(jnp.linalg.cholesky(matrix), diagonal, loss)

    def apply(self, gradient: GLMParams) -> GLMParams:
        if self.factor is None:
            coef = gradient.coef / self.diagonal
        else:
            coef = jax.scipy.linalg.cho_solve((self.factor, True), gradient.coef)
        return GLMParams(coef, gradient.intercept / self.intercept)


class LBFGSState(eqx.Module):
    """Preconditioner and the last ``memory`` pairs of step and change of gradient."""

    preconditioner: Preconditioner
    steps: GLMParams  # leading axis: memory, newest last
    changes: GLMParams
    inverse_products: Float[Array, " memory"]  # 1 / <step, change>; 0 for an empty slot
    gamma: Float[Array, ""]


class LBFGSCache(eqx.Module):
    """Linear predictor, gradient of the objective and the next direction on these rows."""

    eta: Float[Array, "n K"]
    gradient: GLMParams
    direction: GLMParams
    slope: Float[Array, ""]
    failures: Int[Array, ""]
    progress: Progress


class LBFGS(AbstractSolver):
    """Limited-memory BFGS for smooth penalties (the default for Ridge and UnRegularized).

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-7 in float64.
        The predicted distance of the objective to its minimum has to be below
        ``tol / 100`` of it besides.
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
    memory: int = eqx.field(default=10, static=True)
    needs_smooth = True

    def init(self, problem: Problem, params: GLMParams) -> LBFGSState:
        empty = jax.tree.map(lambda w: jnp.zeros((self.memory, *w.shape), w.dtype), params)
        one = jnp.ones((), params.intercept.dtype)
        return LBFGSState(
            preconditioner=Preconditioner.of(problem),
            steps=empty,
            changes=empty,
            inverse_products=jnp.zeros(self.memory, one.dtype),
            gamma=one,
        )

    def evaluate(self, problem: Problem, params: GLMParams, state: LBFGSState) -> LBFGSCache:
        eta = problem.predictor(params)
        loss, residual = problem.loss_and_residual(eta)
        objective = loss + problem.penalty_value(params.coef)
        gradient = _gradient(problem, params, residual)
        return _cache(state, eta, objective, gradient, jnp.zeros((), jnp.int32))

    def step(
        self, problem: Problem, params: GLMParams, state: LBFGSState, cache: LBFGSCache
    ) -> tuple[GLMParams, LBFGSState, LBFGSCache]:
        change = problem.predictor(cache.direction)
        trial = _line_search(problem, params, cache, change)
        step = jax.tree.map(
            lambda d: jnp.where(trial.accepted, trial.alpha * d, 0), cache.direction
        )
        params = jax.tree.map(jnp.add, params, step)
        eta = cache.eta + jnp.where(trial.accepted, trial.alpha * change, 0)
        gradient = _gradient(problem, params, trial.residual)
        remembered = _remember(state, step, tree_sub(gradient, cache.gradient))
        # After a failed search: forget the pairs, try the preconditioned gradient once more.
        state = tree_where(trial.accepted, remembered, _forget(state))
        gradient = tree_where(trial.accepted, gradient, cache.gradient)
        objective = jnp.where(trial.accepted, trial.objective, cache.progress.objective)
        failures = jnp.where(trial.accepted, 0, cache.failures + 1)
        return params, state, _cache(state, eta, objective, gradient, failures)

    def finish(self, problem: Problem, params: GLMParams, cache: LBFGSCache) -> Progress:
        return cache.progress


def _cache(
    state: LBFGSState,
    eta: Float[Array, "n K"],
    objective: Float[Array, ""],
    gradient: GLMParams,
    failures: Int[Array, ""],
) -> LBFGSCache:
    direction = _direction(state, gradient)
    slope = tree_dot(gradient, direction)
    # On a quadratic with the inverse Hessian behind `direction`, half the slope is the gap.
    progress = Progress(objective, tree_norm(gradient), -slope / 2, failures >= 2)
    return LBFGSCache(eta, gradient, direction, slope, failures, progress)


def _gradient(problem: Problem, params: GLMParams, residual: Float[Array, "n K"]) -> GLMParams:
    loss = problem.gradient(residual)
    return GLMParams(loss.coef + problem.penalty_gradient(params.coef), loss.intercept)


def _direction(state: LBFGSState, gradient: GLMParams) -> GLMParams:
    """Minus the inverse Hessian times the gradient, by the two-loop recursion."""

    def backward(q, pair):
        step, change, inverse_product = pair
        weight = inverse_product * tree_dot(step, q)
        return tree_axpy(-weight, change, q), weight

    def forward(q, pair):
        step, change, inverse_product, weight = pair
        correction = weight - inverse_product * tree_dot(change, q)
        return tree_axpy(correction, step, q), None

    pairs = (state.steps, state.changes, state.inverse_products)
    q, weights = jax.lax.scan(backward, gradient, pairs, reverse=True)
    q = jax.tree.map(lambda x: state.gamma * x, state.preconditioner.apply(q))
    q, _ = jax.lax.scan(forward, q, (*pairs, weights))
    return jax.tree.map(jnp.negative, q)


def _remember(state: LBFGSState, step: GLMParams, change: GLMParams) -> LBFGSState:
    product = tree_dot(step, change)
    eps = jnp.finfo(product.dtype).eps
    curved = product > eps * tree_norm(step) * tree_norm(change)
    gamma = product / tree_dot(change, state.preconditioner.apply(change))

    def push(memory, new):
        return jnp.concatenate([memory[1:], new[None]])

    pushed = LBFGSState(
        preconditioner=state.preconditioner,
        steps=jax.tree.map(push, state.steps, step),
        changes=jax.tree.map(push, state.changes, change),
        inverse_products=push(state.inverse_products, 1 / product),
        gamma=gamma,
    )
    return tree_where(curved, pushed, state)


def _forget(state: LBFGSState) -> LBFGSState:
    empty = jnp.zeros_like(state.inverse_products)
    return eqx.tree_at(
        lambda s: (s.inverse_products, s.gamma), state, (empty, jnp.ones_like(state.gamma))
    )


class _Trial(eqx.Module):
    """A line search under way: the last trial step and the bracket around a minimum."""

    alpha: Float[Array, ""]
    next_alpha: Float[Array, ""]
    low: Float[Array, ""]
    low_slope: Float[Array, ""]
    high: Float[Array, ""]
    objective: Float[Array, ""]
    residual: Float[Array, "n K"]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]


def _line_search(
    problem: Problem, params: GLMParams, cache: LBFGSCache, change: Float[Array, "n K"]
) -> _Trial:
    """Strong Wolfe conditions, the first up to the rounding error of the objective."""
    start, start_slope = cache.progress.objective, cache.slope
    rounding = 10 * jnp.finfo(start.dtype).eps * jnp.abs(start)

    def penalty(alpha):
        return problem.penalty_value(params.coef + alpha * cache.direction.coef)

    def attempt(trial: _Trial) -> _Trial:
        alpha = trial.next_alpha
        loss, residual = problem.loss_and_residual(cache.eta + alpha * change)
        value, penalty_slope = jax.jvp(penalty, (alpha,), (jnp.ones_like(alpha),))
        objective = loss + value
        slope = jnp.sum(residual * change) + penalty_slope
        decreased = objective <= start + _ARMIJO * alpha * start_slope + rounding
        accepted = decreased & (jnp.abs(slope) <= -_WOLFE * start_slope)
        too_far = ~decreased | ~(slope <= 0)  # NaN is too far
        low = jnp.where(too_far, trial.low, alpha)
        low_slope = jnp.where(too_far, trial.low_slope, slope)
        high = jnp.where(too_far, alpha, trial.high)
        # The zero of the slope between its ends where they bracket one, else the middle.
        share = jnp.where(too_far & (slope > 0), low_slope / (low_slope - slope), 0.5)
        inside = low + jnp.clip(share, 0.1, 0.9) * (high - low)
        return _Trial(
            alpha=alpha,
            next_alpha=jnp.where(jnp.isinf(high), 4 * low, inside),
            low=low,
            low_slope=low_slope,
            high=high,
            objective=objective,
            residual=residual,
            accepted=accepted,
            count=trial.count + 1,
        )

    one = jnp.ones_like(start)
    first = _Trial(
        alpha=one,
        next_alpha=one,
        low=0 * one,
        low_slope=start_slope,
        high=jnp.inf * one,
        objective=start,
        residual=jnp.zeros_like(cache.eta),
        accepted=jnp.zeros((), bool),
        count=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(
        lambda trial: ~trial.accepted & (trial.count < _MAX_TRIALS), attempt, first
    )
