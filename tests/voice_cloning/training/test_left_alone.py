"""What people put into a run's folder is left alone: by saves, by pruning, by --overwrite and by a resume."""

import os
import shutil
from pathlib import Path

import pytest

from boson_multimodal import whole_files
from tests.run_damages import SETTINGS, Runs
from tests.training_runs import adapter, assert_same_adapter, metrics, trainer
from voice_cloning.run.report import closing_lines
from voice_cloning.training import run_directory
from voice_cloning.training.checkpoints import has_checkpoint_name, named_checkpoints
from voice_cloning.training.state import EvaluationResult

FOREIGN_COPIES = [
    "checkpoint-best",
    "checkpoint-000002 copy",
    "checkpoint-000002.bak",
    "checkpoint-2",
    "checkpoint-0000002",
    "Checkpoint-000002",
    "checkpoint-",
    "checkpoint-000002\n",
    "checkpoint-\u0660\u0660\u0660\u0660\u0660\u0662",
    "best",
    ".writing-mine",
    ".writing-checkpoint-best",
]


def put_in(folder: Path, checkpoint: Path) -> dict[str, bytes | str]:
    """Put copies, links and files into a folder. Return what they are, by path."""
    for name in FOREIGN_COPIES:
        shutil.copytree(checkpoint, folder / name)
    (folder / "checkpoint-latest").symlink_to(checkpoint.name)
    (folder / "checkpoint-000099").symlink_to(checkpoint.name)
    (folder / "notes.txt").write_text("mine")
    (folder / ".writing-notes.txt.123").write_text("mine")
    (folder / "checkpoint-000098").write_text("a file")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what lies in a folder besides the run: content of files and targets of links by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).parts[0]
        is_of_run = name in ("run.json", "metrics.jsonl", ".lock", "tensorboard") or has_checkpoint_name(folder / name)
        if not is_of_run or name in ("checkpoint-000098", "checkpoint-000099"):
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = os.readlink(path)
            elif path.is_file():
                found[key] = path.read_bytes()
    return found


def test_names_that_only_look_like_a_checkpoint_are_none(run: Path) -> None:
    put_in(run, run / "checkpoint-000002")
    names = [path.name for path in named_checkpoints(run)]
    assert names == ["checkpoint-000002", "checkpoint-000004", "checkpoint-000098", "checkpoint-000099"]


def test_a_resumed_run_that_saves_and_prunes_leaves_them(demo: Path, runs: Runs, run: Path) -> None:
    before = put_in(run, run / "checkpoint-000004")
    subject = trainer(demo, run, **SETTINGS, save_total_limit=1)
    assert subject.components.state.step == 4
    subject.train()
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")
    assert contents(run) == before
    assert not (run / "checkpoint-000002").exists()


def test_a_copy_that_appears_while_the_run_trains_is_left(demo: Path, runs: Runs, tmp_path: Path) -> None:
    run, before = tmp_path / "run", {}
    subject = trainer(demo, run, **SETTINGS, save_total_limit=1)
    after_step = subject._after_step

    def copying(*args: object) -> None:
        after_step(*args)
        if subject.components.state.step == 2:
            subject.components.checkpoints.finish()
            before.update(put_in(run, run / "checkpoint-000002"))

    subject._after_step = copying
    assert subject.train().finished
    assert contents(run) == before
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")


def test_overwrite_removes_the_run_and_nothing_else(demo: Path, run: Path) -> None:
    speech = run / "checkpoint-000002" / "speech" / "a.wav"
    speech.parent.mkdir()
    speech.write_bytes(b"mine")
    before = put_in(run, run / "checkpoint-000004")
    trainer(demo, run, **SETTINGS, overwrite=True).components.opened.directory.close()
    assert contents(run) == before
    assert not (run / "checkpoint-000004").exists() and not (run / "metrics.jsonl").exists()
    assert [path.name for path in speech.parent.parent.iterdir()] == ["speech"] and speech.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["a file", "a link", "a folder"])
def test_what_has_the_name_of_the_next_checkpoint_is_set_aside(
    demo: Path, runs: Runs, run: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    subject = trainer(demo, run, **SETTINGS)
    (run / "checkpoint-000006.set-aside").write_text("an older one")
    target, mine = run / "checkpoint-000006", run / "checkpoint-000006.set-aside-2"
    if kind == "a file":
        target.write_text("mine")
    elif kind == "a link":
        target.symlink_to("checkpoint-000002")
    else:
        target.mkdir()
        (target / "a.wav").write_bytes(b"mine")
    assert subject.train().finished
    assert_same_adapter(target, runs.whole / "checkpoint-000006")
    assert f"{target} held files of yours; they are in {mine} now" in caplog.text
    if kind == "a link":
        assert os.readlink(mine) == "checkpoint-000002" and adapter(run / "checkpoint-000002")
    else:
        assert (mine if kind == "a file" else mine / "a.wav").read_bytes() == b"mine"


def test_what_a_killed_run_left_is_removed_and_nothing_else(demo: Path, run: Path) -> None:
    code = "0123456789abcdef" * 2
    ours = [f".writing-checkpoint-000006.{code}", ".writing-checkpoint-000006", f".writing-run.json.{code}"]
    others = [
        f".writing-loss.png.{code}",
        f".writing-mine.{code}",
        ".writing-run.json",
        ".writing-checkpoint-000006.bak",
    ]
    for name in [*ours, *others]:
        (run / name).mkdir() if "checkpoint" in name else (run / name).touch()
    trainer(demo, run, **SETTINGS).components.opened.directory.close()
    assert [name for name in ours if (run / name).exists()] == []
    assert [name for name in others if not (run / name).exists()] == []


def test_pruning_never_takes_a_damaged_checkpoint_for_the_newest(demo: Path, runs: Runs, run: Path) -> None:
    """After a resume from step 2, the damaged checkpoint of step 4 is newer than that of step 3."""
    (run / "checkpoint-000004" / "optimizer.pt").write_bytes(b"")
    subject = trainer(demo, run, **{**SETTINGS, "save_steps": 1}, save_total_limit=1)
    save, seen = subject._save, {}

    def watched(*args: object) -> None:
        save(*args)
        subject.components.checkpoints.finish()
        seen[subject.components.state.step] = sorted(path.name for path in run.glob("checkpoint-*"))
        if subject.components.state.step == 4:
            assert_same_adapter(run / "checkpoint-000004", runs.whole / "checkpoint-000004")

    subject._save = watched
    assert subject.train().finished
    assert seen[3] == ["checkpoint-000003", "checkpoint-000004"]
    assert seen[4] == ["checkpoint-000004"], "the damaged one is replaced at its step"
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")


def test_a_checkpoint_that_cannot_be_removed_does_not_end_the_run(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_directory, "remove_checkpoint", fail)
    assert trainer(demo, tmp_path / "run", **SETTINGS, save_total_limit=1).train().finished
    assert "checkpoint-000002 cannot be removed (Permission denied); the run goes on" in caplog.text


def test_a_best_checkpoint_that_is_gone_is_said_to_be(demo: Path, run: Path) -> None:
    subject = trainer(demo, run, **SETTINGS)
    subject.components.state.best = EvaluationResult(4, -1.0)  # no other evaluation will be better
    subject.train()
    shutil.rmtree(run / "checkpoint-000004")
    (run / "checkpoint-000004").mkdir()
    summary = trainer(demo, run, **SETTINGS).train()
    assert (summary.best_step, summary.best_checkpoint) == (4, None)
    assert "best by evaluation loss: step 4, whose checkpoint is not in this folder" in closing_lines(summary)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    demo: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, the folder with their names, the lines of metrics; then the rename; then the run's folder."""
    events: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name_of(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return str(path.relative_to(run)).replace(temporary(), "NEW") if path.is_relative_to(run) else ""

    def temporary() -> str:
        return next((path.name for path in run.glob(".writing-checkpoint-*")), "none")

    def recorded_rename(old: Path, new: Path) -> None:
        events.append(f"rename to {Path(new).name}")
        rename(old, new)

    def recorded_replace(old: Path, new: Path) -> None:
        events.append(f"replace {Path(new).name}")
        replace(old, new)

    subject = trainer(demo, run, **SETTINGS)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (events.append(f"sync {name_of(descriptor)}"), fsync(descriptor))
    )
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "replace", recorded_replace)
    subject.train()
    assert events[0].startswith("sync .writing-metrics.jsonl.")
    assert events[1:3] == ["replace metrics.jsonl", "sync ."]
    end = events.index("rename to checkpoint-000006")
    start = max(index for index in range(end) if events[index] == "replace trainer_state.json") + 1
    names = "README.md adapter_config.json adapter_model.safetensors optimizer.pt run.json trainer_state.json".split()
    assert sorted(events[start : end - 2]) == [f"sync NEW/{name}" for name in names]
    assert events[end - 2 : end + 2] == ["sync NEW", "sync metrics.jsonl", "rename to checkpoint-000006", "sync ."]


def test_a_new_run_folder_is_on_the_disk(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(run_directory, "sync", lambda path: (synced.append(path), whole_files.sync(path)))
    subject = trainer(demo, tmp_path / "a" / "b" / "run", **SETTINGS)
    subject.components.opened.directory.close()
    assert synced[:3] == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_metrics_of_the_whole_run_stay(demo: Path, runs: Runs, run: Path) -> None:
    put_in(run, run / "checkpoint-000004")
    trainer(demo, run, **SETTINGS).train()
    assert metrics(run) == metrics(runs.whole)


def test_lines_that_somebody_damages_while_the_run_trains_do_not_end_it(demo: Path, runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    subject = trainer(demo, run, **SETTINGS)
    after_step = subject._after_step

    def damaging(*args: object) -> None:
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(b"\n\0\0\0\n{\n")
        after_step(*args)

    subject._after_step = damaging
    assert subject.train().finished
    assert_same_adapter(run / "checkpoint-000006", runs.whole / "checkpoint-000006")
    card = (run / "checkpoint-000006" / "README.md").read_text(encoding="utf-8")
    assert card == (runs.whole / "checkpoint-000006" / "README.md").read_text(encoding="utf-8")
