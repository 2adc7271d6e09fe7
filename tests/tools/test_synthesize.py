"""The command that speaks: which output files it makes, what it refuses, and how it ends."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.errors import InputError
from tests.chatml_files import write_clip, write_records
from tests.training_runs import run
from tests.voice_cloning.speech.cloners import (
    SAMPLES_PER_FRAME,
    Script,
    checkpoint_of,
    entry_of,
    make_cloner,
    seed_of,
    targets,
)
from tools import synthesize as tool
from tools.demo.ending import speak_memorised
from voice_cloning.speech import voice_cloner
from voice_cloning.speech.adapter_switch import AdapterSwitch
from voice_cloning.speech.voice_cloner import VoiceCloner


def flags(demo: Path, *words: str | Path) -> list[str]:
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    return [str(word) for word in (*paths, *words)]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if weights are loaded."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(voice_cloner, "load_speaking_model", refuse)
    monkeypatch.setattr(voice_cloner, "load_higgs_audio_tokenizer", refuse)


def test_files_have_the_right_length_and_sound(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    codec: HiggsAudioTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run the whole command on a ChatML manifest."""
    out = tmp_path / "out"
    words = ["--adapter", checkpoint_of(memorised), "--manifest", demo / "four.json", "--output_dir", out, "--greedy"]
    assert tool.main(flags(demo, *words, "--batch_size", "3")) == 0
    records = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    names = [record["misc"]["sample_id"] for record in records]
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{n}.wav{end}" for n in names for end in ("", ".json"))
    for record, name, codes in zip(records, names, targets(memorised), strict=True):
        samples, rate = soundfile.read(out / f"{name}.wav", dtype="float32")
        assert rate == 24_000 and soundfile.info(out / f"{name}.wav").channels == 1
        assert abs(len(samples) - record["misc"]["duration"] * rate) <= SAMPLES_PER_FRAME
        assert (torch.from_numpy(samples) - codec.decode(codes).clamp(-1, 1)).abs().max() <= 2 / 32768
    table = capsys.readouterr().out
    assert [line.split()[:2] for line in table.splitlines()[1:5]] == [[name, "written"] for name in names]
    assert "4 files" in table


# -- files -------------------------------------------------------------------------------------------------------------


def manifest(demo: Path, folder: Path, **texts: str) -> Path:
    reference = {"reference": str(demo / "clips/amal/train_01.wav"), "reference_text": "كيف حالك اليوم"}
    return write_records(folder / "m.json", [{"id": name, "text": text, **reference} for name, text in texts.items()])


@pytest.fixture
def script(demo: Path, codec: HiggsAudioTokenizer, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Replace the model of every cloner by a script."""
    said = Script(None, {})
    monkeypatch.setattr(voice_cloner, "load_speaking_model", lambda *_: said)
    monkeypatch.setattr(AdapterSwitch, "_switch_to", lambda *_: None)
    monkeypatch.setattr(voice_cloner, "load_higgs_audio_tokenizer", lambda *_: codec)
    return said


def test_only_missing_broken_or_changed_outputs_are_made(demo: Path, tmp_path: Path, script: Script) -> None:
    out = tmp_path / "out"

    def speak(*more: str, **texts: str) -> int:
        """Run the command. Return the number of spoken pieces."""
        script.seeds.clear()
        words = flags(demo, "--manifest", manifest(demo, tmp_path, **texts), "--output_dir", out, *more)
        assert tool.main(words) == 0
        return sum(map(len, script.seeds))

    texts = {"a": "نعم", "b": "لا", "c": "شكرا"}
    assert speak(**texts) == 3
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(before) == 6
    assert speak(**texts) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (out / "a.wav").write_bytes((out / "a.wav").read_bytes()[:-100])
    (out / "b.wav.json").write_text("{")
    assert speak(**texts) == 2
    (out / "c.wav").unlink()
    assert speak(**texts) == 1
    assert speak(**{**texts, "b": "كلا"}) == 1
    assert speak(**{**texts, "b": "كلا"}, d="أهلا") == 1
    texts = {**texts, "b": "كلا"}
    assert speak("--seed", "1", **texts) == 3
    assert speak("--seed", "1", "--batch_size", "2", **texts) == 0, "this setting does not change the speech"
    assert speak("--seed", "1", "--temperature", "0.8", **texts) == 3
    assert speak("--seed", "1", "--temperature", "0.8", "--torch_dtype", "bfloat16", **texts) == 3
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_changed_reference_adapter_or_model_is_detected(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path, script: Script
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(checkpoint_of(memorised), adapter)
    model = tmp_path / "model"
    shutil.copytree(demo / "model", model)
    voice, out = write_clip(tmp_path / "voice.wav", 1.0), tmp_path / "out.wav"
    words = ["--text", "نعم", "--reference", voice, "--reference_text", "لا", "--output", out, "--adapter", adapter]
    spoken = []
    for change in range(5):
        if change == 2:
            write_clip(voice, 1.0, seed=1)
        if change == 3:
            tensors = load_file(adapter / "adapter_model.safetensors")
            save_file({name: tensor + 1 for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
        if change == 4:
            os.utime(model / "model.safetensors", ns=(0, 0))
        script.seeds.clear()
        assert tool.main([*flags(demo, *words), "--model_path", str(model)]) == 0
        spoken.append(len(script.seeds))
    assert spoken == [1, 0, 1, 1, 1]


def test_a_weakened_adapter_is_another_one(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    script: Script,
    capsys: pytest.CaptureFixture[str],
) -> None:
    voice = write_clip(tmp_path / "voice.wav", 1.0)
    words = ["--text", "نعم", "--reference", voice, "--reference_text", "لا", "--output", tmp_path / "out.wav"]
    adapted, spoken = ["--adapter", checkpoint_of(memorised)], []
    for scale in ([], ["--adapter_scale", "1.0"], ["--adapter_scale", "0.5"], ["--adapter_scale", "0.5"]):
        script.seeds.clear()
        assert tool.main(flags(demo, *words, *adapted, *scale)) == 0
        spoken.append(len(script.seeds))
    assert spoken == [1, 0, 1, 0]
    for scale, message in (
        ("-0.1", "from 0 (the base) to 2"),
        ("2.5", "to 2 (beyond"),
        ("nan", "adapter_scale is nan"),
    ):
        assert message in errors(capsys, flags(demo, *words, *adapted, "--adapter_scale", scale))
    assert "there is no --adapter to weaken" in errors(capsys, flags(demo, *words, "--adapter_scale", "0.5"))
    assert script.seeds == []


def test_runaways_are_reported_and_not_written(
    demo: Path, tmp_path: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = flags(demo, "--manifest", manifest(demo, tmp_path, a="نعم", b="لا"), "--output_dir", out, "--retries", "1")
    assert tool.main(words) == 0
    assert (out / "a.wav").is_file()
    script.frames |= {seed_of(0, 0): None, seed_of(0, 1): None}
    words += ["--top_k", "40"]
    assert tool.main(words) == tool.RUNAWAY_STATUS
    assert list(out.iterdir()) == [], "the outputs of an earlier call with other settings are removed"
    printed = capsys.readouterr()
    assert "error: a: runaway: no end within 3.2 s: 'نعم'" in printed.err
    assert "error: b: runaway: no end within 2.8 s: 'لا'" in printed.err
    assert "a  not written       3.20       1  -" in printed.out
    assert "0 files, 0.00 s; 2 pieces needed more than one attempt" in printed.out
    script.seeds.clear()
    assert tool.main([*words, "--keep_runaways"]) == tool.RUNAWAY_STATUS
    assert sorted(p.name for p in out.glob("*.wav")) == ["a.runaway.wav", "b.runaway.wav"]
    assert soundfile.info(out / "a.runaway.wav").frames == 80 * SAMPLES_PER_FRAME
    script.seeds.clear()
    assert tool.main(words) == tool.RUNAWAY_STATUS and script.seeds == []
    script.frames.clear()
    assert tool.main([*words, "--seed", "1"]) == 0
    assert sorted(p.name for p in out.glob("*.wav")) == ["a.wav", "b.wav"]


def test_a_file_without_a_record_is_not_overwritten(demo: Path, tmp_path: Path, no_weights: None) -> None:
    voice = write_clip(tmp_path / "voice.wav", 1.0)
    before = voice.read_bytes()
    words = ["--text", "نعم", "--reference", voice, "--reference_text", "لا", "--output", voice]
    assert tool.main(flags(demo, *words)) == 1
    assert voice.read_bytes() == before


def test_after_an_interrupt_files_are_complete_and_the_same_command_resumes(
    demo: Path, tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = flags(demo, "--manifest", manifest(demo, tmp_path, a="نعم", b="شكرا"), "--output_dir", out)
    generate = script.generate

    def interrupted(**inputs: Any) -> Any:
        if script.seeds:
            raise KeyboardInterrupt
        return generate(**inputs)

    monkeypatch.setattr(script, "generate", interrupted)
    assert tool.main([*words, "--batch_size", "1"]) == 130
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "a.wav.json"]
    assert "the same command makes the others" in capsys.readouterr().err
    monkeypatch.setattr(script, "generate", generate)
    script.seeds.clear()
    assert tool.main(words) == 0
    assert sum(map(len, script.seeds)) == 1


# -- wrong inputs ------------------------------------------------------------------------------------------------------


def errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert tool.main(arguments) == 1
    return capsys.readouterr().err


def test_wrong_texts_and_clips_are_listed_together_before_the_model_is_searched(
    tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_path", str(tmp_path / "nowhere"), "--text", " ", "--reference", str(tmp_path / "gone.wav")]
    words += ["--reference_text", "<|AUDIO|>", "--output", str(tmp_path / "out.wav")]
    said = errors(capsys, words)
    assert "--text: cannot be spoken (3):" in said
    assert "--text: ' ' has no words" in said and "--reference_text: '<|AUDIO|>' holds" in said
    assert f"--reference: {tmp_path / 'gone.wav'}: no such file" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["--text is missing", "--reference is missing", "--reference_text is missing", "--output is missing"]),
        (["--manifest", "m.json"], ["--output_dir is missing; --manifest needs it"]),
        (["--manifest", "m.json", "--output_dir", "d", "--text", "x"], ["--text cannot be combined with --manifest"]),
        (["--manifest", "m.json", "--output_dir", "d", "--batch_size", "0"], ["--batch_size is 0"]),
        (
            ["--text", "x", "--reference", "r", "--reference_text", "x", "--output", "a.mp3"],
            ["--output a.mp3: its name must end in .wav"],
        ),
        (["--manifest", "m.json", "--output_dir", "d", "--top_p", "0"], ["top_p is 0.0"]),
        (["--manifest", "m.json", "--output_dir", "d", "--retries", "-1"], ["retries is -1"]),
        (["--manifest", "m.json", "--output_dir", "d", "--slowest_letters_per_second", "0"], ["must be above 0"]),
        (["--manifest", "nowhere.json", "--output_dir", "d"], ["nowhere.json: no such file"]),
    ],
)
def test_wrong_flags(words: list[str], said: list[str], no_weights: None, capsys: pytest.CaptureFixture[str]) -> None:
    printed = errors(capsys, words)
    assert all(message in printed for message in said), printed


def test_a_wrong_adapter_is_refused_before_weights_are_loaded(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = flags(demo, "--manifest", manifest(demo, tmp_path, a="نعم"), "--output_dir", tmp_path / "out", "--adapter")
    adapter = tmp_path / "adapter"
    assert f"--adapter {adapter}: no adapter_config.json and no" in errors(capsys, [*words, str(adapter)])
    shutil.copytree(checkpoint_of(memorised), adapter)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    names = sorted(tensors)
    stray = {**{n: t for n, t in tensors.items() if n != names[0]}, "stray": tensors[names[0]]}
    stray[names[1]] = tensors[names[1]][:3].clone()
    save_file(stray, weights)
    said = errors(capsys, [*words, str(adapter)])
    assert "stray: not the name of a tensor of a LoRA adapter" in said
    save_file({name: tensor for name, tensor in stray.items() if name != "stray"}, weights)
    said = errors(capsys, [*words, str(adapter)])
    first, second = (name.removeprefix("base_model.model.") for name in names[:2])
    assert f"{first}: missing from adapter_model.safetensors" in said and f"{second}: has shape (3, " in said
    weights.write_bytes(weights.read_bytes()[:-50])
    assert f"--adapter {adapter}: adapter_model.safetensors is damaged" in errors(capsys, [*words, str(adapter)])
    save_file(tensors, weights)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": "nothing.like.it"}))
    assert f"--adapter {adapter}: Target modules nothing.like.it not found" in errors(capsys, [*words, str(adapter)])
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "IA3"}))
    assert "adapter_config.json has peft_type 'IA3'; it must be LORA" in errors(capsys, [*words, str(adapter)])
    (adapter / "adapter_config.json").write_text("{")
    assert f"--adapter {adapter}: adapter_config.json is not JSON" in errors(capsys, [*words, str(adapter)])


def test_a_reference_that_is_too_long_for_the_model_is_refused(demo: Path, tmp_path: Path, no_weights: None) -> None:
    subject = make_cloner(demo)
    subject.config.text_config.max_position_embeddings = 300
    voice = write_clip(tmp_path / "voice.wav", 12.0)
    with pytest.raises(InputError, match=r"the text: .* may need \d+ positions; the model has 300"):
        subject.speak("نعم", voice, "لا")


def test_an_output_folder_that_is_not_writable_is_refused(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    words = flags(demo, "--manifest", manifest(demo, tmp_path, a="نعم"), "--output_dir", taken)
    assert f"{taken}: cannot be written to" in errors(capsys, words)


def test_an_unusable_device_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="--device meteor: cannot be used"):
        VoiceCloner(model_path=str(demo / "model"), audio_tokenizer_path=str(demo / "audio_tokenizer"), device="meteor")


# -- as commands -------------------------------------------------------------------------------------------------------


def test_the_command_speaks_one_text(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path
) -> None:
    record = entry_of(json.loads((demo / "four.json").read_text(encoding="utf-8"))[2])
    out = tmp_path / "new" / "out.wav"
    words = ["--text", record["text"], "--reference", demo / record["reference"], "--output", out, "--greedy"]
    words += ["--reference_text", record["reference_text"], "--adapter", checkpoint_of(memorised)]
    result = run([sys.executable, "-m", "tools.synthesize", *flags(demo, *words)])
    assert result.returncode == 0, result.stderr
    assert soundfile.info(out).frames == targets(memorised)[2].shape[1] * SAMPLES_PER_FRAME
    assert (
        "1 files" in result.stdout
        and "prompt_style voice_clone, text_normalisation none, torch.float32 on cpu" in result.stderr
    )
    assert "Warning" not in result.stderr


def test_the_demo_ends_with_a_memorised_clip(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path
) -> None:
    """The test uses four clips instead of the demo's sixteen. The first clip is the same."""
    folder = tmp_path / "demo"
    for name in ("model", "audio_tokenizer", "clips"):
        shutil.copytree(demo / name, folder / name)
    shutil.copy(demo / "four.json", folder / "train_chatml_samples.json")
    with pytest.raises(InputError, match="no checkpoint in it"):
        speak_memorised(folder)
    shutil.copytree(checkpoint_of(memorised), folder / "run" / "checkpoint-000080")
    line = speak_memorised(folder)
    frames = targets(memorised)[0].shape[1]
    assert f"spoken from memory, {frames} frames for {frames}; every code equals that of the training clip" in line
    assert soundfile.info(folder / "memorised.wav").frames == frames * SAMPLES_PER_FRAME
