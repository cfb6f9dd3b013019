"""scikit-learn-intelex: scikit-learn's LogisticRegression on Intel's oneDAL (x86 only).

Objective and parameters are those of scikit-learn; at the same tolerance it goes further, so its
ladder starts looser.  Only ``lbfgs`` is accelerated, and nothing is patched: its class is imported
under its own name.
"""

from functools import partial

from benchmarks.peers.base import Peer, installed
from benchmarks.peers.scikit_learn import IN_FLOAT64, ladder


def _fits(solver, task):
    from sklearnex.linear_model import LogisticRegression

    yield from ladder(LogisticRegression, solver, task, loosest=0)


def _applies(task) -> str:
    return "" if task.penalty == "ridge" else f"no {task.penalty}"


PEERS = [
    Peer(
        "scikit-learn-intelex",
        "lbfgs" + suffix,
        partial(installed, "scikit-learn-intelex"),
        partial(_fits, "lbfgs" + suffix),
        _applies,
        instead_of="scikit-learn-intelex lbfgs" if suffix else "",
    )
    for suffix in ("", IN_FLOAT64)
]
