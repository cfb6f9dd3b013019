"""nemos' ClassifierGLM, one peer a solver: L-BFGS and its default for smooth penalties.

Its objective is that of the benchmark.  It makes a new solver at every fit and so compiles at every
fit; what is timed is a fit of a process in which the same fit was done before.
"""

from functools import partial

import numpy as np

from benchmarks.peers.base import Fit, Peer, Rung, half_decades, installed

REGULARIZERS = {"ridge": "Ridge", "lasso": "Lasso"}


def estimator(task, solver, tol):
    from nemos.glm import ClassifierGLM

    return ClassifierGLM(
        task.n_classes,
        regularizer=REGULARIZERS[task.penalty],
        regularizer_strength=task.strength,
        solver_name=solver,
        solver_kwargs={"tol": tol, "maxiter": 10_000},
    )


def _fit(solver, task, tol) -> Fit:
    fitted = estimator(task, solver, tol).fit(task.X, task.y)
    return Fit(np.asarray(fitted.coef_), np.asarray(fitted.intercept_), _steps(fitted))


def _steps(fitted):
    """Steps, which the states of its solvers name differently."""
    state = fitted.solver_state_
    found = getattr(state, "num_steps", getattr(state, "step", None))
    return None if found is None else int(found)


def _fits(solver, task):
    for tol in half_decades(4, 8):
        yield Rung(f"{tol:.0e}", partial(_fit, solver, task, tol))


def _applies(solver, task) -> str:
    if task.penalty == "group lasso":
        return "no group of the K coefficients of a feature"
    sparse = task.penalty == "lasso"
    return "" if sparse == (solver == "ProximalGradient") else f"not for {task.penalty}"


PEERS = [
    Peer("nemos", solver, partial(installed, "nemos"), partial(_fits, solver), partial(_applies, solver))
    for solver in ("LBFGS", "GradientDescent", "ProximalGradient")
]
