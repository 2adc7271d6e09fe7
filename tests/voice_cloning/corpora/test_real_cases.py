"""Collections as users have them: each comes out right, or is refused with its place and a remedy."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from boson_multimodal.errors import InputError
from tests.goldens import SAMPLES_DIR, SHARED_DIR, needs_samples
from tests.voice_cloning.corpora.source_forms import clips_of, records_of
from voice_cloning.corpora.build import SUMMARY_FILE, build_data

MAKER = SHARED_DIR / "cases" / "make_corpora.py"
ROWS = 12

RIGHT: dict[str, dict[str, Any]] = {
    "b02_xtts_quote": {},
    "b02b_xtts_quote_pair": {},
    "b03_piper_multi": {},
    "b04_styletts2": {},
    "b05_nemo": {},
    "b05b_nemo_json": {},
    "b05c_nemo_one_cut": {},
    "b06_cv": {},
    "b08_kaldi_stereo": {"rows": 8},
    "b10_mac": {},
    "b10b_nfd": {"rows": 4},
    "b10c_links": {},
    "b10d_upper": {},
    "b11_windows": {},
    "b13_utf16": {},
    "b14_f5": {"speaker_from": "name"},
    "b15_gptsovits": {},
    "b16_voxcpm": {},
    "b18_lj_odd": {"speaker_from": "name"},
    "b20_pq_ok": {},
    "b20d_pq_array": {},
    "b20f_pq_two_schemas": {},
    "b20g_pq_empty_split": {},
    "b20i_cache": {},
}
"""Folder -> the flags to give, and how many rows become samples, if not all twelve."""
REFUSED: dict[str, tuple[str, int | None]] = {
    "b01_commas": (r"metadata\.csv, line 2: has 4 fields.*double quotes", 11),
    "b01b_commas_two_columns": (r"(?s)--speaker_from.*metadata\.csv, line 2: has 3 fields", None),
    "b06b_cv_short_row": (r"validated\.tsv, line 6: has 5 fields.*remove a tab", 11),
    "b08b_kaldi_nan": (r"(?s)segments, line 1: the start.*'nan'.*segments, line 2: the end.*'inf'", 6),
    "b11b_windows_abs": (r"metadata\.csv, line 2: C:.*: no such file: a path of Windows; write it relative to", None),
    "b17_text_list": (r"train\.jsonl, line 1: text must be a string", None),
    "b17b_text_dict": (r"train\.jsonl, line 1: text must be a string", None),
    "b17c_json_null": (r"\(1\):\n.*train\.jsonl, line 2: no speaker is named", 11),
    "b18_lj_odd": (r"one voice was taken for all 12 clips, but their names form 3 groups.*--speaker_from name", None),
    "b20b_pq_text_list": (r"parquet, row 0: text must be a string", None),
    "b20c_pq_translation": (r"parquet, row 0: text must be a string", None),
    "b20e_pq_nan_speaker": (r"\(1\):\n.*parquet, row 0: no speaker is named", 11),
    "b20h_pq_pointer": (r"train-00001-of-00002\.parquet: is a pointer of Git LFS.*git lfs pull", None),
}
"""Folder -> the message, and the number of rows with --drop_invalid; None if this does not help."""

pytestmark = needs_samples


@dataclass(frozen=True)
class Spoken:
    """What a clip says, who says it, and its wave."""

    text: str
    speaker: str
    wave: np.ndarray


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a folder for each case."""
    folder = tmp_path_factory.mktemp("corpora")
    subprocess.run([sys.executable, MAKER, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def spoken() -> list[Spoken]:
    """Return all clips that the cases may hold."""
    found = []
    for record in records_of(SAMPLES_DIR):
        wave, _ = soundfile.read(SAMPLES_DIR / clips_of(record)[1]["audio_url"], dtype="float32")
        found.append(Spoken(record["misc"]["target_transcript"], str(int(record["speaker"])), wave))
    return found


def test_every_case_is_named_here(corpora: Path) -> None:
    """The store is what the links of another case lead to."""
    made = {path.name for path in corpora.iterdir()} - {"b10c_store"}
    assert made == RIGHT.keys() | REFUSED.keys()


@pytest.mark.parametrize("case", RIGHT)
def test_a_case_becomes_right_data(case: str, corpora: Path, spoken: list[Spoken], tmp_path: Path) -> None:
    flags = dict(RIGHT[case])
    rows = flags.pop("rows", ROWS)
    said: list[str] = []
    build_data(corpora / case, tmp_path / "out", eval_share=0, announce=said.append, **flags)
    check_records(tmp_path / "out", spoken, rows, one_voice=case == "b10b_nfd")
    assert f"{rows} utterances" in said[0] and said[0].count("sample: ") == 2


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_is_refused_with_its_place(case: str, corpora: Path, spoken: list[Spoken], tmp_path: Path) -> None:
    message, rows = REFUSED[case]
    with pytest.raises(InputError, match=message):
        build_data(corpora / case, tmp_path / "out", eval_share=0)
    assert not (tmp_path / "out").exists()
    if rows is not None:
        build_data(corpora / case, tmp_path / "out", eval_share=0, drop_invalid=True)
        check_records(tmp_path / "out", spoken, rows)
        place = re.search(r"line \d+|row \d+", str(message).replace("\\", ""))[0]
        assert place in (tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8")


def check_records(out: Path, spoken: list[Spoken], rows: int, one_voice: bool = False) -> None:
    """Check that each target has its own text and speaker, and a reference with its own text by the same speaker."""
    records = records_of(out)
    assert len(records) == rows
    targets = set()
    for record in records:
        transcripts = (record["misc"]["ref_transcript"], record["misc"]["target_transcript"])
        reference, target = (
            of_part(out, part, text, spoken) for part, text in zip(clips_of(record), transcripts, strict=True)
        )
        named = re.sub(r"^(?:speaker)?0*", "", record["speaker"]) or "3"  # one case calls the voice 3 just 0
        assert one_voice or reference.speaker == target.speaker == named
        targets.add(target.text)
    assert len(targets) == rows


def of_part(out: Path, part: dict[str, Any], text: str, spoken: list[Spoken]) -> Spoken:
    """Return the clip that an audio part holds, after a check that it has this text; marks are not compared."""
    rate = soundfile.info(out / part["audio_url"]).samplerate
    start = round((part.get("offset") or 0) * rate)
    wave, _ = soundfile.read(
        out / part["audio_url"], round(part["duration"] * rate), start, dtype="float32", always_2d=True
    )
    assert wave.shape[1] == 1, "a clip of two channels is two voices here"
    letters = re.sub(r'[",]', "", text)
    clip = next(clip for clip in spoken if re.sub(r'[",]', "", clip.text) == letters)
    length = min(len(wave), len(clip.wave))
    assert length >= 16_000 and abs(len(wave) - len(clip.wave)) <= (len(clip.wave) if len(wave) == 16_000 else 80)
    assert np.abs(wave[:length, 0] - clip.wave[:length]).max() < 1e-3, "the clip does not say this text"
    return clip
