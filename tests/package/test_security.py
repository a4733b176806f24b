"""What SECURITY.md states: nothing that stands in a file is run, whoever wrote the file.

The sources are read for every call that could, and files that try are given to the readers. Checkpoints have
tests/model/test_checkpoint_foreign.py, which shows first that plain loading would have run their code.
"""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import xmae_fast
from xmae_fast._yaml import read_yaml
from xmae_fast.model.storage import hub
from xmae_fast.recordings import RecordingError
from xmae_fast.recordings.sources import read_recording

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "xmae_fast"
# Calls that run what they are given, or read objects that may; by the last names of the function.
NEVER = {
    "eval", "exec", "compile", "__import__", "input",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "cloudpickle.load", "joblib.load",
    "marshal.load", "marshal.loads", "shelve.open", "pd.read_pickle", "pandas.read_pickle", "read_pickle",
    "torch.jit.load", "jit.load", "torch.hub.load", "hub.load", "torch.package.PackageImporter", "PackageImporter",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen", "os.execv", "os.execvp",
    "runpy.run_path", "runpy.run_module", "exec_module", "shutil.unpack_archive", "extractall",
}  # fmt: skip
# Calls that may do so, and where they stand; why each is harmless is in the comment.
ALLOWED = {
    "torch.load": {  # with weights_only=True, see below
        "model/storage/files.py", "model/storage/stand_ins.py", "training/checkpoints.py",
    },
    "yaml.load": {"_yaml.py"},  # with a subclass of SafeLoader, see below
    "torch.export.load": {"export/programs.py"},  # the file that the call before has written, to check it
    "torch.ops.load_library": {"backend/extensions.py"},  # the compiled parts of the package
    "ctypes.CDLL": {"model/packed.py", "backend/extensions.py"},  # the same; torch's own library for CUDA
    "subprocess.run": {"_environment.py", "testing/resources.py"},  # git on the package's folder; Triton's disassembler
    "subprocess.Popen": {"workers/process.py"},  # Python on a file of the package
    "import_module": {  # modules of the package, and optional packages by fixed names
        "__init__.py", "_optional.py", "ops/_triton.py", "ops/cases.py", "workers/main.py", "export/programs.py",
    },
}  # fmt: skip


def calls(source: str) -> list[tuple[str, ast.Call]]:
    """Every call in a source, with the name of the function as it is written."""
    return [(ast.unparse(node.func), node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def constant(call: ast.Call, name: str) -> object:
    """The value of a keyword that is a constant; None if it is not given."""
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def faults(name: str, source: str) -> list[str]:
    """What a source calls that no file of the package may, or not in that way."""
    found = []
    for function, call in calls(source):
        where = f"{name}:{call.lineno}: {function}"
        if any(function == one or ("." in one and function.endswith(f".{one}")) for one in NEVER):
            found.append(where)
        last = function.rpartition(".")[2]
        known = next((one for one in (function, last) if one in ALLOWED), None)
        if known is not None and name not in ALLOWED[known]:
            found.append(where)
        if function == "torch.load" and constant(call, "weights_only") is not True:
            found.append(f"{where} without weights_only=True")
        if function in ("np.load", "numpy.load") and constant(call, "allow_pickle") is not False:
            found.append(f"{where} without allow_pickle=False")
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if function == "yaml.load" and words.get("Loader") != "_loader()":
            found.append(f"{where} with another loader")
        if {"trust_remote_code", "shell"} & set(words):
            found.append(f"{where} with trust_remote_code or shell")
        if words.get("allow_pickle", "False") != "False" or words.get("weights_only", "True") != "True":
            found.append(f"{where} with objects of any class")
    return found


def test_no_source_runs_what_it_reads(sources):
    assert len(sources) > 250
    assert [fault for name, source in sources.items() for fault in faults(name, source)] == []


def test_what_is_allowed_is_still_there(sources):
    """An entry of the list that nothing needs any more would allow more than is needed."""
    for function, files in ALLOWED.items():
        for file in files:
            assert any(name == function or name.endswith(f".{function}") for name, _ in calls(sources[file])), file


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "pickle.load(file)", "import joblib; joblib.load(path)", "os.system(text)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)", "yaml.full_load(text)", "torch.jit.load(path)",
        "subprocess.run(['git'])", "subprocess.run('git', shell=True)", "importlib.import_module(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)", "torch.hub.load('a', 'b')",
    ],
)  # fmt: skip
def test_each_dangerous_call_is_found(line):
    assert faults("data/new.py", line)
    assert not faults("data/new.py", "model.eval(); re.compile('x'); json.load(file); self.position.load(state)")


def test_the_loader_of_yaml_makes_plain_values_alone(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    for tag in ("!!python/object/apply:os.mkdir [proof]", "!!python/name:os.mkdir", "!!python/module:os"):
        text = f"lr: {tag}\n"
        Path("x.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"x\.yaml"):
            read_yaml("x.yaml")
        assert not os.path.exists("proof")
    yaml.unsafe_load("lr: !!python/object/apply:os.mkdir [proof]\n")
    assert os.path.isdir("proof")  # another loader runs it


class Runs:
    """An object whose pickle makes a folder when it is read."""

    def __reduce__(self):
        return os.mkdir, ("proof",)


def test_arrays_of_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = np.array([Runs()] * 2000, object)
    np.save("x.npy", evil, allow_pickle=True)
    np.savez("x.npz", ppg=evil, fs=100)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(RecordingError, match=rf"^{name}: "):
            read_recording(name)
    with pytest.raises(ValueError, match=r"x\.npy|no recording"):
        xmae_fast.embed_files(["x.npy"], "out", "xmae-sim-small")
    with pytest.raises(ValueError, match="plain arrays"):
        xmae_fast.evaluation.read_labelled("x.npz")
    assert not os.path.exists("proof")
    with open("x.npy", "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        pickle.load(file)
    assert os.path.isdir("proof")  # plain loading runs it


def test_the_hub_is_asked_for_four_files_and_for_no_code(monkeypatch, tmp_path):
    asked = {}

    class Library:
        @staticmethod
        def snapshot_download(name, **options):
            asked.update(options, name=name)
            return tmp_path

    monkeypatch.setattr(hub, "import_hub", lambda *_: Library)
    with pytest.raises(FileNotFoundError):
        xmae_fast.from_pretrained("owner/name")
    assert asked["name"] == "owner/name"
    assert asked["allow_patterns"] == ["model.safetensors", "config.json", "preprocessing.json", "README.md"]


def test_the_page_names_what_holds_it():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for file in ("tests/package/test_security.py", "tests/model/test_checkpoint_foreign.py"):
        assert file in page
        assert (ROOT / file).is_file()
    major, minor, _ = xmae_fast.__version__.split(".")
    assert f"| {major}.{minor} |" in page
