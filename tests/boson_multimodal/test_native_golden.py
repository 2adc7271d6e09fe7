"""Golden g9: the output of transformers' class for g2's batch, compared with our model and with the installed class."""

import json

import pytest
import torch

from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from tests.goldens import GOLDEN_DIR, meta, needs_golden, tensors
from tests.native_oracle import AUDIO_OUT, native_model

pytestmark = needs_golden


@pytest.fixture(scope="module")
def model() -> HiggsAudioModel:
    model = HiggsAudioModel(HiggsAudioConfig.from_dict(meta("g2_fast_forward_all")["config"]))
    model.load_state_dict(tensors("g2_fast_forward_all.state_dict"), strict=True)
    return model.eval()


@torch.no_grad()
def test_audio_logits_equal_those_of_transformers(model: HiggsAudioModel) -> None:
    stored = tensors("g9_native_g2")
    output = model(**tensors("g2_fast_forward_all.inputs"), output_logits=True)
    assert torch.equal(output.expanded_input_ids, stored["in.input_ids"])
    is_audio = stored["in.input_ids"] == AUDIO_OUT
    torch.testing.assert_close(output.audio_logits.flatten(1), stored["out.logits"][is_audio], rtol=0, atol=2e-5)


@torch.no_grad()
def test_per_codebook_losses_equal_those_of_transformers(model: HiggsAudioModel) -> None:
    parity = json.loads((GOLDEN_DIR / "g9_native_parity.json").read_text(encoding="utf-8"))["g2_batch2_rightpad"]
    output = model(**tensors("g2_fast_forward_all.inputs"))
    losses = output.audio_loss_sum / output.audio_label_count
    assert losses.tolist() == pytest.approx(parity["native_per_codebook"], rel=1e-6)
    assert losses.sum().item() == pytest.approx(parity["native_audio_loss_sum"], rel=1e-6)
    text = output.text_loss_sum / output.text_label_count
    assert text.item() == pytest.approx(parity["native_text_loss"], rel=1e-6)


@torch.no_grad()
def test_our_labels_hold_every_eos_that_the_processor_of_transformers_masks() -> None:
    """Each of three segments ends with one eos in each of 8 codebooks. The processor masks all 24 of these labels."""
    parity = json.loads((GOLDEN_DIR / "g9_native_parity.json").read_text(encoding="utf-8"))["hf_processor_style_labels"]
    labels = tensors("g2_fast_forward_all.inputs")["label_audio_ids"]
    assert (labels != IGNORE_INDEX).sum().item() == parity["n_valid_original"]
    assert (labels == 33).sum().item() == parity["eos_labels_original"] == 24
    assert parity["eos_labels_hf"] == 0


@torch.no_grad()
def test_the_installed_class_gives_the_stored_output(model: HiggsAudioModel) -> None:
    stored = tensors("g9_native_g2")
    inputs = {name.removeprefix("in."): value for name, value in stored.items() if name.startswith("in.")}
    output = native_model(model)(**inputs)
    valid = inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], stored["out.logits"][valid], rtol=0, atol=2e-5)
