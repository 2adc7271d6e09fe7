"""--recompute, --max_tokens_per_batch auto and --dry_run: what they choose, record and print."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from tests.checkpoint_folders import edit_json
from tests.training_runs import flags, trainer
from voice_cloning.run.memory_flags import choose_memory_flags
from voice_cloning.training.config import parse_arguments
from voice_cloning.training.memory_estimate import TrainedModel


def parsed(demo: Path, folder: Path, **changes: Any) -> program.DistributedTrainingConfig:
    return parse_arguments(flags(demo, folder, **changes), "")[0]


def written(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_checkpointing": True, "recompute": "ffn"}, "is on, and recompute is 'ffn'"),
        ({"gradient_checkpointing": False, "recompute": "layer"}, "is off, and recompute is 'layer'"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch is 0; it must be at least 1"),
        ({"max_tokens_per_batch": "auto", "batch_size": 2}, "give one of them"),
        ({"gpu": "24"}, "which is for dry_run"),
    ],
)
def test_flags_that_contradict_are_refused(demo: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parsed(demo, tmp_path / "run", **changes)


@pytest.mark.parametrize("word", ["autoo", "3.5", ""])
def test_a_budget_that_is_no_number_is_refused(
    demo: Path, tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(demo, tmp_path / "run", max_tokens_per_batch=word)
    assert f"{word!r} is not a number of positions; give one, or auto" in capsys.readouterr().err


def test_gradient_checkpointing_is_recompute_layer(demo: Path, tmp_path: Path) -> None:
    assert parsed(demo, tmp_path, gradient_checkpointing=True).recompute == "layer"


def test_auto_is_settled_recorded_and_reused(demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, auto = tmp_path / "run", {"max_tokens_per_batch": "auto", "eval_data_path": None}
    with caplog.at_level("INFO"):
        subject = trainer(demo, run, max_steps=2, save_steps=1, **auto)
    assert "auto is --recompute none --max_tokens_per_batch 2048, on a CPU" in caplog.text
    with subject.components.opened:
        recorded = written(run)
    assert (recorded["flags"]["recompute"], recorded["flags"]["max_tokens_per_batch"]) == ("none", 2048)
    assert recorded["identity"]["flags"]["max_tokens_per_batch"] == 2048
    assert not {"recompute", "gradient_checkpointing", "dry_run", "gpu"} & recorded["identity"]["flags"].keys()
    # The number of the run counts, also where another machine would find another one.
    edit_json(run / "run.json", lambda found: found["flags"].update(max_tokens_per_batch=1000, recompute="ffn"))
    again = parsed(demo, run, **auto)
    assert (again.max_tokens_per_batch, again.recompute) == (1000, "ffn")
    assert parsed(demo, run, recompute="layer", **auto).recompute == "layer"


def test_older_runs_keep_their_level(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with trainer(demo, run, eval_data_path=None).components.opened:
        pass
    for checkpointing, level in ((True, "layer"), (False, "none")):
        edit_json(run / "run.json", lambda found: found["flags"].pop("recompute", None))
        edit_json(run / "run.json", lambda found, on=checkpointing: found["flags"].update(gradient_checkpointing=on))
        assert parsed(demo, run).recompute == level
        assert parsed(demo, run, recompute="ffn").recompute == "ffn"


def test_auto_takes_the_first_level_that_holds_the_default(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "run", eval_data_path=None)
    with subject.components.opened:
        datasets = subject.components.data.datasets
    model = TrainedModel(
        subject.components.data.model_config, replace(subject.lora_config, lora_dropout=0.0), torch.bfloat16
    )
    auto = replace(subject.config, max_tokens_per_batch="auto", recompute="auto")
    lengths = datasets[0].lengths
    chosen = choose_memory_flags(auto, model, datasets, 1, int(80e9))
    assert (chosen.recompute, chosen.max_tokens_per_batch) == ("none", sum(lengths))
    assert choose_memory_flags(auto, model, datasets, 2, int(80e9)).max_tokens_per_batch == -(-sum(lengths) // 2)
    with pytest.raises(InputError, match="positions need .* GB with --recompute layer, and the GPU has 0.0 GB"):
        choose_memory_flags(auto, model, datasets, 1, 1000)
    small = next(a for a in range(10**7, 10**9, 10**6) if 0 < model.largest_budget(a, "layer", max(lengths)) < 128)
    with pytest.raises(InputError, match=r"holds micro-batches of 64 positions(.|\n)*is \d+ positions long"):
        choose_memory_flags(auto, model, datasets, 1, small)


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, ["no GPU in this machine", "24 GB  none", "80 GB  layer"]),
        ({"gpu": "RTX 4090"}, ["card: RTX 4090", "--recompute none (auto)", "weights", "optimizer steps", "PFLOP"]),
        ({"gpu": "24", "max_tokens_per_batch": "auto"}, ["card: a card of 24 GB", "(auto)", "which fits"]),
    ],
)
def test_a_dry_run_prints_and_leaves_nothing(
    demo: Path, tmp_path: Path, more: dict[str, Any], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(demo, tmp_path / "run", code_cache_dir=tmp_path / "cache", dry_run=True, **more)
    assert program.main(words) == 0
    text = capsys.readouterr().out
    assert [word for word in shown if word not in text] == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_a_card_without_bfloat16(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(flags(demo, tmp_path / "run", dry_run=True, gpu="T4")) == 1
    assert "T4 has no bfloat16" in capsys.readouterr().err
    assert program.main(flags(demo, tmp_path / "run", dry_run=True, gpu="T4", torch_dtype="float32")) == 0
