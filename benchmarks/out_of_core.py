"""A fit of data on disk: time of a pass beside reading the file once, and memory that is not the file's.

``python -m benchmarks.out_of_core FOLDER ROWS`` is the process that fits; it prints JSON.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

import glmcore

N_ROWS, P, N_CLASSES, STRENGTH = 40_000_000, 50, 3, 1e-3
#: Rows that are made at a time, and those of a batch.
PART = 1_000_000
ROOT = Path(__file__).parent.parent


def out_of_core(quick: bool) -> dict:
    """Make the data, fit them in a process of its own, and judge the answer.

    The file is in the cache of the operating system if it fits there: ``cat`` has just read it.
    """
    n_rows = N_ROWS // 50 if quick else N_ROWS
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), n_rows)
        reads = [_cat(Path(folder, "X")) for _ in range(2)]
        words = [sys.executable, "-m", "benchmarks.out_of_core", folder, str(n_rows)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        found["cat_s"] = min(*reads, _cat(Path(folder, "X")))
        found["gap"] = _gap(Path(folder), n_rows, found.pop("coef"), found.pop("intercept"))
    return found


def _make(folder: Path, n_rows: int) -> None:
    """Gaussian features of mean 1 and labels drawn from a softmax model, in files X and y."""
    coef = np.random.default_rng(0).standard_normal((P, N_CLASSES), np.float32) * 2 / np.sqrt(P)
    with (folder / "X").open("wb") as features, (folder / "y").open("wb") as labels:
        for start in range(0, n_rows, PART):
            rng = np.random.default_rng(1 + start)
            size = min(PART, n_rows - start)
            X = 1 + rng.standard_normal((size, P), np.float32)
            X.tofile(features)
            noise = rng.gumbel(size=(size, N_CLASSES))
            np.argmax(X @ coef + noise, axis=1).astype(np.int8).tofile(labels)


def _cat(path: Path) -> float:
    start = time.perf_counter()
    with path.open("rb") as file:
        subprocess.run(["cat"], stdin=file, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _data(folder: Path, n_rows: int):
    X = np.memmap(folder / "X", np.float32, "r", shape=(n_rows, P))
    return X, np.memmap(folder / "y", np.int8, "r", shape=(n_rows,))


def _parts(X, y):
    for start in range(0, len(y), PART):
        yield X[start : start + PART], y[start : start + PART]


def _gap(folder: Path, n_rows: int, coef, intercept) -> float:
    """Relative distance of the objective to its minimum, in float64 NumPy.

    That is half the squared gradient in the inverse Hessian (the Newton decrement), up to what is
    of the third order in the way that is left.  The Hessian is that of the first million rows.
    """
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    total, slope, hessian = 0.0, 0.0, None
    for X, y in _parts(*_data(folder, n_rows)):
        X = np.column_stack([X, np.ones(len(y))])
        log_proba = log_softmax(X[:, :-1] @ coef + intercept, axis=1)
        proba, rows = np.exp(log_proba), np.arange(len(y))
        total -= np.sum(log_proba[rows, y])
        hessian = _hessian(X, proba) if hessian is None else hessian
        proba[rows, y] -= 1
        slope = slope + proba.T @ X
    penalised = STRENGTH * np.append(np.ones(P), 0)
    gradient = (slope / n_rows + penalised * np.column_stack([coef.T, intercept])).ravel()
    hessian = hessian + np.diag(np.tile(penalised, N_CLASSES))
    step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
    best = total / n_rows + STRENGTH / 2 * np.sum(coef**2)
    return float(gradient @ step / 2 / best)


def _hessian(X, proba):
    """Of the mean negative log-likelihood, in coefficients and intercept class by class."""
    blocks = [
        [(proba[:, k] * ((k == other) - proba[:, other]) * X.T) @ X / len(X) for other in range(N_CLASSES)]
        for k in range(N_CLASSES)
    ]
    return np.block(blocks)


class Memory:
    """Watches the anonymous resident memory of this process."""

    def __init__(self):
        self.peak, self._done = 0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not self._done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            found = next(line for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, 1024 * int(found.split()[1]))


def main(folder: str, n_rows: str) -> None:
    """Fit, and tell how long the passes took."""
    X, y = _data(Path(folder), int(n_rows))
    begins = []

    def batches():
        begins.append(time.perf_counter())
        return _parts(X, y)

    model, memory = glmcore.GLM(glmcore.Categorical(N_CLASSES), glmcore.Ridge(STRENGTH)), Memory()
    glmcore.fit_batches(model, [(X[:PART], y[:PART])])  # compiles
    begins.clear()
    result = glmcore.fit_batches(model, batches)
    begins.append(time.perf_counter())
    passes = np.diff(begins)[1:]  # the first looks at one batch
    report = {
        "shape": [*X.shape, N_CLASSES],
        "bytes": X.nbytes,
        "status": glmcore.status_name(result.status),
        "n_iter": int(result.n_iter),
        "first_passes_s": passes[:1].tolist(),
        "passes_s": passes[1:].tolist(),
        "seconds": begins[-1] - begins[0],
        "anonymous_bytes": memory.peak,
        "coef": np.asarray(result.params.coef).tolist(),
        "intercept": np.asarray(result.params.intercept).tolist(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
