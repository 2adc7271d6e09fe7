"""Compare HiggsAudioModel with outputs of the original release (goldens g1 to g5)."""

import pytest
import torch
from torch import Tensor

from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from tests.goldens import meta, needs_golden, tensors

ABSOLUTE_TOLERANCE = 2e-5
"""The tolerance of fp32 activations, from the goldens' README."""

CASES = {
    "g1_dual_ffn": "g1_dual_ffn",
    "g2_fast_forward_all": "g2_fast_forward_all",
    "g2_fast_forward_all_b1": "g2_fast_forward_all",
    "g3_fast_forward_02": "g3_fast_forward_02",
    "g4_audio_tower": "g4_audio_tower",
    "g5_audio_in_and_out_batch3": "g5_audio_in_and_out_batch3",
}
"""Golden -> the golden with its weights."""

pytestmark = [needs_golden, pytest.mark.parametrize("name", CASES)]


def load(name: str) -> HiggsAudioModel:
    model = HiggsAudioModel(HiggsAudioConfig.from_dict(meta(name)["config"]))
    model.load_state_dict(tensors(f"{CASES[name]}.state_dict"), strict=True)
    return model.eval()


@torch.no_grad()
def run(name: str, **options: bool) -> HiggsAudioModelOutput:
    return load(name)(**tensors(f"{name}.inputs"), **options)


def value_of(output: HiggsAudioModelOutput, field: str) -> Tensor:
    if field.startswith("hidden_states."):
        return output.hidden_states[int(field.split(".")[1])]
    return output[field]


def test_outputs_equal_the_original(name: str) -> None:
    output = run(name, output_hidden_states=True, output_logits=True)
    expected = tensors(f"{name}.outputs")
    valid = expected["attention_mask"].bool()
    for field, wanted in expected.items():
        found = value_of(output, field)
        assert found.shape == wanted.shape, field
        if not wanted.is_floating_point():
            assert torch.equal(found.to(wanted.dtype), wanted), field
            continue
        if wanted.shape[:2] == valid.shape:  # padded positions are noise in the original
            found, wanted = found[valid], wanted[valid]
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=ABSOLUTE_TOLERANCE, msg=lambda m, f=field: f"{f}: {m}")


def test_losses_equal_the_definition(name: str) -> None:
    output, reference = run(name), meta(name)["ref_loss"]
    assert output.text_label_count.item() == reference["text_valid"]
    assert output.audio_label_count.tolist() == reference["codebook_valid"]
    text = output.text_loss_sum / output.text_label_count
    audio = output.audio_loss_sum / output.audio_label_count
    assert text.item() == pytest.approx(reference["text_ce_mean"], rel=1e-6)
    assert audio.tolist() == pytest.approx(reference["codebook_ce_mean"], rel=1e-6)
    assert output.loss.item() == pytest.approx(reference["text_ce_mean"] + reference["audio_mean"], rel=1e-6)


def test_logits_with_labels_are_computed_only_on_request(name: str) -> None:
    output = run(name)
    assert output.logits is None and output.audio_logits is None
