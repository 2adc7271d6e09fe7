"""The clips of an evaluation that can be listened to: decoded, written as WAV files, and given to the reporters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from voice_cloning.evaluation.asked_samples import AskedSample
from voice_cloning.training.sample_files import REFERENCE, SAMPLES_FOLDER, TRUE, step_name


class SpeechWriter(Protocol):
    """What speech needs of ``MetricsWriter``."""

    def write_sample(self, record: dict[str, Any]) -> None:
        """Write the line of one spoken sample, which must hold ``step`` and ``sample``."""

    def write_clip(self, name: str, samples: Tensor, sampling_rate: int) -> None:
        """Write (samples,) in -1..1 to a WAV file below the run's folder."""

    def write_sound(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give (samples,) in -1..1 to the reporters as audio."""

    def write_mel(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give a mel picture of (samples,) in -1..1 to the reporters."""


class SampleSounds:
    """Decodes clips, to be written below the folder of a run (``voice_cloning/training/sample_files.py``).

    The codec stays in the memory of the machine. It is on the GPU only while it decodes, when no step is computed, so
    it adds nothing to the memory of a step.

    Args:
        codec_folder: a codec with weights.
        device: where the clips are decoded.

    Attributes:
        sampling_rate: samples per second.

    Raises:
        InputError: if the codec cannot be read.
    """

    def __init__(self, codec_folder: Path, device: torch.device) -> None:
        self._codec = load_higgs_audio_tokenizer(codec_folder)
        self._device = device
        self.sampling_rate = self._codec.sampling_rate

    def decode(self, clips: dict[AskedSample, Tensor]) -> dict[AskedSample, Tensor]:
        """Return the (samples,) waveform of each clip of (K, T) codes. A clip without frames has no samples."""
        with self._codec_on_device():
            return {
                sample: self._codec.decode(codes).float() if codes.shape[1] else torch.zeros(0)
                for sample, codes in clips.items()
            }

    def write_step(self, writer: SpeechWriter, step: int, waves: dict[AskedSample, Tensor]) -> None:
        """Write the clips that were spoken at a step."""
        self._write(writer, step, step_name(step), "spoken", waves)

    def write_originals(
        self, writer: SpeechWriter, step: int, references: dict[AskedSample, Tensor], targets: dict[AskedSample, Tensor]
    ) -> None:
        """Write the reference clips and the true clips, given as codes, beside which the spoken ones are heard."""
        for name, clips in ((REFERENCE, references), (TRUE, targets)):
            self._write(writer, step, name, name, self.decode(clips))

    def _write(self, writer: SpeechWriter, step: int, name: str, kind: str, waves: dict[AskedSample, Tensor]) -> None:
        for sample, wave in waves.items():
            writer.write_clip(f"{SAMPLES_FOLDER}/{name}/{sample.file_name}.wav", wave, self.sampling_rate)
            if wave.numel():  # nothing to hear, and no picture, of a clip that ended before its first frame
                tag = f"samples/{sample.file_name}/{kind}"
                writer.write_sound(step, tag, wave, self.sampling_rate)
                writer.write_mel(step, tag, wave, self.sampling_rate)

    @contextmanager
    def _codec_on_device(self) -> Iterator[None]:
        try:
            self._codec.model.to(self._device)
            yield
        finally:
            self._codec.model.to("cpu")
