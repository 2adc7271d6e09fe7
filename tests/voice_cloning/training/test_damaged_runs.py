"""Each file of a run's folder is damaged in turn: the run goes on right, or a message names the file."""

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from boson_multimodal.process_group import Ranks
from tests.checkpoint_folders import edit_json
from tests.fuzzing import MUTATIONS, check_bounds, mutated, run_apart
from tests.run_damages import DAMAGES, FOLDER_DAMAGES, SETTINGS, Runs, files_of
from tests.training_runs import EVERY_GROUP, PROJECT, adapter, assert_same_adapter, command, flags, metrics, trainer
from tests.training_runs import run as command_ends
from voice_cloning.run.components import open_run_directory
from voice_cloning.run.identity import flags_before
from voice_cloning.training.checkpoints import (
    CHECKSUMS,
    OPTIMIZER_FILE,
    RUN_FILE,
    STATE_FILE,
    DamageError,
    read_run_flags,
    read_state,
)
from voice_cloning.training.run_directory import RunDirectory

NEWEST, BEFORE = "checkpoint-000004", "checkpoint-000002"
IN_CHECKPOINT = ["README.md", "adapter_config.json", "adapter_model.safetensors", OPTIMIZER_FILE, RUN_FILE, STATE_FILE]
PLACES = [".lock", "metrics.jsonl", RUN_FILE, "plots", *(f"{NEWEST}/{name}" for name in IN_CHECKPOINT)]
CASES = [(place, way) for place in PLACES for way in DAMAGES]
FOLDER_CASES = [(place, way) for place in (NEWEST, "tensorboard") for way in FOLDER_DAMAGES]
TOGETHER = 20
"""Folders that one process opens, because to fork it takes longer."""
NO_FILE = ("a folder", "a broken link", "a link to itself")


def path_of(run: Path, place: str) -> Path:
    return next((run / "tensorboard").iterdir()) if place == "plots" else run / place


def expected_step(place: str, way: str) -> int | None:
    """The step that the run resumes from; None if a message must stop it."""
    if place == NEWEST or (place.startswith(NEWEST) and not place.endswith("README.md")):
        return 2
    if place == "tensorboard" and way != "missing" and way != "an empty folder":
        return None
    if place == "metrics.jsonl" and way in NO_FILE:
        return None
    if place == ".lock" and way in ("a folder", "a link to itself"):
        return None
    if place == RUN_FILE and way == "a folder":
        return None
    return 4


def directory_of(subject: ArabicVoiceCloningDistributedTrainer, folder: Path) -> RunDirectory:
    """Return the folder of another run with the flags and data of a trainer's run."""
    given = subject.components.opened.directory
    return RunDirectory(folder, given.identity, given.details, flags_before(), given._check)


def open_again(runs: Runs, run: Path, **changes: object) -> Path | None:
    """Open the folder as the program does, without loading weights. Return the checkpoint."""
    read_run_flags(run, "")
    subject = runs.last
    given = {**subject._flags(), "output_dir": str(run), **changes}
    opened = open_run_directory(Ranks(), given, subject.components.data, subject.placement.dtype, PROJECT)
    with opened:
        return opened.checkpoint


def test_the_cases_cover_every_file(runs: Runs) -> None:
    names = set(files_of(runs.interrupted))
    plots = {name for name in names if name.startswith("tensorboard")}
    assert len(plots) == 1
    assert names - plots == set(PLACES) - {"plots"}


@pytest.mark.parametrize(("place", "way"), [*CASES, *FOLDER_CASES])
def test_damage_is_named_and_the_newest_sound_checkpoint_is_taken(
    runs: Runs, run: Path, place: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, step = path_of(run, place), expected_step(place, way)
    (DAMAGES | FOLDER_DAMAGES)[way](path)
    if step is None:
        with pytest.raises(InputError) as caught:
            open_again(runs, run)
        assert str(path) in str(caught.value)
        return
    with caplog.at_level(logging.WARNING):
        assert open_again(runs, run) == run / f"checkpoint-{step:06d}"
    if step == 2 and (place, way) != (NEWEST, "missing"):
        named = path / RUN_FILE if way == "an empty folder" else path
        assert f"damaged: {named}: " in caplog.text
        assert f"{run / BEFORE} is taken instead of {NEWEST}; steps that are trained again: 2" in caplog.text
    if place == RUN_FILE:
        assert f"{path}: " in caplog.text and f"{run / NEWEST} has one" in caplog.text
        assert json.loads(path.read_text())["flags"]["max_steps"] == 6


RIGHT_IN_OTHER_RUNS = (
    *(("best", None), ("step", 5), ("total_steps", 5), ("evaluation_due", True)),
    ("evaluations_without_better", 5),
)


def test_every_value_of_a_wrong_kind_in_the_state_is_named(runs: Runs, run: Path) -> None:
    """The checksums are removed, as in checkpoints of earlier releases."""
    state = json.loads((run / NEWEST / STATE_FILE).read_text())
    del state[CHECKSUMS]
    wrong = ["3", -1, 0, True, None, [], {}, 1.5, float("nan"), float("inf"), 5]
    for name in state:
        for value in wrong:
            if value == state[name] and type(value) is type(state[name]):
                continue
            if (name, value) in RIGHT_IN_OTHER_RUNS:
                continue
            (run / NEWEST / STATE_FILE).write_text(json.dumps({**state, name: value}))
            with pytest.raises(DamageError, match=rf"{STATE_FILE}: .*{name}"):
                read_state(run / NEWEST)
    for totals in ({"sums": [1.0]}, {"sums": [1.0] * 9, "counts": [1.0] * 8}, {"sums": ["1"] * 9, "counts": [1.0] * 9}):
        (run / NEWEST / STATE_FILE).write_text(json.dumps({**state, "totals": totals}))
        with pytest.raises(DamageError, match="totals must hold"):
            read_state(run / NEWEST)
    (run / NEWEST / STATE_FILE).write_text(json.dumps(state))
    assert open_again(runs, run).name == NEWEST


def test_tensors_that_do_not_fit_are_damage_without_checksums_too(runs: Runs, run: Path) -> None:
    edit_json(run / NEWEST / STATE_FILE, lambda state: state.pop(CHECKSUMS))
    path, check = run / NEWEST / OPTIMIZER_FILE, directory_of(runs.last, run)._check
    whole = torch.load(path, weights_only=True)
    first = whole["state"][0]
    for entry in (
        {**first, "exp_avg": first["exp_avg"][:1]},
        {**first, "exp_avg_sq": first["exp_avg_sq"] * float("nan")},
        {**first, "step": torch.tensor(3.0)},
        {"step": first["step"]},
        None,
    ):
        torch.save({**whole, "state": {**whole["state"], 0: entry}}, path)
        with pytest.raises(DamageError, match="not the finite state of AdamW for this adapter at step 4"):
            check(run / NEWEST)
    for other in ({}, [], {"state": {}, "param_groups": []}, {"state": whole["state"], "param_groups": None}):
        torch.save(other, path)
        with pytest.raises(DamageError, match="not the finite state of AdamW"):
            check(run / NEWEST)
    torch.save(whole, path)
    assert open_again(runs, run).name == NEWEST
    shutil.copy(runs.whole / "checkpoint-000006" / OPTIMIZER_FILE, path)
    assert open_again(runs, run).name == BEFORE, "the optimizer of another step"


def test_one_changed_bit_of_a_weight_is_found(runs: Runs, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run / NEWEST / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert open_again(runs, run).name == BEFORE
    assert f"{path}: is not as it was written (its SHA-256 differs)" in caplog.text


def test_if_no_checkpoint_is_sound_all_are_named(runs: Runs, run: Path) -> None:
    (run / NEWEST / OPTIMIZER_FILE).write_bytes(b"")
    (run / BEFORE / STATE_FILE).unlink()
    with pytest.raises(InputError, match="none of its checkpoints is sound.*--overwrite.*--init_adapter") as caught:
        open_again(runs, run)
    assert f"{run / NEWEST / OPTIMIZER_FILE}: empty" in str(caught.value)
    assert f"{run / BEFORE / STATE_FILE}: missing" in str(caught.value)
    assert open_again(runs, run, overwrite=True) is None


def test_a_named_checkpoint_that_is_damaged_is_refused(runs: Runs, run: Path) -> None:
    (run / NEWEST / OPTIMIZER_FILE).write_bytes(b"")
    with pytest.raises(InputError, match=rf"--resume {run / NEWEST}: is damaged: .*{OPTIMIZER_FILE}: empty"):
        open_again(runs, run, resume=str(run / NEWEST))
    assert open_again(runs, run, resume=str(run / BEFORE)).name == BEFORE
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError, match="lies in --output_dir, from which --overwrite removes it"):
        open_again(runs, run, resume=str(run / BEFORE), overwrite=True)
    assert sorted(run.rglob("*")) == before


def test_a_checkpoint_of_another_run_or_under_another_number_is_not_taken(
    runs: Runs, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run / BEFORE, run / "checkpoint-000009")
    foreign = shutil.copytree(run / NEWEST, run / "checkpoint-000008")
    edit_json(foreign / RUN_FILE, lambda found: found["identity"].update(world_size=2))
    edit_json(foreign / STATE_FILE, lambda state: state.pop(CHECKSUMS))
    assert open_again(runs, run).name == NEWEST
    assert "checkpoint-000009: its trainer_state.json is of step 2" in caplog.text
    assert "checkpoint-000008" in caplog.text


def test_without_any_checkpoint_the_run_begins_again_and_says_so(
    runs: Runs, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run / BEFORE)
    shutil.rmtree(run / NEWEST)
    with caplog.at_level(logging.INFO):
        assert open_again(runs, run) is None
    assert "holds a run without a checkpoint; it begins at step 0" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        *("", "\0" * 40, '{"step": 3, "lo', '{"step": "3"}', '{"step": 3, "loss": "1"}', "[]", "\\"),
        *(
            '{"step": 3, "sample": 1}',
            '{"step": 3, "sample": "a", "ended": null}',
            '{"step": 3, "sample": "a", "text": []}',
        ),
    ],
)
def test_damaged_lines_of_metrics_are_dropped_and_counted(
    demo: Path, runs: Runs, run: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, line, *lines[2:], '{"step": 5, "lo']))
    trainer(demo, run, **SETTINGS).components.opened.directory.cut_metrics(4)
    assert "3 damaged lines were dropped (line 3: " in caplog.text
    assert metrics(run) == [record for record in metrics(runs.whole) if record["step"] <= 4]


def test_the_lines_of_spoken_clips_stay_up_to_the_step_from_which_a_run_resumes(
    demo: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics(run)
    clips = [{"step": step, "sample": "a", "text": "\u0646\u0639\u0645", "ended": True, "frames": 3} for step in (2, 5)]
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(clip) + "\n" for clip in clips)
    trainer(demo, run, **SETTINGS).components.opened.directory.cut_metrics(4)
    assert metrics(run) == [*(record for record in before if record["step"] <= 4), clips[0]]
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("place", [f"{NEWEST}/{OPTIMIZER_FILE}", RUN_FILE])
def test_a_damaged_run_ends_with_the_bits_of_an_untouched_one(demo: Path, runs: Runs, run: Path, place: str) -> None:
    DAMAGES["cut"](run / place)
    assert trainer(demo, run, **SETTINGS).train().finished
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")
    assert_same_adapter(run / NEWEST, runs.whole / NEWEST)
    assert metrics(run) == metrics(runs.whole)
    assert trainer(demo, run, **SETTINGS).train().finished


@pytest.mark.parametrize(
    "overrides",
    [
        {"lora_targets": EVERY_GROUP, "use_dora": True, "torch_dtype": "bfloat16"},
        {"lora_targets": ["audio_embeddings", "attention"], "use_rslora": True, "lora_alpha": 3},
    ],
)
def test_what_the_program_writes_is_sound(
    demo: Path, tmp_path: Path, overrides: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, **overrides, "max_steps": 2, "eval_data_path": None}
    assert trainer(demo, tmp_path / "run", **settings).train().finished
    assert trainer(demo, tmp_path / "run", **settings).train().checkpoint.name == BEFORE
    assert "damaged" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("place", "way"), [*CASES, *FOLDER_CASES])
def test_the_program_goes_on_right_or_ends_with_a_message(
    demo: Path, runs: Runs, run: Path, place: str, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = path_of(run, place)
    (DAMAGES | FOLDER_DAMAGES)[way](path)
    status = program.main(flags(demo, run, **SETTINGS))
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    if expected_step(place, way) is None:
        assert status == 1 and str(path) in printed.err
        return
    assert status == 0
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")
    assert (run / NEWEST / STATE_FILE).is_file()


# -- another user ----------------------------------------------------------------------------------------------------


NOBODY = 65534


def _as_nobody(subject: ArabicVoiceCloningDistributedTrainer, folder: Path) -> Path | None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    read_run_flags(folder, "")
    return directory_of(subject, folder).open("auto", overwrite=False)


@pytest.mark.parametrize(
    "place", [".lock", "metrics.jsonl", RUN_FILE, NEWEST, *(f"{NEWEST}/{n}" for n in IN_CHECKPOINT)]
)
def test_a_file_that_this_user_may_not_read_stops_the_run(runs: Runs, run: Path, place: str) -> None:
    """The checkpoint may be sound, so it is neither passed over nor replaced."""
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    with TemporaryDirectory() as parent:  # the folders of pytest are closed to other users
        copy = shutil.copytree(run, Path(parent) / "run")
        for path in [Path(parent), copy, *copy.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        os.chown(copy / place, 0, 0)
        (copy / place).chmod(0o700)
        outcome = run_apart(_as_nobody, runs.last, copy)
    run = copy
    assert outcome.trace is None, outcome.trace
    if place.endswith("README.md"):
        assert outcome.value == run / NEWEST
    else:
        assert str(run / place) in outcome.error and "Permission denied" in outcome.error


# -- fuzz ------------------------------------------------------------------------------------------------------------


def _resume_each(subject: ArabicVoiceCloningDistributedTrainer, folders: list[Path]) -> list[object]:
    """Open each folder. Return the message, or what a run would resume from, as it would load it."""
    found = []
    for folder in folders:
        try:
            read_run_flags(folder, "")
            directory = directory_of(subject, folder)
            checkpoint = directory.open("auto", overwrite=False)
            directory.cut_metrics(4)
            directory.close()
            found.append((checkpoint.name, *_content(checkpoint)))
        except InputError as error:
            found.append(str(error))
    return found


def _content(checkpoint: Path) -> tuple[dict[str, object], dict[str, torch.Tensor], object]:
    state = json.loads((checkpoint / STATE_FILE).read_text())
    state.pop(CHECKSUMS, None)
    return state, adapter(checkpoint), torch.load(checkpoint / OPTIMIZER_FILE, weights_only=True)["state"]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return one == other


@pytest.fixture
def with_and_without_checksums(run: Path, tmp_path: Path) -> Iterator[list[Path]]:
    old = shutil.copytree(run, tmp_path / "old")
    for name in (NEWEST, BEFORE):
        edit_json(old / name / STATE_FILE, lambda state: state.pop(CHECKSUMS))
    yield [run, old]


@pytest.mark.parametrize("mutations", MUTATIONS)
def test_a_mutated_folder_gives_a_sound_state_or_a_message(
    runs: Runs, with_and_without_checksums: list[Path], tmp_path: Path, mutations: int
) -> None:
    """A changed byte of a weight is found by the checksums; older checkpoints have only the archive's."""
    generator, copies, names = random.Random(10), [], []
    sound = {name: _content(runs.interrupted / name) for name in (NEWEST, BEFORE)}
    warm = shutil.copytree(runs.interrupted, tmp_path / "warm")
    _resume_each(runs.last, [warm])
    untouched = run_apart(_resume_each, runs.last, [warm])
    for number in range(mutations):
        source = with_and_without_checksums[number % 2]
        copies.append(shutil.copytree(source, tmp_path / f"{number}", copy_function=os.link))
        names.append(generator.choice(files_of(source)))
        content = (copies[-1] / names[-1]).read_bytes()
        (copies[-1] / names[-1]).unlink()
        (copies[-1] / names[-1]).write_bytes(mutated(content, generator))
        if len(copies) == TOGETHER:
            outcome = run_apart(_resume_each, runs.last, copies)
            check_bounds(outcome, untouched, f"mutations {number - TOGETHER} to {number}")
            for name, copy, found in zip(names, copies, outcome.value, strict=True):
                _check_found(found, sound, copy, name, int(copy.name) % 2 == 0)
                shutil.rmtree(copy)
            copies, names = [], []
    assert copies == []


def _check_found(found: object, sound: dict[str, tuple], copy: Path, name: str, has_checksums: bool) -> None:
    """Check that a message names the folder, or that what was found is the content of a sound checkpoint."""
    what = f"{name} of {copy}"
    if isinstance(found, str):
        assert str(copy) in found, what
        return
    checkpoint, *content = found
    wanted = list(sound[checkpoint])
    if not has_checksums and name == f"{NEWEST}/{STATE_FILE}":
        # Nothing tells that a loss in an older state has another, finite value.
        content[0], wanted[0] = _without_losses(content[0]), _without_losses(wanted[0])
    for part, sound_part in zip(content, wanted, strict=True):
        # Nor that a weight of an older checkpoint has.
        is_unprotected = not has_checksums and name == f"{NEWEST}/adapter_model.safetensors" and part is content[1]
        assert is_unprotected or _equal(part, sound_part), what


def _without_losses(state: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in state.items() if name not in ("totals", "best")}


# -- two processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_take_the_same_checkpoint_or_end_together(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = command(flags(demo, out, **SETTINGS), 2)
    assert command_ends(words).returncode == 0
    last = shutil.copytree(out / "checkpoint-000006", tmp_path / "last")
    (out / "checkpoint-000006" / OPTIMIZER_FILE).write_bytes(b"")
    done = command_ends(words)
    assert done.returncode == 0 and f"{out / NEWEST} is taken instead of checkpoint-000006" in done.stderr
    assert_same_adapter(out / "checkpoint-000006", last)
    for checkpoint in out.glob("checkpoint-*"):
        (checkpoint / STATE_FILE).unlink()
    started = time.monotonic()
    done = command_ends(words)
    assert done.returncode != 0 and "none of its checkpoints is sound" in done.stderr
    assert 'arabic_voice_cloning_distributed_trainer.py", line' not in done.stderr
    assert time.monotonic() - started < 100
