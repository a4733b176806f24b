"""The Python blocks of README and of the pages run: each page from top to bottom, in a folder with simulated data.

On some pages the commands between them run too. `NOT_RUN` says of all other pages with blocks of commands why not, and
what tests those commands.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import xmae_fast
from xmae_fast import cli
from xmae_fast.data import SimulationCfg, simulate

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("xmae_fast/**/*.md"))
}
PYTHON = sorted(page for page, text in PAGES.items() if "\n```python\n" in text)
# Pages whose ```bash blocks run between the Python blocks, apart from lines that set up an environment: CI does that.
COMMANDS_RUN = {"docs/install.md", "docs/quickstart.md"}
SETS_UP = re.compile(r"^(?:pip install|python -m venv)\b")
PARSED = "its arguments are parsed by test_documented_commands.py, and the tests named there run the command"
NOT_RUN = {
    "README.md": "they install: .ci/run does so in a fresh environment, runs the tests, and each benchmark once",
    "CONTRIBUTING.md": "they set up a checkout and compile: .ci/run and test_tools.py",
    "docs/benchmarks.md": "they take minutes: tests/benchmarks and .ci/run run every benchmark once",
    "docs/checkpoints.md": "an error that is shown, not a command",
    "docs/command-line.md": "they write into a shell's folders: test_completion.py; `env`: test_conventions.py",
    "docs/embedding.md": PARSED,
    "docs/evaluation.md": PARSED,
    "docs/exporting.md": "it installs; the Python blocks export",
    "docs/inspecting.md": PARSED,
    "docs/model.md": "what `explain` prints, not a command",
    "docs/preparing.md": PARSED,
    "docs/pretraining.md": PARSED + "; torchrun and Slurm need several processes: tests/training/test_processes.py",
    "docs/repacking.md": PARSED,
    "docs/simulating.md": PARSED,
    "docs/transformers.md": "it installs; the Python blocks run",
    "xmae_fast/ops/conv_stem/cuda/README.md": "a diagram, and a build that needs nvcc: tests/ops/cuda/test_nvcc.py",
    "xmae_fast/ops/conv_stem/cuda/TRAINING.md": "diagrams, and a build that needs nvcc: tests/ops/cuda/test_nvcc.py",
}
# Optional packages that a page's blocks need.
NEEDS = {
    "README.md": ("scipy",),
    "docs/embedding.md": ("scipy", "sklearn", "matplotlib", "lightning", "yaml", "pandas"),
    "docs/evaluation.md": ("scipy", "sklearn", "matplotlib"),
    "docs/exporting.md": ("onnx", "onnxscript", "onnxruntime"),
    "docs/preparing.md": ("scipy",),
    "docs/pretraining.md": ("lightning", "yaml"),
    "docs/quickstart.md": ("scipy", "sklearn", "matplotlib", "rich", "lightning", "yaml"),
    "docs/simulating.md": ("scipy",),
    "docs/transformers.md": ("transformers",),
    "xmae_fast/data/README.md": ("lightning",),
    "xmae_fast/shipped/xmae-sim-base/README.md": ("scipy",),
    "xmae_fast/shipped/xmae-sim-small/README.md": ("scipy",),
}
TINY = {"d_model": 16, "nhead": 2, "depth_ecg": 1, "depth_ppg": 1, "depth_bridge": 1, "stem_ch": 4}
FEW_STEPS = {"model_params": TINY, "max_steps": 2, "tensorboard": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def published() -> xmae_fast.xMAE:
    """A model of the published shape with random weights."""
    torch.manual_seed(0)
    return xmae_fast.xMAE(xmae_fast.ModelCfg(d_model=256, proj_dim=256)).eval()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, published) -> Path:
    """Shards, and checkpoints of a model of the published shape and of tiny ones."""
    folder = tmp_path_factory.mktemp("documented")
    simulate(30, 4, seed=1, cfg=SimulationCfg(pvc_probability=0.05, pat_coupling=0.8)).write_shards(folder / "shards")
    torch.manual_seed(1)
    tiny = xmae_fast.xMAE(xmae_fast.ModelCfg(**TINY, proj_dim=8)).eval()
    for name, model in (("best.ckpt", published), ("weights.pt", published), ("model.ckpt", tiny)):
        xmae_fast.save_checkpoint(model, folder / name)
    return folder


@pytest.fixture
def place(prepared, published, tmp_path, monkeypatch) -> Iterator[SimpleNamespace]:
    """A copy of `prepared` as the working directory, and the names that the blocks of a page start with."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    sim = simulate(8, 1, seed=2)
    cfg = xmae_fast.ModelCfg(d_model=256, proj_dim=256)
    names = {
        "xmae_fast": xmae_fast, "ppg": torch.from_numpy(sim.ppg), "ecg": torch.from_numpy(sim.ecg), "cfg": cfg,
        "model": published,
    }  # fmt: skip
    loggers = [(one, one.level, list(one.handlers)) for one in map(logging.getLogger, ("", "xmae_fast"))]
    yield SimpleNamespace(folder=tmp_path, names=names, monkeypatch=monkeypatch)
    for logger, level, handlers in loggers:  # a page shows how to set them
        logger.setLevel(level)
        logger.handlers[:] = handlers


def for_quickstart(place: SimpleNamespace) -> None:
    with_a_run(place, "small")


def for_embedding(place: SimpleNamespace) -> None:
    """A run, embeddings of shards, a Hub that is a folder, and names of scikit-learn."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with_a_run(place, "first")
    xmae_fast.embed_files("shards/*.h5", "embeddings", "runs/first")
    hub = ModuleType("huggingface_hub")
    hub.HfApi = lambda token: SimpleNamespace(
        create_repo=lambda repo_id, **_: None,
        upload_folder=lambda repo_id, folder_path, **_: shutil.copytree(folder_path, place.folder / "hub" / repo_id),
    )
    hub.snapshot_download = lambda repo_id, **_: place.folder / "hub" / repo_id
    hub.errors = ModuleType("huggingface_hub.errors")
    hub.errors.RepositoryNotFoundError = hub.errors.LocalEntryNotFoundError = FileNotFoundError
    for module in (hub, hub.errors):
        place.monkeypatch.setitem(sys.modules, module.__name__, module)
    place.names |= {"make_pipeline": make_pipeline, "StandardScaler": StandardScaler, "Ridge": Ridge}
    place.names |= {"X": np.stack([place.names["ppg"], place.names["ppg"][::-1]]), "age": [60, 40]}
    place.names |= {f"{name}_windows": place.names[name][:2500].reshape(2, 1250) for name in ("ppg", "ecg")}


def for_evaluation(place: SimpleNamespace) -> None:
    """Held-out shards, an ECG-only checkpoint, segments of some subjects with ages; few penalties and resamples."""
    from xmae_fast.evaluation import evaluate, random_twin
    from xmae_fast.evaluation.probes import linear

    sim = simulate(12, 3, seed=2, cfg=SimulationCfg(pvc_probability=0.05, pat_coupling=0.8))
    sim.write_shards("held_out")
    torch.manual_seed(2)
    ecg_only = xmae_fast.xMAE(xmae_fast.ModelCfg(**TINY, source="ecg")).eval()
    xmae_fast.save_checkpoint(ecg_only, "ecg.ckpt")
    place.monkeypatch.setattr(linear, "_ALPHAS", linear._ALPHAS[[2, 5]])
    place.monkeypatch.setattr(linear, "_CS", linear._CS[[1, 3]])
    place.monkeypatch.setitem(evaluate.__kwdefaults__, "resamples", 40)
    place.names |= {
        "model": xmae_fast.load_checkpoint("model.ckpt"), "random_twin": random_twin, "ppg": torch.from_numpy(sim.ppg),
        "age": sim.heart_rate, "subject": sim.subject,
    }  # fmt: skip


def for_exporting(place: SimpleNamespace) -> None:
    """A few segments, and no OpenVINO: its check is tests of exporting's affair."""
    shutil.rmtree("shards")
    simulate(12, 2, seed=1).write_shards("shards")
    place.monkeypatch.setitem(sys.modules, "openvino", None)


def for_preparing(place: SimpleNamespace) -> None:
    """A folder of one recording, and no folder of shards yet."""
    sim = simulate(1, 1, seed=3, cfg=SimulationCfg(sampling_freq=125, seg_len=40.0))
    shutil.rmtree("shards")
    Path("PulseDB_MIMIC").mkdir()
    np.savez("PulseDB_MIMIC/p1.npz", ppg=sim.ppg[0], ecg=sim.ecg[0], fs=125)


def for_pretraining(place: SimpleNamespace) -> None:
    """The small configuration with a tiny model and two steps."""
    import yaml

    cfg = yaml.safe_load((ROOT / "xmae_fast" / "configs" / "xmae_small.yaml").read_text())
    cfg |= FEW_STEPS
    Path("xmae_small").write_text(yaml.safe_dump(cfg))  # what is on disk comes before the package's


def for_data(place: SimpleNamespace) -> None:
    import lightning

    place.names["L"] = lightning


def with_a_run(place: SimpleNamespace, name: str) -> None:
    """A run of two steps, and `ppg` and `ecg` recordings of 40 s at 125 Hz in place of segments."""
    from xmae_fast.training import pretrain

    pretrain({"data": "shards", "batch_size": 16} | FEW_STEPS, name, quiet=True)
    sim = simulate(1, 1, seed=3, cfg=SimulationCfg(sampling_freq=125, seg_len=40.0))
    place.names |= {"ppg": sim.ppg[0].astype(np.float64), "ecg": sim.ecg[0].astype(np.float64)}


def for_a_card(place: SimpleNamespace) -> None:
    """A recording of 40 s at 125 Hz."""
    place.names["ppg"] = simulate(1, 1, seed=3, cfg=SimulationCfg(sampling_freq=125, seg_len=40.0)).ppg[0]


PREPARE: dict[str, Callable[[SimpleNamespace], None]] = {
    "docs/embedding.md": for_embedding,
    "docs/evaluation.md": for_evaluation,
    "docs/exporting.md": for_exporting,
    "docs/preparing.md": for_preparing,
    "docs/pretraining.md": for_pretraining,
    "docs/quickstart.md": for_quickstart,
    "xmae_fast/data/README.md": for_data,
    "xmae_fast/shipped/xmae-sim-base/README.md": for_a_card,
    "xmae_fast/shipped/xmae-sim-small/README.md": for_a_card,
}


def run_commands(block: str) -> None:
    """Run the lines of a block of commands, each of which is `xmae-fast` or sets up an environment."""
    for line in block.splitlines():
        if not line or SETS_UP.match(line):
            continue
        program, *arguments = shlex.split(line, comments=True)
        assert program == "xmae-fast", f"a command that this test cannot run: {line}"
        if arguments == ["--version"]:
            with pytest.raises(SystemExit) as end:
                cli.main(arguments)
            assert not end.value.code
        else:
            assert cli.main(arguments) == 0, line


def run_page(page: str, names: dict) -> list[str]:
    """Run the blocks of a page in one namespace; an error shows the line of the page. Returns the Python blocks."""
    text = PAGES[page]
    ran = []
    for block in FENCED.finditer(text):
        if block["language"] == "python":
            lines_before = text[: block.start("text")].count("\n")
            exec(compile("\n" * lines_before + block["text"], str(ROOT / page), "exec"), names)
            ran.append(block["text"])
        elif block["language"] == "bash" and page in COMMANDS_RUN:
            run_commands(block["text"])
    return ran


def threads_of_blas(page: str) -> contextlib.AbstractContextManager:
    """One thread for scikit-learn's small matrices, for which a second one costs several times what it brings."""
    if "sklearn" not in NEEDS.get(page, ()):
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits  # scikit-learn needs it

    return threadpool_limits(1, user_api="blas")


@pytest.mark.parametrize("page", PYTHON)
def test_blocks_run(page, place, capsys):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    PREPARE.get(page, lambda _: None)(place)
    with threads_of_blas(page):
        assert run_page(page, place.names)


def test_blocks_are_found():
    assert "README.md" in PYTHON
    assert len(PYTHON) > 10
    for page, text in PAGES.items():
        run = sum(block["language"] == "python" for block in FENCED.finditer(text))
        assert text.count("```py") == run, f"{page}: a Python block that this test would not run"


def blocks_of_commands(page: str) -> list[str]:
    """Blocks in bash and blocks that name no language."""
    return [block["text"] for block in FENCED.finditer(PAGES[page]) if block["language"] in ("", "bash", "sh")]


def test_commands_run_or_it_is_said_why_not():
    assert {page for page in PAGES if blocks_of_commands(page)} == set(NOT_RUN) | COMMANDS_RUN
    assert not set(NOT_RUN) & COMMANDS_RUN
    # Blocks of these pages that name no language do not run: half an hour of training, and recordings of yours.
    plain = [block["text"] for page in COMMANDS_RUN for block in FENCED.finditer(PAGES[page]) if not block["language"]]
    assert ["pretrain" in block for block in plain] == [True, False]
    assert "RECORDINGS" in plain[1]


def test_commands_run(place):
    run_commands("pip install nothing\nxmae-fast --version  # x\nxmae-fast explain\n")
    with pytest.raises(AssertionError, match="cannot run: rm x"):
        run_commands("rm x\n")
    with pytest.raises(AssertionError, match="inspect absent"):
        run_commands("xmae-fast inspect absent.h5\n")
