"""Labels to indices and back, for every kind of label and every kind of mistake."""

import datetime
import string

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning, NotFittedError

from glmcore_sklearn.labels import (
    ClassesNotSetError,
    are_indices,
    as_labels,
    check_class_count,
    check_n_classes,
    decode,
    encode,
    infer_classes,
)

DAYS = np.array(["2020-01-02", "2020-01-01", "2020-01-02"], dtype="datetime64[D]")

KINDS = {
    "int": np.array([2, 0, 1, 2]),
    "int8": np.array([-128, 127, 0], dtype=np.int8),
    "uint64": np.array([2**64 - 1, 0, 5], dtype=np.uint64),
    "sparse int": np.array([10**12, -3, 10**12]),
    "bool": np.array([True, False, True]),
    "str": np.array(["dog", "cat", "dog"]),
    "bytes": np.array([b"dog", b"cat"]),
    "object str": np.array(["dog", "cat"], dtype=object),
    "object mixed": np.array(["dog", 1, (2, 3), "dog"], dtype=object),
    "object date": np.array([datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)]),
    "float": np.array([2.0, -1.0, 0.0]),
    "float32": np.array([3, 1], dtype=np.float32),
    "datetime": DAYS,
    "datetime ns": DAYS.astype("datetime64[ns]"),
    "timedelta": DAYS - DAYS[0],
    "list": [3, 1, 2],
    "list of mixed": ["a", 1, "a", b"a"],
    "tuple": ("b", "a"),
    "Series": pd.Series([4, 2], index=[7, 7]),
    "Series str": pd.Series(["b", "a"]),
    "Series Int64": pd.Series([4, 2], dtype="Int64"),
    "Series tz": pd.Series(pd.date_range("2020", periods=2, tz="UTC")),
    "Categorical": pd.Categorical(["b", "a", "b"]),
    "Categorical int": pd.Series(pd.Categorical([3, 1, 3])),
    "Index": pd.Index(["b", "a"]),
    "jax": jnp.array([1, 0, 2]),
    "StringDType": np.array(["b", "a"], dtype=np.dtypes.StringDType()),
}


@pytest.mark.parametrize("y", KINDS.values(), ids=KINDS)
def test_every_kind_of_label_survives_the_round_trip(y):
    labels = as_labels(y)
    classes = infer_classes(labels)
    indices = encode(labels, classes)
    assert labels.ndim == 1 and classes.dtype == labels.dtype
    assert indices.dtype == np.int32
    assert set(indices) == set(range(classes.size))
    back = decode(indices, classes)
    assert back.dtype == classes.dtype
    assert list(back) == list(y)


@pytest.mark.parametrize("y", [y for name, y in KINDS.items() if "mixed" not in name])
def test_classes_are_sorted(y):
    classes = infer_classes(as_labels(y))
    assert list(classes) == sorted(set(np.asarray(y).tolist())) or list(classes) == sorted(set(np.asarray(y)))


LABEL_LISTS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.integers(-5, 5), min_size=1),
    st.lists(st.booleans(), min_size=1),
    st.lists(st.text(string.printable.strip(), max_size=4), min_size=1),
    st.lists(st.integers(-(2**50), 2**50).map(float), min_size=1),
    st.lists(st.dates(), min_size=1),
    st.lists(st.one_of(st.text("ab", max_size=2), st.integers(0, 3), st.tuples(st.integers(0, 2))), min_size=1),
)


@hypothesis.given(LABEL_LISTS, st.booleans())
@hypothesis.settings(deadline=None, max_examples=150)
def test_decode_inverts_encode(values, as_object):
    y = values
    if as_object or any(isinstance(value, tuple) for value in values):  # NumPy unpacks tuples in lists
        y = np.empty(len(values), dtype=object)
        for index, value in enumerate(values):
            y[index] = value
    labels = as_labels(y)
    classes = infer_classes(labels)
    assert list(decode(encode(labels, classes), classes)) == values


def test_mixed_labels_keep_the_order_of_appearance():
    classes = infer_classes(as_labels(np.array(["b", 1, "a", 1], dtype=object)))
    assert classes.tolist() == ["b", 1, "a"]


def test_a_list_of_mixed_labels_is_not_turned_into_strings():
    assert as_labels(["a", 1]).tolist() == ["a", 1]
    with pytest.raises(ValueError, match="missing labels .*NaN.* 1 of 2 labels, the first at index 1"):
        as_labels(["a", float("nan")])


def test_labels_are_neither_copied_nor_changed():
    y = np.array([2, 0, 1])
    y.flags.writeable = False
    labels = as_labels(y)
    assert np.shares_memory(labels, y)
    indices = encode(labels, infer_classes(labels))
    assert not np.shares_memory(indices, y)
    assert infer_classes(as_labels(np.array(["ab", "c"]))).dtype == "<U2"


def test_column_vector_is_flattened_with_a_warning():
    for column in (np.array([[1], [0]]), pd.DataFrame({"y": [1, 0]}), [[1], [0]]):
        with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
            assert as_labels(column).tolist() == [1, 0]


@pytest.mark.parametrize(
    "y, message",
    [
        (np.zeros((3, 2)), r"y should be a 1d array, got an array of shape \(3, 2\) .*expected .*\(n_samples,\)"),
        (np.zeros((3, 1, 1)), r"shape \(3, 1, 1\)"),
        (1, r"shape \(\)"),
        ("abc", r"shape \(\)"),
        ([[1, 2], [3]], "ragged"),
        (None, "requires y to be passed, but the target y is None"),
        ([], "y holds no samples"),
        (np.array([], dtype=int), "no samples"),
        ([1.0, np.nan, np.nan], "Input y contains NaN: 2 of 3 labels, the first at index 1"),
        (jnp.array([jnp.nan, 1.0]), "contains NaN: 1 of 2"),
        ([0.0, 1.0, np.inf], "Input y contains infinity: 1 of 3 labels, the first at index 2"),
        ([1, None], "missing labels .*NaN, NaT or None.*: 1 of 2 labels, the first at index 1"),
        (pd.Series(["a", None]), "missing labels"),
        (pd.Series([1, None], dtype="Int64"), "NaN"),
        (pd.Categorical(["a", None]), "missing labels"),
        (np.array([pd.NA, "a"], dtype=object), "missing labels .* index 0"),
        (np.array([1, np.inf], dtype=object), "infinity"),
        (np.array(["2020", "NaT"], dtype="datetime64[D]"), "contains NaT: 1 of 2 labels, the first at index 1"),
        (np.array([1 + 1j, 2]), "Complex data not supported: y"),
        (np.zeros(2, dtype="i4,i4"), "y has dtype .*expected class labels"),
        (np.array([{}, {}], dtype=object), "y holds labels that cannot be hashed"),
    ],
)
def test_bad_targets_are_refused_in_words(y, message):
    with pytest.raises(ValueError, match=message):
        as_labels(y)


@pytest.mark.parametrize("y", [np.array([0.5, 1.0]), [0.1, 0.2], np.array([0.5, 1], dtype=object), jnp.array([1.5])])
def test_continuous_targets_are_refused_as_scikit_learn_does(y):
    with pytest.raises(ValueError, match="Unknown label type: continuous. Maybe you are trying to fit a classifier"):
        as_labels(y)


def test_lists_keep_what_numpy_would_write_as_strings():
    with pytest.raises(ValueError, match="missing labels .*: 1 of 4 labels, the first at row 0, column 1"):
        as_labels([["a", float("nan")], ["b", "a"]], n_axes=2)
    assert as_labels([["a", 1], [1, "a"]], n_axes=2).tolist() == [["a", 1], [1, "a"]]
    with pytest.warns(DataConversionWarning, match="column-vector"), pytest.raises(ValueError, match="missing labels"):
        as_labels([["a"], [None]])


def test_messages_use_the_name_of_the_argument():
    with pytest.raises(ValueError, match="^classes holds no samples"):
        as_labels([], argument="classes")


@pytest.mark.parametrize(
    "classes, expected",
    [([0, 1, 2], True), ([0], True), ([1, 2], False), ([1, 0], False), ([0.0, 1.0], False), ([False, True], False)],
)
def test_are_indices(classes, expected):
    assert are_indices(np.array(classes)) is expected


@pytest.mark.parametrize(
    "labels, classes, expected",
    [
        ([1.0, 0.0], [0, 1], [1, 0]),
        ([2.0, 1.0], [1, 2], [1, 0]),
        ([True, False], [0, 1], [1, 0]),
        ([True, True], [1, 2], [0, 0]),
        ([1, 0], [False, True], [1, 0]),
        ([1, 0], [0.0, 1.0], [1, 0]),
        (["long", "a"], ["a", "long"], [1, 0]),
        ([1, 2], [2, 1], [1, 0]),
    ],
)
def test_equal_labels_match_across_dtypes(labels, classes, expected):
    assert encode(np.array(labels), np.array(classes)).tolist() == expected


def test_objects_match_plain_arrays():
    objects = np.array(["a", "b"], dtype=object)
    assert encode(np.array(["b", "a"]), objects).tolist() == [1, 0]
    assert encode(objects, np.array(["a", "b"])).tolist() == [0, 1]
    assert encode(np.array([2.0]), np.array([1, 2], dtype=object)).tolist() == [1]
    assert encode(DAYS, DAYS[:2].astype("datetime64[ns]")[::-1]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "labels, classes, message",
    [
        ([0, 3, -1, 3], [0, 1], r"y holds labels .*: 3, -1 \(3 of 4 rows, first at index 1\). Valid labels: 0, 1\."),
        ([0, 2], [1, 2], r": 0 \(1 of 2 rows, first at index 0\). Valid labels: 1, 2\."),
        ([1.5, 9.0], [1, 2], ": 1.5, 9.0 .*Valid labels: 1, 2"),
        (["bird"], ["cat", "dog"], ": 'bird' .*Valid labels: 'cat', 'dog'"),
        (["a"], [0, 1], ": 'a' .*Valid labels: 0, 1"),
        ([0, 1], ["a", "b"], ": 0, 1 .*Valid labels: 'a', 'b'"),
        ([b"a"], ["a", "b"], ": b'a' .*Valid labels: 'a', 'b'"),
        (DAYS, [0, 1], ": 2020-01-02, 2020-01-01 .*Valid labels: 0, 1"),
        ([0], DAYS[:2], ": 0 .*Valid labels: 2020-01-02, 2020-01-01"),
        (np.array(["a", 2], dtype=object), [0, 1], ": 'a', 2 .*Valid"),
        (DAYS.astype("datetime64[ns]"), np.array([1577923200000000000, 1], dtype=object), "2020-01-02"),
        (np.arange(9) + 5, [0, 1], r": 5, 6, 7, 8, 9, \.\.\. \(9 of 9"),
    ],
)
def test_unknown_labels_are_named_with_the_valid_ones(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        encode(np.asarray(labels), np.asarray(classes))


def test_decode_takes_jax_indices():
    assert decode(jnp.array([1, 0]), np.array(["a", "b"])).tolist() == ["b", "a"]


@pytest.mark.parametrize("n_classes", [2, 2.0, np.int64(2), np.float32(2), np.uint8(2)])
def test_whole_numbers_of_classes_are_accepted(n_classes):
    assert check_n_classes(n_classes) == 2 and type(check_n_classes(n_classes)) is int
    assert check_n_classes(None) is None


@pytest.mark.parametrize("n_classes", [2.5, 1, 0, -3, np.nan, np.inf])
def test_wrong_numbers_of_classes(n_classes):
    with pytest.raises(ValueError, match="n_classes must be None or an integer of at least 2, found"):
        check_n_classes(n_classes)


@pytest.mark.parametrize("n_classes", [True, np.True_, "3", [3], 2j])
def test_numbers_of_classes_that_are_no_numbers(n_classes):
    with pytest.raises(TypeError, match="n_classes must be None or an integer of at least 2, found .* of type"):
        check_n_classes(n_classes)


def test_class_count_is_compared_with_the_announced_one():
    check_class_count(np.array([0, 1, 2]), 3)
    check_class_count(np.array([0, 1, 2]), None)
    with pytest.raises(ValueError, match=r"Found 3 classes in y \('a', 'b', 'c'\), expected n_classes=2"):
        check_class_count(np.array(["a", "b", "c"]), 2)
    with pytest.raises(ValueError, match=r"Found 1 class in y \(4\), expected at least 2"):
        check_class_count(np.array([4]), None)
    with pytest.raises(ValueError, match=r"\(0, 1, 2, 3, 4, \.\.\.\)"):
        check_class_count(np.arange(100), 2)


def test_classes_not_set_is_both_kinds_of_error():
    assert issubclass(ClassesNotSetError, NotFittedError) and issubclass(ClassesNotSetError, RuntimeError)
