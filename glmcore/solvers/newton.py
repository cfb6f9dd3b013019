"""Newton's method."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.factors import cholesky_solve, diagonal_of
from glmcore.params import GLMParams, stacked, unstacked
from glmcore.problem import Problem
from glmcore.rows import row_products
from glmcore.solvers.base import as_float, as_int
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory
from glmcore.solvers.preconditioner import Preconditioner, level_curvature
from glmcore.solvers.sample import Sample
from glmcore.tree import tree_axpy, tree_dot, tree_norm, tree_where

#: Parameters up to which the Hessian is formed, and rows that it is formed from: with more of
#: them a step is not better by what they cost.
_DENSE_PARAMS = 256
HESSIAN_ROWS = 8192
#: Most products with the Hessian in a step, and the share of the gradient that may be left.
_MAX_PRODUCTS = 50
_LARGEST_SHARE = 0.25


class Curvature(AbstractMemory):
    """Every direction is made from the Hessian where the fit stands; of past steps only the
    trouble is remembered.

    ``damping`` times the gradient norm is added to the Hessian (Doikov, 2023, "Minimizing
    quasi-self-concordant functions by gradient regularization of Newton method"): 0 until a line
    search fails, which far from the optimum it can, where the loss is all slopes and edges.
    ``yardstick`` is the norm of the loss gradient at the null model; a factor does without, and
    then it is 0.
    """

    yardstick: Float[Array, ""]
    damping: Float[Array, ""]

    def direction(
        self, problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, smooth: GLMParams
    ) -> GLMParams:
        if _has_factor(gradient):
            return _by_factor(problem, eta, gradient, self.damping)
        return _by_products(problem, eta, gradient, self)

    def remember(
        self, step: GLMParams, change: GLMParams, smoothed: GLMParams, gradient: GLMParams
    ) -> "Curvature":
        damping = jnp.where(self.damping > 0.01, self.damping / 4, 0)
        return Curvature(self.yardstick, damping)

    def forget(self) -> "Curvature":
        return Curvature(self.yardstick, jnp.maximum(4 * self.damping, 1))


def _has_factor(params: GLMParams) -> bool:
    """Whether the Hessian in these parameters is formed and factorised."""
    return params.coef.size + params.intercept.size <= _DENSE_PARAMS


def _by_factor(
    problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, damping: Float[Array, ""]
) -> GLMParams:
    """The direction from a Cholesky factor of the Hessian."""
    slope = stacked(gradient).T
    (K, p), size = slope.shape, slope.size
    hessian, damping = dense_hessian(problem, eta), damping * tree_norm(gradient)
    # With a unit diagonal the rounding of the largest entries does not hide the smallest.
    diagonal = diagonal_of(hessian) + damping
    length = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    hessian = hessian / (length[:, None] * length[None, :])
    jitter = size * jnp.finfo(eta.dtype).eps
    scaled = slope.ravel() / length
    newton = cholesky_solve(hessian + jnp.diag(damping / length**2 + jitter), scaled)
    # It may not be positive definite: rounding, or a link of the user's.
    usable = jnp.all(jnp.isfinite(newton))
    return unstacked(-(jnp.where(usable, newton, scaled) / length).reshape(K, p).T)


def dense_hessian(problem: Problem, eta: Float[Array, "C n"]) -> Float[Array, "d d"]:
    """The Hessian where the linear predictor is ``eta``, class by class and in each the intercept
    last; bent up along the level of the classes where loss and penalty are flat."""
    sample = Sample.of(problem, eta, HESSIAN_ROWS)
    (p, K), size = sample.penalty.shape, sample.penalty.size
    weights = sample.weight[None, None, :] * sample.hessian
    products = problem.between_outputs(row_products(weights, sample.design))
    hessian = products.swapaxes(1, 2).reshape(size, size)
    loss = jnp.mean(diagonal_of(hessian).reshape(K, p), axis=0)
    level, along = level_curvature(problem, sample.penalty, loss)
    stand_in = along - jnp.mean(sample.penalty, axis=1)
    hessian = hessian + jnp.diag(sample.penalty.T.ravel())
    if problem.mask is not None:
        free = jnp.concatenate([problem.mask, jnp.ones((1, K), bool)])
        hessian = jnp.where(jnp.outer(free.T, free.T), hessian, 0)
    bends = jnp.einsum("pk,pl,pq->kplq", level, level * stand_in[:, None], jnp.eye(p, dtype=eta.dtype))
    return hessian + bends.reshape(size, size)


class _Solution(eqx.Module):
    """Conjugate gradients under way."""

    direction: GLMParams
    residual: GLMParams
    search: GLMParams
    product: Float[Array, ""]
    flat: Bool[Array, ""]
    count: Int[Array, ""]


def _by_products(
    problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, curvature: Curvature
) -> GLMParams:
    """The direction from preconditioned conjugate gradients on all rows, the more exact the
    closer the minimum (Nocedal & Wright, Numerical Optimization, algorithm 7.1)."""
    preconditioner = Preconditioner.of(problem, eta)
    _, penalty = problem.curvature()
    norm = tree_norm(gradient)
    share = jnp.minimum(_LARGEST_SHARE, jnp.sqrt(norm / curvature.yardstick))
    damping = curvature.damping * norm

    def unfinished(solution: _Solution) -> Bool[Array, ""]:
        left = tree_norm(solution.residual) > share * norm
        return left & ~solution.flat & (solution.count < _MAX_PRODUCTS)

    def improve(solution: _Solution) -> _Solution:
        search = solution.search
        bent = jax.tree.map(jnp.add, problem.hessian_product(search, eta), preconditioner.flat_bend(search))
        bent = GLMParams(bent.coef + penalty * search.coef, bent.intercept)
        bent = tree_axpy(damping, search, bent)
        bend = tree_dot(search, bent)
        flat = ~(bend > 0)
        length = jnp.where(flat, 0, solution.product / jnp.where(flat, 1, bend))
        residual = tree_axpy(-length, bent, solution.residual)
        smooth = preconditioner.apply(residual)
        product = tree_dot(residual, smooth)
        return _Solution(
            direction=tree_axpy(length, search, solution.direction),
            residual=residual,
            search=tree_axpy(product / solution.product, search, smooth),
            product=product,
            flat=flat,
            count=solution.count + 1,
        )

    residual = jax.tree.map(jnp.negative, gradient)
    search = preconditioner.apply(residual)
    start = _Solution(
        direction=jax.tree.map(jnp.zeros_like, gradient),
        residual=residual,
        search=search,
        product=tree_dot(residual, search),
        flat=jnp.zeros((), bool),
        count=jnp.zeros((), jnp.int32),
    )
    solution = jax.lax.while_loop(unfinished, improve, start)
    return tree_where(solution.flat & (solution.count == 1), search, solution.direction)


class Newton(AbstractDescent):
    """Newton's method for smooth penalties: the default of :func:`fit` where its Hessian is cheap.

    Up to 256 parameters (p K + K) a step factorises the Hessian, formed from at least 8192 rows
    evenly spread over the data; the gradient always is that of all rows.  Beyond, conjugate
    gradients on all rows, preconditioned by the Gram matrix of the scaled features.

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
    >>> from glmcore import Newton
    >>> int(Newton(maxiter=50).maxiter)
    50
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    needs_smooth = True
    slope_left = 0.9

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> Curvature:
        zero = jnp.zeros_like(params.intercept[0])
        return Curvature(zero if _has_factor(params) else problem.null_optimality(), zero)
