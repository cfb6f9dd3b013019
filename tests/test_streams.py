"""Online learners: ``ClassifierGLM.update`` and ``LogisticRegression.partial_fit`` on streams of batches."""

import pickle

import jax
import numpy as np
import optax
import oracle
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore_sklearn import ClassifierGLM, LogisticRegression, load_model

N, P, K = 1000, 4, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P)).astype(np.float32)
Y = np.argmax(X @ RNG.standard_normal((P, K)) + RNG.gumbel(size=(N, K)), axis=1)
LABELS = np.array(["a", "b", "c"])
SCHEDULED = optax.chain(optax.clip(10.0), optax.sgd(optax.exponential_decay(0.1, 5, 0.9), momentum=0.9))
#: Ragged, and the last one in a bucket of its own.
SIZES = (300, 290, 310, 100)
BATCHES = [slice(end - size, end) for size, end in zip(SIZES, np.cumsum(SIZES))]


class Updates:
    """A ``ClassifierGLM`` as a learner with ``partial_fit``."""

    def __init__(self, solver):
        self.model = ClassifierGLM(K, regularizer="UnRegularized", solver_name=solver).set_classes(LABELS)
        self.moving = None

    def partial_fit(self, X, y, classes=None):
        if self.moving is None:
            params = self.model.initialize_params(X, y)
            self.moving = params, self.model.initialize_optimizer_and_state(params, X, y)
        self.moving = self.model.update(*self.moving, X, y)

    def predictor(self, X):
        coef, intercept = (np.asarray(part, np.float64) for part in self.moving[0])
        return X @ coef + intercept


class PartialFits:
    def __init__(self, solver):
        self.model = LogisticRegression(solver=solver, C=np.inf)
        self.partial_fit = self.model.partial_fit

    def predictor(self, X):
        return self.model.decision_function(X)


each = pytest.mark.parametrize("learner", [Updates, PartialFits])


def log_likelihood(eta, y):
    return float(np.mean(eta[np.arange(len(y)), y] - np.log(np.exp(eta).sum(axis=1))))


@each
def test_held_out_log_likelihood_is_that_of_each_batch_before_its_step(learner):
    learner = learner(SCHEDULED)
    total, expected = 0.0, 0.0
    for t, rows in enumerate(BATCHES):
        if t == 0:  # starts at the class frequencies of the first batch
            eta = np.log(np.bincount(Y[rows]) / len(Y[rows])) * np.ones((len(Y[rows]), 1))
        else:
            eta = learner.predictor(X[rows])
        found, weight = log_likelihood(eta, Y[rows]), len(Y[rows])
        total = 0.99 * total + weight
        expected += weight / total * (found - expected)
        learner.partial_fit(X[rows], LABELS[Y[rows]], classes=LABELS)
        assert learner.model.held_out_log_likelihood_ == pytest.approx(expected, rel=1e-4)


@each
def test_an_optax_transformation_takes_the_steps_of_optax(learner):
    learner = learner(SCHEDULED)
    learner.partial_fit(X[BATCHES[0]], LABELS[Y[BATCHES[0]]], classes=LABELS)
    # A loop of its own, from the same start, with the gradient of the oracle.
    first = Y[BATCHES[0]]
    intercept = np.log(np.bincount(first) / len(first))
    params = np.zeros((P, K)), intercept - intercept.mean()
    state = SCHEDULED.init(params)
    for turn, rows in enumerate(BATCHES):
        if turn:
            learner.partial_fit(X[rows], LABELS[Y[rows]])
        gradient = oracle.loss_gradient(*params, X[rows].astype(np.float64), Y[rows])
        updates, state = SCHEDULED.update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + np.asarray(u, np.float64), params, updates)
        eta = X[rows] @ params[0] + params[1]
        found = learner.predictor(X[rows])
        np.testing.assert_allclose(found - found[:, :1], eta - eta[:, :1], atol=1e-4)


@each
def test_ragged_batches_run_one_program(learner, programs):
    learner = learner(SCHEDULED)
    rows = BATCHES[0]
    for _ in range(2):
        learner.partial_fit(X[rows], LABELS[Y[rows]], classes=LABELS)
    with programs:
        for size in (512, 290, 100, 512, 7, 300, 1):
            few = slice(size)
            learner.partial_fit(X[few], LABELS[np.minimum(Y[few], 1)])  # that lack a class, too
    assert (programs.compiled, programs.traced) == (0, 0)


@each
def test_an_unknown_label_changes_nothing(learner):
    learner = learner(SCHEDULED)
    learner.partial_fit(X, LABELS[Y], classes=LABELS)
    before, held_out = vars(learner.model).copy(), learner.model.held_out_log_likelihood_
    with pytest.raises(ValueError, match="'d'"):
        learner.partial_fit(X, np.where(np.arange(N) == N // 2, "d", LABELS[Y]))
    assert vars(learner.model) == before and learner.model.held_out_log_likelihood_ == held_out


@each
def test_memory_does_not_grow(learner):
    learner = learner(SCHEDULED)
    learner.partial_fit(X, LABELS[Y], classes=LABELS)
    sizes = []
    for _ in range(3):
        learner.partial_fit(X, LABELS[Y])
        state = learner.model.solver_state_ if isinstance(learner, Updates) else learner.model._stream.state
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    assert sizes == sizes[:1] * 3 and sizes[0] < 2 * X[:100].nbytes


def test_held_out_log_likelihood_is_there_after_a_step_only():
    model = LogisticRegression()
    assert not hasattr(model, "held_out_log_likelihood_")
    assert hasattr(model.partial_fit(X, Y, classes=range(K)), "held_out_log_likelihood_")
    assert not hasattr(model.fit(X, Y), "held_out_log_likelihood_")
    assert not hasattr(ClassifierGLM(K).fit(X, Y), "held_out_log_likelihood_")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [LogisticRegression(solver=optax.sgd(np.inf)), ClassifierGLM(K, solver_name=optax.sgd(np.inf))])
def test_a_step_that_was_refused_has_no_held_out_log_likelihood(model):
    if isinstance(model, LogisticRegression):
        model.partial_fit(X, Y, classes=range(K))
    else:
        model.set_classes(range(K))
        params = model.initialize_params(X, Y)
        model.update(params, model.initialize_optimizer_and_state(params, X, Y), X, Y)
    assert not hasattr(model, "held_out_log_likelihood_")


def test_other_arguments_count_from_the_next_batch_on():
    model = LogisticRegression(solver="GradientDescent").partial_fit(X, Y, classes=range(K))
    model.set_params(C=1e-6).partial_fit(X, Y)
    other = LogisticRegression(solver="GradientDescent").partial_fit(X, Y, classes=range(K)).partial_fit(X, Y)
    assert np.abs(model.coef_).max() < 0.5 * np.abs(other.coef_).max()
    before = vars(model).copy()
    with pytest.raises(ValueError, match="'C' parameter"):
        model.set_params(C=-1.0).partial_fit(X, Y)
    assert {**vars(model), "C": None} == {**before, "C": None}


def test_an_estimator_with_an_optax_transformation(tmp_path):
    model = ClassifierGLM(K, solver_name=SCHEDULED, solver_kwargs={"maxiter": 300, "tol": 1e-2})
    assert model.solver is glmcore.Optax and model.solver_name == "Optax"
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.fit(X, Y)
    exact = ClassifierGLM(K).fit(X, Y)
    assert np.mean(model.predict(X) == exact.predict(X)) > 0.98
    model.save_params(tmp_path / "model")
    with pytest.raises(ValueError, match="give mapping_dict.'solver_name'."):
        load_model(tmp_path / "model")
    again = load_model(tmp_path / "model", {"solver_name": SCHEDULED})
    assert again.get_params()["solver_name"] is SCHEDULED
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises(TypeError, match="does not take the keyword 'transformation'"):
        model.set_params(solver_kwargs={"transformation": SCHEDULED}).fit(X, Y)
    with pytest.raises(ValueError, match="Optax does not handle the penalty Lasso"):
        ClassifierGLM(K, regularizer="Lasso", solver_name=SCHEDULED).fit(X, Y)


def test_a_stream_in_float64_survives_pickle():
    first, second = (X[:500].astype(float), Y[:500]), (X[500:].astype(float), Y[500:])
    model = LogisticRegression().partial_fit(*first, classes=range(K))
    copy = pickle.loads(pickle.dumps(model))
    for learner in (model, copy):
        learner.partial_fit(*second)
    np.testing.assert_array_equal(copy.coef_, model.coef_)
    np.testing.assert_array_equal(copy.intercept_, model.intercept_)


def test_the_penalty_of_a_stream_may_become_sparse():
    model = LogisticRegression(solver="saga").partial_fit(X, Y, classes=range(K))
    model.set_params(l1_ratio=1.0, C=1e-3).partial_fit(X, Y)
    assert np.any(model.coef_ == 0)


@pytest.mark.parametrize("values", [{0: -1, 1: 1, 2: 1}, {0: 0, 1: 0, 2: 0}, {0: np.nan, 1: 1, 2: 1}])
def test_bad_weights_of_classes_are_named(values):
    with pytest.raises(ValueError, match="class_weight must be finite, not negative and not all zero"):
        LogisticRegression(class_weight=values).fit(X, Y)


def test_coefficients_of_one_feature_can_be_changed_by_hand():
    model = LogisticRegression().fit(X[:, :1], Y)
    model.coef_ *= 2


def test_a_stream_keeps_to_the_names_of_its_columns():
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = ClassifierGLM(K).set_classes(Y)
    params = model.initialize_params(frame, Y)
    state = model.initialize_optimizer_and_state(params, frame, Y)
    params, state = model.update(params, state, frame, Y)
    coef = model.coef_
    with pytest.raises(ValueError, match="feature names should match"):
        model.update(params, state, frame[list("dcba")], Y)
    assert model.coef_ is coef and list(model.feature_names_in_) == list("abcd")
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        params, state = model.update(params, state, X, Y)
    assert list(model.feature_names_in_) == list("abcd")
    other = frame[list("dcba")]
    params = model.initialize_params(other, Y)  # another stream may have other columns
    model.update(params, model.initialize_optimizer_and_state(params, other, Y), other, Y)
    assert list(model.feature_names_in_) == list("dcba")
