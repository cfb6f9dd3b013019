"""What happens again: one step on a batch, and fits whose number of rows changes."""

import statistics
import time
from functools import partial

import jax
import numpy as np

from benchmarks.peers import NotInstalled, face, nemos
from benchmarks.peers.base import installed
from benchmarks.race import warm_up

#: Steps that are timed.
UPDATES = 20
#: Row counts of the fits whose compilations are counted.
ROWS = np.linspace(90, 130, 20).astype(int)


def updates(problem, repeat: int) -> dict:
    """Median seconds of one ``update`` of ClassifierGLM and of nemos on the data of a problem."""
    task = problem.load()
    tools = {"ClassifierGLM": partial(face.estimator, task)}
    try:
        installed("nemos")
        tools["nemos"] = partial(nemos.estimator, task, "GradientDescent", 1e-6)
    except NotInstalled as missing:
        return {"ClassifierGLM": _update(tools["ClassifierGLM"](), task), "nemos": str(missing)}
    times = {name: [] for name in tools}
    for _ in range(repeat):
        for name, estimator in tools.items():
            times[name].append(_update(estimator(), task))
    return {name: statistics.median(found) for name, found in times.items()}


def _update(estimator, task) -> float:
    """Seconds of one step, median over ``UPDATES`` of them."""
    estimator.set_classes(task.y)
    params = estimator.initialize_params(task.X, task.y)
    if hasattr(estimator, "initialize_optimizer_and_state"):
        state = estimator.initialize_optimizer_and_state(params, task.X, task.y)
    else:  # nemos up to 0.2.8
        state = estimator.initialize_solver_and_state(task.X, task.y, params)

    def step():
        nonlocal params, state
        params, state, *_ = estimator.update(params, state, task.X, task.y)
        jax.block_until_ready((params, state))

    warm_up(step)
    times = []
    for _ in range(UPDATES):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compilations(problem) -> dict:
    """Programs that 20 fits at 20 row counts from 90 to 130 compile, the first one included."""
    task = problem.load()
    rows = np.random.default_rng(0).permutation(len(task.y))
    parts = [task._replace(X=task.X[rows[:n]], y=task.y[rows[:n]]) for n in ROWS]
    found = {"ClassifierGLM": _compiled([face.PEERS[0].fits(part) for part in parts])}
    try:
        installed("nemos")
    except NotInstalled as missing:
        return {**found, "nemos": str(missing)}
    return {**found, "nemos": _compiled([nemos.PEERS[0].fits(part) for part in parts])}


def _compiled(fits) -> int:
    """How many programs XLA compiles for the first rung of each ladder."""
    count = 0

    def listen(event, duration, **_):
        nonlocal count
        count += event.endswith("backend_compile_duration")

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for ladder in fits:
            next(iter(ladder)).run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count
