"""Test the training loop in this process: exact sums, memorisation, resume, refusals, and the end of a run."""

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer, NonFiniteLossError
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.training_runs import adapter, assert_same_adapter, flags, metrics, trainer
from voice_cloning.training.batches import StepBatches, count_labels
from voice_cloning.training.schedule import learning_rate, warmup_steps_of

EVERY_GROUP = ["attention", "text_mlp", "audio_mlp", "heads", "audio_embeddings"]


class Crash(Exception):
    """Simulates a process that dies."""


# -- sums over micro-batches -------------------------------------------------------------------------------------------


def loss_and_gradients(subject: ArabicVoiceCloningDistributedTrainer, split: list[list[int]]) -> tuple[float, Tensor]:
    """Return a step's loss and the gradient of every adapter weight, for a split of samples into micro-batches."""
    captured: list[Tensor] = []
    run = subject.components
    run.optimizer._adamw.step = lambda: captured.append(run.optimizer.gradients.clone())
    collated = tuple(
        run.data.collator([run.data.train_dataset[i] for i in indices]) if indices else None for indices in split
    )
    counts = count_labels(collated, run.num_codebooks)
    sums = subject._optimizer_step(StepBatches(0, tuple(map(tuple, split)), collated, 0), counts)[:, :-1].sum(dim=0)
    means = sums / counts
    return (means[0] + means[1:].mean()).item(), captured[0]


def split_by_parameter(subject: ArabicVoiceCloningDistributedTrainer, flat: Tensor) -> Iterator[Tensor]:
    return iter(flat.split([p.numel() for p in subject.components.optimizer.parameters]))


@pytest.mark.parametrize(
    "split",
    [
        [[0], [1, 2, 3, 4], [5], [6, 7]],
        [[7, 3, 1, 0, 2, 6, 5, 4]],
        [[0, 1, 2, 3, 4, 5, 6], [7], [], []],
    ],
    ids=["accumulation of 4", "permuted batch", "very uneven, two empty"],
)
def test_loss_and_gradients_do_not_depend_on_the_split(demo: Path, tmp_path: Path, split: list[list[int]]) -> None:
    subject = trainer(demo, tmp_path / "out", lora_dropout=0.0, max_grad_norm=0.0, lora_targets=EVERY_GROUP)
    with torch.no_grad():
        for parameter in subject.components.optimizer.parameters:  # LoRA B starts at 0, which hides the gradient of A
            parameter.copy_(0.05 * torch.randn_like(parameter))
    loss, gradients = loss_and_gradients(subject, [list(range(8))])
    other_loss, other_gradients = loss_and_gradients(subject, split)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    pairs = zip(split_by_parameter(subject, gradients), split_by_parameter(subject, other_gradients), strict=True)
    for one, other in pairs:
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_the_label_counts_are_those_of_the_batches(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out")
    batch = subject.components.data.collator([subject.components.data.train_dataset[i] for i in (0, 1)])
    counts = count_labels([batch, None, batch], subject.components.num_codebooks)
    output = subject._training_step(batch)
    assert counts[0] == 2 * output.text_label_count
    assert counts[1:].tolist() == (2 * output.audio_label_count).tolist()


# -- learning ----------------------------------------------------------------------------------------------------------


def test_memorises_four_clips_to_the_last_eos(memorised: ArabicVoiceCloningDistributedTrainer) -> None:
    """Greedy teacher-forced accuracy of every codebook is 100 %, eos included; the text is learnt too."""
    subject = memorised
    batch = subject.components.data.collator([subject.components.data.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        output = subject.components.model(**vars(batch), output_logits=True)
    labels = batch.label_audio_ids[:, 1:]
    is_label = labels != IGNORE_INDEX
    right = output.audio_logits[:-1].argmax(dim=-1).T == labels
    assert is_label.sum() == 8 * sum(frames + 1 for frames in target_frames(subject))
    assert (labels == subject.components.data.model_config.audio_stream_eos_id).sum() == 4 * 8
    assert right[is_label].all()
    text = output.expanded_labels[:, 1:]
    assert (output.logits[:, :-1].argmax(dim=-1) == text)[text != IGNORE_INDEX].all()


def target_frames(subject: ArabicVoiceCloningDistributedTrainer) -> list[int]:
    """Return the number of frames of each sample's last clip."""
    samples = [subject.components.data.train_dataset[i] for i in range(len(subject.components.data.train_dataset))]
    return [s.audio_ids_concat.shape[1] - int(s.audio_ids_start[-1]) for s in samples]


# -- resume ------------------------------------------------------------------------------------------------------------


def crash_after(subject: ArabicVoiceCloningDistributedTrainer, step: int) -> None:
    """Train and die after ``step`` updates, before anything of the last update is written."""
    after_step = subject._after_step

    def dying(*args: object) -> None:
        if subject.components.state.step == step:
            raise Crash
        after_step(*args)

    subject._after_step = dying
    with pytest.raises(Crash):
        subject.train()


@pytest.mark.parametrize(
    "overrides", [{}, {"batch_size": 3, "gradient_accumulation_steps": 2, "lora_targets": EVERY_GROUP}]
)
def test_a_crashed_run_ends_with_the_bits_of_an_uninterrupted_one(
    demo: Path, tmp_path: Path, overrides: dict[str, object]
) -> None:
    """The run crashes three times, with dropout, in the middle of an epoch and of a logging interval."""
    uninterrupted, crashed = tmp_path / "uninterrupted", tmp_path / "crashed"
    settings = {"max_steps": 8, "logging_steps": 5, "save_steps": 3, **overrides}
    summary = trainer(demo, uninterrupted, **settings).train()
    for step in (2, 5, 7):
        crash_after(trainer(demo, crashed, **settings), step)
    subject = trainer(demo, crashed, **settings)
    assert subject.components.state.step == 6
    assert subject.train().finished
    assert_same_adapter(summary.checkpoint, crashed / summary.checkpoint.name)
    assert metrics(crashed) == metrics(uninterrupted)


def test_a_stop_signal_saves_and_the_same_command_resumes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = trainer(demo, tmp_path / "uninterrupted").train()
    subject = trainer(demo, tmp_path / "stopped")
    optimizer_step = subject._optimizer_step

    def interrupted(*args: object) -> Tensor:
        if subject.components.state.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return optimizer_step(*args)

    subject._optimizer_step = interrupted
    summary = subject.train()
    assert (summary.step, summary.finished, summary.stopped_by) == (5, False, signal.SIGTERM)
    assert summary.checkpoint.name == "checkpoint-000005"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    trainer(demo, tmp_path / "stopped").train()
    assert_same_adapter(uninterrupted.checkpoint, tmp_path / "stopped" / "checkpoint-000006")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "uninterrupted")


@pytest.mark.parametrize("step", [4, 6], ids=["on the way", "the last"])
def test_an_evaluation_that_a_stop_signal_interrupted_is_repeated_on_resume(
    demo: Path, tmp_path: Path, step: int
) -> None:
    uninterrupted = trainer(demo, tmp_path / "uninterrupted").train()
    subject = trainer(demo, tmp_path / "stopped", max_tokens_per_batch=512)
    forward = subject._training_step

    def interrupted(*args: object) -> object:
        if subject.components.state.step == step and not subject.components.model.training:
            signal.raise_signal(signal.SIGINT)
        return forward(*args)

    subject._training_step = interrupted
    summary = subject.train()
    assert (summary.step, summary.finished, summary.stopped_by) == (step, False, signal.SIGINT)
    assert [line["step"] for line in metrics(tmp_path / "stopped") if "eval_loss" in line] == [4][: step // 6]
    assert trainer(demo, tmp_path / "stopped").train().finished
    assert_same_adapter(uninterrupted.checkpoint, tmp_path / "stopped" / "checkpoint-000006")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "uninterrupted")


def test_a_run_can_resume_from_a_named_checkpoint(demo: Path, tmp_path: Path) -> None:
    first = trainer(demo, tmp_path / "first", save_steps=2)
    summary = first.train()
    other = trainer(demo, tmp_path / "other", save_steps=2, resume=tmp_path / "first" / "checkpoint-000004")
    assert other.components.state.step == 4
    assert_same_adapter(other.train().checkpoint, summary.checkpoint)
    with pytest.raises(InputError, match="no trainer_state.json"):
        trainer(demo, tmp_path / "third", resume=tmp_path)


def test_a_finished_run_says_so_and_does_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(demo, tmp_path / "out", max_steps=2)
    assert program.main(arguments) == 0
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.name not in (".lock", "run.json")}
    monkeypatch.setattr(program, "create_higgs_audio_lora_model", None)
    capsys.readouterr()
    assert program.main(arguments) == 0
    assert "finished: 2 steps" in capsys.readouterr().out
    assert written == {p: p.stat().st_mtime_ns for p in written}


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "out"
    subject = trainer(demo, folder, max_steps=2)
    subject.train()
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rate": 1e-3}, "flags.learning_rate: was 0.003, is 0.001"),
        ({"max_steps": 9}, "flags.max_steps: was 2, is 9"),
        ({"gradient_accumulation_steps": 2}, "flags.gradient_accumulation_steps: was 1, is 2"),
        ({"prompt_style": "as_written"}, "train_data.fingerprint: was"),
        ({"resume": "none"}, "holds a run; --resume auto continues it, --overwrite removes it"),
    ],
)
def test_another_run_is_never_continued_or_overwritten(
    demo: Path, finished: Path, overrides: dict[str, object], message: str
) -> None:
    before = sorted(finished.rglob("*"))
    with pytest.raises(InputError, match=message):
        trainer(demo, finished, **{"max_steps": 2, **overrides})
    assert sorted(finished.rglob("*")) == before


def test_a_run_without_the_evaluation_data_is_another_run(demo: Path, finished: Path) -> None:
    """All flags are given here. On the command line a missing flag takes the value of the run."""
    training, *others = program.parse_arguments(flags(demo, finished, max_steps=2), "")
    with pytest.raises(InputError, match="eval_data: was .* is None"):
        ArabicVoiceCloningDistributedTrainer(dataclasses.replace(training, eval_data_path=None), *others)


def test_changed_data_is_refused_by_fingerprint_and_count(demo: Path, finished: Path, tmp_path: Path) -> None:
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))
    fewer = demo / "fewer.json"
    fewer.write_text(json.dumps(records[1:]), encoding="utf-8")
    with pytest.raises(InputError, match=r"train_data.samples: was 16, is 15\n.*train_data.fingerprint"):
        trainer(demo, finished, max_steps=2, data_path=fewer)


def test_another_world_size_is_refused(demo: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = program.run_identity
    monkeypatch.setattr(program, "run_identity", lambda *args: {**identity(*args), "world_size": 2})
    with pytest.raises(InputError, match="world_size: was 1, is 2"):
        trainer(demo, finished, max_steps=2)


def test_overwrite_starts_at_step_0_and_keeps_other_files(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subject = trainer(demo, out, max_steps=3)
    subject.train()
    (out / "notes.txt").write_text("mine")
    subject = trainer(demo, out, max_steps=2, overwrite=True)
    assert subject.components.state.step == 0
    subject.train()
    assert [p.name for p in subject.components.opened.directory.checkpoints()] == ["checkpoint-000002"]
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_cannot_train_into_one_folder(demo: Path, tmp_path: Path) -> None:
    first = trainer(demo, tmp_path / "out")
    with pytest.raises(InputError, match="another process is training into it"):
        trainer(demo, tmp_path / "out")
    first.components.opened.directory.close()


def test_float16_is_refused_with_the_reason(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16, which overflows in this model; use bfloat16"):
        trainer(demo, tmp_path / "out", torch_dtype="float16")


# -- ways to end -------------------------------------------------------------------------------------------------------


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
    guilty = [
        r.sample_id
        for r in subject.components.data.train_dataset.records
        if torch.equal(torch.tensor(r.input_ids), victim[0].input_ids[0, : len(r.input_ids)])
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


def test_a_mistyped_flag_gets_the_closest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parse_arguments(["--data_path", "a", "--output_dir", "b", "--lora_target", "heads"], "")
    assert end.value.code == 2
    assert "unknown: --lora_target heads; did you mean --lora_targets?" in capsys.readouterr().err


# -- what is left on disk ----------------------------------------------------------------------------------------------


def test_the_exact_files_of_a_run(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subject = trainer(demo, out, save_steps=1, save_total_limit=2, eval_steps=2, report_to="tensorboard")
    summary = subject.train()
    best = min((r for r in metrics(out) if "eval_loss" in r), key=lambda r: r["eval_loss"])
    kept = {f"checkpoint-{step:06d}" for step in (5, 6, int(best["step"]))}
    assert {p.name for p in out.iterdir()} == {".lock", "run.json", "metrics.jsonl", "tensorboard", *kept}
    assert {p.name for p in summary.checkpoint.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "run.json",
        "trainer_state.json",
    }
    assert summary.best_checkpoint == out / f"checkpoint-{int(best['step']):06d}"
    run = json.loads((summary.checkpoint / "run.json").read_text(encoding="utf-8"))
    assert run["flags"]["prompt_style"] == "voice_clone"
    assert set(run["versions"]) >= {"torch", "transformers", "peft"}
    assert all(tensor.dtype == torch.float32 for tensor in adapter(summary.checkpoint).values())


def test_metrics_hold_every_number_and_the_loss_is_the_weighted_sum(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", text_weight=0.25, audio_weight=2.0)
    subject.train()
    lines = metrics(tmp_path / "out", timed=True)
    names = {"loss", "text_loss", "audio_loss", *(f"audio_loss_codebook_{k}" for k in range(8))}
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6]
    rest = {"step", "grad_norm", "learning_rate", "tokens_per_second", "frames_per_second", "peak_memory_gb"}
    for line in training:
        assert set(line) == names | rest
        assert line["loss"] == pytest.approx(0.25 * line["text_loss"] + 2.0 * line["audio_loss"])
        assert line["audio_loss"] == pytest.approx(sum(line[f"audio_loss_codebook_{k}"] for k in range(8)) / 8)
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [4, 6]
    assert set(evaluations[0]) == {"step", *(f"eval_{name}" for name in names)}


def test_evaluation_is_the_mean_over_all_labels(demo: Path, tmp_path: Path) -> None:
    """The mean does not depend on how the evaluation data are split into micro-batches."""
    results = []
    for name, budget in (("small", 200), ("large", 4096)):
        subject = trainer(demo, tmp_path / name, max_steps=1, max_tokens_per_batch=512)
        subject.config.max_tokens_per_batch = budget
        subject.components.model.eval()
        results.append(subject.components.evaluator.evaluate(subject._training_step, lambda: False)["eval_loss"])
        subject.components.opened.directory.close()
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_new_run_can_start_from_an_adapter(demo: Path, tmp_path: Path) -> None:
    first = trainer(demo, tmp_path / "first").train()
    second = trainer(demo, tmp_path / "second", init_adapter=first.checkpoint)
    assert second.components.state.step == 0
    _, target = next(iter(sorted(adapter(first.checkpoint).items())))
    names = {n.replace(".default", ""): p for n, p in second.components.model.named_parameters() if p.requires_grad}
    assert torch.equal(names[sorted(adapter(first.checkpoint))[0]], target)
    assert second.train().finished


def test_the_adapter_loads_and_merges_as_the_readme_says(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", learning_rate=1e-2, lora_targets=EVERY_GROUP)
    checkpoint = subject.train().checkpoint
    batch = vars(
        subject.components.data.collator(
            [subject.components.data.train_dataset[0], subject.components.data.train_dataset[5]]
        )
    )
    base = HiggsAudioModel.from_pretrained(demo / "model")
    names = base.state_dict().keys()
    with torch.no_grad():
        trained = subject.components.model.eval()(**batch).loss
        untrained = base.eval()(**batch).loss
        model = PeftModel.from_pretrained(base, checkpoint).eval()
        assert model(**batch).loss == trained
        assert trained < untrained - 0.5
        merged = model.merge_and_unload()
        assert merged.state_dict().keys() == names
        assert merged(**batch).loss.item() == pytest.approx(trained.item(), rel=1e-5)


def test_an_adapter_that_does_not_fit_is_refused_before_any_weight_is_loaded(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "load_base_model", None)
    with pytest.raises(InputError, match="r is 16, the flags ask for 8"):
        trainer(demo, tmp_path / "out", init_adapter=finished / "checkpoint-000002", lora_rank=8)
    with pytest.raises(InputError, match="no adapter_config.json and no adapter_model.safetensors in it"):
        trainer(demo, tmp_path / "out", init_adapter=tmp_path)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(demo: Path, tmp_path: Path) -> None:
    one, two, other = (
        trainer(demo, tmp_path / name, seed=seed).train().checkpoint for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same_adapter(one, two)
    with pytest.raises(AssertionError):
        assert_same_adapter(one, other)


def test_bfloat16_trains_with_float32_adapters(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", torch_dtype="bfloat16", max_steps=8, logging_steps=1, eval_data_path=None)
    assert {p.dtype for p in subject.components.optimizer.parameters} == {torch.float32}
    assert {p.dtype for p in subject.components.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert subject.train().finished
    losses = [line["loss"] for line in metrics(tmp_path / "out")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_warms_up_and_then_falls_or_stays(demo: Path, tmp_path: Path, schedule: str) -> None:
    words = flags(demo, tmp_path / "out", max_steps=10, warmup_steps=4, lr_scheduler_type=schedule)
    config = program.parse_arguments(words, "")[0]
    assert warmup_steps_of(config, 10) == 4
    rates = [learning_rate(config, step, warmup_steps=4, total_steps=10) / 3e-3 for step in range(10)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(1.0 if schedule == "constant" else 0.0670, abs=1e-4)


def test_yaml_pairs_are_flags_and_flags_win(demo: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "run.yaml"
    yaml.write_text("learning_rate: 1e-5\nlora_targets: [heads, attention]\ngradient_checkpointing: true\nseed: 7\n")
    training, _, lora, _ = program.parse_arguments([*flags(demo, tmp_path), "--config", str(yaml), "--seed", "9"], "")
    assert (training.learning_rate, training.seed, training.gradient_checkpointing) == (3e-3, 9, True)
    assert lora.lora_targets == ["heads", "attention"]


def test_every_flag_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parse_arguments(["--help"], "")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for config in (
        program.DistributedTrainingConfig,
        program.ArabicVoiceCloningDatasetConfig,
        program.HiggsAudioLoRATrainingConfig,
        program.LossConfig,
    ):
        for field in dataclasses.fields(config):
            assert f"--{field.name}" in text
            assert field.metadata["help"]


def test_only_the_two_paths_have_no_default() -> None:
    required = [f.name for f in dataclasses.fields(program.DistributedTrainingConfig) if _is_required(f)]
    assert required == ["data_path", "output_dir"]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
