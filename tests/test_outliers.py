"""Features of which a few values lie so far out that all the others look alike beside them."""

import jax
import numpy as np
import pytest
from helpers import build, model, small
from oracle import objective
from sklearn.linear_model import LogisticRegressionCV as Theirs

import glmcore
from glmcore.centring import isolation
from glmcore_sklearn import ClassifierGLM, ClassifierPopulationGLM, LogisticRegressionCV

X, Y = (np.asarray(data, kind) for data, kind in zip(small(), (np.float64, int)))
STRENGTH = 1 / 60


def with_row(value):
    features = X.copy()
    features[0] = value
    return features


def with_entry(value):
    features = X.copy()
    features[3, 2] = value
    return features


OUTLIERS = {
    "a row of codes for missing values": with_row(-999999.0),
    "a large row": with_row(1e7),
    "an entry": with_entry(1e6),
    "two rows": np.concatenate([with_row(1e6), 1e6 * X[:1]]),
}


@pytest.mark.parametrize("solver", [None, glmcore.LBFGS, glmcore.BFGS, glmcore.ProximalNewton])
@pytest.mark.parametrize("features", OUTLIERS.values(), ids=OUTLIERS)
def test_the_other_rows_are_fitted_too(features, solver, x64):
    glm, y = model(glmcore.Ridge(STRENGTH)), np.append(Y, Y[0])[: len(features)]
    best = glmcore.fit(glm, features, y, solver=glmcore.Newton(tol=1e-13))
    found = glmcore.fit(glm, features, y, solver=(solver or glmcore.Newton)(tol=1e-4))
    assert found.converged and value(found, features, y) <= value(best, features, y) * (1 + 1e-6)


def value(result, features, y):
    coef, intercept = (np.asarray(leaf, np.float64) for leaf in result.params)
    return objective(build("Ridge", STRENGTH)[1], coef, intercept, features, y)


@pytest.mark.parametrize("features", OUTLIERS.values(), ids=OUTLIERS)
def test_float32_does_not_say_that_it_has_arrived_where_it_has_not(features):
    glm, y = model(glmcore.Ridge(STRENGTH)), np.append(Y, Y[0])[: len(features)]
    features = features.astype(np.float32)
    with jax.enable_x64(True):
        best = glmcore.fit(glm, features.astype(np.float64), y, solver=glmcore.Newton(tol=1e-13))
    found = glmcore.fit(glm, features, y)
    assert not found.converged or value(found, features, y) <= value(best, features, y) * (1 + 1e-5)


def test_lanes_that_share_such_features_are_fitted_too(x64):
    features, solver = OUTLIERS["a row of codes for missing values"], glmcore.LBFGS(tol=1e-4)

    def fit(strength):
        return glmcore.fit(model(glmcore.Ridge(strength)), features, Y, solver=solver)

    strengths = np.array([STRENGTH, STRENGTH / 10])
    lanes = jax.vmap(fit)(strengths)
    assert lanes.converged.all()
    for strength, found in zip(strengths, lanes.objective):
        best = glmcore.fit(model(glmcore.Ridge(strength)), features, Y, solver=glmcore.Newton(tol=1e-12))
        np.testing.assert_allclose(found, best.objective, rtol=1e-7)


def test_a_tolerance_that_is_mapped_stays_as_it_is():
    features, glm = OUTLIERS["an entry"].astype(np.float32), model(glmcore.Ridge(STRENGTH))
    lanes = jax.vmap(lambda tol: glmcore.fit(glm, features, Y, solver=glmcore.Newton(tol=tol)))(np.array([1e-2, 1e-3]))
    assert lanes.converged.all()


@pytest.mark.parametrize("penalty", [glmcore.Ridge(1.0), glmcore.Lasso(1.0)], ids=repr)
def test_a_path_sees_the_other_rows_too(penalty, x64):
    features, solver = OUTLIERS["an entry"], glmcore.ProximalNewton(tol=1e-4)
    strengths = np.array([1 / 6, 1 / 60])
    path = glmcore.regularization_path(model(penalty), features, Y, strengths, solver=solver)
    assert path.converged.all()
    for strength, found in zip(strengths, path.objective):
        best = glmcore.fit(model(type(penalty)(strength)), features, Y, solver=glmcore.ProximalNewton(tol=1e-11))
        np.testing.assert_allclose(found, best.objective, rtol=1e-6)


def test_a_search_sees_the_other_rows_too():
    features = OUTLIERS["a row of codes for missing values"]
    arguments = {"Cs": [0.01, 1, 100], "cv": 3, "l1_ratios": (0,), "scoring": "neg_log_loss", "max_iter": 1000}
    arguments["use_legacy_attributes"] = False
    ours = LogisticRegressionCV(**arguments).fit(features, Y)
    theirs = Theirs(**arguments, solver="newton-cholesky", tol=1e-10).fit(features, Y)
    np.testing.assert_allclose(ours.scores_, theirs.scores_, rtol=1e-5)


def test_what_is_traced_cannot_be_looked_at():
    with pytest.raises(ValueError, match="X must be an array at hand"):
        jax.jit(lambda X: glmcore.solver_for_outliers(glmcore.LBFGS(), X).tol)(X)


@pytest.mark.parametrize(
    "solver, features, message",
    [
        ("LBFGS", X, "solver must be an instance such as .* found 'LBFGS'"),
        (glmcore.LBFGS(), [[1, 2], [3, 4]], "X must be an array or a pytree of arrays, found int"),
        (glmcore.LBFGS(), X[:, 0], r"X must .* found .*\(60,\)"),
        (glmcore.LBFGS(), {"a": X, "b": X[:5]}, r"same number of rows, found \[60, 5\]"),
    ],
)
def test_what_is_no_solver_and_no_features_is_refused(solver, features, message):
    with pytest.raises((TypeError, ValueError), match=message):
        glmcore.solver_for_outliers(solver, features)


def test_only_values_far_from_nearly_all_others_count():
    rng = np.random.default_rng(0)
    rare = (rng.random((2000, 3)) < 1e-3).astype(float)
    heavy = np.exp(3 * rng.normal(size=(2000, 3)))
    common = np.where(rng.random((2000, 3)) < 0.2, -9999.0, rng.normal(size=(2000, 3)))
    for features in (X, rare, heavy, common):
        assert isolation([features], features.std(axis=0)) < 5e3
    features = OUTLIERS["an entry"]
    far = features[:, 2].std() / X[:, 2].std()
    assert 0.5 * far < isolation([features], features.std(axis=0)) < 2 * far


def test_a_population_is_fitted_as_its_targets_are(x64):
    features = OUTLIERS["a row of codes for missing values"]
    how = {"n_classes": 3, "regularizer_strength": STRENGTH, "solver_kwargs": {"tol": 1e-4}}
    many = ClassifierPopulationGLM(**how).fit(features, Y[:, None])
    one = ClassifierGLM(**how).fit(features, Y)
    np.testing.assert_allclose(many.score(features, Y[:, None]), one.score(features, Y), rtol=1e-5)
