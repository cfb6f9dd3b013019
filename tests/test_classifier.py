"""``ClassifierGLM``: what it accepts, what it computes, what it leaves behind."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pandas as pd
import pytest
from helpers import relative_error, slow, small
from scipy.special import log_softmax
from scipy.stats import chisquare
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore_sklearn import ClassesNotSetError, ClassifierGLM, LogisticRegression, SolverSpec, StepResult

X, Y = small()  # 60 rows, 4 features, 3 classes: one shape, so that programs are shared
N, P, K = 60, 4, 3
S = 0.05
FITTED = ["coef_", "intercept_", "n_iter_", "solver_state_", "scale_", "dof_resid_", "n_features_in_", "status_"]
TIGHT = {"tol": 1e-12, "maxiter": 5000}


def new(**kwargs):
    return ClassifierGLM(**{"n_classes": K, "regularizer_strength": S} | kwargs)


@pytest.fixture(scope="module")
def _fitted():
    return new().fit(X, Y)


@pytest.fixture
def fitted(_fitted):
    """Fitted on (X, Y) in float32; a copy of one's own."""
    return copy.deepcopy(_fitted)


def stacked(coef):
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(coef)])


def numpy_log_proba(model, features=X):
    """In float64, from the coefficients."""
    return log_softmax(
        np.asarray(features, float) @ stacked(model.coef_).astype(float) + np.asarray(model.intercept_, float), axis=1
    )


def unchanged(model, before):
    return vars(model).keys() == before.keys() and all(vars(model)[k] is before[k] for k in before)


# Real data


@pytest.mark.parametrize("load, names", [(load_iris, 3), (load_breast_cancer, 2)])
def test_a_fit_on_real_data(load, names, x64):
    bunch = load()
    raw, labels = bunch.data, bunch.target_names[bunch.target]
    y = np.unique(labels, return_inverse=True)[1]
    model = ClassifierGLM(n_classes=names, regularizer_strength=0.01).fit(raw, labels)
    expected = oracle.reference_fit(oracle.Ridge(0.01), raw, y, names)
    assert relative_error(model.coef_, expected[0]) < 1e-5
    found = oracle.objective(oracle.Ridge(0.01), np.asarray(model.coef_), np.asarray(model.intercept_), raw, y)
    assert (found - expected[2]) / expected[2] <= 1e-9
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    expected_labels = np.unique(labels)[np.argmax(raw @ expected[0] + expected[1], axis=1)]
    np.testing.assert_array_equal(model.predict(raw), expected_labels)
    assert glmcore.status_name(model.status_) == "converged"


# Labels

DAYS = np.array(["1999-12-31", "2000-01-01", "2020-02-29"])
VALUES = {
    "int": np.array([0, 1, 2]),
    "int8": np.array([0, 1, 2], np.int8),
    "unsigned": np.array([3, 5, 200], np.uint8),
    "negative": np.array([-7, -2, 10**12]),
    "str": np.array(["a", "bb", "ccc"]),
    "bytes": np.array([b"a", b"bb", b"ccc"]),
    "object": np.array(["a", "bb", "ccc"], object),
    "object int": np.array([1, 4, 9], object),
    "float64": np.array([-1.0, 0.0, 4.0]),
    "float32": np.array([1, 2, 3], np.float32),
    "datetime64[D]": DAYS.astype("datetime64[D]"),
    "datetime64[ns]": DAYS.astype("datetime64[ns]"),
    "unsortable": np.array(["x", 3, None], object),
}
VALUES["unsortable"][2] = ("a", 1)


def check_labels(fitted, y, classes, dtype):
    model = new().fit(X, y)
    assert model.classes_.dtype == dtype
    assert model.classes_.tolist() == classes.tolist()
    np.testing.assert_array_equal(model.coef_, fitted.coef_)  # the labels do not touch the numbers
    np.testing.assert_array_equal(model.intercept_, fitted.intercept_)
    expected = np.asarray(fitted.predict(X))
    found = model.predict(X)
    assert isinstance(found, np.ndarray) and found.dtype == dtype and found.shape == (N,)
    assert found.tolist() == classes[expected].tolist()
    np.testing.assert_array_equal(model.score(X, y), fitted.score(X, Y))
    key = jax.random.key(1)
    drawn, log_prob = model.simulate(key, X)
    index, expected_log_prob = fitted.simulate(key, X)
    assert drawn.dtype == dtype and drawn.tolist() == classes[index].tolist()
    np.testing.assert_array_equal(log_prob, expected_log_prob)
    params = model.initialize_params(X, y)
    np.testing.assert_array_equal(model.compute_loss(params, X, y), fitted.compute_loss(params, X, Y))
    state = model.initialize_optimizer_and_state(params, X, y)
    (coef, _), _ = model.update(params, state, X, y)
    other = new().set_classes(Y)
    (expected_coef, _), _ = other.update(params, other.initialize_optimizer_and_state(params, X, Y), X, Y)
    np.testing.assert_array_equal(coef, expected_coef)


@pytest.mark.parametrize("classes", VALUES.values(), ids=VALUES)
def test_labels_of_every_kind(fitted, classes):
    check_labels(fitted, classes[Y], classes, classes.dtype)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: pd.Series(y, index=np.arange(N)[::-1]),
        pd.Categorical,
        lambda y: pd.Series(pd.Categorical(y, categories=["unused", "ccc", "bb", "a"])),
        pd.Index,
        list,
        tuple,
    ],
    ids=["Series", "Categorical", "Series of categories", "Index", "list", "tuple"],
)
def test_labels_in_every_container(fitted, wrap):
    y = wrap(VALUES["str"][Y])
    check_labels(fitted, y, VALUES["str"], np.asarray(y).dtype)


def test_labels_as_a_jax_array(fitted):
    check_labels(fitted, jnp.asarray(Y), np.arange(3), np.asarray(jnp.asarray(Y)).dtype)


def test_boolean_labels():
    y = Y > 0
    model = ClassifierGLM(regularizer_strength=S).fit(X, y)
    assert model.classes_.dtype == bool and model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    as_int = ClassifierGLM(regularizer_strength=S).fit(X, y.astype(int))
    np.testing.assert_array_equal(model.coef_, as_int.coef_)
    np.testing.assert_array_equal(model.predict(X), as_int.predict(X).astype(bool))
    np.testing.assert_array_equal(model.score(X, y), as_int.score(X, y.astype(int)))
    assert model.simulate(jax.random.key(0), X)[0].dtype == bool


def test_unsortable_labels_keep_the_order_of_appearance(fitted):
    classes = np.array([2.5, "b", "a"], object)
    shuffled = np.array([1, 2, 0])  # class "b" appears first
    model = new().fit(X, classes[shuffled[Y]])
    assert model.classes_.tolist() == ["b", "a", 2.5]


@pytest.mark.parametrize("n_classes", [None, 3, 3.0, np.int64(3), np.float32(3)])
def test_ways_to_give_the_number_of_classes(fitted, n_classes):
    model = new(n_classes=n_classes)
    assert model.n_classes == (None if n_classes is None else 3)
    model.fit(X, Y)
    assert model.n_classes == 3 and type(model.n_classes) is int
    np.testing.assert_array_equal(model.coef_, fitted.coef_)
    assert model.get_params()["n_classes"] is n_classes
    assert new(n_classes=n_classes).set_classes(Y).n_classes == 3


def test_a_fit_after_set_classes_takes_the_classes_of_its_own_y():
    model = new().set_classes(["x", "y", "z"])
    assert model.fit(X, Y).classes_.tolist() == [0, 1, 2]
    assert model.fit(X, VALUES["str"][Y]).classes_.tolist() == ["a", "bb", "ccc"]


# Features

TREES = {
    "dict": lambda a: {"b": a[:, 1:], "a": a[:, :1]},
    "tuple": lambda a: (a[:, :1], a[:, 1:]),
    "list of arrays": lambda a: [a[:, :2], a[:, 2:]],
    "nested": lambda a: {"x": (a[:, :1], {"z": a[:, 1:3]}), "y": [a[:, 3:]]},
}


@pytest.fixture(scope="module")
def exact():
    with jax.enable_x64(True):
        return new(solver_kwargs=TIGHT).fit(X, Y)


@pytest.mark.parametrize("name", ["dict", slow("tuple"), slow("list of arrays"), "nested"])
def test_a_pytree_equals_the_stacked_array(name, exact, x64):
    features = TREES[name](X)
    model = new(solver_kwargs=TIGHT).fit(features, Y)
    assert jax.tree.structure(model.coef_) == jax.tree.structure(features)
    assert relative_error(stacked(model.coef_), exact.coef_) < 1e-9
    assert relative_error(model.intercept_, exact.intercept_) < 1e-9
    assert relative_error(model.predict_proba(features), exact.predict_proba(X)) < 1e-9
    assert model.dof_resid_ == exact.dof_resid_ and model.n_features_in_ == P
    assert not hasattr(model, "feature_names_in_")


def test_every_method_takes_a_pytree(exact, x64):
    features = TREES["nested"](X)
    model = new(solver_kwargs=TIGHT).fit(features, Y)
    np.testing.assert_array_equal(model.predict(features), exact.predict(X))
    np.testing.assert_array_equal(model.simulate(jax.random.key(0), features)[0], exact.simulate(jax.random.key(0), X)[0])
    assert relative_error(model.score(features, Y), exact.score(X, Y)) < 1e-9
    coef, intercept = model.initialize_params(features, Y)
    assert jax.tree.structure(coef) == jax.tree.structure(features)
    params = (model.coef_, model.intercept_)
    assert relative_error(model.compute_loss(params, features, Y), -float(exact.score(X, Y))) < 1e-9
    gradient, _ = jax.grad(model.compute_loss)(params, features, Y)
    np.testing.assert_allclose(stacked(gradient), -S * stacked(model.coef_), atol=1e-9)
    state = model.initialize_optimizer_and_state((coef, intercept), features, Y)
    (coef, _), state = model.update((coef, intercept), state, features, Y)
    assert jax.tree.structure(coef) == jax.tree.structure(features)
    assert isinstance(state, glmcore.SolverState)


def test_a_dataframe_gives_names_and_they_are_checked(fitted):
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = new().fit(frame, Y)
    assert model.feature_names_in_.tolist() == list("abcd") and model.feature_names_in_.dtype == object
    np.testing.assert_array_equal(model.coef_, fitted.coef_)
    np.testing.assert_array_equal(model.predict(frame), fitted.predict(X))
    with pytest.raises(ValueError, match="same order"):
        model.predict(frame[list("dcba")])
    with pytest.raises(ValueError, match="unseen at fit time:\n- e"):
        model.score(frame.rename(columns={"a": "e"}), Y)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but ClassifierGLM was fitted with"):
        model.predict_proba(X)
    with pytest.warns(UserWarning, match="X has feature names, but ClassifierGLM was fitted without"):
        fitted.predict(frame)
    assert not hasattr(model.fit(X, Y), "feature_names_in_")


@pytest.mark.parametrize(
    "convert",
    [np.ndarray.tolist, lambda a: list(a), lambda a: tuple(map(tuple, a)), jnp.asarray, np.asfortranarray,
     lambda a: a.astype(np.float32), lambda a: pd.DataFrame(a)],
    ids=["lists", "list of rows", "tuples", "jax", "Fortran", "float32", "unnamed DataFrame"],
)  # fmt: skip
def test_containers_of_features(fitted, convert):
    features = convert(X)
    model = new().fit(features, Y)
    np.testing.assert_array_equal(model.coef_, fitted.coef_)
    np.testing.assert_array_equal(model.predict(features), fitted.predict(X))
    assert isinstance(model.coef_, jax.Array) and model.n_features_in_ == P


def test_integer_features(fitted):
    rounded = np.rint(10 * X)
    np.testing.assert_array_equal(new().fit(rounded.astype(int), Y).coef_, new().fit(rounded, Y).coef_)


@pytest.mark.parametrize("given", [np.float32, np.float64])
def test_one_dtype_throughout(precision, given):
    features = X.astype(given)
    model = new().fit(features, Y)
    for array in (
        model.coef_,
        model.intercept_,
        model.predict_proba(features),
        model.predict_proba(features, return_type="proba"),
        model.score(features, Y),
        model.score(features, Y, score_type="pseudo-r2-McFadden"),
        model.compute_loss((model.coef_, model.intercept_), features, Y),
        model.simulate(jax.random.key(0), features)[1],
        *model.initialize_params(features, Y),
    ):
        assert array.dtype == precision
    params = model.initialize_params(features, Y)
    (coef, intercept), _ = model.update(params, model.initialize_optimizer_and_state(params, features, Y), features, Y)
    assert coef.dtype == intercept.dtype == precision


def test_inputs_are_not_modified():
    features, y, weight = X.copy(), Y.copy(), np.ones(N)
    features[3, 1] = np.nan
    given = (features, y, weight)
    before = copy.deepcopy(given)
    with pytest.warns(UserWarning, match="NaN"):
        new().fit(features, y, sample_weight=weight)
    for old, now in zip(before, given):
        np.testing.assert_array_equal(old, now)


# Scores


def test_the_score_in_its_three_forms(fitted):
    ll = numpy_log_proba(fitted)[np.arange(N), Y].mean()
    frequencies = np.bincount(Y) / N
    ll0 = np.sum(frequencies * np.log(frequencies))
    assert relative_error(fitted.score(X, Y), ll) < 1e-6
    assert relative_error(fitted.score(X, Y, score_type="log-likelihood"), ll) < 1e-6
    for score_type in ("pseudo-r2-McFadden", "pseudo-r2-Cohen"):
        assert relative_error(fitted.score(X, Y, score_type), 1 - ll / ll0) < 5e-6
    assert fitted.score(X, Y, "pseudo-r2-McFadden") == fitted.score(X, Y, "pseudo-r2-Cohen")
    assert isinstance(fitted.score(X, Y), jax.Array) and fitted.score(X, Y).shape == ()


def test_the_null_model_of_a_pseudo_r2_knows_the_scored_labels_only(fitted):
    rows = np.concatenate([np.flatnonzero(Y == 0)[:12], np.flatnonzero(Y == 1)[:3]])
    ll = numpy_log_proba(fitted, X[rows])[np.arange(15), Y[rows]].mean()
    ll0 = 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    assert relative_error(fitted.score(X[rows], Y[rows], "pseudo-r2-McFadden"), 1 - ll / ll0) < 1e-5


@pytest.mark.parametrize("score_type", ["pseudo-r2-McFadden", "pseudo-r2-Cohen"])
def test_a_pseudo_r2_of_one_class_is_nan_with_a_warning(fitted, score_type):
    with pytest.warns(UserWarning, match=f"{score_type} is not defined: y holds one class only"):
        assert np.isnan(fitted.score(X, np.zeros(N, int), score_type))
    assert np.isfinite(fitted.score(X, np.zeros(N, int)))


def test_rows_of_weight_zero_count_for_nothing_though_they_be_a_whole_class(fitted):
    weight = (Y != 2).astype(float)
    score = fitted.score(X, Y, "pseudo-r2-McFadden", sample_weight=weight)
    expected = fitted.score(X[Y != 2], Y[Y != 2], "pseudo-r2-McFadden")
    assert relative_error(score, expected) < 1e-5
    with pytest.warns(UserWarning, match=r"weights of the classes \[2\] are all zero"):
        weighted = new().fit(X, Y, sample_weight=weight)
    assert weighted.dof_resid_ == new(n_classes=2).fit(X[Y != 2], Y[Y != 2]).dof_resid_


@pytest.mark.parametrize("aggregate", [jnp.sum, np.sum, jnp.mean, np.median, lambda ll: ll.min()])
def test_scores_are_aggregated_as_told(fitted, aggregate):
    ll = numpy_log_proba(fitted)[np.arange(N), Y]
    expected = float(np.asarray(aggregate(jnp.asarray(ll, jnp.float32))))
    assert relative_error(fitted.score(X, Y, aggregate_sample_scores=aggregate), expected) < 2e-6


def test_a_sum_gives_the_same_pseudo_r2_as_a_mean(fitted):
    by_sum = fitted.score(X, Y, "pseudo-r2-McFadden", jnp.sum)
    assert relative_error(by_sum, fitted.score(X, Y, "pseudo-r2-McFadden")) < 5e-6


def test_scoring_labels_that_a_subset_lacks(fitted):
    rows = Y != 2
    ll = numpy_log_proba(fitted, X[rows])[np.arange(rows.sum()), Y[rows]].mean()
    assert relative_error(fitted.score(X[rows], Y[rows]), ll) < 1e-6


# Predictions


def test_probabilities(fitted):
    expected = numpy_log_proba(fitted)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_allclose(fitted.predict_proba(X, "proba"), np.exp(expected), atol=1e-6)
    np.testing.assert_array_equal(fitted.predict_proba(X), fitted.predict_proba(X, return_type="log-proba"))
    np.testing.assert_array_equal(fitted.predict(X), expected.argmax(axis=1))


def test_probabilities_far_out_are_finite_logs(fitted):
    far = fitted.predict_proba(1e6 * X)
    assert np.all(np.isfinite(far)) and far.min() < -1e5


def test_simulated_labels_follow_the_model():
    n = 20_000
    model = ClassifierGLM(3).set_classes(["a", "b", "c"])
    model.coef_, model.intercept_ = np.array([[0.5, -0.5, 0.0]]), np.array([0.1, 0.2, -0.3])
    drawn, log_prob = model.simulate(jax.random.key(3), np.ones((n, 1)))
    proba = np.exp(log_softmax([0.6, -0.3, -0.3]))
    counts = [(drawn == label).sum() for label in "abc"]
    assert chisquare(counts, n * proba).pvalue > 1e-3
    np.testing.assert_allclose(log_prob, np.log(proba)[np.searchsorted(["a", "b", "c"], drawn)], rtol=1e-5)
    again, _ = model.simulate(jax.random.key(3), np.ones((n, 1)))
    np.testing.assert_array_equal(drawn, again)
    other, _ = model.simulate(jax.random.key(4), np.ones((n, 1)))
    assert (other != drawn).any()


def test_coefficients_set_by_hand():
    rng = np.random.default_rng(0)
    coef, intercept = rng.standard_normal((P, K)), rng.standard_normal(K)
    model = ClassifierGLM(3)
    model.coef_, model.intercept_ = coef, intercept
    with pytest.raises(ClassesNotSetError, match="set_classes"):
        model.predict(X)
    assert model.set_classes(["a", "b", "c"]) is model
    expected = log_softmax(X @ coef + intercept, axis=1)
    np.testing.assert_array_equal(model.predict(X), np.array(["a", "b", "c"])[expected.argmax(axis=1)])
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)
    y = np.array(["a", "b", "c"])[Y]
    assert relative_error(model.score(X, y), expected[np.arange(N), Y].mean()) < 1e-6
    assert model.simulate(jax.random.key(0), X)[0].dtype == "<U1"
    assert model.coef_ is coef and model.intercept_ is intercept


# The loss


def test_the_loss_and_its_gradient(x64):
    rng = np.random.default_rng(1)
    coef, intercept = rng.standard_normal((P, K)), rng.standard_normal(K)
    model = new().set_classes(Y)
    assert relative_error(model.compute_loss((coef, intercept), X, Y), oracle.loss(coef, intercept, X, Y)) < 1e-12
    for gradient in (jax.grad(model.compute_loss), jax.jit(jax.grad(lambda p, *_: model.compute_loss(p, X, Y)))):
        by_coef, by_intercept = gradient((coef, intercept), X, Y)
        expected = oracle.loss_gradient(coef, intercept, X, Y)
        assert relative_error(by_coef, expected[0]) < 1e-12
        assert relative_error(by_intercept, expected[1]) < 1e-12
    step = 1e-6
    for j, k in ((0, 0), (3, 2)):
        shift = np.zeros((P, K))
        shift[j, k] = step
        up, down = (float(model.compute_loss((coef + s * shift, intercept), X, Y)) for s in (1, -1))
        assert abs((up - down) / (2 * step) - by_coef[j, k]) < 1e-8


@pytest.mark.parametrize("kwargs", [{"regularizer_strength": 100.0}, {"regularizer": "Lasso"}, {"regularizer": "UnRegularized", "regularizer_strength": None}])  # fmt: skip
def test_the_loss_has_no_penalty(fitted, kwargs):
    params = (fitted.coef_, fitted.intercept_)
    found = new(**kwargs).set_classes(Y).compute_loss(params, X, Y)
    np.testing.assert_array_equal(found, fitted.compute_loss(params, X, Y))
    np.testing.assert_allclose(found, -fitted.score(X, Y), rtol=1e-6)


def test_the_loss_does_not_change_the_estimator(fitted):
    before = vars(fitted).copy()
    fitted.compute_loss(fitted.initialize_params(X, Y), X, Y)
    assert unchanged(fitted, before)


# Weights


def test_weights_are_repeated_rows(x64):
    weight = np.where(np.arange(N) < 30, 2.0, 0.0)
    rows = np.repeat(np.arange(30), 2)  # of the same shape
    weighted = new(solver_kwargs=TIGHT).fit(X, Y, sample_weight=weight)
    repeated = new(solver_kwargs=TIGHT).fit(X[rows], Y[rows])
    assert relative_error(weighted.coef_, repeated.coef_) < 1e-9
    assert relative_error(weighted.intercept_, repeated.intercept_) < 1e-9
    expected = oracle.reference_fit(oracle.Ridge(S), X, Y, K, weight)
    assert relative_error(weighted.coef_, expected[0]) < 1e-8
    assert weighted.dof_resid_ == 30 - P * (K - 1) - (K - 1)


def test_the_scale_of_the_weights_has_no_effect(exact, x64):
    for weight in (np.full(N, 7.0), [3] * N, pd.Series(np.full(N, 0.01)), jnp.ones(N)):
        model = new(solver_kwargs=TIGHT).fit(X, Y, sample_weight=weight)
        assert relative_error(model.coef_, exact.coef_) < 1e-9


def test_a_class_without_weight_is_left_out(x64):
    weight = np.where(Y == 2, 0.0, 1.0)
    with pytest.warns(UserWarning, match=r"classes \[2\]"):
        model = new(solver_kwargs=TIGHT).fit(X, Y, sample_weight=weight)
    rest = Y != 2
    two = oracle.reference_fit(oracle.Ridge(S), X[rest], Y[rest], 2)
    assert relative_error(model.coef_[:, :2], two[0]) < 1e-8
    assert np.all(np.asarray(model.coef_)[:, 2] == 0)
    assert np.isfinite(model.intercept_[2]) and model.intercept_[2] < model.intercept_[:2].min() - 10
    assert glmcore.status_name(model.status_) == "missing_class"
    assert set(model.predict(X)) <= {0, 1}


# Starting points


def test_the_start_does_not_change_the_answer(exact, x64):
    rng = np.random.default_rng(2)
    start = (rng.standard_normal((P, K)), rng.standard_normal(K))
    for params in (start, list(start), glmcore.GLMParams(*map(jnp.asarray, start)), (exact.coef_, exact.intercept_)):
        model = new(solver_kwargs=TIGHT).fit(X, Y, params)
        assert relative_error(model.coef_, exact.coef_) < 1e-9
        assert relative_error(model.intercept_, exact.intercept_) < 1e-9
    assert model.n_iter_ < exact.n_iter_  # started at the answer


def test_initial_params_are_the_null_model():
    model = new().set_classes(Y)
    coef, intercept = model.initialize_params(X, Y)
    log = np.log(np.bincount(Y) / N)
    assert coef.shape == (P, K) and not np.any(coef)
    np.testing.assert_allclose(intercept, log - log.mean(), rtol=1e-5)
    lacking = np.where(Y == 2, 1, Y)
    _, intercept = model.initialize_params(X, lacking)
    assert np.all(np.isfinite(intercept)) and intercept[2] < intercept[:2].min()
    assert abs(np.sum(intercept)) < 1e-5
    assert not hasattr(model, "coef_")


# The optimizer, step by step


def start(model, features=X, y=Y):
    params = model.initialize_params(features, y)
    return params, model.initialize_optimizer_and_state(params, features, y)


def test_full_batches_reach_the_answer_of_fit(exact, x64):
    model = new(solver_kwargs=TIGHT).set_classes(Y)
    params, state = start(model)
    for _ in range(60):
        params, state = model.update(params, state, X, Y)
    assert relative_error(params[0], exact.coef_) < 1e-8
    assert relative_error(params[1], exact.intercept_) < 1e-8
    np.testing.assert_array_equal(model.predict(X), exact.predict(X))


def test_what_update_returns_and_sets():
    model = new().set_classes(Y)
    params, state = start(model)
    assert isinstance(state, glmcore.SolverState)
    assert not hasattr(model, "coef_")  # only update sets it
    result = model.update(params, state, X, Y)
    assert isinstance(result, StepResult) and isinstance(result, tuple) and len(result) == 2
    assert type(result.params) is tuple and len(result.params) == 2
    assert isinstance(result.state, glmcore.SolverState)
    assert model.coef_ is result.params[0] and model.intercept_ is result.params[1]
    assert model.solver_state_ is result.state
    assert model.scale_ == 1 and model.n_features_in_ == P
    assert model.dof_resid_ == N - P * (K - 1) - (K - 1)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.__sklearn_is_fitted__()


def test_update_counts_its_steps_in_n_iter():
    """n_iter_ is a fitted attribute, and update sets these."""
    model = new().set_classes(Y)
    params, state = start(model)
    for n in (1, 2, 3):
        params, state = model.update(params, state, X, Y)
        assert model.n_iter_ == n


def test_the_status_of_a_fit_does_not_survive_an_update(fitted):
    """``status_`` speaks of the coefficients beside it; after one rough step "converged" would be false."""
    params, state = start(fitted)
    fitted.update(params, state, X, Y)
    assert "status_" not in vars(fitted) or glmcore.status_name(fitted.status_) != "converged"


def test_batches_may_lack_classes():
    labels = np.array(["a", "b", "c"])
    y = labels[Y]
    order = np.argsort(Y, kind="stable")
    model = new().set_classes(labels)
    first = order[:20]
    assert len(set(Y[first])) < 3
    params, state = start(model, X[first], y[first])
    assert model.classes_.tolist() == ["a", "b", "c"]
    before = oracle.objective(oracle.Ridge(S), np.zeros((P, K)), np.zeros(K), X, Y)
    for _ in range(5):
        for rows in (order[:20], order[20:40], order[40:]):
            params, state = model.update(params, state, X[rows], y[rows])
            assert np.all(np.isfinite(params[0])) and np.all(np.isfinite(params[1]))
    assert params[0].shape == (P, K) and np.isfinite(before)
    assert set(model.predict(X)) <= set(labels)
    mixed = np.random.default_rng(0).permutation(N).reshape(3, 20)
    params, state = start(model, X[mixed[0]], y[mixed[0]])
    for _ in range(10):
        for rows in mixed:
            params, state = model.update(params, state, X[rows], y[rows])
    assert oracle.objective(oracle.Ridge(S), np.asarray(params[0]), np.asarray(params[1]), X, Y) < before


def test_update_does_not_centre_the_params():
    model = new().set_classes(Y)
    (coef, intercept), _ = start(model)
    state = model.initialize_optimizer_and_state((coef, intercept + 1), X, Y)
    (_, moved), _ = model.update((coef, intercept + 1), state, X, Y)
    np.testing.assert_allclose(np.mean(moved), 1, atol=1e-6)


def test_an_unknown_label_leaves_the_estimator_as_it_was():
    labels = np.array(["a", "b", "c"])
    model = new().set_classes(labels)
    params, state = start(model, X, labels[Y])
    params, state = model.update(params, state, X, labels[Y])
    before = vars(model).copy()
    bad = labels[Y].copy()
    bad[7] = "d"
    with pytest.raises(ValueError, match=r"y holds labels that are not in classes_: 'd'.*Valid labels: 'a', 'b', 'c'"):
        model.update(params, state, X, bad)
    assert unchanged(model, before)
    assert model.coef_ is params[0]


def test_n_samples_counts_for_the_degrees_of_freedom():
    model = new().set_classes(Y)
    params, state = start(model)
    model.update(params, state, X, Y, n_samples=1000)
    assert model.dof_resid_ == 1000 - P * (K - 1) - (K - 1)


def test_update_takes_weights(x64):
    weight = np.where(np.arange(N) < 30, 2.0, 0.0)
    rows = np.repeat(np.arange(30), 2)
    model = new().set_classes(Y)
    params, state = start(model)
    weighted = model.update(params, state, X, Y, sample_weight=weight).params
    repeated = model.update(params, state, X[rows], Y[rows]).params
    np.testing.assert_allclose(weighted[0], repeated[0], atol=1e-12)


def test_initialize_optimizer_and_state_and_the_classes():
    labels = np.array(["a", "b", "c"])
    model = new()
    params = (np.zeros((P, K)), np.zeros(K))
    model.initialize_optimizer_and_state(params, X, labels[Y])
    assert model.classes_.tolist() == ["a", "b", "c"]
    model = new().set_classes(labels)
    model.initialize_optimizer_and_state(params, X, labels[np.where(Y == 2, 0, Y)])
    assert model.classes_.tolist() == ["a", "b", "c"]
    model = new()
    with pytest.raises(ValueError, match="Found 2 classes in y .*expected n_classes=3"):
        model.initialize_optimizer_and_state(params, X, np.where(Y == 2, 0, Y))
    assert model.classes_ is None and model.optimizer_run is None


def test_the_optimizer_as_functions(exact, x64):
    model = new(solver_kwargs=TIGHT)
    functions = ("optimizer_init_state", "optimizer_update", "optimizer_run")
    assert [getattr(model, f) for f in functions] == [None] * 3
    model.set_classes(Y)
    assert [getattr(model, f) for f in functions] == [None] * 3
    params, _ = start(model)
    assert all(callable(getattr(model, f)) for f in functions)
    before = vars(model).copy()
    (coef, intercept), _, _ = model.optimizer_run(params, X, Y)
    assert relative_error(coef, exact.coef_) < 1e-9
    assert relative_error(intercept, exact.intercept_) < 1e-9
    state = model.optimizer_init_state(params, X, Y)
    for _ in range(60):
        params, state, _ = model.optimizer_update(params, state, X, Y)
    assert relative_error(params[0], exact.coef_) < 1e-8
    assert unchanged(model, before)
    assert all(callable(getattr(copy.deepcopy(exact), f)) for f in functions)
    assert [getattr(clone(model), f) for f in functions] == [None] * 3


# What the estimator tells


def test_the_solver_and_the_observation_model():
    model = ClassifierGLM(n_classes=None, regularizer="lasso")
    assert model.solver is glmcore.ProximalGradient and model.solver_name == "ProximalGradient"
    assert isinstance(model.solver_spec, SolverSpec)
    assert model.solver_spec.algo_name == "ProximalGradient"
    assert model.solver_spec.implementation is glmcore.ProximalGradient
    assert model.observation_model is None and model.n_classes is None
    model.set_classes(Y)
    assert isinstance(model.observation_model, glmcore.Categorical)
    assert model.observation_model.n_classes == 3
    assert ClassifierGLM().solver is glmcore.LBFGS and ClassifierGLM().solver_kwargs == {}
    assert ClassifierGLM(4).observation_model.n_classes == 4


DEFAULT_SOLVERS = {
    "UnRegularized": "LBFGS",
    "Ridge": "LBFGS",
    "Lasso": "ProximalGradient",
    "ElasticNet": "ProximalGradient",
    "GroupLasso": "ProximalGradient",
}
DEFAULT_STRENGTHS = {"UnRegularized": None, "Ridge": 1.0, "Lasso": 1.0, "ElasticNet": (1.0, 0.5), "GroupLasso": 1.0}


@pytest.mark.parametrize("name", DEFAULT_SOLVERS)
def test_names_of_penalties(name):
    for given in (name, name.lower(), name.upper(), getattr(glmcore, name)()):
        model = ClassifierGLM(regularizer=given)
        assert type(model.regularizer) is getattr(glmcore, name)
        assert repr(model.regularizer) == f"{name}()"
        assert model.solver_name == DEFAULT_SOLVERS[name]
        assert model.regularizer_strength == DEFAULT_STRENGTHS[name]
        assert model.get_params()["regularizer"] is given


@pytest.mark.parametrize("name", ["GradientDescent", "BFGS", "LBFGS", "NonlinearCG", "ProximalGradient", "SVRG", "ProxSVRG"])
def test_every_solver_by_name_reaches_the_same_answer(name, exact, x64):
    kwargs = {"tol": 1e-10, "maxiter": 20_000}
    model = new(solver_name=name.swapcase(), solver_kwargs=kwargs).fit(X, Y)
    assert model.solver_name == name and model.solver is getattr(glmcore, name)
    assert relative_error(model.coef_, exact.coef_) < 1e-7


def test_repr_tells():
    text = repr(ClassifierGLM(3, regularizer="lasso", regularizer_strength=0.25, solver_kwargs={"tol": 1e-4}))
    for part in ("ClassifierGLM(", "n_classes=3", "Lasso", "0.25", "ProximalGradient", "'tol': 0.0001"):
        assert part in text
    assert repr(ClassifierGLM(regularizer="Rigde")).count("Rigde") == 1
    assert "nope" in repr(ClassifierGLM(solver_name="nope"))
    assert "n_classes=None" in repr(ClassifierGLM(n_classes=None))
    mask = np.zeros((2, 500, 10))
    assert len(repr(ClassifierGLM(regularizer_strength=np.ones((500, 10)), regularizer=glmcore.GroupLasso(1.0, mask)))) < 500  # fmt: skip


def test_repr_of_a_bad_n_classes_still_works():
    assert "n_classes='two'" in repr(ClassifierGLM(n_classes="two"))


def test_before_fit_only_classes_exists():
    model = ClassifierGLM()
    assert model.classes_ is None
    for name in [*FITTED, "feature_names_in_"]:
        assert not hasattr(model, name)
    assert [name for name in vars(model) if name.endswith("_") and not name.startswith("_")] == []
    assert not model.__sklearn_is_fitted__()
    model.set_classes([0, 1])
    assert not model.__sklearn_is_fitted__() and not hasattr(model, "coef_")


def test_after_fit_everything_exists(fitted):
    for name in FITTED:
        assert hasattr(fitted, name)
    assert type(fitted.n_iter_) is int and fitted.n_iter_ > 0
    assert fitted.scale_ == 1 and fitted.n_features_in_ == P
    assert isinstance(fitted.solver_state_, glmcore.SolverState)
    assert fitted.intercept_.shape == (K,) and fitted.coef_.shape == (P, K)
    assert abs(float(fitted.intercept_.sum())) < 1e-5 and np.abs(fitted.coef_.sum(axis=1)).max() < 1e-5
    assert glmcore.status_name(fitted.status_) == "converged"
    assert fitted.__sklearn_is_fitted__()


def test_methods_before_they_can_work():
    model = ClassifierGLM(3)
    params = (np.zeros((P, K)), np.zeros(K))
    calls = {
        "initialize_params": lambda: model.initialize_params(X, Y),
        "update": lambda: model.update(params, None, X, Y),
        "predict": lambda: model.predict(X),
        "predict_proba": lambda: model.predict_proba(X),
        "simulate": lambda: model.simulate(jax.random.key(0), X),
        "score": lambda: model.score(X, Y),
        "compute_loss": lambda: model.compute_loss(params, X, Y),
    }
    for name, call in calls.items():
        with pytest.raises(ClassesNotSetError, match=f"Must call ``set_classes`` before calling ``{name}``") as info:
            call()
        assert isinstance(info.value, RuntimeError) and isinstance(info.value, NotFittedError)
    model.set_classes(Y)
    for name in ("predict", "predict_proba", "simulate", "score"):
        with pytest.raises(NotFittedError, match=f"before calling ``{name}``") as info:
            calls[name]()
        assert not isinstance(info.value, ClassesNotSetError)
    calls["initialize_params"]()
    calls["compute_loss"]()


# Parameters

BAD = {
    "n_classes": "two",
    "inverse_link_function": 3,
    "regularizer": 5,
    "regularizer_strength": -1.0,
    "solver_name": "nope",
    "solver_kwargs": {"zzz": 1},
}


def test_the_constructor_and_set_params_only_assign():
    model = ClassifierGLM(**BAD)
    assert all(model.get_params()[name] is value for name, value in BAD.items())
    other = ClassifierGLM()
    assert other.set_params(**BAD) is other
    assert all(other.get_params()[name] is value for name, value in BAD.items())
    assert clone(model).get_params().keys() == BAD.keys()


@pytest.mark.parametrize("name", BAD)
def test_bad_values_raise_at_fit(name):
    model = new().set_params(**{name: BAD[name]})
    with pytest.raises((ValueError, TypeError)):
        model.fit(X, Y)
    assert model.classes_ is None


def test_get_params_returns_what_was_passed(fitted):
    strength, kwargs, link = np.full((P, 1), 0.1), {"tol": 1e-4}, jax.nn.log_softmax
    given = {
        "n_classes": np.int64(3),
        "inverse_link_function": link,
        "regularizer": "RIDGE",
        "regularizer_strength": strength,
        "solver_name": "lbfgs",
        "solver_kwargs": kwargs,
    }
    model = ClassifierGLM(**given)
    for _ in range(2):
        assert model.get_params().keys() == given.keys() == model.get_params(deep=False).keys()
        assert all(model.get_params()[name] is value for name, value in given.items())
        model.fit(X, Y)
    assert kwargs == {"tol": 1e-4}
    with pytest.raises(ValueError, match="Invalid parameter 'penalty'"):
        model.set_params(penalty="l1")


def test_attributes_may_be_assigned_as_parameters(fitted):
    model = new()
    model.regularizer, model.regularizer_strength, model.solver_name = "lasso", 0.1, "proximalgradient"
    assert type(model.regularizer) is glmcore.Lasso and model.regularizer_strength == 0.1
    assert model.solver_name == "ProximalGradient" and model.get_params()["regularizer"] == "lasso"


# Strengths

MASK = np.zeros((2, P, K), int)
MASK[0, :2] = MASK[1, 2:] = 1
BY_FEATURE = np.array([[0.01], [0.1], [0.05], [0.2]])
BY_ENTRY = np.linspace(0.01, 0.1, P * K).reshape(P, K)
STRENGTHS = {
    "number": (glmcore.Ridge(), 0.03, oracle.Ridge(0.03)),
    "integer": ("Ridge", 1, oracle.Ridge(1.0)),
    "NumPy number": ("Ridge", np.float32(0.5), oracle.Ridge(0.5)),
    "default": ("Ridge", None, oracle.Ridge(1.0)),
    "a feature": ("Ridge", BY_FEATURE, oracle.Ridge(BY_FEATURE)),
    "an entry": ("Ridge", BY_ENTRY, oracle.Ridge(BY_ENTRY)),
    "inside the instance": (glmcore.Ridge(0.02), None, oracle.Ridge(0.02)),
    "beside the instance": (glmcore.Ridge(9.0), 0.02, oracle.Ridge(0.02)),
    "Lasso": ("lasso", 0.03, oracle.Lasso(0.03)),
    "ElasticNet": ("ElasticNet", (0.04, 0.7), oracle.ElasticNet(0.04, 0.7)),
    "ElasticNet, a number": ("ElasticNet", 0.04, oracle.ElasticNet(0.04, 0.5)),
    "ElasticNet, an instance": (glmcore.ElasticNet(0.04, 0.2), None, oracle.ElasticNet(0.04, 0.2)),
    "ElasticNet, ratio 1": ("ElasticNet", (0.03, 1), oracle.Lasso(0.03)),
    "GroupLasso": ("GroupLasso", 0.03, oracle.GroupLasso(0.03)),
    "GroupLasso, a mask": (glmcore.GroupLasso(mask=MASK), 0.03, oracle.GroupLasso(0.03, MASK)),
    "GroupLasso, a group": (glmcore.GroupLasso(mask=MASK), np.array([0.01, 0.3]), oracle.GroupLasso([0.01, 0.3], MASK)),
}  # fmt: skip


#: Their programs are those of others.
LONG_RUN = {"ElasticNet, an instance", "ElasticNet, ratio 1", "GroupLasso, a mask"}


@pytest.mark.parametrize("name", [slow(name) if name in LONG_RUN else name for name in STRENGTHS])
def test_strengths(name, x64):
    regularizer, strength, twin = STRENGTHS[name]
    model = new(regularizer=regularizer, regularizer_strength=strength, solver_kwargs={"tol": 1e-10}).fit(X, Y)
    coef, intercept, _ = oracle.reference_fit(twin, X, Y, K)
    # A flat level of the sparse penalties is settled by the least norm on both sides.
    assert relative_error(model.coef_, coef) < 1e-7
    assert relative_error(model.intercept_, intercept) < 1e-7
    assert model.get_params()["regularizer_strength"] is strength
    if strength is not None:
        assert model.regularizer_strength is strength


def test_a_strength_that_mirrors_a_pytree(x64):
    features = {"a": X[:, :1], "b": X[:, 1:]}
    strength = {"a": 0.3, "b": BY_FEATURE[1:]}
    model = new(regularizer_strength=strength, solver_kwargs=TIGHT).fit(features, Y)
    whole = np.concatenate([[[0.3]], BY_FEATURE[1:]])
    expected = oracle.reference_fit(oracle.Ridge(whole), X, Y, K)
    assert relative_error(stacked(model.coef_), expected[0]) < 1e-8
    assert model.get_params()["regularizer_strength"] is strength


def test_a_mask_that_mirrors_a_pytree(x64):
    features = {"a": X[:, :2], "b": X[:, 2:]}
    mask = {"a": MASK[:, :2], "b": MASK[:, 2:]}
    penalty = glmcore.GroupLasso(mask=mask)
    model = new(regularizer=penalty, regularizer_strength=0.05, solver_kwargs={"tol": 1e-10}).fit(features, Y)
    expected = oracle.reference_fit(oracle.GroupLasso(0.05, MASK), X, Y, K)
    assert relative_error(stacked(model.coef_), expected[0]) < 1e-7


def test_one_instance_in_two_models_is_left_alone(fitted):
    penalty = glmcore.Ridge(9.0)
    first, second = new(regularizer=penalty), new(regularizer=penalty, regularizer_strength=0.5)
    first.fit(X, Y)
    second.fit(X, Y)
    np.testing.assert_array_equal(first.coef_, fitted.coef_)
    assert float(penalty.strength) == 9.0
    assert first.get_params()["regularizer"] is second.get_params()["regularizer"] is penalty
    assert first.regularizer_strength == S and second.regularizer_strength == 0.5
    assert ClassifierGLM(regularizer=penalty).regularizer_strength == 9.0


def test_no_penalty_and_its_unused_strength(x64):
    model = new(regularizer="UnRegularized", regularizer_strength=None, solver_kwargs={"tol": 1e-11}).fit(X, Y)
    expected = oracle.reference_fit(oracle.UnRegularized(), X, Y, K)
    assert relative_error(model.coef_, expected[0]) < 1e-7
    assert model.regularizer_strength is None


# Links


def double(eta):
    return jax.nn.log_softmax(2 * eta)


def test_a_custom_link_works_without_a_start(x64):
    """NLL(2 eta) + s/2 |w|^2 is NLL(eta') + (s/4)/2 |w'|^2 with w' = 2 w."""
    model = new(inverse_link_function=double, regularizer_strength=4 * S, solver_kwargs=TIGHT).fit(X, Y)
    expected = oracle.reference_fit(oracle.Ridge(S), X, Y, K)
    assert relative_error(2 * model.coef_, expected[0]) < 1e-7
    log_proba = log_softmax(X @ expected[0] + expected[1], axis=1)
    np.testing.assert_allclose(model.predict_proba(X), log_proba, atol=1e-7)
    np.testing.assert_array_equal(model.predict(X), log_proba.argmax(axis=1))
    assert relative_error(model.score(X, Y), log_proba[np.arange(N), Y].mean()) < 1e-8
    assert relative_error(model.compute_loss((model.coef_, model.intercept_), X, Y), -float(model.score(X, Y))) < 1e-10
    assert model.inverse_link_function is double
    index, log_prob = model.simulate(jax.random.key(0), X)
    np.testing.assert_allclose(log_prob, log_proba[np.arange(N), index], atol=1e-7)


def test_the_default_link_by_its_name_is_the_default(fitted):
    model = new(inverse_link_function=jax.nn.log_softmax).fit(X, Y)
    np.testing.assert_array_equal(model.coef_, fitted.coef_)


# Degrees of freedom


@pytest.mark.parametrize("regularizer, strength", [("Lasso", 0.06), ("ElasticNet", (0.08, 0.8)), ("GroupLasso", 0.08)])
def test_degrees_of_freedom_of_sparse_penalties(regularizer, strength, x64):
    model = new(regularizer=regularizer, regularizer_strength=strength).fit(X, Y)
    nonzeros = np.minimum((np.asarray(model.coef_) != 0).sum(axis=1), K - 1).sum()
    assert 0 < nonzeros < P * (K - 1)
    assert model.dof_resid_ == N - nonzeros - (K - 1)


def test_degrees_of_freedom_of_ridge(fitted):
    assert fitted.dof_resid_ == N - P * (K - 1) - (K - 1)


def test_degrees_of_freedom_without_a_penalty(x64):
    deficient = X.copy()
    deficient[:, 3] = 2 * X[:, 0] - X[:, 1] + 5
    assert np.linalg.matrix_rank(deficient - deficient.mean(axis=0)) == 3
    full, less = (
        new(regularizer="UnRegularized", regularizer_strength=None).fit(features, Y) for features in (X, deficient)
    )
    assert full.dof_resid_ == N - 4 * (K - 1) - (K - 1)
    assert less.dof_resid_ == N - 3 * (K - 1) - (K - 1)


# NaN

HOLES = [5, 17]
HOLED = X.copy()
HOLED[5, 0] = HOLED[17, 3] = np.nan
KEPT = np.delete(np.arange(N), HOLES)
two_rows = pytest.warns(UserWarning, match="X contains NaN in 2 of 60 rows, which are left out")


def test_fit_leaves_out_rows_with_nan(x64):
    with pytest.warns(UserWarning) as record:
        model = new(solver_kwargs=TIGHT).fit(HOLED, Y)
    assert len(record) == 1 and "NaN in 2 of 60 rows" in str(record[0].message)
    without = new(solver_kwargs=TIGHT).fit(X[KEPT], Y[KEPT])
    assert relative_error(model.coef_, without.coef_) < 1e-9
    assert relative_error(model.intercept_, without.intercept_) < 1e-9
    assert model.dof_resid_ == without.dof_resid_ == 58 - P * (K - 1) - (K - 1)


def test_fit_leaves_out_rows_with_nan_in_any_leaf(x64):
    with two_rows:
        model = new(solver_kwargs=TIGHT).fit(TREES["tuple"](HOLED), Y)
    without = oracle.reference_fit(oracle.Ridge(S), X[KEPT], Y[KEPT], K)
    assert relative_error(stacked(model.coef_), without[0]) < 1e-8


def test_score_and_loss_leave_out_rows_with_nan(fitted):
    expected = numpy_log_proba(fitted)[KEPT, Y[KEPT]].mean()
    with two_rows:
        assert relative_error(fitted.score(HOLED, Y), expected) < 1e-6
    params = (fitted.coef_, fitted.intercept_)
    with two_rows:
        assert relative_error(fitted.compute_loss(params, HOLED, Y), -expected) < 1e-6
    with two_rows:
        gradient = jax.grad(fitted.compute_loss)(params, HOLED, Y)
    oracle_gradient = oracle.loss_gradient(*map(np.float64, params), X[KEPT], Y[KEPT])
    np.testing.assert_allclose(gradient[0], oracle_gradient[0], atol=1e-6)
    with two_rows:
        total = fitted.score(HOLED, Y, aggregate_sample_scores=jnp.sum)
    assert relative_error(total, 58 * expected) < 1e-6
    frequencies = np.bincount(Y[KEPT]) / 58
    with two_rows:
        r2 = fitted.score(HOLED, Y, "pseudo-r2-Cohen")
    assert relative_error(r2, 1 - expected / np.sum(frequencies * np.log(frequencies))) < 1e-5


def test_update_leaves_out_rows_with_nan(x64):
    model = new().set_classes(Y)
    params, state = start(model)
    with two_rows:
        found = model.update(params, state, HOLED, Y)
    assert model.dof_resid_ == 58 - P * (K - 1) - (K - 1)
    expected = model.update(params, state, X, Y, sample_weight=np.isin(np.arange(N), KEPT).astype(float))
    np.testing.assert_allclose(found.params[0], expected.params[0], atol=1e-12)
    np.testing.assert_allclose(found.params[1], expected.params[1], atol=1e-12)


def test_predictions_of_rows_with_nan(fitted):
    found = np.asarray(fitted.predict_proba(HOLED))
    assert np.isnan(found[HOLES]).all()
    np.testing.assert_array_equal(found[KEPT], np.asarray(fitted.predict_proba(X))[KEPT])
    assert np.isnan(fitted.predict_proba(HOLED, "proba")[5]).all()
    for call in (lambda: fitted.predict(HOLED), lambda: fitted.simulate(jax.random.key(0), HOLED)):
        with pytest.raises(ValueError, match="Input (X|feedforward_input) contains NaN in 2 of 60 rows"):
            call()


def test_fit_refuses_when_nan_leaves_nothing():
    model = new()
    with pytest.raises(ValueError, match="NaN in 60 of 60 rows: no row is left"):
        model.fit(np.full((N, P), np.nan), Y)
    lost = np.where((Y == 1)[:, None], np.nan, X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"classes \[1\] .*no row (of them )?is left"):
            model.fit(lost, Y)
    assert model.classes_ is None and not hasattr(model, "coef_")


# Progress


def test_progress_and_callbacks(capsys, fitted):
    seen = []
    kwargs = {"verbose": True, "callback": seen.append}
    model = new(solver_kwargs=kwargs).fit(X, Y)
    shown = capsys.readouterr()
    assert "converged" in shown.err and "residual" in shown.err and shown.out == ""
    assert seen and all(isinstance(report, glmcore.FitProgress) for report in seen)
    assert [report.done for report in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].n_iter == model.n_iter_
    assert seen[-1].optimality <= seen[-1].tol
    assert model.get_params()["solver_kwargs"] is kwargs and kwargs.keys() == {"verbose", "callback"}
    np.testing.assert_allclose(model.coef_, fitted.coef_, atol=1e-5)
    new(solver_kwargs={"verbose": False, "callback": None}).fit(X, Y)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [1e37, 1e-37])
@pytest.mark.parametrize("score_type", ["log-likelihood", "pseudo-r2-McFadden"])
def test_only_ratios_of_weights_count_however_large(fitted, size, score_type):
    weight = np.full(len(Y), size, np.float32)
    np.testing.assert_allclose(
        fitted.score(X, Y, score_type, sample_weight=weight), fitted.score(X, Y, score_type), rtol=1e-5
    )
    params = fitted.coef_, fitted.intercept_
    np.testing.assert_allclose(
        fitted.compute_loss(params, X, Y, weight), fitted.compute_loss(params, X, Y), rtol=1e-5
    )


def test_float64_in_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        model = LogisticRegression().fit(X.astype(np.float64), Y)
    assert model.coef_.dtype == np.float64
