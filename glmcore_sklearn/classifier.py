"""The estimator that looks like the reference and computes with ``glmcore``."""

import numbers
import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import NotFittedError

import glmcore
from glmcore_sklearn import batches, labels, names, persistence, reports
from glmcore_sklearn.atomic import unchanged_on_error
from glmcore_sklearn.configuration import ConfiguredGLM
from glmcore_sklearn.inputs import (
    check_coef,
    check_features,
    check_params,
    check_same_features,
)

_SCORES = ("log-likelihood", "pseudo-r2-McFadden", "pseudo-r2-Cohen")


class StepResult(NamedTuple):
    """What :meth:`ClassifierGLM.update` returns."""

    params: tuple
    state: glmcore.SolverState


class ClassifierGLM(ClassifierMixin, ConfiguredGLM):
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
        Default: ProximalGradient if the penalty is not smooth, else LBFGS, but Newton in a fit of
        at most 128 parameters.  An optax transformation takes its steps on the scale of X; keep it and
        pass it again, for each one is another program.
    solver_kwargs : dict, optional
        ``tol`` (bound on the optimality residual relative to the null model's, default 3e-6 in
        float32, 1e-8 in float64), ``maxiter``, ``stepsize``, ``memory``, ``batch_size`` or
        ``seed`` where the solver has one; ``verbose=True`` shows progress, ``callback`` is called with a
        ``glmcore.FitProgress``.

    Attributes
    ----------
    coef_ : array of shape (n_features, K), or a pytree of these that mirrors X
    intercept_ : array of shape (K,)
    classes_ : ndarray of shape (K,), or None
        Class labels, sorted; None until set.
    n_iter_ : int
        Steps of the last fit.
    status_ : glmcore.Status
        How it ended; ``glmcore.Status[model.status_]`` says it in words.
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

    # The optimizer as functions

    @property
    def optimizer_init_state(self):
        """``(params, X, y) -> state``; None before fit or initialize_optimizer_and_state."""
        return self._if_instantiated(self._optimizer_init_state)

    @property
    def optimizer_update(self):
        """``(params, state, X, y) -> (params, state, objective)``, without touching the
        estimator; None before fit or initialize_optimizer_and_state."""
        return self._if_instantiated(self._optimizer_update)

    @property
    def optimizer_run(self):
        """``(params, X, y) -> (params, state, result)``, a whole fit without touching the
        estimator; None before fit or initialize_optimizer_and_state."""
        return self._if_instantiated(self._optimizer_run)

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
        self._classes = self._infer_classes(labels.as_labels(y))
        return self

    # Fitting

    def fit(self, X, y, init_params=None, *, sample_weight=None):
        """Fit the model; if this raises, the estimator is as it was.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or a pytree of 2-D arrays
            Features.
        y : array-like of shape (n_samples,)
            Labels.
        init_params : (coef, intercept), optional
            Where to start; default the model of the class frequencies.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter of the constructor is bad; the message names it.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the optimality residual did not reach ``tol``: steps, residual and what to change.
        """
        with unchanged_on_error(self):
            batch = self._first_batch(X, y, sample_weight, keep_classes=False)
            model = self._model()
            n_features = sum(leaf.shape[1] for leaf in jax.tree.leaves(batch.features.X))
            solver = self._solver(n_params=(n_features + 1) * len(self.classes_))
            if init_params is not None:
                n_classes = len(self.classes_)
                init_params = check_params(init_params, batch.features.X, n_classes)
                init_params = glmcore.GLMParams(*init_params)
            callback = names.make_callback(vars(self)["solver_kwargs"])
            result = self._run(model, solver, init_params, batch, callback)
            reports.warn_of_unused_strength(self.regularizer, vars(self)["regularizer_strength"])
            reports.report(result, solver, batch.y, batch.weight, self.classes_)
            self._store(model, result.params, result.state, batch)
            self.dof_resid_ = int(self.dof_resid_)
            self.n_iter_ = int(result.n_iter)
            self.status_ = result.status
        return self

    def initialize_params(self, X, y):
        """Zero coefficients, and log class frequencies minus their mean as intercept.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
        y : array-like of shape (n_samples,)
            Labels out of ``classes_``; a class that y lacks counts as half a sample.

        Returns
        -------
        (coef, intercept)

        Raises
        ------
        ClassesNotSetError
            If classes are not set.
        ValueError
            If y holds a label that is not in ``classes_``.
        """
        batch = self._batch("initialize_params", X, y)
        padded = glmcore.pad_rows(batch.features.X, batch.y, batch.weight)
        params = _initialize(self._predictor(), *padded)
        return params.coef, params.intercept

    def initialize_optimizer_and_state(self, init_params, X, y):
        """State for :meth:`update`; it freezes centre and scale of these data.

        Classes that are set are kept, and y may lack some of them; else they are taken from y.

        Parameters
        ----------
        init_params : (coef, intercept)
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
        y : array-like of shape (n_samples,)

        Returns
        -------
        glmcore.SolverState

        Raises
        ------
        ValueError
            If an argument is bad, or y lacks classes that are not set.
        """
        with unchanged_on_error(self):
            batch = self._first_batch(X, y, None, keep_classes=True)
            state = self._init_state(init_params, batch)
            self._has_optimizer = True
        return state

    def update(self, params, opt_state, X, y, *args, n_samples=None, **kwargs):
        """One compiled step of the solver on a batch; sets the fitted attributes too.

        Memory stays as it is, and batches that are smaller than the last one run its program.

        Parameters
        ----------
        params : (coef, intercept)
        opt_state : glmcore.SolverState
            From :meth:`initialize_optimizer_and_state` or the last update.
        X : array-like of shape (n_samples, n_features), or a pytree of 2-D arrays
        y : array-like of shape (n_samples,)
            Labels out of ``classes_``; a batch may lack some of them.
        n_samples : int, optional
            Samples in all batches together, for ``dof_resid_``; default those of the batch.
        *args, **kwargs
            For the solver: ``sample_weight``, array-like of shape (n_samples,).

        Returns
        -------
        StepResult
            A named tuple (params, state).

        Raises
        ------
        ClassesNotSetError
            If classes are not set.
        ValueError
            If y holds a label that is not in ``classes_``; nothing changes then.

        Examples
        --------
        >>> import optax
        >>> from sklearn.datasets import load_digits
        >>> from glmcore_sklearn import ClassifierGLM
        >>> X, y = load_digits(return_X_y=True)
        >>> model = ClassifierGLM(10, regularizer_strength=1e-4, solver_name=optax.adam(0.01)).set_classes(y)
        >>> params = model.initialize_params(X[:100], y[:100])
        >>> state = model.initialize_optimizer_and_state(params, X[:100], y[:100])
        >>> for start in range(0, len(y), 100):
        ...     batch = slice(start, start + 100)
        ...     params, state = model.update(params, state, X[batch], y[batch])
        >>> model.held_out_log_likelihood_ > -1
        True
        """
        weight = kwargs.pop("sample_weight", None)
        if n_samples is not None and not (isinstance(n_samples, numbers.Integral) and n_samples > 0):
            raise ValueError(f"n_samples must be a positive integer or None, found {n_samples!r}")
        if args or kwargs:
            extra = [*map(repr, args), *kwargs]
            raise TypeError(
                f"solver {type(self._solver(state=opt_state)).__name__} takes no argument but "
                f"sample_weight in update, found {', '.join(extra)}"
            )
        batch = self._batch("update", X, y, weight)
        model = self._model()
        params = check_params(
            params, batch.features.X, len(self.classes_), argument="params", values=False
        )
        params, state = self._step(model, params, opt_state, batch, vars(self).get("_batch_rows", 0))
        self._store(model, params, state, batch, n_samples)
        self._batch_rows = len(batch.y)
        self.n_iter_, self.status_ = state.n_iter, glmcore.Status.running
        return StepResult((params.coef, params.intercept), state)

    @property
    def held_out_log_likelihood_(self):
        """Running mean of the log-likelihood of each batch before its step; only after ``update``."""
        state = vars(self).get("solver_state_")
        if state is None or not state.held_out.weight > 0:
            raise AttributeError("held_out_log_likelihood_ is there after update")
        return float(state.held_out.log_likelihood)

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
        index = _predict(self._predictor(), params, *glmcore.pad_rows(features.X))
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
        if return_type not in ("log-proba", "proba"):
            raise ValueError(
                f"return_type must be 'log-proba' or 'proba', found {return_type!r}"
            )
        features, params = self._fitted("predict_proba", X, nan="keep")
        log_proba = _log_proba(self._predictor(), params, *glmcore.pad_rows(features.X))
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
        if score_type not in _SCORES:
            raise ValueError(f"score_type must be one of {', '.join(_SCORES)}; found {score_type!r}")
        if not callable(aggregate_sample_scores):
            raise TypeError(
                f"aggregate_sample_scores must be callable, found {aggregate_sample_scores!r}"
            )
        self._check_fitted("score")
        batch = self._batch("score", X, y, sample_weight)
        params = self._params_for(batch.features)
        X, y, weight = batch.features.X, batch.y, batch.weight
        if batch.features.used is not None:
            X, y, weight = jax.tree.map(lambda x: x[batch.features.used], (X, y, weight))
        model = self._predictor()
        padded_X, padded_y, padded_weight = glmcore.pad_rows(X, y, weight)
        relative = weight / weight.mean()
        sample_scores = glmcore.log_likelihood(model, params, padded_X, padded_y)
        score = aggregate_sample_scores(jax.device_put(relative * _first_rows(sample_scores, X)))
        if score_type == "log-likelihood":
            return score
        null = glmcore.null_log_likelihood(model, padded_y, padded_weight)
        null = aggregate_sample_scores(jax.device_put(relative * _first_rows(null, X)))
        if np.all(null == 0):
            warnings.warn(
                f"{score_type} is not defined: y holds one class only, so the log-likelihood of "
                "the null model is 0",
                stacklevel=2,
            )
            return jnp.full_like(score, jnp.nan)
        return 1 - score / null

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
        batch = self._batch("compute_loss", X, y, _only_weight(*args, **kwargs))
        coef, intercept = check_params(
            params, batch.features.X, len(self.classes_), argument="params"
        )
        params = glmcore.GLMParams(coef, intercept)
        padded = glmcore.pad_rows(batch.features.X, batch.y, batch.weight)
        return _loss(self._predictor(), params, *padded)

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
        features, params = self._fitted("simulate", feedforward_input, nan="raise")
        index, log_prob = _simulate(self._predictor(), random_key, params, features.X)
        return labels.decode(np.asarray(index), self.classes_), log_prob

    # Persistence and scikit-learn

    def save_params(self, filename):
        """Write the estimator to an ``.npz`` file without pickle, all of it or nothing.

        Parameters
        ----------
        filename : str or path
            ``.npz`` is appended where it is missing.  Read it with ``load_model``.
        """
        persistence.save_model(self, filename)

    def __sklearn_is_fitted__(self):
        return self.classes_ is not None and "coef_" in vars(self) and "intercept_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # Pieces

    def _infer_classes(self, found):
        classes = labels.infer_classes(found)
        labels.check_class_count(classes, labels.check_n_classes(vars(self)["n_classes"]))
        return classes

    def _first_batch(self, X, y, sample_weight, keep_classes):
        """Checked data of a call that may set the classes."""
        self._solver()  # names are checked before data
        features, found = batches.read(X, y)
        if not (keep_classes and self.classes_ is not None):
            self._classes = self._infer_classes(found)
            batches.check_no_class_lost(features, found, self._classes)
        return batches.encode(features, found, self.classes_, sample_weight)

    def _batch(self, method, X, y, sample_weight=None):
        """Checked data of a call that needs classes."""
        self._check_classes(method)
        features, found = batches.read(X, y)
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

    def _fitted(self, method, X, nan):
        """Checked features and parameters of a call that needs both."""
        self._check_fitted(method)
        features = check_features(X, nan=nan)
        return features, self._params_for(features)

    def _params_for(self, features):
        """The parameters, which may have been set by hand, if the features are theirs."""
        coef = check_coef(self.coef_)
        fitted = jax.tree.map(lambda leaf: leaf.shape[0], coef)
        fitted_names = vars(self).get("feature_names_in_")
        check_same_features(features, fitted, fitted_names, estimator=type(self).__name__)
        n_classes = len(self.classes_)
        pair = check_params((coef, self.intercept_), features.X, n_classes, argument=None)
        return glmcore.GLMParams(*pair)

    def _init_state(self, params, batch):
        params = check_params(params, batch.features.X, len(self.classes_))
        return glmcore.init_state(
            self._model(),
            glmcore.GLMParams(*params),
            batch.features.X,
            batch.y,
            solver=self._solver(),
            sample_weight=batch.weight,
        )

    def _run(self, model, solver, init_params, batch, callback):
        return glmcore.fit(
            model,
            batch.features.X,
            batch.y,
            solver=solver,
            init_params=init_params,
            sample_weight=batch.weight,
            callback=callback,
        )

    def _step(self, model, params, state, batch, at_least=0):
        X, y, weight = glmcore.pad_rows(batch.features.X, batch.y, batch.weight, at_least=at_least)
        params, solver = glmcore.GLMParams(*params), self._solver(state=state)
        return glmcore.update(model, params, state, X, y, solver=solver, sample_weight=weight)

    def _store(self, model, params, state, batch, n_samples=None):
        X, names_found = batch.features.X, batch.features.names
        if isinstance(model.penalty, glmcore.UnRegularized):
            used = _degrees_of_freedom(model, params, *glmcore.pad_rows(X, batch.weight))
        elif model.penalty.smooth:  # a matter of shapes
            used = int(model.degrees_of_freedom(params, None))
        else:  # without the rows, whose number would make it another program
            used = _degrees_of_freedom(model, params, None, None)
        self.coef_, self.intercept_ = jax.tree.map(_on_one_device, (params.coef, params.intercept))
        self.solver_state_ = state
        self.scale_ = 1.0
        self.dof_resid_ = (batch.n_used if n_samples is None else n_samples) - used
        self.n_features_in_ = sum(leaf.shape[1] for leaf in jax.tree.leaves(X))
        self._has_optimizer = True
        if names_found is not None:
            self.feature_names_in_ = names_found
        else:
            vars(self).pop("feature_names_in_", None)

    def _if_instantiated(self, function):
        return function if vars(self).get("_has_optimizer") else None

    def _optimizer_init_state(self, params, X, y):
        return self._init_state(params, self._batch("optimizer_init_state", X, y))

    def _optimizer_update(self, params, state, X, y):
        batch = self._batch("optimizer_update", X, y)
        params = check_params(params, batch.features.X, len(self.classes_))
        params, state = self._step(self._model(), params, state, batch)
        return (params.coef, params.intercept), state, state.objective

    def _optimizer_run(self, params, X, y):
        batch = self._batch("optimizer_run", X, y)
        params = check_params(params, batch.features.X, len(self.classes_))
        start = glmcore.GLMParams(*params)
        result = self._run(self._model(), self._solver(), start, batch, None)
        return (result.params.coef, result.params.intercept), result.state, result


def _first_rows(values, X):
    """The rows that X had before it was padded; cut on the host, where that needs no program."""
    n_rows = jax.tree.leaves(X)[0].shape[0]
    return values if len(values) == n_rows else np.asarray(values)[:n_rows]


def _on_one_device(values):
    """What a fit on sharded rows left on all of their devices, to go with rows anywhere."""
    spread = isinstance(values, jax.Array) and len(values.devices()) > 1
    return jnp.asarray(np.asarray(values)) if spread else values


def _only_weight(sample_weight=None):
    return sample_weight


# Compiled once per types and shapes, for all estimators

_degrees_of_freedom = eqx.filter_jit(glmcore.GLM.degrees_of_freedom)
_initialize = eqx.filter_jit(glmcore.GLM.initialize_params)
_log_proba = eqx.filter_jit(glmcore.GLM.log_proba)
_loss = eqx.filter_jit(glmcore.GLM.loss)


@eqx.filter_jit
def _predict(model, params, X):
    return jnp.argmax(model.log_proba(params, X), axis=-1)


@eqx.filter_jit
def _simulate(model, key, params, X):
    log_proba = model.log_proba(params, X)
    index = model.observations.sample(key, log_proba)
    return index, jnp.take_along_axis(log_proba, index[:, None], axis=1)[:, 0]
