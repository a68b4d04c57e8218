"""Notebooks show the library; they hold none of it, and name only what it has."""

import ast
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def code_of(path: Path) -> ast.Module:
    return ast.parse("\n\n".join("".join(cell["source"]) for cell in code_cells(path)), filename=path.name)


def test_there_is_a_notebook_for_data_for_training_and_for_inference():
    assert NAMES == ["lip_sync_a_clip", "look_at_shards", "one_training_step"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_imports_only_what_the_library_has(path: Path):
    imports = [node for node in ast.walk(code_of(path)) if isinstance(node, ast.ImportFrom)]
    ours = [
        (str(node.module), alias.name)
        for node in imports
        if str(node.module).startswith("lipsync_lightning")
        for alias in node.names
    ]
    assert ours
    assert [f"{module}.{name}" for module, name in ours if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_imports_nothing_that_is_not_installed(path: Path):
    tree = code_of(path)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert [name for name in names if importlib.util.find_spec(name.split(".")[0]) is None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_defines_nothing(path: Path):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [ast.unparse(node) for node in ast.walk(code_of(path)) if isinstance(node, definitions)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_kept_without_outputs(path: Path):
    assert [cell["outputs"] for cell in code_cells(path) if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_without_the_demos_files_a_notebook_says_what_to_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("lipsync_lightning.files.CONF_DIR", tmp_path / "conf")
    with pytest.raises(SystemExit, match="make demo"):
        exec("".join(code_cells(path)[0]["source"]), {})
