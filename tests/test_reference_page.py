"""The reference page, run against us: its examples with their output, and every name with its signature.

Left out are the examples of the page's plain ``GLM``; saving and loading, which it shows on that class, is in
test_save_load.py.
"""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import ClassifierMixin
from sklearn.utils.metadata_routing import UNCHANGED, MetadataRequest

import glmcore_sklearn
from glmcore_sklearn import ClassifierGLM

IMPORTS = """
>>> import jax
>>> import jax.numpy as jnp
>>> import numpy as np
>>> import glmcore_sklearn
"""
TWO_CLASSES = """
>>> X = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
>>> y = jnp.array([0, 0, 1, 1])
"""
THREE_CLASSES = """
>>> X = jnp.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [4.0, 5.0], [5.0, 6.0], [6.0, 7.0]])
>>> y = jnp.array([0, 0, 1, 1, 2, 2])
"""
FITTED = TWO_CLASSES + ">>> model = glmcore_sklearn.ClassifierGLM(n_classes=2).fit(X, y)\n"

EXAMPLES = {
    "fit": FITTED
    + """
>>> model.coef_.shape
(2, 2)
""",
    "fit in two statements": TWO_CLASSES
    + """
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=2)
>>> model = model.fit(X, y)
>>> model.coef_.shape
(2, 2)
""",
    "predict": FITTED
    + """
>>> predictions = model.predict(X)
>>> predictions.shape
(4,)
""",
    "probabilities": FITTED
    + """
>>> proba = model.predict_proba(X, return_type="proba")
>>> proba.shape
(4, 2)
>>> log_proba = model.predict_proba(X, return_type="log-proba")
>>> log_proba.shape
(4, 2)
""",
    "string labels": TWO_CLASSES
    + """
>>> y_str = np.array(["cat", "cat", "dog", "dog"])
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=2).fit(X, y_str)
>>> model.classes_
array(['cat', 'dog'], dtype='<U3')
>>> model.predict(X)
array(['cat', 'cat', 'dog', 'dog'], dtype='<U3')
""",
    "three classes": THREE_CLASSES
    + """
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=3).fit(X, y)
>>> model.coef_.shape
(2, 3)
""",
    "regularization": """
>>> model = glmcore_sklearn.ClassifierGLM(
...     n_classes=2,
...     regularizer="Ridge",
...     regularizer_strength=0.5
... )
>>> model.regularizer
Ridge()
""",
    "pytree": THREE_CLASSES
    + """
>>> X_dict = {"feature_1": X[:, :1], "feature_2": X[:, 1:]}
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=3).fit(X_dict, y)
>>> # The coefficient structure matches the input
>>> type(model.coef_)
<class 'dict'>
""",
    "initialize_params": TWO_CLASSES
    + """
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=2)
>>> model.set_classes(y)
ClassifierGLM(...)
>>> coef, intercept = model.initialize_params(X, y)
>>> coef.shape
(2, 2)
""",
    "score": FITTED
    + """
>>> score = model.score(X, y)
""",
    "set_classes": """
>>> model = glmcore_sklearn.ClassifierGLM(3)
>>> X = np.random.default_rng(0).standard_normal((100, 5))
>>> y_all_classes = np.array([0, 1, 2])  # all possible classes
>>> y_batch1 = np.array([0, 1, 0, 1, 0])  # first batch missing class 2
>>> X_batch1 = X[:5]
>>> init_params = model.initialize_params(X_batch1, y_batch1)
Traceback (most recent call last):
glmcore_sklearn.labels.ClassesNotSetError: Classes are not set. Must call ``set_classes`` before calling...
>>> model.set_classes(y_all_classes)
ClassifierGLM(...)
>>> init_params = model.initialize_params(X_batch1, y_batch1)
>>> state = model.initialize_optimizer_and_state(init_params, X_batch1, y_batch1)
>>> result = model.update(init_params, state, X_batch1, y_batch1)
""",
    "simulate": FITTED
    + """
>>> key = jax.random.key(0)
>>> simulated_y, log_prob = model.simulate(key, X)
>>> simulated_y.shape
(4,)
""",
    "update": TWO_CLASSES
    + """
>>> model = glmcore_sklearn.ClassifierGLM(n_classes=2)
>>> model.set_classes(y)
ClassifierGLM(...)
>>> params = model.initialize_params(X, y)
>>> opt_state = model.initialize_optimizer_and_state(params, X, y)
>>> new_params, new_state = model.update(params, opt_state, X, y)
""",
}


@pytest.mark.parametrize("source", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_page(source):
    # ELLIPSIS only: everything else of the output must be there to the character.
    test = doctest.DocTestParser().get_doctest(IMPORTS + source, {}, "page", "reference page", 0)
    assert sum(bool(example.source.strip()) for example in test.examples) > 4
    out = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(test, out=out.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(out)


def test_the_error_of_the_page_is_a_runtime_error():
    with pytest.raises(RuntimeError, match="^Classes are not set. Must call ``set_classes`` before calling"):
        ClassifierGLM(3).initialize_params(np.ones((2, 1)), np.array([0, 1]))


def test_results_of_the_examples_make_sense():
    """What the page's examples leave unshown: values, and which arrays hold them."""
    X, y = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]), jnp.array([0, 0, 1, 1])
    model = ClassifierGLM(n_classes=2).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), y)
    proba = model.predict_proba(X, return_type="proba")
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(jnp.exp(model.predict_proba(X)), proba, rtol=1e-6)
    labels, log_prob = model.simulate(jax.random.key(0), X)
    assert set(labels.tolist()) <= {0, 1} and log_prob.shape == (4,)
    assert np.shape(model.score(X, y)) == ()


POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY
ARGS, KWARGS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
NOTHING = inspect.Parameter.empty


def positional(*names, **defaults):
    return [(n, POSITIONAL, NOTHING) for n in names] + [(n, POSITIONAL, d) for n, d in defaults.items()]


CONSTRUCTOR = positional(
    n_classes=2,
    inverse_link_function=None,
    regularizer=None,
    regularizer_strength=None,
    solver_name=None,
    solver_kwargs=None,
)
SIGNATURES = {
    "__init__": CONSTRUCTOR,
    "compute_loss": [*positional("params", "X", "y"), ("args", ARGS, NOTHING), ("kwargs", KWARGS, NOTHING)],
    "fit": positional("X", "y", init_params=None),
    "get_metadata_routing": [],
    "get_params": positional(deep=True),
    "initialize_optimizer_and_state": positional("init_params", "X", "y"),
    "initialize_params": positional("X", "y"),
    "predict": positional("X"),
    "predict_proba": positional("X", return_type="log-proba"),
    "save_params": positional("filename"),
    "score": positional("X", "y", score_type="log-likelihood", aggregate_sample_scores=jnp.mean),
    "set_classes": positional("y"),
    "set_fit_request": [("init_params", KEYWORD, UNCHANGED)],
    "set_params": [("params", KWARGS, NOTHING)],
    "set_predict_proba_request": [("return_type", KEYWORD, UNCHANGED)],
    "set_score_request": [("aggregate_sample_scores", KEYWORD, UNCHANGED), ("score_type", KEYWORD, UNCHANGED)],
    "simulate": positional("random_key", "feedforward_input"),
    "update": [
        *positional("params", "opt_state", "X", "y"),
        ("args", ARGS, NOTHING),
        ("n_samples", KEYWORD, None),
        ("kwargs", KWARGS, NOTHING),
    ],
    "__sklearn_clone__": [],
    "__sklearn_tags__": [],
}
#: What we add, always by keyword and always optional.
ADDED = {
    "fit": {"sample_weight"},
    "score": {"sample_weight"},
    "set_score_request": {"sample_weight"},
    "set_fit_request": {"sample_weight"},
    "__repr__": {"N_CHAR_MAX"},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_method_has_the_signature_of_the_page(name):
    found = list(inspect.signature(getattr(ClassifierGLM, name)).parameters.values())[1:]  # without self
    added = [p for p in found if p.name in ADDED.get(name, ())]
    assert {p.name for p in added} == ADDED.get(name, set())
    assert all(p.kind is KEYWORD and p.default is not NOTHING for p in added)
    assert [(p.name, p.kind, p.default) for p in found if p not in added] == SIGNATURES[name]


def test_the_class_itself_shows_the_signature_of_the_page():
    found = inspect.signature(ClassifierGLM).parameters.values()
    assert [(p.name, p.kind, p.default) for p in found] == CONSTRUCTOR


def test_repr_takes_no_argument():
    assert isinstance(ClassifierGLM().__repr__(), str)


PROPERTIES = ["classes_", "inverse_link_function", "n_classes", "observation_model", "optimizer_init_state", "optimizer_run", "optimizer_update", "regularizer", "regularizer_strength", "solver", "solver_kwargs", "solver_name", "solver_spec"]


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_exists_before_fit_and_is_documented(name):
    assert inspect.isdatadescriptor(inspect.getattr_static(ClassifierGLM, name))
    assert inspect.getdoc(inspect.getattr_static(ClassifierGLM, name))
    getattr(ClassifierGLM(), name)


def test_defaults_are_those_of_the_page():
    model = ClassifierGLM()
    assert model.n_classes == 2
    assert model.inverse_link_function is jax.nn.log_softmax
    assert repr(model.regularizer) == "Ridge()"
    assert model.classes_ is None
    assert model.optimizer_init_state is model.optimizer_run is model.optimizer_update is None


def test_bases_and_names():
    assert issubclass(ClassifierGLM, ClassifierMixin)
    assert isinstance(ClassifierGLM().get_metadata_routing(), MetadataRequest)
    assert callable(glmcore_sklearn.load_model)
    found = list(inspect.signature(glmcore_sklearn.load_model).parameters.values())
    assert [(p.name, p.default) for p in found] == [("filename", NOTHING), ("mapping_dict", None)]
