"""A picture of how a fit went."""

import numpy as np
from sklearn.base import clone

import glmcore
from glmcore_sklearn import drawing
from glmcore_sklearn.classifier import ClassifierGLM
from glmcore_sklearn.logistic import LogisticRegression


class ConvergenceDisplay:
    """Optimality residual and relative objective gap of a fit, step by step.

    Parameters
    ----------
    reports : list of glmcore.FitProgress
        From ``glmcore.Trace().reports``.
    name : str
        What the fit is called in the key.
    best : float, optional
        Objective of the optimum, relative to which the gap is drawn; as it is if this is 0.  Default: the least
        objective of the fit, which makes its last steps look better than they are.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of two matplotlib Line2D
        Residual and gap.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from glmcore_sklearn import ClassifierGLM, ConvergenceDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ClassifierGLM(3, regularizer="Lasso", regularizer_strength=0.01)
    >>> display = ConvergenceDisplay.from_estimator(model, X, y)
    >>> bool(display.lines_[0].get_ydata()[-1] <= display.reports[-1].tol)
    True
    """

    def __init__(self, reports, *, name="fit", best=None):
        self.reports = reports
        self.name = name
        self.best = best

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, fit_params=None, name=None, best=None, ax=None
    ) -> "ConvergenceDisplay":
        """Fit a clone of an estimator and draw how that went.

        Parameters
        ----------
        estimator : ClassifierGLM, LogisticRegression or a Pipeline that ends with one
            It stays as it is; a ``callback`` of its own is not called.
        X, y
            As ``fit`` takes them.
        fit_params : dict, optional
            Further arguments of ``fit``, such as ``{"sample_weight": weight}``.
        name : str, optional
            Default: the name of the solver; of a LogisticRegression its own.
        best : float, optional
            As in the constructor.
        ax : matplotlib Axes, optional
            As in :meth:`plot`.

        Raises
        ------
        TypeError
            If the estimator is none of these.
        """
        model, trace = clone(estimator), glmcore.Trace()
        last = drawing.last_step(model)
        if isinstance(last, ClassifierGLM):
            given = last.get_params()["solver_kwargs"] or {}
            last.set_params(solver_kwargs={**given, "callback": trace, "verbose": False})
        elif isinstance(last, LogisticRegression):
            last._callback = trace
        else:
            raise TypeError(
                "estimator must be a ClassifierGLM, a LogisticRegression of glmcore_sklearn or a pipeline that ends "
                f"with one, found {type(last).__name__}"
            )
        model.fit(X, y, **(fit_params or {}))
        if name is None:
            name = last.solver_name if isinstance(last, ClassifierGLM) else type(last).__name__
        return cls(trace.reports, name=name, best=best).plot(ax=ax)

    def plot(self, *, ax=None) -> "ConvergenceDisplay":
        """Draw residual, gap and tolerance on a logarithmic scale over the steps.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: one of a new figure.  That of another display compares the two.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are no reports.
        """
        if not self.reports:
            raise ValueError("reports must hold those of a fit, as glmcore.Trace().reports after one; found none")
        ax = drawing.axes(ax, (7, 4.2))
        color = drawing.COLORS[len(ax.get_lines()) // 3 % len(drawing.COLORS)]
        steps = np.array([report.n_iter for report in self.reports])
        residual = np.array([report.optimality for report in self.reports])
        objective = np.array([report.objective for report in self.reports])
        best = objective.min() if self.best is None else self.best
        gap = (objective - best) / (abs(best) or 1.0)
        above = gap > 0  # the least is nowhere on a logarithmic scale
        few = {"marker": "o", "markersize": 3.5} if len(steps) <= 60 else {}
        (first,) = ax.plot(steps, residual, color=color, label=f"{self.name}: optimality residual", **few)
        (second,) = ax.plot(
            steps[above], gap[above], color=color, linestyle="--", label=f"{self.name}: objective gap", **few
        )
        ax.axhline(self.reports[-1].tol, color=color, linewidth=0.9, linestyle=":", label=f"{self.name}: tol")
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel("relative to the null model (residual)\nor the least objective (gap)")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        drawing.without_frame(ax)
        self.lines_, self.ax_, self.figure_ = [first, second], ax, ax.figure
        return self
