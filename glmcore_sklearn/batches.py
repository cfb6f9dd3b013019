"""The checked data of one call of an estimator."""

from typing import NamedTuple

import jax
import numpy as np

from glmcore_sklearn import labels
from glmcore_sklearn.inputs import (
    Features,
    check_features,
    check_lengths,
    check_sample_weight,
    sample_dtype,
)


class Batch(NamedTuple):
    """Checked features, class indices and weights; a row with a NaN has weight 0.

    Attributes
    ----------
    features : Features
    y : ndarray of int32, shape (n_samples,) or (n_samples, n_targets)
    weight : ndarray of shape (n_samples,)
    n_used : int
        Rows of weight above 0.
    """

    features: Features
    y: np.ndarray
    weight: np.ndarray
    n_used: int


def read(X, y, n_axes, is_whole=False):
    """Checked features, and labels of so many axes that are not yet translated."""
    features = check_features(X, is_whole=is_whole)
    found = labels.as_labels(y, n_axes=n_axes)
    check_lengths(jax.tree.leaves(features.X)[0].shape[0], len(found))
    return features, found


def encode(features, found, classes, sample_weight):
    """The batch of features and labels, once the classes are known."""
    y = labels.encode(found, classes)
    weight = check_sample_weight(sample_weight, len(y))
    if weight is None:
        weight = np.broadcast_to(np.ones((), sample_dtype()), len(y))
    if features.used is not None:
        weight = np.where(features.used, weight, 0)
        if not weight.any():
            raise ValueError("sample_weight is zero for every row of X without NaN")
    return Batch(features, y, weight, int(np.count_nonzero(weight)))


def check_no_class_lost(features, found, classes):
    """Raise a ValueError if all rows of a class were left out for their NaN."""
    if features.used is None:
        return
    kept = labels.infer_classes(found[features.used])
    if len(kept) < len(classes):
        lost = [label for label in classes.tolist() if label not in kept.tolist()]
        raise ValueError(f"every row of X of the classes {lost} holds a NaN: no row of them is left")
