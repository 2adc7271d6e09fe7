"""Modules and functions stay short enough to read."""

import ast
import subprocess

import pytest

from tests.training_runs import PROJECT

MODULE_LINES, FUNCTION_LINES = 450, 60
OWN_LIMITS = {
    "boson_multimodal/model/higgs_audio/modeling_higgs_audio.py": 700,
    "arabic_voice_cloning_distributed_trainer.py": 400,
}
"""Modules with a limit of their own: the model has a long signature, the program must read in one sitting."""


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Return the text of each tracked Python file by its path. Without git, skip the test."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("the project is not in a git checkout")
    paths = [path for path in listed.stdout.splitlines() if (PROJECT / path).is_file()]
    return {path: (PROJECT / path).read_text(encoding="utf-8") for path in paths}


def test_modules_are_short(sources: dict[str, str]) -> None:
    lines = {path: len(text.splitlines()) for path, text in sources.items()}
    assert len(lines) > 100
    long = {path: count for path, count in lines.items() if count > OWN_LIMITS.get(path, MODULE_LINES)}
    assert not long, f"too many lines: {long}"


def test_functions_fit_on_a_screen(sources: dict[str, str]) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not long, "functions are too long:\n" + "\n".join(long)
