"""Measures milliseconds per generated column: our generation, its forward alone, and transformers' class.

    OMP_NUM_THREADS=1 python -m benchmarks.generation_speed [--layers 8 --width 768 --batch 1 4]

The models are random, with the real vocabulary and codebooks and the release's proportions. Generation is greedy, after
a prompt of 60 tokens. The figures depend on the threads, layers and columns, so all three are measured in one run.
"""

import argparse
import time
from collections.abc import Callable

import torch
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache

PROMPT_TOKENS = 60
HEAD_DIM = 64
ROUNDS = 3


def build_models(layers: int, width: int) -> tuple[HiggsAudioModel, HiggsAudioV2ForConditionalGeneration]:
    """Return our model and transformers' of one shape, with different weights: these do not change the speed."""
    text = {
        "vocab_size": 128256,
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_DIM,
        "num_key_value_heads": width // HEAD_DIM // 3,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 131072,
    }
    ours = HiggsAudioModel(HiggsAudioConfig(text_config=text)).eval()
    theirs = HiggsAudioV2ForConditionalGeneration(HiggsAudioV2Config(**text, codebook_size=1026)).eval()
    theirs.generation_config.eos_token_id = None  # generates to the last column, as our random model does
    return ours, theirs


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def generate_all(model: HiggsAudioModel, input_ids: torch.Tensor, columns: int) -> None:
    """Generate all columns with our model."""
    segments = model.generate(input_ids, do_sample=False, max_new_tokens=columns).audio_sequences
    if any(segment.shape[1] < columns for segment in segments):
        raise RuntimeError("a sample ended early, so the figures are not comparable; use another seed")


@torch.no_grad()
def own_forward(model: HiggsAudioModel, input_ids: torch.Tensor, columns: int) -> None:
    """Run only the layers and the audio head for each column."""
    batch = input_ids.shape[0]
    cache = KeyValueCache(len(model.layers), batch)
    model.last_hidden_states(cache, input_ids=input_ids)
    codes = torch.randint(0, 1024, (8, batch))
    one = {"input_ids": torch.full((batch, 1), model.config.audio_out_token_idx), "audio_out_ids": codes}
    for _ in range(columns):
        hidden = model.last_hidden_states(cache, **one, audio_out_ids_start=torch.arange(batch))
        model.audio_decoder_proj.audio_lm_head(hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=768, help="A multiple of 192.")
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    torch.manual_seed(0)
    ours, theirs = build_models(args.layers, args.width)
    print(f"{args.layers} layers, width {args.width}, {torch.get_num_threads()} thread(s), {args.columns} columns")
    for batch in args.batch:
        input_ids = torch.randint(0, 1000, (batch, PROMPT_TOKENS))
        input_ids[:, -1] = ours.config.audio_out_bos_token_id
        runs: dict[str, Callable[[], object]] = {
            "generate": lambda ids=input_ids: generate_all(ours, ids, args.columns),
            "its forward alone": lambda ids=input_ids: own_forward(ours, ids, args.columns),
            "transformers": lambda ids=input_ids: theirs.generate(ids, do_sample=False, max_new_tokens=args.columns),
        }
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(ROUNDS + 1):  # in turn, so that a busy machine slows all alike; the first round warms up
            best = {name: min(best[name], seconds(run)) for name, run in runs.items()}
        for name, run_seconds in best.items():
            print(f"batch {batch}  {name:18} {1000 * run_seconds / args.columns:7.2f} ms per column")


if __name__ == "__main__":
    main()
