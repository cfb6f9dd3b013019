"""Models of the Hessians of many fits side by side."""

from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glmcore.factors import diagonal_of, inverse_root
from glmcore.lanes import Lanes, as_point
from glmcore.lockstep import Points
from glmcore.problem import Problem
from glmcore.rows import row_shares
from glmcore.solvers.preconditioner import class_rows, level_curvature, stretching
from glmcore.solvers.refresh import Refresh
from glmcore.solvers.sample import LEAST_CURVATURE

#: Steps after which the models are first made anew: of lanes that share theirs and begin far from
#: their end, and of those that do not, or for which it costs as much as many steps.
_FIRST_REFRESH = 5
_LATE_REFRESH = 9


class Blocks(eqx.Module):
    """The inverse of a model of the Hessian of each lane, see
    :class:`~glmcore.solvers.preconditioner.Preconditioner`, with a block a class: ``inverse`` is
    what every step needs, and ``root`` and ``scale`` those of a preconditioner."""

    inverse: Float[Array, "*L K p1 p1"]
    root: Float[Array, "*L blocks p1 p1"]
    scale: Optional[Float[Array, "*L p1 K"]]
    level: Float[Array, "L K p1"]
    level_curvature: Float[Array, "L p1"]
    mask: Optional[Bool[Array, "L K p1"]]

    def apply(self, gradient: Points) -> Points:
        product = "lkp,kpq->lkq" if self.inverse.ndim == 3 else "lkp,lkpq->lkq"
        along = jnp.sum(self.level * gradient, axis=1)
        solved = jnp.einsum(product, gradient - self.level * along[:, None, :], self.inverse)
        missing = along / self.level_curvature - jnp.sum(self.level * solved, axis=1)
        solved = solved + self.level * missing[:, None, :]
        return solved if self.mask is None else jnp.where(self.mask, solved, 0)


class Whole(eqx.Module):
    """An inverse Hessian for all lanes."""

    inverse: Float[Array, "d d"]
    present: Float[Array, "L K"]

    def apply(self, gradient: Points) -> Points:
        flat = gradient.reshape(gradient.shape[0], -1) @ self.inverse
        return flat.reshape(gradient.shape) * self.present[:, :, None]


def hessian_models(lanes: Lanes, start: Points, is_null: bool) -> tuple[Blocks, Refresh]:
    """The models of the Hessians at ``start``, and when they are made anew."""
    own = lanes.design.axis is not None
    first = _FIRST_REFRESH if is_null and lanes.alike else _LATE_REFRESH
    eta = lanes.null_predictor() if is_null else lanes.predictor(start)

    def anew(points: Points) -> Blocks:
        return _blocks(lanes, lanes.predictor(points), shared=False)

    return _blocks(lanes, eta, shared=own and is_null), Refresh(anew, first)


def _blocks(lanes: Lanes, eta: Float[Array, "L C n"], shared: bool) -> Blocks:
    """The model of the Hessians at ``eta``, with a block a class or one that all share.

    Lanes that share the features share the mean of their Gram matrices, each with its own
    penalty and total curvature; lanes of one model share the blocks themselves.
    """
    K = lanes.lane.present.shape[-1]

    def bends(_, problem: Problem, eta):
        bend = jnp.maximum(problem.class_curvature(eta, problem.y), 0)
        return problem.weight[None, :] * bend * (K / max(K - 1, 1))

    def parts(_, problem: Problem, weight):
        quadratic = as_point(problem.curvature()[1], 1 - problem.fit_intercept)
        loss = jnp.sum(weight, axis=1)
        level, along = level_curvature(problem, quadratic.T, jnp.mean(loss), shared)
        # Where a class is all but certain, or left out, hardly anything bends.
        loss = jnp.maximum(loss, LEAST_CURVATURE * jnp.mean(loss))
        return loss, as_point(problem.stretch, 1), quadratic, level.T, along

    weight = lanes.each(bends, eta)
    loss, stretch, penalty, level, along = lanes.each(parts, weight)
    if shared:
        weight, loss, penalty = (jnp.mean(x, axis=1, keepdims=True) for x in (weight, loss, penalty))
        stretch = jnp.max(stretch, axis=1, keepdims=True)
    if lanes.design.axis is None:
        finite = jnp.all(jnp.isfinite(weight), axis=(1, 2))
        weight = mean_lane(weight, finite)
        if lanes.alike:
            loss = mean_lane(loss, finite)
            stretch, penalty = stretch[0], penalty[0]
    # Both of two classes bend alike.
    seen = weight[..., :1, :] if eta.shape[1] == 1 else weight
    gram = lanes.design.gram(seen) / jnp.sum(seen, axis=-1)[..., None, None]
    if gram.ndim == loss.ndim + 1:
        gram = gram[None]
    p1 = penalty.shape[-1]
    loss = loss[..., None, None]
    ridge = penalty[..., None] + loss * p1 * 10 * jnp.finfo(loss.dtype).eps
    eye = jnp.eye(p1, dtype=loss.dtype).reshape(*[1] * (loss.ndim - 2), p1, p1)
    bent = loss * stretch[..., None] * gram * stretch[..., None, :] + ridge * eye
    root = _inverse_roots(bent)
    inverse = jnp.broadcast_to(root.mT @ root, (*root.shape[:-3], K, p1, p1))
    scale = None
    if class_rows(weight.shape[-1], p1 - 1, K):
        root = jnp.broadcast_to(root, inverse.shape)
    else:
        mean = jnp.mean(bent, axis=-3, keepdims=True)
        root = root if shared else _inverse_roots(mean)
        own, one = (jnp.diagonal(matrices, axis1=-2, axis2=-1) for matrices in (bent, mean))
        scale = jnp.broadcast_to(jnp.swapaxes(stretching(one, own), -1, -2), (*root.shape[:-3], p1, K))
    mask = None
    if lanes.lane.model.mask is not None:
        mask = lanes.each(lambda _, problem: as_point(problem.masked(1 + 0 * problem.stretch), 1) > 0)
    return Blocks(inverse, root, scale, level, along, mask)


def mean_lane(values: Float[Array, "L *shape"], finite: Bool[Array, " L"]) -> Float[Array, "*shape"]:
    """Mean of the lanes that are ``finite``: a product, as the sum over the first axis of a large
    array is slow."""
    used = finite.astype(values.dtype)
    kept = jnp.where(jnp.expand_dims(finite, tuple(range(1, values.ndim))), values, 0)
    return jnp.tensordot(used / jnp.sum(used), kept, axes=1)


def mean_weight(weight: Float[Array, "*L n"]) -> Float[Array, " n"]:
    """Mean share of each row over the lanes whose weights are finite: the others are for themselves."""
    share = row_shares(weight)
    return share if weight.ndim == 1 else mean_lane(share, jnp.all(jnp.isfinite(share), axis=1))


def _inverse_roots(matrices: Float[Array, "*L blocks d d"]) -> Float[Array, "*L blocks d d"]:
    d = matrices.shape[-1]
    return jax.vmap(scaled_inverse_root)(matrices.reshape(-1, d, d)).reshape(matrices.shape)


def scaled_inverse_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Inverse of a Cholesky factor of a positive definite matrix, NaN if it is not."""
    length = jnp.sqrt(diagonal_of(matrix))
    # With a unit diagonal the rounding of the largest entries does not hide the smallest.
    return inverse_root(matrix / (length[:, None] * length[None, :])) / length[None, :]
