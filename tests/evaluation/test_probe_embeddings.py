"""Probes of extracted embeddings: joining with a table, comparison, report."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.reports.reading import read
from xmae_fast.embedding import StoredEmbeddings
from xmae_fast.evaluation import probe_embeddings

S = 240


@pytest.fixture
def stored():
    """240 segments of 40 subjects, 6 features; the first one tells about age, the second about illness."""
    rng = np.random.default_rng(0)
    subject = np.repeat([f"d_{i}" for i in range(40)], 6)
    features = rng.normal(size=(S, 6)).astype(np.float32)
    features[:, :2] += np.repeat(rng.normal(size=(40, 2)), 6, axis=0).astype(np.float32) * 3
    features[5] = np.nan
    key = np.array([f"{name}/{i}" for i, name in enumerate(subject)])
    quality = np.where(np.arange(S) % 8 == 0, 0.5, 0.95)
    about = {"output": "pooled", "model": "sha256:12"}
    return StoredEmbeddings(features, key, subject, {"ppg_quality": quality}, about)


@pytest.fixture
def table(stored, tmp_path):
    """A row per subject, of which the last has no age."""
    names = [f"d_{i}" for i in range(40)]
    mean = [np.nanmean(stored.embeddings[stored.subject == name], axis=0) for name in names]
    path = tmp_path / "labels.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "age", "ill", "group"])
        for i, (name, m) in enumerate(zip(names, mean, strict=True)):
            writer.writerow([name, "" if i == 39 else 50 + 5 * m[0], "yes" if m[1] > 0 else "no", i % 3])
    return path


def test_regression_with_report(stored, table, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("markdown_it")
    noise = StoredEmbeddings(stored.embeddings[::-1, 2:], stored.key[::-1], stored.subject[::-1], {}, {})
    told = probe_embeddings(
        stored, table, "age", tmp_path / "report", compare={"noise": noise}, quality=0.9, resamples=50, folds=3
    )
    about, probes = told["about"], told["probes"]
    assert about["left_out"] == {"no label": 6, "low quality": 30, "no embedding": 1}
    assert (probes["embeddings"]["segments"], probes["embeddings"]["subjects"]) == (203, 39)
    assert probes["embeddings"]["metrics"]["R2"][0] > 0.7
    assert probes["noise"]["metrics"]["R2"][0] < 0.2
    assert probes["noise"]["gain"][1] > 0.3
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == told
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "# Linear probe of age" in markdown
    assert f"{probes['embeddings']['metrics']['R2'][0]:.3f}" in markdown
    assert "data:image/png;base64" in (tmp_path / "report" / "report.html").read_text()
    page = read(tmp_path / "report" / "report.html")
    rows = page.table_below("Left out, and why").rows
    assert [[cell.text for cell in row.cells][:2] for row in rows] == [
        ["no label", "6"], ["low quality", "30"], ["no embedding", "1"],
    ]  # fmt: skip
    assert page.table_below("Result, on subjects that the probe has not seen").rows[0].cells[1].sort > 0.7
    names = ["probe.png", "report.html", "report.md", "results.json"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == names


def test_classification_per_subject_and_key(stored, table, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("markdown_it")
    few = {"resamples": 20, "folds": 2}
    told = probe_embeddings(stored, table, "ill", tmp_path / "report", **few)
    assert (told["about"]["task"], told["about"]["positive"]) == ("classification", "yes")
    assert told["probes"]["embeddings"]["metrics"]["AUROC"][0] > 0.85
    per_subject = probe_embeddings(stored, table, "ill", per="subject", **few)
    assert per_subject["probes"]["embeddings"]["segments"] == 40
    one_against_rest = probe_embeddings(stored, table, "group", positive="2", **few)
    assert one_against_rest["probes"]["embeddings"]["prevalence"] == pytest.approx(13 / 40, abs=0.01)
    by_key = tmp_path / "keys.csv"
    lines = [f"{key},{int(x[0] > 0)}" for key, x in zip(stored.key, stored.embeddings, strict=True)]
    by_key.write_text("\n".join(["key,high", *lines[:200]]))
    told = probe_embeddings(stored, by_key, "high", max_segments=100, **few)
    assert told["about"]["joined_on"] == "key"
    assert told["about"]["left_out"] == {"no label": 40, "no embedding": 1, "beyond max_segments": 99}
    assert told["probes"]["embeddings"]["metrics"]["AUROC"][0] > 0.9


def test_names_and_labels_of_others_are_texts(stored, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("markdown_it")
    evil = "<script>alert(1)</script> ![x](/etc/passwd) `*"
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        rows = ((key, int(x[0] > 0)) for key, x in zip(stored.key, stored.embeddings, strict=True))
        csv.writer(file).writerows([("key", evil), *rows])
    few = {"resamples": 20, "folds": 2, "compare": {evil: stored}}
    probe_embeddings(stored, tmp_path / "labels.csv", evil, tmp_path / "report", **few)
    page = read(tmp_path / "report" / "report.html")
    assert page.tags.count("script") == 1
    assert len(page.images) == 1
    assert page.headings[0] == f"Linear probe of {evil}"
    assert [row.cells[0].text for row in page.tables[0].rows] == ["embeddings", evil]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "x"}, "label: expected a column of .*labels.csv, one of subject, age, ill, group; got 'x'"),
        ({"label": "age", "on": "key"}, "labels: expected a column 'key' in .*labels.csv"),
        ({"label": "ill", "positive": "maybe"}, "positive: expected a value of 'ill', got 'maybe'"),
        ({"label": "subject"}, "label: expected numbers or two different values .* in 'subject', got 40: 'd_0'"),
        ({"label": "age", "per": "x"}, "per: expected 'segment' or 'subject', got 'x'"),
    ],
)
def test_errors_name_the_argument(stored, table, options, message):
    with pytest.raises(ValueError, match=message):
        probe_embeddings(stored, table, **options)


def test_tables_that_do_not_fit(stored, table, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("subject,age\nd_0,1\nd_0,2\n")
    with pytest.raises(ValueError, match="labels: expected one label for subject 'd_0', got '1' and '2'"):
        probe_embeddings(stored, bad, "age")
    bad.write_text("subject,age\nother,1\n")
    with pytest.raises(ValueError, match="labels: expected labels for subjects of the embeddings, such as 'd_0'"):
        probe_embeddings(stored, bad, "age")
    with pytest.raises(FileNotFoundError, match="labels: expected a CSV file"):
        probe_embeddings(stored, tmp_path / "none.csv", "age")
    twice = StoredEmbeddings(stored.embeddings, np.full(S, "a"), stored.subject, {}, {})
    with pytest.raises(ValueError, match="embeddings: expected distinct keys, got 'a' twice"):
        probe_embeddings(twice, table, "age")
    tokens = StoredEmbeddings(stored.embeddings[:, None], stored.key, stored.subject, {}, {})
    with pytest.raises(ValueError, match="embeddings: expected pooled or projected embeddings"):
        probe_embeddings(tokens, table, "age")
    changing = tmp_path / "keys.csv"
    changing.write_text("key,x\n" + "\n".join(f"{key},{i}" for i, key in enumerate(stored.key)))
    with pytest.raises(ValueError, match="per: expected 'segment', because a subject's segments have different labels"):
        probe_embeddings(stored, changing, "x", per="subject")
