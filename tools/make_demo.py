"""Build a self-contained demo: Arabic clips, a tiny Higgs Audio v2 and a tiny codec, all made here, nothing downloaded.

    python -m tools.make_demo --output_dir DIR [--seed 0] [--layout original|transformers]
        [--codec_layout original|transformers]

DIR gets `train_chatml_samples.json`, `val_chatml_samples.json`, `clips/VOICE/NAME.wav` (24 kHz mono 16-bit), `model/`
(Llama-3-style tokenizer, config and random weights) and `audio_tokenizer/` (24 kHz, 25 frames/s, 8 codebooks of 1024).
The shapes and ids follow the release; the weights are random, so the demo shows that training works, not how it sounds.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import soundfile
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel
from transformers.utils.logging import disable_progress_bar

from boson_multimodal.audio_processing.codec_layouts import (
    ORIGINAL_WEIGHTS,
    UNUSED_TENSORS,
    Layout,
    original_config,
    original_tensors,
)
from boson_multimodal.chatml import AS_WRITTEN_INSTRUCTION, AS_WRITTEN_SYSTEM_PROMPT
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL
from tools.demo_speech import SAMPLE_RATE, SENTENCES, VOICES, Voice, parts, spoken_sentences, synthesise

N_CODEBOOKS, CODEBOOK_SIZE, CODEBOOK_DIM = 8, 1024, 16
ACOUSTIC_DIM = SEMANTIC_DIM = 32
SPLITS = {"train": ("amal", "badr", "dina", "faris"), "val": ("hana", "karim")}

# Text for the tokenizer, beside the Arabic that is spoken.
ENGLISH_CORPUS = """
You are an AI assistant designed to convert text into speech. Generate audio following instruction.
If the user's message includes a speaker tag, use the same voice for the answer. Audio is recorded from a quiet room.
Please read the following sentence in the voice of the reference speaker. The speech is clear and the voice natural.
The sun rises in the east and sets in the west. It's a simple fact that people have observed for a very long time.
We don't know what they've found, but I'm sure that there is something, and he'll take the train in the morning.
One two three four five six seven eight nine ten. Numbers: 0 1 2 3 10 25 100 1024 2000 24000.
"""

# The 32 special tokens in the order of the release, whose ids start at 128000 where ours start after the ordinary ones.
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


def _chatml(voice: str, split: str, index: int, texts: list[str], seconds: list[float]) -> dict:
    """One sample: sentence `index` of the voice, with the next sentence of the same voice as its reference."""
    ref = (index + 1) % len(texts)

    def audio(i: int) -> dict:
        url = f"clips/{voice}/{split}_{i:02d}.wav"
        return {"type": "audio", "audio_url": url, "raw_audio": "", "duration": seconds[i], "offset": None}

    instruction = {"type": "text", "text": AS_WRITTEN_INSTRUCTION + texts[index]}
    user = [{"type": "text", "text": texts[ref]}, audio(ref), instruction]
    return {
        "messages": [
            {"role": "system", "content": AS_WRITTEN_SYSTEM_PROMPT},
            {"role": "user", "content": user},
            {"role": "assistant", "content": [{"type": "text", "text": texts[index]}, audio(index)]},
        ],
        "start_index": 0,
        "speaker": voice,
        "misc": {
            "sample_id": f"{voice}_{split}_{index:02d}",
            "ref_transcript": texts[ref],
            "target_transcript": texts[index],
            "duration": seconds[index],
        },
    }


def build_clips(output_dir: Path, seed: int) -> list[np.ndarray]:
    """Write the WAVs and both JSON files; return the clips, each (samples,) float in -1..1, as 16 bits hold them."""
    clips = []
    for split, voices in SPLITS.items():
        samples = []
        for voice in voices:
            (output_dir / "clips" / voice).mkdir(parents=True, exist_ok=True)
            texts, seconds = parts(SENTENCES[voice]), []
            for i, text in enumerate(texts):
                rng = np.random.default_rng([seed, len(clips)])
                pcm = np.round(synthesise(text, VOICES[voice], rng) * 32767.0).astype(np.int16)
                path = output_dir / "clips" / voice / f"{split}_{i:02d}.wav"
                soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
                seconds.append(len(pcm) / SAMPLE_RATE)
                clips.append(pcm / 32768.0)
            samples += [_chatml(voice, split, i, texts, seconds) for i in range(len(texts))]
        path = output_dir / f"{split}_chatml_samples.json"
        path.write_text(json.dumps(samples, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return clips


def build_tokenizer(model_dir: Path) -> dict[str, int]:
    """Train the byte-level BPE, write the tokenizer files; return the id of every special token."""
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
        raise RuntimeError(f"the corpus gives {size} tokens, not {N_ORDINARY_TOKENS}: lengthen it")
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


def _codec_config() -> HiggsAudioV2TokenizerConfig:
    """The release's codec in miniature: hop 960 at 24 kHz (25 frames/s), 2 kbit/s = 8 codebooks of 10 bits."""
    ratios = {"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]}
    acoustic = {"encoder_hidden_size": 4, "decoder_hidden_size": 64, "hidden_size": ACOUSTIC_DIM}
    semantic = {"hidden_size": SEMANTIC_DIM, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    semantic |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return HiggsAudioV2TokenizerConfig(
        target_bandwidths=[0.5, 1, 1.5, 2],
        sample_rate=SAMPLE_RATE,
        codebook_size=CODEBOOK_SIZE,
        codebook_dim=CODEBOOK_DIM,
        acoustic_model_config={"model_type": "dac", **acoustic, **ratios},
        semantic_model_config={"model_type": "hubert", "mask_time_prob": 0.0, **semantic},
    )


def _calibration_audio(seed: int) -> Iterator[np.ndarray]:
    """Further speech by other voices, clean and noisy, and plain noise: some 460 s in clips of (samples,) float."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(4):
        scale = rng.uniform(0.92, 1.25)
        pitch = 110.0 * (scale / 0.95) ** 3 * rng.uniform(0.85, 1.15)
        voice = Voice(pitch, rng.uniform(0.1, 0.35), scale, rng.uniform(0.02, 0.25), rng.uniform(0.8, 1.2))
        for text in spoken_sentences():
            wave = synthesise(text, voice, rng) * 10.0 ** rng.uniform(-0.8, 0.1)
            level = 10.0 ** rng.uniform(-4.5, -1.5)  # a recording is never silent between the words
            yield wave + rng.normal(0.0, level, len(wave))
    for _ in range(16):
        colour = rng.uniform(0.0, 0.95)
        white = rng.normal(0.0, 1.0, (2 * SAMPLE_RATE, 1))
        yield 10.0 ** rng.uniform(-4.0, -0.8) * (white[1:, 0] + colour * white[:-1, 0])


@torch.no_grad()
def _features(codec: HiggsAudioV2TokenizerModel, waves: list[np.ndarray]) -> torch.Tensor:
    """Frames of all clips before `fc`: (frames, 64) float64."""
    caught = []
    hook = codec.fc.register_forward_pre_hook(lambda _module, args: caught.append(args[0][0].double()))
    for wave in waves:
        codec.encode(torch.from_numpy(wave).float()[None, None], bandwidth=codec.config.target_bandwidths[0])
    hook.remove()
    return torch.cat(caught)


@torch.no_grad()
def _scale_convolutions(codec: HiggsAudioV2TokenizerModel) -> None:
    """Give the acoustic stack unit gain: the default std of 0.02 fades any input out over its 40 layers."""
    for part in (codec.acoustic_encoder, codec.acoustic_decoder):
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.Conv1d):
                fan_in = module.in_channels * module.kernel_size[0]
                torch.nn.init.normal_(module.weight, std=(0.3 if "res_unit" in name else 1.0) / math.sqrt(fan_in))
    codec.acoustic_encoder.conv1.weight *= 10.0  # speech at its usual level reaches the bent part of Snake


@torch.no_grad()
def _whiten(codec: HiggsAudioV2TokenizerModel, features: torch.Tensor) -> None:
    """Set fc to centre and whiten `features` (frames, 64) in their 16 main directions, and fc1, fc2 to undo it."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    values, vectors = torch.linalg.eigh(((features - mean) / std).T.cov())
    values, vectors = values[-CODEBOOK_DIM:].sqrt(), vectors[:, -CODEBOOK_DIM:]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # eigh leaves the sign open
    basis = torch.nn.init.orthogonal_(torch.empty(features.shape[1], CODEBOOK_DIM, dtype=torch.float64))
    weight = basis @ (vectors / values).T / std
    codec.fc.weight.copy_(weight)
    codec.fc.bias.copy_(-weight @ mean)
    back = std[:, None] * (vectors * values) @ basis.T
    for layer, rows in ((codec.fc2, slice(0, ACOUSTIC_DIM)), (codec.fc1, slice(ACOUSTIC_DIM, None))):
        layer.weight.copy_(back[rows])
        layer.bias.copy_(mean[rows])
    for quantizer in codec.quantizer.quantizers:
        rotation = torch.nn.init.orthogonal_(torch.empty(CODEBOOK_DIM, CODEBOOK_DIM, dtype=torch.float64))
        quantizer.project_in.weight.copy_(rotation @ basis.T)
        quantizer.project_out.weight.copy_(basis @ rotation.T)


@torch.no_grad()
def _draw_codebooks(codec: HiggsAudioV2TokenizerModel, features: torch.Tensor) -> None:
    """Draw each codebook from the residuals that the ones before it leave of `features` (frames, 64).

    Every codebook takes frames of its own: the residual of a frame that is itself an entry is zero from there on.
    """
    residual = codec.fc(features.float())
    order = torch.randperm(len(features))
    if len(order) < N_CODEBOOKS * CODEBOOK_SIZE:
        raise RuntimeError(f"{len(order)} calibration frames for {N_CODEBOOKS} codebooks of {CODEBOOK_SIZE}")
    for i, quantizer in enumerate(codec.quantizer.quantizers):
        chosen = order[i * CODEBOOK_SIZE : (i + 1) * CODEBOOK_SIZE]
        entries = quantizer.project_in(residual[chosen])
        entries = entries + 0.01 * entries.std() * torch.randn_like(entries)
        quantizer.codebook.embed.copy_(entries)
        quantizer.codebook.embed_avg.copy_(entries)
        quantizer.codebook.cluster_size.fill_(1.0)
        residual = residual - quantizer.decode(quantizer.encode(residual.T[None]))[0].T


@torch.no_grad()
def _level_decoder(codec: HiggsAudioV2TokenizerModel, clips: list[np.ndarray]) -> None:
    """Scale the last layer so that the clips decode to waves around 0 with a peak of 0.5: noise, but a valid WAV."""
    waves = [codec.decode(codec.encode(torch.from_numpy(c).float()[None, None])[0])[0].flatten() for c in clips]
    wave = torch.cat(waves)
    last, gain = codec.acoustic_decoder.conv2, 0.5 / (wave - wave.mean()).abs().max()
    last.weight *= gain
    last.bias.copy_((last.bias - wave.mean()) * gain)


def build_codec(codec_dir: Path, clips: list[np.ndarray], seed: int, layout: Layout = "transformers") -> None:
    """Write the tiny codec: random networks, fitted to the clips and to further speech so that codes tell frames apart.

    As initialised by transformers the codebooks are all zero, and every frame of every clip gets the same codes.
    """
    torch.manual_seed(seed)
    codec = HiggsAudioV2TokenizerModel(_codec_config()).eval()
    _scale_convolutions(codec)
    calibration = _features(codec, list(_calibration_audio(seed)))
    _whiten(codec, torch.cat([calibration, _features(codec, clips)]))
    # The demo's own frames are not drawn: an entry equal to a frame leaves nothing for the later codebooks to code.
    _draw_codebooks(codec, calibration)
    _level_decoder(codec, clips)
    if layout == "original":
        write_original_codec(codec, codec_dir)
    else:
        codec.save_pretrained(codec_dir)


def write_original_codec(codec: HiggsAudioV2TokenizerModel, folder: Path) -> None:
    """Write the codec in Boson's original format: ``model.pth`` beside a ``config.json`` of its own."""
    tensors = original_tensors(codec)
    tensors |= {name: torch.zeros(codec.config.semantic_hidden_size) for name in UNUSED_TENSORS}  # as in the release
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / ORIGINAL_WEIGHTS)
    content = json.dumps(original_config(codec.config), indent=2) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")


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


def build_demo(output_dir: Path, seed: int = 0, layout: str = ORIGINAL, codec_layout: Layout = "transformers") -> None:
    """Write the demo under `output_dir`; the same seed gives the same bytes. The caller's random state is kept.

    `layout` and `codec_layout` are those of the files; the weights are the same in each.
    """
    output_dir, threads = Path(output_dir), torch.get_num_threads()
    torch.set_num_threads(1)  # the order of float sums, and with it the last bits, depends on the number of threads
    try:
        with torch.random.fork_rng(devices=[]):
            clips = build_clips(output_dir, seed)
            special_ids = build_tokenizer(output_dir / "model")
            build_model(output_dir / "model", special_ids, seed, layout)
            build_codec(output_dir / "audio_tokenizer", clips, seed, codec_layout)
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Build the demo and say what was written where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default=ORIGINAL, help="of the model's files")
    parser.add_argument("--codec_layout", choices=get_args(Layout), default="transformers", help="of the codec's")
    args = parser.parse_args()
    disable_progress_bar()  # "Writing model shards", for one shard each
    build_demo(args.output_dir, args.seed, args.layout, args.codec_layout)
    for split, voices in SPLITS.items():
        path = args.output_dir / f"{split}_chatml_samples.json"
        seconds = [sample["misc"]["duration"] for sample in json.loads(path.read_text(encoding="utf-8"))]
        print(f"{path}: {len(seconds)} samples, {len(voices)} voices, {sum(seconds):.1f} s of audio under clips/")
    tokens = f"{N_ORDINARY_TOKENS} ordinary and {len(SPECIAL_TOKENS)} special tokens"
    codes = f"{N_CODEBOOKS} codebooks of {CODEBOOK_SIZE}, 25 frames/s"
    for name, what in (("model", tokens), ("audio_tokenizer", codes)):
        folder = args.output_dir / name
        size = sum(path.stat().st_size for path in folder.glob("model.*"))
        print(f"{folder}: {what}, weights {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
