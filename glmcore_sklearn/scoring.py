"""Scores of the cells of a cross-validated grid: from the device, or by a scorer of scikit-learn."""

import inspect

import numpy as np
from sklearn.metrics import get_scorer, make_scorer
from sklearn.utils.validation import _check_method_params

from glmcore_sklearn.logistic import LogisticRegression

#: Scorings that the compiled program of the grid computes.
_ON_DEVICE = {None: "accuracy", "accuracy": "accuracy", "neg_log_loss": "neg_log_loss"}


def computed(scoring, score_params):
    """The name of the scores among those of the grid, None if it takes a scorer."""
    known = scoring is None or isinstance(scoring, str)
    if not known or set(score_params) - {"sample_weight"}:
        return None
    return _ON_DEVICE.get(scoring)


def scorer_of(scoring, classes):
    """A scorer that knows all classes: the rows that a fold holds out may lack some."""
    scorer = get_scorer(scoring)
    accepted = inspect.signature(scorer._score_func).parameters if hasattr(scorer, "_score_func") else ()
    if "labels" not in accepted:
        return scorer
    known = {"labels": classes}
    if len(classes) == 2 and "pos_label" in accepted:
        known["pos_label"] = classes[-1]
    return make_scorer(
        scorer._score_func,
        response_method=scorer._response_method,
        greater_is_better=scorer._sign == 1,
        **known | scorer._kwargs,
    )


def score_cells(scoring, classes, cells, Cs, X, y, tests, score_params):
    """Scores (F, R, S) of the fits of the folds on the rows that they hold out.

    Parameters
    ----------
    scoring : str or callable
    classes : ndarray of shape (K,)
    cells : glmcore_sklearn.grid.Cells
    Cs : ndarray of shape (S,)
    X : ndarray of shape (n, p)
    y : ndarray of shape (n,)
        Labels.
    tests : sequence of F index arrays
    score_params : dict
        What else the scorer takes; arrays of n entries are cut to the rows.
    """
    scorer = scorer_of(scoring, classes)
    scores = np.empty((len(tests), *cells.n_iter.shape[1:]))
    for fold, ratio, index in np.ndindex(scores.shape):
        model = LogisticRegression(C=Cs[index])
        model.classes_ = classes
        model.coef_, model.intercept_ = cells.coef[fold, ratio, index], cells.intercept[fold, ratio, index]
        test = tests[fold]
        params = _check_method_params(X=X, params=score_params, indices=test)
        scores[fold, ratio, index] = _as_number(scorer(model, X[test], y[test], **params))
    return scores


def _as_number(score):
    value = np.asarray(score)
    if value.size != 1 or value.dtype.kind not in "biuf":
        raise ValueError(f"scoring must return a single number, got {score!r} ({type(score)}) instead")
    return value.item()
