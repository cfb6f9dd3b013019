"""What the pictures have in common; matplotlib is imported only when one is drawn."""

import jax
import numpy as np
from sklearn.pipeline import Pipeline

#: Colours that colour-blind readers tell apart (Okabe & Ito), and shapes for more than seven things.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


#: Characters of the name of a feature that stands beside a picture.
LONGEST_FEATURE = 40


def style(index: int) -> dict:
    """Colour and marker of the ``index``-th thing: 49 pairs.

    Examples
    --------
    >>> style(7)
    {'color': '#0072B2', 'marker': 's'}
    """
    turn, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "marker": MARKERS[turn % len(MARKERS)]}


def axes(ax, figsize: tuple[float, float]):
    """``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def divide(ax, rows: int, columns: int, **kwargs) -> np.ndarray:
    """A grid of axes in the place of ``ax``, (rows, columns)."""
    if ax.get_subplotspec() is None:
        raise ValueError("ax must have a place in a grid, as those of plt.subplots have, found one of add_axes")
    ax.set_axis_off()
    grid = ax.get_subplotspec().subgridspec(rows, columns, **kwargs)
    return np.array([[ax.figure.add_subplot(grid[i, j]) for j in range(columns)] for i in range(rows)])


def short(name, longest: int = 24) -> str:
    """A name as text, without its middle if that is too long to stand beside others.

    Examples
    --------
    >>> short("comp.sys.ibm.pc.hardware.and.software")
    'comp.sys.ibm…nd.software'
    """
    text = str(name)
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"


def without_frame(ax, sides=("top", "right")) -> None:
    for side in sides:
        ax.spines[side].set_visible(False)


def feature_names(model, n_features: int) -> list[str]:
    """The names that a fitted model knows, the places in a pytree of features, or "feature 0", "feature 1", ..."""
    if hasattr(model, "feature_names_in_"):
        return list(model.feature_names_in_)
    leaves = jax.tree_util.tree_flatten_with_path(model.coef_)[0]
    if len(leaves) < 2:
        return [f"feature {j}" for j in range(n_features)]
    places = [(jax.tree_util.keystr(path, simple=True, separator="/"), len(leaf)) for path, leaf in leaves]
    return [place if size == 1 else f"{place}[{j}]" for place, size in places for j in range(size)]


def last_step(estimator):
    """The estimator itself, or the last one of a pipeline."""
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator
