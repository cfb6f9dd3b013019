r"""The derivative of an optimum, by the implicit function theorem.

Where the objective :math:`F(v; t)` has its minimum :math:`v(t)` its slope is zero whatever t, so

.. math:: \frac{dv}{dt} = -\left(\frac{\partial^2 F}{\partial v^2}\right)^{-1}
          \frac{\partial^2 F}{\partial v \, \partial t}

with t the features, the weights and the strengths.  No step of a fit is differentiated, and what it
took to get there does not matter.  Coefficients that a sparse penalty holds at zero stay there.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.jit import full_precision
from glmcore.least_norm import without_null_space
from glmcore.params import GLMParams, stacked, unstacked
from glmcore.penalties import ElasticNet, Lasso, Ridge, UnRegularized
from glmcore.problem import Problem
from glmcore.solvers.preconditioner import Preconditioner
from glmcore.tree import unmapped

#: Most products with the Hessian, and the error of an inner product with one, in roundings of the factors.
_MAX_PRODUCTS, _NOISE = 500, 32

#: Parameters of the user and the objective there.
Optimum = tuple[GLMParams, Float[Array, ""]]


@eqx.filter_custom_jvp
def as_function(found: Optimum, coordinates: Coordinates, *data: Any) -> Optimum:
    """What was ``found`` to be the optimum, as a differentiable function of ``data``: model,
    features, labels and weights; ``coordinates`` are those of its fit."""
    return found


@as_function.def_jvp
def _derivative(primals, tangents):
    found = as_function(*primals)  # for derivatives of the second order
    (_, coordinates, *data), (*_, model, X, _, weight) = primals, tangents
    return found, _tangent(found, *as_arrays((coordinates, data, [model, X, None, weight])))


def as_arrays(tree: Any) -> Any:
    """Numbers and NumPy arrays as arrays of JAX: each number would have its own program, and an
    array may be met in the dtype in which JAX first met it."""

    def converted(x: Any) -> Any:
        if isinstance(x, (float, np.ndarray)):
            return jnp.asarray(x)
        # Of a NumPy array that is mapped JAX makes no constant of a program around the vmap.
        return jnp.copy(x) if isinstance(unmapped(x), np.ndarray) else x

    return jax.tree.map(converted, tree)


@eqx.filter_jit  # inside a derivative compiler options are refused
@full_precision
def _tangent(found: Optimum, coordinates: Coordinates, data: list, tangents: list) -> Optimum:
    moving, fixed = (
        jax.tree.map(lambda x, t: x if (t is None) == still else None, data, tangents, is_leaf=_is_none)
        for still in (False, True)
    )
    inner = coordinates.from_user(found[0])

    def problem(moving: list) -> Problem:
        return _near(found[0], coordinates, *eqx.combine(moving, fixed))

    def slope_and_value(moving: list) -> tuple[Float[Array, "p1 K"], Float[Array, ""]]:
        return _slope_and_value(problem(moving), inner)

    (bend, growth) = jax.jvp(slope_and_value, (moving,), (tangents,))[1]
    here = problem(moving)
    _, product = jax.linearize(lambda params: _slope_and_value(here, unstacked(params))[0], stacked(inner))
    solve = _solver(*jax.lax.stop_gradient((here, inner)))
    step = jax.lax.custom_linear_solve(product, -bend, solve, symmetric=True)
    return _to_user(here, unstacked(step)), growth


def _solver(problem: Problem, params: GLMParams) -> Callable:
    """Conjugate residuals, in the directions that the objective sees."""
    model = Preconditioner.of(problem, problem.predictor(params))
    free, level = _seen(problem, params)

    def seen(slope: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        slope = jnp.where(free, slope, 0)
        return slope - level * jnp.sum(level * slope, axis=1, keepdims=True)

    def smooth(slope: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        return stacked(model.apply(unstacked(slope)))

    def solve(product: Callable, slope: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        return seen(_least_squares(product, smooth, seen(slope)))

    return solve


class _Residuals(eqx.Module):
    """Conjugate residuals under way: of what is left of the slope the product with the preconditioner, and
    how much the Hessian bends along that; the ``change`` that the ``direction`` makes."""

    solution: Float[Array, "p1 K"]
    smooth: Float[Array, "p1 K"]
    size: Float[Array, ""]
    direction: Float[Array, "p1 K"]
    change: Float[Array, "p1 K"]
    count: Int[Array, ""]


def _least_squares(
    product: Callable, smooth: Callable, slope: Float[Array, "p1 K"]
) -> Float[Array, "p1 K"]:
    """What solves ``product(step) = slope`` as far as there is a solution: of equal features, which a sparse
    penalty leaves undetermined, say, a slope may have a part that no step has, with which conjugate
    gradients diverge.  By preconditioned conjugate residuals (Hayami, 2001, on singular systems)."""
    eps = jnp.finfo(slope.dtype).eps

    def improve(at: _Residuals) -> _Residuals:
        change = smooth(at.change)
        length = at.size / jnp.sum(at.change * change)
        left = at.smooth - length * change
        bent = product(left)
        size = jnp.sum(left * bent)
        more = size / at.size
        return _Residuals(
            solution=at.solution + length * at.direction,
            smooth=left,
            size=size,
            direction=left + more * at.direction,
            change=bent + more * at.change,
            count=at.count + 1,
        )

    first = smooth(slope)
    bent = product(first)
    size = jnp.sum(first * bent)
    start = _Residuals(jnp.zeros_like(slope), first, size, first, bent, jnp.zeros((), jnp.int32))
    length, noise = jnp.linalg.norm(first), _NOISE * eps * jnp.linalg.norm(bent)

    def unfinished(at: _Residuals) -> Bool[Array, ""]:
        # What no step has does not bend but for rounding.
        rounding = noise * jnp.sum(jnp.square(at.smooth))
        left = (at.size > eps ** (4 / 3) * size) & (at.size * length > rounding)
        return left & (at.count < _MAX_PRODUCTS)

    return jax.lax.while_loop(unfinished, improve, start).solution


def _seen(problem: Problem, params: GLMParams) -> tuple[Bool[Array, "p1 K"], Float[Array, "p1 K"]]:
    """Which entries move at all, and for each feature the unit vector along the level of the
    classes if the objective is blind to it, else 0."""
    present, varies = problem.present, problem.coordinates.deviation > 0
    fitted = varies[:, None] & (jnp.ones_like(present)[None, :] if problem.mask is None else problem.mask)
    fitted = jnp.concatenate([fitted, jnp.full_like(present, problem.fit_intercept)[None, :]])
    whole = jnp.all(fitted | ~present[None, :], axis=1, keepdims=True)
    number = jnp.sum(present).astype(problem.weight.dtype)
    level = jnp.where(whole & present[None, :], 1 / jnp.sqrt(number), 0)

    def slope(params: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        params = unstacked(params)
        if problem.shift_invariant:  # only the penalty may see it
            return stacked(GLMParams(problem.penalty_gradient(params.coef), 0 * params.intercept))
        return _slope_and_value(problem, params)[0]

    _, bend = jax.jvp(slope, (stacked(params),), (level,))
    blind = jnp.max(jnp.abs(bend), axis=1, keepdims=True) <= jnp.finfo(level.dtype).eps ** 0.75
    return fitted & present[None, :], jnp.where(blind, level, 0)


def _near(params: GLMParams, coordinates: Coordinates, model, X, y, weight) -> Problem:
    """The problem with the entries of a penalty that is not smooth free that are not zero."""
    problem = model._problem(X, y, weight, coordinates)
    if model.penalty.smooth:
        return problem
    support = coordinates.from_user(params).coef != 0
    mask = support if problem.mask is None else support & problem.mask
    return eqx.tree_at(lambda q: q.mask, problem, mask, is_leaf=_is_none)


def _slope_and_value(
    problem: Problem, params: GLMParams
) -> tuple[Float[Array, "p1 K"], Float[Array, ""]]:
    look = problem.look(problem.predictor(params))
    gradient = problem.penalised(params, look.gradient)
    return stacked(gradient), look.loss + problem.penalty_value(params.coef)


def _to_user(problem: Problem, step: GLMParams) -> GLMParams:
    """A step of inner parameters as one of the user's, whose intercepts have a mean of zero."""
    coordinates, present, coef = problem.coordinates, problem.present, problem.masked(step.coef)
    if isinstance(problem.penalty, (UnRegularized, Ridge, Lasso, ElasticNet)):
        coef = _without_flat(jax.lax.stop_gradient(problem), coef)
    coef = coordinates.scale * coef
    intercept = step.intercept - coordinates.centre @ coef
    if problem.shift_invariant:
        intercept = intercept - jnp.mean(intercept, where=present)
    return GLMParams(coordinates.split(coef), jnp.where(present, intercept, 0))


def _without_flat(problem: Problem, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
    """Coefficients without their part in the null space of the features, which does not move with the weights,
    where the penalty does not bend: as ever the least norm."""
    if isinstance(problem.penalty, UnRegularized):
        return without_null_space(problem, coef)
    if isinstance(problem.penalty, Ridge) and not any(map(jnp.ndim, jax.tree.leaves(problem.penalty.strength))):
        return coef  # one strength for all of a feature, which is hardly ever zero, is not worth the program
    _, bend = problem.curvature()
    flat = (bend == 0) & (True if problem.mask is None else problem.mask)
    problem = eqx.tree_at(lambda q: q.mask, problem, flat, is_leaf=_is_none)
    return jnp.where(flat, without_null_space(problem, coef), coef)


def _is_none(x: Any) -> bool:
    return x is None
