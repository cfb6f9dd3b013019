"""Bad input: the right exception, words that help, and an estimator that is as it was."""

import copy
import dataclasses
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.sparse
from helpers import small
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline

import glmcore
from glmcore_sklearn import ClassesNotSetError, ClassifierGLM, LogisticRegression, reports

X, Y = small()
N, P, K = 60, 4, 3
S = 0.05
PARAMS = (np.zeros((P, K)), np.zeros(K))
KEY = jax.random.key(0)
LABELS = np.array(["a", "b", "c"])


def new(**kwargs):
    return ClassifierGLM(**{"n_classes": K, "regularizer_strength": S} | kwargs)


@pytest.fixture(scope="module")
def trained():
    model = new()
    params = model.set_classes(Y).initialize_params(X, Y)
    state = model.initialize_optimizer_and_state(params, X, Y)
    return model.fit(X, Y), state


@pytest.fixture
def fitted(trained):
    return copy.deepcopy(trained[0])


@pytest.fixture
def state(trained):
    return trained[1]


def put(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def raises_and_leaves(model, kind, message, call):
    before = vars(model).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as info:
            call(model)
    assert re.search(message, str(info.value), re.DOTALL), str(info.value)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


# fit: data

BAD_FEATURES = {
    "1-D": (X[:, 0], ValueError, r"Expected 2D array, got 1D array instead: X has shape \(60,\)"),
    "scalar": (3.0, ValueError, "X has shape \\(\\)"),
    "3-D": (X[None], ValueError, r"Found array with dim 3.*X has shape \(1, 60, 4\), expected \(n_samples, n_features\)"),
    "no samples": (X[:0], ValueError, r"0 sample\(s\).*X"),
    "no features": (X[:, :0], ValueError, r"0 feature\(s\).*X"),
    "None": (None, (ValueError, TypeError), "X"),
    "strings": (X.astype(str), (ValueError, TypeError), "X.*real numbers|X cannot be read as numbers"),
    "words": ([["a", "b"]] * N, (ValueError, TypeError), "X"),
    "objects": (put(X.astype(object), (0, 0), object()), TypeError, "X cannot be read as numbers"),
    "complex": (X + 1j, ValueError, "Complex data not supported: X has dtype complex128"),
    "sparse": (scipy.sparse.csr_array(X), TypeError, "Sparse data was passed as X.*dense data is required"),
    "infinity": (put(X, (7, 2), np.inf), ValueError, "Input X contains infinity .*inf in row 7, column 2"),
    "minus infinity": (put(X, (7, 2), -np.inf), ValueError, "Input X contains infinity"),
    "infinity beside NaN": (put(put(X, (7, 2), -np.inf), (7, 1), np.nan), ValueError, "Input X contains infinity"),
    "too large": (put(X, (7, 2), 1e39), ValueError, "X contains a value too large for float32 .*1e\\+39 in row 7, column 2"),
    "all NaN": (np.full((N, P), np.nan), ValueError, "X contains NaN in 60 of 60 rows: no row is left"),
    "fewer rows": (X[:-1], ValueError, r"inconsistent numbers of samples: \[59, 60\]"),
    "ragged tree": ({"a": X, "b": X[:-1]}, ValueError, r"inconsistent numbers of samples.*X\['a'\] has 60, X\['b'\] has 59"),
    "empty tree": ({}, ValueError, "X holds no arrays"),
    "1-D leaf": ({"a": X, "b": X[:, 0]}, ValueError, r"X\['b'\] has shape \(60,\)"),
    "infinity in a leaf": ((X, put(X, (7, 2), np.inf)), ValueError, r"Input X\[1\] contains infinity"),
}  # fmt: skip

BAD_LABELS = {
    "None": (None, ValueError, "requires y to be passed, but the target y is None"),
    "wrong number of classes": (np.arange(N) % 4, ValueError, r"Found 4 classes in y \(0, 1, 2, 3\), expected n_classes=3"),
    "too few classes": (np.arange(N) % 2, ValueError, r"Found 2 classes in y \(0, 1\), expected n_classes=3"),
    "one class": (np.full(N, "a"), ValueError, r"Found 1 class in y \('a'\), expected n_classes=3"),
    "continuous": (X[:, 0], ValueError, "Unknown label type: continuous"),
    "NaN": (put(Y.astype(float), 4, np.nan), ValueError, "Input y contains NaN: 1 of 60 labels, the first at index 4"),
    "infinity": (put(Y.astype(float), 4, np.inf), ValueError, "Input y contains infinity: 1 of 60"),
    "None among objects": (put(LABELS[Y].astype(object), 4, None), ValueError, "Input y contains missing labels"),
    "NaN among objects": (put(LABELS[Y].astype(object), 4, np.nan), ValueError, "Input y contains missing labels"),
    "NaT": (put(Y.astype("datetime64[D]"), 4, "NaT"), ValueError, "Input y contains NaT"),
    "one-hot": (np.eye(3)[Y], ValueError, r"y should be a 1d array, got an array of shape \(60, 3\)"),
    "scalar": (1, ValueError, r"y should be a 1d array, got an array of shape \(\)"),
    "ragged": ([[0], [1, 2]] * 30, ValueError, "y should be a 1d array"),
    "complex": (Y + 1j, ValueError, "Complex data not supported: y"),
    "unhashable": (np.array([{}] * N, dtype=object), ValueError, "y holds labels that cannot be hashed"),
    "no samples": ([], ValueError, "y holds no samples|inconsistent numbers of samples"),
    "fewer": (Y[:-1], ValueError, r"inconsistent numbers of samples: \[60, 59\]"),
}  # fmt: skip

BAD_STARTS = {
    "three of them": ((*PARAMS, 1), ValueError, r"init_params is a tuple of length 3, expected a pair \(coef, intercept\)"),
    "one of them": ((PARAMS[0],), ValueError, "init_params is a tuple of length 1, expected a pair"),
    "a number": (3, ValueError, "init_params is a int, expected a pair"),
    "an array": (PARAMS[0], ValueError, "init_params is a ndarray of length 4, expected a pair"),
    "coef of other features": ((np.zeros((3, K)), PARAMS[1]), ValueError, r"coef of init_params has shape \(3, 3\), expected \(n_features, n_classes\) = \(4, 3\)"),
    "coef of other classes": ((np.zeros((P, 2)), PARAMS[1]), ValueError, r"coef of init_params has shape \(4, 2\), expected .* \(4, 3\)"),
    "1-D coef": ((np.zeros(P), PARAMS[1]), ValueError, r"coef of init_params has shape \(4,\), expected"),
    "intercept": ((PARAMS[0], np.zeros(2)), ValueError, r"intercept of init_params has shape \(2,\), expected \(n_classes,\) = \(3,\)"),
    "scalar intercept": ((PARAMS[0], 0.0), ValueError, r"intercept of init_params has shape \(\)"),
    "structure": (({"a": PARAMS[0]}, PARAMS[1]), ValueError, "coef of init_params differs in structure from X"),
    "NaN": ((put(PARAMS[0], 0, np.nan), PARAMS[1]), ValueError, "coef of init_params holds NaN or infinity"),
    "infinity": ((PARAMS[0], put(PARAMS[1], 0, np.inf)), ValueError, "intercept of init_params holds NaN or infinity"),
    "strings": ((PARAMS[0].astype(str), PARAMS[1]), (ValueError, TypeError), "coef of init_params.*numbers"),
    "None inside": ((None, PARAMS[1]), (ValueError, TypeError), "coef of init_params"),
}  # fmt: skip

BAD_WEIGHTS = {
    "negative": (put(np.ones(N), 4, -1), ValueError, "sample_weight holds weights that are negative: 1 of 60, the first -1.0 at index 4"),
    "NaN": (put(np.ones(N), 4, np.nan), ValueError, "sample_weight holds weights that are not finite: 1 of 60"),
    "infinity": (put(np.ones(N), 4, np.inf), ValueError, "sample_weight holds weights that are not finite"),
    "too short": (np.ones(N - 1), ValueError, r"sample_weight has shape \(59,\), expected .* \(60,\)"),
    "a column": (np.ones((N, 1)), ValueError, r"sample_weight has shape \(60, 1\), expected .* \(60,\)"),
    "all zero": (np.zeros(N), ValueError, "sample_weight is zero for all 60 samples"),
    "strings": (["a"] * N, (ValueError, TypeError), "sample_weight"),
}  # fmt: skip

FIT = {
    **{f"X: {k}": (lambda m, v=v: m.fit(v, Y), *e) for k, (v, *e) in BAD_FEATURES.items()},
    **{f"y: {k}": (lambda m, v=v: m.fit(X, v), *e) for k, (v, *e) in BAD_LABELS.items()},
    **{f"init_params: {k}": (lambda m, v=v: m.fit(X, Y, v), *e) for k, (v, *e) in BAD_STARTS.items()},
    **{f"sample_weight: {k}": (lambda m, v=v: m.fit(X, Y, sample_weight=v), *e) for k, (v, *e) in BAD_WEIGHTS.items()},
    "sample_weight by position": (lambda m: m.fit(X, Y, PARAMS, np.ones(N)), TypeError, "positional argument"),
    "a class whose rows hold NaN": (
        lambda m: m.fit(np.where((Y == 1)[:, None], np.nan, X), Y),
        (ValueError, UserWarning),
        r"\[1\].*no row (of them )?is left|NaN in .* rows, which are left out",
    ),
}


@pytest.mark.parametrize("call, kind, message", FIT.values(), ids=FIT)
def test_bad_data_in_fit(call, kind, message, fitted):
    raises_and_leaves(new(), kind, message, call)
    raises_and_leaves(fitted, kind, message, call)


def test_one_class_without_a_number_of_classes(fitted):
    raises_and_leaves(new(n_classes=None), ValueError, "Found 1 class in y .*at least 2", lambda m: m.fit(X, Y * 0))


# fit: settings

OVERLAP = np.ones((2, P, K), int)
MASK = np.zeros((2, P, K), int)
MASK[0, :2] = MASK[1, 2:] = 1


def wrong_shape(eta):
    return jax.nn.log_softmax(eta)[..., :2]


def gives_nan(eta):
    return jax.nn.log_softmax(eta) * jnp.nan


SETTINGS = {
    "n_classes: 1": ({"n_classes": 1}, ValueError, "n_classes must be None or an integer of at least 2, found 1"),
    "n_classes: 2.5": ({"n_classes": 2.5}, ValueError, "n_classes must be .* found 2.5"),
    "n_classes: NaN": ({"n_classes": np.nan}, ValueError, "n_classes must be .* found nan"),
    "n_classes: string": ({"n_classes": "two"}, TypeError, "n_classes must be .* found 'two' of type str"),
    "n_classes: bool": ({"n_classes": True}, TypeError, "n_classes must be .* found True"),
    "n_classes: of the data": ({"n_classes": 4}, ValueError, r"Found 3 classes in y \(0, 1, 2\), expected n_classes=4"),
    "regularizer: unknown": ({"regularizer": "Rigde"}, ValueError, "unknown regularizer 'Rigde'; known are .*UnRegularized.*Ridge.*Lasso.*ElasticNet.*GroupLasso"),
    "regularizer: type": ({"regularizer": 5}, TypeError, "regularizer must be a name .*Ridge.*found int"),
    "solver_name: unknown": ({"solver_name": "sgd"}, ValueError, "unknown solver_name 'sgd'; known are .*LBFGS.*ProximalGradient"),
    "solver_name: type": ({"solver_name": 5}, TypeError, "solver_name must be a string .*found int"),
    **{
        f"solver_name: {solver} for {penalty}": (
            {"regularizer": penalty, "solver_name": solver},
            ValueError,
            f"{solver} .*{penalty}.*allowed: .*ProximalGradient",
        )
        for solver in ("LBFGS", "BFGS", "GradientDescent", "NonlinearCG", "SVRG")
        for penalty in ("Lasso", "ElasticNet", "GroupLasso")
    },
    "solver_kwargs: unknown": ({"solver_kwargs": {"max_iter": 3}}, TypeError, "LBFGS does not take the keyword 'max_iter'.*accepted: .*tol.*maxiter"),
    "solver_kwargs: of another solver": ({"solver_kwargs": {"memory": 3}, "solver_name": "BFGS"}, TypeError, "BFGS does not take the keyword 'memory'.*accepted: "),
    "solver_kwargs: type": ({"solver_kwargs": [1]}, TypeError, "solver_kwargs must be a dict, found list"),
    "tol: negative": ({"solver_kwargs": {"tol": -1}}, ValueError, "tol .*not negative, found -1"),
    "tol: NaN": ({"solver_kwargs": {"tol": np.nan}}, ValueError, "tol .*finite.*found nan"),
    "tol: string": ({"solver_kwargs": {"tol": "small"}}, (ValueError, TypeError), "tol .*found 'small'"),
    "maxiter: fraction": ({"solver_kwargs": {"maxiter": 2.5}}, ValueError, "maxiter .*whole number, not negative, found 2.5"),
    "maxiter: negative": ({"solver_kwargs": {"maxiter": -2}}, ValueError, "maxiter .*found -2"),
    "stepsize: infinite": ({"solver_kwargs": {"stepsize": np.inf}, "solver_name": "GradientDescent"}, ValueError, "stepsize .*finite.*found inf"),
    "stepsize: negative": ({"solver_kwargs": {"stepsize": -0.1}, "solver_name": "SVRG"}, ValueError, "stepsize .*not negative, found -0.1"),
    "batch_size: zero": ({"solver_kwargs": {"batch_size": 0}, "solver_name": "SVRG"}, ValueError, "batch_size .*found 0"),
    "batch_size: fraction": ({"solver_kwargs": {"batch_size": 2.5}, "solver_name": "ProxSVRG"}, ValueError, "batch_size .*whole number or None, found 2.5"),
    "callback": ({"solver_kwargs": {"callback": 3}}, TypeError, "callback .*callables, found 3"),
    "link: type": ({"inverse_link_function": 3}, TypeError, "inverse_link_function must be callable or None, found 3"),
    "link: shape": ({"inverse_link_function": wrong_shape}, (ValueError, TypeError), r"inverse_link|\(60, 2\)"),
    "link: NaN": ({"inverse_link_function": gives_nan}, ValueError, "not finite.*inverse_link_function"),
    "strength: negative": ({"regularizer_strength": -1.0}, ValueError, "strength must be finite and not negative, found -1"),
    "strength: NaN": ({"regularizer_strength": np.nan}, ValueError, "strength must be finite and not negative, found nan"),
    "strength: infinite": ({"regularizer_strength": np.inf}, ValueError, "strength must be finite and not negative, found inf"),
    "strength: negative entry": ({"regularizer_strength": np.array([[1.0], [1], [-2], [1]])}, ValueError, "strength must be finite and not negative"),
    "strength: string": ({"regularizer_strength": "big"}, TypeError, "regularizer_strength must be .*found 'big'"),
    "strength: complex": ({"regularizer_strength": 1j}, TypeError, "regularizer_strength must be .*found 1j"),
    "strength: shape": ({"regularizer_strength": np.ones((3, 1))}, ValueError, r"strength of shape \(3, 1\) does not broadcast to coef of shape \(4, 3\)"),
    "strength: structure": ({"regularizer_strength": {"a": 1.0}}, ValueError, "strength must be one number or array, or mirror the features"),
    "strength: a tuple": ({"regularizer_strength": (1.0, 0.5)}, ValueError, "strength must be one number or array, or mirror"),
    "strength: inside, negative": ({"regularizer": glmcore.Ridge(-1.0), "regularizer_strength": None}, ValueError, "strength must be finite and not negative"),
    "ElasticNet: length": ({"regularizer": "ElasticNet", "regularizer_strength": (1.0, 0.5, 1.0)}, ValueError, r"regularizer_strength of ElasticNet .*\(strength, ratio\).*length 3"),
    "ElasticNet: ratio 0": ({"regularizer": "ElasticNet", "regularizer_strength": (1.0, 0.0)}, ValueError, r"ratio must be in \(0, 1\], found 0"),
    "ElasticNet: ratio above 1": ({"regularizer": "ElasticNet", "regularizer_strength": (1.0, 1.5)}, ValueError, r"ratio must be in \(0, 1\], found 1.5"),
    "ElasticNet: ratio NaN": ({"regularizer": "ElasticNet", "regularizer_strength": (1.0, np.nan)}, ValueError, r"ratio must be in \(0, 1\], found nan"),
    "ElasticNet: strength": ({"regularizer": "ElasticNet", "regularizer_strength": (-1.0, 0.5)}, ValueError, "strength must be finite and not negative"),
    "Lasso: negative": ({"regularizer": "Lasso", "regularizer_strength": -1.0}, ValueError, "strength must be finite and not negative"),
    "GroupLasso: negative": ({"regularizer": "GroupLasso", "regularizer_strength": -1.0}, ValueError, "strength must be finite and not negative"),
    "GroupLasso: shape": ({"regularizer": "GroupLasso", "regularizer_strength": np.ones(3)}, ValueError, r"strength must be a number or of shape \(4,\), one a group; found shape \(3,\)"),
    "GroupLasso: overlap": ({"regularizer": glmcore.GroupLasso(mask=OVERLAP)}, ValueError, "groups must not overlap"),
    "GroupLasso: mask shape": ({"regularizer": glmcore.GroupLasso(mask=MASK[:, :3])}, ValueError, r"mask must have shape \(n_groups, 4, 3\), found \(2, 3, 3\)"),
    "GroupLasso: mask values": ({"regularizer": glmcore.GroupLasso(mask=2 * MASK)}, ValueError, "mask must hold 0 and 1 only"),
    "GroupLasso: mask structure": ({"regularizer": glmcore.GroupLasso(mask={"a": MASK})}, ValueError, "mask must mirror the features"),
}  # fmt: skip


@pytest.mark.parametrize("settings, kind, message", SETTINGS.values(), ids=SETTINGS)
def test_bad_settings_in_fit(settings, kind, message, fitted):
    raises_and_leaves(new(**settings), kind, message, lambda m: m.fit(X, Y))
    raises_and_leaves(fitted.set_params(**settings), kind, message, lambda m: m.fit(X, Y))


FIRST_USE = {
    "strength": ({"regularizer_strength": -1.0}, ValueError, "strength must be finite and not negative"),
    "solver": ({"solver_name": "sgd"}, ValueError, "unknown solver_name 'sgd'"),
    "keyword": ({"solver_kwargs": {"max_iter": 3}}, TypeError, "does not take the keyword 'max_iter'"),
    "regularizer": ({"regularizer": "Rigde"}, ValueError, "unknown regularizer 'Rigde'"),
    "link: no log-probabilities": ({"inverse_link_function": jax.nn.softmax}, ValueError, "must give log-probabilities, whose exponentials sum to 1; .* they sum to 4.19"),
    "capacities": ({"regularizer": "Lasso", "solver_name": "ProximalNewton", "solver_kwargs": {"capacities": (-3,)}}, ValueError, "capacities must be a positive whole number, found -3"),
    "link": ({"inverse_link_function": 3}, TypeError, "inverse_link_function must be callable"),
}


@pytest.mark.parametrize("settings, kind, message", FIRST_USE.values(), ids=FIRST_USE)
def test_bad_settings_in_an_update_loop(settings, kind, message, state):
    model = new(**settings).set_classes(Y)
    raises_and_leaves(model, kind, message, lambda m: m.initialize_optimizer_and_state(PARAMS, X, Y))
    raises_and_leaves(model, kind, message, lambda m: m.update(PARAMS, state, X, Y))


# The other methods

UNKNOWN = put(Y, 7, 9)
NAMED = "y holds labels that are not in classes_: 9 .*first at index 7.* Valid labels: 0, 1, 2"
LACKING = np.where(Y == 2, 0, Y)

CALLS = {
    "predict: fewer features": (lambda m, s: m.predict(X[:, :3]), ValueError, "X has 3 features, but ClassifierGLM is expecting 4 features"),
    "predict: structure": (lambda m, s: m.predict({"a": X}), ValueError, "X differs in structure from that of the fit"),
    "predict: 1-D": (lambda m, s: m.predict(X[0]), ValueError, "Expected 2D array, got 1D array instead"),
    "predict: NaN": (lambda m, s: m.predict(put(X, 3, np.nan)), ValueError, "X contains NaN in 1 of 60 rows"),
    "predict: infinity": (lambda m, s: m.predict(put(X, 3, np.inf)), ValueError, "X contains infinity"),
    "predict: no samples": (lambda m, s: m.predict(X[:0]), ValueError, r"0 sample\(s\)"),
    "predict_proba: features": (lambda m, s: m.predict_proba(X[:, :3]), ValueError, "expecting 4 features"),
    "predict_proba: infinity": (lambda m, s: m.predict_proba(put(X, 3, np.inf)), ValueError, "X contains infinity"),
    "predict_proba: type": (lambda m, s: m.predict_proba(X, return_type="probs"), ValueError, "return_type must be 'log-proba' or 'proba', found 'probs'"),
    "predict_proba: unhashable": (lambda m, s: m.predict_proba(X, return_type=["proba"]), ValueError, "return_type must be"),
    "simulate: features": (lambda m, s: m.simulate(KEY, X[:, :3]), ValueError, "expecting 4 features"),
    "simulate: NaN": (lambda m, s: m.simulate(KEY, put(X, 3, np.nan)), ValueError, "NaN in 1 of 60 rows"),
    "simulate: infinity": (lambda m, s: m.simulate(KEY, put(X, 3, np.inf)), ValueError, "contains infinity"),
    "simulate: key": (lambda m, s: m.simulate(3, X), (ValueError, TypeError), "key"),
    "score: type": (lambda m, s: m.score(X, Y, score_type="r2"), ValueError, "score_type must be one of log-likelihood, pseudo-r2-McFadden, pseudo-r2-Cohen; found 'r2'"),
    "score: aggregate": (lambda m, s: m.score(X, Y, aggregate_sample_scores="mean"), TypeError, "aggregate_sample_scores must be callable, found 'mean'"),
    "score: label": (lambda m, s: m.score(X, UNKNOWN), ValueError, NAMED),
    "score: lengths": (lambda m, s: m.score(X, Y[:-1]), ValueError, r"inconsistent numbers of samples: \[60, 59\]"),
    "score: features": (lambda m, s: m.score(X[:, :3], Y), ValueError, "expecting 4 features"),
    "score: continuous": (lambda m, s: m.score(X, X[:, 0]), ValueError, "Unknown label type: continuous"),
    "score: infinity": (lambda m, s: m.score(put(X, 3, np.inf), Y), ValueError, "X contains infinity"),
    "score: NaN in y": (lambda m, s: m.score(X, put(Y.astype(float), 4, np.nan)), ValueError, "y contains NaN"),
    "score: all NaN": (lambda m, s: m.score(np.full((N, P), np.nan), Y), ValueError, "no row is left"),
    "compute_loss: label": (lambda m, s: m.compute_loss(PARAMS, X, UNKNOWN), ValueError, NAMED),
    "compute_loss: shape": (lambda m, s: m.compute_loss((PARAMS[0][:3], PARAMS[1]), X, Y), ValueError, r"coef of params has shape \(3, 3\), expected .* \(4, 3\)"),
    "compute_loss: length": (lambda m, s: m.compute_loss(PARAMS[:1], X, Y), ValueError, "params is a tuple of length 1, expected a pair"),
    "compute_loss: infinity": (lambda m, s: m.compute_loss(PARAMS, put(X, 3, np.inf), Y), ValueError, "X contains infinity"),
    "compute_loss: keyword": (lambda m, s: m.compute_loss(PARAMS, X, Y, weights=1), TypeError, r"^compute_loss\(\) got .* 'weights'"),
    "compute_loss: weight": (lambda m, s: m.compute_loss(PARAMS, X, Y, sample_weight=-np.ones(N)), ValueError, "sample_weight holds weights that are negative"),
    "initialize_params: label": (lambda m, s: m.initialize_params(X, UNKNOWN), ValueError, NAMED),
    "initialize_params: lengths": (lambda m, s: m.initialize_params(X, Y[:-1]), ValueError, r"\[60, 59\]"),
    "initialize_params: rank": (lambda m, s: m.initialize_params(X[0], Y), ValueError, "Expected 2D array"),
    "initialize_optimizer_and_state: label": (lambda m, s: m.initialize_optimizer_and_state(PARAMS, X, UNKNOWN), ValueError, NAMED),
    "initialize_optimizer_and_state: params": (lambda m, s: m.initialize_optimizer_and_state((PARAMS[0][:3], PARAMS[1]), X, Y), ValueError, r"coef of init_params has shape \(3, 3\)"),
    "initialize_optimizer_and_state: None": (lambda m, s: m.initialize_optimizer_and_state(None, X, Y), ValueError, "init_params is a NoneType, expected a pair"),
    "update: label": (lambda m, s: m.update(PARAMS, s, X, UNKNOWN), ValueError, NAMED),
    "update: string label": (lambda m, s: m.update(PARAMS, s, X, LABELS[Y]), ValueError, "labels that are not in classes_: 'a'"),
    "update: params": (lambda m, s: m.update((PARAMS[0][:3], PARAMS[1]), s, X, Y), ValueError, r"coef of params has shape \(3, 3\)"),
    "update: features": (lambda m, s: m.update((PARAMS[0][:3], PARAMS[1]), s, X[:, :3], Y), ValueError, "3 features|3 columns|feature"),
    "update: lengths": (lambda m, s: m.update(PARAMS, s, X, Y[:-1]), ValueError, r"\[60, 59\]"),
    "update: infinity": (lambda m, s: m.update(PARAMS, s, put(X, 3, np.inf), Y), ValueError, "X contains infinity"),
    "update: keyword": (lambda m, s: m.update(PARAMS, s, X, Y, momentum=0.9), TypeError, "LBFGS .*momentum"),
    "update: argument": (lambda m, s: m.update(PARAMS, s, X, Y, 0.9), TypeError, "LBFGS .*0.9"),
    "update: weight": (lambda m, s: m.update(PARAMS, s, X, Y, sample_weight=np.zeros(N)), ValueError, "sample_weight is zero"),
    "update: no state": (lambda m, s: m.update(PARAMS, None, X, Y), (ValueError, TypeError), "state"),
    "update: a state that is none": (lambda m, s: m.update(PARAMS, {"step": 1}, X, Y), (ValueError, TypeError), "state"),
    "update: NaN in params": (lambda m, s: m.update((put(PARAMS[0], 0, np.nan), PARAMS[1]), s, X, Y), ValueError, "coef of params holds NaN"),
    "update: infinity on a device": (lambda m, s: m.update((m.coef_, m.intercept_ + np.inf), s, X, Y), ValueError, "intercept of params holds NaN"),
    "update: NaN in y": (lambda m, s: m.update(PARAMS, s, X, put(Y.astype(float), 4, np.nan)), ValueError, "y contains NaN"),
    "update: n_samples": (lambda m, s: m.update(PARAMS, s, X, Y, n_samples="many"), (ValueError, TypeError), "n_samples"),
    "set_classes: count": (lambda m, s: m.set_classes([0, 1]), ValueError, r"Found 2 classes in y \(0, 1\), expected n_classes=3"),
    "set_classes: NaN": (lambda m, s: m.set_classes([0, 1, np.nan]), ValueError, "NaN"),
    "set_classes: None": (lambda m, s: m.set_classes(None), ValueError, "y is None"),
    "set_classes: continuous": (lambda m, s: m.set_classes([0.5, 1, 2]), ValueError, "Unknown label type: continuous"),
    "set_params: unknown": (lambda m, s: m.set_params(penalty="l1"), ValueError, "Invalid parameter 'penalty'.*regularizer"),
}  # fmt: skip


@pytest.mark.parametrize("call, kind, message", CALLS.values(), ids=CALLS)
def test_bad_input_of_the_other_methods(call, kind, message, fitted, state):
    raises_and_leaves(fitted, kind, message, lambda m: call(m, state))


def test_no_row_left_in_an_update(fitted, state):
    raises_and_leaves(fitted, ValueError, "no row is left", lambda m: m.update(PARAMS, state, X * np.nan, Y))


def test_a_state_of_another_solver_is_refused(fitted, state):
    fitted.set_params(solver_name="GradientDescent")
    raises_and_leaves(fitted, ValueError, "LBFGS.*GradientDescent|GradientDescent.*LBFGS", lambda m: m.update(PARAMS, state, X, Y))  # fmt: skip


def test_classes_that_are_not_set_and_not_all_there():
    call = lambda m: m.initialize_optimizer_and_state(PARAMS, X, LACKING)
    raises_and_leaves(new(), ValueError, r"Found 2 classes in y \(0, 1\), expected n_classes=3", call)


UNSET = {
    "initialize_params": lambda m, s: m.initialize_params(X, Y),
    "update": lambda m, s: m.update(PARAMS, s, X, Y),
    "predict": lambda m, s: m.predict(X),
    "predict_proba": lambda m, s: m.predict_proba(X),
    "simulate": lambda m, s: m.simulate(KEY, X),
    "score": lambda m, s: m.score(X, Y),
    "compute_loss": lambda m, s: m.compute_loss(PARAMS, X, Y),
}


@pytest.mark.parametrize("name", UNSET)
def test_before_classes_are_known(name, state):
    expected = f"^Classes are not set. Must call ``set_classes`` before calling ``{name}``"
    raises_and_leaves(new(), ClassesNotSetError, expected, lambda m: UNSET[name](m, state))
    raises_and_leaves(new(), RuntimeError, expected, lambda m: UNSET[name](m, state))


@pytest.mark.parametrize("name", ["predict", "predict_proba", "simulate", "score"])
def test_before_there_are_coefficients(name, state):
    model = new().set_classes(Y)
    raises_and_leaves(model, NotFittedError, f"no coefficients.*``{name}``", lambda m: UNSET[name](m, state))


def test_coefficients_set_by_hand_that_do_not_fit_the_classes():
    model = new().set_classes(Y)
    model.coef_, model.intercept_ = np.zeros((P, 2)), np.zeros(K)
    raises_and_leaves(model, ValueError, r"coef_.*\(4, 2\).*\(4, 3\)", lambda m: m.predict(X))
    model.coef_, model.intercept_ = np.zeros((P, K)), np.zeros(2)
    raises_and_leaves(model, ValueError, r"intercept_.*\(2,\).*\(3,\)", lambda m: m.predict(X))


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop"), MemoryError("stop")])
def test_an_interrupted_fit_leaves_the_estimator_as_it_was(error, fitted):
    calls = []

    def interrupt(report):
        calls.append(report.n_iter)
        if len(calls) == 2:
            raise error

    for model in (new(), fitted):
        calls.clear()
        model.set_params(solver_kwargs={"callback": interrupt, "tol": 1e-6})
        raises_and_leaves(model, type(error), "stop", lambda m: m.fit(10 * X, LABELS[Y]))
        assert len(calls) == 2


def test_a_warning_that_is_an_error_leaves_the_estimator_as_it_was(fitted):
    for model in (new(), fitted):
        model.set_params(solver_kwargs={"maxiter": 1})
        raises_and_leaves(model, ConvergenceWarning, "did not converge", lambda m: m.fit(10 * X, LABELS[Y]))


def test_a_failed_initialization_leaves_no_optimizer():
    model = new()
    raises_and_leaves(model, ValueError, "init_params", lambda m: m.initialize_optimizer_and_state(PARAMS[:1], X, Y))
    assert model.optimizer_run is None and model.classes_ is None


# Warnings of convergence


def warning_of(model, features=X, y=Y):
    with pytest.warns(ConvergenceWarning) as record:
        model.fit(features, y)
    assert len(record) == 1
    assert record[0].filename == __file__  # points at the line that called fit
    return str(record[0].message), glmcore.status_name(model.status_)


def numbers_in(message, model):
    """Steps, residual and tolerance that a warning states."""
    steps = re.search(r"(\d+) steps", message)
    residual, tol = re.search(r"residual ([0-9.e+-]+), tol ([0-9.e+-]+)\.", message).groups()
    assert int(steps[1]) == model.n_iter_
    assert float(residual) > float(tol)
    assert float(residual) == float(f"{float(model.solver_state_.optimality):.1e}")
    return float(tol)


def test_out_of_steps():
    model = new(solver_kwargs={"maxiter": 2})
    message, status = warning_of(model)
    assert status == "out_of_steps" and model.n_iter_ == 2
    assert message.startswith("Newton did not converge in 2 steps") and "raise maxiter or tol" in message
    assert numbers_in(message, model) == 1e-5
    assert np.isfinite(model.coef_).all() and model.predict(X).shape == (N,)  # the rough answer is there


@pytest.mark.parametrize(
    "status, advice",
    [
        ("out_of_steps", "raise maxiter or tol"),
        ("stalled", "raise tol in solver_kwargs, or enable x64 in JAX"),
        ("far_from_zero", "subtract the mean of the features, or enable x64"),
        ("separable", "use a penalty"),
    ],
)
def test_every_status_that_is_not_converged_has_a_warning(status, advice, monkeypatch):
    """Where a fit ends depends on the machine's rounding; what is said of it does not."""

    def fit(*args, **kwargs):
        result = real(*args, **kwargs)
        ended = eqx.tree_at(lambda r: r.status, result, getattr(glmcore.Status, status))
        return eqx.tree_at(lambda r: (r.n_iter, r.optimality), ended, (jnp.asarray(42), jnp.asarray(1.25e-3)))

    real = glmcore.fit
    monkeypatch.setattr(glmcore, "fit", fit)
    model = new(solver_kwargs={"tol": 1e-5})
    message, found = warning_of(model)
    assert found == status and model.n_iter_ == 42
    assert message.startswith(f"Newton did not converge in 42 steps: {glmcore.Status[model.status_]}")
    assert "residual 1.2e-03" in message and "tol 1.0e-05" in message and advice in message


def test_a_fit_that_is_not_finite_is_an_error(monkeypatch, fitted):
    def fit(*args, **kwargs):
        result = real(*args, **kwargs)
        return eqx.tree_at(lambda r: r.status, result, glmcore.Status.nonfinite)

    real = glmcore.fit
    monkeypatch.setattr(glmcore, "fit", fit)
    for model in (new(), fitted):
        raises_and_leaves(model, ValueError, "Newton.*not finite.*init_params.*inverse_link_function", lambda m: m.fit(X, Y))


def test_separable():
    features = X.copy()
    features[:, 0] = 10.0 * Y
    model = new(regularizer="UnRegularized", regularizer_strength=None)
    message, status = warning_of(model, features)
    assert status == "separable"
    assert "Newton did not converge" in message and "separable" in message and "Ridge" in message
    assert np.isfinite(model.coef_).all() and np.isfinite(model.intercept_).all()


def test_far_from_zero():
    """1e6 beside a spread of 1: float32 keeps X to a sixteenth, and cannot keep the intercept."""
    model = new(regularizer_strength=1e-3)
    message, status = warning_of(model, X + 1e6)
    assert status == "far_from_zero"
    assert "subtract the mean" in message and "x64" in message


def test_no_warning_when_converged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new().fit(X, Y)


def test_a_strength_without_a_penalty_is_said_to_be_unused():
    with pytest.warns(UserWarning, match="regularizer_strength=0.05 is not used: the regularizer is UnRegularized"):
        new(regularizer="UnRegularized").fit(X, Y)


METHODS = ("linear_predictor", "log_proba", "loss", "objective", "optimality")


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_the_model_name_what_does_not_fit(method):
    glm, X, y = glmcore.GLM(glmcore.Categorical(3)), np.zeros((5, 2)), np.arange(5) % 3
    rest = () if method in METHODS[:2] else (y,)
    good = glmcore.GLMParams(np.zeros((2, 3)), np.zeros(3))
    for params, features, words in (
        (glmcore.GLMParams(np.zeros((4, 3)), np.zeros(3)), X, r"coef must have shape \(2, 3\), found \(4, 3\)"),
        (glmcore.GLMParams(np.zeros((2, 3)), np.zeros(2)), X, r"intercept must have shape \(3,\), found \(2,\)"),
        (good, X[0], r"X must be 2-D, \(n, p\); found shape \(2,\)"),
        (good, {"a": X}, "coef must mirror X"),
    ):
        with pytest.raises(ValueError, match=words):
            getattr(glm, method)(params, features, *rest)
    if rest:
        with pytest.raises(ValueError, match=r"y must have shape \(5,\), one label a row of X; found \(4,\)"):
            getattr(glm, method)(good, X, y[:4])


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_optimality_wants_rows_and_columns(shape):
    glm, X = glmcore.GLM(glmcore.Categorical(3)), np.zeros(shape)
    params = glmcore.GLMParams(np.zeros((shape[1], 3)), np.zeros(3))
    with pytest.raises(ValueError, match=re.escape(f"X must have rows and columns, found [{shape}]")):
        glm.optimality(params, X, np.zeros(shape[0], int))


def test_the_null_model_names_a_short_y():
    glm = glmcore.GLM(glmcore.Categorical(3))
    with pytest.raises(ValueError, match=r"y must have shape \(5,\), one label a row of X; found \(1,\)"):
        glm.initialize_params(np.zeros((5, 2)), np.zeros(1, int))


def test_log_likelihood_names_a_short_y():
    glm, features = glmcore.GLM(glmcore.Categorical(3)), np.zeros((5, 2))
    good = glmcore.GLMParams(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match=r"y must have shape \(5,\), one label a row of X; found \(4,\)"):
        glmcore.log_likelihood(glm, good, features, np.zeros(4, int))


def test_null_log_likelihood_names_what_is_wrong():
    glm = glmcore.GLM(glmcore.Categorical(3))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(4,\), found \(1,\)"):
        glmcore.null_log_likelihood(glm, np.zeros(4, int), np.ones(1))
    with pytest.raises(TypeError, match="y must hold integer class indices, found dtype float32"):
        glmcore.null_log_likelihood(glm, np.zeros(4, np.float32))
    found = glmcore.null_log_likelihood(glm, np.array([0, 1, 5, -1, 1]), np.array([1, 2, 0, 0, 1]))
    np.testing.assert_allclose(found, np.log([0.25, 0.75, np.nan, np.nan, 0.75]), rtol=1e-6)


@pytest.mark.parametrize("link", [np.exp, lambda eta: eta - np.log(np.exp(eta).sum(axis=-1, keepdims=True))], ids=["ufunc", "function"])
def test_a_link_written_with_numpy_is_refused_however_often(link):
    for _ in range(2):  # a ufunc made JAX crash the second time
        with pytest.raises(TypeError, match="inverse_link_function must be written with jax.numpy"):
            ClassifierGLM(3, inverse_link_function=link).fit(np.ones((6, 2)), [0, 1, 2, 0, 1, 2])
        with pytest.raises(TypeError, match="inverse_link must be written with jax.numpy"):
            glmcore.GLM(glmcore.Categorical(3), inverse_link=link)


def test_a_link_that_cannot_be_hashed_is_refused():
    class Link:
        __hash__ = None

        def __call__(self, eta):
            return jax.nn.log_softmax(eta)

    with pytest.raises(TypeError, match="inverse_link must be hashable, found .*Link"):
        glmcore.GLM(glmcore.Categorical(3), inverse_link=Link())
    with pytest.raises(TypeError, match="inverse_link_function must be hashable, found .*Link"):
        ClassifierGLM(3, inverse_link_function=Link()).fit(np.ones((6, 2)), [0, 1, 2, 0, 1, 2])


def test_a_link_that_closes_over_what_is_traced_is_taken():
    features, labels = jnp.ones((6, 2)), jnp.arange(6) % 3

    def loss(scale):
        glm = glmcore.GLM(glmcore.Categorical(3), inverse_link=lambda eta: jax.nn.log_softmax(scale * eta))
        return glm.loss(glmcore.GLMParams(jnp.ones((2, 3)), jnp.arange(3.0)), features, labels)

    slope = (loss(1.51) - loss(1.49)) / 0.02
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.5), slope, rtol=1e-3)


def test_every_warning_points_to_the_line_of_the_user():
    broken, model = np.where(np.arange(X.size).reshape(X.shape) == 5, np.nan, X), ClassifierGLM(3)
    calls = (
        lambda: model.fit(broken, Y),
        lambda: model.score(broken, Y),
        lambda: model.update((model.coef_, model.intercept_), model.solver_state_, broken, Y),
        lambda: model.fit(X, Y[:, None]),
        lambda: make_pipeline(ClassifierGLM(3, solver_kwargs={"maxiter": 1})).fit(X, Y),
        lambda: LogisticRegression(max_iter=1).fit(X, Y),
        lambda: LogisticRegression(max_iter=1, n_jobs=2).partial_fit(X, Y, classes=range(3)),
    )
    for call in calls:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            call()
        assert told and {each.filename for each in told} == {__file__}


def test_a_state_that_is_none_is_named():
    model = ClassifierGLM(3).set_classes(Y)
    # Without the checks of annotations: "state must come from init_state with the solver LBFGS, found NoneType".
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="state"):
        model.update((np.zeros((4, 3)), np.zeros(3)), None, X, Y)


def test_a_residual_within_tol_is_explained():
    solver = glmcore.LBFGS(tol=1e-2)
    result = glmcore.fit(glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(0.1)), X, Y, solver=solver)
    result = dataclasses.replace(result, status=glmcore.Status.out_of_steps)
    expected = r"tol 1.0e-02: that is within, but the objective is still to fall .* To change that, raise maxiter"
    with pytest.warns(ConvergenceWarning, match=expected):
        reports.report(result, solver, Y, np.ones(60), np.arange(3))
