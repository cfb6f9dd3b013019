"""How an estimator gets its coefficients."""

import abc
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from glmcore_sklearn import batches, names, persistence, reports
from glmcore_sklearn.atomic import unchanged_on_error
from glmcore_sklearn.callbacks import telling
from glmcore_sklearn.inputs import check_names
from glmcore_sklearn.prediction import PredictingGLM


class StepResult(NamedTuple):
    """What :meth:`ClassifierGLM.update` returns.

    Attributes
    ----------
    params : tuple
        (coef, intercept) after the step, on the scale of X.
    state : glmcore.SolverState
        What the next ``update`` is given.
    """

    params: tuple
    state: glmcore.SolverState


class FittingGLM(PredictingGLM):
    """Fits and updates of one target or of many."""

    @abc.abstractmethod
    def _mask(self, batch):
        """Checked coefficients to fit, for the core; None: all of them."""

    @abc.abstractmethod
    def _solver_for(self, batch):
        """The solver of a fit."""

    @abc.abstractmethod
    def _finish(self, result, solver, batch):
        """Tell how a fit ended; which classes each target has, None if all have all."""

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
        with telling(self, X, y, sample_weight) as listeners, unchanged_on_error(self):
            batch = self._first_batch(X, y, sample_weight, keep_classes=False)
            model, solver = self._model(self._mask(batch)), self._solver_for(batch)
            if init_params is not None:
                init_params = self._check_params(init_params, batch)
            callbacks = names.make_callbacks(vars(self)["solver_kwargs"])
            told = listeners(lambda params: _attributes(params, batch))
            result = self._run(model, solver, init_params, batch, [*told, *callbacks])
            reports.warn_of_unused_strength(self.regularizer, vars(self)["regularizer_strength"])
            present = self._finish(result, solver, batch)
            self._store(model, tuple(result.params), result.state, batch, present=present)
            self.dof_resid_, self.n_iter_ = _on_host(self.dof_resid_), _on_host(result.n_iter)
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
        padded = self._targets.pad_rows(batch.features.X, batch.y, batch.weight)
        return tuple(self._targets.initialize(self._predictor(), *padded))

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
            If y holds a label that is not in ``classes_``, or params hold NaN or infinity; nothing changes
            then.  Params that the last step returned are not looked at, and so not waited for.
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
        last_step = ()
        if opt_state is not None and opt_state is vars(self).get("solver_state_"):  # the stream goes on
            last_step = jax.tree.leaves((self.coef_, self.intercept_))
            fitted_names = vars(self).get("feature_names_in_")
            check_names(batch.features.names, fitted_names, "X", type(self).__name__)
            batch = batch._replace(features=batch.features._replace(names=fitted_names))
        model = self._model(self._mask(batch))
        params = self._check_params(params, batch, argument="params", known=last_step)
        params, state = self._step(model, params, opt_state, batch)
        self._store(model, params, state, batch, n_samples)
        self._batch_rows = len(batch.y)
        self.n_iter_, self.status_ = state.n_iter, glmcore.Status.running
        return StepResult(params, state)

    # Persistence

    def save_params(self, filename):
        """Write the estimator to an ``.npz`` file without pickle, all of it or nothing.

        Parameters
        ----------
        filename : str or path
            ``.npz`` is appended where it is missing.  Read it with ``load_model``.

        Raises
        ------
        TypeError
            If something cannot be written without pickle, such as coefficients in a pytree of other nodes than dicts,
            lists and tuples; it is named, and nothing is written.
        """
        persistence.save_model(self, filename)

    # Pieces

    def _first_batch(self, X, y, sample_weight, keep_classes):
        """Checked data of a call that may set the classes."""
        self._solver()  # names are checked before data
        features, found = batches.read(X, y, self._targets.LABEL_AXES, is_whole=not keep_classes)
        if not (keep_classes and self.classes_ is not None):
            self._classes = self._infer_classes(found)
            batches.check_no_class_lost(features, found, self._classes)
        return batches.encode(features, found, self.classes_, sample_weight)

    def _init_state(self, params, batch):
        return self._targets.init_state(
            self._model(self._mask(batch)),
            self._check_params(params, batch),
            *(batch.features.X, batch.y, batch.weight),
            self._solver(),
        )

    def _run(self, model, solver, params, batch, callback):
        rows = (batch.features.X, batch.y, batch.weight)
        return self._targets.fit(model, *rows, params, solver, callback)

    @property
    def _last_rows(self):
        """Rows of the last batch that ``update`` was given."""
        return vars(self).get("_batch_rows", 0)

    def _step(self, model, params, state, batch):
        rows = (batch.features.X, batch.y, batch.weight)
        solver = self._solver(state=state)
        params, state = self._targets.update(model, params, state, *rows, solver, self._last_rows)
        return tuple(params), state

    def _store(self, model, params, state, batch, n_samples=None, present=None):
        X, names_found = batch.features.X, batch.features.names
        rows = (None, None)  # whose number would make it another program
        if isinstance(model.penalty, glmcore.UnRegularized):
            rows = glmcore.pad_rows(X, batch.weight, at_least=self._last_rows)
        used = self._targets.degrees_of_freedom(model, params, *rows, present)
        self.coef_, self.intercept_ = jax.tree.map(_on_one_device, params)
        if state is not None:
            self.solver_state_, self._algorithm = state, state.algorithm
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
        params = self._check_params(params, batch)
        params, state = self._step(self._model(self._mask(batch)), params, state, batch)
        return params, state, state.objective

    def _optimizer_run(self, params, X, y):
        batch = self._batch("optimizer_run", X, y)
        params = self._check_params(params, batch)
        callbacks = names.make_callbacks(vars(self)["solver_kwargs"])
        result = self._run(self._model(self._mask(batch)), self._solver_for(batch), params, batch, callbacks)
        return tuple(result.params), result.state, result


def _attributes(params, batch):
    coef, intercept = params
    names_found = batch.features.names
    found = {} if names_found is None else {"feature_names_in_": names_found}
    return {"coef_": coef, "intercept_": intercept, **found}


def _on_host(number):
    """A number of Python, or an array of one a target."""
    array = np.asarray(number)
    return array if array.ndim else array.item()


def _on_one_device(values):
    """What a fit on sharded rows left on all of their devices, to go with rows anywhere."""
    spread = isinstance(values, jax.Array) and len(values.devices()) > 1
    return jnp.asarray(np.asarray(values)) if spread else values
