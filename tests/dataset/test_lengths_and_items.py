"""The dataset's items, and how long its samples are."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.packing import pack_batch, segment_lengths
from boson_multimodal.process_group import interleave
from tests.chatml_files import audio, load, make_cache, record, write_records
from tests.dataset.encoded_samples import Load, SumCodec, codes_of, encoded, encoded_alone, plain_record, same_codes
from tests.goldens import SAMPLES_DIR, needs_samples


def packed_length(dataset: ArabicVoiceCloningDataset, index: int, model_folder: Path, delay: bool = True) -> int:
    """Positions that the model makes of a sample."""
    config = HiggsAudioConfig.from_pretrained(model_folder)
    config.use_delay_pattern = delay
    batch = ArabicVoiceCloningTrainingCollator.from_config(config)([dataset[index]])
    lengths_in, lengths_out = (
        segment_lengths(ids.shape[1], starts) if starts.numel() else starts
        for ids, starts in (
            (batch.audio_in_ids, batch.audio_in_ids_start),
            (batch.audio_out_ids, batch.audio_out_ids_start),
        )
    )
    packed = pack_batch(
        batch.input_ids,
        batch.attention_mask,
        lengths_in,
        lengths_out,
        batch.label_ids,
        config.audio_in_token_idx,
        config.audio_out_token_idx,
    )
    assert packed.sample_lengths == (packed.input_ids_N.numel(),)
    return packed.input_ids_N.numel()


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_lengths_are_the_positions_that_the_model_makes(style: str, delay: bool, load_here: Load, demo: Path) -> None:
    records = [plain_record("a"), record("b", audio("tgt.wav", duration=0.3), audio("ref.wav"))]
    if style == "as_written":
        no_reference = plain_record("c")
        no_reference["messages"][1]["content"] = "كيف حالك"
        two_references = plain_record("d")
        two_references["messages"][0]["content"] = ["a", audio("tgt.wav")]
        records += [no_reference, two_references]
    dataset = encoded(load_here(records, prompt_style=style, use_delay_pattern=delay), SumCodec())
    assert len(dataset.lengths) == len(records)
    assert dataset.lengths.tolist() == [packed_length(dataset, i, demo / "model", delay) for i in range(len(records))]


def test_an_item_holds_its_clips_in_the_order_of_its_slots(load_here: Load, tokenizer: PreTrainedTokenizerBase) -> None:
    written = record("a", audio("tgt.wav"), audio("ref.wav"))
    item = encoded(load_here([written]), SumCodec())[0]
    slots = tokenizer.convert_tokens_to_ids(["<|AUDIO|>", "<|AUDIO_OUT|>"])
    assert [token for token in item.input_ids.tolist() if token in slots] == slots
    assert item.audio_ids_start.tolist() == [0, 16], "0.61 s are 16 frames"
    assert item.audio_ids_concat.shape == (8, 26) and item.audio_ids_concat.dtype == torch.long


def test_voice_clone_trains_the_target_alone(load_here: Load, tokenizer: PreTrainedTokenizerBase) -> None:
    item = encoded(load_here([plain_record()], prompt_style="voice_clone"), SumCodec())[0]
    out = tokenizer.convert_tokens_to_ids("<|AUDIO_OUT|>")
    assert (item.input_ids == out).sum() == 2
    trained = item.label_ids[item.label_ids != -100]
    assert tokenizer.decode(trained) == "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_what_the_ranks_found_comes_back_in_order(count: int, world: int) -> None:
    items = list(range(count))
    assert interleave([items[rank::world] for rank in range(world)]) == items


@needs_samples
def test_real_speech_loads_and_is_as_long_as_its_items(
    demo: Path, tokenizer: PreTrainedTokenizerBase, codec: HiggsAudioTokenizer, tmp_path: Path
) -> None:
    records = json.loads((SAMPLES_DIR / "train_chatml_samples.json").read_text(encoding="utf-8"))[::28]
    files = []
    for r in records:
        for part in (part for message in r["messages"] for part in message["content"] if isinstance(part, dict)):
            if part["type"] == "audio":
                part["audio_url"] = str(SAMPLES_DIR / part["audio_url"])
                files.append(Path(part["audio_url"]))
    path = write_records(tmp_path / "real.jsonl", records)
    dataset = load(path, tokenizer, make_cache(tmp_path / "cache"))
    assert len(dataset) == len(records) == 4 and dataset.num_dropped == 0
    assert dataset.encode_missing(lambda: codec) == len(set(files))
    assert dataset.lengths.tolist() == [packed_length(dataset, i, demo / "model") for i in range(4)]
    for i, r in enumerate(records):
        assert dataset.records[i].sample_id == r["misc"]["sample_id"]
        reference, target = files[2 * i : 2 * i + 2]
        assert same_codes(codes_of(dataset, i), [encoded_alone(codec, p) for p in (reference, target)])
