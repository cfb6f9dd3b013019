"""What the benchmarks rely on: the objective that judges all tools, and honesty about missing ones."""

import json
import subprocess
import sys

import numpy as np
import oracle
import pytest

from benchmarks import report, results
from benchmarks.memory import ROOT
from benchmarks.objective import objective, relative_gap
from benchmarks.peers.base import Fit, Peer, Rung, half_decades, installed
from benchmarks.problems import Problem, problems
from benchmarks.race import race
from benchmarks.reference import reference

TWINS = {"ridge": oracle.Ridge, "lasso": oracle.Lasso, "group lasso": oracle.GroupLasso}


def small(penalty):
    """A problem of 60 rows, 4 features and 3 classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    y = np.argmax(X[:, :3] + rng.gumbel(size=(60, 3)), axis=1)
    return Problem("small", lambda: (X, y), penalty, 0.1)


@pytest.mark.parametrize("penalty", TWINS)
def test_objective_is_that_of_the_oracle(penalty):
    task = small(penalty).load()
    rng = np.random.default_rng(1)
    coef, intercept = rng.standard_normal((4, 3)), rng.standard_normal(3)
    expected = oracle.objective(
        TWINS[penalty](task.strength), coef, intercept, task.X.astype(np.float64), task.y
    )
    assert objective(task, coef, intercept) == pytest.approx(expected, rel=1e-12)
    assert relative_gap(task, coef, intercept, expected / 2) == pytest.approx(1.0, rel=1e-12)
    assert relative_gap(task, coef * np.nan, intercept, expected) == np.inf


@pytest.mark.parametrize("penalty", TWINS)
def test_reference_is_the_optimum_of_the_oracle(penalty):
    task = small(penalty).load()
    X = task.X.astype(np.float64)
    *_, best = oracle.reference_fit(TWINS[penalty](task.strength), X, task.y, 3)
    assert reference(task).objective == pytest.approx(best, rel=1e-8)


def test_strength_one_is_where_the_lasso_starts():
    """At the whole of the largest strength nothing but the class frequencies is left."""
    task = Problem("null", small("lasso").make, "lasso", 1.0).load()
    frequencies = np.bincount(task.y) / len(task.y)
    entropy = -np.sum(frequencies * np.log(frequencies))
    assert reference(task).objective == pytest.approx(entropy, rel=1e-8)


def test_table_of_problems():
    table = problems(quick=True)
    assert len({problem.name for problem in table}) == len(table)
    for problem in table:
        assert problem.penalty in TWINS
        assert problem.dtype == "float32"
    task = table[0].load()
    assert task.X.shape == (150, 4) and task.X.dtype == np.float32
    np.testing.assert_allclose(task.X.std(axis=0), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["glmcore.fit", "ClassifierGLM"])
def test_a_fit_holds_one_copy_of_x_and_few_predictors(label):
    command = [sys.executable, "-m", "benchmarks.memory", label, "0"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    n, p, K = 1_000_000, 20, 3
    assert int(done.stdout) < 4 * (n * p + 6.5 * n * K)


def test_half_decades():
    assert half_decades(2, 3) == [1e-2, 3e-3, 1e-3]


def test_a_missing_peer_and_a_missed_gap_are_named():
    def fits(task):
        yield Rung("loose", lambda: Fit(np.zeros((4, 3)), np.zeros(3)))

    peers = [
        Peer("lazy", "", lambda: "1.0", fits),
        Peer("absent", "", lambda: installed("no-such-distribution"), fits),
    ]
    found = race(small("ridge"), peers, repeat=1)
    lazy, absent = found["entries"]
    assert lazy["seconds"] is None and lazy["why"].startswith("gap not reached: ")
    assert absent["why"] == "no-such-distribution is not installed"
    versions = {"lazy": "1.0", "absent": absent["why"]}
    machine = {"cpu": "abacus", "cores": 1, "backend": "cpu", "versions": versions}
    results = {"machine": machine, "problems": {"small": found}}
    text = report.render(results, ["lazy", "absent"], ["small"])
    assert "gap not reached" in text and "| not installed |" in text
    assert "Not measured: no-such-distribution is not installed." in text


def test_the_report_goes_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    machine = {"cpu": "abacus", "cores": 1, "backend": "cpu", "versions": {"JAX": "1"}}
    report.write(readme, {"machine": machine, "problems": {}}, [], [])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text and "abacus, 1 cores" in text


def test_figures_from_elsewhere_are_refused_and_kept(tmp_path):
    path, here = tmp_path / "results.json", results.machine()
    for all_anew in (False, True):
        assert results.load(path, all_anew) == {"machine": here, "problems": {}}
    versions = here["versions"] | {"adelie": "is not installed", "numpy": "1.0"}
    there = {"machine": here | {"cpu": "abacus", "versions": versions}, "problems": {"iris": 1}}
    results.save(path, there)
    with pytest.raises(SystemExit) as refused:
        results.load(path, all_anew=False)
    assert f"with cpu abacus (here {here['cpu']}), numpy 1.0 (here" in str(refused.value)
    assert "adelie" not in str(refused.value) and json.loads(path.read_text()) == there
    assert not results.load(path, all_anew=True)["problems"]
    versions["numpy"], there["machine"]["cpu"] = here["versions"]["numpy"], here["cpu"]
    results.save(path, there)
    assert results.load(path, all_anew=False) == {"machine": here, "problems": {"iris": 1}}


def test_figures_of_streams_files_and_processes_are_told():
    learners = {
        name: {"setting": "rate 1", "seconds": seconds, "log_loss": 0.5}
        for name, seconds in (("ours", 1e-3), ("SGDClassifier.partial_fit", 4e-3))
    }
    results = {
        "machine": {"cpu": "abacus", "cores": 1, "backend": "cpu", "versions": {"JAX": "1"}},
        "problems": {},
        "streams": {"256": learners},
        "out-of-core": {
            "shape": [100, 5, 3], "bytes": 2e9, "first_passes_s": [4.0], "passes_s": [2.0, 3.0, 2.0], "seconds": 11.0,
            "cat_s": 1.5, "gap": 2e-8, "anonymous_bytes": 5e8,
        },
        "two-processes": {
            "shape": [100, 5, 3], "objective_apart": 0.0, "coef_apart": 3e-8,
            "one": {"step_s": 0.1, "fit_s": 1.0}, "two": {"step_s": 0.05, "fit_s": 0.6},
        },
        "gpu": {
            "device": "abacus II", "jax": "1",
            "fits": {"100x5x3": {"read_s": 1e-4, "tools": {
                "glmcore.fit": {"version": "1", "seconds": 1e-3, "first": 2.0},
                "slow": {"version": "1", "seconds": 3e-3},
                "absent": {"version": "", "why": "absent is not installed"},
            }}},
            "many": {"targets": {
                "shape": [10, 50, 4, 3], "glmcore": {"seconds": 1e-3, "first": 2.0}, "scikit-learn": {"seconds": 0.04},
            }},
        },
    }  # fmt: skip
    text = report.render(results, [], [])
    assert "| `ours`, 256 rows | 1.0 ms | 4.0× | 0.5000 | rate 1 |" in text
    assert "memory map of 2.0 GB (100x5x3" in text and "| passes | 4 |" in text and "| a later pass | 2.0 s |" in text
    assert "| a step of `glmcore.LBFGS` | 100 ms | 50 ms | 0.50× |" in text
    assert "| 100x5x3 | 1.0 ms | 2.0 s | 3.0 ms (3.0×) | not installed | 0.10 ms |" in text
    assert "| 10 targets of 50×4×3 | 1.0 ms | 2.0 s | 40 ms (40×) |" in text
