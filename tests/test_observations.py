"""The categorical observation model against formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import slow
from scipy.special import log_softmax, logsumexp, softmax

from glmcore import Categorical
from glmcore.observations import are_classes

N, K = 50, 3
RNG = np.random.default_rng(5)
ETA, Y = 3 * RNG.standard_normal((N, K)), RNG.integers(0, K, N)
MODEL = Categorical(K)

nll = jax.jit(MODEL.negative_log_likelihood)


# The inner loop's methods have the class axis first; the tests have it last, as everything else.
@functools.partial(jax.jit, static_argnums=2)
def value_and_residual(eta, y, inverse_link=None):
    value, residual = MODEL.value_and_residual(jnp.moveaxis(eta, -1, 0), y, inverse_link)
    return value, jnp.moveaxis(residual, 0, -1)


@functools.partial(jax.jit, static_argnums=3)
def divergence(change, eta, y, inverse_link=None):
    return MODEL.divergence(jnp.moveaxis(change, -1, 0), jnp.moveaxis(eta, -1, 0), y, inverse_link)




def cauchit(eta):
    """A link that is not shift-invariant: Cauchy distribution functions, normalised."""
    weight = 0.5 + jnp.arctan(eta) / jnp.pi
    return jnp.log(weight) - jnp.log(jnp.sum(weight, axis=-1, keepdims=True))


def cauchit_twin(eta):
    weight = 0.5 + np.arctan(eta) / np.pi
    return np.log(weight / weight.sum(axis=-1, keepdims=True))


def arrays(precision, *values):
    return [jnp.asarray(v, precision if np.asarray(v).dtype.kind == "f" else None) for v in values]


def test_log_proba(precision):
    eta, = arrays(precision, ETA)
    found = jax.jit(MODEL.log_proba)(eta)
    assert found.dtype == precision
    np.testing.assert_allclose(found, log_softmax(ETA, axis=1), rtol=0, atol=60 * np.finfo(precision).eps)


def test_negative_log_likelihood(precision):
    eta, y = arrays(precision, ETA, Y)
    expected = logsumexp(ETA, axis=1) - ETA[np.arange(N), Y]
    found = nll(eta, y)
    assert found.dtype == precision and found.shape == (N,)
    np.testing.assert_allclose(found, expected, rtol=0, atol=60 * np.finfo(precision).eps)
    value, residual = value_and_residual(eta, y)
    np.testing.assert_allclose(value, expected, rtol=0, atol=60 * np.finfo(precision).eps)
    np.testing.assert_allclose(
        residual, softmax(ETA, axis=1) - np.eye(K)[Y], rtol=0, atol=20 * np.finfo(precision).eps
    )


def test_a_nearly_certain_label_keeps_its_relative_accuracy(precision):
    eta = ETA.copy()
    eta[np.arange(N), Y] = eta.max(axis=1) + np.linspace(0, 60, N)
    eta, y = arrays(precision, eta, Y)
    exact = np.asarray(eta, np.float64)
    odds = np.exp(exact - exact[np.arange(N), Y][:, None])
    odds[np.arange(N), Y] = 0
    others = odds.sum(axis=1)
    residual = odds / (1 + others[:, None])
    residual[np.arange(N), Y] = -others / (1 + others)
    rtol = 200 * np.finfo(precision).eps
    value, found = value_and_residual(eta, y)
    np.testing.assert_allclose(value, np.log1p(others), rtol=rtol)
    np.testing.assert_allclose(found, residual, rtol=rtol)
    np.testing.assert_allclose(nll(eta, y), np.log1p(others), rtol=rtol)
    derivative = jax.grad(lambda eta: jnp.sum(nll(eta, y)))(eta)
    np.testing.assert_allclose(derivative, residual, rtol=rtol)


# Few classes, more than are written out for many samples, more than are for any; few and many samples.
@pytest.mark.parametrize(
    "n_classes, n", [(17, 2**15), (40, 7), slow(16, 2**15), slow(40, 2**15), slow(16, 7), slow(17, 7)]
)
def test_any_number_of_classes_and_samples(n_classes, n, x64):
    rng = np.random.default_rng(n_classes)
    eta, change = 3 * rng.standard_normal((2, n_classes, n))
    y = rng.integers(0, n_classes, n)
    model, label = Categorical(n_classes), np.eye(n_classes)[y].T
    y, direction = jnp.asarray(y), jnp.asarray(change)
    value, residual = jax.jit(model.value_and_residual)(eta, y)
    np.testing.assert_allclose(value, logsumexp(eta, axis=0) - (label * eta).sum(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(residual, softmax(eta, axis=0) - label, rtol=0, atol=1e-14)
    # In lanes, and the derivative in the direction of the change.
    lanes = jax.vmap(lambda e: jax.jvp(lambda e: model.value_and_residual(e, y)[1], (e,), (direction,)))
    both, bends = jax.jit(lanes)(np.stack([eta, -eta]))
    np.testing.assert_allclose(both, np.stack([residual, softmax(-eta, axis=0) - label]), rtol=0, atol=1e-14)
    for proba, bend in zip(softmax([eta, -eta], axis=1), bends):
        expected = proba * (change - (proba * change).sum(axis=0))
        np.testing.assert_allclose(bend, expected, rtol=0, atol=1e-13)
    excess = jax.jit(model.divergence)(change, eta, y)
    expected = logsumexp(eta + change, axis=0) - logsumexp(eta, axis=0) - (softmax(eta, axis=0) * change).sum(axis=0)
    np.testing.assert_allclose(excess, expected, rtol=1e-9)  # its series ends


def test_residual_is_the_derivative(x64):
    eta, y = jnp.asarray(ETA), jnp.asarray(Y)
    _, residual = value_and_residual(eta, y)
    by_jax = jax.jit(jax.grad(lambda e: jnp.sum(MODEL.negative_log_likelihood(e, y))))(eta)
    np.testing.assert_allclose(residual, by_jax, atol=1e-14)
    for k in range(K):
        step = 1e-5 * np.eye(K)[k]
        ahead, behind = (logsumexp(e, axis=1) - e[np.arange(N), Y] for e in (ETA + step, ETA - step))
        np.testing.assert_allclose(residual[:, k], (ahead - behind) / 2e-5, atol=1e-8)


def test_values_have_their_derivative_where_classes_tie(precision):
    eta, y = jnp.zeros((K, K), precision), jnp.arange(K)
    expected = 1 / K - np.eye(K)
    for value in (nll, lambda eta, y: value_and_residual(eta, y)[0]):
        found = jax.grad(lambda eta: jnp.sum(value(eta, y)))(eta)
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * np.finfo(precision).eps)


def test_leading_axes_are_batches():
    eta, y = jnp.asarray(ETA.reshape(5, 10, K), jnp.float32), jnp.asarray(Y.reshape(5, 10))
    np.testing.assert_array_equal(nll(eta, y).ravel(), nll(eta.reshape(N, K), y.ravel()))
    value, residual = value_and_residual(eta, y)
    assert value.shape == (5, 10) and residual.shape == (5, 10, K)
    assert nll(eta[0, 0], y[0, 0]).shape == ()


@pytest.mark.parametrize("size", [1e-5, 1e-3, 0.05, 0.5, 5.0])
def test_divergence_keeps_its_relative_accuracy(size, precision):
    eta, change = (v.astype(precision) for v in (ETA, size * RNG.standard_normal((N, K))))
    # In exact arithmetic, on the numbers as stored: E exp(z) - 1 from its series in longdouble.
    z = change.astype(np.longdouble)
    P = softmax(eta.astype(np.longdouble), axis=1)
    z = z - np.sum(P * z, axis=1, keepdims=True)
    excess = np.zeros_like(z)
    term = z * z / 2
    for order in range(3, 60):
        excess += term
        term = term * z / order
    expected = np.log1p(np.sum(P * excess, axis=1))
    found = np.asarray(divergence(*arrays(precision, change, eta, Y)), np.float64)
    assert np.all(found >= 0)
    # In float64 the series that stands for expm1(z) - z is cut at a relative 4e-9.
    rtol = 1e-4 if precision == np.float32 else 1e-8
    # The loss is flat along a shift of all classes, and the change then is nearly all shift.
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=rtol, atol=1e-3 * rtol * size**2)


def test_divergence_agrees_with_its_definition(x64):
    change = 0.7 * RNG.standard_normal((N, K))
    value, residual = (np.asarray(v) for v in value_and_residual(jnp.asarray(ETA), jnp.asarray(Y)))
    moved = logsumexp(ETA + change, axis=1) - (ETA + change)[np.arange(N), Y]
    expected = moved - value - np.sum(residual * change, axis=1)
    found = divergence(jnp.asarray(change), jnp.asarray(ETA), jnp.asarray(Y))
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_a_custom_link(x64):
    eta, y = jnp.asarray(ETA), jnp.asarray(Y)
    np.testing.assert_allclose(MODEL.log_proba(eta, cauchit), cauchit_twin(ETA), rtol=1e-12)
    expected = -cauchit_twin(ETA)[np.arange(N), Y]
    np.testing.assert_allclose(MODEL.negative_log_likelihood(eta, y, cauchit), expected, rtol=1e-12)
    value, residual = value_and_residual(eta, y, cauchit)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for k in range(K):
        step = 1e-5 * np.eye(K)[k]
        ahead, behind = (-cauchit_twin(e)[np.arange(N), Y] for e in (ETA + step, ETA - step))
        np.testing.assert_allclose(residual[:, k], (ahead - behind) / 2e-5, atol=1e-7)
    change = 0.3 * RNG.standard_normal((N, K))
    moved = -cauchit_twin(ETA + change)[np.arange(N), Y]
    np.testing.assert_allclose(
        divergence(jnp.asarray(change), eta, y, cauchit),
        moved - expected - np.sum(np.asarray(residual) * change, axis=1),
        atol=1e-10,
    )


def test_the_log_softmax_is_the_default_link():
    eta, y = jnp.asarray(ETA, jnp.float32), jnp.asarray(Y)
    expected = MODEL.negative_log_likelihood(eta, y)
    np.testing.assert_array_equal(MODEL.negative_log_likelihood(eta, y, jax.nn.log_softmax), expected)


def test_extreme_predictors_stay_finite(precision):
    eta = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]])
    y = np.array([1, 0, 2, 0])
    expected = logsumexp(eta, axis=1) - eta[np.arange(4), y]
    e, labels = arrays(precision, eta, y)
    for found in (nll(e, labels), value_and_residual(e, labels)[0]):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e4 * np.finfo(precision).eps)
    residual = value_and_residual(e, labels)[1]
    np.testing.assert_allclose(residual, softmax(eta, axis=1) - np.eye(K)[y], atol=1e-6)
    gradient = jax.grad(lambda v: jnp.sum(MODEL.negative_log_likelihood(v, labels)))(e)
    np.testing.assert_allclose(gradient, residual, atol=1e-6)
    assert np.all(np.isfinite(jax.jit(MODEL.log_proba)(e)))


def test_divergence_of_an_extreme_change_is_finite(precision):
    eta, change, y = arrays(precision, np.zeros((2, K)), np.array([[1e4, -1e4, 0.0], [200, 0, 0]]), np.array([1, 0]))
    expected = logsumexp(change, axis=1) - np.log(K) - np.mean(change, axis=1)
    np.testing.assert_allclose(divergence(change, eta, y), expected, rtol=1e-4)
    # And one that brings back a class whose probability had underflowed.
    there = 150 * jnp.array([[1.0, -1.0, -1.0]], precision)
    np.testing.assert_allclose(divergence(-2 * there, there, y[:1]), [300 + np.log(2)], rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-3, 3.0, 60.0, 1e4])
def test_two_classes_by_their_contrast_are_what_they_are_one_by_one(size, precision):
    both, pair = Categorical(2), Categorical(2).contrasted()
    eta, change = (size * RNG.standard_normal((2, N)).astype(precision) for _ in range(2))
    y = jnp.asarray(Y % 2)
    own, seen = (eta, change), [jax.jit(pair.contrasts)(v.T).T for v in (eta, change)]
    assert seen[0].shape == (1, N)

    def every(model, eta, change):
        found = model.value_and_residual(eta, y)
        return *found, model.divergence(change, eta, y), model.hessian(eta, y), model.curvature(eta, y)

    value, residual, divergence, hessian, curvature = jax.jit(functools.partial(every, pair))(*seen)
    others = jax.jit(functools.partial(every, both))(*own)
    between = pair.outputs(pair.outputs(hessian.T).mT).mT.T
    found = value, pair.outputs(residual.T).T, divergence, between, curvature
    for one, other in zip(found, others):
        assert one.dtype == precision and one.shape == other.shape
        scale = np.maximum(1, np.max(np.abs(other)))
        np.testing.assert_allclose(one, other, rtol=0, atol=20 * np.finfo(precision).eps * scale)
    # A label that is nearly certain keeps its relative accuracy.
    ahead = np.where(y == 1, 1, -1) * np.asarray(seen[0][0], np.float64)
    expected = np.logaddexp(0, -ahead)
    tiny = np.finfo(precision).tiny
    np.testing.assert_allclose(value, expected, rtol=60 * np.finfo(precision).eps, atol=tiny)
    expected = np.exp(-np.logaddexp(0, ahead)) * np.where(y == 1, -1, 1)
    rtol = (60 + 2 * size) * np.finfo(precision).eps  # of the contrast itself
    np.testing.assert_allclose(residual[0], expected, rtol=rtol, atol=tiny)


def test_two_classes_have_all_derivatives_where_they_tie(x64):
    pair, y = Categorical(2).contrasted(), jnp.arange(2)
    found = jax.grad(lambda eta: jnp.sum(pair.value_and_residual(eta, y)[0]))(jnp.zeros((1, 2)))
    np.testing.assert_allclose(found, [[0.5, -0.5]], rtol=1e-15)
    derivative = lambda eta: pair.value_and_residual(eta, y)[1]  # noqa: E731
    for expected in (0.25, 0, -0.125):
        _, bend = jax.jvp(derivative, (jnp.zeros((1, 2)),), (jnp.ones((1, 2)),))
        np.testing.assert_allclose(bend, [[expected, expected]], atol=1e-15)
        derivative = functools.partial(lambda f, eta: jax.jvp(f, (eta,), (jnp.ones_like(eta),))[1], derivative)


def test_only_two_classes_under_the_canonical_link_have_one_contrast():
    two, three = Categorical(2), Categorical(3)
    assert two.contrasted(cauchit) is two and three.contrasted() is three
    assert two.contrasted(jax.nn.log_softmax) == two.contrasted() and two.contrasted() != two

    class Smoothed(Categorical):
        """Whose solver would not know what it overrides."""

    own = Smoothed(2)
    assert own.contrasted() is own
    outputs = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(two.contrasts(outputs), outputs)
    np.testing.assert_array_equal(two.contrasted().contrasts(outputs), np.ones((3, 1)))
    slope = jnp.arange(1.0, 4)[:, None]
    product = jnp.sum(two.contrasted().contrasts(outputs) * slope)
    assert product == jnp.sum(outputs * two.contrasted().outputs(slope))


def test_null_predictor(precision):
    weight = RNG.uniform(0.1, 2, N)
    found = jax.jit(MODEL.null_predictor)(*arrays(precision, Y, weight))
    np.testing.assert_allclose(found, oracle.null_intercept(Y, K, weight), atol=30 * np.finfo(precision).eps)
    assert found.dtype == precision


def test_null_predictor_of_an_absent_class_is_a_finite_floor():
    y, weight = np.where(Y == 2, 0, Y), np.ones(N)
    found = np.asarray(jax.jit(MODEL.null_predictor)(*arrays(np.float32, y, weight)))
    share = np.array([np.mean(y == 0), np.mean(y == 1), 0.5 / N])
    np.testing.assert_allclose(found, np.log(share) - np.log(share).mean(), atol=1e-5)
    # Rows without weight do not make a class present.
    zeroed = np.asarray(jax.jit(MODEL.null_predictor)(*arrays(np.float32, Y, np.where(Y == 2, 0.0, 1.0))))
    assert np.all(np.isfinite(zeroed)) and zeroed[2] == zeroed.min() and abs(zeroed.sum()) < 1e-5


def test_samples_have_the_frequencies_of_the_model():
    log_proba = jnp.log(jnp.array([0.7, 0.25, 0.05]))
    draws = MODEL.sample(jax.random.key(0), jnp.broadcast_to(log_proba, (20_000, K)))
    assert jnp.issubdtype(draws.dtype, jnp.integer) and draws.shape == (20_000,)
    share = np.bincount(np.asarray(draws), minlength=K) / 20_000
    np.testing.assert_allclose(share, [0.7, 0.25, 0.05], atol=4 * np.sqrt(0.25 / 20_000))


def test_n_classes_is_an_integer_of_at_least_2():
    assert Categorical(np.int64(4)).n_outputs == 4 and repr(Categorical(4.0)) == "Categorical(4)"
    for bad in (1, 0, -2):
        with pytest.raises(ValueError, match=f"n_classes must be at least 2, found {bad}"):
            Categorical(bad)


def test_n_classes_that_is_no_whole_number_is_not_rounded():
    with pytest.raises((ValueError, TypeError)):
        Categorical(2.5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_which_labels_are_classes_in_any_dtype(dtype, x64):
    labels = {np.int8: [-1, 0, 127], np.uint8: [0, 255], np.int64: [-1, 2, 300, 2**32]}[dtype]
    found = are_classes(jnp.asarray(labels, dtype), 300)
    np.testing.assert_array_equal(found, [0 <= label < 300 for label in labels])
