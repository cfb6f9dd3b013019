"""``LogisticRegressionCV`` against scikit-learn's, converged; one grid of two shapes, so that programs are shared."""

import inspect

import jax
import numpy as np
import pytest
import sklearn
from helpers import slow, small
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV as Theirs
from sklearn.metrics import get_scorer, make_scorer, recall_score
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score

import glmcore
from glmcore_sklearn import LogisticRegression, LogisticRegressionCV

X, Y = small(n=90)
X = X - X.mean(axis=0)
BINARY = Y > 0
WEIGHT = np.linspace(0.1, 3, len(Y))
GRID = {"Cs": [10.0, 1e-2, 1.0], "cv": 3, "max_iter": 1000, "tol": 1e-12, "l1_ratios": (0.0,)}
NEW = GRID | {"scoring": "neg_log_loss", "use_legacy_attributes": False}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 1e-12 is near the rounding


def both(X, y, weight=None, **kwargs):
    """Ours and scikit-learn's, fitted."""
    kwargs = NEW | kwargs
    ours = LogisticRegressionCV(**kwargs).fit(X, y, sample_weight=weight)
    return ours, Theirs(solver="newton-cholesky", **kwargs).fit(X, y, sample_weight=weight)


def levelled(coef, multinomial):
    """Intercepts (the last column) at the level of the classes that sums to zero, where there are several."""
    if not multinomial:
        return coef
    coef = coef.copy()
    coef[..., -1] -= coef[..., -1].mean(axis=-1, keepdims=True)
    return coef


def same(found, expected):
    multinomial = len(found.classes_) > 2
    for name in ("Cs_", "l1_ratios_", "scores_", "C_", "l1_ratio_", "coef_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-8, err_msg=name)
    for name in ("scores_", "coefs_paths_", "n_iter_", "coef_", "intercept_", "classes_", "Cs_", "l1_ratios_"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype), name
    paths = (levelled(m.coefs_paths_, multinomial) for m in (found, expected))
    np.testing.assert_allclose(*paths, atol=1e-7)
    level = expected.intercept_.mean() if multinomial else 0
    np.testing.assert_allclose(found.intercept_, expected.intercept_ - level, atol=1e-7)


def test_the_constructor_is_that_of_scikit_learn():
    assert inspect.signature(LogisticRegressionCV) == inspect.signature(Theirs)
    for name in ("fit", "predict", "predict_proba", "predict_log_proba", "decision_function", "score"):
        found, expected = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (LogisticRegressionCV, Theirs))
        assert found == expected, name


@pytest.mark.parametrize("y", [Y, slow(BINARY), slow(np.array(["c", "a", "b"])[Y])], ids=["three", "two", "strings"])
@pytest.mark.parametrize("refit", [True, slow(False)])
def test_the_same_grid_and_choice(y, refit):
    same(*both(X, y, refit=refit))


def test_uneven_and_repeated_strengths_side_by_side():
    """Each fit begins where the last two point to, by LBFGS in all folds at once, the default of more parameters."""
    given = NEW | {"Cs": [1.0, 1e-2, 1.0, 0.02, 30.0]}
    found = LogisticRegressionCV(solver="LBFGS", **given).fit(X, Y)
    same(found, Theirs(solver="newton-cholesky", **given).fit(X, Y))


def test_a_fit_that_is_not_at_its_minimum_in_time_has_the_steps_of_its_own_fit():
    """Of those side by side, which go other ways."""
    steps = {"solver": "LBFGS", "max_iter": 3}
    found = LogisticRegressionCV(**NEW | steps).fit(X, Y)
    assert np.all(found.n_iter_ == 3)
    for fold, (train, test) in enumerate(StratifiedKFold(3).split(X, Y)):
        for i, C in enumerate(found.Cs_):
            alone = LogisticRegression(C=C, tol=1e-12, **steps).fit(X[train], Y[train])
            np.testing.assert_allclose(found.coefs_paths_[fold, 0, i, :, :-1], alone.coef_, atol=1e-9)
            score = get_scorer("neg_log_loss")(alone, X[test], Y[test])
            np.testing.assert_allclose(found.scores_[fold, 0, i], score, rtol=1e-9)


@pytest.mark.parametrize("n_features", [4, 300])
def test_sparse_fits_have_the_solver_of_fits_alone(n_features):
    """That of a path is for features that are left out, as none are here."""
    search = LogisticRegressionCV(solver="saga")
    search.n_features_in_, search.classes_ = n_features, np.arange(3)
    alone = glmcore.default_solver(glmcore.ElasticNet(), n_params=3 * (n_features + 1))
    assert type(search._solver(0.5)) is type(alone)


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_brier_score", make_scorer(recall_score, average="macro")])
def test_scores_of_any_scorer(scoring):
    same(*both(X, Y, scoring=scoring))


def test_log_loss_on_the_device_is_that_of_the_scorer():
    def scorer(model, X, y):
        return get_scorer("neg_log_loss")(model, X, y)

    found = (LogisticRegressionCV(**NEW | {"scoring": scoring}).fit(X, Y) for scoring in ("neg_log_loss", scorer))
    np.testing.assert_allclose(*(model.scores_ for model in found), rtol=1e-12)


@pytest.mark.parametrize("scoring", ["neg_log_loss", None, "f1_macro"])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 1: 0.5}])
def test_weights_and_class_weights(scoring, class_weight):
    same(*both(X, Y, WEIGHT, scoring=scoring, class_weight=class_weight))


def test_weights_keep_their_digits():
    settings = {"tol": 1e-13, "max_iter": 2000}
    found = LogisticRegressionCV(**NEW | settings | {"Cs": [1.0]}).fit(X, Y, sample_weight=WEIGHT)
    alone = LogisticRegression(**settings).fit(X, Y, sample_weight=WEIGHT)
    np.testing.assert_allclose(found.coef_, alone.coef_, atol=1e-10)


@pytest.mark.slow
def test_no_intercept():
    same(*both(X, Y, fit_intercept=False))


@pytest.mark.parametrize("y", [Y, BINARY], ids=["three", "two"])
@pytest.mark.parametrize("l1_ratios", [None, (0.0,)], ids=["no axis", "axis"])
@pytest.mark.filterwarnings("ignore:.*l1_ratios=None:FutureWarning")
def test_legacy_attributes(y, l1_ratios):
    found, expected = both(X, y, use_legacy_attributes=True, l1_ratios=l1_ratios)
    assert list(found.scores_) == list(expected.scores_) == list(found.coefs_paths_) == list(expected.coefs_paths_)
    for label, scores in expected.scores_.items():
        np.testing.assert_allclose(found.scores_[label], scores, rtol=1e-7)
        assert found.coefs_paths_[label].shape == expected.coefs_paths_[label].shape
        np.testing.assert_allclose(found.coefs_paths_[label][..., :4], expected.coefs_paths_[label][..., :4], atol=1e-7)
    for name in ("C_", "l1_ratio_", "l1_ratios_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.n_iter_.shape == expected.n_iter_.shape


def test_groups_and_routing():
    groups = np.arange(len(Y)) % 6
    splits = list(GroupKFold(3).split(X, Y, groups))
    expected = LogisticRegressionCV(**NEW | {"cv": splits}).fit(X, Y)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = get_scorer("neg_log_loss").set_score_request(sample_weight=False)
        cv = GroupKFold(3).set_split_request(groups=True)
        model = LogisticRegressionCV(**NEW | {"cv": cv, "scoring": scorer}).set_fit_request(sample_weight=True)
        np.testing.assert_allclose(model.fit(X, Y, groups=groups).scores_, expected.scores_, rtol=1e-12)
        weighted = model.fit(X, Y, sample_weight=WEIGHT, groups=groups)
        theirs = Theirs(solver="newton-cholesky", **NEW | {"cv": cv, "scoring": scorer}).set_fit_request(sample_weight=True)
        same(weighted, theirs.fit(X, Y, sample_weight=WEIGHT, groups=groups))
    with pytest.raises(ValueError, match="groups"):
        LogisticRegressionCV(**NEW).fit(X, Y, groups=groups)


@pytest.mark.parametrize("y", [Y, BINARY.astype(int)], ids=["three", "two"])
def test_a_fold_may_lack_a_class(y):
    """Its rows are the held-out ones of one fold, which gives it the probability 0: the mean is over the others."""
    splits = [(np.flatnonzero(train), np.flatnonzero(~train)) for train in (y != 1, np.arange(90) > 20, np.arange(90) < 70)]
    with pytest.warns(UserWarning, match=r"1 of 3 folds train on no rows of some classes, fold 0 for one of \[1\]"):
        found = LogisticRegressionCV(**NEW | {"cv": splits, "refit": False, "Cs": [1.0]}).fit(X, y)
    fits = [LogisticRegression(tol=1e-12, max_iter=1000).fit(X[train], y[train]) for train, _ in splits[1:]]
    row = 1 if len(found.classes_) > 2 else 0
    np.testing.assert_allclose(found.coef_[row], np.mean([fit.coef_[row] for fit in fits], axis=0), atol=1e-7)
    np.testing.assert_allclose(found.intercept_[row], np.mean([fit.intercept_[row] for fit in fits]), atol=1e-7)


def test_folds_that_repeat_rows_and_masks():
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(Y), len(Y)) for _ in range(3)]
    splits = [(draw, np.setdiff1d(np.arange(len(Y)), draw)) for draw in draws]
    same(*both(X, Y, cv=splits))
    masks = [(~mask, mask) for mask in np.arange(len(Y)) % 3 == np.arange(3)[:, None]]
    same(*both(X, Y, cv=masks))


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, BINARY], ids=["three", "two"])
def test_ratios_equal_separate_fits(y):
    """saga stops where coefficients stand still; LogisticRegression is held against the oracle elsewhere."""
    given = NEW | {"Cs": [0.03, 1.0], "l1_ratios": (0, 0.5, 1), "solver": "saga", "tol": 1e-10}
    model = LogisticRegressionCV(**given).fit(X, y)
    assert model.scores_.shape == (3, 3, 2)
    splits = list(StratifiedKFold(3).split(X, y))
    for ratio, strength in ((1, 0), (1, 1), (2, 0), (2, 1), (0, 1)):
        single = LogisticRegression(
            C=given["Cs"][strength], l1_ratio=given["l1_ratios"][ratio], solver="saga", tol=1e-10, max_iter=100_000
        )
        for fold in (0, 2):
            single.fit(X[splits[fold][0]], y[splits[fold][0]])
            found = model.coefs_paths_[fold, ratio, strength]
            np.testing.assert_allclose(found[:, :-1], single.coef_, atol=1e-6)
            np.testing.assert_allclose(found[:, -1], single.intercept_, atol=1e-6)
            np.testing.assert_array_equal(found[:, :-1] == 0, single.coef_ == 0)


@pytest.mark.slow
def test_float32_stays_float32():
    before = jax.config.jax_enable_x64
    exact, single = (LogisticRegressionCV(**NEW | {"tol": 1e-4}).fit(X.astype(t), Y) for t in ("f8", "f4"))
    assert single.coef_.dtype == single.coefs_paths_.dtype == np.float32 and jax.config.jax_enable_x64 == before
    np.testing.assert_allclose(single.scores_, exact.scores_, rtol=1e-3)


def test_sure_and_wrong_answers_count_in_float32_as_they_do_in_float64():
    """Beyond the rounding of float32, where scikit-learn, which fits in float64, does not clip."""
    wrong, settings = np.where(np.arange(len(Y)) % 12 == 0, (Y + 1) % 3, Y), NEW | {"Cs": [0.1], "cv": [(np.arange(60), np.arange(60, 90))]}
    shifted = X + 20 * (np.arange(len(X)) >= 60)[:, None] * np.sign(X)
    exact, single = (LogisticRegressionCV(**settings).fit(shifted.astype(t), wrong) for t in ("f8", "f4"))
    assert np.all(exact.scores_ < -1)
    np.testing.assert_allclose(single.scores_, exact.scores_, rtol=1e-3)


def test_one_program_whatever_the_values(programs):
    LogisticRegressionCV(**NEW).fit(X, Y)
    with programs:
        LogisticRegressionCV(**NEW | {"Cs": [1.0, 3.0, 0.2], "tol": 1e-6, "max_iter": 77}).fit(X[:80] + 1, Y[:80])
    assert programs.compiled == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_one_warning_counts_the_fits_that_did_not_converge():
    with pytest.warns(ConvergenceWarning, match=r"in \d+ of 10 fits, first in fold 0 at C=.*raise max_iter") as told:
        LogisticRegressionCV(**NEW | {"max_iter": 1, "solver": "newton-cholesky"}).fit(X, Y)
    assert len(told) == 1


def test_the_words_about_what_scikit_learn_changes():
    with pytest.warns(FutureWarning) as told:
        LogisticRegressionCV(Cs=GRID["Cs"], cv=3).fit(X, Y)
    words = [str(w.message) for w in told]
    assert [any(name in w for w in words) for name in ("l1_ratios", "scoring", "use_legacy_attributes")] == [True] * 3
    with pytest.warns(UserWarning, match="l1_ratios=.* is ignored"), pytest.warns(FutureWarning, match="penalty was"):
        LogisticRegressionCV(**NEW | {"penalty": "l2"}).fit(X, Y)


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"Cs": [0.0, 1.0]}, "Cs must be"),
        ({"Cs": []}, "Cs must be"),
        ({"Cs": ["a"]}, r"Cs must be .*, found \['a'\]"),
        ({"cv": []}, "cv must give at least one fold"),
        ({"l1_ratios": (0, 2)}, "l1_ratios must be .* between 0 and 1"),
        ({"l1_ratios": (0.5,)}, "handles l1_ratio=0 only"),
        ({"class_weight": {7: 1.0}}, "class labels as keys"),
        ({"solver": "magic"}, "unknown solver"),
    ],
)
def test_errors_leave_the_estimator_as_it_was(bad, words):
    model = LogisticRegressionCV(**NEW | bad)
    before = vars(model).copy()
    with pytest.raises(ValueError, match=words):
        model.fit(X, Y)
    assert vars(model) == before


def test_score_is_that_of_the_scorer():
    found, expected = both(X, Y)
    assert found.score(X, Y) == pytest.approx(expected.score(X, Y), rel=1e-7)
    with pytest.warns(FutureWarning, match="sample_weight"):
        assert found.score(X, Y, WEIGHT) == found.score(X, Y, sample_weight=WEIGHT)
    assert found.score(X, Y, sample_weight=WEIGHT) == pytest.approx(expected.score(X, Y, sample_weight=WEIGHT), rel=1e-7)


def test_a_scorer_may_return_an_array_of_one_number():
    found, expected = both(X, Y, scoring=lambda model, X, y: np.array([model.C]))
    np.testing.assert_allclose(found.scores_, expected.scores_)
    with pytest.raises(ValueError, match="scoring must return a single number, got 'a'"):
        both(X, Y, scoring=lambda model, X, y: "a")


def test_no_penalty():
    found, expected = both(X, Y, Cs=[1.0, 0.1, np.inf])
    np.testing.assert_allclose(found.scores_, expected.scores_, rtol=1e-6)


def test_a_warning_tells_where_and_why_and_points_at_the_call():
    with pytest.warns(ConvergenceWarning) as record:
        LogisticRegressionCV(**NEW | {"max_iter": 1}).fit(X, Y)
    assert len(record) == 1 and record[0].filename == __file__
    message = str(record[0].message)
    assert message.startswith("Newton did not converge in 10 of 10 fits, first in fold 0 at C=10: stopped at the iteration")
    assert message.endswith("To change that, raise max_iter or tol.")


def test_a_warning_under_joblib_points_at_the_call():
    with pytest.warns(ConvergenceWarning) as record:
        cross_val_score(LogisticRegression(max_iter=1), X, Y, cv=2)
    assert {warning.filename for warning in record} == {__file__}


def test_the_warning_names_the_solver_of_the_ratio_that_failed():
    with pytest.warns(ConvergenceWarning, match="^ProximalNewton did not converge in"):
        LogisticRegressionCV(**NEW | {"max_iter": 1, "l1_ratios": (0.5,), "solver": "saga"}).fit(X, Y)


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "balanced_accuracy"])
def test_folds_without_weight_are_refused(scoring):
    held_out = next(StratifiedKFold(3).split(X, Y))[1]
    weight = np.ones(len(Y))
    weight[held_out] = 0
    model = LogisticRegressionCV(**NEW | {"scoring": scoring})
    if scoring is None:  # else the scorer is not given the weights
        with pytest.raises(ValueError, match="fold 0 holds out no rows with weight"):
            model.fit(X, Y, sample_weight=weight)
    for split, words in (((np.arange(90), []), "holds out"), (([], np.arange(90)), "trains on")):
        split = tuple(np.asarray(part, int) for part in split)
        with pytest.raises(ValueError, match=f"fold 0 {words} no rows with weight"):
            LogisticRegressionCV(**NEW | {"scoring": scoring, "cv": [split]}).fit(X, Y)


def test_masked_entries_are_refused():
    with pytest.raises(ValueError, match="X has .* masked entries"):
        LogisticRegressionCV(**NEW).fit(np.ma.masked_array(X, X > 1), Y)
