"""The codes of the clips in prompts: from files of codes if they hold a clip, else encoded once by the codec."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.code_cache import clip_key
from boson_multimodal.audio_processing.codes_file import CodesFiles, codes_name
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.sound_files import Clip, content_hash
from boson_multimodal.data_types import AudioContent


class ClipCodes:
    """Gives the codes of clips.

    Args:
        files: files of codes (``docs/codes.md``), or None.
        codec: returns the codec, which is loaded at the first clip that no file holds.
    """

    def __init__(self, files: CodesFiles | None, codec: Callable[[], HiggsAudioTokenizer]) -> None:
        self._files, self._codec = files, codec
        self._encoded: dict[str, Tensor] = {}

    def of(self, content: AudioContent, base_dir: Path) -> Tensor:
        """Return the (K, T) codes of a clip.

        Raises:
            InputError: if its codes are wrong, or it has none and cannot be read.
        """
        if self._has_codes(content):
            return self._files.find(None, codes_name(content)).codes_KT
        return self.encoded(Clip.of(content, base_dir))

    def key(self, content: AudioContent, base_dir: Path) -> str:
        """Return what determines the codes of a clip, besides the codec."""
        if self._has_codes(content):
            return self._files.find(None, codes_name(content)).key
        clip = Clip.of(content, base_dir)
        return clip_key(clip, content_hash(clip.source))

    def encoded(self, clip: Clip) -> Tensor:
        """Return the (K, T) codes of a clip from the codec. Each clip is encoded once."""
        key = clip_key(clip, content_hash(clip.source))
        if key not in self._encoded:
            codec = self._codec()
            self._encoded[key] = codec.encode(read_waveform(clip).resampled(codec.sampling_rate)[None])[0]
        return self._encoded[key]

    def share(self, other: "ClipCodes") -> None:
        """Use the clips that another one has encoded. Both must have the same codec."""
        self._encoded = other._encoded

    def _has_codes(self, content: AudioContent) -> bool:
        return self._files is not None and self._files.holds(codes_name(content))
