"""A text of the voice-cloning prompt can be exchanged in the ids, and texts can be joined by their ids."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.voice_clone_ids import VoiceCloneIds, ids_after_a_space

TEXTS = [
    "صباح الخير",
    "كَيْفَ حَالُكَ؟",
    "٣٫٥ كم",
    "1999",
    "«نعم»،",
    "...",
    "it's",
    "\u0301ا",
    "ا\u0640",
    "user",
    "a\tb",
    "x\n\ny",
    "\u200fب",
    "👩‍👩‍👧",
    "<|end_of_text|>",
    "\u3000",
]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_both_texts_are_found_in_the_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    form = VoiceCloneIds.of(tokenizer)
    for reference, target in zip(TEXTS, reversed(TEXTS), strict=True):
        sample = VoiceCloningExample(reference, AudioContent("a"), target, AudioContent("b"))
        ids = prepare_chatml_sample(sample.conversation("voice_clone"), tokenizer)[0]
        length = form.reference_length(ids)
        assert ids[form.before : form.before + length] == encode(tokenizer, reference)
        assert form.target(ids) == encode(tokenizer, target)
        assert len(ids) == form.before + length + form.between + len(form.target(ids)) + form.after


def test_joined_texts_have_the_ids_of_their_parts(tokenizer: PreTrainedTokenizerBase) -> None:
    after = {text: ids_after_a_space(encode(tokenizer, text), tokenizer) for text in TEXTS}
    assert sum(map(bool, after.values())) >= len(TEXTS) - 1, "a text of white space alone may not be joined"
    joinable = [text for text, ids in after.items() if ids]
    draws = random.Random(0)
    for _ in range(500):
        chosen = draws.choices(joinable, k=draws.randint(2, 4))
        wanted = encode(tokenizer, " ".join(chosen))
        assert encode(tokenizer, chosen[0]) + [i for text in chosen[1:] for i in after[text]] == wanted, chosen


def test_a_tokenizer_that_joins_words_joins_no_texts() -> None:
    space = "\u0120"  # how byte-level tokenizers write it
    characters = ["a", "b", "c", "d", space, f"b{space}"]
    trained = Tokenizer(models.BPE({text: number for number, text in enumerate(characters)}, [("b", space)]))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained)
    assert encode(tokenizer, "ab ab") != encode(tokenizer, "ab") + encode(tokenizer, " ab")
    assert ids_after_a_space(encode(tokenizer, "ab"), tokenizer) == []
    assert ids_after_a_space(encode(tokenizer, "cd"), tokenizer) == encode(tokenizer, " cd")
