"""Values that a caller may pass by mistake or malice."""

import io
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse

import glmcore

N, P, K = 60, 4, 3
_RNG = np.random.default_rng(0)
X = _RNG.standard_normal((N, P)).astype(np.float32)
Y = np.argmax(X[:, :K] + _RNG.gumbel(size=(N, K)), axis=1)
WEIGHT = np.linspace(0.5, 2, N).astype(np.float32)
LABELS = np.array(["a", "b", "c"])[Y]
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="glmcore-fuzz-"))


def _with(value: Any, array: np.ndarray = X) -> np.ndarray:
    changed = array.copy()
    changed.flat[7] = value
    return changed


class Odd:
    """No number, no sequence, nothing."""

    def __repr__(self) -> str:
        return "Odd()"


#: Features that mean the same as X, whatever they look like.
DISGUISED = {
    "X fortran": np.asfortranarray(X),
    "X strided": np.repeat(X, 2, axis=1)[:, ::2],
    "X reversed": X[::-1][::-1],
    "X big endian": X.astype(">f4"),
    "X float64": X.astype(np.float64),
    "X long double": X.astype(np.longdouble),
    "X list": X.tolist(),
    "X tuple of rows": tuple(map(tuple, X.tolist())),
    "X objects": X.astype(object),
    "X jax": jnp.asarray(X),
    "X frame": pd.DataFrame(X),
    "X mapped": np.memmap(FOLDER / "mapped", np.float32, "w+", shape=(N, P)),
    "X unmasked": np.ma.masked_array(X, False),
}
DISGUISED["X mapped"][:] = X

#: Features of other values.
FEATURES = {
    "X read only": X.view(),
    "X float16": X.astype(np.float16),
    "X bfloat16": jnp.asarray(X, jnp.bfloat16),
    "X int8": (10 * X).astype(np.int8),
    "X bool": X > 0,
    "X uint64": np.full((N, P), 2**64 - 1, np.uint64),
    "X NaN": _with(np.nan),
    "X all NaN": np.full_like(X, np.nan),
    "X infinite": _with(-np.inf),
    "X huge": 3e38 * np.sign(X),
    "X tiny": 1e-45 * X,
    "X beyond float32": 1e300 * X.astype(np.float64),
    "X constant": np.ones_like(X),
    "X far": X + 1e7,
    "X masked": np.ma.masked_array(X, X > 1),
    "X complex": X + 1j,
    "X text": X.astype(str),
    "X bytes": X.astype("S8"),
    "X objects odd": np.full((N, P), Odd(), object),
    "X objects None": np.full((N, P), None, object),
    "X dates": np.full((N, P), np.datetime64("2020-01-01")),
    "X structured": np.zeros((N, P), "f4,i4"),
    "X void": np.zeros((N, P), "V4"),
    "X rows short": X[:-1],
    "X no rows": X[:0],
    "X no columns": X[:, :0],
    "X wide": np.hstack([X, X]),
    "X narrow": X[:, :2],
    "X flat": X[:, 0],
    "X deep": X[:, :, None],
    "X matrix": np.asmatrix(X),
    "X sparse": scipy.sparse.csr_matrix(X),
    "X frame odd": pd.DataFrame({"a": ["x"] * N, 1: 0.0}),
    "X frame NA": pd.DataFrame({"a": pd.array([pd.NA] * N, "Int64")}),
    "X dict": {"a": X[:, :2], "b": X[:, 2:]},
    "X dict short": {"a": X, "b": X[1:]},
    "X nested": {"a": [X[:, :1], (X[:, 1:],)]},
    "X ragged": [[1.0, 2.0]] * (N - 1) + [[1.0]],
    "X generator list": [iter([1.0])] * N,
}
FEATURES["X read only"].flags.writeable = False

#: One value a row, of whatever kind.
COLUMNS = {
    "y other": (Y + 1) % K,
    "y beyond": Y + 1,
    "y negative": Y - 1,
    "y float": Y.astype(float),
    "y fractions": Y + 0.5,
    "y NaN": _with(np.nan, Y.astype(float)),
    "y infinite": _with(np.inf, Y.astype(float)),
    "y bool": Y > 0,
    "y one class": np.zeros(N, int),
    "y many classes": np.arange(N),
    "y huge": np.full(N, 2**63 - 1),
    "y uint64": np.full(N, 2**64 - 1, np.uint64),
    "y int8": Y.astype(np.int8),
    "y text": LABELS,
    "y bytes": LABELS.astype("S1"),
    "y mixed": np.array(["a", 1, None] * (N // 3), object),
    "y odd": np.array([Odd()] * N, object),
    "y dates": np.datetime64("2020-01-01") + Y,
    "y NaT": np.full(N, np.datetime64("NaT", "D")),
    "y complex": Y + 1j,
    "y short": Y[:-1],
    "y empty": Y[:0],
    "y column": Y[:, None],
    "y square": np.tile(Y, (N, 1)),
    "y masked": np.ma.masked_array(Y, Y == 0),
    "y series": pd.Series(LABELS),
    "y categories": pd.Categorical(LABELS),
    "y NA": pd.array([pd.NA] * N, "Int64"),
    "y list": Y.tolist(),
    "y lists": [[0, 1]] * N,
    "y ragged": [[0]] * (N - 1) + [[0, 1]],
    "y jax": jnp.asarray(Y),
    "y structured": np.zeros(N, "i4,i4"),
    "w negative": _with(-1.0, WEIGHT),
    "w zero": np.zeros(N),
    "w huge": np.full(N, 3e38, np.float32),
    "w tiny": np.full(N, 1e-45, np.float32),
    "w one": np.eye(1, N)[0],
    "w float16": WEIGHT.astype(np.float16),
}

_COEF = np.zeros((P, K), np.float32)
OTHERS = {
    "None": None,
    "True": True,
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "half": 0.5,
    "whole float": 3.0,
    "large": 10**12,
    "huge": 10**400,
    "float huge": 1e300,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "complex": 1j,
    "NumPy scalar": np.float64(0.1),
    "0-d": np.array(0.1),
    "0-d NaN": np.array(np.nan),
    "0-d object": np.array(None),
    "0-d jax": jnp.float32(-1),
    "empty text": "",
    "text": "ridge",
    "text odd": "\0\ud800",
    "bytes": b"abc",
    "list": [],
    "tuple": (),
    "dict": {},
    "set": {1, 2},
    "range": range(3),
    "pair": (0.1, 0.5),
    "triple": (1, 2, 3),
    "list of None": [None],
    "dict of text": {"tol": "x"},
    "dict of unknown": {"unknown": 1},
    "dict of tol": {"tol": -1.0, "maxiter": 5},
    "class": int,
    "function": len,
    "bad link": lambda eta: eta[..., :1],
    "generator": (i for i in ()),
    "odd": Odd(),
    "stream": io.BytesIO(b""),
    "key": jax.random.key(0),
    "old key": jax.random.PRNGKey(0),
    "path": FOLDER / "absent" / "file",
    "params": glmcore.GLMParams(_COEF, np.zeros(K, np.float32)),
    "params NaN": glmcore.GLMParams(_COEF * np.nan, np.zeros(K, np.float32)),
    "params huge": glmcore.GLMParams(_COEF + 3e38, np.zeros(K, np.float32)),
    "params wide": glmcore.GLMParams(np.zeros((P, K + 1), np.float32), np.zeros(K, np.float32)),
    "params swapped": (np.zeros(K), _COEF),
    "Ridge": glmcore.Ridge(-1.0),
    "Lasso": glmcore.Lasso(0.1),
    "LBFGS": glmcore.LBFGS(maxiter=3),
    "SVRG": glmcore.SVRG(maxiter=2),
    "model": glmcore.GLM(glmcore.Categorical(2)),
    "coef": _COEF,
    "strengths": np.full((P, 1), 0.1),
    "strengths NaN": np.full((P, K), np.nan),
}
HOSTILE = {**DISGUISED, **FEATURES, **COLUMNS, **OTHERS}
#: Numbers for which so much memory or time would be needed, as was asked for.
LARGE = ("large", "huge", "float huge", "X uint64")
