"""A weakened adapter: what is scaled, that 1.0 is as trained, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.exported_adapters import EVERY_GROUP, TOLERANCE, random_adapter, tiny_model
from voice_cloning.adapters.export import Adapter, apply_adapter, merge_adapter, read_adapter
from voice_cloning.adapters.logit_comparison import fixed_batch
from voice_cloning.speech.adapter_switch import AdapterSwitch


def base_of(folder: Path) -> HiggsAudioModel:
    return HiggsAudioModel.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model: HiggsAudioModel) -> tuple[Tensor, Tensor]:
    output = model(**vars(fixed_batch(model.config)), output_logits=True)
    return output.logits, output.audio_logits


def speaking(folder: Path, adapter: Adapter, scale: float) -> HiggsAudioModel:
    return AdapterSwitch(base_of(folder), {"a": adapter}).use("a", scale)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_on_the_heads_half_the_scale_is_half_the_change_of_the_logits(
    base: Path, tmp_path: Path, variant: dict[str, object]
) -> None:
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base), lora_targets=["heads"], **variant))
    without, half, whole = logits(base_of(base)), *(logits(speaking(base, adapter, scale)) for scale in (0.5, 1.0))
    for head_without, head_half, head_whole in zip(without, half, whole, strict=True):
        assert (head_whole - head_without).abs().max() > 0.05
        wanted = head_without + 0.5 * (head_whole - head_without)
        torch.testing.assert_close(head_half, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_every_group_of_modules_is_scaled(base: Path, tmp_path: Path, variant: dict[str, object], scale: float) -> None:
    """The slow reference: the base's weights plus ``scale`` times what merging adds to them."""
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base), lora_targets=EVERY_GROUP, **variant))
    merged = merge_adapter(apply_adapter(base_of(base), adapter), torch.float32)
    wanted, changed = base_of(base), 0
    with torch.no_grad():
        for (name, weight), with_adapter in zip(wanted.named_parameters(), merged.parameters(), strict=True):
            changed += not torch.equal(weight, with_adapter)
            weight += scale * (with_adapter - weight)
            assert weight.isfinite().all(), name
    assert changed >= 3 * 10 + 3, "attention, both FFNs, heads and embeddings"
    for found, right in zip(logits(speaking(base, adapter, scale)), logits(wanted), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_a_scale_of_one_is_as_trained_bit_for_bit(base: Path, tmp_path: Path, variant: dict[str, object]) -> None:
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base), **variant))
    as_trained = logits(apply_adapter(base_of(base), adapter).get_base_model())
    for found, right in zip(logits(speaking(base, adapter, 1.0)), as_trained, strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_a_scale_of_zero_is_the_base_bit_for_bit(base: Path, tmp_path: Path, variant: dict[str, object]) -> None:
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base), lora_targets=EVERY_GROUP, **variant))
    for found, right in zip(logits(speaking(base, adapter, 0.0)), logits(base_of(base)), strict=True):
        assert torch.equal(found, right)


def test_a_dora_adapter_cannot_be_scaled(base: Path, tmp_path: Path) -> None:
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base), use_dora=True))
    with pytest.raises(InputError, match=r"--adapter a: adapter_scale is 0.5: the adapter was trained with DoRA"):
        adapter.check_scale(0.5, "--adapter a")


def test_an_adapter_with_whole_modules_is_refused(base: Path, tmp_path: Path) -> None:
    folder = random_adapter(tmp_path / "a", base_of(base))
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    changed = {**settings, "modules_to_save": ["audio_lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(InputError, match="modules_to_save is .'audio_lm_head'., not None"):
        read_adapter(folder)


@pytest.mark.parametrize("scale", [-1e-9, -0.5, 2.01, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(base: Path, tmp_path: Path, scale: float) -> None:
    adapter = read_adapter(random_adapter(tmp_path / "a", base_of(base)))
    with pytest.raises(
        InputError, match=rf"--adapter a: adapter_scale is {scale}; it must be from 0 \(the base\) to 2 "
    ):
        adapter.check_scale(scale, "--adapter a")
