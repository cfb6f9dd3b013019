"""The estimator compiles by type and shape: what comes second adds no program, whatever its values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small
from sklearn.base import clone

import glmcore
from glmcore_sklearn import ClassifierGLM

N, P, K = 53, 4, 3  # a shape of its own: nothing is compiled for it elsewhere
X, Y = small(seed=5, n=N)
OTHER, OTHER_Y = small(seed=6, n=N)
LABELS = np.array(["a", "b", "c"])
WEIGHT = np.linspace(0.5, 2, N)
STARTS = [(np.full((P, K), v), np.full(K, v)) for v in (0.0, 0.1)]
MASK = np.zeros((2, P, K), int)
MASK[0, 0] = MASK[1, 1:] = 1
OTHER_MASK = MASK[::-1].copy()


def new(**kwargs):
    return ClassifierGLM(**{"n_classes": K, "regularizer_strength": 0.05} | kwargs)


def assert_nothing_added(programs, again):
    added = {}
    for name, call in again.items():
        with programs:
            call()
        if programs.compiled or programs.traced:
            added[name] = (programs.compiled, programs.traced)
    assert not added, f"(compiled, traced) programs added by {added}"


PENALTIES = {
    "Ridge": ("Ridge", 0.05, 0.5, ("LBFGS", "GradientDescent")),
    "UnRegularized": ("UnRegularized", None, None, ("LBFGS",)),
    "Lasso": ("Lasso", 0.05, 0.5, ("ProximalGradient",)),
    "ElasticNet": ("ElasticNet", (0.05, 0.5), (0.2, 1), ("ProximalGradient",)),
    "GroupLasso": (glmcore.GroupLasso(mask=MASK), 0.05, 0.5, ("ProximalGradient",)),
}
CASES = [(name, solver) for name, (*_, solvers) in PENALTIES.items() for solver in solvers]
QUICK_CASES = [
    pytest.param(n, s, id=f"{n} {s}", marks=() if n in ("Ridge", "Lasso") else pytest.mark.slow) for n, s in CASES
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name, solver", QUICK_CASES)
def test_a_second_fit_adds_nothing(name, solver, programs):
    regularizer, strength, another, _ = PENALTIES[name]

    def make(strength=strength, regularizer=regularizer, **kwargs):
        return new(regularizer=regularizer, regularizer_strength=strength, solver_name=solver, solver_kwargs=kwargs)

    model = make()
    model.fit(X, Y)
    again = {
        "the same": lambda: model.fit(X, Y),
        "data": lambda: model.fit(OTHER, OTHER_Y),
        "strength": lambda: make(another).fit(X, Y),
        "tol": lambda: make(tol=1e-2).fit(X, Y),
        "integer tol": lambda: make(tol=1).fit(X, Y),
        "maxiter": lambda: make(maxiter=7).fit(X, Y),
        "NumPy maxiter": lambda: make(maxiter=np.int64(9)).fit(X, Y),
        "weights": lambda: model.fit(X, Y, sample_weight=WEIGHT),
        "weights as a list": lambda: model.fit(X, Y, sample_weight=WEIGHT.tolist()),
        "a new estimator": lambda: make().fit(X, Y),
        "a clone": lambda: clone(model).fit(X, Y),
        "string labels": lambda: make().fit(X, LABELS[Y]),
        "a list": lambda: make().fit(X.tolist(), Y.tolist()),
        "float32 data": lambda: make().fit(X.astype(np.float32), Y),
        "n_classes=None": lambda: make().set_params(n_classes=None).fit(X, Y),
    }
    if strength == 0.05:
        again["NumPy strength"] = lambda: make(np.float32(0.3)).fit(X, Y)
        again["integer strength"] = lambda: make(1).fit(X, Y)
        again["strength inside"] = lambda: make(0.7, type(model.regularizer)(9.0, *([OTHER_MASK] if name == "GroupLasso" else []))).fit(X, Y)  # fmt: skip
    if "stepsize" in getattr(glmcore, solver).__dataclass_fields__:
        again["stepsize"] = lambda: make(stepsize=0.1).fit(X, Y)
    assert_nothing_added(programs, again)


def test_starting_points_add_one_program(programs):
    new().fit(X, Y, STARTS[0])
    again = {
        "another start": lambda: new(regularizer_strength=0.7).fit(OTHER, OTHER_Y, STARTS[1]),
        "weights": lambda: new().fit(X, Y, STARTS[1], sample_weight=WEIGHT),
        "a list": lambda: new().fit(X, Y, [a.tolist() for a in STARTS[1]]),
    }
    assert_nothing_added(programs, again)


def test_warm_starts_from_fitted_coefficients_share_a_program(programs):
    model = new().fit(X, Y)
    model.fit(X, Y, (model.coef_, model.intercept_))
    again = {"warm start": lambda: new(regularizer_strength=0.1).fit(OTHER, OTHER_Y, (model.coef_, model.intercept_))}
    assert_nothing_added(programs, again)


def loop(model, features, y, weight=None, steps=2):
    model.set_classes(np.unique(y))
    params = model.initialize_params(features, y)
    state = model.initialize_optimizer_and_state(params, features, y)
    for _ in range(steps):
        kwargs = {} if weight is None else {"sample_weight": weight}
        params, state = model.update(params, state, features, y, **kwargs)
    return params, state


@pytest.mark.parametrize(
    "kwargs, other",
    [
        ({"solver_name": "LBFGS"}, {"solver_name": "LBFGS", "regularizer_strength": 0.7}),
        ({"regularizer": "Lasso"}, {"regularizer": "Lasso", "regularizer_strength": 0.3}),
    ],
    ids=["Ridge", "Lasso"],
)
def test_a_second_update_adds_nothing(kwargs, other, programs):
    model = new(**kwargs)
    params, state = loop(model, X, Y, steps=3)
    again = {
        "the next step": lambda: model.update(params, state, X, Y),
        "data": lambda: model.update(params, state, OTHER, OTHER_Y),
        "weights": lambda: model.update(params, state, X, Y, sample_weight=WEIGHT),
        "n_samples": lambda: model.update(params, state, X, Y, n_samples=1000),
        "a batch that lacks a class": lambda: model.update(params, state, X, np.where(Y == 2, 0, Y)),
        "another estimator and strength": lambda: loop(new(**other), OTHER, OTHER_Y),
        "tol": lambda: loop(new(**other, solver_kwargs={"tol": 1e-2, "maxiter": 5}), X, Y),
        "string labels": lambda: loop(clone(model), X, LABELS[Y]),
    }
    assert_nothing_added(programs, again)


def test_what_comes_after_a_fit_adds_nothing_the_second_time(programs):
    key, other_key = jax.random.key(0), jax.random.key(1)
    first = new().fit(X, Y)
    second = clone(first).set_params(regularizer_strength=0.7).fit(OTHER, LABELS[OTHER_Y])
    params = (first.coef_, first.intercept_)
    calls = {
        "predict": lambda m, features, y: m.predict(features),
        "predict_proba": lambda m, features, y: m.predict_proba(features),
        "proba": lambda m, features, y: m.predict_proba(features, return_type="proba"),
        "score": lambda m, features, y: m.score(features, y),
        "pseudo-r2": lambda m, features, y: m.score(features, y, "pseudo-r2-McFadden"),
        "simulate": lambda m, features, y: m.simulate(key if y is Y else other_key, features),
        "compute_loss": lambda m, features, y: m.compute_loss(params, features, y),
        "initialize_params": lambda m, features, y: m.initialize_params(features, y),
    }
    for call in calls.values():
        call(first, X, Y)
    other_labels = LABELS[OTHER_Y]
    again = {name: lambda call=call: call(second, OTHER, other_labels) for name, call in calls.items()}
    again |= {f"{name}, float32": lambda call=call: call(first, X.astype(np.float32), Y) for name, call in calls.items()}
    assert_nothing_added(programs, again)


def test_weights_in_the_loss_add_nothing(programs):
    model = new().set_classes(Y)
    params = (jnp.zeros((P, K)), jnp.zeros(K))
    model.compute_loss(params, X, Y)
    again = {
        "weights": lambda: model.compute_loss(params, X, Y, sample_weight=WEIGHT),
        "other weights": lambda: model.compute_loss(params, X, Y, sample_weight=list(WEIGHT)),
    }
    assert_nothing_added(programs, again)


def test_coefficients_set_by_hand_add_nothing_the_second_time(programs):
    models = [new().set_classes(Y) for _ in range(2)]
    for value, model in enumerate(models):
        model.coef_, model.intercept_ = np.full((P, K), value), np.full(K, value)
    models[0].predict(X)
    assert_nothing_added(programs, {"predict": lambda: models[1].predict(X)})


def double(eta):
    return jax.nn.log_softmax(2 * eta)


def test_a_link_is_one_program_a_function_object(programs):
    model = new(inverse_link_function=double).fit(X, Y)
    again = {
        "another strength": lambda: new(inverse_link_function=double, regularizer_strength=0.3).fit(OTHER, OTHER_Y),
        "a clone": lambda: clone(model).fit(X, Y),
    }
    assert_nothing_added(programs, again)


def test_the_default_link_by_its_name_adds_nothing(programs):
    new().fit(X, Y)
    assert_nothing_added(programs, {"by name": lambda: new(inverse_link_function=jax.nn.log_softmax).fit(X, Y)})


def test_callbacks_add_nothing_the_second_time(programs):
    new(solver_kwargs={"callback": lambda report: None}).fit(X, Y)
    another = new(solver_kwargs={"callback": lambda report: None, "tol": 1e-4})
    assert_nothing_added(programs, {"another callback": lambda: another.fit(OTHER, OTHER_Y)})


def test_loaded_models_add_nothing(programs, tmp_path):
    from glmcore_sklearn import load_model

    model = new().fit(X, Y)
    model.predict(X)
    model.save_params(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert_nothing_added(programs, {"predict": lambda: loaded.predict(X), "fit": lambda: loaded.fit(X, Y)})


def test_a_strength_an_entry_is_one_program(programs):
    new(regularizer_strength=np.full((P, 1), 0.1)).fit(X, Y)
    again = {"other values": lambda: new(regularizer_strength=np.full((P, 1), 0.3)).fit(X, Y)}
    assert_nothing_added(programs, again)
