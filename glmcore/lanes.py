"""Many fits of one shape, solved together.

What differs between the fits has a leading axis of lanes, what they share has none; features
that they share are multiplied by the coefficients of all lanes in one product.
"""

from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glmcore.coordinates import CENTRE_ROUNDINGS, Coordinates
from glmcore.dense import DenseProblem
from glmcore.factors import cholesky, diagonal_of, inverse_lower
from glmcore.lockstep import Lockstep, PerLane, Points, Refresh, descend
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized
from glmcore.problem import Problem
from glmcore.programs import Run, Task, conclude, in_dtype, starting_params
from glmcore.results import FitResult
from glmcore.solvers.base import Standing
from glmcore.solvers.lbfgs import PreconditionedPairs
from glmcore.solvers.newton import dense_hessian
from glmcore.solvers.preconditioner import (
    LEAST_CURVATURE,
    affords_classes,
    gram_rows,
    level_curvature,
)

#: Parameters up to which fits that differ in weights only share a factor of the Hessian, and
#: lanes from which it pays.
_DENSE_PARAMS = 1024
_DENSE_LANES = 8
#: Steps after which the models of the Hessians are first made anew: of lanes that share theirs and
#: begin far from their end, and of those that do not, or for which it costs as much as many steps.
_FIRST_REFRESH = 5
_LATE_REFRESH = 9
#: Share of the second moment around a shared centre below which a variance is in doubt.
_LEAST_SHARE = 1e-2


class Lane(NamedTuple):
    """One fit but for its features: its problem in the coordinates in which it is solved, and
    the coordinates in which its residual is measured (None: the same)."""

    model: Any
    solver: Any
    init_params: Any
    y: Any
    weight: Any
    present: Any
    coordinates: Any
    own: Any

    def problem(self, features: Float[Array, "n p"]) -> Problem:
        rows = (features, self.y, self.weight, self.present)
        return DenseProblem.assembled(self.model, *rows, self.coordinates)


class Design(eqx.Module):
    """Centred features and the intercept's column, row by row and column by column: each
    product has the layout in which it is fastest."""

    rows: Float[Array, "*L n p1"]
    columns: Float[Array, "*L p1 n"]

    @classmethod
    def of(cls, features: Float[Array, "*L n p"], fit_intercept: bool) -> "Design":
        ones = jnp.full_like(features[..., :1], fit_intercept)
        rows = jnp.concatenate([features, ones], axis=-1)
        return cls(rows, jnp.swapaxes(rows, -1, -2))

    @property
    def axis(self) -> Optional[int]:
        """The axis of lanes, if every lane has features of its own."""
        return 0 if self.rows.ndim == 3 else None

    def forward(self, points: Points) -> Float[Array, "L K n"]:
        product = "lkp,pn->lkn" if self.axis is None else "lkp,lpn->lkn"
        return jnp.einsum(product, points, self.columns)

    def back(self, residual: Float[Array, "L K n"]) -> Points:
        product = "lkn,np->lkp" if self.axis is None else "lkn,lnp->lkp"
        return jnp.einsum(product, residual, self.rows)

    def gram(self, weight: Float[Array, "*L B n"]) -> Float[Array, "*L B p1 p1"]:
        """Gram matrices of rows so weighted, from every so-manieth of many rows."""
        stride = -(-weight.shape[-1] // gram_rows(self.rows.shape[-1]))
        weighted = weight[..., None, ::stride] * self.columns[..., None, :, ::stride]
        return jnp.einsum("...bpn,...nq->...bpq", weighted, self.rows[..., ::stride, :])


class Blocks(eqx.Module):
    """The inverse of a model of the Hessian of each lane, see
    :class:`~glmcore.solvers.preconditioner.Preconditioner`, with a block a class, of which
    ``root`` is that of a Cholesky factor."""

    inverse: Float[Array, "*L K p1 p1"]
    root: Float[Array, "*L K p1 p1"]
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
    """An inverse Hessian for all lanes; ``root`` is that of a model of it."""

    inverse: Float[Array, "d d"]
    root: Float[Array, "K p1 p1"]
    present: Float[Array, "L K"]

    def apply(self, gradient: Points) -> Points:
        flat = gradient.reshape(gradient.shape[0], -1) @ self.inverse
        return flat.reshape(gradient.shape) * self.present[:, :, None]


class Common(NamedTuple):
    """What all lanes share if they share the features: the design and its coordinates, and where
    nothing but weights differs also the start and the inverse Hessian there."""

    design: Design
    coordinates: Coordinates
    start: Optional[Float[Array, "K p1"]] = None
    inverse: Optional[Float[Array, "d d"]] = None
    root: Optional[Float[Array, "K p1 p1"]] = None


class Lanes(eqx.Module):
    """Problems side by side; ``axes`` says, as ``in_axes`` of a vmap, what differs."""

    lane: Lane
    axes: Lane = eqx.field(static=True)
    design: Design
    size: int = eqx.field(static=True)

    def each(self, function, *args: Any) -> Any:
        """``function(lane, problem, *args)`` of every lane."""

        def one(lane: Lane, rows, *args):
            return function(lane, lane.problem(rows[:, :-1]), *args)

        in_axes = (self.axes, self.design.axis, *[0] * len(args))
        each = jax.vmap(one, in_axes, axis_size=self.size)
        return each(self.lane, self.design.rows, *args)

    @property
    def alike(self) -> bool:
        """Whether all share the features and the model, and with them that of their Hessians."""
        return self.design.axis is None and not any(jax.tree.leaves(self.axes.model))

    @property
    def stretch(self) -> Points:
        """Factor from inner coordinates to columns of the design."""
        return self.each(lambda _, problem: _point(problem.stretch, 1))

    def predictor(self, points: Points) -> Float[Array, "L K n"]:
        return self.design.forward(points * self.stretch)

    def null_predictor(self) -> Float[Array, "L K n"]:
        """The linear predictor of :meth:`null`, without a product."""
        return self.each(lambda _, problem: problem.null_predictor())

    def loss(self, eta: Float[Array, "L K n"]) -> tuple[PerLane, Points]:
        """The loss and its gradient in the points."""
        loss, residual = self.each(lambda _, problem, eta: problem.loss_and_residual(eta), eta)
        return loss, self.design.back(residual) * self.stretch

    def objective(self, points: Points) -> tuple[PerLane, Points]:
        """The objective and its gradient."""
        return self.penalised(points, *self.loss(self.predictor(points)))

    def penalised(self, points: Points, loss: PerLane, gradient: Points) -> tuple[PerLane, Points]:
        """The objective and its gradient where ``loss`` and its ``gradient`` are known."""

        def penalty(_, problem: Problem, point):
            value, slope = jax.value_and_grad(problem.penalty_value)(_params(point).coef)
            return value, _point(slope, 0)

        value, slope = self.each(penalty, points)
        return loss + value, gradient + slope

    def residual(self, gradient: Points) -> PerLane:
        """Norm of a gradient in each lane's own coordinates."""

        def one(lane: Lane, problem: Problem, gradient):
            if lane.own is not None:
                here, own = lane.coordinates, lane.own
                shift = (own.centre - here.centre)[None, :] * gradient[:, -1:]
                coef = (gradient[:, :-1] / here.scale.T - shift) * own.scale.T
                gradient = _point(problem.masked(coef.T), gradient[:, -1])
            return jnp.sqrt(jnp.sum(jnp.square(gradient)))

        return self.each(one, gradient)

    def start(self) -> Points:
        def one(lane: Lane, problem: Problem):
            return _point(*starting_params(problem, lane.init_params))

        return self.each(one)

    def null(self) -> Points:
        return self.each(lambda _, problem: _point(*problem.null_params()))

    def models(self, start: Points, is_null: bool) -> tuple["Blocks", Refresh]:
        """The models of the Hessians at ``start``, and when they are made anew."""
        own = self.design.axis is not None
        first = _FIRST_REFRESH if is_null and self.alike else _LATE_REFRESH
        eta = self.null_predictor() if is_null else self.predictor(start)

        def anew(points: Points) -> "Blocks":
            return self.blocks(self.predictor(points), shared=False)

        return self.blocks(eta, shared=own and is_null), Refresh(anew, first)

    def blocks(self, eta: Float[Array, "L K n"], shared: bool) -> "Blocks":
        """The model of the Hessians at ``eta``, with a block a class or one that all share.

        Lanes that share the features share the mean of their Gram matrices, each with its own
        penalty and total curvature; lanes of one model share the blocks themselves.
        """
        K = self.lane.present.shape[-1]

        def bends(_, problem: Problem, eta):
            bend = jnp.maximum(problem.class_curvature(eta, problem.y), 0)
            return problem.weight[None, :] * bend * (K / max(K - 1, 1))

        def parts(_, problem: Problem, weight):
            quadratic = _point(problem.curvature()[1], 1 - problem.fit_intercept)
            loss = jnp.sum(weight, axis=1)
            level, along = level_curvature(problem, quadratic.T, jnp.mean(loss), shared)
            # Where a class is all but certain, or left out, hardly anything bends.
            loss = jnp.maximum(loss, LEAST_CURVATURE * jnp.mean(loss))
            return loss, _point(problem.stretch, 1), quadratic, level.T, along

        weight = self.each(bends, eta)
        loss, stretch, penalty, level, along = self.each(parts, weight)
        if shared:
            weight, loss, penalty = (jnp.mean(x, axis=1, keepdims=True) for x in (weight, loss, penalty))
            stretch = jnp.max(stretch, axis=1, keepdims=True)
        if self.design.axis is None:
            finite = jnp.all(jnp.isfinite(weight), axis=(1, 2))
            weight = _mean_lane(weight, finite)
            if self.alike:
                loss = _mean_lane(loss, finite)
                stretch, penalty = stretch[0], penalty[0]
        gram = self.design.gram(weight) / jnp.sum(weight, axis=-1)[..., None, None]
        if gram.ndim == loss.ndim + 1:
            gram = gram[None]
        p1 = penalty.shape[-1]
        loss = loss[..., None, None]
        ridge = penalty[..., None] + loss * p1 * 10 * jnp.finfo(loss.dtype).eps
        eye = jnp.eye(p1, dtype=loss.dtype).reshape(*[1] * (loss.ndim - 2), p1, p1)
        bent = loss * stretch[..., None] * gram * stretch[..., None, :] + ridge * eye
        root = jax.vmap(_inverse_root)(bent.reshape(-1, p1, p1)).reshape(bent.shape)
        inverse, root = (
            jnp.broadcast_to(x, (*x.shape[:-3], K, p1, p1)) for x in (root.mT @ root, root)
        )
        mask = None
        if self.lane.model.mask is not None:
            mask = self.each(lambda _, problem: _point(problem.masked(1 + 0 * problem.stretch), 1) > 0)
        return Blocks(inverse, root, level, along, mask)

    def minimise(
        self, start: Points, is_null: bool, model: Any, refresh: Optional[Refresh]
    ) -> tuple[Lockstep, "Found"]:
        """All lanes at their minimum, but for those that have trouble on the way; ``is_null`` says
        that ``start`` is :meth:`null`, where the objective is known."""
        at_null = self.loss(self.null_predictor())
        null = self.residual(at_null[1])
        yard = self.each(lambda lane, problem, norm: problem.yardstick(norm, lane.solver.tol), null)

        def arrived(objective, gradient, gap):
            def one(lane: Lane, problem: Problem, found: Found):
                return Task(problem, lane.solver, found.yardstick).arrived(found.progress)

            return self.each(one, Found(objective, self.residual(gradient), gap, yard))

        at_start = self.penalised(start, *at_null) if is_null else None
        end = descend(self.objective, model, refresh, arrived, start, at_start)
        return end, Found(end.objective, self.residual(end.gradient), -end.slope / 2, yard)

    @property
    def free(self) -> bool:
        """Whether nothing at all is penalised."""
        return isinstance(self.lane.model.penalty, UnRegularized)

    def unheld(self, points: Points) -> Bool[Array, " L"]:
        """Which lanes have coefficients that no penalty holds, so that data may be separable."""

        def one(_, problem: Problem, point):
            coef = _params(point).coef
            return (problem.penalty_value(coef) == 0) & jnp.any(coef != 0)

        return self.each(one, points)

    def results(self, end: Lockstep, found: "Found") -> FitResult:
        """What each lane's fit returns; only where all are ``free`` is the data's separability
        looked into, which costs all lanes as much as a step."""

        def one(lane: Lane, problem: Problem, point, n_iter, found: Found, root):
            params = _params(point)
            state = lane.solver.init(problem, params, problem.predictor(params))
            if isinstance(state, PreconditionedPairs) and affords_classes(problem):
                # A Gram matrix for each lane may cost as much as the fits.
                state = eqx.tree_at(lambda s: s.preconditioner.root, state, root)
            run = Run(params, state, found, n_iter)
            task = Task(problem, lane.solver, found.yardstick, self.free, looks_closer=False)
            result = conclude(task, run)
            if lane.own is None:
                return result
            return eqx.tree_at(lambda r: r.state.coordinates, result, lane.own)

        root = jnp.broadcast_to(end.model.root, (self.size, *end.model.root.shape[-3:]))
        return self.each(one, end.points, end.n_iter, found, root)


class Found(NamedTuple):
    """Where a lane, or all of them, got to."""

    objective: Any
    optimality: Any
    gap: Any
    yardstick: Any

    @property
    def progress(self) -> Standing:
        return Standing(self.objective, self.optimality, self.gap, jnp.zeros((), bool))


def prepare(args, batched, size: int) -> Optional[Common]:
    """What lanes share, None if each has features of its own."""
    if any(jax.tree.leaves(batched.X)):
        return None
    model = in_dtype(args.model, args.weight.dtype)
    weight = args.weight / jnp.sum(args.weight, axis=-1, keepdims=True)
    if batched.weight:  # lanes whose weights are not finite are for themselves
        weight = _mean_lane(weight, jnp.all(jnp.isfinite(weight), axis=1))
    coordinates, features = Coordinates.measure(
        args.X, weight, model.penalty, model.observations.n_outputs, model.fit_intercept
    )
    design = Design.of(features, model.fit_intercept)
    common = Common(design, coordinates)
    n_params = coordinates.scale.size + coordinates.scale.shape[1]
    alike = not any(jax.tree.leaves((batched.model, batched.y)))
    if not alike or n_params > _DENSE_PARAMS or size < _DENSE_LANES:
        return common
    return _at_mean_weight(args._replace(weight=weight[None]), batched, common)


def _at_mean_weight(args, batched, common: Common) -> Common:
    """With the minimum at the mean of all lanes' weights: theirs is close by."""
    flags = jax.tree.map(lambda _: False, batched)._replace(weight=True)
    lanes, _ = _lanes(args, flags, 1, common)
    null = lanes.null()
    end, _ = lanes.minimise(null, True, *lanes.models(null, True))

    def inverse(_, problem: Problem, point):
        hessian = dense_hessian(problem, problem.predictor(_params(point)))
        jitter = jnp.diag(diagonal_of(hessian)) * len(hessian) * jnp.finfo(hessian.dtype).eps
        root = _inverse_root(hessian + jitter)
        return root.T @ root

    inverse = lanes.each(inverse, end.points)[0]
    return common._replace(start=end.points[0], inverse=inverse, root=end.model.root)


def fit_chunk(args, batched, size: int, common: Optional[Common]) -> tuple[FitResult, Any]:
    """Results of ``size`` lanes, and which of them are good: the others have trouble of some
    kind and are for the single fit to judge."""
    lanes, measured = _lanes(args, batched, size, common)
    start, is_near = lanes.start(), common is not None and common.inverse is not None
    is_null = args.init_params is None and not is_near
    if is_near:
        present = lanes.each(lambda _, problem: problem.present.astype(start.dtype))
        if args.init_params is None:
            start = jnp.where(present[:, :, None] > 0, common.start[None], start)
        models = Whole(common.inverse, common.root, present), None
    else:
        models = lanes.models(start, is_null)
    end, found = lanes.minimise(start, is_null, *models)
    result = lanes.results(end, found)
    in_time = end.n_iter <= lanes.lane.solver.maxiter
    good = end.arrived & result.converged & measured & in_time
    return result, good if lanes.free else good & ~lanes.unheld(end.points)


def _lanes(args, batched, size: int, common: Optional[Common]):
    """Lanes, and which of them could be measured."""
    model, solver = in_dtype((args.model, args.solver), args.weight.dtype)
    weight = args.weight / jnp.sum(args.weight, axis=-1, keepdims=True)
    axes = jax.tree.map(lambda flag: 0 if flag else None, batched)
    own, measured = None, jnp.ones(size, bool)
    if common is None:

        def measure(model, X, weight):
            n_outputs, fit_intercept = model.observations.n_outputs, model.fit_intercept
            return Coordinates.measure(
                X, weight, model.penalty, n_outputs, fit_intercept, in_lanes=True
            )

        own_axes = (axes.model, axes.X, axes.weight)
        coordinates, features = jax.vmap(measure, own_axes)(model, args.X, weight)
        design = Design.of(features, model.fit_intercept)
    else:
        design, coordinates = common.design, common.coordinates
        if batched.weight:
            own, measured = _own_coordinates(common, weight, model, axes)

    def frequencies(y, weight):
        return model.observations.frequencies(y, weight) > 0

    if batched.y or batched.weight:
        present = jax.vmap(frequencies, (axes.y, axes.weight))(args.y, weight)
    else:
        present = frequencies(args.y, weight)
    lane = Lane(
        model, solver, args.init_params, args.y.astype(jnp.int32), weight, present, coordinates, own
    )
    lane_axes = Lane(
        model=axes.model,
        solver=axes.solver,
        init_params=axes.init_params,
        y=axes.y,
        weight=axes.weight,
        present=0 if present.ndim == 2 else None,
        coordinates=0 if common is None else None,
        own=None if own is None else 0,
    )
    return Lanes(lane, lane_axes, design, size), measured


def _own_coordinates(common: Common, weight: Float[Array, "L n"], model, axes):
    """Coordinates of lanes that weigh shared features, and whether they can be measured so:
    variances around a centre that is far from a lane's own are lost in rounding."""
    design, here = common.design, common.coordinates
    rows, used = design.rows[:, :-1], (weight > 0).astype(weight.dtype)
    offset = weight @ rows * model.fit_intercept
    second = weight @ jnp.square(rows)
    variance = second - jnp.square(offset)
    low, high = jnp.min(rows, axis=0), jnp.max(rows, axis=0)
    # Whether all rows that are used hold the lowest (highest) value: exact counts, by products.
    above, below = (rows > low[None, :]), (rows < high[None, :])
    constant = (used @ above.astype(rows.dtype) == 0) | (used @ below.astype(rows.dtype) == 0)
    noise = jnp.square(CENTRE_ROUNDINGS * jnp.finfo(rows.dtype).eps * here.centre)[None, :]
    sure = variance > jnp.maximum(second * _LEAST_SHARE, noise)
    deviation = jnp.where(constant, 0, jnp.sqrt(jnp.where(sure, variance, 1)))

    def one(offset, deviation, model):
        return Coordinates.of(
            here.centre + offset, deviation, model.penalty, here.scale.shape[1],
            here.structure, here.widths,
        )

    own = jax.vmap(one, (0, 0, axes.model))(offset, deviation, model)
    return own, jnp.all(sure | constant, axis=1)


def _mean_lane(values: Float[Array, "L *shape"], finite: Bool[Array, " L"]) -> Float[Array, "*shape"]:
    """Mean of the lanes that are ``finite``: a product, as the sum over the first axis of a large
    array is slow."""
    used = finite.astype(values.dtype)
    kept = jnp.where(jnp.expand_dims(finite, tuple(range(1, values.ndim))), values, 0)
    return jnp.tensordot(used / jnp.sum(used), kept, axes=1)


def _inverse_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Inverse of a Cholesky factor of a positive definite matrix, NaN if it is not."""
    length = jnp.sqrt(diagonal_of(matrix))
    # With a unit diagonal the rounding of the largest entries does not hide the smallest.
    factor = cholesky(matrix / (length[:, None] * length[None, :]))
    return inverse_lower(factor) / length[None, :]


def _point(coef: Float[Array, "p K"], intercept: Any) -> Float[Array, "K p1"]:
    """Class by class, the intercept (or what stands in its place) last."""
    last = jnp.broadcast_to(jnp.asarray(intercept, coef.dtype), coef[0].shape)
    return jnp.concatenate([coef.T, last[:, None]], axis=1)


def _params(point: Float[Array, "K p1"]) -> GLMParams:
    return GLMParams(point[:, :-1].T, point[:, -1])
