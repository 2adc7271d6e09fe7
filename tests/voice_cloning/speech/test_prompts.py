"""The prompt of a request equals the start of a training sample."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from boson_multimodal.prompt_template import PromptForm, PromptTemplate
from tests.chatml_files import load, make_cache, write_clip, write_records
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.tower_models import write_model
from tests.voice_cloning.corpora.packed_data import pack
from tests.voice_cloning.evaluation.judges import settings_of
from tests.voice_cloning.speech.cloners import GREEDY, STYLES, checkpoint_of, entry_of, make_cloner
from voice_cloning.evaluation.evaluation_input import check_evaluation
from voice_cloning.speech.requests import read_manifest
from voice_cloning.speech.voice_cloner import VoiceCloner


@pytest.fixture(scope="module")
def untrained(demo: Path, codec: HiggsAudioTokenizer) -> VoiceCloner:
    """Return a cloner without adapter. It keeps the codes of references for both prompt styles."""
    subject = make_cloner(demo)
    subject.codec = codec
    return subject


def assert_prompts_are_heads(
    data: Path, style: PromptForm, cloner: VoiceCloner, dataset: ArabicVoiceCloningDataset, manifest: Path
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


@pytest.mark.parametrize(
    "parts",
    [
        {"system": "Generate audio following instruction.", "scene": "Audio is recorded from a quiet room."},
        {
            "system": "Speak.",
            "scene": "{scene}\nDialect: {dialect}",
            "defaults": {"scene": "A street", "dialect": "msa"},
        },
        {"system": "Generate audio following instruction. Dialect: {dialect}", "defaults": {"dialect": "msa"}},
        {"reference_text": "[{speaker}] {reference_text}", "target_text": "[{speaker}] {target_text}"},
        {},
    ],
    ids=["scene", "scene_of_record", "dialect", "words_without_system", "without_system"],
)
def test_prompts_of_a_template_are_the_heads_of_training_samples(
    demo: Path, tokenizer: PreTrainedTokenizerBase, untrained: VoiceCloner, tmp_path: Path, parts: dict[str, Any]
) -> None:
    """Requests by record and by text give the same prompts as the trainer makes, with fields in some of the records."""
    template = json.dumps({"reference_text": "{reference_text}", "target_text": "{target_text}", **parts})
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))[:6]
    entries = [entry_of(raw) | {"speaker": raw["speaker"]} for raw in records]
    for number in (1, 3):
        fields = {"dialect": f"dialect {number}", "scene": f"A room, {number}"}
        records[number]["misc"] |= fields
        entries[number] |= fields
    path = write_records(demo / "with_fields.json", records)
    how = {"prompt_style": "voice_clone", "prompt_template": template}
    dataset = load(path, tokenizer, make_cache(demo / "prompt_codes"), **how)
    dataset.encode_missing(lambda: untrained.codec)
    assert [dataset.text_to_speak(index) for index in range(6)] == [entry["text"] for entry in entries]
    form = PromptTemplate.read(template)
    for manifest in (path, write_records(tmp_path / "texts.json", entries)):
        assert_prompts_are_heads(path, form, untrained, dataset, manifest)


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
    pack(demo, write_records(demo / "other.json", records[:1]), tmp_path / "other")
    described["flags"]["data_path"] = str(tmp_path / "other")
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    capsys.readouterr()
    make_cloner(demo, adapter=adapter)
    assert f"warning: {tmp_path / 'other'}, the training data" in capsys.readouterr().err, "a folder knows it too"
    described["flags"]["data_path"] = str(tmp_path / "other.json")
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    described["flags"]["data_path"] = [str(demo / "four.json"), str(tmp_path), str(tmp_path / "other.json"), "gone"]
    (adapter / "run.json").write_text(json.dumps(described), encoding="utf-8")
    make_cloner(demo, adapter=adapter)
    assert warning in capsys.readouterr().err, "one of several data sets"
    make_cloner(demo, adapter=adapter, turns_are_given=True)
    assert capsys.readouterr().err == "", "the turns of records are kept"
    settings = settings_of(demo, tmp_path / "out", adapters=(str(adapter),), prompt_style="as_written")
    check_evaluation(settings)
    assert "has other turns" not in capsys.readouterr().err, "a set of records"
    entries = [{"id": "a", "text": "نعم", "reference": str(demo / "clips/amal/train_01.wav"), "reference_text": "لا"}]
    check_evaluation(replace(settings, test_set=write_records(tmp_path / "texts.json", entries)))
    assert warning in capsys.readouterr().err, "a set of texts"
