"""glmnet in R, by Rscript: coordinate descent on the lasso and the group lasso.

It minimises ``mean_i NLL_i + lambda * sum abs(w)`` (ungrouped) or ``lambda * sum_j |w_j|_2``
(grouped by feature, without the factor sqrt(K)), so lambda = s and s sqrt(K); its columns are not
standardised.  It is made for paths and warns against single strengths, so besides the strength
alone there is a ladder of paths of ten strengths that end there.
"""

import shutil
import subprocess
from functools import partial
from pathlib import Path

from benchmarks.objective import strength_of_null_model
from benchmarks.peers.base import NotInstalled, Peer, Rung, half_decades
from benchmarks.peers.elsewhere import Files

SCRIPT = Path(__file__).with_name("glmnet.R")


def _version() -> str:
    if shutil.which("Rscript") is None:
        raise NotInstalled("Rscript is not installed")
    command = ["Rscript", "-e", 'cat(as.character(packageVersion("glmnet")))']
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        raise NotInstalled("R has no package glmnet")
    return found.stdout


def _fits(length, task):
    largest = strength_of_null_model(task.penalty, task.X, task.y, task.n_classes)
    factor, kind = 1.0, "ungrouped"
    if task.penalty == "group lasso":
        factor, kind = task.n_classes**0.5, "grouped"
    files = Files(task)
    for tol in half_decades(5, 12):
        words = (SCRIPT, kind, length, tol, factor * largest, factor * task.strength)
        yield Rung(f"{tol:.0e}", partial(files.run, "Rscript", *words))


def _applies(task) -> str:
    return "" if "lasso" in task.penalty else "for sparse penalties"


PEERS = [
    Peer("glmnet", solver, _version, partial(_fits, length), _applies)
    for solver, length in [("one strength", 1), ("path of 10", 10)]
]
