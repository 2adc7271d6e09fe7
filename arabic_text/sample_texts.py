"""Normalises the texts of a conversation: user and assistant turns and transcripts, but no instructions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from arabic_text.normalise import normalise_text
from boson_multimodal.data_types import AS_WRITTEN_INSTRUCTION, AudioContent, ChatMLSample, Message, TextContent

TRANSCRIPTS = ("ref_transcript", "target_transcript")
"""Fields of ``misc`` that hold the transcript of a clip."""


def normalise_sample(sample: ChatMLSample, how: str) -> ChatMLSample:
    """Return a sample with normalised user texts, assistant texts and transcripts; ``how`` as in ``normalise_text``."""
    change = partial(normalise_text, how=how)
    messages = tuple(_change_message(message, change) for message in sample.messages)
    return replace(sample, messages=messages, misc=_change_transcripts(sample.misc, change))


def change_record(record: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Apply ``change`` to the texts of a JSON record that ``normalise_sample`` changes in a sample; the rest stays.

    Args:
        record: a record in which ``parse_sample`` finds no problem.
    """
    messages = [
        message if message["role"] == "system" else {**message, "content": _change_content(message["content"], change)}
        for message in record["messages"]
    ]
    misc = {"misc": _change_transcripts(record["misc"], change)} if record.get("misc") else {}
    return {**record, "messages": messages, **misc}


def _change_content(content: Any, change: Callable[[str], str]) -> Any:
    """Change the content of a turn in any form that JSON records have: a text, a part, or a list of both."""
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
    """Change a text part of a user or assistant turn, but not our own instruction before the target text.

    The target text is changed separately from the instruction, as it is before synthesis.
    """
    instruction = AS_WRITTEN_INSTRUCTION if text.startswith(AS_WRITTEN_INSTRUCTION) else ""
    return instruction + change(text.removeprefix(instruction))


def _change_transcripts(misc: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {
        key: change(value) if key in TRANSCRIPTS and isinstance(value, str) else value for key, value in misc.items()
    }
