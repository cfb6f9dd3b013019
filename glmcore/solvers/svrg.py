r"""Stochastic variance-reduced gradients, for smooth penalties and for those with a prox.

An epoch starts at a reference point ``v`` whose full gradient is known.  Steps on minibatches
follow, whose noise vanishes as they and the reference approach the optimum (Johnson & Zhang,
2013; Xiao & Zhang, 2014):

.. math:: g = \nabla f(v) + \frac{1}{b} \sum_{i \in B} \frac{\omega_i}{q_i}
    \left(\nabla \ell_i(w) - \nabla \ell_i(v)\right), \quad
    w \leftarrow prox(w - \eta M g)

The last ``w`` is the next reference; its full gradient tells how far from the optimum it is and
whether the epoch went too far.

Row i is drawn with probability :math:`q_i = \omega_i (1 + s_i / \bar s) / 2`, where :math:`s_i`
is one plus its squared length: of long rows the gradient changes fastest, and with
:math:`q_i \propto \omega_i s_i` the mean of the smoothness constants stands where uniform
sampling has the largest (Xiao & Zhang, 2014).
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.dense import DenseProblem
from glmcore.params import GLMParams
from glmcore.problem import Look
from glmcore.solvers.accelerated import Decline, as_stepsize
from glmcore.solvers.base import AbstractSolver, Standing, as_float, as_int, is_rounding
from glmcore.solvers.preconditioner import Preconditioner
from glmcore.tree import as_count, tree_axpy, tree_dot, tree_norm, tree_sub, tree_where

#: Rows that the steps of an epoch read, in rows of the data.
_PASSES = 2
#: Fewest and most steps of an epoch that a default batch size leads to (of a pass: half).
_FEWEST_BATCHES, _MOST_BATCHES = 16, 2048
_BATCH = 32
#: Rows and products that estimate the largest eigenvalue.
_POWER_ROWS, _POWER_STEPS = 1024, 12
#: The step size grows by no more than the first factor an epoch, and shrinks by no more than
#: the second.
_GROW, _SHRINK = 1.2, 0.5
#: Epochs without progress after which rounding is blamed.
_PATIENCE = 30
#: 2^32 over the golden ratio: its multiples spread evenly modulo 2^32 (Weyl).
_GOLDEN = 2654435769


class Metric(eqx.Module):
    """By what gradients of coefficients are multiplied: a matrix, a diagonal or nothing."""

    matrix: Float[Array, "p p"] | None = None
    diagonal: Float[Array, "p K"] | None = None

    def apply(self, gradient: GLMParams) -> GLMParams:
        if self.matrix is not None:
            return GLMParams(self.matrix @ gradient.coef, gradient.intercept)
        if self.diagonal is not None:
            return GLMParams(self.diagonal * gradient.coef, gradient.intercept)
        return gradient

    def squared_lengths(self, rows: Float[Array, "n p"]) -> Float[Array, " n"]:
        """Of scaled rows, the intercept's 1 included: twice their smoothness constants."""
        if self.matrix is not None:
            return 1 + jnp.sum((rows @ self.matrix) * rows, axis=1)
        weight = jnp.ones_like(rows[:1]) if self.diagonal is None else jnp.mean(self.diagonal, axis=1)[None, :]
        return 1 + jnp.sum(weight * jnp.square(rows), axis=1)


class Sampler(eqx.Module):
    """Draws rows: ``cumulative`` sums their probabilities, ``weight`` is weight over probability."""

    cumulative: Float[Array, " n"]
    weight: Float[Array, " n"]

    @classmethod
    def of(cls, problem: DenseProblem) -> "Sampler":
        lengths = Metric().squared_lengths(_scaled(problem))
        mean = jnp.sum(problem.weight * lengths)
        boost = (1 + lengths / mean) / 2
        return cls(jnp.cumsum(problem.weight * boost), jnp.where(problem.weight > 0, 1 / boost, 0))

    def rows(self, position: Float[Array, " m"]) -> Int[Array, " m"]:
        """The rows at positions in [0, 1] of the cumulative distribution; none of weight 0."""
        last = self.cumulative[-1] * (1 - 2 * jnp.finfo(position.dtype).eps)
        row = jnp.searchsorted(self.cumulative, position * last, side="right")
        return jnp.minimum(row, self.weight.size - 1).astype(jnp.int32)

    def batches(self, key: Array, n_batches: int, size: int) -> Int[Array, "m b"]:
        """Batches of one row from each of ``size`` strata of equal probability.

        Rows are often sorted by class, and then strata are classes.  Within a stratum the
        batches of an epoch are the golden-ratio sequence from a random start, which visits its
        rows about equally often without a permutation to draw.
        """
        dtype = self.weight.dtype
        start = jax.random.bits(key, (1, size), jnp.uint32)
        turn = jnp.arange(n_batches, dtype=jnp.uint32)[:, None] * jnp.uint32(_GOLDEN)
        within = (turn + start).astype(dtype) * jnp.asarray(2.0**-32, dtype)
        position = (jnp.arange(size, dtype=dtype)[None, :] + within) / size
        return self.rows(position.ravel()).reshape(n_batches, size)


class SVRGState(eqx.Module):
    """Step size, metric and how many epochs have drawn their batches."""

    stepsize: Float[Array, ""]
    metric: Metric
    n_epochs: Int[Array, ""]


class SVRGCache(eqx.Module):
    """Gradient of the loss at the reference, and its derivative in the predictor of each row."""

    gradient: GLMParams
    residual: Float[Array, "n K"]
    sampler: Sampler
    best: Float[Array, ""]
    since_best: Int[Array, ""]
    decline: Decline
    progress: Standing


class AbstractSVRG(AbstractSolver):
    """One step is one epoch; subclasses say how the penalty enters and what metric it allows."""

    stepsize: eqx.AbstractVar[Any]
    batch_size: eqx.AbstractVar[int | None]
    seed: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def metric(self, problem: DenseProblem, eta: Float[Array, "C n"]) -> Metric:
        """Stand-in for the inverse Hessian, in units of the loss curvature of one feature."""

    @abc.abstractmethod
    def widest(self, problem: DenseProblem) -> int:
        """Rows a default batch should have for its noise not to limit the step size."""

    @abc.abstractmethod
    def move(
        self, problem: DenseProblem, state: SVRGState, params: GLMParams, gradient: GLMParams
    ) -> GLMParams:
        """One inner step along an estimate of the gradient of the loss."""

    def init(
        self, problem: DenseProblem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> SVRGState:
        metric = self.metric(problem, eta)
        default = _default_stepsize(problem, metric, self._batch(problem))
        stepsize = jnp.where(self.stepsize > 0, self.stepsize, default)
        return SVRGState(stepsize, metric, jnp.zeros((), jnp.int32))

    def evaluate(
        self, problem: DenseProblem, params: GLMParams, look: Look, state: SVRGState
    ) -> SVRGCache:
        return self._refer(problem, params, look, Sampler.of(problem))

    def step(
        self, problem: DenseProblem, params: GLMParams, state: SVRGState, cache: SVRGCache
    ) -> tuple[GLMParams, SVRGState, SVRGCache]:
        new = self._epoch(problem, params, state, cache)
        # The loss is blind to the level of the classes: gradients would only creep along it.
        new = GLMParams(problem.level(new.coef), new.intercept)
        there = self._refer(problem, new, problem.look(problem.predictor(new)), cache.sampler)
        downhill, seen, gain, factor = _judge(problem, (params, cache), (new, there))
        decline = cache.decline.to(there.progress.optimality)
        there = eqx.tree_at(lambda c: c.progress.gap, there, decline.gap_after(gain, there.progress.optimality))
        fixed = jnp.asarray(self.stepsize > 0)
        stepsize = jnp.where(fixed, self.stepsize, factor * state.stepsize)
        better = there.best < cache.best
        # Under an ordered step size the objective may visibly go up and down: not rounding.
        moves = seen & (downhill | fixed)
        since_best = jnp.where(better | moves, 0, cache.since_best + 1)
        best = jnp.minimum(there.best, cache.best)
        # An epoch that went uphill is undone, unless its step size was ordered.
        params, cache = tree_where(downhill | fixed, (new, there), (params, cache))
        cache = eqx.tree_at(
            lambda c: (c.best, c.since_best, c.decline, c.progress.stalled),
            cache,
            (best, since_best, decline, since_best >= _PATIENCE),
        )
        return params, SVRGState(stepsize, state.metric, state.n_epochs + 1), cache

    def _batch(self, problem: DenseProblem) -> int:
        """Rows of a batch: a function of shapes."""
        n = problem.weight.size
        if self.batch_size is not None:
            return min(self.batch_size, n)
        return max(1, min(self.widest(problem), n // _FEWEST_BATCHES), n // _MOST_BATCHES)

    def _refer(
        self,
        problem: DenseProblem,
        params: GLMParams,
        look: Look,
        sampler: Sampler,
    ) -> SVRGCache:
        """All that an epoch has to know of its reference point."""
        optimality = problem.optimality(params, look.gradient)
        weight = problem.weight[None, :]
        residual = jnp.where(weight > 0, look.residual / jnp.where(weight > 0, weight, 1), 0)
        progress = Standing(
            objective=look.loss + problem.penalty_value(params.coef),
            optimality=optimality,
            gap=jnp.zeros_like(look.loss),
            stalled=jnp.zeros((), bool),
        )
        none = jnp.zeros((), jnp.int32)
        return SVRGCache(look.gradient, residual.T, sampler, optimality, none, Decline.starting(optimality), progress)

    def _epoch(
        self, problem: DenseProblem, params: GLMParams, state: SVRGState, cache: SVRGCache
    ) -> GLMParams:
        """The last point of the inner steps."""
        size = self._batch(problem)
        n_rows = problem.weight.size
        key = jax.random.fold_in(jax.random.key(self.seed), state.n_epochs)
        batches = cache.sampler.batches(key, -(-_PASSES * n_rows // size), size)
        # Rows of weight 0 count for the shape of the program and not for its time.
        n_used = jnp.sum(problem.weight > 0, dtype=jnp.int32)
        n_batches = jnp.clip(-(-_PASSES * n_used // size), 1, batches.shape[0])

        def move(index: Int[Array, ""], params: GLMParams) -> GLMParams:
            rows = batches[index]
            weight = cache.sampler.weight[rows] / size
            batch = problem.rows(rows, weight)
            _, residual = batch.loss_and_residual(batch.predictor(params))
            reference = cache.residual.at[rows].get(mode="promise_in_bounds").T
            correction = batch.gradient(residual - weight[None, :] * reference)
            gradient = jax.tree.map(jnp.add, cache.gradient, correction)
            return self.move(problem, state, params, gradient)

        return jax.lax.fori_loop(0, n_batches, move, params)


def _judge(
    problem: DenseProblem, old: tuple[GLMParams, SVRGCache], new: tuple[GLMParams, SVRGCache]
) -> tuple[Bool[Array, ""], Bool[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Whether an epoch went downhill, whether the objective shows it, how far, and the factor by
    which the step size should change: where along the epoch's displacement the minimum lies."""
    displacement = tree_sub(new[0], old[0])

    def slope(point: tuple[GLMParams, SVRGCache]) -> Float[Array, ""]:
        params, cache = point
        return tree_dot(problem.penalised(params, cache.gradient), displacement)

    before, after = slope(old), slope(new)
    was, found = old[1].progress.objective, new[1].progress.objective
    seen = jnp.abs(found - was) > 10 * jnp.finfo(was.dtype).eps * jnp.abs(was)
    # Where rounding hides the change of the objective, the trapezoid of slopes does not.
    gain = jnp.where(seen, was - found, -(before + after) / 2)
    downhill = gain > 0
    bends = after > before
    minimum = jnp.where(bends, -before / jnp.where(bends, after - before, 1), jnp.inf)
    factor = jnp.where(downhill, jnp.clip(minimum, _SHRINK, _GROW), _SHRINK)
    factor = jnp.where(is_rounding((after - before) / 2, new[0]), 1, factor)
    return downhill, seen, gain, factor


def _scaled(problem: DenseProblem) -> Float[Array, "n p"]:
    return problem.X * jnp.mean(problem.coordinates.varying_scale, axis=1)[None, :]


def _default_stepsize(problem: DenseProblem, metric: Metric, size: int) -> Float[Array, ""]:
    """Where an epoch's step size starts, from the smoothness of the loss; see :class:`SVRG`."""
    n_rows = min(problem.weight.size, max(_POWER_ROWS, 2 * problem.X.shape[1]))
    dtype = problem.weight.dtype
    sampler = Sampler.of(problem)
    index = sampler.rows((jnp.arange(n_rows, dtype=dtype) + 0.5) / n_rows)
    sample = problem.rows(index, sampler.weight[index] / n_rows)
    mean = jnp.sum(sample.weight * metric.squared_lengths(_scaled(sample)))

    def power(_, carry: tuple[GLMParams, Array]) -> tuple[GLMParams, Array]:
        product = sample.predictor(carry[0]) * sample.weight[None, :]
        product = metric.apply(sample.gradient(product))
        norm = tree_norm(product)
        return jax.tree.map(lambda x: x / jnp.where(norm > 0, norm, 1), product), norm

    shape = problem.coordinates.scale.shape
    start = GLMParams(jax.random.normal(jax.random.key(0), shape, dtype), jnp.ones(shape[1], dtype))
    _, largest = jax.lax.fori_loop(0, _POWER_STEPS, power, (start, jnp.ones((), dtype)))
    # A contrast sees the features once for each output that it is of.
    contrasts = problem.observations.contrasts(jnp.eye(shape[1], dtype=dtype))
    largest = largest * contrasts.shape[1] / jnp.sum(contrasts**2)
    return 1 / (largest + 3 * mean / size)


def as_batch_size(x: Any) -> int | None:
    return None if x is None else as_count(x, "batch_size", "a positive whole number or None")


class SVRG(AbstractSVRG):
    r"""Stochastic variance-reduced gradient (Johnson & Zhang, 2013), for smooth penalties.

    A step is an epoch: a full gradient, then minibatch steps that read about twice as many rows
    as there are; its last point is the next reference, unless the objective rose.  Gradients
    are multiplied by the inverse of ``G + D / c``: G the Gram matrix of the scaled features
    (p up to 1024; the identity beyond), D the curvature of the penalty, c that of the loss.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual at the reference point, in centred and scaled
        coordinates, relative to the gradient at the null model.  Default 1e-5 in float32,
        1e-8 in float64.  The predicted distance of the objective to its minimum has to
        be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of epochs.
    stepsize : float, optional
        Fixed step size in centred and scaled coordinates.  Default (None or 0): it starts at
        ``1 / (lambda + 3 t / b)``, with lambda the largest eigenvalue of the second moments of
        the rows, multiplied by the inverse above, and t their trace: with the softmax's bounds
        L = lambda / 2 (Boehning, 1992) and t / 2 for the mean over rows, that is
        ``1 / (2 (L + Lmean / b + 2 Lmean / b))`` of Sebbouh et al. (2019).  After each epoch it
        is multiplied by where along the epoch's displacement the minimum lies, within 0.5
        to 1.2.
    batch_size : int, optional
        Rows b of an inner step.  Default max(32, p), but from n / 2048 to n / 16 of the n rows
        (padded ones included): there the noise costs about as much as the curvature.
    seed : int, default 0
        Of the random batches: the same seed gives the same result.

    Notes
    -----
    Sebbouh, Gazagnadou, Jelassi, Bach & Gower, Towards closing the gap between the theory and
    practice of SVRG, NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.fit(model, X, y, solver=glmcore.SVRG(batch_size=2))
    >>> result.params.coef.round(3)
    Array([[-0.372,  0.372]], dtype=float32)
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    stepsize: Any = eqx.field(default=None, converter=as_stepsize)
    batch_size: int | None = eqx.field(default=None, static=True, converter=as_batch_size)
    seed: Any = eqx.field(default=0, converter=as_int)
    needs_smooth = True

    def metric(self, problem: DenseProblem, eta: Float[Array, "C n"]) -> Metric:
        preconditioner = Preconditioner.shared(problem, eta)
        loss, quadratic = problem.curvature()
        if preconditioner.root is None:
            return Metric(diagonal=loss / (loss + quadratic))
        root = preconditioner.root[0]  # not stretched: a metric knows no classes
        inverse = root.T @ root
        return Metric(matrix=loss * inverse[:-1, :-1])

    def widest(self, problem: DenseProblem) -> int:
        return max(_BATCH, problem.X.shape[1])

    def move(
        self, problem: DenseProblem, state: SVRGState, params: GLMParams, gradient: GLMParams
    ) -> GLMParams:
        direction = state.metric.apply(problem.penalised(params, gradient))
        direction = GLMParams(problem.masked(direction.coef), direction.intercept)
        return tree_axpy(-state.stepsize, direction, params)


class ProxSVRG(AbstractSVRG):
    r"""Proximal stochastic variance-reduced gradient (Xiao & Zhang, 2014), for every penalty
    with a prox.

    A step is an epoch: a full gradient, then minibatch steps that read about twice as many rows
    as there are; its last point (whose zeros are exact, unlike those of an average) is the next
    reference, unless the objective rose.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual at the reference point, in centred and scaled
        coordinates, relative to the gradient at the null model.  Default 1e-5 in float32,
        1e-8 in float64.  The predicted distance of the objective to its minimum has to
        be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of epochs.
    stepsize : float, optional
        Fixed step size in centred and scaled coordinates.  Default (None or 0): it starts at
        ``1 / (lambda + 3 t / b)``, with lambda the largest eigenvalue of the second moments of
        the rows and t their trace (the source is in :class:`SVRG`), and is multiplied
        after each epoch by where along its displacement the minimum lies, within 0.5 to 1.2.
    batch_size : int, optional
        Rows b of an inner step.  Default 32, but from n / 2048 to n / 16 of the n rows (padded
        ones included).
    seed : int, default 0
        Of the random batches: the same seed gives the same result.

    Notes
    -----
    Xiao & Zhang, A proximal stochastic gradient method with progressive variance reduction,
    SIAM J. Optim. 24 (2014).

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Lasso(0.1))
    >>> result = glmcore.fit(model, X, y, solver=glmcore.ProxSVRG(batch_size=2))
    >>> glmcore.status_name(result.status)
    'converged'
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    stepsize: Any = eqx.field(default=None, converter=as_stepsize)
    batch_size: int | None = eqx.field(default=None, static=True, converter=as_batch_size)
    seed: Any = eqx.field(default=0, converter=as_int)
    needs_smooth = False

    def metric(self, problem: DenseProblem, eta: Float[Array, "C n"]) -> Metric:
        return Metric()  # the prox has a closed form for no other

    def widest(self, problem: DenseProblem) -> int:
        return _BATCH

    def move(
        self, problem: DenseProblem, state: SVRGState, params: GLMParams, gradient: GLMParams
    ) -> GLMParams:
        moved = tree_axpy(-state.stepsize, gradient, params)
        return GLMParams(problem.prox(moved.coef, state.stepsize), moved.intercept)
