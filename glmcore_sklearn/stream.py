"""What an estimator keeps from one batch of a stream to the next."""

from typing import Any, NamedTuple

import numpy as np

import glmcore
from glmcore_sklearn.inputs import all_finite


class Stream(NamedTuple):
    """What :meth:`LogisticRegression.partial_fit` found out in earlier calls.

    Attributes
    ----------
    settings : dict
        Arguments of the constructor, which have been checked.
    C, l1_ratio : float
        Those in force.
    solver : glmcore.AbstractSolver
    state : glmcore.SolverState or None
        None before the first step of this solver.
    n_rows : int
        Rows of the last batch: a smaller one is padded to share its program.
    """

    settings: dict
    C: float
    l1_ratio: float
    solver: glmcore.AbstractSolver
    state: glmcore.SolverState | None = None
    n_rows: int = 0


def is_plain(X: Any, y: Any, dtype: Any, n_features: int | None) -> bool:
    """Whether scikit-learn would give these arrays back as they are: a small batch takes less time
    than its checks.

    Examples
    --------
    >>> is_plain(np.ones((5, 2)), np.arange(5), np.float64, n_features=2)
    True
    >>> is_plain(np.full((5, 2), np.nan), np.arange(5), np.float64, n_features=2)
    False
    """
    return (
        type(X) is np.ndarray
        and type(y) is np.ndarray
        and X.dtype == dtype
        and X.ndim == 2
        and X.shape[1] == n_features
        and X.flags.c_contiguous
        and y.shape == X.shape[:1]
        and y.dtype.kind in "biuU"
        and len(y) > 0
        and all_finite(X)
    )
