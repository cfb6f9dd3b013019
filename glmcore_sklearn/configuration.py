"""What an estimator was told: the arguments of its constructor, and what they stand for."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.base import BaseEstimator

import glmcore
from glmcore_sklearn import labels, names
from glmcore_sklearn.remembered import remembered


class _Parameter:
    """A constructor argument: kept as it was passed, read as what it stands for."""

    def __init__(self, resolve: Callable[["ConfiguredGLM", Any], Any]):
        self._resolve = resolve
        self.__doc__ = resolve.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self._resolve(instance, vars(instance)[self._name])

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value


class _Named(NamedTuple):
    """A link of the library, in a pickle."""

    name: str


class ConfiguredGLM(BaseEstimator):
    """Constructor arguments, kept as passed (``get_params``) and read as what they stand for.

    Nothing is checked before it is used, and no argument is ever rewritten.
    """

    @_Parameter
    def n_classes(self, given):
        """Number of classes; None while it is neither given nor known from labels."""
        if given is None and self.classes_ is not None:
            return len(self.classes_)
        return labels.check_n_classes(given)

    @_Parameter
    def inverse_link_function(self, given):
        """Maps the linear predictor to log-probabilities."""
        return jax.nn.log_softmax if given is None else given

    @_Parameter
    def regularizer(self, given):
        """The penalty, an instance of a class of ``glmcore``."""
        return names.resolve_regularizer(given)

    @_Parameter
    def regularizer_strength(self, given):
        """The strength in force; None without a penalty."""
        return names.resolve_strength(self.regularizer, given)

    @_Parameter
    def solver_name(self, given):
        """Name of the solver that a fit runs; the default's is the table's before data is seen."""
        return self.solver.__name__

    @_Parameter
    def solver_kwargs(self, given):
        """Settings of the solver."""
        return {} if given is None else given

    def __init__(
        self,
        n_classes=2,
        inverse_link_function=None,
        regularizer=None,
        regularizer_strength=None,
        solver_name=None,
        solver_kwargs=None,
    ):
        self.n_classes = n_classes
        self.inverse_link_function = inverse_link_function
        self.regularizer = regularizer
        self.regularizer_strength = regularizer_strength
        self.solver_name = solver_name
        self.solver_kwargs = solver_kwargs

    @property
    def classes_(self):
        """Class labels, or None if not set."""
        return vars(self).get("_classes")

    @property
    def observation_model(self):
        """The conditional distribution of y; None while the number of classes is unknown."""
        return None if self.n_classes is None else glmcore.Categorical(self.n_classes)

    @property
    def solver(self):
        """The class of the solver; that of the last fit, if the choice was left to it."""
        given = vars(self)
        return names.solver_class(given["solver_name"], self.regularizer, algorithm=given.get("_algorithm"))

    @property
    def solver_spec(self):
        """Name, origin and class of the solver."""
        return names.SolverSpec(self.solver_name, "glmcore", self.solver)

    def get_params(self, deep=True):
        """The arguments of the constructor as they were passed."""
        return {name: vars(self)[name] for name in self._get_param_names()}

    def __repr__(self, N_CHAR_MAX=700):
        given = vars(self)
        shown = {"n_classes": given["n_classes"]}
        try:
            shown |= {n: getattr(self, n) for n in ("regularizer", "regularizer_strength", "solver_name")}
        except (TypeError, ValueError):  # a name not known: shown as it was given
            shown = dict(given)
        for name in self._get_param_names():
            if given[name] is not None:
                shown.setdefault(name, given[name])
        inside = ", ".join(f"{k}={_short(shown[k])}" for k in self._get_param_names() if k in shown)
        return f"{type(self).__name__}({inside})"

    def __sklearn_clone__(self):
        # Not a deep copy: programs are compiled once per function, a copy would be a new one.
        copied = {
            name: value.copy() if isinstance(value, (dict, np.ndarray)) else value
            for name, value in self.get_params().items()
        }
        other = type(self)(**copied)
        for name in ("_metadata_request", "_sklearn_output_config", "_skl_callbacks"):
            if name in vars(self):
                vars(other)[name] = vars(self)[name]
        return other

    def __getstate__(self):
        # The functions of JAX are jitted, and those cannot be pickled.
        state = super().__getstate__()
        link = state["inverse_link_function"]
        name = next((name for name, known in names.LINKS.items() if known is link), None)
        return state if name is None else {**state, "inverse_link_function": _Named(name)}

    def __setstate__(self, state):
        link = state["inverse_link_function"]
        if isinstance(link, _Named):
            state = {**state, "inverse_link_function": names.LINKS[link.name]}
        super().__setstate__(state)

    def _predictor(self):
        """The model without its penalty, which predictions need no program for."""
        return _predictor(vars(self)["inverse_link_function"], len(self.classes_))

    def _model(self, mask=None):
        given, n_classes = vars(self), len(self.classes_)
        link, strength = given["inverse_link_function"], given["regularizer_strength"]
        model = _model(link, n_classes, given["regularizer"], strength)
        return model if mask is None else dataclasses.replace(model, mask=mask)

    def _solver(self, size=None, state=None, path=False):
        """The solver of a fit of this size, parameters and rows, of a path of such fits, or of a state."""
        given, settings = vars(self), vars(self)["solver_kwargs"]
        algorithm = getattr(state, "algorithm", None)
        if isinstance(settings, dict):
            settings = _Settings.of(settings)
            if not {"memory", "stepsize"}.isdisjoint(given["solver_kwargs"]):  # which the usual ones have
                size, path = None, False
        return _solver(given["solver_name"], settings, given["regularizer"], size, algorithm, path)


class _Settings(NamedTuple):
    """Settings of a solver that can be hashed if their values can; 1 is not True."""

    items: tuple[tuple[str, Any, type], ...]

    @classmethod
    def of(cls, settings: dict) -> "_Settings":
        """Without what is for the fit, which nobody should keep alive."""
        known = {name: None if name in names.FIT_KWARGS else value for name, value in settings.items()}
        return cls(tuple((name, value, type(value)) for name, value in known.items()))


@remembered
def _predictor(link: Any, n_classes: int) -> glmcore.GLM:
    if link is jax.nn.log_softmax:
        link = None
    if not (link is None or callable(link)):
        raise TypeError(f"inverse_link_function must be callable or None, found {link!r}")
    try:
        return glmcore.GLM(glmcore.Categorical(n_classes), inverse_link=link)
    except (TypeError, ValueError) as error:
        if not str(error).startswith("inverse_link "):
            raise  # by the link
        words = str(error).replace("inverse_link", "inverse_link_function")  # its name here
        raise type(error)(words) from error.__cause__


@remembered
def _model(link: Any, n_classes: int, regularizer: Any, strength: Any) -> glmcore.GLM:
    penalty = names.with_strength(names.resolve_regularizer(regularizer), strength)
    return dataclasses.replace(_predictor(link, n_classes), penalty=penalty)


@remembered
def _solver(
    solver_name: Any,
    settings: Any,
    regularizer: Any,
    size: tuple[int, ...] | None,
    algorithm: str | None,
    path: bool,
) -> glmcore.AbstractSolver:
    if isinstance(settings, _Settings):
        settings = {name: value for name, value, _ in settings.items}
    penalty = names.resolve_regularizer(regularizer)
    kind = names.solver_class(solver_name, penalty, size, algorithm, path)
    fixed = {"transformation": solver_name} if kind is glmcore.Optax else {}
    return names.make_solver(kind, settings, **fixed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}(...)"
