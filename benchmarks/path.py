"""Whole regularisation paths: time in which every strength is within the gap.

Each tool runs the same 100 strengths, from the least one at which all coefficients are zero to a
hundredth of it, and climbs its own ladder of tolerances.  ``glmcore`` runs with its default.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import glmcore
from benchmarks.objective import objective, strength_of_null_model
from benchmarks.peers.core import PENALTIES
from benchmarks.problems import Task, load_digits, standardised, synthetic
from benchmarks.race import GAP

N_STRENGTHS, QUICK_STRENGTHS, MIN_RATIO = 100, 10, 0.01
DATA = {
    "digits": partial(standardised, load_digits),
    "20000x100x5": partial(synthetic, 20_000, 100, 5, informative=0.1),
    "2000x1000x5": partial(synthetic, 2000, 1000, 5, informative=0.1),
}
#: Name, how the data are made, and the penalty.
PATHS = {
    f"path-{name}-{penalty.replace(' ', '-')}": (make, penalty)
    for penalty in ("lasso", "group lasso")
    for name, make in DATA.items()
}
TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
#: A ladder ends after a run that takes longer (seconds).
BUDGET = 60.0
FOLDER = Path(__file__).with_name("peers")
ADELIE = os.environ.get("BENCHMARK_ADELIE_PYTHON", sys.executable)


def path(name: str, repeat: int, quick: bool) -> dict:
    """Seconds, tolerance and largest gap of all tools on one of ``PATHS``; ``quick``: with ten
    strengths."""
    make, penalty = PATHS[name]
    X, y = make()
    X, y = np.ascontiguousarray(X, np.float32), y.astype(np.int32)
    n_classes = int(y.max()) + 1
    largest = strength_of_null_model(penalty, X, y, n_classes)
    strengths = largest * np.geomspace(1, MIN_RATIO, QUICK_STRENGTHS if quick else N_STRENGTHS)
    tasks = [Task(X, y, n_classes, penalty, s) for s in strengths]
    ours, cold = _ours(tasks[0], strengths)
    times = [_ours(tasks[0], strengths)[1] for _ in range(repeat)]
    answers = {"glmcore": _objectives(tasks, ours)}
    tools = {"glmcore": {"seconds": statistics.median(times), "cold": cold}}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), tasks[0], strengths)
        for tool, command in _commands(penalty).items():
            tools[tool], answers[tool] = _climb(command, Path(folder), tasks, answers["glmcore"])
    best = np.min(list(answers.values()), axis=0)
    for tool, found in answers.items():
        tools[tool]["gap"] = _gap(found, best)
    return {"shape": [*X.shape, n_classes], "tools": tools}


def _objectives(tasks, fits) -> np.ndarray:
    return np.array([objective(task, *fit) for task, fit in zip(tasks, fits)])


def _gap(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.max((found - best) / best))


def _ours(task: Task, strengths: np.ndarray):
    model = glmcore.GLM(glmcore.Categorical(task.n_classes), PENALTIES[task.penalty](1.0))
    start = time.perf_counter()
    path = glmcore.regularization_path(model, task.X, task.y, strengths)
    coef, intercept = np.asarray(path.params.coef), np.asarray(path.params.intercept)
    return list(zip(coef, intercept)), time.perf_counter() - start


def _write(folder: Path, task: Task, strengths: np.ndarray) -> None:
    task.X.astype(np.float64).T.tofile(folder / "X.bin")
    task.y.astype(np.int32).tofile(folder / "y.bin")
    strengths.astype(np.float64).tofile(folder / "strengths.bin")


def _commands(penalty: str) -> dict:
    """How each peer that is there is called; it writes seconds, intercepts and coefficients."""
    commands = {}
    if shutil.which("Rscript"):
        kind = "grouped" if penalty == "group lasso" else "ungrouped"
        commands["glmnet"] = ["Rscript", str(FOLDER / "glmnet_path.R"), kind]
    if penalty == "group lasso":
        installed = subprocess.run([ADELIE, "-c", "import adelie"], capture_output=True, check=False)
        if installed.returncode == 0:
            commands["adelie"] = [ADELIE, "-I", str(FOLDER / "adelie_path.py")]
    return commands


def _climb(command, folder: Path, tasks, best) -> tuple[dict, np.ndarray]:
    """The first rung whose path is within the gap everywhere, else the last one; its objectives."""
    ladder, (n, p), n_classes = [], tasks[0].X.shape, tasks[0].n_classes
    for tolerance in TOLERANCES:
        words = [*command, f"{tolerance:.0e}", folder, n, p, n_classes]
        done = subprocess.run([str(w) for w in words], check=False, capture_output=True, text=True)
        if done.returncode:
            break
        fits, seconds = _read(folder, len(tasks), p, n_classes)
        found = _objectives(tasks, fits)
        ladder.append([f"{tolerance:.0e}", seconds, _gap(found, best)])
        print(f"  {Path(command[1]).stem} {ladder[-1]}", flush=True)
        if ladder[-1][2] <= GAP or seconds > BUDGET:
            break
    if not ladder:
        raise RuntimeError(done.stderr)
    tolerance, seconds, _ = ladder[-1]
    return {"seconds": seconds, "tolerance": tolerance, "ladder": ladder}, found


def _read(folder: Path, n_strengths: int, p: int, n_classes: int):
    numbers = np.fromfile(folder / "path.bin")
    seconds, rest = numbers[0], numbers[1:].reshape(n_strengths, n_classes + p * n_classes)
    fits = [(row[n_classes:].reshape(n_classes, p).T, row[:n_classes]) for row in rest]
    return fits, float(seconds)
