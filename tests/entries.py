"""The calls that check what they are given, with good arguments and a look at what comes back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from glmcore_sklearn import ClassifierGLM, LogisticRegression, load_model, regularization_path
from tests.hostile import FOLDER, LABELS, LARGE, WEIGHT, K, X, Y


class Entry(NamedTuple):
    """A call: of what, with which good arguments, of which any may be replaced, and what comes back."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    check: Callable[[Any], None] = lambda result: None
    owner: Any = None  # whose state has to survive
    without: tuple[str, ...] = ()


def _finite_fit(result: Any) -> None:
    coef = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(result.params.coef)])
    assert np.isfinite(coef).all() or glmcore.status_name(result.status) in ("nonfinite", "out_of_steps", "stalled")
    assert not bool(np.all(result.converged)) or np.isfinite(result.objective)


def _fitted(model: Any) -> None:
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((model.coef_, model.intercept_)))


def _probabilities(log_proba: Any) -> None:
    total = np.exp(np.asarray(log_proba, np.float64)).sum(axis=1)
    assert (np.isnan(total) | (np.abs(total - 1) < 1e-4)).all()


def _a_number(value: Any) -> None:
    assert np.shape(value) == ()


def _core() -> list[Entry]:
    model = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.01))
    lasso = glmcore.GLM(glmcore.Categorical(K), glmcore.Lasso(0.01))
    params = model.initialize_params(X, Y)
    state = glmcore.init_state(model, params, X, Y)
    data = {"X": X, "y": Y, "sample_weight": WEIGHT}
    entries = [
        Entry(
            "fit",
            glmcore.fit,
            {"model": model, **data, "solver": None, "init_params": params, "callback": None},
            _finite_fit,
        ),
        Entry(
            "fit_batches",
            lambda X, y, weight, **kwargs: glmcore.fit_batches(batches=[(X, y, weight)], **kwargs),
            {"model": model, "X": X, "y": Y, "weight": WEIGHT, "solver": None, "init_params": params},
            _finite_fit,
        ),
        Entry("fit_batches", glmcore.fit_batches, {"model": model, "batches": [(X, Y)], "callback": None}, _finite_fit),
        Entry("init_state", glmcore.init_state, {"model": model, "params": params, **data, "solver": None}),
        Entry("update", glmcore.update, {"model": model, "params": params, "state": state, **data, "solver": None}),
        Entry(
            "regularization_path",
            glmcore.regularization_path,
            {"model": lasso, **data, "strengths": None, "n_strengths": 3, "min_ratio": 0.1, "solver": None},
            without=LARGE,
        ),
        Entry(
            "GLM",
            lambda **kwargs: glmcore.fit(glmcore.GLM(**kwargs), X, Y),
            {
                "observations": glmcore.Categorical(K),
                "penalty": glmcore.Ridge(),
                "inverse_link": None,
                "fit_intercept": True,
            },
        ),
        Entry("Categorical", lambda n: glmcore.fit(glmcore.GLM(glmcore.Categorical(n)), X, Y), {"n": K}, without=LARGE),
        Entry(
            "Checkpoint",
            lambda path, every: glmcore.fit(model, X, Y, callback=glmcore.Checkpoint(path, every)),
            {"path": FOLDER / "checkpoint", "every": 3},
        ),
        Entry("shard_rows", glmcore.shard_rows, {"X": X, "y": Y, "mesh": None, "sample_weight": WEIGHT}),
    ]
    for kind, names in (
        ("Ridge", "strength"),
        ("Lasso", "strength"),
        ("ElasticNet", "strength ratio"),
        ("GroupLasso", "strength mask"),
    ):
        good = {name: {"strength": 0.01, "ratio": 0.5, "mask": None}[name] for name in names.split()}
        entries.append(Entry(kind, lambda kind=kind, **kwargs: _fit_penalty(kind, **kwargs), good, _finite_fit))
    for kind, names in (
        ("LBFGS", "tol maxiter memory"),
        ("Newton", "tol maxiter"),
        ("GradientDescent", "tol maxiter stepsize"),
        ("SVRG", "tol maxiter stepsize batch_size seed"),
        ("ProximalGradient", "tol maxiter stepsize"),
    ):
        values = {"tol": 1e-3, "maxiter": 5, "memory": 10, "stepsize": None, "batch_size": None, "seed": 0}
        good = {name: values[name] for name in names.split()}
        entries.append(
            Entry(kind, lambda kind=kind, **kwargs: _fit_solver(model, kind, **kwargs), good, _finite_fit, None, LARGE)
        )
    return entries


def _fit_penalty(kind: str, **kwargs: Any) -> Any:
    penalty = getattr(glmcore, kind)(**kwargs)
    return glmcore.fit(glmcore.GLM(glmcore.Categorical(K), penalty), X, Y, solver=glmcore.ProximalGradient(maxiter=50))


def _fit_solver(model: Any, kind: str, **kwargs: Any) -> Any:
    return glmcore.fit(model, X, Y, solver=getattr(glmcore, kind)(**kwargs))


def _face() -> list[Entry]:
    entries, data = [], {"X": X, "y": LABELS}
    weighted = {**data, "sample_weight": WEIGHT}
    model = ClassifierGLM(K, regularizer_strength=0.01).fit(**data)
    model.save_params(FOLDER / "model")
    params, state = (model.coef_, model.intercept_), model.solver_state_
    pair = {"params": params, **weighted}

    def add(owner, name, good, check=lambda result: None, without=()):
        entries.append(Entry(f"{type(owner).__name__}.{name}", getattr(owner, name), good, check, owner, without))

    add(model, "fit", {**weighted, "init_params": params}, _fitted)
    add(model, "set_classes", {"y": LABELS})
    add(model, "initialize_params", data)
    add(model, "initialize_optimizer_and_state", {"init_params": params, **data})
    add(model, "update", {"opt_state": state, "n_samples": None, **pair})
    add(model, "predict", {"X": X}, lambda labels: np.testing.assert_(np.isin(labels, model.classes_).all()))
    add(model, "predict_proba", {"X": X, "return_type": "log-proba"})
    add(model, "score", {**weighted, "score_type": "log-likelihood", "aggregate_sample_scores": jnp.mean})
    add(model, "compute_loss", pair, _a_number)
    add(model, "simulate", {"random_key": jax.random.key(0), "feedforward_input": X})
    add(model, "save_params", {"filename": FOLDER / "model"})
    regression = LogisticRegression(tol=1e-3).fit(**data)
    add(regression, "fit", weighted, _fitted, LARGE)
    add(regression, "partial_fit", {**weighted, "classes": ["a", "b", "c"]}, _fitted, LARGE)
    for name in ("predict", "decision_function", "predict_proba"):
        add(regression, name, {"X": X}, without=LARGE)
    add(regression, "predict_log_proba", {"X": X}, _probabilities, LARGE)
    entries.append(Entry("load_model", load_model, {"filename": FOLDER / "model.npz", "mapping_dict": None}))
    entries.append(Entry("coef_", _predict_with, {"coef": params[0], "intercept": params[1], "classes": LABELS}))
    good = {
        "n_classes": K,
        "inverse_link_function": None,
        "regularizer": "Ridge",
        "regularizer_strength": 0.01,
        "solver_name": None,
        "solver_kwargs": None,
    }
    entries.append(Entry("ClassifierGLM", lambda **kwargs: ClassifierGLM(**kwargs).fit(**data), good, _fitted, without=LARGE))
    good = {
        "C": 1.0,
        "l1_ratio": 0.0,
        "tol": 1e-3,
        "fit_intercept": True,
        "class_weight": None,
        "random_state": None,
        "solver": "lbfgs",
        "max_iter": 50,
        "verbose": 0,
        "warm_start": False,
    }
    entries.append(
        Entry("LogisticRegression", lambda **kwargs: LogisticRegression(**kwargs).fit(**data), good, _fitted, without=LARGE)
    )
    lasso = ClassifierGLM(K, regularizer="Lasso")
    good = {"estimator": lasso, **data, "strengths": None, "n_strengths": 3, "min_ratio": 0.1, "sample_weight": WEIGHT}
    entries.append(Entry("face path", regularization_path, good, without=LARGE))
    return entries


def _predict_with(coef: Any, intercept: Any, classes: Any) -> Any:
    model = ClassifierGLM(K).set_classes(classes)
    model.coef_, model.intercept_ = coef, intercept
    return _probabilities(model.predict_proba(X))


def all_entries() -> list[Entry]:
    return [*_core(), *_face()]
