"""Log-likelihoods and pseudo-R²."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PyTree

from glmcore.jit import quick_jit
from glmcore.model import GLM, check_indices
from glmcore.observations import are_classes
from glmcore.params import GLMParams


@quick_jit
def log_likelihood(
    model: GLM, params: GLMParams, X: PyTree, y: Integer[Array | np.ndarray, " n"]
) -> Float[Array, " n"]:
    """Log-likelihood of each sample, shape (n,); NaN of a label that is no class.

    Parameters
    ----------
    model : GLM
    params : GLMParams
        On the scale of X.
    X : array of shape (n, p), or a pytree of these
    y : int array of shape (n,)
        Class indices.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2))
    >>> params = glmcore.GLMParams(jnp.zeros((1, 2)), jnp.zeros(2))
    >>> glmcore.log_likelihood(model, params, jnp.ones((1, 1)), jnp.array([0])).round(4)
    Array([-0.6931], dtype=float32)
    """
    return -model._nll(params, X, y)


@quick_jit
def null_log_likelihood(model: GLM, y: Any, sample_weight: Any = None) -> Float[Array, " n"]:
    """Log-likelihood of each sample under the proportions of the classes in ``y`` itself, shape (n,);
    NaN of a label that is no class.

    In a weighted mean this is the best that a model without features can do:
    1 - mean(log_likelihood) / mean(null_log_likelihood) is McFadden's pseudo-R² (1974), and
    Cohen's as well, since the log-likelihood of the saturated categorical model is 0.

    Parameters
    ----------
    model : GLM
    y : int array of shape (n,)
        Class indices.
    sample_weight : array of shape (n,), optional
        Weights of the samples.

    Raises
    ------
    ValueError, TypeError
        If the labels are no whole numbers, or the weights not one a label.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2))
    >>> glmcore.null_log_likelihood(model, jnp.array([0, 1, 1, 1])).round(4)
    Array([-1.3863, -0.2877, -0.2877, -0.2877], dtype=float32)
    """
    y = jnp.asarray(y)
    check_indices(y, y.size)
    weight = jnp.ones(y.shape) if sample_weight is None else 1.0 * jnp.asarray(sample_weight)
    if weight.shape != y.shape:
        raise ValueError(f"sample_weight must have shape {y.shape}, found {weight.shape}")
    known = are_classes(y, model.observations.n_outputs)
    return jnp.where(known, jnp.log(model.observations.frequencies(y, weight))[y], jnp.nan)
