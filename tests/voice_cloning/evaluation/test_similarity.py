"""SIM is the cosine of two embeddings; MOS is what speechmos says; what is missing is named."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import WavLMConfig, WavLMForXVector

from boson_multimodal.errors import InputError
from tests.voice_cloning.speech.test_speaker_embedding import RATE, SIZES, save_model, wave
from voice_cloning.evaluation.naturalness import INSTALL_SPEECHMOS, load_mos
from voice_cloning.evaluation.similarity import LEAST_SECONDS, SpeakerModel, cosine, load_speaker_model
from voice_cloning.speech import speaker_embedding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("wavlm"), WavLMForXVector(WavLMConfig(**SIZES)))


@pytest.fixture(scope="module")
def model(wavlm: Path) -> SpeakerModel:
    return load_speaker_model(str(wavlm), device=CPU)


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(wave(seconds, seed))


def test_sim_is_the_cosine_of_the_embeddings_of_the_speech_package(model: SpeakerModel, wavlm: Path) -> None:
    one, other = (model.embed(sound(3.0, seed), RATE) for seed in (0, 1))
    known = speaker_embedding.load_speaker_model(str(wavlm), CPU)
    vectors = [known.embed(wave(3.0, seed), RATE).vector for seed in (0, 1)]
    assert one.shape == (24,) and one.norm() == pytest.approx(1, abs=1e-6)
    assert cosine(one, other) == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert cosine(one, 3 * one) == pytest.approx(1, abs=1e-6) and cosine(one, -one) == pytest.approx(-1, abs=1e-6)
    assert model.name == wavlm.name


def test_short_clips_have_a_voice_down_to_half_a_second(model: SpeakerModel) -> None:
    assert model.embed(sound(LEAST_SECONDS), RATE).shape == (24,)
    for samples in (sound(LEAST_SECONDS - 0.01), torch.zeros(5 * RATE), torch.zeros(0)):
        assert model.embed(samples, RATE) is None


def test_the_revision_reaches_the_hub(monkeypatch: pytest.MonkeyPatch, wavlm: Path) -> None:
    asked = []
    monkeypatch.setattr(
        speaker_embedding, "resolve_checkpoint", lambda *arguments: asked.append(arguments[:3]) or wavlm
    )
    assert load_speaker_model("someone/some-model", "v1", CPU).name == "someone/some-model@v1"
    assert asked == [("someone/some-model", "v1", "--speaker_model")]


def test_a_missing_speaker_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--speaker_model .*none: no such folder; give resemblyzer"):
        load_speaker_model(str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(InputError, match="the package cannot be imported .*pip install --no-deps resemblyzer"):
        load_speaker_model("resemblyzer")


def test_mos_is_the_overall_rating_at_16_khz(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def run(samples: np.ndarray, rate: int) -> dict[str, np.float64]:
        assert samples.min() >= -1 and samples.max() <= 1
        heard.append((len(samples), rate))
        return {"ovrl_mos": np.float64(3.25), "sig_mos": np.float64(1.0), "p808_mos": np.float32(2.0)}

    package, module = ModuleType("speechmos"), ModuleType("speechmos.dnsmos")
    package.dnsmos, module.run = module, run
    monkeypatch.setitem(sys.modules, "speechmos", package)
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", module)
    mos = load_mos("dnsmos")
    rating = mos.score(3 * sound(1.0), 24_000)
    assert mos.name == "dnsmos" and rating == 3.25 and type(rating) is float
    assert heard == [(10_667, 16_000)]
    assert mos.score(torch.zeros(0), 24_000) is None and len(heard) == 1  # the package would never return


def test_a_missing_measure_or_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--mos utmos: no such measure; give dnsmos"):
        load_mos("utmos")
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(InputError, match=f"--mos dnsmos: the package cannot be imported .*; {INSTALL_SPEECHMOS}"):
        load_mos("dnsmos")
