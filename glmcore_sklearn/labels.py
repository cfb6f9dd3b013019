"""Class labels to class indices and back, in plain NumPy.

The core knows classes as integers 0..K-1. Whatever else a user may call a label is
translated here, on the host, before and after the core is called.
"""

import contextlib
import math
import numbers

import numpy as np
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils.multiclass import check_classification_targets

from glmcore_sklearn.warn import warn

# Labels of two kinds can only be equal within a family; objects meet them all.
_FAMILY = {kind: "number" for kind in "biuf"} | {kind: kind for kind in "USMmO"}


class ClassesNotSetError(NotFittedError, RuntimeError):
    """A method that needs the classes was called before they were known."""


def as_labels(y, argument="y", n_axes=1):
    """Turn what a user passes as targets into an array of labels.

    Parameters
    ----------
    y : array-like of shape (n_samples,), or (n_samples, n_targets) for two axes
        Numbers (floats must be integral), booleans, strings, bytes, datetime64 or hashable objects, as a list, NumPy or
        JAX array, pandas Series, Index or Categorical. A column (n_samples, 1) is flattened with a
        ``DataConversionWarning``.
    argument : str
        The name of the argument in messages.
    n_axes : {1, 2}
        Whether y is one target or several.

    Returns
    -------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)

    Raises
    ------
    ValueError
        For another rank, no samples, missing or infinite labels, continuous or complex numbers, and objects that cannot
        be hashed.

    Examples
    --------
    >>> as_labels(["b", "a"])
    array(['b', 'a'], dtype='<U1')
    >>> as_labels([1.0, float("nan")])
    Traceback (most recent call last):
        ...
    ValueError: Input y contains NaN: 1 of 2 labels, the first at index 1.
    """
    if np.ma.is_masked(y):
        _refuse(np.ma.getmaskarray(y).ravel(), "masked labels", argument)
    labels = _as_vector(y, argument) if n_axes == 1 else _as_matrix(y, argument)
    kind = labels.dtype.kind
    if labels.size == 0:
        raise ValueError(f"{argument} holds no samples, expected at least one label")
    if kind == "c":
        raise ValueError(f"Complex data not supported: {argument} is {labels.dtype}")
    if kind not in _FAMILY:
        raise ValueError(
            f"{argument} has dtype {labels.dtype}, expected class labels: integers, booleans, strings, bytes, dates, "
            "integral floats or hashable objects"
        )
    if kind == "f":
        _check_float_labels(labels, argument)
    elif kind in "mM":
        _refuse(np.isnat(labels), "NaT", argument)
    elif kind == "O":
        _check_object_labels(labels, argument)
    return labels


def _as_matrix(y, argument):
    """The array of labels of several targets; see `as_labels`."""
    labels = _as_array(y, argument, "2d")
    if labels.ndim != 2:
        raise ValueError(
            f"{argument} should be a 2d array, got an array of shape {labels.shape} instead: expected one column of "
            "labels a target, shape (n_samples, n_targets)"
        )
    return labels.astype(object) if labels.dtype.kind == "T" else labels


def _as_array(y, argument, expected):
    if y is None:
        raise ValueError(f"This estimator requires {argument} to be passed, but the target {argument} is None")
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{argument} should be a {expected} array, got a ragged sequence instead: {error}") from error
    if labels.dtype.kind in "US" and isinstance(y, (list, tuple)):
        # NumPy has written 1, None and NaN as strings beside strings.
        given = _object_array(y) if labels.ndim == 1 else np.array(y, dtype=object)
        own_type = str if labels.dtype.kind == "U" else bytes
        if not all(isinstance(label, own_type) for label in given.flat):
            return given
    return labels


def _as_vector(y, argument):
    """The array of labels of one target; see `as_labels`."""
    labels = _as_array(y, argument, "1d")
    if labels.ndim == 2 and labels.shape[1] == 1:
        warn("A column-vector y was passed when a 1d array was expected, shape (n_samples,)", DataConversionWarning)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"{argument} should be a 1d array, got an array of shape {labels.shape} instead: "
            "expected one label a sample, shape (n_samples,)"
        )
    return labels.astype(object) if labels.dtype.kind == "T" else labels


def _check_float_labels(labels, argument):
    _refuse(np.isnan(labels), "NaN", argument)
    _refuse(np.isinf(labels), "infinity", argument)
    if (labels != np.trunc(labels)).any():
        # Always raises here; called for scikit-learn's own words.
        check_classification_targets(labels.ravel())


def _check_object_labels(labels, argument):
    try:
        # Python work is done once a distinct label: rows can be many.
        distinct = dict.fromkeys(labels.ravel().tolist())
    except TypeError as error:
        raise ValueError(
            f"{argument} holds labels that cannot be hashed, expected hashable labels: {error}"
        ) from error
    for test, what in ((_is_missing, "missing labels (NaN, NaT or None)"), (_is_infinite, "infinity")):
        if any(map(test, distinct)):
            bad = np.array([test(label) for label in labels.flat])
            _refuse(bad.reshape(labels.shape), what, argument)
    if all(isinstance(label, numbers.Real) for label in distinct):
        if any(label != math.trunc(label) for label in distinct):
            check_classification_targets(labels.ravel().astype(float))


def _is_missing(label):
    # pandas.NA refuses to be a truth value; the others differ from themselves.
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


def _is_infinite(label):
    return isinstance(label, (float, np.floating)) and math.isinf(label)


def _refuse(bad, what, argument):
    """Raise if any entry of the boolean array `bad` is set."""
    if bad.any():
        raise ValueError(
            f"Input {argument} contains {what}: {np.count_nonzero(bad)} of {bad.size} labels, "
            f"the first at {_place(bad)}."
        )


def _place(bad):
    """Where the first set entry of a boolean array is."""
    first = np.argwhere(bad)[0].tolist()
    return f"index {first[0]}" if len(first) == 1 else f"row {first[0]}, column {first[1]}"


def _object_array(items):
    # Filled one by one: NumPy would unpack labels that are tuples.
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def infer_classes(labels):
    """Distinct labels, sorted; in order of appearance if they cannot be sorted.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        From `as_labels`.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        In the dtype of `labels`.

    Examples
    --------
    >>> infer_classes(np.array(["dog", "cat", "dog"]))
    array(['cat', 'dog'], dtype='<U3')
    >>> infer_classes(np.array(["b", 1, "a"], dtype=object))
    array(['b', 1, 'a'], dtype=object)
    """
    labels = labels.ravel()
    kind = labels.dtype.kind
    if kind == "O":
        distinct = list(dict.fromkeys(labels.tolist()))
        with contextlib.suppress(TypeError):
            distinct = sorted(distinct)
        return _object_array(distinct)
    if kind in "biu":
        low, high = int(labels.min()), int(labels.max())
        # Counting beats sorting while the table stays about as small as the data.
        if high - low <= max(1024, labels.size) and high <= np.iinfo(np.intp).max:
            counts = np.bincount(labels.astype(np.intp, copy=False) - low)
            return (np.flatnonzero(counts) + low).astype(labels.dtype)
    return np.unique(labels)


def are_indices(classes):
    """Whether the classes are the integers 0..K-1 in order, so need no translation.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    bool

    Examples
    --------
    >>> are_indices(np.array([0, 1, 2])), are_indices(np.array([1, 2]))
    (True, False)
    """
    return classes.dtype.kind in "iu" and np.array_equal(classes, np.arange(classes.size))


def encode(labels, classes):
    """Index of each label in the classes.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_targets)
        From `as_labels`. Equality decides: 1.0 and True are the class 1.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    indices : ndarray of int32, in the shape of `labels`

    Raises
    ------
    ValueError
        If a label is not among the classes; the message names both.

    Examples
    --------
    >>> encode(np.array(["dog", "cat"]), np.array(["cat", "dog"]))
    array([1, 0], dtype=int32)
    >>> encode(np.array([0, 3]), np.array([0, 1]))
    Traceback (most recent call last):
        ...
    ValueError: y holds labels that are not in classes_: 3 (1 of 2 rows, first at index 1). Valid labels: 0, 1.
    """
    kinds = labels.dtype.kind, classes.dtype.kind
    if kinds[0] in "biu" and are_indices(classes):
        if labels.size == 0 or (labels.min() >= 0 and labels.max() < classes.size):
            return labels.astype(np.int32, copy=False)
        known = (labels >= 0) & (labels < classes.size)
    elif "O" in kinds:
        index_of = {label: index for index, label in enumerate(items(classes))}
        indices = [index_of.get(label, -1) for label in items(labels)]
        indices = np.array(indices, dtype=np.int32).reshape(labels.shape)
        known = indices >= 0
    elif _FAMILY[kinds[0]] == _FAMILY[kinds[1]]:
        order = np.argsort(classes)
        place = np.searchsorted(classes, labels, sorter=order)
        indices = order.take(place, mode="clip").astype(np.int32)
        known = classes[indices] == labels
    else:
        known = np.zeros(labels.shape, dtype=bool)
    if known.all():
        return indices
    what = "rows" if labels.ndim == 1 else "labels"
    raise ValueError(
        f"y holds labels that are not in classes_: {_listing(labels[~known])} ({np.count_nonzero(~known)} of "
        f"{labels.size} {what}, first at {_place(~known)}). Valid labels: {_listing(classes, limit=20)}."
    )


def decode(indices, classes):
    """Labels of class indices; the inverse of `encode`.

    Parameters
    ----------
    indices : array-like of int
        NumPy or JAX array of values in 0..n_classes-1.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    labels : ndarray in the shape of `indices`
        In the dtype of `classes`.

    Examples
    --------
    >>> decode([1, 0, 1], np.array(["cat", "dog"]))
    array(['dog', 'cat', 'dog'], dtype='<U3')
    """
    return classes[np.asarray(indices)]


def check_n_classes(n_classes):
    """Check the constructor argument `n_classes`.

    Parameters
    ----------
    n_classes : None, int or integral float
        None means that the classes are counted in y.

    Returns
    -------
    int or None

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not a whole number of at least 2.

    Examples
    --------
    >>> check_n_classes(3.0)
    3
    """
    if n_classes is None:
        return None
    found = f"found {n_classes!r} of type {type(n_classes).__name__}"
    expected = "n_classes must be None or an integer of at least 2"
    if isinstance(n_classes, bool) or not isinstance(n_classes, numbers.Real):
        raise TypeError(f"{expected}, {found}")
    if n_classes % 1 != 0 or n_classes < 2:
        raise ValueError(f"{expected}, {found}")
    return int(n_classes)


def check_class_count(classes, n_classes):
    """Check that the data hold as many classes as were announced.

    Parameters
    ----------
    classes : ndarray of shape (n_found,)
        From `infer_classes`.
    n_classes : int or None
        From `check_n_classes`; None accepts any number from 2.

    Raises
    ------
    ValueError
        If the counts differ, or there are fewer than two classes.

    Examples
    --------
    >>> check_class_count(np.array([0, 1]), 2)
    >>> check_class_count(np.array([0, 1]), 3)
    Traceback (most recent call last):
        ...
    ValueError: Found 2 classes in y (0, 1), expected n_classes=3.
    """
    found = classes.size
    if found >= 2 and n_classes in (None, found):
        return
    plural = "class" if found == 1 else "classes"
    expected = "at least 2" if n_classes is None else f"n_classes={n_classes}"
    raise ValueError(f"Found {found} {plural} in y ({_listing(classes)}), expected {expected}.")


def items(labels):
    """The labels of an array, each an object that is equal to itself in another array."""
    # tolist() makes hashing fast but turns nanosecond dates into bare integers.
    labels = labels.ravel()
    return list(labels) if labels.dtype.kind in "mM" else labels.tolist()


def _listing(labels, limit=5):
    """The first distinct labels, as a user would type them."""
    shown = list(dict.fromkeys(items(labels)))
    write = str if labels.dtype.kind in "mM" else repr
    more = ", ..." if len(shown) > limit else ""
    return ", ".join(map(write, shown[:limit])) + more
