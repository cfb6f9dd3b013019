"""Paths in scikit-learn's terms, and their picture."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from helpers import small
from sklearn.exceptions import ConvergenceWarning

import glmcore
from glmcore_sklearn import ClassifierGLM, RegularizationPathDisplay, regularization_path

matplotlib.use("agg")
X, Y = small()
X = X.astype(np.float32)
LABELS = np.array(["a", "b", "c"])[Y]


@pytest.fixture(scope="module")
def path():
    return regularization_path(ClassifierGLM(3, regularizer="Lasso"), X, LABELS, n_strengths=8, min_ratio=0.05)


def test_it_is_the_path_of_the_core(path):
    found = glmcore.regularization_path(glmcore.GLM(glmcore.Categorical(3), glmcore.Lasso()), X, Y, n_strengths=8, min_ratio=0.05)
    np.testing.assert_array_equal(path.coef_, found.params.coef)
    np.testing.assert_array_equal(path.strengths, found.strengths)
    assert path.converged.all() and path.nonzeros[0] == 0
    assert path.classes_.tolist() == ["a", "b", "c"] and path.feature_names_in_ is None
    assert all(isinstance(v, np.ndarray) for v in (path.coef_, path.intercept_, path.objective, path.n_iter_))


@pytest.mark.parametrize("strength", [None, 2.0])
def test_an_estimator_of_a_strength(strength, path):
    given = ClassifierGLM(3, regularizer="Lasso", regularizer_strength=strength)
    path = regularization_path(given, X, LABELS, path.strengths / (strength or 1))
    model = path.estimator(4)
    assert model.n_features_in_ == X.shape[1]
    expected = ClassifierGLM(3, regularizer="Lasso", regularizer_strength=model.regularizer_strength).fit(X, LABELS)
    assert model.regularizer_strength == pytest.approx(float(path.strengths[4]) * (strength or 1))
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-4)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    assert given.classes_ is None and given.regularizer_strength == (strength or 1.0)


def test_settings_of_the_solver_are_those_of_fit(path):
    given = ClassifierGLM(3, regularizer="Lasso", solver_kwargs={"stepsize": 0.05, "maxiter": 3000})
    found = regularization_path(given, X, LABELS, path.strengths[:4])
    assert found.converged.all()
    np.testing.assert_allclose(found.coef_, path.coef_[:4], atol=1e-3)


@pytest.mark.parametrize("settings", [{"verbose": True}, {"callback": print}])
def test_listeners_are_refused(settings):
    with pytest.raises(ValueError, match="a path of fits has no callback and no verbose"):
        regularization_path(ClassifierGLM(3, regularizer="Lasso", solver_kwargs=settings), X, LABELS, n_strengths=3)


@pytest.mark.slow
def test_the_strength_of_the_elastic_net_keeps_its_ratio():
    path = regularization_path(ClassifierGLM(3, regularizer="ElasticNet"), X, LABELS, [0.1])
    assert path.estimator(0).regularizer_strength == (pytest.approx(0.1), 0.5)


def test_it_tells_of_itself(path):
    high, low = path.strengths.max(), path.strengths.min()
    expected = f"{path.strengths.size} fits, strengths from {high:.3g} to {low:.3g}: {path.strengths.size} converged"
    assert repr(path) == f"RegularizationPath({expected}; {path.nonzeros.min()} to {path.nonzeros.max()} nonzeros)"


def test_what_did_not_converge_is_said_once():
    given = ClassifierGLM(3, regularizer="Lasso", solver_kwargs={"maxiter": 1})
    expected = r"did not converge in \d of 8 fits, first at strength .*iteration limit.* tol 1.0e-05\. To change that, raise"
    with pytest.warns(ConvergenceWarning, match=expected) as told:
        regularization_path(given, X, LABELS, n_strengths=8, min_ratio=0.05)
    assert len(told) == 1 and told[0].filename == __file__


def test_numbers_that_overflow_are_an_error():
    with pytest.raises(ValueError, match="objective or its gradient is not finite. Look for huge values in X"):
        regularization_path(ClassifierGLM(3), np.float32(X) * 1e38, LABELS, [1.0, 0.1])


def test_what_is_refused(path):
    with pytest.raises(ValueError, match="found UnRegularized"):
        regularization_path(ClassifierGLM(3, regularizer="UnRegularized"), X, LABELS)
    with pytest.raises(TypeError, match="strengths must"):
        regularization_path(ClassifierGLM(3, regularizer="Lasso"), X, LABELS, ["a"])
    with pytest.raises(ValueError, match="strengths must be finite and positive"):
        regularization_path(ClassifierGLM(3, regularizer="Lasso"), X, LABELS, [0.0])
    with pytest.raises(ValueError, match=r"label must be one of the classes \['a', 'b', 'c'\], found 'd'"):
        RegularizationPathDisplay(path).plot(label="d")
    with pytest.raises(TypeError, match="path must be a RegularizationPath, found int"):
        RegularizationPathDisplay(3)


def test_the_picture(path):
    display = RegularizationPathDisplay(path).plot(n_named=2)
    assert len(display.lines_) == 4 and display.figure_ is display.ax_.figure
    for j, line in enumerate(display.lines_):
        np.testing.assert_allclose(line.get_xdata(), path.strengths)
        np.testing.assert_allclose(line.get_ydata(), np.linalg.norm(path.coef_[:, j], axis=1), rtol=1e-6)
    assert sum(bool(text.get_text()) for text in display.ax_.texts) == 2
    assert display.ax_.get_xlabel() == "regularization strength" and display.ax_.get_ylabel()
    one = display.plot(label="b", ax=matplotlib.figure.Figure().subplots())
    np.testing.assert_allclose(one.lines_[1].get_ydata(), path.coef_[:, 1, 1])
    display.figure_.canvas.draw()


def test_the_picture_names_places_in_a_pytree(path):
    halves = {"stimulus": path.coef_[:, :2], "history": path.coef_[:, 2:3]}
    named = dataclasses.replace(path, coef_=halves, feature_names_in_=None)
    display = RegularizationPathDisplay(named).plot(n_named=3)
    assert {text.get_text() for text in display.ax_.texts} == {"history", "stimulus[0]", "stimulus[1]"}


def test_the_class_drawn_may_be_a_date(path):
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[ns]")
    display = RegularizationPathDisplay(dataclasses.replace(path, classes_=days)).plot(label=days[1])
    np.testing.assert_allclose(display.lines_[2].get_ydata(), path.coef_[:, 2, 1])


@pytest.mark.slow
def test_the_picture_of_two_classes_has_their_difference():
    import pandas as pd

    frame = pd.DataFrame(X, columns=["one", "two", "three", "four"])
    keep = Y < 2
    display = RegularizationPathDisplay.from_estimator(
        ClassifierGLM(2, regularizer="Lasso"), frame[keep], Y[keep], n_strengths=8, min_ratio=0.05
    )
    coef = display.path.coef_
    np.testing.assert_allclose(display.lines_[2].get_ydata(), coef[:, 2, 1] - coef[:, 2, 0])
    assert {text.get_text() for text in display.ax_.texts} <= set(frame)
