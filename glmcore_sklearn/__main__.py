"""Fit the handwritten digits: ``python -m glmcore_sklearn [--plot FILE.png]``."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import classification_report, confusion_matrix
from sklearn.model_selection import train_test_split

import glmcore
from glmcore_sklearn import ClassifierGLM, CoefficientsDisplay, load_model


def main(arguments: list[str] | None = None) -> int:
    """Fit, report, save, load, compare; 0 if the loaded model predicts the same."""
    options = _parser().parse_args(arguments)
    sys.stdout.reconfigure(line_buffering=True)  # in step with the progress on standard error
    if options.plot is not None and not _can_plot():
        print("--plot needs matplotlib: pip install 'glmcore[plot]'", file=sys.stderr)
        return 2
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    print(f"data      digits: {X.shape[1]} features, {len(set(y))} classes,")
    print(f"          {len(y_train)} samples to fit, {len(y_test)} held out")
    model = ClassifierGLM(
        n_classes=None,
        regularizer=options.regularizer,
        regularizer_strength=options.strength,
        solver_kwargs={"verbose": True},
    )
    cold, warm = _fit_twice(model, X_train, y_train)
    _report_fit(model, cold, warm)
    predicted = model.predict(X_test)
    _report_scores(model, X_test, y_test, predicted)
    same = _survives_saving(model, X_test, predicted, options.save)
    if options.plot is not None:
        _plot(model, y_test, predicted, options.plot)
        print(f"plot      {options.plot}")
    return 0 if same else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m glmcore_sklearn",
        description="Fit ClassifierGLM to scikit-learn's handwritten digits and report.",
    )
    parser.add_argument("--regularizer", default="Ridge", help="name of the penalty (Ridge)")
    parser.add_argument("--strength", type=float, default=0.01, help="its strength (0.01)")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep the saved model here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw coefficients here")
    return parser


def _fit_twice(model: ClassifierGLM, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds of the first fit, which compiles, and of the second, which does not."""
    print("fitting   (the first fit compiles the program, a moment)")
    seconds = []
    for solver_kwargs in ({"verbose": True}, {"callback": lambda progress: None}):
        model.set_params(solver_kwargs=solver_kwargs)
        began = time.perf_counter()
        jax.block_until_ready(model.fit(X, y).coef_)
        seconds.append(time.perf_counter() - began)
    model.set_params(solver_kwargs=None)
    return seconds[0], seconds[1]


def _report_fit(model: ClassifierGLM, cold: float, warm: float) -> None:
    state = model.solver_state_
    print(f"penalty   {model.regularizer!r}, strength {model.regularizer_strength}")
    print(f"solver    {model.solver_name}: {model.n_iter_} steps, {glmcore.Status[model.status_]}")
    print(f"          objective {float(state.objective):.6f}, residual {float(state.optimality):.1e}")
    print(f"time      {cold:.2f} s with compilation, {1e3 * warm:.1f} ms to fit again")


def _report_scores(
    model: ClassifierGLM, X: np.ndarray, y: np.ndarray, predicted: np.ndarray
) -> None:
    print("held out  log-likelihood       " + f"{float(model.score(X, y)):.4f} a sample")
    for name in ("pseudo-r2-McFadden", "pseudo-r2-Cohen"):
        print(f"          {name:20s} {float(model.score(X, y, name)):.4f}")
    print(f"          accuracy             {np.mean(predicted == y):.4f}")
    print(classification_report(y, predicted, digits=3))


def _survives_saving(
    model: ClassifierGLM, X: np.ndarray, predicted: np.ndarray, target: Path | None
) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz" if target is None else target
        model.save_params(path)
        loaded = load_model(path)
    agree = int(np.sum(loaded.predict(X) == predicted))
    print(f"saved     {path.name}, loaded back: {agree} of {len(predicted)} predictions agree")
    return agree == len(predicted)


def _can_plot() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _plot(model: ClassifierGLM, y: np.ndarray, predicted: np.ndarray, path: Path) -> None:
    """Coefficients of each class as an 8 x 8 image, beside the confusion matrix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    display = CoefficientsDisplay.from_estimator(model, image_shape=(8, 8), ax=left.subplots())
    display.colorbar_.set_label("log-odds per unit of pixel intensity (0 to 16)")
    left.suptitle("Coefficients of each class")
    _plot_confusion(right, confusion_matrix(y, predicted, labels=model.classes_), model.classes_)
    figure.savefig(path, dpi=150)


def _plot_confusion(figure, counts: np.ndarray, classes: np.ndarray) -> None:
    axis = figure.subplots()
    axis.imshow(np.sqrt(counts), cmap="Blues")  # the root lets the few errors show
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = count > counts.max() / 3
            axis.text(column, row, count, ha="center", va="center", color="white" if dark else "black")
    ticks = range(len(classes))
    axis.set(xticks=ticks, yticks=ticks, xticklabels=classes, yticklabels=classes)
    axis.set(xlabel="predicted class", ylabel="true class")
    figure.suptitle(f"Confusion matrix of {counts.sum()} held-out samples")


if __name__ == "__main__":
    sys.exit(main())
