"""Linear probes: how well ridge or logistic regression predicts labels from features, for subjects it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from xmae_fast._optional import need
from xmae_fast.evaluation.probes.bootstrap import Interval, interval, subject_draws

_need = partial(need, what_needs="Linear probes need", extra="eval")
TASKS = {"regression": ("R2", "MAE"), "classification": ("AUROC", "AUPRC")}
_ALPHAS = np.logspace(-1, 6, 8)
_CS = np.logspace(0, -4, 5)  # of penalties that do equally well, the weakest is taken
_INNER_FOLDS = 3
_TRIES = 100  # of drawing subjects that have both classes
_WEIGHTS = 1 << 24  # numbers of a table [resamples, S] that are in memory at a time


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """How good a probe is, from predictions for subjects that were not in its training folds.

    Attributes:
        task: "regression" or "classification".
        metrics: "R2" and "MAE" (in the unit of the labels), or "AUROC" and "AUPRC", with intervals over subjects.
        segments, subjects, folds: how many.
        prevalence: of a classification, the share of positives, which is the AUPRC of chance; else None.
        labels, predictions, groups: [S], of the segments that have a label. The predictions of a classification are
            probabilities.
        resampled: [resamples] for each metric, its value in each resample.
    """

    task: str
    metrics: dict[str, Interval]
    segments: int
    subjects: int
    folds: int
    prevalence: float | None
    labels: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray
    resampled: dict[str, np.ndarray] = field(repr=False)

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value}" for name, value in self.metrics.items())
        return f"{self.task}: {numbers} ({self.segments} segments, {self.subjects} subjects, {self.folds} folds)"

    def to_dict(self) -> dict:
        """The result as plain values, without the arrays."""
        plain = {"task": self.task, "segments": self.segments, "subjects": self.subjects, "folds": self.folds}
        metrics = {name: list(value) for name, value in self.metrics.items()}
        return plain | {"prevalence": self.prevalence, "metrics": metrics}

    def gain_over(self, other: ProbeResult, metric: str) -> Interval:
        """A metric of this probe minus that of another one, with a paired interval.

        Raises:
            ValueError: the probes have no such metric, or other labels or subjects than each other.
        """
        if metric not in self.metrics:
            raise ValueError(f"metric: expected one of {', '.join(self.metrics)}, got {metric!r}")
        same = self.task == other.task and np.array_equal(self.labels, other.labels)
        if not (same and np.array_equal(self.groups, other.groups)):
            raise ValueError("other: expected a probe of the same labels and subjects")
        difference = self.resampled[metric] - other.resampled[metric]
        return interval(self.metrics[metric].value - other.metrics[metric].value, difference, self.groups)


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    task: str = "regression",
    *,
    within: bool = False,
    folds: int = 5,
    resamples: int = 1000,
    seed: int = 77,
) -> ProbeResult:
    """Fit a linear probe and judge it by a cross-validation in which no subject is in two folds.

    The probe is a StandardScaler and then Ridge ("regression") or LogisticRegression ("classification"). Its penalty is
    chosen by an inner cross-validation of the same kind among the training subjects, by R2 or AUROC. Every segment is
    predicted by a probe that saw nothing of its subject. Metrics are of all those predictions together; R2 compares
    them with the mean of all labels, so that a useless probe has an R2 slightly below 0. Intervals resample subjects.

    Args:
        features: [S, D].
        labels: [S] numbers, or booleans (or 0 and 1) for a classification; segments whose label is NaN are left out.
        groups: [S], the subject of each segment.
        task: "regression" or "classification".
        within: subtract the mean of each subject from features and labels first, so that the probe tells about changes
            within a subject and not about differences between subjects. For a regression only.
        folds: how many at most; there are never more than subjects.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of the folds of a classification.

    Raises:
        ValueError: an argument is wrong (the message names it), there are fewer than two subjects, or a training fold
            has one class.
        ImportError: scikit-learn is missing.
    """
    sklearn, selection = _need("sklearn"), _need("sklearn.model_selection")
    features, labels, groups = _checked(features, labels, groups, task, within, folds, resamples)
    known = ~np.isnan(labels)
    features, labels, groups = features[known], labels[known], groups[known]
    subjects = len(np.unique(groups))
    if subjects < 2:
        raise ValueError(f"groups: expected at least 2 subjects with a label, got {subjects}")
    if within:
        features, labels = demeaned(features, groups), demeaned(labels[:, None], groups)[:, 0]
    folds = min(folds, subjects)
    if task == "regression":
        splitter = selection.GroupKFold(folds)
    else:
        splitter = selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predictions = np.empty(len(labels))
    for train, test in splitter.split(features, labels, groups):
        if task == "classification" and len(np.unique(labels[train])) < 2:
            raise ValueError("labels: expected both classes among the subjects of every training fold, got one")
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):  # half of the time
            model = _fitted(features[train], labels[train], groups[train], task, seed)
        predict = model.predict if task == "regression" else lambda x, m=model: m.predict_proba(x)[:, 1]
        predictions[test] = predict(features[test])
    score = _regression_scores if task == "regression" else _classification_scores
    values = score(labels, predictions, np.ones((1, len(labels))))
    drawn, number = subject_draws(groups, resamples, seed)
    step = max(1, _WEIGHTS // len(labels))
    parts = [score(labels, predictions, drawn[i : i + step, number]) for i in range(0, resamples, step)]
    resampled = {name: np.concatenate([part[name] for part in parts]) for name in values}
    metrics = {name: interval(values[name][0], resampled[name], groups) for name in TASKS[task]}
    prevalence = float(labels.mean()) if task == "classification" else None
    return ProbeResult(task, metrics, len(labels), subjects, folds, prevalence, labels, predictions, groups, resampled)


def few_subjects_auroc(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, share: float, *, folds: int = 5, draws: int = 5,
    seed: int = 77,
) -> float:  # fmt: skip
    """The AUROC of a classification whose probe gets the labels of a few subjects alone.

    Of each training fold of `probe`, as many subjects are drawn as are `share` of all, at least one, and such that both
    classes are there. The penalty is not chosen, because few subjects cannot choose one: it is the one in the middle.

    Args:
        features, labels, groups, folds, seed: as for `probe`.
        share: in (0, 1], of all subjects.
        draws: how often subjects are drawn.

    Returns:
        The mean over draws; NaN where no draw of some fold has both classes.

    Raises:
        ValueError, ImportError: as for `probe`.
    """
    sklearn, selection = _need("sklearn"), _need("sklearn.model_selection")
    features, labels, groups = _checked(features, labels, groups, "classification", False, folds, 1)
    if not 0 < share <= 1 or draws < 1:
        raise ValueError(f"share, draws: expected a share in (0, 1] and at least 1 draw, got {share} and {draws}")
    count = subjects_of(share, len(np.unique(groups)))
    splitter = selection.StratifiedGroupKFold(min(folds, len(np.unique(groups))), shuffle=True, random_state=seed)
    splits = list(splitter.split(features, labels, groups))
    found = []
    for draw in range(draws):
        rng, predictions = np.random.default_rng([seed, draw]), np.full(len(labels), np.nan)
        for train, test in splits:
            chosen = _both_classes(rng, labels[train], groups[train], count)
            if chosen is None:
                return float("nan")
            few = train[chosen]
            with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
                steps, grid = _steps("classification")
                ((name, penalties),) = grid.items()
                middle = {name: penalties[len(penalties) // 2]}
                model = steps.set_params(**middle).fit(features[few], labels[few])
            predictions[test] = model.predict_proba(features[test])[:, 1]
        found.append(_classification_scores(labels, predictions, np.ones((1, len(labels))))["AUROC"][0])
    return float(np.mean(found))


def subjects_of(share: float, subjects: int) -> int:
    """How many subjects a share of all of them is, at least one."""
    return max(1, round(share * subjects))


def _both_classes(rng: np.random.Generator, labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray | None:
    """[n] bool, the segments of `count` drawn subjects that have both classes together; None if no draw has them."""
    subjects = np.unique(groups)
    for _ in range(_TRIES):
        chosen = np.isin(groups, rng.choice(subjects, min(count, len(subjects)), replace=False))
        if len(np.unique(labels[chosen])) == 2:
            return chosen
    return None


def demeaned(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """values [S, K] less the mean of their group, in float64."""
    _, number = np.unique(groups, return_inverse=True)
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return values - (sums / np.bincount(number)[:, None])[number]


def _fitted(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, task: str, seed: int):
    """A fitted pipeline with the penalty that is best for training subjects that were held out.

    With one training subject, stretches of it are held out. Where all inner folds have one class, the penalty in the
    middle is taken.
    """
    selection = _need("sklearn.model_selection")
    steps, grid = _steps(task)
    subjects = len(np.unique(groups))
    groups = groups if subjects >= 2 else np.arange(len(labels)) * _INNER_FOLDS // len(labels)
    folds = min(_INNER_FOLDS, len(np.unique(groups)))
    splitter = selection.GroupKFold(folds)
    if task == "classification":
        splitter = selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = [
        (train, test)
        for train, test in splitter.split(features, labels, groups)
        if task == "regression" or min(len(np.unique(labels[train])), len(np.unique(labels[test]))) == 2
    ]
    if not splits:
        ((name, values),) = grid.items()
        return steps.set_params(**{name: values[len(values) // 2]}).fit(features, labels)
    scoring = "r2" if task == "regression" else "roc_auc"
    return selection.GridSearchCV(steps, grid, scoring=scoring, cv=splits).fit(features, labels)


def _steps(task: str):
    """The pipeline of a probe, and its penalties by the name of the parameter."""
    linear = _need("sklearn.linear_model")
    if task == "regression":
        estimator, grid = linear.Ridge(), {"estimator__alpha": _ALPHAS}
    else:
        estimator, grid = linear.LogisticRegression(solver="newton-cholesky"), {"estimator__C": _CS}
    scaler = _need("sklearn.preprocessing").StandardScaler()
    return _need("sklearn.pipeline").Pipeline([("scaler", scaler), ("estimator", estimator)]), grid


def _regression_scores(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """R2 and MAE for each row of weights [resamples, S]."""
    error = predictions - labels
    count = weights.sum(1)
    mean = weights @ labels / count
    spread = weights @ labels**2 / count - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - (weights @ error**2 / count) / spread, np.nan)
    return {"R2": r2, "MAE": weights @ np.abs(error) / count}


def _classification_scores(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC and AUPRC (average precision) for each row of weights [resamples, S]; NaN where the row has one class.

    They are those of scikit-learn's roc_auc_score and average_precision_score with sample_weight, for all rows at once.
    """
    order = np.argsort(-predictions, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(predictions[order])), len(order) - 1)  # of runs of equal predictions
    hits, alarms = (np.cumsum(weights[:, order] * side[order], 1)[:, ends] for side in (labels, 1 - labels))
    new_hits, new_alarms = (np.diff(x, prepend=0, axis=1) for x in (hits, alarms))
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (new_alarms * (hits - new_hits / 2)).sum(1) / (hits[:, -1] * alarms[:, -1])
        precision = np.where(hits > 0, hits / (hits + alarms), 0)
        auprc = np.where(alarms[:, -1] > 0, (new_hits * precision).sum(1) / hits[:, -1], np.nan)
    return {"AUROC": auroc, "AUPRC": auprc}


def _checked(features, labels, groups, task, within, folds, resamples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if task not in TASKS:
        raise ValueError(f"task: expected 'regression' or 'classification', got {task!r}")
    features, groups = np.asarray(features, np.float64), np.asarray(groups)
    labels = np.asarray(labels, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features: expected shape [S, D], got {list(features.shape)}")
    if not np.isfinite(features).all():
        raise ValueError("features: expected finite numbers, got NaN or infinity")
    for name, values in (("labels", labels), ("groups", groups)):
        if values.shape != features.shape[:1]:
            raise ValueError(f"{name}: expected shape [{len(features)}] as of the features, got {list(values.shape)}")
    if task == "classification" and not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise ValueError("labels: expected 0 and 1 for a classification, got others")
    if within and task != "regression":
        raise ValueError("within: expected False for a classification, got True")
    for name, value, least in (("folds", folds, 2), ("resamples", resamples, 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    return features, labels, groups
