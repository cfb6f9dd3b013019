"""Logistic regression with the face of scikit-learn's."""

from numbers import Integral, Real
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse
from sklearn.utils import compute_class_weight
from sklearn.utils._param_validation import HasMethods, Hidden, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import validate_data

import glmcore
from glmcore_sklearn import labels, reports, softmax
from glmcore_sklearn.atomic import unchanged_on_error
from glmcore_sklearn.callbacks import TakesCallbacks, telling
from glmcore_sklearn.inputs import check_numbers, check_sample_weight, check_unmasked
from glmcore_sklearn.linear import LinearClassifier
from glmcore_sklearn.stream import Stream, is_plain
from glmcore_sklearn.warn import warn


class _Transformation(HasMethods):
    """A gradient transformation of optax, which is not imported to find out."""

    def __init__(self):
        super().__init__(["init", "update"])

    def is_satisfied_by(self, val):
        return glmcore.Optax.takes(val)

    def __str__(self):
        return "an optax.GradientTransformation"


#: Constraints of the parameters that LogisticRegression and LogisticRegressionCV share.
SHARED_CONSTRAINTS = {
    "fit_intercept": ["boolean"],
    "dual": ["boolean"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
    "class_weight": [dict, StrOptions({"balanced"}), None],
    "random_state": ["random_state"],
    "solver": [str, _Transformation()],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "verbose": ["verbose"],
    "n_jobs": [None, Integral],
}


class Samples(NamedTuple):
    """Checked rows: features, class indices, weights (class weights included) or None."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None

    @property
    def total_weight(self):
        return float(len(self.y) if self.weight is None else self.weight.sum())


class LogisticRegression(TakesCallbacks, LinearClassifier):
    r"""Multinomial logistic regression: a drop-in for ``sklearn.linear_model.LogisticRegression``.

    .. math:: \min_{W, b} C \sum_i \omega_i \left(\log \sum_k e^{x_i W_k + b_k} - x_i W_{y_i} - b_{y_i}\right)
        + \alpha \lVert W \rVert_1 + \frac{1 - \alpha}{2} \lVert W \rVert_2^2

    with :math:`\alpha` the ``l1_ratio``; for two classes W is one row, the linear predictor of the second class.  The
    arguments, attributes and their shapes are scikit-learn's.  It computes in the dtype of X, float64 or float32, and
    leaves JAX's global settings alone.  Features are centred and scaled inside, so that the answer does not depend on
    their offset and scale but through the penalty, which acts on yours.

    Parameters
    ----------
    penalty : {"l1", "l2", "elasticnet", None}
        Deprecated in scikit-learn 1.8: use `C` and `l1_ratio`.
    C : float, default 1.0
        Inverse strength of the penalty, above 0; ``np.inf`` for none.
    l1_ratio : float, default 0.0
        Share of the l1 part, from 0 to 1.
    dual, intercept_scaling, n_jobs
        Accepted and not used: the intercept is never penalised.
    tol : float, default 1e-4
        Bound on the optimality (KKT) residual in centred and scaled coordinates, relative to that of the null model
        (coef 0).  It is a statement about the answer and not about a last step.  Solvers that predict how far the
        objective is above its minimum go on until that is less than tol / 100 of it, too.
    fit_intercept : bool, default True
    class_weight : dict, "balanced" or None
        Factors on the weights of the samples of each class.
    random_state : int, RandomState or None
        Seed of ``"SVRG"`` and ``"ProxSVRG"``.
    solver : str or optax.GradientTransformation, default "lbfgs"
        ``"lbfgs"``, ``"liblinear"``, ``"sag"`` and ``"saga"`` leave the choice to the penalty and
        the shape, see :func:`glmcore.default_solver`; ``"newton-cg"`` and ``"newton-cholesky"`` are
        Newton; and all names of :class:`ClassifierGLM`, such as ``"LBFGS"``.  An optax
        transformation takes its steps on the scale of X.
    max_iter : int, default 100
        Largest number of steps.
    verbose : int, default 0
        Above 0 progress is shown on standard error.
    warm_start : bool, default False
        Whether a fit starts at the last one's coefficients.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    coef_ : ndarray of shape (K, n_features), or (1, n_features) for K = 2
    intercept_ : ndarray of shape (K,), or (1,) for K = 2
    n_iter_ : ndarray of int32, shape (1,)
        Steps taken.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X is a DataFrame with string column names.
    held_out_log_likelihood_ : float
        Running mean of the log-likelihood of each batch before its step, see ``glmcore.HeldOut``; only after
        `partial_fit`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from glmcore_sklearn import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression().fit(X, y)
    >>> model.predict(X[:2])
    array([0, 0])
    >>> model.predict_proba(X[:1]).round(3)
    array([[0.982, 0.018, 0.   ]])
    >>> model.score(X, y)
    0.97...
    """

    _parameter_constraints = {
        **SHARED_CONSTRAINTS,
        "penalty": [StrOptions({"l1", "l2", "elasticnet"}), None, Hidden(StrOptions({"deprecated"}))],
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "warm_start": ["boolean"],
    }
    #: What a fit calls as it goes, for the display of its convergence: scikit-learn has no argument for it.
    _callback = None

    def __init__(
        self,
        penalty="deprecated",
        *,
        C=1.0,
        l1_ratio=0.0,
        dual=False,
        tol=1e-4,
        fit_intercept=True,
        intercept_scaling=1,
        class_weight=None,
        random_state=None,
        solver="lbfgs",
        max_iter=100,
        verbose=0,
        warm_start=False,
        n_jobs=None,
    ):
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    def fit(self, X, y, sample_weight=None):
        """Fit the model; if this raises, the estimator is as it was.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels of at least two classes.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative: 2 counts as much as a row that is there twice.

        Returns
        -------
        self

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the optimality residual did not reach `tol`: steps, residual and what to change.
        """
        with telling(self, X, y, sample_weight) as listeners, unchanged_on_error(self):
            self._validate_params()
            C, l1_ratio = self._strength()
            check_numbers(X)
            check_unmasked(y, "y")
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C")
            check_classification_targets(y)
            classes, y = np.unique(y, return_inverse=True)
            check_two_classes(classes)
            softmax.check_solver(self.solver, C, l1_ratio, self.dual, len(classes))
            with softmax.precision(X.dtype):
                samples = Samples(X, y, class_and_sample_weight(self.class_weight, classes, y, sample_weight))
                start = self._start(X, classes) if self.warm_start else None
                told = listeners(lambda params: _attributes(params, classes))
                result = self._run(samples, classes, C, l1_ratio, start, told)
                vars(self).update(_attributes(result.params, classes))
            self.n_iter_ = np.array([result.n_iter], np.int32)
            vars(self).pop("_stream", None)
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """One compiled step of the solver on a batch, from where the estimator stands.

        The objective is that of the batch, `C` included: a batch of n rows is penalised as a data set of n rows.  The
        first batch freezes centre and scale of the features, and starts at its class frequencies.  Memory stays as it
        is, and a smaller last batch runs the compiled program of the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The dtype of the first batch is that of all.
        y : array-like of shape (n_samples,)
            Labels out of `classes`; a batch may lack some.
        classes : array-like of shape (K,)
            All labels; needed in the first call only.
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self

        Examples
        --------
        >>> import optax
        >>> from sklearn.datasets import load_digits
        >>> from glmcore_sklearn import LogisticRegression
        >>> X, y = load_digits(return_X_y=True)
        >>> model = LogisticRegression(solver=optax.adam(0.01))
        >>> for start in range(0, 1500, 100):
        ...     batch = slice(start, start + 100)
        ...     model = model.partial_fit(X[batch], y[batch], classes=range(10))
        >>> bool(model.score(X[1500:], y[1500:]) > 0.8)
        True
        """
        with unchanged_on_error(self):
            stream = self._resumed_stream()
            X, y = self._checked_batch(X, y)
            self.classes_ = self._known_classes(classes)
            softmax.check_solver(self.solver, stream.C, stream.l1_ratio, self.dual, len(self.classes_))
            y = labels.encode(y, self.classes_)
            with softmax.precision(X.dtype):
                weight = class_and_sample_weight(self.class_weight, self.classes_, y, sample_weight)
                self._step(Samples(X, y, weight), stream)
        return self

    @property
    def held_out_log_likelihood_(self):
        """Running mean of the log-likelihood of each batch before its step; only after `partial_fit`."""
        stream = vars(self).get("_stream")
        if stream is None or not float(stream.state.held_out.weight) > 0:
            raise AttributeError("held_out_log_likelihood_ is there after partial_fit")
        return float(stream.state.held_out.mean)

    def _strength(self):
        """C and l1_ratio in force, and the words about arguments that are on their way out."""
        if self.n_jobs is not None:
            warn_of_deprecated("n_jobs has no effect", "leave it out")
        if self.l1_ratio is None:
            warn_of_deprecated("l1_ratio=None", "use l1_ratio=0")
        if isinstance(self.penalty, str) and self.penalty == "deprecated":
            if not np.isinf(self.C):
                return self.C, self.l1_ratio or 0.0
            if self.l1_ratio not in (None, 0, 1):
                warn(f"C={self.C} is no penalty: l1_ratio={self.l1_ratio} is ignored")
            return self.C, 0.0
        C, l1_ratio = strength_of_penalty(self.penalty, self.C, self.l1_ratio)
        warn_of_deprecated(f"penalty={self.penalty!r}", f"use C={C} and l1_ratio={l1_ratio}")
        ignored = [f"C={self.C}"] if self.C not in (1, C) else []
        known = (l1_ratio,) if self.penalty else (None, 0, 1)
        ignored += [] if self.l1_ratio in known else [f"l1_ratio={self.l1_ratio}"]
        if ignored:
            meant = f"penalty={self.penalty!r} stands for C={C} and l1_ratio={l1_ratio}"
            warn(f"Inconsistent values: {meant}; {' and '.join(ignored)} is ignored")
        return C, l1_ratio

    def _known_classes(self, classes):
        known = getattr(self, "classes_", None)
        if classes is None:
            if known is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return known
        labels.as_labels(classes, "classes")  # refuses what is missing or no list
        classes = unique_labels(classes)  # refuses numbers among strings
        if len(classes) < 2:
            raise ValueError(f"classes must hold at least 2 labels, found {classes.tolist()}")
        if known is not None and not np.array_equal(known, classes):
            raise ValueError(f"classes={classes} is not the same as on last call to partial_fit, was: {known}")
        return classes

    def _model(self, samples, n_classes, C, l1_ratio):
        return softmax.make_model(C, l1_ratio, samples.total_weight, n_classes, bool(self.fit_intercept))

    def _solver(self, model, size):
        return softmax.make_solver(self.solver, model.penalty, size, self.tol, self.max_iter, self.random_state)

    def _start(self, X, classes):
        """Where a warm start begins; None at the first fit."""
        if not hasattr(self, "coef_"):
            return None
        self.densify()
        coef, n_rows = np.asarray(self.coef_), 1 if len(classes) == 2 else len(classes)
        if coef.shape != (n_rows, X.shape[1]):
            raise ValueError(
                f"warm_start needs coef_ of shape {(n_rows, X.shape[1])} for these data, found {coef.shape} "
                "from the last fit"
            )
        return softmax.to_params(coef, np.asarray(self.intercept_))

    def _run(self, samples, classes, C, l1_ratio, start, told):
        model = self._model(samples, len(classes), C, l1_ratio)
        n_rows, n_features = samples.X.shape
        solver = self._solver(model, ((n_features + 1) * len(classes), n_rows))
        shown = self._callback or (glmcore.Progress() if self.verbose else None)
        result = glmcore.fit(
            model,
            *samples[:2],
            solver=solver,
            init_params=start,
            sample_weight=samples.weight,
            callback=[*told, shown] if shown else told,
        )
        weight = np.ones(len(samples.y)) if samples.weight is None else samples.weight
        reports.report(result, solver, samples.y, weight, classes, reports.SKLEARN_ADVICE)
        return result

    def _resumed_stream(self):
        """What earlier batches left, if no argument of the constructor has changed since."""
        settings = {name: vars(self)[name] for name in self._parameter_constraints}
        stream = vars(self).get("_stream")
        if stream is not None and stream.settings == settings:
            return stream
        self._validate_params()
        C, l1_ratio = self._strength()
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows; pass a dict to use partial_fit")
        penalty = softmax.make_penalty(C, l1_ratio, 1.0, 2)  # of the kind of that of all batches
        solver = softmax.make_solver(self.solver, penalty, None, self.tol, self.max_iter, self.random_state)
        new = Stream(settings, C, l1_ratio, solver)
        same = (
            stream is not None
            and type(stream.solver) is type(solver)
            and all(stream.settings[name] == settings[name] for name in ("solver", "fit_intercept"))
        )
        return new._replace(state=stream.state, n_rows=stream.n_rows) if same else new

    def __getstate__(self):
        # Arrays of JAX in float64 would be float32 where they are read.
        state = super().__getstate__()
        stream = state.get("_stream")
        return state if stream is None else {**state, "_stream": jax.tree.map(_on_host, stream)}

    def _checked_batch(self, X, y):
        fitted = hasattr(self, "coef_")
        dtype = self.coef_.dtype if fitted else [np.float64, np.float32]
        n_features = None if hasattr(self, "feature_names_in_") else vars(self).get("n_features_in_")
        if not (fitted and is_plain(X, y, dtype, n_features)):
            check_numbers(X)
            check_unmasked(y, "y")
            X, y = validate_data(self, X, y, dtype=dtype, order="C", reset=not fitted)
            check_classification_targets(y)
        return X, y

    def _step(self, samples, stream):
        model = self._model(samples, len(self.classes_), stream.C, stream.l1_ratio)
        X, y, weight = samples
        state, solver = stream.state, stream.solver
        if hasattr(self, "coef_"):
            if scipy.sparse.issparse(self.coef_):
                self.densify()
            # An earlier intercept stays only where there still is one.
            params = softmax.to_params(self.coef_, self.intercept_ * bool(self.fit_intercept))
        else:
            params = _initialize(model, *glmcore.pad_rows(X, y, _ones(samples)))
        if state is None:
            state = glmcore.init_state(model, params, X, y, solver=solver, sample_weight=weight)
        if len(y) < stream.n_rows:
            X, y, weight = glmcore.pad_rows(X, y, _ones(samples), at_least=stream.n_rows)
        params, state = glmcore.update(model, params, state, X, y, solver=solver, sample_weight=weight)
        self.coef_, self.intercept_ = softmax.from_params(params)
        self.n_iter_ = np.array(state.n_iter, ndmin=1)
        self._stream = stream._replace(state=state, n_rows=len(samples.y))


#: Compiled once per types and shapes.
_initialize = glmcore.quick_jit(glmcore.GLM.initialize_params)


def _attributes(params, classes):
    coef, intercept = softmax.from_params(params)
    return {"coef_": coef, "intercept_": intercept, "classes_": classes}


def _ones(samples):
    return np.ones(len(samples.y), samples.X.dtype) if samples.weight is None else samples.weight


def check_two_classes(classes):
    """Raise a ValueError for labels of one class."""
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
            f"{classes[0]!r}"
        )


def _on_host(leaf):
    return np.asarray(leaf) if isinstance(leaf, jax.Array) and leaf.dtype.kind == "f" else leaf


def class_and_sample_weight(class_weight, classes, y, sample_weight):
    """Weights of samples times those of their classes (class indices y); None where there is neither."""
    weight = check_sample_weight(sample_weight, len(y))
    if class_weight is None:
        return weight
    factors = _class_factors(class_weight, classes, y, weight)
    if not ((factors >= 0).all() and 0 < factors.sum() < np.inf):
        raise ValueError(
            f"class_weight must be finite, not negative and not all zero, found {dict(zip(classes.tolist(), factors.tolist()))}"
        )
    product = factors[y] if weight is None else factors[y] * weight
    if not product.any():
        raise ValueError(
            f"class_weight times sample_weight is zero for all {len(y)} samples, expected a weight above zero"
        )
    return product


def _class_factors(class_weight, classes, y, weight):
    """One factor a class; balanced among those that have weight, as if the other rows were not there."""
    if not isinstance(class_weight, str) or weight is None:
        return compute_class_weight(class_weight, classes=classes, y=classes[y])
    used = weight > 0
    seen = np.unique(y[used])
    factors = np.zeros(len(classes))
    factors[seen] = compute_class_weight(
        class_weight, classes=classes[seen], y=classes[y[used]], sample_weight=weight[used]
    )
    return factors


def strength_of_penalty(penalty, C, l1_ratio):
    """C and l1_ratio that a ``penalty`` of scikit-learn before 1.8 stands for."""
    if penalty is None:
        return np.inf, 0.0
    if penalty == "elasticnet":
        if l1_ratio is None:
            raise ValueError("l1_ratio must be specified when penalty is elasticnet.")
        return C, l1_ratio
    if penalty not in ("l1", "l2"):
        raise ValueError(f"penalty must be 'l1', 'l2', 'elasticnet' or None, found {penalty!r}")
    return C, float(penalty == "l1")


def warn_of_deprecated(what, instead):
    """The FutureWarning for an argument that scikit-learn 1.8 deprecated."""
    warn(f"{what}: deprecated since scikit-learn 1.8, to be removed in 1.10; {instead}", FutureWarning)
