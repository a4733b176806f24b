"""The notebooks run from top to bottom, draw something, and lie in the repository without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_notebooks_are_found():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_have_no_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path, monkeypatch):
    for package in ("nbclient", "ipykernel", "nbconvert", "mkdocs", "matplotlib", "scipy", "sklearn", "lightning"):
        pytest.importorskip(package, reason=f'notebooks need {package} (pip install -e ".[docs,train,eval]")')
    from docs.site import notebooks

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = notebooks.run(path).cells
    pictures = [output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2


def test_an_error_in_a_cell_is_raised(tmp_path):
    pytest.importorskip("ipykernel", reason='notebooks need ipykernel (pip install -e ".[docs]")')
    nbformat = pytest.importorskip("nbformat")
    exceptions = pytest.importorskip("nbclient.exceptions")
    pytest.importorskip("mkdocs")
    from docs.site import notebooks

    bad = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(bad, tmp_path / "bad.ipynb")
    with pytest.raises(exceptions.CellExecutionError, match="ZeroDivisionError"):
        notebooks.run(tmp_path / "bad.ipynb")
