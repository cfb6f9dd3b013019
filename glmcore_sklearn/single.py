"""What an estimator of one target computes, compiled once per types and shapes for all of them.

The functions of :mod:`glmcore_sklearn.many` have the same names and arguments.  Parameters are pairs (coef, intercept).
"""

import jax
import jax.numpy as jnp

import glmcore
from glmcore import GLMParams

#: Axes of y.
LABEL_AXES = 1

pad_rows = glmcore.pad_rows


def fit(model, X, y, weight, params, solver, callback):
    """A whole fit, from ``params`` or, if these are None, from the null model."""
    return glmcore.fit(
        model, X, y, solver=solver, init_params=params, sample_weight=weight, callback=callback
    )


def init_state(model, params, X, y, weight, solver):
    """The state for :func:`update`."""
    return glmcore.init_state(model, params, X, y, solver=solver, sample_weight=weight)


def update(model, params, state, X, y, weight, solver, at_least=0):
    """Parameters and state one step later; ``at_least`` as in :func:`pad_rows`."""
    if len(y) < at_least:
        X, y, weight = pad_rows(X, y, weight, at_least=at_least)
    return glmcore.update(model, params, state, X, y, solver=solver, sample_weight=weight)


@glmcore.quick_jit
def initialize(model, X, y, weight):
    """The null model."""
    return model.initialize_params(X, y, weight)


@glmcore.quick_jit
def log_proba(model, params, X):
    """Log-probabilities, shape (n, K)."""
    return model.log_proba(GLMParams(*params), X)


@glmcore.quick_jit
def predict(model, params, X):
    """Index of the most probable class, shape (n,)."""
    return jnp.argmax(model.log_proba(GLMParams(*params), X), axis=-1)


@glmcore.quick_jit
def simulate(model, key, params, X):
    """A drawn class index a row and its log-probability, both of shape (n,)."""
    log_proba = model.log_proba(GLMParams(*params), X)
    index = model.observations.sample(key, log_proba)
    return index, jnp.take_along_axis(log_proba, index[:, None], axis=1)[:, 0]


@glmcore.quick_jit
def loss(model, params, X, y, weight):
    """Mean negative log-likelihood."""
    return model.loss(GLMParams(*params), X, y, weight)


def log_likelihood(model, params, X, y):
    """Log-likelihood of each sample, shape (n,)."""
    return glmcore.log_likelihood(model, GLMParams(*params), X, y)


def null_log_likelihood(model, y, weight):
    """That under the proportions of the classes in y."""
    return glmcore.null_log_likelihood(model, y, weight)


def degrees_of_freedom(model, params, X, weight, present):
    """Number of free parameters of a fit."""
    if model.penalty.smooth and model.mask is None and X is None and present is None:
        # A matter of shapes, for which an update of a small batch need not wait.
        coef, intercept = params
        n_features = sum(leaf.shape[0] for leaf in jax.tree.leaves(coef))
        return (n_features + model.fit_intercept) * (len(intercept) - 1)
    return _degrees_of_freedom(model, params, X, weight, present)


@glmcore.quick_jit
def _degrees_of_freedom(model, params, X, weight, present):
    return model.degrees_of_freedom(GLMParams(*params), X, weight, present)
