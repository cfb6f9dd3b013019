"""Checks of features, weights and parameters as users pass them.

Whatever can be wrong with the numbers of a call is found here, and said in words that name the argument, what was
found and what was expected. Good data pay one sum; nothing is copied unless it must be cast or holds NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr
from sklearn.utils import check_array

import glmcore
from glmcore_sklearn.warn import warn


class Features(NamedTuple):
    """Checked features.

    Attributes
    ----------
    X : array of shape (n_samples, n_features), or a pytree of such arrays
        NumPy or JAX arrays in the sample dtype.
    names : ndarray of object, shape (n_features,), or None
        Column names of a DataFrame whose columns are all named by strings.
    used : ndarray of bool, shape (n_samples,), or None
        False for rows that held a NaN (all their entries are 0 in `X`); None if every row is used.
    """

    X: object
    names: np.ndarray | None
    used: np.ndarray | None


def sample_dtype():
    """The one dtype of samples: float32, or float64 where JAX has x64 on.

    Examples
    --------
    >>> with jax.enable_x64(True):
    ...     sample_dtype()
    dtype('float64')
    """
    return jax.dtypes.canonicalize_dtype(float)


def check_features(X, *, argument="X", nan="drop", is_whole=False):
    """Check features and cast them to the sample dtype.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features), or a pytree of these
        Dicts, tuples and lists of 2-D arrays are pytrees; a list of rows is an array. Never modified. JAX arrays stay
        on their device; tracers skip the value checks.
    argument : str
        The name of the argument in messages.
    nan : {"drop", "keep", "raise"}
        Rows with a NaN are zero-filled and marked unused with one ``UserWarning``, left as they are, or refused.
    is_whole : bool
        Whether a model is fitted to these rows alone: then features that the cast makes constant get a ``UserWarning``.

    Returns
    -------
    Features

    Raises
    ------
    TypeError
        For sparse matrices and objects that are not numbers.
    ValueError
        For a wrong rank, no samples or features, differing numbers of rows, strings, complex numbers, infinity, values
        too large for the sample dtype, NaN under "raise", and under "drop" where no row is left.

    Examples
    --------
    >>> check_features([[1, 2], [3, 4]]).X
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    >>> check_features({"stim": np.ones((2, 1)), "past": np.ones((3, 1))})
    Traceback (most recent call last):
        ...
    ValueError: Found input variables with inconsistent numbers of samples: [3, 2] (X['past'] has 3, X['stim'] has 2)
    """
    paths, given, structure = _flatten(X, argument)
    given = [_as_real_array(leaf, path) for leaf, path in zip(given, paths)]
    for leaf, path in zip(given, paths):
        _check_matrix_shape(leaf.shape, path)
    _check_same_rows(given, paths)
    tell = warn if is_whole else None
    cast = [glmcore.cast_features(leaf, sample_dtype(), path, tell) for leaf, path in zip(given, paths)]
    used = None
    if not _all_finite(cast):
        missing = _rows_with_nan(given, cast, paths)
        if missing.any() and nan != "keep":
            used = _used_rows(missing, argument, nan)
            cast = [_zero_rows(leaf, used) for leaf in cast]
    if structure is None:
        return Features(cast[0], _column_names(X), used)
    return Features(structure.unflatten(cast), None, used)


def check_coef(coef, n_axes=2):
    """Coefficients, which may have been set by hand, as arrays of so many axes in the sample dtype.

    Examples
    --------
    >>> check_coef([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    paths, given, structure = _flatten(coef, "coef_")
    leaves = [_cast(_as_real_array(leaf, path)) for leaf, path in zip(given, paths)]
    for leaf, path in zip(leaves, paths):
        if n_axes == 2:
            _check_matrix_shape(leaf.shape, path)
        elif leaf.ndim != n_axes or not leaf.size:
            raise ValueError(f"{path} has shape {leaf.shape}, expected (n_features, n_targets, n_classes)")
    return leaves[0] if structure is None else structure.unflatten(leaves)


def _is_pytree(X):
    """Whether X is a container of features and not itself an array-like."""
    if isinstance(X, (list, tuple)):
        # The shape and not `ndim`, which a polars DataFrame lacks.
        return any(isinstance(item, dict) or len(getattr(item, "shape", ())) >= 2 for item in X) or (
            len(X) > 0 and isinstance(X[0], (list, tuple)) and _is_pytree(X[0])
        )
    # For JAX a sparse array is a pytree of its parts, and None one with no leaves.
    return X is not None and not hasattr(X, "todense") and not jax.tree_util.all_leaves([X])


def _flatten(X, argument):
    """Names and values of the leaves of X, and its structure (None for a single array-like)."""
    if isinstance(X, (np.ndarray, jax.Array)) or not _is_pytree(X):
        return [argument], [X], None
    pairs, structure = jax.tree_util.tree_flatten_with_path(X, is_leaf=lambda node: not _is_pytree(node))
    if not pairs:
        raise ValueError(f"{argument} holds no arrays: found {X!r}, expected at least one 2-D array")
    return [argument + keystr(path) for path, _ in pairs], [leaf for _, leaf in pairs], structure


def _as_real_array(leaf, name):
    """A NumPy or JAX array of real numbers, in its own dtype and shape."""
    # Plain arrays skip check_array, which costs more than a small update step.
    if not isinstance(leaf, jax.Array) and (type(leaf) is not np.ndarray or leaf.dtype.kind not in "biufc"):
        leaf = _array_from_other(leaf, name)
    # JAX's own dtypes: random keys have no kind, short floats (bfloat16) the kind "V".
    kind = getattr(leaf.dtype, "kind", None)
    if kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {leaf.dtype}, expected real numbers")
    if kind not in ("b", "i", "u", "f") and not jnp.issubdtype(leaf.dtype, np.floating):
        raise ValueError(f"{name} has dtype {leaf.dtype}, expected real numbers")
    return leaf


def _array_from_other(leaf, name):
    """An array from lists, DataFrames, array subclasses and arrays of objects."""
    if hasattr(leaf, "todense"):
        raise TypeError(
            f"Sparse data was passed as {name} ({type(leaf).__name__}), but dense data is required. "
            "Use '.toarray()' (in JAX '.todense()') to convert it."
        )
    check_unmasked(leaf, name)
    if (dtype := _temporal(leaf)) is not None:
        raise ValueError(f"{name} has dtype {dtype}, expected real numbers")
    unchecked = dict(ensure_2d=False, allow_nd=True, ensure_all_finite=False, ensure_min_samples=0)
    try:
        array = check_array(leaf, dtype="numeric", ensure_min_features=0, **unchecked)
        # check_array leaves lists that hold None as objects; in arrays of objects None becomes NaN.
        return array.astype(float) if array.dtype == object else array
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        # Not type(error): its subclasses may need more than a message.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} cannot be read as numbers: {error}") from error


def check_unmasked(values, name):
    """Refuse a masked array, whose mask would be lost in the array that it becomes.

    Examples
    --------
    >>> check_unmasked(np.ma.masked_array([1, 2], [True, False]), "y")
    Traceback (most recent call last):
        ...
    ValueError: y has 1 masked entries, expected none: fill them or leave their rows out
    """
    if np.ma.is_masked(values):
        count = np.ma.count_masked(values)
        raise ValueError(f"{name} has {count} masked entries, expected none: fill them or leave their rows out")


def check_numbers(X):
    """Refuse what scikit-learn would take for numbers: masked entries, dates and times.

    Examples
    --------
    >>> check_numbers(np.array([["2020-01-01"]], dtype="datetime64[D]"))
    Traceback (most recent call last):
        ...
    TypeError: X must hold real numbers, found dtype datetime64[D]
    """
    check_unmasked(X, "X")
    if (dtype := _temporal(X)) is not None:
        raise TypeError(f"X must hold real numbers, found dtype {dtype}")


def _temporal(X):
    """The first dtype of dates or times, None if there is none."""
    is_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
    for dtype in X.dtypes if is_frame else [getattr(X, "dtype", None)]:
        # The dtypes of polars have no kind.
        if getattr(dtype, "kind", None) in ("M", "m") or getattr(dtype, "is_temporal", bool)():
            return dtype
    return None


def _check_matrix_shape(shape, name):
    if len(shape) == 2 and all(shape):
        return
    if len(shape) == 2:
        what = "sample(s)" if shape[0] == 0 else "feature(s)"
        raise ValueError(
            f"Found array with 0 {what} (shape={shape}) while a minimum of 1 is required. The array is {name}."
        )
    if len(shape) > 2:
        raise ValueError(
            f"Found array with dim {len(shape)}, while dim <= 2 is required: {name} has shape {shape}, "
            "expected (n_samples, n_features)"
        )
    raise ValueError(
        f"Expected 2D array, got {'1D' if shape else 'scalar'} array instead: {name} has shape {shape}. "
        "Reshape your data either using array.reshape(-1, 1) if your data has a single feature or "
        "array.reshape(1, -1) if it contains a single sample."
    )


def _check_same_rows(leaves, paths):
    rows = [leaf.shape[0] for leaf in leaves]
    if len(set(rows)) > 1:
        listing = ", ".join(f"{path} has {n}" for path, n in zip(paths, rows))
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {rows} ({listing})")


def _cast(values):
    if values.dtype == sample_dtype():
        return values
    with np.errstate(over="ignore"):  # an overflow is reported later, with its place
        return values.astype(sample_dtype())


@jax.jit
def _all_finite_on_device(leaves):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def all_finite(values: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite; a sum that overflows is a false alarm.

    Examples
    --------
    >>> all_finite(np.array([1.0, np.inf]))
    False
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is faster than isfinite and needs no memory.
        return bool(np.isfinite(values.sum()))


def _all_finite(leaves):
    """Whether no entry is NaN or infinite. Tracers pass; a sum that overflows is a false alarm."""
    on_device = []
    for leaf in leaves:
        if isinstance(leaf, jax.core.Tracer):
            continue
        if isinstance(leaf, jax.Array) and [device.platform for device in leaf.devices()] != ["cpu"]:
            on_device.append(leaf)
        elif not all_finite(np.asarray(leaf)):  # NumPy needs no program, and no copy
            return False
    if not on_device:
        return True
    # Inside a user's jit the answer would be a tracer, though the arrays are concrete.
    with jax.ensure_compile_time_eval():
        return bool(_all_finite_on_device(on_device))


def _rows_with_nan(given, cast, paths):
    """Rows that hold a NaN, shape (n_samples,); infinity anywhere is refused."""
    missing = np.zeros(cast[0].shape[0], dtype=bool)
    for original, values, name in zip(given, cast, paths):
        if isinstance(values, jax.core.Tracer):
            continue
        xp = jnp if isinstance(values, jax.Array) else np  # sharded rows stay where they are
        with jax.ensure_compile_time_eval():  # also inside a user's jit
            infinite, holed = xp.isinf(values), xp.isnan(values).any(axis=1)
        if np.asarray(infinite).any():
            row, column = np.argwhere(np.asarray(infinite))[0]
            value = np.asarray(original[row, column])
            where = f"({value} in row {row}, column {column}), expected finite numbers"
            if np.isinf(value):
                raise ValueError(f"Input {name} contains infinity {where}.")
            raise ValueError(
                f"Input {name} contains a value too large for {values.dtype} {where}. "
                "Scale the feature down or enable x64 in JAX."
            )
        missing |= np.asarray(holed)
    return missing


def _used_rows(missing, argument, nan):
    found = f"Input {argument} contains NaN in {np.count_nonzero(missing)} of {missing.size} rows"
    if nan == "raise":
        raise ValueError(f"{found}, expected finite numbers.")
    if missing.all():
        raise ValueError(f"{found}: no row is left, expected at least one without NaN.")
    warn(f"{found}, which are left out.")
    return ~missing


def _zero_rows(values, used):
    xp = jnp if isinstance(values, jax.Array) else np
    return xp.where(used[:, None], values, 0)


def _column_names(X):
    names = np.asarray(getattr(X, "columns", ()), dtype=object)
    are_strings = [isinstance(name, str) for name in names]
    if not any(are_strings):
        return None
    if not all(are_strings):
        kinds = sorted({type(name).__name__ for name in names})
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types. Use X.columns = X.columns.astype(str) to convert them."
        )
    return names


def count_features(X):
    """Number of features of each array of X: an int, or a pytree of ints.

    Examples
    --------
    >>> count_features({"stim": np.ones((5, 2)), "past": np.ones((5, 1))})
    {'past': 1, 'stim': 2}
    """
    return jax.tree.map(lambda leaf: leaf.shape[1], X)


def check_same_features(features, n_features, names=None, *, argument="X", estimator="ClassifierGLM"):
    """Check that features are those of the fit: names, structure, numbers.

    Parameters
    ----------
    features : Features
        Found, from `check_features`.
    n_features : int or pytree of int
        Fitted, from `count_features`.
    names : ndarray of object, shape (n_features,), or None
        Fitted.
    argument, estimator : str
        Names in messages.

    Raises
    ------
    ValueError
        If a name, the structure or a number of features differs. Names on one side only are a ``UserWarning``, as in
        scikit-learn.

    Examples
    --------
    >>> check_same_features(check_features(np.ones((5, 3))), 4)
    Traceback (most recent call last):
        ...
    ValueError: X has 3 features, but ClassifierGLM is expecting 4 features as input.
    """
    check_names(features.names, names, argument, estimator)
    found = count_features(features.X)
    if jax.tree.structure(found) != jax.tree.structure(n_features):
        raise ValueError(
            f"{argument} differs in structure from that of the fit: found {found}, expected {n_features} "
            "(numbers of features)"
        )
    for (path, count), fitted in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(n_features)):
        if count != fitted:
            raise ValueError(
                f"{argument}{keystr(path)} has {count} features, but {estimator} is expecting {fitted} features "
                "as input."
            )


def check_names(found, fitted, argument, estimator):
    """scikit-learn's check of feature names, on names (None: there are none) instead of data."""
    if found is None and fitted is None:
        return
    if fitted is None:
        warn(f"{argument} has feature names, but {estimator} was fitted without feature names")
    elif found is None:
        warn(
            f"{argument} does not have valid feature names, but {estimator} was fitted with feature names",
        )
    elif not np.array_equal(found, fitted):
        unseen, missing = sorted(set(found) - set(fitted)), sorted(set(fitted) - set(found))
        message = "The feature names should match those that were passed during fit.\n"
        if unseen:
            message += "Feature names unseen at fit time:\n" + _bullets(unseen)
        if missing:
            message += "Feature names seen at fit time, yet now missing:\n" + _bullets(missing)
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)


def _bullets(names, limit=5):
    shown = names[:limit] + ["..."] * (len(names) > limit)
    return "".join(f"- {name}\n" for name in shown)


def check_lengths(n, y_length):
    """Raise a ValueError unless X (`n` rows) and y (`y_length` labels) have as many samples.

    Examples
    --------
    >>> check_lengths(5, 5)
    """
    if n != y_length:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{n}, {y_length}] (rows of X, length of y)"
        )


def check_sample_weight(weight, n):
    """Check sample weights and cast them to the sample dtype.

    Parameters
    ----------
    weight : None, number or array-like of shape (n_samples,)
        A number is the weight of every sample.
    n : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n_samples,), or None

    Raises
    ------
    TypeError
        For objects that are not numbers.
    ValueError
        For another shape, and weights that are negative, not finite or all zero.

    Examples
    --------
    >>> check_sample_weight([1, 2, 3], 3)
    array([1., 2., 3.], dtype=float32)
    """
    if weight is None:
        return None
    values = np.asarray(_cast(_as_real_array(weight, "sample_weight")))
    if values.ndim == 0:
        values = np.full(n, values)
    if values.shape != (n,):
        raise ValueError(f"sample_weight has shape {values.shape}, expected one weight a sample, shape {(n,)}")
    for bad, what in ((~np.isfinite(values), "not finite"), (values < 0, "negative")):
        if bad.any():
            first = np.argmax(bad)
            raise ValueError(
                f"sample_weight holds weights that are {what}: {np.count_nonzero(bad)} of {n}, the first "
                f"{values[first]} at index {first}. Expected finite weights >= 0."
            )
    if not values.any():
        raise ValueError(f"sample_weight is zero for all {n} samples, expected a weight above zero")
    return values


def check_params(params, X, outputs, *, argument="init_params", known=()):
    """Check a pair (coef, intercept) against the features that it multiplies.

    Parameters
    ----------
    params : (coef, intercept), or an object with these attributes
        `coef` mirrors X, each leaf of shape (n_features, *outputs); `intercept` has shape `outputs`. Tracers skip
        the value checks.
    X : array of shape (n_samples, n_features), or a pytree of such arrays
        From `check_features`.
    outputs : tuple of int
        (n_classes,), or (n_targets, n_classes).
    argument : str or None
        The name of the argument in messages; None for the attributes ``coef_`` and ``intercept_`` of an estimator.
    known : sequence of arrays
        Those that are not looked at, and so not waited for.

    Returns
    -------
    coef, intercept
        NumPy or JAX arrays in the sample dtype, `coef` in the structure of X.

    Raises
    ------
    ValueError
        If it is no such pair, or a structure, a shape or a value is wrong.

    Examples
    --------
    >>> coef, intercept = check_params((np.zeros((2, 3)), [0, 1, 2]), np.ones((5, 2)), (3,))
    >>> intercept
    array([0., 1., 2.], dtype=float32)
    """
    coef, intercept = _as_pair(params, argument)
    pairs, structure = jax.tree_util.tree_flatten_with_path(X)
    if argument is None:
        names = [f"coef_{keystr(path)}" for path, _ in pairs] + ["intercept_"]
    else:
        names = [f"coef{keystr(path)} of {argument}" for path, _ in pairs] + [f"intercept of {argument}"]
    shapes = [(leaf.shape[1], *outputs) for _, leaf in pairs] + [outputs]
    leaves = [*_match_structure(coef, structure, f"coef of {argument}"), intercept]
    leaves = [_cast(_as_real_array(leaf, name)) for leaf, name in zip(leaves, names)]
    axes = ("n_targets", "n_classes")[-len(outputs) :]
    for leaf, name, shape in zip(leaves, names, shapes):
        if leaf.shape != shape:
            what = ("n_features", *axes) if name.startswith("coef") else axes
            what = f"({what[0]},)" if len(what) == 1 else f"({', '.join(what)})"
            raise ValueError(f"{name} has shape {leaf.shape}, expected {what} = {shape}")
    looked_at = [(leaf, name) for leaf, name in zip(leaves, names) if not any(leaf is k for k in known)]
    if not _all_finite([leaf for leaf, _ in looked_at]):
        for leaf, name in looked_at:
            if not _all_finite([leaf]) and not np.isfinite(leaf).all():
                raise ValueError(f"{name} holds NaN or infinity, expected finite {leaf.dtype} numbers")
    return structure.unflatten(leaves[:-1]), leaves[-1]


def check_mask(mask, X, outputs):
    """Check a mask of coefficients against the features that these multiply.

    Parameters
    ----------
    mask : array-like of 0/1, or a pytree of these
        It mirrors X, each leaf of shape (n_features, *outputs).
    X : array of shape (n_samples, n_features), or a pytree of such arrays
        From `check_features`.
    outputs : tuple of int
        (n_targets, n_classes).

    Returns
    -------
    mask
        NumPy arrays of bool in the structure of X.

    Raises
    ------
    ValueError
        If the structure, a shape or a value is wrong.

    Examples
    --------
    >>> check_mask([[[1, 0]]], np.ones((5, 1)), (1, 2))
    array([[[ True, False]]])
    """
    pairs, structure = jax.tree_util.tree_flatten_with_path(X)
    leaves = _match_structure(mask, structure, "feature_mask")
    checked = []
    for (path, features), leaf in zip(pairs, leaves):
        name, leaf = "feature_mask" + keystr(path), np.asarray(leaf)
        shape = (features.shape[1], *outputs)
        if leaf.shape != shape:
            raise ValueError(f"{name} has shape {leaf.shape}, expected (n_features, n_targets, n_classes) = {shape}")
        if leaf.dtype.kind not in "biuf" or not np.isin(leaf, (0, 1)).all():
            raise ValueError(f"{name} must hold 0 and 1 only, found {np.unique(leaf)[:5].tolist()}")
        checked.append(leaf.astype(bool))
    return structure.unflatten(checked)


def _as_pair(params, argument):
    if hasattr(params, "coef") and hasattr(params, "intercept"):
        return params.coef, params.intercept
    if isinstance(params, (tuple, list)) and len(params) == 2:
        return params
    size = f" of length {len(params)}" if hasattr(params, "__len__") else ""
    raise ValueError(f"{argument} is a {type(params).__name__}{size}, expected a pair (coef, intercept)")


def _match_structure(tree, structure, argument):
    """Leaves of a tree, which must have the structure of X."""
    try:
        leaves = structure.flatten_up_to(tree)
    except ValueError:
        leaves = None
    if leaves is None or any(map(_is_pytree, leaves)):
        raise ValueError(
            f"{argument} differs in structure from X: found {jax.tree.structure(tree)}, expected {structure}"
        )
    return leaves
