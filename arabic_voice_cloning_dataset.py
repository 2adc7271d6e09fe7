"""Read a ChatML JSON file into samples of token ids and codes. All checks run before any weight is loaded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_text.sample_texts import normalise_sample
from boson_multimodal import cloning_example
from boson_multimodal.audio_processing.clip_encoding import (
    ClipFacts,
    CodeSource,
    encode_clips,
    late_cut_lines,
    silence_lines,
)
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codes_file import codes_name
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.mel_features import AS_CODES, ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.chatml_records import content_problems, read_json_records, sample_id_of
from boson_multimodal.checked_records import Record, RecordChecks, RecordClip
from boson_multimodal.cloning_example import PROMPT_STYLES, VoiceCloningExample, text_to_speak
from boson_multimodal.constants import AUDIO_IN, AUDIO_OUT
from boson_multimodal.data_types import ChatMLSample, parse_sample
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError, Problem
from boson_multimodal.flags import flag
from boson_multimodal.prompt_template import PromptForm, PromptTemplate, prompt_form
from boson_multimodal.sample_dataset import SampleDataset, fingerprint_line, refuse_problems

_place_of_codes = partial(flag, in_identity=False, card="private", per_machine=True)
DRAWN = "random"
REFERENCES = ("file", DRAWN)
"""What a sample has as reference: that of its record, or another one in each epoch."""
AS_WRITTEN_ADVICE = "--prompt_style as_written trains on the turns of the file as they are"


def usable_template(given: str, prompt_style: str | None) -> PromptTemplate:
    """Return the template of ``--prompt_template``, which changes the prompt of voice_clone alone.

    Raises:
        InputError: if the prompt style is another one, or the template is wrong.
    """
    if prompt_style not in (None, "voice_clone"):
        raise InputError(
            f"prompt_template is given, and prompt_style is {prompt_style}: a template changes the prompt of "
            "voice_clone; give --prompt_style voice_clone, or no template"
        )
    return PromptTemplate.read(given)


@dataclass(kw_only=True)
class ArabicVoiceCloningDatasetConfig:
    """Settings for reading a ChatML file and caching its audio.

    Attributes:
        prompt_style: ``as_written`` or ``voice_clone`` (see ``PROMPT_STYLES``).
        prompt_template: the words around the texts of voice_clone: a JSON file, or its content. Afterwards it is the
            content in one line (:meth:`PromptTemplate.text`), so that a run does not need the file any more.
        text_normalisation: how texts are normalised before they are tokenized (see ``TEXT_NORMALISATIONS``).
        reference: ``file`` or ``random`` (see ``REFERENCES``).
        code_cache_dir: folder of encoded clips. Several runs may share it.
        codes: files of codes to train from, instead of clips and the codec (see docs/codes.md).
        drop_invalid: drop and count invalid samples instead of stopping.
        max_positions_per_sample: length limit of a sample, in sequence positions with the audio slots expanded.
    """

    prompt_style: str = flag(
        "voice_clone",
        "voice_clone rewrites each sample into the voice-cloning prompt of the released model (reference text, "
        "reference audio as an untrained assistant turn, target text, target audio). Other software can send this "
        "prompt too. as_written keeps the turns of the file.",
        list(PROMPT_STYLES),
        before="as_written",
    )
    prompt_template: str | None = flag(
        None,
        "JSON file with other words for the prompt of voice_clone: system text, scene, dialect, speaker "
        "(docs/prompts.md). It is saved with the adapter, and synthesis uses it.",
        before=None,
    )
    text_normalisation: str = flag(
        "none",
        "none trains on the texts as written, because only their author knows how the speaker read the digits. speech "
        "normalises user and assistant texts and spells out digits and signs in Arabic. speech_keep_digits does the "
        "same, but keeps the digits. Synthesis with the adapter normalises in the same way.",
        list(TEXT_NORMALISATIONS),
        before="none",
    )
    reference: str = flag(
        "file",
        "file trains with the reference that the data give each sample. random draws another recording of the same "
        "speaker in each epoch, of 3 to 10 s; it needs data that tools.prepare_data pack has prepared "
        "(docs/prepared_data.md). Evaluation keeps the references of its file.",
        list(REFERENCES),
        before="file",
    )
    code_cache_dir: str = _place_of_codes(
        "~/.cache/higgs_audio_v2_codes",
        "Folder of encoded clips, keyed by content, cut and codec. Several runs may share it.",
    )
    codes: list[str] = _place_of_codes(
        [],
        "Files of codes (.safetensors, see docs/codes.md) to train from. Then neither the clips nor the codec are "
        "needed.",
    )
    drop_invalid: bool = flag(
        False, "Drop and count invalid samples instead of stopping with a list of them.", in_identity=False
    )
    max_positions_per_sample: int = flag(
        2048,
        "Length limit of a sample: text tokens plus audio columns (25 per second, references included).",
        in_identity=False,
    )

    _argument_group_name = "data"

    def __post_init__(self) -> None:
        if self.prompt_style not in PROMPT_STYLES:
            raise InputError(f"prompt_style is {self.prompt_style!r}; it must be one of {list(PROMPT_STYLES)}")
        if self.text_normalisation not in TEXT_NORMALISATIONS:
            raise InputError(
                f"text_normalisation is {self.text_normalisation!r}; it must be one of {list(TEXT_NORMALISATIONS)}"
            )
        if self.reference not in REFERENCES:
            raise InputError(f"reference is {self.reference!r}; it must be one of {list(REFERENCES)}")
        if self.prompt_template is not None:
            self.prompt_template = usable_template(self.prompt_template, self.prompt_style).text()
        if self.reference == DRAWN and self.prompt_template is not None and not self.prompt.is_same_around_texts:
            raise InputError(
                f"reference is {DRAWN}, and the prompt template has fields of the record, or words beside "
                "{reference_text} or {target_text}: references are exchanged in the token ids, which needs the same "
                "ids around the texts of all samples; give --reference file, or another template"
            )
        if self.reference == DRAWN and self.prompt_style != "voice_clone":
            raise InputError(
                f"reference is {DRAWN}, and prompt_style is {self.prompt_style}: only the turns of voice_clone say "
                "where the reference's text and clip are; give --prompt_style voice_clone, or --reference file"
            )
        if self.max_positions_per_sample < 1:
            raise InputError(f"max_positions_per_sample is {self.max_positions_per_sample}; it must be at least 1")

    @property
    def prompt(self) -> PromptForm:
        """What decides the turns: the template if there is one, else the style."""
        return prompt_form(self.prompt_style, self.prompt_template)


class ArabicVoiceCloningDataset(SampleDataset):
    """Validated samples. The codes of a sample are read from the cache when the sample is accessed.

    The constructor reads the JSON, tokenizes the texts, and opens every clip that the cache does not hold yet. Each
    rank opens its share. :meth:`encode_missing` then fills the cache and computes ``lengths``. The samples cannot be
    accessed before that. Codes that come from files (``--codes``) are complete, so nothing is encoded then.

    Args:
        data_path: ``.json`` (a list of records) or ``.jsonl`` (one record per line).
        use_delay_pattern: the value in the model's configuration. It determines the number of columns of a clip.
        frames_per_second: frame rate of the codec, to check the limits of length before codes exist.
        max_positions: length limit of a sample, in sequence positions.
        reference: how the model takes references, from its configuration.

    Attributes:
        dropped_clips: the clips of the samples that were left out as invalid.

    Raises:
        InputError: if a sample is invalid and ``drop_invalid`` is off, or if no sample is valid. It lists all problems.
    """

    def __init__(
        self,
        data_path: str,
        tokenizer: PreTrainedTokenizerBase,
        cache: CodeSource,
        config: ArabicVoiceCloningDatasetConfig,
        *,
        use_delay_pattern: bool,
        frames_per_second: float,
        max_positions: int,
        reference: ReferenceForm = AS_CODES,
    ) -> None:
        self.data_path = Path(data_path)
        self.cache = cache
        self.frames_per_second = frames_per_second
        self.checks = RecordChecks(cache, frames_per_second, use_delay_pattern, reference)
        records = read_records(self.data_path, tokenizer, config.prompt, config.text_normalisation)
        self.checks.check(records, max_positions, self.data_path.name)
        self.records = [record for record in records if not record.problems]
        self.dropped_clips = [used.clip for record in records if record.problems for used in record.clips]
        self.num_dropped = len(records) - len(self.records)
        offenders = [f"{r.sample_id}: {problem}" for r in records for problem in r.problems]
        refuse_problems(data_path, len(records), len(self.records), offenders, config.drop_invalid)
        self.num_absent = len({c.facts.key for r in self.records for c in r.clips if c.facts.is_absent})
        self.sizes = self.checks.sizes(self.records)
        self.lengths = np.zeros(0, np.int32)
        self._fingerprint: str | None = None

    def __getitem__(self, index: int) -> ChatMLDatasetSample:
        r = self.records[index]
        codes = [self._codes(r, c.facts.key) if self.checks.is_coded(c.is_reference) else None for c in r.clips]
        waveforms = self.checks.reference.waveforms([c.clip for c in r.clips], [c.is_reference for c in r.clips])
        return ChatMLDatasetSample.of_clips(r.input_ids, r.label_ids, codes, waveforms, self.cache.num_codebooks)

    def sample_id(self, index: int) -> str:
        """Return the id of a sample."""
        return self.records[index].sample_id

    def number(self, index: int) -> int:
        """Return the number of a sample in the file, from 0."""
        return self.records[index].number

    def speaker(self, index: int) -> str | None:
        """Return who speaks the trained clip of a sample; None if the record does not say it."""
        return self.records[index].speaker

    def text_to_speak(self, index: int) -> str:
        """Return the text of the first trained clip of a sample."""
        return self.records[index].text_to_speak

    def _digest(self) -> str:
        """Return a hex digest of the ids, tokens, labels and clips of all samples, in order."""
        if self._fingerprint is None:  # several parts of a start ask for it
            digest = hashlib.sha256()
            for r in self.records:
                digest.update(fingerprint_line(r.sample_id, r.input_ids, r.label_ids, r.keys))
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def summary(self) -> dict[str, Any]:
        """Return the file's name, the numbers of samples, dropped samples and distinct clips, and the clips' hours."""
        clips = {c.facts.key: c.facts for r in self.records for c in r.clips}.values()
        seconds = sum(f.frames / self.frames_per_second if f.frames else f.samples / f.sampling_rate for f in clips)
        return {
            "file": self.data_path.name,
            "samples": len(self),
            "dropped": self.num_dropped,
            "clips": len(clips),
            "hours": seconds / 3600,
        }

    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Encode the clips that the cache lacks (see :func:`encode_clips`), then compute ``lengths``.

        The codec is loaded only if clips are missing.

        Returns:
            The number of clips that were missing on all ranks together.
        """
        clips = {c.facts.key: c for r in self.records for c in r.clips if self.checks.is_coded(c.is_reference)}
        missing = {key: (c.clip, c.facts) for key, c in sorted(clips.items()) if c.facts.frames is None}
        if isinstance(self.cache, CodeCache):
            encode_clips(missing, self.cache, load_codec)
        if missing:
            frames = {key: used.facts.frames or self._frames(key) for key, used in clips.items()}
            for r in self.records:
                r.positions = self.checks.positions(r, [frames.get(key, 0) for key in r.keys])
        self.lengths = np.array([r.positions for r in self.records], np.int32)
        return len(missing)

    def notes(self) -> list[str]:
        """Return a message for each unusual property of the clips: missing, cut after its end, silent."""
        lines = []
        if self.num_absent:
            lines.append(f"{self.data_path}: {self.num_absent} clips are missing; their codes are in the cache")
        names: dict[Clip, str] = {}
        cuts: dict[str, tuple[Clip, ClipFacts]] = {}
        for record in self.records:
            for used in record.clips:
                name = names.setdefault(used.clip, f"{record.sample_id}: {used.where}: {used.clip.name}")
                cuts[name] = used.clip, used.facts
        lines += late_cut_lines(str(self.data_path), cuts, self.frames_per_second)
        return lines + silence_lines(str(self.data_path), {name: facts for name, (_, facts) in cuts.items()})

    def _codes(self, record: Record, key: str) -> torch.Tensor:
        codes = self.cache.read(key)
        if codes is None:
            raise InputError(
                f"{record.sample_id}: its codes are no longer in {self.cache.place(key)}; "
                "start again to encode the clip again"
            )
        return codes

    def _frames(self, key: str) -> int:
        codes = self.cache.read(key)
        if codes is None:
            raise InputError(f"{self.cache.place(key)}: not there after encoding; is the disk full or not shared?")
        return codes.shape[1]


def read_records(
    path: Path, tokenizer: PreTrainedTokenizerBase, prompt_style: PromptForm, text_normalisation: str = "none"
) -> list[Record]:
    """Parse and tokenize every record of a file. Each record lists its own problems.

    Raises:
        InputError: if the file is missing, empty or not JSON.
    """
    style = prompt_style, text_normalisation
    return [read_record(raw, number, path, tokenizer, *style) for number, raw in enumerate(read_json_records(path))]


def read_record(
    raw: Any,
    number: int,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompt_style: PromptForm,
    text_normalisation: str = "none",
) -> Record:
    """Parse and tokenize a record, the ``number``-th of the file ``path``. It lists its own problems."""
    sample, problems = parse_record(raw, prompt_style, text_normalisation)
    record = Record(sample_id_of(raw, number), problems, number=number)
    if sample is None or problems:
        return record
    record.input_ids, record.label_ids, contents = prepare_chatml_sample(sample, tokenizer)
    record.speaker, record.text_to_speak = sample.speaker, text_to_speak(sample)
    slots = tokenizer.convert_tokens_to_ids([AUDIO_IN, AUDIO_OUT])
    references = [token == slots[0] for token in record.input_ids if token in slots]
    record.clips = [
        RecordClip(Clip.of(content, path.parent), is_reference, content.where, codes_name(content))
        for content, is_reference in zip(contents, references, strict=True)
    ]
    return record


def has_as_written_turns(raw: Any) -> bool | None:
    """Return whether a JSON record has the turns of prompt style ``as_written``; None if it is malformed."""
    sample, _ = parse_record(raw, "as_written")
    return None if sample is None else cloning_example.has_as_written_turns(sample)


def parse_record(
    raw: Any, prompt_style: PromptForm, text_normalisation: str = "none"
) -> tuple[ChatMLSample | None, list[Problem]]:
    """Return the conversation of a JSON record in the given form, and every problem that makes it unusable."""
    sample, problems = parse_sample(raw)
    if sample is not None:
        problems = content_problems(sample)
    if sample is not None and not problems and text_normalisation != "none":
        sample = normalise_sample(sample, text_normalisation)
        addition = f", after text_normalisation {text_normalisation}"
        problems = [replace(p, message=p.message + addition) for p in content_problems(sample)]
    if sample is not None and not problems and prompt_style != "as_written":
        example, problems = VoiceCloningExample.read(sample)
        if example is None:
            problems[-1] = replace(problems[-1], message=f"{problems[-1]}; {AS_WRITTEN_ADVICE}")
            return None, problems
        if problems := example.form_problems(prompt_style, sample.speaker, sample.misc):
            return None, problems
        sample = example.conversation(prompt_style, sample.speaker, sample.misc)
    return sample, problems
