"""Rows are padded to buckets: nearby lengths share a program, and nobody sees the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model, slow, small
from hypothesis import given
from hypothesis import strategies as st

import glmcore
from glmcore import centring, padding
from glmcore.centring import centred_rows
from glmcore.coordinates import Coordinates
from glmcore.padding import bucket
from glmcore_sklearn import ClassifierGLM

X, Y = small(seed=6)
X = np.tile(X, (4, 1)).astype(np.float32)
Y = np.tile(Y, 4)


@pytest.mark.parametrize("large", [False, True])
def test_centred_rows_have_mean_zero_and_weights_of_one(large, monkeypatch):
    if large:  # in pieces, on two threads
        monkeypatch.setattr(centring, "_LARGE_BYTES", 0)
        monkeypatch.setattr(centring, "_SUMMED_ROWS", 7)
    weight = np.linspace(0, 3, len(X), dtype=np.float32)
    rows, y, share, (centre, deviation) = centred_rows(X + 1000, Y, weight, True)
    assert rows.shape == (256, X.shape[1]) and not share[len(X) :].any() and not rows[len(X) :].any()
    np.testing.assert_allclose(share[: len(X)], weight / weight.sum(dtype=float), rtol=1e-6)
    np.testing.assert_allclose(centre, np.average(X + 1000.0, axis=0, weights=weight), rtol=1e-6)
    spread = np.average(np.square(X + 1000.0 - centre), axis=0, weights=weight)
    np.testing.assert_allclose(deviation, np.sqrt(spread), rtol=1e-5)
    np.testing.assert_array_equal(rows[: len(X)], X + 1000 - centre)
    np.testing.assert_array_equal(y[: len(X)], Y)


@given(st.integers(1, 10**8), st.integers(4, 10**5))
def test_a_bucket_holds_the_rows_and_adds_little(n_rows, row_bytes):
    rows = bucket(n_rows, row_bytes)
    assert rows >= n_rows
    assert bucket(rows, row_bytes) == rows
    if rows * row_bytes > 64 * 2**20 and rows > 256:
        assert rows <= 1.015625 * n_rows
    elif rows * row_bytes > 32 * 2**20 and rows > 256:
        assert rows <= 1.0625 * n_rows
    elif rows * row_bytes > 16 * 2**20 and rows > 256:
        assert rows <= 1.125 * n_rows
    elif rows > 1024:
        assert rows <= 1.25 * n_rows
    else:
        assert rows <= max(256, 2 * n_rows)


@pytest.mark.parametrize("penalty", [glmcore.Ridge(0.1), *map(slow, (glmcore.Lasso(0.02), glmcore.UnRegularized()))], ids=repr)
def test_a_padded_fit_is_the_fit(penalty):
    padded = glmcore.fit(model(penalty), X[:100], Y[:100])
    # Traced arrays are never padded.
    exact = jax.jit(lambda X: glmcore.fit(model(penalty), X, Y[:100]))(X[:100])
    assert padded.converged and exact.converged
    np.testing.assert_allclose(padded.params.coef, exact.params.coef, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(padded.objective, exact.objective, rtol=1e-6)
    np.testing.assert_array_equal(padded.params.coef == 0, exact.params.coef == 0)


def test_twenty_row_counts_share_one_program(programs):
    glmcore.fit(model(glmcore.Ridge(0.1)), X[:89], Y[:89])
    with programs:
        for n in range(90, 130, 2):
            assert glmcore.fit(model(glmcore.Ridge(0.1)), X[:n], Y[:n]).converged
    assert programs.compiled == 0


def test_ragged_batches_share_one_program(programs):
    glm = model(glmcore.Ridge(0.1))
    params = glm.initialize_params(X, Y)
    state = glmcore.init_state(glm, params, X, Y)
    params, state = glmcore.update(glm, params, state, X[:64], Y[:64])
    with programs:
        for n in (64, 50, 7, 1):
            params, state = glmcore.update(glm, params, state, X[:n], Y[:n])
    assert programs.compiled == 0
    assert np.isfinite(params.coef).all()


@pytest.mark.parametrize("regularizer", ["Ridge", "Lasso"])
def test_folds_share_the_programs_of_the_estimator(regularizer, programs):
    def fold(n):
        fitted = ClassifierGLM(3, regularizer=regularizer, regularizer_strength=0.05).fit(X[:n], Y[:n])
        loss = fitted.compute_loss((fitted.coef_, fitted.intercept_), X[n:], Y[n:])
        score = fitted.score(X[n:], Y[n:], aggregate_sample_scores=lambda scores: np.mean(np.asarray(scores)))
        np.testing.assert_allclose(score, -loss, rtol=1e-5)
        assert fitted.predict(X[n:]).shape == (240 - n,)
        assert fitted.predict_proba(X[n:]).shape == (240 - n, 3)
        return fitted.initialize_params(X[:n], Y[:n])

    fold(100)
    with programs:
        for n in (110, 120, 130):
            fold(n)
    assert programs.compiled == 0


def test_what_is_given_is_not_changed_and_whole_buckets_are_not_copied():
    same, weight = glmcore.pad_rows(X, np.ones(240, np.float32))
    assert same.shape == (256, 4) and weight.sum() == 240
    again, _ = glmcore.pad_rows(same, weight)
    assert again is same


def test_what_lives_on_another_device_is_padded_there(monkeypatch):
    """As if the CPU's arrays were a GPU's: only those of NumPy's are at the host."""
    monkeypatch.setattr(padding, "on_host", lambda leaf: isinstance(leaf, np.ndarray))
    rows, weight, y = glmcore.pad_rows(jnp.asarray(X), np.ones(240, np.float32), jnp.asarray(Y))
    assert isinstance(rows, jax.Array) and rows.shape == (256, 4) and y.shape == weight.shape == (256,)
    assert float(jnp.sum(jnp.abs(rows[240:]))) == weight[240:].sum() == 0
    there = glmcore.fit(model(glmcore.Ridge(0.1)), jnp.asarray(X[:100]), jnp.asarray(Y[:100]))
    here = glmcore.fit(model(glmcore.Ridge(0.1)), X[:100], Y[:100])
    assert there.converged
    np.testing.assert_allclose(there.params.coef, here.params.coef, rtol=1e-3, atol=1e-4)


def test_row_counts_share_a_program_on_another_device(monkeypatch, programs):
    monkeypatch.setattr(padding, "on_host", lambda leaf: isinstance(leaf, np.ndarray))
    glm = model(glmcore.Ridge(0.1))
    data = {n: (jnp.asarray(X[:n]), jnp.asarray(Y[:n])) for n in (89, 90, 97)}
    for rows in data.values():
        glmcore.pad_rows(*rows)  # that program is one a length
    glmcore.fit(glm, *data[89])
    with programs:
        assert glmcore.fit(glm, *data[90]).converged and glmcore.fit(glm, *data[97]).converged
    assert programs.compiled == 0


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_on_the_host_are_those_of_the_program(dtype, fit_intercept):
    """Also of columns that are constant, tiny, huge, far away, or not all numbers."""
    rng, n = np.random.default_rng(0), 500
    z = rng.standard_normal(n)
    far = np.where(np.arange(n) % 2 == 0, 1.0, 1 + 2.0**-20)
    gap = np.where(z > 2, np.nan, z)
    columns = [z, 0 * z + 3.7, 1e-30 * z, 1e30 * z, z + 1e6, 0 * z, far, gap]
    rows, weight = np.stack(columns, axis=1).astype(dtype), rng.integers(0, 3, n).astype(dtype)
    rows[weight == 0, 1] = 5
    with jax.enable_x64(dtype == "float64"):
        moments = centred_rows(rows, np.zeros(n, np.int32), weight, fit_intercept)[3]
        measured, _ = Coordinates.measure(
            jnp.asarray(rows), jnp.asarray(weight / weight.sum()), glmcore.Ridge(), 2, fit_intercept
        )
        rtol = 1e-4 if dtype == "float32" else 1e-12  # of a spread of one rounding
        np.testing.assert_allclose(moments.deviation, measured.deviation, rtol=rtol)
        np.testing.assert_array_equal(moments.deviation == 0, np.asarray(measured.deviation) == 0)
        np.testing.assert_allclose(moments.centre, measured.centre, rtol=rtol)


def test_what_is_no_count_is_named():
    for name, count in (("at_least", 1000.5), ("at_least", -1), ("n_models", 0), ("n_models", "2")):
        with pytest.raises(ValueError, match=f"{name} must be a positive whole number, found {count!r}"):
            glmcore.pad_rows(np.ones((9, 2)), **{name: count})
