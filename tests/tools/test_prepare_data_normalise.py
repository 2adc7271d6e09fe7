"""Tests of prepare_data normalise: only texts change, as in training, and paths still lead to the clips."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from arabic_text.diacritics import diacritise, load_diacritiser
from arabic_text.normalise import normalise_for_speech
from arabic_voice_cloning_dataset import PROMPT_STYLES, read_json_records, read_records
from boson_multimodal.cloning_example import AS_WRITTEN_INSTRUCTION
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, record, text, write_clip, write_records
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.normalise_files import normalise_file

RAW_AUDIO = {"type": "audio", "audio_url": "placeholder", "raw_audio": "AAAA"}


def odd_records() -> list[dict[str, Any]]:
    """Return records with texts that change, in every form that records can have."""
    instructed = record("s0", audio("clips/ref.wav"), audio("clips/a.wav", offset=0.5, duration=1.0), speaker="أمل")
    instructed["messages"][1]["content"] = [
        text("عندي 3 كتب"),
        audio("clips/ref.wav"),
        text(AS_WRITTEN_INSTRUCTION + "مرحبـا,كيف حالك?"),
    ]
    instructed["messages"][2]["content"][0] = text("مرحبـا,كيف حالك?")
    instructed["misc"] |= {
        "ref_transcript": "عندي 3 كتب",
        "target_transcript": "مرحبـا,كيف حالك?",
        "note": "مرحبـا 3 \ud800",
    }
    bare = {
        "messages": [
            {"role": "system", "content": "مرحبـا 3"},
            {"role": "user", "content": "\u200fنعم 50%"},
            {"role": "assistant", "content": RAW_AUDIO},
            {"role": "user", "content": ["www.a.com 2", text("۵ دقايق")]},
            {"role": "assistant", "content": [audio("/clips/b.wav")], "recipient": "x 1"},
        ],
        "misc": None,
    }
    return [instructed, bare]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("ref", "a"):
        write_clip(tmp_path / "source" / "clips" / f"{name}.wav")
    return write_records(tmp_path / "source" / "data.json", odd_records())


def texts_of(raw: dict[str, Any]) -> list[str]:
    contents = [message["content"] for message in raw["messages"]]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    return [part if isinstance(part, str) else part["text"] for part in parts if "audio_url" not in part]


def test_only_texts_change(data: Path, tmp_path: Path) -> None:
    summary = normalise_file(data, tmp_path / "out")
    first, second = read_json_records(tmp_path / "out" / "data.json")
    assert texts_of(first) == [
        "You are a helpful assistant.",
        "عندي ثلاثة كتب",
        AS_WRITTEN_INSTRUCTION + "مرحبا، كيف حالك؟",
        "مرحبا، كيف حالك؟",
    ]
    assert first["misc"] == {
        "sample_id": "s0",
        "ref_transcript": "عندي ثلاثة كتب",
        "target_transcript": "مرحبا، كيف حالك؟",
        "note": "مرحبـا 3 \ud800",
    }
    assert texts_of(second) == ["مرحبـا 3", "نعم خمسون بالمئة", "www.a.com 2", "خمس دقايق"]
    assert first["messages"][2]["content"][1] == audio("../source/clips/a.wav", offset=0.5, duration=1.0)
    assert second["messages"][2]["content"] == RAW_AUDIO
    assert second["messages"][4] == odd_records()[1]["messages"][4]
    assert second["misc"] is None and first["start_index"] == 0 and first["speaker"] == "أمل"
    assert (summary.texts, summary.changed) == (8, 7)
    assert summary.kinds["tatweel"] == 3 and summary.kinds["digits"] == 4 and summary.kinds["bidi_controls"] == 1


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("style", list(PROMPT_STYLES))
@pytest.mark.parametrize("digits", ["spell", "keep"])
def test_training_on_the_result_equals_training_with_text_normalisation(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, suffix: str, style: str, digits: str
) -> None:
    lines = [json.dumps(raw) for raw in odd_records()]
    source = tmp_path / f"data{suffix}"
    source.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    normalise_file(source, tmp_path / "out", digits=digits)
    how = "speech" if digits == "spell" else "speech_keep_digits"
    wanted = read_records(source, tokenizer, style, how)
    found = read_records(tmp_path / "out" / source.name, tokenizer, style, "none")
    assert [(r.input_ids, r.label_ids, r.problems) for r in found] == [
        (r.input_ids, r.label_ids, r.problems) for r in wanted
    ]
    assert found[0].input_ids != read_records(source, tokenizer, style, "none")[0].input_ids
    again = read_records(tmp_path / "out" / source.name, tokenizer, style, how)
    assert [r.input_ids for r in again] == [r.input_ids for r in wanted]


def test_relative_paths_lead_to_the_clips_through_links_and_absolute_paths_stay(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "far" / "store" / "a.wav")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "clips").symlink_to(tmp_path / "far" / "store")
    urls = ["clips/a.wav", "clips/../store/a.wav", str(clip), "~/a.wav"]
    source = write_records(tmp_path / "source" / "data.json", [record(u, audio(u), audio(u)) for u in urls])
    normalise_file(source, tmp_path / "out" / "deep")
    written = read_json_records(tmp_path / "out" / "deep" / "data.json")
    found = [raw["messages"][2]["content"][1]["audio_url"] for raw in written]
    assert found[2:] == urls[2:]
    for url in found[:2]:
        assert not Path(url).is_absolute()
        assert (tmp_path / "out" / "deep" / url).samefile(clip)


def test_a_repeated_command_changes_nothing_and_other_content_stays(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["normalise", str(data), "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    out, written = capsys.readouterr().out, tmp_path / "out" / "data.json"
    assert "7 of 8 texts changed" in out and "عندي 3 كتب  ->  عندي ثلاثة كتب" in out
    assert "<U+200F>نعم 50%" in out and "digits left: 1, in 1 place(s): record 1 (2)" in out
    before = (written.read_bytes(), written.stat().st_mtime_ns)
    assert main(command) == 0
    assert (written.read_bytes(), written.stat().st_mtime_ns) == before
    capsys.readouterr()
    assert main([*command, "--digits", "keep"]) == 1
    assert "data.json" in capsys.readouterr().err and written.read_bytes() == before[0]
    assert main([*command, "--digits", "keep", "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "digits left: 5, in 2 place(s): s0 (3 3), record 1 (50 2 ۵)" in out
    # The output is normalised already: another run changes no text.
    assert main(["normalise", str(written), "--digits", "keep", "--output_dir", str(tmp_path / "again")]) == 0
    assert "0 of 8 texts changed" in capsys.readouterr().out


def test_all_problems_are_listed_and_nothing_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = odd_records()
    broken[0]["messages"][1]["role"] = "human"
    broken[1]["messages"][1]["content"] = "\U0001f600"
    write_records(tmp_path / "broken.json", broken)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\n")
    out = tmp_path / "out"
    files = [str(data), *(str(tmp_path / name) for name in ("broken.json", "bytes.txt", "absent.json", "no.txt"))]
    assert main(["normalise", *files, "--output_dir", str(out)]) == 1
    err = capsys.readouterr().err
    for part in ("s0: messages[1].role", "record 1: messages[1]", "after normalisation", "bytes.txt: line 1"):
        assert part in err
    assert "absent.json: no such file" in err and "no.txt: cannot be read" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{data}"], "--output_dir: missing"),
        (["-", "{data}"], "give it alone"),
        (["-", "--output_dir", "x"], "give it alone"),
        (["{data}", "--output_dir", "{folder}"], "the output would replace the input"),
        (["{data}", "{folder}/../data.json", "--output_dir", "x"], "another input has the name data.json too"),
        (["{folder}/clips/a.wav", "--output_dir", "x"], "must end in .json, .jsonl, .txt"),
        (["{data}", "--output_dir", "x", "--report", "{data}"], "is an input or an output of this command"),
        (["{data}", "--output_dir", "x", "--report", "{folder}"], "is a folder"),
        (["{data}", "--output_dir", "x", "--report", "r", "--digits", "keep"], "--digits keep reads none"),
        (["-", "--report", "r", "--digits", "keep"], "--digits keep reads none"),
    ],
)
def test_impossible_arguments_are_refused(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(data=data, folder=data.parent) for argument in arguments]
    assert main(["normalise", *filled]) == 1
    assert message in capsys.readouterr().err


def test_lines_of_text_from_a_file_and_from_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    content = "\ufeffعندي 3 كتب\r\n\nنعم\u2028لا".encode()
    wanted = "عندي ثلاثة كتب\n\nنعم لا\n".encode()
    (tmp_path / "texts.txt").write_bytes(content)
    assert main(["normalise", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "texts.txt").read_bytes() == wanted
    capsysbinary.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["normalise", "-"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == wanted and b"2 of 3 texts changed" in err


def test_the_report_lists_places_with_several_readings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("نعم\nفي 5/6/2023\n", encoding="utf-8")
    report = tmp_path / "reports" / "ambiguous.jsonl"
    files = [str(data), str(tmp_path / "texts.txt")]
    command = ["normalise", *files, "--output_dir", str(tmp_path / "out"), "--report", str(report)]
    assert main(command) == 0
    assert "places that can be read in several ways: 1 (day or month 1)" in capsys.readouterr().out
    *of_data, place = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert {other["file"] for other in of_data} == {str(data)}
    assert place == {
        "file": str(tmp_path / "texts.txt"),
        "where": "line 2",
        "text": "في 5/6/2023",
        "kind": "day_or_month",
        "written": "5/6/2023",
        "taken": "الخامس من يونيو ألفين وثلاثة وعشرين",
        "others": ["السادس من مايو ألفين وثلاثة وعشرين"],
    }
    assert main(command) == 0, "the same report again"
    report.write_text("other", encoding="utf-8")
    assert main(command) == 1 and "exists with other content" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert json.loads(report.read_text(encoding="utf-8").splitlines()[-1]) == place


def test_the_report_names_the_sample_once_for_a_text_that_it_repeats(tmp_path: Path) -> None:
    raw = record("s0", audio("ref.wav"), audio("a.wav"))
    raw["messages"][1]["content"] = [text("في 5/6/2023")]
    raw["misc"] |= {"target_transcript": "في 5/6/2023"}
    source = write_records(tmp_path / "data.json", [raw])
    report = tmp_path / "r.jsonl"
    assert main(["normalise", str(source), "--output_dir", str(tmp_path / "out"), "--report", str(report)]) == 0
    places = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert [(place["where"], place["kind"]) for place in places] == [("s0", "day_or_month")]


class FakeDiacritizer:
    """Puts a fatha after every letter, changes the spelling of one word, and loses one word."""

    def diacritize(self, sentence: str) -> str:
        words = sentence.replace("احمد", "أحمد").replace("ضائع", "").split()
        return " ".join("".join(c + "\u064e" if c.isalpha() and not c.isascii() else c for c in w) for w in words)


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("text2tashkeel")
    module.Diacritizer = FakeDiacritizer
    monkeypatch.setitem(sys.modules, "text2tashkeel", module)


def test_diacritise_adds_marks_and_keeps_letters(fake_library: None) -> None:
    add_marks = load_diacritiser("text2tashkeel")
    assert diacritise("نعم hello، لا", add_marks) == ("نَعَمَ hello، لَاَ", 2, 0)
    assert diacritise("احمد نعم", add_marks) == ("احمد نَعَمَ", 1, 1)
    assert diacritise("مُحَمَّدٌ نعم", add_marks) == ("مُحَمَّدٌ نَعَمَ", 1, 0)
    assert diacritise("نعم ضائع. لا", add_marks) == ("نعم ضائع. لَاَ", 1, 2)
    assert diacritise("", add_marks) == ("", 0, 0)


def test_the_command_adds_marks_after_normalisation(
    fake_library: None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["normalise", str(data), "--output_dir", str(tmp_path / "out"), "--diacritise", "text2tashkeel"]
    assert main(command) == 0
    assert "marks added to" in capsys.readouterr().out
    first = read_json_records(tmp_path / "out" / "data.json")[0]
    spoken = first["messages"][1]["content"][0]["text"]
    assert spoken == "عَنَدَيَ ثَلَاَثَةَ كَتَبَ" and normalise_for_speech(spoken) == spoken
    assert first["messages"][1]["content"][2]["text"].startswith(AS_WRITTEN_INSTRUCTION)


def test_a_missing_library_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "text2tashkeel", None)
    command = ["normalise", str(data), "--output_dir", str(tmp_path / "out"), "--diacritise", "text2tashkeel"]
    assert main(command) == 1
    assert "pip install text2tashkeel" in capsys.readouterr().err
    with pytest.raises(InputError, match="must be one of"):
        load_diacritiser("other")


def test_the_real_library_keeps_letters_too() -> None:
    pytest.importorskip("text2tashkeel", reason="pip install text2tashkeel")
    add_marks = load_diacritiser("text2tashkeel")
    spoken, marked, unmarked = diacritise("ذهب الولد إلى المدرسة، ومُحَمَّدٌ hello", add_marks)
    assert marked == 4 and unmarked == 0
    assert "مُحَمَّدٌ hello" in spoken and spoken != "ذهب الولد إلى المدرسة، ومُحَمَّدٌ hello"
