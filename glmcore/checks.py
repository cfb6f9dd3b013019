"""What can be refused before tracing: shapes, dtypes, and values where they are at hand."""

from collections.abc import Callable
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from glmcore.coordinates import Coordinates
from glmcore.jit import quick_jit
from glmcore.model import GLM, check_indices, check_not_empty
from glmcore.observations import unknown_labels
from glmcore.padding import on_host
from glmcore.params import GLMParams, check_mirrors
from glmcore.penalties import AbstractScalablePenalty
from glmcore.rows import LEAST_WEIGHT, MOST_WEIGHT
from glmcore.sharding import reduced
from glmcore.status import Status
from glmcore.tree import is_concrete, is_real, module_of, sample_dtype
from glmcore.warn import warn_user

#: Spread of a column, beside its size, that is no more than the rounding error of float64.
_LEAST_SPREAD = 1e-12


def check_data(
    model, X: PyTree, y: Any, sample_weight: Any, dtype: Any = None, is_batch: bool = False
) -> tuple[PyTree, Any, Any]:
    """Features, labels and weights as arrays of one float dtype (default: that of X), or a clear
    error.  The weights of one batch among others may all be zero, and keep their scale."""
    check_model(model)
    leaves = check_features(X)
    n = leaves[0].shape[0]
    dtype = sample_dtype(leaves) if dtype is None else dtype
    y = _as_array(y, "y")
    _check_labels(y, n, model.observations.n_outputs)
    weight = np.broadcast_to(np.ones((), dtype), n)
    if sample_weight is not None:
        weight = _weight(sample_weight, n, dtype, is_batch)
        X = _without_idle_rows(X, weight)
    # One batch of several need not tell what varies.
    warn = None if is_batch else warn_user
    return jax.tree.map(lambda leaf: cast_features(leaf, dtype, warn=warn), X), y, weight


def check_features(X: PyTree) -> list:
    """The arrays of features, or a clear error."""
    leaves = jax.tree.leaves(X)
    if not leaves:
        raise ValueError("X must hold at least one array of shape (n, p), found none")
    for leaf in leaves:
        if not isinstance(leaf, (np.ndarray, jax.Array)):
            raise TypeError(f"X must be an array or a pytree of arrays, found {type(leaf).__name__}")
        if not is_real(leaf):
            raise TypeError(f"X must hold real numbers, found dtype {leaf.dtype}")
        _check_unmasked(leaf, "X")
        _check_matrix(leaf, "X")
    lengths = [leaf.shape[0] for leaf in leaves]
    if len(set(lengths)) > 1:
        raise ValueError(f"all arrays of X must have the same number of rows, found {lengths}")
    check_not_empty(leaves)
    return leaves


def cast_features(
    values: Any, dtype: Any, name: str = "X", warn: Optional[Callable[[str], None]] = None
) -> Float[Any, "n p"]:
    """Features in ``dtype``, with a word about those whose variation it cannot hold.

    Seconds since 1970 that go from 1.7e9 to 1.7e9 + 20 are one and the same number in float32: a
    model that is fitted to it says nothing about them.

    Parameters
    ----------
    values : array of shape (n, p)
        Of NumPy or JAX; traced ones, and those that are not in the host's memory, are cast without
        a look.
    dtype : dtype
        A float.
    name : str
        Name of the features in messages.
    warn : callable of a str, optional
        Called with the message if there are such features; default: they are not looked for.

    Returns
    -------
    Array of shape (n, p)
        ``values`` itself if it is of that dtype.

    Raises
    ------
    ValueError, TypeError
        If ``values`` is no matrix of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> time = 1.7e9 + np.arange(20.0)[:, None]
    >>> _ = glmcore.cast_features(time, np.float32, warn=print)
    float32 cannot tell 1700000000.0 from 1700000019.0: columns [0] of X have become constants. Subtract the mean of the features, or use float64 (jax_enable_x64)
    """
    values = _as_array(values, name)
    _check_matrix(values, name)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):  # what is infinite is found where numbers are looked at
        cast = values.astype(dtype)
    holds_more = values.dtype.itemsize > 2 and len(values)  # than 11 digits in binary
    if warn is not None and on_host(values) and holds_more:
        columns, low, high = _made_constant(np.asarray(values), np.asarray(cast))
        if columns:
            warn(
                f"{cast.dtype} cannot tell {low[0]} from {high[0]}: columns {columns} of {name} have become constants. "
                "Subtract the mean of the features, or use float64 (jax_enable_x64)"
            )
    return cast


def _check_matrix(values: Any, name: str) -> None:
    if np.ndim(values) != 2:
        raise ValueError(f"{name} must be 2-D, (n, p); found shape {np.shape(values)}")


def _made_constant(values: np.ndarray, cast: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Columns that are constant once they are cast, but before vary by more than rounding error,
    and their ranges.  Zeros and what is not finite may stand for what is not used."""
    columns = np.arange(values.shape[1])
    stop = 0
    while columns.size and stop < len(cast):  # most columns are known to vary after a few rows
        stop = max(32, 8 * stop)
        low, high = _range_of_used(cast[:stop, columns])
        columns = columns[low == high]
    low, high = _range_of_used(values[:, columns])
    least = _LEAST_SPREAD if values.dtype.kind == "f" else 0
    lost = high - low > least * np.abs(high)
    return columns[lost].tolist(), low[lost], high[lost]


def _range_of_used(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest number of each column, of those that are finite and not zero."""
    used = (values != 0) & np.isfinite(values)
    some = np.where(used.any(axis=0), np.take_along_axis(values, used.argmax(axis=0)[None, :], axis=0)[0], 0)
    values = np.where(used, values, some)
    return values.min(axis=0), values.max(axis=0)


def check_model(model: Any) -> None:
    """Refuse what is no model."""
    if not isinstance(model, GLM):
        raise TypeError(f"model must be a glmcore.GLM, found {type(model).__name__}")


def _as_array(values: Any, name: str) -> Any:
    """An array of real numbers from an array or a list, or a clear error."""
    if not isinstance(values, (np.ndarray, np.generic, jax.Array)):
        try:
            values = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be an array, found {type(values).__name__}") from error
    if not is_real(values):
        raise TypeError(f"{name} must hold real numbers, found dtype {values.dtype}")
    _check_unmasked(values, name)
    return _plain(values)


def _check_unmasked(values: Any, name: str) -> None:
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must not have masked entries; give their rows the weight 0 instead")


def _plain(values: Any) -> Any:
    """A NumPy array of no subclass, in which products and comparisons may mean something else."""
    return values if isinstance(values, jax.Array) else np.asarray(values)


def _check_labels(y: Any, n: int, n_classes: int) -> None:
    check_indices(y, n)
    if is_concrete(y):
        low, high = map(int, reduced(_range, y))
        if low < 0 or high >= n_classes:
            raise ValueError(
                f"y must hold class indices from 0 to {n_classes - 1}, found {low} to {high}"
            )


def tell_of_labels(result: Any, y: Any, weight: Any, n_classes: int) -> Any:
    """``result``, whose ``status`` says so if there are such labels."""
    if is_concrete(y):  # they have been refused
        return result
    status = _told_of_labels(result.status, y, weight, n_classes)
    return eqx.tree_at(lambda r: r.status, result, status)


@quick_jit
def _told_of_labels(status: Status, y: Any, weight: Any, n_classes: int) -> Status:
    unknown = jnp.any(unknown_labels(y, weight, n_classes))
    return Status.where(unknown, Status.unknown_label, status)


def _weight(sample_weight: Any, n: int, dtype: Any, is_batch: bool) -> Any:
    array = _as_array(sample_weight, "sample_weight")
    if array.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), found {array.shape}")
    if is_concrete(array):
        low, high = reduced(_range, array)
        if is_batch:
            if not 0 <= low <= high <= MOST_WEIGHT:
                raise ValueError(
                    f"weights must be from 0 to {MOST_WEIGHT:g}, found numbers from {low} to {high}"
                )
        elif not (low >= 0 and 0 < high < np.inf):
            raise ValueError(
                "sample_weight must be finite, not negative and not all zero, found numbers "
                f"from {low} to {high}"
            )
        else:
            array = within_range(array, high)
    return array.astype(dtype, copy=False)


def within_range(weight: Any, high: Any = None) -> Any:
    """Weights, of which only ratios count, whose sum does not overflow; ``high`` is the largest."""
    if weight is None or not is_concrete(weight):
        return weight
    high = reduced(_range, _as_array(weight, "sample_weight"))[1] if high is None else high
    if LEAST_WEIGHT < high < MOST_WEIGHT:
        return weight
    root = float(high) ** -0.5  # twice, as in moderate, which would take it for a number of JAX
    return weight * root * root


def _without_idle_rows(X: PyTree, weight: Any) -> PyTree:
    """Zeros in rows of weight 0 that hold NaN or infinity, which would spread in a product."""
    if not is_concrete((X, weight)):
        return X
    if not all(map(on_host, jax.tree.leaves((X, weight)))):
        with jax.ensure_compile_time_eval():  # also of what a program closes over
            return _zeros_where_idle(X, weight) if _idle_is_bad(X, weight) else X
    idle = np.asarray(weight) == 0
    if not idle.any() or all(np.isfinite(np.asarray(x)[idle]).all() for x in jax.tree.leaves(X)):
        return X
    return jax.tree.map(lambda x: np.where(idle[:, None], 0, np.asarray(x)), X)


@jax.jit
def _idle_is_bad(X: PyTree, weight: Any) -> Any:
    bad = [jnp.any(~jnp.isfinite(x) & (weight == 0)[:, None]) for x in jax.tree.leaves(X)]
    return jnp.any(jnp.stack(bad))


@jax.jit
def _zeros_where_idle(X: PyTree, weight: Any) -> PyTree:
    return jax.tree.map(lambda x: jnp.where((weight == 0)[:, None], 0, x), X)


def _range(values: Any) -> tuple[Any, Any]:
    return values.min(), values.max()


def check_params(model, params: GLMParams | tuple, X: PyTree) -> GLMParams:
    """Starting parameters in the dtype of X, or a clear error."""
    if isinstance(params, (tuple, list)) and len(params) == 2:
        params = module_of(GLMParams, coef=params[0], intercept=params[1])
    numbers = map(is_real, map(_plain, jax.tree.leaves(params)))
    if isinstance(params, GLMParams) and not all(numbers):
        raise TypeError(f"params must hold arrays of real numbers, found {params}")
    check_mirrors(params, X, model.observations.n_outputs)
    dtype = jax.tree.leaves(X)[0].dtype
    return jax.tree.map(lambda w: w if _is_array_of(w, dtype) else jnp.asarray(w, dtype), params)


def _is_array_of(w: Any, dtype: Any) -> bool:
    return isinstance(w, (np.ndarray, jax.Array)) and w.dtype == dtype


def check_penalty(model, X: PyTree) -> None:
    """Strengths that are negative, not finite or do not fit the features are refused, and a mask
    that does not fit them."""
    n_classes = model.observations.n_outputs
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[1], n_classes), x.dtype), X)
    if isinstance(model.penalty, AbstractScalablePenalty):
        # Not model.penalty.check, since a bound method of a module is a module, and slow to make.
        type(model.penalty).check(model.penalty, like)
    if model.mask is None:
        return
    structure = jax.tree.structure(like)
    if jax.tree.structure(model.mask) != structure:
        raise ValueError(
            f"mask must mirror X, whose structure is {structure}; "
            f"found {jax.tree.structure(model.mask)}"
        )
    for found, expected in zip(jax.tree.leaves(model.mask), jax.tree.leaves(like)):
        if found.shape != expected.shape:
            raise ValueError(f"mask must have shape {expected.shape}, found {found.shape}")


def check_state(model, coordinates: Coordinates, X: PyTree) -> None:
    """A state that was initialised with other features or classes is refused."""
    n_classes, found = coordinates.scale.shape[1], model.observations.n_outputs
    if n_classes != found:
        raise ValueError(f"state was initialised with {n_classes} classes, the model has {found}")
    leaves, structure = jax.tree.flatten(X)
    widths = tuple(leaf.shape[1] for leaf in leaves)
    if structure != coordinates.structure or widths != coordinates.widths:
        raise ValueError(
            "X must have the features that the state was initialised with, "
            f"{_features(coordinates.structure, coordinates.widths)}; "
            f"found {_features(structure, widths)}"
        )


def _features(structure: Any, widths: tuple[int, ...]) -> str:
    return f"{jax.tree.unflatten(structure, widths)} features"
