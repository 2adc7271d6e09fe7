"""Test speech: prompts equal the start of training samples, memorised clips are spoken, and output files are right."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal import seeds
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from boson_multimodal.model.higgs_audio.generation import HiggsAudioGenerationOutput, SamplingConfig
from tests.boson_multimodal.test_whisper_mode import write_model
from tests.chatml_files import load, make_cache, write_clip, write_records
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.training_runs import run
from tools import synthesize as tool
from tools.demo.ending import speak_memorised
from voice_cloning.speech import voice_cloner
from voice_cloning.speech.requests import SpeechRequest, read_manifest, request_of_text
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner

SAMPLES_PER_FRAME = 960
GREEDY = SpeechSettings(sampling=SamplingConfig(do_sample=False))
STYLES = ("as_written", "voice_clone")


def checkpoint_of(subject: ArabicVoiceCloningDistributedTrainer) -> Path:
    return Path(subject.config.output_dir) / "checkpoint-000080"


def make_cloner(demo: Path, **settings: Any) -> VoiceCloner:
    return VoiceCloner(
        model_path=str(demo / "model"), audio_tokenizer_path=str(demo / "audio_tokenizer"), device="cpu", **settings
    )


@pytest.fixture(scope="module")
def cloner(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> VoiceCloner:
    """Return a greedy cloner with the adapter that has memorised four clips."""
    return make_cloner(demo, adapter=checkpoint_of(memorised), settings=GREEDY)


@pytest.fixture(scope="module")
def untrained(demo: Path, codec: HiggsAudioTokenizer) -> VoiceCloner:
    """Return a cloner without adapter. It keeps the codes of references for both prompt styles."""
    subject = make_cloner(demo)
    subject.codec = codec
    return subject


def targets(subject: ArabicVoiceCloningDistributedTrainer) -> list[Tensor]:
    """Return the (K, T) codes of each sample's last clip."""
    samples = [subject.components.data.train_dataset[i] for i in range(len(subject.components.data.train_dataset))]
    return [s.audio_ids_concat[:, s.audio_ids_start[-1] :] for s in samples]


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


# -- the prompt --------------------------------------------------------------------------------------------------------


def entry_of(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert a training record to a manifest entry."""
    reference = raw["messages"][1]["content"][1]["audio_url"]
    texts = {"text": raw["misc"]["target_transcript"], "reference_text": raw["misc"]["ref_transcript"]}
    return {"id": raw["misc"]["sample_id"], "reference": reference, **texts}


def assert_prompts_are_heads(
    data: Path, style: str, cloner: VoiceCloner, dataset: ArabicVoiceCloningDataset, manifest: Path
) -> None:
    """For every record, the prompt's ids and columns are those of its training sample up to the trained clip."""
    requests, problems = read_manifest(manifest, style)
    assert problems == [] and len(requests) == len(dataset)
    slot = cloner.config.audio_out_token_idx
    for request, index in zip(requests, range(len(dataset)), strict=True):
        prompt, sample = cloner.prompt(request.pieces[0], data.parent), dataset[index]
        head = prompt.input_ids.numel()
        assert torch.equal(prompt.input_ids, sample.input_ids[:head])
        assert prompt.input_ids[-1] == cloner.config.audio_out_bos_token_id
        assert sample.input_ids[head] == slot and sample.label_ids[head] == slot, (
            "the next position is the trained clip"
        )
        asked, trained = cloner.collator([prompt]), cloner.collator([sample])
        assert asked.audio_in_ids.shape[1] + asked.audio_out_ids.shape[1] > 9, "the prompt contains the reference"
        assert torch.equal(asked.audio_in_ids, trained.audio_in_ids)
        assert torch.equal(asked.audio_out_ids, trained.audio_out_ids[:, : asked.audio_out_ids.shape[1]])
        starts = asked.audio_out_ids_start
        assert torch.equal(starts, trained.audio_out_ids_start[: starts.numel()])
        assert trained.audio_out_ids_start[starts.numel() :].tolist() == [asked.audio_out_ids.shape[1]]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "data",
    [
        "demo/train",
        "demo/val",
        pytest.param("samples/train", marks=needs_samples),
        pytest.param("samples/val", marks=needs_samples),
    ],
)
def test_prompts_are_the_heads_of_training_samples(
    demo: Path, tokenizer: PreTrainedTokenizerBase, untrained: VoiceCloner, tmp_path: Path, data: str, style: str
) -> None:
    """Requests by record and by text give the same prompts as the trainer makes from the file."""
    place, split = data.split("/")
    path = (demo if place == "demo" else SAMPLES_DIR) / f"{split}_chatml_samples.json"
    dataset = load(path, tokenizer, make_cache(demo / "prompt_codes"), prompt_style=style)
    dataset.encode_missing(lambda: untrained.codec)
    assert_prompts_are_heads(path, style, untrained, dataset, path)
    entries = [entry_of(raw) for raw in json.loads(path.read_text(encoding="utf-8"))]
    as_texts = write_records(tmp_path / "texts.json", entries)
    assert_prompts_are_heads(path, style, untrained, dataset, as_texts)


@pytest.mark.parametrize("codes", [False, True])
def test_a_reference_reaches_a_tower_as_in_training(
    demo: Path, tokenizer: PreTrainedTokenizerBase, codec: HiggsAudioTokenizer, tmp_path: Path, codes: bool
) -> None:
    """A checkpoint with a tower gets the features of each chunk, and generates speech."""
    model = write_model(demo, tmp_path / "model", encode_audio_in_tokens=codes)
    subject = VoiceCloner(
        model_path=str(model),
        audio_tokenizer_path=str(demo / "audio_tokenizer"),
        prompt_style="as_written",
        device="cpu",
        settings=replace(GREEDY, slowest_letters_per_second=1000.0),
    )
    subject.codec = codec
    voice = write_clip(tmp_path / "voice.wav", 0.9 if codes else 2.4)
    entry = {"id": "a", "text": "نعم", "reference": voice.name, "reference_text": "لا"}
    (request,), _ = read_manifest(write_records(tmp_path / "m.json", [entry]), "as_written")
    example = VoiceCloningExample("لا", AudioContent(voice.name), "نعم", AudioContent(voice.name))
    path = write_records(tmp_path / "train.json", [example.record("a", "amal", 0.9)])
    dataset = load(path, tokenizer, make_cache(tmp_path / "codes"), reference=ReferenceForm.of(subject.config))
    dataset.encode_missing(lambda: codec)
    asked = subject.collator([subject.prompt(request.pieces[0], tmp_path)])
    trained = subject.collator([dataset[0]])
    head = int(asked.attention_mask.sum())
    assert torch.equal(asked.input_ids[0, :head], trained.input_ids[0, :head])
    assert asked.audio_features.shape[0] == (1 if codes else 3)
    assert torch.equal(asked.audio_features, trained.audio_features)
    assert torch.equal(asked.audio_feature_attention_mask, trained.audio_feature_attention_mask)
    assert (asked.audio_in_ids is None) == (not codes)
    assert not codes or torch.equal(asked.audio_in_ids, trained.audio_in_ids)
    ((_, speech),) = subject.speak_all([request])
    assert speech.pieces[0].codes.shape == (8, 51) and speech.failures, "the model is not trained to end"


def test_the_prompt_style_comes_from_the_adapters_run(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(checkpoint_of(memorised), adapter)
    assert make_cloner(demo).prompt_style == "voice_clone"
    assert make_cloner(demo, adapter=adapter).prompt_style == "voice_clone"
    assert make_cloner(demo, adapter=adapter, prompt_style="as_written").prompt_style == "as_written"
    described = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    described["flags"]["prompt_style"] = "as_written"
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    assert make_cloner(demo, adapter=adapter).prompt_style == "as_written"
    (adapter / "run.json").write_text("{}")
    with pytest.raises(InputError, match="does not have flags.prompt_style"):
        make_cloner(demo, adapter=adapter)
    (adapter / "run.json").unlink()
    assert make_cloner(demo, adapter=adapter).prompt_style == "voice_clone"


def test_an_adapter_trained_on_other_turns_gives_a_warning(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(checkpoint_of(memorised), adapter)
    make_cloner(demo, adapter=adapter)
    assert capsys.readouterr().err == ""
    records = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    records[0]["messages"][0]["content"] = "Speak."
    described = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    described["flags"]["prompt_style"] = "as_written"
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    make_cloner(demo, adapter=adapter)
    assert capsys.readouterr().err == "", "the turns of the demo are those in which a text is spoken"
    described["flags"]["data_path"] = str(write_records(tmp_path / "other.json", records))
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    make_cloner(demo, adapter=adapter)
    warning = f"warning: {tmp_path / 'other.json'}, the training data of the adapter, has other turns"
    assert warning in capsys.readouterr().err


# -- what was memorised ------------------------------------------------------------------------------------------------


def test_memorised_clips_are_spoken_exactly(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, cloner: VoiceCloner
) -> None:
    """The codes are equal and end at the last frame, for single clips and in batches."""
    requests = read_manifest(demo / "four.json", "voice_clone")[0]
    wanted = {r.name: codes for r, codes in zip(requests, targets(memorised), strict=True)}
    for batch_size in (1, 3):
        spoken = dict((r.name, speech) for r, speech in cloner.speak_all(requests, batch_size))
        assert spoken.keys() == wanted.keys()
        for name, speech in spoken.items():
            assert speech.failures == [] and len(speech.pieces) == 1
            assert torch.equal(speech.pieces[0].codes, wanted[name])
            assert torch.equal(speech.samples, cloner.codec.decode(wanted[name]))


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


def test_swapped_references_change_the_speech(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, cloner: VoiceCloner
) -> None:
    raw = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    entries = [entry_of(record) for record in raw]

    def ask(text: dict[str, Any], voice: dict[str, Any]) -> SpeechRequest:
        reference = AudioContent(audio_url=voice["reference"])
        return request_of_text(text["id"], text["text"], reference, voice["reference_text"], "voice_clone", demo)

    own = cloner.speak_all([ask(e, e) for e in entries])
    swapped = cloner.speak_all([ask(e, entries[(i + 1) % 4]) for i, e in enumerate(entries)])
    codes = {r.name: speech.pieces[0].codes for r, speech in own}
    assert all(torch.equal(codes[e["id"]], t) for e, t in zip(entries, targets(memorised), strict=True))
    for request, speech in swapped:
        other, mine = speech.pieces[0].codes, codes[request.name]
        assert other.shape != mine.shape or (other != mine).float().mean() > 0.1


def test_one_call_speaks_and_a_seed_repeats_it(demo: Path, cloner: VoiceCloner) -> None:
    record = entry_of(json.loads((demo / "four.json").read_text(encoding="utf-8"))[0])
    texts_and_clip = record["text"], demo / record["reference"], record["reference_text"]
    drawn = []
    for seed in (3, 3, 4):
        # The model is untrained and the temperature high, so that the seed matters. It will not end before the limit.
        hot = SpeechSettings(sampling=SamplingConfig(temperature=9.0), seed=seed, retries=0)
        subject = make_cloner(demo, settings=replace(hot, slowest_letters_per_second=1000.0))
        drawn.append(subject.speak(*texts_and_clip).pieces[0].codes)
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or (drawn[0] != drawn[2]).any()
    spoken = cloner.speak(*texts_and_clip)
    assert spoken.failures == [] and spoken.seconds == pytest.approx(spoken.pieces[0].codes.shape[1] / 25)
    with pytest.raises(InputError, match="text: ' ' has no words"):
        cloner.speak(" ", *texts_and_clip[1:])


@pytest.mark.parametrize("style", STYLES)
def test_the_speech_of_a_request_is_independent_of_its_batch(
    demo: Path, codec: HiggsAudioTokenizer, style: str
) -> None:
    """References have different lengths, and are in the user turn or an earlier assistant turn. Limits differ too."""
    settings = SpeechSettings(sampling=SamplingConfig(temperature=9.0), retries=0, slowest_letters_per_second=20.0)
    subject = make_cloner(demo, prompt_style=style, settings=settings)
    subject.codec = codec
    requests, _ = read_manifest(demo / "val_chatml_samples.json", style)
    together = {request.name: speech for request, speech in subject.speak_all(requests, 4)}
    assert len({speech.pieces[0].codes.shape[1] for speech in together.values()}) > 1
    for request in requests:
        ((_, alone),) = subject.speak_all([request], 1)
        assert torch.equal(alone.pieces[0].codes, together[request.name].pieces[0].codes)


def test_bfloat16_on_cpu(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> None:
    """With bfloat16 and an adapter, most frames of a memorised clip equal those in float32."""
    subject = make_cloner(demo, adapter=checkpoint_of(memorised), settings=GREEDY, torch_dtype="bfloat16")
    request = read_manifest(demo / "four.json", "voice_clone")[0][0]
    ((_, speech),) = subject.speak_all([request])
    assert subject.model.dtype == torch.bfloat16
    codes, wanted = speech.pieces[0].codes, targets(memorised)[0]
    assert speech.samples.dtype == torch.float32 and speech.samples.isfinite().all()
    assert (codes[:, :10] == wanted[:, :10]).float().mean() > 0.5


# -- runaways and pieces ----------------------------------------------------------------------------------------------


class Script:
    """A stand-in for the model: the number of frames for each seed is fixed."""

    def __init__(self, config: Any, frames: dict[int, int | None]) -> None:
        self.config, self.frames, self.seeds = config, frames, []

    def generate(self, *, input_ids: Tensor, max_new_tokens: int, seed: list[int], **_: Any) -> Any:
        self.seeds.append(seed)
        columns, ended = [], []
        for one in seed:
            frames = self.frames.get(one, 20)
            codes = torch.full((8, 5000 if frames is None else frames), one % 1024)
            all_columns = build_audio_columns(codes, 1024, 1025, True)
            columns.append(all_columns[:, :max_new_tokens])
            ended.append(all_columns.shape[1] <= max_new_tokens)
        return HiggsAudioGenerationOutput(input_ids, columns, list(range(len(seed))), ended)


def scripted(demo: Path, codec: HiggsAudioTokenizer, frames: dict[int, int | None], **settings: Any) -> VoiceCloner:
    subject = make_cloner(demo, settings=SpeechSettings(**settings))
    subject.codec = codec
    subject.model = Script(subject.config, frames)
    return subject


def seed_of(piece: int, attempt: int) -> int:
    return seeds.seed_of(0, piece, attempt)


def ask_for(demo: Path, name: str, text: str, letters_per_piece: int = 12) -> SpeechRequest:
    reference = AudioContent(audio_url="clips/amal/train_01.wav")
    return request_of_text(name, text, reference, "كيف حالك اليوم", "voice_clone", demo, letters_per_piece)


def test_a_run_away_is_tried_again_alone_with_another_seed(demo: Path, codec: HiggsAudioTokenizer) -> None:
    frames = {seed_of(0, 0): None, seed_of(1, 0): 0, seed_of(1, 1): None, seed_of(1, 2): 7}
    subject = scripted(demo, codec, frames)
    ((_, speech),) = subject.speak_all([ask_for(demo, "a", "كيف حالك؟ أنا بخير. شكرا جزيلا.")])
    assert [piece.text for piece in speech.pieces] == ["كيف حالك؟", "أنا بخير.", "شكرا جزيلا."]
    assert [piece.attempt for piece in speech.pieces] == [1, 2, 0]
    assert [piece.codes.shape[1] for piece in speech.pieces] == [20, 7, 20]
    assert speech.failures == []
    assert subject.model.seeds == [
        [seed_of(0, 0), seed_of(1, 0), seed_of(2, 0)],
        [seed_of(0, 1), seed_of(1, 1)],
        [seed_of(1, 2)],
    ]
    assert speech.samples.numel() == 47 * SAMPLES_PER_FRAME + 2 * 3600, "two pauses of 150 ms"


def test_the_bound_is_that_of_the_text_whoever_shares_the_batch(demo: Path, codec: HiggsAudioTokenizer) -> None:
    """In a batch with a longer text, the limit of a short text is the same as alone."""
    short, long = ask_for(demo, "short", "نعم"), ask_for(demo, "long", "كيف حالك اليوم", 150)
    limit = 25 * 2 + 25 * 3 // 2 + 1  # 2 s of silence, and 3 letters at 2 a second
    for batch in ([short], [short, long]):
        subject = scripted(demo, codec, {seed_of(0, 0): 100}, retries=0, slowest_letters_per_second=2.0)
        spoken = {request.name: speech for request, speech in subject.speak_all(batch)}
        assert spoken["short"].failures == ["runaway: no end within 3.5 s: 'نعم'"]
        assert spoken["short"].pieces[0].codes.shape == (8, limit)
        assert all(spoken[name].failures == [] for name in spoken if name != "short")
    for frames, ends in ((limit, True), (limit + 1, False)):
        subject = scripted(demo, codec, {seed_of(0, 0): frames}, retries=0, slowest_letters_per_second=2.0)
        ((_, speech),) = subject.speak_all([short])
        assert (speech.failures == []) == ends


def test_greedy_speech_is_not_repeated(demo: Path, codec: HiggsAudioTokenizer) -> None:
    subject = scripted(demo, codec, {seed_of(0, 0): None}, sampling=SamplingConfig(do_sample=False))
    ((_, speech),) = subject.speak_all([ask_for(demo, "a", "نعم")])
    assert len(speech.failures) == 1 and len(subject.model.seeds) == 1


def test_a_request_is_yielded_once_all_its_pieces_are_done(demo: Path, codec: HiggsAudioTokenizer) -> None:
    subject = scripted(demo, codec, {})
    asked = [ask_for(demo, "long", "كيف حالك؟ أنا بخير. شكرا جزيلا."), ask_for(demo, "short", "نعم")]
    spoken = subject.speak_all(asked, batch_size=2)
    request, speech = next(spoken)
    assert request.name == "short" and len(speech.pieces) == 1 and len(subject.model.seeds) == 1
    request, speech = next(spoken)
    assert request.name == "long" and len(speech.pieces) == 3
    assert [piece.codes[0, 0] for piece in speech.pieces] == [seed_of(i, 0) % 1024 for i in range(3)]


# -- files -------------------------------------------------------------------------------------------------------------


def manifest(demo: Path, folder: Path, **texts: str) -> Path:
    reference = {"reference": str(demo / "clips/amal/train_01.wav"), "reference_text": "كيف حالك اليوم"}
    return write_records(folder / "m.json", [{"id": name, "text": text, **reference} for name, text in texts.items()])


@pytest.fixture
def script(demo: Path, codec: HiggsAudioTokenizer, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Replace the model of every cloner by a script."""
    said = Script(None, {})
    monkeypatch.setattr(voice_cloner, "load_speaking_model", lambda *_: said)
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
