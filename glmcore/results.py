"""What a fit returns and what it tells on the way."""

from typing import Any, NamedTuple, Optional

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.params import GLMParams
from glmcore.status import Status, has_converged


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
        return has_converged(self.status)


class FitProgress(NamedTuple):
    """What a callback is told while a fit runs: numbers, and whether this is the last call.

    ``n_passes`` and ``batch`` are the completed passes and the batch of the one under way, where
    ``fit_batches`` tells of these between two steps; else None.
    """

    n_iter: int
    maxiter: int
    objective: float
    optimality: float
    tol: float
    elapsed: float
    status: Status
    done: bool
    n_passes: Optional[int] = None
    batch: Optional[int] = None
