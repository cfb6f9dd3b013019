"""Corners where a fit could be wrong and say nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import scipy.optimize
import scipy.special
from helpers import is_status, model, slow, small

import glmcore
from glmcore import status_name
from glmcore_sklearn import ClassifierGLM

X, Y = small(seed=8)
X = X.astype(np.float32)
K = 3


def gap(penalty, result, X, y, weight=None):
    coef, intercept = (np.asarray(leaf, float) for leaf in result.params)
    best = oracle.reference_fit(penalty, X.astype(float), y, K, weight)[2]
    return (oracle.objective(penalty, coef, intercept, X.astype(float), y, weight) - best) / best


def test_weights_that_pass_over_most_rows_do_not_stop_a_fit():
    rng = np.random.default_rng(0)
    n = 16384
    features = rng.standard_normal((n, 3)).astype(np.float32)
    labels = (features + rng.gumbel(size=(n, 3))).argmax(axis=1)
    weight = np.zeros(n, np.float32)
    weight[1::2] = 1
    result = glmcore.fit(model(glmcore.Ridge(1e-3)), features, labels, sample_weight=weight)
    assert result.converged
    assert gap(oracle.Ridge(1e-3), result, features[1::2], labels[1::2]) < 1e-6


@pytest.mark.parametrize("penalty", [glmcore.Lasso(0.05), glmcore.Ridge(0.05)], ids=repr)
def test_a_start_at_a_far_level_costs_no_digits(penalty):
    far = glmcore.GLMParams(jnp.full((4, K), 50.0), jnp.full(K, 1000.0))
    result = glmcore.fit(model(penalty), X, Y, init_params=far)
    assert result.converged
    assert gap(getattr(oracle, type(penalty).__name__)(0.05), result, X, Y) < 1e-6


@pytest.mark.parametrize("penalty", [glmcore.Lasso(0.05), glmcore.Ridge(0.05)], ids=repr)
def test_without_an_intercept_a_start_has_none_either(penalty):
    glm = model(penalty, fit_intercept=False)
    start = glmcore.GLMParams(jnp.zeros((4, K)), jnp.array([3.0, 0.0, -3.0]))
    moved, plain = glmcore.fit(glm, X, Y, init_params=start), glmcore.fit(glm, X, Y)
    np.testing.assert_allclose(moved.objective, plain.objective, rtol=1e-6)
    np.testing.assert_allclose(moved.objective, glm.objective(moved.params, X, Y), rtol=1e-5)
    assert not moved.params.intercept.any()


@pytest.mark.parametrize("size", [1e25, 1e15, 1e-15])
def test_a_feature_of_any_size_is_fitted(size):
    scaled = X.copy()
    scaled[:, 0] *= np.float32(size)
    result = glmcore.fit(model(glmcore.UnRegularized()), scaled, Y)
    plain = glmcore.fit(model(glmcore.UnRegularized()), X, Y)
    assert result.converged and plain.converged
    np.testing.assert_allclose(result.objective, plain.objective, rtol=1e-5)
    np.testing.assert_allclose(np.float64(result.params.coef[0]) * size, plain.params.coef[0], rtol=1e-3)


@pytest.mark.slow
def test_a_feature_too_small_for_the_dtype_plays_no_part():
    scaled = X.copy()
    scaled[:, 0] *= np.float32(1e-22)
    result = glmcore.fit(model(glmcore.Ridge(0.1)), scaled, Y)
    rest = glmcore.fit(model(glmcore.Ridge(0.1)), X[:, 1:], Y)
    assert result.converged and not result.params.coef[0].any()
    np.testing.assert_allclose(result.objective, rest.objective, rtol=1e-5)


@pytest.mark.parametrize(
    "penalty",
    [glmcore.UnRegularized(), slow(glmcore.Ridge(0.0)), glmcore.Lasso(0.0), slow(glmcore.ElasticNet(0.0)), glmcore.GroupLasso(0.0)],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["separable", "quasi-separable"])
def test_separable_data_that_nothing_penalises_have_no_optimum(penalty, kind):
    features = np.array([[-2], [-1], [0], [0], [1], [2]], np.float32)
    if kind == "separable":
        features[2:4] = [[-0.5], [0.5]]
    result = glmcore.fit(glmcore.GLM(glmcore.Categorical(2), penalty), features, np.array([0, 0, 0, 1, 1, 1]))
    assert status_name(result.status) == "separable" and not result.converged


#: The first two of four features are free.
HELD = np.array([[0.0], [0.0], [1.0], [1.0]])
GROUPED = np.repeat([[[0], [0], [1], [0]], [[0], [0], [0], [1]]], 3, axis=2)


def partly_separable(kind, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    apart = rng.uniform(0, 0.9, 40)
    match kind:
        case "in order":
            X[:, 0] = y + apart
        case "one class":
            X[:, 1] = (y == 2) + apart
        case "by both":
            turn = 2 * np.pi * y / 3
            X[:, 0], X[:, 1] = np.cos(turn) + 0.1 * X[:, 0], np.sin(turn) + 0.1 * X[:, 1]
        case "by what is held":
            X[:, 2] = y + apart
    return X, y


@pytest.mark.parametrize(
    "penalty",
    [glmcore.Ridge(0.1 * HELD), slow(glmcore.Lasso(0.05 * HELD)), slow(glmcore.ElasticNet(0.05 * HELD)), glmcore.GroupLasso(0.05, GROUPED)],
    ids=lambda penalty: type(penalty).__name__,
)
@pytest.mark.parametrize("kind", ["in order", "one class", slow("by both"), "by what is held"])
def test_features_without_a_penalty_that_separate_the_classes(penalty, kind, precision):
    for seed in range(2):
        X, y = partly_separable(kind, seed)
        X = X.astype(precision)
        free = unbounded(X[:, :2].astype(float), y, 3)
        assert free == (kind != "by what is held")
        fits = [glmcore.fit(model(penalty), X, y)]
        if penalty.smooth:
            lanes = jax.vmap(lambda w: glmcore.fit(model(penalty), X, y, sample_weight=w))(jnp.ones((2, 40), X.dtype))
            fits += [jax.tree.map(lambda leaf: leaf[lane], lanes) for lane in (0, 1)]
        assert {status_name(fit.status) for fit in fits} == {"separable" if free else "converged"}


class Softened(glmcore.AbstractPenalty):
    """Smooth, not 0 at zero, and blind to the features whose strength is 0."""

    strength: jax.Array
    smooth = True

    def value(self, coef):
        return 1 + jnp.sum(self.strength * jnp.sqrt(jnp.square(coef) + 1e-4))


class FlatNearZero(glmcore.AbstractPenalty):
    smooth = True

    def value(self, coef):
        return jnp.sum(jnp.square(jnp.maximum(jnp.abs(coef) - 10, 0)))


def test_penalties_of_ones_own_and_separable_classes(x64):
    X, y = partly_separable("one class", 0)
    assert is_status(glmcore.fit(model(Softened(jnp.asarray(0.1 * HELD))), X, y), "separable")
    stopped = glmcore.fit(model(FlatNearZero()), X[:, 1:2], y, solver=glmcore.LBFGS(maxiter=3))
    assert is_status(stopped, "out_of_steps")


def test_a_weak_penalty_in_a_path_is_a_penalty():
    """The objective vanishes to rounding, and still there is a minimum."""
    X, y = partly_separable("in order", 0)
    path = glmcore.regularization_path(model(glmcore.Ridge()), X.astype(np.float32), y, strengths=[1.0, 1e-10])
    lanes = jax.vmap(lambda s: glmcore.fit(model(glmcore.Ridge(s)), X.astype(np.float32), y).status)(jnp.array([1.0, 1e-10]))
    for status in (path.status, lanes):
        assert not jnp.any(status == glmcore.Status.separable)


@pytest.mark.parametrize("penalty", [glmcore.Ridge, glmcore.Lasso])
def test_a_feature_that_is_free_for_another_class_only_separates_nothing(penalty):
    X, y = partly_separable("one class", 0)
    strength = np.full((4, 3), 0.05)
    strength[1, 0] = 0
    assert glmcore.fit(model(penalty(strength)), X, y).converged


@pytest.mark.parametrize("penalty", [glmcore.Ridge(0.0), glmcore.Lasso(0.0), glmcore.ElasticNet(0.0)], ids=repr)
def test_strength_zero_has_the_level_of_least_norm(penalty):
    result, plain = (glmcore.fit(model(p), X, Y) for p in (penalty, glmcore.UnRegularized()))
    np.testing.assert_allclose(result.params.coef, plain.params.coef, atol=2e-4)


def test_a_missing_class_is_left_out_of_every_model():
    def link(eta):
        return jax.nn.log_softmax(2 * eta)

    for options in ({"inverse_link": link}, {"fit_intercept": False}):
        four, three = (
            glmcore.GLM(glmcore.Categorical(n), glmcore.Ridge(0.1), **options) for n in (4, 3)
        )
        with_it, without = glmcore.fit(four, X, Y), glmcore.fit(three, X, Y)
        assert status_name(with_it.status) == "missing_class"
        np.testing.assert_allclose(with_it.params.coef[:, :3], without.params.coef, atol=1e-4)
        np.testing.assert_allclose(with_it.objective, four.objective(with_it.params, X, Y), rtol=1e-4)


def test_a_missing_class_has_no_coefficients_whatever_the_features_span():
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1]])
    found = glmcore.fit(glmcore.GLM(glmcore.Categorical(3), mask=mask), X[:, [0, 1, 1]].astype(np.float32), Y % 2)
    assert status_name(found.status) == "missing_class"
    assert not np.any(found.params.coef[:, 2])


def test_narrow_labels_do_not_wrap():
    y = np.arange(60).astype(np.uint8) * 4
    glm = glmcore.GLM(glmcore.Categorical(300), glmcore.Ridge(0.1))
    params = glmcore.GLMParams(jnp.zeros((4, 300)), jnp.linspace(-3, 3, 300))
    np.testing.assert_allclose(glm.loss(params, X, y), glm.loss(params, X, y.astype(np.int32)), rtol=1e-6)


def test_integer_features_are_of_the_default_dtype(x64):
    result = glmcore.fit(model(glmcore.Ridge(0.1)), (10 * X).astype(int), Y)
    assert result.params.coef.dtype == np.float64 and result.converged


@pytest.mark.slow
def test_the_optimality_of_constant_features_can_be_differentiated():
    constant = X.copy()
    constant[:, 0] = 3
    glm = model(glmcore.Ridge(0.1))
    params = glm.initialize_params(constant, Y)
    gradient = jax.grad(lambda weight: glm.optimality(params, constant, Y, weight))(jnp.ones(60))
    assert np.isfinite(gradient).all()


def test_predictions_can_be_traced():
    fitted = ClassifierGLM(K, regularizer_strength=0.1).fit(X, Y)
    np.testing.assert_allclose(jax.jit(fitted.predict_proba)(X), fitted.predict_proba(X), rtol=1e-5)


def test_set_params_shows_in_n_classes():
    fitted = ClassifierGLM(K, regularizer_strength=0.1).fit(X, Y)
    assert fitted.set_params(n_classes=4).n_classes == 4


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i4"])
def test_features_of_another_byte_order_are_features(dtype):
    X = np.arange(24).reshape(8, 3) % 7
    y, glm = np.array([0, 1] * 4), model(glmcore.Ridge(0.1), 2)
    foreign = glmcore.fit(glm, X.astype(dtype), y)
    native = glmcore.fit(glm, X.astype(np.dtype(dtype).newbyteorder("=")), y)
    np.testing.assert_array_equal(foreign.params.coef, native.params.coef)


def test_a_penalty_does_not_change_with_the_array_it_was_made_of():
    strength = np.full((3, 2), 0.1)
    penalty = glmcore.Ridge(strength)
    strength[:] = -1
    np.testing.assert_array_equal(penalty.strength, 0.1)


@pytest.mark.slow
def test_a_fit_in_float32_follows_one_by_one_fits_in_float64():
    """With the same default solver, whose settings are constants of the program before."""
    glm = model(glmcore.Lasso(0.02))
    with jax.enable_x64(True):
        glmcore.jackknife(glm, X[:20].astype(np.float64), Y[:20])
    assert glmcore.fit(glm, X[:20], Y[:20]).params.coef.dtype == np.float32


@pytest.mark.parametrize("solver", [None, slow(glmcore.LBFGS()), glmcore.ProximalNewton()])
def test_float64_fits_of_many_rows(solver, x64):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((9000, 3)), rng.integers(0, 3, 9000)
    glm = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(0.01))
    result = glmcore.fit(glm, X, y, solver=solver)
    assert result.converged and glm.optimality(result.params, X, y) < 1e-7


@pytest.mark.parametrize("solver", [glmcore.LBFGS(), slow(glmcore.Newton()), slow(glmcore.ProximalNewton())])
def test_a_missing_class_among_many_parameters(solver):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 20)).astype(np.float32)
    y = np.argmax(X @ rng.standard_normal((20, 10)) + rng.gumbel(size=(200, 10)), axis=1)
    X, y = X[y != 3], y[y != 3]
    found = glmcore.fit(glmcore.GLM(glmcore.Categorical(10), glmcore.Ridge(0.01)), X, y, solver=solver)
    without = glmcore.fit(glmcore.GLM(glmcore.Categorical(9), glmcore.Ridge(0.01)), X, y - (y > 3), solver=solver)
    assert status_name(found.status) == "missing_class"
    np.testing.assert_allclose(np.delete(found.params.coef, 3, axis=1), without.params.coef, atol=1e-4)


@pytest.mark.parametrize("solver", [glmcore.LBFGS(), glmcore.Newton(), slow(glmcore.BFGS()), glmcore.NonlinearCG()])
@pytest.mark.parametrize("far", [slow(1e2), slow(1e4), 1e6])
def test_a_fit_from_afar_is_as_good_as_it_says(solver, far):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 20)).astype(np.float32)
    y = np.argmax(X @ rng.standard_normal((20, 10)) + rng.gumbel(size=(200, 10)), axis=1)
    start = far * rng.standard_normal((20, 10)), far * rng.standard_normal(10)
    glm = glmcore.GLM(glmcore.Categorical(10), glmcore.Ridge(0.01))
    result, best = glmcore.fit(glm, X, y, solver=solver, init_params=start), glmcore.fit(glm, X, y)
    true = glm.optimality(result.params, X, y)
    assert true < 3 * max(float(result.optimality), 3e-6)
    np.testing.assert_allclose(result.objective, glm.objective(result.params, X, y), rtol=1e-5)
    assert result.converged
    np.testing.assert_allclose(result.objective, best.objective, rtol=1e-5)


@pytest.mark.parametrize(
    "solver", [glmcore.LBFGS(), glmcore.BFGS(), slow(glmcore.Newton()), slow(glmcore.NonlinearCG())], ids=lambda s: type(s).__name__
)
def test_a_mask_that_differs_by_class_fixes_the_level(solver, x64):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 4))
    y = (X @ rng.standard_normal((4, 4)) + rng.gumbel(size=(200, 4))).argmax(axis=1)
    mask = np.ones((4, 4), bool)
    mask[[0, 1, 2, 3], [0, 2, 3, 1]] = False
    weak = glmcore.GLM(glmcore.Categorical(4), glmcore.Ridge(1e-9 * np.arange(1.0, 5)), mask=mask)
    result = glmcore.fit(weak, X, y, solver=solver)
    assert result.converged and result.n_iter < 60
    assert not result.params.coef[~mask].any()
    np.testing.assert_allclose(result.objective, weak.objective(result.params, X, y), rtol=1e-12)
    slope = jax.grad(lambda coef: weak.objective(glmcore.GLMParams(coef, result.params.intercept), X, y))(result.params.coef)
    assert jnp.linalg.norm(slope[mask]) < 1e-7


@pytest.mark.parametrize("solver", [glmcore.Newton(), glmcore.LBFGS(), slow(glmcore.NonlinearCG())], ids=lambda s: type(s).__name__)
def test_strengths_that_differ_by_class_hold_a_level_that_the_loss_hardly_sees(solver, x64):
    """Without an intercept features far from zero are nearly the same, and weakly penalised."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 30))
    y = (X @ rng.standard_normal((30, 4)) / 3 + rng.gumbel(size=(500, 4))).argmax(axis=1)
    X[:, :15] += 100
    strength = 10 ** rng.uniform(-6, 0, (30, 4))
    far = glmcore.GLM(glmcore.Categorical(4), glmcore.Ridge(strength), fit_intercept=False)
    result = glmcore.fit(far, X, y, solver=solver)
    assert result.converged and result.n_iter < 60

    def slope(coef):
        proba = scipy.special.softmax(X @ coef, axis=1)
        return X.T @ (proba - np.eye(4)[y]) / 500 + strength * coef

    coef = np.asarray(result.params.coef)
    assert np.linalg.norm(slope(coef)) < 1e-6 * np.linalg.norm(slope(0 * coef))


@pytest.mark.parametrize("penalty", [glmcore.Lasso(0.1), *map(slow, (glmcore.Lasso(0.01), glmcore.ElasticNet(0.01), glmcore.GroupLasso(0.01)))], ids=repr)
@pytest.mark.parametrize("solver", [None, glmcore.ProximalGradient()])
def test_a_sparse_fit_arrives_from_any_start(penalty, solver):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(120, 7))
    y = np.argmax(X @ rng.normal(size=(7, 3)) + rng.gumbel(size=(120, 3)), axis=1)
    X, glm = X.astype(np.float32), glmcore.GLM(glmcore.Categorical(3), penalty)
    best = glmcore.fit(glm, X, y)
    for far in (30, 100, 1000):
        for seed in range(4):
            start = (far * np.random.default_rng(seed).normal(size=(7, 3)), np.zeros(3))
            result = glmcore.fit(glm, X, y, solver=solver, init_params=start)
            assert result.converged
            np.testing.assert_allclose(result.objective, best.objective, rtol=1e-6)


def unbounded(X, y, K):
    """Whether some direction lowers the loss for ever: a linear program."""
    rows = np.hstack([X / np.abs(X).max(axis=0), np.ones((len(X), 1))])
    leads = []
    for row, label in zip(rows, y):
        for other in set(range(K)) - {label}:
            lead = np.zeros((K, rows.shape[1]))
            lead[label], lead[other] = row, -row
            leads.append(lead.ravel())
    leads = np.array(leads)
    found = scipy.optimize.linprog(-leads.sum(axis=0), -leads, np.zeros(len(leads)), bounds=(-1, 1))
    return -found.fun > 1e-6


@pytest.mark.parametrize("kind", ["rare feature", "rare counts", "empty cell", "never in a class", "normal"])
def test_quasi_separable_data_have_no_optimum(kind, precision):
    outcomes = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
        match kind:
            case "rare feature":
                X[:, 0] = (y == 0) * (rng.random(40) < 0.3)
            case "rare counts":
                X = rng.poisson(0.08, size=(40, 3)) + 1e-3 * rng.normal(size=(40, 1))
            case "empty cell":
                cell = rng.integers(0, 3, 40)
                X[:, 0], X[:, 1] = cell == 0, cell == 1
                y[cell == 0] = rng.integers(0, 2, np.sum(cell == 0))
            case "never in a class":
                X[:, 0] = rng.poisson(0.3, 40) * (y != 2)
        X = X.astype(precision)
        result = glmcore.fit(glmcore.GLM(glmcore.Categorical(3)), X, y)
        name = "separable" if unbounded(X.astype(float), y, 3) else "converged"
        assert status_name(result.status) == name
        outcomes.add(name)
    assert kind == "rare counts" or len(outcomes) == 1


def test_an_ill_conditioned_fit_in_float32_does_not_claim_to_have_arrived():
    rng = np.random.default_rng(0)
    rng.normal(size=1)
    X = rng.normal(size=(300, 20)) * 10.0 ** -np.linspace(0, 4, 20) @ rng.normal(size=(20, 20))
    X = X.astype(np.float32)
    y = np.argmax(X @ rng.normal(size=(20, 3)) + rng.gumbel(size=(300, 3)), axis=1)
    result = glmcore.fit(glmcore.GLM(glmcore.Categorical(3)), X, y, solver=glmcore.LBFGS())
    assert status_name(result.status) == "stalled" and result.optimality > 3e-6


@pytest.mark.parametrize("solver", [None, glmcore.LBFGS()])
def test_a_few_rows_with_nearly_all_the_weight(solver):
    rng = np.random.default_rng(0)
    n, p, K = 50_000, 5, 4
    X = rng.standard_normal((n, p)).astype(np.float32)
    y = np.argmax(X @ rng.standard_normal((p, K)) + rng.gumbel(size=(n, K)), axis=1)
    heavy = rng.permutation(n)[:100]
    weight = np.full(n, 1e-3)
    weight[heavy] = 1e6
    glm = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(1e-3))
    result = glmcore.fit(glm, X, y, sample_weight=weight, solver=solver)
    alone = glmcore.fit(glm, X[heavy], y[heavy])
    assert result.converged and result.n_iter < 30
    np.testing.assert_allclose(result.objective, alone.objective, rtol=1e-5)


@pytest.mark.parametrize("strength", [slow(1e-2), 3e-3, 3e-4])
@pytest.mark.parametrize("kind", [glmcore.Lasso, slow(glmcore.GroupLasso)])
def test_first_order_steps_have_arrived_where_they_say_so(kind, strength):
    rng = np.random.default_rng(2)
    X = np.sqrt(0.1) * rng.standard_normal((100, 200)) + np.sqrt(0.9) * rng.standard_normal((100, 1))
    coef = 2 * rng.standard_normal((200, 2)) * (rng.random((200, 1)) < 0.2)
    y = np.argmax(X @ coef + rng.gumbel(size=(100, 2)), axis=1)
    glm = glmcore.GLM(glmcore.Categorical(2), kind(strength))
    single = glmcore.fit(glm, X.astype(np.float32), y, solver=glmcore.ProximalGradient())
    with jax.enable_x64(True):
        best = glmcore.fit(glm, X, y, solver=glmcore.ProximalNewton(tol=1e-11)).objective
        double = glmcore.fit(glm, X, y, solver=glmcore.ProximalGradient())
        for result, gap in ((single, 1e-6), (double, 1e-9)):
            assert result.converged
            params = jax.tree.map(lambda leaf: np.asarray(leaf, float), result.params)
            assert glm.objective(params, X, y) <= best * (1 + gap)


@pytest.mark.parametrize("penalty", [glmcore.Ridge(0.1), slow(glmcore.Ridge(np.linspace(0, 1, 12).reshape(4, 3)))], ids=["alike", "by class"])
def test_an_optax_fit_that_is_stopped_tells_of_its_answer(penalty, x64):
    """Steps of Adam move the level of the classes, which the answer does not have."""
    start = (np.random.default_rng(0).standard_normal((4, 3)), np.zeros(3))
    solver = glmcore.Optax(optax.adam(0.1), maxiter=3)
    result = glmcore.fit(model(penalty), X, Y, solver=solver, init_params=start)
    again = glmcore.fit(model(penalty), X, Y, solver=glmcore.LBFGS(maxiter=0), init_params=result.params)
    np.testing.assert_allclose(result.objective, model(penalty).objective(result.params, X, Y), rtol=1e-6)
    np.testing.assert_allclose(result.optimality, again.optimality, rtol=1e-4)


#: Seconds since 1970: in float32 one and the same number.
SECONDS = 1.7e9 + np.arange(40.0)[:, None]
HALVES = np.repeat([0, 1], 20)
ASKED = {
    "fit": lambda X: glmcore.fit(glmcore.GLM(glmcore.Categorical(2)), X, HALVES),
    "vmap": lambda X: jax.vmap(lambda y: glmcore.fit(glmcore.GLM(glmcore.Categorical(2)), X, y))(HALVES[None]),
    "path": lambda X: glmcore.regularization_path(
        glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(1.0)), X, HALVES, n_strengths=2
    ),
    "estimator": lambda X: ClassifierGLM(2, regularizer="Ridge", regularizer_strength=1.0).fit(X, HALVES),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_features_that_float32_makes_constant_are_named(asked, kind):
    features = np.hstack([np.ones_like(SECONDS), np.arange(40.0)[:, None], SECONDS]).astype(kind)
    with pytest.warns(UserWarning, match=r"float32 cannot tell 1700000000.* from 1700000039.*: columns \[2\] of X") as told:
        asked(features)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("at", [1, 31, 32, 2000])
def test_only_features_that_float32_makes_constant_are_named(at):
    told = []
    ones = np.ones((2001, 7))
    ones[at] = [1, 1 + 1e-8, 1 + 1e-14, 1 + 1e-6, -1, np.nan, 1 + 1e-8]
    ones[[0, 7], 6] = 0, np.nan
    cast = glmcore.cast_features(ones, np.float32, "Z", told.append)
    np.testing.assert_array_equal(cast, ones.astype(np.float32))
    assert len(told) == 1
    assert "columns [1, 6] of Z" in told[0]


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_whole_numbers_have_no_rounding_error(kind):
    told = []
    glmcore.cast_features((2**60 + 1000 * np.arange(3))[:, None].astype(kind), np.float32, warn=told.append)
    assert "1152921504606846976 from 1152921504606848976" in told[0]


def test_batches_and_predictions_need_not_tell_what_varies():
    """Where warnings are errors, as in all tests."""
    model, batches = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(1.0)), [(SECONDS, HALVES), (2 * SECONDS, HALVES)]
    glmcore.fit_batches(model, lambda: batches)
    estimator = ClassifierGLM(2, regularizer="Ridge", regularizer_strength=1.0).fit(1e4 * (SECONDS - 1.7e9), HALVES)
    estimator.predict(SECONDS)


@pytest.mark.parametrize("values", [np.ones(3), [1.0, 2.0], np.ones((2, 2, 2))])
def test_features_to_cast_are_a_matrix(values):
    with pytest.raises(ValueError, match=r"Z must be 2-D, \(n, p\); found shape"):
        glmcore.cast_features(values, np.float32, "Z")
    assert glmcore.cast_features(np.ones((0, 2)), np.float32, warn=print).shape == (0, 2)


def test_float64_holds_seconds(x64):
    fit = glmcore.fit(glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.01)), SECONDS, HALVES)
    assert is_status(fit, "converged")
    assert abs(fit.params.coef[0, 0]) > 0.01


def test_a_group_of_features_of_different_scale_gets_to_zero(precision):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4)).astype(precision)
    y = (X @ rng.normal(size=(4, 3)) + rng.gumbel(size=(120, 3))).argmax(axis=1)
    mask = np.zeros((1, 4, 3))
    mask[0, 2:, 0] = 1
    glm = glmcore.GLM(glmcore.Categorical(3), glmcore.GroupLasso(0.02, mask=mask))
    found = [glmcore.fit(glm, X * np.array([1, 1, ratio, 1], precision), y, solver=glmcore.ProximalNewton()) for ratio in (1, 100)]
    # The group is zero at the optimum, and the others are not penalised.
    assert all(result.converged and not np.any(result.params.coef[2:, 0]) for result in found)
    rtol = 1e-9 if precision == np.float64 else 1e-6
    np.testing.assert_allclose(found[1].objective, found[0].objective, rtol=rtol)
