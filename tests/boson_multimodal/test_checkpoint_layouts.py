"""Test the two published layouts: loading either gives the same weights, and export changes none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel, modeling_higgs_audio
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint, stored_tensors
from boson_multimodal.model.higgs_audio.checkpoint_layouts import (
    LAYOUTS,
    ORIGINAL,
    TRANSFORMERS,
    detect_layout,
    to_original_config,
    to_original_name,
    to_transformers_config,
    to_transformers_name,
)
from tests.boson_multimodal.test_native_oracle import mixed_batch
from tests.checkpoint_folders import assert_same_tensors
from tests.goldens import GOLDEN_DIR, needs_golden
from tests.native_oracle import native_logits, native_name, tiny_config
from tests.training_runs import metrics, trainer
from tools.demo.model import build_model

RELEASED_BYTES = 11_542_566_912
"""The size of the released weights in bf16, from the index of the release."""


def stored(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of a folder with safetensors."""
    return {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}


# -- the same model from either ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_both_layouts_give_equal_logits(model: HiggsAudioModel, saved: dict[str, Path]) -> None:
    batch = vars(mixed_batch(model))
    wanted = model(**batch, output_logits=True)
    for layout, folder in saved.items():
        assert detect_layout(stored(folder)) == layout
        found = HiggsAudioModel.from_pretrained(folder)(**batch, output_logits=True)
        assert torch.equal(found.logits, wanted.logits)
        assert torch.equal(found.audio_logits, wanted.audio_logits)


def test_original_to_transformers_and_back_changes_no_bit(saved: dict[str, Path], tmp_path: Path) -> None:
    there = HiggsAudioModel.from_pretrained(saved[TRANSFORMERS])
    save_checkpoint(there, there.config, tmp_path / "back", ORIGINAL)
    assert_same_tensors(stored(tmp_path / "back"), stored(saved[ORIGINAL]))


@torch.no_grad()
def test_transformers_own_model_gives_our_logits_from_our_export(
    model: HiggsAudioModel, saved: dict[str, Path]
) -> None:
    native, misfits = HiggsAudioV2ForConditionalGeneration.from_pretrained(
        saved[TRANSFORMERS], use_text_head=True, output_loading_info=True
    )
    assert not any(misfits.values())
    batch = mixed_batch(model)
    output = model(**vars(batch), output_logits=True)
    mask = output.attention_mask
    logits = native_logits(native.eval(), model.config, batch, output.expanded_input_ids, mask)
    torch.testing.assert_close(output.audio_logits, logits.audio_CKV, rtol=0, atol=2e-5)
    torch.testing.assert_close(output.logits[mask.bool()], logits.text_BSV[mask.bool()], rtol=0, atol=2e-5)
    assert native.generation_config.eos_token_id == native.config.eos_token_id == 489, "<|eot_id|> ends generation"
    assert native.generation_config.ras_win_len == 7


def test_without_its_text_head_transformers_reads_the_export_silently(
    saved: dict[str, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    native, misfits = HiggsAudioV2ForConditionalGeneration.from_pretrained(
        saved[TRANSFORMERS], output_loading_info=True
    )
    assert native.text_lm_head is None
    assert not any(misfits.values())
    assert "text_lm_head" not in caplog.text + capsys.readouterr().err


def test_a_checkpoint_that_transformers_wrote_is_read(model: HiggsAudioModel, tmp_path: Path) -> None:
    """Its config lacks the ids of ``<|AUDIO|>`` and ``<|audio_eos|>``."""
    config = {key: value for key, value in to_transformers_config(model.config).items() if key != "model_type"}
    for name in ("audio_in_token_idx", "audio_eos_token_id", "encode_audio_in_tokens"):
        del config[name]
    native = HiggsAudioV2ForConditionalGeneration(HiggsAudioV2Config(**config), use_text_head=True)
    native.load_state_dict({native_name(name): tensor for name, tensor in model.state_dict().items()})
    native.save_pretrained(tmp_path)
    found = HiggsAudioModel.from_pretrained(tmp_path)
    assert_same_tensors(found.state_dict(), model.state_dict())
    for name in ("audio_in_token_idx", "audio_eos_token_id", "audio_out_bos_token_id", "audio_codebook_size"):
        assert getattr(found.config, name) == getattr(model.config, name), name
    assert torch.equal(found.rotary_emb.inv_freq, model.rotary_emb.inv_freq)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_file_or_several(saved: dict[str, Path], model: HiggsAudioModel, tmp_path: Path, layout: str) -> None:
    save_checkpoint(model, model.config, tmp_path / "single", layout)
    assert [path.name for path in (tmp_path / "single").glob("*.safetensors")] == ["model.safetensors"]
    assert len(list(saved[layout].glob("*.safetensors"))) > 3
    single, several = (HiggsAudioModel.from_pretrained(f).state_dict() for f in (tmp_path / "single", saved[layout]))
    assert_same_tensors(single, several)


def test_a_single_file_takes_precedence_over_an_older_index(saved: dict[str, Path], model: HiggsAudioModel) -> None:
    """The hub has both since April 2026: a new ``model.safetensors``, and the old shards with their index."""
    torch.nn.init.zeros_(model.norm.weight)
    save_file(
        {to_transformers_name(k): v for k, v in model.state_dict().items()}, saved[ORIGINAL] / "model.safetensors"
    )
    assert not HiggsAudioModel.from_pretrained(saved[ORIGINAL]).norm.weight.any()


def split(state: dict[str, Tensor], name: str, rows: int, frozen: str, trainable: str) -> None:
    """Store the first ``rows`` of a tensor separately from the others, like Boson's partly frozen modules."""
    weight, module = state.pop(f"{name}.weight"), name
    state[f"{module}.{frozen}.weight"] = weight[:rows].clone()
    state[f"{module}.{trainable}.weight"] = weight[rows:].clone()


def halved(model: HiggsAudioModel) -> dict[str, Tensor]:
    state = model.state_dict()
    split(state, "embed_tokens", 480, "embedding_frozen", "embedding_trainable")
    split(state, "audio_decoder_proj.text_lm_head", 480, "linear_frozen", "linear_trainable")
    split(state, "audio_decoder_proj.audio_lm_head", 34, "linear_frozen", "linear_trainable")
    return state


def test_halves_are_joined_frozen_rows_first(model: HiggsAudioModel, saved: dict[str, Path]) -> None:
    folder = saved[ORIGINAL]
    state = halved(model) | {"rotary_emb.inv_freq": torch.zeros(8), "audio_codebook_weights": torch.ones(8)}
    save_file(state, folder / "model.safetensors")
    assert_same_tensors(HiggsAudioModel.from_pretrained(folder).state_dict(), model.state_dict())


def test_a_half_alone_or_in_addition_to_the_whole_is_listed(model: HiggsAudioModel, saved: dict[str, Path]) -> None:
    state = halved(model)
    del state["embed_tokens.embedding_trainable.weight"]
    state["audio_decoder_proj.text_lm_head.weight"] = model.audio_decoder_proj.text_lm_head.weight.detach()
    narrow = "audio_decoder_proj.audio_lm_head.linear_trainable.weight"
    state[narrow] = state[narrow][:5].clone()
    split(state, "audio_codebook_embeddings", 30, "embedding_frozen", "embedding_trainable")
    odd = "audio_codebook_embeddings.embedding_trainable.weight"
    state[odd] = state[odd][:, :7].clone()
    save_file(state, saved[ORIGINAL] / "model.safetensors")
    with pytest.raises(InputError) as caught:
        HiggsAudioModel.from_pretrained(saved[ORIGINAL])
    message = str(caught.value)
    assert "tensors do not fit the configuration (4):" in message
    assert "audio_codebook_embeddings.weight: has shape (30, 64) and (242, 7), not (272, 64)" in message
    problem = "embed_tokens.weight: stored as embed_tokens.embedding_frozen.weight; store it whole or as two halves"
    assert problem in message
    assert "text_lm_head.weight: stored as" in message
    assert "audio_lm_head.weight: has shape (39, 64), not (272, 64)" in message


# -- the configuration -------------------------------------------------------------------------------------------------

HUB_CONFIG = {
    "architectures": ["HiggsAudioV2ForConditionalGeneration"],
    "model_type": "higgs_audio_v2",
    "max_position_embeddings": 2048,
    "rope_parameters": {
        "factor": 32.0,
        "high_freq_factor": 0.5,
        "low_freq_factor": 0.125,
        "original_max_position_embeddings": 1024,
        "rope_theta": 500000.0,
        "rope_type": "llama3",
    },
    "codebook_size": 1026,
    "eos_token_id": 128009,
    "bos_token_id": 1,
    "dtype": "bfloat16",
}
"""The fields of the hub's file in the transformers layout that differ from the class's defaults."""


def released_config() -> HiggsAudioConfig:
    facts = json.loads((GOLDEN_DIR / "released_checkpoint_facts.json").read_text(encoding="utf-8"))
    known = {name: facts[name] for name in HiggsAudioConfig().to_dict() if name in facts}
    text = {name: value for name, value in facts["text_config"].items() if name not in ("model", "tie_word_embeddings")}
    return HiggsAudioConfig(**{**known, "text_config": text, "dtype": facts["torch_dtype"]})


@needs_golden
def test_every_name_and_shape_of_the_release_there_and_back() -> None:
    config = released_config()
    with torch.device("meta"):
        ours = HiggsAudioModel(config).to(torch.bfloat16).state_dict()
        theirs = HiggsAudioV2ForConditionalGeneration(
            HiggsAudioV2Config(**to_transformers_config(config)), use_text_head=True
        ).state_dict()
    assert sum(tensor.numel() * tensor.element_size() for tensor in ours.values()) == RELEASED_BYTES
    assert len(ours) == 28 * 14 + 5
    assert {to_transformers_name(name): tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert [to_original_name(to_transformers_name(name)) for name in ours] == list(ours)
    modules = {name.removesuffix(".weight") for name in ours}
    assert {to_original_name(to_transformers_name(name)) for name in modules} == modules


@needs_golden
def test_the_configs_of_both_layouts_describe_one_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUB_CONFIG))
    hub, original = HiggsAudioConfig.from_pretrained(tmp_path), released_config()
    for name in ("audio_adapter_type audio_dual_ffn_layers audio_ffn_hidden_size audio_ffn_intermediate_size "
                 "audio_num_codebooks audio_codebook_size audio_stream_bos_id audio_stream_eos_id audio_in_token_idx "
                 "audio_out_token_idx audio_out_bos_token_id audio_eos_token_id pad_token_id encode_whisper_embed "
                 "encode_audio_in_tokens skip_audio_tower use_delay_pattern").split():  # fmt: skip
        assert getattr(hub, name) == getattr(original, name), name
    for name in ("vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
                 "intermediate_size rms_norm_eps hidden_act").split():  # fmt: skip
        assert getattr(hub.text_config, name) == getattr(original.text_config, name), name
    # The rope has other parameters, with every length divided by 8. The frequencies are bitwise equal.
    rotary = modeling_higgs_audio.LlamaRotaryEmbedding
    assert torch.equal(rotary(hub.text_config).inv_freq, rotary(original.text_config).inv_freq)
    assert to_transformers_config(original)["audio_delay_token_id"] == 128014
    assert to_transformers_config(original)["eos_token_id"] == 128009


def test_the_original_config_is_readable_by_older_code(saved: dict[str, Path]) -> None:
    """transformers 4 does not know ``rope_parameters``, and Boson's defaults differ from ours."""
    written = json.loads((saved[ORIGINAL] / "config.json").read_text(encoding="utf-8"))
    text = written["text_config"]
    assert text["rope_theta"] == 500000.0
    assert text["rope_scaling"]["rope_type"] == "llama3" and "rope_parameters" not in text
    assert written["torch_dtype"] == text["torch_dtype"] == "float32"
    assert written["audio_encoder_config"]["model_type"] == "higgs_audio_encoder"
    assert written["encode_audio_in_tokens"] is True and written["use_delay_pattern"] is True
    again = HiggsAudioConfig.from_pretrained(saved[ORIGINAL])
    assert to_original_config(again) == written
    assert again.text_config.rope_parameters == tiny_config().text_config.rope_parameters


def test_a_model_that_transformers_class_cannot_hold_is_refused(model: HiggsAudioModel, tmp_path: Path) -> None:
    config = tiny_config(
        skip_audio_tower=False,
        encode_whisper_embed=True,
        audio_dual_ffn_layers=[0, 2],
        audio_ffn_intermediate_size=32,
        use_delay_pattern=False,
        audio_out_bos_token_id=494,
    )
    with pytest.raises(InputError) as caught:
        save_checkpoint(model, config, tmp_path / "out", TRANSFORMERS)
    message = str(caught.value)
    assert "does not have parts of this model; export the original layout (6):" in message
    parts = (
        "skip_audio_tower encode_whisper_embed audio_dual_ffn_layers audio_ffn_intermediate_size use_delay id".split()
    )
    for part in (f"  {part}" for part in parts):
        assert part in message
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="audio_tower.conv1: the transformers layout has no such tensor or module"):
        to_transformers_name("audio_tower.conv1")
    with pytest.raises(InputError, match="layers.0.mlp: the original layout has no such tensor or module"):
        to_original_name("layers.0.mlp")


# -- the demo and the program ------------------------------------------------------------------------------------------


@pytest.fixture
def transformers_demo(demo: Path, tmp_path: Path) -> Path:
    """Copy the demo, with its model in the transformers layout."""
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("code_cache", "model.safetensors", "config.json"))
    for name in ("audio_tokenizer/model.safetensors", "audio_tokenizer/config.json"):
        shutil.copy(demo / name, folder / name)
    tokenizer = AutoTokenizer.from_pretrained(demo / "model")
    build_model(folder / "model", {token: i for token, i in tokenizer.get_vocab().items()}, 0, TRANSFORMERS)
    return folder


def test_the_demo_in_either_layout_is_one_model_and_trains(demo: Path, transformers_demo: Path, tmp_path: Path) -> None:
    assert detect_layout(stored_tensors(demo / "model")) == ORIGINAL
    assert detect_layout(stored_tensors(transformers_demo / "model")) == TRANSFORMERS
    for layout, folder in ((ORIGINAL, demo), (TRANSFORMERS, transformers_demo)):
        run = {"max_steps": 1, "eval_data_path": None, "logging_steps": 1, "code_cache_dir": demo / "code_cache"}
        trainer(folder, tmp_path / layout, **run).train()
    assert metrics(tmp_path / ORIGINAL) == metrics(tmp_path / TRANSFORMERS)
