"""Every answer of a path against its own fit and the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import build, in_float64, model, relative_gap, slow, small

import glmcore
from glmcore.solvers import preconditioner

MASK = np.zeros((3, 4, 3), int)
MASK[0, :2] = MASK[1, 2, :2] = MASK[2, 3] = 1  # (2, 2) is in no group
KINDS = {
    "Ridge": ("Ridge", 1.0),
    "Lasso": ("Lasso", 1.0),
    "ElasticNet": ("ElasticNet", 2.0, 0.7),
    "GroupLasso": ("GroupLasso", 1.0),
    "GroupLasso with a mask": ("GroupLasso", np.array([1.0, 2.0, 0.5]), MASK),
    "Lasso with free entries": ("Lasso", np.array([[0.0], [1.0], [2.0], [1.0]])),
    "Lasso with a strength an entry": ("Lasso", np.linspace(0.5, 2.0, 12).reshape(4, 3)),
    "ElasticNet with a strength a class": ("ElasticNet", np.array([0.5, 1.0, 2.0]), 0.7),
}


def at(path, i):
    """One answer of a path."""
    take = jax.tree.map(lambda leaf: leaf[i], (path.params, path.objective, path.status))
    return take


def stronger(kind, args, factor):
    strength, *rest = args
    return build(kind, factor * np.asarray(strength), *rest)


def assert_own_fit(path, i, kind, args, X, y, weight=None, **kwargs):
    penalty, twin = stronger(kind, args, float(path.strengths[i]))
    params, objective, _ = at(path, i)
    own = glmcore.fit(model(penalty, **kwargs), X, y, sample_weight=weight)
    assert bool(path.converged[i]) and bool(own.converged)
    np.testing.assert_allclose(objective, own.objective, rtol=1e-8)
    for found, expected in zip(in_float64(params), in_float64(own.params)):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    return twin, params


def each(names):
    """The kinds, those whose programs add little to what others show only in long runs."""
    long = ("ElasticNet", "GroupLasso", "GroupLasso with a mask", "Lasso with free entries",
            "Lasso with a strength an entry")
    marked = [pytest.param(n, marks=pytest.mark.slow if n in long else ()) for n in names]
    return pytest.mark.parametrize("name", marked)


@each(KINDS)
def test_every_answer_is_that_of_its_own_fit(name, x64):
    (kind, *args), (X, y) = KINDS[name], small()
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    glm = model(stronger(kind, args, 1.0)[0])
    path = glmcore.regularization_path(glm, X, y, n_strengths=12, min_ratio=1e-2, sample_weight=weight)
    told = f"strengths from {path.strengths[0]:.3g} to {path.strengths[-1]:.3g}: 12 converged"
    assert repr(path) == f"PathResult(12 fits, {told}; {path.nonzeros.min()} to {path.nonzeros.max()} nonzeros)"
    assert path.strengths.shape == path.objective.shape == path.nonzeros.shape == (12,)
    assert path.params.coef.shape == (12, 4, 3) and path.params.intercept.shape == (12, 3)
    np.testing.assert_allclose(path.strengths[-1] / path.strengths[0], 1e-2)
    np.testing.assert_array_equal(path.nonzeros, (np.asarray(path.params.coef) != 0).sum(axis=(1, 2)))
    assert np.all(path.optimality <= 1e-8)
    for i in (0, 4, 11):
        twin, params = assert_own_fit(path, i, kind, args, X, y, weight)
        assert oracle.kkt_residual(twin, *in_float64(params), X, y, weight) <= 2e-8


@pytest.mark.parametrize("n, p", [(40, 50), slow(40, 1100)])
def test_ridge_with_fewer_rows_than_features(n, p, x64):
    X, y = small(n=n, p=p)
    path = glmcore.regularization_path(model(glmcore.Ridge()), X, y, n_strengths=5, min_ratio=1e-2)
    assert np.all(path.optimality <= 1e-8)
    for i in (0, 4):
        assert_own_fit(path, i, "Ridge", [1.0], X, y)


def test_ridge_makes_no_factor_for_each_strength_where_all_classes_share_one(monkeypatch, x64):
    for name in ("_MULTIPLICATIONS", "_STEPS_WORTH"):
        monkeypatch.setattr(preconditioner, name, 0)
    made, of = [], preconditioner.Preconditioner.of

    def counted(problem, eta):
        jax.debug.callback(lambda: made.append(1))
        return of(problem, eta)

    monkeypatch.setattr(preconditioner.Preconditioner, "of", counted)
    X, y = small(n=75, p=7)
    how = {"solver": glmcore.LBFGS(), "n_strengths": 12, "min_ratio": 1e-2}
    path = glmcore.regularization_path(model(glmcore.Ridge()), X, y, **how)
    jax.effects_barrier()
    assert len(made) == 3  # the strength falls by four in four steps
    assert np.all(path.optimality <= 1e-8) and np.all(path.n_iter < 25)
    for i in (0, 4, 11):
        assert_own_fit(path, i, "Ridge", [1.0], X, y)


def test_intercepts_of_many_classes_leave_room_for_coefficients(x64):
    X, y = small(n=120, p=5, K=40)
    path = glmcore.regularization_path(model(glmcore.Lasso(), K=40), X, y, n_strengths=4, min_ratio=0.1)
    assert path.nonzeros[-1] + 40 > 64 and np.all(path.optimality <= 1e-8)
    assert_own_fit(path, 3, "Lasso", [1.0], X, y, K=40)


@each(list(KINDS)[1:])
def test_it_begins_where_the_first_coefficient_leaves_zero(name, x64):
    (kind, *args), (X, y) = KINDS[name], small()
    path = glmcore.regularization_path(model(stronger(kind, args, 1.0)[0]), X, y, n_strengths=2, min_ratio=0.99)
    held = np.asarray(args[0]) > 0 if kind == "Lasso" else np.bool_(True)
    held = MASK.any(axis=0) if name == "GroupLasso with a mask" else np.broadcast_to(held, (4, 3))
    coef = np.asarray(path.params.coef)
    assert np.all(coef[0][held] == 0) and np.any(coef[1][held] != 0)
    assert np.all(coef[0][~held] != 0)


def test_ridge_begins_at_a_thousand_times_the_lasso(x64):
    X, y = small()
    ridge, lasso = (glmcore.regularization_path(model(p(2.0)), X, y, n_strengths=2) for p in (glmcore.Ridge, glmcore.Lasso))
    np.testing.assert_allclose(ridge.strengths, 1000 * lasso.strengths, rtol=1e-12)


@pytest.fixture(scope="module")
def wide():
    """More features than a working set begins with, few of them of use."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 300))
    X[:, 1:] += 0.5 * X[:, :-1]
    coef = np.zeros((300, 3))
    coef[:9] = rng.standard_normal((9, 3))
    return X, np.argmax(X @ coef + rng.gumbel(size=(400, 3)), axis=1)


LEFT_OUT = [  # each to a strength that needs more features than a working set begins with
    pytest.param("Lasso", (1.0,), 0.15, id="Lasso"),
    pytest.param("GroupLasso", (np.linspace(0.5, 2, 300),), 0.05, id="GroupLasso"),
]


@pytest.mark.parametrize("kind, args, min_ratio", LEFT_OUT)
@pytest.mark.slow
def test_features_that_are_left_out_are_checked(kind, args, min_ratio, wide, x64):
    X, y = wide
    path = glmcore.regularization_path(model(stronger(kind, args, 1.0)[0]), X, y, n_strengths=16, min_ratio=min_ratio)
    assert np.all(path.converged) and np.all(path.optimality <= 1e-8)
    assert path.nonzeros[0] == 0 and path.nonzeros[-1] > 40
    for i in (5, 15):
        twin, params = stronger(kind, args, float(path.strengths[i]))[1], at(path, i)[0]
        assert oracle.kkt_residual(twin, *in_float64(params), X, y) <= 2e-8
    assert_own_fit(path, 15, kind, args, X, y)


@pytest.mark.slow
def test_float32_and_features_in_parts(wide):
    X, y = wide
    parts = {"left": X[:, :100].astype(np.float32), "right": X[:, 100:].astype(np.float32)}
    strengths = {"left": 1.0, "right": np.linspace(0.5, 2.0, 200)[:, None]}
    path = glmcore.regularization_path(model(glmcore.Lasso(strengths)), parts, y, n_strengths=10, min_ratio=0.05)
    assert {k: v.shape for k, v in path.params.coef.items()} == {"left": (10, 100, 3), "right": (10, 200, 3)}
    assert np.all(path.converged) and path.params.intercept.dtype == np.float32
    twin = build("Lasso", float(path.strengths[-1]) * np.vstack([np.ones((100, 1)), strengths["right"]]))[1]
    own = glmcore.fit(model(glmcore.Lasso(jax.tree.map(lambda s: float(path.strengths[-1]) * s, strengths))), parts, y)
    assert abs(relative_gap(twin, at(path, -1)[0], X, y, oracle.objective(twin, *in_float64(own.params), X, y))) <= 1e-6


@pytest.mark.slow
def test_features_in_parts(x64):
    X, y = small()
    parts, weights = {"left": X[:, :1], "right": X[:, 1:]}, np.array([[1.0], [2.0], [0.5], [1.0]])
    strength = {"left": weights[:1], "right": weights[1:]}
    path = glmcore.regularization_path(model(glmcore.Lasso(strength)), parts, y, n_strengths=5, min_ratio=0.05)
    whole = glmcore.regularization_path(model(glmcore.Lasso(weights)), X, y, n_strengths=5, min_ratio=0.05)
    assert {k: v.shape for k, v in path.params.coef.items()} == {"left": (5, 1, 3), "right": (5, 3, 3)}
    np.testing.assert_allclose(path.strengths, whole.strengths)
    np.testing.assert_allclose(np.concatenate(list(path.params.coef.values()), axis=1), whole.params.coef, atol=1e-7)


def test_strengths_in_any_order(x64):
    X, y = small()
    glm, strengths = model(glmcore.Lasso(2.0)), np.array([0.01, 0.2, 0.05])
    path = glmcore.regularization_path(glm, X, y, strengths)
    np.testing.assert_array_equal(path.strengths, strengths)
    for i in range(3):
        assert_own_fit(path, i, "Lasso", (2.0,), X, y)


@pytest.mark.parametrize("solver", [glmcore.ProximalGradient(tol=1e-10), glmcore.ProximalNewton(tol=1e-10)], ids=lambda s: type(s).__name__)
@pytest.mark.slow
def test_another_solver(solver, x64):
    X, y = small()
    path = glmcore.regularization_path(model(glmcore.Lasso()), X, y, n_strengths=5, min_ratio=0.1, solver=solver)
    assert np.all(path.converged) and np.all(path.optimality <= 1e-10)
    assert_own_fit(path, 4, "Lasso", (1.0,), X, y)


@pytest.mark.slow
def test_without_intercept(x64):
    X, y = small()
    path = glmcore.regularization_path(model(glmcore.Lasso(), fit_intercept=False), X, y, n_strengths=4, min_ratio=0.1)
    assert path.nonzeros[0] == 0 and np.all(path.params.intercept == 0)
    assert_own_fit(path, 3, "Lasso", (1.0,), X, y, fit_intercept=False)


def doubled(eta):
    return jax.nn.log_softmax(2 * eta)


@pytest.mark.slow
def test_with_a_link(x64):
    X, y = small()
    linked = glmcore.regularization_path(model(glmcore.Lasso(), inverse_link=doubled), X, y, n_strengths=4, min_ratio=0.1)
    same = glmcore.regularization_path(model(glmcore.Lasso()), X, y, linked.strengths / 2)
    assert linked.nonzeros[0] == 0 and linked.nonzeros[1] > 0
    np.testing.assert_allclose(2 * linked.params.coef, same.params.coef, atol=1e-5)


def test_a_class_without_weight(x64):
    X, y = small()
    weight = (y < 2).astype(float)
    path = glmcore.regularization_path(model(glmcore.Lasso()), X, y, n_strengths=3, min_ratio=0.1, sample_weight=weight)
    assert np.all(path.converged) and np.all(path.params.coef[:, :, 2] == 0)
    assert all(bool(at(path, i)[2] == glmcore.Status.missing_class) for i in range(3))


@pytest.mark.parametrize("penalty", [glmcore.Lasso(), glmcore.Ridge()], ids=["Lasso", "Ridge"])
@pytest.mark.slow
def test_under_jit_and_vmap(penalty, x64):
    X, y = small()
    weights = np.random.default_rng(2).integers(1, 4, (2, len(y))).astype(float)

    @jax.jit
    @jax.vmap
    def paths(weight):
        return glmcore.regularization_path(model(penalty), jnp.asarray(X), jnp.asarray(y), n_strengths=4, min_ratio=0.05, sample_weight=weight)

    batch = paths(jnp.asarray(weights))
    for lane in range(2):
        single = glmcore.regularization_path(model(penalty), X, y, n_strengths=4, min_ratio=0.05, sample_weight=weights[lane])
        np.testing.assert_allclose(batch.strengths[lane], single.strengths, rtol=1e-10)
        np.testing.assert_allclose(batch.params.coef[lane], single.params.coef, atol=1e-5)
        assert np.all(batch.converged[lane])


def test_other_values_add_no_program(programs):
    X, y = small()
    glmcore.regularization_path(model(glmcore.Lasso()), X, y, n_strengths=6)
    with programs:
        glmcore.regularization_path(model(glmcore.Lasso(0.5)), 2 * X[:50], y[:50], n_strengths=6, min_ratio=0.1)
    assert programs.compiled == 0


def test_a_point_is_not_called_converged_for_the_residual_of_the_last_one(x64):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 4))
    y = (X[:, :3] + 0.1 * rng.gumbel(size=(60, 3))).argmax(axis=1)
    strengths = np.geomspace(1e-3, 1e-11, 40)
    path = glmcore.regularization_path(model(glmcore.Lasso()), X, y, strengths)
    assert path.converged.all()
    for point in (20, 29, 38):
        alone = glmcore.fit(model(glmcore.Lasso(strengths[point])), X, y, solver=glmcore.ProximalNewton())
        np.testing.assert_allclose(path.objective[point], alone.objective, rtol=1e-6)


def test_what_is_refused():
    X, y = small()
    lasso = model(glmcore.Lasso())
    for penalty, message in (
        (glmcore.UnRegularized(), "needs a penalty with a strength .* found UnRegularized"),
        (glmcore.Lasso(0.0), r"multiplies the strength of the penalty, which is 0 in Lasso\(0.0\)"),
        (glmcore.Ridge(np.zeros((4, 1))), "multiplies the strength of the penalty, which is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            glmcore.regularization_path(model(penalty), X, y)
    with pytest.raises(TypeError, match="strengths must be real numbers, found .'a'."):
        glmcore.regularization_path(lasso, X, y, ["a"])
    for kwargs, message in (
        ({"strengths": [0.1, -1.0]}, "strengths must be finite and positive, found -1.0 at index 1"),
        ({"strengths": [[0.1]]}, r"strengths must be 1-D and not empty, found shape \(1, 1\)"),
        ({"n_strengths": 0}, "n_strengths must be a positive whole number, found 0"),
        ({"min_ratio": 2.0}, "min_ratio must lie between 0 and 1, found 2.0"),
        ({"solver": glmcore.LBFGS()}, "LBFGS needs a differentiable penalty"),
    ):
        with pytest.raises(ValueError, match=message):
            glmcore.regularization_path(lasso, X, y, **kwargs)
    for strengths, found in (([1j], r"\[1j\]"), (np.array([1j]), "dtype complex128")):
        with pytest.raises(TypeError, match=f"strengths must be real numbers, found {found}"):
            glmcore.regularization_path(lasso, X, y, strengths)


def test_no_feature_of_use():
    X, y = small()
    path = glmcore.regularization_path(model(glmcore.Lasso()), np.zeros_like(X), y, n_strengths=3)
    assert np.all(path.converged) and np.all(path.nonzeros == 0) and np.all(np.isfinite(path.strengths))


def test_the_default_goes_by_the_penalty_and_the_size():
    def name(penalty, n_params):
        return type(glmcore.default_solver(penalty, n_params, path=True)).__name__

    assert name(glmcore.Lasso(), 10**5) == name(glmcore.ElasticNet(), 10**5) == "ProximalNewton"
    assert name(glmcore.GroupLasso(), 1024) == "ProximalNewton"
    assert name(glmcore.GroupLasso(), 1025) == "ProximalGradient"
    assert name(glmcore.Ridge(), 128) == "Newton" and name(glmcore.Ridge(), 129) == "LBFGS"


@pytest.mark.parametrize("penalty", [glmcore.Lasso(), slow(glmcore.GroupLasso())], ids=["Lasso", "GroupLasso"])
def test_strengths_may_be_traced(penalty):
    X, y = small()
    strengths = jnp.array([0.1, 0.02])

    def objectives(strengths):
        return glmcore.regularization_path(model(penalty), X, y, strengths).objective

    expected = objectives(strengths)
    np.testing.assert_allclose(jax.jit(objectives)(strengths), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(objectives)(strengths[None])[0], expected, rtol=1e-5)
