"""One model a target: many targets on the same features."""

import numpy as np

from glmcore_sklearn import many, reports
from glmcore_sklearn.fitting import FittingGLM
from glmcore_sklearn.inputs import check_mask


class ClassifierPopulationGLM(FittingGLM):
    r"""Multinomial (softmax) generalized linear models of many targets on the same features.

    Each of the N targets gets the coefficients that :class:`ClassifierGLM` would give it: its fit stops by itself and
    has a status of its own.  They are fitted together by one compiled program, in which they share the products with X.

    Parameters
    ----------
    n_classes, inverse_link_function, regularizer, regularizer_strength, solver_name, solver_kwargs
        Those of :class:`ClassifierGLM`, the same for every target.  By default ``"LBFGS"`` fits all targets side by
        side if the penalty is smooth; with other penalties and solvers one target is fitted after the other.
    feature_mask : array of 0/1 of shape (n_features, N, K), or a pytree of these that mirrors X, optional
        Coefficients are zero where it is 0.  Default: none are held.

    Attributes
    ----------
    coef_ : array of shape (n_features, N, K), or a pytree of these that mirrors X
    intercept_ : array of shape (N, K)
    classes_ : ndarray of shape (K,), or None
        The labels of all targets, sorted; None until set.
    n_iter_ : ndarray of int, shape (N,)
        Steps of the last fit of each target.
    status_ : glmcore.Status, a batch of N
        How these ended; ``glmcore.status_name(model.status_)`` lists their names.
    solver_state_ : glmcore.SolverState
        After :meth:`update` only: the states of N solvers may be larger than the data.
    scale_ : float
        1: the categorical distribution has no free scale.
    dof_resid_ : ndarray of int, shape (N,)
        Samples used minus free parameters, of each target.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X is a DataFrame with string column names.

    See Also
    --------
    ClassifierGLM : one target.

    Notes
    -----
    Methods are those of :class:`ClassifierGLM`, with y of shape (n_samples, N), log-probabilities of shape
    (n_samples, N, K) and a ``sample_weight`` that all targets share; ``score`` and ``compute_loss`` average over
    samples and targets.  A target that lacks some of the classes is fitted on those it has, with a ``UserWarning``: the
    others have coefficients 0 and an intercept that makes their probability 0.

    Examples
    --------
    >>> import numpy as np
    >>> from glmcore_sklearn import ClassifierPopulationGLM
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    >>> y = np.array([["off", "on", "off"], ["on", "off", "off"], ["off", "on", "on"], ["on", "off", "on"]])
    >>> model = ClassifierPopulationGLM(regularizer_strength=0.1).fit(X, y)
    >>> model.coef_.shape, model.intercept_.shape
    ((2, 3, 2), (3, 2))
    >>> model.predict(X)[:, 2]
    array(['off', 'off', 'on', 'on'], dtype='<U3')
    """

    def __init__(
        self,
        n_classes=2,
        inverse_link_function=None,
        regularizer=None,
        regularizer_strength=None,
        solver_name=None,
        solver_kwargs=None,
        feature_mask=None,
    ):
        super().__init__(
            n_classes, inverse_link_function, regularizer, regularizer_strength, solver_name, solver_kwargs
        )
        self.feature_mask = feature_mask

    _targets = many

    def _mask(self, batch):
        if self.feature_mask is None:
            return None
        return check_mask(self.feature_mask, batch.features.X, (batch.y.shape[1], len(self.classes_)))

    def _solver_for(self, batch):
        return self._solver()

    def _finish(self, result, solver, batch):
        used = batch.y[batch.weight > 0] if batch.n_used < len(batch.weight) else batch.y
        present = np.stack([(used == index).any(axis=0) for index in range(len(self.classes_))], axis=1)
        reports.report_targets(result, solver, present, self.classes_)
        return present
