"""Fits in a process of their own, for peers that are not Python or need other versions of NumPy."""

import struct
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

from benchmarks.peers.base import Fit


class Files:
    """A task as raw float64 and int32 columns in a folder of its own, which goes with the object.

    ``X.bin`` is column-major, as R and adelie want it; ``y.bin`` counts classes from 0.
    """

    def __init__(self, task):
        self.task = task
        self.folder = Path(tempfile.mkdtemp(prefix="benchmark"))
        weakref.finalize(self, _remove, self.folder)
        task.X.astype(np.float64).T.tofile(self.folder / "X.bin")
        task.y.astype(np.int32).tofile(self.folder / "y.bin")

    def run(self, *command) -> Fit:
        """Run ``command`` with the folder and the shape as its last arguments.

        It writes ``fit.bin``: float64 seconds and number of steps, the intercept, and coef by
        columns.  The seconds are those of the fit alone, without starting and reading files.
        """
        (n, p), n_classes = self.task.X.shape, self.task.n_classes
        words = [str(word) for word in (*command, self.folder, n, p, n_classes)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "Error" in line]
            raise RuntimeError(said[-1] if said else f"{command[0]} failed without an error message")
        raw = (self.folder / "fit.bin").read_bytes()
        seconds, n_iter = struct.unpack("2d", raw[:16])
        numbers = np.frombuffer(raw[16:])
        coef = numbers[n_classes:].reshape(n_classes, p).T
        return Fit(coef, numbers[:n_classes], int(n_iter) or None, seconds)


def _remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
