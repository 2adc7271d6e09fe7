"""Test Boson's original codec format: same codes, same waveform, and a clear error for every kind of damage."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor
from transformers import HiggsAudioV2TokenizerModel

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal import checkpoints
from boson_multimodal.audio_processing.codec_layouts import (
    ORIGINAL_WEIGHTS,
    codec_layout,
    merge_weight_norm,
    original_names,
    original_shapes,
    original_tensors,
    read_original_config,
    read_original_tensors,
    split_weight_norm,
)
from boson_multimodal.audio_processing.higgs_audio_tokenizer import (
    CODEC_WEIGHTS,
    HiggsAudioTokenizer,
    codec_config,
    codec_identity,
    load_higgs_audio_tokenizer,
)
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.errors import InputError
from tests.training_runs import trainer
from tools.demo.codec import write_original_codec

# config.json of bosonai/higgs-audio-v2-tokenizer at its last revision in the original format (9d4988fb), and the count
# of numbers in its model.pth for each first part of a name, from public listings of that file.
RELEASED_CONFIG = {
    "n_filters": 32,
    "D": 256,
    "codebook_dim": 64,
    "target_bandwidths": [0.5, 1, 1.5, 2, 4],
    "ratios": [8, 5, 4, 2, 3],
    "sample_rate": 24000,
    "bins": 1024,
    "n_q": 8,
    "semantic_techer": "hubert_base_general",
}
RELEASED_COUNTS = {
    "encoder": 51330688,
    "decoder_2": 20247074,
    "semantic_model": 94371712,
    "encoder_semantic": 14747136,
    "decoder_semantic": 16516608,
    "quantizer": 2114056,
    "fc_prior": 1049600,
    "fc_post1": 787200,
    "fc_post2": 262400,
}
# The shapes of some of its tensors, one of each kind.
RELEASED_SHAPES = {
    "encoder.block.0.weight_v": (64, 1, 7),
    "encoder.block.1.block.2.block.3.weight_g": (64, 1, 1),
    "encoder.block.2.block.1.block.2.alpha": (1, 128, 1),
    "encoder.block.2.block.3.alpha": (1, 128, 1),
    "encoder.block.2.block.4.weight_v": (256, 128, 10),
    "decoder_2.model.1.block.3.block.1.weight_v": (512, 512, 7),
    "decoder_2.model.2.block.0.alpha": (1, 512, 1),
    "decoder_2.model.2.block.1.weight_g": (512, 1, 1),
    "decoder_2.model.2.block.1.weight_v": (512, 256, 10),
    "decoder_2.model.5.block.4.block.3.bias": (32,),
    "decoder_2.model.6.alpha": (1, 32, 1),
    "decoder_2.model.7.weight_v": (1, 32, 7),
    "semantic_model.encoder.pos_conv_embed.conv.parametrizations.weight.original0": (1, 1, 128),
    "semantic_model.encoder.pos_conv_embed.conv.parametrizations.weight.original1": (768, 48, 128),
    "semantic_model.encoder.layers.0.feed_forward.output_dense.weight": (768, 3072),
    "decoder_semantic.conv_blocks.1.res_units.1.conv2.weight": (768, 768, 1),
    "decoder_semantic.conv2.conv.weight": (768, 768, 3),
    "quantizer.vq.layers.7.project_in.weight": (64, 1024),
    "quantizer.vq.layers.7._codebook.inited": (1,),
    "quantizer.vq.layers.7._codebook.embed": (1024, 64),
    "fc_prior.weight": (1024, 1024),
    "fc_post1.weight": (768, 1024),
    "fc_post2.weight": (256, 1024),
}


@pytest.fixture(scope="session")
def original(codec: HiggsAudioTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the demo's codec in the original format."""
    folder = tmp_path_factory.mktemp("original_codec")
    write_original_codec(codec.model, folder)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """Copy it for a test that damages it."""
    return shutil.copytree(original, tmp_path / "codec")


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def change_config(folder: Path, **fields: Any) -> None:
    write_config(folder, {**json.loads((folder / "config.json").read_text()), **fields})


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = torch.load(folder / ORIGINAL_WEIGHTS, weights_only=True)
    change(tensors)
    torch.save(tensors, folder / ORIGINAL_WEIGHTS)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_higgs_audio_tokenizer(folder)
    return str(caught.value)


# -- the same codec ----------------------------------------------------------------------------------------------------


def test_both_formats_give_the_same_codes_and_the_same_waveform(
    demo: Path, original: Path, codec: HiggsAudioTokenizer
) -> None:
    loaded = load_higgs_audio_tokenizer(original)
    assert (loaded.sampling_rate, loaded.num_codebooks, loaded.codebook_size) == (24000, 8, 1024)
    path = next((demo / "clips").glob("*/train_00.wav"))
    wave, _ = soundfile.read(path, dtype="float32")
    wave_1S = torch.from_numpy(wave)[None]
    codes_KT = codec.encode(wave_1S)[0]
    assert codes_KT.unique().numel() > 100
    assert torch.equal(loaded.encode(wave_1S)[0], codes_KT)
    assert torch.equal(loaded.decode(codes_KT), codec.decode(codes_KT))


def test_a_round_trip_keeps_every_bit_of_every_tensor(original: Path, codec: HiggsAudioTokenizer) -> None:
    expected = codec.model.state_dict()
    loaded = load_higgs_audio_tokenizer(original).model.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


def test_merging_weight_norm_is_torchs_own_up_to_rounding() -> None:
    plain = torch.nn.Conv1d(6, 10, 7, bias=False)
    layer = torch.nn.utils.parametrizations.weight_norm(plain, dim=0)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(torch.rand(10, 1, 1) + 0.5)
    pair = layer.parametrizations.weight.original0.detach(), layer.parametrizations.weight.original1.detach()
    assert (merge_weight_norm(*pair) - layer.weight).abs().max() < 2e-7 * layer.weight.abs().max()
    weight = torch.randn(64, 32, 7)
    magnitude, direction = split_weight_norm(weight)
    assert torch.equal(magnitude, direction.norm(dim=(1, 2), keepdim=True))
    assert torch.equal(merge_weight_norm(magnitude, direction), weight)


def test_both_formats_give_one_configuration(demo: Path, original: Path) -> None:
    ours, theirs = codec_config(original).to_dict(), codec_config(demo / "audio_tokenizer").to_dict()
    marks = {"architectures", "dtype", "_name_or_path", "transformers_version"}

    def content(config: dict[str, Any]) -> dict[str, Any]:
        parts = {k: content(v) if isinstance(v, dict) else v for k, v in config.items()}
        return {k: v for k, v in parts.items() if k not in marks}

    assert content(ours) == content(theirs)


def test_either_spelling_of_weight_norm_is_read(copy: Path, codec: HiggsAudioTokenizer) -> None:
    def respell(tensors: dict[str, Tensor]) -> None:
        for part, number in (("weight_g", 0), ("weight_v", 1)):
            spellings = (part, f"parametrizations.weight.original{number}")
            for name in list(tensors):
                for spelling, other in (spellings, spellings[::-1]):
                    if name.endswith(f".{spelling}"):
                        tensors[name.removesuffix(spelling) + other] = tensors.pop(name)
        assert "semantic_model.encoder.pos_conv_embed.conv.weight_g" in tensors
        assert "encoder.block.0.parametrizations.weight.original1" in tensors

    change_tensors(copy, respell)
    loaded = load_higgs_audio_tokenizer(copy).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in codec.model.state_dict().items())


def test_a_file_in_half_precision_becomes_fp32(copy: Path, codec: HiggsAudioTokenizer) -> None:
    change_tensors(copy, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    loaded = load_higgs_audio_tokenizer(copy).model.state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert torch.equal(loaded["fc.weight"], codec.model.fc.weight.half().float())


def test_loading_keeps_the_callers_random_state(demo: Path, original: Path) -> None:
    """Later random numbers must be the same whether clips are encoded or all of them are in the cache."""
    for folder in (demo / "audio_tokenizer", original):
        before = torch.get_rng_state()
        load_higgs_audio_tokenizer(folder)
        assert torch.equal(torch.get_rng_state(), before), folder


# -- the released shapes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> HiggsAudioV2TokenizerModel:
    """Build the released codec on the meta device from the original's configuration."""
    folder = write_config(tmp_path_factory.mktemp("released"), RELEASED_CONFIG)
    with torch.device("meta"):
        return HiggsAudioV2TokenizerModel(read_original_config(folder))


def test_the_released_configuration_is_understood(released: HiggsAudioV2TokenizerModel) -> None:
    config = released.config
    assert (config.num_quantizers, config.frame_rate, config.hop_length) == (8, 25, 960)
    assert list(config.target_bandwidths) == [0.5, 1, 1.5, 2]
    assert (config.codebook_size, config.codebook_dim, config.hidden_size) == (1024, 64, 1024)
    assert config.semantic_downsample_factor == 2 and config.semantic_model_config.mask_time_prob == 0.0


def test_the_table_gives_the_released_files_names_and_shapes(released: HiggsAudioV2TokenizerModel) -> None:
    shapes = original_shapes(released)
    counts: Counter[str] = Counter({"semantic_model": 768})  # masked_spec_embed, which the codec does not use
    for name, shape in shapes.items():
        counts[name.split(".")[0]] += prod(shape)
    assert counts == RELEASED_COUNTS and counts.total() == 201426474
    assert {name: shapes.get(name) for name in RELEASED_SHAPES} == RELEASED_SHAPES


def test_every_released_name_goes_there_and_back(released: HiggsAudioV2TokenizerModel, tmp_path: Path) -> None:
    """No two tensors share a name, and reading a file of these names gives transformers' names and shapes."""
    names = original_names(released)
    theirs = [name for parts in names.values() for name in parts]
    assert names.keys() == released.state_dict().keys() and len(names) == 527
    assert len(set(theirs)) == len(theirs) and set(theirs) == original_tensors(released).keys()
    # A stride of 0 stores one number per tensor instead of the release's 800 MB.
    one = torch.ones(1)
    tensors = {name: one.expand(shape) for name, shape in original_shapes(released).items()}
    torch.save(tensors, tmp_path / ORIGINAL_WEIGHTS)
    read = read_original_tensors(tmp_path / ORIGINAL_WEIGHTS, released)
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in released.state_dict().items()}


# -- identity, hub and trainer -----------------------------------------------------------------------------------------


def test_identity_covers_the_originals_weights_and_configuration(original: Path, copy: Path) -> None:
    identity = codec_identity(original)
    assert codec_identity(copy) == identity
    (copy / "model.safetensors").write_bytes(b"of the other format, not read")
    assert codec_identity(copy) == identity
    with (copy / ORIGINAL_WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    changed = codec_identity(copy)
    with (copy / "config.json").open("a") as file:
        file.write("\n")
    assert len({identity, changed, codec_identity(copy)}) == 3


def test_a_folder_with_either_weights_is_a_whole_codec(demo: Path, original: Path, tmp_path: Path) -> None:
    for folder in (demo / "audio_tokenizer", original):
        assert resolve_checkpoint(str(folder), None, "--audio_tokenizer_path", (CODEC_WEIGHTS,)) == folder
    write_config(tmp_path, RELEASED_CONFIG)
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(str(tmp_path), None, "--audio_tokenizer_path", (CODEC_WEIGHTS,))
    assert str(caught.value) == (
        f"--audio_tokenizer_path {tmp_path}: no *.safetensors or model.pth in it; give a whole checkpoint"
    )


def test_the_hub_is_asked_for_a_pickle_only_when_it_is_the_codec(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fetch(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(demo / "audio_tokenizer")

    monkeypatch.setattr(checkpoints, "snapshot_download", fetch)
    resolve_checkpoint("bosonai/codec", None, "--audio_tokenizer_path", (CODEC_WEIGHTS,))
    resolve_checkpoint("bosonai/model", None, "--model_path", ("*.safetensors",))
    assert ORIGINAL_WEIGHTS in asked[0] and asked[0] == sorted({*asked[1], ORIGINAL_WEIGHTS})
    assert not any(".pth" in pattern for pattern in asked[1])


def test_the_trainer_takes_a_codec_in_the_original_format(
    demo: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = ArabicVoiceCloningDataset.encode_missing

    def counted(self: ArabicVoiceCloningDataset, load: Callable[[], HiggsAudioTokenizer]) -> int:
        encoded.append(encode(self, load))
        return encoded[-1]

    monkeypatch.setattr(ArabicVoiceCloningDataset, "encode_missing", counted)
    cache = str(tmp_path / "codes")
    trainer(demo, tmp_path / "out", audio_tokenizer_path=str(original), code_cache_dir=cache)
    assert encoded[0] > 0


# -- what is broken ----------------------------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_are_listed_at_once(copy: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        del tensors["fc_prior.weight"], tensors["encoder.block.0.weight_g"]
        tensors |= {"fc_post2.bias": torch.zeros(3), "fc_extra.bias": torch.zeros(3), "fc_post1.bias": 7}

    change_tensors(copy, spoil)
    message = refusal(copy)
    assert message.splitlines()[0] == f"{copy / 'model.pth'}: tensors do not fit the codec's configuration (5):"
    for expected in (
        "encoder.block.0.weight_g: missing",
        "fc_prior.weight: missing",
        "fc_extra.bias: unexpected",
        "fc_post2.bias: shape (3,), not (32,)",
        "fc_post1.bias: a int, not a tensor",
    ):
        assert f"  {expected}" in message.splitlines()


def test_a_file_without_hubert_is_refused(copy: Path) -> None:
    """Boson's loader would keep a HuBERT that it downloads from another repository. The release contains its own."""

    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("semantic_model.")]:
            del tensors[name]

    change_tensors(copy, drop)
    message = refusal(copy)
    assert "semantic_model.encoder.layer_norm.bias: missing" in message and "more" in message.splitlines()[-1]


def test_a_configuration_of_another_size_is_seen_in_the_shapes(copy: Path) -> None:
    change_config(copy, bins=512, n_q=12)
    message = refusal(copy)
    assert "quantizer.vq.layers.11._codebook.embed: missing" in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(share: float, copy: Path) -> None:
    path = copy / ORIGINAL_WEIGHTS
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))
    message = refusal(copy)
    assert message.startswith(f"{path}: not a whole file of torch.save (") and message.endswith("fetch it again")


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / ORIGINAL_WEIGHTS).unlink()
    assert refusal(copy) == f"{copy / ORIGINAL_WEIGHTS}: not there; give a whole checkpoint"


class RunsCode:
    """An object that creates a folder if it is unpickled without protection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_could_run_code_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update(trap=RunsCode(tmp_path / "trapped")))
    message = refusal(copy)
    assert message.startswith(f"{copy / ORIGINAL_WEIGHTS}: holds more than tensors")
    assert not (tmp_path / "trapped").exists()


def test_a_file_that_holds_no_tensors_by_name_is_refused(copy: Path) -> None:
    torch.save([torch.zeros(1)], copy / ORIGINAL_WEIGHTS)
    assert refusal(copy) == f"{copy / ORIGINAL_WEIGHTS}: holds a list, not tensors by name"


def test_every_wrong_field_of_the_configuration_is_listed(tmp_path: Path) -> None:
    wrong = {"bins": [8, 5, 5, 5], "ratios": [], "sample_rate": "24k", "semantic_techer": "wavlm_base_plus"}
    wrong |= {"vq_scale": 2, "downsample_mode": "avg", "depth": 3, "semantic_model_config": 1}
    config = {**RELEASED_CONFIG, **wrong}
    del config["codebook_dim"]
    with pytest.raises(InputError) as caught:
        codec_config(write_config(tmp_path, config))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: config.json of Boson's original format (9):",
        "  bins: [8, 5, 5, 5] instead of a whole number from 2 (residual vector quantization)",
        "  codebook_dim: missing",
        "  depth: not a field of the format",
        "  downsample_mode: 'avg' instead of 'step_down'",
        "  ratios: [] instead of a list of whole numbers from 1",
        "  sample_rate: '24k' instead of a whole number from 1",
        "  semantic_model_config: 1 instead of an object",
        "  semantic_techer: 'wavlm_base_plus' instead of 'hubert_base_general'",
        "  vq_scale: 2 instead of 1",
    ]


def test_a_number_of_codebooks_that_transformers_class_cannot_hold_is_refused(tmp_path: Path) -> None:
    """The class divides bandwidths, which gives 6 (rounded down) for 7 codebooks of 11 bits at 13 frames/s."""
    config = {**RELEASED_CONFIG, "ratios": [8, 5, 4, 2, 3, 2], "bins": 2048, "n_q": 7}
    with pytest.raises(InputError, match="n_q 7 at 13 frames/s and 2048 bins .* would make 6 codebooks"):
        codec_config(write_config(tmp_path, config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "has model_type None, not 'higgs_audio_v2_tokenizer', and does not have Boson's original format either"),
        ({"ratios": [8, 5], "n_q": 8}, "not there: bins, semantic_techer"),
        ({**RELEASED_CONFIG, "model_type": "xcodec"}, "has model_type 'xcodec'"),
    ],
)
def test_a_configuration_of_neither_format_is_refused(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write_config(tmp_path, config)
    for read in (codec_layout, codec_config, codec_identity, load_higgs_audio_tokenizer):
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}: config.json ") and expected in str(caught.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no config.json in it; give the folder of a checkpoint"


def test_the_other_formats_weights_beside_transformers_configuration_are_refused(
    demo: Path, original: Path, tmp_path: Path
) -> None:
    shutil.copy(demo / "audio_tokenizer" / "config.json", tmp_path)
    shutil.copy(original / ORIGINAL_WEIGHTS, tmp_path)
    assert refusal(tmp_path) == f"{tmp_path}: no *.safetensors in it, and its config.json is transformers'"


def test_a_truncated_safetensors_file_is_refused(demo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo / "audio_tokenizer", tmp_path / "codec")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert refusal(folder).startswith(f"{folder}: *.safetensors cannot be read (")
