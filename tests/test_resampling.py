"""Bootstrap and jackknife against loops over single fits, and their formulas by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import model, small

import glmcore
from glmcore import GLMParams, Status

GROUPS = np.arange(60) % 12
KEY, B = jax.random.key(3), 20


@pytest.fixture(scope="module")
def data():
    """Labels of which the last class has two rows, so that resamples lack it."""
    X, y = small()
    y = np.where(y == 2, 0, y)
    y[[7, 31]] = 2
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def glm():
    return model(glmcore.Ridge(0.05))


@pytest.fixture(scope="module")
def boot(glm, data):
    return glmcore.bootstrap(glm, *data, key=KEY, n_resamples=B)


@pytest.fixture(scope="module")
def jack(glm, data):
    return glmcore.jackknife(glm, *data, groups=GROUPS)


def flat(params):
    coef, intercept = params
    return np.concatenate([np.asarray(a, float).reshape(*a.shape[: a.ndim - i], -1) for i, a in ((2, coef), (1, intercept))], -1)


def test_every_resample_equals_its_own_fit(glm, data, boot):
    X, y = data
    draws = [np.asarray(jax.random.randint(k, (60,), 0, 60)) for k in jax.random.split(KEY, B)]
    lacking = np.array([2 not in y[rows] for rows in draws])
    assert 0 < lacking.sum() < B
    np.testing.assert_array_equal(boot.status == Status.missing_class, lacking)
    assert bool(boot.converged.all()) and boot.params.coef.shape == (B, 4, 3)
    for lane in (*np.flatnonzero(lacking)[:2], *np.flatnonzero(~lacking)[:3]):
        weight = np.bincount(draws[lane], minlength=60)
        own = glmcore.fit(glm, X, y, sample_weight=weight)
        np.testing.assert_allclose(boot.params.coef[lane], own.params.coef, atol=2e-4)
        np.testing.assert_allclose(boot.params.intercept[lane][:2], own.params.intercept[:2], atol=2e-4)


def test_errors_and_intervals_are_those_of_numpy(glm, data, boot):
    X, _ = data
    lanes = flat(boot.params)[np.asarray(boot.status == Status.converged)]
    assert 2 < len(lanes) < B and np.abs(lanes).max() < 10  # without the floor of a class that is lacking
    np.testing.assert_allclose(flat(boot.standard_error()), lanes.std(axis=0, ddof=1), rtol=1e-4)
    for found, share in zip(boot.percentile_interval(0.9), (0.05, 0.95)):
        np.testing.assert_allclose(flat(found), np.quantile(lanes, share, axis=0), rtol=1e-4, atol=1e-6)
    proba = np.stack([np.exp(glm.log_proba(GLMParams(c, b), X[:5])) for c, b in zip(*boot.params)])
    low, high = boot.percentile_interval(0.5, of=lambda params: jnp.exp(glm.log_proba(params, X[:5])))
    np.testing.assert_allclose(low, np.quantile(proba, 0.25, axis=0), rtol=1e-4)
    np.testing.assert_allclose(high, np.quantile(proba, 0.75, axis=0), rtol=1e-4)


def test_the_estimate_is_the_fit_to_the_rows_as_they_are(glm, data, boot):
    own = glmcore.fit(glm, *data).params
    np.testing.assert_allclose(flat(boot.estimate), flat(own), atol=1e-4)


@pytest.mark.slow
def test_jackknife_leaves_out_one_block_at_a_time(glm, data, jack):
    X, y = data
    own = []
    for block in range(12):
        kept = (GROUPS != block).astype(np.float32)
        own.append(flat(glmcore.fit(glm, X, y, sample_weight=kept).params))
    np.testing.assert_allclose(flat(jack.params), own, atol=2e-4)
    lanes, mean = flat(jack.params), flat(jack.params).mean(axis=0)
    error = np.sqrt(11 / 12 * np.sum((lanes - mean) ** 2, axis=0))
    np.testing.assert_allclose(flat(jack.standard_error()), error, rtol=1e-4)
    bias = 11 * (mean - flat(jack.estimate))
    np.testing.assert_allclose(flat(jack.bias()), bias, atol=1e-4)
    assert jack.bias(of=lambda params: params.coef[0]).shape == (3,)


@pytest.mark.slow
def test_blocks_are_drawn_as_wholes(glm, data):
    X, y = data
    names = np.array([f"subject {g}" for g in 11 - GROUPS])
    boot = glmcore.bootstrap(glm, X, y, key=KEY, n_resamples=3, groups=names)
    labels = np.unique(names)
    for lane, key in enumerate(jax.random.split(KEY, 3)):
        drawn = np.asarray(jax.random.randint(key, (12,), 0, 12))
        weight = sum((names == labels[block]).astype(np.float32) for block in drawn)
        own = glmcore.fit(glm, X, y, sample_weight=weight).params
        np.testing.assert_allclose(boot.params.coef[lane], own.coef, atol=2e-4)


def test_fits_without_an_answer_are_left_out():
    coef = jnp.arange(16.0).reshape(4, 2, 2).at[1].set(jnp.nan)
    params = GLMParams(coef, jnp.zeros((4, 2)).at[3].set(-87.0))
    estimate = jax.tree.map(lambda leaf: leaf[0], params)
    ends = Status.converged, Status.separable, Status.converged, Status.missing_class
    boot = glmcore.BootstrapResult(estimate, params, jax.tree.map(lambda *s: jnp.stack(s), *ends))
    assert repr(boot) == "BootstrapResult(4 fits: 2 converged, 1 separable, 1 missing_class)"
    np.testing.assert_array_equal(boot.converged, [True, False, True, True])
    np.testing.assert_allclose(boot.standard_error().coef, np.std(coef[:3:2], axis=0, ddof=1))
    np.testing.assert_array_equal(boot.standard_error().intercept, 0)
    low, high = boot.percentile_interval(0.5)
    np.testing.assert_allclose(low.coef, np.quantile(coef[:3:2], 0.25, axis=0))
    np.testing.assert_allclose(high.coef, np.quantile(coef[:3:2], 0.75, axis=0))
    jack = glmcore.JackknifeResult(estimate, params, boot.status)
    np.testing.assert_allclose(jack.standard_error().coef, np.full((2, 2), np.sqrt(1 / 2 * 32)))
    # A probability of zero is one as any other.
    proba = boot.standard_error(lambda params: jnp.exp(params.intercept))
    np.testing.assert_allclose(proba, np.std([1, 1, 0], ddof=1), rtol=1e-6)
    missing = jax.tree.map(lambda *s: jnp.stack(s), *[Status.missing_class] * 4)
    lacking = glmcore.BootstrapResult(estimate, GLMParams(coef.at[1].set(1.0), params.intercept), missing)
    assert np.isfinite(lacking.standard_error().coef).all()  # a class that all of them lack is no reason


@pytest.mark.parametrize("n_good", [0, 1])
def test_less_than_two_fits_with_an_answer_have_no_spread(n_good):
    params = GLMParams(jnp.arange(12.0).reshape(3, 2, 2), jnp.zeros((3, 2)))
    estimate = jax.tree.map(lambda leaf: leaf[0], params)
    ends = [Status.converged] * n_good + [Status.separable] * (3 - n_good)
    status = jax.tree.map(lambda *s: jnp.stack(s), *ends)
    boot = glmcore.BootstrapResult(estimate, params, status)
    jack = glmcore.JackknifeResult(estimate, params, status)
    spreads = boot.standard_error(), *boot.percentile_interval(), jack.standard_error(), jack.bias()
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(spreads))
    assert np.isnan(jack.bias(lambda params: params.coef[0, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [glmcore.Lasso(0.02), glmcore.UnRegularized()], ids=["Lasso", "UnRegularized"])
def test_penalties_whose_fits_go_one_by_one(penalty, x64):
    X, y = small(seed=5)
    result = glmcore.jackknife(model(penalty), X, y)
    for lane in (0, 30, 59):
        kept = np.arange(60) != lane
        own = glmcore.fit(model(penalty), X[kept], y[kept]).params
        np.testing.assert_allclose(flat(jax.tree.map(lambda a: a[lane], result.params)), flat(own), atol=1e-5)


@pytest.mark.slow
def test_more_weights_than_memory_should_hold(glm, data, boot, monkeypatch):
    monkeypatch.setattr("glmcore.resampling._WEIGHTS_AT_ONCE", 7 * 60)
    whole = glmcore.bootstrap(glm, *data, key=KEY, n_resamples=B + 1, sample_weight=np.full(60, 2.0))
    draws = jax.random.randint(jax.random.split(KEY, B + 1)[B], (60,), 0, 60)
    own = glmcore.fit(glm, *data, sample_weight=np.bincount(draws, minlength=60)).params
    np.testing.assert_allclose(whole.params.coef[B], own.coef, atol=2e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, X, y: glmcore.bootstrap(m, X, y, key=KEY, n_resamples=0), "n_resamples must be .* found 0"),
        (lambda m, X, y: glmcore.bootstrap(m, X, y, key=KEY, groups=[1, 2]), r"groups must have shape \(60,\).*\(2,\)"),
        (lambda m, X, y: glmcore.jackknife(m, X, y, groups=np.zeros(60)), "at least two different labels"),
        (lambda m, X, y: glmcore.jackknife(m, X, y[:5]), "y must have shape"),
        (lambda m, X, y: glmcore.jackknife(m, X, y, groups=[np.nan, 1] * 30), "groups must be labels, found NaN"),
        (lambda m, X, y: glmcore.jackknife(m, X, y, groups=[None, "a"] * 30), "groups must be labels of one kind"),
        (lambda m, X, y: glmcore.bootstrap(m, X, y, key=3), r"key must be a PRNG key such as jax.random.key\(0\), found 3"),
        (lambda m, X, y: glmcore.bootstrap(m, X, y, key=np.uint32(3)), "key must be a PRNG key .* found .*3"),
    ],
)
def test_bad_input(call, message, glm, data):
    with pytest.raises((ValueError, TypeError), match=message):
        call(glm, *data)


def test_what_is_asked_of_fits_is_a_function(boot, jack):
    for asked in (boot.standard_error, boot.percentile_interval, jack.standard_error, jack.bias):
        with pytest.raises(TypeError, match="of must be a function of the GLMParams of one fit, found 'coef'"):
            asked(of="coef")


def test_a_level_is_a_share(boot):
    with pytest.raises(ValueError, match="level must lie between 0 and 1, found 95.0"):
        boot.percentile_interval(95.0)


def test_traced_groups_are_named():
    X, y = small()
    with pytest.raises(ValueError, match="groups must be known before jax.jit"):
        jax.jit(lambda groups: glmcore.jackknife(model(glmcore.Ridge(0.1)), X, y, groups=groups).params)(np.arange(60))
