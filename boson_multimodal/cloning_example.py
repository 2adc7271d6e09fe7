"""A voice-cloning example: the texts and clips of a reference and a target, written as a conversation or read from one.

A record can give the text of a clip in several places: in its messages, in our instruction before the target text, and
in ``misc``. Several functions read these texts:

- :meth:`VoiceCloningExample.read` requires exactly one reference and one target. It takes the reference text from
  ``misc.ref_transcript``, else from the text before the reference clip. Prompt style voice_clone uses it.
- :func:`target_text_of_messages` and :func:`reference_text_of_messages` read only the messages. The data check uses
  them.
- :func:`text_mismatches` returns where ``misc`` or the instruction differs from the messages.
- :func:`text_to_speak` reads the messages, then ``misc.target_transcript``. Synthesis uses it.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boson_multimodal.chatml import text_problem
from boson_multimodal.constants import SCENE_END, SCENE_START
from boson_multimodal.data_types import AS_WRITTEN_INSTRUCTION, AudioContent, ChatMLSample, Message, TextContent
from boson_multimodal.errors import Problem, ProblemKind
from boson_multimodal.prompt_template import PromptForm, PromptTemplate

VOICE_CLONE_SYSTEM_PROMPT = "Generate audio following instruction."
AS_WRITTEN_SYSTEM_PROMPT = (
    "You are a helpful assistant capable of generating speech in the voice of the provided reference audio."
)
PROMPT_STYLES = {
    "as_written": "keeps the turns of the file",
    "voice_clone": "rewrites each sample into the voice-cloning prompt of the released model: reference text, "
    "reference audio as an untrained assistant turn, target text, then target audio alone",
}


@dataclass(frozen=True)
class VoiceCloningExample:
    """Two clips of one voice and their texts.

    Attributes:
        reference_text, reference_audio: text and clip that show the model the voice.
        target_text, target_audio: text and clip that the model learns. For synthesis the clip need not exist.
    """

    reference_text: str
    reference_audio: AudioContent
    target_text: str
    target_audio: AudioContent

    def conversation(
        self, prompt_style: PromptForm, speaker: str | None = None, misc: dict[str, Any] | None = None
    ) -> ChatMLSample:
        """Return the example in a prompt style (``PROMPT_STYLES``), or in the words of a template.

        ``as_written`` gives the turns of users' files. With a template, ``misc`` of the result holds both texts as they
        are spoken, without the words of the template.

        Raises:
            InputError: if the template cannot be filled (:meth:`form_problems`).
        """
        misc = misc or {}
        if isinstance(prompt_style, PromptTemplate):
            messages, start_index = _template_turns(self, prompt_style, speaker, misc)
            misc = misc | {name: text for name, text in self._transcripts.items() if not _is_text(misc.get(name))}
        else:
            messages, start_index = _TURNS[prompt_style](self)
        return ChatMLSample(messages, start_index, speaker, misc)

    def form_problems(self, form: PromptForm, speaker: str | None, misc: Mapping[str, Any]) -> list[Problem]:
        """Return why the example cannot be written in a form. A text with a token of scenes could fake one."""
        if not isinstance(form, PromptTemplate):
            return []
        forged = [
            f"{name}: {text!r} holds {token}, which only the program writes; remove it"
            for name, text in self._transcripts.items()
            for token in (SCENE_START, SCENE_END)
            if token in text
        ]
        found = [Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in forged]
        return found + form.field_problems(speaker, misc)

    @property
    def _transcripts(self) -> dict[str, str]:
        return {"ref_transcript": self.reference_text, "target_transcript": self.target_text}

    def record(
        self, sample_id: str, speaker: str, seconds: float, attributes: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the ``as_written`` conversation as a JSON record, in the form of users' files.

        Args:
            seconds: length of the target clip.
            attributes: what else ``misc`` holds about the target, such as its dialect.
        """
        sample = self.conversation("as_written")
        return {
            "messages": [_message_record(message) for message in sample.messages],
            "start_index": sample.start_index,
            "speaker": speaker,
            "misc": {
                "sample_id": sample_id,
                "ref_transcript": self.reference_text,
                "target_transcript": self.target_text,
                "duration": seconds,
                **(attributes or {}),
            },
        }

    @classmethod
    def read(cls, sample: ChatMLSample) -> tuple["VoiceCloningExample | None", list[Problem]]:
        """Read the reference and the target of a sample that has exactly one of each.

        The reference is the clip outside the trained turns. Its text is ``misc.ref_transcript``, else the text before
        the clip in its turn. The target text is the text of the trained assistant turns. If the sample already has the
        turns of voice_clone, both texts come from its user turns.

        Returns:
            The example and no problems, or None and every problem.
        """
        if has_voice_clone_turns(sample):
            reference_text, reference, target_text, target = (m.content[0] for m in _without_system_turn(sample))
            return cls(reference_text.text.strip(), reference, target_text.text.strip(), target), []
        references = [(turn, clip) for turn, clip in sample.clips() if not sample.trains(turn)]
        targets = [clip for turn, clip in sample.clips() if sample.trains(turn)]
        trained = [text for turn, m in enumerate(sample.messages) if sample.trains(turn) for text in _texts(m.content)]
        target_text = " ".join(trained).strip()
        reference_text, text_problems = _stated_reference_text(sample, references)
        problems = []
        if len(references) != 1:
            problems.append(
                f"messages: {len(references)} clips outside the trained turns; prompt_style voice_clone needs exactly "
                "1, the reference"
            )
        if len(targets) != 1:
            problems.append(
                f"messages: {len(targets)} clips in trained turns; prompt_style voice_clone needs exactly 1, the target"
            )
        problems += text_problems
        if not target_text:
            problems.append(
                "messages: the trained assistant turn has no text; prompt_style voice_clone needs the target's"
            )
        if problems:
            return None, [Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in problems]
        return cls(reference_text, references[0][1], target_text, targets[0]), []


def _voice_clone_turns(example: VoiceCloningExample) -> tuple[tuple[Message, ...], int]:
    """Return the voice-cloning prompt of the released model: the reference is an earlier, untrained assistant turn.

    Returns:
        The messages, and the ``start_index`` that trains the last turn alone.
    """
    messages = (
        Message("system", (TextContent(VOICE_CLONE_SYSTEM_PROMPT),)),
        Message("user", (TextContent(example.reference_text),)),
        Message("assistant", (example.reference_audio,)),
        Message("user", (TextContent(example.target_text),)),
        Message("assistant", (example.target_audio,)),
    )
    return messages, len(messages) - 1


def _template_turns(
    example: VoiceCloningExample, template: PromptTemplate, speaker: str | None, misc: Mapping[str, Any]
) -> tuple[tuple[Message, ...], int]:
    """Return the voice-cloning prompt in the words of a template, as ``_voice_clone_turns``."""
    texts = {"reference_text": example.reference_text, "target_text": example.target_text}
    filled = template.filled(texts, speaker, misc)
    system = template.system_text(filled)
    messages = (
        *([] if system is None else [Message("system", (TextContent(system),))]),
        Message("user", (TextContent(filled["reference_text"]),)),
        Message("assistant", (example.reference_audio,)),
        Message("user", (TextContent(filled["target_text"]),)),
        Message("assistant", (example.target_audio,)),
    )
    return messages, len(messages) - 1


def _as_written_turns(example: VoiceCloningExample) -> tuple[tuple[Message, ...], int]:
    """Return the turns of users' files: one user turn holds the reference and the target text.

    Returns:
        The messages, and the ``start_index`` of these files, which trains text and clip of the only assistant turn.
    """
    target = TextContent(example.target_text)
    instruction = TextContent(AS_WRITTEN_INSTRUCTION + example.target_text)
    messages = (
        Message("system", (TextContent(AS_WRITTEN_SYSTEM_PROMPT),)),
        Message("user", (TextContent(example.reference_text), example.reference_audio, instruction)),
        Message("assistant", (target, example.target_audio)),
    )
    return messages, 0


_TURNS = {"as_written": _as_written_turns, "voice_clone": _voice_clone_turns}


def _message_record(message: Message) -> dict[str, Any]:
    """Return a turn as JSON. The content of a system turn is only its text."""
    if message.role == "system":
        return {"role": message.role, "content": message.content[0].text}
    return {"role": message.role, "content": [_part_record(part) for part in message.content]}


def _part_record(part: TextContent | AudioContent) -> dict[str, Any]:
    if isinstance(part, TextContent):
        return {"type": "text", "text": part.text}
    cut = {"duration": part.duration, "offset": part.offset}
    return {"type": "audio", "audio_url": part.audio_url, "raw_audio": "", **cut}


def has_as_written_turns(sample: ChatMLSample) -> bool:
    """Return whether a sample has the turns that ``conversation("as_written")`` makes."""
    example, _ = VoiceCloningExample.read(sample)
    return example is not None and example.conversation("as_written").messages == sample.messages


def has_voice_clone_turns(sample: ChatMLSample) -> bool:
    """Return whether a sample has the turns that ``conversation("voice_clone")`` makes, with any system turn."""
    turns = _without_system_turn(sample)
    kinds = [(message.role, [type(part) for part in message.content]) for message in turns]
    wanted = [("user", [TextContent]), ("assistant", [AudioContent])] * 2
    first = len(sample.messages) - len(turns)
    trained = [sample.trains(first + index) for index in range(len(turns))]
    return kinds == wanted and trained == [False, False, False, True]


def _without_system_turn(sample: ChatMLSample) -> tuple[Message, ...]:
    return sample.messages[1:] if sample.messages[0].role == "system" else sample.messages


def target_text_of_messages(sample: ChatMLSample) -> str:
    """Return the text of the trained turns, else the last text of the user turn before them, else an empty string."""
    turns = [turn for turn in range(len(sample.messages)) if sample.trains(turn)]
    own = " ".join(text for turn in turns for text in _spoken_texts(sample.messages[turn])).strip()
    if own or not turns:
        return own
    before = [message for message in sample.messages[: turns[0]] if message.role == "user"]
    texts = _spoken_texts(before[-1]) if before else []
    return texts[-1] if texts else ""


def reference_text_of_messages(sample: ChatMLSample) -> str:
    """Return the text of the reference, or an empty string.

    It is the text before the first untrained clip in the clip's turn. If that is an assistant turn without such a text,
    it is the text of the turn before.
    """
    for turn, clip in sample.clips():
        if not sample.trains(turn):
            message = sample.messages[turn]
            own = _texts_before(clip, message)
            is_answer = message.role == "assistant" and turn > 0
            return " ".join(_spoken_texts(sample.messages[turn - 1]) if is_answer and not own else own)
    return ""


def text_mismatches(sample: ChatMLSample) -> list[str]:
    """Return each field of ``misc`` and each instruction of ours whose text differs from the messages."""
    target = target_text_of_messages(sample)
    stated = {
        "misc.target_transcript": (sample.misc.get("target_transcript"), target),
        "misc.ref_transcript": (sample.misc.get("ref_transcript"), reference_text_of_messages(sample)),
    }
    for turn, message in enumerate(sample.messages):
        for index, part in enumerate(message.content):
            if isinstance(part, TextContent) and part.text.startswith(AS_WRITTEN_INSTRUCTION):
                asked = part.text.removeprefix(AS_WRITTEN_INSTRUCTION)
                stated[f"messages[{turn}].content[{index}]"] = (asked, target)
    return [
        f"{where}: {there!r}; the messages say {here!r}"
        for where, (there, here) in stated.items()
        if isinstance(there, str) and there.strip() and here and _plain(there) != _plain(here)
    ]


def text_to_speak(sample: ChatMLSample) -> str:
    """Return the text to synthesise.

    It is the text of the first trained turn with a clip, else ``misc.target_transcript``, else the last text before
    this turn.

    Args:
        sample: a sample with a trained clip and a text.
    """
    turn = next(turn for turn, _ in sample.clips() if sample.trains(turn))
    texts = [[p.text for p in m.content if isinstance(p, TextContent)] for m in sample.messages[: turn + 1]]
    if texts[-1]:
        return " ".join(texts[-1]).strip()
    transcript = sample.misc.get("target_transcript")
    return transcript if isinstance(transcript, str) and transcript else next((t[-1] for t in reversed(texts) if t), "")


def _stated_reference_text(
    sample: ChatMLSample, references: Sequence[tuple[int, AudioContent]]
) -> tuple[str, list[str]]:
    """Return ``misc.ref_transcript``, else the text before the only reference; and the problems with this text."""
    stated = sample.misc.get("ref_transcript") or ""
    if not isinstance(stated, str):
        return "", [f"misc.ref_transcript: {stated!r}; it must be a string"]
    if stated.strip():
        reason = text_problem(stated)
        return stated.strip(), [f"misc.ref_transcript: {reason}"] if reason else []
    if len(references) != 1:
        return "", []
    turn, clip = references[0]
    text = " ".join(_texts_before(clip, sample.messages[turn])).strip()
    missing = "misc.ref_transcript: missing, and there is no text before the reference clip; give one"
    return text, [] if text else [missing]


def _texts_before(clip: AudioContent, message: Message) -> list[str]:
    return _texts(message.content[: message.content.index(clip)])


def _texts(parts: Sequence[TextContent | AudioContent]) -> list[str]:
    return [part.text.strip() for part in parts if isinstance(part, TextContent)]


def _spoken_texts(message: Message) -> list[str]:
    """Return the texts of a turn, without our instruction before the target text."""
    parts = [part.text for part in message.content if isinstance(part, TextContent)]
    return [text.removeprefix(AS_WRITTEN_INSTRUCTION).strip() for text in parts]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
