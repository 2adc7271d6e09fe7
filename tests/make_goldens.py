"""Write the project's own goldens again: ``python -m tests.make_goldens``.

What transformers' own Higgs Audio v2 answers to a fixed mixed batch with random weights, stored so that a change of
either model shows, also where ../shared/golden is absent.
"""

import torch
from safetensors.torch import save_file
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.goldens import OWN_GOLDEN_DIR
from tests.native_oracle import native_logits, native_model, random_sample, tiny_config

NATIVE_GOLDEN = "native_mixed_batch"


def golden_config() -> dict[str, object]:
    """Overrides of the text configuration that keep the file small."""
    text = tiny_config().text_config.to_dict()
    return {**text, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}


@torch.no_grad()
def native_mixed_batch() -> dict[str, Tensor]:
    """Weights (``weight.*``), inputs (``in.*``) and the oracle's logits at valid positions (``out.*``)."""
    torch.manual_seed(2026)
    model = HiggsAudioModel(tiny_config(text_config=golden_config())).eval()
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.5 if "norm" in name else 0.1) + ("norm" in name))
    batch = ArabicVoiceCloningTrainingCollator.from_config(model.config)(
        [random_sample(6, 14, 9), random_sample(0, 3, 4), random_sample(11, 5, 2)]
    )
    output = model(**vars(batch))
    mask = output.attention_mask
    logits = native_logits(native_model(model), model.config, batch, output.expanded_input_ids, mask)
    return {
        **{f"weight.{name}": value.clone() for name, value in model.state_dict().items()},
        **{f"in.{name}": value for name, value in vars(batch).items() if value is not None},
        "out.text_logits_valid": logits.text_BSV[mask.bool()],
        "out.audio_logits": logits.audio_CKV,
        "out.expanded_labels": output.expanded_labels,
    }


def main() -> None:
    OWN_GOLDEN_DIR.mkdir(exist_ok=True)
    save_file(native_mixed_batch(), OWN_GOLDEN_DIR / f"{NATIVE_GOLDEN}.safetensors")


if __name__ == "__main__":
    main()
