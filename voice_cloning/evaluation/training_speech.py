"""Speech during training: evaluation samples are spoken from their prompts with the adapter as it is at a step.

The speech of a sample depends on the adapter, the prompt and the sample's own seed. The batches depend on neither the
number of processes nor the clock, so on a CPU any number of processes gives the same codes.

Memory: a position of the key-value cache takes 2 x layers x key-value heads x head dimension numbers. In the released
model that is 2 x 28 x 8 x 128 x 2 bytes = 115 kB in bfloat16. The cache grows by doubling, and meanwhile half of what
it had before exists too, so a batch takes at most 2.5 times its positions: 2.4 GB with a budget of 4 x 2048 positions.
At that time nothing of a training step is in memory but what lasts from step to step. ``voice_cloning/run/speech.py``
chooses the budget, and the trial before the first step takes this memory (``voice_cloning/run/memory_trial.py``).
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.generation import SamplingConfig, codes_of_columns
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import progress
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.evaluation.asked_samples import AskedSample, cache_positions, speech_batches
from voice_cloning.evaluation.recognisers import Heard, SpeechRecogniser
from voice_cloning.evaluation.sample_sounds import SampleSounds, SpeechWriter
from voice_cloning.evaluation.word_errors import TextErrors, text_errors
from voice_cloning.speech.sample_prompts import SamplePrompt, cut_at_target
from voice_cloning.training.spoken_figures import SpokenClip, measure_clip, spoken_figures

logger = logging.getLogger(__name__)

NORMALISATION = "scoring"
"""The normalisation of texts before the words are compared."""
STATED_SHARE = 0.1
"""Speech that takes more than this share of the time is warned of, and may be left out."""
SECONDS_WITHOUT_BOUND = 600.0
"""Speech is never left out before it has taken this long, so that short runs speak at each evaluation."""
CHEAPER = "a larger --sample_every or a lower --num_scored_samples makes it cheaper. The weights do not depend on them"


@dataclass(frozen=True)
class SpokenCodes:
    """What a model spoke.

    Attributes:
        codes_KT: (K, T) codes on the CPU.
        ended: whether it ended by itself within the cap.
        recognised: what a recogniser heard; None without one.
    """

    codes_KT: Tensor
    ended: bool
    recognised: str | None = None


@dataclass(frozen=True)
class SpeechResult:
    """What one call of :meth:`TrainingSpeech.speak` found, the same on all processes.

    Attributes:
        figures: by their names in ``metrics.jsonl``.
        ended: whether each sample ended by itself, in the order of the samples.
        errors: of each sample, in the same order; empty without a recogniser.
        recogniser: its name; an empty text without one.
    """

    figures: dict[str, float]
    ended: tuple[bool, ...]
    errors: tuple[TextErrors, ...] = ()
    recogniser: str = ""


class TrainingSpeech:
    """Speaks the same evaluation samples each time it is asked.

    Args:
        dataset: the evaluation data, encoded.
        collator: makes batches.
        asked: the samples, in the order of ``spread_order``.
        num_heard: so many of the first ones are also written as sound.
        sounds: decodes and writes them, on the main process; with a recogniser, on each process. Else None.
        budget: positions of the key-value cache of a batch.
        device, dtype: of the model; the computation is that of training.
        ranks: the processes, which divide the batches among them.
        recogniser: hears what was spoken; None if nobody listens.
        clock: returns seconds since any moment.

    Attributes:
        is_speaking: whether a call was begun and has not ended, also by an error: for messages.
        batches: the samples, in the batches in which they are spoken.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        collator: ArabicVoiceCloningTrainingCollator,
        asked: Sequence[AskedSample],
        num_heard: int,
        sounds: SampleSounds | None,
        budget: int,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks,
        recogniser: SpeechRecogniser | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._recogniser = recogniser
        self._dataset = dataset
        self._collator = collator
        self._asked = asked
        self._heard = asked[:num_heard]
        self._sounds = sounds
        self._device = device
        self._dtype = dtype
        self._ranks = ranks
        self._writer: SpeechWriter | None = None
        self._clock = clock
        self._begun = self._since = clock()
        self._spoken_seconds = 0.0
        self._waves: dict[AskedSample, Tensor] = {}  # of clips that were decoded for the recogniser, and are heard
        self._has_warned = self._has_originals = False
        self.batches = speech_batches(asked, budget)
        self.is_speaking = False

    @property
    def writes_sound(self) -> bool:
        """Whether the codec is in use."""
        return self._sounds is not None

    @property
    def has_recogniser(self) -> bool:
        """Whether a recogniser hears the clips."""
        return self._recogniser is not None

    @property
    def fullest_batch(self) -> list[AskedSample]:
        """The batch whose key-value cache has most positions."""
        return max(self.batches, key=cache_positions)

    def open(self, writer: SpeechWriter | None) -> None:
        """Begin. ``writer`` writes metrics on the main process; it is None on the others."""
        self._writer = writer
        self._begun = self._since = self._clock()

    def is_too_expensive(self, step: int) -> bool:
        """Return whether the speech of a step must be left out, the same on all processes. A line says so.

        It must if speech has taken more than ``SECONDS_WITHOUT_BOUND`` and more than ``STATED_SHARE`` of the time since
        :meth:`open`, by the clock of the main process. The time before a resume does not count.
        """
        seconds, passed = self._spoken_seconds, self._clock() - self._begun
        is_over = seconds > max(SECONDS_WITHOUT_BOUND, STATED_SHARE * passed)
        if is_over and self._ranks.is_main:
            logger.warning(
                "step %d: speech is left out. It has taken %.0f s, %.0f %% of the time since this start, and may take "
                "%.0f %%; %s",
                *(step, seconds, 100 * seconds / passed, 100 * STATED_SHARE, CHEAPER),
            )
        return self._ranks.broadcast_object(is_over)

    def speak(self, model: HiggsAudioModel, step: int, stop_requested: Callable[[], bool]) -> SpeechResult | None:
        """Speak every sample, write what was spoken, and return the same result on all processes.

        Args:
            model: the model with its adapter, in inference mode.
            step: optimizer steps done.
            stop_requested: returns whether this process must stop; called before each batch.

        Returns:
            The figures are those of ``spoken_figures``, ``spoken_wer`` and ``spoken_cer`` with a recogniser,
            ``spoken_seconds`` and ``spoken_share`` (of the time since the last speech). None if a process must stop:
            nothing has been written then.

        Raises:
            InputError: on every process, if the disk is full or broken.
        """
        self.is_speaking = True
        started, spoken = self._clock(), self._speak_batches(model, stop_requested)
        result: SpeechResult | None = None
        if spoken is not None:
            in_order = [spoken[sample.index] for sample in self._asked]
            errors = self._errors(in_order)
            figures = {}
            with self._ranks.failing_together():
                if self._writer is not None:
                    figures = self._write(self._writer, model, step, spoken, errors)
            figures = self._ranks.broadcast_object(figures | self._cost(started))
            ended, listener = tuple(found.ended for found in in_order), self._recogniser
            result = SpeechResult(figures, ended, errors, "" if listener is None else listener.name)
        self.is_speaking = False
        return result

    @torch.no_grad()
    def take_most_memory(self, model: HiggsAudioModel) -> None:
        """Take the memory of the fullest batch whose clips do not end, without the time of it."""
        self.is_speaking, batch = True, self.fullest_batch
        inputs = self._inputs([self._prompt(model, sample) for sample in batch]).prompts()
        cache = KeyValueCache(len(model.layers), len(batch))
        with self._autocast():
            model.last_hidden_states(cache, **inputs)
        longest = max(cache.lengths) + max(sample.most_columns for sample in batch)
        while cache.capacity < longest:  # it grows as it does when one column after the other is added
            cache.reserve(cache.capacity + 1)
        self.is_speaking = False

    def _speak_batches(
        self, model: HiggsAudioModel, stop_requested: Callable[[], bool]
    ) -> dict[int, SpokenCodes] | None:
        """Return what was spoken of every sample by its index, on all processes; None if a process must stop."""
        ranks, mine = self._ranks, {}
        rounds = range(0, len(self.batches), ranks.world_size)
        for first in progress(rounds, "speaking", unit="batch", leave=False, disable=not ranks.is_main):
            ranks.wait_for_all()  # a batch takes minutes where the device is slow
            if ranks.any(stop_requested()):
                return None
            for batch in self.batches[first : first + ranks.world_size][ranks.rank :][:1]:
                mine |= self._speak_batch(model, batch)
        if self._recogniser is not None:
            mine = self._recognised(mine)
        return {index: codes for found in ranks.gather(mine) for index, codes in found.items()}

    @torch.no_grad()
    def _speak_batch(self, model: HiggsAudioModel, batch: Sequence[AskedSample]) -> dict[int, SpokenCodes]:
        inputs = self._inputs([self._prompt(model, sample) for sample in batch])
        with self._autocast():
            output = model.generate(
                **inputs.prompts(),
                max_new_tokens=max(sample.most_columns for sample in batch),
                seed=[sample.seed for sample in batch],
                **asdict(SamplingConfig()),
            )
        spoken = {}
        for sample, columns, ended in zip(batch, output.audio_sequences, output.ended, strict=True):
            # Another sample of the batch may have a higher cap. Alone, this one would have stopped at its own.
            codes = codes_of_columns(columns[:, : sample.most_columns], model.config.audio_codebook_size).cpu()
            spoken[sample.index] = SpokenCodes(codes, ended and columns.shape[1] <= sample.most_columns)
        return spoken

    def _recognised(self, spoken: dict[int, SpokenCodes]) -> dict[int, SpokenCodes]:
        """Decode what this process spoke, and let the recogniser hear it."""
        samples = [sample for sample in self._asked if sample.index in spoken]
        waves = self._sounds.decode({sample: spoken[sample.index].codes_KT for sample in samples})
        rate = self._sounds.sampling_rate
        clips = [Heard(samples=waves[s], sampling_rate=rate, codes_KT=spoken[s.index].codes_KT) for s in samples]
        self._waves = {sample: waves[sample] for sample in self._heard if sample in waves}
        texts = self._recogniser.transcribe(clips)
        found = zip(samples, texts, strict=True)
        return {sample.index: replace(spoken[sample.index], recognised=text) for sample, text in found}

    def _errors(self, spoken: Sequence[SpokenCodes]) -> tuple[TextErrors, ...]:
        """Return the errors of each sample; nothing without a recogniser."""
        if self._recogniser is None:
            return ()
        pairs = zip(self._asked, spoken, strict=True)
        return tuple(text_errors(sample.text, found.recognised, NORMALISATION) for sample, found in pairs)

    def _prompt(self, model: HiggsAudioModel, sample: AskedSample) -> SamplePrompt:
        return cut_at_target(self._dataset[sample.index], model.config)

    def _inputs(self, prompts: Sequence[SamplePrompt]) -> HiggsAudioBatchInput:
        return self._collator([found.prompt for found in prompts])

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _write(
        self,
        writer: SpeechWriter,
        model: HiggsAudioModel,
        step: int,
        spoken: dict[int, SpokenCodes],
        errors: Sequence[TextErrors],
    ) -> dict[str, float]:
        """Write one line for each sample, and the clips that are heard. Return the figures."""
        waves: dict[AskedSample, Tensor] = {}
        if self._sounds is not None and self._heard:
            if not self._has_originals:
                prompts = {sample: self._prompt(model, sample) for sample in self._heard}
                references = {s: p.reference_KT for s, p in prompts.items() if p.reference_KT is not None}
                self._sounds.write_originals(writer, step, references, {s: p.target_KT for s, p in prompts.items()})
                self._has_originals = True
            others = {s: spoken[s.index].codes_KT for s in self._heard if s not in self._waves}
            decoded = self._waves | (self._sounds.decode(others) if others else {})
            waves = {sample: decoded[sample] for sample in self._heard}
            self._sounds.write_step(writer, step, waves)
        clips = [self._measured(sample, spoken[sample.index], waves.get(sample)) for sample in self._asked]
        for index, (sample, clip) in enumerate(zip(self._asked, clips, strict=True)):
            known = {name: value for name, value in asdict(clip).items() if value is not None}
            heard = _heard(spoken[sample.index], errors[index]) if errors else {}
            writer.write_sample({"step": step, **known, **heard})
        return spoken_figures(clips, self._dataset.frames_per_second) | error_rates(errors)

    def _measured(self, sample: AskedSample, spoken: SpokenCodes, wave: Tensor | None) -> SpokenClip:
        sound = {} if wave is None else {"samples": wave, "sampling_rate": self._sounds.sampling_rate}
        return measure_clip(
            sample.sample_id,
            sample.text,
            spoken.codes_KT,
            ended=spoken.ended,
            true_frames=sample.true_frames or None,
            seed=sample.seed,
            **sound,
        )

    def _cost(self, started: float) -> dict[str, float]:
        """Return the seconds of speech, and their share of the time since the last speech. Log them."""
        now = self._clock()
        seconds, share = now - started, (now - started) / max(now - self._since, 1e-9)
        self._since = now
        self._spoken_seconds += seconds
        if self._ranks.is_main:
            logger.info("speech took %.1f s, %.0f %% of the time since the last", seconds, 100 * share)
            if share > STATED_SHARE and not self._has_warned:
                self._has_warned = True
                logger.warning("speech takes more than %.0f %% of the time; %s", 100 * STATED_SHARE, CHEAPER)
        return {"spoken_seconds": seconds, "spoken_share": share}


def _heard(spoken: SpokenCodes, errors: TextErrors) -> dict[str, Any]:
    """Return what the line of a sample says of its words. ``characters`` are those of :class:`SpokenClip` there."""
    counts = asdict(errors)
    return {"recognised": spoken.recognised, "scored_characters": counts.pop("characters"), **counts}


def error_rates(errors: Sequence[TextErrors]) -> dict[str, float]:
    """Return the word and the character error rate over all samples, as far as there is something to count."""
    words, characters = sum(found.words for found in errors), sum(found.characters for found in errors)
    rates = {}
    if words:
        rates["spoken_wer"] = sum(found.word_errors for found in errors) / words
    if characters:
        rates["spoken_cer"] = sum(found.character_errors for found in errors) / characters
    return rates
