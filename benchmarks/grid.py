"""Choosing the strength: 20 values of C in 5 folds of the digits, beside scikit-learn's own.

Both on two cores: scikit-learn in two processes, as is its default, ours in two threads, which share
what is compiled.
"""

import statistics
import time

import joblib
import numpy as np
from sklearn import linear_model
from sklearn.model_selection import GridSearchCV

import glmcore_sklearn
from benchmarks.problems import load_digits, standardised

CS, N_FOLDS = np.logspace(-4, 4, 20), 5


def grids(repeat: int, quick: bool) -> dict:
    """Seconds of the first and of later runs, and the C that is chosen, a dict a search."""
    Cs = CS[::4] if quick else CS
    X, y = standardised(load_digits)
    return {
        f"{name}, {dtype}": {
            "glmcore": _time(search(glmcore_sklearn, Cs), "threading", X.astype(dtype), y, repeat),
            "scikit-learn": _time(search(linear_model, Cs), "loky", X.astype(dtype), y, repeat),
        }
        for name, search in (("LogisticRegressionCV", _cv), ("GridSearchCV", _grid_search))
        for dtype in ("float64", "float32")
    }


def _cv(package, Cs):
    return package.LogisticRegressionCV(
        Cs=Cs,
        l1_ratios=(0,),
        cv=N_FOLDS,
        scoring="neg_log_loss",
        max_iter=1000,
        n_jobs=2,
        use_legacy_attributes=False,
    )


def _grid_search(package, Cs):
    model = package.LogisticRegression(max_iter=1000)
    return GridSearchCV(model, {"C": Cs}, cv=N_FOLDS, scoring="neg_log_loss", n_jobs=2)


def _time(search, backend: str, X, y, repeat: int) -> dict:
    times = []
    for _ in range(1 + repeat):
        start = time.perf_counter()
        with joblib.parallel_config(backend):
            search.fit(X, y)
        times.append(time.perf_counter() - start)
    C = search.best_params_["C"] if hasattr(search, "best_params_") else search.C_
    return {"cold": times[0], "seconds": statistics.median(times[1:]), "C": float(C)}
