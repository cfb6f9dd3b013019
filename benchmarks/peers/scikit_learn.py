"""scikit-learn's LogisticRegression, one peer a solver and dtype.

It minimises ``C * sum_i NLL_i + (1 - r)/2 * sum w^2 + r * sum abs(w)``: the objective of the
benchmark times C n, with C = 1/(n s) and r = ``l1_ratio`` 0 (ridge) or 1 (lasso); of two classes it
has one row of coefficients, whose halves with either sign cost half as much in ridge.  It computes in
the dtype of X.  Where a solver misses the gap in float32 it gets X in float64; the conversion is part
of its time.
"""

from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.peers.base import Fit, Peer, Rung, half_decades, installed

#: Size of a Newton system, p K, above which its Cholesky factor costs more than a whole other fit.
MOST_NEWTON = 1000


#: Added to the name of a solver that converts X first.
IN_FLOAT64 = " float64"


def ladder(estimator, solver, task, loosest=2):
    """The rungs, from a tolerance of 10^-loosest, of an estimator with scikit-learn's parameters
    and attributes."""
    name = solver.removesuffix(IN_FLOAT64)
    dtype = task.X.dtype if name == solver else np.float64
    for tol in half_decades(loosest, 7):
        yield Rung(f"{tol:.0e}", partial(_fit, estimator, name, dtype, task, tol))


def _fit(estimator, solver, dtype, task, tol) -> Fit:
    halved = task.n_classes == 2 and task.penalty == "ridge"
    fitted = estimator(
        C=(2 if halved else 1) / (len(task.y) * task.strength),
        l1_ratio=float(task.penalty == "lasso"),
        solver=solver,
        tol=tol,
        max_iter=10_000,
    ).fit(task.X.astype(dtype, copy=False), task.y)
    coef, intercept = fitted.coef_.T, fitted.intercept_
    if task.n_classes == 2:
        coef, intercept = (np.concatenate([-part / 2, part / 2], axis=-1) for part in (coef, intercept))
    return Fit(coef, intercept, int(np.max(fitted.n_iter_)))


def applies(solver, task) -> str:
    """Why a solver is not run on a task, or ""."""
    if task.penalty not in ("ridge", "lasso"):
        return f"no {task.penalty}"
    name = solver.removesuffix(IN_FLOAT64)
    if task.penalty == "lasso":
        return "" if name == "saga" else "no lasso with this solver"
    if name == "saga":
        return "only where no other solver does it: 100 times slower than they on digits"
    if name == "newton-cholesky" and task.X.shape[1] * task.n_classes > MOST_NEWTON:
        return "Hessian too large"
    return ""


PEERS = [
    Peer(
        "scikit-learn",
        solver + suffix,
        partial(installed, "scikit-learn"),
        partial(ladder, LogisticRegression, solver + suffix),
        partial(applies, solver + suffix),
        instead_of=f"scikit-learn {solver}" if suffix else "",
    )
    for solver in ("lbfgs", "newton-cg", "newton-cholesky", "saga")
    for suffix in ("", IN_FLOAT64)
]
