"""A picture of how far probabilities can be trusted, class by class."""

from numbers import Integral

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from glmcore_sklearn import drawing, labels

_TINY = np.finfo(np.float64).tiny
#: By how much the rounding of float32 may lift the logarithm of a probability of one.
_ROUNDING = 1e-6


class ReliabilityDisplay:
    """Reliability curve and mean log-likelihood of each class, on data that were held out.

    The curve compares the probability that was predicted for a class with how often the class occurred: on the
    diagonal the two agree.  Beside it are the mean log-likelihoods of the samples of each class, and what the
    frequencies of the classes alone would give.

    Parameters
    ----------
    curves : list of ndarray of shape (n_bins, 3)
        For each class the mean predicted probability, the observed frequency and the number of samples in every bin
        that is not empty.
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
    points_ : list of matplotlib PathCollection
        Their marks, the larger the more samples a bin holds.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> import numpy as np
    >>> from glmcore_sklearn import ReliabilityDisplay
    >>> log_proba = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    >>> display = ReliabilityDisplay.from_predictions(["a", "b", "b", "b"], log_proba, classes=["a", "b"])
    >>> display.log_likelihood.round(2)
    array([-0.11, -0.5 ])
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
        elif not hasattr(estimator, "predict_proba"):
            raise TypeError(f"estimator must be a classifier with predict_proba, found {type(estimator).__name__}")
        else:
            log_proba = np.asarray(estimator.predict_proba(X), np.float64)
            if (log_proba > _ROUNDING).any():  # probabilities: of logarithms none is above zero
                log_proba = np.log(np.maximum(log_proba, _TINY))
        if log_proba.ndim != 2:
            raise TypeError(f"estimator must be a classifier of one target, found {type(estimator).__name__}")
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
            If shapes do not fit, a log-probability is above zero or NaN, a label is not one of the classes, a class
            does not occur, or `n_bins` is not a positive whole number.
        """
        log_proba, classes = np.asarray(log_proba, np.float64), np.asarray(classes)
        check_classification_targets(y)
        if log_proba.shape != (len(y), len(classes)):
            raise ValueError(f"log_proba must have shape {(len(y), len(classes))}, found {log_proba.shape}")
        bad = ~(log_proba <= _ROUNDING)
        if bad.any():
            found = log_proba[bad][0]
            raise ValueError(f"log_proba must be logarithms of probabilities, not above 0, found {found:.3g}")
        log_proba = np.maximum(log_proba, np.log(_TINY))
        y = labels.encode(labels.as_labels(y), classes)
        counts = np.bincount(y, minlength=len(classes))
        if not counts.all():
            raise ValueError(f"y must hold every class, found none of {classes[counts == 0].tolist()}")
        curves = [_curve(y == k, np.exp(column), n_bins, strategy) for k, column in enumerate(log_proba.T)]
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
        ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", zorder=0, label="reliable")
        shown = [1] if len(self.classes) == 2 else range(len(self.classes))  # of two, one mirrors the other
        most = max(self.curves[k][:, 2].max() for k in shown)
        self.lines_, self.points_ = [], []
        for k in shown:
            predicted, observed, count = self.curves[k].T
            mark = drawing.style(k)
            self.lines_ += ax.plot(predicted, observed, color=mark["color"], linewidth=1, alpha=0.7)
            self.points_.append(ax.scatter(predicted, observed, s=8 + 92 * count / most, linewidth=0, **mark))
        ax.set_xlabel("predicted probability (mean of a bin;\narea of a mark: number of samples)")
        ax.set_ylabel("observed frequency" + (f" of {drawing.short(self.classes[1])}" if len(self.classes) == 2 else ""))
        ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
        ax.legend(loc="upper left", frameon=False, fontsize="small")
        drawing.without_frame(ax)

    def _draw_log_likelihoods(self, ax):
        rows = range(len(self.classes))
        ax.hlines(rows, self.log_likelihood, 0, color="0.85", linewidth=2, zorder=0)
        ax.plot(self.null_log_likelihood, rows, "|", color="0.4", markersize=11, label="class frequencies alone")
        for k in rows:
            ax.plot(self.log_likelihood[k], k, markersize=7, clip_on=False, **drawing.style(k))
        ax.set_yticks(rows, [drawing.short(label) for label in self.classes])
        ax.set_ylim(len(self.classes) - 0.4, -0.6)
        ax.set_xlim(right=0)
        ax.set_xlabel("mean log-likelihood\nof the samples of a class (nats)")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize="small", handletextpad=0.2)
        ax.tick_params(axis="y", length=0)
        drawing.without_frame(ax, ("top", "right", "left"))


def _curve(hit: np.ndarray, proba: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
    """Mean of ``proba``, share of ``hit`` and number of samples in each bin of ``proba`` that is not empty."""
    if strategy not in ("uniform", "quantile"):
        raise ValueError(f"strategy must be 'uniform' or 'quantile', found {strategy!r}")
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins must be a positive whole number, found {n_bins!r}")
    inner = np.linspace(0, 1, n_bins + 1)[1:-1]
    index = np.searchsorted(inner if strategy == "uniform" else np.quantile(proba, inner), proba)
    count = np.bincount(index)
    sums = np.column_stack([np.bincount(index, proba), np.bincount(index, hit), count])[count > 0]
    return sums / np.column_stack([sums[:, 2], sums[:, 2], np.ones(len(sums))])
