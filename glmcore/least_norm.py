"""The representative of least l2 norm among equivalent optima."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from glmcore.dense import DenseProblem
from glmcore.factors import diagonal_of, inverse_root, qr_basis, right_singular
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized
from glmcore.problem import Problem

#: By how much a predictor is ahead of another where that is all but certain.
_CERTAIN = 6.0
#: How many rounding errors of the most that a row gains another may lose.
_RECEDING_ROUNDINGS = 1e3
#: Rows that tell in most cases that there is no such direction, and the most products in the
#: factorisation of all that it takes to find one.
_FEW_ROWS = 4096
_MOST_WORK = 2**32


def least_norm_params(
    problem: Problem, params: GLMParams
) -> tuple[GLMParams, Float[Array, " K"]]:
    """The user's parameters of inner ``params``, moved along the flat directions of the
    objective to least norm: the level of the classes, and without a penalty the null space of
    the features.  A class without weight gets coef 0 and an intercept floor.  And what the
    rounding of the intercept cut off."""
    coef = params.coef
    if isinstance(problem.penalty, UnRegularized):
        coef = jnp.where(problem.present[None, :], without_null_space(problem, coef), 0)
    return levelled_params(problem, GLMParams(coef, params.intercept))


def levelled_params(
    problem: Problem, params: GLMParams
) -> tuple[GLMParams, Float[Array, " K"]]:
    """:func:`least_norm_params` but for the null space of the features, which takes a factorisation."""
    coordinates, present = problem.coordinates, problem.present
    coef = problem.level(params.coef)
    level = 0.0
    if problem.shift_invariant:
        level = jnp.mean(params.intercept - coordinates.centre @ (coordinates.scale * coef), where=present)
    user, cut = coordinates.to_user_and_cut(GLMParams(coef, params.intercept), level)
    # exp of the floor is the smallest positive number: no other class notices.
    floor = jnp.log(jnp.finfo(coef.dtype).tiny)
    return GLMParams(user.coef, jnp.where(present, user.intercept, floor)), cut


def identifiable(problem: Problem) -> Int[Array, ""]:
    """Number of coefficients that the rows with weight of centred features, each scaled to unit
    variance, tell apart: K - 1 times their rank, for K classes that are present, without a mask."""
    free, n_features = jnp.sum(problem.present) - 1, problem.coordinates.deviation.size

    def of_full_rank():
        if problem.mask is None:
            return (free * n_features).astype(int)
        fitted = problem.mask & problem.present[None, :]
        return jnp.sum(jnp.minimum(jnp.sum(fitted, axis=1), free)).astype(int)

    def measured():
        triangle, n_used = problem.triangle()
        rank = jnp.sum(_row_space(triangle, n_used)[0]).astype(int)
        if problem.mask is None:
            return free * rank

        def of_mask():
            return jnp.sum(_row_space(_by_class(problem, triangle), n_used)[0]).astype(int)

        return jax.lax.cond(rank < n_features, of_mask, of_full_rank)

    return jax.lax.cond(_has_full_rank(problem), of_full_rank, measured)


def recedes(problem: Problem, params: GLMParams) -> Bool[Array, ""]:
    """Whether a class has a direction that proves that the likelihood has no maximum.

    It is the part of the class's coefficients in ``params`` that only rows see that are all but
    certainly of this class, or certainly not, and rightly so: it leaves the others as they are,
    and without bound makes these more certain (quasi-complete separation, as by a rare feature
    that one class never has).  Not looked for behind a mask or a link, on a stream, or where it takes long.
    """
    p = params.coef.shape[0]
    known = isinstance(problem, DenseProblem) and problem.shift_invariant and problem.mask is None
    if not known or problem.n_rows * p * p > _MOST_WORK:
        return jnp.zeros((), bool)
    eta, unit, used = problem.output_predictor(params), problem.coordinates.unit, problem.weight > 0
    # In units of the features, each scaled to unit variance.
    scaled = problem.stretch * problem.level(params.coef) / jnp.where(unit > 0, unit, 1)[:, None]
    own_eta = jnp.take_along_axis(eta, problem.y[None, :], axis=0)[0]

    def centred(features, rest):
        if not problem.fit_intercept:
            return features
        centre = jnp.mean(features, axis=0, where=rest[:, None])
        return features - jnp.where(jnp.any(rest), centre, 0)[None, :]

    def of_class(k):
        own = problem.y == k
        others = jnp.arange(len(eta), dtype=jnp.int32)[:, None] != k
        ahead = jnp.where(own, eta[k] - jnp.max(jnp.where(others, eta, -jnp.inf), axis=0), own_eta - eta[k])
        certain = used & (ahead > _CERTAIN)
        rest = used & ~certain

        def look():
            features = centred(problem.X, rest)
            weight = jnp.where(rest, problem.weight, 0)
            seen, _ = eqx.tree_at(lambda q: (q.X, q.weight), problem, (features, weight)).triangle()
            spans, rows = _row_space(seen, jnp.sum(used))
            null = jnp.where(jnp.pad(spans, (0, p - spans.size))[:, None], 0, rows)
            move = features @ (unit * (null.T @ (null @ scaled[:, k])))
            gain = jnp.where(own, move, -move)
            most, least = jnp.max(gain, where=certain, initial=0), jnp.min(gain, where=used, initial=0)
            return (most > 1) & (least >= -_RECEDING_ROUNDINGS * jnp.finfo(most.dtype).eps * most)

        def look_if_some_see_no_direction():
            X, few = _few(problem, problem.X), _few(problem, rest)
            see_all = _see_all(centred(X, few) * unit[None, :], few)
            return jax.lax.cond(see_all, lambda: jnp.zeros((), bool), look)

        look_closer = jnp.any(certain) & problem.present[k]
        return jax.lax.cond(look_closer, look_if_some_see_no_direction, lambda: jnp.zeros((), bool))

    return jnp.any(jax.lax.map(of_class, jnp.arange(len(eta), dtype=jnp.int32)))


def _few(problem: DenseProblem, rows: Shaped[Array, "n *p"]) -> Shaped[Array, "m *p"]:
    """Every so-manieth row."""
    return rows[:: -(-problem.n_rows // _FEW_ROWS)]


def _see_all(
    rows: Float[Array, "m p"], used: Bool[Array, " m"], idle: Bool[Array, " p"] | None = None
) -> Bool[Array, ""]:
    """Whether the ``used`` rows surely see every direction of the features that are not ``idle``."""
    rows = jnp.where(used[:, None], rows, 0)
    if idle is not None:
        rows = jnp.where(idle[None, :], 0, rows)
    gram = rows.T @ rows
    if idle is not None:
        gram = gram + jnp.diag(jnp.where(idle, jnp.max(diagonal_of(gram)) + 1, 0))
    noise = 100 * jnp.finfo(gram.dtype).eps * jnp.trace(gram)
    return jnp.isfinite(inverse_root(gram - noise * jnp.eye(len(gram), dtype=gram.dtype))[-1, -1])


def _has_full_rank(problem: Problem) -> Bool[Array, ""]:
    """Whether some rows alone tell that the features that are fitted are not collinear; else it is not known."""
    if not isinstance(problem, DenseProblem):
        return jnp.zeros((), bool)
    X = _few(problem, problem.X) * problem.coordinates.unit[None, :]
    idle = None if problem.mask is None else ~jnp.any(problem.mask, axis=1)
    return _see_all(X, _few(problem, problem.weight > 0), idle)


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


def without_null_space(problem: Problem, coef: Float[Array, "p K"]) -> Float[Array, "p K"]:
    """Project coefficients, on the user's scale, onto the row space of the features."""
    coordinates, deviation = problem.coordinates, problem.coordinates.deviation

    def projected(user: Float[Array, "p K"]) -> Float[Array, "p K"]:
        triangle, n_used = problem.triangle()
        spans, rows = _row_space(triangle, n_used)

        def project(user):
            if problem.mask is None:
                return _projected(user, deviation, spans, rows)
            of_mask = _row_space(_by_class(problem, triangle), n_used)
            each = jnp.broadcast_to(deviation[:, None], user.shape).reshape(-1)
            return problem.masked(_projected(user.reshape(-1, 1), each, *of_mask).reshape(user.shape))

        deficient = jnp.sum(spans) < coef.shape[0]
        return jax.lax.cond(deficient, project, lambda user: user, user)

    user = coordinates.scale * coef
    return jax.lax.cond(_has_full_rank(problem), lambda user: user, projected, user) / coordinates.scale


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
