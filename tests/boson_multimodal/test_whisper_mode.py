"""Test references as features of the audio tower: chunks, lengths, refusals, and a run of the whole program."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, ChatMLDatasetSample
from boson_multimodal.audio_processing.clips import frames_of, read_waveform, resampled_length
from boson_multimodal.audio_processing.mel_features import ReferenceForm, build_feature_extractor
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig, create_higgs_audio_lora_model
from tests.chatml_files import audio, load, make_cache, record, write_clip, write_records
from tests.training_runs import metrics, trainer
from voice_cloning.run.components import FinishedRun

MEL_BINS, CHUNK_SECONDS, RATE = 16, 1, 16_000
FEATURES = ReferenceForm(codes=False, chunk_seconds=CHUNK_SECONDS)
BOTH = ReferenceForm(codes=True, chunk_seconds=CHUNK_SECONDS)
TOWER = {
    "num_mel_bins": MEL_BINS,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "max_source_positions": 50 * CHUNK_SECONDS,
}
BOS, REF, EOS, OUT, PAD = 491, 495, 492, 496, 481
"""Ids of ``<|audio_bos|>``, ``<|AUDIO|>``, ``<|audio_eos|>``, ``<|AUDIO_OUT|>`` and padding in the collator's tests."""


def config_with_tower(model_folder: Path, **changes: Any) -> HiggsAudioConfig:
    fields = {
        "encode_whisper_embed": True,
        "encode_audio_in_tokens": False,
        "skip_audio_tower": False,
        "audio_encoder_config": TOWER,
        **changes,
    }
    return HiggsAudioConfig.from_dict({**HiggsAudioConfig.from_pretrained(model_folder).to_dict(), **fields})


def write_model(demo: Path, folder: Path, **changes: Any) -> Path:
    """Save a variant of the demo's model with random weights and a tower that reads one second at once."""
    shutil.copytree(demo / "model", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    HiggsAudioModel(config_with_tower(demo / "model", **changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tower_model(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(demo, tmp_path_factory.mktemp("tower") / "model")


# -- the collator ----------------------------------------------------------------------------------------------------


def collator(codes: bool = False) -> ArabicVoiceCloningTrainingCollator:
    return ArabicVoiceCloningTrainingCollator(
        audio_in_token_id=REF,
        audio_out_token_id=OUT,
        pad_token_id=PAD,
        audio_stream_bos_id=32,
        audio_stream_eos_id=33,
        audio_num_codebooks=8,
        use_delay_pattern=True,
        return_audio_in_tokens=codes,
        encode_whisper_embed=True,
        whisper_feature_extractor=WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS),
        chunk_size_seconds=CHUNK_SECONDS,
    )


def sample(references: list[float], rate: int = RATE, codes: bool = False) -> ChatMLDatasetSample:
    """Make a sample: a user turn with references of these seconds, each after a text, and a target of 6 frames."""
    input_ids = [token for n in range(len(references)) for token in (n + 1, n + 11, BOS, REF, EOS)]
    trained = [OUT, EOS, 489]
    frames = torch.tensor([7 if codes else 0 for _ in references] + [6])
    waveforms = [0.1 * torch.randn(round(seconds * rate)) for seconds in references] + [torch.zeros(0)]
    samples = torch.tensor([waveform.numel() for waveform in waveforms])
    return ChatMLDatasetSample(
        input_ids=torch.tensor([*input_ids, 21, *trained]),
        label_ids=torch.tensor([-100] * (len(input_ids) + 1) + trained),
        audio_ids_concat=torch.randint(0, 32, (8, int(frames.sum()))),
        audio_ids_start=frames.cumsum(0) - frames,
        audio_waveforms_concat=torch.cat(waveforms),
        audio_waveforms_start=samples.cumsum(0) - samples,
        audio_sample_rate=torch.full_like(samples, rate),
    )


def slow_features(waveform: Tensor) -> tuple[Tensor, int]:
    """Slow reference for one chunk: Whisper's log-mel features, and the number of frames without padding."""
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS)
    padded = torch.cat([waveform, torch.zeros(CHUNK_SECONDS * RATE - waveform.numel())])
    spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1].abs() ** 2
    mel = (torch.from_numpy(extractor.mel_filters).float().T @ spectrum).clamp(min=1e-10).log10()
    frames = sum(1 for start in range(0, waveform.numel(), 160))
    return (mel.maximum(mel.max() - 8.0) + 4.0) / 4.0, frames


SECONDS = [[0.3], [2.5], [1.0], [1.01], [0.5, 3.2, 0.04], [2.0, 2.0], []]


@pytest.mark.parametrize("rate", [RATE, 24_000])
def test_chunks_features_and_slots_equal_the_slow_reference(rate: int) -> None:
    samples = [sample(seconds, rate) for seconds in SECONDS]
    batch = collator()(samples)
    wanted_features, wanted_frames = [], []
    for row, (item, references) in enumerate(zip(samples, SECONDS, strict=True)):
        ids, labels = [], []
        for n, start in enumerate(item.audio_waveforms_start.tolist()[: len(references)]):
            cut = item.audio_waveforms_concat[start : start + round(references[n] * rate)]
            waveform = cut if rate == RATE else torchaudio.functional.resample(cut, rate, RATE)
            ids += [n + 1, n + 11]
            while waveform.numel():
                features, frames = slow_features(waveform[: CHUNK_SECONDS * RATE])
                wanted_features.append(features)
                wanted_frames.append(frames)
                waveform = waveform[CHUNK_SECONDS * RATE :]
                ids += [BOS, REF, EOS]
        labels = [-100] * (len(ids) + 2) + [EOS, 489]
        ids += [21, OUT, EOS, 489]
        padding = batch.input_ids.shape[1] - len(ids)
        assert batch.input_ids[row].tolist() == ids + [PAD] * padding
        assert batch.label_ids[row].tolist() == labels + [-100] * padding
        assert batch.attention_mask[row].tolist() == [1] * len(ids) + [0] * padding
    torch.testing.assert_close(batch.audio_features, torch.stack(wanted_features), rtol=0.0, atol=1e-4)
    assert batch.audio_feature_attention_mask.sum(dim=1).tolist() == wanted_frames
    assert batch.audio_in_ids is None and batch.audio_out_ids_start_group_loc.tolist() == list(range(len(SECONDS)))


def test_samples_are_not_changed_and_a_batch_without_references_has_no_features() -> None:
    samples = [sample([2.5, 0.3])]
    before = copy.deepcopy(samples)
    first, second = collator()(samples), collator()(samples)
    for one, other in ((first, second), (before[0], samples[0])):
        for f in dataclasses.fields(one):
            a, b = getattr(one, f.name), getattr(other, f.name)
            assert (a is None and b is None) or torch.equal(a, b), f.name
    batch = collator()([sample([])])
    assert batch.audio_features is None and batch.audio_feature_attention_mask is None


def test_a_reference_in_both_forms_has_a_slot_with_both_and_is_one_chunk_at_most() -> None:
    batch = collator(codes=True)([sample([1.0, 0.3], codes=True)])
    assert len(batch.audio_features) == len(batch.audio_in_ids_start) == int((batch.input_ids == REF).sum()) == 2
    with pytest.raises(InputError, match=r"a reference of 1.25 s is given as codes and as features: .* 1 s at once"):
        collator(codes=True)([sample([1.25], codes=True)])


def test_every_clip_must_have_a_waveform() -> None:
    whole = sample([0.3])
    with pytest.raises(ValueError, match="has references but no waveforms"):
        collator()([dataclasses.replace(whole, audio_waveforms_concat=None)])
    with pytest.raises(ValueError, match="2 audio slots but 1 waveforms"):
        collator()([dataclasses.replace(whole, audio_waveforms_start=whole.audio_waveforms_start[:1])])


# -- the dataset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_a_resampled_clip_has_the_computed_length(rate: int) -> None:
    """At 44.1 kHz and above 2 s, torchaudio's float32 rounding matters for one length of 441."""
    several = 441 if rate == 44_100 else 20
    for samples in [1, 2, 3, rate - 1, rate, *range(5 * rate, 5 * rate + several)]:
        made = torchaudio.functional.resample(torch.zeros(samples), rate, RATE)
        assert resampled_length(samples, rate, RATE) == made.numel(), samples


class CountingCodec:
    """A fast stand-in for the codec that counts the clips it gets."""

    sampling_rate = 24_000
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.clips = 0

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        self.clips += len(waveforms_BS)
        frames = frames_of(waveforms_BS.shape[1], self.sampling_rate, FRAMES_PER_SECOND)
        return torch.zeros((len(waveforms_BS), 8, frames), dtype=torch.long)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for seed, (name, seconds, rate) in enumerate([("a", 0.61, 24_000), ("b", 0.97, 44_100), ("long", 2.03, 48_000)]):
        write_clip(tmp_path / f"{name}.wav", seconds, rate, seed=seed)
    shutil.copy(tmp_path / "a.wav", tmp_path / "copy_of_a.wav")
    return tmp_path


def encoded(
    clips: Path, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], **settings: Any
) -> tuple[ArabicVoiceCloningDataset, CountingCodec]:
    path = write_records(clips / "data.json", records)
    dataset, codec = load(path, tokenizer, make_cache(clips / "cache"), **settings), CountingCodec()
    dataset.encode_missing(lambda: codec)
    return dataset, codec


def with_a_reference_in_the_system_turn(written: dict[str, Any], name: str) -> dict[str, Any]:
    written["messages"][0]["content"] = ["a voice", audio(name)]
    return written


def model_lengths(dataset: ArabicVoiceCloningDataset, model: HiggsAudioModel) -> list[int]:
    """Return the number of positions that the model uses for each sample."""
    collate = ArabicVoiceCloningTrainingCollator.from_config(model.config)
    with torch.no_grad():
        outputs = [model(**vars(collate([dataset[i]]))) for i in range(len(dataset))]
    return [int(output.attention_mask.sum()) for output in outputs]


@pytest.mark.parametrize("form", [FEATURES, BOTH], ids=["features", "features and codes"])
def test_lengths_equal_the_positions_of_the_model(
    form: ReferenceForm, clips: Path, demo: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    records = [
        record("0", audio("a.wav"), audio("b.wav")),
        record("1", audio("b.wav"), audio("long.wav")),
        with_a_reference_in_the_system_turn(record("2", audio("a.wav", offset=0.1), audio("a.wav")), "b.wav"),
    ]
    if not form.codes:
        records += [
            record("3", audio("long.wav"), audio("a.wav")),
            record("a last chunk without positions", audio("long.wav", duration=2.005), audio("a.wav")),
            with_a_reference_in_the_system_turn(record("4", audio("a.wav"), audio("a.wav")), "long.wav"),
        ]
    model = HiggsAudioModel(config_with_tower(demo / "model", encode_audio_in_tokens=form.codes)).eval()
    dataset, _ = encoded(clips, tokenizer, records, reference=form)
    assert ReferenceForm.of(model.config) == form
    assert len(dataset.lengths) == len(records)
    assert dataset.lengths == model_lengths(dataset, model)
    again, codec = encoded(clips, tokenizer, records, reference=form)
    assert again.lengths == dataset.lengths and codec.clips == 0


def test_an_item_holds_the_waveforms_of_references_only(clips: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    written = with_a_reference_in_the_system_turn(record("0", audio("long.wav"), audio("a.wav")), "b.wav")
    item = encoded(clips, tokenizer, [written], reference=FEATURES)[0][0]
    wanted = [read_waveform(Clip(clips / name, 0.0, None)).resampled(RATE) for name in ("b.wav", "long.wav")]
    assert torch.equal(item.audio_waveforms_concat, torch.cat(wanted))
    ends = [len(wanted[0]), len(wanted[0]) + len(wanted[1])]
    assert item.audio_waveforms_start.tolist() == [0, *ends], "the target's is empty"
    assert item.audio_sample_rate.tolist() == [RATE] * 3
    assert item.audio_ids_start.tolist() == [0, 0, 0] and item.audio_ids_concat.shape == (8, 16)


def test_a_reference_is_encoded_only_where_its_codes_are_needed(
    clips: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """With features only, a reference is not encoded, unless it is a target in another sample (under any name)."""
    records = [record("0", audio("b.wav"), audio("a.wav")), record("1", audio("copy_of_a.wav"), audio("a.wav"))]
    dataset, codec = encoded(clips, tokenizer, records, reference=FEATURES)
    assert codec.clips == 1 and [len(dataset[i].audio_ids_start) for i in range(2)] == [2, 2]
    _, codec = encoded(clips, tokenizer, records, reference=BOTH)
    assert codec.clips == 1, "b.wav; the other is in the cache"


def test_voice_clone_has_its_reference_as_codes(clips: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Its reference is in an assistant turn, and the tower does not read those."""
    records = [record("0", audio("long.wav"), audio("a.wav"))]
    dataset, codec = encoded(clips, tokenizer, records, reference=FEATURES, prompt_style="voice_clone")
    assert codec.clips == 2 and dataset[0].audio_waveforms_concat.numel() == 0
    assert dataset[0].audio_ids_start.tolist() == [0, 51]


def test_every_reference_that_is_too_long_for_both_forms_is_named(
    clips: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    fine = record("fine", audio("a.wav"), audio("long.wav"))
    bad = record("bad", audio("long.wav", duration=1.5), audio("a.wav"))
    bad = with_a_reference_in_the_system_turn(bad, "long.wav")
    with pytest.raises(InputError) as caught:
        encoded(clips, tokenizer, [fine, bad], reference=BOTH)
    message = str(caught.value)
    assert "bad: messages[0].content[1].audio_url: a reference of 2.03 s; this model takes references as" in message
    assert "bad: messages[1].content[1].audio_url: a reference of 1.5 s" in message and "fine" not in message
    assert "features of 1 s at most: cut it (duration)" in message


# -- refusals before weights -----------------------------------------------------------------------------------------


def model_without_weights(demo: Path, folder: Path, **changes: Any) -> Path:
    """Save a checkpoint without weights, so that reading them fails."""
    shutil.copytree(demo / "model", folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    config_with_tower(demo / "model", **changes).save_pretrained(folder)
    return folder


REFUSED = {
    "features without a tower": (
        {"skip_audio_tower": True},
        {},
        "encode_whisper_embed true, but skip_audio_tower true: there is no tower .* would ignore the reference",
    ),
    "neither": (
        {"encode_whisper_embed": False},
        {},
        "encode_audio_in_tokens and encode_whisper_embed false: the model would ignore the reference",
    ),
    "a tower that reads less than a second": (
        {"audio_encoder_config": {**TOWER, "max_source_positions": 49}},
        {},
        "max_source_positions 49, less than a second of audio",
    ),
    "a processor of other bins": (
        {},
        {"feature_size": 80, "chunk_length": CHUNK_SECONDS},
        r"does not fit the model \(1\):\n  makes features of 80 mel bins, the model's tower reads 16",
    ),
    "a processor of other chunks and rate": (
        {},
        {"feature_size": MEL_BINS, "chunk_length": 30, "sampling_rate": 8000},
        r"8000 samples per second, the model's tower reads 16000\n.* 30 seconds per chunk, the model's tower reads 1",
    ),
    "a processor for codes": (
        {"encode_audio_in_tokens": True, "encode_whisper_embed": False},
        {"feature_size": MEL_BINS, "chunk_length": CHUNK_SECONDS},
        "whisper_processor_path .*: this model reads references as codes; leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_references_are_refused_before_weights_and_data(name: str, demo: Path, tmp_path: Path) -> None:
    changes, processor, message = REFUSED[name]
    model = model_without_weights(demo, tmp_path / "model", **changes)
    settings: dict[str, Any] = {}
    if processor:
        WhisperFeatureExtractor(**processor).save_pretrained(tmp_path / "processor")
        settings["whisper_processor_path"] = tmp_path / "processor"
    with pytest.raises(InputError, match=message):
        trainer(demo, tmp_path / "out", model_path=model, **settings)
    assert not (tmp_path / "out").exists()


def test_a_missing_processor_is_refused(demo: Path, tmp_path: Path) -> None:
    model = model_without_weights(demo, tmp_path / "model")
    with pytest.raises(InputError, match="--whisper_processor_path /no/such: neither a processor's folder nor "):
        trainer(demo, tmp_path / "out", model_path=model, whisper_processor_path="/no/such")


def test_features_without_a_tower_do_not_matter_if_codes_are_used(demo: Path) -> None:
    config = config_with_tower(demo / "model", encode_audio_in_tokens=True, skip_audio_tower=True)
    assert ReferenceForm.of(config) == ReferenceForm(codes=True, chunk_seconds=None)
    collate = ArabicVoiceCloningTrainingCollator.from_config(config)
    assert collate.return_audio_in_tokens and not collate.encode_whisper_embed


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", TARGET_GROUPS)
def test_the_tower_gets_no_adapter_and_stays_frozen(group: str, tower_model: Path) -> None:
    config = HiggsAudioLoRATrainingConfig(lora_targets=[group])
    model, _, _ = create_higgs_audio_lora_model(tower_model, config, torch_dtype=torch.float32)
    tower = {n: p for n, p in model.named_parameters() if "audio_tower" in n or "audio_encoder_proj" in n}
    assert any("q_proj" in name for name in tower)
    assert not any("lora" in name or parameter.requires_grad for name, parameter in tower.items())


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(output_dir) if "loss" in line]


@pytest.mark.parametrize("codes", [False, True], ids=["features", "features and codes"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_program_trains_on_features_and_does_not_change_the_tower(
    codes: bool, gradient_checkpointing: bool, demo: Path, tmp_path: Path
) -> None:
    """With both forms, a chunk holds the demo's longest reference. With features only, it takes up to 3 chunks."""
    seconds = 3 if codes else CHUNK_SECONDS
    tower = {**TOWER, "max_source_positions": 50 * seconds}
    model = write_model(demo, tmp_path / "model", encode_audio_in_tokens=codes, audio_encoder_config=tower)
    subject = trainer(
        demo,
        tmp_path / "out",
        model_path=model,
        max_steps=12,
        logging_steps=1,
        gradient_checkpointing=gradient_checkpointing,
    )
    before = {
        n: p.clone()
        for n, p in subject.components.model.named_parameters()
        if "audio_tower" in n or "encoder_proj" in n
    }
    assert subject.train().finished
    found = losses(tmp_path / "out")
    assert len(found) == 12 and found[-1] < found[0] - 0.2
    parameters = dict(subject.components.model.named_parameters())
    assert before and all(torch.equal(parameters[name], value) for name, value in before.items())


def loss_and_gradient(subject: Any, index: int, **changes: Tensor) -> tuple[float, Tensor]:
    """Return loss and gradient of one sample after changes of its fields."""
    item = dataclasses.replace(subject.components.data.train_dataset[index], **changes)
    output = subject._training_step(subject.components.data.collator([item]))
    subject.components.optimizer.gradients.zero_()
    output.loss.backward()
    return output.loss.item(), subject.components.optimizer.gradients.clone()


def test_loss_and_gradients_depend_on_the_reference(demo: Path, tower_model: Path, tmp_path: Path) -> None:
    """A different sound of the same length gives a different loss."""
    subject = trainer(demo, tmp_path / "out", model_path=tower_model, lora_dropout=0.0)
    item = subject.components.data.train_dataset[0]
    loss, gradient = loss_and_gradient(subject, 0)
    again, same_gradient = loss_and_gradient(subject, 0)
    assert again == loss and torch.equal(same_gradient, gradient)
    other, other_gradient = loss_and_gradient(subject, 0, audio_waveforms_concat=item.audio_waveforms_concat.flip(0))
    assert abs(other - loss) > 1e-4
    assert (other_gradient - gradient).norm() > 1e-3 * gradient.norm()


@pytest.fixture
def started(demo: Path, tower_model: Path, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run two steps with the processor that the program builds. Return the run and its settings."""
    settings = {"model_path": tower_model, "max_steps": 2, "eval_data_path": None}
    subject = trainer(demo, tmp_path / "out", **settings)
    subject.train()
    subject.components.opened.directory.close()
    yield tmp_path / "out", settings


def test_the_settings_of_a_processor_are_part_of_the_run(
    started: tuple[Path, dict[str, Any]], demo: Path, tower_model: Path, tmp_path: Path
) -> None:
    """An equal processor from a folder resumes the run. A processor with other features is refused."""
    output_dir, settings = started
    same = build_feature_extractor(HiggsAudioConfig.from_pretrained(tower_model))
    same.save_pretrained(tmp_path / "same")
    subject = trainer(demo, output_dir, **settings, whisper_processor_path=tmp_path / "same")
    assert isinstance(subject.components, FinishedRun)
    subject.components.opened.directory.close()
    WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS, n_fft=512).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(InputError, match=r"holds another run.*\n.*feature_extractor.n_fft.*400.*512"):
        trainer(demo, output_dir, **settings, whisper_processor_path=tmp_path / "other")
    identity = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))["identity"]
    assert identity["feature_extractor"]["feature_size"] == MEL_BINS
