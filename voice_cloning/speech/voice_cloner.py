"""The Python interface for speech: load a model once, then generate speech for many texts.

    cloner = VoiceCloner(model_path="...", audio_tokenizer_path="...", adapter="EXPMT/a/checkpoint-000200")
    speech = cloner.speak("...", reference="voice.wav", reference_text="...")
    soundfile.write("out.wav", speech.samples.numpy(), speech.sampling_rate)

The constructor checks everything that can be checked without weights. The weights are loaded at the first use.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, ChatMLDatasetSample
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import (
    CODEC_WEIGHTS,
    HiggsAudioTokenizer,
    codec_config,
    codec_identity,
    load_higgs_audio_tokenizer,
)
from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.circumstances import home_path
from boson_multimodal.constants import AUDIO_TOKENIZER_REVISION, IGNORE_INDEX, MODEL_REVISION
from boson_multimodal.data_types import AudioContent
from boson_multimodal.device import usable_device, usable_dtype
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.model.higgs_audio.generation import codes_of_columns
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, check_widths
from boson_multimodal.prompt_template import PromptForm, tokenizer_problems
from boson_multimodal.seeds import seed_of
from lora_config import ADAPTER_FILE
from voice_cloning.adapters.export import Adapter, check_scale_is_used
from voice_cloning.speech.adapter_run import (
    form_of_prompts,
    normalisation_of_adapter,
    turns_warning,
)
from voice_cloning.speech.adapter_switch import AdapterSwitch
from voice_cloning.speech.audio import join_pieces
from voice_cloning.speech.clip_codes import ClipCodes
from voice_cloning.speech.requests import (
    Piece,
    SpeechRequest,
    check_references,
    form_problems,
    request_of_text,
    text_problems,
    unused_fields,
)
from voice_cloning.speech.speaking_model import (
    BaseWeights,
    HeldModel,
    fitting_adapter,
    load_speaking_model,
    usable_quantisation,
)
from voice_cloning.speech.speech import Speech, SpeechSettings, SpokenPiece
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, longest_seconds
from voice_cloning.training.data import checkpoint_misfits, find_local_codec, open_codes_files, reference_problems
from voice_cloning.training.fingerprints import file_fingerprint, folder_fingerprint


class VoiceCloner:
    """A model with an optional adapter, and the codec.

    Args:
        model_path, model_revision, audio_tokenizer_path, audio_tokenizer_revision, torch_dtype: like the trainer's
            flags.
        adapter: the folder of a trained adapter.
        adapter_scale: weakens the adapter below 1.0; 0 is the base (``Adapter.scale_problem``).
        codes: files of codes (``docs/codes.md``). Clips that they hold are not encoded. If they are given, the codec
            need not be on this machine: the cloner then speaks codes only (``speaks_codes_only``).
        prompt_style: ``as_written``, ``voice_clone`` or a template; None means that with which the adapter was trained.
        text_normalisation: one of ``TEXT_NORMALISATIONS``; None means the one with which the adapter was trained.
        quantise: ``none`` or ``nf4``, for the base's weights; None means as the adapter was trained.
        device: by default the GPU, or the CPU if there is no GPU.
        settings: the settings of generation.
        turns_are_given: whether what will be spoken are ChatML records. With ``as_written`` their turns are kept, so
            there is no warning that a prompt for a text has other turns than the adapter's training data.

    Attributes:
        held_model: holds the weights of the model. Cloners that have one ``HeldModel`` share the weights; each switches
            them to its own adapter before it speaks.

    Raises:
        InputError: if a part is missing, or if the parts do not fit each other. No weight has been loaded then.
    """

    def __init__(
        self,
        *,
        model_path: str,
        audio_tokenizer_path: str,
        model_revision: str | None = MODEL_REVISION,
        audio_tokenizer_revision: str = AUDIO_TOKENIZER_REVISION,
        adapter: str | Path | None = None,
        adapter_scale: float = 1.0,
        codes: Sequence[str | Path] = (),
        prompt_style: PromptForm | None = None,
        text_normalisation: str | None = None,
        torch_dtype: str = "auto",
        quantise: str | None = None,
        device: torch.device | str | None = None,
        settings: SpeechSettings | None = None,
        turns_are_given: bool = False,
    ) -> None:
        self.settings = settings or SpeechSettings()
        self.adapter = None if adapter is None else home_path(adapter, "--adapter")
        trained = self.adapter or home_path(model_path, "--model_path")
        self.prompt_style = form_of_prompts(prompt_style, trained)
        self.text_normalisation = text_normalisation or normalisation_of_adapter(trained)
        if self.text_normalisation not in TEXT_NORMALISATIONS:
            found = f"text_normalisation is {self.text_normalisation!r}"
            raise InputError(f"{found}; it must be one of {list(TEXT_NORMALISATIONS)}")
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = usable_dtype(torch_dtype, self.device)
        self.quantise = usable_quantisation(quantise, self.adapter, self.device)
        self.model_folder = resolve_checkpoint(
            model_path, model_revision, "--model_path", ("tokenizer.json", "*.safetensors")
        )
        self.config = HiggsAudioConfig.from_pretrained(self.model_folder)
        if self.quantise != NOT_QUANTISED:
            check_widths(self.config, f"--model_path {model_path}")
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_folder)
        self.codec_folder, self.codes_files = self._find_codec(audio_tokenizer_path, audio_tokenizer_revision, codes)
        codec = None if self.codec_folder is None else codec_config(self.codec_folder)
        self.frames_per_second = self.codes_files.frames_per_second if codec is None else codec.frame_rate
        misfits = checkpoint_misfits(self.config, self.tokenizer, codec)
        misfits += tokenizer_problems(self.prompt_style, self.tokenizer)
        raise_if_any(f"{self.model_folder}: tokenizer or codec do not fit", misfits + reference_problems(self.config))
        self.adapter_scale = adapter_scale
        self.adapter_weights = self._read_adapter()
        # Read together with the weights: a training run may remove the folder later.
        self._adapter_fingerprints = self.adapter and [
            folder_fingerprint(self.adapter),
            file_fingerprint(self.adapter / ADAPTER_FILE),
        ]
        are_made = self.prompt_style == "as_written" and not turns_are_given
        if are_made and (warning := turns_warning(self.adapter)):
            print(f"warning: {warning}", file=sys.stderr)
        self.reference = ReferenceForm.of(self.config)
        self.collator = ArabicVoiceCloningTrainingCollator.from_config(self.config)
        self.clips = ClipCodes(self.codes_files, lambda: self.codec)
        self._codec_owner: VoiceCloner | None = None
        self.held_model = HeldModel()

    def _read_adapter(self) -> Adapter | None:
        """Return the adapter, which fits the model and can be scaled as asked; None without one."""
        check_scale_is_used(self.adapter_scale, self.adapter is not None)
        if self.adapter is None:
            return None
        found = fitting_adapter(self.adapter, self.config)
        found.check_scale(self.adapter_scale, f"--adapter {self.adapter}")
        return found

    def _find_codec(
        self, path: str, revision: str, codes: Sequence[str | Path]
    ) -> tuple[Path | None, CodesFiles | None]:
        """Return the codec's folder, which may be missing if there are files of codes, and these files."""
        if not codes:
            return resolve_checkpoint(path, revision, "--audio_tokenizer_path", (CODEC_WEIGHTS,)), None
        codec = find_local_codec(path, revision)
        files, problems = open_codes_files(codes, self.config, codec)
        raise_if_any("codes that cannot be used", problems)
        return codec.folder if codec.is_whole else None, files

    @property
    def speaks_codes_only(self) -> bool:
        """Whether there is no codec, so that speech stays codes."""
        return self.codec_folder is None

    @property
    def model(self) -> HiggsAudioModel:
        """The model, switched to the adapter of this cloner. Its weights are loaded at the first use.

        The adapter is not merged, because merging in bfloat16 would round the sum of both weights.
        """
        return self._switch().use(self._adapter_name, self.adapter_scale)

    def speaking(self) -> AbstractContextManager[HiggsAudioModel]:
        """Give :attr:`model` for the time of a block, in which no other cloner can switch the weights they share."""
        return self._switch().speaking(self._adapter_name, self.adapter_scale)

    def _switch(self) -> AdapterSwitch:
        switch = self.held_model.switch_of(self._base_weights, self._load_base)
        if self.adapter_weights is not None:
            switch.add(self._adapter_name, self.adapter_weights)
        return switch

    @property
    def _adapter_name(self) -> str | None:
        """The name of the adapter among all that are on one base, also in messages."""
        return self.adapter and f"{self.adapter.resolve()} (fingerprints {' '.join(self._adapter_fingerprints)})"

    @property
    def _base_weights(self) -> BaseWeights:
        return BaseWeights(self.model_folder.resolve(), self.device, self.dtype, self.quantise)

    def _load_base(self) -> HiggsAudioModel:
        return load_speaking_model(self.model_folder, self.device, self.dtype, self.quantise)

    @property
    def is_loaded(self) -> bool:
        """Whether the weights of the model are loaded."""
        return self.held_model.holds(self._base_weights)

    @cached_property
    def codec(self) -> HiggsAudioTokenizer:
        """The codec. It is loaded at the first use.

        Raises:
            InputError: if the cloner speaks codes only.
        """
        if self._codec_owner is not None:
            return self._codec_owner.codec
        if self.codec_folder is None:
            raise InputError("--audio_tokenizer_path: there is no codec, so there are no waveforms; give one")
        return load_higgs_audio_tokenizer(self.codec_folder, self.device)

    def speak(
        self,
        text: str,
        reference: str | Path,
        reference_text: str,
        letters_per_piece: int = LETTERS_PER_PIECE,
        fields: Mapping[str, str] | None = None,
    ) -> Speech:
        """Speak a text in the voice of a reference clip. ``reference_text`` is the text of that clip.

        Check ``failures`` of the result: a piece may be a runaway in every attempt. The arguments and errors are those
        of :meth:`request`.
        """
        request = self.request(text, reference, reference_text, letters_per_piece, fields)
        return next(speech for _, speech in self.speak_all([request]))

    def request(
        self,
        text: str,
        reference: str | Path,
        reference_text: str,
        letters_per_piece: int = LETTERS_PER_PIECE,
        fields: Mapping[str, str] | None = None,
    ) -> SpeechRequest:
        """Return the checked request of a text in the voice of a reference clip.

        Args:
            fields: values for a prompt template, such as ``{"dialect": "Najdi"}``.

        Raises:
            InputError: if a text cannot be spoken, or the reference cannot be used.
        """
        how = self.text_normalisation
        problems = [*text_problems(text, "text", how), *text_problems(reference_text, "reference_text", how)]
        if of_form := form_problems(self.prompt_style, fields or {}) + unused_fields(self.prompt_style, fields or {}):
            raise_if_any("cannot be spoken", problems + of_form)
        audio = AudioContent(audio_url=str(reference), where="reference")
        prompt = text, audio, reference_text, self.prompt_style
        settings = {"letters_per_piece": letters_per_piece, "text_normalisation": how, "fields": fields}
        request = request_of_text("the text", *prompt, **settings)
        frames, unusable = self.check_references([request])
        raise_if_any("cannot be spoken", problems + unusable)
        self.check_lengths([request], frames)
        return request

    def check_references(self, requests: Sequence[SpeechRequest]) -> tuple[dict[Clip, int], list[str]]:
        """Read every reference once, as :func:`check_references`; those with codes in files are not read."""
        return check_references(requests, self.codes_files if self.reference.chunk_seconds is None else None)

    def check_lengths(self, requests: Sequence[SpeechRequest], frames: dict[Clip, int]) -> None:
        """Check that the prompts and their longest speech fit into the model's positions.

        Args:
            frames: the code frames of each reference, from ``check_references``.

        Raises:
            InputError: naming each request that is too long.
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
                    f"{request.name}: reference and speech may need {longest} positions; the model has {limit}"
                )
        raise_if_any("cannot be spoken: give a shorter reference", problems)

    def most_columns(self, piece: Piece) -> int:
        """Return the number of code columns in which the speech of a piece must end."""
        seconds = longest_seconds(piece.text, self.settings.slowest_letters_per_second)
        return self._columns(math.ceil(seconds * self.frames_per_second))

    def identity(self, request: SpeechRequest) -> dict[str, Any]:
        """Return everything that determines the speech of a request, for JSON. Equal identities give equal outputs."""
        prompts, references = [], []
        for piece in request.pieces:
            input_ids, contents = speech_prompt(piece.sample, self.tokenizer)
            prompts.append(hashlib.sha256(json.dumps(input_ids).encode()).hexdigest()[:16])
            for content in contents:
                references.append(self.clips.key(content, request.base_dir))
        return {
            "texts": [piece.text for piece in request.pieces],
            "prompts": prompts,
            "references": references,
            "prompt_style": str(self.prompt_style),
            **self._checkpoints,
            "torch_dtype": str(self.dtype),
            **({} if self.quantise == NOT_QUANTISED else {"quantise": self.quantise}),
            **({} if self.adapter_scale == 1.0 else {"adapter_scale": self.adapter_scale}),
            "settings": asdict(self.settings),
        }

    @cached_property
    def _checkpoints(self) -> dict[str, Any]:
        # Names and sizes of weights are equal for all merged models. Reading the weights would take as long as loading.
        written = max(path.stat().st_mtime_ns for path in self.model_folder.glob("*.safetensors"))
        return {
            "model": [folder_fingerprint(self.model_folder), str(self.model_folder.resolve()), written],
            "audio_tokenizer": codec_identity(self.codec_folder) if self.codec_folder else self.codes_files.codec,
            "adapter": self._adapter_fingerprints,
        }

    def speak_all(
        self, requests: Sequence[SpeechRequest], batch_size: int = 8
    ) -> Iterator[tuple[SpeechRequest, Speech]]:
        """Generate speech for checked requests, in batches of pieces. Yield each request as soon as it is done.

        Requests with short texts come first, because the pieces of a batch should have similar lengths.
        """
        waiting = sorted(requests, key=lambda request: max(map(self.most_columns, request.pieces)))
        queue = [(request, index) for request in waiting for index in range(len(request.pieces))]
        spoken: list[SpokenPiece] = []
        for start in range(0, len(queue), batch_size):
            spoken += self._speak_pieces(queue[start : start + batch_size])
            while waiting and len(waiting[0].pieces) <= len(spoken):
                request = waiting.pop(0)
                count = len(request.pieces)
                yield request, self.joined(tuple(spoken[:count]))
                del spoken[:count]

    def prompt(self, piece: Piece, base_dir: Path) -> ChatMLDatasetSample:
        """Return the prompt: the training sample of this conversation up to the spoken clip, without labels."""
        input_ids, contents = speech_prompt(piece.sample, self.tokenizer)
        slots = (self.config.audio_in_token_idx, self.config.audio_out_token_idx)
        references = [token == slots[0] for token in input_ids if token in slots]
        codes = [
            self.clips.of(content, base_dir) if self.reference.codes or not is_reference else None
            for content, is_reference in zip(contents, references, strict=True)
        ]
        waveforms = self.reference.waveforms([Clip.of(content, base_dir) for content in contents], references)
        return ChatMLDatasetSample.of_clips(
            input_ids, [IGNORE_INDEX] * len(input_ids), codes, waveforms, self.config.audio_num_codebooks
        )

    def clip_identity(self, content: AudioContent, base_dir: Path) -> dict[str, Any]:
        """Return what determines the codes of a clip: the clip and the codec."""
        return {"clip": self.clips.key(content, base_dir), "audio_tokenizer": self._checkpoints["audio_tokenizer"]}

    def share_codec_of(self, other: "VoiceCloner") -> None:
        """Use the codec of another cloner, and the clips that it has encoded. Both must have the same codec."""
        self._codec_owner = other
        self.clips.share(other.clips)

    def _columns(self, frames: int) -> int:
        return columns_of(frames, self.config.audio_num_codebooks, self.config.use_delay_pattern)

    def _speak_pieces(self, batch: Sequence[tuple[SpeechRequest, int]]) -> list[SpokenPiece]:
        """Generate a batch of pieces. Repeat failed pieces in a smaller batch."""
        spoken: list[SpokenPiece | None] = [None] * len(batch)
        for attempt in range(self.settings.attempts):
            open_places = [place for place, piece in enumerate(spoken) if piece is None or piece.failure]
            if not open_places:
                break
            again = [batch[place] for place in open_places]
            pieces = [(request.pieces[index], request.base_dir) for request, index in again]
            seeds = [seed_of(self.settings.seed, index, attempt) for _, index in again]
            for place, piece in zip(open_places, self.speak_pieces(pieces, seeds, attempt), strict=True):
                spoken[place] = piece
        return [piece for piece in spoken if piece is not None]

    def speak_pieces(
        self, pieces: Sequence[tuple[Piece, Path]], seeds: Sequence[int], attempt: int = 0
    ) -> list[SpokenPiece]:
        """Generate one batch of checked pieces, each once. No codec is needed if files hold the references' codes.

        Args:
            pieces: each piece with the folder to which its clips are relative.
            seeds: the seed of each piece.
            attempt: the number of the attempt, which the result records.
        """
        batch_input = self.collator([self.prompt(piece, base_dir) for piece, base_dir in pieces])
        limit = max(self.most_columns(piece) for piece, _ in pieces)
        sampling = asdict(self.settings.sampling)
        with self.speaking() as model:
            output = model.generate(**batch_input.prompts(), max_new_tokens=limit, seed=list(seeds), **sampling)
        found = zip(pieces, output.audio_sequences, output.ended, strict=True)
        return [self.spoken_piece(piece, columns, ended, attempt) for (piece, _), columns, ended in found]

    def spoken_piece(self, piece: Piece, columns_KC: Tensor, ended: bool, attempt: int = 0) -> SpokenPiece:
        """Return the codes of the generated columns of a piece, and whether they can be its speech."""
        limit = self.most_columns(piece)
        # Another piece of the batch may have a higher limit. Alone, this piece would have stopped at its own limit.
        codes = codes_of_columns(columns_KC[:, :limit], self.config.audio_codebook_size).cpu()
        failure = None
        if not ended or columns_KC.shape[1] > limit:
            failure = f"runaway: no end within {codes.shape[1] / self.frames_per_second:.1f} s"
        elif codes.shape[1] == 0:
            failure = "ended before its first frame"
        return SpokenPiece(piece.text, codes, attempt, failure)

    def joined(self, pieces: tuple[SpokenPiece, ...]) -> Speech:
        """Decode the pieces of one request, and join them. The codec is needed."""
        rate = self.codec.sampling_rate
        waves = [self.codec.decode(piece.codes).float() for piece in pieces if piece.codes.shape[1]]
        return Speech(join_pieces(waves, rate), rate, pieces)
