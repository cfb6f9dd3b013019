"""Pictures: what is drawn is what the estimators say, in scikit-learn's convention."""

import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import small
from sklearn.calibration import calibration_curve
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.linear_model import LogisticRegression as Theirs
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import glmcore
from glmcore_sklearn import (
    ClassifierGLM,
    ClassifierPopulationGLM,
    CoefficientsDisplay,
    ConvergenceDisplay,
    LogisticRegression,
    ReliabilityDisplay,
)

matplotlib.use("agg")
X, Y = small()
X = X.astype(np.float32)
LABELS = np.array(["a", "b", "c"])[Y]
NAMES = ["one", "two", "three", "four"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def glm():
    return ClassifierGLM(3, regularizer_strength=0.05).fit(X, LABELS)


def by_hand(coef, intercept=(0.0, 0.0, 0.0)):
    """A ClassifierGLM that predicts with these coefficients, without a fit."""
    model = ClassifierGLM(len(intercept)).set_classes([f"class {k}" for k in range(len(intercept))])
    model.coef_, model.intercept_ = coef, np.asarray(intercept)
    return model


def texts(ticks):
    return [tick.get_text() for tick in ticks]


def nothing_is_cut_off(figure):
    """Draw, and check that all that is visible is inside the figure."""
    figure.canvas.draw()
    tight, whole = figure.get_tightbbox(), figure.bbox_inches
    assert tight.x0 >= 0 and tight.y0 >= 0 and tight.x1 <= whole.x1 and tight.y1 <= whole.y1


# Coefficients


def test_coefficients_of_each_class(glm):
    display = CoefficientsDisplay.from_estimator(glm, feature_names=NAMES)
    np.testing.assert_array_equal(display.coef, glm.coef_)
    np.testing.assert_array_equal(display.ax_.images[0].get_array(), glm.coef_)
    assert texts(display.ax_.get_xticklabels()) == ["a", "b", "c"]
    assert texts(display.ax_.get_yticklabels()) == NAMES
    assert texts(display.ax_.texts) == [f"{value:.2g}" for value in np.asarray(glm.coef_).ravel()]
    low, high = display.ax_.images[0].get_clim()
    assert low == -high == -np.abs(glm.coef_).max()
    assert display.colorbar_.ax.get_ylabel() == "coefficient (log-odds per unit)"
    nothing_is_cut_off(display.figure_)


@pytest.mark.parametrize("y", [Y, Y % 2])
def test_coefficients_in_the_shape_of_scikit_learn(y):
    model = Theirs().fit(X, y)
    display = CoefficientsDisplay.from_estimator(model, class_names=["low", "high", "top"][: len(model.classes_)])
    np.testing.assert_array_equal(display.ax_.images[0].get_array(), model.coef_.T)
    found = texts(display.ax_.get_xticklabels())
    assert found == (["high against low"] if len(model.classes_) == 2 else ["low", "high", "top"])
    assert texts(display.ax_.get_yticklabels())[0] == "feature 0"
    sparse = CoefficientsDisplay.from_estimator(model.sparsify())
    np.testing.assert_array_equal(sparse.coef, display.coef)


def test_coefficients_of_two_classes_are_their_difference():
    coef = np.random.default_rng(0).normal(size=(30, 2))
    names = [f"a long name {'x' * j}" for j in range(30)]
    display = CoefficientsDisplay.from_estimator(by_hand(coef, (0, 0)), feature_names=names)
    np.testing.assert_allclose(display.ax_.images[0].get_array(), coef[:, 1:] - coef[:, :1], rtol=1e-6)
    assert texts(display.ax_.get_xticklabels()) == ["class 1 against class 0"]
    nothing_is_cut_off(display.figure_)


def test_names_come_from_the_data_frame_the_steps_before_or_the_pytree(glm):
    frame = pd.DataFrame(X, columns=NAMES)
    pipeline = make_pipeline(StandardScaler(), Theirs()).fit(frame, Y)
    assert CoefficientsDisplay.from_estimator(pipeline).feature_names == NAMES
    for nameless in ("passthrough", FunctionTransformer()):
        bare = make_pipeline(nameless, Theirs()).fit(X, Y)
        assert CoefficientsDisplay.from_estimator(bare).feature_names == [f"feature {j}" for j in range(4)]
    assert CoefficientsDisplay.from_estimator(pipeline[-1]).feature_names == [f"feature {j}" for j in range(4)]
    assert CoefficientsDisplay.from_estimator(Theirs().fit(frame, Y)).feature_names == NAMES
    tree = {"acid": np.ones((2, 3)), "rest": [np.ones((1, 3)), np.zeros((2, 3))]}
    display = CoefficientsDisplay.from_estimator(by_hand(tree))
    assert display.feature_names == ["acid[0]", "acid[1]", "rest/0", "rest/1[0]", "rest/1[1]"]
    np.testing.assert_array_equal(display.coef, np.repeat([[1.0], [0.0]], [3, 2], axis=0) * np.ones(3))


@pytest.mark.parametrize("K", [2, 3, 10])
def test_coefficients_as_images(K):
    coef = np.random.default_rng(0).normal(size=(6, K))
    display = CoefficientsDisplay.from_estimator(by_hand(coef, np.zeros(K)), image_shape=(2, 3))
    expected = coef if K > 2 else coef[:, 1:] - coef[:, :1]
    assert len(display.axes_) == (1 if K == 2 else K)
    for axis, column in zip(display.axes_, expected.T):
        np.testing.assert_allclose(axis.images[0].get_array(), column.reshape(2, 3), rtol=1e-6)
    assert display.axes_[-1].get_title() == ("class 1 against class 0" if K == 2 else f"class {K - 1}")
    nothing_is_cut_off(display.figure_)


WORDS = "a name of a class that has more words in it than names should have, and then some more"


@pytest.mark.parametrize("K", [2, 3, 7])
@pytest.mark.parametrize("length", [20, 24, 80])
def test_long_names_are_not_cut_off_nor_written_over_each_other(K, length):
    names = [f"{k} {WORDS}"[:length] for k in range(K)]
    rng = np.random.default_rng(0)
    model = by_hand(rng.normal(size=(4, K)), np.zeros(K)).set_classes(names)
    model.feature_names_in_ = np.array([WORDS, "b", "c", "d"], object)
    heatmap = CoefficientsDisplay.from_estimator(model)
    images = CoefficientsDisplay.from_estimator(model, image_shape=(2, 2))
    y = rng.integers(K, size=200)
    y[:K] = range(K)
    log_proba = np.log(rng.dirichlet(np.ones(K), size=200))
    reliability = ReliabilityDisplay.from_predictions(np.array(names)[y], log_proba, classes=names)
    for display in (heatmap, images, reliability):
        nothing_is_cut_off(display.figure_)
    boxes = [axis.title.get_window_extent() for axis in images.axes_]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_many_features_are_not_all_named():
    display = CoefficientsDisplay.from_estimator(by_hand(np.ones((500, 3))))
    assert len(display.ax_.get_yticks()) <= 64 and display.ax_.get_ylabel() == "feature (1 in 8 is named)"
    nothing_is_cut_off(display.figure_)


def test_coefficients_that_are_all_zero_can_be_drawn():
    nothing_is_cut_off(CoefficientsDisplay.from_estimator(by_hand(np.zeros((4, 3)))).figure_)


def test_what_the_displays_of_estimators_refuse(glm):
    with pytest.raises(NotFittedError):
        CoefficientsDisplay.from_estimator(Theirs())
    with pytest.raises(ValueError, match="feature_names must have length 4, found 2"):
        CoefficientsDisplay.from_estimator(glm, feature_names=["one", "two"])
    with pytest.raises(ValueError, match="class_names must have length 3, found 2"):
        CoefficientsDisplay.from_estimator(glm, class_names=["a", "b"])
    for shape in ((8, 8), (4,), (-2, -2), 4, (2.0, 2.0), (2, 2, 1)):
        with pytest.raises(ValueError, match=f"two whole numbers .* 4; found {re.escape(repr(shape))}"):
            CoefficientsDisplay.from_estimator(glm, image_shape=shape)
    population = ClassifierPopulationGLM(3).fit(X, np.stack([Y, Y[::-1]], axis=1))
    for other in (population, DecisionTreeClassifier().fit(X, Y)):
        with pytest.raises(TypeError, match=f"linear classifier of one target.* found {type(other).__name__}"):
            CoefficientsDisplay.from_estimator(other)
    with pytest.raises(TypeError, match="a classifier with predict_proba, found LinearRegression"):
        ReliabilityDisplay.from_estimator(LinearRegression().fit(X, Y), X, Y)
    with pytest.raises(TypeError, match="a classifier of one target, found ClassifierPopulationGLM"):
        ReliabilityDisplay.from_estimator(population, X, Y)
    with pytest.raises(ValueError, match="ax must have a place in a grid"):
        CoefficientsDisplay.from_estimator(glm, image_shape=(2, 2), ax=plt.figure().add_axes((0, 0, 1, 1)))


# Reliability


def test_reliability_of_each_class(glm):
    display = ReliabilityDisplay.from_estimator(glm, X, LABELS)
    proba = np.exp(np.asarray(glm.predict_proba(X), float))
    proba /= proba.sum(axis=1, keepdims=True)  # to the last digit, as scikit-learn wants them
    for k, line in enumerate(display.lines_):
        observed, predicted = calibration_curve(Y == k, proba[:, k])
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([predicted, observed]), rtol=1e-6)
        assert display.curves[k][:, 2].sum() == len(Y)
        mean = -log_loss(Y[Y == k], proba[Y == k], labels=[0, 1, 2])
        assert display.log_likelihood[k] == pytest.approx(mean, rel=1e-6)
    shares = np.bincount(Y) / len(Y)
    np.testing.assert_allclose(np.exp(display.null_log_likelihood), shares)
    assert shares @ display.log_likelihood == pytest.approx(float(glm.score(X, LABELS)), rel=1e-5)
    assert texts(display.axes_[1].get_yticklabels()) == ["a", "b", "c"]
    nothing_is_cut_off(display.figure_)


class OnlyProba(Theirs):
    """Probabilities and no logarithms of them."""

    predict_log_proba = property()


def test_reliability_of_any_classifier():
    y = np.where(Y == 1, "yes", "no")
    found = [ReliabilityDisplay.from_estimator(kind().fit(X, y), X, y, n_bins=4) for kind in (Theirs, OnlyProba)]
    for display in found:
        [line] = display.lines_  # of two classes, the second
        assert display.axes_[0].get_ylabel() == "observed frequency of yes"
        np.testing.assert_allclose(line.get_xydata(), found[0].lines_[0].get_xydata())
        np.testing.assert_allclose(display.log_likelihood, found[0].log_likelihood)
        nothing_is_cut_off(display.figure_)


def test_a_probability_of_zero_can_be_drawn():
    log_proba = np.array([[0.0, -np.inf], [-np.inf, 0.0], [0.0, -np.inf], [-1.0, np.log(1 - np.exp(-1.0))]])
    display = ReliabilityDisplay.from_predictions([0, 1, 1, 0], log_proba, classes=[0, 1])
    assert np.isfinite(display.log_likelihood).all()


def test_reliability_of_ten_classes_in_bins_of_equal_size():
    rng = np.random.default_rng(0)
    log_proba = np.log(rng.dirichlet(np.ones(10), 200))
    y = np.concatenate([np.arange(10), log_proba[10:].argmax(axis=1)])
    names = np.array([f"a class with a name {k}" for k in range(10)])
    display = ReliabilityDisplay.from_predictions(names[y], log_proba, classes=names, strategy="quantile")
    for k in range(10):
        observed, predicted = calibration_curve(y == k, np.exp(log_proba[:, k]), strategy="quantile")
        np.testing.assert_allclose(display.lines_[k].get_xydata(), np.column_stack([predicted, observed]))
    styles = {(tuple(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in display.points_}
    assert len(styles) == 10
    nothing_is_cut_off(display.figure_)


def test_what_the_display_of_reliability_refuses():
    log_proba = np.log(np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=r"log_proba must have shape \(3, 2\), found \(4, 2\)"):
        ReliabilityDisplay.from_predictions([0, 1, 0], log_proba, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y must hold every class, found none of \['b'\]"):
        ReliabilityDisplay.from_predictions(["a"] * 4, log_proba, classes=["a", "b"])
    with pytest.raises(ValueError, match="strategy must be 'uniform' or 'quantile', found 'equal'"):
        ReliabilityDisplay.from_predictions([0, 1, 0, 1], log_proba, classes=[0, 1], strategy="equal")
    with pytest.raises(ValueError, match="log_proba must be logarithms of probabilities, not above 0, found 0.5"):
        ReliabilityDisplay.from_predictions([0, 1, 0, 1], np.exp(log_proba), classes=[0, 1])
    for n_bins in (0, -3, 2.5):
        with pytest.raises(ValueError, match=f"n_bins must be a positive whole number, found {n_bins}"):
            ReliabilityDisplay.from_predictions([0, 1, 0, 1], log_proba, classes=[0, 1], n_bins=n_bins)
    with pytest.raises(ValueError, match="labels that are not in classes_"):
        ReliabilityDisplay.from_predictions([0, 1, 2, 0], log_proba, classes=[0, 1])


# Convergence


def test_convergence_of_a_fit(glm):
    display = ConvergenceDisplay.from_estimator(glm, X, LABELS)
    residual, gap = display.lines_
    steps = np.arange(1, glm.n_iter_ + 1)
    np.testing.assert_array_equal(residual.get_xdata(), steps)
    # Of another program, which rounds elsewhere.
    assert residual.get_ydata()[-1] == pytest.approx(float(glm.solver_state_.optimality), rel=1e-2)
    objective = np.array([report.objective for report in display.reports])
    expected = objective / objective.min() - 1
    np.testing.assert_allclose(gap.get_ydata(), expected[expected > 0], rtol=1e-5, atol=1e-12)
    assert residual.get_label() == "Newton: optimality residual"
    nothing_is_cut_off(display.figure_)
    both = ConvergenceDisplay(display.reports, name="again", best=objective.min() / 2).plot(ax=display.ax_)
    assert both.ax_ is display.ax_ and both.lines_[0].get_color() != residual.get_color()
    np.testing.assert_allclose(both.lines_[1].get_ydata(), 2 * objective / objective.min() - 1, rtol=1e-5)
    nothing_is_cut_off(display.figure_)


def test_convergence_leaves_estimators_as_they_are(glm):
    seen = []
    model = ClassifierGLM(3, regularizer_strength=0.05, solver_kwargs={"callback": seen.append})
    weight = {"classifierglm__sample_weight": np.linspace(0.5, 1, len(Y))}
    display = ConvergenceDisplay.from_estimator(make_pipeline(StandardScaler(), model), X, LABELS, fit_params=weight)
    assert display.reports[-1].done and not seen and not hasattr(model, "coef_")
    assert display.reports[-1].objective != float(glm.solver_state_.objective)


def test_convergence_of_logistic_regression(capsys):
    model = LogisticRegression(tol=1e-6, verbose=1)
    display = ConvergenceDisplay.from_estimator(model, X, Y)
    assert display.reports[-1].n_iter == model.fit(X, Y).n_iter_ == len(display.reports)
    assert display.reports[-1].tol == pytest.approx(1e-6)
    assert display.lines_[0].get_label() == "LogisticRegression: optimality residual"
    assert "converged" in capsys.readouterr().err  # of the fit, not of the display


def test_convergence_of_others_is_refused():
    with pytest.raises(TypeError, match="must be a ClassifierGLM, .*found StandardScaler"):
        ConvergenceDisplay.from_estimator(StandardScaler(), X, Y)


def test_the_gap_to_an_optimum_of_zero_is_the_objective(glm):
    display = ConvergenceDisplay.from_estimator(glm, X, LABELS, best=0.0)
    np.testing.assert_allclose(display.lines_[1].get_ydata(), [report.objective for report in display.reports])
    with pytest.raises(ValueError, match="reports must hold those of a fit"):
        ConvergenceDisplay([]).plot()


# The trace itself


def test_a_trace_keeps_every_step_of_its_last_fit(glm):
    trace = glmcore.Trace()
    for verbose in (False, True):
        kwargs = {"callback": trace, "verbose": verbose}
        ClassifierGLM(3, regularizer_strength=0.05, solver_kwargs=kwargs).fit(X, LABELS)
        assert [report.n_iter for report in trace.reports] == list(range(1, glm.n_iter_ + 1))
    few = glmcore.Trace(every=3)
    ClassifierGLM(3, regularizer_strength=0.05, solver_kwargs={"callback": few}).fit(X, LABELS)
    steps = [report.n_iter for report in few.reports]
    assert max(np.diff(steps)) <= 3 and len(steps) < len(trace.reports)

    def interrupt(progress):
        if progress.n_iter == 2:
            raise KeyboardInterrupt

    model = ClassifierGLM(3, regularizer_strength=0.05, solver_kwargs={"callback": [trace, interrupt]})
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS)
    model.set_params(solver_kwargs={"callback": trace}).fit(X, LABELS)
    assert [report.n_iter for report in trace.reports] == list(range(1, glm.n_iter_ + 1))
    with pytest.raises(ValueError, match="every must be a positive whole number, found 0"):
        glmcore.Trace(every=0)
