"""What a fitted ``coef_`` and ``intercept_`` say, in the shapes of scikit-learn's linear classifiers."""

import numpy as np
import scipy.sparse
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from glmcore_sklearn.inputs import check_numbers


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Predictions from ``coef_`` (K, p), ``intercept_`` (K,) and ``classes_``; one row for K = 2.

    A product and a softmax: NumPy on the host, without a program to compile.
    """

    def decision_function(self, X):
        """Linear predictor of every class; for two classes that of the second over the first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, K), or (n_samples,) for K = 2
        """
        check_is_fitted(self)
        check_numbers(X)
        X = validate_data(self, X, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X):
        """The most probable label of each row of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), in the dtype of ``classes_``
        """
        scores = self.decision_function(X)
        index = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[index]

    def predict_log_proba(self, X):
        """Log-probability of every class, finite where the probability underflows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, K)
        """
        return log_softmax(self.decision_function(X))

    def predict_proba(self, X):
        """Probability of every class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, K)
        """
        return np.exp(self.predict_log_proba(X))

    def sparsify(self):
        """Turn ``coef_`` into a CSR matrix, which pays where an l1 penalty made most of it 0.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        self.coef_ = scipy.sparse.csr_matrix(self.coef_)
        return self

    def densify(self):
        """Turn ``coef_`` back into an ndarray.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        if scipy.sparse.issparse(self.coef_):
            self.coef_ = self.coef_.toarray()
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self.solver != "liblinear"
        return tags

    def _validate_params(self):
        if not get_config()["skip_parameter_validation"]:
            super()._validate_params()


def log_softmax(scores):
    """Log-probabilities (n, K) of a decision function (n, K), or (n,) for two classes.

    Examples
    --------
    >>> log_softmax(np.zeros(1)).round(3)
    array([[-0.693, -0.693]])
    """
    # Classes first: in NumPy a sum over an axis of a few takes ten times as long as one over rows.
    rows = np.stack([np.zeros_like(scores), scores]) if scores.ndim == 1 else scores.T.copy()
    rows = rows - rows.max(axis=0)
    rows = rows - np.log(np.exp(rows).sum(axis=0))
    return np.ascontiguousarray(rows.T)
