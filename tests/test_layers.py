"""The order of the packages: nothing imports from its right."""

import ast
from pathlib import Path

import pytest

PACKAGE = "lipsync_lightning"
ROOT = Path(__file__).parents[1] / "src" / PACKAGE
ENTRY_POINTS = {
    *("train", "prepare", "latents", "infer", "evaluate", "export", "synthesize", "report", "demo", "app"),
    *("cli", "composing", "checks", "commands"),
}
LAYERS: tuple[set[str], ...] = (
    {"clip", "errors", "files", "shapes", "metering", "threads"},
    {"media", "synthetic"},
    {"models", "diffusion", "losses"},
    {"shards", "evaluation"},
    {"preparation", "data"},
    {"modules", "callbacks"},
    {"pipeline"},
    ENTRY_POINTS,
)
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The package or module directly below the root that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def layer(part: str) -> int:
    (found,) = [index for index, parts in enumerate(LAYERS) if part in parts]
    return found


def imported(path: Path) -> set[str]:
    """Full names of everything a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports by full names only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith(f"{PACKAGE}.")}


def test_every_part_of_the_package_has_a_layer():
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts == set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_from_its_right(path):
    if part_of(path) != "__init__":
        assert [name for name in imported_parts(path) if layer(name) > layer(part_of(path))] == []


def test_the_pipeline_sees_neither_modules_nor_data_nor_preparation():
    seen = set().union(*(imported_parts(path) for path in FILES if part_of(path) == "pipeline"))
    assert seen & {"modules", "data", "callbacks", "preparation"} == set()


def test_only_entry_points_know_hydra_and_omegaconf():
    knowing = {
        part_of(path) for path in FILES if {name.split(".")[0] for name in imported(path)} & {"hydra", "omegaconf"}
    }
    assert knowing <= ENTRY_POINTS


def test_no_file_is_a_bag_of_utilities():
    assert [path for path in FILES if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def test_every_file_says_what_it_is_for():
    silent = [
        path for path in FILES if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_is_longer_than_three_hundred_lines():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 300] == []
