"""The loop of a fit on the host, for fits that tell how they proceed."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import numpy as np

from glmcore.checkpoint import Checkpoint
from glmcore.identity import Identity
from glmcore.params import GLMParams
from glmcore.results import FitProgress, FitResult
from glmcore.solvers.base import AbstractSolver
from glmcore.status import Status, status_name
from glmcore.tree import as_count


class Listeners(NamedTuple):
    """Who is told how a fit proceeds, and who keeps what it needs to be resumed."""

    callbacks: tuple[Callable[[FitProgress], Any], ...]
    checkpoint: Optional[Checkpoint]

    @classmethod
    def of(cls, callback: Any) -> "Listeners":
        """Those in the argument ``callback``: None, one, or a list or tuple of them."""
        given = callback if isinstance(callback, (list, tuple)) else [] if callback is None else [callback]
        for each in given:
            if not callable(each):
                raise TypeError(f"callback must be callable or a list of callables, found {each!r}")
        checkpoints = [each for each in given if isinstance(each, Checkpoint)]
        if len(checkpoints) > 1:
            raise ValueError(f"callback must hold one Checkpoint at most, found {checkpoints}")
        callbacks = tuple(each for each in given if not isinstance(each, Checkpoint))
        return cls(callbacks, checkpoints[0] if checkpoints else None)

    def __bool__(self) -> bool:
        return bool(self.callbacks) or self.checkpoint is not None


class Snapshot:
    """The parameters where a fit stands, computed when they are asked for, while it stands there."""

    def __init__(self, params: Optional[Callable[[], GLMParams]] = None):
        self._params = params

    def __repr__(self) -> str:
        return "Snapshot()"

    def __call__(self) -> GLMParams:
        if self._params is None:
            raise RuntimeError(
                "params() of a FitProgress is for the callback to call before the next step: the fit has gone on"
            )
        return self._params()

    def leave(self) -> None:
        self._params = None


class HostLoop:
    """A fit some steps at a time, with a word to its listeners after each time."""

    def __init__(self, solver: AbstractSolver, listeners: Listeners):
        self._callbacks, self._checkpoint = listeners
        intervals = [as_count(c.every, f"every of {c!r}") for c in self._callbacks if hasattr(c, "every")]
        self._longest_stride = max(1, min(intervals, default=int(solver.maxiter)))
        self._began = self._told = time.perf_counter()
        self._stopped = False
        self._report = FitProgress(
            n_iter=0,
            maxiter=int(solver.maxiter),
            objective=math.nan,
            optimality=math.nan,
            tol=float(solver.tol),
            elapsed=0.0,
            status=Status.running,
            done=False,
            params=Snapshot(),
        )

    def run(
        self, task: Any, run: Any, advance: Callable, finish: Callable, params: Callable, identity: Optional[Identity]
    ) -> FitResult:
        """Advance to the end, a step at a time or, once these are short, several.

        ``identity`` tells whether a checkpoint is of this fit; None where there are none.
        """
        if self._checkpoint is not None:
            run = self._checkpoint.resumed(identity, run)
            self._report = self._report._replace(n_iter=max(0, int(run.n_iter)))
        stride = 1
        while True:
            before, until = time.perf_counter(), self._until(max(0, int(run.n_iter)), stride)
            run, status, optimality = advance(task, run, np.asarray(until, np.int32))
            if status != Status.running:
                break
            self._stand(run, status, optimality, partial(params, task, run))
            self._keep(identity, run)
            self._tell()
            if self._stopped:
                break
            # Several processes have to agree on the stride, and their clocks do not.
            if jax.process_count() == 1 and time.perf_counter() - before < 0.05:
                stride = min(2 * stride, self._longest_stride)
        if self._stopped:  # as if no more steps had been allowed
            task = eqx.tree_at(lambda t: t.solver.maxiter, task, run.n_iter)
        result = finish(task, run)
        # Separable or not, it is the callback that ended it.
        if self._stopped and status_name(result.status) in ("out_of_steps", "separable"):
            result = dataclasses.replace(result, status=Status.stopped)
        answer = result.params  # a report that is kept holds no more than these
        self._stand(run, result.status, result.optimality, lambda: answer)
        self._report = self._report._replace(done=True)
        self._keep(identity, run)
        self._tell()
        return result

    def _stand(self, run: Any, status: Status, optimality: Any, params: Callable[[], GLMParams]) -> None:
        self._report.params.leave()
        self._report = self._report._replace(
            n_iter=int(run.n_iter),
            objective=float(run.cache.progress.objective),
            optimality=float(optimality),
            status=status,
            params=Snapshot(params),
            n_passes=None,
            batch=None,
        )

    def _keep(self, identity: Optional[Identity], run: Any) -> None:
        if self._checkpoint is not None:
            self._checkpoint(self._report, identity, run)

    def _until(self, n_iter: int, stride: int) -> int:
        """The number of steps up to which the fit goes on undisturbed."""
        until = min(n_iter + stride, self._report.maxiter)
        return until if self._checkpoint is None else min(until, self._checkpoint.due_after(n_iter))

    def begins_at(self, params: Callable[[], GLMParams]) -> None:
        """What the parameters are before the first step."""
        self._report = self._report._replace(params=Snapshot(params))

    def tell_batch(self, n_passes: int, batch: int) -> None:
        """Tell, ten times a second at most, in which batch of which pass the fit is."""
        if time.perf_counter() - self._told >= 0.1:
            self._report = self._report._replace(n_passes=n_passes, batch=batch)
            self._tell()

    def _tell(self) -> None:
        self._told = time.perf_counter()
        for callback in self._callbacks:
            try:
                callback(self._report._replace(elapsed=self._told - self._began))
            except StopIteration:
                self._stopped = True
