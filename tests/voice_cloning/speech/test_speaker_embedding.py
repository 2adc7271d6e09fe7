"""Speaker models: one clip, one vector of unit length; what is wrong with a model is said before the work."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForXVector,
    WavLMConfig,
    WavLMForXVector,
    WavLMModel,
)

from boson_multimodal.errors import InputError
from voice_cloning.speech.speaker_embedding import (
    INSTALL_RESEMBLYZER,
    LEAST_SECONDS,
    RESEMBLYZER,
    SpeakerEmbedding,
    is_resemblyzer_installed,
    load_speaker_model,
    scaled_vectors,
)

needs_resemblyzer = pytest.mark.skipif(not is_resemblyzer_installed(), reason=f"needs {INSTALL_RESEMBLYZER}")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "tdnn_dim": (32, 32, 32, 32, 32),
    "xvector_output_dim": 24,
}
"""A tiny model; everything else is as in the released ones."""
RATE = 16_000


def save_model(folder: Path, model: torch.nn.Module, **extractor: bool) -> Path:
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**extractor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("wavlm"), WavLMForXVector(WavLMConfig(**SIZES)))


def wave(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Return (samples,) of a buzz whose pitch wanders."""
    numbers = np.random.default_rng(seed)
    pitch = numbers.uniform(90, 220) * (1 + 0.1 * np.sin(np.arange(round(seconds * rate)) / rate * 7))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 20)) * (1 + 0.5 * np.sin(np.arange(len(phase)) / rate * 20))
    return (0.1 * voiced + numbers.normal(0, 1e-3, len(phase))).astype(np.float32)


def test_an_x_vector_has_unit_length_and_no_other_clip_changes_it(wavlm: Path) -> None:
    model = load_speaker_model(str(wavlm), torch.device("cpu"))
    clips = [(name, wave(seconds, seed), RATE) for seed, (name, seconds) in enumerate({"a": 2.0, "b": 3.3}.items())]
    together = {name: model.embed(samples, rate) for name, samples, rate in clips}
    for name, samples, rate in reversed(clips):
        alone = load_speaker_model(str(wavlm), torch.device("cpu")).embed(samples, rate)
        assert alone.vector.shape == (24,) and alone.vector.dtype == np.float32
        assert np.linalg.norm(alone.vector) == pytest.approx(1, abs=1e-6)
        assert alone.seconds == len(samples) / rate
        assert np.array_equal(alone.vector, together[name].vector)
    assert not np.allclose(together["a"].vector, together["b"].vector, atol=1e-3)


def test_the_model_sees_what_transformers_gives_it(wavlm: Path) -> None:
    samples = wave(2.5)
    own = load_speaker_model(str(wavlm), torch.device("cpu")).embed(samples, RATE)
    inputs = Wav2Vec2FeatureExtractor.from_pretrained(wavlm)(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = WavLMForXVector.from_pretrained(wavlm).eval()(**inputs).embeddings[0]
    assert np.allclose(own.vector, (expected / expected.norm()).numpy(), atol=1e-6)


def test_another_rate_is_resampled_and_other_architectures_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_model(tmp_path, Wav2Vec2ForXVector(Wav2Vec2Config(**SIZES)), return_attention_mask=True)
    model = load_speaker_model(str(folder), torch.device("cpu"))
    at_24, at_16 = (model.embed(wave(2.5, rate=rate), rate) for rate in (24_000, RATE))
    assert at_24.seconds == at_16.seconds == 2.5
    assert at_24.vector @ at_16.vector > 0.99


def test_too_little_speech_has_no_voice(wavlm: Path) -> None:
    model = load_speaker_model(str(wavlm))
    assert model.embed(wave(LEAST_SECONDS - 0.01), RATE) is None
    assert model.embed(np.zeros(5 * RATE, np.float32), RATE) is None
    assert model.embed(wave(0.0), RATE) is None


def test_products_of_scaled_vectors_do_not_depend_on_length() -> None:
    """Vectors of a voice plus noise whose variance falls with the seconds, half of the square at 0.5 s."""
    numbers, size, voice = np.random.default_rng(0), 4096, 1.0
    means = {}
    for seconds in (2.0, 8.0):
        made = []
        for _ in range(20):
            vector = np.full(size, voice) + numbers.normal(0, np.sqrt(0.5 / seconds), size)
            made.append(SpeakerEmbedding((vector / np.linalg.norm(vector)).astype(np.float32), seconds))
        vectors = scaled_vectors(made, 0.5)
        means[seconds] = (vectors @ vectors.T)[np.triu_indices(20, 1)].mean()
        cosines = scaled_vectors(made, 0.0)
        assert (cosines @ cosines.T)[0, 1] < 0.97
    assert means[2.0] == pytest.approx(1, abs=0.01) and means[8.0] == pytest.approx(1, abs=0.01)
    assert scaled_vectors([], 0.5).shape[0] == 0


# -- what is wrong with a model ----------------------------------------------------------------------------------------


def refused(folder: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_speaker_model(str(folder))
    assert str(caught.value).startswith(f"--speaker_model {folder}")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder; give resemblyzer, a folder, or a hub id OWNER/NAME")
    refused("resembler", "no such folder; give resemblyzer")
    refused(tmp_path, "no config.json in it")


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path, WavLMModel(WavLMConfig(**SIZES)))
    refused(folder, "WavLMModel, but a model with an x-vector head is needed")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("WavLMModel", "WavLMForXVector"))
    refused(folder, "it has no weights for classifier.bias")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refused(folder, "llama, but a model with an x-vector head is needed")
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    refused(folder, "cannot be loaded")


def test_damaged_or_missing_files_are_named(wavlm: Path, tmp_path: Path) -> None:
    for source in wavlm.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "preprocessor_config.json").unlink()
    refused(tmp_path, "no preprocessor_config.json in it")
    (tmp_path / "preprocessor_config.json").write_text("{")
    refused(tmp_path, "cannot be loaded")
    (tmp_path / "preprocessor_config.json").write_bytes((wavlm / "preprocessor_config.json").read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(tmp_path, "cannot be loaded")
    weights.unlink()
    refused(tmp_path, r"no \*.safetensors or pytorch_model\*.bin in it")


def test_embeddings_that_are_not_finite_are_refused(wavlm: Path, tmp_path: Path) -> None:
    for source in wavlm.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    tensors = load_file(wavlm / "model.safetensors")
    tensors["feature_extractor.bias"][:] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="its embeddings are not finite"):
        load_speaker_model(str(tmp_path)).embed(wave(3.0), RATE)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    refused(RESEMBLYZER, "cannot be imported .*pip install --no-deps resemblyzer webrtcvad-wheels")


# -- Resemblyzer -------------------------------------------------------------------------------------------------------


@needs_resemblyzer
def test_resemblyzer_hears_the_same_voice_at_any_level() -> None:
    model = load_speaker_model(RESEMBLYZER, torch.device("cpu"))
    samples = wave(5.0)
    found = [model.embed(samples * np.float32(gain), RATE) for gain in (1.0, 0.03, 30.0)]
    assert all(np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-5) for one in found)
    assert all(one.vector.shape == (256,) and LEAST_SECONDS <= one.seconds <= 5.01 for one in found)
    assert all(one.vector @ found[0].vector > 0.999 for one in found)
    assert np.array_equal(model.embed(samples, RATE).vector, found[0].vector)


@needs_resemblyzer
def test_resemblyzer_hears_no_voice_in_silence_and_clicks() -> None:
    model = load_speaker_model(RESEMBLYZER, torch.device("cpu"))
    click = np.zeros(5 * RATE, np.float32)
    click[40_000] = 0.5
    assert model.embed(click, RATE) is None
    assert model.embed(np.zeros(5 * RATE, np.float32), RATE) is None
    assert model.embed(wave(1.5), RATE) is None
