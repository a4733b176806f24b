"""Opens text tables: finds out their encoding, and leaves out comments and what was cut off."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from itertools import islice
from typing import IO

from xmae_fast.recordings.formats.table_cells import BLANKS

HEAD = 1 << 14  # bytes that tell the encoding and the layout
_BLOCK = 1 << 21  # bytes; larger blocks are no faster
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_END = re.compile(rb"\r\n|\n|\r")
_COMMENTS = re.compile(rb"^[ \t]*(?:#|%|//).*(?:\r\n|\n|\r|\Z)", re.MULTILINE)


def open_bytes(path: str) -> IO[bytes]:
    """Open a file, or what a file compressed by gzip holds."""
    return gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def head_of(path: str, lines: int = 100, most: int = _BLOCK // 2) -> tuple[bytes, bool]:
    """The first 16 kB of a file, or more until there are enough lines, and whether this is the whole file."""
    with open_bytes(path) as file:
        head = file.read(HEAD)
        while head and head.count(b"\n") < lines and len(head) < most:
            more = file.read(len(head))
            if not more:
                break
            head += more
        return head, not file.read(1)


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins with these bytes.

    Raises:
        ValueError: this is no text.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [head[i::4].count(0) * 4 / max(len(head), 1) for i in range(4)]
    for encoding, pattern in (
        ("utf-32-le", (0, 1, 1, 1)),
        ("utf-32-be", (1, 1, 1, 0)),
        ("utf-16-le", (0, 1, 0, 1)),
        ("utf-16-be", (1, 0, 1, 0)),
    ):
        if all((share > 0.8) == bool(expected) for share, expected in zip(zeros, pattern, strict=True)) and head:
            return encoding
    odd = sum(head.count(byte) for byte in bytes(range(32)) if byte not in b"\t\n\v\f\r\x1a")
    if odd > 0.01 * len(head):
        raise ValueError("expected a text with a table, found bytes that are no text")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def lines_of(head: bytes, encoding: str, whole: bool) -> list[str]:
    """The lines of a head; the last one is left out if the head is not the whole file and there are others."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=whole).replace("\x00", "")
    lines = re.split(r"\r\n|\n|\r", text)
    if len(lines) > 1 and (not whole or not lines[-1]):
        lines.pop()
    return lines


class TableText:
    """The text of a table from its first row of numbers on, in blocks of whole lines in UTF-8.

    Lines of comment are left out, and so is a last line that has no end and too few cells: it was cut off.

    Args:
        path: the file.
        encoding: of the file.
        skip: lines that are passed over.
        separator: between cells.
        columns: how many cells a whole line has.

    Attributes:
        cut: whether a last line was left out.
    """

    def __init__(self, path: str, encoding: str, skip: int, separator: str, columns: int) -> None:
        self.path, self.encoding, self.skip, self.separator, self.columns = path, encoding, skip, separator, columns
        self.cut = False

    def __iter__(self) -> Iterator[bytes]:
        rest, skip = b"", self.skip
        for data in self._utf8():
            text = rest + data if data else rest
            end = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1  # "\n" may follow a last "\r"
            block, rest = text[:end], text[end:]
            if skip and block:
                ends = [match.end() for match in islice(_END.finditer(block), skip)]
                skip, block = skip - len(ends), block[ends[-1] :]
            if not data and not skip:
                block += self._whole(rest)
            if b"\x00" in block:
                block = block.replace(b"\x00", b"")
            if b"#" in block or b"%" in block or b"//" in block:
                block = _COMMENTS.sub(b"", block)
            if not block.isspace() and block:
                yield block

    def _utf8(self) -> Iterator[bytes]:
        """The file in UTF-8 without a mark of its encoding; b"" at the end."""
        plain = codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        with open_bytes(self.path) as file:
            first = file.read(_BLOCK)
            if plain:
                yield first.removeprefix(codecs.BOM_UTF8)
                yield from iter(lambda: file.read(_BLOCK), b"")
            else:
                yield decoder.decode(first).encode()
                while data := file.read(_BLOCK):
                    if text := decoder.decode(data):
                        yield text.encode()
        yield b""

    def _whole(self, last: bytes) -> bytes:
        """A last line that has no end, or b"" if it was cut off."""
        cells = len(last.split()) if self.separator == BLANKS else last.count(self.separator.encode()) + 1
        self.cut = cells < self.columns and last.strip() != b""
        return b"" if self.cut else last
