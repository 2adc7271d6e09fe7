"""ChatML messages -> token ids, text labels and audio slots; and the prompts that the model clones a voice from.

Source of the format: Boson's ``prepare_chatml_sample``; two of its oddities are not copied: a recipient of an untrained
turn carries no labels here, and a malformed sample never gets this far.
"""

from transformers import PreTrainedTokenizerBase

from boson_multimodal import constants as c
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent

AUDIO_IN_SLOT = f"{c.AUDIO_BOS}{c.AUDIO_IN}{c.AUDIO_EOS}"
AUDIO_OUT_SLOT = f"{c.AUDIO_OUT_BOS}{c.AUDIO_OUT}{c.AUDIO_EOS}"

VOICE_CLONE_SYSTEM_PROMPT = "Generate audio following instruction."
AS_WRITTEN_SYSTEM_PROMPT = (
    "You are a helpful assistant capable of generating speech in the voice of the provided reference audio."
)
AS_WRITTEN_INSTRUCTION = "Please generate speech for given text in reference audio's voice: "
"""What stands before the target text in the user turn."""


def prepare_chatml_sample(
    sample: ChatMLSample, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[AudioContent], str | None]:
    """Token ids of a conversation, with one id per audio clip.

    Only trained assistant turns (``ChatMLSample.trains``) have labels: recipient, text, ``<|audio_out_bos|>``,
    ``<|AUDIO_OUT|>``, ``<|audio_eos|>`` and the closing ``<|eot_id|>`` or ``<|eom_id|>``. That ``<|AUDIO_OUT|>`` keeps
    its own id as label marks the segment as trained; the collator turns it into audio labels.

    Returns:
        (input ids, label ids of the same length, audio clips in order of their slots, speaker).
    """
    input_ids: list[int] = []
    label_ids: list[int] = []
    clips: list[AudioContent] = []

    def add(text: str, trained: bool) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False)
        input_ids.extend(ids)
        label_ids.extend(ids if trained else [c.IGNORE_INDEX] * len(ids))

    for turn, message in enumerate(sample.messages):
        trained = sample.trains(turn)
        start = c.BEGIN_OF_TEXT if turn == 0 else ""
        add(f"{start}{c.START_HEADER}{message.role}{c.END_HEADER}\n\n", trained=False)
        if message.recipient:
            add(f"{message.recipient}{c.RECIPIENT}", trained)
        for part in message.content:
            if isinstance(part, TextContent):
                add(part.text, trained)
            else:
                clips.append(part)
                add(AUDIO_OUT_SLOT if message.role == "assistant" else AUDIO_IN_SLOT, trained)
        add(_turn_end(sample, turn), trained)
    return input_ids, label_ids, clips, sample.speaker


def _turn_end(sample: ChatMLSample, turn: int) -> str:
    roles = [message.role for message in sample.messages[turn : turn + 2]]
    return c.END_OF_MESSAGE if roles == ["assistant", "assistant"] else c.END_OF_TURN


def speech_prompt(sample: ChatMLSample, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[AudioContent]]:
    """The head of a sample's ids from which the model speaks on: up to ``<|audio_out_bos|>`` of its first trained clip.

    Returns:
        (input ids, the clips in them in order of their slots).

    Raises:
        ValueError: if the sample trains no clip.
    """
    input_ids, label_ids, _, _ = prepare_chatml_sample(sample, tokenizer)
    trained_clip = tokenizer.convert_tokens_to_ids(c.AUDIO_OUT)
    return input_ids[: label_ids.index(trained_clip)], clips_before_target(sample)


def clips_before_target(sample: ChatMLSample) -> list[AudioContent]:
    """The clips that precede the first trained one."""
    clips: list[AudioContent] = []
    for turn, message in enumerate(sample.messages):
        for part in filter(_is_audio, message.content):
            if sample.trains(turn):
                return clips
            clips.append(part)
    return clips


def text_problem(text: str) -> str | None:
    """Why ``text`` cannot stand in a conversation, and what would mend it; None if it can."""
    forged = [token for token in c.RESERVED_IN_TEXT if token in text]
    if forged:
        return f"{text!r} holds {forged}, which only the program writes; remove them"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return f"{text!r} holds half a surrogate pair, which no tokenizer reads; write the character itself"
    return None


def voice_clone_messages(
    reference_text: str, reference_audio: AudioContent, target_text: str, target_audio: AudioContent
) -> tuple[tuple[Message, ...], int]:
    """The prompt that the released model was shown to clone with: the reference is an earlier, untrained turn.

    Returns:
        The messages, and the ``start_index`` that trains the last turn alone.
    """
    messages = (
        Message("system", (TextContent(VOICE_CLONE_SYSTEM_PROMPT),)),
        Message("user", (TextContent(reference_text),)),
        Message("assistant", (reference_audio,)),
        Message("user", (TextContent(target_text),)),
        Message("assistant", (target_audio,)),
    )
    return messages, len(messages) - 1


def as_written_messages(
    reference_text: str, reference_audio: AudioContent, target_text: str, target_audio: AudioContent
) -> tuple[tuple[Message, ...], int]:
    """The turns of the files that users train on as they are written: reference, instruction and target text at once.

    Returns:
        The messages, and the ``start_index`` of these files, which trains their one assistant turn, text and clip.
    """
    instruction = TextContent(AS_WRITTEN_INSTRUCTION + target_text)
    messages = (
        Message("system", (TextContent(AS_WRITTEN_SYSTEM_PROMPT),)),
        Message("user", (TextContent(reference_text), reference_audio, instruction)),
        Message("assistant", (TextContent(target_text), target_audio)),
    )
    return messages, 0


def to_voice_clone(sample: ChatMLSample) -> tuple[ChatMLSample | None, list[str]]:
    """Rewrite a sample of one reference clip and one target clip into :func:`voice_clone_messages`.

    The reference is the clip outside the trained turns. Its text is ``misc.ref_transcript``, else the text before it in
    its turn; the target text is that of the trained assistant turn.

    Returns:
        The rewritten sample and no problems; or None and every problem.
    """
    problems = []
    trained = [m for turn, m in enumerate(sample.messages) if sample.trains(turn)]
    others = [m for turn, m in enumerate(sample.messages) if not sample.trains(turn)]
    references = [(m, part) for m in others for part in m.content if _is_audio(part)]
    targets = [part for m in trained for part in m.content if _is_audio(part)]
    if len(references) != 1:
        problems.append(
            f"messages: {len(references)} clips outside the trained turns; prompt_style voice_clone needs exactly 1, "
            "the reference"
        )
    if len(targets) != 1:
        problems.append(
            f"messages: {len(targets)} clips in trained turns; prompt_style voice_clone needs exactly 1, the target"
        )
    reference_text = sample.misc.get("ref_transcript") or ""
    if not isinstance(reference_text, str):
        problems.append(f"misc.ref_transcript: {reference_text!r}; it must be a string")
    elif not reference_text.strip() and len(references) == 1:
        reference_text = _text_before(*references[0])
        if not reference_text:
            problems.append("misc.ref_transcript: missing, and no text stands before the reference clip; give one")
    elif reason := text_problem(reference_text):
        problems.append(f"misc.ref_transcript: {reason}")
    target_text = " ".join(p.text.strip() for m in trained for p in m.content if not _is_audio(p)).strip()
    if not target_text:
        problems.append("messages: the trained assistant turn has no text; prompt_style voice_clone needs the target's")
    if problems:
        return None, problems
    messages, start_index = voice_clone_messages(reference_text.strip(), references[0][1], target_text, targets[0])
    return ChatMLSample(messages, start_index, sample.speaker, sample.misc), []


def has_as_written_turns(sample: ChatMLSample) -> bool:
    """Whether a sample's turns are those of :func:`as_written_messages`."""
    clone, _ = to_voice_clone(sample)
    if clone is None:
        return False
    reference_text, reference, text, target = (message.content[0] for message in clone.messages[1:])
    return as_written_messages(reference_text.text, reference, text.text, target)[0] == sample.messages


def _is_audio(part: TextContent | AudioContent) -> bool:
    return isinstance(part, AudioContent)


def _text_before(message: Message, clip: AudioContent) -> str:
    texts = message.content[: message.content.index(clip)]
    return " ".join(part.text.strip() for part in texts).strip()
