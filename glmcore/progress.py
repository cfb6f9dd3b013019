"""Callbacks that show or keep how a fit proceeds."""

import math
import sys
import time
from typing import Any, Optional

from glmcore.results import FitProgress
from glmcore.status import Status
from glmcore.tree import as_count


class Progress:
    """Show step, objective, residual and elapsed time while a fit runs.

    On a terminal one line is rewritten in place; elsewhere (a log, a notebook) a line is added
    at most every ``interval`` seconds.  The last line says how the fit ended.

    Parameters
    ----------
    interval : float, default 10.0
        Seconds between two lines where lines cannot be rewritten.
    file : text file, optional
        Where to write; default standard error.

    Examples
    --------
    >>> import sys
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> _ = glmcore.fit(model, X, y, callback=glmcore.Progress(file=sys.stdout))
    step ...  objective 0.6...  residual ...e-0... (tol 1.0e-05)  ... s  converged
    """

    def __init__(self, interval: float = 10.0, file: Any = None):
        self.interval = interval
        self.file = file
        self._last: Optional[float] = None

    def __repr__(self) -> str:
        return f"Progress(interval={self.interval})"

    def __call__(self, progress: FitProgress) -> None:
        file = sys.stderr if self.file is None else self.file
        if file is None:  # a service may have no standard error
            return
        line = describe(progress)
        if getattr(file, "isatty", bool)():
            print("\r\033[K" + line, end="\n" if progress.done else "", file=file, flush=True)
            return
        now = time.monotonic()
        if self._last is None:
            self._last = now
        if progress.done or now - self._last >= self.interval:
            self._last = None if progress.done else now
            print(line, file=file, flush=True)


class Trace:
    """Keep what a fit reports, step by step.

    Parameters
    ----------
    every : int, default 1
        Largest number of steps between two reports.  A report after every step slows short steps down.

    Attributes
    ----------
    reports : list of FitProgress
        Those of the last fit that called it, its end included.

    Raises
    ------
    ValueError
        If ``every`` is not a positive whole number.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> model, trace = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1)), glmcore.Trace()
    >>> result = glmcore.fit(model, X, y, callback=trace)
    >>> len(trace.reports) == int(result.n_iter)
    True
    >>> trace.reports[-1].optimality <= trace.reports[-1].tol
    True
    """

    def __init__(self, every: int = 1):
        self.every = as_count(every, "every")
        self.reports: list[FitProgress] = []

    def __repr__(self) -> str:
        return f"Trace(every={self.every})"

    def __call__(self, progress: FitProgress) -> None:
        if progress.batch is not None:
            return
        last = self.reports[-1] if self.reports else progress
        # Another fit begins, where the last one was at its end or was interrupted.
        if last.done or progress.n_iter < last.n_iter or progress.elapsed < last.elapsed:
            self.reports = []
        self.reports.append(progress)


def describe(progress: FitProgress) -> str:
    """One line: step, objective, residual, elapsed time and, at the end, the status."""
    line = f"step {progress.n_iter}  "
    if progress.batch is None or not math.isnan(progress.objective):  # not before the first step
        line += f"objective {progress.objective:.6g}  residual {progress.optimality:.1e} (tol {progress.tol:.1e})  "
    line += f"{progress.elapsed:.1f} s"
    if progress.batch is not None:
        line += f"  pass {progress.n_passes + 1}, batch {progress.batch}"
    return f"{line}  {Status[progress.status]}" if progress.done else line
