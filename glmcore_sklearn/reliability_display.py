"""A picture of how far probabilities can be trusted, class by class."""

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.utils.multiclass import check_classification_targets

from glmcore_sklearn import drawing, labels

_TINY = np.finfo(np.float64).tiny


class ReliabilityDisplay:
    """Reliability curve and mean log-likelihood of each class, on data that were held out.

    The curve compares the probability that was predicted for a class with how often the class occurred: on the
    diagonal the two agree.  Beside it are the mean log-likelihoods of the samples of each class, and what the
    frequencies of the classes alone would give.

    Parameters
    ----------
    curves : list of (ndarray, ndarray)
        For each class the mean predicted probability and the observed frequency in every bin that is not empty.
    log_likelihood, null_log_likelihood : ndarray of shape (K,)
        Of the samples of each class: their mean log-probability, and the logarithm of their frequency.
    classes : sequence of length K

    Attributes
    ----------
    ax_ : matplotlib Axes
        The place that the two parts share.
    axes_ : list of two matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        The curves: one a class, of two classes that of the second one only.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from glmcore_sklearn import LogisticRegression, ReliabilityDisplay
    >>> X, X_test, y, y_test = train_test_split(*load_iris(return_X_y=True), random_state=0)
    >>> display = ReliabilityDisplay.from_estimator(LogisticRegression().fit(X, y), X_test, y_test)
    >>> display.log_likelihood.round(2)
    array([-0.03, -0.2 , -0.25])
    """

    def __init__(self, curves, log_likelihood, null_log_likelihood, *, classes):
        self.curves = curves
        self.log_likelihood = log_likelihood
        self.null_log_likelihood = null_log_likelihood
        self.classes = classes

    @classmethod
    def from_estimator(cls, estimator, X, y, *, n_bins=5, strategy="uniform", ax=None) -> "ReliabilityDisplay":
        """Draw the reliability of a fitted classifier on samples that it has not seen.

        Parameters
        ----------
        estimator : classifier
            With ``predict_log_proba`` or ``predict_proba``, which may give log-probabilities.
        X, y
            The samples, as the estimator takes them.
        n_bins, strategy, ax
            As in :meth:`from_predictions`.
        """
        if hasattr(estimator, "predict_log_proba"):
            log_proba = np.asarray(estimator.predict_log_proba(X), np.float64)
        else:
            log_proba = np.asarray(estimator.predict_proba(X), np.float64)
            if (log_proba > 0).any():  # probabilities: of logarithms none is above zero
                log_proba = np.log(np.maximum(log_proba, _TINY))
        return cls.from_predictions(
            y, log_proba, classes=estimator.classes_, n_bins=n_bins, strategy=strategy, ax=ax
        )

    @classmethod
    def from_predictions(
        cls, y, log_proba, *, classes, n_bins=5, strategy="uniform", ax=None
    ) -> "ReliabilityDisplay":
        """Draw the reliability of log-probabilities.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Labels; every class at least once.
        log_proba : array-like of shape (n_samples, K)
        classes : sequence of length K
            The label of each column.
        n_bins : int, default 5
            Number of bins of the predicted probability.
        strategy : {"uniform", "quantile"}, default "uniform"
            Whether bins are of equal width or hold equally many samples.
        ax : matplotlib Axes, optional
            As in :meth:`plot`.

        Raises
        ------
        ValueError
            If shapes do not fit, a label is not one of the classes, or a class does not occur.
        """
        log_proba, classes = np.asarray(log_proba, np.float64), np.asarray(classes)
        check_classification_targets(y)
        if log_proba.shape != (len(y), len(classes)):
            raise ValueError(f"log_proba must have shape {(len(y), len(classes))}, found {log_proba.shape}")
        y = labels.encode(labels.as_labels(y), classes)
        counts = np.bincount(y, minlength=len(classes))
        if not counts.all():
            raise ValueError(f"y must hold every class, found none of {classes[counts == 0].tolist()}")
        curves = [
            calibration_curve(y == k, np.exp(column), n_bins=n_bins, strategy=strategy)[::-1]
            for k, column in enumerate(log_proba.T)
        ]
        own = np.take_along_axis(log_proba, y[:, None], axis=1)[:, 0]
        return cls(
            curves, np.bincount(y, own) / counts, np.log(counts / len(y)), classes=classes
        ).plot(ax=ax)

    def plot(self, *, ax=None) -> "ReliabilityDisplay":
        """Draw the curves, and the log-likelihoods beside them, which also are their key.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: one of a new figure.  Both parts take its place in the figure.

        Returns
        -------
        self
        """
        ax = drawing.axes(ax, (8.5, max(4.2, 1.6 + 0.28 * len(self.classes))))
        left, right = drawing.divide(ax, 1, 2, width_ratios=(1.25, 1))[0]
        self.ax_, self.axes_, self.figure_ = ax, [left, right], ax.figure
        self._draw_curves(left)
        self._draw_log_likelihoods(right)
        return self

    def _draw_curves(self, ax):
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", zorder=0)
        ax.annotate("reliable", (0.04, 0.04), (2, 8), textcoords="offset points", color="0.4", fontsize="small",
                    rotation=45, rotation_mode="anchor")
        shown = [1] if len(self.classes) == 2 else range(len(self.classes))  # of two, one mirrors the other
        self.lines_ = [ax.plot(*self.curves[k], markersize=5, **drawing.style(k))[0] for k in shown]
        of = f"class {self.classes[1]}" if len(self.classes) == 2 else "the class"
        ax.set_xlabel(f"predicted probability of {of} (mean of a bin)")
        ax.set_ylabel(f"observed frequency of {of}")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        drawing.without_frame(ax)

    def _draw_log_likelihoods(self, ax):
        rows = range(len(self.classes))
        ax.hlines(rows, self.log_likelihood, 0, color="0.85", linewidth=2, zorder=0)
        ax.plot(self.null_log_likelihood, rows, "|", color="0.4", markersize=11, label="class frequencies alone")
        for k in rows:
            ax.plot(self.log_likelihood[k], k, markersize=7, **drawing.style(k))
        ax.set_yticks(rows, [str(label) for label in self.classes])
        ax.set_ylim(len(self.classes) - 0.4, -0.6)
        ax.set_xlim(right=0)
        ax.set_xlabel("mean log-likelihood of the samples of a class (nats)")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize="small", handletextpad=0.2)
        ax.tick_params(axis="y", length=0)
        drawing.without_frame(ax, ("top", "right", "left"))
