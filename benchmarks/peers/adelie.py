"""adelie: block coordinate descent on the group lasso, groups being the features.

It minimises ``mean_i NLL_i / K + lambda * sum_j sqrt(K) |w_j|_2``, so lambda = s/K; a lasso with one
group a coefficient it does not offer for multinomial models.  It needs NumPy 1, so it runs under the
interpreter that the environment variable ``BENCHMARK_ADELIE_PYTHON`` names (default: this one).
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.peers.base import NotInstalled, Peer, Rung, half_decades
from benchmarks.peers.elsewhere import Files

PYTHON = os.environ.get("BENCHMARK_ADELIE_PYTHON", sys.executable)
#: Run with -I, or its "import adelie" would find this file.
SCRIPT = Path(__file__).with_name("adelie_fit.py")


def _version() -> str:
    command = [PYTHON, "-c", "import importlib.metadata as m; print(m.version('adelie'))"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        raise NotInstalled("adelie is not installed")
    return found.stdout.strip()


def _fits(task):
    files = Files(task)
    for tol in half_decades(5, 12):
        yield Rung(f"{tol:.0e}", partial(files.run, PYTHON, "-I", SCRIPT, tol, task.strength))


def _applies(task) -> str:
    return "" if task.penalty == "group lasso" else f"no {task.penalty} with several classes"


PEERS = [Peer("adelie", "", _version, _fits, _applies)]
