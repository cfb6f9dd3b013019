"""Limited-memory BFGS."""

from collections.abc import Callable
from functools import partial
from typing import Any, Optional

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.solvers.base import as_float, as_int
from glmcore.solvers.line_search import AbstractDescent, AbstractMemory, DescentCache
from glmcore.solvers.pairs import Pairs
from glmcore.solvers.preconditioner import Preconditioner, affords_classes, has_root
from glmcore.solvers.refresh import Refresh
from glmcore.solvers.row_space import RowSpace, has_few_rows
from glmcore.tree import as_count

#: After so many steps the preconditioner is made anew where the fit has got to: early if it has a
#: block a class, since then few steps are left.
_FIRST_REFRESH = 5
_FIRST_SHARED_REFRESH = 25
#: With fewer rows than features it is a diagonal before: unless features are much alike fits need no more
#: steps, and these cost much less than the products of all rows with each other.
_FIRST_REFRESH_BY_ROWS = 50
#: What half the slope is multiplied by to be the gap as long as a diagonal stands for these: of features
#: much alike it may be so many times too small.
_CAUTION = 1000


class PreconditionedPairs(AbstractMemory):
    """A model of the Hessian and the last steps, which correct it."""

    preconditioner: Preconditioner
    pairs: Pairs

    def smoothed(self, problem: Problem, gradient: GLMParams, rows: Optional[RowSpace]) -> GLMParams:
        if rows is None:
            return self.preconditioner.apply(gradient)
        solve = partial(rows.solve, problem, otherwise=self.preconditioner.solve)
        return self.preconditioner.apply(gradient, solve)

    def direction(
        self, problem: Problem, eta: Float[Array, "C n"], gradient: GLMParams, smooth: GLMParams
    ) -> GLMParams:
        slope, unravel = ravel_pytree(gradient)
        return unravel(self.pairs.direction(slope, ravel_pytree(smooth)[0]))

    def remember(
        self, step: GLMParams, change: GLMParams, smoothed: GLMParams, gradient: GLMParams
    ) -> "PreconditionedPairs":
        pairs = self.pairs.remember(*(ravel_pytree(part)[0] for part in (step, change, smoothed)))
        return PreconditionedPairs(self.preconditioner, pairs)

    def forget(self) -> "PreconditionedPairs":
        return PreconditionedPairs(self.preconditioner, self.pairs.forget())


class LBFGS(AbstractDescent):
    """Limited-memory BFGS for smooth penalties (the default for Ridge and UnRegularized).

    The first inverse Hessian of every direction is that of the Gram matrix of the scaled
    features (p up to 1024; a diagonal beyond), weighted by the curvature of the loss where the
    fit stood when it was made: after 5, 25, 125, ... steps with a block for each class, where that
    costs little beside the steps, else after 25, 125, ... with one for all, stretched for each.
    With fewer rows than features (and up to 1024) :func:`fit` begins with a diagonal, which stays in its
    state, and after 50, 250, ... steps goes by the products of the rows with each other.

    Parameters
    ----------
    tol : float, optional
        Bound on the optimality residual in centred and scaled coordinates, relative to the
        gradient at the null model.  Default 1e-5 in float32, 1e-8 in float64.  The predicted
        distance of the objective to its minimum has to be below ``tol / 100`` of it besides.
    maxiter : int, default 1000
        Largest number of steps.
    memory : int, default 10
        Pairs of step and gradient change that are kept.

    Examples
    --------
    >>> from glmcore import LBFGS
    >>> LBFGS(tol=1e-4, maxiter=50).memory
    10
    """

    tol: Any = eqx.field(default=None, converter=as_float)
    maxiter: Any = eqx.field(default=1000, converter=as_int)
    memory: int = eqx.field(default=10, static=True, converter=partial(as_count, name="memory"))
    needs_smooth = True
    slope_left = 0.9

    def init(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> PreconditionedPairs:
        # With the same probabilities for all samples, as they are at the start, the classes' blocks of
        # the loss differ in scale only.
        preconditioner = Preconditioner.shared(problem, eta)
        if affords_classes(problem):
            preconditioner = preconditioner.repeated()
        return self._without_past(preconditioner, params)

    def begin(
        self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]
    ) -> PreconditionedPairs:
        if has_few_rows(problem):
            return self._without_past(Preconditioner.of_diagonal(problem, eta), params)
        if _is_refreshed_at_first(problem):
            return self._without_past(Preconditioner.blank(problem), params)
        return self.init(problem, params, eta)

    def _without_past(self, preconditioner: Preconditioner, params: GLMParams) -> PreconditionedPairs:
        return PreconditionedPairs(preconditioner, Pairs.empty(ravel_pytree(params)[0], self.memory))

    def step(
        self, problem: Problem, params: GLMParams, state: PreconditionedPairs, cache: DescentCache
    ) -> tuple[GLMParams, PreconditionedPairs, DescentCache]:
        params, state, cache = super().step(problem, params, state, cache)
        if cache.rows is None:
            return params, state, cache
        gap = jnp.where(cache.rows.is_formed, 1, _CAUTION) * cache.progress.gap
        return params, state, eqx.tree_at(lambda c: c.progress.gap, cache, gap)

    def row_space(self, problem: Problem, eta: Float[Array, "C n"]) -> Optional[RowSpace]:
        return RowSpace.blank(problem, eta) if has_few_rows(problem) else None

    def refresh(self, problem: Problem) -> Refresh:
        if has_few_rows(problem):
            return Refresh(partial(_by_rows, problem), _FIRST_REFRESH_BY_ROWS)
        # What the pairs tell was seen from farther away: without them fewer steps are needed.
        return refresh(problem, lambda preconditioner, old: PreconditionedPairs(preconditioner, old.pairs.forget()))


def refresh(problem: Problem, memory: Callable[[Preconditioner, AbstractMemory], AbstractMemory]) -> Refresh:
    """A new ``memory``, from a preconditioner where the fit has got to and the old one, and the direction that
    it gives."""

    def anew(state: AbstractMemory, cache: DescentCache) -> tuple[AbstractMemory, DescentCache]:
        state = memory(Preconditioner.of(problem, cache.eta), state)
        return state, cache.by(problem, state, None)

    first = _FIRST_REFRESH if affords_classes(problem) else _FIRST_SHARED_REFRESH
    return Refresh(anew, first, _is_refreshed_at_first(problem))


def _is_refreshed_at_first(problem: Problem) -> bool:
    """Whether a fit begins with a refresh: where that is what ``init`` does, or large factors would be compiled twice."""
    return has_root(problem) and not affords_classes(problem)


def _by_rows(
    problem: Problem, state: PreconditionedPairs, cache: DescentCache
) -> tuple[PreconditionedPairs, DescentCache]:
    """The memory without past steps, and what the rows tell where the fit has got to."""
    preconditioner = Preconditioner.of_diagonal(problem, cache.eta)
    state = PreconditionedPairs(preconditioner, state.pairs.forget())
    return state, cache.by(problem, state, RowSpace.of(problem, cache.eta))
