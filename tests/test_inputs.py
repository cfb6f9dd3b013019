"""Every check of features, weights and parameters: what passes, what comes back, and what each mistake is told."""

import collections
import datetime
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from jax.experimental import sparse as jax_sparse

from glmcore_sklearn.inputs import (
    Features,
    check_features,
    check_lengths,
    check_params,
    check_same_features,
    check_sample_weight,
    count_features,
    sample_dtype,
)

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
MATRIX = np.array(ROWS)
NAN_ROWS = np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, np.nan]])
FRAME = pd.DataFrame(ROWS, columns=["a", "b"])
Pair = collections.namedtuple("Pair", ["columns", "rest"])


def test_sample_dtype_follows_jax():
    assert sample_dtype() == np.float32
    with jax.enable_x64(True):
        assert sample_dtype() == np.float64
        assert check_features(MATRIX).X.dtype == np.float64
        assert check_features(1e300 * MATRIX).X.max() == 6e300
    assert sample_dtype() == np.float32


# Features that are good


@pytest.mark.parametrize(
    "X",
    [
        ROWS,
        tuple(ROWS),
        [np.array(row) for row in ROWS],
        MATRIX,
        MATRIX.astype(np.float16),
        MATRIX.astype(int),
        MATRIX.astype(np.uint8),
        MATRIX.astype(object),
        np.asfortranarray(MATRIX),
        np.repeat(MATRIX, 2, axis=1)[:, ::2],
        jnp.array(ROWS),
        jnp.array(ROWS, dtype=jnp.bfloat16),
        jnp.array(ROWS, dtype=int),
        FRAME,
        FRAME.astype("Int64"),
        FRAME.set_axis([3, 4], axis=1),
        FRAME.set_axis([9, 9, 9], axis=0),
    ],
)
def test_arrays_of_every_kind_are_cast(X):
    checked = check_features(X)
    assert checked.X.dtype == np.float32 and checked.used is None
    assert isinstance(checked.X, jax.Array) == isinstance(X, jax.Array)
    np.testing.assert_array_equal(checked.X, MATRIX)


def test_booleans_are_numbers():
    assert check_features(MATRIX > 2).X.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_good_arrays_are_not_copied():
    single = MATRIX.astype(np.float32)
    assert check_features(single).X is single
    on_device = jnp.array(ROWS)
    assert check_features({"a": on_device}).X["a"] is on_device


def test_a_sum_that_overflows_is_no_infinity():
    large = np.full((3, 2), 3e38, dtype=np.float32)
    assert check_features(large).X is large
    check_features(jnp.asarray(large))


@pytest.mark.parametrize(
    "X",
    [
        {"stim": MATRIX, "past": MATRIX[:, :1]},
        (MATRIX, MATRIX[:, :1]),
        [MATRIX, jnp.array(ROWS)],
        [{"a": MATRIX}, MATRIX],
        {"a": {"b": MATRIX, "c": (MATRIX, [MATRIX])}},
        {"rows": ROWS, "frame": FRAME},
        [FRAME, FRAME],
        ([MATRIX],),
        Pair(MATRIX, MATRIX),
        collections.OrderedDict(b=MATRIX, a=MATRIX),
    ],
)
def test_pytrees_keep_their_structure(X):
    checked = check_features(X)

    def is_matrix(node):
        return isinstance(node, pd.DataFrame) or node is ROWS

    assert jax.tree.structure(checked.X) == jax.tree.structure(X, is_leaf=is_matrix)
    assert {leaf.dtype for leaf in jax.tree.leaves(checked.X)} == {np.dtype(np.float32)}
    assert checked.names is None


def test_column_names_of_frames():
    assert check_features(FRAME).names.tolist() == ["a", "b"]
    assert check_features(FRAME).names.dtype == object
    assert check_features(FRAME.set_axis([0, 1], axis=1)).names is None
    assert check_features(MATRIX).names is None
    with pytest.raises(TypeError, match="only supported if all input features have string names.*'int', 'str'"):
        check_features(FRAME.set_axis(["a", 1], axis=1))


# Features that are wrong


@pytest.mark.parametrize(
    "X, message",
    [
        (MATRIX[0], r"Expected 2D array, got 1D array instead: X has shape \(2,\)\. Reshape your data .*\(-1, 1\)"),
        (jnp.ones(3), r"Expected 2D array, got 1D array instead: X has shape \(3,\)\. Reshape your data"),
        ([1, 2, 3], "Expected 2D array, got 1D array"),
        (pd.Series([1.0]), "Expected 2D array, got 1D array"),
        ([], "Expected 2D array, got 1D array"),
        (3.0, "Expected 2D array, got scalar array"),
        (None, "Expected 2D array, got scalar array"),
        ({"a": MATRIX, "b": None}, r"Expected 2D array, got scalar array instead: X\['b'\]"),
        (np.ones((2, 2, 2)), r"Found array with dim 3, while dim <= 2 is required: X has shape \(2, 2, 2\)"),
        ({"stim": MATRIX[0], "b": MATRIX}, r"Expected 2D array.*: X\['stim'\] has shape \(2,\)"),
        ([MATRIX, MATRIX[0]], r"X\[1\] has shape \(2,\)"),
        ({"a": {"b": np.ones((0, 2))}}, r"Found array with 0 sample\(s\) .*X\['a'\]\['b'\]"),
        (np.ones((0, 3)), r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"),
        (np.ones((12, 0)), r"0 feature\(s\) \(shape=\(\d*, 0\)\) while a minimum of \d* is required."),
        (jnp.ones((0, 3)), r"Found array with 0 sample\(s\)"),
        (pd.DataFrame({"a": []}), r"Found array with 0 sample\(s\)"),
        ({}, r"X holds no arrays: found \{\}, expected at least one 2-D array"),
        ({"a": {}}, "X holds no arrays"),
        (
            {"a": MATRIX, "b": MATRIX[:2]},
            r"inconsistent numbers of samples: \[3, 2\] \(X\['a'\] has 3, X\['b'\] has 2\)",
        ),
        (np.array([["a", "b"]]), "X cannot be read as numbers: .*strings"),
        ([["a", "b"]], "X cannot be read as numbers: "),
        (np.array([["a", 1]], dtype=object), "X cannot be read as numbers: could not convert string to float: 'a'"),
        (pd.DataFrame({"a": ["x"]}), "X cannot be read as numbers: could not convert string to float"),
        ({"stim": [["a"]]}, r"X\['stim'\] cannot be read as numbers"),
        ([[1, 2], [3]], "X cannot be read as numbers"),
        (1j * MATRIX, "Complex data not supported: X has dtype complex128"),
        (jnp.array(1j * MATRIX, dtype=jnp.complex64), "Complex data not supported: X has dtype complex64"),
        ([[1j, 2]], "Complex data not supported"),
        (np.zeros((2, 2), dtype="datetime64[D]"), "X has dtype datetime64.*expected real numbers"),
        (jax.random.split(jax.random.key(0), (2, 2)), "X has dtype key.*expected real numbers"),
    ],
)
def test_bad_features_are_refused_in_words(X, message):
    with pytest.raises(ValueError, match=message):
        check_features(X)


@pytest.mark.parametrize(
    "X, message",
    [
        (scipy.sparse.csr_matrix(MATRIX), r"Sparse data was passed as X \(csr_matrix\).*dense.*\.toarray\(\)"),
        (scipy.sparse.csc_array(MATRIX), "Sparse data"),
        ({"a": scipy.sparse.csr_array(MATRIX)}, r"Sparse data was passed as X\['a'\]"),
        ([scipy.sparse.csr_array(MATRIX), MATRIX], r"Sparse data was passed as X\[0\]"),
        (jax_sparse.BCOO.fromdense(MATRIX), "Sparse data was passed as X .BCOO"),
        (np.array([[{"foo": "bar"}, 1]], dtype=object), "argument must be .* string.* number"),
    ],
)
def test_features_that_are_no_arrays_of_numbers(X, message):
    with pytest.raises(TypeError, match=message):
        check_features(X)


@pytest.mark.parametrize("nan", ["drop", "keep", "raise"])
@pytest.mark.parametrize("convert", [np.array, jnp.array, pd.DataFrame])
def test_infinity_is_refused_under_every_policy(convert, nan):
    X = convert([[1.0, 2.0], [np.nan, -np.inf]])
    with pytest.raises(ValueError, match=r"Input X contains infinity \(-inf in row 1, column 1\), expected finite"):
        check_features(X, nan=nan)
    with pytest.raises(ValueError, match=r"Input Z\['a'\] contains infinity"):
        check_features({"a": X}, argument="Z", nan=nan)


def test_a_value_that_float32_cannot_hold_is_not_called_infinity():
    with pytest.raises(ValueError, match=r"X contains a value too large for float32 \(1e\+300 in row 0, column 1\)"):
        check_features([[1.0, 1e300]])


# NaN


def test_rows_with_nan_are_zeroed_and_marked():
    before = NAN_ROWS.copy()
    with pytest.warns(UserWarning, match="Input X contains NaN in 2 of 3 rows, which are left out") as record:
        checked = check_features(NAN_ROWS)
    assert len(record) == 1
    assert checked.used.tolist() == [True, False, False]
    assert checked.X.tolist() == [[1, 2], [0, 0], [0, 0]] and checked.X.dtype == np.float32
    np.testing.assert_array_equal(NAN_ROWS, before)


def test_float32_arrays_with_nan_are_not_changed():
    X = NAN_ROWS.astype(np.float32)
    X.flags.writeable = False
    with pytest.warns(UserWarning, match="2 of 3 rows"):
        assert np.isfinite(check_features(X).X).all()
    assert np.isnan(X).sum() == 2


def test_a_row_of_a_pytree_is_unused_if_any_leaf_lacks_it():
    with pytest.warns(UserWarning, match="Input X contains NaN in 2 of 3 rows") as record:
        checked = check_features({"a": jnp.array(NAN_ROWS), "b": MATRIX})
    assert len(record) == 1
    assert checked.used.tolist() == [True, False, False]
    assert isinstance(checked.X["a"], jax.Array) and checked.X["a"].dtype == np.float32
    assert checked.X["a"].tolist() == checked.X["b"].tolist() == [[1, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize("X", [NAN_ROWS, jnp.array(NAN_ROWS), NAN_ROWS.tolist()])
def test_nan_may_be_kept(X):
    checked = check_features(X, nan="keep")
    np.testing.assert_array_equal(checked.X, NAN_ROWS)
    assert checked.used is None


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]}),
        [[1, 2], [None, 2.0]],
        np.array([[1, 2], [None, 2.0]]),
    ],
)
def test_missing_values_are_nan(X):
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert check_features(X).used.tolist() == [True, False]


@pytest.mark.parametrize("X", [NAN_ROWS, jnp.array(NAN_ROWS), {"a": NAN_ROWS, "b": MATRIX}])
def test_nan_may_be_refused(X):
    with pytest.raises(ValueError, match="Input X contains NaN in 2 of 3 rows, expected finite numbers"):
        check_features(X, nan="raise")


def test_no_row_left():
    with pytest.raises(ValueError, match="Input X contains NaN in 3 of 3 rows: no row is left"):
        check_features(np.full((3, 2), np.nan))


# JAX


def test_tracers_skip_the_value_checks_but_not_the_shape_checks():
    def total(X):
        return check_features(X, nan="raise").X.sum()

    assert np.isnan(jax.jit(total)(jnp.array(NAN_ROWS)))
    np.testing.assert_array_equal(jax.grad(total)(jnp.array(ROWS)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="Expected 2D array"):
        jax.jit(total)(jnp.ones(3))


def test_concrete_arrays_inside_a_users_jit_are_checked():
    good, bad = jnp.array(ROWS), jnp.array(NAN_ROWS)
    assert jax.jit(lambda scale: scale * check_features(good).X.sum())(2.0) == 42
    with pytest.raises(ValueError, match="NaN in 2 of 3"):
        jax.jit(lambda scale: scale * check_features(bad, nan="raise").X)(2.0)


def test_good_jax_arrays_stay_on_the_device():
    X = {"a": jnp.array(ROWS), "b": jnp.array(ROWS, dtype=int)}
    check_features(X)  # compiles
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        checked = check_features(X)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checked.X))


# Features against those of the fit


def test_features_of_the_fit_pass():
    for X in (MATRIX, FRAME, {"a": MATRIX, "b": (MATRIX[:, :1], MATRIX)}):
        features = check_features(X)
        check_same_features(features, count_features(features.X), features.names)


@pytest.mark.parametrize(
    "X, n_features, message",
    [
        (MATRIX, 4, "^X has 2 features, but ClassifierGLM is expecting 4 features as input.$"),
        ({"a": MATRIX, "b": MATRIX}, {"a": 2, "b": 1}, r"^X\['b'\] has 2 features, but .* expecting 1 features"),
        ({"a": MATRIX}, {"a": 2, "b": 1}, r"structure .*: found \{'a': 2\}, expected \{'a': 2, 'b': 1\}"),
        (MATRIX, {"a": 2}, r"structure .*: found 2, expected \{'a': 2\}"),
        ((MATRIX, MATRIX), [2, 2], r"structure .*: found \(2, 2\), expected \[2, 2\]"),
        (collections.OrderedDict(a=MATRIX), {"a": 2}, "structure .*: found OrderedDict"),
    ],
)
def test_other_features_than_those_of_the_fit(X, n_features, message):
    with pytest.raises(ValueError, match=message):
        check_same_features(check_features(X), n_features)


def test_messages_name_argument_and_estimator():
    with pytest.raises(ValueError, match="Z has 2 features, but LogisticRegression is expecting 3"):
        check_same_features(check_features(MATRIX), 3, argument="Z", estimator="LogisticRegression")


@pytest.mark.parametrize(
    "found, fitted, message",
    [
        (["b", "a"], ["a", "b"], "match those that were passed during fit.\nFeature names must be in the same order"),
        (["a", "c"], ["a", "b"], "unseen at fit time:\n- c\nFeature names seen at fit time, yet now missing:\n- b\n"),
        (["a", "b"], ["a"], "unseen at fit time:\n- b\n"),
        (["a"], ["a", "b"], "yet now missing:\n- b\n"),
        (list("abcdefg"), ["a"], "- b\n- c\n- d\n- e\n- f\n- ...\n"),
    ],
)
def test_feature_names_are_compared_as_in_scikit_learn(found, fitted, message):
    features = Features(np.ones((1, len(found))), np.array(found, dtype=object), None)
    with pytest.raises(ValueError) as error:
        check_same_features(features, len(fitted), np.array(fitted, dtype=object))
    assert message in str(error.value)


def test_names_on_one_side_only_are_a_warning():
    with pytest.warns(UserWarning, match="X has feature names, but ClassifierGLM was fitted without feature names"):
        check_same_features(check_features(FRAME), 2)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but ClassifierGLM was fitted with"):
        check_same_features(check_features(MATRIX), 2, check_features(FRAME).names)


def test_lengths():
    check_lengths(3, 3)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 4\] \(rows of X, length of y\)"):
        check_lengths(3, 4)


# Weights


@pytest.mark.parametrize(
    "weight",
    [[1, 0, 2], np.array([1, 0, 2.0]), pd.Series([1, 0, 2], index=[5, 6, 7]), jnp.array([1.0, 0.0, 2.0])],
)
def test_good_weights_are_cast(weight):
    values = check_sample_weight(weight, 3)
    assert isinstance(values, np.ndarray) and values.dtype == np.float32
    assert values.tolist() == [1, 0, 2]


def test_one_number_weighs_every_sample_and_none_stays_none():
    assert check_sample_weight(None, 3) is None
    for number in (2, 2.0, np.float64(2), jnp.float32(2)):
        values = check_sample_weight(number, 3)
        assert values.tolist() == [2, 2, 2] and values.dtype == np.float32
    assert check_sample_weight([True, False], 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    "weight, message",
    [
        ([1, -1, -2], "sample_weight holds weights that are negative: 2 of 3, the first -1.0 at index 1"),
        ([1, np.nan, 1], "sample_weight holds weights that are not finite: 1 of 3, the first nan at index 1"),
        ([1, np.inf, 1], "not finite"),
        ([1, 1e300, 1], "not finite"),
        ([1, 1], r"sample_weight has shape \(2,\), expected one weight a sample, shape \(3,\)"),
        ([[1, 1, 1]], r"shape \(1, 3\)"),
        ([0, 0, 0], "sample_weight is zero for all 3 samples"),
        (0, "zero for all"),
        (-1, "negative: 3 of 3"),
        (["a", "b", "c"], "sample_weight cannot be read as numbers"),
        ([1j, 1, 1], "Complex data not supported"),
    ],
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        check_sample_weight(weight, 3)


# Parameters

Params = collections.namedtuple("Params", ["coef", "intercept"])
COEF, INTERCEPT = np.zeros((2, 3)), np.zeros(3)
TREE = {"a": MATRIX, "b": MATRIX[:, :1]}


@pytest.mark.parametrize(
    "params",
    [
        (COEF, INTERCEPT),
        [COEF, INTERCEPT],
        (COEF.tolist(), INTERCEPT.tolist()),
        (jnp.array(COEF), jnp.array(INTERCEPT)),
        (COEF.astype(int), INTERCEPT),
        Params(COEF, INTERCEPT),
    ],
)
def test_good_params_are_cast(params):
    coef, intercept = check_params(params, MATRIX, (3,))
    assert coef.shape == (2, 3) and intercept.shape == (3,)
    assert coef.dtype == intercept.dtype == np.float32


def test_params_of_a_pytree_mirror_it():
    coef, _ = check_params(({"b": [[0, 0, 0]], "a": COEF}, INTERCEPT), TREE, (3,))
    assert {name: leaf.shape for name, leaf in coef.items()} == {"a": (2, 3), "b": (1, 3)}
    coef, _ = check_params(([COEF, COEF], INTERCEPT), [MATRIX, MATRIX], (3,))
    assert isinstance(coef, list)


@pytest.mark.parametrize(
    "params, X, message",
    [
        ((COEF,), MATRIX, r"init_params is a tuple of length 1, expected a pair \(coef, intercept\)"),
        (COEF, MATRIX, "init_params is a ndarray of length 2, expected a pair"),
        (3, MATRIX, "init_params is a int, expected a pair"),
        ({"coef": COEF, "intercept": INTERCEPT}, MATRIX, "init_params is a dict of length 2"),
        ((np.zeros((4, 3)), INTERCEPT), MATRIX, r"coef of init_params has shape \(4, 3\), expected .* = \(2, 3\)"),
        ((np.zeros(2), INTERCEPT), MATRIX, r"coef of init_params has shape \(2,\), expected .* = \(2, 3\)"),
        ((COEF, np.zeros(2)), MATRIX, r"intercept of init_params has shape \(2,\), expected \(n_classes,\) = \(3,\)"),
        ((COEF, np.array([0, np.nan, 0])), MATRIX, "intercept of init_params holds NaN or infinity"),
        ((jnp.full((2, 3), jnp.inf), INTERCEPT), MATRIX, "coef of init_params holds NaN or infinity"),
        ((1e300 + COEF, INTERCEPT), MATRIX, "coef of init_params holds NaN or infinity, expected finite float32"),
        (({"a": COEF}, INTERCEPT), MATRIX, r"differs in structure from X: found PyTreeDef.*'a'.*, expected PyTreeDef"),
        ((COEF, INTERCEPT), TREE, "coef of init_params differs in structure from X"),
        (({"a": COEF}, INTERCEPT), TREE, "differs in structure"),
        (({"a": COEF, "b": {"c": COEF}}, INTERCEPT), TREE, "differs in structure"),
        (({"a": COEF, "b": COEF}, INTERCEPT), TREE, r"coef\['b'\] of init_params has shape \(2, 3\), .*\(1, 3\)"),
        ((1j * COEF, INTERCEPT), MATRIX, "Complex data not supported: coef of init_params"),
        (([["a"]], INTERCEPT), MATRIX, "coef of init_params cannot be read as numbers"),
    ],
)
def test_bad_params(params, X, message):
    with pytest.raises(ValueError, match=message):
        check_params(params, X, (3,))


def test_params_carry_the_name_of_their_argument():
    with pytest.raises(ValueError, match="^params is a tuple of length 3"):
        check_params((1, 2, 3), MATRIX, (3,), argument="params")


def test_params_may_be_tracers():
    def total(params):
        coef, intercept = check_params(params, MATRIX, (3,))
        return coef.sum() + intercept.sum()

    params = jnp.array(COEF), jnp.array(INTERCEPT)
    assert jax.grad(total)(params)[0].shape == (2, 3)
    assert np.isnan(jax.jit(total)((params[0] + jnp.nan, params[1])))
    with pytest.raises(ValueError, match="intercept of init_params has shape"):
        jax.jit(total)((params[0], params[1][:2]))


def test_params_that_are_known_are_not_looked_at():
    nobody = jnp.asarray(INTERCEPT + np.nan, jnp.float32)
    assert np.isnan(check_params((COEF, nobody), MATRIX, (3,), known=[nobody])[1]).all()
    with pytest.raises(ValueError, match="intercept of init_params holds NaN"):
        check_params((COEF, nobody), MATRIX, (3,), known=[nobody + 0])


def test_large_params_whose_sum_overflows_are_finite():
    check_params((COEF + 3e38, INTERCEPT), MATRIX, (3,))


def test_nothing_warns_on_good_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for X in (ROWS, MATRIX, FRAME, TREE, jnp.array(ROWS)):
            check_features(X)


def test_dates_of_polars_are_refused_as_those_of_pandas():
    polars = pytest.importorskip("polars")
    dates = [datetime.datetime(2020, 1, day) for day in range(1, 6)]
    for frame in (polars.DataFrame({"t": dates, "a": [1.0] * 5}), pd.DataFrame({"t": dates, "a": [1.0] * 5})):
        with pytest.raises(ValueError, match="X has dtype .*, expected real numbers"):
            check_features(frame)
