"""What the commands say beside their results, and what -q and -v change: `logging`, under the name `xmae_fast`."""

from __future__ import annotations

import argparse
import ast
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from xmae_fast._messages import Lines, said_on_stderr
from xmae_fast.cli import explain, main, parser
from xmae_fast.cli.messages import level_of

ROOT = Path(__file__).parents[2]
COMMANDS = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
LOG = logging.getLogger("xmae_fast.data")


def required(name: str) -> list[str]:
    """The least words that a command takes."""
    words = []
    for action in COMMANDS[name]._actions:
        if action.required:
            words += [*action.option_strings[-1:], action.choices[0] if action.choices else "x"]
    return words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_both_options_before_it_and_after_it(name):
    words = [name, *required(name)]
    for given, level in (("-q", logging.WARNING), ("--quiet", 30), ("-v", logging.DEBUG), ("--verbose", 10)):
        assert level_of(parser().parse_args([given, *words])) == level
        assert level_of(parser().parse_args([*words, given])) == level
        assert level_of(parser().parse_args([given, *words, given])) == level
    assert level_of(parser().parse_args(words)) == logging.INFO


@pytest.mark.parametrize(
    "words", [["-q", "-v", "explain"], ["explain", "-v", "--quiet"], ["-q", "explain", "-v"], ["-v", "explain", "-q"]]
)
def test_both_at_once_are_an_error(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert re.search(r"argument -\w/--\w+: not allowed with argument -\w/--\w+$", capsys.readouterr().err.rstrip())


def say_all(_) -> None:
    """A command that says something of every kind."""
    LOG.debug("opened %s", "a.h5")
    LOG.info("three shards")
    LOG.warning("locked")
    warnings.warn("an old name", stacklevel=1)
    print("result")


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ("-q", ["xmae-fast: warning: locked", "xmae-fast: warning: an old name"]),
        (None, ["xmae-fast: three shards", "xmae-fast: warning: locked", "xmae-fast: warning: an old name"]),
        (
            "-v",
            [
                r"xmae-fast: \d+\.\d\d s, data: opened a\.h5", "xmae-fast: three shards", "xmae-fast: warning: locked",
                "xmae-fast: warning: an old name", r"xmae-fast: \d+\.\d\d s, cli: xmae-fast explain took \d+\.\d\d s",
            ],
        ),
    ],
)  # fmt: skip
def test_what_each_option_says(option, lines, monkeypatch, capsys):
    monkeypatch.setattr(explain, "_explain", say_all)
    assert main(["explain", *([option] if option else [])]) == 0
    told = capsys.readouterr()
    assert told.out == "result\n"
    said = told.err.splitlines()
    assert len(said) == len(lines)
    assert all(re.fullmatch(line, one) for line, one in zip(lines, said, strict=True)), said


def test_notes_of_several_processes_name_theirs(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(explain, "_explain", say_all)
    assert main(["explain", "-v"]) == 0
    assert capsys.readouterr().err.startswith("xmae-fast: rank 3, ")


def test_errors_are_said_however_quiet(monkeypatch, capsys):
    def fail(_):
        raise ValueError("fs: expected a rate")

    monkeypatch.setattr(explain, "_explain", fail)
    assert main(["-q", "explain"]) == 2
    assert capsys.readouterr().err == "xmae-fast: fs: expected a rate\n"


def test_results_are_the_same_and_v_tells_how_they_came(tmp_path, capfd):
    pytest.importorskip("rich")
    words = ["simulate", "-o", str(tmp_path / "s"), "--subjects", "2", "--segments", "2"]
    assert main([*words, "-v"]) == 0
    shard = tmp_path / "s" / "sim_0000.h5"
    assert "cli: simulate: 4 after" in capfd.readouterr().err
    assert main(["inspect", str(shard), "-v"]) == 0
    loud = capfd.readouterr()
    assert f"data: opened {shard}\n" in loud.err
    assert re.search(r"^xmae-fast: worker \d+, ", loud.err, re.MULTILINE)  # the process that scans
    assert f"data: index {shard.parent / '.sim_0000.h5.index.npz'} is up to date" not in loud.err
    assert main(["inspect", str(shard), "-v"]) == 0
    assert f"data: index {shard.parent / '.sim_0000.h5.index.npz'} is up to date\n" in capfd.readouterr().err
    for option in ([], ["-q"]):
        assert main(["inspect", str(shard), *option]) == 0
        told = capfd.readouterr()
        assert told.out == loud.out
        assert told.err == ""


def test_nothing_of_a_command_stays(monkeypatch):
    library = logging.getLogger("xmae_fast")
    before = library.level, library.propagate, list(library.handlers)
    assert main(["-v", "explain"]) == 0
    monkeypatch.setattr(explain, "_explain", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["-v", "explain"])
    assert (library.level, library.propagate, list(library.handlers)) == before


def test_the_library_says_only_warnings_until_a_program_asks():
    program = "import logging, sys, xmae_fast; {}log = logging.getLogger('xmae_fast.data'); log.info('opened'); "
    program += "log.warning('locked')"
    for setting, said in (("", "locked\n"), ("logging.basicConfig(); ", "WARNING:xmae_fast.data:locked\n")):
        command = [sys.executable, "-W", "ignore", "-c", program.format(setting)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert (run.stdout, run.stderr) == ("", said)


def test_a_missing_or_closed_standard_error_is_no_error(monkeypatch, tmp_path):
    with open(tmp_path / "closed", "w") as closed:
        pass
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        with said_on_stderr():
            LOG.warning("nobody hears it")


def test_progress_stands_alone_and_notes_name_the_process():
    def line(name: str, level: int, **options) -> str:
        return Lines(**options).format(logging.LogRecord(name, level, "", 0, "%d of %d", (1, 2), None))

    assert line("xmae_fast.progress", logging.INFO) == "1 of 2"
    assert line("xmae_fast.data", logging.INFO) == "xmae-fast: 1 of 2"
    assert line("xmae_fast.data", logging.ERROR) == "xmae-fast: 1 of 2"
    noted = line("xmae_fast.data", logging.DEBUG, process="worker 7")
    assert re.fullmatch(r"xmae-fast: worker 7, -?\d+\.\d\d s, data: 1 of 2", noted)


def to_stderr(source: str) -> list[int]:
    """The lines of a source that write to standard error by other means than logging."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            text = ast.unparse(node.func)
            values = [ast.unparse(word.value) for word in node.keywords]
            written = text.startswith("sys.stderr.") and not text.endswith("isatty")
            if written or (text == "print" and "sys.stderr" in values):
                found.append(node.lineno)
    return found


def test_the_package_writes_to_standard_error_by_logging():
    """But for the handler itself, Ctrl-C before all is imported, and the lines of a run that is started in Python."""
    allowed = {"_messages.py", "_starting.py", "training/progress.py"}
    package = ROOT / "xmae_fast"
    files = {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert {name for name, source in files.items() if to_stderr(source)} == allowed
    assert to_stderr("print('x', file=sys.stderr)") == to_stderr("sys.stderr.write('x')") == [1]


def test_loggers_are_named_after_the_parts():
    named = re.compile(r"getLogger\((.*?)\)")
    package = ROOT / "xmae_fast"
    for path in package.rglob("*.py"):
        for name in named.findall(path.read_text(encoding="utf-8")):
            if name.startswith('"xmae_fast.'):
                part = name.strip('"').split(".")[1]
                top = path.relative_to(package).parts[0].removesuffix(".py").removeprefix("_")
                assert part == top, f"{path}: {name}"
