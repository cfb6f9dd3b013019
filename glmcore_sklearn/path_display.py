"""A picture of a regularisation path."""

import jax
import numpy as np

from glmcore_sklearn import drawing, labels
from glmcore_sklearn.path import RegularizationPath, regularization_path

#: Lines of the features that are not named.
_OTHERS = {"color": "0.8", "linewidth": 0.8, "zorder": 1}


class RegularizationPathDisplay:
    """Coefficients along a regularisation path, a line a feature.

    Parameters
    ----------
    path : RegularizationPath
        From :func:`glmcore_sklearn.regularization_path`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D, one a feature

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from glmcore_sklearn import ClassifierGLM, RegularizationPathDisplay
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> lasso = ClassifierGLM(3, regularizer="Lasso")
    >>> display = RegularizationPathDisplay.from_estimator(lasso, X, y, n_strengths=10)
    >>> len(display.lines_)
    4
    """

    def __init__(self, path: RegularizationPath):
        if not isinstance(path, RegularizationPath):
            raise TypeError(f"path must be a RegularizationPath, found {type(path).__name__}")
        self.path = path

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        strengths=None,
        *,
        n_strengths=100,
        min_ratio=1e-3,
        sample_weight=None,
        label=None,
        n_named=7,
        ax=None,
    ) -> "RegularizationPathDisplay":
        """Fit the path of an estimator and draw it; parameters are those of
        :func:`glmcore_sklearn.regularization_path` and :meth:`plot`."""
        path = regularization_path(
            estimator,
            X,
            y,
            strengths,
            n_strengths=n_strengths,
            min_ratio=min_ratio,
            sample_weight=sample_weight,
        )
        return cls(path).plot(label=label, n_named=n_named, ax=ax)

    def plot(self, *, label=None, n_named=7, ax=None) -> "RegularizationPathDisplay":
        """Draw a line a feature over the strengths, which fall from left to right.

        Parameters
        ----------
        label : optional
            The class whose coefficients are drawn.  Default: the difference of the second and
            the first of two classes, and of more the 2-norm over the classes.
        n_named : int, default 7
            How many features, those of the largest coefficients, have a colour and a name.
        ax : matplotlib Axes, optional
            Default: one of a new figure.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If ``label`` is not one of the classes.
        """
        values, title = self._values(label)
        ax = drawing.axes(ax, (7, 4.5))
        strengths = np.asarray(self.path.strengths, float)
        order = np.argsort(-strengths)
        strengths, values = strengths[order], values[order]
        largest = np.argsort(-np.abs(values).max(axis=0), kind="stable")
        named = [j for j in largest[:n_named] if np.any(values[:, j])]
        self.lines_ = [None] * values.shape[1]
        for j in range(values.shape[1]):
            style = _OTHERS
            if j in named:
                style = {"color": drawing.COLORS[named.index(j) % len(drawing.COLORS)], "linewidth": 1.8, "zorder": 2}
            (self.lines_[j],) = ax.plot(strengths, values[:, j], **style)
        self._label(ax, strengths, values, named, title)
        self._count_nonzeros(ax, strengths, np.asarray(self.path.nonzeros)[order])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _values(self, label) -> tuple[np.ndarray, str]:
        """What is drawn, (n_strengths, n_features), and what it is called."""
        leaves = jax.tree.leaves(self.path.coef_)
        coef, classes = np.concatenate([np.asarray(leaf) for leaf in leaves], axis=1), self.path.classes_
        if label is not None:
            known = labels.items(classes)
            if label not in known:
                raise ValueError(f"label must be one of the classes {known}, found {label!r}")
            return coef[:, :, known.index(label)], f"coefficient of class {label}"
        if len(classes) == 2:
            return coef[:, :, 1] - coef[:, :, 0], f"log-odds of class {drawing.short(classes[1])} per unit"
        return np.linalg.norm(coef, axis=2), "norm of a feature's coefficients"

    def _label(self, ax, strengths, values, named, title):
        ax.set_xscale("log")
        ax.set_xlim(strengths[0], strengths[-1])
        ax.set_xlabel("regularization strength")
        ax.set_ylabel(title)
        ax.axhline(0, color="0.5", linewidth=0.6, zorder=0)
        drawing.without_frame(ax)
        low, high = ax.get_ylim()
        heights = _apart(values[-1, named], 0.055 * (high - low))
        names = drawing.feature_names(self.path.estimator(-1), values.shape[1])
        for j, height in zip(named, heights):
            ax.annotate(
                drawing.short(names[j], drawing.LONGEST_FEATURE),
                xy=(1, values[-1, j]),
                xytext=(1.025, height),
                xycoords=ax.get_yaxis_transform(),
                textcoords=ax.get_yaxis_transform(),
                color=self.lines_[j].get_color(),
                va="center",
                fontsize="small",
                arrowprops={"arrowstyle": "-", "color": self.lines_[j].get_color(), "linewidth": 0.6},
            )

    def _count_nonzeros(self, ax, strengths, nonzeros):
        """How many coefficients are not zero, above the picture."""
        if strengths[0] == strengths[-1] or np.all(nonzeros == nonzeros[0]):
            return
        top = ax.twiny()
        top.set_xscale("log")
        top.set_xlim(ax.get_xlim())
        at = np.geomspace(strengths[0], strengths[-1], 6)
        nearest = np.abs(np.log(strengths)[:, None] - np.log(at)[None, :]).argmin(axis=0)
        top.set_xticks(strengths[nearest], nonzeros[nearest], fontsize="small")
        top.minorticks_off()
        top.set_xlabel("coefficients that are not zero", fontsize="small")
        drawing.without_frame(top)
        top.tick_params(length=0)


def _apart(heights: np.ndarray, distance: float) -> np.ndarray:
    """The heights nearest to those given, in the same order, that are ``distance`` apart."""
    order = np.argsort(heights, kind="stable")
    placed = heights[order].astype(float)
    for _ in range(100):
        gap = distance - np.diff(placed)
        close = gap > 1e-9 * distance
        if not close.any():
            break
        push = np.where(close, gap / 2, 0)
        placed[:-1] -= push
        placed[1:] += push
    result = np.empty_like(placed)
    result[order] = placed
    return result
