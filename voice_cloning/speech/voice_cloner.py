"""Speech as a Python call: load once, speak many times.

    cloner = VoiceCloner(model_path="...", audio_tokenizer_path="...", adapter="EXPMT/a/checkpoint-000200")
    speech = cloner.speak("...", reference="voice.wav", reference_text="...")
    soundfile.write("out.wav", speech.samples.numpy(), speech.sampling_rate)

Construction checks everything that can be wrong without its weights; these are loaded when the first word is spoken.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_dataset import parse_record, read_json_records
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, ChatMLDatasetSample
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.code_cache import clip_key
from boson_multimodal.audio_processing.higgs_audio_tokenizer import (
    CODEC_WEIGHTS,
    HiggsAudioTokenizer,
    codec_config,
    codec_identity,
    load_higgs_audio_tokenizer,
)
from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip, content_hash
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.cloning_example import PROMPT_STYLES, has_as_written_turns
from boson_multimodal.constants import AUDIO_TOKENIZER_REVISION, IGNORE_INDEX, MODEL_REVISION
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.model.higgs_audio.generation import SamplingConfig, codes_of_columns
from lora_config import ADAPTER_FILE, load_base_model
from voice_cloning.adapters.export import Adapter, apply_adapter, check_fit, read_adapter
from voice_cloning.speech.audio import join_pieces
from voice_cloning.speech.requests import (
    Piece,
    SpeechRequest,
    check_references,
    request_of_text,
    text_problems,
)
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, SLOWEST_LETTERS_PER_SECOND, longest_seconds
from voice_cloning.training.config import TORCH_DTYPES
from voice_cloning.training.data import checkpoint_misfits, deafness
from voice_cloning.training.run_directory import RUN_FILE, file_fingerprint, folder_fingerprint

STYLE_WITHOUT_RUN = "voice_clone"
"""What the released model was shown."""


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """How speech is drawn; the same settings give the same speech, alone or in a batch.

    Attributes:
        sampling: how each code is drawn.
        seed: of the draws.
        retries: how often a piece that ran away is tried again, with another seed each time.
        slowest_letters_per_second: decides how long a text can plausibly take (``longest_seconds``).
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    retries: int = 2
    slowest_letters_per_second: float = SLOWEST_LETTERS_PER_SECOND

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least 0"
            for name in ("seed", "retries")
            if getattr(self, name) < 0
        ]
        if not 0.0 < self.slowest_letters_per_second < math.inf:
            problems.append(f"slowest_letters_per_second is {self.slowest_letters_per_second}; it must be above 0")
        raise_if_any("wrong settings", problems)

    @property
    def attempts(self) -> int:
        """Tries of a piece; without drawing, each would be the same."""
        return 1 + (self.retries if self.sampling.do_sample else 0)


@dataclass(frozen=True)
class SpokenPiece:
    """One prompt's answer.

    Attributes:
        text: what it should say.
        codes: (K, T) codes.
        attempt: which try this is, from 0.
        failure: why it is no speech of this text; None if it ended by itself.
    """

    text: str
    codes: Tensor
    attempt: int
    failure: str | None


@dataclass(frozen=True)
class Speech:
    """One request's answer.

    Attributes:
        samples: (samples,) in -1..1, all pieces joined.
        sampling_rate: samples per second.
        pieces: what it was joined from.
    """

    samples: Tensor
    sampling_rate: int
    pieces: tuple[SpokenPiece, ...]

    @property
    def seconds(self) -> float:
        return self.samples.numel() / self.sampling_rate

    @property
    def failures(self) -> list[str]:
        """Each piece that ran away or said nothing, with its text."""
        return [f"{piece.failure}: {piece.text!r}" for piece in self.pieces if piece.failure]


def fitting_adapter(folder: Path, config: HiggsAudioConfig) -> Adapter:
    """A trained adapter, in the names of either layout, that belongs to a model of this configuration.

    Raises:
        InputError: if it is no LoRA adapter or damaged, or naming each tensor that does not fit the model.
    """
    adapter = read_adapter(folder).in_layout(ORIGINAL)
    check_fit(adapter, config, f"--adapter {folder}")
    return adapter


def load_speaking_model(
    folder: Path, adapter: Adapter | None, device: torch.device, torch_dtype: torch.dtype
) -> HiggsAudioModel:
    """The checkpoint in inference mode, with an adapter on its layers.

    The adapter is not merged: in bfloat16 that would round the sum of both weights.
    """
    base = load_base_model(folder, {"": device}, torch_dtype, enable_gradient_checkpointing=False)
    if adapter is not None:
        base = apply_adapter(base, adapter).get_base_model()
    return base.eval()


class VoiceCloner:
    """A model, perhaps an adapter on it, and the codec.

    Args:
        model_path, model_revision, audio_tokenizer_path, audio_tokenizer_revision, torch_dtype: as the trainer's flags.
        adapter: folder of a trained adapter.
        prompt_style: ``as_written`` or ``voice_clone``; None is that of the run which the adapter is from.
        text_normalisation: what is done to texts (``TEXT_NORMALISATIONS``); None is what that run did.
        device: by default the GPU if there is one.
        settings: how speech is drawn.

    Raises:
        InputError: if one of them is not there, or they do not fit each other; no weight is loaded before.
    """

    def __init__(
        self,
        *,
        model_path: str,
        audio_tokenizer_path: str,
        model_revision: str = MODEL_REVISION,
        audio_tokenizer_revision: str = AUDIO_TOKENIZER_REVISION,
        adapter: str | Path | None = None,
        prompt_style: str | None = None,
        text_normalisation: str | None = None,
        torch_dtype: str = "auto",
        device: torch.device | str | None = None,
        settings: SpeechSettings | None = None,
    ) -> None:
        self.settings = settings or SpeechSettings()
        self.adapter = None if adapter is None else Path(adapter).expanduser()
        trained = self.adapter or Path(model_path).expanduser()
        self.prompt_style = prompt_style or style_of_adapter(trained)
        if self.prompt_style not in PROMPT_STYLES:
            raise InputError(f"prompt_style is {self.prompt_style!r}; it must be one of {list(PROMPT_STYLES)}")
        self.text_normalisation = text_normalisation or normalisation_of_adapter(trained)
        if self.text_normalisation not in TEXT_NORMALISATIONS:
            found = f"text_normalisation is {self.text_normalisation!r}"
            raise InputError(f"{found}; it must be one of {list(TEXT_NORMALISATIONS)}")
        if torch_dtype not in TORCH_DTYPES:
            raise InputError(f"torch_dtype is {torch_dtype!r}; it must be one of {list(TORCH_DTYPES)}")
        self.device = _usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        automatic = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = TORCH_DTYPES[torch_dtype] or automatic
        self.model_folder = resolve_checkpoint(
            model_path, model_revision, "--model_path", ("tokenizer.json", "*.safetensors")
        )
        self.codec_folder = resolve_checkpoint(
            audio_tokenizer_path, audio_tokenizer_revision, "--audio_tokenizer_path", (CODEC_WEIGHTS,)
        )
        self.config = HiggsAudioConfig.from_pretrained(self.model_folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_folder)
        codec = codec_config(self.codec_folder)
        self.frames_per_second = codec.frame_rate
        misfits = checkpoint_misfits(self.config, self.tokenizer, codec)
        raise_if_any(f"{self.model_folder}: tokenizer or codec do not fit", misfits + deafness(self.config))
        self._trained = None if self.adapter is None else fitting_adapter(self.adapter, self.config)
        if self.prompt_style == "as_written" and (warning := turns_warning(self.adapter)):
            print(f"warning: {warning}", file=sys.stderr)
        self.reference = ReferenceForm.of(self.config)
        self.collator = ArabicVoiceCloningTrainingCollator.from_config(self.config)
        self._codes: dict[str, Tensor] = {}

    @cached_property
    def model(self) -> HiggsAudioModel:
        """The model with its adapter; loaded when first used."""
        return load_speaking_model(self.model_folder, self._trained, self.device, self.dtype)

    @cached_property
    def codec(self) -> HiggsAudioTokenizer:
        """The codec; loaded when first used."""
        return load_higgs_audio_tokenizer(self.codec_folder, self.device)

    def speak(
        self, text: str, reference: str | Path, reference_text: str, letters_per_piece: int = LETTERS_PER_PIECE
    ) -> Speech:
        """Say a text in the voice of a reference clip, which says ``reference_text``.

        Look at ``failures`` of what is returned: a piece may have run away in every attempt.

        Raises:
            InputError: if a text cannot be spoken, or the reference cannot be used.
        """
        how = self.text_normalisation
        problems = [*text_problems(text, "text", how), *text_problems(reference_text, "reference_text", how)]
        audio = AudioContent(audio_url=str(reference), where="reference")
        told = text, audio, reference_text, self.prompt_style
        request = request_of_text("the text", *told, letters_per_piece=letters_per_piece, text_normalisation=how)
        frames, unusable = check_references([request])
        raise_if_any("cannot be spoken", problems + unusable)
        self.check_lengths([request], frames)
        return next(speech for _, speech in self.speak_all([request]))

    def check_lengths(self, requests: Sequence[SpeechRequest], frames: dict[Clip, int]) -> None:
        """Whether the model can take texts and references of that length.

        Args:
            frames: what ``check_references`` found.

        Raises:
            InputError: naming each that is too long.
        """
        limit, problems = self.config.text_config.max_position_embeddings, []
        for request in requests:
            longest = 0
            for piece in request.pieces:
                input_ids, contents = speech_prompt(piece.sample, self.tokenizer)
                columns = [self._columns(frames[Clip.of(content, request.base_dir)]) for content in contents]
                longest = max(longest, len(input_ids) - len(columns) + sum(columns) + self.most_columns(piece))
            if longest > limit:
                problems.append(
                    f"{request.name}: reference and speech may come to {longest} positions; the model takes {limit}"
                )
        raise_if_any("cannot be spoken: give a shorter reference", problems)

    def most_columns(self, piece: Piece) -> int:
        """Code columns within which a piece has to end."""
        seconds = longest_seconds(piece.text, self.settings.slowest_letters_per_second)
        return self._columns(math.ceil(seconds * self.frames_per_second))

    def identity(self, request: SpeechRequest) -> dict[str, Any]:
        """All that decides how a request sounds, as JSON: an output of equal identity need not be made again."""
        prompts, references = [], []
        for piece in request.pieces:
            input_ids, contents = speech_prompt(piece.sample, self.tokenizer)
            prompts.append(hashlib.sha256(json.dumps(input_ids).encode()).hexdigest()[:16])
            for content in contents:
                clip = Clip.of(content, request.base_dir)
                references.append(clip_key(clip, content_hash(clip.source)))
        return {
            "texts": [piece.text for piece in request.pieces],
            "prompts": prompts,
            "references": references,
            "prompt_style": self.prompt_style,
            **self._checkpoints,
            "torch_dtype": str(self.dtype),
            "settings": asdict(self.settings),
        }

    @cached_property
    def _checkpoints(self) -> dict[str, Any]:
        adapter = self.adapter and [folder_fingerprint(self.adapter), file_fingerprint(self.adapter / ADAPTER_FILE)]
        # Merged models have weights of the same names and sizes; to read them all would take as long as to load them.
        written = max(path.stat().st_mtime_ns for path in self.model_folder.glob("*.safetensors"))
        return {
            "model": [folder_fingerprint(self.model_folder), str(self.model_folder.resolve()), written],
            "audio_tokenizer": codec_identity(self.codec_folder),
            "adapter": adapter,
        }

    def speak_all(
        self, requests: Sequence[SpeechRequest], batch_size: int = 8
    ) -> Iterator[tuple[SpeechRequest, Speech]]:
        """Speak requests that were checked, pieces of several at once; each comes as soon as it is done.

        Those of few words come first: what shares a batch should be of like length.
        """
        waiting = sorted(requests, key=lambda request: max(map(self.most_columns, request.pieces)))
        queue = [(request, index) for request in waiting for index in range(len(request.pieces))]
        spoken: list[SpokenPiece] = []
        for start in range(0, len(queue), batch_size):
            spoken += self._speak_pieces(queue[start : start + batch_size])
            while waiting and len(waiting[0].pieces) <= len(spoken):
                request = waiting.pop(0)
                count = len(request.pieces)
                yield request, self._joined(tuple(spoken[:count]))
                del spoken[:count]

    def prompt(self, piece: Piece, base_dir: Path) -> ChatMLDatasetSample:
        """The head of the training sample that this conversation would be; nothing in it is trained."""
        input_ids, contents = speech_prompt(piece.sample, self.tokenizer)
        clips = [Clip.of(content, base_dir) for content in contents]
        slots = (self.config.audio_in_token_idx, self.config.audio_out_token_idx)
        references = [token == slots[0] for token in input_ids if token in slots]
        codes = [
            self.reference_codes(clip) if self.reference.codes or not is_reference else None
            for clip, is_reference in zip(clips, references, strict=True)
        ]
        waveforms = self.reference.waveforms(clips, references)
        return ChatMLDatasetSample.of_clips(
            input_ids, [IGNORE_INDEX] * len(input_ids), codes, waveforms, self.config.audio_num_codebooks
        )

    def reference_codes(self, clip: Clip) -> Tensor:
        """(K, T) codes of a clip, encoded once."""
        key = clip_key(clip, content_hash(clip.source))
        if key not in self._codes:
            waveform = read_waveform(clip).resampled(self.codec.sampling_rate)
            self._codes[key] = self.codec.encode(waveform[None])[0]
        return self._codes[key]

    def _columns(self, frames: int) -> int:
        return columns_of(frames, self.config.audio_num_codebooks, self.config.use_delay_pattern)

    def _speak_pieces(self, batch: Sequence[tuple[SpeechRequest, int]]) -> list[SpokenPiece]:
        """Speak pieces at once; those that fail are tried again, in a smaller batch."""
        spoken: list[SpokenPiece | None] = [None] * len(batch)
        for attempt in range(self.settings.attempts):
            open_ones = [place for place, piece in enumerate(spoken) if piece is None or piece.failure]
            if not open_ones:
                break
            for place, piece in zip(open_ones, self._attempt([batch[i] for i in open_ones], attempt), strict=True):
                spoken[place] = piece
        return [piece for piece in spoken if piece is not None]

    def _attempt(self, batch: Sequence[tuple[SpeechRequest, int]], attempt: int) -> list[SpokenPiece]:
        pieces = [request.pieces[index] for request, index in batch]
        limits = [self.most_columns(piece) for piece in pieces]
        prompts = self.collator([self.prompt(request.pieces[index], request.base_dir) for request, index in batch])
        output = self.model.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            audio_in_ids=prompts.audio_in_ids,
            audio_in_ids_start=prompts.audio_in_ids_start,
            audio_out_ids=prompts.audio_out_ids,
            audio_out_ids_start=prompts.audio_out_ids_start,
            audio_features=prompts.audio_features,
            audio_feature_attention_mask=prompts.audio_feature_attention_mask,
            max_new_tokens=max(limits),
            seed=[_seed(self.settings.seed, index, attempt) for _, index in batch],
            **asdict(self.settings.sampling),
        )
        spoken = []
        for piece, limit, columns, ended in zip(pieces, limits, output.audio_sequences, output.ended, strict=True):
            # A neighbour in the batch may have had more time: whatever lies over the limit would not be there alone.
            codes = codes_of_columns(columns[:, :limit], self.config.audio_codebook_size).cpu()
            failure = None
            if not ended or columns.shape[1] > limit:
                failure = f"ran away, no end within {codes.shape[1] / self.frames_per_second:.1f} s"
            elif codes.shape[1] == 0:
                failure = "ended before its first frame"
            spoken.append(SpokenPiece(piece.text, codes, attempt, failure))
        return spoken

    def _joined(self, pieces: tuple[SpokenPiece, ...]) -> Speech:
        rate = self.codec.sampling_rate
        waves = [self.codec.decode(piece.codes).float() for piece in pieces if piece.codes.shape[1]]
        return Speech(join_pieces(waves, rate), rate, pieces)


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that differs for every tuple of numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


def _usable_device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise InputError(f"--device {device}: cannot be used ({error})") from error


def style_of_adapter(folder: Path) -> str:
    """The prompt style of the run that an adapter, or a model it was merged into, is from: its ``run.json`` says it.

    Raises:
        InputError: if that file is not one of the trainer's.
    """
    flags = _flags_of_run(folder, "prompt_style")
    return STYLE_WITHOUT_RUN if flags is None else flags["prompt_style"]


def normalisation_of_adapter(folder: Path) -> str:
    """What the run that an adapter, or a merged model, is from did to texts; ``none`` for runs older than the flag.

    Raises:
        InputError: if the ``run.json`` in it is not one of the trainer's.
    """
    return (_flags_of_run(folder, None) or {}).get("text_normalisation", "none")


def _flags_of_run(folder: Path, needed: str | None) -> dict[str, Any] | None:
    """The flags of the run that a folder is from; None if nothing says which it was."""
    if not (folder / RUN_FILE).is_file():
        return None
    field = "flags" + (f".{needed}" if needed else "")
    try:
        flags = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["flags"]
        return flags if needed is None else {**flags, needed: flags[needed]}
    except (ValueError, KeyError, TypeError) as error:
        advice = f"give --{needed or 'text_normalisation'}"
        raise InputError(f"{folder / RUN_FILE}: does not say {field} ({error}); {advice}") from error


def turns_warning(adapter: Path | None) -> str | None:
    """Says so if an adapter was trained on turns other than those of prompt style ``as_written``.

    Looks at the first record of its run's data; where these are gone, nobody knows.
    """
    if adapter is None or not (adapter / RUN_FILE).is_file():
        return None
    run = json.loads((adapter / RUN_FILE).read_text(encoding="utf-8"))
    path = Path(run.get("flags", {}).get("data_path", ""))
    if not path.is_file():
        return None
    sample, _ = parse_record(read_json_records(path)[0], "as_written")
    if sample is None or has_as_written_turns(sample):
        return None
    return (
        f"{path}, on which the adapter was trained as written, has other turns than those in which a text is spoken "
        "here; to be spoken in its own turns, texts must come as ChatML records (a manifest)"
    )
