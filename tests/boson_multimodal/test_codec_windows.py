"""What the codec's decoder hears, and the decoding of frames that are known in part."""

import copy

import pytest
import torch
from transformers import HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer

FRAMES, MIDDLE = 41, 20


@pytest.mark.parametrize(("ratios", "reach"), [([8, 5, 4, 2, 3], 10), ([5, 3, 7], 15)])
def test_the_reach_of_the_decoder_is_that_of_its_gradient(
    codec: HiggsAudioTokenizer, ratios: list[int], reach: int
) -> None:
    """With positive weights no two paths cancel. The samples of a frame depend on exactly these frames."""
    config = copy.deepcopy(codec.model.config)
    config.acoustic_model_config.upsampling_ratios = config.acoustic_model_config.downsampling_ratios = ratios
    subject = HiggsAudioTokenizer(HiggsAudioV2TokenizerModel(config))
    decoder = subject.model.acoustic_decoder.double()
    for weight in decoder.parameters():
        weight.copy_(0.01 + 0.1 * torch.rand_like(weight))
    hidden = torch.randn(1, config.acoustic_model_config.hidden_size, FRAMES, dtype=torch.float64, requires_grad=True)
    samples = decoder(hidden)[0, 0].view(FRAMES, subject.samples_per_frame)
    (gradient,) = torch.autograd.grad(samples[MIDDLE].sum(), hidden)
    heard = gradient.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert heard == list(range(MIDDLE - subject.frames_before, MIDDLE + subject.frames_after + 1))
    assert (subject.frames_before, subject.frames_after) == (reach, reach)


def test_codes_that_are_all_known_are_decoded_as_a_whole(codec: HiggsAudioTokenizer) -> None:
    codes = torch.randint(0, codec.codebook_size, (codec.num_codebooks, 15))
    found = codec.decode_known(codes, torch.ones_like(codes, dtype=torch.bool))
    assert torch.equal(found, codec.decode(codes))


def test_codes_that_are_not_known_do_not_matter(codec: HiggsAudioTokenizer) -> None:
    codes = torch.randint(0, codec.codebook_size, (codec.num_codebooks, 30))
    known = torch.ones_like(codes, dtype=torch.bool)
    known[5:, 28] = known[2:, 29] = False
    found = codec.decode_known(codes, known)
    assert torch.equal(found, codec.decode_known(codes.masked_fill(~known, 3), known))
    assert not torch.equal(found, codec.decode_known(codes.where(torch.arange(8)[:, None] > 0, 3), known))
    near = (28 - codec.frames_after) * codec.samples_per_frame
    torch.testing.assert_close(found[:near], codec.decode(codes)[:near], rtol=0, atol=1e-5)
    assert not torch.allclose(found[near:], codec.decode(codes)[near:], rtol=0, atol=1e-3)
