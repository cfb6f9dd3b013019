"""Log-likelihoods and pseudo-R²."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PyTree

from glmcore.jit import quick_jit
from glmcore.model import GLM
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
def null_log_likelihood(
    model: GLM, y: Integer[Array | np.ndarray, " n"], weight: Float[Array | np.ndarray, " n"]
) -> Float[Array, " n"]:
    """Log-likelihood of each sample under the proportions of the classes in ``y`` itself, shape (n,).

    In a weighted mean this is the best that a model without features can do:
    1 - mean(log_likelihood) / mean(null_log_likelihood) is McFadden's pseudo-R² (1974), and
    Cohen's as well, since the log-likelihood of the saturated categorical model is 0.

    Parameters
    ----------
    model : GLM
    y : int array of shape (n,)
        Class indices.
    weight : array of shape (n,)
        Weights of the samples.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2))
    >>> glmcore.null_log_likelihood(model, jnp.array([0, 1, 1, 1]), jnp.ones(4)).round(4)
    Array([-1.3863, -0.2877, -0.2877, -0.2877], dtype=float32)
    """
    y = jnp.asarray(y)
    return jnp.log(model.observations.frequencies(y, jnp.asarray(weight)))[y]
