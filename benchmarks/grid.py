"""Choosing the strength: 20 values of C in 5 folds of the digits, beside scikit-learn's own on two processes."""

import statistics
import time

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
            "glmcore": _time(search(glmcore_sklearn, Cs, None), X.astype(dtype), y, repeat),
            "scikit-learn": _time(search(linear_model, Cs, 2), X.astype(dtype), y, repeat),
        }
        for name, search in (("LogisticRegressionCV", _cv), ("GridSearchCV", _grid_search))
        for dtype in ("float64", "float32")
    }


def _cv(package, Cs, n_jobs):
    return package.LogisticRegressionCV(
        Cs=Cs,
        l1_ratios=(0,),
        cv=N_FOLDS,
        scoring="neg_log_loss",
        max_iter=1000,
        n_jobs=n_jobs,
        use_legacy_attributes=False,
    )


def _grid_search(package, Cs, n_jobs):
    model = package.LogisticRegression(max_iter=1000)
    return GridSearchCV(model, {"C": Cs}, cv=N_FOLDS, scoring="neg_log_loss", n_jobs=n_jobs)


def _time(search, X, y, repeat: int) -> dict:
    times = []
    for _ in range(1 + repeat):
        start = time.perf_counter()
        search.fit(X, y)
        times.append(time.perf_counter() - start)
    C = search.best_params_["C"] if hasattr(search, "best_params_") else search.C_
    return {"cold": times[0], "seconds": statistics.median(times[1:]), "C": float(C)}
