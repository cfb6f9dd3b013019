"""What the fuzzers and the test that kills a fit have to say, each run in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_KILLS = ("-m", "pytest", "-q", "-s", "-n", "0", "-m", "", "tests/test_checkpoint.py", "-k", "killed")
#: What is told of all that they print.
_COUNTS = ("mutated files", "hostile calls", "killed ")


def robustness(quick: bool) -> list[str]:
    """One sentence each, in which they count.

    Raises
    ------
    subprocess.CalledProcessError
        If one of them finds a fault.
    """
    fuzz = ["-m", "tests.fuzz", *(["--files", "200", "--calls", "40"] if quick else [])]
    said = [line for command in (fuzz, _KILLS) for line in _run(command)]
    return [line for line in said if any(count in line for count in _COUNTS)]


def _run(command) -> list[str]:
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
