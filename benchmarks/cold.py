"""The first fit: from the start of a process to predictions for iris, imports included."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import NotInstalled
from benchmarks.peers.base import installed

_LOAD = "import numpy as np; X, y = np.load('X.npy'), np.load('y.npy')\n"

_CORE = """
import glmcore
import jax.numpy as jnp
model = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(1e-3))
params = glmcore.fit(model, X, y).params
labels = np.asarray(jnp.argmax(model.linear_predictor(params, X), axis=1))
"""
_FACE = """
from glmcore_sklearn import ClassifierGLM
labels = ClassifierGLM(3, regularizer_strength=1e-3).fit(X, y).predict(X)
"""
_SCIKIT_LEARN = """
from sklearn.linear_model import LogisticRegression
labels = LogisticRegression(C=1 / 0.15, solver="newton-cg").fit(X, y).predict(X)
"""
_NEMOS = """
from nemos.glm import ClassifierGLM
model = ClassifierGLM(3, regularizer="Ridge", regularizer_strength=1e-3)
labels = np.asarray(model.fit(X, y).predict(X))
"""

#: Name, distribution that it needs, program, and whether JAX keeps compiled programs on disk.
PROGRAMS = [
    ("glmcore.fit", "glmcore", _CORE, False),
    ("glmcore.fit, JAX cache", "glmcore", _CORE, True),
    ("ClassifierGLM", "glmcore", _FACE, False),
    ("ClassifierGLM, JAX cache", "glmcore", _FACE, True),
    ("scikit-learn", "scikit-learn", _SCIKIT_LEARN, False),
    ("nemos", "nemos", _NEMOS, False),
]

ROOT = Path(__file__).parent.parent


def cold_starts(problem, repeat: int) -> dict:
    """Median seconds of fresh processes that load, fit and predict; of a missing tool, why.

    The programs alternate.  Each runs once before, so that files are in memory and, where JAX
    keeps one, its cache is filled.
    """
    task, seconds, missing = problem.load(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "X.npy"), task.X)
        np.save(Path(folder, "y.npy"), task.y)
        for turn in range(1 + repeat):
            for name, distribution, program, cached in PROGRAMS:
                try:
                    installed(distribution)
                except NotInstalled as reason:
                    missing[name] = str(reason)
                    continue
                took = _process(_LOAD + program, folder, cached)
                if turn:
                    seconds.setdefault(name, []).append(took)
    return {**{name: statistics.median(times) for name, times in seconds.items()}, **missing}


def _process(program, folder, cached) -> float:
    """Seconds from start to end of a Python process that runs ``program`` in ``folder``."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    for name in ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    if cached:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "cache")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    return time.perf_counter() - start
