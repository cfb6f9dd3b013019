"""Two processes of one core each beside one process of one core, which see half the rows each.

``python -m benchmarks.two_processes RANK N_PROCESSES PORT N_ROWS REPEAT`` is one of them, held to
the core RANK; it prints JSON.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import glmcore
from benchmarks.objective import objective
from benchmarks.problems import Task, synthetic

N_ROWS, P, N_CLASSES, STRENGTH = 1_000_000, 100, 5, 1e-3
#: Steps of the shorter of the two fits whose difference is the time of a step.
STEPS = 4
ROOT = Path(__file__).parent.parent


def two_processes(quick: bool, repeat: int) -> dict:
    """Seconds of a step of one and of two processes, and how far their answers are apart: the
    objectives in float64, and the coefficients, both relative."""
    n_rows = N_ROWS // 50 if quick else N_ROWS
    one, two = _processes(1, n_rows, repeat), _processes(2, n_rows, repeat)
    task = Task(*synthetic(n_rows, P, N_CLASSES), N_CLASSES, "ridge", STRENGTH)
    answers = [[np.asarray(found.pop(name)) for name in ("coef", "intercept")] for found in (one, two)]
    value, other = (objective(task, *answer) for answer in answers)
    (coef, _), (other_coef, _) = answers
    return {
        "shape": [n_rows, P, N_CLASSES],
        "one": one,
        "two": two,
        "objective_apart": abs(other - value) / value,
        "coef_apart": float(np.linalg.norm(other_coef - coef) / np.linalg.norm(coef)),
    }


def _processes(n_processes: int, n_rows: int, repeat: int) -> dict:
    """What the first of so many processes reports."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = []
    for rank in range(n_processes):
        words = [sys.executable, "-m", "benchmarks.two_processes", *map(str, (rank, n_processes, port, n_rows, repeat))]
        running.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"a process failed: {[process.returncode for process in running]}")
    return json.loads(said[0].splitlines()[-1])


def main(rank: int, n_processes: int, port: int, n_rows: int, repeat: int) -> None:
    """Fit the rows of one of the processes and print what it took."""
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[rank]])  # before JAX starts its threads
    if n_processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", n_processes, rank)
    X, y = synthetic(n_rows, P, N_CLASSES)
    rows = slice(rank * n_rows // n_processes, (rank + 1) * n_rows // n_processes)
    Xs, ys, weight = glmcore.shard_rows(X[rows], y[rows])
    del X
    model = glmcore.GLM(glmcore.Categorical(N_CLASSES), glmcore.Ridge(STRENGTH))

    def fit(**settings):
        start = time.perf_counter()
        result = glmcore.fit(model, Xs, ys, solver=glmcore.LBFGS(**settings), sample_weight=weight)
        jax.block_until_ready(result)
        return time.perf_counter() - start, result

    fit(tol=1e-30, maxiter=STEPS)
    short, long, fits = [], [], []
    for _ in range(2 * repeat):
        seconds, fewer = fit(tol=1e-30, maxiter=STEPS)
        short.append(seconds)
        seconds, more = fit(tol=1e-30, maxiter=2 * STEPS)
        long.append(seconds)
        seconds, result = fit()
        fits.append(seconds)
    report = {
        # What else the machine does adds to either time, and so to their difference with any sign.
        "step_s": (min(long) - min(short)) / (int(more.n_iter) - int(fewer.n_iter)),
        "fit_s": statistics.median(fits),
        "n_iter": int(result.n_iter),
        "coef": np.asarray(result.params.coef).tolist(),
        "intercept": np.asarray(result.params.intercept).tolist(),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
