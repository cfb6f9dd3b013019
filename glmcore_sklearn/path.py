"""Regularisation paths in scikit-learn's terms."""

import dataclasses
from typing import Any

import jax
import numpy as np
from sklearn.base import clone

import glmcore
from glmcore_sklearn import names
from glmcore_sklearn.classifier import ClassifierGLM
from glmcore_sklearn.reports import ADVICE, report_many


@dataclasses.dataclass(frozen=True, repr=False)
class RegularizationPath:
    """Fits of one estimator at many strengths, the first axis of every array.

    Attributes
    ----------
    strengths : ndarray of shape (n_strengths,)
        What the estimator's own ``regularizer_strength`` was multiplied by.
    coef_ : ndarray of shape (n_strengths, n_features, n_classes), or a pytree of these
    intercept_ : ndarray of shape (n_strengths, n_classes)
    objective : ndarray of shape (n_strengths,)
        Mean negative log-likelihood plus penalty.
    optimality : ndarray of shape (n_strengths,)
        Optimality (KKT) residual, relative to the gradient at the null model.
    n_iter_ : ndarray of int, shape (n_strengths,)
    converged : ndarray of bool, shape (n_strengths,)
    nonzeros : ndarray of int, shape (n_strengths,)
        How many coefficients are not zero.
    classes_ : ndarray of shape (n_classes,)
    feature_names_in_ : ndarray of str, shape (n_features,), or None
    """

    strengths: np.ndarray
    coef_: Any
    intercept_: np.ndarray
    objective: np.ndarray
    optimality: np.ndarray
    n_iter_: np.ndarray
    converged: np.ndarray
    nonzeros: np.ndarray
    classes_: np.ndarray
    feature_names_in_: np.ndarray | None
    _estimator: ClassifierGLM

    def __repr__(self):
        strengths, nonzeros = self.strengths, self.nonzeros
        return (
            f"RegularizationPath({strengths.size} fits, strengths from {strengths.max():.3g} to {strengths.min():.3g}: "
            f"{self.converged.sum()} converged; {nonzeros.min()} to {nonzeros.max()} nonzeros)"
        )

    def estimator(self, index: int) -> ClassifierGLM:
        """A new estimator of the given strength that predicts with its coefficients.

        Parameters
        ----------
        index : int
            Which of ``strengths``.
        """
        model = clone(self._estimator).set_params(
            regularizer_strength=_times(self._estimator, float(self.strengths[index]))
        )
        model.set_classes(self.classes_)
        model.coef_ = jax.tree.map(lambda coef: coef[index], self.coef_)
        model.intercept_ = self.intercept_[index]
        model.n_features_in_ = sum(leaf.shape[1] for leaf in jax.tree.leaves(self.coef_))
        if self.feature_names_in_ is not None:
            model.feature_names_in_ = self.feature_names_in_
        return model


def regularization_path(
    estimator: ClassifierGLM,
    X,
    y,
    strengths=None,
    *,
    n_strengths=100,
    min_ratio=1e-3,
    sample_weight=None,
) -> RegularizationPath:
    """Fit an estimator at many strengths, each fit begun where the last one ended.

    Parameters
    ----------
    estimator : ClassifierGLM
        With the regularizer Ridge, Lasso, ElasticNet or GroupLasso; it stays as it is.  Where a
        ``regularizer_strength`` is given (an array of one an entry, say), it is multiplied.
    X : array-like or DataFrame of shape (n_samples, n_features), or a pytree of 2-D arrays
    y : array-like of shape (n_samples,)
    strengths : array-like of shape (n_strengths,), optional
        Positive factors.  Default: ``n_strengths`` of them, evenly spaced in the logarithm, from
        the least one at which all penalised coefficients are zero (for Ridge 1000 times that of
        the Lasso) to ``min_ratio`` times that.
    n_strengths : int, default 100
    min_ratio : float, default 1e-3
    sample_weight : array-like of shape (n_samples,), optional

    Returns
    -------
    RegularizationPath

    Raises
    ------
    ValueError, TypeError
        If an argument or a parameter of the estimator is bad; the message names it.  If the numbers of a fit overflow.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If some of the fits did not reach ``tol``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from glmcore_sklearn import ClassifierGLM, regularization_path
    >>> X, y = load_iris(return_X_y=True)
    >>> path = regularization_path(ClassifierGLM(3, regularizer="Lasso"), X, y, n_strengths=10)
    >>> path.coef_.shape, int(path.nonzeros[0])
    ((10, 4, 3), 0)
    >>> path.estimator(-1).predict(X[:1])
    array([0])
    """
    if not isinstance(estimator, ClassifierGLM):
        raise TypeError(f"estimator must be a ClassifierGLM, found {type(estimator).__name__}")
    model = clone(estimator)
    batch = model._first_batch(X, y, sample_weight, keep_classes=False)
    glm = model._model()
    solver = model._solver(model._size(batch), path=not glm.penalty.smooth)
    if names.make_callbacks(vars(model)["solver_kwargs"]):
        raise ValueError("a path of fits has no callback and no verbose: leave them out of solver_kwargs")
    found = glmcore.regularization_path(
        glm,
        batch.features.X,
        batch.y,
        strengths,
        n_strengths=n_strengths,
        min_ratio=min_ratio,
        solver=solver,
        sample_weight=batch.weight,
    )
    path, converged = jax.tree.map(np.asarray, (found, found.converged))
    report_many(found, True, lambda i: (solver, f"at strength {path.strengths[i[0]]:.3g}"), ADVICE)
    return RegularizationPath(
        strengths=path.strengths,
        coef_=path.params.coef,
        intercept_=path.params.intercept,
        objective=path.objective,
        optimality=path.optimality,
        n_iter_=path.n_iter,
        converged=converged,
        nonzeros=path.nonzeros,
        classes_=model.classes_,
        feature_names_in_=batch.features.names,
        _estimator=model,
    )


def _times(estimator: ClassifierGLM, factor: float) -> Any:
    """The estimator's strength times ``factor``, as its constructor takes it."""
    strength = estimator.regularizer_strength
    if isinstance(strength, tuple) and isinstance(estimator.regularizer, glmcore.ElasticNet):
        strength, ratio = strength
        return (jax.tree.map(lambda s: factor * s, strength), ratio)
    return jax.tree.map(lambda s: factor * s, strength)
