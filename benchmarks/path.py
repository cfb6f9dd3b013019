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

N_STRENGTHS, MIN_RATIO = 100, 0.01
#: Gap that a reference has to be within: a path in float64 with a tolerance of 1e-9.
DATA = {
    "digits": partial(standardised, load_digits),
    "20000x100x5": partial(synthetic, 20_000, 100, 5, informative=0.1),
    "2000x1000x5": partial(synthetic, 2000, 1000, 5, informative=0.1),
}
TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
#: A ladder ends after a run that takes longer (seconds).
BUDGET = 60.0
FOLDER = Path(__file__).with_name("peers")
ADELIE = os.environ.get("BENCHMARK_ADELIE_PYTHON", sys.executable)


def paths(repeat: int) -> dict:
    """All tools on all data with both penalties: for each, seconds, tolerance and largest gap."""
    found = {}
    for penalty in ("lasso", "group lasso"):
        for name, make in DATA.items():
            found[f"{name}, {penalty}"] = one_path(make, penalty, repeat)
    return found


def one_path(make, penalty: str, repeat: int) -> dict:
    X, y = make()
    X, y = np.ascontiguousarray(X, np.float32), y.astype(np.int32)
    n_classes = int(y.max()) + 1
    largest = strength_of_null_model(penalty, X, y, n_classes)
    strengths = largest * np.geomspace(1, MIN_RATIO, N_STRENGTHS)
    tasks = [Task(X, y, n_classes, penalty, s) for s in strengths]
    ours, seconds = _ours(tasks[0], strengths)
    best = np.array([objective(t, *fit) for t, fit in zip(tasks, ours)])
    results = {"glmcore": {"tolerance": "default", "seconds": seconds, "fits": ours}}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), tasks[0], strengths)
        for tool, command in _commands(penalty).items():
            results[tool] = _climb(command, Path(folder), tasks, best)
    for tool, entry in results.items():
        if "fits" in entry:
            found = np.array([objective(t, *fit) for t, fit in zip(tasks, entry.pop("fits"))])
            entry["objective"] = found
    everyone = [e["objective"] for e in results.values() if "objective" in e]
    best = np.min(everyone, axis=0)
    for entry in results.values():
        if "objective" in entry:
            entry["gap"] = float(np.max((entry.pop("objective") - best) / best))
    again = [_ours(tasks[0], strengths)[1] for _ in range(repeat)]
    results["glmcore"]["seconds"] = statistics.median(again)
    return {"shape": [*X.shape, n_classes], "tools": results}


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


def _climb(command, folder: Path, tasks, best) -> dict:
    """The first rung whose path is within the gap everywhere."""
    entry = {"seconds": None}
    for tolerance in TOLERANCES:
        (n, p), n_classes = tasks[0].X.shape, tasks[0].n_classes
        words = [*command, f"{tolerance:.0e}", folder, n, p, n_classes]
        start = time.perf_counter()
        done = subprocess.run([str(w) for w in words], check=False, capture_output=True, text=True)
        if done.returncode:
            return entry | {"why": (done.stderr.splitlines() or ["failed"])[-1]}
        fits, seconds = _read(folder, p, n_classes)
        found = np.array([objective(t, *fit) for t, fit in zip(tasks, fits)])
        gap = float(np.max((found - best) / best))
        rung = [f"{tolerance:.0e}", seconds, gap]
        entry.setdefault("ladder", []).append(rung)
        print(f"  {Path(command[-1]).stem} {rung}", flush=True)
        if gap <= GAP:
            return entry | {"seconds": seconds, "tolerance": rung[0], "fits": fits}
        if time.perf_counter() - start > BUDGET:
            break
    return entry | {"why": "gap not reached"}


def _read(folder: Path, p: int, n_classes: int):
    numbers = np.fromfile(folder / "path.bin")
    seconds, rest = numbers[0], numbers[1:].reshape(N_STRENGTHS, n_classes + p * n_classes)
    fits = [(row[n_classes:].reshape(n_classes, p).T, row[:n_classes]) for row in rest]
    return fits, float(seconds)
