"""What only a CUDA device can show; run with ``make test-gpu``."""

from pathlib import Path

import pytest
import torch

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from tests.native_oracle import random_sample, tiny_config
from tests.training_runs import metrics, trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def losses(model: HiggsAudioModel, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Text and codebook loss sums of a fixed mixed batch whose ids stay on the CPU."""
    torch.manual_seed(3)
    samples = [random_sample(7, 40, 12), random_sample(0, 3, 5), random_sample(25, 1, 40)]
    batch = ArabicVoiceCloningTrainingCollator.from_config(model.config)(samples)
    with torch.no_grad():
        output = model.to(device, dtype)(**vars(batch))
    return torch.cat([output.text_loss_sum.view(1), output.audio_loss_sum]).cpu()


def test_float32_on_the_device_equals_the_cpu() -> None:
    model = HiggsAudioModel(tiny_config()).eval()
    torch.testing.assert_close(
        losses(model, "cuda", torch.float32), losses(model, "cpu", torch.float32), rtol=1e-4, atol=0
    )


def test_varlen_attention_equals_attention_per_sample() -> None:
    """bf16 on CUDA takes another kernel than bf16 on the CPU; they differ by rounding only."""
    model = HiggsAudioModel(tiny_config()).eval()
    torch.testing.assert_close(
        losses(model, "cuda", torch.bfloat16), losses(model, "cpu", torch.bfloat16), rtol=2e-2, atol=0
    )


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_bfloat16_training_falls_and_resumes(demo: Path, tmp_path: Path, gradient_checkpointing: bool) -> None:
    settings = {"max_steps": 12, "logging_steps": 1, "gradient_checkpointing": gradient_checkpointing}
    subject = trainer(demo, tmp_path / "out", **settings)
    assert subject.placement.device.type == "cuda" and subject.placement.dtype == torch.bfloat16
    assert subject.train().finished
    values = [line["loss"] for line in metrics(tmp_path / "out") if "loss" in line]
    assert values[-1] < values[0] - 0.2


def test_weights_reach_the_device_as_the_cpu_gets_them(tmp_path: Path) -> None:
    """There they go by way of a pinned buffer, rounded on the way."""
    model = HiggsAudioModel(tiny_config())
    save_checkpoint(model, model.config, tmp_path, "transformers")
    for dtype in (torch.float32, torch.bfloat16):
        found = HiggsAudioModel.from_pretrained(tmp_path, dtype=dtype, device_map={"": "cuda"})
        assert {tensor.device.type for tensor in (*found.parameters(), *found.buffers())} == {"cuda"}
        for name, tensor in model.state_dict().items():
            assert torch.equal(found.state_dict()[name].cpu(), tensor.to(dtype)), name
