"""Arrows point one way: program and tools -> dataset, collator, lora_config -> boson_multimodal -> libraries."""

import ast
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PROGRAM = "arabic_voice_cloning_distributed_trainer"


def modules() -> dict[str, Path]:
    """Every module of the project by dotted name, tests left out."""
    paths = [*PROJECT.glob("*.py"), *PROJECT.glob("boson_multimodal/**/*.py"), *PROJECT.glob("tools/**/*.py")]
    paths += PROJECT.glob("benchmarks/**/*.py")
    return {".".join(p.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
    return found


def test_the_model_package_knows_nothing_of_the_rooms_above_it() -> None:
    top_level = {name.split(".")[0] for name in modules()} - {"boson_multimodal"}
    for name, path in modules().items():
        if name.startswith("boson_multimodal"):
            above = {found for found in imports(path) if found.split(".")[0] in top_level | {"tests", "peft"}}
            assert not above, f"{name} imports {above}"


def test_nothing_but_tools_tests_and_benchmarks_imports_the_program_or_the_tools() -> None:
    for name, path in modules().items():
        if not name.startswith(("tools", "benchmarks")):
            above = {f for f in imports(path) if f == PROGRAM or f.split(".")[0] in ("tools", "tests", "benchmarks")}
            assert not above, f"{name} imports {above}"


def test_there_is_no_circle() -> None:
    known = modules()
    arrows = {name: {f for f in imports(path) if f in known} for name, path in known.items()}
    done: set[str] = set()
    while len(done) < len(arrows):
        free = {name for name, targets in arrows.items() if name not in done and targets - {name} <= done}
        assert free, f"a circle among {sorted(arrows.keys() - done)}"
        done |= free


def test_every_import_is_the_standard_library_ours_or_a_requirement() -> None:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines if line and not line.startswith("#")}
    optional = {"wandb", "pyarrow", "text2tashkeel", "num2words", "pyarabic"}
    modules_of = {"pyyaml": "yaml"}
    ours = {name.split(".")[0] for name in modules()}
    allowed = {modules_of.get(n, n) for n in required} | optional | ours | set(sys.stdlib_module_names)
    for name, path in modules().items():
        unknown = {found for found in imports(path) if found.split(".")[0] not in allowed}
        assert not unknown, f"{name} imports {unknown}, which requirements.txt does not name"
