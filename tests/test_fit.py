"""Fits against the oracle's optimum, and whether a fit says truly how it ended."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import (
    GAP,
    TOL,
    build,
    data,
    in_float64,
    is_status,
    model,
    mostly_float32,
    n_classes,
    reference,
    relative_error,
    relative_gap,
    slow,
    small,
    status,
)
from sklearn.model_selection import StratifiedKFold

import glmcore
from glmcore import GLMParams, solve

F32, F64 = np.dtype("float32"), np.dtype("float64")


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize(
    "name", ["iris", "wine", "breast_cancer", slow("digits"), slow("shifted"), slow("scaled"), "shifted_scaled"]
)
def test_ridge_reaches_the_optimum_of_raw_data(name, precision):
    X, y = data(name, precision)
    # The oracle's Newton steps on 640 coefficients are what takes long: only the hard one.
    for strength in (1e-3,) if name == "digits" else (1.0, 1e-3):
        penalty, twin = build("Ridge", strength)
        result = glmcore.fit(model(penalty, n_classes(name)), X, y)
        best = reference(name, "Ridge", strength, dtype=str(precision))[2]
        assert is_status(result, "converged"), status(result)
        assert result.params.coef.dtype == result.objective.dtype == precision
        assert -1e-12 <= relative_gap(twin, result.params, X, y, best) <= GAP[precision]
        assert relative_error(result.objective, best) <= GAP[precision]
        assert result.optimality <= TOL[precision]
        # Least norm: classes sum to zero.
        found = in_float64(result.params)
        size = np.abs(found[0]).max(axis=1)
        assert np.all(np.abs(found[0].sum(axis=1)) <= 20 * np.finfo(precision).eps * size)
        assert abs(found[1].sum()) <= 20 * np.finfo(precision).eps * np.abs(found[1]).max()
        if precision == F64:
            assert oracle.kkt_residual(twin, *found, X, y) <= 1.5 * TOL[precision]


@pytest.mark.parametrize("solver", [glmcore.LBFGS(), slow(glmcore.Newton())])
def test_a_direction_that_goes_much_too_far_is_no_stall(solver, x64):
    # LBFGS makes a model of the Hessian here when some classes are already told apart: it is far too flat.
    digits, y = data("digits", F64)
    rows = list(StratifiedKFold(5).split(digits, y))[3][0]
    digits, y = digits[rows], y[rows]
    scaled = (digits - digits.mean(axis=0)) / np.where(np.ptp(digits, axis=0) > 0, digits.std(axis=0), 1)
    X = scaled @ np.linalg.svd(scaled, full_matrices=False)[2][:30].T
    result = glmcore.fit(model(glmcore.Ridge(1e-2 / len(y)), 10), X, y, solver=solver)
    assert is_status(result, "converged"), status(result)
    assert oracle.kkt_residual(oracle.Ridge(1e-2 / len(y)), *in_float64(result.params), X, y) <= 1.5 * TOL[F64]


def test_newton_in_float32_does_not_go_along_the_level_of_the_classes():
    X, y = data("digits", F32)
    result = glmcore.fit(model(glmcore.Ridge(1 / len(y)), 10), X, y, solver=glmcore.Newton())
    assert is_status(result, "converged") and result.n_iter < 30, status(result)


SPARSE = [
    ("breast_cancer", ("Lasso", 0.02)), ("iris", ("ElasticNet", 0.02, 0.5)), ("wine", ("GroupLasso", 0.02)),
    *(case(name, spec) for case, name in ((slow, "shifted"), (slow, "scaled"), (pytest.param, "shifted_scaled"))
      for spec in (("Lasso", 0.02), ("ElasticNet", 0.02, 0.5), ("GroupLasso", 0.02))),
]  # fmt: skip


def fits_sparse(name, spec, dtype):
    X, y = data(name, dtype)
    penalty, twin = build(*spec)
    result = glmcore.fit(model(penalty, n_classes(name)), X, y)
    coef, _, best = reference(name, *spec, dtype=str(dtype))
    found = in_float64(result.params)
    assert is_status(result, "converged"), status(result)
    assert result.optimality <= TOL[dtype]
    assert -1e-12 <= relative_gap(twin, result.params, X, y, best) <= GAP[dtype]
    np.testing.assert_array_equal(found[0] == 0, coef == 0)
    if dtype == F64 or not name.startswith("shifted"):  # the intercept's rounding moves the residual
        assert oracle.kkt_residual(twin, *found, X, y) <= 1.5 * TOL[dtype]


@pytest.mark.parametrize("name, spec", SPARSE, ids=lambda v: v if isinstance(v, str) else v[0])
@mostly_float32
def test_sparse_penalties_reach_the_optimum_of_raw_data(name, spec, precision):
    fits_sparse(name, spec, precision)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "scaled", "shifted", "shifted_scaled"])
@pytest.mark.parametrize(
    "spec",
    [("Lasso", 0.1), ("Lasso", 0.01), ("ElasticNet", 0.01, 0.1), ("ElasticNet", 0.05, 1.0), ("GroupLasso", 0.005)],
    ids=lambda v: "-".join(map(str, v)),
)
def test_sparse_penalties_everywhere(name, spec, precision):
    fits_sparse(name, spec, precision)


@pytest.mark.slow
def test_group_lasso_with_a_mask(x64):
    X, y = small()
    mask = np.zeros((3, 4, 3), int)
    mask[0, :2] = mask[1, 2, :2] = mask[2, 3] = 1  # (2, 2) is in no group
    for strength in (0.05, np.array([0.2, 0.01, 0.1])):
        penalty, twin = build("GroupLasso", strength, mask)
        result = glmcore.fit(model(penalty), X, y)
        coef, _, best = oracle.reference_fit(twin, X, y, 3)
        assert is_status(result, "converged")
        assert relative_gap(twin, result.params, X, y, best) <= 1e-9
        np.testing.assert_array_equal(in_float64(result.params)[0] == 0, coef == 0)


@pytest.mark.parametrize("kind", ["Ridge", "Lasso"])
def test_strengths_an_entry(kind, x64):
    X, y = small()
    rng = np.random.default_rng(4)
    for strength in (rng.uniform(0, 0.1, (4, 1)), rng.uniform(0.01, 0.1, (4, 3))):
        penalty, twin = build(kind, strength)
        result = glmcore.fit(model(penalty), X, y)
        coef, _, best = oracle.reference_fit(twin, X, y, 3)
        assert is_status(result, "converged")
        assert relative_gap(twin, result.params, X, y, best) <= 1e-9
        assert relative_error(result.params.coef, coef) <= 1e-5


@pytest.mark.parametrize("largest", [slow(0.1), slow(1e3), 1e6])
@pytest.mark.parametrize("solver", [slow(glmcore.Newton()), glmcore.LBFGS(), None], ids=lambda s: type(s).__name__)
def test_strengths_that_differ_much_between_classes(largest, solver):
    X, y = small()
    X = X.astype(np.float32)
    penalty, twin = build("Ridge", np.array([1e-3, 1e-2, largest]))
    result = glmcore.fit(model(penalty), X, y, solver=solver)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert is_status(result, "converged") and result.n_iter <= 30
    assert relative_gap(twin, result.params, X, y, best) <= 1e-6
    lane = jax.vmap(lambda weight: glmcore.fit(model(penalty), X, y, sample_weight=weight))(np.ones((1, 60), np.float32))
    assert lane.converged[0] and lane.n_iter[0] <= 30


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.02)], ids=lambda s: s[0])
def test_weights(spec, x64):
    X, y = small()
    weight = np.random.default_rng(2).integers(0, 4, len(y)).astype(float)
    penalty, twin = build(*spec)
    coef, intercept, best = oracle.reference_fit(twin, X, y, 3, weight)
    dirty = np.where(weight[:, None] > 0, X, np.nan)
    # Only ratios of weights count, and rows without weight may hold anything.
    for features, factor in ((X, 1.0), (X, 1e-3), (dirty, 7.0)):
        result = glmcore.fit(model(penalty), features, y, sample_weight=factor * weight)
        assert is_status(result, "converged")
        assert relative_error(result.params.coef, coef) <= 1e-6
        assert relative_error(result.params.intercept, intercept) <= 1e-6
        assert relative_error(result.objective, best) <= 1e-9


def without_intercept(twin, X, y, K):
    """The optimum with the intercept held at zero, for a smooth penalty."""
    from scipy.optimize import minimize

    p = X.shape[1]

    def cost(flat):
        coef = flat.reshape(p, K)
        gradient = oracle.loss_gradient(coef, np.zeros(K), X, y)[0] + twin.l2 * coef
        return oracle.objective(twin, coef, np.zeros(K), X, y), gradient.ravel()

    found = minimize(cost, np.zeros(p * K), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-11, "maxiter": 5000})
    return found.x.reshape(p, K), found.fun


def test_without_intercept(precision):
    X, y = small(separation=2.0)
    X = (X + 0.5).astype(precision)
    penalty, twin = build("Ridge", 0.05)
    result = glmcore.fit(model(penalty, fit_intercept=False), X, y)
    coef, best = without_intercept(twin, X.astype(np.float64), y, 3)
    assert is_status(result, "converged")
    np.testing.assert_array_equal(result.params.intercept, np.zeros(3))
    assert relative_gap(twin, result.params, X, y, best) <= GAP[precision]
    assert relative_error(result.params.coef, coef) <= (1e-3 if precision == F32 else 1e-6)


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("GroupLasso", 0.05)], ids=lambda s: s[0])
def test_a_pytree_of_features_is_its_stacked_array(spec, x64):
    X, y = small()
    penalty, _ = build(*spec)
    whole = glmcore.fit(model(penalty), X, y)
    split = glmcore.fit(model(penalty), {"b": X[:, :1], "c": (X[:, 1:3], X[:, 3:])}, y)
    assert jax.tree.structure(split.params.coef) == jax.tree.structure({"b": 0, "c": (0, 0)})
    np.testing.assert_allclose(in_float64(split.params)[0], whole.params.coef, atol=1e-10)
    np.testing.assert_allclose(split.params.intercept, whole.params.intercept, atol=1e-10)
    assert is_status(split, "converged")


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.02)], ids=lambda s: s[0])
def test_any_start_leads_to_the_same_optimum(spec, x64):
    X, y = small()
    penalty, twin = build(*spec)
    _, _, best = oracle.reference_fit(twin, X, y, 3)
    rng = np.random.default_rng(0)
    found = []
    for size in (0.0, 1.0, 30.0):
        start = GLMParams(jnp.asarray(size * rng.standard_normal((4, 3))), jnp.asarray(size * rng.standard_normal(3)))
        result = glmcore.fit(model(penalty), X, y, init_params=start)
        assert is_status(result, "converged"), status(result)
        assert relative_gap(twin, result.params, X, y, best) <= 1e-9
        found.append(in_float64(result.params)[0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)
    # From the optimum there is nowhere to go.
    again = glmcore.fit(model(penalty), X, y, init_params=result.params)
    assert is_status(again, "converged") and again.n_iter <= 1


@pytest.mark.parametrize("K", [4, slow(6)])
def test_zeros_of_an_even_number_of_classes_are_exact(K, precision):
    penalty, twin = build("Lasso", 3e-3)
    for seed in range(3):
        X, y = small(seed, n=200, p=20, K=K)
        X = X.astype(precision)
        result = glmcore.fit(model(penalty, K), X, y)
        coef = np.abs(in_float64(result.params)[0])
        assert is_status(result, "converged") and 0 < (coef == 0).sum() and not np.any((coef > 0) & (coef < 1e-9))
        residual = oracle.kkt_residual(twin, *in_float64(result.params), X.astype(np.float64), y)
        assert residual <= 1.5 * TOL[precision]


def test_a_strong_lasso_is_the_null_model(precision):
    X, y = small()
    result = glmcore.fit(model(glmcore.Lasso(10.0)), X.astype(precision), y)
    assert is_status(result, "converged") and result.n_iter == 0
    np.testing.assert_array_equal(result.params.coef, np.zeros((4, 3)))
    np.testing.assert_allclose(result.params.intercept, oracle.null_intercept(y, 3), atol=1e-6)


# ---------------------------------------------------------------- least norm


def test_without_a_penalty(precision):
    X, y = small()
    X = X.astype(precision)
    result = glmcore.fit(model(glmcore.UnRegularized()), X, y)
    coef, _, best = oracle.reference_fit(oracle.UnRegularized(), X.astype(np.float64), y, 3)
    assert is_status(result, "converged"), status(result)
    assert relative_gap(oracle.UnRegularized(), result.params, X, y, best) <= GAP[precision]
    assert np.max(np.abs(np.sum(in_float64(result.params)[0], axis=1))) <= 100 * np.finfo(precision).eps
    assert relative_error(result.params.coef, coef) <= (1e-3 if precision == F32 else 1e-6)


@pytest.mark.parametrize("case", ["duplicate", "sum", "shifted copy", "units", "more features than rows' rank"])
def test_rank_deficient_features_give_the_least_norm_solution(case, x64):
    X, y = (np.array(a) for a in small())
    match case:
        case "duplicate":
            X[:, 3] = X[:, 0]
        case "sum":
            X[:, 3] = X[:, 0] + 2 * X[:, 1] - X[:, 2]
        case "shifted copy":
            X[:, 3] = X[:, 0] + 5
        case "units":
            X[:, 3] = 100 * X[:, 0]
        case _:
            X = np.round(X[:, :1] > 0) @ np.ones((1, 4)) * [1.0, 2.0, -1.0, 0.5]
    result = glmcore.fit(model(glmcore.UnRegularized()), X, y)
    coef, intercept, best = oracle.reference_fit(oracle.UnRegularized(), X, y, 3)
    assert is_status(result, "converged"), status(result)
    assert relative_gap(oracle.UnRegularized(), result.params, X, y, best) <= 1e-9
    assert relative_error(result.params.coef, coef) <= 1e-5
    assert relative_error(result.params.intercept, intercept) <= 1e-5


@pytest.mark.parametrize("spec", [("UnRegularized",), ("Ridge", 0.1), ("Lasso", 0.01), ("GroupLasso", 0.01)], ids=lambda s: s[0])
@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-8, 12345.678])
def test_a_constant_feature_has_coef_zero(spec, constant, precision):
    X, y = (np.array(a) for a in small())
    X[:, 2] = constant
    result = glmcore.fit(model(build(*spec)[0]), X.astype(precision), y)
    assert is_status(result, "converged"), status(result)
    np.testing.assert_array_equal(result.params.coef[2], np.zeros(3))


# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.02), ("UnRegularized",)], ids=lambda s: s[0])
def test_a_class_without_weight_is_left_out(spec, x64):
    X, y = small()
    penalty, twin = build(*spec)
    keep = y < 2
    for labels, weight in ((y, np.where(keep, 1.0, 0.0)), (np.where(keep, y, 0), np.where(keep, 1.0, 0.0))):
        result = glmcore.fit(model(penalty), X, labels, sample_weight=weight)
        assert is_status(result, "missing_class") and result.converged, status(result)
        coef, intercept, best = oracle.reference_fit(twin, X[keep], y[keep], 2)
        assert relative_error(result.objective, best) <= 1e-9
        np.testing.assert_array_equal(result.params.coef[:, 2], np.zeros(4))
        assert np.isfinite(result.params.intercept[2]) and result.params.intercept[2] < -50
        np.testing.assert_allclose(result.params.intercept[:2], intercept, atol=1e-5)
        np.testing.assert_allclose(result.params.coef[:, :2], coef, atol=1e-5)
        proba = np.exp(oracle.log_proba(*in_float64(result.params), X))
        assert proba[:, 2].max() < 1e-20


ALONE = [
    (("UnRegularized",), glmcore.Newton()),
    (("Ridge", 1.0), glmcore.LBFGS()),
    slow(("Ridge", 1.0), glmcore.BFGS()),
    slow(("Ridge", 1.0), glmcore.GradientDescent()),
    slow(("Ridge", 1.0), glmcore.SVRG()),
    slow(("Ridge", 1.0), glmcore.ProximalGradient()),
    slow(("Lasso", 1.0), glmcore.ProximalGradient()),
    (("Lasso", 1.0), glmcore.ProximalNewton()),
    slow(("GroupLasso", 1.0), glmcore.ProxSVRG()),
]


@pytest.mark.parametrize("spec, solver", ALONE, ids=lambda part: part[0] if isinstance(part, tuple) else type(part).__name__)
def test_one_class_alone_has_no_coefficients_from_any_start(spec, solver):
    X = 100 * small()[0].astype(np.float32)
    start = GLMParams(np.ones((4, 3), np.float32), np.zeros(3, np.float32))
    result = glmcore.fit(model(build(*spec)[0]), X, np.zeros(60, int), solver=solver, init_params=start)
    assert is_status(result, "missing_class"), status(result)
    np.testing.assert_allclose(result.params.coef, 0, atol=2e-5)  # of what is 1 at the start


@pytest.mark.parametrize("spec", [("UnRegularized",), slow(("Lasso", 0.02)), slow(("ElasticNet", 0.02, 1.0))], ids=lambda s: s[0])
def test_classes_with_weight_are_at_their_own_level_from_any_start(spec, x64):
    X, y = small()
    start = GLMParams(np.full((4, 3), 2.0), np.zeros(3))
    for solver in (None, glmcore.ProximalGradient()):
        for init in (None, start):
            result = glmcore.fit(model(build(*spec)[0]), X, np.minimum(y, 1), init_params=init, solver=solver)
            np.testing.assert_allclose(result.params.coef.sum(axis=1), 0, atol=1e-12)


def test_a_penalised_optimum_near_a_likelihood_of_one_is_not_called_separable():
    X, y = np.float32([[1], [2], [4], [5]]), np.array([0, 0, 1, 1])
    for scale in (1e3, 1e5):
        result = glmcore.fit(model(glmcore.Ridge(1e-2), 2), scale * X, y)
        assert not is_status(result, "separable")


@pytest.mark.parametrize("strength", [1e-12, 1e-24])
def test_a_hardly_penalised_fit_of_separable_classes_does_not_blame_the_features(strength):
    X, y = separable()
    result = glmcore.fit(model(glmcore.Ridge(strength)), X.astype(np.float32), y)
    assert is_status(result, "converged") or is_status(result, "out_of_steps")
    assert result.objective < 1e-6


def test_looking_for_nan_finds_none():
    X, y = small()
    with jax.debug_nans(True):
        for solver in (None, glmcore.LBFGS(), glmcore.SVRG()):
            assert glmcore.fit(model(glmcore.Ridge(0.1)), X.astype(np.float32), y, solver=solver).converged


@pytest.mark.slow
def test_fista_is_not_stalled_while_its_objective_falls(x64):
    X, y = data("breast_cancer", F64)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    glm = model(glmcore.Lasso(1e-3 / len(y)), 2)
    results = [glmcore.fit(glm, X, y, solver=s(maxiter=20_000)) for s in (glmcore.ProximalGradient, glmcore.ProximalNewton)]
    assert all(is_status(result, "converged") for result in results)
    assert results[1].n_iter <= 60  # a working set whose zeros come one at a time
    assert relative_error(results[0].objective, results[1].objective) <= 1e-6


def test_a_class_without_weight_equals_a_fit_without_it_for_even_k():
    """Of four classes three are left: the level is that of the three."""
    X, y = small(seed=1, K=4)
    with jax.enable_x64(True):
        keep = y < 3
        # Not GroupLasso: the size of a group counts the class that is left out.
        for spec in (("Lasso", 0.01), ("ElasticNet", 0.02, 0.5)):
            penalty, twin = build(*spec)
            result = glmcore.fit(model(penalty, 4), X, y, sample_weight=np.where(keep, 1.0, 0.0))
            coef, _, best = oracle.reference_fit(twin, X[keep], y[keep], 3)
            assert is_status(result, "missing_class")
            assert relative_error(result.objective, best) <= 1e-9
            np.testing.assert_allclose(result.params.coef[:, :3], coef, atol=1e-5)


def separable(n=60):
    X, _ = small()
    return X, np.digitize(X[:, 0], [-0.5, 0.5])


@pytest.mark.parametrize("maxiter", [1000, slow(20)])
def test_separable_classes_without_a_penalty_never_converge(maxiter, precision):
    X, y = separable()
    result = glmcore.fit(model(glmcore.UnRegularized()), X.astype(precision), y, solver=glmcore.LBFGS(maxiter=maxiter))
    assert not result.converged
    if maxiter == 1000:
        assert is_status(result, "separable"), status(result)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.params))


def test_separable_raw_data():
    X, y = data("wine", F32)
    result = glmcore.fit(model(glmcore.UnRegularized()), X, y)
    assert is_status(result, "separable"), status(result)


def test_quasi_separable_classes_never_converge(precision):
    """One class is told apart exactly, the others are not: still no maximum."""
    X, y = (np.array(a) for a in small())
    X[:, 0] = np.where(y == 0, 1.0, 0.0)
    result = glmcore.fit(model(glmcore.UnRegularized()), X.astype(precision), y)
    assert not result.converged, f"{status(result)}, |coef| = {np.abs(result.params.coef).max()}"


@pytest.mark.parametrize("spec", [("Ridge", 1e-3), ("Lasso", 1e-3)], ids=lambda s: s[0])
def test_two_steps_are_not_enough(spec, precision):
    X, y = small()
    result = glmcore.fit(model(build(*spec)[0]), X.astype(precision), y, solver=solver_of(spec[0], maxiter=2))
    assert is_status(result, "out_of_steps") and result.n_iter == 2 and not result.converged


def solver_of(kind, **kwargs):
    return glmcore.LBFGS(**kwargs) if kind in ("Ridge", "UnRegularized") else glmcore.ProximalGradient(**kwargs)


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.02), ("UnRegularized",)], ids=lambda s: s[0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite(spec, bad, precision):
    X, y = (np.array(a) for a in small())
    X[3, 1] = bad
    result = glmcore.fit(model(build(*spec)[0]), X.astype(precision), y)
    assert is_status(result, "nonfinite") and not result.converged


@pytest.mark.parametrize("spec", [("Ridge", 1e-3), ("Lasso", 0.02)], ids=lambda s: s[0])
def test_data_far_from_zero(spec):
    """Converged means right on the data as stored; else the status says that they are too far."""
    X, y = small()
    penalty, twin = build(*spec)
    ends = {}
    for shift in (1e2, 1e3, 1e4, 1e5, 1e6, 3e6, 1e7, 1e8):
        stored = (X + shift).astype(np.float32)
        result = glmcore.fit(model(penalty), stored, y)
        best = oracle.reference_fit(twin, stored.astype(np.float64), y, 3)[2]
        gap = relative_gap(twin, result.params, stored, y, best)
        ends[shift] = (status(result), gap)
        assert not is_status(result, "converged") or gap <= GAP[F32], ends
    assert ends[1e2][0] == "converged" and ends[1e6][0].startswith("the features lie so far from zero")


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.01)], ids=lambda s: s[0])
def test_without_a_feature_that_varies_the_null_model_is_optimal(spec, precision):
    _, y = small()
    result = glmcore.fit(model(build(*spec)[0]), np.full((60, 4), 3.7, precision), y)
    assert is_status(result, "converged"), status(result)
    np.testing.assert_array_equal(result.params.coef, np.zeros((4, 3)))
    np.testing.assert_allclose(result.params.intercept, oracle.null_intercept(y, 3), atol=1e-6)
    assert result.optimality <= TOL[precision]


def test_a_smaller_tolerance_gives_a_smaller_residual():
    """Also in float32, where it is close to rounding."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((4000, 40)).astype(np.float32)
    y = np.argmax(X @ rng.standard_normal((40, 3)) / 6 + rng.gumbel(size=(len(X), 3)), axis=1)
    glm = model(glmcore.Ridge(1e-3))
    found = []
    for tol in (1e-4, 1e-5, 1e-6, 1e-8):
        result = glmcore.fit(glm, X, y, solver=glmcore.LBFGS(tol=tol))
        assert result.converged
        with jax.enable_x64(True):
            exact = GLMParams(*map(jnp.asarray, in_float64(result.params)))
            found.append(float(glm.optimality(exact, X.astype(np.float64), y)))
    assert found == sorted(found, reverse=True) and found[0] > 30 * found[2] and found[3] < 1e-6


@pytest.mark.parametrize("spec", [("Ridge", 0.1), ("Lasso", 0.02), ("UnRegularized",)], ids=lambda s: s[0])
def test_zero_tolerance_ends_at_the_rounding_level(spec, precision):
    X, y = small()
    penalty, twin = build(*spec)
    X = X.astype(precision)
    result = glmcore.fit(model(penalty), X, y, solver=solver_of(spec[0], tol=0.0))
    assert is_status(result, "stalled") or is_status(result, "converged"), status(result)
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert relative_gap(twin, result.params, X, y, best) <= 20 * np.finfo(precision).eps


def test_a_result_tells_how_it_ended():
    X, y = small()
    glm = model(glmcore.Ridge(0.1))
    result = glmcore.fit(glm, X, y)
    numbers = f"objective={float(result.objective):.6g}, optimality={float(result.optimality):.1e}"
    assert repr(result) == f"FitResult(converged, n_iter={int(result.n_iter)}, {numbers})"
    absent = glmcore.fit(glm, X, np.where(y == 2, 1, y))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), result, result, absent)
    most = np.asarray(batch.n_iter).max()
    assert repr(batch) == f"FitResult(3 fits: 2 converged, 1 missing_class; n_iter up to {most})"
    assert "ShapeDtypeStruct" in repr(jax.eval_shape(lambda y: glmcore.fit(glm, X, y), y))  # no values to tell


def test_every_status_has_a_message():
    for name in ("converged", "out_of_steps", "stalled", "far_from_zero", "separable", "nonfinite", "missing_class", "unknown_label", "stopped"):
        assert isinstance(glmcore.Status[getattr(glmcore.Status, name)], str)


# ---------------------------------------------------------------- the user's own pieces


def cauchit(eta):
    """Not invariant under a shift of all classes."""
    weight = 0.5 + jnp.arctan(eta) / jnp.pi
    return jnp.log(weight) - jnp.log(jnp.sum(weight, axis=-1, keepdims=True))


def test_a_link_that_is_not_shift_invariant(x64):
    from scipy.optimize import minimize

    X, y = small()
    result = glmcore.fit(model(glmcore.Ridge(0.1), inverse_link=cauchit), X, y)
    assert is_status(result, "converged"), status(result)

    def cost(flat):
        coef, intercept = flat[:12].reshape(4, 3), flat[12:]
        weight = 0.5 + np.arctan(X @ coef + intercept) / np.pi
        return np.mean(np.log(weight.sum(axis=1)) - np.log(weight[np.arange(60), y])) + 0.05 * np.sum(coef**2)

    flat = np.concatenate([part.ravel() for part in in_float64(result.params)])
    best = minimize(cost, flat, options={"gtol": 1e-10}).fun
    assert (cost(flat) - best) / best <= 1e-9
    np.testing.assert_allclose(result.objective, cost(flat), rtol=1e-10)


class Tethered(glmcore.AbstractPenalty):
    """Ridge about 0.2 instead of 0, and nothing but its value."""

    strength: jax.Array
    smooth = True

    def value(self, coef):
        return sum(jnp.sum(self.strength * (leaf - 0.2) ** 2) / 2 for leaf in jax.tree.leaves(coef))

    def prox(self, coef, step):
        raise NotImplementedError


class Box(glmcore.AbstractPenalty):
    """Coefficients between -bound and bound: only a prox."""

    bound: jax.Array
    smooth = False

    def value(self, coef):
        return jnp.zeros((), jax.tree.leaves(coef)[0].dtype)

    def prox(self, coef, step):
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -self.bound, self.bound), coef)


def test_a_smooth_penalty_of_ones_own(x64):
    from scipy.optimize import minimize

    X, y = small()
    result = glmcore.fit(model(Tethered(np.asarray(0.1))), X, y)
    assert is_status(result, "converged"), status(result)

    def cost(flat):
        coef, intercept = flat[:12].reshape(4, 3), flat[12:]
        return oracle.loss(coef, intercept, X, y) + 0.05 * np.sum((coef - 0.2) ** 2)

    flat = np.concatenate([part.ravel() for part in in_float64(result.params)])
    best = minimize(cost, flat, options={"gtol": 1e-10}).fun
    assert (cost(flat) - best) / best <= 1e-9


def test_a_penalty_of_ones_own_with_only_a_prox(x64):
    from scipy.optimize import minimize

    X, y = small()
    result = glmcore.fit(model(Box(np.asarray(0.3))), X, y)
    assert is_status(result, "converged"), status(result)
    coef = in_float64(result.params)[0]
    assert np.abs(coef).max() <= 0.3 * (1 + 1e-12)

    def cost(flat):
        coef, intercept = flat[:12].reshape(4, 3), flat[12:]
        gradient = oracle.loss_gradient(coef, intercept, X, y)
        return oracle.loss(coef, intercept, X, y), np.concatenate([g.ravel() for g in gradient])

    best = minimize(cost, np.zeros(15), jac=True, method="L-BFGS-B", bounds=[(-0.3, 0.3)] * 12 + [(None, None)] * 3,
                    options={"ftol": 0, "gtol": 1e-10}).fun  # fmt: skip
    found = oracle.loss(*in_float64(result.params), X, y)
    assert (found - best) / best <= 1e-9


# ---------------------------------------------------------------- callbacks


@pytest.mark.parametrize("spec", [("Ridge", 1e-3), ("Lasso", 0.02)], ids=lambda s: s[0])
def test_a_callback_sees_the_fit_and_changes_nothing(spec):
    X, y = data("wine", np.float32)
    glm, reports = model(build(*spec)[0]), []
    plain = glmcore.fit(glm, X, y)
    watched = glmcore.fit(glm, X, y, callback=reports.append)
    assert is_status(watched, "converged") and watched.n_iter == plain.n_iter
    np.testing.assert_allclose(watched.objective, plain.objective, rtol=1e-6)
    np.testing.assert_allclose(watched.params.coef, plain.params.coef, rtol=1e-4, atol=1e-5)
    steps = [report.n_iter for report in reports]
    assert steps == sorted(steps) and steps[-1] == int(watched.n_iter) and len(steps) > 1
    assert [report.done for report in reports] == [False] * (len(reports) - 1) + [True]
    assert bool(reports[-1].status == watched.status)
    assert reports[-1].optimality == float(watched.optimality)
    assert all(np.isfinite([r.objective, r.optimality, r.tol, r.elapsed]).all() for r in reports)
    assert all(report.maxiter == reports[0].maxiter for report in reports)


def test_a_callback_that_raises_stops_the_fit():
    X, y = data("wine", np.float32)

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        glmcore.fit(model(glmcore.Ridge(1e-3)), X, y, callback=stop)


def test_a_callback_under_jit_is_refused():
    X, y = small()
    glm = model(glmcore.Ridge())
    with pytest.raises(ValueError, match="callback cannot be called from inside jax.jit or jax.vmap"):
        jax.jit(lambda X: glmcore.fit(glm, X, y, callback=print))(X.astype(np.float32))


# ---------------------------------------------------------------- refusals before tracing


def test_bad_data_is_refused_in_words():
    X, y = small()
    X, glm = X.astype(np.float32), model(glmcore.Ridge())
    for message, kind, args, kwargs in [
        (r"X must be 2-D, \(n, p\); found shape \(60,\)", ValueError, (X[:, 0], y), {}),
        (r"must have the same number of rows, found \[60, 59\]", ValueError, ([X, X[1:]], y), {}),
        ("X must have rows and columns", ValueError, (X[:0], y[:0]), {}),
        ("X must have rows and columns", ValueError, (X[:, :0], y), {}),
        ("X must hold at least one array", ValueError, ({}, y), {}),
        (r"y must have shape \(60,\), one label a row of X; found \(59,\)", ValueError, (X, y[1:]), {}),
        ("y must hold integer class indices, found dtype float", TypeError, (X, y.astype(float)), {}),
        ("y must hold class indices from 0 to 2, found 0 to 3", ValueError, (X, np.where(y == 2, 3, y)), {}),
        ("y must hold class indices from 0 to 2, found -1 to 1", ValueError, (X, y - 1), {}),
        (r"sample_weight must have shape \(60,\), found \(3,\)", ValueError, (X, y), {"sample_weight": np.ones(3)}),
        ("sample_weight must be finite, not negative and not all zero", ValueError, (X, y), {"sample_weight": np.zeros(60)}),
        ("sample_weight must be finite", ValueError, (X, y), {"sample_weight": -np.ones(60)}),
        ("sample_weight must be finite", ValueError, (X, y), {"sample_weight": np.full(60, np.nan)}),
        (r"coef must have shape \(4, 3\), found \(3, 3\)", ValueError, (X, y), {"init_params": GLMParams(jnp.zeros((3, 3)), jnp.zeros(3))}),
        (r"intercept must have shape \(3,\), found \(2,\)", ValueError, (X, y), {"init_params": GLMParams(jnp.zeros((4, 3)), jnp.zeros(2))}),
        ("params must hold arrays of real numbers", TypeError, (X, y), {"init_params": ("a", "b")}),
        ("coef must mirror X", ValueError, (X, y), {"init_params": GLMParams({"a": jnp.zeros((4, 3))}, jnp.zeros(3))}),
        ("LBFGS: tol must be finite and not negative, found -1", ValueError, (X, y), {"solver": glmcore.LBFGS(tol=-1)}),
        ("LBFGS: maxiter must be a whole number, not negative, found -5", ValueError, (X, y), {"solver": glmcore.LBFGS(maxiter=-5)}),
        ("ProximalGradient: stepsize must be finite", ValueError, (X, y), {"solver": glmcore.ProximalGradient(stepsize=np.nan)}),
    ]:  # fmt: skip
        with pytest.raises(kind, match=message):
            glmcore.fit(glm, *args, **kwargs)


def test_a_solver_that_cannot_handle_the_penalty_is_refused():
    X, y = small()
    with pytest.raises(ValueError, match="LBFGS needs a differentiable penalty and Lasso is not; use ProximalGradient"):
        glmcore.fit(model(glmcore.Lasso()), X, y, solver=glmcore.LBFGS())


def test_integer_and_list_inputs_are_taken_as_numbers():
    X, y = small()
    whole = np.round(3 * X).astype(int)
    result = glmcore.fit(model(glmcore.Ridge(0.1)), whole, list(map(int, y)), sample_weight=[1] * 60)
    expected = glmcore.fit(model(glmcore.Ridge(0.1)), whole.astype(np.float32), y)
    np.testing.assert_array_equal(result.params.coef, expected.params.coef)


# ---------------------------------------------------------------- honesty


SOLVERS = [
    getattr(glmcore, name)
    for name in ("LBFGS", "ProximalGradient", "GradientDescent", "BFGS", "NonlinearCG", "SVRG", "ProxSVRG", "Newton", "ProximalNewton")
]
DEFAULTS = (glmcore.Newton, glmcore.ProximalGradient)
QUICK_SOLVERS = [
    pytest.param(s, id=s.__name__, marks=() if s in DEFAULTS else pytest.mark.slow) for s in SOLVERS
]


def hard(name):
    """Ill-conditioned problems of one shape, so that a solver compiles once a dtype and penalty."""
    X, y = (np.array(a) for a in small(seed=2, separation=2.0))
    match name:
        case "plain":
            pass
        case "collinear":
            X[:, 1] = X[:, 0] + 1e-3 * X[:, 1]
        case "units":
            X *= [1e-4, 1.0, 1e3, 1e6]
        case "shifted":
            X += 300.0
        case "outlier":
            X[5] *= 1e3
        case "rare class":
            y[np.flatnonzero(y == 2)[1:]] = 0
        case "separable":
            y = np.digitize(X[:, 0], [-0.5, 0.5])
    return X, y


@pytest.mark.parametrize("kind", ["Ridge", "Lasso"])
@pytest.mark.parametrize("solver", QUICK_SOLVERS)
@mostly_float32
def test_converged_is_a_statement_about_the_answer(solver, kind, precision):
    if kind == "Lasso" and solver.needs_smooth:
        pytest.skip("refused")
    strengths = (1e-1, 1e-5) if kind == "Ridge" else (1e-1, 1e-3)
    misses, converged = [], 0
    for name in ("plain", "collinear", "units", "shifted", "outlier", "rare class", "separable"):
        X, y = hard(name)
        X = X.astype(precision)
        for strength in strengths:
            penalty, twin = build(kind, strength)
            result = glmcore.fit(model(penalty), X, y, solver=solver(maxiter=3000))
            if not is_status(result, "converged"):
                continue
            converged += 1
            best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
            gap = relative_gap(twin, result.params, X, y, best)
            residual = float(result.optimality)
            if solver is glmcore.LBFGS and gap > GAP[precision]:
                misses.append(f"{name}, {strength}: gap {gap:.1e}, residual {residual:.1e}, {result.n_iter} steps")
            # The user's intercept, rounded to float32, moves the residual where the mean is large.
            assert residual <= TOL[precision]
            if precision == F64 or name not in ("shifted", "outlier"):
                residual = oracle.kkt_residual(twin, *in_float64(result.params), X, y)
            if residual > 2 * TOL[precision]:
                misses.append(f"{name}, {strength}: residual {residual:.1e}, gap {gap:.1e}, {result.n_iter} steps")
    assert not misses, "\n".join(misses)
    assert converged >= 6


# ---------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
@pytest.mark.parametrize("l1_ratio", [0.0, slow(0.5), 1.0])
def test_agreement_with_scikit_learn(name, l1_ratio, x64):
    """The table of conversions: K = 2 has one column there and two here."""
    from sklearn.linear_model import LogisticRegression

    X, y = oracle.load(name)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    C, K, n = 0.05, n_classes(name), len(y)
    if l1_ratio == 0:
        peer = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)
    else:
        peer = LogisticRegression(C=C, l1_ratio=l1_ratio, solver="saga", tol=1e-10, max_iter=100_000, random_state=0).fit(X, y)
    if K == 2:
        strength, ratio = (2 - l1_ratio) / (C * n), l1_ratio / (2 - l1_ratio)
    else:
        strength, ratio = 1 / (C * n), l1_ratio
    penalty = glmcore.Ridge(strength) if ratio == 0 else glmcore.ElasticNet(strength, ratio)
    result = glmcore.fit(model(penalty, K), X, y, solver=solver_of("Ridge" if ratio == 0 else "Lasso", tol=1e-12))
    assert is_status(result, "converged") or is_status(result, "stalled"), status(result)
    coef, intercept = in_float64(result.params)
    if K == 2:
        coef, intercept = (coef[:, 1] - coef[:, 0])[:, None], intercept[1:] - intercept[:1]
    assert relative_error(coef.T, peer.coef_) <= 1e-6
    assert relative_error(intercept, peer.intercept_) <= 1e-6


def test_results_are_plain_pytrees():
    X, y = small()
    result = glmcore.fit(model(glmcore.Ridge()), X.astype(np.float32), y)
    leaves = jax.tree.leaves(eqx.filter(result, eqx.is_array))
    assert leaves and all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert result.n_iter.dtype == np.int32


@pytest.mark.parametrize(
    "penalty, n_params, n_rows, expected",
    [
        (glmcore.Ridge, 128, None, "Newton"),
        (glmcore.Ridge, 129, None, "LBFGS"),
        (glmcore.Ridge, 123, 128, "LBFGS"),  # 256 rows with the padding: 256 * 123^2 > 2^21
        (glmcore.Ridge, 90, 256, "Newton"),
        (glmcore.Ridge, 90, 257, "LBFGS"),
        (glmcore.Ridge, 33, 5_000, "LBFGS"),
        (glmcore.Ridge, 63, 50_000, "LBFGS"),
        (glmcore.Ridge, 63, 100_000, "Newton"),  # 114 688 with the padding: 8192 * 63 < 5 * 114 688
        (glmcore.Lasso, 505, 2**14, "ProximalGradient"),
        (glmcore.Lasso, 505, 2**14 + 1, "ProximalNewton"),  # 20 480 * 505 > 2^23
    ],
)
def test_the_default_solver_goes_by_the_size(penalty, n_params, n_rows, expected):
    solver = glmcore.default_solver(penalty(), n_params, n_rows)
    assert type(solver).__name__ == expected


def test_a_size_has_rows_and_parameters():
    with pytest.raises(ValueError, match="n_rows must be a positive whole number, found 0"):
        glmcore.default_solver(glmcore.Ridge(), 15, 0)
    with pytest.raises(ValueError, match="n_params must be a positive whole number, found 0"):
        glmcore.default_solver(glmcore.Ridge(), 0)


@mostly_float32
def test_a_sparse_fit_of_many_rows_goes_by_its_working_set(monkeypatch, precision):
    X, y = small()
    X = X.astype(precision)

    def lasso():  # a new one each time, for which the solver is chosen anew
        return model(glmcore.Lasso(0.02))

    assert glmcore.fit(lasso(), X, y).state.algorithm == "ProximalNewton"  # few parameters
    monkeypatch.setattr(solve, "_WORKING_SET_PARAMS", 14)
    few = glmcore.fit(lasso(), X, y)
    monkeypatch.setattr(solve, "_WORKING_SET_NUMBERS", 256 * 15)  # rows, padded, times parameters
    many = glmcore.fit(lasso(), X, y)
    assert (few.state.algorithm, many.state.algorithm) == ("ProximalGradient", "ProximalNewton")
    assert many.converged
    np.testing.assert_array_equal(many.params.coef == 0, few.params.coef == 0)
    np.testing.assert_allclose(many.objective, few.objective, rtol=GAP[precision])
    by_group = glmcore.fit(model(glmcore.GroupLasso(0.02)), X, y)
    assert by_group.state.algorithm == "ProximalGradient"
    monkeypatch.setattr(solve, "_WORKING_SET_NUMBERS", 256 * 15 + 1)
    assert glmcore.fit(lasso(), X, y).state.algorithm == "ProximalGradient"
    monkeypatch.setattr(solve, "_WORKING_SET_NUMBERS", 256 * 15)
    # A state goes on with the solver that it is from.
    params, state = glmcore.update(lasso(), many.params, many.state, X, y)
    assert state.algorithm == "ProximalNewton" and int(state.n_iter) == int(many.state.n_iter) + 1
    np.testing.assert_allclose(state.objective, many.objective, rtol=GAP[precision])
    # One after the other in a batch, too.
    strengths = np.array([0.02, 0.05], precision)
    batch = jax.vmap(lambda s: glmcore.fit(model(glmcore.Lasso(s)), X, y))(strengths)
    assert batch.state.algorithm == "ProximalNewton"
    np.testing.assert_allclose(batch.objective[0], many.objective, rtol=GAP[precision])


@pytest.mark.slow
def test_groups_that_are_correlated_in_float32():
    X, y = data("digits", np.float32)
    X = X[:, X.std(axis=0) > 0]
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    glm = glmcore.GLM(glmcore.Categorical(10), glmcore.GroupLasso(0.005))
    by_hessian = glmcore.fit(glm, X, y, solver=glmcore.ProximalNewton(maxiter=20))
    by_gradient = glmcore.fit(glm, X, y, solver=glmcore.ProximalGradient())
    assert is_status(by_hessian, "converged") and is_status(by_gradient, "converged")
    np.testing.assert_array_equal(by_hessian.params.coef == 0, by_gradient.params.coef == 0)
    np.testing.assert_allclose(by_hessian.objective, by_gradient.objective, rtol=GAP[X.dtype])
    assert 0 < (by_hessian.params.coef == 0).sum() < by_hessian.params.coef.size


@pytest.mark.parametrize("rows", [slice(None), slice(1, None, 3)], ids=["all", "none that are looked at first"])
def test_collinear_features_of_many_rows_have_the_coefficients_of_least_norm(rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(9000, 4)).astype(np.float32)
    X[:, 3], X[rows, 3] = 0, 2 * X[rows, 0] - X[rows, 1]
    X[:, :2] = np.where(X[:, 3:] != 0, X[:, :2], 0)
    y = (X @ rng.normal(size=(4, 3)) + rng.gumbel(size=(9000, 3))).argmax(axis=1)
    result = glmcore.fit(model(glmcore.UnRegularized()), X, y)
    assert is_status(result, "converged")
    null = np.array([2, -1, 0, -1]) / np.sqrt(6)
    assert np.abs(null @ np.asarray(result.params.coef)).max() < 1e-5
    assert np.linalg.norm(result.params.coef) > 0.5
    assert int(model(glmcore.UnRegularized()).degrees_of_freedom(result.params, X)) == 2 * 3 + 2
