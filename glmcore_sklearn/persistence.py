"""Save an estimator to a file without pickle, and load it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import glmcore
from glmcore_sklearn import archive
from glmcore_sklearn.names import LINKS, PENALTIES

#: What a fit leaves behind, but for the state of the solver, which is of no use to another one.
_FITTED = (
    "coef_",
    "intercept_",
    "n_iter_",
    "scale_",
    "dof_resid_",
    "n_features_in_",
    "feature_names_in_",
    "_algorithm",
)


def save_model(model: Any, filename: str | Path) -> Path:
    """Write an estimator to an ``.npz`` file; see :meth:`ClassifierGLM.save_params`.

    Raises
    ------
    TypeError
        If a parameter cannot be written without pickle; it is named, and nothing is written.
    """
    fitted = {name: vars(model)[name] for name in _FITTED if name in vars(model)}
    if "status_" in vars(model):
        fitted["status_"] = glmcore.status_name(model.status_)
    params = model.get_params()
    if glmcore.Optax.takes(params["solver_name"]):
        params["solver_name"] = params["solver_name"].update  # a callable, for which load_model asks
    content = {
        "class": type(model).__name__,
        "params": params,
        "classes": model.classes_,
        "fitted": fitted,
    }
    return archive.save(filename, content, _CODECS, _BY_NAME)


def load_model(filename: str | Path, mapping_dict: Mapping[str, Any] | None = None) -> Any:
    """Read an estimator that ``save_params`` wrote; no code of the file runs.

    Parameters
    ----------
    filename : str or path
        The file, with or without ``.npz``.
    mapping_dict : mapping of str to callable, optional
        What takes the place of custom callables and optax transformations, which a file cannot
        hold, such as ``{"inverse_link_function": my_link}`` or ``{"solver_name": optax.adam(0.01)}``.

    Returns
    -------
    estimator
        Equal to the one that was saved: class, parameters, classes, coefficients.

    Raises
    ------
    ValueError
        If the file is foreign, damaged or of a newer format, a callable is missing from
        ``mapping_dict`` or one of its keys has no use.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from glmcore_sklearn import ClassifierGLM, load_model
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), ["a", "b", "a", "b"]
    >>> model = ClassifierGLM().fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_params(f"{folder}/model.npz")
    ...     load_model(f"{folder}/model.npz").predict(X)
    array(['a', 'a', 'b', 'b'], dtype='<U1')
    """
    if not isinstance(mapping_dict, (Mapping, type(None))):
        raise TypeError(f"mapping_dict must be a mapping or None, found {type(mapping_dict).__name__}")
    content = archive.load(filename, mapping_dict, _CODECS, _BY_NAME)
    try:
        return _rebuild(content)
    except Exception as error:
        raise ValueError(f"cannot load {str(filename)!r}: {error}") from error


def _rebuild(content: dict) -> Any:
    from glmcore_sklearn.classifier import ClassifierGLM  # they import this module
    from glmcore_sklearn.population import ClassifierPopulationGLM

    kinds = {kind.__name__: kind for kind in (ClassifierGLM, ClassifierPopulationGLM)}
    if content["class"] not in kinds:
        raise ValueError(f"it holds a {content['class']!r}; known are {', '.join(kinds)}")
    kind = kinds[content["class"]]
    model = kind(**content["params"])
    if content["classes"] is not None:
        # Set as they are: labels that cannot be sorted would come back in another order.
        vars(model)["_classes"] = content["classes"]
    fitted = dict(content["fitted"])
    unknown = set(fitted) - {*_FITTED, "status_"}
    if unknown:
        raise ValueError(f"it holds attributes that are not known: {sorted(unknown)}")
    if "status_" in fitted:
        fitted["status_"] = glmcore.status_named(fitted["status_"])
    vars(model).update(fitted)
    return model


def _penalty_codec(kind: type) -> archive.Codec:
    fields = list(kind.__dataclass_fields__)
    return archive.Codec(
        kind.__name__,
        kind,
        lambda penalty: {name: getattr(penalty, name) for name in fields},
        lambda tree: kind(**tree),
    )


_CODECS = [_penalty_codec(kind) for kind in PENALTIES.values()]
#: Callables that a file knows by name: links, and penalties given as a class.
_BY_NAME = {**LINKS, **PENALTIES}
