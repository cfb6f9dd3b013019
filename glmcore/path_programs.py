"""The compiled programs of a regularisation path."""

from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.jit import quick_jit
from glmcore.least_norm import least_norm_params
from glmcore.params import GLMParams, stack_rows
from glmcore.penalties import AbstractScalablePenalty
from glmcore.problem import Problem
from glmcore.programs import Run, Task, advance, in_dtype, make_problem
from glmcore.solvers import ProximalNewton
from glmcore.solvers.base import AbstractSolver
from glmcore.status import Status

#: By how much the residual of all features may exceed that of the working set.
_SLACK = 1.01
#: Share of the working set that may be nonzero before a larger one is asked for.
_CROWDED = 0.75
#: By how much the strength may have fallen since the model of the Hessian of a fit that begins with one was made.
_STALE = 4


class Answers(eqx.Module):
    """Answers along a path, or one of them: coefficients stacked, on the user's scale."""

    coef: Float[Array, "*L p K"]
    intercept: Float[Array, "*L K"]
    objective: Float[Array, "*L"]
    optimality: Float[Array, "*L"]
    n_iter: Int[Array, "*L"]
    status: Status

    @classmethod
    def none(cls, n_strengths: int, p: int, n_outputs: int, dtype: Any) -> "Answers":
        """Room for so many answers."""
        zeros = jnp.zeros(n_strengths, dtype)
        return cls(
            coef=jnp.zeros((n_strengths, p, n_outputs), dtype),
            intercept=jnp.zeros((n_strengths, n_outputs), dtype),
            objective=zeros,
            optimality=zeros,
            n_iter=jnp.zeros(n_strengths, jnp.int32),
            status=jax.tree.map(lambda s: jnp.full(n_strengths, s), Status.running),
        )


class Reached(eqx.Module):
    """How far a path has come: answers up to ``count``, and where it stands.

    ``params`` are inner coordinates of all features, and ``pressure`` is that of the loss there
    on the coefficients, in multiples of the penalty's own strengths.
    """

    answers: Answers
    count: Int[Array, ""]
    params: GLMParams
    pressure: Float[Array, "p K"]


class _Walk(eqx.Module):
    """A piece of a path under way; ``seen`` is what the next look at ``params`` needs, ``renewed`` the strength of
    the last fit that began with a refresh."""

    answers: Answers
    count: Int[Array, ""]
    params: GLMParams
    state: Any
    seen: Any
    renewed: Float[Array, ""]
    stopped: Bool[Array, ""]


def scaled(penalty: AbstractScalablePenalty, factor: Array) -> AbstractScalablePenalty:
    """The penalty with its strengths times ``factor``."""
    strength = jax.tree.map(lambda s: s * factor, penalty.strength)
    return eqx.tree_at(lambda p: p.strength, penalty, strength)


@quick_jit
def run_null(model, X, y, weight, moments, strengths: Float[Array, " L"]):
    """A path of so many strengths before its first one, at the null model, and a strength that
    surely holds at zero all that is penalised."""
    model = in_dtype(model, weight.dtype)
    problem = make_problem(model, X, y, weight, moments)
    residual = problem.loss_and_residual(problem.null_predictor())[1]
    pressure = problem.pressure(problem.gradient(residual).coef)
    answers = Answers.none(strengths.size, *problem.coordinates.scale.shape, weight.dtype)
    none = jnp.zeros((), jnp.int32)
    start = Reached(answers, none, problem.null_params(), pressure)
    # No residual of the softmax exceeds one, and a feature correlates with none better than it
    # deviates.
    most = problem.pressure(problem.coordinates.deviation[:, None] * problem.coordinates.scale)
    return start, 2 * jnp.max(jnp.where(jnp.isfinite(most), most, 0))


class _Piece(eqx.Module):
    """A part of a path with the features of ``index``, None: all of them, the ``part`` of the
    ``whole``; ``room`` is how many entries may be not zero, None: all."""

    whole: Problem
    part: Problem
    index: Optional[Int[Array, " q"]]
    solver: AbstractSolver
    yardstick: Float[Array, ""]
    room: Optional[int] = eqx.field(static=True)

    @property
    def _lasting(self) -> bool:
        """Whether the solver's cache serves under the next penalty too."""
        return isinstance(self.solver, ProximalNewton)

    def start(self, reached: Reached, strength: Float[Array, ""]) -> _Walk:
        params = reached.params
        if self.index is not None:
            params = GLMParams(params.coef[self.index], params.intercept)
        seen = self.part.predictor(params)
        problem = _stronger(self.part, strength)
        state = self.solver.begin(problem, params, seen)
        if self._lasting:
            seen = self.solver.evaluate(problem, params, problem.look(seen), state)
        never = jnp.full_like(strength, jnp.inf)
        return _Walk(reached.answers, reached.count, params, state, seen, never, jnp.zeros((), bool))

    def forward(self, walk: _Walk, strength: Float[Array, ""]) -> _Walk:
        """One strength further, or stopped where a feature is missed."""
        problem, everything = (_stronger(q, strength) for q in (self.part, self.whole))
        task = Task(problem, self.solver, self.yardstick)
        is_stale = _STALE * strength <= walk.renewed
        run = advance(task, self._run(problem, walk), self.solver.maxiter, begins=is_stale)
        found = self.solver.finish(problem, run.params, run.cache)
        run = eqx.tree_at(lambda r: r.cache.progress, run, found)
        seen = run.cache if self._lasting else problem.predictor(run.params)
        params, optimality = self.spread(run.params), found.optimality
        if self.index is not None:
            optimality = everything.optimality(params, self.gradient(seen))
        crowded = jnp.zeros((), bool)
        if self.room is not None:
            n_free = jnp.sum(run.params.coef != 0) + run.params.intercept.size
            crowded = n_free > _CROWDED * self.room
        allowed = jnp.where(crowded, 0, _SLACK * found.optimality)
        missed = optimality > jnp.maximum(allowed, task.tol * self.yardstick)
        answer = _answer(task, run, everything, params, optimality)
        stored = jax.tree.map(
            lambda all, one: jnp.where(missed, all, all.at[walk.count].set(one)), walk.answers, answer
        )
        count = walk.count + jnp.where(missed, 0, 1).astype(jnp.int32)
        renewed = jnp.where(is_stale, strength, walk.renewed)
        return _Walk(stored, count, run.params, run.state, seen, renewed, missed | crowded)

    def _run(self, problem: Problem, walk: _Walk) -> Run:
        if not self._lasting:
            return Run.of(problem, walk.params, problem.look(walk.seen), walk.state, self.solver)
        cache = self.solver.under(problem, walk.params, walk.seen)
        return Run(walk.params, walk.state, cache, jnp.zeros((), jnp.int32))

    def spread(self, params: GLMParams) -> GLMParams:
        """With zeros for the features that are left out."""
        if self.index is None:
            return params
        zero = jnp.zeros_like(self.whole.coordinates.scale)
        return GLMParams(zero.at[self.index].set(params.coef), params.intercept)

    def gradient(self, seen: Any) -> GLMParams:
        """That of the loss in all coefficients."""
        return self.whole.look(seen.eta if self._lasting else seen).gradient


@quick_jit
def run_piece(
    model,
    X,
    y,
    weight,
    moments,
    strengths: Float[Array, " L"],
    reached: Reached,
    until: Int[Array, ""],
    index: Optional[Int[Array, " q"]],
    solver: AbstractSolver,
    room: Optional[int],
) -> Reached:
    """Answers from ``reached.count`` to ``until`` with the features of ``index`` (None: all of
    them); earlier where one of the others is missed, or a share of ``room`` entries are not zero."""
    model, solver = in_dtype((model, solver), weight.dtype)
    whole = make_problem(model, X, y, weight, moments)
    part = whole if index is None else whole.on_features(index)
    yardstick = whole.yardstick(whole.null_optimality(), solver.tol)
    piece = _Piece(whole, part, index, solver, yardstick, room)
    walk = jax.lax.while_loop(
        lambda walk: ~walk.stopped & (walk.count < until),
        lambda walk: piece.forward(walk, strengths[walk.count]),
        piece.start(reached, strengths[reached.count]),
    )
    pressure = whole.pressure(piece.gradient(walk.seen).coef)
    return Reached(walk.answers, walk.count, piece.spread(walk.params), pressure)


def _stronger(problem: Problem, factor: Array) -> Problem:
    return eqx.tree_at(lambda q: q.penalty, problem, scaled(problem.penalty, factor))


def _answer(
    task: Task, run: Run, problem: Problem, params: GLMParams, optimality: Float[Array, ""]
) -> Answers:
    """The answer at one strength."""
    user, cut = least_norm_params(problem, params)
    return Answers(
        coef=stack_rows(user.coef),
        intercept=user.intercept,
        objective=run.cache.progress.objective,
        optimality=optimality / task.yardstick,
        n_iter=run.n_iter,
        status=task.final_status(run, user, cut),
    )

