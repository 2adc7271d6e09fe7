"""The texts of a conversation, normalised: those that are spoken or describe speech, not the instructions about it."""

from dataclasses import replace

from arabic_text import normalise_text
from boson_multimodal.chatml import AS_WRITTEN_INSTRUCTION
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent

TRANSCRIPTS = ("ref_transcript", "target_transcript")
"""Fields of ``misc`` that hold what a clip says."""


def normalise_sample(sample: ChatMLSample, how: str) -> ChatMLSample:
    """A sample with its user and assistant texts and its transcripts normalised; ``how`` as in ``normalise_text``."""
    misc = {
        key: normalise_text(value, how) if key in TRANSCRIPTS and isinstance(value, str) else value
        for key, value in sample.misc.items()
    }
    return replace(sample, messages=tuple(_normalise_message(m, how) for m in sample.messages), misc=misc)


def normalise_part(text: str, how: str) -> str:
    """A text part of a user or assistant turn; our own instruction before the target text stays as it is.

    The target text is then normalised by itself, as it is when it is to be spoken.
    """
    instruction = AS_WRITTEN_INSTRUCTION if text.startswith(AS_WRITTEN_INSTRUCTION) else ""
    return instruction + normalise_text(text.removeprefix(instruction), how)


def _normalise_message(message: Message, how: str) -> Message:
    if message.role == "system":
        return message
    content: list[TextContent | AudioContent] = [
        TextContent(normalise_part(part.text, how)) if isinstance(part, TextContent) else part
        for part in message.content
    ]
    return replace(message, content=tuple(content))
