"""The table from the names that users type to core objects."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import glmcore

PENALTIES = {
    kind.__name__: kind
    for kind in (
        glmcore.UnRegularized,
        glmcore.Ridge,
        glmcore.Lasso,
        glmcore.ElasticNet,
        glmcore.GroupLasso,
    )
}
SOLVERS = {
    kind.__name__: kind
    for kind in (
        glmcore.GradientDescent,
        glmcore.BFGS,
        glmcore.LBFGS,
        glmcore.NonlinearCG,
        glmcore.Newton,
        glmcore.ProximalGradient,
        glmcore.ProximalNewton,
        glmcore.SVRG,
        glmcore.ProxSVRG,
    )
}
#: Links that are written to a file or a pickle by name.
LINKS = {"jax.nn.log_softmax": jax.nn.log_softmax}
#: Entries of solver_kwargs that are for the fit and not for the solver.
FIT_KWARGS = ("verbose", "callback")


class SolverSpec(NamedTuple):
    """Which algorithm runs.

    Attributes
    ----------
    algo_name : str
        Its name, such as ``"LBFGS"``.
    backend : str
        The package that it comes from.
    implementation : type
        Its class.
    """

    algo_name: str
    backend: str
    implementation: type


def find(name: str, table: dict[str, type], what: str) -> type:
    """Look up a name without regard to case, or a ValueError with the known ones.

    Examples
    --------
    >>> find("ridge", PENALTIES, "regularizer").__name__
    'Ridge'
    """
    for known, kind in table.items():
        if known.casefold() == name.casefold():
            return kind
    raise ValueError(f"unknown {what} {name!r}; known are {', '.join(table)}")


def resolve_regularizer(regularizer: Any) -> glmcore.AbstractPenalty:
    """A penalty from a name, a class, an instance or None (Ridge)."""
    if regularizer is None:
        return glmcore.Ridge()
    if isinstance(regularizer, str):
        return find(regularizer, PENALTIES, "regularizer")()
    if isinstance(regularizer, type) and issubclass(regularizer, glmcore.AbstractPenalty):
        return regularizer()
    if isinstance(regularizer, glmcore.AbstractPenalty):
        return regularizer
    raise TypeError(
        f"regularizer must be a name ({', '.join(PENALTIES)}) or a penalty of glmcore, "
        f"found {type(regularizer).__name__}"
    )


def resolve_strength(penalty: glmcore.AbstractPenalty, strength: Any) -> Any:
    """The strength in force: the one given, else the one inside the penalty."""
    if strength is not None or not hasattr(penalty, "strength"):
        return None if isinstance(penalty, glmcore.UnRegularized) else strength
    inside = _plain(penalty.strength)
    return (inside, _plain(penalty.ratio)) if isinstance(penalty, glmcore.ElasticNet) else inside


def with_strength(penalty: glmcore.AbstractPenalty, strength: Any) -> glmcore.AbstractPenalty:
    """The penalty with the strength of a ``regularizer_strength`` (None: as it is)."""
    if strength is None or isinstance(penalty, glmcore.UnRegularized):
        return penalty
    if not hasattr(penalty, "strength"):
        name = type(penalty).__name__
        raise ValueError(f"{name} takes no regularizer_strength, found {strength!r}")
    if not isinstance(penalty, glmcore.ElasticNet):
        return dataclasses.replace(penalty, strength=_numbers(strength))
    if isinstance(strength, tuple):
        if len(strength) != 2:
            raise ValueError(
                "regularizer_strength of ElasticNet must be a number or a tuple (strength, ratio), "
                f"found a tuple of length {len(strength)}"
            )
        strength, ratio = strength
        return dataclasses.replace(penalty, strength=_numbers(strength), ratio=_numbers(ratio))
    return dataclasses.replace(penalty, strength=_numbers(strength))


def solver_class(
    solver_name: Any,
    penalty: glmcore.AbstractPenalty,
    size: tuple[int, ...] | None = None,
    algorithm: str | None = None,
    path: bool = False,
) -> type:
    """The class that a ``solver_name`` or an optax transformation stands for; None is the default
    for the penalty and a fit of a ``size`` (parameters and rows), for a ``path`` of such fits, or the
    ``algorithm`` of a state."""
    if solver_name is None:
        return type(glmcore.default_solver(penalty, *(size or ()), algorithm=algorithm, path=path))
    if glmcore.Optax.takes(solver_name):
        kind = glmcore.Optax
    elif isinstance(solver_name, str):
        kind = find(solver_name, SOLVERS, "solver_name")
    else:
        raise TypeError(
            f"solver_name must be a string ({', '.join(SOLVERS)}) or an optax.GradientTransformation, "
            f"found {type(solver_name).__name__}"
        )
    if kind.needs_smooth and not penalty.smooth:
        allowed = ", ".join(n for n, k in SOLVERS.items() if not k.needs_smooth)
        raise ValueError(
            f"solver {kind.__name__} does not handle the penalty {type(penalty).__name__}, "
            f"which is not smooth; allowed: {allowed}"
        )
    return kind


def make_solver(kind: type, solver_kwargs: dict | None, **fixed: Any) -> glmcore.AbstractSolver:
    """A solver with its settings and what is ``fixed`` by other arguments, or a TypeError that
    names the unknown keyword."""
    if solver_kwargs is None:
        return kind(**fixed)
    if not isinstance(solver_kwargs, dict):
        raise TypeError(f"solver_kwargs must be a dict, found {type(solver_kwargs).__name__}")
    accepted = [k for k in (*inspect.signature(kind).parameters, *FIT_KWARGS) if k not in fixed]
    for keyword in solver_kwargs:
        if keyword not in accepted:
            raise TypeError(
                f"solver {kind.__name__} does not take the keyword {keyword!r} in solver_kwargs; "
                f"accepted: {', '.join(accepted)}"
            )
    return kind(**fixed, **{k: v for k, v in solver_kwargs.items() if k not in FIT_KWARGS})


def make_callbacks(solver_kwargs: dict | None) -> list[Callable]:
    """What a fit calls as it goes: the line of ``verbose``, and what ``callback`` holds."""
    verbose, callback = ((solver_kwargs or {}).get(k) for k in FIT_KWARGS)
    if callback is None:
        callback = []
    given = callback if isinstance(callback, (list, tuple)) else [callback]
    return [*([glmcore.Progress()] if verbose else []), *given]


def _numbers(strength: Any) -> Any:
    def convert(leaf):
        if isinstance(leaf, jax.Array):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind not in "iuf":
            raise TypeError(
                f"regularizer_strength must be a number, an array or a pytree of these, found {leaf!r}"
            )
        return array.astype(float)

    return jax.tree.map(convert, strength, is_leaf=lambda x: isinstance(x, str) or x is None)


def _plain(tree: Any) -> Any:
    """0-d arrays as Python numbers."""
    return jax.tree.map(lambda x: x.item() if np.ndim(x) == 0 else x, tree)
