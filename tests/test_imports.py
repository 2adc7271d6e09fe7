"""Arrows point down: each folder imports only what stands on the floors below it."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PROGRAM = "arabic_voice_cloning_distributed_trainer"
FLOORS = (
    ("benchmarks",),
    (PROGRAM, "tools"),
    ("voice_cloning",),
    ("arabic_voice_cloning_dataset",),
    ("arabic_voice_cloning_training_collator", "lora_config"),
    ("arabic_text",),
    ("boson_multimodal",),
)
"""From the top floor down. Neighbours on one floor do not import each other."""
INSIDE_VOICE_CLONING = ("run", "data_check", "corpora", "evaluation", "speech", "adapters", "training")
"""Each of these may import what stands to its right."""
OF_THE_MODEL_PACKAGE_FOR_TEXT = ("boson_multimodal.data_types", "boson_multimodal.errors")
"""All that ``arabic_text`` may import of ours."""
ROOT_MODULES = {name for floor in FLOORS for name in floor if (PROJECT / f"{name}.py").is_file()}


def modules() -> dict[str, Path]:
    """Every module of the project by dotted name, tests left out."""
    folders = [name for floor in FLOORS for name in floor if name not in ROOT_MODULES]
    paths = [*PROJECT.glob("*.py"), *(path for folder in folders for path in PROJECT.glob(f"{folder}/**/*.py"))]
    return {".".join(p.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


@cache
def sources() -> dict[str, str]:
    """The text of every module."""
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


@cache
def imports(source: str) -> frozenset[str]:
    """Dotted names that a module imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports are absolute: {ast.unparse(node)}"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def floor_of(name: str) -> int | None:
    """Number of the floor that a dotted name stands on, 0 at the top; None for a library."""
    top = name.split(".")[0]
    return next((number for number, floor in enumerate(FLOORS) if top in floor), None)


def back_arrows(texts: dict[str, str]) -> list[str]:
    """Every import that does not point down, as ``module imports name``."""
    ours = texts.keys() | {"tests"}
    return [
        f"{name} imports {target}"
        for name, text in texts.items()
        for target in sorted(imports(text))
        if (target in ours or target.startswith("tests.")) and not _points_down(name, target)
    ]


def _points_down(name: str, target: str) -> bool:
    if target.startswith("tests"):
        return False
    own, other = name.split("."), target.split(".")
    if own[0] != other[0]:
        if own[0] == "arabic_text":
            return target.startswith(OF_THE_MODEL_PACKAGE_FOR_TEXT) or target == "boson_multimodal"
        if other[:2] == ["voice_cloning", "run"] and own[0] not in (PROGRAM, "benchmarks"):
            return False
        return floor_of(name) < floor_of(target)
    if own[0] != "voice_cloning" or len(other) == 1:
        return True
    if len(own) == 1:
        return False  # the folder itself imports nothing
    return INSIDE_VOICE_CLONING.index(own[1]) <= INSIDE_VOICE_CLONING.index(other[1])


def test_every_arrow_points_down() -> None:
    assert not back_arrows(sources())


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("boson_multimodal.chatml", "from arabic_text.normalise import normalise_text"),
        ("arabic_text.normalise", "from boson_multimodal.chatml import text_problem"),
        ("lora_config", "import arabic_voice_cloning_training_collator"),
        ("voice_cloning.training.log", "from voice_cloning.speech import voice_cloner"),
        ("voice_cloning.adapters.export", "import voice_cloning.corpora.build"),
        ("voice_cloning.data_check.check", "from voice_cloning.run import data"),
        ("voice_cloning.speech.requests", "def speak():\n    import tools.synthesize"),
        ("tools.synthesize", f"from {PROGRAM} import main"),
        ("tools.synthesize", "from voice_cloning.run.identity import flag_values"),
        ("benchmarks.merge_rounding", "from tests.goldens import needs_samples"),
    ],
)
def test_a_planted_back_arrow_is_found(name: str, line: str) -> None:
    planted = {**sources(), name: f"{sources()[name]}\n{line}\n"}
    found = set(back_arrows(planted)) - set(back_arrows(sources()))
    assert found and all(arrow.startswith(f"{name} imports ") for arrow in found)


def test_the_root_holds_the_four_modules_and_no_other() -> None:
    assert {path.stem for path in PROJECT.glob("*.py")} == ROOT_MODULES
    assert len(ROOT_MODULES) == 4


def test_each_folder_says_in_its_first_line_what_it_is_for() -> None:
    folders = [name for name, path in modules().items() if path.name == "__init__.py"]
    silent = [name for name in folders if not ast.get_docstring(ast.parse(sources()[name]))]
    assert len(folders) > 10 and not silent


def test_the_model_package_knows_nothing_of_peft() -> None:
    for name, text in sources().items():
        if name.startswith("boson_multimodal"):
            assert not {found for found in imports(text) if found.split(".")[0] == "peft"}, name


def test_there_is_no_circle() -> None:
    arrows = {name: {f for f in imports(text) if f in sources()} for name, text in sources().items()}
    done: set[str] = set()
    while len(done) < len(arrows):
        free = {name for name, targets in arrows.items() if name not in done and targets - {name} <= done}
        assert free, f"a circle among {sorted(arrows.keys() - done)}"
        done |= free


def test_every_import_is_the_standard_library_ours_or_a_requirement() -> None:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines if line and not line.startswith("#")}
    optional = {"wandb", "bitsandbytes", "pyarrow", "text2tashkeel", "num2words", "pyarabic", "resemblyzer"}
    optional |= {"faster_whisper", "ctranslate2", "speechmos"}
    optional |= {"gradio", "starlette"}  # starlette: gradio brings it along
    modules_of = {"pyyaml": "yaml"}
    ours = {name.split(".")[0] for name in sources()}
    allowed = {modules_of.get(n, n) for n in required} | optional | ours | set(sys.stdlib_module_names)
    for name, text in sources().items():
        unknown = {found for found in imports(text) if found.split(".")[0] not in allowed}
        assert not unknown, f"{name} imports {unknown}, which requirements.txt does not name"
