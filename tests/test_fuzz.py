"""``python -m tests.fuzz``, in a process of its own, for it may crash."""

import pathlib
import subprocess
import sys

import pytest
from helpers import slow

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("files, calls", [(100, 20), slow(10_000, 2000)])
def test_mutated_files_and_hostile_calls(files, calls):
    command = [sys.executable, "-m", "tests.fuzz", "--files", str(files), "--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3000)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
