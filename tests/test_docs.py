"""Documentation that can be checked against the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def strings_in_code() -> str:
    nodes = [node for path in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_troubleshooting_lists_only_messages_that_exist() -> None:
    rows = re.findall(r"^\| (?!Hydra|message|---)(.*?) \| ", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    parts = [part.strip() for row in rows for message in re.findall("`(.*?)`", row) for part in message.split("…")]
    known = strings_in_code()
    assert len(rows) > 20
    assert [part for part in parts if part not in known] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
