"""Many targets on one X: each is what :class:`ClassifierGLM` makes of it alone."""

import functools
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow, small
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import glmcore
from glmcore_sklearn import ClassesNotSetError, ClassifierGLM, ClassifierPopulationGLM, load_model

pytestmark = pytest.mark.usefixtures("x64")

X, _ = small()
TREE = {"a": X[:, :1], "b": X[:, 1:]}
NAMES = np.array(["no", "perhaps", "yes"])
P, N, K = 4, 3, 3
Y = NAMES[np.stack([small(seed=seed)[1] for seed in (0, 5, 6)], axis=1)]
#: The last of its targets lacks the first class.
LACKING = np.where((Y == NAMES[0]) & (np.arange(N) == 2), NAMES[1], Y)
MASK = np.random.default_rng(0).integers(0, 2, (P, N, K))
STRENGTHS = {"Ridge": 0.05, "Lasso": 0.02, "UnRegularized": None}
LACKS = pytest.mark.filterwarnings("ignore:targets 2 lack some of the classes:UserWarning")


def population(kind="Ridge", **kwargs):
    return ClassifierPopulationGLM(K, regularizer=kind, regularizer_strength=STRENGTHS[kind], **kwargs)


def alone(kind="Ridge", **kwargs):
    return ClassifierGLM(None, regularizer=kind, regularizer_strength=STRENGTHS[kind], **kwargs)


@functools.cache
def fitted(kind="Ridge"):
    """A population with a target that lacks a class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return population(kind).fit(X, LACKING)


def close(found, expected, atol=1e-6):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=atol)


@pytest.mark.parametrize("kind", ["Ridge", slow("Lasso"), slow("UnRegularized")])
def test_each_target_equals_its_own_fit(kind):
    model = fitted(kind)
    assert model.coef_.shape == (P, N, K) and model.intercept_.shape == (N, K)
    assert model.predict_proba(X).shape == (len(X), N, K)
    for target in range(N):
        single = alone(kind).fit(X, LACKING[:, target])
        present = np.isin(model.classes_, single.classes_)
        close(model.coef_[:, target, present], single.coef_)
        close(model.intercept_[target, present], single.intercept_)
        close(model.predict_proba(X)[:, target, present], single.predict_proba(X))
        assert np.all(model.predict(X)[:, target] == single.predict(X))
        assert model.dof_resid_[target] == single.dof_resid_
        assert np.all(model.coef_[:, target, ~present] == 0)
    assert glmcore.status_name(model.status_) == ["converged", "converged", "missing_class"]
    assert len(model.n_iter_) == N and model.n_features_in_ == P


def test_scores_average_over_samples_and_targets():
    model = fitted()
    singles = [alone().fit(X, y) for y in LACKING.T]
    scores = [single.score(X, y) for single, y in zip(singles, LACKING.T)]
    close(model.score(X, LACKING), np.mean(scores))
    close(model.score(X, LACKING, aggregate_sample_scores=lambda s: s.mean(axis=0)), scores)
    close(model.compute_loss((model.coef_, model.intercept_), X, LACKING), -np.mean(scores))
    shares = [single.score(X, y, "pseudo-r2-McFadden") for single, y in zip(singles, LACKING.T)]
    by_target = model.score(X, LACKING, "pseudo-r2-McFadden", lambda s: s.mean(axis=0))
    close(by_target, shares)


def test_the_pseudo_r2_of_a_silent_target_is_nan_and_of_the_others_as_ever():
    model = fitted()
    silent = LACKING.copy()
    silent[:, 1] = LACKING[0, 1]
    with pytest.warns(UserWarning, match="pseudo-r2-Cohen is not defined: y holds one class only"):
        found = model.score(X, silent, "pseudo-r2-Cohen", lambda s: s.mean(axis=0))
    expected = model.score(X, LACKING, "pseudo-r2-Cohen", lambda s: s.mean(axis=0))
    close(found, np.where(np.arange(N) == 1, np.nan, expected))


def test_a_class_that_a_target_lacks_is_said():
    with pytest.warns(UserWarning, match=r"targets 2 lack some of the classes, 2 for one \['no'\]: they are fitted on"):
        population().fit(X, LACKING)


@pytest.mark.slow
def test_masks():
    """Each target is the core's fit with the mask of that target."""
    model = population(feature_mask=MASK).fit(X, Y)
    assert np.all(np.asarray(model.coef_)[MASK == 0] == 0)
    for target in range(N):
        glm = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.05), mask=MASK[:, target])
        single = glmcore.fit(glm, X, np.searchsorted(NAMES, Y[:, target]))
        close(model.coef_[:, target], single.params.coef)
        assert model.dof_resid_[target] == len(X) - int(glm.degrees_of_freedom(single.params, X))


@pytest.mark.slow
def test_trees_of_features_and_masks():
    mirrored = {"a": MASK[:1], "b": MASK[1:]}
    tree = population(feature_mask=mirrored).fit(TREE, Y)
    found = np.concatenate([tree.coef_["a"], tree.coef_["b"]])
    close(found, population(feature_mask=MASK).fit(X, Y).coef_, atol=1e-9)
    assert tree.predict(TREE).shape == Y.shape
    params = (tree.coef_, tree.intercept_)
    state = tree.initialize_optimizer_and_state(params, TREE, Y)
    params, _ = tree.update(params, state, jax.tree.map(lambda leaf: leaf[:30], TREE), Y[:30])
    assert np.all(np.asarray(params[0]["b"])[MASK[1:] == 0] == 0)


@pytest.mark.slow
def test_masks_with_a_sparse_penalty():
    model = population("Lasso", feature_mask=MASK).fit(X, Y)
    for target in range(N):
        glm = glmcore.GLM(glmcore.Categorical(K), glmcore.Lasso(0.02), mask=MASK[:, target])
        single = glmcore.fit(glm, X, np.searchsorted(NAMES, Y[:, target]))
        close(model.coef_[:, target], single.params.coef)


@pytest.mark.slow
def test_updates_are_those_of_each_target():
    model = population().set_classes(NAMES)
    params = model.initialize_params(X, LACKING)
    state = model.initialize_optimizer_and_state(params, X, LACKING)
    for _ in range(3):
        params, state = model.update(params, state, X, LACKING)
    assert np.array_equal(model.coef_, params[0]) and np.array_equal(state.n_iter, [3] * N)
    for target in range(N):
        single = ClassifierGLM(K, regularizer_strength=0.05).set_classes(NAMES)
        own = single.initialize_params(X, LACKING[:, target])
        own_state = single.initialize_optimizer_and_state(own, X, LACKING[:, target])
        for _ in range(3):
            own, own_state = single.update(own, own_state, X, LACKING[:, target])
        close(params[0][:, target], own[0])
        close(params[1][target], own[1])


@LACKS
def test_targets_in_another_order_are_the_same_targets():
    order = [2, 0, 1]
    moved = population().fit(X, Y[:, order])
    close(moved.coef_, np.asarray(population().fit(X, Y).coef_)[:, order], atol=1e-9)


def test_rows_with_nan_and_weights():
    holed, weight = X.copy(), np.random.default_rng(2).integers(0, 3, len(X)).astype(float)
    holed[:2, 0] = np.nan
    with pytest.warns(UserWarning, match="contains NaN in 2 of 60 rows"):
        model = population().fit(holed, Y, sample_weight=weight)
    assert np.all(model.dof_resid_ == np.sum(weight[2:] > 0) - (P + 1) * (K - 1))
    single = alone().fit(X[2:], Y[2:, 1], sample_weight=weight[2:])
    close(model.coef_[:, 1], single.coef_)
    assert np.isnan(model.predict_proba(holed)[:2]).all()


def test_files_pickles_and_clones(tmp_path):
    model = population(feature_mask=MASK)
    vars(model).update({k: v for k, v in vars(fitted()).items() if k not in model.get_params()})
    model.save_params(tmp_path / "model.npz")
    for copy in (load_model(tmp_path / "model.npz"), pickle.loads(pickle.dumps(model))):
        assert type(copy) is ClassifierPopulationGLM and repr(copy) == repr(model)
        assert np.array_equal(copy.coef_, model.coef_) and np.array_equal(copy.feature_mask, MASK)
        assert glmcore.status_name(copy.status_) == glmcore.status_name(model.status_)
        assert np.array_equal(copy.n_iter_, model.n_iter_) and np.array_equal(copy.dof_resid_, model.dof_resid_)
        assert np.array_equal(copy.predict(X), model.predict(X))
    other = clone(model)
    assert np.array_equal(other.get_params()["feature_mask"], MASK) and "coef_" not in vars(other)
    assert is_classifier(other) and "feature_mask" in repr(other)
    assert other.__sklearn_tags__().target_tags.multi_output


def test_draws_and_derivatives():
    model = fitted()
    labels, log_proba = model.simulate(jax.random.key(0), X)
    assert labels.shape == log_proba.shape == (len(X), N) and labels.dtype == NAMES.dtype
    picked = np.take_along_axis(np.asarray(model.predict_proba(X)), np.searchsorted(NAMES, labels)[..., None], axis=2)
    close(log_proba, picked[..., 0])
    slope = jax.grad(lambda params: model.compute_loss(params, X, LACKING))((model.coef_, model.intercept_))
    assert slope[0].shape == (P, N, K) and np.isfinite(slope[0]).all()


def test_other_values_need_no_other_program(programs):
    population().fit(X, Y)
    with programs:
        model = ClassifierPopulationGLM(K, regularizer_strength=0.5, solver_kwargs={"tol": 1e-4})
        model.fit(X[:50] + 1, Y[:50])
    assert programs.compiled == programs.traced == 0


def test_targets_that_do_not_converge_are_counted():
    with pytest.warns(ConvergenceWarning, match=r"3 of 3 targets did not converge: 0, 1, 2. The worst is target"):
        population(solver_kwargs={"maxiter": 0}).fit(X, Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("mask, start", [(None, None), slow(MASK, (np.full((P, N, K), 0.1), np.zeros((N, K))))])
def test_a_target_that_is_not_at_its_minimum_in_time_has_the_steps_of_its_own_fit(mask, start):
    """Side by side it goes other ways."""
    model = population(feature_mask=mask, solver_name="LBFGS", solver_kwargs={"maxiter": 3}).fit(X, Y, start)
    assert glmcore.status_name(model.status_) == ["out_of_steps"] * N and isinstance(model.coef_, jax.Array)
    for target in range(N):
        glm = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.05), mask=None if mask is None else mask[:, target])
        init_params = None if start is None else (start[0][:, target], start[1][target])
        y = np.searchsorted(NAMES, Y[:, target])
        single = glmcore.fit(glm, X, y, solver=glmcore.LBFGS(maxiter=3), init_params=init_params)
        close(model.coef_[:, target], single.params.coef)
        close(model.intercept_[target], single.params.intercept)
        assert model.n_iter_[target] == single.n_iter == 3


SHAPE = r"expected \(n_features, n_targets, n_classes\) = \(4, 3, 3\)"
REFUSED = {
    "one target": (lambda: population().fit(X, Y[:, 0]), r"y should be a 2d array, got an array of shape \(60,\)"),
    "other targets": (
        lambda: fitted().score(X, Y[:, :2]),
        "y has 2 targets, but ClassifierPopulationGLM is expecting 3",
    ),
    "an unknown label": (
        lambda: fitted().score(X, np.where(Y == "yes", "maybe", Y)),
        r"labels that are not in classes_: 'maybe' .*first at row \d+, column \d",
    ),
    "a missing label": (lambda: population().fit(X, np.where(Y == "yes", np.nan, 1.0)), "first at row"),
    "the shape of a mask": (
        lambda: population(feature_mask=MASK[:, 0]).fit(X, Y),
        r"feature_mask has shape \(4, 3\), " + SHAPE,
    ),
    "the values of a mask": (lambda: population(feature_mask=2 * MASK).fit(X, Y), "must hold 0 and 1 only, found"),
    "the tree of a mask": (lambda: population(feature_mask=MASK).fit(TREE, Y), "feature_mask differs in structure"),
    "a callback": (lambda: population(solver_kwargs={"verbose": True}).fit(X, Y), "verbose and callback in solver_"),
    "coefficients": (lambda: population().fit(X, Y, (np.zeros((P, K)), np.zeros((N, K)))), SHAPE),
}


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_before_the_fit():
    with pytest.raises(ClassesNotSetError, match="set_classes"):
        population().predict(X)
    model = population().set_classes(Y)
    with pytest.raises(NotFittedError, match="no coefficients yet"):
        model.predict(X)
    model.coef_, model.intercept_ = jnp.zeros((P, N, K)), jnp.zeros((N, K))
    assert model.predict(X).shape == (len(X), N)
