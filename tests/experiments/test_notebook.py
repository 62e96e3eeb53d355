"""The notebook runs, cell after cell, as a reader would run it."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "residual-learning.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[Any] = []
    display = types.ModuleType("IPython.display")
    vars(display).update(Image=lambda path: path, display=shown.append)
    stand_in = types.ModuleType("IPython")
    vars(stand_in).update(get_ipython=lambda: None, version_info=(9, 0))  # which matplotlib asks for
    monkeypatch.setitem(sys.modules, "IPython", stand_in)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, str(NOTEBOOK), "exec"), names)
    said = capsys.readouterr().out
    assert "training loss" in said
    assert "residual: whole" in said
    figures = ["degradation.png", "training-loss.png", "norm-placement.png", "norm-placement-gradients.png"]
    assert [path.name for path in shown] == figures
    assert all(path.is_file() for path in shown)
