"""Recognisers: speech becomes text.

    recogniser = load_recogniser("openai/whisper-large-v3")
    texts = recogniser.transcribe([Heard(samples=samples, sampling_rate=24_000)])

A recogniser is any object with a ``name`` and ``transcribe``. Three kinds are loaded here:

- Whisper of transformers, and Whisper converted for faster-whisper (CTranslate2). The language is forced to Arabic and
  the task to transcription. The search is a beam of 5, without timestamps, without falling back to higher
  temperatures, and without the text before.
- models of transformers with a CTC head, such as Wav2Vec2, HuBERT, Wav2Vec2-BERT and MMS. The most likely label of each
  frame is taken, without a language model.

Nothing is drawn at random, weights are in float32, and clips are recognised one by one. So on one machine the same
clip has the same text, whatever lies beside it. A clip of more than 30 s is cut at its quietest places.
"""

import inspect
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
import torchaudio
from safetensors import safe_open
from torch import Tensor

from boson_multimodal.checkpoints import (
    CONFIG_FILES,
    is_hub_id,
    naming_damage,
    read_config,
    resolve_checkpoint,
    short_name,
)
from boson_multimodal.device import pick_device
from boson_multimodal.errors import InputError
from boson_multimodal.progress import limit_library_bars
from voice_cloning.evaluation.arabic_recognisers import (
    MMS_ADAPTER,
    english_only,
    force_arabic,
    generation_config,
    language_of_adapters,
    require_arabic_letters,
    require_arabic_of_converted,
)

FLAG = "--asr"
INSTALL_FASTER_WHISPER = "pip install faster-whisper"
WHAT_IS_NEEDED = (
    "give a Whisper model, a model with a CTC head (Wav2Vec2, HuBERT, Wav2Vec2-BERT), or a folder of faster-whisper"
)
SAFETENSORS = ("model.safetensors", "model-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")
"""Weights of transformers in the older form. They are fetched only where there are no safetensors."""
CTRANSLATE2_WEIGHTS = "model.bin"
NO_REMOTE_CODE = {"trust_remote_code": False}
"""Else transformers asks at the terminal whether the code in a folder is to run."""
FEATURES = ("preprocessor_config.json", "processor_config.json")

SAMPLING_RATE = 16_000
BEAMS = 5
LONGEST_PIECE_SECONDS = 30.0
"""What Whisper reads at once."""
EARLIEST_CUT = 2 / 3
"""Share of the longest piece before which it is not cut."""
QUIET_SECONDS = 0.2
SHORTEST_PIECE_SECONDS = 0.5
"""Shorter pieces get silence at their end: the layers of a CTC model need some frames."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a recogniser gets of one clip: the waveform, or the codes, or both.

    Attributes:
        samples: (samples,) mono, floating point in -1..1; None if there is no waveform.
        sampling_rate: of ``samples``, in Hz.
        codes_KT: (K, T) codes of the codec, without the delay pattern; None if there are none.
    """

    samples: Tensor | None = None
    sampling_rate: int | None = None
    codes_KT: Tensor | None = None


class SpeechRecogniser(Protocol):
    """Anything that turns clips into texts.

    Attributes:
        name: how reports call it.
    """

    name: str

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        """Return the text of each clip, in order; an empty text where no word is heard."""
        ...


class WaveformRecogniser:
    """A recogniser of waveforms: resamples clips, cuts long ones, and joins the texts of their pieces.

    Attributes:
        name: the name of its folder, or its hub id.
        sampling_rate: rate in Hz of the waves that the model reads.
    """

    name: str
    sampling_rate: int = SAMPLING_RATE

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        """Return the text of each clip, in order; an empty text for a clip without samples.

        Raises:
            InputError: if a clip has no waveform.
        """
        return [self._text(clip) for clip in clips]

    @torch.inference_mode()
    def _text(self, clip: Heard) -> str:
        if clip.samples is None or clip.sampling_rate is None:
            raise InputError(f"{FLAG} {self.name}: it reads waveforms, but there are only codes; give a codec too")
        (_,) = clip.samples.shape
        wave = clip.samples.detach().float().cpu()
        if not wave.numel():
            return ""
        wave = torchaudio.functional.resample(wave, clip.sampling_rate, self.sampling_rate).numpy()
        texts = (self._recognised(piece).strip() for piece in cut_at_quiet_places(wave, self.sampling_rate))
        return " ".join(text for text in texts if text)

    def _recognised(self, wave: np.ndarray) -> str:
        """Return the text of a wave of (samples,) at ``sampling_rate``, of half a second to 30 s."""
        raise NotImplementedError


def cut_at_quiet_places(wave: np.ndarray, sampling_rate: int) -> list[np.ndarray]:
    """Cut a wave of (samples,) into pieces of at most 30 s, in order and without a gap.

    A cut lies in the middle of the quietest 0.2 s between 20 and 30 s of its piece. A piece of less than half a second
    gets silence at its end.
    """
    longest, window = round(LONGEST_PIECE_SECONDS * sampling_rate), round(QUIET_SECONDS * sampling_rate)
    earliest = round(EARLIEST_CUT * longest)
    pieces = []
    while len(wave) > longest:
        energy = np.cumsum(np.square(wave[earliest:longest], dtype=np.float64))
        cut = earliest + int(np.argmin(energy[window:] - energy[:-window])) + window // 2
        pieces.append(wave[:cut])
        wave = wave[cut:]
    shortest = round(SHORTEST_PIECE_SECONDS * sampling_rate)
    pieces.append(np.pad(wave, (0, max(0, shortest - len(wave)))))
    return pieces


class RecogniserInFolder(WaveformRecogniser):
    """A recogniser whose files lie in a folder. A new one has no weights yet: :meth:`load` loads them.

    Args:
        folder: of the checkpoint.
        shown: the flag with its value, for messages.
        device: where the model runs.

    Attributes:
        folder, device: as given.

    Raises:
        InputError: if the folder holds no such model, a damaged one, or one that knows no Arabic.
    """

    def __init__(self, folder: Path, shown: str, device: torch.device) -> None:
        self.folder, self.device, self._shown = folder, device, shown
        self._check()

    def load(self) -> Self:
        """Load the weights, and return this recogniser.

        Raises:
            InputError: if they are damaged or incomplete.
        """
        self._load()
        return self

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory, in float32. The headers of the files say so, or the sizes of the files.

        Raises:
            InputError: if a header is damaged.
        """
        files = [path for pattern in SAFETENSORS for path in self.folder.glob(pattern)]
        if not files:
            return sum(path.stat().st_size for pattern in PICKLES for path in self.folder.glob(pattern))
        count = 0
        with naming_damage(self._shown):
            for path in files:
                with safe_open(path, framework="pt") as stored:
                    count += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())
        return count * torch.float32.itemsize

    def _check(self) -> None:
        """Read all but the weights, and check it."""
        raise NotImplementedError

    def _load(self) -> None:
        raise NotImplementedError


class WhisperRecogniser(RecogniserInFolder):
    """A Whisper model of transformers, in its folder."""

    def _check(self) -> None:
        import transformers

        folder, shown = self.folder, self._shown
        with naming_damage(shown):
            config = transformers.AutoConfig.from_pretrained(folder, **NO_REMOTE_CODE)
            self._generation = generation_config(folder, config)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **NO_REMOTE_CODE)
            self._extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **NO_REMOTE_CODE)
        self.sampling_rate = self._extractor.sampling_rate
        force_arabic(self._generation, config.vocab_size, self._tokenizer, shown)
        if self._extractor.feature_size != config.num_mel_bins:
            raise InputError(
                f"{shown}: its features have {self._extractor.feature_size} mel bins, but the model reads "
                f"{config.num_mel_bins}; fetch it again with its own preprocessor_config.json"
            )

    def _load(self) -> None:
        import transformers

        self._model = _load_model(transformers.WhisperForConditionalGeneration, self.folder, self._shown, self.device)
        self._model.generation_config = self._generation

    def _recognised(self, wave: np.ndarray) -> str:
        inputs = self._extractor(
            wave, sampling_rate=self.sampling_rate, return_tensors="pt", return_attention_mask=True
        ).to(self.device)
        with _without_remarks("transformers.generation.utils"):
            tokens = self._model.generate(
                inputs.input_features,
                attention_mask=inputs.attention_mask,
                language="ar",
                task="transcribe",
                num_beams=BEAMS,
                do_sample=False,
                temperature=0.0,
                return_timestamps=False,
                condition_on_prev_tokens=False,
            )
        return self._tokenizer.decode(tokens[0], skip_special_tokens=True)


class CTCRecogniser(RecogniserInFolder):
    """A model of transformers with a CTC head, in its folder."""

    def _check(self) -> None:
        import transformers

        folder, shown = self.folder, self._shown
        self._language = language_of_adapters(folder, shown)
        with naming_damage(shown):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **NO_REMOTE_CODE, **self._language)
            self._extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **NO_REMOTE_CODE)
        require_arabic_letters(self._tokenizer, shown)
        self.sampling_rate = self._extractor.sampling_rate
        # The tokenizer's own way to unite repeated labels drops the blank first, so a double letter would become one.
        parameters = inspect.signature(self._tokenizer._decode).parameters
        self._as_they_are = {"group_tokens": False} if "group_tokens" in parameters else {}

    def _load(self) -> None:
        import transformers

        # The head of another language has another size.
        settings = self._language and {**self._language, "ignore_mismatched_sizes": True}
        self._model = _load_model(transformers.AutoModelForCTC, self.folder, self._shown, self.device, settings)

    def _recognised(self, wave: np.ndarray) -> str:
        inputs = self._extractor(wave, sampling_rate=self.sampling_rate, return_tensors="pt").to(self.device)
        labels = torch.unique_consecutive(self._model(**inputs).logits[0].argmax(dim=-1))
        labels = labels[labels != self._model.config.pad_token_id]
        return self._tokenizer.decode(labels.tolist(), skip_special_tokens=True, **self._as_they_are)


class FasterWhisperRecogniser(RecogniserInFolder):
    """A Whisper model that was converted for faster-whisper, in its folder."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32, at most: most converted models are stored in half of it."""
        return 2 * (self.folder / CTRANSLATE2_WEIGHTS).stat().st_size

    def _check(self) -> None:
        require_arabic_of_converted(self.folder, self._shown)
        try:
            import ctranslate2
            import faster_whisper
        except ImportError as error:
            raise InputError(
                f"{self._shown}: a folder of faster-whisper, but the package cannot be imported ({error}); "
                f"{INSTALL_FASTER_WHISPER}"
            ) from error
        self._is_on_gpu = self.device.type == "cuda" and ctranslate2.get_cuda_device_count() > 0
        self._package = faster_whisper

    def _load(self) -> None:
        shown = self._shown
        with naming_damage(shown):
            self._model = self._package.WhisperModel(
                str(self.folder),
                device="cuda" if self._is_on_gpu else "cpu",
                device_index=self.device.index or 0,
                compute_type="float32",
                cpu_threads=torch.get_num_threads(),
            )
        if not self._model.model.is_multilingual:
            raise InputError(english_only(shown))
        bins = self._model.feature_extractor.mel_filters.shape[0]
        if bins != self._model.model.n_mels:
            raise InputError(
                f"{shown}: its features have {bins} mel bins, but the model reads {self._model.model.n_mels}; "
                "fetch it again with its own preprocessor_config.json"
            )

    def _recognised(self, wave: np.ndarray) -> str:
        segments, _ = self._model.transcribe(
            wave,
            language="ar",
            task="transcribe",
            beam_size=BEAMS,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            # What these decide is whether a text is thrown away or tried again at a higher temperature.
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments)


def load_recogniser(
    path_or_id: str, revision: str | None = None, device: torch.device | None = None
) -> RecogniserInFolder:
    """Find a recogniser (:func:`find_recogniser`), and load its weights.

    Raises:
        InputError: for the reasons of :func:`find_recogniser`, or if the weights are damaged or incomplete.
    """
    return find_recogniser(path_or_id, revision, device).load()


def find_recogniser(
    path_or_id: str, revision: str | None = None, device: torch.device | None = None
) -> RecogniserInFolder:
    """Return a recogniser that was checked and knows Arabic. Its weights are not loaded yet.

    Args:
        path_or_id: a folder or a hub id of Whisper, of a model with a CTC head, or of a model for faster-whisper.
        revision: the hub's commit, branch or tag; it is ignored for a folder.
        device: None takes the GPU if there is one.

    Raises:
        InputError: if it is not there, is no such model, is damaged, knows no Arabic, or needs a package that is not
            installed.
    """
    shown = f"{FLAG} {path_or_id}"
    if not (Path(path_or_id).expanduser().exists() or is_hub_id(path_or_id)):
        raise InputError(f"{shown}: no such folder; {WHAT_IS_NEEDED}, or a hub id OWNER/NAME")
    folder = resolve_checkpoint(path_or_id, revision, FLAG, [], (*CONFIG_FILES, *SAFETENSORS, MMS_ADAPTER))
    if not any(any(folder.glob(pattern)) for pattern in SAFETENSORS):
        needed = [(*SAFETENSORS, *PICKLES, CTRANSLATE2_WEIGHTS)]
        folder = resolve_checkpoint(path_or_id, revision, FLAG, needed, (*CONFIG_FILES, MMS_ADAPTER))
    limit_library_bars()
    recogniser = _kind(folder, shown)(folder, shown, device or pick_device(-1))
    recogniser.name = short_name(path_or_id, revision)
    return recogniser


def _kind(folder: Path, shown: str) -> type[RecogniserInFolder]:
    """Return the class for the checkpoint in a folder."""
    config = read_config(folder, shown)
    if "model_type" not in config and (folder / CTRANSLATE2_WEIGHTS).is_file():
        if "lang_ids" not in config and "suppress_ids" not in config:
            raise InputError(f"{shown}: a model for CTranslate2, but not Whisper; {WHAT_IS_NEEDED}")
        return FasterWhisperRecogniser
    import transformers

    with naming_damage(shown):
        kind = type(transformers.AutoConfig.from_pretrained(folder, **NO_REMOTE_CODE))
    architectures = [str(name) for name in config.get("architectures") or []]
    if kind is transformers.WhisperConfig and architectures in ([], ["WhisperForConditionalGeneration"]):
        found: type[RecogniserInFolder] = WhisperRecogniser
    elif kind in transformers.MODEL_FOR_CTC_MAPPING and all(name.endswith("ForCTC") for name in architectures):
        found = CTCRecogniser
    else:
        given = ", ".join(architectures) or config.get("model_type")
        raise InputError(f"{shown}: {given} is no speech recogniser that can be used; {WHAT_IS_NEEDED}")
    if not any((folder / name).is_file() for name in FEATURES):
        raise InputError(f"{shown}: no {' or '.join(FEATURES)} in it; give a whole checkpoint")
    return found


def _load_model(
    kind: Any, folder: Path, shown: str, device: torch.device, settings: dict[str, Any] | None = None
) -> Any:
    """Load the weights in float32. Weights that are missing would be random."""
    with naming_damage(shown):
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **(settings or {}))
    # The vector for masked frames is used in training only.
    missing = sorted(name for name in info["missing_keys"] if not name.endswith("masked_spec_embed"))
    if missing:
        raise InputError(f"{shown}: it has no weights for {', '.join(missing[:3])}; {WHAT_IS_NEEDED}")
    return model.eval().to(device)


@contextmanager
def _without_remarks(name: str) -> Iterator[None]:
    """Let a library's logger print errors only. Whisper's own code in transformers calls ``generate`` in an old way."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
