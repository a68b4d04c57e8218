"""`python benchmarks/house.py [checkout]`: how large the house is, as Markdown tables. Needs nothing but Python.

Tokens are Python's own, without comments, line ends and indents, so that neither layout nor line length changes them.
A config group is a folder below `conf/` that holds YAML files.
"""

import ast
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

NOT_COUNTED = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def num_lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def num_tokens(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with path.open("rb") as file:
            total += sum(token.type not in NOT_COUNTED for token in tokenize.tokenize(file.readline))
    return total


def function_lengths(paths: Iterable[Path]) -> list[int]:
    """Return the lines of every function and method, shortest first."""
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    package = root / "src" / "lipsync_lightning"
    sources, tests = sorted(package.rglob("*.py")), sorted((root / "tests").rglob("*.py"))
    yaml_files = sorted((root / "conf").rglob("*.yaml"))
    lengths, lines = function_lengths(sources), num_lines(sources)
    rows = {
        "lines of Python in `src/`": f"{lines:,}",
        "tokens of Python in `src/`": f"{num_tokens(sources):,}",
        "functions in `src/`": f"{len(lengths):,}",
        "functions per 1,000 lines": f"{1000 * len(lengths) / lines:.0f}",
        "lines of a function: median / nine of ten / longest": (
            f"{median(lengths):.0f} / {lengths[len(lengths) * 9 // 10]} / {lengths[-1]}"
        ),
        "YAML files in `conf/`": f"{len(yaml_files)}",
        "config groups": f"{len({path.parent for path in yaml_files} - {root / 'conf'})}",
        "lines of YAML in `conf/`": f"{num_lines(yaml_files):,}",
        "lines of tests": f"{num_lines(tests):,}",
    }
    print("| what | now |\n| --- | ---: |")
    for what, figure in rows.items():
        print(f"| {what} | {figure} |")
    rooms: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sources:
        parts = path.relative_to(package).parts
        rooms[f"{parts[0]}/" if len(parts) > 1 else "at the top"].append(path)
    print("\n| room of `src/` | files | lines | tokens |\n| --- | ---: | ---: | ---: |")
    for room, paths in rooms.items():
        print(f"| {room} | {len(paths)} | {num_lines(paths):,} | {num_tokens(paths):,} |")


if __name__ == "__main__":
    main()
