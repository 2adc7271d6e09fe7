"""Test the goldens of this repository, which need no other files."""

import pytest
import torch
from safetensors.torch import load_file

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.goldens import OWN_GOLDEN_DIR
from tests.make_goldens import NATIVE_GOLDEN, golden_config, native_mixed_batch
from tests.native_oracle import NativeLogits, loss_by_definition, tiny_config


@torch.no_grad()
def test_the_model_gives_the_stored_output_of_transformers() -> None:
    stored = load_file(OWN_GOLDEN_DIR / f"{NATIVE_GOLDEN}.safetensors")
    model = HiggsAudioModel(tiny_config(text_config=golden_config())).eval()
    weights = {name.removeprefix("weight."): v for name, v in stored.items() if name.startswith("weight.")}
    model.load_state_dict(weights, strict=True)
    inputs = {name.removeprefix("in."): v for name, v in stored.items() if name.startswith("in.")}
    output = model(**inputs, output_logits=True)
    valid = output.attention_mask.bool()
    torch.testing.assert_close(output.logits[valid], stored["out.text_logits_valid"], rtol=0, atol=2e-5)
    torch.testing.assert_close(output.audio_logits, stored["out.audio_logits"], rtol=0, atol=2e-5)
    assert torch.equal(output.expanded_labels, stored["out.expanded_labels"])
    padded = torch.zeros_like(output.logits)
    padded[valid] = stored["out.text_logits_valid"]
    loss = loss_by_definition(
        NativeLogits(padded, stored["out.audio_logits"]), stored["out.expanded_labels"], inputs["label_audio_ids"]
    )
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-6)


def test_the_script_still_writes_what_is_stored() -> None:
    stored, fresh = load_file(OWN_GOLDEN_DIR / f"{NATIVE_GOLDEN}.safetensors"), native_mixed_batch()
    assert stored.keys() == fresh.keys()
    for name, value in fresh.items():
        tolerance = 2e-5 if name.startswith("out.") and value.is_floating_point() else 0.0
        torch.testing.assert_close(value, stored[name], rtol=0, atol=tolerance)
