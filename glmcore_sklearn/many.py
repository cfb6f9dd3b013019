"""What an estimator of many targets on one X computes, compiled once per types and shapes for all of them.

The functions are those of :mod:`glmcore_sklearn.single` with an axis of N targets: labels (n, N), coefficients and
masks (p, N, K), intercepts (N, K).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from glmcore import GLMParams
from glmcore_sklearn import single

#: Axes of y.
LABEL_AXES = 2
#: Where the targets are in a pair (coef, intercept).
_PARAMS = (1, 0)
#: Probabilities of all rows and targets that keep a core busy.
_LEAST_NUMBERS = 2**19


class Fits(NamedTuple):
    """How the fits of all targets ended, see :class:`glmcore.FitResult`; without the states of their solvers, which may
    be larger than the data."""

    params: tuple
    status: glmcore.Status
    n_iter: Any
    objective: Any
    optimality: Any
    state: None = None

    @classmethod
    def of(cls, result):
        """Of all that ``glmcore.fit`` returns."""
        return cls(tuple(result.params), result.status, result.n_iter, result.objective, result.optimality)


#: Where the targets are in them.
_FITS = Fits(_PARAMS, *[0] * 4)


def pad_rows(X, y, *columns, at_least=0):
    """``X`` and arrays of its rows, y among them, padded to the bucket of their rows."""
    return glmcore.pad_rows(X, y, *columns, n_models=y.shape[1], at_least=at_least)


def fit(model, X, y, weight, params, solver, callback):
    if callback:
        raise ValueError(
            "verbose and callback in solver_kwargs are for one target: many are fitted by one program, which does not "
            "stop to tell"
        )
    mask, shared = model.mask, dataclasses.replace(model, mask=None)
    axes = _mask_axis(mask), None, None, 1, None, None if params is None else _PARAMS, None, None
    parts = max(1, y.size * model.observations.n_outputs // _LEAST_NUMBERS)
    fits = glmcore.on_cores(_fit, axes, _FITS, most=parts)
    given = jax.tree.leaves((model, X, y, weight, params, solver))
    is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in given)
    solver = _with_tol(solver, weight) if is_traced else glmcore.solver_for_outliers(solver, X)
    found = fits(mask, shared, *pad_rows(X, y, weight), params, solver, is_traced)
    return found if is_traced else _finished(found, model, X, y, weight, params, solver)


def _finished(found, model, X, y, weight, params, solver):
    """With the targets that had trouble side by side fitted again, by the program of one: it is compiled when it is
    needed."""
    unfinished = np.flatnonzero(np.array(glmcore.status_name(found.status)) == "running")
    if not unfinished.size:
        return found
    found = jax.tree.map(np.array, found)
    for target in unfinished:
        own = dataclasses.replace(model, mask=_of_target(model.mask, 1, target))
        start = None if params is None else _of_target(params, _PARAMS, target)
        alone = single.fit(own, X, y[:, target], weight, start, solver, None)
        jax.tree.map(np.copyto, _of_target(found, _FITS, target), Fits.of(alone))
    return jax.tree.map(jnp.asarray, found)


def _of_target(tree, axes, target):
    """Views of one target in arrays of all."""

    def view(leaf, axis):
        return np.moveaxis(np.asarray(leaf), axis, 0)[target, ...]

    return jax.tree.map(view, tree, jax.tree.broadcast(axes, tree))


def _mask_axis(mask):
    return None if mask is None else 1


@glmcore.quick_jit
def _fit(mask, model, X, y, weight, params, solver, retry):
    model = dataclasses.replace(model, mask=mask)

    def one(model, y, params):
        found = glmcore.fit(model, X, y, solver=solver, init_params=params, sample_weight=weight, retry=retry)
        return Fits.of(found)

    return _over_targets(one, model, (y, 1), (params, _PARAMS), out_axes=_FITS)


def init_state(model, params, X, y, weight, solver):
    return _init_state(model, params, *pad_rows(X, y, weight), _with_tol(solver, weight))


@glmcore.quick_jit
def _init_state(model, params, X, y, weight, solver):
    def one(model, params, y):
        return glmcore.init_state(model, params, X, y, solver=solver, sample_weight=weight)

    return _over_targets(one, model, (params, _PARAMS), (y, 1))


def update(model, params, state, X, y, weight, solver, at_least=0):
    rows = pad_rows(X, y, weight, at_least=at_least)
    return _update(model, params, state, *rows, _with_tol(solver, weight))


@glmcore.quick_jit
def _update(model, params, state, X, y, weight, solver):
    def one(model, params, state, y):
        moved = glmcore.update(model, params, state, X, y, solver=solver, sample_weight=weight)
        return tuple(moved[0]), moved[1]

    return _over_targets(one, model, (params, _PARAMS), (state, 0), (y, 1), out_axes=(_PARAMS, 0))


@glmcore.quick_jit
def initialize(model, X, y, weight):
    def one(model, y):
        return tuple(model.initialize_params(X, y, weight))

    return _over_targets(one, model, (y, 1), out_axes=_PARAMS)


@glmcore.quick_jit
def log_proba(model, params, X):
    """Log-probabilities, shape (n, N, K)."""
    return _log_proba(model, params, X)


@glmcore.quick_jit
def predict(model, params, X):
    """Index of the most probable class, shape (n, N)."""
    return jnp.argmax(_log_proba(model, params, X), axis=-1)


@glmcore.quick_jit
def simulate(model, key, params, X):
    """A drawn class index a row and target and its log-probability, both of shape (n, N)."""
    log_proba = _log_proba(model, params, X)
    index = model.observations.sample(key, log_proba)
    return index, jnp.take_along_axis(log_proba, index[..., None], axis=-1)[..., 0]


@glmcore.quick_jit
def loss(model, params, X, y, weight):
    """Negative log-likelihood, the mean over samples and targets."""

    def one(model, params, y):
        return model.loss(GLMParams(*params), X, y, weight)

    return jnp.mean(_over_targets(one, model, (params, _PARAMS), (y, 1)))


@glmcore.quick_jit
def log_likelihood(model, params, X, y):
    """Log-likelihood of each sample and target, shape (n, N)."""

    def one(model, params, y):
        return glmcore.log_likelihood(model, GLMParams(*params), X, y)

    return _over_targets(one, model, (params, _PARAMS), (y, 1), out_axes=1)


@glmcore.quick_jit
def null_log_likelihood(model, y, weight):
    def one(model, y):
        return glmcore.null_log_likelihood(model, y, weight)

    return _over_targets(one, model, (y, 1), out_axes=1)


@glmcore.quick_jit
def degrees_of_freedom(model, params, X, weight, present):
    """Number of free parameters of the fit of each target, shape (N,)."""

    def one(model, params, present):
        return model.degrees_of_freedom(GLMParams(*params), X, weight, present)

    return _over_targets(one, model, (params, _PARAMS), (present, 0))


def _log_proba(model, params, X):
    def one(model, params):
        return model.log_proba(GLMParams(*params), X)

    return _over_targets(one, model, (params, _PARAMS), out_axes=1)


def _with_tol(solver, weight):
    """The solver with a number for its tolerance: another one is no other program."""
    if solver.tol is not None:
        return solver
    return dataclasses.replace(solver, tol=glmcore.default_tol(weight.dtype))


def _over_targets(function, model, *batched, out_axes=0):
    """``function`` of the model and arguments of every target; ``batched`` are pairs of an argument, which may be None,
    and where its targets are."""
    mask, shared = model.mask, dataclasses.replace(model, mask=None)

    def one(mask, *arguments):
        return function(dataclasses.replace(shared, mask=mask), *arguments)

    axes = [None if argument is None else axis for argument, axis in batched]
    each = jax.vmap(one, in_axes=(_mask_axis(mask), *axes), out_axes=out_axes)
    return each(mask, *[argument for argument, _ in batched])
