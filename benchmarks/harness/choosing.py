"""Options that say how kernels run: --without and --config go round one that does not work, --overlap-launches."""

from __future__ import annotations

import argparse

from benchmarks.harness.contest import WITHOUT
from xmae_fast import backend
from xmae_fast.backend import IMPLS, OPS


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Add these options to a parser; `apply_choices` does what they say."""
    parser.add_argument(
        "--without", action="append", default=[], metavar="OP=IMPL",
        help="do without an implementation of an operator, e.g. conv_stem=triton; the model takes another (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], metavar="[KERNEL=]N",
        help="launch Triton's kernels, or one of them, with configuration number N, from 0 on (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--overlap-launches", action="store_true",
        help="let launches of Triton's kernels begin while the previous one ends, where the GPU can (sm_90 on)",
    )  # fmt: skip


def apply_choices(options: argparse.Namespace) -> None:
    """For this process, do what the options say.

    Raises:
        ValueError: naming the option and what it expects.
    """
    for op, impl in map(parse_without, options.without):
        backend.leave_out(op, impl, WITHOUT)
    for kernel, index in map(parse_config, options.config):
        from xmae_fast.ops import _launch  # imports Triton, which may not be installed

        _launch.force_config(index, kernel)
    if options.overlap_launches:
        from xmae_fast.ops import _launch

        _launch.overlap_launches(True)


def words_of(options: argparse.Namespace) -> list[str]:
    """The options as they were given, for another command."""
    given = [("--without", one) for one in options.without] + [("--config", one) for one in options.config]
    overlap = ["--overlap-launches"] if options.overlap_launches else []
    return [*(word for pair in given for word in pair), *overlap]


def parse_without(text: str) -> tuple[str, str]:
    """ "conv_stem=triton" -> its two parts. ValueError if it names no implementation that can be missed."""
    op, _, impl = text.partition("=")
    if op not in OPS or impl not in IMPLS or impl == "reference":
        known = ", ".join(IMPLS[1:])
        raise ValueError(f"--without: expected an operator ({', '.join(OPS)}) = one of {known}, got {text!r}")
    return op, impl


def parse_config(text: str) -> tuple[str, int]:
    """ "3" or "_masks_kernel=3" -> the kernel, '' for all, and the number. ValueError if there is none."""
    kernel, _, number = text.rpartition("=")
    if not number.isdecimal():
        raise ValueError(f"--config: expected a number from 0 on, or a kernel's name = a number, got {text!r}")
    return kernel, int(number)
