"""The representative of least l2 norm among equivalent optima."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.factors import qr_basis, right_singular
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
        coef = _without_null_space(problem, coef)
    user = coordinates.to_user(GLMParams(problem.level(coef), params.intercept))
    intercept = user.intercept
    if problem.shift_invariant:
        intercept = intercept - jnp.mean(intercept, where=present)
    # exp of the floor is the smallest positive number: no other class notices.
    floor = jnp.log(jnp.finfo(coef.dtype).tiny)
    return GLMParams(user.coef, jnp.where(present, intercept, floor))


def feature_rank(problem: Problem) -> Int[Array, ""]:
    """Rank of the rows with weight of centred features, each scaled to unit variance."""
    nonzero, _ = _row_space(problem)
    return jnp.sum(nonzero).astype(int)


def _row_space(problem: Problem) -> tuple[Bool[Array, " m"], Float[Array, "p p"]]:
    """Right singular vectors, as rows, and which of the first m of them span the row space."""
    triangle, n_used = problem.triangle()  # the SVD never sees n rows
    values, rows = right_singular(triangle)
    n_used = jnp.maximum(n_used, triangle.shape[1]).astype(values.dtype)
    return values > values[0] * n_used * jnp.finfo(values.dtype).eps, rows


def _without_null_space(problem: Problem, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
    """Project coefficients, on the user's scale, onto the row space of the features."""
    coordinates = problem.coordinates
    nonzero, rows = _row_space(problem)
    rank, p = jnp.sum(nonzero), coef.shape[0]
    unit = jnp.where(coordinates.deviation > 0, coordinates.deviation, 1)

    def project(user):
        # A null direction of the scaled features, divided by their deviations, is one of the
        # features themselves.  Last singular vectors first, so that these lead the QR.
        is_null = (jnp.arange(p) >= rank)[::-1][None, :]
        null = jnp.where(is_null, rows[::-1].T / unit[:, None], 0)
        length = jnp.linalg.norm(null, axis=0)
        null = null / jnp.where(length > 0, length, 1)[None, :]
        basis = jnp.where(is_null, qr_basis(null), 0)
        for _ in range(2):  # the second time removes what rounding left
            user = user - basis @ (basis.T @ user)
        return jnp.where(coordinates.deviation[:, None] > 0, user, 0)

    user = coordinates.scale * coef
    return jax.lax.cond(rank < p, project, lambda user: user, user) / coordinates.scale
