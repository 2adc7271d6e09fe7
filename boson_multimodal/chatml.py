"""Convert ChatML messages to token ids, text labels and audio slots.

The format is that of Boson's ``prepare_chatml_sample``, with two differences: the recipient of an untrained turn has no
labels here, and malformed samples are rejected earlier.
"""

from itertools import takewhile
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from boson_multimodal import constants as c
from boson_multimodal.data_types import AudioContent, ChatMLSample, TextContent

AUDIO_IN_SLOT = f"{c.AUDIO_BOS}{c.AUDIO_IN}{c.AUDIO_EOS}"
AUDIO_OUT_SLOT = f"{c.AUDIO_OUT_BOS}{c.AUDIO_OUT}{c.AUDIO_EOS}"
MOST_KNOWN_PIECES = 1024
"""Pieces whose ids are remembered, about 2 MB. Headers, slots and ends are the same in all samples, and so is mostly
the system turn. A speaker's clips often follow each other in a file: a target is soon the reference of another."""

_known_pieces: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, int], list[int]]] = WeakKeyDictionary()
"""For each tokenizer the ids of pieces, by text and by the tokenizer's size, which changes when tokens are added."""


def prepare_chatml_sample(
    sample: ChatMLSample, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[AudioContent]]:
    """Return the token ids and labels of a conversation, with one id per audio clip.

    Only trained assistant turns (``ChatMLSample.trains``) have labels: recipient, text, ``<|audio_out_bos|>``,
    ``<|AUDIO_OUT|>``, ``<|audio_eos|>`` and the closing ``<|eot_id|>`` or ``<|eom_id|>``. The label of a trained
    ``<|AUDIO_OUT|>`` is its own id, which marks the segment as trained. The collator turns it into audio labels.

    Returns:
        (input ids, label ids of the same length, audio clips in order of their slots).
    """
    input_ids: list[int] = []
    label_ids: list[int] = []
    clips: list[AudioContent] = []

    def add(text: str, trained: bool) -> None:
        ids = _ids_of(text, tokenizer)
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
    return input_ids, label_ids, clips


def _ids_of(piece: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a piece of a conversation. The caller must not change the list."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):  # whose size is not known
        return tokenizer.encode(piece, add_special_tokens=False)
    known, key = _known_pieces.setdefault(tokenizer, {}), (piece, len(tokenizer))
    if key not in known:
        if len(known) >= MOST_KNOWN_PIECES:
            known.clear()
        known[key] = tokenizer.encode(piece, add_special_tokens=False)
    return known[key]


def _turn_end(sample: ChatMLSample, turn: int) -> str:
    roles = [message.role for message in sample.messages[turn : turn + 2]]
    return c.END_OF_MESSAGE if roles == ["assistant", "assistant"] else c.END_OF_TURN


def speech_prompt(sample: ChatMLSample, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[AudioContent]]:
    """Return the prompt for generation: the ids of a sample up to ``<|audio_out_bos|>`` of its first trained clip.

    Returns:
        (input ids, the clips of the prompt in the order of their slots).

    Raises:
        ValueError: if the sample has no trained clip.
    """
    input_ids, label_ids, _ = prepare_chatml_sample(sample, tokenizer)
    trained_clip = tokenizer.convert_tokens_to_ids(c.AUDIO_OUT)
    return input_ids[: label_ids.index(trained_clip)], clips_before_target(sample)


def clips_before_target(sample: ChatMLSample) -> list[AudioContent]:
    """Return the clips before the first trained clip."""
    return [clip for _, clip in takewhile(lambda found: not sample.trains(found[0]), sample.clips())]


def text_problem(text: str) -> str | None:
    """Return why ``text`` cannot be part of a conversation and how to correct it, or None if it can."""
    forged = [token for token in c.RESERVED_IN_TEXT if token in text]
    if forged:
        return f"{text!r} holds {forged}, which only the program writes; remove them"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return f"{text!r} holds half a surrogate pair, which no tokenizer reads; write the character itself"
    return None
