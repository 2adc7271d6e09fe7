"""Failures in a run and before it: each ends with a message that says what to change."""

from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from tests.training_runs import flags, trainer
from voice_cloning.training.losses import NonFiniteLossError


def test_a_non_finite_loss_names_step_and_samples_and_saves_nothing(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", batch_size=1, logging_steps=3, save_steps=2, eval_data_path=None)
    training_step, victim = subject._training_step, []

    def poisoned(batch: object) -> object:
        output = training_step(batch)
        if subject.components.state.step == 2:
            victim.append(batch)
            output.text_loss_sum = output.text_loss_sum * float("nan")
        return output

    subject._training_step = poisoned
    with pytest.raises(NonFiniteLossError, match="not finite at step 3") as caught:
        subject.train()
    dataset = subject.components.data.train_dataset
    guilty = [
        dataset.sample_id(index)
        for index in range(len(dataset))
        if torch.equal(ids := dataset[index].input_ids, victim[0].input_ids[0, : len(ids)])
    ]
    assert len(guilty) == 1 and f"Samples: {guilty[0]}. " in str(caught.value)
    assert [p.name for p in subject.components.opened.directory.checkpoints()] == ["checkpoint-000002"]


def test_out_of_memory_ends_with_the_flags_to_set(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(self: object, batch: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(ArabicVoiceCloningDistributedTrainer, "_training_step", out_of_memory)
    assert program.main(flags(demo, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert "out of GPU memory (tried to allocate 2.00 GiB)" in message
    assert "--max_tokens_per_batch 256 --gradient_accumulation_steps 2" in message
    assert "--gradient_checkpointing" in message


def test_missing_weights_give_one_line_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demo: Path
) -> None:
    assert program.main(flags(demo, tmp_path / "out", model_path=tmp_path / "nowhere")) == 1
    nowhere = tmp_path / "nowhere"
    expected = f"error: --model_path {nowhere}: no such folder; give a checkpoint's folder or a hub id OWNER/NAME\n"
    assert capsys.readouterr().err == expected


def test_a_mistyped_data_path_is_reported_before_any_download(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "resolve_checkpoint", None)
    with pytest.raises(
        InputError, match="--data_path .*trian.json: no such file\n.*--eval_data_path .*vla.json: no such"
    ):
        trainer(demo, tmp_path / "out", data_path=demo / "trian.json", eval_data_path=demo / "vla.json")
