"""The estimator that looks like the reference and computes with ``glmcore``."""

import jax
import numpy as np

from glmcore_sklearn import reports, single
from glmcore_sklearn.callbacks import TakesCallbacks
from glmcore_sklearn.fitting import FittingGLM


class ClassifierGLM(TakesCallbacks, FittingGLM):
    r"""Multinomial (softmax) generalized linear model for classification.

    .. math:: \min_{w, b} \frac{1}{\sum_i \omega_i} \sum_i \omega_i
        \left(\log \sum_k e^{x_i w_k + b_k} - x_i w_{y_i} - b_{y_i}\right) + P(w)

    There is one column of coefficients for each of the K classes.  Of equivalent optima the
    one of least norm is returned; the intercept sums to zero over the classes.  Features are
    centred and scaled inside, the penalty acts on the user's own scale.

    Parameters
    ----------
    n_classes : int or None, default 2
        Number of classes, at least 2; None takes it from y.
    inverse_link_function : callable, optional
        Maps the linear predictor (..., K) to log-probabilities (..., K); default log-softmax.
    regularizer : str or glmcore penalty, optional
        ``"Ridge"`` (default), ``"Lasso"``, ``"ElasticNet"``, ``"GroupLasso"``, ``"UnRegularized"``
        in any case, or an instance such as ``glmcore.GroupLasso(mask=mask)``.
    regularizer_strength : float, array, tuple or pytree, optional
        Default 1.0; for ElasticNet (strength, ratio), default (1.0, 0.5).  Wins over a strength
        inside an instance.  An array broadcasts to coef_, a pytree mirrors a pytree X.
    solver_name : str or optax.GradientTransformation, optional
        ``"LBFGS"``, ``"Newton"``, ``"BFGS"``, ``"NonlinearCG"``, ``"GradientDescent"``, ``"SVRG"``
        for smooth penalties, ``"ProximalGradient"``, ``"ProximalNewton"``, ``"ProxSVRG"`` for all.
        Default: by the penalty and the size of the fit, see ``glmcore.default_solver``.  An optax
        transformation takes its steps on the scale of X; keep it and pass it again, for each one is
        another program.
    solver_kwargs : dict, optional
        ``tol`` (bound on the optimality residual relative to the null model's, default 1e-5 in
        float32, 1e-8 in float64), ``maxiter``, ``stepsize``, ``memory``, ``batch_size``, ``capacities`` or ``seed``
        where the solver has one; ``verbose=True`` shows progress; ``callback``, one or a list, is called with a
        ``glmcore.FitProgress``, or is a ``glmcore.Checkpoint``.

    Attributes
    ----------
    coef_ : array of shape (n_features, K), or a pytree of these that mirrors X
    intercept_ : array of shape (K,)
    classes_ : ndarray of shape (K,), or None
        Class labels, sorted; None until set.
    n_iter_ : int
        Steps of the last fit; after ``update`` an array of JAX, for which nobody has waited.
    status_ : glmcore.Status
        How it ended, ``running`` after ``update``; ``glmcore.Status[model.status_]`` says it in words.
    solver_state_ : glmcore.SolverState
    scale_ : float
        1: the categorical distribution has no free scale.
    dof_resid_ : int
        Samples used minus free parameters.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X is a DataFrame with string column names.
    held_out_log_likelihood_ : float
        Running mean of the log-likelihood of each batch before its step, see ``glmcore.HeldOut``;
        only after ``update``.

    See Also
    --------
    ClassifierPopulationGLM : many targets on the same features.

    Notes
    -----
    Rows of X that hold a NaN are left out of ``fit``, ``update``, ``score`` and
    ``compute_loss`` with a ``UserWarning``.  Coefficients equal those of scikit-learn's
    ``LogisticRegression(C, l1_ratio=l)`` for K >= 3 at strength 1/(C n) and ratio l; for K = 2
    at strength (2 - l)/(C n) and ratio l/(2 - l), its ``coef_`` being the difference of the two
    columns.

    Examples
    --------
    >>> import numpy as np
    >>> from glmcore_sklearn import ClassifierGLM
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    >>> model = ClassifierGLM(regularizer_strength=0.1).fit(X, ["cat", "cat", "dog", "dog"])
    >>> model.predict(X)
    array(['cat', 'cat', 'dog', 'dog'], dtype='<U3')
    >>> model.predict_proba(X, return_type="proba").shape
    (4, 2)
    >>> model.coef_.shape
    (2, 2)
    """

    _targets = single

    @property
    def held_out_log_likelihood_(self):
        """Running mean of the log-likelihood of each batch before its step; only after ``update``."""
        state = vars(self).get("solver_state_")
        if state is None or not state.held_out.weight > 0:
            raise AttributeError("held_out_log_likelihood_ is there after update")
        return float(state.held_out.mean)

    def _mask(self, batch):
        return None

    def _solver_for(self, batch):
        return self._solver(self._size(batch))

    def _size(self, batch):
        """Parameters and rows of a fit."""
        leaves = jax.tree.leaves(batch.features.X)
        n_features = sum(leaf.shape[1] for leaf in leaves)
        return (n_features + 1) * len(self.classes_), len(leaves[0])

    def _finish(self, result, solver, batch):
        reports.report(result, solver, batch.y, batch.weight, self.classes_)
        if batch.n_used == len(batch.weight):
            return None
        return np.bincount(batch.y[batch.weight > 0], minlength=len(self.classes_)) > 0
