"""MkDocs hook: the notebooks of docs/notebooks are run and become pages, with what they print and draw.

In the repository they have no outputs. `run_notebooks: false` under `extra` in mkdocs.yml, and `mkdocs serve`, show
them as they are. A notebook that ends in an error ends the build.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbformat
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
SECONDS = 600  # for one cell on a busy machine; a whole notebook takes less than a minute of one core
_serving = False


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; its cells ran in an empty folder, with this checkout's xmae_fast.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    where = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": folder}})
        return client.execute(env={**os.environ, "PYTHONPATH": where})


def on_startup(command: str, dirty: bool) -> None:
    global _serving
    _serving = command == "serve"


def on_files(files: Files, config) -> Files:
    """Put a page in place of each notebook; the notebook itself stays beside it, to be taken along."""
    for file in list(files):
        if not file.src_uri.endswith(".ipynb"):
            continue
        path = ROOT / "docs" / file.src_uri
        ran = config.extra["run_notebooks"] and not _serving
        notebook = run(path) if ran else nbformat.read(path, as_version=4)
        body, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": f"{path.stem}_files"})
        body = re.sub(r"\n[ \n]*\n\n", "\n\n", body.replace("![png](", "![What the code above draws]("))
        head, _, rest = body.partition("\n\n")
        note = f"This page is a notebook: [{path.name}]({path.name})."
        page = file.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content=f"{head}\n\n{note}\n\n{rest}"))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files
