"""The memory of speech: it is tried before the first step, and where it lacks, what helps goes on with the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import NamedError
from boson_multimodal.model.higgs_audio import generation
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from lora_config import HiggsAudioLoRATrainingConfig
from tests.spoken_runs import spoken_flags, spoken_trainer
from tests.training_runs import assert_same_adapter
from tests.voice_cloning.run.test_memory_advice import remedies
from tests.voice_cloning.run.test_memory_trial import assert_equal, state_of, trial_of
from voice_cloning.evaluation import training_speech
from voice_cloning.evaluation.asked_samples import cache_positions
from voice_cloning.evaluation.training_speech import TrainingSpeech
from voice_cloning.run.speech import CACHE_GROWTH, cache_bytes, positions_that_fit
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.gpu_cards import GB, named_card
from voice_cloning.training.memory_estimate import RELEASED_MODEL, TrainedModel


def test_the_trial_takes_the_memory_of_clips_that_do_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = spoken_trainer(tmp_path / "run")
    run, caches = subject.components, []

    class Kept(KeyValueCache):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            caches.append(self)

    monkeypatch.setattr(training_speech, "KeyValueCache", Kept)
    monkeypatch.setattr(generation, "KeyValueCache", Kept)
    run.model.train()
    before = state_of(subject)
    *_, (described, attempt) = trial_of(subject).attempts()
    batch = run.speech.fullest_batch
    assert described == f"the fullest batch of speech ({len(batch)} samples, {cache_positions(batch):,} positions)"
    trial_of(subject).make(described, attempt)
    assert_equal(state_of(subject), before)
    assert run.model.training and not run.speech.is_speaking
    run.model.eval()
    monkeypatch.setattr(generation, "force_delay", lambda codes, column, remaining, *_: (codes, remaining))
    run.speech._speak_batch(run.model.get_base_model(), batch)
    tried, spoken = caches
    assert tried.capacity == spoken.capacity >= max(spoken.lengths) and len(tried.lengths) == len(spoken.lengths)
    assert [keys.shape for keys in tried._keys] == [keys.shape for keys in spoken._keys]
    assert max(spoken.lengths) * len(batch) <= cache_positions(batch), "the estimate is not exceeded"


def flags_of(message: str) -> list[list[str]]:
    """The words of each remedy of the program."""
    return [words for words in remedies(message).values() if words]


def out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_trial_that_fails_advises_cheaper_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = spoken_trainer(tmp_path / "run")
    *_, (described, attempt) = trial_of(subject).attempts()
    monkeypatch.setattr(subject.components.speech, "_inputs", out_of_memory)
    with pytest.raises(
        NamedError, match="the fullest batch of speech .5 samples, .* was tried before step 1[.]"
    ) as caught:
        trial_of(subject).make(described, attempt)
    assert flags_of(str(caught.value)) == [["--num_scored_samples", "2"], ["--num_scored_samples", "0"]]


def test_a_lack_of_memory_while_speaking_is_named_and_the_advice_goes_on_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    spoken_trainer(whole, num_scored_samples=0).train()
    command, speak_batch = spoken_flags(out), TrainingSpeech._speak_batch
    monkeypatch.setattr(
        TrainingSpeech,
        "_speak_batch",
        lambda self, model, batch: out_of_memory() if len(batch) > 2 else speak_batch(self, model, batch),
    )
    assert program.main(command) == 1
    message = capsys.readouterr().err
    assert "out of GPU memory" in message and "while evaluation samples were spoken after step 4." in message
    resumes = f"resume from {out / 'checkpoint-000003'}; "
    shown = remedies(message)
    assert all(text.startswith(resumes) for text, words in shown.items() if words), "the weights are kept"
    fewer, none = flags_of(message)
    assert (fewer, none) == (["--num_scored_samples", "2"], ["--num_scored_samples", "0"])
    assert program.main([*command, *fewer]) == 0
    assert_same_adapter(out / "checkpoint-000006", whole / "checkpoint-000006")


def test_the_released_model_speaks_the_default_budget_on_24_gb() -> None:
    model = TrainedModel(RELEASED_MODEL, HiggsAudioLoRATrainingConfig(), torch.bfloat16)
    assert cache_bytes(model) == 114_688
    assert positions_that_fit(model, named_card("RTX 4090").available) > 4 * 2048
    assert positions_that_fit(model, 0) == 1, "each sample alone"
    lasting = model.memory(BatchShape.full_of(64, 64), "layer").lasting
    found = positions_that_fit(model, lasting + 2 * GB)
    assert found * CACHE_GROWTH * cache_bytes(model) <= 2 * GB


def test_the_cache_never_takes_more_than_its_growth_allows() -> None:
    """Counted while it grows, for every length up to 3000."""

    class Counted(KeyValueCache):
        peak = 0

        def _grown(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
            grown = super()._grown(tensor)
            tensors = {id(t): t for t in [*self._keys, *self._values, *made, grown] if t is not None}
            made.append(grown)
            self.peak = max(self.peak, sum(t.shape[0] * t.shape[1] for t in tensors.values()))
            return grown

    layers, samples, start = 3, 2, 300
    cache, made = Counted(layers, samples), []
    for length in range(start, 3000):
        made.clear()
        cache.reserve(length)
        for layer in range(layers):
            if cache._keys[layer] is None:
                cache.write(layer, torch.tensor([0]), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
        positions = samples * length
        assert cache.peak <= CACHE_GROWTH * 2 * layers * positions, "keys and values of each layer"
