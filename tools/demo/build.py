"""Builds the demo: clips, ChatML files, model and codec in one folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from boson_multimodal.audio_processing.codec_layouts import Layout
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from tools.demo.codec import build_codec
from tools.demo.model import build_model, build_tokenizer
from tools.demo.speech import SAMPLE_RATE, SENTENCES, VOICES, parts, synthesise

SPLITS = {"train": ("amal", "badr", "dina", "faris"), "val": ("hana", "karim")}


def _record(voice: str, split: str, index: int, texts: list[str], seconds: list[float]) -> dict[str, Any]:
    """Return a sample: sentence `index` of the voice, with the next sentence of the same voice as its reference."""
    ref = (index + 1) % len(texts)
    reference, target = (AudioContent(f"clips/{voice}/{split}_{i:02d}.wav", duration=seconds[i]) for i in (ref, index))
    example = VoiceCloningExample(texts[ref], reference, texts[index], target)
    return example.record(f"{voice}_{split}_{index:02d}", voice, seconds[index])


def build_clips(output_dir: Path, seed: int) -> list[np.ndarray]:
    """Write the WAVs and both JSON files; return the clips, each (samples,) float in -1..1 with 16-bit precision."""
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
            samples += [_record(voice, split, i, texts, seconds) for i in range(len(texts))]
        path = output_dir / f"{split}_chatml_samples.json"
        path.write_text(json.dumps(samples, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return clips


def build_demo(output_dir: Path, seed: int = 0, layout: str = ORIGINAL, codec_layout: Layout = "transformers") -> None:
    """Write the demo under `output_dir`; the same seed gives the same bytes. The caller's random state is kept.

    `layout` and `codec_layout` are the layouts of the weight files; the weights are the same in each layout.
    """
    output_dir, threads = Path(output_dir), torch.get_num_threads()
    torch.set_num_threads(1)  # with more threads, float sums have another order and other last bits
    try:
        with torch.random.fork_rng(devices=[]):
            clips = build_clips(output_dir, seed)
            special_ids = build_tokenizer(output_dir / "model")
            build_model(output_dir / "model", special_ids, seed, layout)
            build_codec(output_dir / "audio_tokenizer", clips, seed, codec_layout)
    finally:
        torch.set_num_threads(threads)
