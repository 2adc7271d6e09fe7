"""Whether a speech recogniser knows Arabic, which its configuration, tokenizer and vocabulary say without its weights.

``shown`` is the flag with its value, for messages.
"""

import json
from pathlib import Path
from typing import Any

from boson_multimodal.checkpoints import naming_damage
from boson_multimodal.errors import InputError

MMS_ARABIC, MMS_ADAPTER = "ara", "adapter.ara.safetensors"
ARABIC_LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"
ARABIC_TOKEN, TRANSCRIBE_TOKEN = "<|ar|>", "<|transcribe|>"
LEAST_MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of a Whisper of many languages. The English ones have one token less, but they have one for Arabic too."""


def generation_config(folder: Path, config: Any) -> Any:
    """Return the generation config of transformers in a folder, or the one that follows from the model's config."""
    import transformers

    if (folder / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(folder)
    return transformers.GenerationConfig.from_model_config(config)


def force_arabic(generation: Any, vocabulary: int, tokenizer: Any, shown: str) -> None:
    """Make a generation config of Whisper ready for Arabic.

    Checkpoints of fine-tuned models often have an old config that does not name the tokens of languages and tasks.

    Raises:
        InputError: if the model knows no Arabic.
    """
    known = tokenizer.get_vocab()
    is_multilingual = getattr(generation, "is_multilingual", None)
    languages = getattr(generation, "lang_to_id", None)
    if is_multilingual is None and languages is None:
        is_multilingual = vocabulary >= LEAST_MULTILINGUAL_VOCABULARY
    if is_multilingual is False:
        raise InputError(english_only(shown))
    if ARABIC_TOKEN not in (known if languages is None else languages):
        raise InputError(without_arabic(shown))
    if languages is None:
        generation.lang_to_id = {ARABIC_TOKEN: known[ARABIC_TOKEN]}
        generation.task_to_id = {"transcribe": known[TRANSCRIBE_TOKEN]}
    generation.is_multilingual = True
    generation.forced_decoder_ids = None


def require_arabic_letters(tokenizer: Any, shown: str) -> None:
    """Raise :class:`InputError` if a tokenizer of letters lacks some of the 28 Arabic ones."""
    letters = {letter for token in tokenizer.get_vocab() for letter in token}
    missing = [letter for letter in ARABIC_LETTERS if letter not in letters]
    if missing:
        raise InputError(
            f"{shown}: it knows no Arabic: its vocabulary lacks {len(missing)} of the 28 letters "
            f"({' '.join(missing[:5])}); give a recogniser of Arabic"
        )


def language_of_adapters(folder: Path, shown: str) -> dict[str, str]:
    """Return the setting that gives MMS its Arabic adapter; empty for a model of one language.

    MMS has a vocabulary, a head and an adapter for each language.

    Raises:
        InputError: if it has none for Arabic.
    """
    if not (folder / "vocab.json").is_file():
        return {}
    with naming_damage(shown):
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    if not any(isinstance(tokens, dict) for tokens in vocabulary.values()):
        return {}
    if MMS_ARABIC not in vocabulary or not (folder / MMS_ADAPTER).is_file():
        raise InputError(f"{shown}: it has adapters for languages, but none for Arabic; it needs {MMS_ADAPTER}")
    return {"target_lang": MMS_ARABIC}


def require_arabic_of_converted(folder: Path, shown: str) -> None:
    """Check the files of a converted Whisper model; faster-whisper would fetch a tokenizer from the hub.

    Raises:
        InputError: if one is missing or no JSON, or if the model knows no Arabic.
    """
    missing = [name for name in ("tokenizer.json",) if not (folder / name).is_file()]
    vocabulary = next((folder / n for n in ("vocabulary.json", "vocabulary.txt") if (folder / n).is_file()), None)
    missing += [] if vocabulary else ["vocabulary.json"]
    if missing:
        raise InputError(f"{shown}: no {' and no '.join(missing)} in it; give a whole folder of faster-whisper")
    with naming_damage(shown):
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        text = vocabulary.read_text(encoding="utf-8")
        tokens = json.loads(text) if vocabulary.suffix == ".json" else text.splitlines()
        is_known = ARABIC_TOKEN in {token["content"] for token in tokenizer["added_tokens"]}
    if len(tokens) < LEAST_MULTILINGUAL_VOCABULARY:
        raise InputError(english_only(shown))
    if not is_known:
        raise InputError(without_arabic(shown))


def english_only(shown: str) -> str:
    """Return the message for a Whisper that knows English alone."""
    return f"{shown}: it knows English only; give a Whisper of many languages, without '.en' in its name"


def without_arabic(shown: str) -> str:
    """Return the message for a Whisper without a token for Arabic."""
    return f"{shown}: it knows no Arabic: it has no token {ARABIC_TOKEN}; give a recogniser of Arabic"
