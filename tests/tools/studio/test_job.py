"""A job without a page: what is refused, what is spoken, and of what the page warns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from tests.tools.studio.conftest import ADAPTER
from tests.voice_cloning.speech.cloners import Script, seed_of, targets
from tools.studio.job import Take, Wishes, check, speak
from tools.studio.systems import BASE, StoppedError, Systems
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.text_pieces import SLOWEST_LETTERS_PER_SECOND


def spoken(wishes: dict[str, Any], systems: Systems, folder: Path) -> list[Take]:
    return list(speak(check(Wishes(**wishes), systems), systems, folder))


def refused(wishes: dict[str, Any], systems: Systems) -> str:
    with pytest.raises(InputError) as caught:
        check(Wishes(**wishes), systems)
    return str(caught.value)


def test_the_adapter_speaks_what_it_has_memorised_and_the_base_does_not(
    wishes: dict[str, Any], systems: Systems, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path
) -> None:
    base, adapter = spoken(wishes, systems, tmp_path)
    wanted = systems.base.codec.decode(targets(memorised)[0]).clamp(-1, 1)
    samples, rate = soundfile.read(adapter.path, dtype="float32")
    assert rate == 24_000 and samples.shape == wanted.shape
    assert (torch.from_numpy(samples) - wanted).abs().max() <= 2 / 32768
    assert adapter.warnings == () and adapter.attempts == 1 and adapter.seconds == len(samples) / rate
    assert (base.system, adapter.system) == (BASE, ADAPTER)
    assert adapter.path.name == "run_checkpoint_seed0.wav"
    other = soundfile.read(base.path, dtype="float32")[0]
    assert other.shape != samples.shape or np.abs(other - samples).max() > 0.01


def test_systems_and_seeds_are_spoken_in_order_and_a_seed_says_the_same_again(
    wishes: dict[str, Any], systems: Systems, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    first = spoken({**wishes, "greedy": False, "seeds": "7, 0"}, systems, tmp_path)
    assert [(take.system, take.seed) for take in first] == [(BASE, 7), (BASE, 0), (ADAPTER, 7), (ADAPTER, 0)]
    assert len({take.path.read_bytes() for take in first[:3]}) == 3
    again = spoken({**wishes, "greedy": False, "seeds": "0", "systems": [BASE]}, systems, tmp_path / "again")
    assert [take.path.read_bytes() for take in again] == [first[1].path.read_bytes()]


def test_a_reference_is_encoded_once_for_all_systems(
    wishes: dict[str, Any], systems: Systems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = soundfile.read(wishes["reference"], dtype="float32")
    soundfile.write(tmp_path / "new.wav", 0.5 * samples, rate)
    encoded, encode = [], systems.base.codec.encode
    monkeypatch.setattr(systems.base.codec, "encode", lambda waves: encoded.append(waves) or encode(waves))
    assert len(spoken({**wishes, "reference": str(tmp_path / "new.wav")}, systems, tmp_path)) == 2
    assert len(encoded) == 1


def test_a_scale_of_zero_is_the_base(wishes: dict[str, Any], systems: Systems, tmp_path: Path) -> None:
    base, weakened = spoken({**wishes, "scale": 0.0}, systems, tmp_path)
    assert base.path.read_bytes() == weakened.path.read_bytes()


def test_a_job_can_be_stopped_and_the_next_one_speaks(wishes: dict[str, Any], systems: Systems, tmp_path: Path) -> None:
    systems.stop()
    with pytest.raises(StoppedError):
        spoken(wishes, systems, tmp_path)
    systems.go_on()
    assert len(spoken({**wishes, "systems": [ADAPTER]}, systems, tmp_path)) == 1


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_listed_at_once(systems: Systems) -> None:
    empty = Wishes(reference=None, reference_text=None, text=" \n", systems=[], seeds="one", temperature=None)
    message = refused(vars(empty), systems)
    assert message.startswith("Nothing was spoken (5):")
    for problem in (
        "systems: none is chosen; choose at least one of base, run/checkpoint",
        "temperature is empty; give a number",
        "reference text: it is empty; write down what the clip says",
        "text: it is empty; write what shall be said",
        "reference: there is none; upload a clip of the voice, or record one",
    ):
        assert problem in message


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"text": "?!"}, "text: '?!' has no words"),
        ({"reference_text": "..."}, "reference text: '...' has no words"),
        ({"text": "<|eot_id|> نعم"}, "text: "),
        ({"seeds": ""}, "seeds: ''; give 1 to 3 different whole numbers"),
        ({"seeds": "-1"}, "seeds: '-1'; give 1 to 3"),
        ({"seeds": "1, 1"}, "different"),
        ({"seeds": "1 2 3 4"}, "give 1 to 3"),
        ({"scale": -1.0}, "run/checkpoint: adapter_scale is -1.0; it must be from 0 (the base) to 2"),
        ({"scale": None}, "scale is empty"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be a number above 0"),
        ({"top_p": 1.5, "top_k": -2}, "top_k is -2"),
        ({"top_k": 2.5}, "top_k is 2.5; give a whole number"),
        ({"retries": -1}, "retries is -1"),
        ({"slowest_letters_per_second": 0.0}, "slowest_letters_per_second is 0.0; it must be above 0"),
        ({"letters_per_piece": 1}, "letters_per_piece is 1; it must be at least 6"),
    ],
)
def test_wrong_fields(wishes: dict[str, Any], systems: Systems, changed: dict[str, Any], problem: str) -> None:
    assert problem in refused({**wishes, **changed}, systems)


def clip(folder: Path, seconds: float, level: float = 0.3) -> str:
    samples = level * np.sin(np.arange(round(seconds * 8000)) / 5)
    path = folder / "voice.wav"
    soundfile.write(path, samples, 8000)
    return str(path)


@pytest.mark.parametrize(
    ("seconds", "level", "problem"),
    [
        (0.2, 0.3, "voice.wav has 0.2 s; give at least 0.5 s"),
        (31.0, 0.3, "voice.wav has 31.0 s; give at most 30 s"),
        (4.0, 0.0, "voice.wav is silent; there is no voice in it"),
    ],
)
def test_references_without_a_usable_voice(
    wishes: dict[str, Any], systems: Systems, tmp_path: Path, seconds: float, level: float, problem: str
) -> None:
    assert problem in refused({**wishes, "reference": clip(tmp_path, seconds, level)}, systems)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"<html>no sound</html>" * 100])
def test_files_that_are_no_sound_are_named_without_their_folder(
    wishes: dict[str, Any], systems: Systems, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    message = refused({**wishes, "reference": str(path)}, systems)
    assert "reference: voice.wav: " in message and str(tmp_path) not in message


def test_a_text_that_is_too_long_for_the_model(wishes: dict[str, Any], systems: Systems) -> None:
    message = refused({**wishes, "text": "نعم " * 40_000, "letters_per_piece": 1_000_000}, systems)
    assert "positions; the model has" in message
    assert message.count("base") == 1 and message.count(ADAPTER) == 1


def test_a_reference_of_unusual_length_is_a_hint(wishes: dict[str, Any], systems: Systems, tmp_path: Path) -> None:
    hints = {
        seconds: check(Wishes(**{**wishes, "reference": clip(tmp_path, seconds)}), systems).hints
        for seconds in (2.0, 4.0, 11.0)
    }
    assert hints[4.0] == ()
    assert hints[2.0] == ("The reference has 2.0 s; 3 to 10 s clone a voice best.",)
    assert len(hints[11.0]) == 1


# -- of what the page warns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "warnings"),
    [
        (None, ["runaway: no end within 8.4 s (3 attempts)"]),
        (0, ["ended before its first frame (3 attempts)"]),
        (10, ["very short for the text: 40 letters per second; words may be missing"]),
        (40, []),
        (140, ["very long for the text: 2.9 letters per second; there may be more than the text"]),
    ],
)
def test_speech_that_does_not_fit_its_text(
    wishes: dict[str, Any],
    systems: Systems,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: int | None,
    warnings: list[str],
) -> None:
    script = Script(systems.base.config, {seed_of(0, attempt): frames for attempt in range(3)})
    monkeypatch.setattr(systems.base, "held_model", HeldModel())
    monkeypatch.setattr(systems.base, "_load_base", lambda: script)
    text = "صباح الخير يا صديقي"  # 16 letters
    defaults = {"greedy": False, "retries": 2, "slowest_letters_per_second": SLOWEST_LETTERS_PER_SECOND}
    [take] = spoken({**wishes, **defaults, "systems": [BASE], "text": text}, systems, tmp_path)
    assert list(take.warnings) == warnings
    assert (take.path is None) == (frames == 0)
    if frames:
        assert take.seconds == pytest.approx(frames / 25, abs=0.001)
