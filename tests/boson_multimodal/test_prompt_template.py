"""Prompt templates: what a file may hold, how a prompt is filled, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.cloning_example import VOICE_CLONE_SYSTEM_PROMPT, VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from boson_multimodal.prompt_template import PromptTemplate
from boson_multimodal.voice_clone_ids import VoiceCloneIds

TEXTS = {"reference_text": "{reference_text}", "target_text": "{target_text}"}
SCENE = "Audio is recorded from a quiet room."
EXAMPLE = VoiceCloningExample("مرحبا", AudioContent("a"), "كيف حالك؟", AudioContent("b"))


def template(**parts: Any) -> PromptTemplate:
    return PromptTemplate.read(json.dumps({**TEXTS, **parts}))


def rendered(subject: PromptTemplate, tokenizer: PreTrainedTokenizerBase, speaker: Any = None, **misc: Any) -> str:
    ids, _, _ = prepare_chatml_sample(EXAMPLE.conversation(subject, speaker, misc), tokenizer)
    return tokenizer.decode(ids)


def turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"


CLIP = "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>"


def test_a_template_writes_scene_and_fields_into_the_voice_cloning_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    subject = template(
        system="Generate audio.",
        scene=f"{SCENE}\nDialect: {{dialect}}",
        reference_text="[{speaker}] {reference_text}",
        target_text=" {{x}} {target_text} ",
    )
    assert rendered(subject, tokenizer, "amal", dialect=" Najdi ") == "<|begin_of_text|>" + "".join(
        [
            turn(
                "system",
                f"Generate audio.\n\n<|scene_desc_start|>\n{SCENE}\nDialect: Najdi\n<|scene_desc_end|>",
            ),
            turn("user", "[amal] مرحبا"),
            turn("assistant", CLIP),
            turn("user", "{x} كيف حالك؟"),
            turn("assistant", CLIP),
        ]
    )
    assert subject.fields == ("speaker", "dialect") and not subject.is_same_around_texts


def test_without_system_there_is_no_system_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [turn("user", "مرحبا"), turn("assistant", CLIP), turn("user", "كيف حالك؟"), turn("assistant", CLIP)]
    assert rendered(template(), tokenizer) == "<|begin_of_text|>" + "".join(turns)


def test_the_words_of_the_style_give_its_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    subject = template(system=VOICE_CLONE_SYSTEM_PROMPT)
    one, other = (prepare_chatml_sample(EXAMPLE.conversation(form), tokenizer) for form in (subject, "voice_clone"))
    assert one == other


def test_only_the_target_clip_is_trained_and_both_texts_are_kept_without_the_words_of_the_template() -> None:
    sample = EXAMPLE.conversation(template(target_text="Say: {target_text}"), None, {"target_transcript": " "})
    assert [sample.trains(number) for number in range(4)] == [False, False, False, True]
    assert sample.misc == {"ref_transcript": "مرحبا", "target_transcript": "كيف حالك؟"}


@pytest.mark.parametrize("system", [None, "Generate audio."])
def test_texts_are_found_in_the_ids_of_a_template_that_is_the_same_around_them(
    tokenizer: PreTrainedTokenizerBase, system: str | None
) -> None:
    subject = template(system=system, **({"scene": SCENE} if system else {}))
    assert subject.is_same_around_texts
    form, ids = VoiceCloneIds.of(tokenizer, subject), prepare_chatml_sample(EXAMPLE.conversation(subject), tokenizer)[0]
    length = form.reference_length(ids)
    assert tokenizer.decode(ids[form.before : form.before + length]) == EXAMPLE.reference_text
    assert tokenizer.decode(form.target(ids)) == EXAMPLE.target_text


def test_values_come_from_the_record_then_from_the_defaults() -> None:
    subject = template(system="{scene}, {dialect}", defaults={"dialect": "Gulf", "scene": "A room"})
    for misc, wanted in (({}, "A room, Gulf"), ({"dialect": "Najdi", "scene": None}, "A room, Najdi")):
        assert EXAMPLE.conversation(subject, None, misc).messages[0].content[0].text == wanted
    other = subject.with_defaults({"dialect": "Hijazi", "speaker": "of no use"})
    assert EXAMPLE.conversation(other).messages[0].content[0].text == "A room, Hijazi"
    assert str(other) == str(subject) and PromptTemplate.read(other.text()) == subject != other


def test_a_value_that_is_missing_or_wrong_is_named() -> None:
    subject = template(system="{speaker} {dialect} {scene}")
    problems = [p.message for p in subject.field_problems(" ", {"dialect": 7, "scene": "<|scene_desc_end|>"})]
    assert [problem.split(":")[0] for problem in problems] == ["speaker", "misc.dialect", "misc.scene"]
    assert "missing, and the prompt template uses {speaker}" in problems[0]
    assert "7; it must be a text" in problems[1] and "which only the program writes" in problems[2]
    with pytest.raises(InputError, match=r"the prompt cannot be written \(3\)"):
        EXAMPLE.conversation(subject)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"speakers": "x"}, "speakers: unknown key; known are ['system', 'scene', 'reference_text', 'target_text',"),
        ({"target_text": None}, "target_text: missing; give a text that holds {target_text}"),
        ({"target_text": "Say it"}, "target_text: holds {target_text} 0 times; it must hold it once"),
        ({"target_text": "{target_text}{target_text}"}, "target_text: holds {target_text} 2 times"),
        ({"system": 5}, "system: 5; it must be a text that is not empty, or be left out"),
        ({"system": " \n"}, "it must be a text that is not empty, or be left out"),
        ({"reference_text": ""}, "reference_text: ''; it must be a text that is not empty"),
        ({"system": "{target_text}"}, "system: {target_text} stands in the wrong place; it belongs in target_text"),
        ({"target_text": "{reference_text}{target_text}"}, "{reference_text} stands in the wrong place"),
        ({"system": "{gender}"}, "system: {gender} is no field; the fields here are {speaker}, {dialect}, {scene}"),
        ({"system": "{}"}, "system: {} is no field"),
        ({"system": "{0}"}, "system: {0} is no field"),
        ({"system": "{dialect.x}"}, "system: {dialect.x} is no field"),
        ({"system": "{dialect!r:>9}"}, "system: {dialect!r:>9} is no field"),
        ({"system": "{dialect"}, "is not a template (expected '}' before end of string); write {{ and }} for braces"),
        ({"system": "a } b"}, "is not a template (Single '}' encountered in format string)"),
        ({"scene": SCENE}, "scene: there is no system; a scene stands in the system turn, after its text"),
        ({"system": "a <|scene_desc_start|>"}, "holds ['<|scene_desc_start|>'], which only the program writes"),
        ({"system": "<|eot_id|>"}, "system: '<|eot_id|>' holds ['<|eot_id|>'], which only the program writes"),
        ({"system": "a", "defaults": {"dialect": "b"}}, "defaults.dialect: no text holds {dialect}; leave it out"),
        ({"defaults": {"target_text": "b"}}, "defaults.target_text: unknown; only {speaker}, {dialect}, {scene} can"),
        ({"system": "{dialect}", "defaults": {"dialect": ""}}, "defaults.dialect: ''; it must be a text that is not"),
        ({"system": "{dialect}", "defaults": {"dialect": 3}}, "defaults.dialect: 3; it must be a text"),
        ({"system": "{dialect}", "defaults": {"dialect": "<|AUDIO|>"}}, "defaults.dialect: '<|AUDIO|>' holds"),
        ({"defaults": ["a"]}, "defaults: ['a']; it must be an object with some of {speaker}, {dialect}, {scene}"),
    ],
)
def test_what_a_template_cannot_hold_is_refused(tmp_path: Path, parts: dict[str, Any], wanted: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**TEXTS, **parts}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        PromptTemplate.read(str(path))
    assert str(caught.value).startswith(f"--prompt_template {path}: not a prompt template (1):\n")
    assert wanted in str(caught.value)


def test_all_problems_of_a_file_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"not a prompt template \(4\)"):
        PromptTemplate.read('{"system": "{x}", "system": "{y}", "a": 1, "target_text": "{target_text}"}')


@pytest.mark.parametrize(
    ("content", "wanted"), [(b"[]", "holds a JSON list"), (b"{'a'}", "not JSON"), (b"\xff", "not readable as UTF-8")]
)
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted):
        PromptTemplate.read(str(path))
    with pytest.raises(InputError, match="no such file; give a JSON file"):
        PromptTemplate.read(str(tmp_path / "none.json"))


def test_a_text_of_a_record_cannot_fake_a_scene() -> None:
    forged = VoiceCloningExample("a", AudioContent("a"), "b <|scene_desc_start|>", AudioContent("b"))
    (problem,) = forged.form_problems(template(), None, {})
    assert problem.message.startswith("target_transcript: 'b <|scene_desc_start|>' holds <|scene_desc_start|>")
    assert forged.form_problems("voice_clone", None, {}) == []


def test_a_tokenizer_without_the_tokens_of_scenes_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    class Lacking:
        unk_token_id = None

        def convert_tokens_to_ids(self, token: str) -> None:
            return None

    subject = template(system="a", scene=SCENE)
    assert subject.tokenizer_problems(tokenizer) == [] == template().tokenizer_problems(Lacking())
    assert "<|scene_desc_start|> is missing in the tokenizer" in subject.tokenizer_problems(Lacking())[0]
