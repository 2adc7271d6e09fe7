"""Tables: delimiters, quotes, encodings, headers; what columns hold; and what does not add up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.chatml_files import write_clip
from tests.voice_cloning.corpora.source_forms import SPEAKERS, TEXTS, built, sources, words, write_lines
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.build import SUMMARY_FILE, build_data


@pytest.mark.parametrize(
    ("name", "row", "header"),
    [
        ("list.csv", "{name},{text},{who}", "file,text,speaker"),
        ("list.csv", "{name};{text};{who}", "file;text;speaker"),
        ("list.csv", '"{name}";"{text}";"{who}"', '"file";"text";"speaker"'),
        ("list.csv", '"{name}"|"{text}"|"{who}"', '"file"|"text"|"speaker"'),
        ("list.csv", "{name}, {text} , {who}", "FILE, Text , Speaker"),
        ("list.csv", "{name}\t{text}\t{who}", "sep=\t\nfile\ttext\tspeaker"),
        ("list.psv", "{who}|{name}|{text}", "speaker|file|text"),
        ("list.csv", "{name}|{who}|{text}", None),
        ("list.csv", "{name}|{text}|{who}", None),
        ("list.csv", "{name}|{who}|AR|{text}", None),
        ("list.tsv", "{who}\t{name}\t{text}", None),
        ("list.csv", "{who},{text},{name}", None),
    ],
)
def test_columns_are_told_apart(name: str, row: str, header: str | None, tmp_path: Path) -> None:
    rows = [row.format(name=file, text=text, who=who) for file, text, who in sources(tmp_path)]
    table = write_lines(tmp_path / name, [header, *rows] if header else rows)
    found, said = built(table, tmp_path / "out")
    assert found == TEXTS
    assert "12 utterances, voices: 3" in said and ("no header" in said) == (header is None)


@pytest.mark.parametrize("row", ["{name}|one|{text}", "{name}|AR|one|{text}", "{name}|{text}|ar-EG|one"])
def test_a_value_that_never_changes_is_the_one_speaker(row: str, tmp_path: Path) -> None:
    rows = []
    for i, (name, text, _) in enumerate(sources(tmp_path)):
        (tmp_path / name).rename(tmp_path / f"{i}.wav")
        rows.append(row.format(name=f"{i}.wav", text=text))
    found, said = built(write_lines(tmp_path / "list.csv", rows), tmp_path / "out")
    assert found == dict.fromkeys(TEXTS, "one") and "voices: 1" in said


def test_a_text_and_its_normalised_form_are_told_from_a_speaker(tmp_path: Path) -> None:
    rows = [f"{Path(name).stem}|{who}|{text} 5|{text} خمسة" for name, text, who in sources(tmp_path, "wavs")]
    write_lines(tmp_path / "metadata.csv", rows)
    found, _ = built(tmp_path, tmp_path / "out")
    assert found == {f"{text} خمسة": speaker for text, speaker in TEXTS.items()}


@pytest.mark.parametrize(
    ("encode", "flags", "said"),
    [
        (lambda text: text.encode("utf-16"), {}, "encoding: UTF-16"),
        (lambda text: b"\xef\xbb\xbf\xef\xbb\xbf" + text.encode(), {}, "encoding: UTF-8"),
        (lambda text: text.replace("\n", "\r\n").encode(), {}, "encoding: UTF-8"),
        (lambda text: text.replace("\n", "\r").encode(), {}, "encoding: UTF-8"),
        (lambda text: text.replace("\n", "\n\n").encode(), {}, "blank lines: 13"),
        (lambda text: text.encode("cp1256"), {"encoding": "cp1256"}, "encoding: CP1256"),
    ],
)
def test_encodings_and_ends_of_lines(
    encode: Callable[[str], bytes], flags: dict[str, str], said: str, tmp_path: Path
) -> None:
    rows = [f"clip{i}.wav\t{text}\t{who}" for i, (_, text, who) in enumerate(sources(tmp_path))]
    for i, (name, _, _) in enumerate(sources(tmp_path)):
        (tmp_path / name).rename(tmp_path / f"clip{i}.wav")
    table = tmp_path / "list.tsv"
    table.write_bytes(encode("".join(f"{row}\n" for row in ["file\ttext\tspeaker", *rows])))
    found, announced = built(table, tmp_path / "out", **flags)
    assert found == TEXTS and said in announced


@pytest.mark.parametrize("header", [["file|text|speaker"], []])
def test_the_encoding_counts_when_the_form_is_detected(header: list[str], tmp_path: Path) -> None:
    rows = [f"wavs/{i}.wav|{text}|{who}" for i, (_, text, who) in enumerate(sources(tmp_path))]
    for i, (name, _, _) in enumerate(sources(tmp_path)):
        write_clip(tmp_path / "wavs" / f"{i}.wav").write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "metadata.csv").write_bytes("\n".join([*header, *rows]).encode("cp1256"))
    assert built(tmp_path, tmp_path / "out", encoding="cp1256")[0] == TEXTS
    with pytest.raises(InputError, match=r"metadata\.csv, line 1?\d: byte 0x.* is not UTF-8.*--encoding"):
        build_data(tmp_path, tmp_path / "out2")


def test_text_in_another_encoding_is_named_by_line(tmp_path: Path) -> None:
    rows = [f"{name}\t{text}\t{who}" for name, text, who in sources(tmp_path)]
    table = write_lines(tmp_path / "list.tsv", ["file\ttext\tspeaker", *rows])
    lines = table.read_bytes().split(b"\n")
    lines[3] = rows[2].replace("جملة", "بجملة").encode("cp1256", errors="ignore")
    table.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"list\.tsv, line 4: byte 0x.* is not UTF-8.*--encoding"):
        build_data(table, tmp_path / "out")
    table.write_bytes("\n".join(["file\ttext\tspeaker", *rows]).encode("utf-16-le"))
    with pytest.raises(InputError, match="--encoding utf-16-le"):
        build_data(table, tmp_path / "out")
    with pytest.raises(InputError, match="--encoding klingon: unknown"):
        build_data(table, tmp_path / "out", encoding="klingon")


def test_arabic_that_was_read_in_a_wrong_encoding_is_shown_as_it_should_be(tmp_path: Path) -> None:
    rows = [f"{name}\t{text.encode().decode('cp1252')}\t{who}" for name, text, who in sources(tmp_path)]
    table = write_lines(tmp_path / "list.tsv", ["file\ttext\tspeaker", *rows])
    with pytest.raises(InputError, match="wrong encoding; it should be .*" + words(SPEAKERS[0], 0)):
        build_data(table, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: f"{row}\textra", r"line 3: has 4 fields, but the first line names 3 columns; remove a tab"),
        (lambda row: row.split("\t")[0], r"line 3: has 1 fields.*write all fields"),
        (lambda row: row.replace("جملة", "\x07"), r"line 3: .*control character U\+0007"),
        (lambda row: row.replace("جملة", "\ufffd"), r"line 3: .*U\+FFFD"),
        (lambda row: row.replace(".wav", "\u200f.wav"), r"line 3: .*<U\+200F>\.wav: no such file"),
        (lambda row: row.replace("جملة", "clips/b.wav"), r"line 3: the text holds the name of a file, clips/b\.wav"),
        (lambda row: row.replace("جملة", "['جملة']").replace(" من أمل", "]"), r"line 3: .*a list or structure"),
        (lambda row: row.replace("جملة", r"\u062c\u0645"), r"line 3: .*in escapes.*it should be 'جم"),
        (lambda row: row.replace("جملة", "&#1580;&#1605;"), r"line 3: .*in escapes.*it should be 'جم"),
        (lambda row: row.rsplit("\t", 1)[0] + "\tNaN", r"line 3: no speaker is named"),
        (lambda row: "\t".join((row.split("\t")[0], "null", "x")), r"line 3: text is 'null'"),
        (lambda row: "\t".join((row.split("\t")[0], "12 ,", "x")), r"line 3: the text is '12 ,', which has no letter"),
    ],
)
def test_a_wrong_line_is_named_and_can_be_dropped(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    rows = [f"{name}\t{text}\t{who}" for name, text, who in sources(tmp_path)]
    rows[1] = change(rows[1])
    table = write_lines(tmp_path / "list.tsv", ["file\ttext\tspeaker", *rows])
    with pytest.raises(InputError, match=r"--drop_invalid leaves them out and lists all of them \(1\):") as caught:
        build_data(table, tmp_path / "out")
    assert caught.match(message)
    found, announced = built(table, tmp_path / "out", drop_invalid=True)
    assert found == {text: who for text, who in TEXTS.items() if text != words(SPEAKERS[0], 1)}
    assert "entries that cannot be used: 1" in announced
    left_out = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))["left_out"]
    assert len(left_out["invalid_entries"]) == 1 and "line 3" in left_out["invalid_entries"][0]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("file|text|speaker", "{name}|{who}|{text}", "texts repeat like a label: 3 different ones in 12 rows"),
        ("file|text|speaker", "{name}|{text}|{text} {name}", "speakers are as varied as texts: 12 speakers in 12 rows"),
        ("file|text|speaker", "{name}|{i}|{who}", "(?s)the text is '7', which has no letter.*--text_column"),
        (None, "{name}|{who}|{i}", "no column reads like a text; name it with --text_column NUMBER"),
        (None, "{name}|{who}|{mood}|{text}", "several columns repeat like a speaker; give --speaker_from NUMBER"),
        (None, "{name}|{text}|{i}.{i}", "no column repeats like a speaker; give --speaker_from NUMBER, or one"),
        (None, "{name}|{text}|نص {i} آخر تماما", "several columns read like a text"),
        (None, "{name}|{text}", "one voice was taken for all 12 clips, but their names form 3 groups"),
        ("file|text|file", "{name}|{text}|{who}", "file names 2 columns"),
    ],
)
def test_columns_that_do_not_add_up_stop_the_build(header: str | None, row: str, message: str, tmp_path: Path) -> None:
    rows = [
        row.format(name=name, text=text, who=who, i=i, mood=("froh", "müde")[i % 2])
        for i, (name, text, who) in enumerate(sources(tmp_path))
    ]
    table = write_lines(tmp_path / "list.csv", [header, *rows] if header else rows)
    with pytest.raises(InputError, match=message):
        build_data(table, tmp_path / "out", eval_share=0)
    with pytest.raises(InputError, match=message):
        build_data(table, tmp_path / "out", eval_share=0, drop_invalid=not message.startswith("(?s)"))


def test_named_columns_are_taken_at_the_users_word(tmp_path: Path) -> None:
    rows = [f"{name}|{i}|{who}" for i, (name, _, who) in enumerate(sources(tmp_path))]
    table = write_lines(tmp_path / "list.csv", ["file|text|speaker", *rows])
    found, _ = built(table, tmp_path / "out", text_column="text")
    assert found.keys() == {str(i) for i in range(12)}
    rows = [f"{name}|{text}|{i}" for i, (name, text, _) in enumerate(sources(tmp_path))]
    table = write_lines(tmp_path / "other.csv", rows)
    found, _ = built(table, tmp_path / "one", speaker_from="one")
    assert set(found.values()) == {"one"} and found.keys() == TEXTS.keys()
    found, _ = built(table, tmp_path / "names", speaker_from="name")
    assert found == TEXTS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": ["a"]}, "text must be a string, not ['a']"),
        ({"text": {"ar": "a"}}, "text must be a string, not {'ar': 'a'}"),
        ({"text": 5}, "text must be a string, not 5"),
        ({"text": True}, "text must be a string, not True"),
        ({"text": None}, "the text is empty"),
        ({"speaker": ["a"]}, "speaker must be a name or a whole number, not ['a']"),
        ({"speaker": False}, "speaker must be a name or a whole number, not False"),
        ({"speaker": 1.5}, "speaker must be a name or a whole number, not 1.5"),
        ({"speaker": None}, "no speaker is named"),
        ({"speaker": float("nan")}, "no speaker is named"),
        ({"audio": 7}, "audio must be the name of an audio file, not 7"),
        ({"audio": {"bytes": None}}, "no audio file is named in column audio"),
        ({"offset": "x"}, "offset must be a number of seconds of at least 0, not 'x'"),
        ({"offset": -1}, "offset must be a number of seconds of at least 0, not '-1'"),
        ({"offset": float("inf")}, "offset must be a number of seconds of at least 0, not 'inf'"),
        ({"offset": [1]}, "offset must be a number of seconds, not [1]"),
        ({"offset": 0, "duration": 0}, "a cut from 0 s of 0 s is impossible"),
        ({"offset": 5, "duration": 1}, "starts at 5 s"),
        ({"offset": 0, "duration": 100}, "ends at 100 s"),
        ({"channel": "left"}, "channel must be a channel, counted from 0, or A or B, not 'left'"),
        ({"channel": 1}, "has 1, counted from 0"),
    ],
)
def test_values_of_json_are_checked_by_field(value: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = [{"audio": name, "text": text, "speaker": who} for name, text, who in sources(tmp_path)]
    lines = [json.dumps(row | (value if i == 1 else {})) for i, row in enumerate(rows)]
    table = write_lines(tmp_path / "list.jsonl", lines)
    with pytest.raises(InputError) as caught:
        build_data(table, tmp_path / "out")
    assert f"list.jsonl, line 2: {message}" in str(caught.value) or message in str(caught.value).split("line 2: ")[1]
    assert str(caught.value).count("\n") == 1, "one entry only"


def test_a_speaker_may_be_the_number_0(tmp_path: Path) -> None:
    rows = [{"audio": n, "text": t, "speaker": SPEAKERS.index(w)} for n, t, w in sources(tmp_path)]
    (tmp_path / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    found, _ = built(tmp_path / "list.json", tmp_path / "out")
    assert found == {text: str(SPEAKERS.index(who)) for text, who in TEXTS.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it must hold a line for each clip"),
        ("only words\n", "holds no tab, comma, semicolon or bar"),
        ('{"audio": "a.wav", "text": "x", "text": "y"}\n', "line 1: not JSON \\(it has 'text' twice"),
        ("[" * 100_000, "not JSON .*nested too deeply"),
        ('{"messages": []}\n', "holds ChatML records already"),
        ("[1, 2]", "entry 1: it must be a JSON object"),
    ],
)
def test_what_is_no_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(content, encoding="utf-8")
    table = (
        (tmp_path / "list.json") if content[:1] in ("{", "[") else (tmp_path / "list.json").rename(tmp_path / "a.csv")
    )
    with pytest.raises(InputError, match=f"(?s){message}"):
        build_data(table, tmp_path / "out")


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f'{name},"{text}, نعم",{who},3' for name, text, who in sources(tmp_path)]
    write_lines(tmp_path / "metadata.csv", ["file_name,text,speaker,votes", *rows])
    for name in (".DS_Store", "._metadata.csv"):
        (tmp_path / name).write_bytes(b"Bud1")
    assert main(["build", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--dry_run"]) == 0
    said = capsys.readouterr().out
    for fact in (
        f"{tmp_path}: read as table",
        "table: metadata.csv, its first line names the columns",
        "delimiter: comma; quoting: double quotes",
        "encoding: UTF-8",
        "audio: column file_name",
        "text: column text",
        "speaker: column speaker",
        "columns that are not used: votes",
        "12 utterances, voices: 3, 0.00 h",
        "left aside, because they hold no data: 2 (.DS_Store, ._metadata.csv)",
        "sample: ",
        "speaker أمل: جملة ا من أمل, نعم",
        "--dry_run: nothing was written",
    ):
        assert fact in said
    assert not (tmp_path / "out").exists()


def test_many_invalid_entries_are_all_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{name}\t{text}\t{who}" for name, text, who in sources(tmp_path)]
    for i in range(30):
        write_clip(tmp_path / f"empty{i}.mp3").write_bytes(b"")
        rows.append(f"empty{i}.mp3\tنص رقم {i}\tbadr")
    write_lines(tmp_path / "validated.tsv", ["path\tsentence\tclient_id", *rows])
    command = ["build", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--eval_share", "0"]
    assert main(command) == 1
    assert "... and 10 more" in capsys.readouterr().err
    assert main([*command, "--drop_invalid"]) == 0
    assert "left out, invalid entries (30)" in (said := capsys.readouterr().err) and SUMMARY_FILE in said
    left_out = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))["left_out"]
    assert [f"line {14 + i}" in entry for i, entry in enumerate(left_out["invalid_entries"])] == [True] * 30
