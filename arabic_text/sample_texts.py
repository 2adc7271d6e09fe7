"""The texts of a conversation, normalised: those that are spoken or describe speech, not the instructions about it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from arabic_text.normalise import normalise_text
from boson_multimodal.cloning_example import AS_WRITTEN_INSTRUCTION
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent

TRANSCRIPTS = ("ref_transcript", "target_transcript")
"""Fields of ``misc`` that hold what a clip says."""


def normalise_sample(sample: ChatMLSample, how: str) -> ChatMLSample:
    """A sample with its user and assistant texts and its transcripts normalised; ``how`` as in ``normalise_text``."""
    change = partial(normalise_text, how=how)
    messages = tuple(_change_message(message, change) for message in sample.messages)
    return replace(sample, messages=messages, misc=_change_transcripts(sample.misc, change))


def change_record(record: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A JSON record with the texts changed that ``normalise_sample`` changes in the sample; all else is the same.

    Args:
        record: one in which ``parse_sample`` finds no problem.
    """
    messages = [
        message if message["role"] == "system" else {**message, "content": _change_content(message["content"], change)}
        for message in record["messages"]
    ]
    misc = {"misc": _change_transcripts(record["misc"], change)} if record.get("misc") else {}
    return {**record, "messages": messages, **misc}


def _change_content(content: Any, change: Callable[[str], str]) -> Any:
    """The content of a turn in any form that JSON records have: a text, a part, or a list of both."""
    if isinstance(content, list):
        return [_change_content(part, change) for part in content]
    if isinstance(content, str):
        return _change_part(content, change)
    return {**content, "text": _change_part(content["text"], change)} if content["type"] == "text" else content


def _change_message(message: Message, change: Callable[[str], str]) -> Message:
    if message.role == "system":
        return message
    content: list[TextContent | AudioContent] = [
        TextContent(_change_part(part.text, change)) if isinstance(part, TextContent) else part
        for part in message.content
    ]
    return replace(message, content=tuple(content))


def _change_part(text: str, change: Callable[[str], str]) -> str:
    """A text part of a user or assistant turn; our own instruction before the target text stays as it is.

    The target text is then changed by itself, as it is when it is to be spoken.
    """
    instruction = AS_WRITTEN_INSTRUCTION if text.startswith(AS_WRITTEN_INSTRUCTION) else ""
    return instruction + change(text.removeprefix(instruction))


def _change_transcripts(misc: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {
        key: change(value) if key in TRANSCRIPTS and isinstance(value, str) else value for key, value in misc.items()
    }
