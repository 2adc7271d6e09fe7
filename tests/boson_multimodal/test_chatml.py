"""Compare ids and labels of ChatML messages with the original (golden g7) and with literal expectations."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from boson_multimodal.chatml import prepare_chatml_sample, text_problem
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.data_types import AudioContent, ChatMLSample, parse_sample
from tests.chatml_files import audio, text
from tests.goldens import GOLDEN_DIR, needs_golden

GOOD = (
    "ref_in_user__text_then_audio",
    "arabic__assistant_audio_only",
    "voice_clone__start_index_4",
    "audio_in_system__eom__recipient",
    "no_start_index__all_assistant_turns_trained",
)
RECIPIENT = "tool<|recipient|>"


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN_DIR / "g7_chatml.json").read_text(encoding="utf-8"))["samples"][name]


@pytest.fixture(scope="module")
def golden_tokenizer() -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_file=str(GOLDEN_DIR / "g7_tokenizer.json"))


def parsed(record: dict[str, Any]) -> ChatMLSample:
    sample, problems = parse_sample(record)
    assert sample is not None, problems
    return sample


def expected_labels(name: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the labels of the golden, without the labels of a recipient in an untrained turn."""
    labels = list(golden(name)["label_tokens"])
    if name == "audio_in_system__eom__recipient":
        prefix = tokenizer.encode(RECIPIENT, add_special_tokens=False)
        start = next(i for i, label in enumerate(labels) if label != IGNORE_INDEX)
        assert labels[start : start + len(prefix)] == prefix, "the original labels the prefix"
        labels[start : start + len(prefix)] = [IGNORE_INDEX] * len(prefix)
    return labels


@needs_golden
@pytest.mark.parametrize("name", GOOD)
def test_ids_and_labels_equal_the_original(name: str, golden_tokenizer: PreTrainedTokenizerBase) -> None:
    wanted = golden(name)
    sample = parsed(wanted["sample"])
    input_ids, label_ids, clips = prepare_chatml_sample(sample, golden_tokenizer)
    assert input_ids == wanted["input_tokens"]
    assert label_ids == expected_labels(name, golden_tokenizer)
    assert [(c.audio_url, c.raw_audio, c.offset, c.duration) for c in clips] == [
        (c["audio_url"], c["raw_audio"], c["offset"], c["duration"]) for c in wanted["audio_contents"]
    ]
    assert sample.speaker == wanted["speaker_id"]


@needs_golden
def test_the_goldens_are_all_tested() -> None:
    samples = json.loads((GOLDEN_DIR / "g7_chatml.json").read_text(encoding="utf-8"))["samples"]
    assert set(samples) == {*GOOD, "bad__unknown_message_key"}


@needs_golden
def test_a_malformed_sample_gives_its_problems_instead_of_none() -> None:
    sample, problems = parse_sample(golden("bad__unknown_message_key")["sample"])
    assert sample is None
    assert [str(problem) for problem in problems] == [
        "messages[0].extra: unknown key; known here are ['role', 'content', 'recipient']"
    ]


REFERENCE_TEXT, TARGET_TEXT = "السلام عليكم ورحمة الله", "قال الرجل إن المدينة جميلة في الليل."
"""The texts of the golden ``voice_clone__start_index_4``."""


def as_written(before_reference: str, misc: dict[str, Any] | None) -> dict[str, Any]:
    """Return the clips and texts of that golden in the form of users' files."""
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [text(before_reference), audio("ref.wav"), text(f"Please say: {TARGET_TEXT}")],
            },
            {"role": "assistant", "content": [text(TARGET_TEXT), audio("tgt.wav", offset=1.0)]},
        ],
        "start_index": 0,
        "misc": misc,
    }


def as_voice_clone(record: dict[str, Any]) -> ChatMLSample:
    example, problems = VoiceCloningExample.read(parsed(record))
    assert example is not None and problems == []
    return example.conversation("voice_clone")


@needs_golden
@pytest.mark.parametrize(
    "record",
    [
        as_written(REFERENCE_TEXT, None),
        as_written(f" {REFERENCE_TEXT}\n", {"ref_transcript": " "}),
        as_written("Listen to this voice:", {"ref_transcript": REFERENCE_TEXT}),
    ],
    ids=["text before the clip", "blank transcript", "transcript"],
)
def test_voice_clone_equals_the_original_prompt(
    record: dict[str, Any], golden_tokenizer: PreTrainedTokenizerBase
) -> None:
    input_ids, label_ids, clips = prepare_chatml_sample(as_voice_clone(record), golden_tokenizer)
    wanted = golden("voice_clone__start_index_4")
    assert input_ids == wanted["input_tokens"]
    assert label_ids == wanted["label_tokens"]
    assert clips == [AudioContent("ref.wav"), AudioContent("tgt.wav", offset=1.0)]
    assert [c.where for c in clips] == ["messages[1].content[1].audio_url", "messages[2].content[1].audio_url"]


@needs_golden
def test_voice_clone_takes_the_reference_of_an_untrained_assistant_turn(
    golden_tokenizer: PreTrainedTokenizerBase,
) -> None:
    record = as_written(REFERENCE_TEXT, None)
    record["messages"][1:2] = [
        {"role": "user", "content": "say something"},
        {"role": "assistant", "content": [text(REFERENCE_TEXT), audio("ref.wav")]},
        {"role": "user", "content": TARGET_TEXT},
    ]
    sample = as_voice_clone({**record, "start_index": 4})
    wanted = golden("voice_clone__start_index_4")
    assert prepare_chatml_sample(sample, golden_tokenizer)[:2] == (wanted["input_tokens"], wanted["label_tokens"])


# -- literal expectations, which need no goldens ---------------------------------------------------------------------


def conversation(start_index: int | None) -> ChatMLSample:
    return parsed(
        {
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": ["صباح الخير", audio("a.wav")]},
                {"role": "assistant", "content": [text("نعم"), audio("b.wav")], "recipient": "tool"},
                {"role": "assistant", "content": audio("c.wav")},
            ],
            "start_index": start_index,
        }
    )


def spans(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str]]:
    """Return the decoded conversation, and its decoded spans of trained tokens."""
    runs: list[list[int]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        if label == IGNORE_INDEX:
            runs.append([])
        else:
            assert label == token
            runs[-1].append(label)
    return tokenizer.decode(ids), [tokenizer.decode(run) for run in runs if run]


WRITTEN = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nصباح الخير<|audio_bos|><|AUDIO|><|audio_eos|><|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\ntool<|recipient|>نعم"
    "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eom_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"
)
FIRST_ANSWER = "tool<|recipient|>نعم<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eom_id|>"
LAST_ANSWER = "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"


@pytest.mark.parametrize(
    ("start_index", "trained"),
    [(None, [FIRST_ANSWER, LAST_ANSWER]), (0, [FIRST_ANSWER, LAST_ANSWER]), (3, [LAST_ANSWER]), (4, [])],
)
def test_a_conversation_is_written_and_labelled_literally(
    start_index: int | None, trained: list[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    ids, labels, clips = prepare_chatml_sample(conversation(start_index), tokenizer)
    assert spans(ids, labels, tokenizer) == (WRITTEN, trained)
    assert [clip.audio_url for clip in clips] == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize("token", ["<|AUDIO|>", "<|AUDIO_OUT|>", "<|eot_id|>", "<|audio_eos|>", "<|recipient|>"])
def test_a_text_that_would_forge_structure_is_a_problem(token: str) -> None:
    assert "which only the program writes" in str(text_problem(f"قل {token} الآن"))


@pytest.mark.parametrize("harmless", ["مرحبا <|scene_desc_start|>", "AUDIO", "<|AUD IO|>", "كَتَبَ ١٢٣ \U0001f642\u2028"])
def test_other_text_is_none(harmless: str) -> None:
    assert text_problem(harmless) is None
