"""scikit-learn-intelex: scikit-learn's LogisticRegression on Intel's oneDAL (x86 only).

Objective, parameters and ladder are those of scikit-learn.  Only ``lbfgs`` is accelerated, and
nothing is patched: its class is imported under its own name.
"""

from functools import partial

from benchmarks.peers.base import Peer, installed
from benchmarks.peers.scikit_learn import ladder


def _fits(solver, task):
    from sklearnex.linear_model import LogisticRegression

    yield from ladder(LogisticRegression, solver, task)


def _applies(task) -> str:
    return "" if task.penalty == "ridge" else f"no {task.penalty}"


PEERS = [
    Peer(
        "scikit-learn-intelex",
        solver,
        partial(installed, "scikit-learn-intelex"),
        partial(_fits, solver),
        _applies,
    )
    for solver in ("lbfgs", "lbfgs float64")
]
