"""Rows on several devices and in several processes, each in processes of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import model, relative_error, slow
from two_processes import FIRST, K, data

import glmcore

TESTS = pathlib.Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


@pytest.mark.parametrize("which", ["not slow", slow("slow")])
def test_eight_devices_of_one_process(which):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", which, "-p", "no:cacheprovider", str(TESTS / "eight_devices.py")]
    environment = {**ENVIRONMENT, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, timeout=1000)
    assert done.returncode == 0, done.stdout[-5000:]


def run_two(folder):
    """What the two processes print, a line a list entry; the second is killed midway."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(TESTS / "two_processes.py")]
    logs = [folder / "0", folder / "1"]
    environment = {**ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
    both = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as out:
                call = [*command, str(rank), port, str(folder / "checkpoint")]
                both.append(subprocess.Popen(call, stdout=out, stderr=subprocess.STDOUT, env=environment))
        # It ends by itself, and not well, though the other one never answers.
        assert both[0].wait(timeout=500) != 0, logs[0].read_text()
    finally:
        for process in both:
            process.kill()
            process.wait()
    return [[json.loads(line) for line in log.read_text().splitlines() if line.startswith(("{", '"'))] for log in logs]


def check_answers(first, second):
    X, y = data()
    glm = model(glmcore.Ridge(0.01), K)
    alone = glmcore.fit(glm, X, y)
    for report in (first, second):
        assert (report["processes"], report["devices"]) == (2, 2)
        assert relative_error(report["coef"], alone.params.coef) < 1e-6
        before, first_step, resumed, whole = report["steps"]
        assert before == 5 < first_step <= resumed == whole
        assert report["lasso"][0] == report["lasso"][1]
        assert report["repr"].startswith(f"FitResult(converged, n_iter={whole}, objective=")
    found = np.concatenate([first["log_proba"], second["log_proba"]])
    assert len(first["log_proba"]) == FIRST
    assert relative_error(found, glm.log_proba(alone.params, X)) < 1e-6


def test_two_processes_give_one_answer_and_a_lost_one_is_an_error(tmp_path):
    (first, lost), (second,) = run_two(tmp_path)
    check_answers(first, second)
    assert lost.startswith("lost: ")
