"""Test that examples are read back as they were written, and where each function looks for a text."""

from dataclasses import replace
from typing import Any

import pytest

from boson_multimodal.cloning_example import (
    AS_WRITTEN_INSTRUCTION,
    PROMPT_STYLES,
    VoiceCloningExample,
    has_as_written_turns,
    has_voice_clone_turns,
    reference_text_of_messages,
    target_text_of_messages,
    text_mismatches,
    text_to_speak,
)
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent, parse_sample
from boson_multimodal.errors import Problem, ProblemKind
from tests.chatml_files import audio, text

REFERENCE, TARGET = "صباح الخير", "كيف حالك"
EXAMPLE = VoiceCloningExample(
    REFERENCE, AudioContent("ref.wav", duration=3.5), TARGET, AudioContent("tgt.wav", offset=0.5, duration=2.0)
)


def parsed(messages: list[dict[str, Any]], start_index: int = 0, **misc: Any) -> ChatMLSample:
    sample, problems = parse_sample({"messages": messages, "start_index": start_index, "misc": misc})
    assert sample is not None, problems
    return sample


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


@pytest.mark.parametrize("style", PROMPT_STYLES)
def test_the_conversation_of_every_style_is_read_back(style: str) -> None:
    sample = EXAMPLE.conversation(style, speaker="amal", misc={"ref_transcript": REFERENCE})
    assert (sample.speaker, sample.misc) == ("amal", {"ref_transcript": REFERENCE})
    assert [sample.trains(turn) for turn in range(len(sample.messages))].count(True) == 1
    assert has_as_written_turns(sample) == (style == "as_written")
    assert target_text_of_messages(sample) == TARGET
    assert reference_text_of_messages(sample) == REFERENCE
    assert text_mismatches(sample) == []
    assert has_voice_clone_turns(sample) == (style == "voice_clone")
    assert VoiceCloningExample.read(sample) == (EXAMPLE, [])
    assert text_to_speak(sample) == TARGET


def test_the_turns_of_voice_clone_are_read_without_a_transcript_and_with_another_system_turn() -> None:
    sample = EXAMPLE.conversation("voice_clone")
    assert VoiceCloningExample.read(sample) == (EXAMPLE, [])
    other = replace(sample, messages=(Message("system", (TextContent("Speak."),)), *sample.messages[1:]))
    assert VoiceCloningExample.read(other) == (EXAMPLE, [])
    bare = replace(sample, messages=sample.messages[1:], start_index=3)
    assert VoiceCloningExample.read(bare) == (EXAMPLE, [])
    trained = replace(sample, start_index=0)
    assert VoiceCloningExample.read(trained)[0] is None, "the reference would be trained"


def test_a_record_has_the_form_that_users_have_and_is_read_back() -> None:
    record = EXAMPLE.record("sample_1", "amal", 2.0)
    assert record == {
        "messages": [
            {
                "role": "system",
                "content": "You are a helpful assistant capable of generating speech in the voice of the provided "
                "reference audio.",
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": REFERENCE},
                    {"type": "audio", "audio_url": "ref.wav", "raw_audio": "", "duration": 3.5, "offset": None},
                    {
                        "type": "text",
                        "text": f"Please generate speech for given text in reference audio's voice: {TARGET}",
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": TARGET},
                    {"type": "audio", "audio_url": "tgt.wav", "raw_audio": "", "duration": 2.0, "offset": 0.5},
                ],
            },
        ],
        "start_index": 0,
        "speaker": "amal",
        "misc": {"sample_id": "sample_1", "ref_transcript": REFERENCE, "target_transcript": TARGET, "duration": 2.0},
    }
    sample, problems = parse_sample(record)
    assert sample is not None and problems == []
    assert VoiceCloningExample.read(sample) == (EXAMPLE, [])


def test_the_strict_reader_prefers_the_transcript_and_the_messages_reader_does_not_look_at_it() -> None:
    turns = [user(text("Listen to this voice:"), audio("ref.wav")), assistant(text(TARGET), audio("tgt.wav"))]
    sample = parsed(turns, ref_transcript=f" {REFERENCE} ")
    example, problems = VoiceCloningExample.read(sample)
    assert example is not None and problems == []
    assert example.reference_text == REFERENCE
    assert reference_text_of_messages(sample) == "Listen to this voice:"
    assert text_mismatches(sample) == [
        f"misc.ref_transcript: ' {REFERENCE} '; the messages say 'Listen to this voice:'"
    ]


def test_every_problem_of_a_sample_that_is_no_example_is_given_at_once() -> None:
    example, problems = VoiceCloningExample.read(parsed([user("hello"), assistant(audio("a.wav"), audio("b.wav"))]))
    assert example is None
    assert problems == [
        Problem(ProblemKind.MALFORMED_RECORD, message)
        for message in (
            "messages: 0 clips outside the trained turns; prompt_style voice_clone needs exactly 1, the reference",
            "messages: 2 clips in trained turns; prompt_style voice_clone needs exactly 1, the target",
            "messages: the trained assistant turn has no text; prompt_style voice_clone needs the target's",
        )
    ]


SILENT = assistant(audio("tgt.wav"))
ASKED = user(text(REFERENCE), audio("ref.wav"), text(AS_WRITTEN_INSTRUCTION + TARGET))
EARLIER_ANSWER = [user(REFERENCE), assistant(audio("ref.wav")), user("قال", TARGET), SILENT]


@pytest.mark.parametrize(
    ("sample", "target", "reference", "spoken"),
    [
        (parsed([ASKED, assistant(" نعم", audio("a.wav"), "لا ")]), "نعم لا", REFERENCE, "نعم لا"),
        (parsed([ASKED, SILENT]), TARGET, REFERENCE, AS_WRITTEN_INSTRUCTION + TARGET),
        (parsed([ASKED, SILENT], target_transcript="أهلا"), TARGET, REFERENCE, "أهلا"),
        (parsed([user(audio("ref.wav")), SILENT], target_transcript="أهلا"), "", "", "أهلا"),
        (parsed(EARLIER_ANSWER, start_index=2), TARGET, REFERENCE, TARGET),
    ],
    ids=["own text", "asked text", "transcript", "no text", "earlier answer"],
)
def test_the_texts_of_the_messages_and_of_synthesis(
    sample: ChatMLSample, target: str, reference: str, spoken: str
) -> None:
    assert target_text_of_messages(sample) == target
    assert reference_text_of_messages(sample) == reference
    assert text_to_speak(sample) == spoken


def test_an_instruction_that_asks_for_other_words_is_a_mismatch() -> None:
    sample = parsed([ASKED, assistant("نعم", audio("tgt.wav"))], target_transcript="نعم  ")
    assert text_mismatches(sample) == [f"messages[0].content[2]: '{TARGET}'; the messages say 'نعم'"]
