"""Lanes shared out among threads: the results of one program, however many cores there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import is_status, model, slow, small

import glmcore
import glmcore_sklearn.many
from glmcore_sklearn import ClassifierPopulationGLM, LogisticRegressionCV

#: A shared array, lanes first, a pair of lanes second and None, None.
AXES = None, 0, (1, 0), 0
OUT_AXES = {"first": 0, "last": -1, "shared": None}


@pytest.fixture
def cores(monkeypatch):
    """Three of them, whatever the size of the work; the program's calls in order, by lanes."""
    for sizes in (glmcore.many._CHUNK_BYTES, glmcore.many._OWN_CHUNK_BYTES):
        monkeypatch.setitem(sizes, "cpu", 1)
    monkeypatch.setattr(glmcore.many, "_LEAST_PART", 1)
    return lambda number: monkeypatch.setattr(glmcore.cores, "n_cores", lambda: number)


def lanewise(traced=None):
    @glmcore.quick_jit
    def program(shared, first, pair, nothing):
        if traced is not None:
            traced.append(len(first))
        both = pair[0].T * first
        return {"first": both + shared[None], "last": both.T, "shared": shared}

    return program


def arguments(n_lanes, kind=np.asarray):
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((4, max(n_lanes, 1), 4))
    return kind(arrays[0, 0]), kind(arrays[1, :n_lanes]), (kind(arrays[2, :n_lanes].T), None), None


@pytest.mark.parametrize("n_lanes", [0, 1, 2, 3, 4, 6, 7, 8, 10])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_as_one_program(n_lanes, kind, cores, x64):
    cores(4)
    traced = []
    args = arguments(n_lanes, kind)
    found = glmcore.on_cores(lanewise(traced), AXES, OUT_AXES)(*args)
    assert traced == [-(-n_lanes // 4)]
    expected = lanewise()(*args)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_no_more_parts_than_asked(cores):
    cores(8)
    traced = []
    glmcore.on_cores(lanewise(traced), AXES, OUT_AXES, most=2)(*arguments(8))
    assert traced == [4]


def test_inside_programs_it_is_the_program(cores, x64):
    cores(4)
    args, traced = arguments(8), []
    shared_out = glmcore.on_cores(lanewise(traced), AXES, OUT_AXES)
    expected = lanewise()(*args)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda: shared_out(*args))(), expected)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(shared_out)(*args), expected)
    slope = jax.grad(lambda first: shared_out(args[0], first, *args[2:])["last"].sum())(args[1])
    np.testing.assert_array_equal(slope, args[2][0].T)
    assert set(traced) == {8}


def test_errors():
    with pytest.raises(TypeError, match="program must be a function by quick_jit, found <built-in"):
        glmcore.on_cores(abs)
    with pytest.raises(ValueError, match="most must be a positive whole number, found 0"):
        glmcore.on_cores(lanewise(), most=0)
    shared, first, pair, _ = arguments(4)
    with pytest.raises(ValueError, match=r"as many lanes along in_axes, found \[3, 4\]"):
        glmcore.on_cores(lanewise(), AXES)(shared, first[:3], pair, None)
    with pytest.raises(ValueError, match=r"as many lanes along in_axes, found \[\]"):
        glmcore.on_cores(lanewise(), None)(shared, first, pair, None)
    with pytest.raises(ValueError, match=r"in_axes must be axes of arrays, found 2 for one of shape \(4, 4\)"):
        glmcore.on_cores(lanewise(), [None, 2, (1, None), 0])(shared, first, pair, None)


def test_arrays_that_numpy_does_not_know(cores):
    cores(3)
    draw = glmcore.quick_jit(jax.vmap(lambda key: jax.random.normal(key, (2,))))
    keys = jax.random.split(jax.random.key(0), 7)
    np.testing.assert_array_equal(glmcore.on_cores(draw)(keys), draw(keys))
    product = glmcore.quick_jit(lambda weak, half: weak * half)
    args = jnp.full(7, 1.5), jnp.ones(7, jnp.bfloat16)
    assert glmcore.on_cores(product)(*args).dtype == product(*args).dtype == jnp.bfloat16


def test_shared_arrays_are_put_on_the_device_once(cores, monkeypatch):
    cores(3)
    shared, first, pair, _ = arguments(7)
    seen = []
    program = lanewise()
    prepared = program.prepared
    monkeypatch.setattr(program, "prepared", lambda *like: lambda *part: seen.append(part[0]) or prepared(*like)(*part))
    glmcore.on_cores(program, AXES, OUT_AXES)(shared, first, pair, None)
    assert len(seen) == 3 and isinstance(seen[0], jax.Array) and all(part is seen[0] for part in seen)


def test_on_another_device_it_is_the_program(cores, monkeypatch):
    cores(3)
    traced = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not glmcore.cores._on_one_cpu(arguments(7))
    glmcore.on_cores(lanewise(traced), AXES, OUT_AXES)(*arguments(7))
    assert traced == [7]


@pytest.mark.parametrize("what", ["X y", slow("y"), slow("weight"), "strength"])
@pytest.mark.parametrize("penalty", [glmcore.Ridge, slow(glmcore.Lasso)])
def test_fits_in_threads(what, penalty, cores, x64):
    X, y = (np.stack(part) for part in zip(*(small(seed=seed) for seed in range(7))))
    weight = np.random.default_rng(0).integers(0, 3, (7, 60)).astype(float)
    strength = np.geomspace(0.01, 0.1, 7)
    given = {"X": X, "y": y, "weight": weight, "strength": strength}
    axes = [0 if name in what.split() else None for name in given]

    def fit(X, y, weight, strength):
        return glmcore.fit(model(penalty(strength)), X, y, sample_weight=weight)

    args = [value if axis == 0 else value[0] for value, axis in zip(given.values(), axes)]
    found = {}
    for number in (1, 3):
        cores(number)
        found[number] = jax.vmap(fit, axes)(*map(jnp.asarray, args))
    assert found[3].params.coef.dtype == np.float64
    assert np.all(found[3].converged)
    for lane in range(7):
        single = fit(*(value[lane] if axis == 0 else value for value, axis in zip(args, axes)))
        for batch in found.values():
            np.testing.assert_allclose(batch.objective[lane], single.objective, rtol=1e-8)
            np.testing.assert_allclose(batch.params.coef[lane], single.params.coef, atol=1e-6)


def test_trouble_of_one_lane_in_a_thread(cores):
    cores(3)
    X, y = (np.stack(part) for part in zip(*(small(seed=seed) for seed in range(7))))
    X[4, 0, 0] = np.nan
    fits = jax.vmap(lambda X, y: glmcore.fit(model(glmcore.Ridge(0.1)), X, y))(jnp.asarray(X), jnp.asarray(y))
    assert fits.converged.tolist() == [True] * 4 + [False] + [True] * 2
    assert is_status(jax.tree.map(lambda leaf: leaf[4], fits), "nonfinite")


@pytest.mark.parametrize("masked", [False, slow(True)])
def test_a_population_in_threads(masked, cores, monkeypatch):
    monkeypatch.setattr(glmcore_sklearn.many, "_LEAST_NUMBERS", 1)
    X, _ = small()
    y = np.stack([small(seed=seed)[1] for seed in range(7)], axis=1)
    mask = np.random.default_rng(0).random((4, 7, 3)) < 0.7 if masked else None
    found = []
    for number in (1, 3):
        cores(number)
        found.append(ClassifierPopulationGLM(3, regularizer_strength=0.1, feature_mask=mask).fit(X, y))
    one, three = found
    np.testing.assert_allclose(three.coef_, one.coef_, atol=1e-5)
    np.testing.assert_allclose(three.intercept_, one.intercept_, atol=1e-5)
    assert three.coef_.shape == (4, 7, 3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_folds_in_threads(dtype, cores):
    X, y = small(n=120)
    scores = []
    for number in (1, 3):
        cores(number)
        search = LogisticRegressionCV(Cs=4, cv=4, scoring="neg_log_loss", l1_ratios=(0, 0.5), use_legacy_attributes=False)
        search = search.set_params(solver="saga", tol=1e-6, max_iter=1000).fit(X.astype(dtype), y)
        assert search.coef_.dtype == dtype
        scores.append(search.scores_)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)
