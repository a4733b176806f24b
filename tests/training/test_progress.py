"""What a run and the commands show on a terminal. What they write elsewhere is read by the tests of each command."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest

from xmae_fast._messages import said_on_stderr
from xmae_fast.cli import progress as commands
from xmae_fast.training.progress import Progress

pytest.importorskip("rich")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


def make_terminal(monkeypatch) -> Terminal:
    """Make sys.stderr a terminal. A test calls this itself, because pytest sets sys.stderr again before each test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("RANK", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.fixture
def heard():
    """What is said goes to standard error, as in a command."""
    with said_on_stderr():
        yield


def test_a_run_shows_one_bar_and_lines_above_it(monkeypatch):
    terminal = make_terminal(monkeypatch)
    shown, row = Progress(), {"epoch": 1, "step": 3, "loss": 0.5, "segments_per_s": 1234.4, "data_wait_share": 0.02}
    with shown.bar():
        shown.tell("curriculum: [0.8]")
        shown.log(row, 0.25)
        shown.log({"epoch": 1, "step": 3, "val_loss": 0.25}, 0.25)
    shown.tell("finished: 3 steps")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", terminal.text)]
    assert "curriculum: [0.8]" in lines
    assert "epoch 1 step 3 (25%): validation loss 0.25000" in lines
    assert lines[-2:] == ["finished: 3 steps", ""]
    bar = next(line for line in reversed(lines) if "━" in line)  # the bar stays
    assert re.fullmatch(r"epoch 1 step 3 ━+\S* +25% 0:00:0\d \S+ loss 0.5000  1,234 segments/s  wait 2.0 %", bar), bar


def test_a_quiet_run_shows_nothing(monkeypatch):
    terminal = make_terminal(monkeypatch)
    shown = Progress(shown=False)
    with shown.bar():
        shown.tell("x")
    assert not terminal.text


@pytest.mark.usefixtures("heard")
def test_commands_show_a_bar_for_each_stage(monkeypatch):
    terminal = make_terminal(monkeypatch)
    with commands.progress_bars() as tell:
        tell("a.h5 [1]", 0, None)
        tell("a.h5 [1]", 40, 40)
        tell("b.h5", 10, 40)
    assert re.search(r"b\.h5 ━+\S* +25% \S+", terminal.text)
    assert not re.search(r"a\.h5 \[1\] ━+\S* +\d+% [^\r\n]*[\r\n]+b\.h5", terminal.text)  # removed before the next one


@pytest.mark.usefixtures("heard")
def test_embedding_shows_speed_and_time_left(monkeypatch):
    terminal = make_terminal(monkeypatch)
    clock = iter([0.0, 10.0, 30.0])
    monkeypatch.setattr(commands, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # rich keeps its own clock
    with commands.progress_with_speed() as tell:
        for done in (100, 200, 400):
            tell("embed", done, 7900)
    assert re.search(r"embed ━*\S* +5% , 10 segments/s, 0:12:30 left", terminal.text)


def test_a_quiet_command_shows_neither_bars_nor_lines(monkeypatch):
    monkeypatch.setattr(commands, "_LINE_EVERY_S", 0.0)
    terminal = make_terminal(monkeypatch)
    for show in (commands.progress_bars, commands.progress_with_speed):
        with said_on_stderr(logging.WARNING), show() as tell:
            tell("embed", 0, 10)
            tell("embed", 10, 10)
        with said_on_stderr(), show() as tell:  # the same is seen otherwise
            tell("embed", 0, 10)
        assert "embed" in terminal.text
        assert "100%" not in terminal.text


def test_lines_of_a_run_go_to_a_program_that_listens(capsys, caplog):
    with caplog.at_level(logging.INFO, "xmae_fast"):
        Progress().tell("epoch 0")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("xmae_fast.progress", "epoch 0")]
    assert capsys.readouterr().err == ""
    Progress().tell("epoch 0")
    assert capsys.readouterr().err == "epoch 0\n"


def test_only_the_first_of_several_processes_shows_a_bar(monkeypatch):
    terminal = make_terminal(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    with commands.progress_with_speed() as tell:
        tell("embed", 0, 10)
    assert not terminal.text


@pytest.mark.usefixtures("heard")
def test_without_a_terminal_the_commands_tell_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(commands, "_LINE_EVERY_S", 0.0)
    with commands.progress_bars() as tell:
        tell("recordings", 0, 9)
        tell("recordings", 3, 9)
    assert "recordings: 3 of 9\n" in capsys.readouterr().err
    monkeypatch.setattr(commands, "_LINE_EVERY_S", 1000.0)
    with commands.progress_bars() as tell:
        tell("recordings", 3, 9)
    assert capsys.readouterr().err == ""


def test_without_rich_a_terminal_gets_lines(monkeypatch):
    terminal = make_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich", None)
    shown = Progress()
    with shown.bar():
        shown.tell("x")
    assert terminal.text == "x\n"
    with commands.progress_bars() as tell:
        tell("recordings", 3, 9)  # a line every 20 s, and no bar
    assert terminal.text == "x\n"
