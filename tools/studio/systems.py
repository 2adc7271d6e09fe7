"""What speaks in the studio: one base model in memory, alone or with one of several adapters."""

import threading
from collections.abc import Mapping, Sequence

from boson_multimodal.audio_processing.clips import Waveform
from tools.studio.dictation import Dictation
from voice_cloning.speech.adapter_folders import BASE
from voice_cloning.speech.requests import SpeechRequest
from voice_cloning.speech.voice_cloner import Speech, SpeechSettings, VoiceCloner


class StoppedError(Exception):
    """The user has stopped the speech, or the studio ends."""


class Systems:
    """The base and its adapters. The base's weights are held once, and so are those of the codec.

    Args:
        cloners: a cloner by the name of its system, among them ``BASE``. They share their weights (``find_voices``).
        dictation: writes down what a reference says; None if there is no recogniser.
    """

    def __init__(self, cloners: Mapping[str, VoiceCloner], dictation: Dictation | None = None) -> None:
        self.cloners = dict(cloners)
        self.dictation = dictation
        self._stop, self._has_ended = threading.Event(), threading.Event()
        self._one_at_a_time = threading.Lock()

    @property
    def base(self) -> VoiceCloner:
        """The cloner without an adapter."""
        return self.cloners[BASE]

    @property
    def names(self) -> list[str]:
        """The names of all systems, the base first."""
        return list(self.cloners)

    @property
    def has_adapters(self) -> bool:
        """Whether there is another system than the base."""
        return len(self.cloners) > 1

    def load(self) -> None:
        """Load the weights of the model and of the codec, and put the adapters on."""
        _ = self.base.codec  # loaded at its first use, which is now
        for cloner in self.cloners.values():
            _ = cloner.model  # its adapter is put on here
        # Generation passes through the first layer once per column, so speech can be ended there.
        self.base.model.layers[0].register_forward_pre_hook(self._end_if_stopped)

    def speak(self, name: str, request: SpeechRequest, settings: SpeechSettings, scale: float) -> Speech:
        """Speak a request with one system.

        Args:
            scale: ``--adapter_scale``, the factor on the adapter's update; the base ignores it.

        Raises:
            StoppedError: after :meth:`stop`.
        """
        with self._one_at_a_time:
            cloner = self.cloners[name]
            cloner.settings, cloner.adapter_scale = settings, scale
            return next(speech for _, speech in cloner.speak_all([request]))

    def write_down(self, waveform: Waveform) -> str:
        """Return what a clip says."""
        with self._one_at_a_time:
            return self.dictation.write_down(waveform)

    def scale_problems(self, names: Sequence[str], scale: float) -> list[str]:
        """Return a problem for each of these systems whose adapter cannot be scaled so."""
        adapters = {name: self.cloners[name].adapter_weights for name in names if name != BASE}
        problems = {name: adapter.scale_problem(scale) for name, adapter in adapters.items()}
        return [f"{name}: {problem}" for name, problem in problems.items() if problem]

    def stop(self) -> None:
        """End the speech that is being made, and all that begins before :meth:`go_on`."""
        self._stop.set()

    def go_on(self) -> None:
        """Allow speech again, unless :meth:`end` was called."""
        self._stop.clear()

    def end(self) -> None:
        """End the speech that is being made, for good."""
        self._has_ended.set()

    def _end_if_stopped(self, *_: object) -> None:
        if self._stop.is_set() or self._has_ended.is_set():
            raise StoppedError
