"""ChatML samples: turns of text and audio, and a parser for JSON records."""

import base64
import sys
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from boson_multimodal.errors import Problem, ProblemKind

ROLES = ("system", "user", "assistant")
SAMPLE_KEYS = ("messages", "start_index", "misc", "speaker")
MESSAGE_KEYS = ("role", "content", "recipient")
TEXT_KEYS = ("type", "text")
AUDIO_KEYS = ("type", "audio_url", "raw_audio", "offset", "duration", "row_id")
PLACEHOLDER_URLS = ("", "placeholder")
"""Values of ``audio_url`` that mean that there is no path."""
AS_WRITTEN_INSTRUCTION = "Please generate speech for given text in reference audio's voice: "
"""The instruction before the target text in the user turn of the users' files."""


@dataclass(frozen=True)
class TextContent:
    """A text part of a turn."""

    text: str


@dataclass(frozen=True)
class AudioContent:
    """An audio part of a turn.

    Attributes:
        audio_url: path of the file, absolute or relative to the JSON file that names it.
        raw_audio: the file's bytes (in JSON: base64), used if there is no ``audio_url``.
        offset: seconds to skip at the start.
        duration: maximum number of seconds to keep after the offset; None keeps the rest of the file.
        where: the field of the record that names the file, for messages.
    """

    audio_url: str | None = None
    raw_audio: bytes | None = None
    offset: float | None = None
    duration: float | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Message:
    """One turn. ``recipient`` names whom an assistant turn addresses, as in the original release."""

    role: str
    content: tuple[TextContent | AudioContent, ...]
    recipient: str | None = None


@dataclass(frozen=True)
class ChatMLSample:
    """A conversation.

    Attributes:
        start_index: the first message (from 0) whose assistant turns are trained; None trains all of them.
        speaker: who speaks the target.
        misc: other facts of the record (``sample_id``, transcripts), in any form.
    """

    messages: tuple[Message, ...]
    start_index: int | None
    speaker: str | None
    misc: dict[str, Any]

    def trains(self, turn: int) -> bool:
        """Return whether the loss covers message ``turn``."""
        return self.messages[turn].role == "assistant" and turn >= (self.start_index or 0)

    def clips(self) -> list[tuple[int, AudioContent]]:
        """Return each clip with the number of its message, in the order of the slots."""
        return [
            (turn, part)
            for turn, message in enumerate(self.messages)
            for part in message.content
            if isinstance(part, AudioContent)
        ]


def parse_sample(record: Any) -> tuple[ChatMLSample | None, list[Problem]]:
    """Read one JSON record.

    Returns:
        The sample and no problems, or None and every problem.
    """
    sample, problems = _parse_record(record)
    return sample, [Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in problems]


def _parse_record(record: Any) -> tuple[ChatMLSample | None, list[str]]:
    if not isinstance(record, dict):
        return None, [f"record: is {type(record).__name__}; it must be an object with 'messages'"]
    problems = _unknown_keys("", record, SAMPLE_KEYS)
    start_index = record.get("start_index")
    is_index = isinstance(start_index, int) and not isinstance(start_index, bool) and start_index >= 0
    if start_index is not None and not is_index:
        problems.append(f"start_index: {start_index!r}; it must be null or a message index from 0")
    misc = record.get("misc") or {}
    if not isinstance(misc, dict):
        problems.append(f"misc: {misc!r}; it must be an object")
        misc = {}
    speaker = record.get("speaker") or misc.get("speaker")
    raw_messages = record.get("messages")
    if not isinstance(raw_messages, list) or not raw_messages:
        problems.append(f"messages: {raw_messages!r}; it must be a list of at least one turn")
        raw_messages = []
    messages = [_parse_message(f"messages[{i}]", raw, problems) for i, raw in enumerate(raw_messages)]
    if problems:
        return None, problems
    return ChatMLSample(tuple(messages), start_index, None if speaker is None else str(speaker), misc), []


def _parse_message(where: str, raw: Any, problems: list[str]) -> Message | None:
    if not isinstance(raw, dict):
        problems.append(f"{where}: {raw!r}; it must be an object with 'role' and 'content'")
        return None
    problems += _unknown_keys(f"{where}.", raw, MESSAGE_KEYS)
    role, recipient = raw.get("role"), raw.get("recipient")
    if role not in ROLES:
        problems.append(f"{where}.role: {role!r}; it must be one of {list(ROLES)}")
    if recipient is not None and (role != "assistant" or not isinstance(recipient, str)):
        problems.append(f"{where}.recipient: {recipient!r}; only an assistant turn has one, and it is a string")
    content = raw.get("content")
    parts = content if isinstance(content, list) else [content]
    if not parts:
        problems.append(f"{where}.content: []; it must hold text or audio")
    parsed = [_parse_part(f"{where}.content[{i}]", part, problems) for i, part in enumerate(parts)]
    return Message(role, tuple(parsed), recipient)


def _parse_part(where: str, raw: Any, problems: list[str]) -> TextContent | AudioContent | None:
    if isinstance(raw, str):
        raw = {"type": "text", "text": raw}
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "text":
        problems += _unknown_keys(f"{where}.", raw, TEXT_KEYS)
        if not isinstance(raw.get("text"), str):
            problems.append(f"{where}.text: {raw.get('text')!r}; it must be a string")
            return None
        return TextContent(raw["text"])
    if kind == "audio":
        problems += _unknown_keys(f"{where}.", raw, AUDIO_KEYS)
        return _parse_audio(where, raw, problems)
    if isinstance(raw, dict):
        problems.append(f"{where}.type: {kind!r}; it must be 'text' or 'audio'")
    else:
        problems.append(f"{where}: {raw!r}; it must be a string or an object of type 'text' or 'audio'")
    return None


def _parse_audio(where: str, raw: dict[str, Any], problems: list[str]) -> AudioContent:
    url, raw_audio = raw.get("audio_url"), raw.get("raw_audio")
    if url in PLACEHOLDER_URLS:
        url = None
    for name, value in (("audio_url", url), ("raw_audio", raw_audio)):
        if value is not None and not isinstance(value, str):
            problems.append(f"{where}.{name}: {value!r}; it must be a string")
    if not url and not raw_audio:
        problems.append(f"{where}.audio_url: missing; give a path, or base64 in raw_audio")
    data = None
    if not url and raw_audio and isinstance(raw_audio, str):
        try:
            data = base64.b64decode(raw_audio, validate=True)
        except ValueError as error:
            problems.append(f"{where}.raw_audio: {raw_audio[:20]!r}...; it must be base64 in one line ({error})")
    for name, lowest in (("offset", "at least 0"), ("duration", "above 0")):
        value = raw.get(name)
        if value is None:
            continue
        is_number = isinstance(value, Real) and not isinstance(value, bool) and value <= sys.float_info.max
        if not is_number or value < 0 or (name == "duration" and value == 0):
            problems.append(f"{where}.{name}: {value!r}; it must be null or a number of seconds, {lowest}")
    source = f"{where}.audio_url" if url else f"{where}.raw_audio"
    return AudioContent(url, data, raw.get("offset"), raw.get("duration"), source)


def _unknown_keys(prefix: str, raw: dict[str, Any], known: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{key}: unknown key; known here are {list(known)}" for key in raw if key not in known]
