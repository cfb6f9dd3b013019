"""Peak memory of a fit, over a process that holds X and has fitted it before.

``python -m benchmarks.memory LABEL QUICK`` is one such process; it prints the bytes.
"""

import ctypes
import gc
import subprocess
import sys
import warnings
from pathlib import Path

from benchmarks.peers import PEERS, NotInstalled
from benchmarks.problems import problems

#: The problem, and the peers by their labels.
PROBLEM = "1000000x20x3"
LABELS = (
    "glmcore.fit",
    "ClassifierGLM",
    "scikit-learn lbfgs",
    "scikit-learn newton-cg",
    "scikit-learn-intelex lbfgs",
    "nemos LBFGS",
)
ROOT = Path(__file__).parent.parent


def peaks(quick: bool) -> dict:
    """Bytes of X, of one n x K array in its dtype, and of each peer's peak; of a missing one, why."""
    task = _problem(quick).load()
    size = task.X.dtype.itemsize * len(task.y) * task.n_classes
    found = {"x_bytes": task.X.nbytes, "predictor_bytes": size}
    for peer in PEERS:
        if peer.label not in LABELS:
            continue
        try:
            peer.version()
        except NotInstalled as missing:
            found[peer.label] = str(missing)
            continue
        command = [sys.executable, "-m", "benchmarks.memory", peer.label, str(int(quick))]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found[peer.label] = int(done.stdout)
    return found


def peak_of_fit(label: str, quick: bool) -> int:
    """Bytes that the second fit of this process adds to what it held before, at the worst moment.

    The loosest rung of the peer's ladder: what it holds does not depend on the tolerance.
    """
    task = _problem(quick).load()
    peer = next(peer for peer in PEERS if peer.label == label)
    rung = next(iter(peer.fits(task)))
    rung.run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first fit freed is not at hand for the second
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = _status("VmRSS")
    rung.run()
    return _status("VmHWM") - before


def _problem(quick):
    return next(problem for problem in problems(quick) if problem.name == PROBLEM)


def _status(field) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(peak_of_fit(sys.argv[1], bool(int(sys.argv[2]))))
