"""Logistic regression that chooses its penalty by cross-validation, with the face of scikit-learn's."""

from numbers import Integral

import numpy as np
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.metadata_routing import (
    UNUSED,
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _deprecate_positional_args, validate_data

import glmcore
from glmcore_sklearn import reports, scoring, softmax
from glmcore_sklearn.atomic import unchanged_on_error
from glmcore_sklearn.grid import Folds, best_cells, fit_grid
from glmcore_sklearn.inputs import check_numbers, check_unmasked
from glmcore_sklearn.linear import LinearClassifier
from glmcore_sklearn.logistic import SHARED_CONSTRAINTS, check_two_classes, class_and_sample_weight
from glmcore_sklearn.warn import warn


class LogisticRegressionCV(LinearClassifier):
    r"""Multinomial logistic regression whose `C` and `l1_ratio` are chosen by cross-validation.

    A drop-in for ``sklearn.linear_model.LogisticRegressionCV``, with the objective of :class:`LogisticRegression`:
    all folds and strengths are one compiled program that shares X, a fold being the weights of its rows, and each
    strength begins where the last three answers lead.  Log-loss and accuracy are computed there too.
    It computes in the dtype of X, float64 or float32, where scikit-learn's computes in float64.

    Parameters
    ----------
    Cs : int or array-like of float, default 10
        Inverse strengths of the penalty, or how many of them between 1e-4 and 1e4.
    l1_ratios : array-like of float, default None
        Shares of the l1 part, from 0 to 1.  None, deprecated, is 0 without an axis in the attributes.
    fit_intercept : bool, default True
    cv : int, splitter or iterable of (train, test), default None
        None is five stratified folds.
    dual, intercept_scaling, n_jobs, verbose
        Accepted and not used.
    penalty : {"l1", "l2", "elasticnet"}
        Deprecated in scikit-learn 1.8: use `Cs` and `l1_ratios`.
    scoring : str, callable or None, default None
        None is accuracy.
    solver : str or optax.GradientTransformation, default "lbfgs"
        As for :class:`LogisticRegression`, but with an l1 part the default is ProximalNewton.
    tol : float, default 1e-4
        Bound on the optimality (KKT) residual of every fit, relative to that of the null model.
    max_iter : int, default 100
        Largest number of steps of a fit.
    class_weight : dict, "balanced" or None
        Factors on the weights of the samples of each class; balanced over all rows.
    refit : bool, default True
        Whether to fit all rows with the best mean score's choice; else the fits of the best choice of each fold are
        averaged, a class over the folds that train on it.
    random_state : int, RandomState or None
        Seed of ``"SVRG"`` and ``"ProxSVRG"``.
    use_legacy_attributes : bool, default True
        The form of some attributes: arrays over folds, ratios and strengths if False, as scikit-learn 1.10 has them.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    coef_ : ndarray of shape (K, n_features), or (1, n_features) for K = 2
    intercept_ : ndarray of shape (K,), or (1,) for K = 2
    Cs_ : ndarray of shape (n_Cs,)
    l1_ratios_ : ndarray of shape (n_ratios,)
    C_, l1_ratio_ : float
        What was chosen; legacy: an array of one entry a row of ``coef_``.
    scores_ : ndarray of shape (n_folds, n_ratios, n_Cs)
        Legacy: a dict from the class of each row of ``coef_`` to an array (n_folds, n_Cs, n_ratios).
    coefs_paths_ : ndarray of shape (n_folds, n_ratios, n_Cs, K, n_features + 1)
        Coefficients and, last, the intercept if there is one; one row for K = 2.  Legacy: a dict from the class of
        each row to an array (n_folds, n_Cs, n_ratios, n_features + 1).
    n_iter_ : ndarray of int32, shape (n_folds, n_ratios, n_Cs)
        Steps taken.  Legacy: shape (1, n_folds, n_Cs, n_ratios).
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X is a DataFrame with string column names.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from glmcore_sklearn import LogisticRegressionCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegressionCV(l1_ratios=(0,), scoring="neg_log_loss", use_legacy_attributes=False)
    >>> model = model.fit(X, y)
    >>> model.scores_.shape
    (5, 1, 10)
    >>> model.predict(X[:2])
    array([0, 0])
    """

    # score takes sample_weight by name, the scorer decides on its use.
    __metadata_request__score = {"sample_weight": UNUSED}

    _parameter_constraints = {
        **SHARED_CONSTRAINTS,
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": ["array-like", None, Hidden(StrOptions({"warn"}))],
        "cv": ["cv_object"],
        "penalty": [StrOptions({"l1", "l2", "elasticnet"}), Hidden(StrOptions({"deprecated"}))],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None, Hidden(StrOptions({"warn"}))],
        "refit": ["boolean"],
        "use_legacy_attributes": ["boolean", Hidden(StrOptions({"warn"}))],
    }

    def __init__(
        self,
        *,
        Cs=10,
        l1_ratios="warn",
        fit_intercept=True,
        cv=None,
        dual=False,
        penalty="deprecated",
        scoring="warn",
        solver="lbfgs",
        tol=1e-4,
        max_iter=100,
        class_weight=None,
        n_jobs=None,
        verbose=0,
        refit=True,
        intercept_scaling=1.0,
        random_state=None,
        use_legacy_attributes="warn",
    ):
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    def fit(self, X, y, sample_weight=None, **params):
        """Choose C and l1_ratio and fit them; if this raises, the estimator is as it was.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels of at least two classes.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, not negative, in the fits and, as scikit-learn routes them, in the scores.
        **params
            For the splitter and the scorer, with metadata routing: ``groups``, say.

        Returns
        -------
        self

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the optimality residual of some fits did not reach `tol`: how many, and what to change.
        UserWarning
            If folds train on no rows of a class: its probability is 0 there, and the log-loss of its rows the largest
            that there is.
        """
        _raise_for_params(params, self, "fit")
        with unchanged_on_error(self):
            self._validate_params()
            self._warn_of_changes()
            Cs, l1_ratios = self._tried()
            check_numbers(X)
            check_unmasked(y, "y")
            X, labels = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C")
            check_classification_targets(labels)
            self.classes_, y = np.unique(labels, return_inverse=True)
            check_two_classes(self.classes_)
            for ratio in l1_ratios:
                softmax.check_solver(self.solver, Cs.max(), ratio, self.dual, len(self.classes_))
            to_splitter, to_scorer = self._routed(sample_weight, params)
            splits = list(check_cv(self.cv, labels, classifier=True).split(X, labels, **to_splitter))
            if not splits:
                raise ValueError(f"cv must give at least one fold, found none by {self.cv!r}")
            with softmax.precision(X.dtype):
                folds = self._folds(X, y, splits, sample_weight, to_scorer)
                solvers = [glmcore.solver_for_outliers(self._solver(ratio), X) for ratio in l1_ratios]
                found = fit_grid(X, y, len(self.classes_), folds, Cs, l1_ratios, bool(self.fit_intercept), solvers)
            scores = self._scores(found, Cs, X, labels, splits, to_scorer)
            self._keep(found, scores, Cs, l1_ratios, solvers, self._seen(folds.train, y, len(splits)))
        return self

    @_deprecate_positional_args(version="1.11")
    def score(self, X, y, *, sample_weight=None, **score_params):
        """The score of `scoring` on these rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional
        **score_params
            For the scorer, with metadata routing.

        Returns
        -------
        float
        """
        _raise_for_params(score_params, self, "score")
        if sample_weight is not None:
            score_params["sample_weight"] = sample_weight
        if _routing_enabled():
            score_params = process_routing(self, "score", **score_params).scorer.score
        return self._get_scorer()(self, X, y, **score_params)

    def get_metadata_routing(self):
        """Which metadata go to the splitter and the scorer.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
        """
        to_scorer = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
            .add(scorer=self._get_scorer(), method_mapping=to_scorer)
        )

    @property
    def _scoring(self):
        """The scoring in force."""
        return None if isinstance(self.scoring, str) and self.scoring == "warn" else self.scoring

    def _get_scorer(self):
        return get_scorer(self._scoring or "accuracy")

    def _warn_of_changes(self):
        """The words about defaults and arguments that scikit-learn is changing."""
        if isinstance(self.l1_ratios, str):
            _warn_of_default("l1_ratios", "None", "(0.0,)", "1.10")
        elif self.l1_ratios is None and self.penalty == "deprecated":
            warn("l1_ratios=None was deprecated in scikit-learn 1.8 and will be an error in 1.10; use l1_ratios=(0,)", FutureWarning)
        if self.penalty != "deprecated":
            warn("penalty was deprecated in scikit-learn 1.8, to be removed in 1.10; use l1_ratios and Cs", FutureWarning)
            if self.penalty != "elasticnet" and self.l1_ratios is not None and not isinstance(self.l1_ratios, str):
                warn(
                    f"penalty={self.penalty!r} says what l1_ratio is: l1_ratios={self.l1_ratios!r} is ignored",
                )
        if isinstance(self.scoring, str) and self.scoring == "warn":
            _warn_of_default("scoring", "None (accuracy)", "'neg_log_loss'", "1.11")
        if isinstance(self.use_legacy_attributes, str):
            _warn_of_default("use_legacy_attributes", "True", "False", "1.10")

    def _tried(self):
        """The inverse strengths and the l1 ratios of the grid."""
        try:
            Cs = np.logspace(-4, 4, self.Cs) if isinstance(self.Cs, Integral) else np.asarray(self.Cs, float)
        except (TypeError, ValueError):
            Cs = np.empty(0)
        if Cs.ndim != 1 or not len(Cs) or not np.all(Cs > 0):
            raise ValueError(f"Cs must be a positive whole number or positive numbers, found {self.Cs!r}")
        if self.penalty in ("l1", "l2"):
            return Cs, np.array([float(self.penalty == "l1")])
        given = None if isinstance(self.l1_ratios, str) else self.l1_ratios
        if given is None and self.penalty == "deprecated":
            return Cs, np.zeros(1)
        ratios = np.asarray(() if given is None else given, float)
        if ratios.ndim != 1 or not len(ratios) or not np.all((ratios >= 0) & (ratios <= 1)):
            raise ValueError(f"l1_ratios must be an array-like of numbers between 0 and 1; got (l1_ratios={given!r})")
        return Cs, ratios

    def _routed(self, sample_weight, params):
        """What the splitter and what the scorer is given."""
        if not _routing_enabled():
            return {}, {} if sample_weight is None else {"sample_weight": sample_weight}
        routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
        return routed.splitter.split, routed.scorer.score

    def _folds(self, X, y, splits, sample_weight, to_scorer):
        if isinstance(self.class_weight, dict) and not set(self.class_weight) <= set(self.classes_):
            raise ValueError(
                "The given class_weight dict must have the class labels as keys; "
                f"classes={self.classes_} but key={self.class_weight.keys()}"
            )
        weight = class_and_sample_weight(self.class_weight, self.classes_, y, sample_weight)
        score_weight = sample_weight if self._scoring is None else to_scorer.get("sample_weight")
        weight, score_weight = (
            np.ones(len(y), X.dtype) if w is None else np.asarray(w, X.dtype) for w in (weight, score_weight)
        )
        folds = Folds.of(splits, weight, score_weight, whole=self.refit)
        for name, weights in (("trains on", folds.train), ("holds out", folds.test[: len(splits)])):
            if not (sums := weights.sum(axis=1)).all():
                raise ValueError(f"fold {sums.argmin()} {name} no rows with weight")
        return folds

    def _solver(self, l1_ratio):
        penalty = glmcore.Ridge() if l1_ratio == 0 else glmcore.ElasticNet()
        # Whatever the rows: for few parameters Newton, one fit after the other.  LBFGS in lanes is one to
        # three times as fast, but compiles for a second longer, and most searches are run once.
        size = ((self.n_features_in_ + 1) * len(self.classes_),)
        return softmax.make_solver(self.solver, penalty, size, self.tol, self.max_iter, self.random_state)

    def _scores(self, found, Cs, X, labels, splits, to_scorer):
        """Scores (F, R, S) on the rows that the folds hold out."""
        name = scoring.computed(self._scoring, to_scorer)
        if name is not None:
            return getattr(found, name)[: len(splits)]
        tests = [test for _, test in splits]
        return scoring.score_cells(self._scoring, self.classes_, found, Cs, X, labels, tests, to_scorer)

    def _seen(self, train, y, n_folds):
        """Which classes the fits of the folds see, (F, K); a UserWarning for those that one of them does not."""
        seen = np.stack([np.bincount(y, weight, len(self.classes_)) > 0 for weight in train])
        lacking = np.flatnonzero(~seen[:n_folds].all(axis=1))
        if lacking.size:
            warn(
                f"{lacking.size} of {n_folds} folds train on no rows of some classes, fold {lacking[0]} for one of "
                f"{self.classes_[~seen[lacking[0]]].tolist()}: to these a fold's fit gives the probability 0",
            )
        return seen

    def _keep(self, found, scores, Cs, l1_ratios, solvers, seen):
        """The attributes, of which some have two forms."""
        n_folds = len(scores)
        chosen = _, ratios, strengths = best_cells(scores, self.refit)
        used = np.zeros(found.converged.shape, bool)
        used[:n_folds] = used[chosen] = True

        def of(index):
            fold, ratio, strength = index
            return solvers[ratio], f"in fold {fold} at C={Cs[strength]:.3g}"

        reports.report_many(found, used, of, reports.SKLEARN_ADVICE)
        self.coef_, self.intercept_ = _mean_fit(found.coef[chosen], found.intercept[chosen], seen[chosen[0]])
        self.Cs_, self.l1_ratios_ = Cs, l1_ratios
        self.C_, self.l1_ratio_ = float(Cs[strengths].mean()), float(l1_ratios[ratios].mean())
        self.scores_, self.n_iter_ = scores, found.n_iter[:n_folds]
        self.coefs_paths_ = found.coef[:n_folds]
        if self.fit_intercept:
            last = found.intercept[:n_folds, ..., None]
            self.coefs_paths_ = np.concatenate([self.coefs_paths_, last], axis=-1)
        if self.l1_ratios is None or isinstance(self.l1_ratios, str):
            self.l1_ratios_ = np.array([None])
        if self.use_legacy_attributes:
            self._use_legacy_forms()

    def _use_legacy_forms(self):
        """Strengths before ratios, and of these no axis where none were given; a dict over classes."""
        none_given = self.l1_ratios_[0] is None
        paths, scores, n_iter = (np.moveaxis(a, 1, 2) for a in (self.coefs_paths_, self.scores_, self.n_iter_))
        if none_given:
            paths, scores, n_iter = paths[:, :, 0], scores[:, :, 0], n_iter[:, :, 0]
        rows = self.classes_ if len(self.classes_) > 2 else self.classes_[1:]
        self.coefs_paths_ = dict(zip(rows, np.moveaxis(paths, -2, 0)))
        self.scores_ = {row: scores for row in rows}
        self.n_iter_ = n_iter[None]
        self.C_ = np.full(len(rows), self.C_)
        self.l1_ratio_ = np.full(len(rows), None if none_given and self.refit else self.l1_ratio_)


def _mean_fit(coef, intercept, seen):
    """The mean over folds of coef (F, rows, p) and intercept (F, rows); that of a class over the folds that saw it."""
    counts = seen if intercept.shape[1] == seen.shape[1] else seen.all(axis=1, keepdims=True)
    counts = counts | ~counts.any(axis=0)
    return coef.mean(axis=0, where=counts[..., None]), intercept.mean(axis=0, where=counts)


def _warn_of_default(name, old, new, version):
    warn(
        f"The default of {name} will change from {old} to {new} in scikit-learn {version}; set {name} to silence this "
        "warning",
        FutureWarning,
    )
