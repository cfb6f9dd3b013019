"""What a fit returns and what it tells on the way."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.params import GLMParams
from glmcore.status import Status, has_converged, status_name, tally
from glmcore.tree import is_at_hand

#: What a batch counts in the running mean of held-out log-likelihoods after one more.
_MEMORY = 0.99


class HeldOut(eqx.Module):
    r"""Running mean of the log-likelihood of each batch under the parameters before its step.

    A batch is held out until the step that learns from it (progressive validation: Blum, Kalai &
    Langford, 1999).  With the weighted mean log-likelihood :math:`\ell_t` of the t-th batch and
    the sum :math:`W_t` of its weights

    .. math:: S_t = 0.99 \, S_{t-1} + W_t, \quad L_t = L_{t-1} + \frac{W_t}{S_t} (\ell_t - L_{t-1}),

    the mean over all rows at first, over about the last hundred batches later.

    Parameters
    ----------
    mean : float array
        L, per sample and without the penalty; 0 before the first batch.
    weight : float array
        S.
    """

    mean: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def nothing(cls, dtype: Any) -> "HeldOut":
        """Before the first batch."""
        # No NaN, for which a user may have told JAX to look.
        return cls(jnp.zeros((), dtype), jnp.zeros((), dtype))

    @property
    def log_likelihood(self) -> Float[Array, ""]:
        """The mean; NaN before the first batch."""
        return jnp.where(self.weight > 0, self.mean, jnp.nan)

    def and_then(self, log_likelihood: Float[Array, ""], weight: Float[Array, ""]) -> "HeldOut":
        """After one more batch of this mean log-likelihood and total weight."""
        total = _MEMORY * self.weight + weight
        before = jnp.where(self.weight > 0, self.mean, log_likelihood)
        return HeldOut(before + weight / total * (log_likelihood - before), total)


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
        Objective after the last step and its optimality residual, relative to ``yardstick``; those
        before it after an update by :class:`Optax`, which looks at a batch once.
    yardstick : float array
        Gradient norm at the null model of the data that the state was initialised with, or the
        rounding level of a gradient divided by ``tol`` where that is larger.
    held_out : HeldOut
        Running estimate of the held-out log-likelihood of the updates.
    algorithm : str
        Name of the solver whose state this is.
    """

    coordinates: Coordinates
    solver: Any
    n_iter: Int[Array, ""]
    objective: Float[Array, ""]
    optimality: Float[Array, ""]
    yardstick: Float[Array, ""]
    held_out: HeldOut
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
        Optimality residual, relative to the yardstick of :class:`SolverState`: what ``tol`` bounds.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> result = glmcore.fit(glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1)), X, y)
    >>> bool(result.converged), glmcore.status_name(result.status), result.params.coef.shape
    (True, 'converged', (1, 2))
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

    def __repr__(self) -> str:
        if not is_at_hand(self):
            return super().__repr__()
        if np.ndim(self.n_iter):
            size, most = self.n_iter.size, np.max(self.n_iter)
            return f"FitResult({size} fits: {tally(self.status)}; n_iter up to {most})"
        return (
            f"FitResult({status_name(self.status)}, n_iter={int(self.n_iter)}, "
            f"objective={float(self.objective):.6g}, optimality={float(self.optimality):.1e})"
        )


class FitProgress(NamedTuple):
    """What a callback is told while a fit runs.

    Parameters
    ----------
    n_iter, maxiter : int
        Steps taken so far, and the most there may be.
    objective : float
        Weighted mean negative log-likelihood plus penalty; NaN before the first step.
    optimality, tol : float
        Optimality residual, relative to the yardstick of :class:`SolverState`, and its bound.
    elapsed : float
        Seconds since the fit began.
    status : Status
        How the fit stands: ``running`` until it is ``done``.
    done : bool
        Whether this is the last call.
    params : callable
        ``params()`` are the parameters as they stand, on the user's scale; for the callback to call before the
        next step is done.
    n_passes, batch : int, optional
        Passes completed and the batch of the one under way, where ``fit_batches`` tells of these
        between two steps.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> def tell(progress):
    ...     if progress.done:
    ...         print(f"{glmcore.status_name(progress.status)}, within tol: {progress.optimality <= progress.tol}")
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.fit(model, X, y, callback=tell)
    converged, within tol: True

    Stop where the loss of other rows no longer falls:

    >>> class EarlyStopping:
    ...     every = 1
    ...     best = float("inf")
    ...     def __call__(self, progress):
    ...         loss = model.loss(progress.params(), X[1:], y[1:])
    ...         if loss >= self.best:
    ...             raise StopIteration
    ...         self.best = loss
    >>> result = glmcore.fit(model, X, y, callback=EarlyStopping())
    >>> glmcore.status_name(result.status)
    'stopped'
    """

    n_iter: int
    maxiter: int
    objective: float
    optimality: float
    tol: float
    elapsed: float
    status: Status
    done: bool
    params: Callable[[], GLMParams]
    n_passes: Optional[int] = None
    batch: Optional[int] = None
