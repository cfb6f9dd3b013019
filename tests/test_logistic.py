"""``LogisticRegression`` does what scikit-learn's does: arguments, shapes, dtypes, weights, errors, warnings."""

import inspect

import jax
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from helpers import small
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression as Theirs

from glmcore_sklearn import LogisticRegression, LogisticRegressionCV

X, Y = small()
BINARY = Y > 0
WEIGHT = np.linspace(0.1, 3, len(Y))
TIGHT = {"tol": 1e-12, "max_iter": 1000}


def theirs(X, y, weight=None, **kwargs):
    """A scikit-learn fit that has converged."""
    model = Theirs(**{"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000} | kwargs)
    return model.fit(X, y, sample_weight=weight)


def ours(X, y, weight=None, **kwargs):
    return LogisticRegression(**TIGHT | kwargs).fit(X, y, sample_weight=weight)


def same(found, expected, atol=1e-7):
    """The same model: softmax is blind to the level of the intercept, and newton-cholesky leaves it somewhere."""
    level = expected.intercept_.mean() if len(expected.intercept_) > 1 else 0
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=atol)
    np.testing.assert_allclose(found.intercept_, expected.intercept_ - level, atol=atol)


def test_the_constructor_is_that_of_scikit_learn():
    assert inspect.signature(LogisticRegression) == inspect.signature(Theirs)
    methods = ("fit", "predict", "predict_proba", "predict_log_proba", "decision_function", "score", "sparsify", "densify")
    for name in methods:
        found = list(inspect.signature(getattr(LogisticRegression, name)).parameters)
        assert found == list(inspect.signature(getattr(Theirs, name)).parameters), name


@pytest.mark.parametrize("y", [Y, BINARY, np.array(["c", "a", "b"])[Y]], ids=["three", "two", "strings"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_same_model_in_the_same_shapes(y, fit_intercept):
    found, expected = (fit(X, y, fit_intercept=fit_intercept) for fit in (ours, theirs))
    same(found, expected)
    for name in ("coef_", "intercept_", "n_iter_", "classes_"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype), name
    assert found.n_features_in_ == 4 and not hasattr(found, "feature_names_in_")
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    assert found.score(X, y) == expected.score(X, y)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-7)
    np.testing.assert_allclose(found.predict_log_proba(X), expected.predict_log_proba(X), atol=1e-6)
    if not (fit_intercept and len(found.classes_) > 2):
        np.testing.assert_allclose(found.decision_function(X), expected.decision_function(X), atol=1e-6)
    assert found.decision_function(X).shape == expected.decision_function(X).shape


def test_it_computes_in_the_dtype_of_X():
    before = jax.config.jax_enable_x64
    for given, dtype in ((X, "float64"), (X.astype("f4"), "float32"), (np.round(X).astype(int), "float64")):
        model = LogisticRegression().fit(given, Y)
        assert {model.coef_.dtype, model.intercept_.dtype, model.predict_proba(given).dtype} == {np.dtype(dtype)}
    assert jax.config.jax_enable_x64 == before
    exact, single = LogisticRegression().fit(X, Y), LogisticRegression().fit(X.astype("f4"), Y)
    np.testing.assert_allclose(single.predict_proba(X), exact.predict_proba(X), atol=1e-4)


def test_float32_stays_so_where_x64_is_on(x64):
    assert LogisticRegression().fit(X.astype("f4"), Y).coef_.dtype == np.float32
    assert LogisticRegression().fit(X, Y).coef_.dtype == np.float64


def test_log_probabilities_are_finite_where_probabilities_vanish():
    model = ours(X, BINARY)
    assert np.isfinite(model.predict_log_proba(1e4 * X)).all() and model.predict_proba(1e4 * X).min() == 0


# Weights


@pytest.mark.parametrize("y", [Y, BINARY], ids=["three", "two"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.5}])
def test_weights_and_class_weights(y, class_weight):
    same(*(fit(X, y, WEIGHT, class_weight=class_weight) for fit in (ours, theirs)))


def test_classes_are_balanced_among_the_rows_with_weight():
    weight = np.where(Y == 1, 0, WEIGHT)
    with pytest.warns(UserWarning, match=r"weights of the classes \[1\] are all zero: they are left out"):
        found = ours(X, Y, weight, class_weight="balanced")
    expected = theirs(X[Y != 1], Y[Y != 1], WEIGHT[Y != 1], class_weight="balanced", C=2.0)
    difference = found.coef_[2] - found.coef_[0], found.intercept_[2] - found.intercept_[0]
    np.testing.assert_allclose(difference[0], expected.coef_[0], atol=1e-7)
    np.testing.assert_allclose(difference[1], expected.intercept_[0], atol=1e-7)


def test_a_weight_is_a_repeated_row():
    counts = np.arange(len(Y)) % 3
    same(ours(X, Y, counts), ours(np.repeat(X, counts, axis=0), np.repeat(Y, counts)))
    same(ours(X, Y, np.full(len(Y), 5.0)), ours(X, Y, C=5.0))


# The penalty


@pytest.mark.parametrize("y", [Y, BINARY], ids=["three", "two"])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_an_l1_part(y, l1_ratio):
    expected = theirs(X, y, solver="saga", l1_ratio=l1_ratio, C=0.1, tol=1e-11, max_iter=20_000)
    found = ours(X, y, solver="saga", l1_ratio=l1_ratio, C=0.1)
    same(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found.coef_ == 0, expected.coef_ == 0)


def test_no_penalty():
    same(ours(X, Y, C=np.inf), theirs(X, Y, C=np.inf), atol=1e-5)


@pytest.mark.parametrize(
    "old, new",
    [
        ({"penalty": "l2"}, {}),
        ({"penalty": None}, {"C": np.inf}),
        ({"penalty": "l1", "l1_ratio": 1.0, "solver": "saga"}, {"l1_ratio": 1.0, "solver": "saga"}),
        ({"penalty": "elasticnet", "l1_ratio": 0.5, "solver": "saga"}, {"l1_ratio": 0.5, "solver": "saga"}),
        ({"l1_ratio": None}, {}),
    ],
)
def test_the_deprecated_arguments(old, new):
    with pytest.warns(FutureWarning, match="deprecated"):
        found = ours(X, Y, **old)
    np.testing.assert_array_equal(found.coef_, ours(X, Y, **new).coef_)


SMOOTH = ["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga", "LBFGS", "newton"]


@pytest.mark.parametrize("solver", SMOOTH)
def test_names_of_solvers(solver):
    found = LogisticRegression(solver=solver, tol=1e-6, max_iter=500).fit(X, Y)
    same(found, theirs(X, Y), atol=1e-4)


# Programs


def test_one_program_for_all_fits_of_a_shape(programs):
    LogisticRegression().fit(X, Y)
    LogisticRegression().fit(X, Y, sample_weight=WEIGHT)
    with programs:
        for C in (0.1, 1, 10.0):
            LogisticRegression(C=C, tol=1e-3 * C, max_iter=50, class_weight="balanced").fit(X + C, Y, sample_weight=WEIGHT)
            model = LogisticRegression(C=C).fit(X[:50], Y[:50])
            model.predict_proba(X[:7])
    assert programs.traced == programs.compiled == 0


# Warm starts and batches


def test_warm_start():
    model = LogisticRegression(warm_start=True).fit(X, Y)
    cold = model.n_iter_[0]
    assert cold > 0 and model.fit(X, Y).n_iter_[0] == 0
    same(model.set_params(**TIGHT, C=0.5).fit(X, Y), ours(X, Y, C=0.5))
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(X, BINARY)
    two = ours(X, BINARY, warm_start=True)
    two.coef_ = two.coef_.tolist()
    assert two.fit(X, BINARY).n_iter_[0] == 0


def test_partial_fit_with_an_optax_transformation():
    model, target = LogisticRegression(solver=optax.adam(0.05)), ours(X, Y)
    for _ in range(400):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(model.predict_proba(X), target.predict_proba(X), atol=1e-3)
    assert model.n_iter_[0] == 400 and model.coef_.dtype == np.float64
    copied = clone(model)
    assert copied.solver == model.solver and not hasattr(copied, "coef_")


def test_partial_fit_of_two_classes_and_batches_that_lack_one():
    model = LogisticRegression(C=1.0)
    rows = np.flatnonzero(BINARY)[:20]
    model.partial_fit(X[rows], BINARY[rows], classes=[False, True])
    assert model.coef_.shape == (1, 4) and np.isfinite(model.coef_).all() and model.classes_.tolist() == [False, True]
    for _ in range(20):
        model.partial_fit(X, BINARY)
    same(model, ours(X, BINARY), atol=1e-3)


def test_partial_fit_goes_on_from_a_fit(programs):
    model = ours(X, Y)
    before = model.coef_
    model.partial_fit(X, Y)
    np.testing.assert_allclose(model.coef_, before, atol=1e-6)
    with programs:
        model.partial_fit(X[:50], Y[:50], sample_weight=WEIGHT[:50]).partial_fit(X, Y)
    assert programs.compiled == 0
    model.set_params(solver="GradientDescent").partial_fit(X, Y)  # another solver makes its own state
    assert model.n_iter_[0] == 1
    model.set_params(fit_intercept=False).partial_fit(X, Y)
    assert model.n_iter_[0] == 1 and not model.intercept_.any()


def test_what_partial_fit_refuses():
    model = LogisticRegression()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, Y)
    assert not hasattr(model, "n_features_in_")
    model.partial_fit(X, Y, classes=[0, 1, 2])
    before = vars(model).copy()
    for batch, error in (
        (lambda: model.partial_fit(X, Y + 1), "3"),
        (lambda: model.partial_fit(X, Y, classes=[0, 1]), "not the same"),
        (lambda: model.partial_fit(X, Y, classes=[0, 1, np.nan]), "NaN"),
        (lambda: model.partial_fit(X, Y, classes=["a", 1, 2]), "Mix of label input types"),
        (lambda: model.partial_fit(X, Y, classes=[2]), "classes must hold at least 2 labels, found \\[2\\]"),
        (lambda: model.partial_fit(X[:, :2], Y), "features"),
        (lambda: model.partial_fit(X, Y, sample_weight=0 * WEIGHT), "sample_weight is zero for all"),
    ):
        with pytest.raises(ValueError, match=error):
            batch()
        assert vars(model) == before
    with pytest.raises(ValueError, match="class_weight times sample_weight is zero for all"):
        model.set_params(class_weight={0: 0.0}).partial_fit(X[Y == 0], Y[Y == 0])
    with pytest.raises(ValueError, match="balanced"):
        model.set_params(class_weight="balanced").partial_fit(X, Y)


# Sparse coefficients


def test_sparsify_and_densify():
    model = LogisticRegression(C=0.15, l1_ratio=1, solver="saga", max_iter=1000).fit(X, Y)
    dense, proba = model.coef_, model.predict_proba(X)
    assert scipy.sparse.issparse(model.sparsify().coef_) and 0 < model.coef_.nnz < dense.size
    np.testing.assert_allclose(model.predict_proba(X), proba)
    np.testing.assert_array_equal(model.densify().coef_, dense)
    with pytest.raises(NotFittedError):
        LogisticRegression().sparsify()


# Errors and warnings: scikit-learn's on the same call, and words of our own

NAN = np.where(np.arange(X.size).reshape(X.shape) == 5, np.nan, X)
REFUSED = {
    "nan": ({}, NAN, Y, "NaN"),
    "infinity": ({}, np.where(np.isnan(NAN), np.inf, X), Y, "infinity"),
    "one class": ({}, X, np.zeros(len(Y)), "at least 2 classes"),
    "continuous y": ({}, X, X[:, 0], "continuous"),
    "lengths": ({}, X, Y[:-1], "inconsistent numbers of samples"),
    "C": ({"C": -1.0}, X, Y, "'C' parameter of LogisticRegression"),
    "C is zero": ({"C": 0}, X, Y, "'C' parameter"),
    "l1_ratio": ({"l1_ratio": 2}, X, Y, "'l1_ratio' parameter"),
    "tol": ({"tol": "small"}, X, Y, "'tol' parameter"),
    "max_iter": ({"max_iter": 1.5}, X, Y, "'max_iter' parameter"),
    "solver": ({"solver": "simplex"}, X, Y, "simplex.*|'solver' parameter"),
    "l1 with lbfgs": ({"l1_ratio": 0.5}, X, Y, "lbfgs"),
    "dual": ({"dual": True}, X, Y, "dual=False|dual must be False"),
    "dual with l1": ({"dual": True, "solver": "liblinear", "l1_ratio": 1.0}, X, BINARY, "dual"),
    "multiclass liblinear": ({"solver": "liblinear"}, X, Y, "does not support multiclass"),
    "liblinear elasticnet": ({"solver": "liblinear", "l1_ratio": 0.5}, X, BINARY, "liblinear|saga"),
    "liblinear without penalty": ({"solver": "liblinear", "C": np.inf}, X, BINARY, "liblinear"),
    "class_weight": ({"class_weight": "equal"}, X, Y, "'class_weight' parameter"),
    "unknown class": ({"class_weight": {7: 1.0}}, X, Y, "class_weight"),
    "elasticnet without ratio": ({"penalty": "elasticnet", "l1_ratio": None, "solver": "saga"}, X, Y, "l1_ratio must be specified"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kwargs, X, y, match", REFUSED.values(), ids=REFUSED)
def test_what_scikit_learn_refuses_is_refused(kwargs, X, y, match):
    for cls in (LogisticRegression, Theirs):
        with pytest.raises(ValueError, match=match):
            cls(**kwargs).fit(X, y)


def test_sparse_X_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match="toarray"):
        LogisticRegression().fit(scipy.sparse.csr_matrix(X), Y)
    assert not LogisticRegression().__sklearn_tags__().input_tags.sparse


def test_an_error_leaves_the_estimator_as_it_was():
    model = LogisticRegression().fit(X, Y)
    before = vars(model).copy()
    for bad in (lambda: model.fit(NAN[:, :2], Y), lambda: model.fit(X, Y, sample_weight=-WEIGHT)):
        with pytest.raises(ValueError):
            bad()
        assert vars(model) == before


def test_not_fitted():
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(LogisticRegression(), method)(X)


def test_warnings_that_users_know():
    with pytest.warns(ConvergenceWarning, match="raise max_iter or tol"):
        LogisticRegression(max_iter=1).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="lower C"):
        LogisticRegression(C=np.inf).fit(X, np.digitize(X[:, 0], [-0.5, 0.5]))
    with pytest.warns(DataConversionWarning, match="column-vector"):
        LogisticRegression().fit(X, Y[:, None])
    with pytest.warns(FutureWarning, match="n_jobs"):
        LogisticRegression(n_jobs=2).fit(X, Y)
    with pytest.warns(UserWarning, match="left out"):
        LogisticRegression().fit(X, Y, sample_weight=(Y > 0).astype(float))


CONTRADICTIONS = (
    {"penalty": "l2", "l1_ratio": 0.5},
    {"penalty": "l1", "solver": "saga"},
    {"penalty": None, "C": 3.0},
    {"penalty": None, "l1_ratio": 0.5, "solver": "saga"},
    {"C": np.inf, "l1_ratio": 0.5, "solver": "saga"},
    {"C": np.inf, "l1_ratio": 0.5},
)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kwargs", CONTRADICTIONS, ids=repr)
def test_arguments_that_contradict_each_other_are_warned_of(kwargs):
    for cls in (LogisticRegression, Theirs):
        with pytest.warns(UserWarning, match="Inconsistent|ignore|only used"):
            cls(**kwargs).fit(X, Y)


def test_validation_of_parameters_may_be_skipped():
    with sklearn.config_context(skip_parameter_validation=True):
        model = LogisticRegression(fit_intercept=1, max_iter=100.0).fit(X, Y)
    np.testing.assert_array_equal(model.coef_, LogisticRegression().fit(X, Y).coef_)


def test_predictions_refuse_text_and_keep_the_dtype():
    model = LogisticRegression().fit(X.astype(np.float32), Y)
    with pytest.raises(ValueError, match="strings"):
        model.predict(X.astype(str))
    assert model.predict_proba(X.astype(np.float16)).dtype == np.float32


def test_liblinear_says_that_it_is_for_two_classes():
    assert LogisticRegression().__sklearn_tags__().classifier_tags.multi_class
    assert not LogisticRegression(solver="liblinear").__sklearn_tags__().classifier_tags.multi_class


def test_a_sparse_fit_of_few_parameters_arrives_by_default():
    features, y = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    for C in (1, 1000):  # a warning would be an error
        assert LogisticRegression(C=C, l1_ratio=1, solver="saga").fit(features, y).n_iter_[0] <= 60


def test_progress_is_shown_if_asked_for(capsys):
    LogisticRegression(verbose=1).fit(X, Y)
    assert "residual" in capsys.readouterr().err


def test_the_examples_of_scikit_learn():
    features, y = load_iris(return_X_y=True)
    model = LogisticRegression(random_state=0).fit(features, y)
    np.testing.assert_array_equal(model.predict(features[:2, :]), [0, 0])
    expected = [[9.82e-01, 1.82e-02, 1.44e-08], [9.72e-01, 2.82e-02, 3.02e-08]]
    np.testing.assert_allclose(model.predict_proba(features[:2, :]), expected, rtol=2e-2)
    assert round(model.score(features, y), 2) == 0.97


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), LogisticRegressionCV(Cs=2, cv=2, scoring="accuracy", l1_ratios=(0,), use_legacy_attributes=False)],
    ids=["one", "cv"],
)
@pytest.mark.parametrize("kind", ["numpy", "pandas", "polars"])
def test_dates_are_no_features(estimator, kind):
    X, y = load_iris(return_X_y=True)
    dates = np.full(X.shape, np.datetime64("2020-01-01", "ms"))
    if kind != "numpy":
        frame, columns = pytest.importorskip(kind).DataFrame, dict(zip("abcd", X.T))
        X, dates = frame(columns), frame({**columns, "c": dates[:, 0]})
    model = clone(estimator).fit(X, y)
    for call in (lambda: model.predict(dates), lambda: clone(model).fit(dates, y)):
        with pytest.raises(TypeError, match="X must hold real numbers, found dtype (datetime64|Datetime)"):
            call()


def test_a_series_is_no_table():
    model = LogisticRegression().fit(X, Y)
    for call in (lambda: model.predict(pd.Series(X[:, 0])), lambda: clone(model).fit(pd.Series(X[:, 0]), Y)):
        with pytest.raises(ValueError, match="2-dimensional container but got .*Series"):
            call()


def test_coefficients_set_by_hand_may_be_whole_numbers():
    fitted = LogisticRegression().fit([[0, 1], [1, 0], [2, 2]], [0, 1, 0])
    fitted.coef_, fitted.intercept_ = np.array([[1, -1]]), np.array([0])
    np.testing.assert_allclose(fitted.predict_proba([[1, 2]]), [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]])
