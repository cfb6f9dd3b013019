"""``save_params`` and ``load_model`` on the estimator; the archive beneath has tests of its own."""

import contextlib
import copy
import functools
import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import small
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore import solve
from glmcore_sklearn import ClassesNotSetError, ClassifierGLM, load_model

X, Y = small()
N, P, K = 60, 4, 3
MASK = np.zeros((2, P, K), int)
MASK[0, :2] = MASK[1, 2:] = 1
TREE = {"a": X[:, :2], "b": (X[:, 2:3], X[:, 3:])}
FITTED = ["coef_", "intercept_", "n_iter_", "scale_", "dof_resid_", "n_features_in_"]


def new(**kwargs):
    return ClassifierGLM(**{"n_classes": K, "regularizer_strength": 0.05} | kwargs)


def round_trip(model, folder, mapping_dict=None):
    model.save_params(folder / "model.npz")
    return load_model(folder / "model.npz", mapping_dict)


@functools.cache
def attributes(tree=False):
    """What one fit leaves behind."""
    model = new().fit(TREE if tree else X, Y)
    return {name: value for name, value in vars(model).items() if name not in model.get_params()}


def as_fitted(tree=False, **kwargs):
    """An estimator with the attributes of a fit: a file knows no more, and a fit a penalty is a program a penalty."""
    model = new(**kwargs)
    vars(model).update(attributes(tree))
    return model


def assert_same(a, b):
    """Type, structure, dtype, shape and every bit."""
    assert type(a) is type(b)
    if isinstance(a, glmcore.AbstractPenalty):
        return assert_same([getattr(a, f) for f in a.__dataclass_fields__], [getattr(b, f) for f in a.__dataclass_fields__])
    if isinstance(a, (np.ndarray, jax.Array)):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == object:
            return assert_same(a.tolist(), b.tolist())
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b):
            assert_same(left, right)
    else:
        assert a == b or a is b


def assert_equal_models(model, loaded, features=X, y=Y, everything=True):
    assert type(loaded) is type(model) is ClassifierGLM
    assert_same(model.get_params(), loaded.get_params())
    assert_same(model.classes_, loaded.classes_)
    for name in (*FITTED, "feature_names_in_"):
        assert hasattr(loaded, name) == hasattr(model, name)
        if hasattr(model, name):
            assert_same(getattr(model, name), getattr(loaded, name))
    assert hasattr(loaded, "status_") == hasattr(model, "status_")
    if hasattr(model, "status_"):
        assert glmcore.status_name(loaded.status_) == glmcore.status_name(model.status_)
        assert glmcore.Status[loaded.status_] == glmcore.Status[model.status_]
    assert repr(loaded) == repr(model)
    assert loaded.__sklearn_is_fitted__() == model.__sklearn_is_fitted__()
    if model.__sklearn_is_fitted__():
        assert_same(model.predict_proba(features), loaded.predict_proba(features))
    if everything and model.__sklearn_is_fitted__():  # each compiles once a penalty
        assert_same(model.predict(features), loaded.predict(features))
        assert_same(model.score(features, y), loaded.score(features, y))
        key = jax.random.key(0)
        assert_same(model.simulate(key, features), loaded.simulate(key, features))


CONFIGURATIONS = {
    "default": {"regularizer_strength": None},
    "Ridge by name": {"regularizer": "RIDGE", "solver_name": "lbfgs"},
    "Ridge": {"regularizer": glmcore.Ridge(3.0), "regularizer_strength": None},
    "Ridge, both strengths": {"regularizer": glmcore.Ridge(3.0), "regularizer_strength": np.float32(0.25)},
    "Ridge, an array": {"regularizer_strength": np.linspace(0.1, 1, P * K).reshape(P, K)},
    "Ridge, a JAX array": {"regularizer_strength": jnp.full((P, 1), 0.1)},
    "Ridge, an array inside": {"regularizer": glmcore.Ridge(np.full((P, K), 0.2)), "regularizer_strength": None},
    "UnRegularized": {"regularizer": glmcore.UnRegularized(), "regularizer_strength": None},
    "Lasso": {"regularizer": "Lasso", "regularizer_strength": 0.1},
    "Lasso, an instance": {"regularizer": glmcore.Lasso(0.1), "regularizer_strength": None},
    "Lasso, the class": {"regularizer": glmcore.Lasso, "regularizer_strength": 0.1},
    "ElasticNet": {"regularizer": "ElasticNet", "regularizer_strength": (0.1, 0.5)},
    "ElasticNet, an instance": {"regularizer": glmcore.ElasticNet(0.1, 0.5), "regularizer_strength": None},
    "GroupLasso": {"regularizer": "GroupLasso"},
    "GroupLasso, a mask": {"regularizer": glmcore.GroupLasso(mask=MASK), "regularizer_strength": [0.1, 0.2]},
    "GroupLasso, a JAX mask": {"regularizer": glmcore.GroupLasso(0.1, jnp.asarray(MASK)), "regularizer_strength": None},
    "solver_kwargs": {"solver_kwargs": {"tol": 1e-4, "maxiter": 500, "memory": 7, "verbose": False}},
    "NumPy numbers": {"n_classes": np.int64(3), "solver_kwargs": {"tol": np.float64(1e-4), "maxiter": np.int32(500)}},
    "whole float": {"n_classes": 3.0},
    "no number of classes": {"n_classes": None},
    "log_softmax": {"inverse_link_function": jax.nn.log_softmax},
}  # fmt: skip


@pytest.mark.parametrize("kwargs", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_every_configuration(kwargs, tmp_path):
    if isinstance(kwargs.get("regularizer_strength"), list):
        kwargs = kwargs | {"regularizer_strength": np.array(kwargs["regularizer_strength"])}
    model = as_fitted(**kwargs)
    assert_equal_models(model, round_trip(model, tmp_path), everything=False)
    unfitted = new(**kwargs)
    assert_equal_models(unfitted, round_trip(unfitted, tmp_path))


PYTREES = {
    "Ridge": {},
    "Ridge, a pytree": {"regularizer_strength": {"a": 0.3, "b": (np.float64(0.1), np.array([[0.2]]))}},
    "Ridge, a pytree inside": {
        "regularizer": glmcore.Ridge({"a": 0.3, "b": (0.1, 0.2)}),
        "regularizer_strength": None,
    },
    "GroupLasso": {
        "regularizer": glmcore.GroupLasso(mask={"a": MASK[:, :2], "b": (MASK[:, 2:3], MASK[:, 3:])}),
        "regularizer_strength": 0.1,
    },
}


@pytest.mark.parametrize("kwargs", PYTREES.values(), ids=PYTREES)
def test_pytrees(kwargs, tmp_path):
    model = as_fitted(tree=True, **kwargs)
    assert_equal_models(model, round_trip(model, tmp_path), TREE, everything=False)
    loaded = load_model(tmp_path / "model.npz")
    assert jax.tree.structure(loaded.coef_) == jax.tree.structure(TREE)


LABELS = {
    "bool": None,
    "int8": np.array([-1, 0, 1], np.int8),
    "big unsigned": np.array([0, 2**63, 2**64 - 1], np.uint64),
    "float": np.array([0.0, 1.0, 5.0]),
    "str": np.array(["a", "bb", "ç"]),
    "bytes": np.array([b"a", b"b", b"c"]),
    "object": np.array(["a", "bb", "ccc"], object),
    "datetime64[D]": np.array(["1999-12-31", "2000-01-01", "2020-02-29"], "datetime64[D]"),
    "datetime64[ns]": np.array(["1999-12-31", "2000-01-01", "2020-02-29"], "datetime64[ns]"),
    "mixed objects": np.array(["b", 1, b"a"], object),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_kind(name, tmp_path):
    if name == "bool":
        y, model = Y > 0, ClassifierGLM(regularizer_strength=0.05)
    else:
        y, model = LABELS[name][Y], new()
    model.fit(X, y)
    loaded = round_trip(model, tmp_path)
    assert_equal_models(model, loaded, y=y)
    assert [type(label) for label in loaded.classes_.tolist()] == [type(label) for label in model.classes_.tolist()]


def test_labels_of_pandas(tmp_path):
    y = pd.Series(pd.Categorical(LABELS["str"][Y]))
    model = new().fit(pd.DataFrame(X, columns=list("abcd")), y)
    loaded = round_trip(model, tmp_path)
    frame = pd.DataFrame(X, columns=list("abcd"))
    assert_equal_models(model, loaded, frame, y)
    with pytest.raises(ValueError, match="same order"):
        loaded.predict(frame[list("dcba")])


def test_labels_that_are_tuples(tmp_path):
    """They are legal labels: the file holds them, or the save says that it cannot."""
    classes = np.empty(3, object)
    classes[:] = [("a", 1), ("a", 2), ("b", 1)]
    model = new().fit(X, classes[Y])
    try:
        loaded = round_trip(model, tmp_path)
    except TypeError as error:
        assert "classes" in str(error) and "tuple" in str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        assert_equal_models(model, loaded, y=classes[Y])


def test_both_precisions(precision, tmp_path):
    model = new().fit(X, Y)
    assert model.coef_.dtype == precision
    assert_equal_models(model, round_trip(model, tmp_path))


def test_float64_coefficients_keep_their_bits_without_x64(tmp_path):
    with jax.enable_x64(True):
        model = new().fit(X, Y)
    loaded = round_trip(model, tmp_path)
    assert_same(model.coef_, loaded.coef_)
    assert loaded.coef_.dtype == np.float64
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


# What need not be fitted


def test_classes_without_coefficients(tmp_path):
    loaded = round_trip(new().set_classes(["a", "b", "c"]), tmp_path)
    assert loaded.classes_.tolist() == ["a", "b", "c"] and not hasattr(loaded, "coef_")
    with pytest.raises(NotFittedError, match="no coefficients"):
        loaded.predict(X)
    with pytest.raises(ClassesNotSetError):
        round_trip(new(), tmp_path).predict(X)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_coefficients_set_by_hand(convert, tmp_path):
    rng = np.random.default_rng(0)
    model = new().set_classes(["a", "b", "c"])
    model.coef_, model.intercept_ = convert(rng.standard_normal((P, K))), convert(rng.standard_normal(K))
    assert_equal_models(model, round_trip(model, tmp_path), y=np.array(["a", "b", "c"])[Y])


def test_after_an_update(tmp_path):
    model = new().set_classes(Y)
    params = model.initialize_params(X, Y)
    model.update(params, model.initialize_optimizer_and_state(params, X, Y), X, Y)
    assert_equal_models(model, round_trip(model, tmp_path))


def test_a_fit_that_did_not_converge(tmp_path):
    with pytest.warns(UserWarning, match="did not converge"):
        model = new(solver_kwargs={"maxiter": 1}).fit(X, Y)
    assert glmcore.status_name(round_trip(model, tmp_path).status_) == "out_of_steps"


# Links and callbacks


def double(eta):
    return jax.nn.log_softmax(2 * eta)


def test_a_custom_link_takes_a_mapping(tmp_path):
    model = new(inverse_link_function=double).fit(X, Y)
    loaded = round_trip(model, tmp_path, {"inverse_link_function": double})
    assert loaded.inverse_link_function is double
    assert_equal_models(model, loaded)
    with pytest.raises(ValueError, match=r"inverse_link_function.*double.*mapping_dict\['inverse_link_function'\]"):
        load_model(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="inverse_link_function"):
        load_model(tmp_path / "model.npz", {})


def test_a_lambda_takes_a_mapping(tmp_path):
    """The reference page shows this on its GLM."""
    model = new(inverse_link_function=lambda eta: jax.nn.log_softmax(2 * eta))
    model.save_params(tmp_path / "model_params.npz")
    loaded = load_model(tmp_path / "model_params.npz", mapping_dict={"inverse_link_function": double})
    assert loaded.inverse_link_function is double


def test_a_mapping_without_use_is_refused(tmp_path):
    new().save_params(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="no use for .*inverse_link"):
        load_model(tmp_path / "model.npz", {"inverse_link": double})


def test_a_callback_takes_a_mapping(tmp_path):
    seen, other = [], []
    model = new(solver_kwargs={"callback": seen.append, "tol": 1e-4}).fit(X, Y)
    with pytest.raises(ValueError, match="solver_kwargs.callback"):
        round_trip(model, tmp_path)
    loaded = load_model(tmp_path / "model.npz", {"callback": other.append})
    loaded.fit(X, Y)
    assert other and other[-1].done


def test_the_parameters_print_as_before(tmp_path):
    """As on the page: the parameters before and after, printed."""

    def printed(model):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            for key, value in model.get_params().items():
                print(f"{key}: {value}")
        return out.getvalue()

    model = ClassifierGLM(
        regularizer="Ridge",
        regularizer_strength=0.1,
        solver_name="BFGS",
        solver_kwargs={"tol": 1e-6, "maxiter": 1000},
    )
    expected = (
        "inverse_link_function: None\nn_classes: 2\nregularizer: Ridge\nregularizer_strength: 0.1\n"
        "solver_kwargs: {'tol': 1e-06, 'maxiter': 1000}\nsolver_name: BFGS\n"
    )
    assert sorted(printed(model).splitlines()) == sorted(expected.splitlines())
    assert printed(round_trip(model, tmp_path)) == printed(model)


# Life after loading


def test_a_loaded_model_goes_on(tmp_path):
    model = new().fit(X, Y)
    loaded = round_trip(model, tmp_path)
    assert_same(clone(loaded).get_params(), model.get_params())
    assert_equal_models(loaded, pickle.loads(pickle.dumps(loaded)))
    assert_equal_models(loaded, round_trip(loaded, tmp_path))
    params = (loaded.coef_, loaded.intercept_)
    state = loaded.initialize_optimizer_and_state(params, X, Y)
    loaded.update(params, state, X, Y)
    loaded.set_params(regularizer_strength=0.5).fit(X, Y)
    np.testing.assert_array_equal(loaded.coef_, new(regularizer_strength=0.5).fit(X, Y).coef_)


def test_saving_does_not_change_the_model(tmp_path):
    model = new().fit(X, Y)
    before = vars(model).copy()
    assert model.save_params(tmp_path / "model.npz") is None
    assert vars(model).keys() == before.keys() and all(vars(model)[k] is before[k] for k in before)


def test_paths(tmp_path, monkeypatch):
    model = new().fit(X, Y)
    model.save_params(str(tmp_path / "plain"))
    assert [file.name for file in tmp_path.iterdir()] == ["plain.npz"]
    for path in (tmp_path / "plain", str(tmp_path / "plain.npz")):
        assert_equal_models(model, load_model(path))
    monkeypatch.chdir(tmp_path)
    model.save_params("plain.npz")  # over the old one
    assert_equal_models(model, load_model("plain"))
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.npz")
    with pytest.raises(FileNotFoundError, match="no directory"):
        model.save_params(tmp_path / "absent" / "model.npz")


def test_there_is_no_pickle_in_the_file(tmp_path):
    new().fit(X, np.array(["b", 1, b"a"], object)[Y]).save_params(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
        header = json.loads(file["header"].tobytes())
    assert {"numpy", "jax"} <= header["libraries"].keys()


# Files that are not ours


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.npz"
    new(regularizer=glmcore.GroupLasso(mask=MASK)).fit(X, Y).save_params(path)
    return path


def altered(saved, folder, change):
    """The same archive with another content document."""
    path = folder / "altered.npz"
    with np.load(saved) as file:
        members = {name: file[name] for name in file.files}
    text = members["content"].tobytes().decode()
    new_text = change(text)
    assert new_text != text
    members["content"] = np.frombuffer(new_text.encode(), np.uint8)
    np.savez(path, **members)
    return path


ALTERATIONS = {
    "class": ('"ClassifierGLM"', '"Popen"', "'Popen'.*known are ClassifierGLM"),
    "attribute": ('"n_iter_"', '"__class__"', "attributes that are not known.*__class__"),
    "private attribute": ('"n_iter_"', '"_classes"', "attributes that are not known.*_classes"),
    "parameter": ('"solver_name"', '"penalty"', "penalty|solver_name"),
    "status": ('"converged"', '"__init__"', "status|__init__"),
    "penalty": ('"GroupLasso"', '"Popen"', "'Popen'"),
    "no content": ('"class"', '"klass"', "class"),
}


@pytest.mark.parametrize("old, changed, message", ALTERATIONS.values(), ids=ALTERATIONS)
def test_altered_files_are_refused(saved, tmp_path, old, changed, message):
    path = altered(saved, tmp_path, lambda text: text.replace(old, changed, 1))
    with pytest.raises(ValueError, match=f"(?s)^cannot load '.*altered.npz': .*({message})"):
        load_model(path)


def rewrite(saved, folder, edit):
    """The same archive with its decoded tree edited."""

    def change(text):
        tree = json.loads(text)
        edit({pair[0]: pair for pair in tree["dict"]})
        return json.dumps(tree)

    return altered(saved, folder, change)


def entry(pair, name):
    return next(item for item in pair[1]["dict"] if item[0] == name)


DAMAGES = {
    "a status that is a number": lambda content: entry(content["fitted"], "status_").__setitem__(1, 3),
    "a status that is a method": lambda content: entry(content["fitted"], "status_").__setitem__(1, "where"),
    "coefficients that are a string": lambda content: entry(content["fitted"], "coef_").__setitem__(1, "big"),
    "an intercept that is a dict": lambda content: entry(content["fitted"], "intercept_").__setitem__(1, {"dict": []}),
    "classes that are a list": lambda content: content["classes"].__setitem__(1, [0, 1, 2]),
    "classes that are a number": lambda content: content["classes"].__setitem__(1, 3),
    "params that are a list": lambda content: content["params"].__setitem__(1, []),
    "fitted that is a string": lambda content: content["fitted"].__setitem__(1, "coef_"),
}


@pytest.mark.parametrize("edit", DAMAGES.values(), ids=DAMAGES)
def test_content_that_makes_no_model_is_refused(saved, tmp_path, edit):
    path = rewrite(saved, tmp_path, edit)
    with pytest.raises(ValueError, match="^cannot load '.*altered.npz'"):
        load_model(path)


class Bomb:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_foreign_files_are_refused(tmp_path, capsys):
    path = tmp_path / "file.npz"
    contents = {
        "empty": b"",
        "text": b"not an archive",
        "pickle": pickle.dumps(Bomb()),
        "a pickled model": pickle.dumps(new()),
    }
    for data in contents.values():
        path.write_bytes(data)
        with pytest.raises(ValueError, match="^cannot load '.*file.npz'"):
            load_model(path)
    np.savez(path, coef=np.zeros(3))
    with pytest.raises(ValueError, match="glmcore did not write it"):
        load_model(path)
    np.savez(path, header=np.array([Bomb()], object), content=np.array([Bomb()], object))
    with pytest.raises(ValueError, match="^cannot load '.*file.npz'"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.npy", "nothing")
    with pytest.raises(ValueError, match="^cannot load '.*file.npz'"):
        load_model(path)
    assert capsys.readouterr().out == ""


def test_truncated_files_are_refused(saved, tmp_path):
    data = saved.read_bytes()
    path = tmp_path / "cut.npz"
    for length in [*range(0, len(data), max(1, len(data) // 40)), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="^cannot load '.*cut.npz'"):
            load_model(path)


def test_flipped_bits_give_the_model_or_an_error(saved, tmp_path):
    data, path = saved.read_bytes(), tmp_path / "flipped.npz"
    expected = load_model(saved)
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(data), 60):
        broken = bytearray(data)
        broken[position] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            found = load_model(path)
        except ValueError as error:
            assert str(error).startswith("cannot load")
            refused += 1
        else:  # a byte that says nothing, such as a date
            assert_same(found.coef_, expected.coef_)
            assert_same(found.get_params(), expected.get_params())
    assert refused > 30


def test_a_failed_save_leaves_the_old_file(saved, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(saved.read_bytes())
    model = copy.deepcopy(new().fit(X, Y)).set_params(solver_kwargs={"tol": object()})
    with pytest.raises(TypeError, match="solver_kwargs.tol"):
        model.save_params(path)
    assert path.read_bytes() == saved.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_the_solver_that_a_fit_chose(tmp_path, monkeypatch):
    monkeypatch.setattr(solve, "_WORKING_SET_NUMBERS", N * (P + 1) * K)
    model = new(regularizer="Lasso", solver_kwargs={"maxiter": 777})  # solvers are remembered by their settings
    assert model.solver_name == "ProximalGradient"
    model.fit(X, Y)
    assert model.solver_name == round_trip(model, tmp_path).solver_name == "ProximalNewton"
    model.update((model.coef_, model.intercept_), model.solver_state_, X, Y)  # which goes on with it
    assert model.solver_state_.algorithm == model.solver_name == "ProximalNewton"
    assert new(regularizer="Lasso", solver_kwargs={"stepsize": 0.1}).fit(X, Y).solver_name == "ProximalGradient"
    assert model.set_params(regularizer="Ridge").solver_name == "LBFGS"
    assert model.fit(X, Y).solver_name == round_trip(model, tmp_path).solver_name == "Newton"
