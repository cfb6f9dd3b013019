"""What an estimator says once it has coefficients."""

import abc
import types

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore_sklearn import batches, labels
from glmcore_sklearn.configuration import ConfiguredGLM
from glmcore_sklearn.inputs import check_coef, check_features, check_params, check_same_features
from glmcore_sklearn.warn import warn

_SCORES = ("log-likelihood", "pseudo-r2-McFadden", "pseudo-r2-Cohen")


class PredictingGLM(ClassifierMixin, ConfiguredGLM):
    """Classes, predictions and scores of one target or of many.

    Shapes are those of one target; many have an axis of targets last in y, and before the classes elsewhere.
    """

    @property
    @abc.abstractmethod
    def _targets(self) -> types.ModuleType:
        """What is computed: :mod:`glmcore_sklearn.single` or :mod:`glmcore_sklearn.many`."""

    # Classes

    def set_classes(self, y):
        """Set ``classes_`` to the labels that y holds.

        Parameters
        ----------
        y : array-like of shape (n,)
            Labels; every class at least once.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the number of distinct labels is not ``n_classes``.

        Examples
        --------
        >>> from glmcore_sklearn import ClassifierGLM
        >>> ClassifierGLM(3).set_classes(["b", "a", "c"]).classes_
        array(['a', 'b', 'c'], dtype='<U1')
        """
        n_axes = self._targets.LABEL_AXES
        if n_axes > 1:  # the labels alone will do
            n_axes = min(n_axes, np.ndim(y))
        self._classes = self._infer_classes(labels.as_labels(y, n_axes=n_axes))
        return self

    # What a model says

    def predict(self, X):
        """The most probable label of each row of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays

        Returns
        -------
        ndarray of shape (n_samples,), in the dtype of ``classes_``

        Raises
        ------
        NotFittedError
            If there are no classes or no coefficients.
        ValueError
            If X holds NaN or infinity or differs from the features of the fit.
        """
        features, params = self._fitted("predict", X, nan="raise")
        index = self._targets.predict(self._predictor(), params, *glmcore.pad_rows(features.X))
        return labels.decode(np.asarray(_first_rows(index, features.X)), self.classes_)

    def predict_proba(self, X, return_type="log-proba"):
        """Log-probability or probability of every class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
            Rows with a NaN give rows of NaN.
        return_type : {"log-proba", "proba"}, default "log-proba"

        Returns
        -------
        array of shape (n_samples, K)
        """
        if not isinstance(return_type, str) or return_type not in ("log-proba", "proba"):
            raise ValueError(
                f"return_type must be 'log-proba' or 'proba', found {return_type!r}"
            )
        features, params = self._fitted("predict_proba", X, nan="keep")
        padded = glmcore.pad_rows(features.X)
        log_proba = self._targets.log_proba(self._predictor(), params, *padded)
        log_proba = jax.device_put(_first_rows(log_proba, features.X))
        return log_proba if return_type == "log-proba" else jnp.exp(log_proba)

    def score(
        self,
        X,
        y,
        score_type="log-likelihood",
        aggregate_sample_scores=jnp.mean,
        *,
        sample_weight=None,
    ):
        """Mean log-likelihood of y, or a pseudo-R².

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
        y : array-like of shape (n_samples,)
            Labels out of ``classes_``.
        score_type : {"log-likelihood", "pseudo-r2-McFadden", "pseudo-r2-Cohen"}
            The pseudo-R² are 1 - ll / ll0 with ll0 from the class proportions of y; the two
            coincide, since the log-likelihood of the saturated model is 0.
        aggregate_sample_scores : callable, default jnp.mean
            Turns the log-likelihoods of the samples into one number.
        sample_weight : array-like of shape (n_samples,), optional
            Log-likelihoods are multiplied by their weight relative to the mean weight, so that
            their mean is the weighted one.

        Returns
        -------
        array
            NaN, with a warning, for a pseudo-R² where y holds one class only.
        """
        if not isinstance(score_type, str) or score_type not in _SCORES:
            raise ValueError(f"score_type must be one of {', '.join(_SCORES)}; found {score_type!r}")
        if not callable(aggregate_sample_scores):
            raise TypeError(
                f"aggregate_sample_scores must be callable, found {aggregate_sample_scores!r}"
            )
        self._check_fitted("score")
        batch = self._batch("score", X, y, sample_weight)
        params = self._params_for(batch.features, batch)
        X, y, weight = batch.features.X, batch.y, batch.weight
        if batch.features.used is not None:
            X, y, weight = jax.tree.map(lambda x: x[batch.features.used], (X, y, weight))
        weight = (weight / weight.mean(dtype=np.float64)).astype(weight.dtype)
        model = self._predictor()
        padded_X, padded_y, padded_weight = self._targets.pad_rows(X, y, weight)
        relative = weight.reshape(-1, *[1] * (y.ndim - 1))
        sample_scores = self._targets.log_likelihood(model, params, padded_X, padded_y)
        score = aggregate_sample_scores(_weighted(relative, _first_rows(sample_scores, X)))
        if score_type == "log-likelihood":
            return score
        null = self._targets.null_log_likelihood(model, padded_y, padded_weight)
        null = aggregate_sample_scores(_weighted(relative, _first_rows(null, X)))
        undefined = null == 0
        if np.any(undefined):
            warn(
                f"{score_type} is not defined: y holds one class only, so the log-likelihood of "
                "the null model is 0",
            )
        return jnp.where(undefined, jnp.nan, 1 - score / jnp.where(undefined, 1, null))

    def compute_loss(self, params, X, y, *args, **kwargs):
        """Mean negative log-likelihood, without the penalty; ``jax.grad`` differentiates it.

        Parameters
        ----------
        params : (coef, intercept)
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
        y : array-like of shape (n_samples,)
            Labels out of ``classes_``.
        *args, **kwargs
            ``sample_weight``, array-like of shape (n_samples,).

        Returns
        -------
        array
        """
        batch = self._batch("compute_loss", X, y, compute_loss(*args, **kwargs))
        params = self._check_params(params, batch, argument="params")
        padded = self._targets.pad_rows(batch.features.X, batch.y, batch.weight)
        return self._targets.loss(self._predictor(), params, *padded)

    def simulate(self, random_key, feedforward_input):
        """Draw a label for each row of the features.

        Parameters
        ----------
        random_key : jax.Array
            A key of ``jax.random``.
        feedforward_input : array-like of shape (n_samples, n_features), or a pytree of these

        Returns
        -------
        y : ndarray of shape (n_samples,), in the dtype of ``classes_``
        log_prob : array of shape (n_samples,)
            Log-probability of each drawn label.
        """
        features, params = self._fitted("simulate", feedforward_input, nan="raise", argument="feedforward_input")
        index, log_prob = self._targets.simulate(self._predictor(), random_key, params, features.X)
        return labels.decode(np.asarray(index), self.classes_), log_prob

    # Pieces

    def __sklearn_is_fitted__(self):
        return self.classes_ is not None and "coef_" in vars(self) and "intercept_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        several = self._targets.LABEL_AXES > 1
        tags.target_tags.multi_output, tags.target_tags.single_output = several, not several
        return tags

    def _infer_classes(self, found):
        classes = labels.infer_classes(found)
        labels.check_class_count(classes, labels.check_n_classes(vars(self)["n_classes"]))
        return classes

    def _batch(self, method, X, y, sample_weight=None):
        """Checked data of a call that needs classes."""
        self._check_classes(method)
        features, found = batches.read(X, y, self._targets.LABEL_AXES)
        return batches.encode(features, found, self.classes_, sample_weight)

    def _check_classes(self, method):
        if self.classes_ is None:
            raise labels.ClassesNotSetError(
                "Classes are not set. Must call ``set_classes`` before calling "
                f"``{method}``, or ``fit``, which sets them"
            )

    def _check_fitted(self, method):
        self._check_classes(method)
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance has no coefficients yet. Call ``fit``, or "
                f"set ``coef_`` and ``intercept_``, before calling ``{method}``"
            )

    def _fitted(self, method, X, nan, argument="X"):
        """Checked features and parameters of a call that needs both."""
        self._check_fitted(method)
        features = check_features(X, argument=argument, nan=nan)
        return features, self._params_for(features, argument=argument)

    def _params_for(self, features, batch=None, argument="X"):
        """The parameters, which may have been set by hand, if features and labels are theirs."""
        n_axes = self._targets.LABEL_AXES
        coef = check_coef(self.coef_, n_axes + 1)
        fitted = jax.tree.map(lambda leaf: leaf.shape[0], coef)
        fitted_names = vars(self).get("feature_names_in_")
        check_same_features(features, fitted, fitted_names, argument=argument, estimator=type(self).__name__)
        targets = np.shape(self.intercept_)[: n_axes - 1]
        if batch is not None and batch.y.shape[1:] != targets:
            raise ValueError(
                f"y has {batch.y.shape[1]} targets, but {type(self).__name__} is expecting {targets[0]} of them"
            )
        shape = (*targets, len(self.classes_))
        return check_params((coef, self.intercept_), features.X, shape, argument=None)

    def _check_params(self, params, batch, **kwargs):
        """A pair (coef, intercept) of a user, if it fits features and labels."""
        shape = (*batch.y.shape[1:], len(self.classes_))
        return check_params(params, batch.features.X, shape, **kwargs)


def _first_rows(values, X):
    """The rows that X had before it was padded; cut on the host, where that needs no program."""
    n_rows = jax.tree.leaves(X)[0].shape[0]
    return values if len(values) == n_rows else np.asarray(values)[:n_rows]


def _weighted(weight, values):
    # Of a class all of whose rows have weight 0 the null log-likelihood is minus infinity.
    return jax.device_put(weight * (values if weight.all() else np.where(weight > 0, values, 0)))


def compute_loss(sample_weight=None):
    """What the method takes besides, under its name: Python's errors give it."""
    return sample_weight
