"""Compare the audio tower with the original's output (golden g4) and with a slow reference implementation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig

from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.audio_tower import (
    HiggsAudioEncoder,
    HiggsAudioFeatureProjector,
    convolved_length,
    pooled_length,
)
from tests.goldens import meta, needs_golden, tensors

ABSOLUTE_TOLERANCE = 2e-5
"""The tolerance of fp32 activations, from the goldens' README."""
GOLDEN = "g4_audio_tower"
HEADS, WIDTH = 2, 32


def tower(**changes: object) -> HiggsAudioEncoder:
    """Build a tower with random weights and the shape of golden g4."""
    settings = {
        "num_mel_bins": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 64,
        "d_model": WIDTH,
        "max_source_positions": 50,
        **changes,
    }
    return HiggsAudioEncoder(WhisperConfig(**settings)).eval()


def mask_of(lengths: list[int], frames: int = 100) -> Tensor:
    return (torch.arange(frames) < torch.tensor(lengths)[:, None]).int()


@torch.no_grad()
def slow_states(model: HiggsAudioEncoder, mel: Tensor, length: int) -> Tensor:
    """Slow reference for one clip with ``length`` valid frames of (mel bins, frames). Attention is written out."""
    hidden = F.gelu(model.conv2(F.gelu(model.conv1(mel)))).T
    hidden = hidden + model.embed_positions.weight[: len(hidden)]
    valid = (length - 1) // 2 + 1
    for layer in model.layers:
        normed, attention = layer.self_attn_layer_norm(hidden), layer.self_attn
        heads = []
        for q, k, v in zip(
            *(p(normed).split(WIDTH // HEADS, 1) for p in (attention.q_proj, attention.k_proj, attention.v_proj)),
            strict=True,
        ):
            scores = q @ k[:valid].T / (WIDTH // HEADS) ** 0.5
            heads.append(scores.softmax(dim=1) @ v[:valid])
        hidden = hidden + attention.out_proj(torch.cat(heads, dim=1))
        hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
    pairs = [(hidden[2 * i] + hidden[2 * i + 1]) / 2 for i in range(len(hidden) // 2)]
    return model.layer_norm(torch.stack(pairs))


@needs_golden
def test_the_tower_equals_the_original() -> None:
    config = HiggsAudioConfig.from_dict(meta(GOLDEN)["config"])
    model = nn.ModuleDict(
        {
            "audio_tower": HiggsAudioEncoder(config.audio_encoder_config),
            "audio_encoder_proj": HiggsAudioFeatureProjector(config),
        }
    )
    weights = {k: v for k, v in tensors(f"{GOLDEN}.state_dict").items() if k.startswith(("audio_tower", "audio_enc"))}
    model.load_state_dict(weights, strict=True)
    inputs, wanted = tensors(f"{GOLDEN}.inputs"), tensors(f"{GOLDEN}.tower_only")
    mask = inputs["audio_feature_attention_mask"]
    with torch.no_grad():
        states, lengths = model["audio_tower"](inputs["audio_features"], mask)
        embeddings = model["audio_encoder_proj"](states)
    assert torch.equal(lengths, wanted["audio_feat_out_lengths"])
    assert torch.equal(convolved_length(mask.sum(dim=1)), wanted["conv_lengths"])
    assert embeddings.shape == wanted["audio_features_embed"].shape
    for found, expected, length in zip(embeddings, wanted["audio_features_embed"], lengths.tolist(), strict=True):
        torch.testing.assert_close(found[:length], expected[:length], rtol=0.0, atol=ABSOLUTE_TOLERANCE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_tower_equals_the_slow_reference_for_every_attention_setting(attention: str) -> None:
    model = tower(attn_implementation=attention)
    mel, lengths = torch.randn(5, 16, 100), [100, 57, 58, 4, 99]
    with torch.no_grad():
        states, found = model(mel, mask_of(lengths))
    assert found.tolist() == [len(range(0, (length + 1) // 2 - 1, 2)) for length in lengths] == [25, 14, 14, 1, 25]
    for i, length in enumerate(lengths):
        torch.testing.assert_close(states[i], slow_states(model, mel[i], length), rtol=0.0, atol=ABSOLUTE_TOLERANCE)


@pytest.mark.parametrize("lengths", [[57, 12], [58, 3], [4], [98], [99]])
def test_unneeded_padding_is_cut_off_and_changes_nothing(lengths: list[int]) -> None:
    model, mel = tower(), torch.randn(len(lengths), 16, 100)
    with torch.no_grad():
        states, found = model(mel, mask_of(lengths))
    assert states.shape[1] <= max(lengths) // 4 + 1
    for i, (length, positions) in enumerate(zip(lengths, found.tolist(), strict=True)):
        wanted = slow_states(model, mel[i], length)[:positions]
        torch.testing.assert_close(states[i, :positions], wanted, rtol=0.0, atol=ABSOLUTE_TOLERANCE)


def test_fewer_frames_give_fewer_positions_and_no_mask_means_no_padding() -> None:
    model, mel = tower(), torch.randn(2, 16, 37)
    with torch.no_grad():
        states, lengths = model(mel)
    assert states.shape == (2, 9, WIDTH) and lengths.tolist() == [9, 9]
    torch.testing.assert_close(states[1], slow_states(model, mel[1], 37), rtol=0.0, atol=ABSOLUTE_TOLERANCE)


def test_computed_lengths_equal_the_number_of_states() -> None:
    """For each number of frames, compare the number of pooled states with the formula."""
    model = tower()
    with torch.no_grad():
        made = [model(torch.zeros(1, 16, frames))[0].shape[1] for frames in range(3, 101)]
    assert made == [pooled_length(frames) for frames in range(3, 101)]
    assert [pooled_length(frames) for frames in (1, 2)] == [0, 0]


def test_checkpointing_changes_neither_states_nor_gradients() -> None:
    plain = tower().train()
    mel, mask = torch.randn(2, 16, 100), mask_of([100, 41])

    def gradient() -> tuple[Tensor, Tensor]:
        plain.zero_grad()
        states, _ = plain(mel, mask)
        states.square().sum().backward()
        return states.detach(), plain.layers[0].self_attn.q_proj.weight.grad.clone()

    wanted = gradient()
    calls = []

    def counted(function, *args, **kwargs):
        calls.append(function)
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)

    for layer in plain.layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, counted
    found = gradient()
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_features_are_converted_to_the_type_of_the_weights() -> None:
    states, _ = tower().to(torch.bfloat16)(torch.randn(1, 16, 100), mask_of([60]))
    assert states.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "mask", "says"),
    [
        ((1, 80, 100), (1, 100), "80 mel bins; the tower reads 16"),
        ((1, 16, 101), (1, 101), "101 frames; the tower reads 3 to 100"),
        ((2, 16, 100), (1, 100), r"shape \(1, 100\); audio_features ask for \(2, 100\)"),
    ],
)
def test_features_that_do_not_fit_are_refused(shape: tuple[int, ...], mask: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tower()(torch.zeros(shape), torch.ones(mask))
