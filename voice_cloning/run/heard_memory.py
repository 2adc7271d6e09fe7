"""What those who hear spoken samples take of a GPU: the recogniser of ``--asr``, and the codec that decodes the clips.

The sizes are those of the files, so they are known before anything is loaded.
"""

from dataclasses import dataclass

from boson_multimodal.audio_processing.higgs_audio_tokenizer import CODEC_WEIGHTS
from voice_cloning.evaluation.recognisers import RecogniserInFolder
from voice_cloning.run.data import RunData
from voice_cloning.training.config import DistributedTrainingConfig


@dataclass(frozen=True)
class HeardMemory:
    """Bytes of weights on the GPU beside those of the trained model.

    Attributes:
        recogniser: is there from the first step to the last one; 0 without ``--asr``.
        codec: is there while clips are decoded, when no step is computed; 0 if no clip is.
    """

    recogniser: int = 0
    codec: int = 0

    @classmethod
    def of_run(
        cls, config: DistributedTrainingConfig, data: RunData, recogniser: RecogniserInFolder | None
    ) -> "HeardMemory":
        """Return the memory of a run. The recogniser need not be loaded; None if there is none.

        Raises:
            InputError: if the recogniser's files are damaged.
        """
        is_decoded = config.speaks and data.codec.is_whole and (config.num_samples or config.asr is not None)
        files = {path for pattern in CODEC_WEIGHTS for path in data.codec.folder.glob(pattern)} if is_decoded else ()
        return cls(0 if recogniser is None else recogniser.weight_bytes, sum(path.stat().st_size for path in files))
