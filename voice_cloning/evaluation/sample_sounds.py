"""The clips of an evaluation that can be listened to: decoded, written as WAV files, and given to the reporters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.disk_errors import naming_disk_errors
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation.asked_samples import AskedSample
from voice_cloning.training.metrics import RESUME_ADVICE
from voice_cloning.training.sample_files import REFERENCE, SAMPLES_FOLDER, TRUE, step_name


class SpeechWriter(Protocol):
    """What speech needs of ``MetricsWriter``."""

    def write_sample(self, record: dict[str, Any]) -> None:
        """Write the line of one spoken sample, which must hold ``step`` and ``sample``."""

    def write_sound(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give (samples,) in -1..1 to the reporters as audio."""

    def write_mel(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give a mel picture of (samples,) in -1..1 to the reporters."""


class SampleSounds:
    """Decodes clips and writes them below the folder of a run (``voice_cloning/training/sample_files.py``).

    The codec stays in the memory of the machine. It is on the GPU only while it decodes, when no step is computed, so
    it adds nothing to the memory of a step.

    Args:
        codec_folder: a codec with weights.
        run_folder: the folder of the run.
        device: where the clips are decoded.

    Attributes:
        sampling_rate: samples per second.

    Raises:
        InputError: if the codec cannot be read.
    """

    def __init__(self, codec_folder: Path, run_folder: Path, device: torch.device) -> None:
        self._codec = load_higgs_audio_tokenizer(codec_folder)
        self._folder = run_folder
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
        """Write the clips that were spoken at a step. Raises ``InputError`` if the disk is full or broken."""
        self._write(writer, step, step_name(step), "spoken", waves)

    def write_originals(
        self, writer: SpeechWriter, step: int, references: dict[AskedSample, Tensor], targets: dict[AskedSample, Tensor]
    ) -> None:
        """Write the reference clips and the true clips, given as codes, beside which the spoken ones are heard.

        Raises:
            InputError: if the disk is full or broken.
        """
        for name, clips in ((REFERENCE, references), (TRUE, targets)):
            self._write(writer, step, name, name, self.decode(clips))

    def _write(self, writer: SpeechWriter, step: int, name: str, kind: str, waves: dict[AskedSample, Tensor]) -> None:
        if not waves:
            return
        folder = self._folder / SAMPLES_FOLDER / name
        with naming_disk_errors(self._folder, RESUME_ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            for sample, wave in waves.items():
                write_whole(folder / f"{sample.file_name}.wav", wav_bytes(wave, self.sampling_rate))
        for sample, wave in waves.items():
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
