"""What is written to reporters comes back, and plots of steps that are trained again are cut off."""

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as DashboardAccumulator

from boson_multimodal.errors import InputError
from voice_cloning.training.metrics import MetricsWriter, read_metrics_lines

RATE = 24_000
TONE = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)
"""A second at 1 kHz."""
SPOKEN = {"step": 2, "sample": "a/1", "text": "\u0646\u0639\u0645", "ended": True, "frames": 3, "share": 0.5}


def _scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_numbers_come_back_from_tensorboard_and_from_the_file(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    for step in (1, 2, 3):
        writer.write({"step": step, "loss": 1.0 / step, "eval_loss": float(step)})
    writer.close()
    assert _scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert _scalars(tmp_path, "eval/eval_loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    lines = read_metrics_lines(tmp_path / "metrics.jsonl")
    assert [record["step"] for _, record in lines.sound] == [1, 2, 3] and lines.damaged == []


def test_a_resumed_run_cuts_off_the_plots_of_later_steps(tmp_path: Path) -> None:
    """Both writers may begin within the same second."""
    for first, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        writer = MetricsWriter(tmp_path, ["tensorboard"], first, {})
        for step in steps:
            writer.write({"step": step, "loss": 10.0 * first + step})
        writer.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert _scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 12.0), (3, 13.0)]


def test_a_last_line_that_only_lacks_its_end_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    lines = read_metrics_lines(path)
    assert [record["step"] for _, record in lines.sound] == [1, 2]
    assert (lines.damaged, lines.has_unfinished) == ([], False)
    path.write_bytes(b'{"step": 1}\n{"step": ')
    lines = read_metrics_lines(path)
    assert len(lines.sound) == 1 and len(lines.damaged) == 1 and lines.has_unfinished


def test_numbers_of_speech_have_a_group_of_their_own(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    writer.write({"step": 1, "eval_loss": 1.0, "spoken_stop_rate": 0.5, "true_characters_per_second": 9.0, "loss": 2})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    wanted = {"eval/eval_loss", "speech/spoken_stop_rate", "speech/true_characters_per_second", "train/loss"}
    assert set(events.Tags()["scalars"]) == wanted


def test_records_of_spoken_samples_lie_between_numbers(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    writer.write({"step": 2, "loss": 1.0})
    writer.write_sample(SPOKEN)
    writer.close()
    lines = read_metrics_lines(tmp_path / "metrics.jsonl")
    assert (lines.numbers, lines.samples, lines.damaged) == ([{"step": 2, "loss": 1.0}], [SPOKEN], [])
    assert [json.loads(line) for line, _ in lines.sound] == [{"step": 2, "loss": 1.0}, SPOKEN]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sample": 3}, "sample is 3, not a text"),
        ({"sample": None}, "sample is None, not a number, a text, true or false; sample is None, not a text"),
        ({"frames": [1], "ended": None}, "ended is None, not a number, a text, true or false; frames is [1], not a"),
        ({"frames": 2**60}, f"frames is {2**60}, not a number, a text"),
        ({"step": True}, "step is True, not a number of steps"),
        ({"step": "2"}, "step is '2', not a number of steps"),
        ({"step": -1}, "step is -1, not"),
    ],
)
def test_a_damaged_record_of_a_sample_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(SPOKEN) + "\n" + json.dumps(SPOKEN | changes) + "\n", encoding="utf-8")
    lines = read_metrics_lines(path)
    assert lines.samples == [SPOKEN]
    assert len(lines.damaged) == 1 and lines.damaged[0].startswith(f"line 2: {problem}")


def test_texts_belong_to_samples_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "text": "a"}\n{"step": 1, "ended": true}\n', encoding="utf-8")
    assert read_metrics_lines(path).damaged == [
        "line 1: text is 'a', not a number",
        "line 2: ended is True, not a number",
    ]


# -- sounds and pictures -----------------------------------------------------------------------------------------------


def test_sounds_and_pictures_come_back_from_tensorboard(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    writer.write_sound(7, "samples/a", TONE, RATE)
    writer.write_mel(7, "samples/a", TONE, RATE)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [sound] = events.Audio("samples/a")
    assert (sound.step, sound.sample_rate, sound.length_frames, sound.content_type) == (7, RATE, RATE, "audio/wav")
    wave, rate = soundfile.read(io.BytesIO(sound.encoded_audio_string), dtype="float32")
    assert rate == RATE and np.abs(wave - TONE.numpy()).max() < 1e-4
    [picture] = events.Images("samples/a/mel")
    pixels = imread(io.BytesIO(picture.encoded_image_string))[:, :, :3]
    assert (picture.step, pixels.shape) == (7, (picture.height, picture.width, 3)) == (7, (160, 101, 3))
    loudest = pixels[:, 50].sum(axis=-1).argmax()
    assert 160 * 0.55 < loudest < 160 * 0.75, "1 kHz is below the middle of a mel scale to 12 kHz"


def test_the_dashboards_of_tensorboard_find_sounds_and_pictures(tmp_path: Path) -> None:
    """A tag stands for one kind of content there: the first that is found."""
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    writer.write_sound(1, "samples/a", TONE, RATE)
    writer.write_mel(1, "samples/a", TONE, RATE)
    writer.close()
    found = DashboardAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert list(found.PluginTagToContent("audio")) == ["samples/a"]
    assert list(found.PluginTagToContent("images")) == ["samples/a/mel"]


def test_a_resumed_run_cuts_off_later_sounds(tmp_path: Path) -> None:
    for first, steps in ((0, (1, 2, 3)), (1, (2,))):
        writer = MetricsWriter(tmp_path, ["tensorboard"], first, {})
        for step in steps:
            writer.write_sound(step, "a", TONE[: 100 * (first + 1)], RATE)
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(sound.step, sound.length_frames) for sound in events.Audio("a")] == [(1, 100), (2, 200)]


@pytest.mark.parametrize("samples", [0, 1, 100, 479, 480])
@pytest.mark.parametrize("rate", [8000, RATE, 48_000])
@pytest.mark.filterwarnings("error")
def test_a_short_or_silent_sound_has_a_picture(samples: int, rate: int, tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0, {})
    writer.write_sound(1, "a", torch.zeros(samples), rate)
    writer.write_mel(1, "a", torch.zeros(samples), rate)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    wave, found_rate = soundfile.read(io.BytesIO(events.Audio("a")[0].encoded_audio_string))
    assert (len(wave), found_rate) == (samples, rate)
    assert imread(io.BytesIO(events.Images("a/mel")[0].encoded_image_string)).shape[0] == 160


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.tensor([0.0, float("nan")]), "sound 'a': holds NaN or infinite samples; it must be"),
        (torch.zeros(1, 99), r"sound 'a': has the shape \(1, 99\); it must be \(samples,\) of finite numbers"),
    ],
)
@pytest.mark.parametrize("reporters", [[], ["tensorboard"]])
def test_what_is_no_sound_is_refused(tmp_path: Path, samples: torch.Tensor, message: str, reporters: list[str]) -> None:
    writer = MetricsWriter(tmp_path, reporters, 0, {})
    for write in (writer.write_sound, writer.write_mel):
        with pytest.raises(InputError, match=message):
            write(1, "a", samples, RATE)
    writer.close()


def test_wandb_gets_numbers_sounds_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a module in its place: W&B is no requirement."""
    logged: list[tuple[dict[str, Any], int]] = []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)
    module = types.ModuleType("wandb")
    module.init = lambda **settings: run
    module.Audio = lambda wave, sample_rate: ("audio", wave.dtype, wave.max(), sample_rate)
    module.Image = lambda pixels: ("image", pixels.dtype, pixels.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    writer = MetricsWriter(tmp_path, ["wandb"], 0, {})
    writer.write({"step": 2, "loss": 1.0})
    writer.write_sample(SPOKEN)
    writer.write_sound(2, "a", 4 * TONE, RATE)
    writer.write_mel(2, "a", TONE, RATE)
    writer.close()
    assert logged == [
        ({"loss": 1.0}, 2),
        ({"a": ("audio", np.float32, 1.0, RATE)}, 2),
        ({"a/mel": ("image", np.uint8, (160, 101, 3))}, 2),
    ]
    assert read_metrics_lines(tmp_path / "metrics.jsonl").samples == [SPOKEN]
