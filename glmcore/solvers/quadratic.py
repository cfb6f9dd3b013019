"""The loss to second order on a few entries of the parameters, and its penalised minimum."""

from collections.abc import Callable
from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from glmcore.factors import cholesky_solve, diagonal_of
from glmcore.params import GLMParams, stack_rows, stacked, unstacked
from glmcore.penalties import AbstractScalablePenalty
from glmcore.problem import Problem
from glmcore.rows import row_products

#: Rows that a Hessian is formed from: at least so many, and so many an entry.
_HESSIAN_ROWS = 8192
_ROWS_PER_ENTRY = 16
#: Entries of a working set on which the model is minimised to the end.
MOST_FACTORED = 1024
#: Times that this is done at most: once more where entries came to zero.
_MOST_SOLVED = 4
#: Power iterations that estimate the largest eigenvalue, and what is added to it.
_POWER_STEPS = 16
_POWER_MARGIN = 1.1
#: Least curvature along a step, relative to that of the model, that the model learns from.
_LEAST_CURVATURE = 1e-2


class Entries(eqx.Module):
    """Chosen entries of the stacked parameters in the order of ``index``, or all as they stand.

    ``place`` is where an entry of the parameters stands in ``index``, or the length of that.
    """

    index: Optional[Int[Array, " c"]]
    place: Optional[Int[Array, "p1 K"]]
    shape: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def none(cls, shape: tuple[int, int], capacity: int) -> "Entries":
        return cls(jnp.zeros(capacity, jnp.int32), jnp.full(shape, capacity, jnp.int32), shape)

    @classmethod
    def best(cls, score: Float[Array, "p1 K"], size: int, capacity: int) -> "Entries":
        """The ``size`` entries of largest ``score``, in an index of length ``capacity``."""
        _, index = jax.lax.top_k(score.ravel(), size)
        place = jnp.full(score.size, capacity, jnp.int32)
        place = place.at[index].set(jnp.arange(size, dtype=jnp.int32)).reshape(score.shape)
        return cls(jnp.pad(index, (0, capacity - size)), place, score.shape)

    @property
    def chosen(self) -> Bool[Array, "p1 K"]:
        if self.index is None:
            return jnp.ones(self.shape, bool)
        return self.place < self.index.size

    def number(self, size: int) -> Int[Array, " c"]:
        """Where in the parameters the first ``size`` entries stand, counted row by row."""
        return jnp.arange(size, dtype=jnp.int32) if self.index is None else self.index[:size]

    def pick(self, matrix: Shaped[Array, "p1 K"], size: int) -> Shaped[Array, " c"]:
        """The first ``size`` entries of a matrix."""
        return matrix.ravel() if self.index is None else matrix.ravel()[self.index[:size]]

    def spread(self, vector: Shaped[Array, " c"], outside: ArrayLike) -> Shaped[Array, "p1 K"]:
        """A matrix with a value for each of the first entries, and ``outside`` elsewhere."""
        if self.index is None:
            return vector.reshape(self.shape)
        size = vector.shape[0]
        # A gather, not a scatter: it fuses with what is around it.
        return jnp.where(self.place < size, vector[jnp.minimum(self.place, size - 1)], outside)


class Quadratic(eqx.Module):
    """The Hessian of the loss on ``entries`` of the parameters.

    ``metric`` bends like the diagonal of the Hessian.
    """

    entries: Entries
    hessian: Float[Array, "c c"]
    metric: Float[Array, "p1 K"]

    @classmethod
    def empty(cls, params: GLMParams, sizes: tuple[int, ...]) -> "Quadratic":
        """Room for a Hessian of any of ``sizes``, which grow; one of all entries alone knows no
        order of them."""
        matrix, capacity = stacked(params), sizes[-1]
        whole = sizes == (matrix.size,)
        return cls(
            entries=Entries(None, None, matrix.shape) if whole else Entries.none(matrix.shape, capacity),
            hessian=jnp.zeros((capacity, capacity), matrix.dtype),
            metric=jnp.ones_like(matrix),
        )

    def anew(
        self, problem: Problem, eta: Float[Array, "C n"], score: Float[Array, "p1 K"], size: int
    ) -> "Quadratic":
        """The Hessian of the ``size`` entries of largest ``score``, at the linear predictor ``eta``."""
        entries, capacity = self.entries, len(self.hessian)
        if entries.index is not None:
            entries = Entries.best(score, size, capacity)
        hessian = _hessian(problem, eta, entries, size)
        mean = jnp.mean(diagonal_of(hessian))
        diagonal = entries.spread(diagonal_of(hessian), mean)
        if problem.mask is not None:  # what does not bend says nothing of its group
            coef = jnp.where(problem.mask, diagonal[:-1], mean)
            diagonal = jnp.concatenate([coef, diagonal[-1:]])
        metric = _metric(problem, diagonal)
        left = capacity - size
        return Quadratic(entries, jnp.pad(hessian, ((0, left), (0, left))), metric)

    def learnt(self, step: GLMParams, change: GLMParams) -> "Quadratic":
        """With the curvature that a step met, which changed the gradient by ``change``: the update
        of Broyden, Fletcher, Goldfarb & Shanno."""
        entries, capacity = self.entries, len(self.hessian)
        outside = jnp.any(~entries.chosen & (stacked(step) != 0))
        step, change = (entries.pick(stacked(part), capacity) for part in (step, change))
        if entries.index is not None:  # which may be longer than there are entries
            place = jnp.arange(capacity, dtype=jnp.int32)
            used = entries.pick(entries.place, capacity) == place
            step, change = jnp.where(used, step, 0), jnp.where(used, change, 0)
        bent = self.hessian @ step
        curved, was = step @ change, step @ bent
        # A change that is mostly rounding teaches nothing.
        known = (curved > _LEAST_CURVATURE * was) & ~outside
        gained, lost = (jnp.where(known, 1 / jnp.where(known, c, 1), 0) for c in (curved, was))
        hessian = self.hessian + gained * jnp.outer(change, change) - lost * jnp.outer(bent, bent)
        return eqx.tree_at(lambda q: q.hessian, self, hessian)

    def largest_eigenvalue(self) -> Float[Array, ""]:
        """That of the Hessian in its metric, or somewhat more."""
        root = jnp.sqrt(self.entries.pick(self.metric, len(self.hessian)))
        matrix = self.hessian / (root[:, None] * root[None, :])

        def multiply(_, vector):
            product = matrix @ vector
            return product / jnp.maximum(jnp.linalg.norm(product), jnp.finfo(matrix.dtype).tiny)

        start = 1.1 + jnp.sin(jnp.arange(len(matrix), dtype=matrix.dtype))
        vector = jax.lax.fori_loop(0, _POWER_STEPS, multiply, start)
        largest = _POWER_MARGIN * jnp.linalg.norm(matrix @ vector)
        return jnp.where(largest > 0, largest, 1)

    def minimum(
        self,
        problem: Problem,
        params: GLMParams,
        gradient: GLMParams,
        size: int,
        largest: Float[Array, ""],
        damping: Float[Array, ""],
    ) -> GLMParams:
        """The minimum of the quadratic model of the first ``size`` entries, whose
        :meth:`largest_eigenvalue` is given, plus the penalty, nearly."""
        hessian, base = self.hessian[:size, :size], stacked(params)
        lengths = 1 / ((largest + damping) * self.metric)

        def chosen(matrix: Float[Array, "p1 K"]) -> Float[Array, " c"]:
            return self.entries.pick(matrix, size)

        def whole(entries: Float[Array, " c"]) -> Float[Array, "p1 K"]:
            return self.entries.spread(entries, base)

        start, slope = chosen(base), chosen(stacked(gradient))
        length, lift = chosen(lengths), damping * chosen(self.metric)

        def prox(entries: Float[Array, " c"]) -> Float[Array, " c"]:
            moved = whole(entries)
            coef = problem.prox(moved[:-1], lengths[:-1])
            return chosen(jnp.concatenate([coef, moved[-1:]]))

        def bend(step: Float[Array, " c"]) -> Float[Array, " c"]:
            return hessian @ step + lift * step

        target = minimise(bend, slope, prox, start, length)
        if size <= MOST_FACTORED and isinstance(problem.penalty, AbstractScalablePenalty):
            bent = hessian + jnp.diag(lift)

            def settled(state):
                entries, _, count = state
                there = slope + bend(entries - start)
                entries, turned = self._with_these_signs(problem, whole(entries), there, bent)
                return entries, turned, count + 1

            def unsettled(state):
                _, turned, count = state
                return turned & (count < _MOST_SOLVED)

            first = (target, jnp.ones((), bool), jnp.zeros((), jnp.int32))
            target, *_ = jax.lax.while_loop(unsettled, settled, first)
        return unstacked(whole(target))

    def _with_these_signs(
        self,
        problem: Problem,
        params: Float[Array, "p1 K"],
        slope: Float[Array, " c"],
        hessian: Float[Array, "c c"],
    ) -> tuple[Float[Array, " c"], Bool[Array, ""]]:
        """The minimum of the model as long as ``params`` keep their signs, which FISTA finds long
        before it: where the Hessian is ill-conditioned its steps are short.  An entry that would
        change its sign stops at zero, and so does a group that would turn round; where so many
        zeros at once lead up, all go as far as the first of them.  And whether some came to zero."""
        (p1, K), size = params.shape, len(hessian)
        entries, row = self.entries.pick(params, size), self.entries.number(size) // K
        _, quadratic = problem.curvature()
        smooth = stacked(GLMParams(problem.penalty_gradient(params[:-1]), jnp.zeros_like(params[-1])))
        bends = stacked(GLMParams(quadratic, jnp.zeros_like(params[-1])))
        intercept = row == p1 - 1
        free = (entries != 0) | intercept
        smooth = self.entries.pick(smooth, size)
        slope = jnp.where(free, slope + smooth, 0)
        hessian = hessian + jnp.diag(self.entries.pick(bends, size))
        together = self._together(problem, size)
        if together is not None:
            hessian = hessian + _bend_of_norms(together, entries, smooth)
        if problem.shift_invariant:  # the loss is flat along the level of the classes
            whole = jnp.all(self.entries.spread(free, False), axis=1)[row]
            same = (row[:, None] == row[None, :]) & whole[:, None]
            hessian = hessian + jnp.where(same, jnp.mean(diagonal_of(hessian)) / K, 0)
        hessian = jnp.where(free[:, None] & free[None, :], hessian, 0)
        diagonal = diagonal_of(hessian)
        unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        jitter = jnp.where(free, entries.size * jnp.finfo(entries.dtype).eps, 1)
        bent = hessian / (unit[:, None] * unit[None, :]) + jnp.diag(jitter)
        step = -cholesky_solve(bent, slope / unit) / unit
        if together is None:
            was, change = entries * entries, entries * step
        else:
            was, change = together @ (smooth * entries), together @ (smooth * step)
        turned = ~intercept & (was > 0) & (was + change <= 0)
        turns = jnp.where(turned, was / jnp.where(turned, -change, 1), jnp.inf)
        share = jnp.min(turns, initial=1)
        to_first = jnp.where(turns <= share, 0, entries + share * step)

        def is_lower(moved: Float[Array, " c"]) -> Bool[Array, ""]:
            return jnp.dot(moved - entries, slope + hessian @ (moved - entries) / 2) < 0

        best = entries
        for moved in (to_first, jnp.where(turned, 0, entries + step)):
            best = jnp.where(is_lower(moved), moved, best)
        return best, jnp.any(turned) & jnp.any(best != entries)

    def _together(self, problem: Problem, size: int) -> Optional[Float[Array, "c c"]]:
        """One where two entries share a group of the penalty; None where entries stand alone."""
        groups = problem.groups()
        if groups is None:
            return None
        intercept = jnp.full_like(groups[:1], -1)
        group = self.entries.pick(jnp.concatenate([groups, intercept]), size)
        return (group[:, None] == group[None, :]).astype(problem.weight.dtype)


def _bend_of_norms(
    together: Float[Array, "c c"], entries: Float[Array, " c"], gradient: Float[Array, " c"]
) -> Float[Array, "c c"]:
    """Second derivatives of a sum of norms of groups from its ``gradient``: none in the direction
    of the group itself, along which its norm is linear."""
    norm = together @ (gradient * entries)
    across = jnp.where(entries != 0, gradient / jnp.where(entries != 0, entries, 1), 0)
    along = gradient[:, None] * gradient[None, :] / jnp.where(norm > 0, norm, 1)[:, None]
    return jnp.diag(across) - together * along


def minimise(
    bend: Callable,
    slope: Float[Array, "*shape"],
    prox: Callable,
    start: Float[Array, "*shape"],
    length: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    r"""FISTA with restarts on :math:`slope \cdot d + \tfrac12 d \cdot bend(d)` plus a penalty, for
    ``d`` from ``start``, until a step is a hundredth of the first one or a hundred are done."""

    def improve(state):
        point, ahead, momentum, count, first, _ = state
        new = prox(ahead - length * (slope + bend(ahead - start)))
        back = (ahead - new) / length
        uphill = jnp.sum(back * (new - point)) > 0
        squared = jnp.sum(back * (ahead - new))
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        inertia = jnp.where(uphill, 0, (momentum - 1) / grown)
        first = jnp.where(count == 0, squared, first)
        momentum = jnp.where(uphill, 1, grown)
        return new, new + inertia * (new - point), momentum, count + 1, first, squared

    def unfinished(state):
        *_, count, first, squared = state
        return (count < 100) & (squared > 1e-4 * first)

    one = jnp.ones((), start.dtype)
    state = (start, start, one, jnp.zeros((), jnp.int32), 0 * one, one)
    return jax.lax.while_loop(unfinished, improve, state)[0]


def _hessian(
    problem: Problem, eta: Float[Array, "C n"], entries: Entries, size: int
) -> Float[Array, "c c"]:
    X, y, weight, eta = problem.sampled(eta, max(_HESSIAN_ROWS, _ROWS_PER_ENTRY * size))
    scale, n_classes = problem.stretch, problem.present.size
    if size == scale.size + n_classes:
        whole = _whole_hessian(problem, X, weight[None, None, :] * problem.hessian(eta, y))
        if entries.index is None:
            return whole
        return whole[entries.index[:, None], entries.index[None, :]]
    intercept = jnp.full((1, weight.size), problem.fit_intercept, eta.dtype)
    # Transposed, rows of features are gathered as they lie.
    features = jax.lax.optimization_barrier(jnp.concatenate([X.T, intercept]))
    scale = entries.pick(jnp.concatenate([scale, jnp.ones_like(scale[:1])]), size)
    number = entries.number(size)
    columns = features[number // n_classes] * scale[:, None]
    label = number % n_classes
    weighted, bends = columns * weight[None, :], problem.hessian(eta, y)
    if len(bends) == 1:  # of two classes one product is enough
        sign = problem.observations.contrasts(jnp.eye(n_classes, dtype=eta.dtype))[:, 0][label]
        return (weighted * bends[0]) @ columns.T * sign[:, None] * sign[None, :]
    if problem.shift_invariant and len(bends) == n_classes:  # of the softmax it is diagonal but for one product
        proba = jax.nn.softmax(problem.without_absent(eta), axis=0)[label]
        bent = weighted * proba
        own = jnp.where(label[:, None] == label[None, :], bent @ columns.T, 0)
        return own - bent @ (columns * proba).T
    bends = problem.between_outputs(bends)
    total = jnp.zeros((size, size), eta.dtype)
    for other in range(n_classes):
        product = (weighted * bends[other][label]) @ columns.T
        total = jnp.where((label == other)[None, :], product, total)
    return total


def _whole_hessian(
    problem: Problem, X: Float[Array, "m p"], bends: Float[Array, "C C m"]
) -> Float[Array, "c c"]:
    """That of all entries, of which any two classes need only one product."""
    scale = problem.stretch
    most = jnp.max(scale, axis=1)
    share = jnp.where(most[:, None] > 0, scale / jnp.where(most > 0, most, 1)[:, None], 0)
    share = jnp.concatenate([share, jnp.ones_like(scale[:1])]).ravel()
    intercept = jnp.full_like(X[:, :1], problem.fit_intercept)
    design = jnp.concatenate([X * most[None, :], intercept], axis=1)
    products = problem.between_outputs(row_products(bends, design))
    hessian = products.transpose(2, 0, 3, 1).reshape(share.size, share.size)
    return hessian * share[:, None] * share[None, :]


def _metric(problem: Problem, diagonal: Float[Array, "p1 K"]) -> Float[Array, "p1 K"]:
    """The diagonal as far as the penalty's prox allows steps of different lengths."""
    least = jnp.finfo(diagonal.dtype).eps * jnp.max(diagonal)
    diagonal = jnp.maximum(diagonal, jnp.where(least > 0, least, 1))
    if not isinstance(problem.penalty, AbstractScalablePenalty):
        return jnp.full_like(diagonal, jnp.max(diagonal))
    coordinates = problem.coordinates
    root = jnp.sqrt(diagonal[:-1]) / coordinates.scale
    common = problem.penalty.common_scale(coordinates.split(root))
    squared = jnp.square(stack_rows(common) * coordinates.scale)
    return jnp.concatenate([squared, diagonal[-1:]])
