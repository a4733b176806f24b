"""Figures of matplotlib as pictures of a page."""

from __future__ import annotations

import io

from xmae_fast._files import SOFTWARE
from xmae_fast.reports.blocks import Picture


def figure_picture(figure, name: str, caption: str) -> Picture:
    """A matplotlib figure as a picture.

    Args:
        figure: what is drawn.
        name: ends in .png, or in .svg for lines and bars.
        caption: what it shows.
    """
    kind, content = name.rpartition(".")[2], io.BytesIO()
    if kind == "svg":
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": SOFTWARE})
    else:
        figure.savefig(content, format="png", dpi=110, metadata={"Software": SOFTWARE})
    return Picture(name, caption, content.getvalue())
