"""What a solver is: ``init``, ``evaluate``, ``step``, ``refresh``, ``finish``.

A solver keeps apart what outlives a batch and what does not.  Its *state* can be carried to
another batch by :func:`glmcore.update`; its *cache* (gradients, linear predictors: all that
was computed from these very rows) is thrown away with them.
"""

import abc
import numbers
import sys
from typing import Any, ClassVar, Optional

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from glmcore.params import GLMParams
from glmcore.penalties import AbstractPenalty
from glmcore.problem import Look, Problem
from glmcore.solvers.refresh import Refresh
from glmcore.tree import is_real, module_of, tree_norm


class Standing(eqx.Module):
    """Where a solver stands; every solver's cache holds one.

    ``optimality`` is the norm of the least subgradient (or a bound on it from above), ``gap``
    the predicted distance of the objective to its minimum (0 from solvers that predict none),
    ``stalled`` whether rounding hides any further progress.
    """

    objective: Float[Array, ""]
    optimality: Float[Array, ""]
    gap: Float[Array, ""]
    stalled: Bool[Array, ""]


_LARGEST = sys.float_info.max
#: Settings that solvers have, and what numbers they are.
_SETTINGS = {
    "tol": "finite and not negative",
    "stepsize": "finite and not negative",
    "maxiter": "a whole number, not negative",
    "seed": "a whole number, not negative",
}


def as_float(x: Any) -> Any:
    """Numbers as arrays, which a jit traces; what is none is left to :func:`check_solver`."""
    number = x.item() if isinstance(x, np.generic) else x
    fits = _is_number(number) and abs(number) <= _LARGEST
    return np.asarray(number, dtype=np.float64) if fits else number


def as_int(x: Any) -> Any:
    number = x.item() if isinstance(x, np.generic) else x
    whole = _is_number(number) and number % 1 == 0 and abs(number) < 2**31
    return np.asarray(number, dtype=np.int32) if whole else number


def _is_number(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def is_rounding(excess: Float[Array, ""], params: PyTree) -> Bool[Array, ""]:
    """Whether a step to ``params``, after which the loss exceeds its tangent by so little, moved the
    predictor by its rounding only: it says nothing about the step size."""
    rounding = 2 * jnp.finfo(excess.dtype).eps * tree_norm(params)
    return jnp.abs(excess) <= jnp.square(rounding)


class AbstractSolver(eqx.Module):
    """An algorithm that minimises a :class:`~glmcore.problem.Problem`.

    ``tol`` bounds the optimality residual in centred and scaled coordinates relative to the
    loss gradient at the null model (None: :func:`default_tol`), where less than 4 roundings of the
    dtype count as these, and a gradient no greater than its own rounding as that; ``maxiter``
    counts steps.
    """

    tol: eqx.AbstractVar[Any]
    maxiter: eqx.AbstractVar[Any]
    #: Whether the whole objective is differentiated, so that the penalty has to be smooth.
    needs_smooth: eqx.AbstractClassVar[bool]
    #: Whether the linear predictor is the sum of the changes of all steps, so that rounding errors
    #: gather in it: then there are methods ``drifted(cache)``, whether they may count, and
    #: ``anchored(problem, params, cache)``, the cache with it computed anew, which has an infinite
    #: ``optimality`` until the next step, which goes nowhere, has looked around.
    carries_predictor: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]) -> Any:
        """State before the first step; ``eta`` is the linear predictor of ``params``."""

    def begin(self, problem: Problem, params: GLMParams, eta: Float[Array, "C n"]) -> Any:
        """The same where a fit goes on with the rows of ``problem``."""
        return self.init(problem, params, eta)

    @abc.abstractmethod
    def evaluate(
        self, problem: Problem, params: GLMParams, look: Look, state: Any
    ) -> Any:
        """Cache of ``params``, at which ``look`` is; it has a field ``progress``."""

    def blank(self, problem: Problem, params: GLMParams, look: Look) -> Any:
        """A cache from which :meth:`step` stays at ``params`` and only makes ready for the next
        step, so that a loop of steps needs no :meth:`evaluate` before it, which would be compiled
        twice.  None: there is none."""
        return None

    @abc.abstractmethod
    def step(
        self, problem: Problem, params: GLMParams, state: Any, cache: Any
    ) -> tuple[GLMParams, Any, Any]:
        """One step: new params, state and cache."""

    def update(
        self, problem: Problem, params: GLMParams, state: Any, cache: Any
    ) -> tuple[GLMParams, Any, Any]:
        """The step on a batch that is not seen again; of the cache its ``progress`` is read."""
        return self.step(problem, params, state, cache)

    def refresh(self, problem: Problem) -> Optional[Refresh]:
        """How state and cache are made anew now and then in a fit, if that pays.  An update, whose
        batch may be small, does not do it."""
        return None

    def finish(self, problem: Problem, params: GLMParams, cache: Any) -> Standing:
        """Standing with the exact optimality residual."""
        return cache.progress


def default_tol(dtype: Any) -> float:
    """The tolerance that reaches a relative objective gap of 1e-6 in float32, 1e-9 in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from glmcore import default_tol
    >>> default_tol(np.float32), default_tol(np.float64)
    (1e-05, 1e-08)
    """
    return 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-8


def with_default_tol(solver: AbstractSolver, dtype: Any) -> AbstractSolver:
    """Fill in ``tol`` before a jit sees it: given or not, it is the same program."""
    if solver.tol is not None:
        return solver
    return module_of(type(solver), **{**vars(solver), "tol": as_float(default_tol(dtype))})


def check_is_solver(solver: Any) -> None:
    """Refuse what is no solver, such as the name of one."""
    if not isinstance(solver, AbstractSolver):
        raise TypeError(f"solver must be an instance such as glmcore.LBFGS(), found {solver!r}")


def check_solver(solver: AbstractSolver, penalty: AbstractPenalty) -> None:
    """Refuse a solver that needs a smooth penalty and does not get one."""
    check_is_solver(solver)
    if solver.needs_smooth and not penalty.smooth:
        raise ValueError(
            f"{type(solver).__name__} needs a differentiable penalty and "
            f"{type(penalty).__name__} is not; use ProximalGradient"
        )
    if not solver.needs_smooth and not hasattr(penalty, "prox"):
        raise ValueError(
            f"{type(solver).__name__} needs a penalty with a method prox(coef, step) and "
            f"{type(penalty).__name__} has none; use LBFGS if it is differentiable"
        )
    settings = vars(solver)
    for name, kind in _SETTINGS.items():
        error, value = None, settings.get(name)
        if value is None:
            continue
        if isinstance(value, numbers.Real):  # one that the converter had no array for
            error = ValueError
        elif not is_real(value) or np.shape(value) != ():
            error = TypeError
        elif isinstance(value, np.ndarray) and not 0 <= value < np.inf:
            error = ValueError
        if error is not None:
            found = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
            raise error(f"{type(solver).__name__}: {name} must be {kind}, found {found!r}")
