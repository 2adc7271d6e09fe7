"""Measures how much merging an adapter in bf16 changes the logits, compared with the rounding error of bf16 itself.

    OMP_NUM_THREADS=1 python -m benchmarks.merge_rounding [--layers 6 --width 512 --rank 16 --seeds 3]

The model is random, in bf16, with a random adapter on its attention and both FFNs (or ``--targets``). ``--update`` is
the size of the adapter's update relative to the weights, in Frobenius norms. The reference is base + adapter computed
in fp32 on the same bf16 base. The last rows compare the merged model with base + adapter when both run in bf16.
"""

import argparse
import copy

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig
from voice_cloning.adapters.export import Adapter, apply_adapter, merge_adapter
from voice_cloning.adapters.logit_comparison import Logits, computing_in, differences, fixed_batch, our_logits

HEAD_DIM = 64
FIRST_TEXT_ID = 4000
"""The first of the special ids, which are in the order of the release."""


def build_model(layers: int, width: int) -> HiggsAudioModel:
    """Return a random model in bf16 with the structure of the release, the real codebooks and a small vocabulary."""
    text = {
        "vocab_size": FIRST_TEXT_ID + 32,
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_DIM,
        "num_key_value_heads": max(1, width // HEAD_DIM // 4),
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
    }
    ids = {
        "pad_token_id": FIRST_TEXT_ID + 1,
        "audio_eos_token_id": FIRST_TEXT_ID + 12,
        "audio_out_bos_token_id": FIRST_TEXT_ID + 13,
        "audio_in_token_idx": FIRST_TEXT_ID + 15,
        "audio_out_token_idx": FIRST_TEXT_ID + 16,
    }
    model = HiggsAudioModel(HiggsAudioConfig(text_config=text, **ids)).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


@torch.no_grad()
def random_adapter(base: HiggsAudioModel, settings: HiggsAudioLoRATrainingConfig, update: float) -> PeftModel:
    """Return an adapter whose updates, scale times B A, have ``update`` times the Frobenius norm of their weights."""
    model = apply_adapter(base, Adapter(settings.to_peft(), {}))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            factors = [*module.lora_A.parameters(), *module.lora_B.parameters()]
            factors += [*module.lora_embedding_A.parameters(), *module.lora_embedding_B.parameters()]
            for factor in factors:
                factor.normal_()
            norm = module.get_delta_weight("default").norm()
            factors[-1].mul_(update * module.get_base_layer().weight.float().norm() / norm)
    return model


def measure(layers: int, width: int, settings: HiggsAudioLoRATrainingConfig, update: float) -> dict[str, Logits]:
    """Return the logits of one random model with one random adapter, for every way to run them."""
    model = random_adapter(build_model(layers, width), settings, update)
    batch = fixed_batch(model.get_base_model().config)
    with computing_in(model, torch.float32):
        found = {"truth": our_logits(model, batch)}
        with model.disable_adapter():
            found["base"] = our_logits(model, batch)
    found["unmerged"] = our_logits(model, batch)
    found["merged"] = our_logits(merge_adapter(copy.deepcopy(model), torch.bfloat16), batch)
    for name, safe in (("PEFT", False), ("PEFT, safe", True)):
        found[name] = our_logits(copy.deepcopy(model).merge_and_unload(safe_merge=safe), batch)
    return found


ROWS = (
    ("the adapter's own effect, fp32", "base", "truth"),
    ("bf16's own: base + adapter, bf16 to fp32", "unmerged", "truth"),
    ("merged here, bf16, to fp32", "merged", "truth"),
    ("PEFT's merge_and_unload, bf16, to fp32", "PEFT", "truth"),
    ("PEFT's merge_and_unload(safe), bf16, to fp32", "PEFT, safe", "truth"),
    ("merged here to base + adapter, both bf16", "merged", "unmerged"),
    ("PEFT's merge to base + adapter, both bf16", "PEFT", "unmerged"),
)


def main() -> None:
    """Print one table: the largest difference over all seeds, and the means over seeds of the RMS differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", nargs="+", default=["attention", "audio_mlp", "text_mlp"], choices=TARGET_GROUPS)
    parser.add_argument("--update", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--use_dora", action="store_true")
    args = parser.parse_args()
    settings = HiggsAudioLoRATrainingConfig(lora_rank=args.rank, lora_targets=args.targets, use_dora=args.use_dora)
    runs = []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        runs.append(measure(args.layers, args.width, settings, args.update))
    for head in ("text", "audio"):
        size = max(run["truth"].largest(head) for run in runs)
        print(f"{head} logits (the largest is {size:.3g})".ljust(48), "largest      RMS  90 % of rows")
        for title, one, other in ROWS:
            found = [differences(run[one], run[other])[head] for run in runs]
            largest = max(difference.largest for difference in found)
            rms = sum(difference.rms for difference in found) / len(found)
            row_rms = sum(difference.row_rms for difference in found) / len(found)
            print(f"  {title:46} {largest:7.3g}  {rms:7.3g}  {row_rms:7.3g}")


if __name__ == "__main__":
    main()
