"""`xmae-fast inspect`: a thin layer over `xmae_fast.data.inspect_shards`."""

from __future__ import annotations

import argparse
import json

from xmae_fast.cli.failures import FAILED
from xmae_fast.cli.progress import progress_bars
from xmae_fast.cli.shared import add_html_argument, add_layout_arguments, check_html, layout_of


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    inspect = commands.add_parser("inspect", help="what shards hold, how good it is, and what a loader would use of it")
    inspect.add_argument("shards", nargs="+", metavar="IN", help="files, folders, patterns or URLs")
    inspect.add_argument("--quality", type=float, default=0.9, help="that both signals reach (default: %(default)s)")
    inspect.add_argument("--json", metavar="FILE", help="also write the report to this file")
    inspect.add_argument("--picture", metavar="FILE.png", help="draw examples of used and of rejected segments")
    add_html_argument(inspect)
    inspect.set_defaults(run=_inspect, python_names={"paths": "shards"})
    add_layout_arguments(inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from xmae_fast._files import atomic_path, check_replaceable, is_json_of, is_picture
    from xmae_fast.data import draw_examples, inspect_shards, print_report
    from xmae_fast.data.inspection.report import import_rich

    import_rich()
    for name, is_own, what in (
        ("json", lambda file: is_json_of(file, "shards", "problem_records"), "a report of xmae-fast inspect"),
        ("picture", is_picture, "a picture of xmae-fast"),
    ):
        if (file := getattr(arguments, name)) is not None:
            check_replaceable(file, is_own, what, name)
    if arguments.html is not None:
        from xmae_fast.data.inspection.page import need_packages, write_inspection_page

        need_packages()
        check_html(arguments.html, arguments.shards)
    options = {"layout": layout_of(arguments.columns), "cache_dir": arguments.cache_dir, "quality": arguments.quality}
    with progress_bars() as progress:
        report = inspect_shards(arguments.shards, progress=progress, **options)
    if arguments.json is not None:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print_report(report)
    if arguments.picture is not None:
        draw_examples(arguments.shards, arguments.picture, **options)
    if arguments.html is not None:
        write_inspection_page(report, arguments.html, arguments.shards, **options)
    return 0 if report.segments else FAILED
