"""A fit that is interrupted and started again ends as one that was not; no checkpoint is taken for another's."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import model, slow, small

import glmcore
from glmcore_sklearn import ClassifierGLM, LogisticRegression, load_model

TESTS = pathlib.Path(__file__).parent
NULL = glmcore.GLMParams(np.zeros((4, 3), np.float32), np.zeros(3, np.float32))
RIDGE, LASSO = model(glmcore.Ridge(0.01)), model(glmcore.Lasso(0.01))


def fit(glm, X, y, **kwargs):
    return glmcore.fit(glm, X.astype(np.float32), y, **kwargs)


def fit_batches(glm, X, y, **kwargs):
    return glmcore.fit_batches(glm, cut(X, y, 17), init_params=NULL, **kwargs)


def cut(X, y, at):
    X = X.astype(np.float32)
    return [(X[:at], y[:at]), (X[at:], y[at:])]


FITS = {
    "LBFGS": (fit, RIDGE, glmcore.LBFGS()),
    "Newton": (fit, RIDGE, glmcore.Newton()),
    "ProximalGradient": (fit, LASSO, glmcore.ProximalGradient()),
    "SVRG": (fit, RIDGE, glmcore.SVRG()),
    "batches": (fit_batches, RIDGE, glmcore.LBFGS(memory=3)),
}


class Stop(Exception):
    pass


def stop_at(step):
    def callback(progress):
        if progress.n_iter >= step and not progress.done:
            raise Stop

    return callback


def same(result, expected):
    pairs = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
    # What is held out is NaN until an update.
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


SLOW = ("ProximalGradient", "SVRG")


@pytest.mark.parametrize("name", [slow(n) if n in SLOW else n for n in FITS])
def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path, name):
    run, glm, solver = FITS[name]
    X, y = small()
    checkpoint, seen = glmcore.Checkpoint(tmp_path / "run", every=2), []

    def see(progress):
        if progress.batch is None:  # after steps, not within a pass
            seen.append(progress.n_iter)

    expected = run(glm, X, y, solver=solver, callback=lambda progress: None)
    with pytest.raises(Stop):
        run(glm, X, y, solver=solver, callback=[checkpoint, stop_at(3)])
    resumed = run(glm, X, y, solver=solver, callback=(see, checkpoint))
    assert expected.converged and same(resumed, expected)
    assert seen[0] > 2 and os.listdir(tmp_path) == ["run.npz"]
    # What has ended returns at once.
    seen.clear()
    assert same(run(glm, X, y, solver=solver, callback=[see, checkpoint]), expected)
    assert seen == [int(expected.n_iter)]


def test_a_fit_that_ran_out_of_steps_goes_on_with_more(tmp_path):
    X, y = small()
    checkpoint = glmcore.Checkpoint(tmp_path / "run.npz", every=100)
    expected = fit(RIDGE, X, y, solver=glmcore.LBFGS(), callback=lambda progress: None)
    first = fit(RIDGE, X, y, solver=glmcore.LBFGS(maxiter=3), callback=checkpoint)
    assert glmcore.status_name(first.status) == "out_of_steps" and int(first.n_iter) == 3
    assert same(fit(RIDGE, X, y, solver=glmcore.LBFGS(), callback=checkpoint), expected)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The bytes of a checkpoint of Newton's method on small data."""
    path = tmp_path_factory.mktemp("kept") / "run.npz"
    fit(RIDGE, *small(), solver=glmcore.Newton(), callback=glmcore.Checkpoint(path))
    return path.read_bytes()


def changed(index):
    arrays = [array.copy() for array in small()]
    arrays[index][5] = arrays[index][5] - 1e-3 if index == 0 else (arrays[index][5] + 1) % 3
    return tuple(arrays)


def swapped():
    order = np.r_[1, 0, 2:60]
    return tuple(array[order] for array in small())


OTHERS = {
    "X": ({"data": changed(0)}, "another data: .* digest"),
    "y": ({"data": changed(1)}, "another data"),
    "rows": ({"data": tuple(array[:59] for array in small())}, "another data: 60 rows .*, expected 59 rows"),
    "order": ({"data": swapped()}, "another data"),
    "weight": ({"sample_weight": np.r_[2, np.ones(59)]}, "another data"),
    "strength": ({"glm": model(glmcore.Ridge(0.02))}, r"another model: .*strength=0.01.*, expected .*strength=0.02"),
    "penalty": ({"glm": model(glmcore.UnRegularized())}, "another model: .*Ridge.*, expected .*UnRegularized"),
    "solver": ({"solver": glmcore.LBFGS()}, "another solver: Newton.*, expected LBFGS"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, kept, name):
    change, message = OTHERS[name]
    path = tmp_path / "run.npz"
    path.write_bytes(kept)
    call = {"glm": RIDGE, "data": small(), "solver": glmcore.Newton(), **change}
    with pytest.raises(ValueError, match=f"cannot load '{path}': it holds a fit of {message}"):
        fit(call.pop("glm"), *call.pop("data"), callback=glmcore.Checkpoint(path), **call)
    assert path.read_bytes() == kept


def test_batches_of_other_data_are_refused_and_another_cut_is_not(tmp_path):
    checkpoint, solver = glmcore.Checkpoint(tmp_path / "run"), glmcore.LBFGS(memory=3)
    expected = fit_batches(RIDGE, *small(), solver=solver, callback=checkpoint)
    again = glmcore.fit_batches(RIDGE, cut(*small(), 30), solver=solver, callback=checkpoint)
    np.testing.assert_allclose(again.params.coef, expected.params.coef, atol=1e-6)
    with pytest.raises(ValueError, match="another data"):
        fit_batches(RIDGE, *changed(0), solver=solver, callback=checkpoint)


@pytest.mark.parametrize("damage", ["truncated", "empty", "model"])
def test_a_damaged_or_foreign_file_is_refused_and_kept(tmp_path, kept, damage):
    path = tmp_path / "run.npz"
    if damage == "model":
        ClassifierGLM(3).save_params(path)
    else:
        path.write_bytes(kept[: len(kept) // 2] if damage == "truncated" else b"")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"cannot load '{path}': it"):
        fit(RIDGE, *small(), solver=glmcore.Newton(), callback=glmcore.Checkpoint(path))
    assert path.read_bytes() == before


def test_a_checkpoint_is_no_model(tmp_path, kept):
    (tmp_path / "run.npz").write_bytes(kept)
    with pytest.raises(ValueError, match="its header says 'glmcore checkpoint' in place of 'glmcore'"):
        load_model(tmp_path / "run.npz")


@pytest.mark.parametrize(
    "args, error, message",
    [
        ((3,), TypeError, "path must be a string or a path, found int"),
        (("run", 0), ValueError, "every must be at least 1 step, found 0"),
        (("run", 1.5), TypeError, "every must be a whole number of steps, found 1.5"),
    ],
)
def test_bad_arguments_are_refused(args, error, message):
    with pytest.raises(error, match=message):
        glmcore.Checkpoint(*args)


def test_bad_callbacks_are_refused_before_the_fit(tmp_path):
    two = [glmcore.Checkpoint(tmp_path / name) for name in "ab"]
    for callback, error, message in (
        (two, ValueError, "one Checkpoint at most"),
        ([print, 3], TypeError, "callable or a list of callables, found 3"),
        (glmcore.Checkpoint(tmp_path / "absent" / "run"), FileNotFoundError, "no directory"),
    ):
        with pytest.raises(error, match=message):
            fit(RIDGE, *small(), solver=glmcore.Newton(), callback=callback)


def test_a_full_disk_is_a_warning_and_the_fit_goes_on(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(RuntimeWarning, match="no checkpoint at step .*No space left"):
        result = fit(RIDGE, *small(), solver=glmcore.Newton(), callback=glmcore.Checkpoint(tmp_path / "run"))
    assert result.converged and os.listdir(tmp_path) == []


def test_the_estimator_takes_a_list_of_callbacks(tmp_path):
    X, y = small()
    checkpoint, seen = glmcore.Checkpoint(tmp_path / "run"), []
    kwargs = {"callback": [checkpoint, seen.append]}
    first = ClassifierGLM(3, solver_kwargs=kwargs).fit(X, y)
    again = ClassifierGLM(3, solver_kwargs=kwargs).fit(X, y)
    assert np.array_equal(first.coef_, again.coef_) and seen[-1].done
    with pytest.raises(ValueError, match="another data"):
        again.fit(2 * X, y)


# Signals


def test_an_interrupt_leaves_the_estimators_as_they_were(monkeypatch):
    """A real SIGINT; Ctrl-C."""
    X, y = small()
    monkeypatch.setattr(sys.stderr, "write", lambda text: signal.raise_signal(signal.SIGINT))
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for estimator in (ClassifierGLM(3, solver_kwargs={"verbose": True}), LogisticRegression(verbose=1)):
            before = vars(estimator).copy()
            with pytest.raises(KeyboardInterrupt):
                estimator.fit(X, y)
            assert vars(estimator) == before
    finally:
        signal.signal(signal.SIGINT, old)


def start_killable(folder):
    command = [sys.executable, str(TESTS / "killable.py"), str(folder)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                   "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def lines_until_killed(process, after):
    """What a process printed until it was killed, so many seconds after its first step."""
    lines = [process.stdout.readline() for _ in range(2)]
    time.sleep(after)
    process.kill()
    with process:  # closes the pipe and waits
        lines += process.stdout.read().splitlines(keepends=True)
    assert process.returncode == -signal.SIGKILL
    return [line for line in lines if line.endswith("\n")]


@pytest.mark.slow
def test_a_killed_fit_loses_one_interval_at_most(tmp_path):
    import killable

    rng, last, announced, lost = random.Random(0), 0, 0, []

    def resumed_at(first_step):
        step = first_step - 1  # a fit begins with a single step
        lost.append((last if step <= last else announced) - step)

    for _ in range(10):
        lines = lines_until_killed(start_killable(tmp_path), rng.uniform(0, 0.4))
        steps = [int(line) for line in lines if "?" not in line]
        resumed_at(steps[0])
        last, announced = steps[-1], int(lines[-1].rstrip("?\n"))
    output, _ = start_killable(tmp_path).communicate(timeout=300)
    *steps, digest = [word for word in output.split() if "?" not in word]
    resumed_at(int(steps[0]))
    assert all(0 <= n < killable.EVERY for n in lost), lost
    assert last > 2 * killable.EVERY  # so the kills came in the midst of it
    assert int(steps[-1]) == killable.STEPS and digest == killable.digest(killable.run(lambda progress: None))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".npz") and name != "run.npz"]
    print(f"killed {len(lost)} times, lost {lost} steps of {killable.STEPS}, at most {killable.EVERY}")
