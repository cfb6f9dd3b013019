"""The compiled programs behind ``fit`` and ``update``, made of the same pieces.

One jit boundary a public verb; a fit with a callback has the loop on the host and the same pieces
behind three.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from glmcore.coordinates import Coordinates
from glmcore.dense import DenseProblem
from glmcore.host_loop import HostLoop, Listeners
from glmcore.identity import Identity
from glmcore.jit import quick_jit
from glmcore.least_norm import least_norm_params, levelled_params, recedes
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized, penalises_all
from glmcore.problem import Look, Problem
from glmcore.results import FitResult, HeldOut, SolverState
from glmcore.rows import row_shares
from glmcore.solvers.base import AbstractSolver, Standing
from glmcore.status import Status
from glmcore.tree import all_finite, tree_norm, tree_where, where_needed

#: Share of tol that bounds the predicted relative distance of the objective to its minimum.
_GAP_PER_TOL = 0.01
#: The same of what rounding the intercept adds to the objective.
_HARM_PER_TOL = 0.1


class Task(eqx.Module):
    """What stays as it is while a fit runs."""

    problem: Problem
    solver: AbstractSolver
    yardstick: Float[Array, ""]
    #: False where a penalty is known to bound the coefficients: a smaller program.
    may_be_separable: bool = eqx.field(default=True, static=True)
    #: Whether to spend a few factorisations on whether the data are quasi-separable.
    looks_closer: bool = eqx.field(default=True, static=True)

    @property
    def tol(self) -> Float[Array, ""]:
        """The tolerance, but not below the rounding level of the dtype."""
        dtype = self.problem.weight.dtype
        return jnp.maximum(self.solver.tol, 4 * jnp.finfo(dtype).eps)

    def arrived(self, progress: Standing) -> Bool[Array, ""]:
        """Whether residual and predicted gap are within the tolerance."""
        near = progress.gap <= _GAP_PER_TOL * self.tol * self._size(progress, 0.75)
        near = near | (progress.optimality == 0)  # where nothing bends the gap may be NaN
        return (progress.optimality <= self.tol * self.yardstick) & near

    def status(self, run: "Run") -> Status:
        """Why the run ends here, or ``running``."""
        progress = run.cache.progress
        finite = jnp.isfinite(progress.objective) & jnp.isfinite(progress.optimality)
        status = Status.running
        for condition, reason in (
            (run.n_iter >= self.solver.maxiter, Status.out_of_steps),
            (progress.stalled, Status.stalled),
            (self.arrived(progress), Status.converged),
            (self._vanished(progress), Status.separable),
            (~finite, Status.nonfinite),
            (run.n_iter < 0, Status.running),
        ):
            status = Status.where(condition, reason, status)
        return status

    def final_status(self, run: "Run", user: GLMParams, cut: Float[Array, " K"]) -> Status:
        """:meth:`status`, and what only the answer itself can tell: the ``user``'s parameters,
        and what was ``cut`` off their intercept."""
        status, problem = self.status(run), self.problem
        # The loss bends by at most 1/2 in the linear predictor.
        harm = jnp.sum(jnp.square(cut)) / 4
        unheld = (harm > _HARM_PER_TOL * self.tol * self._size(run.cache.progress, 0.5)) & self._has_classes
        converged = status == Status.converged
        status = Status.where(converged & unheld, Status.far_from_zero, status)
        # A bound on the residual had arrived and the residual itself has not, by its rounding.
        status = Status.where(status == Status.running, Status.stalled, status)
        if self.may_be_separable:
            # What a penalty holds is no part of a direction without end, and the intercept is free.
            free = GLMParams(problem.unheld(run.params.coef), run.params.intercept)
            needed = jnp.any(free.coef != 0) & self._has_classes
            separable = where_needed(needed, self._no_maximum, problem, free)
            status = Status.where(separable, Status.separable, status)
        status = Status.where(all_finite(user), status, Status.nonfinite)
        left_out = (status == Status.converged) & ~jnp.all(problem.present)
        return Status.where(left_out, Status.missing_class, status)

    def _no_maximum(self, problem: Problem, params: GLMParams) -> Bool[Array, ""]:
        found = problem.separable(params)
        if self.looks_closer and isinstance(problem.penalty, UnRegularized):
            found |= recedes(problem, params)
        return found

    def _size(self, progress: Standing, power: float) -> Float[Array, ""]:
        """The objective that differences are compared with: below a power of the rounding of a
        log-likelihood near one there are none to speak of."""
        least = jnp.finfo(progress.objective.dtype).eps ** power
        return jnp.maximum(jnp.abs(progress.objective), least)

    def _vanished(self, progress: Standing) -> Bool[Array, ""]:
        # A likelihood of one and no penalty, to rounding: no finite coefficients have it.
        if not self.may_be_separable:
            return jnp.zeros((), bool)
        vanished = jnp.abs(progress.objective) < jnp.finfo(progress.objective.dtype).eps
        fitted = self.problem.masked(jnp.ones_like(self.problem.coordinates.scale))
        return vanished & jnp.any(self.problem.unheld(fitted) != 0) & self._has_classes

    @property
    def _has_classes(self) -> Bool[Array, ""]:
        """Whether there is anything to tell apart: the likelihood of a single class is one."""
        return jnp.sum(self.problem.present) > 1


class Run(eqx.Module):
    """What moves from step to step; -1 of them are done where the first one goes nowhere."""

    params: GLMParams
    state: Any
    cache: Any
    n_iter: Int[Array, ""]

    @classmethod
    def of(cls, problem: Problem, params: GLMParams, look: Look, state: Any, solver: Any) -> "Run":
        """At ``params``, at which ``look`` is, before the first step."""
        blank = solver.blank(problem, params, look)
        if blank is not None:
            return cls(params, state, blank, jnp.full((), -1, jnp.int32))
        cache = solver.evaluate(problem, params, look, state)
        return cls(params, state, cache, jnp.zeros((), jnp.int32))


def start(
    problem: Problem,
    init_params: Optional[GLMParams],
    solver: AbstractSolver,
    may_be_separable: bool = True,
) -> tuple[Task, Run]:
    """The fit before its first step."""
    params = starting_params(problem, init_params)
    eta = problem.null_predictor() if init_params is None else problem.predictor(params)
    look = problem.look(eta)
    if init_params is None:
        null = tree_norm(look.gradient)
    elif isinstance(problem, DenseProblem):
        null_look = problem.look(problem.null_predictor())
        null = tree_norm(null_look.gradient)
        params, look = _no_worse_than_null(problem, params, look, null_look)
    else:
        null = problem.null_optimality()
    state = solver.begin(problem, params, look.eta)
    task = Task(problem, solver, problem.yardstick(null, solver.tol), may_be_separable)
    return task, Run.of(problem, params, look, state, solver)


def _no_worse_than_null(
    problem: Problem, params: GLMParams, look: Look, null_look: Look
) -> tuple[GLMParams, Look]:
    """The null model if its objective is smaller: far from the optimum, where all probabilities
    are zero or one, hardly anything bends and no solver gets far."""
    null = problem.null_params()
    objective, null_objective = (
        seen.loss + problem.penalty_value(at.coef) for seen, at in ((look, params), (null_look, null))
    )
    return tree_where(null_objective < objective, (null, null_look), (params, look))


def starting_params(problem: Problem, init_params: Optional[GLMParams]) -> GLMParams:
    """The null model, or the user's parameters in the coordinates of ``problem``."""
    if init_params is None:
        return problem.null_params()
    params = problem.start(problem.coordinates.from_user(init_params))
    if not problem.shift_invariant:
        return params
    # A level far from zero would cost digits.
    level = jnp.mean(params.intercept, where=problem.present)
    return GLMParams(problem.level(params.coef), params.intercept - level)


def advance(task: Task, run: Run, until: Int[Array, ""], begins: Any = True) -> Run:
    """Steps until the fit ends or ``until`` of them are done; with the refresh before them, if the solver has one,
    where it ``begins``."""
    solver, problem = task.solver, task.problem

    def step(run: Run) -> Run:
        moved = solver.step(problem, run.params, run.state, run.cache)
        return Run(*moved, run.n_iter + jnp.where(_is_anchored(run), 0, 1))

    def is_running(run: Run) -> Bool[Array, ""]:
        return task.status(run) == Status.running

    def under_way(run: Run) -> Bool[Array, ""]:
        return (is_running(run) & (run.n_iter < until)) | _is_anchored(run)

    def refreshed(run: Run) -> Run:
        return Run(run.params, *refresh.anew(run.state, run.cache), jnp.maximum(run.n_iter, 0))

    def is_worth(run: Run) -> Bool[Array, ""]:
        return is_running(run) & ~_is_anchored(run) & (begins | (run.n_iter >= 0))

    refresh = solver.refresh(problem)
    if refresh is None:
        stretch = partial(jax.lax.while_loop, under_way, step)
    else:
        stretch = partial(refresh.stretch, lambda run: run.n_iter, under_way, step, is_worth, refreshed)
    if not solver.carries_predictor or problem.predicts_exactly:
        return stretch(run) if refresh is None else jax.lax.while_loop(under_way, stretch, run)

    def anchored(run: Run) -> Run:
        cache = solver.anchored(problem, run.params, run.cache)
        return eqx.tree_at(lambda r: r.cache, run, cache)

    def and_sure(run: Run) -> Run:
        run = stretch(run)
        return jax.lax.cond(_is_doubtful(task, run), anchored, lambda run: run, run)

    return jax.lax.while_loop(lambda run: under_way(run) | _is_doubtful(task, run), and_sure, run)


def _is_doubtful(task: Task, run: Run) -> Bool[Array, ""]:
    """Whether the end is not to be believed before the predictor is computed anew."""
    progress = run.cache.progress
    over = task.arrived(progress) | progress.stalled | (run.n_iter >= task.solver.maxiter)
    return over & task.solver.drifted(run.cache)


def _is_anchored(run: Run) -> Bool[Array, ""]:
    optimality = run.cache.progress.optimality
    return optimality == jnp.finfo(optimality.dtype).max


def finish(task: Task, run: Run) -> FitResult:
    """What a fit that ends here returns."""
    progress = task.solver.finish(task.problem, run.params, run.cache)
    return conclude(task, eqx.tree_at(lambda r: r.cache.progress, run, progress))


def conclude(task: Task, run: Run) -> FitResult:
    """The result of a run whose residual is exact."""
    params, cut = least_norm_params(task.problem, run.params)
    status = task.final_status(run, params, cut)
    state = _solver_state(task, run, HeldOut.nothing(run.cache.progress.objective.dtype))
    return FitResult(
        params=params,
        state=state,
        status=status,
        n_iter=run.n_iter,
        objective=state.objective,
        optimality=state.optimality,
    )


def _solver_state(task: Task, run: Run, held_out: HeldOut) -> SolverState:
    progress = run.cache.progress
    return SolverState(
        coordinates=task.problem.coordinates,
        solver=run.state,
        n_iter=run.n_iter,
        objective=progress.objective,
        optimality=progress.optimality / task.yardstick,
        yardstick=task.yardstick,
        held_out=held_out,
        algorithm=type(task.solver).__name__,
    )


def make_problem(model, X, y, weight, moments=None, of_stream: bool = False) -> Problem:
    """The problem of these rows, all there are or the first ones ``of_stream``; with ``moments``
    they come from :func:`~glmcore.centring.centred_rows`."""
    n_outputs = model.observations.n_outputs
    share = row_shares(weight) if moments is None else weight
    coordinates, features = Coordinates.measure(
        X, share, model.penalty, n_outputs, model.fit_intercept, moments
    )
    if of_stream:
        coordinates = coordinates.of_stream(model.penalty)
    return DenseProblem.of(model, features, y, share, coordinates, may_lack_classes=of_stream)


def in_dtype(tree: PyTree, dtype: Any) -> PyTree:
    """Strengths and tolerances in the dtype of the data, which decides that of the result."""

    def cast(leaf):
        floating = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf).astype(dtype) if floating else leaf

    return jax.tree.map(cast, tree)


def _start(
    model, X, y, weight, moments, init_params, solver, may_be_separable: bool = True
) -> tuple[Task, Run]:
    model, solver = in_dtype((model, solver), weight.dtype)
    problem = make_problem(model, X, y, weight, moments)
    return start(problem, init_params, solver, may_be_separable)


def run_fit(model, X, y, weight, moments, init_params, solver) -> FitResult:
    """One fit, compiled: one program for all strengths but zero."""
    may_be_separable = not penalises_all(model.penalty)
    return _run_fit(model, X, y, weight, moments, init_params, solver, may_be_separable)


def fit_once(
    model, X, y, weight, moments, init_params, solver, may_be_separable: bool = True
) -> FitResult:
    """One fit from beginning to end."""
    task, run = _start(model, X, y, weight, moments, init_params, solver, may_be_separable)
    return finish(task, advance(task, run, task.solver.maxiter))


_run_fit = quick_jit(fit_once)


def advance_and_tell(
    task: Task, run: Run, until: Int[Array, ""]
) -> tuple[Run, Status, Float[Array, ""]]:
    """:func:`advance`, whether that was the end, and the optimality residual."""
    run = advance(task, run, until)
    return run, task.status(run), run.cache.progress.optimality / task.yardstick


@quick_jit
def params_so_far(task: Task, run: Run) -> GLMParams:
    """The user's parameters of a fit that is under way."""
    params, _ = levelled_params(task.problem, run.params)
    return params


_jit_start, _jit_finish = quick_jit(_start), quick_jit(finish)
_jit_advance = quick_jit(advance_and_tell)


def fit_with_callback(
    model, X, y, weight, moments, init_params, solver, listeners: Listeners, identity: Optional[Identity]
) -> FitResult:
    """The same pieces, a loop on the host between them."""
    loop = HostLoop(solver, listeners)
    task, run = _jit_start(model, X, y, weight, moments, init_params, solver)
    return loop.run(task, run, _jit_advance, _jit_finish, params_so_far, identity)


@quick_jit
def run_init_state(model, params, X, y, weight, solver) -> SolverState:
    model, solver = in_dtype((model, solver), weight.dtype)
    problem = make_problem(model, X, y, weight, of_stream=True)
    params = problem.start(problem.coordinates.from_user(params))
    eta = problem.predictor(params)
    state = solver.init(problem, params, eta)
    cache = solver.evaluate(problem, params, problem.look(eta), state)
    task = Task(problem, solver, problem.yardstick(problem.null_optimality(), solver.tol))
    run = Run(params, state, cache, jnp.zeros((), jnp.int32))
    return _solver_state(task, run, HeldOut.nothing(weight.dtype))


@quick_jit
def run_update(model, params, state, X, y, weight, solver) -> tuple[GLMParams, SolverState]:
    model, solver = in_dtype((model, solver), weight.dtype)
    coordinates = state.coordinates
    features = coordinates.features(X)
    total = jnp.sum(weight)
    problem = DenseProblem.of(
        model, features, y, weight / total, coordinates, may_lack_classes=True
    )
    inner = problem.start(coordinates.from_user(params))
    look = problem.look(problem.predictor(inner))
    cache = solver.evaluate(problem, inner, look, state.solver)
    run = Run(*solver.update(problem, inner, state.solver, cache), state.n_iter + 1)
    held_out = state.held_out.and_then(-look.loss, total)
    task = Task(problem, solver, state.yardstick)
    moved = coordinates.to_user(run.params), _solver_state(task, run, held_out)
    # One bad batch in a stream must not cost what all others have taught.
    sound = jnp.isfinite(look.loss) & all_finite(moved[0])
    stay = params, replace(state, objective=moved[1].objective, optimality=moved[1].optimality)
    return tree_where(sound, moved, stay)
