"""A page with every kind of block, whose foreign texts are hostile wherever a text of others can stand."""

from __future__ import annotations

from xmae_fast.reports import Bullets, Cell, Heading, Marked, Page, Picture, Row, Table, code, plain

EVIL = '<script>window.evil=1</script><img src=x onerror="window.evil=2">\'"</title></style>&amp;{{7*7}}'
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="60"><rect width="900" height="60"/></svg>'
NUMBERS = ["0.90 [0.80, 0.95]", "", "1,204.5 [1, 2]", "-3 [-9, 9]", "0.1000 [-5.0, 7.0]"]


def page() -> Page:
    rows = [
        Row([EVIL if i == 0 else f"name {i}", number, str(i), Cell(f"{10 - i}", bar=i / 5)], "ours" if i == 1 else "")
        for i, number in enumerate(NUMBERS)
    ]
    wide = Table([f"column {i} of many" for i in range(30)], [[f"value {i}{EVIL}" for i in range(30)]] * 2, "Wide")
    return Page(
        title=f"Page of {EVIL}",
        about=Marked(f"Of {plain(EVIL)}, **bold** and {code(EVIL)}."),
        facts={"command": f"xmae-fast embed {EVIL}", "data": "x" * 400, "nothing": ""},
        summary=[Bullets([EVIL, "second"])],
        blocks=[
            Heading(2, f"Section {EVIL}"), EVIL,
            Table(["text", "result", "n", "left"], rows, EVIL, foot=[["sum", "", "", "1"]]),
            Heading(3, EVIL), Picture("a.svg", EVIL, SVG), Heading(2, "Wide"), wide,
        ],
        left_out=[Table(["reason", "windows"], [["short", "1"]], more="The first of them.")],
        how=[Marked(f"- {plain(EVIL)}")],
    )  # fmt: skip
