"""What several test modules need: problems, penalties beside their oracle, comparisons in float64."""

import functools

import jax
import numpy as np
import oracle
import pytest

import glmcore

#: An argument of which only the long run of the tests makes a case.
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
#: A test in float32, and in float64 in the long run only.
mostly_float32 = pytest.mark.parametrize("precision", ["float32", slow("float64")], indirect=True)

K_OF = {"breast_cancer": 2, "digits": 10}

#: What each dtype has to reach: the default tolerance, and the relative gap of the objective.
TOL = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-8}
GAP = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-9}


def n_classes(name):
    return K_OF.get(name, 3)


def data(name, dtype):
    X, y = oracle.load(name)
    return X.astype(dtype), y


def build(kind, *args):
    """A penalty and its float64 twin."""
    return getattr(glmcore, kind)(*args), getattr(oracle, kind)(*args)


def model(penalty, K=3, **kwargs):
    return glmcore.GLM(glmcore.Categorical(K), penalty, **kwargs)


@functools.cache
def reference(name, kind, *args, dtype="float64"):
    """The oracle's optimum on the data as they are stored in ``dtype``."""
    X, y = oracle.load(name)
    stored = X.astype(dtype).astype(np.float64)
    if dtype != "float64" and np.array_equal(X, stored):
        return reference(name, kind, *args)
    return oracle.reference_fit(getattr(oracle, kind)(*args), stored, y, n_classes(name))


def in_float64(params):
    """Coefficients stacked to one matrix, and intercept, as NumPy sees them."""
    coef = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params.coef)]
    return np.concatenate(coef), np.asarray(params.intercept, np.float64)


def relative_gap(twin, params, X, y, best, weight=None):
    """(F(params) - F*) / F*, all in float64."""
    found = oracle.objective(twin, *in_float64(params), np.asarray(X, np.float64), y, weight)
    return (found - best) / best


def relative_error(found, expected):
    """Largest difference over the largest expected entry."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-300)


def status(result):
    return glmcore.Status[result.status]


def is_status(result, name):
    return bool(result.status == getattr(glmcore.Status, name))


@functools.cache
def small(seed=0, n=60, p=4, K=3, separation=1.0):
    """(X, y) drawn from a softmax; every class occurs.  One shape, so that programs are shared."""
    rng = np.random.default_rng(seed)
    X, truth = rng.standard_normal((n, p)), separation * rng.standard_normal((p, K))
    y = np.argmax(X @ truth + rng.gumbel(size=(n, K)), axis=1)
    y[:K] = np.arange(K)
    X.flags.writeable = y.flags.writeable = False
    return X, y
