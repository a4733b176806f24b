"""From a checkpoint to a report: files, numbers, the command line."""

import copy
import json
import re
import sys

import pytest

import xmae_fast
from tests.evaluation.conftest import tiny
from tests.reports.reading import read
from xmae_fast.cli import main
from xmae_fast.evaluation import evaluate, evaluating, pictures, write_report
from xmae_fast.evaluation.pictures import PICTURES
from xmae_fast.evaluation.probes import linear as linear_probe
from xmae_fast.evaluation.report import above, below

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")
NUMBER = re.compile(r"(-?\d+\.\d{3,4}) \[(-?\d+\.\d{3,4}), (-?\d+\.\d{3,4})\]")


@pytest.fixture(scope="module", autouse=True)
def _few_penalties():
    """Probes choose among two penalties: the whole grids, which test_probe.py tests, would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "_ALPHAS", linear_probe._ALPHAS[[2, 5]])
        patch.setattr(linear_probe, "_CS", linear_probe._CS[[1, 3]])
        yield


@pytest.fixture(scope="module")
def evaluated(shards5, tmp_path_factory):
    """(results, folder) of a tiny random model, with an ECG-only model beside it."""
    folder = tmp_path_factory.mktemp("report") / "new" / "out"
    others = {"ecg-only": tiny(2, source="ecg")}
    results = evaluate(
        tiny(1), shards5, folder, split="all", quality=0, baseline_checkpoints=others, resamples=60, ratio=0.7
    )
    return results, folder


def test_files(evaluated):
    results, folder = evaluated
    assert {path.name for path in folder.iterdir()} == {*PICTURES, "report.md", "report.html", "results.json"}
    assert json.loads((folder / "results.json").read_text()) == results
    for name in PICTURES:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 400_000
    markdown = (folder / "report.md").read_text()
    assert sorted(re.findall(r"!\[.*?\]\((.*?)\)", markdown)) == sorted(PICTURES)


def test_numbers_of_the_report_are_those_of_the_results(evaluated):
    """Every interval in report.md is one of results.json, and every interval of it that a table shows is there."""
    results, folder = evaluated
    listed: set[tuple[str, ...]] = set()

    def collect(value):
        if isinstance(value, list) and len(value) == 3 and all(isinstance(x, float) for x in value):
            listed.update(tuple(f"{x:.{digits}f}" for x in value) for digits in (3, 4))
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(results)
    shown = set(NUMBER.findall((folder / "report.md").read_text()))
    assert len(shown) > 100
    assert shown <= listed
    for row in (*results["by_ratio"], *results["by_mode"]):
        for value in row["mse"].values():
            assert tuple(f"{x:.4f}" for x in value) in shown
    for probe in results["probes"]:
        for value in probe["metrics"].values():
            assert tuple(f"{x:.3f}" for x in value) in shown


def test_report_follows_results_json_alone(evaluated, tmp_path):
    results, _ = evaluated
    changed = copy.deepcopy(results)
    changed["by_ratio"][0]["mse"]["model"] = [0.1234, 0.1111, 0.2222]
    changed["about"]["checkpoint"] = "a|b<c>.ckpt"
    changed["about"]["data"]["subjects"] = 2
    (tmp_path / "results.json").write_text(json.dumps(changed))
    write_report(tmp_path)
    assert "0.1234 [0.1111, 0.2222]" in (tmp_path / "report.md").read_text()
    assert "**With 2 subjects this is a smoke test, no evidence.**" in (tmp_path / "report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    assert "0.1234 [0.1111, 0.2222]" in html
    assert "<c>" not in html
    assert "![" not in (tmp_path / "report.md").read_text()  # no pictures in this folder


@pytest.mark.parametrize(("module", "package"), [("markdown_it", "markdown-it-py"), ("matplotlib", "matplotlib")])
def test_a_missing_package_is_named_before_the_work(shards5, tmp_path, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'Reports need {package}: pip install "xmae_fast\[eval\]"'):
        evaluate(tiny(), shards5, tmp_path / "out", split="all")
    assert not (tmp_path / "out").exists()


def test_html_is_well_formed_and_holds_the_pictures(evaluated):
    _, folder = evaluated
    images = read(folder / "report.html").images
    assert len(images) == len(PICTURES)
    assert all(image.source.startswith("data:image/png;base64,") for image in images)


def test_what_is_in_the_results(evaluated):
    results, _ = evaluated
    assert [row["ratio"] for row in results["by_ratio"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [row["mode"] for row in results["by_mode"]] == ["anchor", "scatter", "block", "mixed"]
    assert {(p["target"], p["features"]) for p in results["probes"]} == {
        (target, features)
        for target in ("heart_rate", "pat_across", "pat_within", "pvc")
        for features in ("pretrained", "projected", "random", "hand_made")
    }
    assert {p["labels"] for p in results["probes"]} == {"truth"}
    assert all(p["gain_over_random"] is None for p in results["probes"] if p["features"] == "random")
    assert results["about"]["data"]["subjects"] == 12
    assert "**Intervals over 12 subjects are rough.**" in (evaluated[1] / "report.md").read_text()


def test_command_line(sim5, tmp_path, capsys, monkeypatch):
    """The shard has no truth file, so that labels come from the signals. Fewer ratios and no pictures save seconds."""
    monkeypatch.setattr(evaluating, "RATIOS", (0.6,))
    monkeypatch.setattr(pictures, "draw_all", lambda *_: None)
    (shard,) = sim5.write_shards(tmp_path)
    shard.with_suffix(".truth.npz").unlink()
    names = [str(tmp_path / name) for name in ("model.ckpt", "ecg.safetensors")]
    xmae_fast.save_checkpoint(tiny(1), names[0])
    xmae_fast.save_checkpoint(tiny(2, source="ecg"), names[1])
    data, out = ["--data", str(shard), "--quality", "0"], ["-o", str(tmp_path / "out")]
    few = ["--resamples", "20", "--max-segments", "40", "--split", "all"]
    assert main(["evaluate", names[0], *data, *out, *few, "--baseline-checkpoint", f"ecg={names[1]}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("- Reconstruction (anchor, 80% hidden): masked MSE ")
    assert printed.rstrip().endswith("results.json")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["about"]["checkpoint"] == "model.ckpt"
    assert results["about"]["data"]["segments"] == 40
    assert "ecg" in results["predictors"]
    by_target = {p["target"]: p for p in results["probes"]}
    assert by_target["heart_rate"]["labels"] == by_target["pat_across"]["labels"] == "signals"
    assert "no labels" in by_target["pvc"]["skipped"]
    assert "Not probed: premature beats in the segment (no labels" in (tmp_path / "out" / "report.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()

    for arguments, message in (
        (
            [str(tmp_path / "none.ckpt"), *data, *out],
            "CHECKPOINT: expected a folder, a checkpoint file, ",
        ),
        ([names[1], *data, *out, *few], "model: expected one with a bridge"),
        ([names[0], *data, *out, *few, "--truth", str(tmp_path / "none.npz")], "none.npz"),
        ([names[0], *data, *out], "split: expected at least 2 subjects, got 1 of 1 in 'test'"),
        ([names[0], *data, *out, "--baseline-checkpoint", "x"], "--baseline-checkpoint: expected NAME=FILE"),
        ([names[0], *data, *out, "--mode", "x"], "mode: expected one of"),
        ([names[0], *data, *out, *few, "--ratio", "2"], "ratio: expected one in (0, 1]"),
        ([names[0], *data, "-o", names[0]], "output: expected a folder"),
        ([names[0], "--data", str(tmp_path / "none.h5"), *out], "none.h5"),
    ):
        assert main(["evaluate", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("xmae-fast: ")
        assert message in error
        assert error.count("\n") == 1


def test_model_and_data_that_do_not_fit(shards5):
    with pytest.raises(ValueError, match="data: expected segments of 1000 samples, got 500"):
        evaluate(tiny(seq_len=1000), shards5, split="all")
    with pytest.raises(ValueError, match="data: expected 50 Hz as the model, got 100 Hz"):
        evaluate(tiny(sampling_freq=50), shards5, split="all")


def test_words_for_shares():
    assert below([0.31, 0.25, 0.37]) == "31.0% [25.0%, 37.0%] below"
    assert below([-0.31, -0.37, 0.02]) == "31.0% [-2.0%, 37.0%] above"
    assert above([0.5, 0.4, 0.6]) == "50.0% [40.0%, 60.0%] above"
    assert above([0.0, -0.00001, 0.0]) == "0.0% [0.0%, 0.0%] below"


def test_the_page_says_what_was_run_and_left_out(evaluated):
    results, folder = evaluated
    page = read(folder / "report.html")
    run = results["about"]["run"]
    assert run["command"] == "evaluate(...) in Python"
    for value in (run["date"], run["machine"], run["command"]):
        assert value in page.text
    table = page.table_below("Masked reconstruction")
    first = [row.cells[1].sort for row in table.rows]
    assert first == pytest.approx([float(row.cells[1].text.split(" ")[0]) for row in table.rows])
    assert [row.tone for row in table.rows if row.cells[0].text == "model"] == ["strong"]
    assert all(image.alt for image in page.images)


def test_what_was_left_out_is_counted(evaluated, tmp_path):
    results = copy.deepcopy(evaluated[0])
    results["about"]["data"]["left_out"] = {"low ppg quality": 30, "beyond max_segments": 6}
    results["about"]["data"]["segments"] = 64
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    rows = read(tmp_path / "report.html").table_below("Left out, and why").rows
    assert [[cell.text for cell in row.cells] for row in rows] == [
        ["low ppg quality", "30", "30.0%"], ["beyond max_segments", "6", "6.0%"],
    ]  # fmt: skip
    del results["about"]["data"]["left_out"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    assert "the results do not tell how many others" in read(tmp_path / "report.html").text
