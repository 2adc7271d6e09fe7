"""Write down what a reference says, with a speech recogniser. The only place in the studio that imports one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from boson_multimodal.audio_processing.clips import Waveform


@dataclass(frozen=True)
class Dictation:
    """A loaded recogniser.

    Attributes:
        name: how the recogniser is called.
        write_down: returns the text of a clip; an empty text if it hears no word.
    """

    name: str
    write_down: Callable[[Waveform], str]


def load_dictation(path: str, revision: str | None, device: torch.device) -> Dictation:
    """Load the recogniser of ``--asr``.

    Raises:
        InputError: if it is no recogniser, or knows no Arabic.
    """
    from voice_cloning.evaluation.recognisers import Heard, load_recogniser  # its libraries are needed with --asr only

    recogniser = load_recogniser(path, revision, device)

    def write_down(waveform: Waveform) -> str:
        clip = Heard(samples=waveform.samples, sampling_rate=waveform.sampling_rate, codes_KT=None)
        return recogniser.transcribe([clip])[0].strip()

    return Dictation(recogniser.name, write_down)
