"""What is fitted: the table of problems, and the data that each of them makes."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, toeplitz
from sklearn.datasets import load_digits, load_iris

from benchmarks.objective import strength_of_null_model

#: Correlation of neighbouring columns of the synthetic features.
CORRELATION = 0.7

#: Standard deviation of the linear predictor of the synthetic labels, about.
SIGNAL = 2.0


class Task(NamedTuple):
    """One problem with its data made: what a peer is given.

    ``objective = mean_i NLL_i + penalty(coef)``, with ``log_softmax(X @ coef + intercept)`` as
    log-probabilities, ``coef`` of shape (p, K), and s the strength:

    - ``"ridge"``: s/2 * sum of w^2
    - ``"lasso"``: s * sum of abs(w)
    - ``"group lasso"``: s * sqrt(K) * sum over features of the 2-norm of their K coefficients
    """

    X: np.ndarray
    y: np.ndarray
    n_classes: int
    penalty: str
    strength: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """One row of the table.

    Parameters
    ----------
    name : str
        How the command line and the README call it.
    make : callable
        Gives (X, y), the same at every call.
    penalty : {"ridge", "lasso", "group lasso"}
        See :class:`Task`.
    strength : float
        s for ridge; for the others s as a fraction of the least strength at which all
        coefficients are zero.
    dtype : str
        Of X.
    """

    name: str
    make: Callable[[], tuple[np.ndarray, np.ndarray]]
    penalty: str
    strength: float
    dtype: str = "float32"

    def load(self) -> Task:
        """Make the data, and the strength absolute."""
        X, y = self.make()
        X, y = np.ascontiguousarray(X, self.dtype), y.astype(np.int32)
        n_classes = int(y.max()) + 1
        strength = self.strength
        if self.penalty != "ridge":
            strength *= strength_of_null_model(self.penalty, X, y, n_classes)
        return Task(X, y, n_classes, self.penalty, strength)


def standardised(load) -> tuple[np.ndarray, np.ndarray]:
    """A data set of scikit-learn, columns of mean 0 and variance 1 (constant columns: 0)."""
    X, y = load(return_X_y=True)
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0), y


def synthetic(n: int, p: int, n_classes: int, informative: float = 1.0):
    """Gaussian features whose columns i and j have correlation 0.7^abs(i - j), and labels drawn
    from a softmax model by Gumbel noise; only the fraction ``informative`` of its features, those
    in front, has coefficients."""
    rng = np.random.default_rng(0)
    mix = cholesky(toeplitz(CORRELATION ** np.arange(p))).astype(np.float32)
    X = rng.standard_normal((n, p), dtype=np.float32) @ mix
    used = max(1, round(informative * p))
    coef = np.zeros((p, n_classes), np.float32)
    coef[:used] = SIGNAL * rng.standard_normal((used, n_classes)) / np.sqrt(used)
    noise = rng.gumbel(size=(n, n_classes)).astype(np.float32)
    return X, np.argmax(X @ coef + noise, axis=1)


def problems(quick: bool = False) -> list[Problem]:
    """The table; ``quick`` divides the rows of the synthetic ones by 50, to try the machinery."""
    shrink = 50 if quick else 1
    iris, digits = partial(standardised, load_iris), partial(standardised, load_digits)
    shapes = (100_000, 100, 5), (60_000, 784, 10), (1_000_000, 20, 3), (1_000_000, 5, 3), (30_000, 100, 20), (100_000, 20, 2)
    tall, wide, many, narrow, divided, binary = (partial(synthetic, n // shrink, p, K) for n, p, K in shapes)
    sparse = partial(synthetic, 20_000 // shrink, 100, 5, informative=0.1)
    return [
        Problem("iris", iris, "ridge", 1e-3),
        Problem("digits", digits, "ridge", 1e-3),
        Problem("100000x100x5", tall, "ridge", 1e-3),
        Problem("60000x784x10", wide, "ridge", 1e-3),
        Problem("1000000x20x3", many, "ridge", 1e-3),
        Problem("1000000x5x3", narrow, "ridge", 1e-3),
        Problem("30000x100x20", divided, "ridge", 1e-3),
        Problem("100000x20x2", binary, "ridge", 1e-3),
        Problem("digits-lasso-0.05", digits, "lasso", 0.05),
        Problem("digits-lasso-0.01", digits, "lasso", 0.01),
        Problem("20000x100x5-lasso-0.05", sparse, "lasso", 0.05),
        Problem("20000x100x5-lasso-0.01", sparse, "lasso", 0.01),
        Problem("digits-group-lasso-0.05", digits, "group lasso", 0.05),
        Problem("20000x100x5-group-lasso-0.05", sparse, "group lasso", 0.05),
    ]


#: The three shapes whose steps are compared with the memory bus.
LARGE = ("100000x100x5", "60000x784x10", "1000000x20x3")
