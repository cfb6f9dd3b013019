"""``fit_batches``: the answer of ``fit``, from batches that are read in every pass."""

import jax
import numpy as np
import oracle
import pytest
from helpers import GAP, build, model, relative_gap, small

import glmcore


def cut(X, y, *weight, sizes=(17, 1, 0, 30, 12)):
    ends = np.cumsum(sizes)
    return [tuple(a[e - n : e] for a in (X, y, *weight)) for e, n in zip(ends, sizes)]


@pytest.mark.parametrize(
    "spec, precision",
    [(("Ridge", 0.05), "float32"), (("Lasso", 0.02), "float64")],
    ids=["Ridge", "Lasso"],
    indirect=["precision"],
)
def test_the_optimum_of_all_rows(spec, precision):
    X, y = small()
    X = (10 * X + 100).astype(precision)
    penalty, twin = build(*spec)
    result = glmcore.fit_batches(model(penalty), cut(X, y))
    best = oracle.reference_fit(twin, X.astype(np.float64), y, 3)[2]
    assert result.converged
    assert relative_gap(twin, result.params, X, y, best) <= GAP[precision]
    assert result.params.coef.dtype == precision


@pytest.mark.parametrize("solver", [glmcore.Newton(), glmcore.LBFGS()], ids=["Newton", "LBFGS"])
def test_steps_over_batches_give_the_answer_of_fit(solver, x64):
    X, y = small()
    weight = np.linspace(0, 2, len(y))
    weight[17] = 0  # all of a batch
    glm = model(glmcore.Ridge(0.05))
    start = glm.initialize_params(jax.numpy.asarray(X), jax.numpy.asarray(y))
    seen = []
    result = glmcore.fit_batches(
        glm, cut(X, y, weight), solver=solver, init_params=start, callback=seen.append
    )
    expected = glmcore.fit(glm, X, y, sample_weight=weight)
    assert result.converged and int(result.n_iter) > 2
    np.testing.assert_allclose(result.params.coef, expected.params.coef, atol=1e-6)
    np.testing.assert_allclose(result.params.intercept, expected.params.intercept, atol=1e-6)
    assert seen[-1].done and seen[-1].n_iter == int(result.n_iter)


@pytest.mark.slow
def test_a_sample_is_not_the_answer(monkeypatch, x64):
    from glmcore import reading, survey

    # So small that the sample is a part of the rows and there are several chunks.
    monkeypatch.setattr(survey, "_FEWEST_ROWS", 64)
    monkeypatch.setattr(survey, "_MOST_ROWS", 64)
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 1)
    X, y = small(n=1500)
    glm = model(glmcore.Ridge(0.05))
    sizes = (700, 300, 1, 499)
    result = glmcore.fit_batches(glm, lambda: iter(cut(X, y, sizes=sizes)))
    expected = glmcore.fit(glm, X, y)
    assert result.converged and int(result.n_iter) > 0
    np.testing.assert_allclose(result.params.coef, expected.params.coef, atol=1e-6)


def test_the_same_batches_give_the_same_answer_in_the_same_program(programs):
    X, y = small()
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    first = glmcore.fit_batches(glm, cut(X, y))
    with programs:
        second = glmcore.fit_batches(glm, cut(X, y))
        elsewhere = glmcore.fit_batches(glm, cut(X, y, sizes=(59, 1)))
    assert not programs.compiled
    np.testing.assert_array_equal(first.params.coef, second.params.coef)
    np.testing.assert_allclose(first.params.coef, elsewhere.params.coef, atol=1e-6)


def test_any_large_number_of_rows_shares_the_programs(programs):
    X, y = small(n=2_400_000)
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    glmcore.fit_batches(glm, [(X[:1_100_000], y[:1_100_000])])
    with programs:
        result = glmcore.fit_batches(glm, [(X, y)])
    assert result.converged
    assert not programs.compiled
    np.testing.assert_allclose(result.objective, glmcore.fit(glm, X, y).objective, rtol=1e-6)


def test_a_program_of_jax_cannot_read_batches():
    X, y = small()
    for transform in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match="fit_batches cannot be called from inside jax.jit or jax.vmap"):
            transform(lambda s: glmcore.fit_batches(model(glmcore.Ridge(s)), [(X, y)]).objective)(np.ones(2, np.float32))


def test_bad_batches_are_named():
    X, y = small()
    X = X.astype(np.float32)
    glm = model(glmcore.Ridge(0.05))
    broken = X.copy()
    broken[40, 2] = np.nan
    for batches, error, message in (
        (lambda: None, TypeError, "batches must be an iterable, or a function that returns one; found None"),
        (cut(broken, y), ValueError, "batch 3: X must be finite .* found nan in row 22, column 2"),
        (cut(X, np.where(np.arange(60) == 50, 7, y)), ValueError, "batch 4: y must hold class indices"),
        ([(X, y), (X[:, :3], y)], ValueError, "batch 1: X must have 4 features as the first"),
        ([(X, y), (X,)], TypeError, r"batch 1 must be \(X, y\) or \(X, y, weight\)"),
        (iter([(X, y)]), TypeError, "batches must be iterable again"),
        ([], ValueError, "batches must hold rows, found none"),
        ([(X, y), (X, y[:0])], ValueError, r"batch 1: y must have shape \(60,\)"),
        ([(X, y), (X, y, np.full(60, -1.0))], ValueError, "batch 1: weights must be from 0 to 1e.15"),
        ([(X, y), (X, y, np.full(60, 1e20))], ValueError, "batch 1: weights must be from 0 to 1e.15"),
        ([(X, y, np.full(60, 1e-20))], ValueError, "weights must be at least 1e-15 on average"),
        ([(X, y, np.zeros(60))], ValueError, "batches must hold rows with weight, found none"),
    ):
        with pytest.raises(error, match=message):
            glmcore.fit_batches(glm, batches)
    with pytest.raises(ValueError, match="SVRG draws single rows"):
        glmcore.fit_batches(glm, [(X, y)], solver=glmcore.SVRG())
    calls = iter([X, X, X[:50]])
    with pytest.raises(ValueError, match="found 50 rows in pass 2, expected 60"):
        glmcore.fit_batches(glm, lambda: iter([((x := next(calls)), y[: len(x)])]))
    labels = iter([y, y, np.roll(y, 1) * (np.arange(60) > 5)])
    with pytest.raises(ValueError, match="found classes of the weights .* in pass 2, expected"):
        glmcore.fit_batches(glm, lambda: iter([(X, next(labels))]))


@pytest.mark.slow
def test_a_pytree_of_features_a_class_that_is_missing_and_no_intercept(x64):
    X, y = small()
    y = np.where(y == 2, 0, y)
    glm = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(0.05), fit_intercept=False)
    split = [({"a": X[s, :1], "b": X[s, 1:]}, y[s]) for s in (slice(40), slice(40, None))]
    result = glmcore.fit_batches(glm, split)
    expected = glmcore.fit(glm, {"a": X[:, :1], "b": X[:, 1:]}, y)
    assert glmcore.status_name(result.status) == glmcore.status_name(expected.status) == "missing_class"
    np.testing.assert_allclose(result.params.coef["b"], expected.params.coef["b"], atol=1e-6)


@pytest.mark.slow
def test_separable_classes_and_collinear_features_are_told_apart(x64):
    X, y = small()
    glm = model(glmcore.UnRegularized())
    X = np.concatenate([X, X[:, :1]], axis=1)
    result, expected = glmcore.fit_batches(glm, cut(X, y)), glmcore.fit(glm, X, y)
    np.testing.assert_allclose(result.params.coef, expected.params.coef, atol=1e-5)
    apart = np.where(X[:, :1] > 0, 1, -1) + 0.1 * X
    found = glmcore.fit_batches(glm, cut(apart, (X[:, 0] > 0).astype(int)))
    assert glmcore.status_name(found.status) in ("separable", "missing_class")
