"""How commands of `xmae-fast` end: exit codes, one line on standard error, in the words of the command line."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from xmae_fast._full_disk import new_hdf5, remembering, save_with_torch
from xmae_fast._messages import said_on_stderr
from xmae_fast._processes import device_of, place_in_environment, started_by_srun
from xmae_fast._starting import is_command
from xmae_fast.cli import explain, main, parser, progress
from xmae_fast.cli.failures import in_options, known_failure
from xmae_fast.cli.parsing import EXIT_CODES, options_by_name
from xmae_fast.data.problems import grouped

COMMANDS = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
FULL = os.path.exists("/dev/full")


def ends(run, monkeypatch, command=("explain",)) -> int:
    """The exit code of a command whose work is `run`."""
    monkeypatch.setattr(explain, "_explain", run)
    return main(list(command))


def raising(error):
    def run(_):
        raise error

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_nearest_option_and_its_exit_codes(name, capsys):
    option = max((o for a in COMMANDS[name]._actions for o in a.option_strings), key=len)
    with pytest.raises(SystemExit) as end:
        main([name, *_required(name), option[:-1] + "zz", "1"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: xmae-fast {name}")
    assert said.rstrip().endswith(f"did you mean {option}?")
    assert " ".join(COMMANDS[name].format_help().split()).endswith(EXIT_CODES)


def _required(name):
    words = []
    for action in COMMANDS[name]._actions:
        if action.required and action.option_strings:
            words += [action.option_strings[-1], action.choices[0] if action.choices else "x"]
        elif action.required:
            words.append("x")
    return words


@pytest.mark.parametrize(("wrong", "near"), [("embd", "embed"), ("pre-train", "pretrain"), ("inspct", "inspect")])
def test_an_unknown_command_names_the_nearest(wrong, near, capsys):
    with pytest.raises(SystemExit):
        main([wrong, "x"])
    assert capsys.readouterr().err.rstrip().endswith(f"did you mean {near}?")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3, "no space is left on the disk"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), 3, "no space is left on the disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 3, "no space is left on the disk"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), 3, "Input/output error"),
        (MemoryError(), 3, "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 3, "there is not enough memory"),
        (ValueError("x: expected y"), 2, "x: expected y"),
        (FileNotFoundError(errno.ENOENT, "a file\nis missing"), 2, "a file is missing"),
        (ImportError("pip install it"), 2, "pip install it"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, words, monkeypatch, capsys):
    assert ends(raising(error), monkeypatch) == code
    said = capsys.readouterr().err
    assert said.startswith(f"xmae-fast: {words}")
    assert said.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    with pytest.raises(RuntimeError, match="never"):
        ends(raising(RuntimeError("never")), monkeypatch)


@pytest.fixture
def heard():
    """Signals have the handlers that a terminal gives; those of a shell's background job ignore Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_in_one_line(number, monkeypatch, capsys):
    before = signal.getsignal(number)

    def interrupted(_):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not heard")

    assert ends(interrupted, monkeypatch) == 128 + number
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("nothing was written; the same command begins again\n")
    assert signal.getsignal(number) is before

    def swallowed(_):  # as imports of C extensions do
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise ImportError("no module") from None

    assert ends(swallowed, monkeypatch) == 128 + number


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prepare", "the same command goes on where it was"),
        ("embed", "the same command goes on where it was"),
        ("repack", "the same command goes on where it was"),
        ("probe", "the same command makes the whole report again"),
        ("evaluate", "the same command makes the whole report again"),
        ("simulate", "nothing was written; the same command begins again"),
        ("export", "nothing was written; the same command begins again"),
        ("pretrain", "the same command begins again"),
    ],
)
def test_what_becomes_of_interrupted_work(name, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"xmae_fast.cli.{name}._{name}", raising(KeyboardInterrupt()))
    assert main([name, *_required(name)]) == 130
    assert capsys.readouterr().err == f"xmae-fast: interrupted by Ctrl-C; {words}\n"


def test_an_interrupted_run_goes_on_from_its_checkpoint(monkeypatch, capsys, tmp_path):
    last = tmp_path / "r" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    monkeypatch.setattr("xmae_fast.cli.pretrain._pretrain", raising(KeyboardInterrupt()))
    words = ["pretrain", "-c", "x", "-e", "r", "--runs", str(tmp_path)]
    without = "with --resume, and without --overwrite, the"
    for more, told in (([], "with --resume the"), (["--resume"], "the"), (["--overwrite"], without)):
        assert main(words + more) == 130
        assert f"; {told} " in (said := capsys.readouterr().err)
        assert said.endswith(f"the same command goes on from {last}\n")


def test_messages_speak_of_options():
    def told(name, text):
        return in_options(text, options_by_name(parser().parse_args([name, *_required(name)])))

    for name in ("prepare", "embed", "repack", "export", "simulate"):
        assert told(name, "is there (overwrite=True replaces it)") == "is there (--overwrite replaces it)"
    assert told("embed", "fs, hop: expected None, got fs=3.5 and 2") == "--fs, --hop: expected None, got --fs 3.5 and 2"
    assert told("prepare", "window_s: expected 1 to 9, got 0") == "--window: expected 1 to 9, got 0"
    assert told("embed", "paths: no shard in fs: here") == "IN: no shard in fs: here"
    assert told("export", "weights: none with to='onnx'") == "--weights: none with --to onnx"
    assert told("export", "dtype: x; from_pretrained('a/b.ckpt') takes a file") == "dtype: x; 'a/b.ckpt' can be given"
    assert told("inspect", "shard a=b, fs=3, x.json=1: no") == "shard a=b, fs=3, x.json=1: no"


def test_every_python_name_of_a_command_has_an_option():
    for name in COMMANDS:
        arguments = parser().parse_args([name, *_required(name)])
        for python in getattr(arguments, "python_names", {}):
            assert options_by_name(arguments)[python] == in_options(f"{python}: ", options_by_name(arguments))[:-2]


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_the_system_for_every_writer(tmp_path):
    import torch

    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as torch_error:
        save_with_torch({"a": torch.zeros(100_000)}, full)
    with pytest.raises(OSError, match="No space left") as hdf5_error, new_hdf5(full) as file:
        file["a"] = np.zeros(100_000)
    arguments = parser().parse_args(["simulate", "-o", "there"])
    for error in (torch_error, hdf5_error):
        code, text = known_failure(error.value, arguments)
        assert code == 3
        assert text.startswith("no space is left on the disk for there; ")
    with pytest.raises(KeyError), remembering(tmp_path / "other"):
        raise KeyError("an error that no disk caused stays")


def test_hdf5_files_have_the_bytes_of_those_written_directly(tmp_path):
    def fill(file):
        for i in range(50):
            file.create_dataset(f"d_{i // 20}/{i}", data=np.full((300, 3), i, np.float16))
        file.attrs["a"] = "x"

    with new_hdf5(tmp_path / "a.h5") as file:
        fill(file)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        fill(file)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_simulate_leaves_nothing_of_a_full_disk_and_says_when_it_is_done(tmp_path, monkeypatch, capsys):
    words = ["simulate", "-o", str(tmp_path / "s"), "--subjects", "2", "--segments", "2"]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("xmae_fast.simulation.simulator.Simulation.save_truth", full)
        assert main(words) == 3
    assert os.listdir(tmp_path / "s") == []
    capsys.readouterr()
    assert main(words) == 0
    shard = tmp_path / "s" / "sim_0000.h5"
    assert capsys.readouterr().out == f"{shard}\n"
    made = shard.read_bytes()
    assert main(words) == 0
    assert capsys.readouterr().out == f"this was finished already, nothing was done:\n{shard}\n"
    assert main([*words, "--seed", "78"]) == 2
    assert capsys.readouterr().err == (
        f"xmae-fast: --output: {shard} is there already (--overwrite replaces an earlier simulation)\n"
    )
    assert shard.read_bytes() == made


def test_warnings_are_one_line_each_and_once(monkeypatch, capsys):
    def warn(_):
        for _ in range(3):
            warnings.warn("the first\nof them", stacklevel=1)
        warnings.warn("a library changes", FutureWarning, stacklevel=1)

    assert ends(warn, monkeypatch) == 0
    assert capsys.readouterr().err == "xmae-fast: warning: the first of them\n"


def test_a_reader_that_is_gone_is_no_error(monkeypatch, capsys):
    assert ends(raising(BrokenPipeError()), monkeypatch) == 0
    assert capsys.readouterr().err == ""


def test_progress_is_told_every_20_s_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.delenv("RANK", raising=False)
    with said_on_stderr(), progress.progress_bars() as tell:
        for done in (1, 2, 3, 4):
            tell("recordings", done, 4)
    assert capsys.readouterr().err == "recordings: 3 of 4\n"


def test_the_place_of_a_process_is_that_of_torchrun_alone():
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
    assert place_in_environment(slurm) == (0, 1)
    assert place_in_environment(slurm | {"RANK": "2", "WORLD_SIZE": "3"}) == (2, 3)
    for rank, size in (("x", "2"), ("2", "2"), ("-1", "2"), ("1", None), (None, "2"), ("", "")):
        given = {name: text for name, text in (("RANK", rank), ("WORLD_SIZE", size)) if text is not None}
        with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE: expected .* in the environment"):
            place_in_environment(given)
    assert started_by_srun(slurm) == 0
    assert started_by_srun(slurm | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}) == 4


def test_a_device_that_is_not_there_is_refused():
    for name in ("nonsense", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"device: expected cpu or a GPU of this machine.*got {name}"):
            device_of(name)
    assert device_of("cpu").type == "cpu"


def test_equal_reasons_are_one():
    reasons = {f"d/{i}.h5": f"shard d/{i}.h5: it is cut short" for i in range(500)} | {"x": "shard x: another"}
    assert grouped(reasons) == ["shard d/0.h5: it is cut short (and 499 more such)", "shard x: another"]


def test_the_command_is_recognised_before_it_is_imported():
    assert is_command(["python", "-m", "xmae_fast", "embed"])
    assert is_command(["python", "-u", "-m", "xmae_fast.cli"])
    assert is_command(["/usr/bin/python3", "/usr/bin/xmae-fast", "explain"])
    assert not is_command(["python", "-m", "pytest", "xmae-fast"])
    assert not is_command(["python", str(Path("tool.py"))])
    assert not is_command(["python", "-m"])
