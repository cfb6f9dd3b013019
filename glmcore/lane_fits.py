"""Many fits of one shape, solved together."""

from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glmcore.coordinates import CENTRE_ROUNDINGS, Coordinates
from glmcore.factors import diagonal_of
from glmcore.lane_hessians import Whole, hessian_models, mean_weight, scaled_inverse_root
from glmcore.lanes import Design, Lane, Lanes, as_params
from glmcore.lockstep import Lockstep, PerLane, Points, descend
from glmcore.params import GLMParams
from glmcore.penalties import may_spare_some
from glmcore.problem import Problem
from glmcore.programs import Run, Task, conclude, in_dtype
from glmcore.results import FitResult
from glmcore.rows import row_shares
from glmcore.solvers.base import Standing
from glmcore.solvers.lbfgs import PreconditionedPairs
from glmcore.solvers.newton import dense_hessian
from glmcore.solvers.refresh import Refresh
from glmcore.solvers.row_space import has_few_rows

#: Share of the second moment around a shared centre below which a variance is in doubt.
_LEAST_SHARE = 1e-2
#: Steps that have to be left for each column of the design, at the pace so far, for new Gram matrices
#: of lanes with features of their own, which take about half as long as so many steps; and the pace
#: below which, or where a residual has grown, a lane counts as far.
_STEPS_A_COLUMN, _LEAST_PACE = 0.4, 1e-3
#: What the gap is multiplied by that is predicted from an inverse Hessian that all lanes share.
_CAUTION = 4


class Common(NamedTuple):
    """What all lanes share if they share the features: the design and its coordinates, and where
    nothing but weights differs also the start, the inverse Hessian there, and the root of a model
    of it."""

    design: Design
    coordinates: Coordinates
    start: Optional[Float[Array, "K p1"]] = None
    inverse: Optional[Float[Array, "d d"]] = None
    root: Optional[Float[Array, "blocks p1 p1"]] = None
    scale: Optional[Float[Array, "p1 K"]] = None


def prepare(args, batched, nearby: Optional[GLMParams]) -> Common:
    """What lanes share that share their features; ``nearby`` is the minimum at the mean of their
    weights, if these are all that they differ in."""
    model = in_dtype(args.model, args.weight.dtype)
    weight = mean_weight(args.weight)
    coordinates, features = Coordinates.measure(
        args.X, weight, model.penalty, model.observations.n_outputs, model.fit_intercept
    )
    common = Common(Design.of(features, model.fit_intercept), coordinates)
    if nearby is None:
        return common
    return _around(args._replace(weight=weight[None], init_params=nearby), batched, common)


def _around(args, batched, common: Common) -> Common:
    """With what all lanes share whose minimum is near that of ``args``."""
    solver = jax.tree.map(lambda leaf, own: leaf[0] if own else leaf, args.solver, batched.solver)
    flags = jax.tree.map(lambda _: False, batched)._replace(weight=True, init_params=None)
    lanes, _ = _lanes(args._replace(solver=solver), flags, 1, common)
    start = lanes.start()

    def inverse(_, problem: Problem, point):
        hessian = dense_hessian(problem, problem.predictor(as_params(point)))
        jitter = jnp.diag(diagonal_of(hessian)) * len(hessian) * jnp.finfo(hessian.dtype).eps
        root = scaled_inverse_root(hessian + jitter)
        return root.T @ root

    model, _ = hessian_models(lanes, start, is_null=False)
    return common._replace(start=start[0], inverse=lanes.each(inverse, start)[0], root=model.root, scale=model.scale)


def fit_chunk(args, batched, size: int, common: Optional[Common]) -> tuple[FitResult, Any]:
    """Results of ``size`` lanes, and which of them are good: the others have trouble of some
    kind and are for the single fit to judge.  A root that all lanes share is not among them, see
    :func:`with_root`."""
    lanes, measured = _lanes(args, batched, size, common)
    start, is_near = lanes.start(), common is not None and common.inverse is not None
    is_null = args.init_params is None and not is_near
    if is_near:
        present = lanes.each(lambda _, problem: problem.present.astype(start.dtype))
        if args.init_params is None:
            start = jnp.where(present[:, :, None] > 0, common.start[None], start)
        models = Whole(common.inverse, present), None
    else:
        models = hessian_models(lanes, start, is_null)
    end, found = _minimise(lanes, start, is_null, *models, _CAUTION if is_near else 1)
    root, scale = (None, common.scale) if is_near else (end.model.root, end.model.scale)
    result, held = _results(lanes, end, found, root, scale)
    in_time = end.n_iter <= lanes.lane.solver.maxiter
    return result, end.arrived & result.converged & held & measured & in_time


def root_of(result: FitResult) -> Any:
    """The root in the states of an L-BFGS."""
    state = result.state.solver
    return state.preconditioner.root if isinstance(state, PreconditionedPairs) else None


def with_root(result: FitResult, root: Any, size: Optional[int]) -> FitResult:
    """With the ``root`` that all lanes share in the states of an L-BFGS that lack it, once for each of
    ``size`` lanes, or without an axis of lanes."""
    solver = result.state.solver
    if not isinstance(solver, PreconditionedPairs) or root_of(result) is not None:
        return result
    if solver.preconditioner.diagonal is not None:  # single fits have no root either
        return result
    if size is not None:
        root = jnp.broadcast_to(root, (size, *root.shape))
    return eqx.tree_at(lambda r: r.state.solver.preconditioner.root, result, root, is_leaf=lambda x: x is None)


class Found(NamedTuple):
    """Where a lane, or all of them, got to."""

    objective: Any
    optimality: Any
    gap: Any
    yardstick: Any

    @property
    def progress(self) -> Standing:
        return Standing(self.objective, self.optimality, self.gap, jnp.zeros((), bool))


def _minimise(
    lanes: Lanes, start: Points, is_null: bool, model: Any, refresh: Optional[Refresh], caution: int
) -> tuple[Lockstep, Found]:
    """All lanes at their minimum, but for those that have trouble on the way; ``is_null`` says
    that ``start`` is the null model, where the objective is known, ``caution`` how many times farther
    from the minimum than the directions tell the objective is taken to be."""
    at_null = lanes.loss(lanes.null_predictor())
    null = lanes.residual(at_null[1])
    yard = lanes.each(lambda lane, problem, norm: problem.yardstick(norm, lane.solver.tol), null)

    def gap_of(slope: PerLane) -> PerLane:
        # On a quadratic with the inverse Hessian behind a direction, half its slope is the gap.
        return -slope / 2 * caution

    def arrived(objective, gradient, slope):
        def one(lane: Lane, problem: Problem, found: Found):
            return Task(problem, lane.solver, found.yardstick).arrived(found.progress)

        return lanes.each(one, Found(objective, lanes.residual(gradient), gap_of(slope), yard))

    def is_far(at: Lockstep) -> Bool[Array, ""]:
        def left(lane: Lane, problem: Problem, null, residual, n_iter, yardstick):
            pace = jnp.log(null / residual) / n_iter
            return jnp.log(residual / (lane.solver.tol * yardstick)) / jnp.maximum(pace, _LEAST_PACE)

        if lanes.design.axis is None or not is_null:  # one Gram matrix serves all, or the pace is not known
            return jnp.array(True)
        steps = lanes.each(left, null, lanes.residual(at.gradient), at.n_iter, yard)
        counts = at.under_way & jnp.isfinite(steps)
        return jnp.mean(steps, where=counts) > _STEPS_A_COLUMN * start.shape[-1]

    at_start = lanes.penalised(start, *at_null) if is_null else None
    end = descend(lanes.objective, model, refresh, is_far, arrived, start, at_start)
    return end, Found(end.objective, lanes.residual(end.gradient), gap_of(end.slope), yard)


def _results(
    lanes: Lanes,
    end: Lockstep,
    found: Found,
    root: Optional[Float[Array, "*L blocks p1 p1"]],
    scale: Optional[Float[Array, "*L p1 K"]],
) -> tuple[FitResult, Bool[Array, " L"]]:
    """What each lane's fit returns, with ``root`` and ``scale`` in its state, and whether a penalty holds it.  Where
    some coefficients may be free beside others the data's separability is looked into here, which
    costs all lanes as much as a step."""

    def one(lane: Lane, problem: Problem, point, n_iter, found: Found, root, scale):
        params = as_params(point)
        solver = lane.solver
        # Where a fit begins with a refresh, what it begins with is blank.
        begin = solver.begin if has_few_rows(problem) else solver.init
        state = begin(problem, params, problem.predictor(params))
        if isinstance(state, PreconditionedPairs) and state.preconditioner.root is not None:
            # A Gram matrix for each lane may cost as much as the fits: those of ``init`` are not
            # computed, since nothing reads them.
            model = eqx.tree_at(
                lambda m: (m.root, m.scale), state.preconditioner, (root, scale), is_leaf=lambda x: x is None
            )
            state = PreconditionedPairs(model, state.pairs)
        run = Run(params, state, found, n_iter)
        looks = may_spare_some(problem.penalty)
        result = conclude(Task(problem, lane.solver, found.yardstick, looks, looks_closer=False), run)
        held = jnp.array(True) if looks else jnp.all(problem.unheld(params.coef) == 0)
        if lane.own is not None:
            result = eqx.tree_at(lambda r: r.state.coordinates, result, lane.own)
        return result, held

    if root is not None:
        root = jnp.broadcast_to(root, (lanes.size, *root.shape[-3:]))
    if scale is not None:
        scale = jnp.broadcast_to(scale, (lanes.size, *scale.shape[-2:]))
    return lanes.each(one, end.points, end.n_iter, found, root, scale)


def _lanes(args, batched, size: int, common: Optional[Common]):
    """Lanes, and which of them could be measured."""
    model, solver = in_dtype((args.model, args.solver), args.weight.dtype)
    weight = row_shares(args.weight)
    axes = jax.tree.map(lambda flag: 0 if flag else None, batched)
    own, measured = None, jnp.ones(size, bool)
    if common is None:

        def measure(model, X, weight):
            n_outputs, fit_intercept = model.observations.n_outputs, model.fit_intercept
            return Coordinates.measure(
                X, weight, model.penalty, n_outputs, fit_intercept, in_lanes=True
            )

        # To each its weights: products of features with weights that all share are many times slower.
        own_weight = jnp.broadcast_to(weight, (size, weight.shape[-1]))
        coordinates, features = jax.vmap(measure, (axes.model, axes.X, 0))(model, args.X, own_weight)
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
