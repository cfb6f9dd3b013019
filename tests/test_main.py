"""``python -m glmcore_sklearn`` in a process of its own, as a new user runs it."""

import subprocess
import sys

import pytest

PNG = b"\x89PNG\r\n"


def run(*arguments, code="from glmcore_sklearn.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)


def test_the_main_job_fits_reports_saves_and_draws(tmp_path):
    done = run("--plot", str(tmp_path / "digits.png"), "--save", str(tmp_path / "digits.npz"))
    assert done.returncode == 0, done.stderr
    for said in (
        "64 features, 10 classes",
        "penalty   Ridge(), strength 0.01",
        "steps, converged",
        "s with compilation",
        "log-likelihood",
        "pseudo-r2-McFadden",
        "pseudo-r2-Cohen",
        "accuracy",
        "macro avg",
        "450 of 450 predictions agree",
    ):
        assert said in done.stdout
    assert "residual" in done.stderr  # the progress line
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG)
    assert (tmp_path / "digits.npz").exists()


def test_a_plot_without_matplotlib_is_refused_before_the_fit():
    hide = "import sys; sys.modules['matplotlib'] = None; from glmcore_sklearn.__main__ import main; "
    done = run(code=hide + "sys.exit(main(['--plot', 'x.png']))")
    assert done.returncode == 2
    assert "pip install 'glmcore[plot]'" in done.stderr and not done.stdout


@pytest.mark.parametrize("name", ["Lasso", "GroupLasso"])
def test_progress_counts_steps_and_ends_with_the_status(name):
    import io

    import numpy as np

    import glmcore

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)), rng.integers(0, 3, 60)
    X[np.arange(60), y] += 1
    file = io.StringIO()
    model = glmcore.GLM(glmcore.Categorical(3), getattr(glmcore, name)(0.01))
    result = glmcore.fit(model, X.astype("float32"), y, callback=glmcore.Progress(file=file))
    [line] = file.getvalue().splitlines()  # nothing but the end within the first seconds
    assert line.startswith(f"step {int(result.n_iter)}  objective") and line.endswith("converged")


def test_progress_goes_to_whatever_can_be_written_to(monkeypatch):
    import sys
    from types import SimpleNamespace

    import numpy as np

    import glmcore

    X, y = np.arange(8, dtype=np.float32)[:, None], np.arange(8) % 2
    model, written = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1)), []
    file = SimpleNamespace(write=written.append, flush=lambda: None)
    progress = glmcore.Progress(interval=0.0, file=file)
    glmcore.fit_batches(model, [(X, y)] * 3, callback=progress)
    assert "nan" not in "".join(written) and "converged" in "".join(written)
    monkeypatch.setattr(sys, "stderr", None)
    glmcore.fit(model, X, y, callback=glmcore.Progress())
