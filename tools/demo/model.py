"""Builds the demo's model and tokenizer, with the shapes and ids of the release and random weights."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from boson_multimodal.cloning_example import AS_WRITTEN_INSTRUCTION, AS_WRITTEN_SYSTEM_PROMPT
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from tools.demo.codec import CODEBOOK_SIZE, N_CODEBOOKS
from tools.demo.speech import parts, spoken_sentences

# Text to train the tokenizer on, in addition to the spoken Arabic.
ENGLISH_CORPUS = """
You are an AI assistant designed to convert text into speech. Generate audio following instruction.
If the user's message includes a speaker tag, use the same voice for the answer. Audio is recorded from a quiet room.
Please read the following sentence in the voice of the reference speaker. The speech is clear and the voice natural.
The sun rises in the east and sets in the west. It's a simple fact that people have observed for a very long time.
We don't know what they've found, but I'm sure that there is something, and he'll take the train in the morning.
One two three four five six seven eight nine ten. Numbers: 0 1 2 3 10 25 100 1024 2000 24000.
"""


# The 32 special tokens in the order of the release. Their ids start after the ordinary tokens; the release has 128000.
SPECIAL_TOKENS = """
<|begin_of_text|> <|end_of_text|> <|reserved_special_token_0|> <|reserved_special_token_1|> <|finetune_right_pad_id|>
<|reserved_special_token_2|> <|start_header_id|> <|end_header_id|> <|eom_id|> <|eot_id|> <|python_tag|> <|audio_bos|>
<|audio_eos|> <|audio_out_bos|> <|reserved_special_token_6|> <|AUDIO|> <|AUDIO_OUT|> <|recipient|> <|scene_desc_start|>
<|scene_desc_end|> <|generation_instruction_start|> <|generation_instruction_end|> <SE> </SE> <SE_s> </SE_s> <SE_e>
</SE_e> <|reserved_special_token_20|> <|reserved_special_token_21|> <|reserved_special_token_22|>
<|reserved_special_token_23|>
""".split()


N_ORDINARY_TOKENS = 704  # with the 32 special ones: 736, a multiple of 32


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(model_dir: Path) -> dict[str, int]:
    """Train a byte-level BPE, write the tokenizer files, and return the id of every special token."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_ORDINARY_TOKENS, initial_alphabet=alphabet, show_progress=False)
    prompts = ["system\n\n", "user\n\n", "assistant\n\n", AS_WRITTEN_SYSTEM_PROMPT, AS_WRITTEN_INSTRUCTION]
    tokenizer.train_from_iterator([*spoken_sentences(), *prompts, *parts(ENGLISH_CORPUS)], trainer)
    size = tokenizer.get_vocab_size()
    if size != N_ORDINARY_TOKENS:
        raise RuntimeError(f"the corpus gives {size} tokens, not {N_ORDINARY_TOKENS}; make the corpus longer")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    model_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(model_dir / "tokenizer.json"))
    # The release pads with <|end_of_text|> (128001).
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 131072}
    config = {**kind, **names, "clean_up_tokenization_spaces": False}
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", names)):
        (model_dir / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}


def build_model(model_dir: Path, special_ids: dict[str, int], seed: int, layout: str = ORIGINAL) -> None:
    """Write the config and the random fp32 weights of a Higgs Audio v2 with 3 layers, all dual, of width 128."""
    layers, width, ffn = 3, 128, 256
    rope = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
    text_config = {"model_type": "llama", "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers}
    text_config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5}
    text_config |= {"vocab_size": N_ORDINARY_TOKENS + len(SPECIAL_TOKENS), "hidden_act": "silu"}
    text_config |= {"bos_token_id": special_ids["<|begin_of_text|>"], "eos_token_id": special_ids["<|end_of_text|>"]}
    text_config |= {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "rope_theta": 500000.0}
    text_config |= {"max_position_embeddings": 131072}
    text_config |= {"rope_scaling": {**rope, "original_max_position_embeddings": 8192}}
    config = HiggsAudioConfig(
        text_config=text_config,
        audio_adapter_type="dual_ffn_fast_forward",
        audio_dual_ffn_layers=list(range(layers)),
        audio_ffn_hidden_size=width,
        audio_ffn_intermediate_size=ffn,
        audio_num_codebooks=N_CODEBOOKS,
        audio_codebook_size=CODEBOOK_SIZE,
        audio_stream_bos_id=CODEBOOK_SIZE,
        audio_stream_eos_id=CODEBOOK_SIZE + 1,
        audio_in_token_idx=special_ids["<|AUDIO|>"],
        audio_out_token_idx=special_ids["<|AUDIO_OUT|>"],
        audio_out_bos_token_id=special_ids["<|audio_out_bos|>"],
        audio_eos_token_id=special_ids["<|audio_eos|>"],
        pad_token_id=special_ids["<|end_of_text|>"],
        encode_whisper_embed=False,
        encode_audio_in_tokens=True,
        skip_audio_tower=True,
        use_delay_pattern=True,
    )
    torch.manual_seed(seed)
    save_checkpoint(HiggsAudioModel(config), config, model_dir, layout)
