"""The folder samples: the program removes its own clips of steps that are trained again, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.spoken_runs import spoken_trainer
from tests.training_runs import trainer
from voice_cloning.run.components import open_log
from voice_cloning.training.sample_files import check_place, remove_samples, step_name


def put_clips(run: Path) -> Path:
    """Clips of the program at two steps, and files, folders and links that are not its own."""
    samples = run / "samples"
    for name in ("step-000002", "step-000004", "step-1000000", "reference", "true", "step-best", "step-4", "mine"):
        (samples / name).mkdir(parents=True)
        (samples / name / "a.wav").write_bytes(b"RIFF")
    (samples / "step-000004" / ".writing-a.wav.123").write_bytes(b"half")
    (samples / "true" / ".writing-b.wav.456").write_bytes(b"half")
    (samples / "step-1000000" / "notes.txt").write_text("mine")
    (samples / "a.wav").write_bytes(b"mine")
    (samples / "step-000006").symlink_to("mine")
    (samples / "step-000008").write_text("a file")
    return samples


def found(samples: Path) -> set[str]:
    return {str(path.relative_to(samples)) for path in samples.rglob("*") if not path.is_dir() or path.is_symlink()}


OTHERS = {
    "step-best/a.wav",
    "step-4/a.wav",
    "mine/a.wav",
    "a.wav",
    "step-1000000/notes.txt",
    "step-000006",
    "step-000008",
}


def test_later_steps_are_removed_and_everything_else_stays(tmp_path: Path) -> None:
    samples = put_clips(tmp_path)
    remove_samples(tmp_path, 4)
    assert found(samples) == {"step-000002/a.wav", "reference/a.wav", "true/a.wav", *OTHERS}
    assert not (samples / "step-000004").exists()
    remove_samples(tmp_path, 0)
    assert found(samples) == OTHERS


def test_an_empty_folder_goes_and_a_missing_one_is_none(tmp_path: Path) -> None:
    remove_samples(tmp_path, 0)
    (tmp_path / "samples" / step_name(12)).mkdir(parents=True)
    (tmp_path / "samples" / step_name(12) / "a.wav").write_bytes(b"RIFF")
    remove_samples(tmp_path, 1)
    assert not (tmp_path / "samples").exists() and step_name(1234567) == "step-1234567"


@pytest.mark.parametrize("name", ["samples", "samples/true", "samples/reference"])
def test_a_file_in_the_place_of_a_folder_is_named(demo: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=f"{tmp_path / name}: is not a folder; move it away, or give --num_samples 0"):
        check_place(tmp_path)
    with pytest.raises(InputError, match="is not a folder; move it away, or give --num_samples 0"):
        trainer(demo, tmp_path, num_scored_samples=1)
    spoken_trainer(tmp_path).components.opened.directory.close()  # no codec, and so no clips


def test_overwrite_removes_the_clips_of_the_run_and_a_resume_only_later_ones(tmp_path: Path) -> None:
    def begin(**settings: Any) -> None:
        subject = spoken_trainer(tmp_path, num_scored_samples=0, **settings)
        open_log(subject.components, subject.config, subject.loss_config, {}, subject.ranks, subject.placement.device)
        subject.components.opened.directory.close()

    spoken_trainer(tmp_path, num_scored_samples=0, max_steps=4, save_steps=2).train()
    (tmp_path / "checkpoint-000004" / "trainer_state.json").unlink()
    samples = put_clips(tmp_path)
    begin(max_steps=4, save_steps=2)
    assert found(samples) == {"step-000002/a.wav", "reference/a.wav", "true/a.wav", *OTHERS}
    begin(max_steps=4, save_steps=2, overwrite=True)
    assert found(samples) == OTHERS
