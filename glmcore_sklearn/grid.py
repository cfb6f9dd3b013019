"""Cross-validation of a softmax over strengths of its penalty: one compiled program for all folds and strengths."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from glmcore_sklearn import softmax

#: Between what scikit-learn clips the log-likelihood of a row, whatever the dtype of X: its fits are in float64.
_CLIP = np.log(np.finfo(float).eps), np.log1p(-np.finfo(float).eps)
#: Share of the bend of the last three answers that the guess at the next has; all of it goes too far.
_BEND = 0.7


class Cells(NamedTuple):
    """Fits of all folds, l1 ratios and strengths, the first axes of every array, and their scores on the rows held out.

    ``coef`` (F, R, S, rows, p) and ``intercept`` (F, R, S, rows) have scikit-learn's shapes: ``rows`` is K, or 1 for
    K = 2.
    """

    coef: Any
    intercept: Any
    n_iter: Any
    status: Any
    optimality: Any
    converged: Any
    neg_log_loss: Any
    accuracy: Any


class Folds(NamedTuple):
    """Weights (F, n) of all rows in the fits of the folds and in their scores."""

    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, splits, weight, score_weight, whole):
        """The folds of (train, test), indices that may repeat rows or masks; ``whole`` adds, as the last one, a fold
        that holds nothing out.

        ``weight`` and ``score_weight`` (n,) are those of the rows themselves.
        """
        rows = np.arange(len(weight))
        train, test = (
            np.stack([np.bincount(rows[part], minlength=len(rows)) for part in parts]) for parts in zip(*splits)
        )
        if whole:
            train, test = np.vstack([train, np.ones_like(train[:1])]), np.vstack([test, np.zeros_like(test[:1])])
        return cls((train * weight).astype(weight.dtype), (test * score_weight).astype(weight.dtype))


def fit_grid(X, y, n_classes, folds, Cs, l1_ratios, fit_intercept, solvers):
    """Fit every C and l1 ratio in every fold, from the strongest penalty on, each begun where the last three answers,
    over log C, lead.

    A fold's strength is that of the weight it trains on, as in separate fits.  There is one compiled program, or two
    if some l1 ratios are 0 and some are not.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    y : ndarray of shape (n,)
        Class indices.
    n_classes : int
    folds : Folds
    Cs : ndarray of shape (S,)
        In any order.
    l1_ratios : ndarray of shape (R,)
    fit_intercept : bool
    solvers : sequence of R glmcore.AbstractSolver

    Returns
    -------
    Cells
        NumPy arrays, in the order of ``Cs``.
    """
    order = np.argsort(Cs, kind="stable")
    totals = folds.train.sum(axis=1, keepdims=True, dtype=np.float64)
    X, y, train, test = glmcore.pad_rows(X, y.astype(np.int32), folds.train.T, folds.test.T)
    rows = X, y, np.ascontiguousarray(train.T), np.ascontiguousarray(test.T)
    found = []
    for l1_ratio, solver in zip(l1_ratios, solvers):
        strengths, ratio = softmax.strength_and_ratio(Cs[order], l1_ratio, totals, n_classes)
        ratio = None if l1_ratio == 0 else np.asarray(ratio, X.dtype)
        path = strengths.astype(X.dtype), _lead(Cs[order]).astype(X.dtype)
        how = ratio, n_classes, bool(fit_intercept), solver
        cells = _finished(_fits_of_folds(*rows, *path, *how), *rows, path[0], *how)
        found.append(jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], cells))
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *found)


def best_cells(scores, refit):
    """Indices (folds, ratios, strengths) of the fits whose mean is the answer.

    With ``refit`` that of all rows, the fold after those of ``scores`` (F, R, S), with the best sum of scores; else the
    best of each fold.  Of equal scores the first counts, strengths before ratios.

    Examples
    --------
    >>> scores = np.array([[[1.0, 3.0, 2.0]], [[1.0, 0.0, 2.0]]])
    >>> best_cells(scores, refit=True)
    (array([2]), array([0]), array([2]))
    """
    n_folds, *shape = scores.shape
    flat = np.swapaxes(scores, 1, 2).reshape(n_folds, -1)
    best, folds = flat.argmax(axis=1), np.arange(n_folds)
    if refit:
        best, folds = flat.sum(axis=0, keepdims=True).argmax(axis=1), np.array([n_folds])
    strengths, ratios = np.unravel_index(best, shape[::-1])
    return folds, ratios, strengths


def _lead(Cs):
    """Weights (S, 3) of the last three answers, the last one last, in the guess at the next: on the parabola through
    them over log C, but for a part of its bend.

    No step that leads ahead is longer than those that it is learnt from.

    Examples
    --------
    >>> _lead(np.array([1.0, 10.0, 100.0, 1000.0])).round(1)
    array([[ 0. ,  0. ,  1. ],
           [ 0. ,  0. ,  1. ],
           [ 0. , -1. ,  2. ],
           [ 0.7, -2.4,  2.7]])
    """
    steps = np.diff(np.log(np.minimum(Cs, np.finfo(float).max)))
    weights = np.zeros((len(Cs), 3))
    weights[:, 2] = 1
    for i in range(2, len(Cs)):
        before, ahead = steps[i - 2], min(steps[i - 2], steps[i - 1])
        earlier = steps[i - 3] if i > 2 else 0
        if before > 0:
            weights[i] += ahead / before * np.array([0, -1, 1])
        if min(before, earlier) > 0:
            ahead = min(ahead, earlier)
            bend = _BEND * ahead * (ahead + before) / (before + earlier)
            weights[i] += bend * (np.array([0, -1, 1]) / before - np.array([-1, 1, 0]) / earlier)
    return weights


def _finished(cells, X, y, train, test, strengths, ratio, n_classes, fit_intercept, solver):
    """On the host, with those that had trouble side by side fitted again, by a program that is compiled when it is
    needed."""
    unfinished = np.array(glmcore.status_name(cells.status)) == "running"
    cells = jax.tree.map(np.array, cells)
    for fold, strength in zip(*np.nonzero(unfinished)):
        model = _model(strengths[fold, strength], ratio, n_classes, fit_intercept)
        alone = _fit_cell(model, X, y, train[fold], test[fold], solver)
        jax.tree.map(lambda leaf, found: np.copyto(leaf[fold, strength, ...], found), cells, alone)
    return cells


@glmcore.quick_jit
def _fit_cell(model, X, y, train, test, solver):
    return _cell(model, glmcore.fit(model, X, y, solver=solver, sample_weight=train), X, y, test)


def _model(strength, ratio, n_classes, fit_intercept):
    penalty = glmcore.Ridge(strength) if ratio is None else glmcore.ElasticNet(strength, ratio)
    return glmcore.GLM(glmcore.Categorical(n_classes), penalty, fit_intercept=fit_intercept)


@glmcore.quick_jit
def _fit_cells(X, y, train, test, strengths, lead, ratio, n_classes, fit_intercept, solver):
    model = partial(_model, ratio=ratio, n_classes=n_classes, fit_intercept=fit_intercept)

    def fit(start, train, test, strength):
        glm = model(strength)
        found = glmcore.fit(glm, X, y, solver=solver, init_params=start, sample_weight=train, retry=False)
        return found.params, _cell(glm, found, X, y, test)

    def forward(last, now):
        strengths, lead = now
        start = jax.tree.map(lambda *answers: sum(w * x for w, x in zip(lead, answers)), *last)
        found, cells = jax.vmap(fit)(start, train, test, strengths)
        return (*last[1:], found), cells

    start = jax.vmap(lambda train: model(1.0).initialize_params(X, y, train))(train)
    _, cells = jax.lax.scan(forward, (start, start, start), (strengths.T, lead))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), cells)


#: In threads: one program of all folds leaves cores idle.
_fits_of_folds = glmcore.on_cores(_fit_cells, in_axes=(None, None, 0, 0, 0, None, None, None, None, None))


def _cell(model, found, X, y, test):
    coef, intercept = softmax.rows(found.params)
    log_proba = model.log_proba(found.params, X)
    log_likelihood = jnp.take_along_axis(log_proba, y[:, None], axis=1)[:, 0]
    right = (jnp.argmax(log_proba, axis=1) == y).astype(X.dtype)
    return Cells(
        coef=coef,
        intercept=intercept,
        n_iter=found.n_iter,
        status=found.status,
        optimality=found.optimality,
        converged=found.converged,
        neg_log_loss=_mean(jnp.clip(log_likelihood, *_CLIP), test),
        accuracy=_mean(right, test),
    )


def _mean(scores, weight):
    return jnp.sum(weight * scores) / jnp.sum(weight)
