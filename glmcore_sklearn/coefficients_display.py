"""A picture of coefficients, a column or an image a class."""

import math
from numbers import Integral

import jax
import numpy as np
import scipy.sparse
from sklearn.utils.validation import check_is_fitted

from glmcore_sklearn import drawing
from glmcore_sklearn.classifier import ClassifierGLM

#: Features that all have their name beside the heatmap, and cells that all have their number in it.
_NAMED, _NUMBERED = 64, 60
#: Characters of the names of two classes that stand in one line.
_ONE_LINE = 16
_CMAP, _LABEL = "RdBu_r", "coefficient (log-odds per unit)"


class CoefficientsDisplay:
    """Coefficients of each class, as a heatmap or as images.

    Blue is below zero, red above, white zero; of two classes it is the difference of the second and the first.

    Parameters
    ----------
    coef : ndarray of shape (n_features, K), or (n_features, 1) for K = 2
    classes : sequence of length K
    feature_names : sequence of str of length n_features

    Attributes
    ----------
    ax_ : matplotlib Axes
        That of the heatmap, or the place that the images share.
    axes_ : list of matplotlib Axes
        Those of the images, one a column of ``coef``; or ``[ax_]``.
    figure_ : matplotlib Figure
    colorbar_ : matplotlib Colorbar

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from glmcore_sklearn import CoefficientsDisplay
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> display = CoefficientsDisplay.from_estimator(LogisticRegression(max_iter=200).fit(X, y))
    >>> [tick.get_text() for tick in display.ax_.get_yticklabels()][:2]
    ['sepal length (cm)', 'sepal width (cm)']
    """

    def __init__(self, coef, *, classes, feature_names):
        self.coef = coef
        self.classes = classes
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls, estimator, *, feature_names=None, class_names=None, image_shape=None, ax=None
    ) -> "CoefficientsDisplay":
        """Draw the coefficients of a fitted linear classifier.

        Parameters
        ----------
        estimator : ClassifierGLM, LogisticRegression (also scikit-learn's) or a Pipeline that ends with one
        feature_names : sequence of str, optional
            Default: the names that the estimator or the steps before it know, the places in a pytree of features, or
            "feature 0", "feature 1", ...
        class_names : sequence of str, optional
            Default: ``classes_``.
        image_shape, ax
            As in :meth:`plot`.

        Raises
        ------
        NotFittedError
            If the estimator has no coefficients yet.
        TypeError
            If it is no linear classifier, or one of many targets.
        ValueError
            If the names are not one a feature or one a class, or ``image_shape`` does not hold the features.
        """
        model = drawing.last_step(estimator)
        check_is_fitted(model)
        coef = _by_feature(model)
        names = _feature_names(estimator, model, len(coef)) if feature_names is None else feature_names
        classes = model.classes_ if class_names is None else class_names
        for argument, found, expected in (
            ("feature_names", names, len(coef)),
            ("class_names", classes, len(model.classes_)),
        ):
            if len(found) != expected:
                raise ValueError(f"{argument} must have length {expected}, found {len(found)}")
        return cls(coef, classes=classes, feature_names=names).plot(image_shape=image_shape, ax=ax)

    def plot(self, *, image_shape=None, ax=None) -> "CoefficientsDisplay":
        """Draw a heatmap, a row a feature and a column a class, or an image a class.

        Parameters
        ----------
        image_shape : (int, int), optional
            Rows and columns of the grid that the features form, row by row.
        ax : matplotlib Axes, optional
            Default: one of a new figure.  Images take its place in the figure.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If ``image_shape`` does not hold the features.
        """
        if image_shape is not None and not _is_grid(image_shape, len(self.coef)):
            raise ValueError(
                f"image_shape must be (rows, columns), two whole numbers whose product is the number of features, "
                f"{len(self.coef)}; found {image_shape!r}"
            )
        limit = np.abs(self.coef).max() or 1.0
        colors = {"cmap": _CMAP, "vmin": -limit, "vmax": limit}
        if image_shape is None:
            image, bar = self._heatmap(ax, colors), {"aspect": 30}
        else:
            image, bar = self._images(ax, image_shape, colors), {"location": "bottom", "shrink": 0.6, "aspect": 40}
        self.colorbar_ = self.figure_.colorbar(image, ax=self.axes_, label=_LABEL, **bar)
        self.colorbar_.outline.set_visible(False)
        return self

    @property
    def _titles(self) -> list[str]:
        names = [drawing.short(name) for name in self.classes]
        if self.coef.shape[1] > 1:
            return names
        between = " " if len(names[0]) + len(names[1]) < _ONE_LINE else "\n"
        return [f"{names[1]}{between}against {names[0]}"]

    def _heatmap(self, ax, colors):
        n_features, n_columns = self.coef.shape
        shown, tilted = min(n_features, _NAMED), _crowded(self._titles)
        names = [drawing.short(name, drawing.LONGEST_FEATURE) for name in self.feature_names]
        under = 0.06 * _longest(self._titles) if tilted else 0.0
        height = min(max(1.8 + 0.26 * shown, 3.2), 10.5) + under
        ax = drawing.axes(ax, (3.4 + 0.075 * max(_longest(names), 14 * under) + 0.6 * n_columns, height))
        image = ax.imshow(self.coef, aspect="auto", interpolation="nearest", **colors)
        every = math.ceil(n_features / _NAMED)
        ax.set_yticks(range(0, n_features, every), names[::every], fontsize="small" if shown > 30 else "medium")
        ax.set_ylabel("feature" if every == 1 else f"feature (1 in {every} is named)")
        tilt = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
        ax.set_xticks(range(n_columns), self._titles, **tilt)
        ax.set_xlabel("class")
        ax.tick_params(length=0)
        drawing.without_frame(ax, ("top", "right", "bottom", "left"))
        if self.coef.size <= _NUMBERED:
            _write_numbers(ax, self.coef, colors["vmax"])
        self.ax_, self.axes_, self.figure_ = ax, [ax], ax.figure
        return image

    def _images(self, ax, image_shape, colors):
        n_images = self.coef.shape[1]
        columns = min(n_images, 5)
        rows = math.ceil(n_images / columns)
        width = max(1.5, 0.2 + 0.1 * _longest(self._titles))
        ax = drawing.axes(ax, (max(width * columns, 4.5), max(1.8 * rows, 2.8) + 0.9))
        grid = drawing.divide(ax, rows, columns).ravel()
        for axis in grid[n_images:]:
            axis.set_axis_off()
        for axis, title, values in zip(grid, self._titles, self.coef.T):
            image = axis.imshow(values.reshape(image_shape), interpolation="nearest", **colors)
            axis.set_title(title)
            axis.set(xticks=[], yticks=[])
        self.ax_, self.axes_, self.figure_ = ax, list(grid[:n_images]), ax.figure
        return image


def _is_grid(shape, size: int) -> bool:
    whole = np.shape(shape) == (2,) and all(isinstance(length, Integral) and length > 0 for length in shape)
    return whole and math.prod(shape) == size


def _by_feature(model) -> np.ndarray:
    """Coefficients with a row a feature and a column a class; of two classes the difference of the columns."""
    if any(np.ndim(leaf) != 2 for leaf in jax.tree.leaves(getattr(model, "coef_", 0.0))):
        raise TypeError(
            f"estimator must be a linear classifier of one target, with a coef_ of two axes, found {type(model).__name__}"
        )
    if not isinstance(model, ClassifierGLM):
        coef = model.coef_.toarray() if scipy.sparse.issparse(model.coef_) else np.asarray(model.coef_)
        return coef.T
    coef = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(model.coef_)])
    return coef[:, 1:] - coef[:, :1] if coef.shape[1] == 2 else coef


def _feature_names(estimator, model, n_features) -> list[str]:
    if estimator is not model and len(estimator) > 1:
        try:
            return list(estimator[:-1].get_feature_names_out())
        except (AttributeError, TypeError, ValueError):  # a step knows no names
            pass
    return drawing.feature_names(model, n_features)


def _write_numbers(ax, coef, limit):
    for (row, column), value in np.ndenumerate(coef):
        color = "white" if abs(value) > 0.6 * limit else "black"
        ax.text(column, row, f"{value:.2g}", ha="center", va="center", color=color, fontsize="small")


def _crowded(titles: list[str]) -> bool:
    return len(titles) > 1 and _longest(titles) > 7


def _longest(names: list[str]) -> int:
    """Characters of the longest line."""
    return max(len(line) for name in names for line in name.split("\n"))
