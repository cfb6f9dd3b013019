"""The parameters of a multinomial GLM, and the one statement of their shapes.

The class axis is always the last one.  Features may come as one array ``(n, p)`` or as a
pytree of arrays ``(n, p_leaf)``; ``coef`` then is the same pytree of ``(p_leaf, K)``.  Inside
a solver both are one matrix, the leaves stacked along the feature axis.
"""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped


class GLMParams(eqx.Module):
    """Coefficients and intercept of a multinomial GLM.

    Parameters
    ----------
    coef : array of shape (p, K), or a pytree of arrays of shape (p_leaf, K)
        One column of coefficients a class.
    intercept : array of shape (K,)
        One intercept a class.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> params = glmcore.GLMParams(jnp.zeros((4, 3)), jnp.zeros(3))
    >>> coef, intercept = params
    >>> coef.shape, intercept.shape
    ((4, 3), (3,))
    """

    coef: PyTree[Float[Array | np.ndarray, "..."]]
    intercept: Float[Array | np.ndarray, "..."]

    def __iter__(self) -> Iterator:
        return iter((self.coef, self.intercept))


def stacked(params: GLMParams) -> Float[Array, "p1 K"]:
    """Parameters in one matrix, the intercept last."""
    return jnp.concatenate([params.coef, params.intercept[None, :]])


def unstacked(matrix: Float[Array, "p1 K"]) -> GLMParams:
    """Undo :func:`stacked`."""
    return GLMParams(matrix[:-1], matrix[-1])


def stack_columns(X: PyTree[Float[Array, "n _"]]) -> Float[Array, "n p"]:
    """Place the leaves of a pytree of features side by side."""
    leaves = jax.tree.leaves(X)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=1)


def stack_rows(coef: PyTree[Shaped[Array, "_ K"]]) -> Shaped[Array, "p K"]:
    """Place the leaves of a pytree of coefficients, or of a mask of these, on top of each other."""
    leaves = jax.tree.leaves(coef)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=0)


def split_rows(
    matrix: Float[Array, "p K"], structure: jax.tree_util.PyTreeDef, widths: tuple[int, ...]
) -> PyTree[Float[Array, "_ K"]]:
    """Undo :func:`stack_rows`: cut ``matrix`` into leaves of ``widths`` rows."""
    leaves, start = [], 0
    for width in widths:
        leaves.append(matrix[start : start + width])
        start += width
    return jax.tree.unflatten(structure, leaves)


def check_mirrors(params: GLMParams, X: PyTree, n_classes: int) -> None:
    """Refuse parameters that are not those of ``n_classes`` classes and features such as X."""
    if not isinstance(params, GLMParams):
        raise TypeError(f"params must be GLMParams(coef, intercept), found {type(params).__name__}")
    leaves, structure = jax.tree.flatten(X)
    if jax.tree.structure(params.coef) != structure:
        raise ValueError(
            f"coef must mirror X, whose structure is {structure}; "
            f"found {jax.tree.structure(params.coef)}"
        )
    for coef, leaf in zip(jax.tree.leaves(params.coef), leaves):
        if np.ndim(leaf) != 2:
            raise ValueError(f"X must be 2-D, (n, p); found shape {np.shape(leaf)}")
        if np.shape(coef) != (leaf.shape[1], n_classes):
            raise ValueError(
                f"coef must have shape {(leaf.shape[1], n_classes)}, found {np.shape(coef)}"
            )
    if np.shape(params.intercept) != (n_classes,):
        raise ValueError(
            f"intercept must have shape ({n_classes},), found {np.shape(params.intercept)}"
        )
