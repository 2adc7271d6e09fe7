"""Test that forward in several calls with a cache equals one call, for all forms of layers."""

import pytest
import torch
from torch import Tensor

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from tests.native_oracle import AUDIO_IN, AUDIO_OUT, tiny_config

ABSOLUTE_TOLERANCE = 1e-5
FORMS = {
    "as released": {},
    "fast-forward layers": {"audio_dual_ffn_layers": [0, 2]},
    "single-FFN layers": {"audio_adapter_type": "dual_ffn", "audio_dual_ffn_layers": [1]},
}
TOWER = {"num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32}


def model_of(form: str, **overrides: object) -> HiggsAudioModel:
    return HiggsAudioModel(tiny_config(**FORMS[form], **overrides)).eval()


class Conversation:
    """Samples as lists of pieces. A piece is token ids, or codes (K, columns) of a reference or a target."""

    def __init__(self, samples: list[list[list[int] | tuple[int, Tensor]]]) -> None:
        self.samples = samples

    def inputs(self) -> dict[str, Tensor]:
        """Return the arguments of forward."""
        rows, codes = [], {AUDIO_IN: [], AUDIO_OUT: []}
        for sample in self.samples:
            row = []
            for piece in sample:
                row += piece if isinstance(piece, list) else [piece[0]]
                if not isinstance(piece, list):
                    codes[piece[0]].append(piece[1])
            rows.append(torch.tensor(row))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=481)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        inputs = {"input_ids": ids, "attention_mask": mask}
        for name, token in (("audio_in_ids", AUDIO_IN), ("audio_out_ids", AUDIO_OUT)):
            if codes[token]:
                lengths = torch.tensor([c.shape[1] for c in codes[token]])
                inputs |= {name: torch.cat(codes[token], dim=1), f"{name}_start": lengths.cumsum(0) - lengths}
        return inputs


def codes(columns: int) -> Tensor:
    return torch.randint(0, 34, (8, columns))


def text(tokens: int) -> list[int]:
    return torch.randint(0, 480, (tokens,)).tolist()


def valid_rows(output: HiggsAudioModelOutput) -> list[Tensor]:
    """Return the text logits of each sample at its valid positions."""
    return [row[mask.bool()] for row, mask in zip(output.logits, output.attention_mask, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_calls_in_pieces_equal_one_call(form: str) -> None:
    """Three samples of different lengths, in pieces: a prompt, several columns, single columns, and text again."""
    model = model_of(form)
    prompts = [
        [text(9), (AUDIO_IN, codes(6)), text(2)],
        [text(3)],
        [text(4), (AUDIO_OUT, codes(5)), text(5), (AUDIO_IN, codes(3)), text(1)],
    ]
    together = [[(AUDIO_OUT, codes(3))], [text(2), (AUDIO_OUT, codes(1))], [(AUDIO_OUT, codes(4)), text(1)]]
    single = [[[(AUDIO_OUT, codes(1))] for _ in range(3)] for _ in range(4)]
    mixed = [[text(1)], [(AUDIO_OUT, codes(1))], [text(1)]]
    steps = [prompts, together, *single, mixed, [[text(2)], [text(1)], [text(3)]]]

    cache, found, found_audio = None, [[], [], []], []
    for step in steps:
        output = model(**Conversation(step).inputs(), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        for rows, row in zip(found, valid_rows(output), strict=True):
            rows.append(row)
        found_audio.append(output.audio_logits)
    whole = [[piece for step in steps for piece in step[sample]] for sample in range(3)]
    output = model(**Conversation(whole).inputs())
    for rows, wanted in zip(found, valid_rows(output), strict=True):
        torch.testing.assert_close(torch.cat(rows), wanted, rtol=0, atol=ABSOLUTE_TOLERANCE)
    assert cache.lengths == tuple(len(rows) for rows in valid_rows(output))

    # One call orders the target columns by sample, the pieces by step: the same logits in another order.
    def key(rows: Tensor) -> Tensor:
        return rows.flatten(1)[rows.flatten(1)[:, 0].argsort()]

    found_columns = torch.cat(found_audio)
    torch.testing.assert_close(key(found_columns), key(output.audio_logits), rtol=0, atol=ABSOLUTE_TOLERANCE)


@torch.no_grad()
def test_the_cache_grows_beyond_its_first_capacity() -> None:
    model = model_of("as released")
    pieces = [text(200), (AUDIO_OUT, codes(90)), text(300), (AUDIO_OUT, codes(1)), (AUDIO_OUT, codes(1))]
    whole = model(**Conversation([pieces]).inputs())
    cache = None
    for piece in pieces:
        output = model(**Conversation([[piece]]).inputs(), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
    assert cache.capacity >= 592 and cache.lengths == (592,)
    torch.testing.assert_close(valid_rows(output)[0][-1], valid_rows(whole)[0][-1], rtol=0, atol=ABSOLUTE_TOLERANCE)


@torch.no_grad()
def test_features_of_the_tower_stay_in_the_cache() -> None:
    """A slot has features and then codes. Later calls add columns."""
    model = model_of(
        "fast-forward layers", skip_audio_tower=False, encode_whisper_embed=True, audio_encoder_config=TOWER
    )
    references = [codes(4), codes(7), codes(2)]
    features = {"audio_features": torch.randn(3, 16, 60), "audio_feature_attention_mask": torch.ones(3, 60).long()}
    features["audio_feature_attention_mask"][1, 33:] = 0
    prompts = [
        [text(5), (AUDIO_IN, references[0]), text(2), (AUDIO_IN, references[1])],
        [text(1), (AUDIO_IN, references[2]), text(6)],
    ]
    after = [[(AUDIO_OUT, codes(3))], [(AUDIO_OUT, codes(1)), text(2)]]
    cached = model(**Conversation(prompts).inputs(), **features, use_cache=True)
    output = model(**Conversation(after).inputs(), past_key_values=cached.past_key_values)
    whole = model(**Conversation([a + b for a, b in zip(prompts, after, strict=True)]).inputs(), **features)
    for found, wanted in zip(valid_rows(output), valid_rows(whole), strict=True):
        torch.testing.assert_close(found, wanted[-len(found) :], rtol=0, atol=ABSOLUTE_TOLERANCE)
    # 60 frames are 15 positions, 33 are 8. The masks distinguish them from the codes after them.
    assert whole.audio_in_mask.sum(1).tolist() == [15 + 4 + 8 + 7, 15 + 2]
    assert whole.audio_in_discrete_codes_mask.sum(1).tolist() == [4 + 7, 2]
    first = whole.audio_in_mask[0].nonzero()[:19].squeeze(-1)
    assert whole.audio_in_discrete_codes_mask[0, first].tolist() == [False] * 15 + [True] * 4


@torch.no_grad()
def test_a_layer_outside_the_dual_ones_gives_audio_the_text_ffn() -> None:
    """A dual_ffn model equals one with all layers dual if the added audio weights are copies of the text weights."""
    single, dual = model_of("single-FFN layers"), model_of("as released")
    weights = single.state_dict()
    twins = {"audio_mlp": "mlp", "audio_input": "input", "audio_post_attention": "post_attention"}
    for name in dual.state_dict().keys() - weights.keys():
        for audio, of_text in twins.items():
            if f".{audio}" in name:
                weights[name] = weights[name.replace(f".{audio}", f".{of_text}")]
    dual.load_state_dict(weights, strict=True)
    inputs = Conversation([[text(4), (AUDIO_IN, codes(5)), text(2), (AUDIO_OUT, codes(6)), text(1)]]).inputs()
    torch.testing.assert_close(single(**inputs).logits, dual(**inputs).logits, rtol=0, atol=ABSOLUTE_TOLERANCE)


def test_an_unusable_cache_is_refused() -> None:
    model = model_of("as released")
    inputs = Conversation([[text(4)], [text(2)]]).inputs()
    with pytest.raises(ValueError, match="no_grad"):
        model(**inputs, use_cache=True)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="give no labels"):
            model(**inputs, past_key_values=cache, label_ids=inputs["input_ids"])
        with pytest.raises(ValueError, match="past_key_values is tuple"):
            model(**inputs, past_key_values=())
        with pytest.raises(ValueError, match="the same 1 samples"):
            model(**Conversation([[text(1)]]).inputs(), past_key_values=cache)
