"""A callback that shows how a fit proceeds."""

import sys
import time
from typing import Any, Optional

from glmcore.results import FitProgress
from glmcore.status import Status


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
    step ...  objective 0.6...  residual ...e-0... (tol 3.0e-06)  ... s  converged
    """

    def __init__(self, interval: float = 10.0, file: Any = None):
        self.interval = interval
        self.file = file
        self._last: Optional[float] = None

    def __repr__(self) -> str:
        return f"Progress(interval={self.interval})"

    def __call__(self, progress: FitProgress) -> None:
        file = sys.stderr if self.file is None else self.file
        line = describe(progress)
        if file.isatty():
            print("\r\033[K" + line, end="\n" if progress.done else "", file=file, flush=True)
            return
        now = time.monotonic()
        if self._last is None:
            self._last = now
        if progress.done or now - self._last >= self.interval:
            self._last = None if progress.done else now
            print(line, file=file, flush=True)


def describe(progress: FitProgress) -> str:
    """One line: step, objective, residual, elapsed time and, at the end, the status."""
    line = (
        f"step {progress.n_iter}  objective {progress.objective:.6g}  "
        f"residual {progress.optimality:.1e} (tol {progress.tol:.1e})  {progress.elapsed:.1f} s"
    )
    if progress.batch is not None:
        line += f"  pass {progress.n_passes + 1}, batch {progress.batch}"
    return f"{line}  {Status[progress.status]}" if progress.done else line
