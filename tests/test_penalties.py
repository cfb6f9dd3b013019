"""Penalties against their float64 twins, against brute force, and every refusal in words."""

import equinox as eqx
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import build, relative_error, slow

import glmcore
from glmcore import ElasticNet, GroupLasso, Lasso, Ridge, UnRegularized

P, K = 4, 3
RNG = np.random.default_rng(3)
COLUMN, FULL = RNG.uniform(0, 1, (P, 1)), RNG.uniform(0, 1, (P, K))
MASK = np.zeros((3, P, K), int)
MASK[0, 0, :2] = MASK[1, 1:3, :] = MASK[2, 3, 2] = 1  # (0, 2), (3, 0), (3, 1) are in no group

PENALTIES = {
    "UnRegularized": build("UnRegularized"),
    "Ridge": build("Ridge", 0.7),
    "Ridge column": build("Ridge", COLUMN),
    "Ridge full": build("Ridge", FULL),
    "Lasso": build("Lasso", 0.7),
    "Lasso column": build("Lasso", COLUMN),
    "Lasso full": build("Lasso", FULL),
    "ElasticNet": build("ElasticNet", 0.7, 0.3),
    "ElasticNet pure": build("ElasticNet", 0.7, 1.0),
    "ElasticNet full": build("ElasticNet", FULL, 0.1 + 0.8 * FULL),
    "ElasticNet column ratio": build("ElasticNet", 0.4, 0.1 + 0.8 * COLUMN),
    "GroupLasso": build("GroupLasso", 0.4),
    "GroupLasso strengths": build("GroupLasso", COLUMN[:, 0]),
    "GroupLasso mask": build("GroupLasso", 0.4, MASK),
    "GroupLasso mask strengths": build("GroupLasso", np.array([0.1, 0.5, 0.0]), MASK),
}
each = pytest.mark.parametrize("penalty, twin", PENALTIES.values(), ids=PENALTIES)


def coefs():
    dense = RNG.standard_normal((P, K))
    dense[0, 0] = dense[2] = 0.0
    return [np.zeros((P, K)), dense, 1e-3 * dense, 1e3 * dense]


def tree(coef):
    return {"a": coef[:1], "b": (coef[1:3], coef[3:])}


@eqx.filter_jit
def call(penalty, method, *args):
    """One program a type and shape, where single operations would compile one by one."""
    return getattr(penalty, method)(*args)


def stacked(coef):
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(coef)])


# ---------------------------------------------------------------- values, proximal operators, subgradients


@each
def test_value(penalty, twin, precision):
    for coef in coefs():
        value = call(penalty, "value", jnp.asarray(coef, precision))
        assert value.dtype == precision and value.shape == ()
        assert np.isclose(value, twin.value(coef), rtol=20 * np.finfo(precision).eps)


@each
@pytest.mark.parametrize("step", [0.0, 0.3, 2.0])
def test_prox(penalty, twin, step, precision):
    for coef in coefs():
        found = call(penalty, "prox", jnp.asarray(coef, precision), np.asarray(step))
        expected = twin.prox(coef, step)
        assert found.dtype == precision
        np.testing.assert_array_equal(found == 0, expected.astype(precision) == 0)
        assert relative_error(found, expected) < 20 * np.finfo(precision).eps


@each
def test_prox_against_brute_force(penalty, twin, x64):
    coef = coefs()[1]
    found = np.asarray(call(penalty, "prox", jnp.asarray(coef), np.asarray(0.9)))
    assert np.max(np.abs(found - oracle.brute_force_prox(twin, coef, 0.9))) < 1e-6


@pytest.mark.parametrize("name", [name for name in PENALTIES if "Group" not in name])
def test_prox_takes_a_step_an_entry(name, x64):
    penalty, twin = PENALTIES[name]
    coef, steps = coefs()[1], RNG.uniform(0.1, 2, (P, K))
    found = np.asarray(call(penalty, "prox", jnp.asarray(coef), steps))
    expected = [
        twin.prox(coef, step)[index] for index, step in np.ndenumerate(steps)
    ]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-13, atol=1e-15)


@each
def test_least_subgradient(penalty, twin, precision):
    for coef in coefs():
        for size in (0.1, 1.0, 10.0):
            gradient = size * RNG.standard_normal((P, K))
            found = call(
                penalty, "least_subgradient", jnp.asarray(coef, precision), jnp.asarray(gradient, precision)
            )
            expected = twin.least_subgradient(coef, gradient)
            bound = 20 * np.finfo(precision).eps * (size * 3 + np.abs(coef).max())
            assert np.max(np.abs(np.asarray(found, np.float64) - expected)) < bound


@each
def test_curvature_is_the_quadratic_part(penalty, twin, x64):
    coef = np.full((P, K), 1.0)
    found = np.asarray(call(penalty, "curvature", jnp.asarray(coef)))
    quadratic = getattr(twin, "l2", 0.0)
    np.testing.assert_allclose(found, np.broadcast_to(quadratic, (P, K)), rtol=1e-12)


TREES = {
    "UnRegularized": (UnRegularized(), UnRegularized()),
    "Ridge": (Ridge(0.7), Ridge(0.7)),
    "Ridge tree": (Ridge(tree(FULL)), Ridge(FULL)),
    "Lasso tree": (Lasso(tree(COLUMN)), Lasso(COLUMN)),
    "Lasso tree of numbers": (Lasso({"a": 0.1, "b": (0.2, 0.3)}), Lasso(np.array([[0.1], [0.2], [0.2], [0.3]]))),
    "ElasticNet tree": (ElasticNet(tree(FULL), 0.4), ElasticNet(FULL, 0.4)),
    "ElasticNet tree of ratios": (ElasticNet(0.3, tree(0.1 + 0.8 * COLUMN)), ElasticNet(0.3, 0.1 + 0.8 * COLUMN)),
    "GroupLasso": (GroupLasso(0.4), GroupLasso(0.4)),
    "GroupLasso strengths": (GroupLasso(COLUMN[:, 0]), GroupLasso(COLUMN[:, 0])),
    "GroupLasso tree of masks": (
        GroupLasso(np.array([0.1, 0.5, 0.2]), {"a": MASK[:, :1], "b": (MASK[:, 1:3], MASK[:, 3:])}),
        GroupLasso(np.array([0.1, 0.5, 0.2]), MASK),
    ),
}


@pytest.mark.parametrize("split, whole", TREES.values(), ids=TREES)
def test_a_pytree_is_its_stacked_matrix(split, whole):
    coef = jnp.asarray(coefs()[1], jnp.float32)
    gradient = jnp.asarray(RNG.standard_normal((P, K)), jnp.float32)
    split.check(tree(coef))
    whole.check(coef)
    np.testing.assert_allclose(call(split, "value", tree(coef)), call(whole, "value", coef), rtol=1e-6)
    for method, *args in (
        ("prox", np.asarray(0.5)),
        ("least_subgradient", gradient),
        ("level", np.arange(K) > 0),
        ("curvature",),
        ("common_scale",),
    ):
        at = jnp.abs(coef) + 0.5 if method == "common_scale" else coef
        split_args = [tree(arg) if np.ndim(arg) == 2 else arg for arg in args]
        found = call(split, method, tree(at), *split_args)
        assert jax.tree.structure(found) == jax.tree.structure(tree(coef))
        np.testing.assert_allclose(stacked(found), call(whole, method, at, *args), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [Ridge, Lasso, ElasticNet])
def test_the_level_goes_by_the_values_of_the_strengths(make):
    coef, present = jnp.asarray(RNG.standard_normal((P, 4)), jnp.float32), jnp.ones(4, bool)
    each = np.tile(COLUMN, 4)
    each[1] = 0
    np.testing.assert_array_equal(make(each).level(coef, present), make(each[:, :1]).level(coef, present))
    each[2, 0] += 0.1
    expected = make(each[:, 1:2]).level(coef, present).at[2].set(coef[2])
    np.testing.assert_array_equal(make(each).level(coef, present), expected)


@pytest.mark.parametrize("penalty, twin", [PENALTIES[name] for name in ("Ridge", "Lasso full", "ElasticNet")])
def test_coefficients_may_be_integers(penalty, twin):
    coef = np.arange(P * K).reshape(P, K) - 5
    np.testing.assert_allclose(penalty.value(jnp.asarray(coef)), twin.value(coef), rtol=1e-6)
    np.testing.assert_allclose(penalty.prox(jnp.asarray(coef), 0.5), twin.prox(coef, 0.5), rtol=1e-5, atol=1e-6)


@each
def test_derivatives_are_finite_at_zero(penalty, twin):
    zero = jnp.zeros((P, K))

    @jax.jit
    def derivatives(penalty, coef):
        through = jax.grad(lambda w: penalty.value(penalty.prox(w, 0.5)))
        return jax.grad(penalty.value)(coef), jax.jacobian(lambda w: penalty.prox(w, 0.5))(coef), through(coef)

    assert all(np.all(np.isfinite(d)) for d in derivatives(penalty, zero))


@each
def test_value_is_differentiated_correctly_where_it_is_smooth(penalty, twin, x64):
    coef, direction = RNG.uniform(0.5, 2, (P, K)), RNG.standard_normal((P, K))
    slope = np.sum(np.asarray(jax.jit(jax.grad(lambda w: penalty.value(w)))(jnp.asarray(coef))) * direction)
    central = (twin.value(coef + 1e-6 * direction) - twin.value(coef - 1e-6 * direction)) / 2e-6
    assert abs(slope - central) < 1e-7


@pytest.mark.parametrize("make", [Ridge, Lasso, ElasticNet, GroupLasso])
def test_strengths_are_batched_by_vmap_under_jit(make):
    coef = jnp.asarray(coefs()[1], jnp.float32)
    strengths = jnp.array([0.0, 0.1, 3.0])

    @jax.jit
    @jax.vmap
    def many(strength):
        penalty = make(strength)
        return penalty.value(coef), penalty.prox(coef, 0.5)

    values, moved = many(strengths)
    for strength, value, one in zip(strengths, values, moved):
        np.testing.assert_allclose(value, make(float(strength)).value(coef), rtol=1e-6)
        np.testing.assert_allclose(one, make(float(strength)).prox(coef, 0.5), rtol=1e-6, atol=1e-7)


def test_a_penalty_owns_its_arrays():
    coef, strength, mask = jnp.asarray(coefs()[1], jnp.float32), np.array([0.1, 0.5, 0.2]), MASK.copy()
    penalty = GroupLasso(strength, mask)
    before = float(penalty.value(coef))
    strength[:], mask[:] = 9, 1
    assert float(penalty.value(coef)) == before


@pytest.mark.parametrize("penalty", [Ridge(0.3), Lasso(0.3), ElasticNet(0.3), GroupLasso(0.3, MASK), UnRegularized()])
def test_penalties_pass_through_jit_and_grad(penalty):
    coef = jnp.asarray(coefs()[1], jnp.float32)
    value = jax.jit(lambda p, w: p.value(w))(penalty, coef)
    np.testing.assert_allclose(value, penalty.value(coef), rtol=1e-6)
    assert jax.tree.structure(penalty) == jax.tree.structure(jax.tree.map(lambda s: s * 2, penalty))


# ---------------------------------------------------------------- the level of the classes


def brute_level(twin, row):
    """Shifts on a grid that holds every kink; the best value, and of the best shifts the least norm."""
    mid = (row[:, None] + row[None, :]).ravel() / 2
    grid = np.concatenate([row, mid, [row.mean()], np.linspace(row.min(), row.max(), 2001)])
    values = np.array([twin.value(row[None, :] - u) for u in grid])
    best = values.min()
    ties = grid[values <= best + 1e-12 * max(best, 1)]
    shift = ties[np.argmin([np.sum((row - u) ** 2) for u in ties])]
    return best, row - shift


@pytest.mark.parametrize("n_outputs", [2, 3, slow(4), slow(5)])
@pytest.mark.parametrize("kind, args", [
    ("Lasso", (0.5,)), ("ElasticNet", (0.5, 0.5)), ("ElasticNet", (0.5, 0.95)), ("ElasticNet", (0.5, 1.0)),
    ("Ridge", (0.5,)), ("GroupLasso", (0.5,)), ("UnRegularized", ()),
])  # fmt: skip
def test_level_is_the_best_shift_of_least_norm(kind, args, n_outputs, x64):
    penalty, twin = build(kind, *args)
    rows = np.random.default_rng(n_outputs).standard_normal((6, n_outputs))
    rows[0] = 0.0
    rows[1, 1:] = rows[1, 0]
    rows[2, 0] = 100.0
    present = np.arange(n_outputs) < n_outputs - 1
    each = [(rows, np.ones(n_outputs, bool)), (np.where(present, rows, 0), present)]
    found = [(rows[:, p], np.asarray(call(penalty, "level", jnp.asarray(rows), jnp.asarray(p)))[:, p]) for rows, p in each]
    for row, found in (pair for rows, levelled in found for pair in zip(rows, levelled)):
        best, expected = brute_level(twin, row)
        assert np.ptp(found - row) < 1e-12 * max(np.abs(row).max(), 1)
        assert twin.value(found[None, :]) <= best * (1 + 1e-12) + 1e-12
        if kind in ("Lasso", "Ridge", "UnRegularized") or args[-1] == 1.0:
            np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(row) + 1e-15)
            assert np.sum(found**2) <= np.sum(expected**2) + 1e-9 * np.sum(row**2)


def test_level_respects_what_fixes_it(x64):
    coef = jnp.asarray(coefs()[1])
    for penalty in (Ridge(FULL), Lasso(FULL), ElasticNet(FULL), ElasticNet(0.1, 0.1 + 0.8 * FULL)):
        before = float(penalty.value(coef))
        assert float(penalty.value(penalty.level(coef, jnp.ones(coef.shape[1], bool)))) <= before * (1 + 1e-14)
    masked = GroupLasso(1.0, MASK)
    # A feature whose classes are in different groups keeps its level.
    np.testing.assert_array_equal(masked.level(coef, jnp.ones(coef.shape[1], bool))[0], coef[0])


values = hnp.arrays(np.float64, (P, K), elements=st.floats(-100, 100).map(lambda x: round(x, 6)))


@pytest.mark.parametrize("name", ["Lasso", "ElasticNet", "Ridge column", "GroupLasso", "GroupLasso mask", "Lasso full"])
@hypothesis.given(coef=values)
def test_level_never_raises_the_penalty(name, coef):
    penalty, twin = PENALTIES[name]
    with jax.enable_x64(True):
        levelled = np.asarray(call(penalty, "level", jnp.asarray(coef), jnp.ones(K, bool)))
    assert twin.value(levelled) <= twin.value(coef) * (1 + 1e-12) + 1e-12
    assert np.max(np.ptp(levelled - coef, axis=1)) < 1e-11


@pytest.mark.parametrize("name", ["Ridge full", "Lasso", "ElasticNet full", "GroupLasso", "GroupLasso mask"])
@hypothesis.given(u=values, v=values, step=st.floats(0.01, 10))
def test_prox_is_firmly_non_expansive_and_optimal(name, u, v, step):
    penalty, twin = PENALTIES[name]
    with jax.enable_x64(True):
        pu, pv = (np.asarray(call(penalty, "prox", jnp.asarray(w), np.asarray(step))) for w in (u, v))
    moved, apart = pu - pv, u - v
    assert np.sum(moved**2) <= np.sum(moved * apart) + 1e-9 * (1 + np.sum(apart**2))
    # 0 is a subgradient of |w - u|^2 / 2 + step penalty(w) at w = prox(u).
    left = twin.least_subgradient(pu, (pu - u) / step)
    assert np.max(np.abs(left)) < 1e-9 * (1 + np.abs(u).max() / step)
    # No other point is better.
    cost = lambda w: 0.5 * np.sum((w - u) ** 2) + step * twin.value(w)
    assert cost(pu) <= cost(pv) * (1 + 1e-12) + 1e-12


# ---------------------------------------------------------------- refusals


def shapes(p=P, n_outputs=K):
    return jax.ShapeDtypeStruct((p, n_outputs), jnp.float32)


BAD = [
    (Ridge(-1.0), "Ridge: strength must be finite and not negative, found -1"),
    (Ridge(np.nan), "Ridge: strength must be finite and not negative, found nan"),
    (Lasso(np.inf), "Lasso: strength must be finite and not negative, found inf"),
    (Lasso(np.array([[1.0], [-2.0], [1.0], [1.0]])), r"Lasso: strength .* found \[\[ 1.\]"),
    (Lasso(jnp.array(-1.0)), "Lasso: strength must be finite and not negative"),
    (ElasticNet(-0.1), "ElasticNet: strength must be finite and not negative, found -0.1"),
    (ElasticNet(0.1, 0.0), r"ElasticNet: ratio must be in \(0, 1\], found 0"),
    (ElasticNet(0.1, 1.5), r"ElasticNet: ratio must be in \(0, 1\], found 1.5"),
    (ElasticNet(0.1, -0.5), r"ElasticNet: ratio must be in \(0, 1\], found -0.5"),
    (ElasticNet(0.1, np.nan), r"ElasticNet: ratio must be in \(0, 1\], found nan"),
    (ElasticNet(0.1, np.array([0.5, 0.5, 2.0])), r"ElasticNet: ratio must be in \(0, 1\]"),
    (ElasticNet(0.1, np.full((2, 1), 0.5)), r"ElasticNet: ratio of shape \(2, 1\) does not broadcast to coef of shape \(4, 3\)"),
    (Ridge(np.ones((5, 1))), r"Ridge: strength of shape \(5, 1\) does not broadcast to coef of shape \(4, 3\)"),
    (Ridge(np.ones(4)), r"Ridge: strength of shape \(4,\) does not broadcast"),
    (Lasso(np.ones((2, 4, 3))), r"Lasso: strength of shape \(2, 4, 3\) does not broadcast to coef of shape \(4, 3\)"),
    (Ridge({"a": 1.0}), "Ridge: strength must be one number or array, or mirror the features"),
    (GroupLasso(-1.0), "GroupLasso: strength must be finite and not negative, found -1"),
    (GroupLasso(np.ones(3)), r"GroupLasso: strength must be a number or of shape \(4,\), one a group; found shape \(3,\)"),
    (GroupLasso(np.ones((4, 1))), r"GroupLasso: strength must be a number or of shape \(4,\), .* found shape \(4, 1\)"),
    (GroupLasso(np.ones(2), MASK), r"GroupLasso: strength must be a number or of shape \(3,\)"),
    (GroupLasso(1.0, MASK[0]), r"GroupLasso: mask must have shape \(n_groups, 4, 3\), found \(4, 3\)"),
    (GroupLasso(1.0, MASK[:, :2]), r"GroupLasso: mask must have shape \(n_groups, 4, 3\), found \(3, 2, 3\)"),
    (GroupLasso(1.0, MASK[:0]), r"GroupLasso: mask must have shape \(n_groups, 4, 3\), found \(0, 4, 3\)"),
    (GroupLasso(1.0, 1), r"GroupLasso: mask must have shape \(n_groups, 4, 3\), found \(\)"),
    (GroupLasso(1.0, 2 * MASK), "GroupLasso: mask must hold 0 and 1 only"),
    (GroupLasso(1.0, MASK - 0.5), "GroupLasso: mask must hold 0 and 1 only"),
    (GroupLasso(1.0, np.where(MASK, np.nan, 0)), "GroupLasso: mask must hold 0 and 1 only"),
    (GroupLasso(1.0, {"a": MASK}), "GroupLasso: mask must mirror the features"),
    (GroupLasso(1.0, np.ones((2, P, K), int)), r"GroupLasso: groups must not overlap, but coef\[0, 0\] is in groups \[0, 1\]"),
    (GroupLasso({"a": 1.0, "b": 2.0}), "GroupLasso: strength must be a number or of shape"),
]  # fmt: skip


@pytest.mark.parametrize("penalty, message", BAD)
def test_bad_penalties_are_refused_in_words(penalty, message):
    with pytest.raises(ValueError, match=message):
        penalty.check(shapes())


@pytest.mark.parametrize("penalty, message", [BAD[0], BAD[6], BAD[12], BAD[17], BAD[24], BAD[28]])
def test_bad_penalties_are_refused_at_first_use(penalty, message):
    X, y = np.zeros((6, P), np.float32), np.array([0, 1, 2, 0, 1, 2])
    model = glmcore.GLM(glmcore.Categorical(K), penalty)
    with pytest.raises(ValueError, match=message):
        glmcore.fit(model, X, y)
    params = model.initialize_params(X, y)
    with pytest.raises(ValueError, match=message):
        glmcore.init_state(model, params, X, y)


def test_strengths_of_a_pytree_must_fit_leaf_by_leaf():
    coef = {"a": shapes(2), "b": shapes(3)}
    Ridge({"a": np.ones((2, 1)), "b": 1.0}).check(coef)
    Ridge(np.ones(K)).check(coef)
    with pytest.raises(ValueError, match=r"strength of shape \(2, 1\) does not broadcast to coef of shape \(3, 3\)"):
        Ridge({"a": 1.0, "b": np.ones((2, 1))}).check(coef)
    with pytest.raises(ValueError, match="mirror the features"):
        Ridge({"a": 1.0}).check(coef)
    with pytest.raises(ValueError, match="found nan"):
        Ridge({"a": 1.0, "b": np.nan}).check(coef)
    # Nested pytrees fail in words as well.
    with pytest.raises(ValueError, match="mirror the features"):
        Ridge((1.0, 2.0)).check(coef)


def test_groups_may_not_overlap_within_a_leaf_of_a_pytree():
    coef = {"a": shapes(1), "b": (shapes(2), shapes(1))}
    whole = MASK.copy()
    whole[0, 3, 2] = 1
    mask = {"a": whole[:, :1], "b": (whole[:, 1:3], whole[:, 3:])}
    with pytest.raises(ValueError, match="groups must not overlap"):
        GroupLasso(1.0, mask).check(coef)


@pytest.mark.parametrize("penalty", [p for p, _ in PENALTIES.values()])
def test_good_penalties_pass(penalty):
    penalty.check(shapes())


def test_the_constructor_only_assigns():
    for penalty, _ in BAD:
        assert isinstance(penalty, glmcore.AbstractPenalty)


def test_zero_strength_is_allowed():
    for make in (Ridge, Lasso, ElasticNet, GroupLasso):
        make(0.0).check(shapes())
        assert float(make(0.0).value(jnp.ones((P, K)))) == 0


@pytest.mark.parametrize(
    "penalty, text",
    [
        (UnRegularized(), "UnRegularized()"),
        (Ridge(), "Ridge()"),
        (Ridge(1), "Ridge()"),
        (Ridge(0.1), "Ridge(0.1)"),
        (Ridge(np.float64(0.25)), "Ridge(0.25)"),
        (Lasso(), "Lasso()"),
        (Lasso(2), "Lasso(2.0)"),
        (ElasticNet(), "ElasticNet()"),
        (ElasticNet(0.1), "ElasticNet(0.1)"),
        (ElasticNet(0.1, 0.9), "ElasticNet(0.1, 0.9)"),
        (ElasticNet(ratio=0.9), "ElasticNet(1.0, 0.9)"),
        (GroupLasso(), "GroupLasso()"),
        (GroupLasso(0.1), "GroupLasso(0.1)"),
        (Ridge(np.ones((4, 1))), "Ridge(array(4, 1))"),
        (GroupLasso(1.0, MASK), "GroupLasso(1.0, array(3, 4, 3))"),
    ],
)
def test_repr(penalty, text):
    assert repr(penalty) == text


def test_repr_of_a_pytree_and_of_a_tracer_do_not_fail():
    assert repr(Ridge({"a": 0.1, "b": 0.2})).startswith("Ridge(")
    seen = []
    jax.jit(lambda p: seen.append(repr(p)) or p.strength)(Ridge(0.5))
    assert seen[0].startswith("Ridge(")


def test_penalties_are_immutable_and_picklable():
    import pickle

    with pytest.raises(AttributeError):
        Ridge().strength = 2.0
    again = pickle.loads(pickle.dumps(ElasticNet(0.2, 0.7)))
    assert repr(again) == "ElasticNet(0.2, 0.7)"


def test_numbers_keep_their_float64_value():
    assert Ridge(0.1).strength.dtype == np.float64 and float(Ridge(0.1).strength) == 0.1


@pytest.mark.parametrize("n_classes", [2, 20, 21])
def test_the_level_of_few_and_of_many_classes_is_the_median(n_classes):
    """Of an odd number of classes; of an even one that nearest to the mean of those in the middle."""
    coef = np.random.default_rng(0).normal(size=(50, n_classes)).astype(np.float32)
    coef[:, 0] = coef[:, 1]
    levelled = glmcore.Lasso(1.0).level(jnp.asarray(coef), jnp.ones(n_classes, bool))
    ordered = np.sort(coef, axis=1)
    low, high = ordered[:, (n_classes - 1) // 2], ordered[:, n_classes // 2]
    level = np.clip(coef.mean(axis=1), low, high)
    np.testing.assert_allclose(levelled, coef - level[:, None], atol=1e-6)
