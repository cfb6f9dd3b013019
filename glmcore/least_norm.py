"""The representative of least l2 norm among equivalent optima."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.factors import qr_basis, right_singular
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized
from glmcore.problem import Problem


def least_norm_params(
    problem: Problem, params: GLMParams
) -> tuple[GLMParams, Float[Array, " K"]]:
    """The user's parameters of inner ``params``, moved along the flat directions of the
    objective to least norm: the level of the classes, and without a penalty the null space of
    the features.  A class without weight gets coef 0 and an intercept floor.  And what the
    rounding of the intercept cut off."""
    coordinates, present = problem.coordinates, problem.present
    coef = params.coef
    if isinstance(problem.penalty, UnRegularized):
        coef = _without_null_space(problem, coef)
    user, cut = coordinates.to_user_and_cut(GLMParams(problem.level(coef), params.intercept))
    intercept = user.intercept
    if problem.shift_invariant:
        intercept = intercept - jnp.mean(intercept, where=present)
    # exp of the floor is the smallest positive number: no other class notices.
    floor = jnp.log(jnp.finfo(coef.dtype).tiny)
    return GLMParams(user.coef, jnp.where(present, intercept, floor)), cut


def identifiable(problem: Problem) -> Int[Array, ""]:
    """Number of coefficients that the rows with weight of centred features, each scaled to unit
    variance, tell apart: K - 1 times their rank, for K classes that are present, without a mask."""
    free, n_features = jnp.sum(problem.present) - 1, problem.coordinates.deviation.size
    triangle, n_used = problem.triangle()
    spans, _ = _row_space(triangle, n_used)
    rank = jnp.sum(spans).astype(int)
    if problem.mask is None:
        return free * rank

    def counted():
        fitted = problem.mask & problem.present[None, :]
        return jnp.sum(jnp.minimum(jnp.sum(fitted, axis=1), free)).astype(int)

    def measured():
        return jnp.sum(_row_space(_by_class(problem, triangle), n_used)[0]).astype(int)

    return jax.lax.cond(rank < n_features, measured, counted)


def _row_space(
    matrix: Float[Array, "m d"], n_used: Int[Array, ""]
) -> tuple[Bool[Array, " r"], Float[Array, "d d"]]:
    """Right singular vectors, as rows, and which of the first r of them span the row space; the
    matrix is a factor of ``n_used`` rows, which the SVD never sees."""
    values, rows = right_singular(matrix)
    size = jnp.maximum(n_used, matrix.shape[1]).astype(values.dtype)
    return values > values[0] * size * jnp.finfo(values.dtype).eps, rows


def _by_class(problem: Problem, triangle: Float[Array, "m p"]) -> Float[Array, "mK pK"]:
    """The map from coefficients that are not masked to predictors without their level."""
    present = problem.present.astype(triangle.dtype)
    levelled = jnp.diag(present) - jnp.outer(present, present) / jnp.sum(present)
    product = jnp.einsum("mp,kl,pl->mkpl", triangle, levelled, problem.mask.astype(triangle.dtype))
    return product.reshape(-1, problem.mask.size)


def _without_null_space(problem: Problem, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
    """Project coefficients, on the user's scale, onto the row space of the features."""
    coordinates = problem.coordinates
    triangle, n_used = problem.triangle()
    spans, rows = _row_space(triangle, n_used)
    user, deviation = coordinates.scale * coef, coordinates.deviation

    def project(user):
        if problem.mask is None:
            return _projected(user, deviation, spans, rows)
        of_mask = _row_space(_by_class(problem, triangle), n_used)
        each = jnp.broadcast_to(deviation[:, None], user.shape).reshape(-1)
        return problem.masked(_projected(user.reshape(-1, 1), each, *of_mask).reshape(user.shape))

    deficient = jnp.sum(spans) < coef.shape[0]
    return jax.lax.cond(deficient, project, lambda user: user, user) / coordinates.scale


def _projected(
    user: Float[Array, "d c"],
    deviation: Float[Array, " d"],
    spans: Bool[Array, " r"],
    rows: Float[Array, "d d"],
) -> Float[Array, "d c"]:
    """``user`` without its part in the null space of columns of the given ``deviation``, whose
    row space, with each divided by that, is known."""
    # A null direction of the scaled features, divided by their deviations, is one of the
    # features themselves.  Last singular vectors first, so that these lead the QR.
    d = deviation.size
    is_null = (jnp.arange(d) >= jnp.sum(spans))[::-1][None, :]
    unit = jnp.where(deviation > 0, deviation, 1)
    null = jnp.where(is_null, rows[::-1].T / unit[:, None], 0)
    length = jnp.linalg.norm(null, axis=0)
    null = null / jnp.where(length > 0, length, 1)[None, :]
    basis = jnp.where(is_null, qr_basis(null), 0)
    for _ in range(2):  # the second time removes what rounding left
        user = user - basis @ (basis.T @ user)
    return jnp.where(deviation[:, None] > 0, user, 0)
