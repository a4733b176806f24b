"""Linear probes and the bootstrap: planted signals are found, noise and the identity of subjects are not."""

import builtins

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from xmae_fast.evaluation import probe
from xmae_fast.evaluation.probes.bootstrap import SubjectBootstrap, subject_weights
from xmae_fast.evaluation.probes.linear import _classification_scores, _regression_scores, demeaned


@pytest.fixture
def data():
    """300 segments of 30 subjects, 8 features of noise."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 8)), np.repeat(np.arange(30), 10), rng


def test_bootstrap_resamples_subjects():
    """All segments of a subject come and go together, and the interval is that of the subjects' means."""
    groups = np.repeat([5, 9, 2], [4, 1, 7])
    weights = subject_weights(groups, 500, seed=1)
    for group in (5, 9, 2):
        assert (np.ptp(weights[:, groups == group], axis=1) == 0).all()
    drawn = weights[:, [0, 4, 5]]
    np.testing.assert_array_equal(drawn.sum(1), 3)
    assert (drawn.max(1) >= 2).any()

    rng = np.random.default_rng(2)
    level = rng.normal(size=40)
    values = np.repeat(level, 50)  # 2,000 segments, but only 40 different values
    found = SubjectBootstrap(np.repeat(np.arange(40), 50), 2000, seed=3).mean(values)
    assert found.value == pytest.approx(values.mean())
    expected = 2 * 1.96 * level.std() / np.sqrt(40)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_bootstrap_pairs_what_it_compares():
    rng = np.random.default_rng(4)
    groups, baseline = np.repeat(np.arange(20), 5), rng.uniform(1, 9, 100)
    bootstrap = SubjectBootstrap(groups, 400)
    found = bootstrap.reduction(0.7 * baseline, baseline)
    np.testing.assert_allclose(found, 0.3)
    assert bootstrap.mean(baseline).high - bootstrap.mean(baseline).low > 0.5
    assert SubjectBootstrap(groups, 400).mean(baseline) == bootstrap.mean(baseline)
    assert np.isnan(SubjectBootstrap(np.zeros(100), 10).mean(baseline).low)
    with pytest.raises(ValueError, match=r"values: expected shape \[100\], got \[3\]"):
        bootstrap.mean(np.zeros(3))
    with pytest.raises(ValueError, match="resamples: expected at least 1, got 0"):
        SubjectBootstrap(groups, 0)


def test_probe_recovers_a_planted_signal(data):
    features, groups, rng = data
    labels = 70 + 5 * features[:, 2] - 3 * features[:, 5] + rng.normal(size=300)
    result = probe(features, labels, groups, resamples=300)
    share = 34 / 35
    assert result.metrics["R2"].value == pytest.approx(share, abs=0.02)
    assert result.metrics["R2"].low < result.metrics["R2"].value < result.metrics["R2"].high
    assert result.metrics["MAE"].value == pytest.approx(0.8, abs=0.15)
    assert (result.segments, result.subjects, result.folds) == (300, 30, 5)
    assert "R2 0.9" in str(result)
    assert result.to_dict()["metrics"]["R2"] == list(result.metrics["R2"])

    positive = (features[:, 0] + 0.3 * rng.normal(size=300)) > 0.8
    result = probe(features, positive, groups, "classification", resamples=300)
    assert result.metrics["AUROC"].low > 0.9
    assert result.metrics["AUPRC"].value > 2 * result.prevalence


def test_probe_finds_nothing_in_noise(data):
    features, groups, rng = data
    result = probe(features, rng.normal(size=300), groups, resamples=300, folds=3)
    assert -0.2 < result.metrics["R2"].value < 0.05
    result = probe(features, rng.random(300) < 0.3, groups, "classification", resamples=300, folds=3)
    assert 0.35 < result.metrics["AUROC"].value < 0.65


def test_features_that_identify_the_subject_tell_nothing_across_subjects(data):
    """Features name the subject. A random split would reach R2 = 1, because all labels of a subject are the same."""
    _, groups, rng = data
    features = np.eye(30)[groups] + 0.01 * rng.normal(size=(300, 30))
    of_subject = rng.normal(size=30)[groups]
    assert probe(features, of_subject, groups, resamples=50, folds=3).metrics["R2"].value < 0.1
    leaky = probe(features, of_subject, np.arange(300), resamples=50, folds=3)
    assert leaky.metrics["R2"].value > 0.95
    ill = (rng.permutation(30) < 15)[groups]
    assert probe(features, ill, groups, "classification", resamples=50, folds=3).metrics["AUROC"].value < 0.75


def test_within_is_blind_to_differences_between_subjects(data):
    features, groups, rng = data
    between, within = rng.normal(size=30)[groups], rng.normal(size=300)
    features[:, 0], features[:, 1] = between, within
    assert probe(features, 10 * between, groups, resamples=50, folds=3).metrics["R2"].value > 0.9
    labels = 10 * between + 0.1 * rng.normal(size=300)
    assert probe(features, labels, groups, within=True, resamples=50, folds=3).metrics["R2"].value < 0.1
    assert probe(features, 10 * between + within, groups, within=True, resamples=50, folds=3).metrics["R2"].value > 0.9
    np.testing.assert_allclose(demeaned(np.array([[1.0], [3], [10]]), np.array([7, 7, 8])), [[-1], [1], [0]])


def test_gain_is_paired(data):
    features, groups, rng = data
    labels = features[:, 0] + rng.normal(size=300)
    good, poor = (probe(x, labels, groups, resamples=300, folds=3) for x in (features, rng.normal(size=(300, 8))))
    gain = good.gain_over(poor, "R2")
    assert gain.value == pytest.approx(good.metrics["R2"].value - poor.metrics["R2"].value)
    assert gain.low > 0.2
    np.testing.assert_array_equal(good.gain_over(good, "R2"), 0)
    with pytest.raises(ValueError, match="metric: expected one of R2, MAE, got 'AUROC'"):
        good.gain_over(poor, "AUROC")
    with pytest.raises(ValueError, match="other: expected a probe of the same labels"):
        good.gain_over(probe(features, labels + 1, groups, resamples=300, folds=3), "R2")


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(5)
    labels, predictions = (rng.random(60) < 0.4).astype(float), rng.integers(0, 9, 60) / 10  # with ties
    weights = rng.integers(0, 3, (7, 60))
    found = _classification_scores(labels, predictions, weights)
    for row, weight in enumerate(weights):
        arguments = {"y_true": labels, "y_score": predictions, "sample_weight": weight}
        assert found["AUROC"][row] == pytest.approx(roc_auc_score(**arguments))
        assert found["AUPRC"][row] == pytest.approx(average_precision_score(**arguments))
    one_class = _classification_scores(labels, predictions, (labels * np.ones((1, 60))))
    assert np.isnan(one_class["AUROC"][0])
    assert np.isnan(one_class["AUPRC"][0])
    found = _regression_scores(labels, predictions, weights)
    for row, weight in enumerate(weights):
        assert found["R2"][row] == pytest.approx(r2_score(labels, predictions, sample_weight=weight))


def test_labels_that_are_missing_are_left_out(data):
    features, groups, _ = data
    labels = features[:, 0].copy()
    labels[:25] = np.nan
    result = probe(features, labels, groups, resamples=20)
    assert (result.segments, result.subjects) == (275, 28)
    assert result.metrics["R2"].value > 0.99


def test_two_subjects_are_enough(data):
    features, _, _ = data
    result = probe(features, features[:, 0], np.repeat([0, 1], 150), resamples=20)
    assert result.folds == 2
    assert result.metrics["R2"].value > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "x"}, "task: expected 'regression' or 'classification', got 'x'"),
        ({"features": np.zeros(3)}, r"features: expected shape \[S, D\], got \[3\]"),
        ({"features": np.full((300, 2), np.nan)}, "features: expected finite numbers"),
        ({"labels": np.zeros(3)}, r"labels: expected shape \[300\]"),
        ({"groups": np.zeros(3)}, r"groups: expected shape \[300\]"),
        ({"groups": np.zeros(300)}, "groups: expected at least 2 subjects with a label, got 1"),
        ({"task": "classification"}, "labels: expected 0 and 1"),
        ({"task": "classification", "labels": np.arange(300) < 10}, "labels: expected both classes"),
        ({"task": "classification", "labels": np.zeros(300), "within": True}, "within: expected False"),
        ({"folds": 1}, "folds: expected at least 2, got 1"),
        ({"resamples": 0}, "resamples: expected at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(data, change, message):
    features, groups, _ = data
    arguments = {"features": features, "labels": features[:, 0], "groups": groups, "resamples": 5} | change
    with pytest.raises(ValueError, match=message):
        probe(**arguments)


def test_without_scikit_learn_the_error_says_what_to_install(data, monkeypatch):
    features, groups, _ = data
    real = builtins.__import__

    def hiding(name, *arguments, **options):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr("xmae_fast._optional.import_module", hiding)
    with pytest.raises(ImportError, match=r'Linear probes need scikit-learn: pip install "xmae_fast\[eval\]"'):
        probe(features, features[:, 0], groups)
