"""What the memory bus allows: a step of a solver has to read X twice, forward and back."""

import time

import jax
import jax.numpy as jnp

import glmcore
from benchmarks.peers.core import model

_sum = jax.jit(jnp.sum)

#: Steps of the shorter of the two fits whose difference is the time of a step.
STEPS = 4


def two_reads(X, repeat: int) -> float:
    """Twice the seconds of a plain sum over X."""
    X = jnp.asarray(X)
    _sum(X).block_until_ready()
    return 2 * min(_seconds(_sum, X)[0] for _ in range(repeat))


def step_beside_floor(problem, repeat: int) -> dict:
    """Seconds of one solver step of glmcore's default solver, and of two reads of X.

    The step is the difference between two fits, stopped after ``STEPS`` and twice as many steps,
    divided by the steps that they are apart; the sums are timed in turns with them.  Of each the
    least is taken: what else the machine does only adds, and of two medians more than their difference.
    """
    task = problem.load()
    X, y, penalised = jnp.asarray(task.X), jnp.asarray(task.y), model(task)

    def run(steps):
        solver = glmcore.LBFGS(tol=1e-30, maxiter=steps)
        return glmcore.fit(penalised, X, y, solver=solver)

    run(STEPS)
    short, long, floor = [], [], []
    for _ in range(repeat):
        seconds, fewer = _seconds(run, STEPS)
        short.append(seconds)
        seconds, more = _seconds(run, 2 * STEPS)
        long.append(seconds)
        floor.append(two_reads(X, 3))
    apart = int(more.n_iter) - int(fewer.n_iter)
    step = (min(long) - min(short)) / apart if apart else None
    floor = min(floor)
    return {"step_s": step, "two_reads_s": floor, "bytes_per_s": 2 * task.X.nbytes / floor}


def _seconds(function, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, result
