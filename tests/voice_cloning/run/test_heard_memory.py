"""The recogniser and the codec are counted where they lie on the same GPU: in the choice of flags, speech, dry runs."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.process_group import Ranks
from lora_config import HiggsAudioLoRATrainingConfig
from tests.spoken_runs import spoken_trainer
from tests.training_runs import flags, trainer
from tests.voice_cloning.evaluation.tiny_recognisers import make_whisper
from voice_cloning.evaluation.recognisers import find_recogniser
from voice_cloning.run import memory_flags, speech
from voice_cloning.run.components import Placement
from voice_cloning.run.heard_memory import HeardMemory
from voice_cloning.run.memory_advice import NextStart, _cheaper_speech
from voice_cloning.training.config import DistributedTrainingConfig, parse_arguments
from voice_cloning.training.gpu_cards import GB, GpuCard

GPU = Placement(torch.device("cuda", 0), torch.bfloat16)
CARD = GpuCard("a card", 24 * GB, 20 * GB, None, True)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of which 20 GB are available."""
    for place in (memory_flags, speech):
        monkeypatch.setattr(place, "smallest_card", lambda *_: CARD)


def recogniser(gigabytes: int) -> Any:
    return SimpleNamespace(name="a", weight_bytes=gigabytes * GB, load=lambda: None)


def test_both_are_counted_from_their_files(demo: Path, tmp_path: Path) -> None:
    found = find_recogniser(str(make_whisper(tmp_path)), device=torch.device("cpu"))
    subject = trainer(demo, tmp_path / "out", num_scored_samples=2)
    data, config = subject.components.data, subject.config
    codec = sum(path.stat().st_size for path in (demo / "audio_tokenizer").glob("model*.safetensors"))
    assert HeardMemory.of_run(config, data, None) == HeardMemory(0, codec) and codec > 0
    assert HeardMemory.of_run(config, data, found) == HeardMemory(found.weight_bytes, codec)
    config.num_samples = 0
    assert HeardMemory.of_run(config, data, None) == HeardMemory()
    config.asr = "a"
    assert HeardMemory.of_run(config, data, found).codec == codec, "the recogniser hears all samples"


def test_flags_are_chosen_for_what_the_recogniser_leaves(
    card: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = DistributedTrainingConfig(data_path="a", output_dir="b", recompute="auto")
    data = SimpleNamespace(model_config=None, datasets=[], codec=SimpleNamespace(is_whole=False))
    asked: list[int] = []
    monkeypatch.setattr(memory_flags, "choose_memory_flags", lambda *given: asked.append(given[-1]) or config)
    with caplog.at_level("INFO"):
        for beside in (None, recogniser(3)):
            memory_flags.settle_memory_flags(config, HiggsAudioLoRATrainingConfig(), data, Ranks(), GPU, beside)
    assert asked == [20 * GB, 17 * GB]
    assert "for 20.0 GB of GPU memory\n" in caplog.text
    assert "for 17.0 GB of GPU memory, beside 3.0 GB for the recogniser of --asr" in caplog.text


def test_speech_takes_what_the_recogniser_leaves(
    card: None, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = trainer(demo, tmp_path / "out", num_scored_samples=2, num_samples=0)
    asked: list[int] = []
    monkeypatch.setattr(speech, "positions_that_fit", lambda _, available: asked.append(available) or 300)
    settings = subject.components.data, subject.config, subject.dataset_config, subject.lora_config, Ranks(), GPU
    for beside in (None, recogniser(3)):
        made = speech.make_speech(*settings, beside)
        assert made.has_recogniser == (beside is not None)
    assert asked == [20 * GB, 17 * GB]


def test_a_dry_run_counts_both(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_whisper(tmp_path / "whisper")
    size = find_recogniser(str(folder), device=torch.device("cpu")).weight_bytes

    def shown(**more: Any) -> str:
        words = flags(demo, tmp_path / "run", dry_run=True, gpu="24", **{"num_scored_samples": 2, **more})
        assert program.main(words) == 0
        return capsys.readouterr().out

    without, with_asr = shown(), shown(asr=folder)
    assert "recogniser" not in without and with_asr.count(f"recogniser of --asr {size / GB:31.2f} GB") == 2
    speech_part = with_asr.partition("memory while samples are spoken, estimated:")[2]
    assert "what lasts from step to step" in speech_part and "together" in speech_part and "which fits" in speech_part
    assert re.search(r"codec, when the cache is gone|key-value cache of [0-9,]+ positions, at most", speech_part)
    assert "memory while samples are spoken" not in shown(num_scored_samples=0)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_fetches_no_recogniser(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"dry_run": True, "gpu": "24", "num_scored_samples": 2}
    assert program.main(flags(demo, tmp_path / "run", **given, asr="someone/whisper-that-is-nowhere")) == 0
    assert "--asr someone/whisper-that-is-nowhere is not on this machine" in capsys.readouterr().err
    assert program.main(flags(demo, tmp_path / "run", **given, asr="nowhere")) == 1
    assert "--asr nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("keep_best_by", ["loss", "stop_rate", "wer"])
@pytest.mark.parametrize("hears", [False, True])
def test_the_program_takes_the_advice_for_speech(tmp_path: Path, keep_best_by: str, hears: bool) -> None:
    if keep_best_by == "wer" and not hears:
        return
    run = spoken_trainer(tmp_path / "run").components
    run.speech._recogniser = recogniser(1) if hears else None
    given = ["--data_path", "a", "--output_dir", str(tmp_path / "run"), "--eval_data_path", "b", "--resume", "none"]
    given += ["--keep_best_by", keep_best_by, *(["--asr", "c"] if hears else [])]
    found = _cheaper_speech(NextStart(parse_arguments(given, "")[0], None), run)
    assert len(found) == 2
    for remedy in found:
        assert bool(remedy.words) != ("smaller recogniser" in remedy.text)
        config = parse_arguments([*given, *remedy.words], "")[0]
        assert config.keep_best_by == ("loss" if remedy.words else keep_best_by)
