"""Tests of check --codes: data that come as codes are checked from codes, and what cannot be checked is said."""

import errno
import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from tests.chatml_files import load
from tests.goldens import SHARED_DIR
from tests.sample_copies import found_kinds
from tests.voice_cloning.data_check.coded_records import WORDS, CodedData, Plant, codes
from tools.prepare_data import check as check_command
from voice_cloning.corpora.encode import encode_files
from voice_cloning.data_check import decoded_clips
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.coded_clips import open_codes
from voice_cloning.data_check.decoded_clips import decode_clips
from voice_cloning.data_check.summary import PlannedRun

SPEAKS_DIR = SHARED_DIR / "speaks"
needs_speaks = pytest.mark.skipif(not SPEAKS_DIR.is_dir(), reason="../shared/speaks is absent")


def puts(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Return a plant that replaces the codes of a clip by ``change(codes)``."""
    return lambda data: data.tensors.update({name: change(data.tensors[name])})


def copies(name: str, other: str, start: int = 0, end: int | None = None) -> Plant:
    """Return a plant that gives a clip a part of another clip's codes."""
    return lambda data: data.tensors.update({name: data.tensors[other][:, start:end].copy()})


def both(*plants: Plant) -> Plant:
    def planted(data: CodedData) -> None:
        for plant in plants:
            plant(data)

    return planted


def overlapping(data: CodedData) -> None:
    """Make reference and target of a sample two cuts of one recording that share 3 of 4 s; their codes differ."""
    for name, start in (("train1r", 0.0), ("train1t", 1.0)):
        data.clip(name).update(audio_url="long.wav", offset=start, duration=4.0)
        data.tensors[f"long.wav#{start!r},4.0"] = data.tensors.pop(name)


SAME_TEXT: Plant = lambda data: data.say("train2", " ".join(WORDS[1:]))  # noqa: E731  # that of train1
PLANTS: dict[str, tuple[Plant, dict[str, set[str]]]] = {
    "nothing": (lambda data: None, {}),
    "no entry": (lambda data: data.tensors.pop("train1t"), {"missing_codes": {"train1"}}),
    "no entries": (
        both(lambda data: data.tensors.pop("train1r"), lambda data: data.tensors.pop("val0t")),
        {"missing_codes": {"train1", "val0"}},
    ),
    "int32": (puts("train1t", lambda c: c.astype(np.int32)), {"invalid_codes": {"train1"}}),
    "floats": (puts("train1t", lambda c: c.astype(np.float32)), {"invalid_codes": {"train1"}}),
    "seven codebooks": (puts("train1t", lambda c: c[:7].copy()), {"invalid_codes": {"train1"}}),
    "frames first": (puts("train1t", lambda c: c.T.copy()), {"invalid_codes": {"train1"}}),
    "with a batch": (puts("train1t", lambda c: c[None].copy()), {"invalid_codes": {"train1"}}),
    "no frame": (puts("train1t", lambda c: c[:, :0].copy()), {"invalid_codes": {"train1"}}),
    "a begin code": (puts("train1t", lambda c: np.insert(c, 0, 1024, 1)), {"invalid_codes": {"train1"}}),
    "a negative code": (puts("train1t", lambda c: np.insert(c, 9, -1, 1)), {"invalid_codes": {"train1"}}),
    "too short for the delay pattern": (
        both(puts("train1t", lambda c: c[:, :5].copy()), lambda data: data.say("train1", "لا")),
        {"target_length": {"train1"}},
    ),
    "a short reference": (puts("train1r", lambda c: c[:, :60].copy()), {"reference_length": {"train1"}}),
    "a long target": (
        both(puts("train1t", lambda c: codes(99, 800)), lambda data: data.say("train1", " ".join(WORDS * 7))),
        {"target_length": {"train1"}, "dominant_speaker": {"train1", "train4"}},
    ),
    "90 s": (
        both(puts("train1t", lambda c: codes(99, 2250)), lambda data: data.say("train1", " ".join(WORDS * 19))),
        {"target_length": {"train1"}, "over_limit": {"train1"}, "dominant_speaker": {"train1", "train4"}},
    ),
    "another text": (lambda data: data.say("train1", " ".join(WORDS * 3)), {"implausible_speech_rate": {"train1"}}),
    "one frame": (puts("train1t", lambda c: np.repeat(c[:, :1], 100, 1)), {"repeated_codes": {"train1"}}),
    "half a second of one frame": (
        puts("train1t", lambda c: np.insert(c, [50] * 12, c[:, [50]], 1)),
        {"repeated_codes": {"train1"}},
    ),
    "a pause of equal frames": (puts("train1t", lambda c: np.insert(c, [50] * 9, c[:, [50]], 1)), {}),
    "every frame twice": (puts("train1t", lambda c: np.repeat(c[:, :50], 2, 1)), {"repeated_codes": {"train1"}}),
    "a loop": (puts("train1t", lambda c: np.tile(c[:, :4], 25)), {"repeated_codes": {"train1"}}),
    "a loop of doubled frames": (
        puts("train1t", lambda c: np.c_[c[:, :60], np.tile(np.repeat(c[:, :4], 2, 1), 5)]),
        {"repeated_codes": {"train1"}},
    ),
    "a part twice": (puts("train1t", lambda c: np.c_[c[:, :60], c[:, 20:60]]), {"repeated_codes": {"train1"}}),
    "the target as reference": (copies("train1r", "train1t"), {"reference_equals_target": {"train1"}}),
    "most of the target as reference": (copies("train1r", "train1t", 5, 90), {"reference_equals_target": {"train1"}}),
    "the head of the target as reference": (
        copies("train1r", "train1t", 0, 80),
        {"reference_equals_target": {"train1"}},
    ),
    "half of the target as reference": (
        puts("train1r", lambda c: np.c_[c[:, :50], codes(3, 50)]),
        {},
    ),
    "cuts of one recording": (overlapping, {"reference_equals_target": {"train1"}}),
    "codes with two texts": (copies("train2t", "train1t"), {"conflicting_transcripts": {"train1", "train2"}}),
    "a target twice": (both(copies("train2t", "train1t"), SAME_TEXT), {"duplicate_samples": {"train2"}}),
    "the head of another target": (
        both(copies("train2t", "train1t", 0, 80), SAME_TEXT),
        {"duplicate_samples": {"train2"}},
    ),
    "a part of another target with its words": (
        both(copies("train2t", "train1t", 0, 80), lambda data: data.say("train2", " ".join(WORDS[1:7]))),
        {"duplicate_samples": {"train2"}},
    ),
    "a part of another target with other words": (
        both(copies("train2t", "train1t", 0, 80), lambda data: data.say("train2", " ".join(WORDS[2:0:-1] * 3))),
        {"conflicting_transcripts": {"train1", "train2"}},
    ),
    "a target on both sides": (copies("val1t", "train1t"), {"utterance_in_train_and_eval": {"val1"}}),
    "the tail of a reference on both sides": (
        copies("val1r", "train1t", 10),
        {"utterance_in_train_and_eval": {"val1"}},
    ),
    "a speaker on both sides": (
        lambda data: data.record("val1").update(speaker="train1"),
        {"speaker_in_train_and_eval": {"val1"}},
    ),
}


@pytest.mark.parametrize("title", PLANTS)
def test_a_planted_defect_is_found_and_nothing_else_is(title: str, tmp_path: Path) -> None:
    """No clip exists in this test."""
    data = CodedData(tmp_path)
    plant, expected = PLANTS[title]
    plant(data)
    assert found_kinds(data.check()) == expected


@pytest.mark.parametrize(
    ("title", "kind", "detail"),
    [
        ("no entry", "missing_codes", "'train1t': not in {}; give its codes, or leave --codes out to encode the clip "),
        ("seven codebooks", "invalid_codes", "'train1t' in {}: has shape (7, 100); codes are (8, frames), with at "),
        ("a begin code", "invalid_codes", "'train1t' in {}: has codes from 1 to 1024; they must be from 0 to 1023"),
        (
            "too short for the delay pattern",
            "target_length",
            "0.20 s; 0.5 to 30 s is recommended; 5 frames: with the delay pattern, no column has a code of every codeb",
        ),
        ("one frame", "repeated_codes", "100 equal frames in a row (4.00 s)"),
        ("every frame twice", "repeated_codes", "51 % of its frames equal the frame before"),
        ("a part twice", "repeated_codes", "a passage of 40 frames (1.60 s) repeats the frames 40 before it"),
        (
            "the head of the target as reference",
            "reference_equals_target",
            "the same codes: 80 frames are the beginning of 100",
        ),
        (
            "most of the target as reference",
            "reference_equals_target",
            "the same codes (100 % of the frames of one of them)",
        ),
        ("cuts of one recording", "reference_equals_target", "cuts of one recording, which share 3.0 s"),
    ],
)
def test_a_finding_names_field_and_value(title: str, kind: str, detail: str, tmp_path: Path) -> None:
    data = CodedData(tmp_path)
    PLANTS[title][0](data)
    report = data.check()
    (entry,) = [e for e in (*report["errors"], *report["warnings"]) if e["kind"] == kind]
    assert "messages[2].content[1].audio_url: " in entry["details"]["train1"]
    assert detail.format(tmp_path / "codes.safetensors") in entry["details"]["train1"]


def test_the_report_says_what_codes_do_not_show(tmp_path: Path) -> None:
    data = CodedData(tmp_path)
    PLANTS["one frame"][0](data)
    report = data.check()
    told = report["summary"]["codes"]
    assert told["clips_checked_from_codes"] == 16 and told["clips_checked_from_files"] == 0
    assert told["not_measured"].startswith("levels, clipping, silence, bandwidth, noise, pitch, voices")
    assert "16 clips came as codes" in told["not_measured"] and "--audio_tokenizer_path" in told["advice"]
    assert report["summary"]["frames"] == 16 * 100 and report["summary"]["native_rates"] == {}
    empty = {name for name, h in report["summary"]["histograms"].items() if h["median"] is None}
    assert empty == {"pitch_hz", "peak_dbfs", "level_dbfs", "silence_share"}
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Checked from codes" in page and "these need waveforms" in page
    assert "not there" not in page and "<audio" not in page, "there is nothing to play"
    written = (tmp_path / "report" / "report.json").read_bytes()
    assert json.loads(written) == report
    data.check()
    assert (tmp_path / "report" / "report.json").read_bytes() == written, "the report is deterministic"


def test_clips_without_codes_are_checked_from_their_files(tmp_path: Path) -> None:
    """Training with these codes would refuse them, which the report says too."""
    data = CodedData(tmp_path)
    wave = np.random.default_rng(0).normal(0, 0.1, 4 * 24_000)
    for name, change in (("train1t", 0.0), ("train2r", 0.3)):
        soundfile.write(tmp_path / name, wave + change, 24_000, format="WAV")
        del data.tensors[name]
    (tmp_path / "train3t").write_bytes(b"not audio")  # has codes, so that its file is not read
    del data.tensors["train4t"]
    report = data.check()
    found = found_kinds(report)
    assert found["missing_codes"] == {"train1", "train2", "train4"} and found["dc_offset"] == {"train2"}
    assert "unreadable_audio" not in found
    details = {e["kind"]: e["details"] for e in report["errors"]}["missing_codes"]
    assert "(its file was checked instead)" in details["train1"]
    assert "(its file is not there either)" in details["train4"]
    assert report["summary"]["codes"]["clips_checked_from_files"] == 2
    assert report["summary"]["codes"]["clips_checked_from_codes"] == 13


def test_the_check_and_the_trainer_refuse_the_same_samples(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = CodedData(tmp_path)
    names = ("no entry", "int32", "seven codebooks", "no frame", "a begin code")
    for number, title in enumerate(names):
        other = CodedData(tmp_path)
        PLANTS[title][0](other)
        for kind in "rt":
            data.tensors.pop(f"train{number}{kind}")
            if f"train1{kind}" in other.tensors:
                data.tensors[f"train{number}{kind}"] = other.tensors[f"train1{kind}"]
    data.records["train"][3]["messages"][1]["content"][1]["audio_url"] = "train0r"  # a clip of two samples
    report = data.check()
    refused = {sample_id for entry in report["errors"] for sample_id in entry["sample_ids"]}
    files = CodesFiles([tmp_path / "codes.safetensors"], 8, 1024)
    kept = {r.sample_id for r in load(tmp_path / "train.json", tokenizer, files, drop_invalid=True).records}
    assert kept == {"train5"} and {s for s in refused if s.startswith("train")} == {f"train{i}" for i in range(5)}


def test_the_form_of_the_codes_is_the_model_s(tmp_path: Path, demo: Path) -> None:
    _, path = CodedData(tmp_path).write()
    released = open_codes([path], None, None).files
    assert (released.num_codebooks, released.codebook_size) == (8, 1024)
    small = HiggsAudioConfig(audio_codebook_size=64, audio_stream_bos_id=64, audio_stream_eos_id=65)
    small.save_pretrained(tmp_path / "model")
    found = open_codes([path], str(tmp_path / "model"), None).files
    assert (found.num_codebooks, found.codebook_size) == (8, 64)
    with pytest.raises(InputError, match="has codes from 0 to 10[0-9]+; they must be from 0 to 63"):
        found.find(None, "train0r")
    with pytest.raises(InputError, match="has 8 codebooks of 64 codes; the codec has 8 codebooks of 1024 codes"):
        open_codes([path], str(tmp_path / "model"), str(demo / "audio_tokenizer"))
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="give a Higgs Audio v2 model"):
        open_codes([path], str(tmp_path / "model"), None)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path, demo: Path) -> None:
    data = CodedData(tmp_path)
    files, path = data.write()
    call = {"output_dir": tmp_path / "out", "num_workers": 1}
    with pytest.raises(InputError, match="none.safetensors: cannot be read as safetensors"):
        check_files(files, codes=[path, tmp_path / "none.safetensors"], **call)
    again = tmp_path / "again.safetensors"
    again.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="again.safetensors: 'train0r' is in another file too"):
        check_files(files, codes=[path, again], **call)
    with pytest.raises(InputError, match="it decodes codes; give --codes too"):
        check_files(files, audio_tokenizer_path=str(demo / "audio_tokenizer"), **call)
    with pytest.raises(InputError, match="--codes: made by the codec abc, and --audio_tokenizer_path is [0-9a-f]{16}"):
        check_files(files, codes=[path], audio_tokenizer_path=str(demo / "audio_tokenizer"), **call)
    other = tmp_path / "other.safetensors"
    codec = str(demo / "audio_tokenizer")
    save_file(data.tensors, other, metadata={"codec": codec_identity(Path(codec)), "frames_per_second": "50"})
    with pytest.raises(
        InputError, match="frames_per_second is 50 in .*other.safetensors; the codec makes 25 frames a s"
    ):
        check_files(files, codes=[other], audio_tokenizer_path=codec, **call)
    with pytest.raises(InputError, match="--audio_tokenizer_path .*nowhere: no such folder"):
        check_files(files, codes=[path], audio_tokenizer_path=str(tmp_path / "nowhere"), **call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", ["1e3", "inf", "nan", "0.0", "-1", "", "\u0662\u0665", "12345", "25 "])
def test_a_frame_rate_that_is_none_is_refused(rate: str, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    save_file({"a": codes(0)}, path, metadata={"codec": "abc", "frames_per_second": rate})
    with pytest.raises(InputError, match="frames_per_second is .*; it must be a number above 0 and below 10000"):
        open_codes([path], None, None)


def test_seconds_come_from_the_frame_rate_of_the_file(tmp_path: Path) -> None:
    data = CodedData(tmp_path)
    files, path = data.write()
    save_file(data.tensors, path, metadata={"codec": "abc", "frames_per_second": "12.5"})
    report = check_files(files, tmp_path / "report", codes=[path], num_workers=1)
    assert report["summary"]["hours"] == pytest.approx(8 * 8 / 3600) and report["summary"]["frames"] == 16 * 100
    assert report["summary"]["histograms"]["target_seconds"]["median"] == 8.0


def test_positions_are_those_of_training(tmp_path: Path, demo: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = CodedData(tmp_path)
    data.tensors["train1t"] = codes(99, 321)
    report = data.check(model_path=str(demo / "model"), run=PlannedRun(prompt_style="as_written"))
    files = CodesFiles([tmp_path / "codes.safetensors"], 8, 1024)
    lengths = []
    for side in ("train", "val"):
        dataset = load(tmp_path / f"{side}.json", tokenizer, files)
        dataset.encode_missing(lambda: pytest.fail("no codec is needed"))
        lengths += dataset.lengths.tolist()
    mean = round(sum(lengths) / len(lengths), 1)
    assert report["summary"]["positions"] == {"max": max(lengths), "mean": mean}


def test_a_full_disk_is_named(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoded_clips, "write_whole", full)
    path = tmp_path / "codes.safetensors"
    save_file({"a": codes(0, 5)}, path, metadata={"codec": "abc"})
    with pytest.raises(InputError, match=r"b.wav: cannot be written \(No space left on device\)"):
        decode_clips({tmp_path / "b.wav": "a"}, CodesFiles([path], 8, 1024), demo / "audio_tokenizer")


def test_one_frame_is_decoded_and_measured(demo: Path, tmp_path: Path) -> None:
    codec = str(demo / "audio_tokenizer")
    data = CodedData(tmp_path)
    data.tensors["train1t"] = codes(99, 1)
    data.say("train1", "لا")
    files, path = data.write()
    save_file(data.tensors, path, metadata={"codec": codec_identity(Path(codec))})
    report = check_files(files, tmp_path / "out", codes=[path], audio_tokenizer_path=codec, num_workers=1)
    assert found_kinds(report)["target_length"] == {"train1"} and not report["errors"]


def test_decoded_codes_are_measured_as_sound(demo: Path, tmp_path: Path) -> None:
    """The clips do not exist. Two calls write the same report; the second one decodes nothing."""
    files = [demo / f"{side}_chatml_samples.json" for side in ("train", "val")]
    path, codec = tmp_path / "codes.safetensors", str(demo / "audio_tokenizer")
    encode_files(files, codec, str(tmp_path / "cache"), export=path)
    bare = [tmp_path / file.name for file in files]
    for file, copy in zip(files, bare, strict=True):
        copy.write_bytes(file.read_bytes())
    out = tmp_path / "out"
    report = check_files(bare, out, codes=[path], audio_tokenizer_path=codec, num_workers=1)
    assert set(found_kinds(report)) == {"reference_length"}
    summary = report["summary"]
    assert summary["native_rates"] == {"24000": summary["clips"]} and summary["histograms"]["pitch_hz"]["median"]
    assert summary["codes"]["decoded"] == (
        f"the measures of sound of {summary['clips']} clips are of the codec's output, not of the recordings"
    )
    assert "not_measured" not in summary["codes"]
    written, decoded = (out / "report.json").read_bytes(), sorted((out / "decoded").iterdir())
    assert len(decoded) == summary["clips"]
    facts = next(iter(report["samples"].values()))
    assert Path(facts["audio"]) in decoded, "the page plays the decoded clips"
    times = [file.stat().st_mtime_ns for file in decoded]
    check_files(bare, out, codes=[path], audio_tokenizer_path=codec, num_workers=1)
    assert (out / "report.json").read_bytes() == written
    assert [file.stat().st_mtime_ns for file in decoded] == times
    plain = check_files(bare, tmp_path / "plain", codes=[path], num_workers=1)["summary"]
    for name in ("hours", "frames", "positions", "expected_steps"):
        assert plain[name] == summary[name]


def test_the_command_takes_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = CodedData(tmp_path)
    PLANTS["one frame"][0](data)
    files, path = data.write()
    parser = ArgumentParser()
    check_command.add_arguments(parser)
    flags = parser.parse_args([*map(str, files), "--codes", str(path), "--output_dir", str(tmp_path / "out")])
    assert check_command.run(flags) == 0
    printed = capsys.readouterr().out
    assert "warning: repeated_codes: 1 sample(s)" in printed
    assert "clips checked from codes: 16" in printed and "not measured: levels, clipping" in printed
    del data.tensors["val0r"]
    data.write()
    assert check_command.run(flags) == 1
    printed = capsys.readouterr().out
    assert "error: missing_codes: 1 sample(s)" in printed and "'val0r': not in" in printed


@needs_speaks
def test_real_codes_of_speech_have_no_repeated_codes(tmp_path: Path) -> None:
    """What is found is true of these data: single words as targets, joined from the same recordings of words."""
    names = ("new_val", "dev_ask_new", "dev_ask_old")
    report = check_files(
        [SPEAKS_DIR / f"{name}.json" for name in names],
        tmp_path / "report",
        codes=[SPEAKS_DIR / f"{name}.safetensors" for name in names],
        model_path=str(SPEAKS_DIR / "base_model"),
    )
    assert report["summary"]["codes"]["form"] == "8 codebooks of 64 codes"
    assert found_kinds(report).keys() == {
        "reference_length",
        "target_length",
        "duplicate_samples",
        "conflicting_transcripts",
    }
