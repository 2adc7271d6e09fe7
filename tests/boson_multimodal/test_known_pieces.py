"""Pieces of conversations are tokenized once; the ids are those of a tokenizer that remembers nothing."""

import random

from transformers import PreTrainedTokenizerBase

from boson_multimodal import constants as c
from boson_multimodal.chatml import AUDIO_IN_SLOT, AUDIO_OUT_SLOT, prepare_chatml_sample
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent

WORDS = ["كَتَبَ", "الدرس", "ـ", "١٢٣", "2024", "3.14", "hello", "\n", " ", "\u200f", "🙂", *c.RESERVED_IN_TEXT, "<|eot"]


def written_plainly(sample: ChatMLSample, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids and labels, each piece encoded anew."""
    ids, labels = [], []
    for turn, message in enumerate(sample.messages):
        start = c.BEGIN_OF_TEXT if turn == 0 else ""
        slot = AUDIO_OUT_SLOT if message.role == "assistant" else AUDIO_IN_SLOT
        parts = [part.text if isinstance(part, TextContent) else slot for part in message.content]
        roles = [found.role for found in sample.messages[turn : turn + 2]]
        end = c.END_OF_MESSAGE if roles == ["assistant", "assistant"] else c.END_OF_TURN
        recipient = [message.recipient + c.RECIPIENT] if message.recipient else []
        pieces = [f"{start}{c.START_HEADER}{message.role}{c.END_HEADER}\n\n", *recipient, *parts, end]
        for number, piece in enumerate(pieces):
            found = tokenizer.encode(piece, add_special_tokens=False)
            ids += found
            labels += found if number and sample.trains(turn) else [c.IGNORE_INDEX] * len(found)
    return ids, labels


def random_sample(rng: random.Random) -> ChatMLSample:
    def text() -> TextContent:
        return TextContent(rng.choice(["", " "]).join(rng.choices(WORDS, k=rng.randrange(6))))

    def message() -> Message:
        parts = [rng.choice([text, text, lambda: AudioContent("a.wav")])() for _ in range(rng.randrange(4))]
        role = rng.choice(["system", "user", "assistant", "assistant"])
        return Message(role, tuple(parts), rng.choice([None, None, "tool", ""]))

    messages = tuple(message() for _ in range(rng.randrange(1, 7)))
    return ChatMLSample(messages, rng.choice([None, 0, len(messages) - 1]), None, {})


def test_a_thousand_random_conversations(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(0)
    for _ in range(1000):
        sample = random_sample(rng)
        assert prepare_chatml_sample(sample, tokenizer)[:2] == written_plainly(sample, tokenizer)


def test_a_token_that_is_added_later_counts(tokenizer: PreTrainedTokenizerBase) -> None:
    own = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    sample = ChatMLSample((Message("user", (TextContent("صباح الخير"),)),), None, None, {})
    before = prepare_chatml_sample(sample, own)[0]
    own.add_tokens("صباح الخير")
    after = prepare_chatml_sample(sample, own)[0]
    assert len(after) < len(before) and after == written_plainly(sample, own)[0]


def test_what_a_caller_does_to_the_ids_is_not_remembered(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = ChatMLSample((Message("user", (TextContent("صباح"),)),), None, None, {})
    first = prepare_chatml_sample(sample, tokenizer)[0]
    wanted = list(first)
    first[:] = []
    assert prepare_chatml_sample(sample, tokenizer)[0] == wanted
