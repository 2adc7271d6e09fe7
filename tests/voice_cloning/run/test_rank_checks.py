"""Processes that do not belong together are refused at the start, with the rank, the machine and what differs."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from boson_multimodal.flags import facts_of
from boson_multimodal.process_group import Ranks
from tests.training_runs import PROJECT
from voice_cloning.run import rank_checks
from voice_cloning.run.rank_checks import (
    check_ranks,
    clock_problems,
    content_of,
    gpu_problems,
    model_identity,
    program_facts,
    require_equal,
)
from voice_cloning.training.config import flag_fields


@dataclass(frozen=True)
class OneOfThree(Ranks):
    """A process whose two fellows, on another machine, find what ``others`` makes of what this one finds."""

    others: Any = None
    world_size: int = 3

    def gather(self, value: Any) -> list[Any]:
        changed = self.others(value)
        return [value, changed, changed]

    def wait_for_all(self) -> None:
        pass


def fellows(**changes: str | None) -> OneOfThree:
    return OneOfThree(others=lambda found: ("far", {**found[1], **changes}))


def refusal(changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(rank_checks, "machine_name", lambda: "near")
    with pytest.raises(InputError) as caught:
        require_equal(fellows(**changes), "they differ from", {"torch": "2.12", "peft": "0.21", "git_commit": "a1"})
    return str(caught.value).splitlines()


def test_ranks_machine_and_both_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal({"torch": "2.11", "peft": "0.30"}, monkeypatch) == [
        "they differ from rank 0 on near (2):",
        "  ranks 1, 2 on far: torch is 2.11, and 2.12 on rank 0",
        "  ranks 1, 2 on far: peft is 0.30, and 0.21 on rank 0",
    ]


def test_what_a_process_does_not_know_is_not_compared() -> None:
    require_equal(fellows(git_commit=None), "they differ from", {"git_commit": "a1", "torch": "2.12"})
    require_equal(fellows(git_commit="b2"), "they differ from", {"git_commit": None, "torch": "2.12"})


def test_places_may_differ_and_other_flags_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {name: "here" for name in flag_fields()}
    places = {name for name, found in flag_fields().items() if facts_of(found).per_machine}
    assert places >= {"data_path", "eval_data_path", "model_path", "code_cache_dir", "output_dir", "resume", "codes"}
    assert not places & {"learning_rate", "save_steps", "recompute", "model_revision", "prompt_style"}
    compared: list[dict[str, str]] = []
    monkeypatch.setattr(rank_checks, "require_equal", lambda ranks, heading, facts: compared.append(facts))
    monkeypatch.setattr(rank_checks, "program_facts", lambda project: {})
    check_ranks(OneOfThree(others=lambda found: found), flags, PROJECT)
    assert compared[1].keys() == {f"--{name}" for name in flag_fields()} - {f"--{name}" for name in places}


def test_clocks_may_be_a_minute_apart() -> None:
    assert not clock_problems(["near", "far", "far"], [1000.0, 1059.0, 941.0])
    ahead, behind = clock_problems(["near", "far", "off"], [1000.0, 1090.4, 700.0])
    assert ahead.startswith("rank 1 on far: its clock is 90 s ahead of that of rank 0 on near; at most 60 s")
    assert behind.startswith("rank 2 on off: its clock is 300 s behind that of rank 0 on near; at most 60 s")


def test_a_machine_with_fewer_gpus_than_processes_is_named() -> None:
    machines, local_ranks = ["near", "near", "far", "far"], [0, 1, 0, 1]
    assert not gpu_problems(machines, local_ranks, [0, 0, 0, 0]), "nobody trains on a GPU"
    assert not gpu_problems(machines, local_ranks, [8, 8, 2, 2])
    (problem,) = gpu_problems(machines, local_ranks, [2, 2, 1, 1])
    assert problem.startswith("rank 3 on far: is process 1 of its machine, counted from 0, and the machine has 1 GPUs;")
    without = gpu_problems(machines, local_ranks, [2, 2, 0, 0])
    assert [problem.partition(":")[0] for problem in without] == ["rank 2 on far", "rank 3 on far"]


def test_a_changed_source_is_another_program(tmp_path: Path) -> None:
    """Without git too, and a file that Python does not read does not count."""
    for name in ("lora_config.py", "boson_multimodal/errors.py", "voice_cloning/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    before = program_facts(tmp_path)
    assert before["git_commit"] is None and {"version", "python", "torch", "transformers", "peft"} <= before.keys()
    (tmp_path / "boson_multimodal/notes.txt").write_text("notes")
    assert program_facts(tmp_path) == before
    with (tmp_path / "boson_multimodal/errors.py").open("a") as file:
        file.write("# changed\n")
    after = program_facts(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["the source of the program"]


def test_another_model_of_the_same_sizes_is_found(demo: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(demo / "model", tmp_path / "model")
    assert model_identity(copy) == model_identity(demo / "model")
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content.replace(b"q_proj", b"k_proj", 1))
    assert weights.stat().st_size == len(content)
    assert model_identity(copy) != model_identity(demo / "model")


def test_the_content_of_a_file_or_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    assert content_of(file) == "not there"
    file.write_text("[1]")
    first, folder = content_of(file), content_of(tmp_path)
    assert first.endswith("(3 bytes)") and folder.endswith("(1 files)")
    file.write_text("[2]")
    assert content_of(file) != first
    file.write_text("[22]")
    assert content_of(tmp_path) != folder
