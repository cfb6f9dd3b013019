"""What callbacks are told of the parameters, fits that they stop, and the callbacks of scikit-learn."""

import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import is_status, model, slow, small
from sklearn.base import clone
from sklearn.metrics import log_loss

import glmcore
from glmcore_sklearn import ClassifierGLM, ClassifierPopulationGLM, LogisticRegression

X, Y = small()
LABELS = np.array(["a", "b", "c"])[Y]


def fit(glm, X, y, **kwargs):
    return glmcore.fit(glm, X, y, **kwargs)


def fit_batches(glm, X, y, **kwargs):
    null = glmcore.GLMParams(np.zeros((4, 3), np.float32), np.zeros(3, np.float32))
    return glmcore.fit_batches(glm, [(X[:17], y[:17]), (X[17:], y[17:])], init_params=null, **kwargs)


#: A fit and its penalty.
FITS = pytest.mark.parametrize(
    "of, penalty",
    [
        (fit, glmcore.UnRegularized()),
        (fit, glmcore.Ridge(0.01)),
        (fit, glmcore.Lasso(0.01)),
        (fit_batches, glmcore.Ridge(0.01)),
        slow(fit_batches, glmcore.UnRegularized()),
        slow(fit_batches, glmcore.Lasso(0.01)),
    ],
)


class Watch:
    """Keeps reports and the objectives of their parameters, and stops after some steps."""

    every = 1

    def __init__(self, glm, last=None):
        self.glm, self.last, self.reports, self.objectives = glm, last, [], []

    def __call__(self, progress):
        self.reports.append(progress)
        self.objectives.append(float(self.glm.objective(progress.params(), X, Y)))
        if progress.n_iter == self.last and not progress.done:
            raise StopIteration


@FITS
def test_parameters_on_the_way_have_the_objective_that_is_told(of, penalty):
    watch = Watch(model(penalty))
    result = of(watch.glm, X, Y, callback=watch)
    stepped = [report.n_iter > 0 for report in watch.reports]
    told = np.array([report.objective for report in watch.reports])
    assert sum(stepped) > 3 and np.isnan(told[np.logical_not(stepped)]).all()
    np.testing.assert_allclose(np.array(watch.objectives)[stepped], told[stepped], rtol=2e-6)
    for ours, returned in zip(jax.tree.leaves(watch.reports[-1].params()), jax.tree.leaves(result.params)):
        assert jnp.all(ours == returned)


def test_parameters_of_a_pytree_of_features_mirror_it():
    seen = []
    tree = {"a": X[:, :1], "b": X[:, 1:]}
    glmcore.fit(model(glmcore.Ridge(0.01)), tree, Y, callback=lambda progress: seen.append(progress.params()))
    assert seen[0].coef["a"].shape == (1, 3) and seen[0].coef["b"].shape == (3, 3)


def test_parameters_of_a_step_that_is_over_are_refused():
    watch = Watch(model(glmcore.Ridge(0.01)))
    glmcore.fit(watch.glm, X, Y, callback=watch)
    with pytest.raises(RuntimeError, match="before the next step"):
        watch.reports[0].params()


def test_parameters_before_the_first_step_on_batches_are_those_it_starts_from():
    found = []

    def callback(progress):
        if progress.batch is not None and progress.n_iter == 0:
            found.append(progress.params())

    def batches():
        time.sleep(0.11)  # a word ten times a second at most
        yield X, Y

    start = glmcore.GLMParams(np.ones((4, 3), np.float32), np.arange(3, dtype=np.float32))
    glm = model(glmcore.Ridge(0.01))
    glmcore.fit_batches(glm, batches, init_params=start, callback=callback)
    np.testing.assert_array_equal(found[0].coef, start.coef)


@FITS
def test_a_fit_that_is_stopped_is_that_of_as_many_steps(of, penalty, tmp_path):
    watch = Watch(model(penalty), last=3)
    path = tmp_path / "fit.npz"
    result = of(watch.glm, X, Y, callback=[watch, glmcore.Checkpoint(path)])
    assert is_status(result, "stopped") and int(result.n_iter) == 3 and not result.converged
    assert watch.reports[-1].done and is_status(watch.reports[-1], "stopped")
    if of is fit:
        solver = type(glmcore.default_solver(penalty, 15, len(Y)))(maxiter=3)
        few = of(watch.glm, X, Y, solver=solver, callback=glmcore.Trace())
        np.testing.assert_array_equal(result.params.coef, few.params.coef)
        np.testing.assert_array_equal(result.optimality, few.optimality)
    # From there another call goes on.
    resumed, whole = of(watch.glm, X, Y, callback=glmcore.Checkpoint(path)), of(watch.glm, X, Y)
    assert int(resumed.n_iter) == int(whole.n_iter) > 3 and str(resumed.status) == str(whole.status)


def test_all_callbacks_are_told_of_the_step_at_which_one_of_them_stops():
    watch, trace = Watch(model(glmcore.Ridge(0.01)), last=2), glmcore.Trace()
    glmcore.fit(watch.glm, X, Y, callback=[watch, trace])
    assert [report.n_iter for report in trace.reports] == [1, 2, 2]
    assert is_status(trace.reports[-1], "stopped")


def test_a_stop_at_the_end_changes_nothing():
    def callback(progress):
        if progress.done:
            raise StopIteration

    assert glmcore.fit(model(glmcore.Ridge(0.01)), X, Y, callback=callback).converged


def test_an_estimator_that_was_stopped_does_not_warn():
    watch = Watch(model(glmcore.Ridge(0.01)), last=2)
    glm = ClassifierGLM(3, regularizer_strength=0.01, solver_kwargs={"callback": watch}).fit(X, LABELS)
    assert glmcore.status_name(glm.status_) == "stopped" and glm.n_iter_ == 2
    assert glm.score(X, LABELS) > -np.log(3)


# ---------------------------------------------------------------- scikit-learn's

needs_callbacks = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None, reason="scikit-learn has callbacks from 1.9 on"
)
KINDS = {
    "LogisticRegression": lambda: LogisticRegression(C=10),
    "ClassifierGLM": lambda: ClassifierGLM(3, regularizer_strength=0.01),
}


class Recorder:
    """A callback that keeps the calls of its hooks, and asks for the end of the fit after some steps."""

    def __init__(self, last=None):
        self.last, self.calls, self.proba = last, [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.calls.append(f"end {context.task_name}")
        proba = fitted_estimator.predict_proba(X)
        self.proba.append(proba if proba.min() >= 0 else np.exp(proba))
        assert y is LABELS and (metadata is None or metadata.keys() == {"sample_weight"})
        return context.task_name == "step" and context.task_id + 1 == self.last


@needs_callbacks
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("weight", [None, np.linspace(0.1, 1, len(Y))], ids=["", "weight"])
def test_callbacks_of_scikit_learn_are_told_of_every_step(kind, weight):
    recorder = Recorder()
    estimator = kind().set_callbacks(recorder).fit(X, LABELS, sample_weight=weight)
    n_steps = int(np.ravel(estimator.n_iter_)[0])
    step = ["begin step", "end step"]
    assert recorder.calls == ["setup", "begin fit", *step * n_steps, "end fit", "teardown"]
    losses = [log_loss(LABELS, proba, sample_weight=weight) for proba in recorder.proba]
    assert losses[0] > 1.05 * losses[-1] and losses[-1] == losses[-2]
    own = np.asarray(kind().fit(X, LABELS, sample_weight=weight).coef_)
    np.testing.assert_allclose(estimator.coef_, own, atol=1e-5)
    assert not [name for name in vars(estimator) if "callback" in name and name != "_skl_callbacks"]


@needs_callbacks
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_callback_of_scikit_learn_ends_the_fit(kind):
    recorder = Recorder(last=2)
    estimator = kind().set_callbacks(recorder).fit(X, LABELS)
    assert np.ravel(estimator.n_iter_)[0] == 2
    assert recorder.calls == ["setup", "begin fit", *["begin step", "end step"] * 2, "end fit", "teardown"]


@needs_callbacks
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_callbacks_are_torn_down_where_a_fit_raises(kind):
    recorder = Recorder()
    estimator = kind().set_callbacks(recorder)
    before = set(vars(estimator))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, LABELS[:5])
    assert recorder.calls == ["setup", "begin fit", "teardown"] and set(vars(estimator)) == before


@needs_callbacks
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_callbacks_go_with_clones_and_come_off(kind):
    recorder = Recorder()
    estimator = clone(kind().set_callbacks(recorder))
    estimator.fit(X, LABELS)
    assert recorder.calls[-1] == "teardown"
    recorder.calls.clear()
    estimator.set_callbacks().fit(X, LABELS)
    assert recorder.calls == []
    with pytest.raises(TypeError, match="callbacks must be instances"):
        estimator.set_callbacks("no callback")


@needs_callbacks
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_scoring_monitor_of_a_search(kind):
    from sklearn.callback import ScoringMonitor
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    monitor = ScoringMonitor(scoring="accuracy")
    estimator = kind().set_callbacks(monitor)
    grid = {"C": [0.1, 10]} if "C" in estimator.get_params() else {"regularizer_strength": [0.1, 0.001]}
    step = type(estimator).__name__.lower()
    pipeline = make_pipeline(StandardScaler(), estimator)
    search = GridSearchCV(pipeline, {f"{step}__{name}": values for name, values in grid.items()}, cv=2)
    search.fit(X, LABELS)
    data = monitor.get_logs().data_as_pandas
    refit = data[(data.task_name == "fit")].iloc[-1]
    assert len(data) > 10 and 0.5 < refit.accuracy <= 1


@needs_callbacks
def test_progress_bar_of_a_pipeline():
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for kind in KINDS.values():  # no warning that it does not support callbacks
        make_pipeline(StandardScaler(), kind()).set_callbacks(ProgressBar()).fit(X, LABELS)


def test_callbacks_are_there_where_scikit_learn_has_them(monkeypatch):
    assert not hasattr(ClassifierPopulationGLM(3), "set_callbacks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind in KINDS.values():
        assert not hasattr(kind(), "set_callbacks")
