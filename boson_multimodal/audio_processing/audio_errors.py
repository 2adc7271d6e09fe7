"""The errors of sound files."""

from boson_multimodal.errors import InputError

EXPORT_AGAIN = "copy or export it again"


class AudioError(InputError):
    """A clip cannot be used.

    Attributes:
        kind: ``unreadable``, ``empty``, ``truncated`` (audio is missing, or would be left out), ``nan``, ``overscaled``
            (samples far beyond full scale) or ``cancelled`` (the channels cancel each other in mono).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return AudioError, (self.kind, str(self))  # for pickling: worker processes return it


class IncompleteSound(Exception):
    """Audio of a file is missing or would be left out. The message says how this shows, and does not name the file.

    Attributes:
        advice: what to do.
    """

    def __init__(self, message: str, advice: str = EXPORT_AGAIN) -> None:
        super().__init__(message)
        self.advice = advice
