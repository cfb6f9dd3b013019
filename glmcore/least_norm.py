"""The representative of least l2 norm among equivalent optima."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized
from glmcore.problem import Problem


def least_norm_params(problem: Problem, params: GLMParams) -> GLMParams:
    """The user's parameters of inner ``params``, moved along the flat directions of the
    objective to least norm: the level of the classes, and without a penalty the null space of
    the features.  A class without weight gets coef 0 and an intercept floor."""
    coordinates, present = problem.coordinates, problem.present
    coef = params.coef
    if isinstance(problem.penalty, UnRegularized):
        coef = _without_null_space(coordinates, problem.X, coef)
    user = coordinates.to_user(GLMParams(problem.level(coef), params.intercept))
    if not problem.shift_invariant:
        return user
    n_present = jnp.sum(present).astype(coef.dtype)
    level = jnp.sum(jnp.where(present, user.intercept, 0)) / n_present
    # exp of the floor is the smallest positive number: no other class notices.
    floor = jnp.log(jnp.finfo(coef.dtype).tiny)
    intercept = jnp.where(present, user.intercept - level, floor)
    if not problem.fit_intercept:
        intercept = jnp.zeros_like(intercept)
    return GLMParams(user.coef, intercept)


def feature_rank(coordinates: Coordinates, features: Float[Array, "n p"]) -> Int[Array, ""]:
    """Rank of centred features, each scaled to unit variance."""
    values, _ = _singular(coordinates, features)
    return jnp.sum(_nonzero(values, features.shape)).astype(int)


def _singular(
    coordinates: Coordinates, features: Float[Array, "n p"]
) -> tuple[Float[Array, " m"], Float[Array, "m p"]]:
    deviation = coordinates.deviation
    scaled = features / jnp.where(deviation > 0, deviation, 1)[None, :]
    triangle = jnp.linalg.qr(scaled, mode="r")  # p x p at most: the SVD never sees n rows
    _, values, rows = jnp.linalg.svd(triangle, full_matrices=False)
    return values, rows


def _nonzero(values: Float[Array, " m"], shape: tuple[int, ...]) -> Bool[Array, " m"]:
    return values > values[0] * max(shape) * jnp.finfo(values.dtype).eps


def _without_null_space(
    coordinates: Coordinates, features: Float[Array, "n p"], coef: Float[Array, "p K"]
) -> Float[Array, "p K"]:
    """Project coefficients, on the user's scale, onto the row space of the features."""
    deviation = coordinates.deviation
    unit = jnp.where(deviation > 0, deviation, 1)
    values, rows = _singular(coordinates, features)
    row_space = jnp.where(_nonzero(values, features.shape)[:, None], rows, 0)
    user = coordinates.scale * coef

    def project(user):
        # A null direction of the scaled features, divided by their deviations, is one of the
        # features themselves; coef minus its projection on these has the least norm.
        null = jnp.eye(unit.size, dtype=unit.dtype) - row_space.T @ row_space
        null = null / unit[:, None]
        null = null / jnp.maximum(jnp.linalg.norm(null, axis=0), 1e-30)[None, :]
        left, size, _ = jnp.linalg.svd(null, full_matrices=False)
        basis = jnp.where((size > 1e-3 * size[0])[None, :], left, 0)
        return user - basis @ (basis.T @ user)

    deficient = jnp.sum(_nonzero(values, features.shape)) < unit.size
    return jax.lax.cond(deficient, project, lambda user: user, user) / coordinates.scale
