"""``ClassifierGLM`` among scikit-learn's tools: clone, pickle, pipelines, searches, metadata routing, tags."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
import sklearn
from helpers import small
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import estimator_html_repr, get_tags
from sklearn.utils.validation import check_is_fitted

import glmcore
from glmcore_sklearn import ClassifierGLM

X, Y = small()
N, P, K = 60, 4, 3
ROOT = Path(__file__).parents[1]


def new(**kwargs):
    return ClassifierGLM(**{"n_classes": K, "regularizer_strength": 0.05} | kwargs)


@pytest.fixture(scope="module")
def fitted():
    return new().fit(X, np.array(["a", "b", "c"])[Y])


# Clones


def link(eta):
    return jax.nn.log_softmax(eta / 2)


JITTED = jax.jit(link)


def test_a_clone_is_as_written(fitted):
    strength, mask = np.full((P, 1), 0.1), np.ones((1, P, K), int)
    given = {
        "n_classes": np.int64(3),
        "inverse_link_function": JITTED,
        "regularizer": glmcore.GroupLasso(mask=mask),
        "regularizer_strength": strength,
        "solver_name": "PROXIMALGRADIENT",
        "solver_kwargs": {"tol": 1e-4},
    }
    copied = clone(ClassifierGLM(**given)).get_params()
    assert copied["n_classes"] == 3 and copied["solver_name"] == "PROXIMALGRADIENT"
    assert copied["inverse_link_function"] is JITTED  # a copy would compile anew
    assert repr(copied["regularizer"]) == repr(given["regularizer"])
    np.testing.assert_array_equal(copied["regularizer"].mask, mask)
    np.testing.assert_array_equal(copied["regularizer_strength"], strength)
    assert copied["solver_kwargs"] == {"tol": 1e-4}


def test_a_default_stays_a_default():
    assert all(value is None for name, value in clone(ClassifierGLM()).get_params().items() if name != "n_classes")
    assert clone(ClassifierGLM(regularizer="Lasso")).get_params()["regularizer_strength"] is None
    again = clone(clone(ClassifierGLM())).set_params(regularizer="ElasticNet")
    assert again.regularizer_strength == (1.0, 0.5) and again.solver_name == "ProximalGradient"


def test_a_clone_shares_nothing_that_changes(fitted):
    kwargs, strength = {"tol": 1e-4}, np.full((P, 1), 0.1)
    model = new(solver_kwargs=kwargs, regularizer_strength=strength)
    copied = clone(model)
    copied.solver_kwargs["tol"] = 1.0
    copied.regularizer_strength[0] = 9.0
    assert kwargs == {"tol": 1e-4} and strength[0, 0] == 0.1
    assert clone(fitted).classes_ is None and not hasattr(clone(fitted), "coef_")


def test_a_clone_keeps_its_metadata_requests():
    with sklearn.config_context(enable_metadata_routing=True):
        model = new().set_fit_request(sample_weight=True)
        requests = clone(model).get_metadata_routing().fit.requests
        assert requests["sample_weight"] is True
        clone(model).set_fit_request(sample_weight=False)
        assert model.get_metadata_routing().fit.requests["sample_weight"] is True


# Other processes

SCRIPT = """
import pickle, sys
import joblib, numpy as np
X = np.load("X.npy")
for name, load in (("pickle", lambda path: pickle.load(open(path, "rb"))), ("joblib", joblib.load)):
    model = load(name)
    assert model.classes_.tolist() == ["a", "b", "c"]
    print(repr(model))
    np.savez(name + ".npz", labels=model.predict(X), log_proba=model.predict_proba(X), n_iter=model.n_iter_)
assert model.fit(X, np.array(["a", "b", "c"])[np.arange(len(X)) % 3]).n_iter_ > 0
"""


def test_another_process_predicts_the_same(fitted, tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps(fitted))
    joblib.dump(fitted, tmp_path / "joblib")
    np.save(tmp_path / "X.npy", X)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [repr(fitted)] * 2
    for name in ("pickle", "joblib"):
        with np.load(tmp_path / f"{name}.npz") as found:
            np.testing.assert_array_equal(found["labels"], fitted.predict(X))
            np.testing.assert_array_equal(found["log_proba"], fitted.predict_proba(X))
            assert found["n_iter"] == fitted.n_iter_


def test_pickle_keeps_everything(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert again.get_params() == fitted.get_params()
    assert vars(again).keys() == vars(fitted).keys()
    np.testing.assert_array_equal(again.coef_, fitted.coef_)
    assert glmcore.status_name(again.status_) == "converged"
    params = (again.coef_, again.intercept_)
    found = again.update(params, again.solver_state_, X, np.array(["a", "b", "c"])[Y])
    expected = pickle.loads(pickle.dumps(fitted)).update(params, fitted.solver_state_, X, np.array(["a", "b", "c"])[Y])
    np.testing.assert_array_equal(found.params[0], expected.params[0])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"regularizer": glmcore.GroupLasso(0.1, np.ones((1, P, K), int)), "regularizer_strength": None},
        {"inverse_link_function": link},
        {"inverse_link_function": jax.nn.log_softmax, "regularizer": "lasso"},
    ],
)
def test_pickle_of_every_kind_of_parameter(kwargs):
    again = pickle.loads(pickle.dumps(new(**kwargs)))
    assert repr(again) == repr(new(**kwargs))
    assert again.get_params()["inverse_link_function"] is kwargs.get("inverse_link_function")


# Pipelines and searches


def test_a_pipeline(fitted):
    y = np.array(["a", "b", "c"])[Y]
    pipeline = make_pipeline(StandardScaler(), new())
    pipeline.set_params(classifierglm__regularizer_strength=0.2, classifierglm__regularizer="lasso")
    assert pipeline.get_params()["classifierglm__regularizer"] == "lasso"
    pipeline.set_params(classifierglm__regularizer=None)
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    alone = new(regularizer_strength=0.2).fit(standard, y)
    np.testing.assert_array_equal(pipeline.fit(X, y).predict(X), alone.predict(standard))
    np.testing.assert_allclose(pipeline.predict_proba(X), alone.predict_proba(standard), atol=1e-4)
    np.testing.assert_allclose(pipeline.score(X, y), alone.score(standard, y), atol=1e-5)
    assert pipeline.classes_.tolist() == ["a", "b", "c"]


def test_a_grid_search_in_processes():
    raw, y = load_iris(return_X_y=True)  # sorted by class: unstratified folds would lack some
    grid = {"classifierglm__regularizer_strength": [1e-3, 1e-1, 10.0]}
    pipeline = make_pipeline(StandardScaler(), ClassifierGLM(3))
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2, error_score="raise").fit(raw, y)
    assert search.best_params_ == {"classifierglm__regularizer_strength": 1e-3}
    scores = search.cv_results_["mean_test_score"]  # log-likelihoods: higher is better
    assert np.all(scores < 0) and scores[0] > scores[1] > scores[2]
    assert search.best_estimator_.score(raw, y) > scores[0] - 0.2
    np.testing.assert_array_equal(search.predict(raw), search.best_estimator_.predict(raw))
    in_process = cross_val_score(pipeline.set_params(classifierglm__regularizer_strength=0.1), raw, y, cv=3)
    assert abs(in_process.mean() - scores[1]) < 1e-5


def test_cross_validation_with_scorers_of_scikit_learn():
    y = np.array(["a", "b", "c"])[Y]
    folds = StratifiedKFold(3)
    accuracy = cross_val_score(new(), X, y, cv=folds, scoring="accuracy")
    expected = []
    for train, test in folds.split(X, y):
        expected.append(np.mean(new().fit(X[train], y[train]).predict(X[test]) == y[test]))
    np.testing.assert_allclose(accuracy, expected)


# Metadata routing


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


WEIGHT = np.linspace(0.1, 3, N)


def test_fit_metadata_is_routed(routing):
    start = (np.zeros((P, K)), np.zeros(K))
    model = new().set_fit_request(sample_weight=True, init_params=True)
    pipeline = make_pipeline(MinMaxScaler(), model).fit(X, Y, sample_weight=WEIGHT, init_params=start)
    scaled = MinMaxScaler().fit_transform(X)
    direct = new().fit(scaled, Y, start, sample_weight=WEIGHT)
    np.testing.assert_array_equal(pipeline[-1].coef_, direct.coef_)
    assert np.abs(direct.coef_ - new().fit(scaled, Y).coef_).max() > 1e-3


def test_metadata_that_was_not_requested_is_refused(routing):
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(MinMaxScaler(), new()).fit(X, Y, sample_weight=WEIGHT)
    ignoring = make_pipeline(MinMaxScaler(), new().set_fit_request(sample_weight=False))
    with pytest.raises(TypeError, match="sample_weight"):
        ignoring.fit(X, Y, sample_weight=WEIGHT)


def test_predict_proba_metadata_is_routed(routing):
    model = new().set_predict_proba_request(return_type=True)
    pipeline = make_pipeline(MinMaxScaler(), model).fit(X, Y)
    proba = pipeline.predict_proba(X, return_type="proba")
    np.testing.assert_allclose(np.sum(proba, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.log(proba), pipeline.predict_proba(X), atol=1e-4)


def test_score_metadata_is_routed(routing):
    model = new().set_score_request(score_type=True, aggregate_sample_scores=True)
    pipeline = make_pipeline(MinMaxScaler(), model).fit(X, Y)
    mean = pipeline.score(X, Y)
    total = pipeline.score(X, Y, aggregate_sample_scores=jnp.sum)
    np.testing.assert_allclose(total, N * mean, rtol=1e-5)
    r2 = pipeline.score(X, Y, score_type="pseudo-r2-McFadden")
    assert 0 < r2 < 1


def test_weights_are_routed_through_a_search(routing):
    model = new().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    grid = {"regularizer_strength": [0.01, 0.1]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, Y, sample_weight=WEIGHT)
    best = search.best_params_["regularizer_strength"]
    direct = new(regularizer_strength=best).fit(X, Y, sample_weight=WEIGHT)
    np.testing.assert_array_equal(search.best_estimator_.coef_, direct.coef_)


def test_requests_exist_without_routing_switched_on():
    for name in ("set_fit_request", "set_predict_proba_request", "set_score_request"):
        assert callable(getattr(ClassifierGLM(), name))
    requests = ClassifierGLM().get_metadata_routing()
    assert requests.fit.requests == {"init_params": None, "sample_weight": None}
    assert requests.predict_proba.requests == {"return_type": None}
    assert requests.score.requests == {"score_type": None, "aggregate_sample_scores": None, "sample_weight": None}
    assert requests.predict.requests == {}


# Tags, and how it looks


def test_tags(fitted):
    tags = get_tags(ClassifierGLM(3))
    assert tags.estimator_type == "classifier" and is_classifier(ClassifierGLM())
    assert tags.classifier_tags.multi_class
    assert tags.target_tags.required and not tags.target_tags.multi_output
    assert tags.input_tags.allow_nan and not tags.input_tags.sparse and not tags.no_validation
    check_is_fitted(fitted)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(ClassifierGLM())


def test_the_html_repr(fitted):
    for model in (ClassifierGLM(), fitted, new(regularizer="Lasso", solver_kwargs={"tol": 1e-3})):
        html = estimator_html_repr(model)
        assert "ClassifierGLM" in html and "regularizer_strength" in html
        assert html == model._repr_html_() or "ClassifierGLM" in model._repr_html_()
    assert "ClassifierGLM" in estimator_html_repr(make_pipeline(StandardScaler(), new()))
    assert "ClassifierGLM" in str(make_pipeline(StandardScaler(), new()))


def test_the_html_repr_of_parameters_that_are_arrays():
    model = new(regularizer_strength=np.ones((P, 1)), regularizer=glmcore.Ridge(np.ones((P, 1))))
    assert "ClassifierGLM" in estimator_html_repr(model)
