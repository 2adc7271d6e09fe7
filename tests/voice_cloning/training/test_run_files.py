"""What a run leaves on disk: its files, its metrics, and an adapter that loads and merges."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.training_runs import EVERY_GROUP, adapter, metrics, trainer
from voice_cloning import __version__


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
    assert run["version"] == __version__
    assert f"- the trainer's version: {__version__}" in (summary.checkpoint / "README.md").read_text(encoding="utf-8")
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
    names |= {"accuracy_end", "accuracy_end_codebook_0", *(f"accuracy_codebook_{k}" for k in range(8))}
    assert set(evaluations[0]) == {"step", *(f"eval_{name}" for name in names)}


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
