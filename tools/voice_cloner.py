"""The old path of ``voice_cloning.speech.voice_cloner``, kept for this release only."""

import warnings

from voice_cloning.speech.voice_cloner import *  # noqa: F403

warnings.warn(
    "tools.voice_cloner has moved: import voice_cloning.speech.voice_cloner; release 0.2 removes the old path",
    FutureWarning,
    stacklevel=2,
)
