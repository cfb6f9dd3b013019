"""The inverse of a cheap model of the Hessian: p x p blocks, one a class or one for all.

The Hessian of the loss is a sum over rows of ``H_i (x) x_i x_i'`` with a K x K matrix H_i.  Of
that the model keeps the diagonal of H_i: the Gram matrix of the features, weighted for each class
by ``p_k (1 - p_k)``.  What it leaves out acts mostly along the level of the classes, to which the
loss is blind; so the level is taken out before and after, unless the penalty holds it.  Where a
block a class costs too much, all share that of the mean curvature (at the null model a stand-in for
Boehning's bound, 1992), which is stretched for each class to the diagonal of its own.
"""

from collections.abc import Callable
from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glmcore.coordinates import CENTRE_ROUNDINGS
from glmcore.factors import diagonal_of, inverse_root
from glmcore.params import GLMParams, stacked, unstacked
from glmcore.problem import Problem
from glmcore.solvers.sample import Sample

#: Features up to which the Gram matrix is formed; its rows are at least so many, and so many a
#: feature.
_GRAM_FEATURES = 1024
_GRAM_ROWS = 8192
_GRAM_ROWS_PER_FEATURE = 4
#: Fewer, in steps of so many and no fewer than so many a feature and a class, if that pays for a
#: block each of so many classes, without which there may be three times as many steps.
_ROWS_STEP = 512
_CLASS_ROWS_PER_FEATURE = 24
_ROWS_PER_CLASS = 48
_MANY_CLASSES = 8
#: Multiplications that a block a class may cost: so many steps' worth, or so many in all.
_STEPS_WORTH = 8
_MULTIPLICATIONS = 2**28
#: Least curvature along the level of the classes, in roundings of that of the loss elsewhere.
_LEAST_LEVEL = 2**6


def has_root(problem: Problem) -> bool:
    """Whether the preconditioner of this problem has a Gram matrix."""
    return len(problem.coordinates.scale) <= _GRAM_FEATURES


def affords_classes(problem: Problem) -> bool:
    """Whether the preconditioner of this problem has a block for each class."""
    return class_rows(problem.n_rows, *problem.coordinates.scale.shape) > 0


def class_rows(n: int, p: int, K: int) -> int:
    """Rows for the Gram matrices of a problem of this size, one a class; 0 where they cost too much."""
    rows = gram_rows(p)
    paid = affordable(n, p, K) // (K * (p + 1) ** 2)
    enough = min(n, rows)
    if K >= _MANY_CLASSES:
        enough = min(enough, max(_CLASS_ROWS_PER_FEATURE * (p + 1), _ROWS_PER_CLASS * K))
    if p > _GRAM_FEATURES or paid < enough:
        return 0
    return min(rows, _ROWS_STEP * -(-paid // _ROWS_STEP))


def affordable(n: int, p: int, K: int) -> int:
    """Multiplications that a block for each class may cost."""
    return _MULTIPLICATIONS + _STEPS_WORTH * 2 * n * p * K


class Preconditioner(eqx.Module):
    """Inverse of a model of the Hessian.

    ``root`` holds the inverse of a Cholesky factor of each class's block, in which the intercept
    comes last, or of one that they share; then the inverse is multiplied from both sides by the
    ``scale`` of each class.  With too many features, or in a fit of few rows, they are None and the inverse
    is that of the blocks' ``diagonal``, which else is None.  Along the unit vector ``level`` of each
    feature, 0 where the level of the classes is not free, it is that of ``level_curvature``, of which
    ``stand_in`` is not the penalty's.
    """

    root: Optional[Float[Array, "blocks p1 p1"]]
    scale: Optional[Float[Array, "p1 K"]]
    diagonal: Optional[Float[Array, "p1 K"]]
    level: Float[Array, "p1 K"]
    level_curvature: Float[Array, " p1"]
    stand_in: Float[Array, " p1"]
    mask: Optional[Bool[Array, "p K"]]

    @classmethod
    def of(cls, problem: Problem, eta: Float[Array, "C n"]) -> "Preconditioner":
        """The model at the parameters whose linear predictor is ``eta``."""
        rows = class_rows(problem.n_rows, *problem.coordinates.scale.shape)
        if not rows:
            return cls.shared(problem, eta)
        sample = Sample.of(problem, eta, rows)
        bent = sample.bent(sample.own_curvature)
        root = _inverse_roots(problem, sample, bent, sample.penalty.T)
        return cls._from(problem, sample, bent, root, None, None)

    @classmethod
    def shared(cls, problem: Problem, eta: Float[Array, "C n"]) -> "Preconditioner":
        """The same with one block for all classes, stretched for each."""
        if not has_root(problem):
            return cls.of_diagonal(problem, eta)
        sample = Sample.of(problem, eta, gram_rows(len(problem.coordinates.scale)))
        mean, penalty = sample.bent(sample.mean_curvature), jnp.mean(sample.penalty, axis=1)[None, :]
        bent = jnp.concatenate([sample.bent(sample.curvature), mean])
        diagonals = sample.squares(bent) + jnp.concatenate([sample.penalty.T, penalty])
        scale = stretching(diagonals[-1:], diagonals[:-1]).T
        root = _inverse_roots(problem, sample, mean, penalty)
        return cls._from(problem, sample, mean, root, scale, None)

    @classmethod
    def blank(cls, problem: Problem) -> "Preconditioner":
        """Room for that."""
        scale = jnp.zeros_like(jnp.append(problem.coordinates.scale, problem.coordinates.scale[:1], axis=0))
        p1, along = len(scale), jnp.zeros_like(scale[:, 0])
        return cls(jnp.zeros((1, p1, p1), scale.dtype), scale, None, scale, along, along, problem.mask)

    @classmethod
    def of_diagonal(cls, problem: Problem, eta: Float[Array, "C n"]) -> "Preconditioner":
        """The same with the diagonals of the blocks."""
        sample = Sample.of(problem, eta, gram_rows(len(problem.coordinates.scale)))
        diagonal = sample.squares(sample.bent(sample.curvature)).T + sample.penalty
        return cls._from(problem, sample, sample.bent(sample.mean_curvature), None, None, diagonal)

    @classmethod
    def _from(
        cls,
        problem: Problem,
        sample: Sample,
        bent: Float[Array, "blocks m"],
        root: Optional[Float[Array, "root_blocks p1 p1"]],
        scale: Optional[Float[Array, "p1 K"]],
        diagonal: Optional[Float[Array, "p1 K"]],
    ) -> "Preconditioner":
        loss = jnp.mean(jnp.sum(bent, axis=1))
        level, along = level_curvature(problem, sample.penalty, loss)
        stand_in = along - jnp.mean(sample.penalty, axis=1)
        return cls(root, scale, diagonal, level, along, stand_in, problem.mask)

    def repeated(self) -> "Preconditioner":
        """The same with a block for each class, stretched half as far: blocks are made anew soon, and
        with all of it the first steps of rare classes would go too far."""
        return eqx.tree_at(lambda m: (m.root, m.scale), self, (self.root * jnp.sqrt(self.scale).T[:, None, :], None))

    def flat_bend(self, direction: GLMParams) -> GLMParams:
        """What the model adds to the Hessian times ``direction`` along the level of the classes:
        there the Hessian is 0 where the penalty is, and rounding in a gradient would go far."""
        along = jnp.sum(stacked(direction) * self.level, axis=1)
        return unstacked((self.stand_in * along)[:, None] * self.level)

    def apply(self, gradient: GLMParams, solve: Optional[Callable] = None) -> GLMParams:
        """The inverse times ``gradient``; ``solve`` stands for :meth:`solve`, if given."""
        slope = stacked(gradient)
        along = jnp.sum(slope * self.level, axis=1)
        solved = (solve or self.solve)(slope - along[:, None] * self.level)
        missing = along / self.level_curvature - jnp.sum(solved * self.level, axis=1)
        solved = solved + missing[:, None] * self.level
        coef = solved[:-1] if self.mask is None else jnp.where(self.mask, solved[:-1], 0)
        return GLMParams(coef, solved[-1])

    def solve(self, stacked: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
        """The inverse where the level of the classes is not free."""
        if self.root is None:
            return stacked / self.diagonal
        if self.scale is not None:
            return self.scale * (self.root[0].T @ (self.root[0] @ (self.scale * stacked)))
        columns = stacked.T[:, :, None]
        return (self.root.mT @ (self.root @ columns))[:, :, 0].T


def level_curvature(
    problem: Problem, penalty: Float[Array, "p1 K"], loss: Float[Array, "*p1"], shared: bool = False
) -> tuple[Float[Array, "p1 K"], Float[Array, " p1"]]:
    """The unit vector along the level of the classes for each feature, 0 where the loss sees it or
    the penalty holds some classes much more firmly than others (of which a ``shared`` block that is
    not stretched knows nothing), and the curvature that stands in for the one along it; ``loss`` is
    that of the loss elsewhere."""
    level = jnp.where(problem.present & problem.shift_invariant, 1, 0).astype(loss.dtype)
    level = level / jnp.sqrt(jnp.maximum(jnp.sum(level), 1))
    # Where all classes are penalised alike nothing moves their level but rounding, which a
    # small curvature would blow up.
    own, differ = jnp.mean(penalty, axis=1), jnp.ptp(penalty, axis=1)
    least = _LEAST_LEVEL * jnp.finfo(loss.dtype).eps
    held = (differ > loss) & ~jnp.asarray(shared)
    if problem.mask is not None:  # it fixes the level
        held |= jnp.append(~jnp.all(problem.mask, axis=1), False)
    level = jnp.where(held[:, None], 0, level[None, :])
    return level, jnp.where(differ == 0, loss + own, jnp.maximum(own, least * loss))


def stretching(
    shared: Float[Array, "*L one p1"], own: Float[Array, "*L K p1"]
) -> Float[Array, "*L K p1"]:
    """What the inverse of a block with the diagonal ``shared`` is multiplied by from both sides to stand
    for that of one with the diagonal ``own``."""
    return jnp.sqrt(jnp.where(own > 0, shared / jnp.where(own > 0, own, 1), 1))


def gram_rows(p: int) -> int:
    """Rows that are enough for the Gram matrix of ``p`` features."""
    return max(_GRAM_ROWS, _GRAM_ROWS_PER_FEATURE * p)


def _fitted(problem: Problem, blocks: int) -> Optional[Bool[Array, "blocks p1"]]:
    """Columns of the design that a block is about; None: all of them."""
    if problem.mask is None:
        return None
    mask = problem.mask.T if blocks > 1 else jnp.any(problem.mask, axis=1)[None, :]
    return jnp.concatenate([mask, jnp.ones_like(mask[:, :1])], axis=1)


def _inverse_roots(
    problem: Problem,
    sample: Sample,
    bent: Float[Array, "blocks m"],
    penalty: Float[Array, "root_blocks p1"],
) -> Float[Array, "root_blocks p1 p1"]:
    """Those of a block a row of ``penalty``; one row of ``bent`` serves them all."""
    grams, fitted = sample.grams(bent), _fitted(problem, len(penalty))
    grams = jnp.broadcast_to(grams, (len(penalty), *grams.shape[1:]))
    if fitted is not None:
        grams = jnp.where(fitted[:, :, None] & fitted[:, None, :], grams, 0)
    held = penalty + least_held(jnp.sum(bent, axis=1)[:, None], jax.vmap(diagonal_of)(grams))
    return jax.vmap(inverse_root)(grams + jax.vmap(jnp.diag)(held))


def least_held(
    total: Float[Array, "blocks one"], diagonal: Float[Array, "root_blocks p1"]
) -> Float[Array, "root_blocks p1"]:
    """What is added to the diagonal of Gram matrices whose weights have this ``total``: features nobody
    penalises may be collinear, and one that does not vary here may do so in the next batch of a stream."""
    eps = jnp.finfo(total.dtype).eps
    rounding = jnp.square(CENTRE_ROUNDINGS * eps) * total
    return total * diagonal.shape[-1] * 10 * eps + jnp.where(diagonal <= rounding, total, 0)
