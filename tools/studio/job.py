"""A job of the studio: what the page holds is checked, then spoken, and what was spoken is judged.

Nothing here knows Gradio.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from boson_multimodal.audio_processing.clips import Waveform, frames_of, read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.audio_processing.sound_levels import is_silent
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, call_for_each, raise_if_any, result_or_message
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.whole_files import write_whole
from tools.studio.systems import Systems
from voice_cloning.speech.requests import USUAL_REFERENCE_SECONDS, SpeechRequest, request_of_text, text_problems
from voice_cloning.speech.text_pieces import (
    LETTERS_PER_PIECE,
    SECONDS_OF_SILENCE,
    SLOWEST_LETTERS_PER_SECOND,
    spoken_letters,
)
from voice_cloning.speech.voice_cloner import Speech, SpeechSettings

MOST_SEEDS = 3
"""The page has so many rows of players."""
SHORTEST_REFERENCE, LONGEST_REFERENCE = 0.5, 30.0
"""Seconds. A shorter clip has no voice in it; a longer one costs memory and time, and clones no better."""
FASTEST_READING, SLOWEST_READING = 16.0, 8.0
"""Letters per second at which Arabic is read (``text_pieces.py``)."""
TOLERANCE = 1.6
"""The factor by which speech may be faster or slower than that before the page warns. At 8 to 16 letters per second it
warns above 25.6 and below 5."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the page holds when the button is pressed. A field that the user has emptied is None.

    Attributes:
        reference: path of the reference clip.
        reference_text: what the clip says.
        text: what to say.
        systems: names of those that shall speak.
        seeds: numbers, separated by spaces or commas. Each system speaks once with each.
        scale: factor on the adapters' updates.
        greedy: take the largest logit always; the sampling settings are ignored.
        temperature, top_k, top_p, ras_win_len, ras_win_max_num_repeat: see ``SamplingConfig``; 0 columns of
            ``ras_win_len`` turn it off.
        retries, slowest_letters_per_second: see ``SpeechSettings``.
        letters_per_piece: longer texts are cut.
    """

    reference: str | None
    reference_text: str | None
    text: str | None
    systems: Sequence[str]
    seeds: str | None = "0"
    scale: float | None = 1.0
    greedy: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 0.95
    ras_win_len: int | None = 7
    ras_win_max_num_repeat: int | None = 2
    retries: int | None = 2
    slowest_letters_per_second: float | None = SLOWEST_LETTERS_PER_SECOND
    letters_per_piece: int | None = LETTERS_PER_PIECE


FIELDS = tuple(field.name for field in fields(Wishes))
SETTINGS = FIELDS[FIELDS.index("greedy") :]
"""The fields that the page keeps folded away, in its order."""
WHOLE_NUMBERS = ("top_k", "ras_win_len", "ras_win_max_num_repeat", "retries", "letters_per_piece")


@dataclass(frozen=True)
class Job:
    """A checked job.

    Attributes:
        requests: the request of each system that shall speak.
        settings: the settings by seed.
        scale: the factor on the adapters' updates.
        hints: what the user should know before he hears it.
    """

    requests: dict[str, SpeechRequest]
    settings: dict[int, SpeechSettings]
    scale: float
    hints: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.requests) * len(self.settings)


@dataclass(frozen=True)
class Take:
    """One speech of one system.

    Attributes:
        path: the WAV file; None if there is no sound.
        seconds: its length.
        letters_per_second: the letters of the text (``spoken_letters``) by its length; 0 if there is no sound.
        attempts: the number of attempts of the piece that needed most.
        warnings: what is wrong with it.
    """

    system: str
    seed: int
    path: Path | None
    seconds: float
    letters_per_second: float
    attempts: int
    warnings: tuple[str, ...]


def check(wishes: Wishes, systems: Systems) -> Job:
    """Check everything that the page holds, and turn it into a job.

    Raises:
        InputError: listing everything that is wrong. Nothing has been spoken then.
    """
    problems: list[str] = []
    names = [name for name in systems.names if name in wishes.systems]
    if not names:
        problems.append(f"systems: none is chosen; choose at least one of {', '.join(systems.names)}")
    scale = 1.0 if wishes.scale is None else wishes.scale
    problems += systems.scale_problems(names, scale)
    settings, wrong_settings = result_or_message(lambda: _settings(wishes))
    problems += [wrong_settings] if wrong_settings else []
    problems += _text_problems(wishes, systems, names)
    waveform, wrong_reference = result_or_message(lambda: _reference(wishes.reference))
    problems += [wrong_reference] if wrong_reference else []
    raise_if_any("Nothing was spoken", problems)
    hints = _hints(waveform)
    requests = {name: _request(wishes, systems, name) for name in names}
    clip = Clip.of(AudioContent(audio_url=wishes.reference), Path())
    frames = {clip: frames_of(waveform.samples.numel(), waveform.sampling_rate, FRAMES_PER_SECOND)}

    def check_length(name: str) -> None:
        cloner = systems.cloners[name]
        cloner.settings = next(iter(settings.values()))
        cloner.check_lengths([requests[name]], frames)

    call_for_each(check_length, names)
    return Job(requests, settings, scale, tuple(hints))


def speak(job: Job, systems: Systems, folder: Path) -> Iterator[Take]:
    """Speak a job, system by system. Yield each take as soon as it is spoken.

    Args:
        folder: an empty folder for the WAV files.

    Raises:
        StoppedError: if the user has stopped it.
    """
    for name, request in job.requests.items():
        for seed, settings in job.settings.items():
            speech = systems.speak(name, request, settings, job.scale)
            path = None
            if speech.samples.numel():
                path = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}_seed{seed}.wav"
                write_whole(path, wav_bytes(speech.samples, speech.sampling_rate))
            yield _take(name, seed, path, speech, settings)


def read_reference(path: str) -> Waveform:
    """Read a reference clip. Its problems name the file, not the folder in which the page keeps it.

    Raises:
        InputError: if it cannot be read.
    """
    waveform, message = result_or_message(lambda: read_waveform(Clip.of(AudioContent(audio_url=path), Path())))
    if waveform is None:
        raise InputError(f"reference: {message.replace(path, Path(path).name)}")
    return waveform


def _reference(path: str | None) -> Waveform:
    if path is None:
        raise InputError("reference: there is none; upload a clip of the voice, or record one")
    waveform = read_reference(path)
    name, seconds = Path(path).name, waveform.seconds
    if seconds < SHORTEST_REFERENCE:
        raise InputError(f"reference: {name} has {seconds:.2g} s; give at least {SHORTEST_REFERENCE:g} s, best 3 to 10")
    if seconds > LONGEST_REFERENCE:
        raise InputError(
            f"reference: {name} has {seconds:.1f} s; give at most {LONGEST_REFERENCE:g} s, best 3 to 10: cut it, and "
            "its text with it"
        )
    if waveform.is_silent:
        raise InputError(f"reference: {name} is silent; there is no voice in it")
    return waveform


def _hints(waveform: Waveform) -> list[str]:
    shortest, longest = USUAL_REFERENCE_SECONDS
    if shortest <= waveform.seconds <= longest:
        return []
    return [f"The reference has {waveform.seconds:.1f} s; {shortest:g} to {longest:g} s clone a voice best."]


def _text_problems(wishes: Wishes, systems: Systems, names: Sequence[str]) -> list[str]:
    """Return the problems with both texts, each once; every system has a normalisation of its own."""
    problems: dict[str, None] = {}
    for field, text, what in (
        ("reference text", wishes.reference_text, "write down what the clip says, word for word"),
        ("text", wishes.text, "write what shall be said"),
    ):
        if not (text or "").strip():
            problems[f"{field}: it is empty; {what}"] = None
            continue
        for name in names or systems.names[:1]:
            problems |= dict.fromkeys(text_problems(text, field, systems.cloners[name].text_normalisation))
    return list(problems)


def _settings(wishes: Wishes) -> dict[int, SpeechSettings]:
    """Return the settings by seed.

    Raises:
        InputError: listing each setting that is empty or out of range.
    """
    empty = [
        f"{name} is empty; give a number" for name in FIELDS[FIELDS.index("scale") :] if getattr(wishes, name) is None
    ]
    whole = {name: getattr(wishes, name) for name in WHOLE_NUMBERS}
    broken = [
        f"{name} is {number}; give a whole number"
        for name, number in whole.items()
        if number is not None and not float(number).is_integer()
    ]
    raise_if_any("settings", [*empty, *broken])
    sampling = SamplingConfig(
        do_sample=not wishes.greedy,
        temperature=wishes.temperature,
        top_k=int(wishes.top_k),
        top_p=wishes.top_p,
        ras_win_len=int(wishes.ras_win_len) or None,
        ras_win_max_num_repeat=int(wishes.ras_win_max_num_repeat),
    )
    return {
        seed: SpeechSettings(
            sampling=sampling,
            seed=seed,
            retries=int(wishes.retries),
            slowest_letters_per_second=wishes.slowest_letters_per_second,
        )
        for seed in _seeds(wishes.seeds or "")
    }


def _seeds(text: str) -> list[int]:
    words = re.split(r"[\s,\u060c]+", text.strip())
    wrong = [word for word in words if not word.isdecimal()]
    if wrong or not 1 <= len(set(words)) == len(words) <= MOST_SEEDS:
        raise InputError(f"seeds: {text!r}; give 1 to {MOST_SEEDS} different whole numbers, such as 0 or 0, 1, 2")
    return [int(word) for word in words]


def _request(wishes: Wishes, systems: Systems, name: str) -> SpeechRequest:
    cloner = systems.cloners[name]
    reference = AudioContent(audio_url=wishes.reference, where="reference")
    return request_of_text(
        name,
        wishes.text,
        reference,
        wishes.reference_text,
        cloner.prompt_style,
        letters_per_piece=int(wishes.letters_per_piece),
        text_normalisation=cloner.text_normalisation,
    )


def _take(name: str, seed: int, path: Path | None, speech: Speech, settings: SpeechSettings) -> Take:
    letters = sum(spoken_letters(piece.text) for piece in speech.pieces)
    speed = letters / speech.seconds if speech.seconds else 0.0
    attempts = 1 + max(piece.attempt for piece in speech.pieces)
    return Take(name, seed, path, speech.seconds, speed, attempts, tuple(_warnings(speech, letters, settings)))


def _warnings(speech: Speech, letters: int, settings: SpeechSettings) -> list[str]:
    """Return what is wrong with a speech: it does not end, has no or a silent sound, or does not fit its text."""
    count = len(speech.pieces)
    found = []
    for number, piece in enumerate(speech.pieces, 1):
        if piece.failure:
            where = f"piece {number} of {count}: " if count > 1 else ""
            tried = f" ({settings.attempts} attempts)" if settings.attempts > 1 else ""
            found.append(f"{where}{piece.failure}{tried}")
    if found:
        return found
    if is_silent(speech.samples.numpy()):
        return ["it is silent"]
    speed = letters / speech.seconds
    if speed > FASTEST_READING * TOLERANCE:
        return [f"very short for the text: {speed:.0f} letters per second; words may be missing"]
    if speech.seconds > SECONDS_OF_SILENCE * count + letters * TOLERANCE / SLOWEST_READING:
        return [f"very long for the text: {speed:.1f} letters per second; there may be more than the text"]
    return []
