"""`xmae-fast --print-completion`: scripts by which shells complete commands, options, files and folders."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_fast.cli import main, parser
from xmae_fast.cli.completion import FILES, FOLDERS, SHELLS, _arguments, completion_script

# What the value of an argument is called if it may be a path.
PATH = re.compile(r"FILE|FOLDER|DIR|^OUT|^IN$|^RUNS$|^EMBEDDINGS$|^MODEL$|^CHECKPOINT$|\.\w+$")


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The script for bash."""
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "xmae-fast.bash"
    path.write_text(completion_script(parser(), "bash"))
    return path


def completed(script: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last of these words."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    program = """
        source "$0"
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        name=$(complete -p xmae-fast | sed "s/.*-F \\([^ ]*\\).*/\\1/")
        $name xmae-fast "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD - 1]}"
        printf "%s\\n" "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", program, str(script), *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    return set(run.stdout.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_for_each_shell(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert not end.value.code
    printed = capsys.readouterr().out
    assert "xmae-fast" in printed
    assert all(name in printed for name in ("embed", "pretrain", "overwrite"))
    interpreter = shutil.which(shell)
    if interpreter and shell != "tcsh":  # which has no way to read a script without running it
        run = subprocess.run([interpreter, "-n"], input=printed, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, "")


def test_bash_completes_commands_and_options(script):
    assert completed(script, "xmae-fast", "em") == {"embed"}
    assert completed(script, "xmae-fast", "re") == {"repack", "reconstruct"}
    assert completed(script, "xmae-fast", "embed", "--ov") == {"--overwrite"}
    assert completed(script, "xmae-fast", "embed", "x.h5", "-o", "y", "--batch") == {"--batch-size"}
    assert completed(script, "xmae-fast", "export", "--to", "on") == {"onnx"}
    assert {"--quiet", "--verbose"} <= completed(script, "xmae-fast", "probe", "--")


def test_bash_completes_files_and_folders(script, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shard.h5").touch()
    assert completed(script, "xmae-fast", "inspect", "sh", cwd=tmp_path) >= {"shard.h5", "shards"}
    folders = completed(script, "xmae-fast", "prepare", "-o", "sh", cwd=tmp_path)
    assert {name.rstrip("/") for name in folders} == {"shards"}


def test_every_path_is_completed():
    values = {
        action.metavar for action in _arguments(parser()) if isinstance(action.metavar, str) and not action.choices
    }
    paths = {name for name in values if PATH.search(name) and "=" not in name}
    assert paths == FILES | FOLDERS
    assert not FILES & FOLDERS


def test_without_shtab_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bash"])
    assert end.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == 'xmae-fast: completion needs shtab: pip install "xmae_fast[completion]"\n'


def test_an_unknown_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "fish"])
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err
