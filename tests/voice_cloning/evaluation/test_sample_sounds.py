"""The clips of a run that can be listened to: exact files, true sound, and what each reporter gets."""

import errno
import json
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.errors import InputError
from tests.spoken_runs import sample_lines, spoken_trainer
from tests.training_runs import trainer
from voice_cloning.evaluation import asked_samples
from voice_cloning.evaluation.sample_sounds import SampleSounds
from voice_cloning.speech.sample_prompts import cut_at_target
from voice_cloning.training.metrics import MetricsWriter

IDS = ["amal/one", "amal_one", "\u0633\u0644\u0627\u0645", "../../up"]
NAMES = ["amal_one", "amal_one-2", "\u0633\u0644\u0627\u0645", "_._.._up"]


class Reported:
    """A writer that keeps clips, sounds and pictures."""

    def __init__(self) -> None:
        self.clips: dict[str, int] = {}
        self.given: list[tuple[str, int, str, int]] = []

    def write_clip(self, name: str, samples: Tensor, sampling_rate: int) -> None:
        self.clips[name] = samples.numel()

    def write_sound(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        self.given.append(("sound", step, tag, samples.numel()))

    def write_mel(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        self.given.append(("mel", step, tag, samples.numel()))


def test_the_exact_clips_of_a_run(
    demo: Path, codec: HiggsAudioTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_samples, "LONGEST_IN_TRUE_CLIPS", 1)  # in less time
    records = json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8"))
    for record, sample_id in zip(records, IDS, strict=True):
        record["misc"]["sample_id"] = sample_id
    named = demo / "named.json"
    named.write_text(json.dumps(records), encoding="utf-8")
    out = tmp_path / "out"
    subject = trainer(demo, out, eval_data_path=named, num_scored_samples=3, num_samples=2, max_steps=2, eval_steps=1)
    assert subject.train().finished
    heard = subject.components.speech._asked[:2]
    assert [sample.file_name for sample in heard] == [NAMES[sample.index] for sample in heard]
    assert heard[0].speaker != heard[1].speaker
    wanted = {
        f"{folder}/{s.file_name}.wav" for folder in ("reference", "true", "step-000001", "step-000002") for s in heard
    }
    assert {str(path.relative_to(out / "samples")) for path in (out / "samples").rglob("*.*")} == wanted
    lines = {(line["step"], line["sample"]): line for line in sample_lines(out)}
    assert len(lines) == 6
    for sample in heard:
        cut = cut_at_target(subject.components.data.eval_dataset[sample.index], subject.components.data.model_config)
        for name, codes in (("reference", cut.reference_KT), ("true", cut.target_KT)):
            written = (out / "samples" / name / f"{sample.file_name}.wav").read_bytes()
            assert written == wav_bytes(codec.decode(codes), codec.sampling_rate)
        for step in (1, 2):
            found = soundfile.info(out / "samples" / f"step-{step:06d}" / f"{sample.file_name}.wav")
            assert found.samplerate == codec.sampling_rate
            assert found.frames == 960 * lines[step, sample.sample_id]["frames"]


def test_each_reporter_gets_sound_and_picture_of_clips_that_have_any(
    demo: Path, tmp_path: Path, codec: HiggsAudioTokenizer
) -> None:
    sounds, writer = SampleSounds(demo / "audio_tokenizer", torch.device("cpu")), Reported()
    asked = [
        asked_samples.AskedSample(0, "a/b", "a_b", None, "text", 1, 10, 20, 5),
        asked_samples.AskedSample(1, "c", "c", None, "text", 2, 10, 20, 5),
    ]
    codes = torch.randint(0, 1024, (8, 5))
    waves = sounds.decode({asked[0]: codes, asked[1]: codes[:, :0]})
    assert torch.equal(waves[asked[0]], codec.decode(codes)) and waves[asked[1]].numel() == 0
    sounds.write_step(writer, 12, waves)
    tag = "samples/a_b/spoken"
    assert writer.given == [("sound", 12, tag, 4800), ("mel", 12, tag, 4800)]
    assert writer.clips == {"samples/step-000012/a_b.wav": 4800, "samples/step-000012/c.wav": 0}
    writer.given.clear()
    sounds.write_originals(writer, 12, {asked[0]: codes}, {asked[0]: codes, asked[1]: codes})
    tags = [tag for kind, _, tag, _ in writer.given if kind == "sound"]
    assert tags == ["samples/a_b/reference", "samples/a_b/true", "samples/c/true"]


def test_the_codec_leaves_the_device_also_after_an_error(demo: Path, tmp_path: Path) -> None:
    sounds = SampleSounds(demo / "audio_tokenizer", torch.device("meta"))
    sample = asked_samples.AskedSample(0, "a", "a", None, "text", 1, 10, 20, 5)
    moved: list[str] = []
    sounds._codec.model.to = lambda device: moved.append(str(device))
    with pytest.raises(RuntimeError):
        sounds.decode({sample: torch.zeros(3, 4)})
    assert moved == ["meta", "cpu"]


def test_a_full_disk_is_named(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("voice_cloning.training.metrics.write_whole", full)
    sounds = SampleSounds(demo / "audio_tokenizer", torch.device("cpu"))
    sample = asked_samples.AskedSample(0, "a", "a", None, "text", 1, 10, 20, 5)
    with pytest.raises(InputError, match=f"^{tmp_path}: the disk is full .*step-000003/a.wav.*resumes from its newest"):
        sounds.write_step(MetricsWriter(tmp_path, [], 0, {}), 3, {sample: torch.zeros(10)})


def test_a_codec_that_cannot_be_loaded_costs_the_clips_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert spoken_trainer(tmp_path / "run", max_steps=1).train().finished
    (line,) = [r.message for r in caplog.records if r.message.startswith("speech: ")]
    assert line == (
        "speech: 5 of 7 evaluation samples are spoken at every evaluation; no WAV is written, because "
        "--audio_tokenizer_path no_codec is no codec with weights on this machine. The figures do not need it"
    )
    assert not (tmp_path / "run" / "samples").exists() and len(sample_lines(tmp_path / "run")) == 5


def test_a_damaged_codec_is_found_before_the_model_is_loaded(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clips are all encoded, so that nothing but speech needs it."""

    def damaged(folder: Path) -> None:
        raise InputError(f"{folder}: tensors do not fit the codec's configuration")

    monkeypatch.setattr("voice_cloning.evaluation.sample_sounds.load_higgs_audio_tokenizer", damaged)
    monkeypatch.setattr(program, "create_higgs_audio_lora_model", None)
    with pytest.raises(InputError, match="audio_tokenizer: tensors do not fit"):
        trainer(demo, tmp_path / "out", num_scored_samples=2)
