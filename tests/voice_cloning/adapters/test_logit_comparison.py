"""Test the comparison of logits."""

from pathlib import Path

import pytest
import torch

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from tests.exported_adapters import random_adapter, tiny_model
from tests.native_oracle import tiny_config
from voice_cloning.adapters.export import apply_adapter, read_adapter
from voice_cloning.adapters.logit_comparison import computing_in, differences, fixed_batch, our_logits


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_computing_in_a_type_equals_loading_in_that_type(tmp_path: Path, held: torch.dtype) -> None:
    model = tiny_model(tmp_path / "fp32")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    save_checkpoint(model, model.config, tmp_path / "base", ORIGINAL)
    adapter = read_adapter(random_adapter(tmp_path / "adapter", model))
    subject = apply_adapter(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=held), adapter)
    batch = fixed_batch(model.config)
    for dtype in (torch.float32, torch.bfloat16):
        with computing_in(subject, dtype):
            found = our_logits(subject, batch)
        loaded = apply_adapter(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=dtype), adapter)
        assert all(difference.largest == 0 for difference in differences(found, our_logits(loaded, batch)).values())
    frozen = [p.dtype for name, p in subject.named_parameters() if "lora_" not in name]
    assert set(frozen) == {held}


def test_the_fixed_batch_is_always_the_same_and_has_both_kinds_of_clips() -> None:
    one, other = (vars(fixed_batch(tiny_config())) for _ in range(2))
    given = {name for name, value in one.items() if value is not None}
    assert given == {name for name, value in other.items() if value is not None}
    assert all(torch.equal(one[name], other[name]) for name in given)
    assert len(one["audio_in_ids_start"]) == len(one["audio_out_ids_start"]) == 4
    assert len(set(one["attention_mask"].sum(dim=1).tolist())) == 4
