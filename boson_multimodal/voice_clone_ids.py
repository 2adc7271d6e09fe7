"""Where the two texts are in the token ids of the voice-cloning prompt, so that one can be exchanged in the ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.constants import AUDIO_OUT, END_OF_TURN
from boson_multimodal.data_types import AudioContent
from boson_multimodal.prompt_template import PromptForm


@dataclass(frozen=True)
class VoiceCloneIds:
    """The numbers of ids around the texts of a voice-cloning prompt that are the same in every sample.

    This holds for prompt style voice_clone, and for a template with ``is_same_around_texts``.

    Each text of a prompt is tokenized alone, so its ids do not depend on what is around it.

    Attributes:
        before: ids before the reference's text.
        between: ids between the reference's text and the target's.
        after: ids after the target's text.
        to_slot: ids between the reference's text and the slot of its clip.
        slot: the id of a slot.
    """

    before: int
    between: int
    after: int
    to_slot: int
    slot: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, form: PromptForm = "voice_clone") -> "VoiceCloneIds":
        """Return the numbers for a tokenizer. They are counted in a prompt with empty texts."""
        empty = VoiceCloningExample("", AudioContent(), "", AudioContent()).conversation(form)
        end = len(tokenizer.encode(END_OF_TURN, add_special_tokens=False))
        slot = tokenizer.convert_tokens_to_ids(AUDIO_OUT)

        def ids_of(turns: int) -> list[int]:
            return prepare_chatml_sample(replace(empty, messages=empty.messages[:turns]), tokenizer)[0]

        turns = len(empty.messages)  # 5, or 4 without a system turn
        before, both, whole = len(ids_of(turns - 3)) - end, len(ids_of(turns - 1)) - end, ids_of(turns)
        return cls(before, both - before, len(whole) - both, whole.index(slot) - before, slot)

    def reference_length(self, input_ids: Sequence[int]) -> int:
        """Return the number of ids of the reference's text in a sample. No text holds a slot."""
        return list(input_ids).index(self.slot) - self.to_slot - self.before

    def target(self, input_ids: Sequence[int]) -> Sequence[int]:
        """Return the ids of the target's text in a sample."""
        start = self.before + self.reference_length(input_ids) + self.between
        return input_ids[start : len(input_ids) - self.after]


def ids_after_a_space(text_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that a text adds to a text before it, if one space joins them.

    Byte-level tokenizers such as that of the model split a text before its spaces, so that what is before a space does
    not change the ids after it. This is tried with the text itself.

    Args:
        text_ids: the ids of the text alone.

    Returns:
        No ids if the text cannot be read from its ids, or if a space does not part texts for this tokenizer.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    alone = list(text_ids)
    text = tokenizer.decode(alone, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    added = encode(f" {text}")
    return added if encode(text) == alone and encode(f"{text} {text}") == alone + added else []
