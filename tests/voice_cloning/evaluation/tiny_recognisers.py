"""Tiny recognisers with random weights, in folders as the released ones have them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from voice_cloning.evaluation.arabic_recognisers import ARABIC_LETTERS

TASKS = ("<|translate|>", "<|transcribe|>")
WHISPER_TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|ar|>", *TASKS, "<|startofprev|>")
WHISPER_TOKENS += ("<|startoflm|>", "<|nocaptions|>", "<|notimestamps|>")
CTC_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *ARABIC_LETTERS, *"ءآأؤإئةى")
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 37}
CONVOLUTIONS = {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 8)}
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}


def make_whisper(folder: Path, languages: tuple[str, ...] | None = ("<|en|>", "<|ar|>"), **settings: object) -> Path:
    """Save a Whisper of bytes. ``languages`` None: the generation config of the time before languages were named."""
    vocabulary = {token: i for i, token in enumerate((*sorted(ByteLevel.alphabet()), *WHISPER_TOKENS))}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(list(WHISPER_TOKENS), special_tokens=True)
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_target_positions": 40}
    sizes |= {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("attention_heads", "ffn_dim")}
    sizes |= {"vocab_size": len(vocabulary), "suppress_tokens": None, "begin_suppress_tokens": None}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**(sizes | ends | settings)))
    for parameter in model.parameters():
        parameter.data *= 5  # else it says the same of every clip
    known = {"no_timestamps_token_id": vocabulary["<|notimestamps|>"], "max_length": 12}
    if languages is not None:
        known |= {"is_multilingual": True, "lang_to_id": {name: vocabulary[name] for name in languages}}
        known |= {"task_to_id": {name.strip("<|>"): vocabulary[name] for name in TASKS}}
    model.generation_config = GenerationConfig(**ends, **known)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def make_ctc(folder: Path, tokens: tuple[str, ...] = CTC_TOKENS, kind: str = "wav2vec2") -> Path:
    """Save a model with a CTC head whose labels are ``tokens``; ``kind`` is ``wav2vec2`` or ``wav2vec2-bert``."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    torch.manual_seed(0)
    sizes = LAYERS | {"vocab_size": len(tokens), "pad_token_id": 0}
    if kind == "wav2vec2":
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**(sizes | CONVOLUTIONS | POSITIONS)))
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
    else:
        model = Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**sizes))
        SeamlessM4TFeatureExtractor().save_pretrained(folder)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folder


def make_mms(folder: Path, languages: tuple[str, ...]) -> Path:
    """Save an MMS whose own head is that of another language than Arabic, with an adapter for each language."""
    tokens = {name: CTC_TOKENS if name == "ara" else CTC_TOKENS[:20] for name in languages}
    make_ctc(folder, CTC_TOKENS[:20])
    torch.manual_seed(0)
    for name in reversed(languages):
        sizes = LAYERS | {"vocab_size": len(tokens[name]), "pad_token_id": 0, "adapter_attn_dim": 8}
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**(sizes | CONVOLUTIONS | POSITIONS), do_stable_layer_norm=True))
        model.save_pretrained(folder)  # the first language is saved last
        weights = {**model._get_adapters(), "lm_head.weight": 20 * model.lm_head.weight}
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / f"adapter.{name}.safetensors")
    vocabulary = {name: {token: i for i, token in enumerate(found)} for name, found in tokens.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang=languages[0]).save_pretrained(folder)
    return folder


def make_converted(folder: Path, tokens: int = 51_865, languages: tuple[str, ...] = ("<|en|>", "<|ar|>")) -> Path:
    """Write the files of a Whisper for faster-whisper, with weights that cannot be read."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"lang_ids": [1], "suppress_ids": [], "alignment_heads": []}))
    (folder / "vocabulary.json").write_text(json.dumps([str(number) for number in range(tokens)]))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": name} for name in languages]}))
    (folder / "model.bin").write_bytes(b"no weights")
    return folder
