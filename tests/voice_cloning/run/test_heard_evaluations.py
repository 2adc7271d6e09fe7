"""``--asr`` in runs of the demo, with a recogniser that says what a table says; and what the flags of speech refuse."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from tests.spoken_runs import SPOKEN, TINY, spoken_trainer
from tests.training_runs import command, flags, metrics, run, trainer
from tests.voice_cloning.evaluation.tiny_recognisers import make_whisper
from voice_cloning.evaluation.recognisers import Heard
from voice_cloning.evaluation.sample_sounds import SampleSounds
from voice_cloning.evaluation.word_errors import text_errors
from voice_cloning.run.components import FinishedRun
from voice_cloning.run.dry_run import dry_run
from voice_cloning.training.checkpoints import read_state
from voice_cloning.training.config import parse_arguments


class SaysTheFirstWord:
    """A recogniser that is asked for clips in the order of the samples, and hears the first word of each text."""

    name = "first-word"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.loaded = 0

    def load(self) -> "SaysTheFirstWord":
        self.loaded += 1
        return self

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        assert all(clip.samples is not None and clip.sampling_rate == 24000 for clip in clips)
        assert len(clips) == len(self.texts)
        return [text.split()[0] for text in self.texts]


def test_a_recogniser_hears_the_scored_samples(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = SaysTheFirstWord([])
    monkeypatch.setattr("voice_cloning.run.speech.find_recogniser", lambda *_: listener)
    settings = {"num_scored_samples": 2, "num_samples": 0, "max_steps": 1, "asr": "listener", "keep_best_by": "loss"}
    subject = trainer(demo, tmp_path / "out", **settings)
    texts = listener.texts = [sample.text for sample in subject.components.speech._asked]
    subject.train()
    lines = metrics(tmp_path / "out")
    samples = [line for line in lines if "sample" in line]
    (evaluation,) = (line for line in lines if "eval_loss" in line)
    assert [line["text"] for line in samples] == texts
    assert [line["recognised"] for line in samples] == [text.split()[0] for text in texts]
    # One word of each text is right, and all others are left out.
    words = [len(text.split()) for text in texts]
    assert [line["words"] for line in samples] == words
    assert [line["word_errors"] for line in samples] == [count - 1 for count in words]
    assert evaluation["spoken_wer"] == (sum(words) - 2) / sum(words)
    found = [text_errors(text, text.split()[0], "scoring") for text in texts]
    assert [line["character_errors"] for line in samples] == [errors.character_errors for errors in found]
    assert [line["scored_characters"] for line in samples] == [errors.characters for errors in found]
    # Not those of the recogniser: letters and digits alone.
    assert [line["characters"] for line in samples] == [len("".join(text.split())) for text in texts]
    characters = sum(errors.characters for errors in found)
    assert evaluation["spoken_cer"] == sum(line["character_errors"] for line in samples) / characters
    checkpoint = tmp_path / "out" / "checkpoint-000001"
    best = read_state(checkpoint)["best"]
    assert (best["words"], best["recogniser"]) == (words, "first-word")
    assert "| word error rate | " in (checkpoint / "README.md").read_text(encoding="utf-8")
    again = trainer(demo, tmp_path / "out", **settings)
    assert isinstance(again.components, FinishedRun) and listener.loaded == 1, "a finished run hears nothing any more"


def test_a_clip_is_decoded_once_for_the_recogniser_and_the_listener(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, decoded = SaysTheFirstWord([]), []
    monkeypatch.setattr("voice_cloning.run.speech.find_recogniser", lambda *_: listener)
    settings = {"num_scored_samples": 3, "num_samples": 2, "max_steps": 1, "asr": "listener"}
    subject = trainer(demo, tmp_path / "out", **settings)
    speech, decode = subject.components.speech, SampleSounds.decode
    listener.texts = [sample.text for sample in speech._asked]

    def counted(self: SampleSounds, clips: dict[Any, Any]) -> dict[Any, Any]:
        decoded.append(len(clips))
        return decode(self, clips)

    monkeypatch.setattr(SampleSounds, "decode", counted)
    subject.train()
    assert decoded[0] == 3 and sum(decoded) <= 3 + 2 * 2, "the others are references and true clips"
    written = sorted((tmp_path / "out/samples/step-000001").iterdir())
    assert len(written) == 2 and all(soundfile.info(path).frames > 0 for path in written)


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clip is encoded and no weight is loaded."""
    for name in ("encode_and_pack", "create_higgs_audio_lora_model", "load_base_model", "open_run_directory"):
        monkeypatch.setattr(program, name, None)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_what_cannot_be_heard_is_refused_before_anything_is_loaded(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**settings: Any) -> str:
        with pytest.raises(InputError) as caught:
            trainer(
                demo, tmp_path / "out", **{"num_scored_samples": 2, "code_cache_dir": tmp_path / "cache", **settings}
            )
        return str(caught.value)

    assert "--asr nowhere: no such folder" in refused(asr="nowhere")
    model = refused(asr=demo / "model")
    assert f"--asr {demo / 'model'}: " in model and "is no speech recogniser that can be used" in model
    english = make_whisper(tmp_path / "english", ("<|en|>",))
    assert "Arabic" in refused(asr=english)
    few = refused(keep_best_by="stop_rate", num_scored_samples=32)
    samples = len(json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8")))
    assert samples < 32
    assert f"val_chatml_samples.json has {samples} samples; fewer than 32 cannot decide" in few


def test_without_a_codec_nobody_can_hear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("create_higgs_audio_lora_model", "open_run_directory"):
        monkeypatch.setattr(program, name, None)
    settings = {"asr": "asr", "keep_best_by": "wer", "num_scored_samples": 32}
    with pytest.raises(InputError) as caught:
        spoken_trainer(tmp_path / "out", **settings)
    # All of it at once.
    assert "has 7 samples; fewer than 32 cannot decide" in str(caught.value)
    assert "--asr asr: hears waveforms, but --audio_tokenizer_path no_codec is no codec with weights" in str(
        caught.value
    )
    words = flags(TINY, tmp_path / "out", **{**SPOKEN, **settings, "dry_run": None})
    with pytest.raises(InputError, match="fewer than 32 cannot decide"):
        dry_run(*parse_arguments([*words, "--dry_run"], "")[:3])


def test_a_model_that_cannot_speak_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(TINY / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "use_delay_pattern": False}), encoding="utf-8")
    data = tmp_path / "eval.json"
    records = json.loads((TINY / "train.json").read_text(encoding="utf-8"))
    data.write_text(json.dumps(records * 5), encoding="utf-8")
    settings = {"model_path": model, "eval_data_path": data, "num_scored_samples": 32}
    with pytest.raises(
        InputError, match="--keep_best_by: needs spoken samples, and config.json .* use_delay_pattern false"
    ):
        spoken_trainer(tmp_path / "out", keep_best_by="stop_rate", **settings)


@pytest.mark.slow
def test_two_processes_agree_on_what_they_heard_and_on_the_end(demo: Path, tmp_path: Path) -> None:
    """With a recogniser of random weights. The learning rate is so small that no evaluation beats the first one."""
    listener = make_whisper(tmp_path / "listener")
    records = json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8"))
    data = demo / "two_processes.json"
    copies = -(-32 // len(records))
    named = [
        {**r, "misc": {**r.get("misc", {}), "sample_id": f"s{n}_{k}"}}
        for k in range(copies)
        for n, r in enumerate(records)
    ]
    data.write_text(json.dumps(named), encoding="utf-8")
    settings = {"eval_data_path": data, "num_scored_samples": 32, "num_samples": 0, "max_steps": 4, "eval_steps": 1}
    settings |= {"asr": listener, "keep_best_by": "wer", "patience": 1, "learning_rate": 1e-30, "lora_dropout": 0.0}
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        ended = run(command(flags(demo, out, **settings), None if processes == 1 else processes))
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert "finished: 2 steps\nended by --patience: no better evaluation since step 1" in ended.stdout
        found[processes] = [line for line in metrics(out) if "sample" in line]
        assert read_state(out / "checkpoint-000002")["ended_early"]
    assert len(found[1]) == 64 and found[1] == found[2]
    assert len({line["recognised"] for line in found[1]}) > 1
