"""``fit``, one jitted loop of solver steps, and ``update``, exactly one of them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from glmcore.checks import check_data, check_params, check_penalty, check_state
from glmcore.coordinates import Coordinates
from glmcore.least_norm import least_norm_params
from glmcore.model import GLM
from glmcore.padding import pad_rows
from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers import LBFGS, ProximalGradient
from glmcore.solvers.base import AbstractSolver, Progress, check_solver, with_default_tol
from glmcore.status import Status
from glmcore.tree import is_concrete

#: Share of tol that bounds the predicted relative distance of the objective to its minimum.
_GAP_PER_TOL = 0.01


class SolverState(eqx.Module):
    """What :func:`update` carries from batch to batch.

    Parameters
    ----------
    coordinates : Coordinates
        Centre and scale of the data that the state was initialised with, frozen.
    solver : pytree
        The solver's own state.
    n_iter : int array
        Steps taken so far.
    objective, optimality : float array
        Objective after the last step and its optimality residual, relative to ``yardstick``.
    yardstick : float array
        Gradient norm at the null model of the data that the state was initialised with, or the
        rounding level of a gradient divided by ``tol`` where that is larger.
    algorithm : str
        Name of the solver whose state this is.
    """

    coordinates: Coordinates
    solver: Any
    n_iter: Int[Array, ""]
    objective: Float[Array, ""]
    optimality: Float[Array, ""]
    yardstick: Float[Array, ""]
    algorithm: str = eqx.field(static=True)


class FitResult(eqx.Module):
    """What a fit returns.

    Parameters
    ----------
    params : GLMParams
        Parameters on the user's scale.
    state : SolverState
        State of the solver, with which :func:`update` can go on.
    status : Status
        How the fit ended; ``glmcore.Status[result.status]`` is the message.
    n_iter : int array
        Steps taken.
    objective : float array
        Weighted mean negative log-likelihood plus penalty.
    optimality : float array
        Optimality residual, relative to the gradient at the null model: what ``tol`` bounds.
    """

    params: GLMParams
    state: SolverState
    status: Status
    n_iter: Int[Array, ""]
    objective: Float[Array, ""]
    optimality: Float[Array, ""]

    @property
    def converged(self) -> Bool[Array, "..."]:
        """Whether the answer is within ``tol``."""
        return (self.status == Status.converged) | (self.status == Status.missing_class)


class FitProgress(NamedTuple):
    """What a callback is told while a fit runs: numbers, and whether this is the last call."""

    n_iter: int
    maxiter: int
    objective: float
    optimality: float
    tol: float
    elapsed: float
    status: Status
    done: bool


def default_solver(penalty) -> AbstractSolver:
    """The solver that ``solver=None`` stands for: LBFGS if the penalty is smooth, else
    ProximalGradient."""
    return LBFGS() if penalty.smooth else ProximalGradient()


def fit(
    model: GLM,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    init_params: Optional[GLMParams] = None,
    sample_weight: Any = None,
    callback: Optional[Callable[[FitProgress], Any]] = None,
) -> FitResult:
    """Minimise the objective of ``model``.

    Compiled once per types, dtypes and shapes: other data, weights, strengths, tolerances or
    iteration limits run the same program, and so do other numbers of rows up to the next
    bucket (:func:`pad_rows`).  Works under ``jax.jit`` and ``jax.vmap``, without buckets.

    Parameters
    ----------
    model : GLM
        What to fit.
    X : array of shape (n, p), or a pytree of these
        Features.
    y : int array of shape (n,)
        Class indices from 0 to K - 1.
    solver : AbstractSolver, optional
        Default: LBFGS for smooth penalties, ProximalGradient for the others.
    init_params : GLMParams, optional
        Where to start; default the null model.
    sample_weight : array of shape (n,), optional
        Weights of the rows, not negative.  Rows of weight 0 may hold NaN, but not where X or
        the weights are traced.
    callback : callable, optional
        Called with a :class:`FitProgress` about ten times a second and once at the end.  The
        compiled program holds no trace of it.

    Returns
    -------
    FitResult
        Parameters, status, steps, objective and optimality residual.  Nothing is raised for
        what the values turn out to be: look at ``status``.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, a strength or weight is bad, or the solver does not
        handle the penalty.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> result = glmcore.fit(glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1)), X, y)
    >>> glmcore.Status[result.status]
    'converged'
    >>> result.params.coef.round(3)
    Array([[-0.372,  0.372]], dtype=float32)
    """
    solver = default_solver(model.penalty) if solver is None else solver
    check_solver(solver, model.penalty)
    X, y, weight = check_data(model, X, y, sample_weight)
    check_penalty(model, X)
    if init_params is not None:
        init_params = check_params(model, init_params, X)
    solver = with_default_tol(solver, jax.tree.leaves(X)[0].dtype)
    X, y, weight = pad_rows(X, y, weight)
    if callback is None:
        return _fit(model, X, y, weight, init_params, solver)
    if not is_concrete((model, X, y, weight, init_params, solver)):
        raise ValueError("callback cannot be called from inside jax.jit or jax.vmap")
    return _fit_with_callback(model, X, y, weight, init_params, solver, callback)


def init_state(
    model: GLM,
    params: GLMParams,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> SolverState:
    """State for :func:`update`: freezes centre and scale of this data.

    Parameters and errors are those of :func:`fit`, with ``params`` the starting point.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> params = model.initialize_params(X, y)
    >>> state = glmcore.init_state(model, params, X, y)
    >>> params, state = glmcore.update(model, params, state, X, y)
    >>> int(state.n_iter)
    1
    """
    return _init_state(*_checked(model, params, X, y, solver, sample_weight))


def update(
    model: GLM,
    params: GLMParams,
    state: SolverState,
    X: PyTree,
    y: Any,
    *,
    solver: Optional[AbstractSolver] = None,
    sample_weight: Any = None,
) -> tuple[GLMParams, SolverState]:
    """One step of the solver on this batch; the objective is batch mean plus penalty.

    ``params`` stay on the user's scale.  The batch may lack classes and may have any number of
    rows (compiled once a bucket, see :func:`pad_rows`).  Parameters and errors are those of :func:`fit`,
    an example is in :func:`init_state`.
    """
    model, params, X, y, weight, solver = _checked(model, params, X, y, solver, sample_weight)
    if not isinstance(state, SolverState) or state.algorithm != type(solver).__name__:
        found = getattr(state, "algorithm", type(state).__name__)
        raise ValueError(
            f"state must come from init_state with the solver {type(solver).__name__}, found {found}"
        )
    check_state(model, state.coordinates, X)
    return _update(model, params, state, X, y, weight, solver)


def _checked(model, params, X, y, solver, sample_weight):
    solver = default_solver(model.penalty) if solver is None else solver
    check_solver(solver, model.penalty)
    X, y, weight = check_data(model, X, y, sample_weight)
    check_penalty(model, X)
    params = check_params(model, params, X)
    solver = with_default_tol(solver, jax.tree.leaves(X)[0].dtype)
    return model, params, *pad_rows(X, y, weight), solver


# The compiled programs: one jit boundary a public verb, all made of the same pieces


class _Task(eqx.Module):
    """What stays as it is while a fit runs."""

    problem: Problem
    solver: AbstractSolver
    yardstick: Float[Array, ""]

    @property
    def tol(self) -> Float[Array, ""]:
        """The tolerance, but not below the rounding level of the dtype."""
        dtype = self.problem.weight.dtype
        return jnp.maximum(self.solver.tol, 4 * jnp.finfo(dtype).eps)

    def status(self, run: "_Run") -> Status:
        """Why the run ends here, or ``running``."""
        progress, tol = run.cache.progress, self.tol
        arrived = progress.optimality <= tol * self.yardstick
        arrived &= progress.gap <= _GAP_PER_TOL * tol * jnp.abs(progress.objective)
        finite = jnp.isfinite(progress.objective) & jnp.isfinite(progress.optimality)
        status = Status.running
        for condition, reason in (
            (run.n_iter >= self.solver.maxiter, Status.out_of_steps),
            (progress.stalled, Status.stalled),
            (arrived, Status.converged),
            (self._vanished(progress), Status.separable),
            (~finite, Status.nonfinite),
        ):
            status = Status.where(condition, reason, status)
        return status

    def final_status(self, run: "_Run") -> Status:
        """:meth:`status`, and what only the answer itself can tell."""
        status, problem = self.status(run), self.problem
        _, cut = problem.coordinates.intercept_to_user(run.params)
        # The loss bends by at most 1/2 in the linear predictor.
        harm = jnp.sum(jnp.square(cut)) / 4
        unheld = harm > self.tol * jnp.abs(run.cache.progress.objective)
        converged = status == Status.converged
        status = Status.where(converged & unheld, Status.far_from_zero, status)
        # A bound on the residual had arrived and the residual itself has not, by its rounding.
        status = Status.where(status == Status.running, Status.stalled, status)
        separable = jax.lax.cond(
            problem.penalty_value(run.params.coef) == 0,
            lambda: problem.separable(run.params),
            lambda: jnp.zeros((), bool),
        )
        status = Status.where(separable, Status.separable, status)
        user = problem.coordinates.to_user(run.params)
        finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(user)])
        return Status.where(jnp.all(finite), status, Status.nonfinite)

    def _vanished(self, progress: Progress) -> Bool[Array, ""]:
        # A likelihood of one and no penalty, to rounding: no finite coefficients have it.
        return progress.objective < jnp.finfo(progress.objective.dtype).eps


class _Run(eqx.Module):
    """What moves from step to step."""

    params: GLMParams
    state: Any
    cache: Any
    n_iter: Int[Array, ""]


def _start(model, X, y, weight, init_params, solver) -> tuple[_Task, _Run]:
    model, solver = _in_dtype((model, solver), weight.dtype)
    problem = _problem(model, X, y, weight, may_lack_classes=False)
    params = problem.null_params()
    if init_params is not None:
        params = problem.start(problem.coordinates.from_user(init_params))
        if problem.shift_invariant:  # a level far from zero would cost digits
            level = jnp.mean(params.intercept, where=problem.present)
            params = GLMParams(problem.level(params.coef), params.intercept - level)
    state = solver.init(problem, params)
    cache = solver.evaluate(problem, params, state)
    task = _Task(problem, solver, _yardstick(problem, solver))
    return task, _Run(params, state, cache, jnp.zeros((), jnp.int32))


def _advance(task: _Task, run: _Run, until: Int[Array, ""]) -> _Run:
    """Steps until the fit ends or ``until`` of them are done."""

    def step(run: _Run) -> _Run:
        moved = task.solver.step(task.problem, run.params, run.state, run.cache)
        return _Run(*moved, run.n_iter + 1)

    def under_way(run: _Run) -> Bool[Array, ""]:
        return (task.status(run) == Status.running) & (run.n_iter < until)

    return jax.lax.while_loop(under_way, step, run)


def _finish(task: _Task, run: _Run) -> FitResult:
    progress = task.solver.finish(task.problem, run.params, run.cache)
    run = eqx.tree_at(lambda r: r.cache.progress, run, progress)
    status = task.final_status(run)
    left_out = (status == Status.converged) & ~jnp.all(task.problem.present)
    status = Status.where(left_out, Status.missing_class, status)
    state = _solver_state(task, run)
    return FitResult(
        params=least_norm_params(task.problem, run.params),
        state=state,
        status=status,
        n_iter=run.n_iter,
        objective=state.objective,
        optimality=state.optimality,
    )


def _solver_state(task: _Task, run: _Run) -> SolverState:
    progress = run.cache.progress
    return SolverState(
        coordinates=task.problem.coordinates,
        solver=run.state,
        n_iter=run.n_iter,
        objective=progress.objective,
        optimality=progress.optimality / task.yardstick,
        yardstick=task.yardstick,
        algorithm=type(task.solver).__name__,
    )


def _yardstick(problem: Problem, solver: AbstractSolver) -> Float[Array, ""]:
    """What optimality residuals are relative to: the null model's, unless ``tol`` of that is
    less than the rounding error of a gradient, a mean of products of order one."""
    null = problem.null_optimality()
    n_params = problem.coordinates.scale.size + problem.present.size
    rounding = jnp.finfo(null.dtype).eps * np.sqrt(n_params)
    return jnp.maximum(null, rounding / jnp.maximum(solver.tol, jnp.finfo(null.dtype).eps))


def _problem(model: GLM, X: PyTree, y: Array, weight: Array, may_lack_classes: bool) -> Problem:
    n_outputs = model.observations.n_outputs
    coordinates, features = Coordinates.measure(
        X, weight, model.penalty, n_outputs, model.fit_intercept
    )
    return Problem.of(model, features, y, weight, coordinates, may_lack_classes)


def _in_dtype(tree: PyTree, dtype: Any) -> PyTree:
    """Strengths and tolerances in the dtype of the data, which decides that of the result."""

    def cast(leaf):
        floating = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf).astype(dtype) if floating else leaf

    return jax.tree.map(cast, tree)


@eqx.filter_jit
def _fit(model, X, y, weight, init_params, solver) -> FitResult:
    task, run = _start(model, X, y, weight, init_params, solver)
    return _finish(task, _advance(task, run, task.solver.maxiter))


_jit_start, _jit_finish = eqx.filter_jit(_start), eqx.filter_jit(_finish)


@eqx.filter_jit
def _jit_advance(task: _Task, run: _Run, until: Int[Array, ""]) -> tuple[_Run, Status, Array]:
    run = _advance(task, run, until)
    return run, task.status(run), run.cache.progress.optimality / task.yardstick


def _fit_with_callback(model, X, y, weight, init_params, solver, callback) -> FitResult:
    """The same pieces, a loop on the host between them."""
    began = time.perf_counter()
    task, run = _jit_start(model, X, y, weight, init_params, solver)
    stride = 1
    while True:
        before, n_iter = time.perf_counter(), int(run.n_iter)
        run, status, optimality = _jit_advance(task, run, np.asarray(n_iter + stride, np.int32))
        done = bool(status != Status.running)
        report = FitProgress(
            n_iter=int(run.n_iter),
            maxiter=int(solver.maxiter),
            objective=float(run.cache.progress.objective),
            optimality=float(optimality),
            tol=float(solver.tol),
            elapsed=time.perf_counter() - began,
            status=status,
            done=done,
        )
        if done:
            result = _jit_finish(task, run)
            callback(report._replace(status=result.status, optimality=float(result.optimality)))
            return result
        callback(report)
        if time.perf_counter() - before < 0.05:
            stride *= 2


@eqx.filter_jit
def _init_state(model, params, X, y, weight, solver) -> SolverState:
    model, solver = _in_dtype((model, solver), weight.dtype)
    problem = _problem(model, X, y, weight, may_lack_classes=True)
    params = problem.start(problem.coordinates.from_user(params))
    state = solver.init(problem, params)
    cache = solver.evaluate(problem, params, state)
    task = _Task(problem, solver, _yardstick(problem, solver))
    return _solver_state(task, _Run(params, state, cache, jnp.zeros((), jnp.int32)))


@eqx.filter_jit
def _update(model, params, state, X, y, weight, solver) -> tuple[GLMParams, SolverState]:
    model, solver = _in_dtype((model, solver), weight.dtype)
    coordinates = state.coordinates
    features = coordinates.features(X)
    problem = Problem.of(model, features, y, weight, coordinates, may_lack_classes=True)
    params = problem.start(coordinates.from_user(params))
    cache = solver.evaluate(problem, params, state.solver)
    moved = solver.step(problem, params, state.solver, cache)
    run = _Run(*moved, state.n_iter + 1)
    task = _Task(problem, solver, state.yardstick)
    return coordinates.to_user(run.params), _solver_state(task, run)
