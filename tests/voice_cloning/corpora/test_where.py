"""Conditions of ``--where``: what they keep, what they refuse, and what they say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from tests.voice_cloning.corpora.source_forms import CLIPS_EACH, SPEAKERS, clips_form, records_of
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.build import SUMMARY_FILE
from voice_cloning.corpora.utterances import Cell, Utterance
from voice_cloning.corpora.where import Condition
from voice_cloning.corpora.where_values import keep_where, values_of_record, values_of_utterance

VALUES: dict[str, Any] = {
    "dialect": "Najdi",
    "duration": 2.5,
    "quality": "3.10",
    "age": "thirties",
    "date": "2024-05-01",
    "speaker": "007",
    "clean": True,
    "was_read": "false",
    "up_votes": 12,
    "blank": " ",
    "list": ["Najdi"],
    "speaker-city": "الرياض",
    "لهجة": "نجدية",
}


@pytest.mark.parametrize(
    "text",
    [
        "dialect == 'Najdi'",
        'dialect in ("Najdi", "Hijazi") and duration > 1',
        "dialect in ['Najdi']",
        "dialect in {'Najdi'}",
        "dialect in ('Najdi')",
        "'Naj' in dialect",
        "dialect not in ('Egyptian',)",
        "not dialect == 'Egyptian'",
        "dialect != 'Egyptian' and not (duration < 1 or duration > 30)",
        "1 < duration <= 2.5 < 3",
        "duration == 2.5 and duration >= 2.5 and duration != 2",
        "duration > -1 and duration < +3e0",
        "quality > 3 and quality < 3.2 and quality == 3.1",
        "quality > '3' and quality < '20'",
        "up_votes > 2 and up_votes == '12' and up_votes in (11, 12) and up_votes in ('12',)",
        "date >= '2024-01-01' and date < '2024-06'",
        "speaker == '007' and speaker == 7 and speaker != '7'",
        "clean == True and was_read == False and clean != False",
        "age != 30 and not age == 30",
        "gender is None and gender == None and dialect is not None and dialect != None",
        "blank is None and list is None",
        "gender in (None, 'female')",
        "gender == 'female' or duration > 1",
        "not (gender == 'female' and duration > 100)",
        "misc['speaker-city'] == 'الرياض' and لهجة == 'نجدية'",
        "  dialect ==\n'Najdi'\t",
        "dialect == 'Naj\\x64i'",
        "dialect != '# a = b && c <> \u201cd\u201d'",
    ],
)
def test_a_condition_that_is_true(text: str) -> None:
    assert Condition.parse(text).holds(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "dialect == 'najdi'",
        "dialect == 'Najdi ' or dialect in ('Egyptian', 'Najd')",
        "duration < 2.5 or duration > 2.5",
        "1 < duration < 2",
        "speaker == '7'",
        "up_votes < 2",
        "quality > '20'",
        "'Najdi' in list",
        "dialect is None",
        "blank == ' '",
    ],
)
def test_a_condition_that_is_false(text: str) -> None:
    assert not Condition.parse(text).holds(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "gender == 'female'",
        "gender != 'female'",
        "not gender == 'female'",
        "gender not in ('female', 'male')",
        "gender > 1 or gender <= 1",
        "'f' in gender",
        "not 'f' in gender",
        "gender == 'female' and duration > 1",
        "gender == 'female' or duration > 100",
        "age > 30",
        "age <= 30",
    ],
)
def test_a_missing_value_answers_neither_a_comparison_nor_its_contrary(text: str) -> None:
    condition = Condition.parse(text)
    assert condition.answer(VALUES) is None and not condition.holds(VALUES)
    assert not Condition.parse(f"not ({text})").holds(VALUES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("dialect = 'Najdi'", "= at character 9: write =="),
        ("dialect <> 'Najdi'", "<> at character 9: write !="),
        ("dialect == 'a' AND duration > 1", "AND at character 16: write and"),
        ("dialect == 'a' && duration > 1 || x > 2", "|| at character 32: write or"),
        ("dialect IN ('a')", "IN at character 9: write in"),
        ("gender IS NULL", "NULL at character 11: write None"),
        ("text LIKE 'a%'", "write 'PART' in NAME"),
        ("duration BETWEEN 1 AND 2", "write 1 <= NAME <= 5"),
        ("dialect == \u201cNajdi\u201d", "write a straight quotation mark"),
        ("dialect in ('a'\u060c 'b')", "write a comma"),
        ("dialect in ('a' 'b')", "'a' at character 13: write a comma (,) between two texts"),
        ("dialect == 'Najdi", "unterminated string literal"),
        ("dialect in ('a', 'b'", "never closed"),
        ("duration >", "cannot be read"),
        ("duration > 1 or", "invalid syntax at the end"),
        ("duration > 1 # and dialect == 'Najdi'", "# at character 14: write no comment"),
        ("dialect in 'Najdi', 'Hijazi'", "a list stands in parentheses"),
        ("dialect == ('Najdi', 'Hijazi')", "a list stands after in or not in"),
        ("from == 'tv'", "is written misc['NAME']"),
        ("speaker == 007", "leading zeros"),
        ("duration > \u0662", "invalid character"),
        ("dialect", "dialect at character 1: must be a comparison"),
        ("duration > 1 and dialect", "dialect at character 18: must be a comparison"),
        ("'Najdi'", "must be a comparison"),
        ("1 < 2", "it names no value"),
        ("duration * 2 > 3", "duration * 2 at character 1: must be a name, a text in quotes or a number; nothing is"),
        ("speaker-city == 'a'", "misc['NAME']"),
        ("len(text) > 3", "len(text) at character 1: must be a name"),
        ("__import__('os').system('true') == 0", "must be a name"),
        ("text.__class__ == 'a'", "must be a name"),
        ("لهجة == len(text)", "len(text) at character 9"),
        ("f'{text}' == 'a'", "must be a name"),
        ("text == b'a'", "must be a name"),
        ("duration > 1j", "must be a name"),
        ("[d for d in (1, 2)] == 'a'", "must be a name"),
        ("(lambda: 1)() == duration", "must be a name"),
        ("duration > 1 if text == 'a' else 2", "must be a comparison"),
        ("dialect is 'Najdi'", "write == or !="),
        ("duration > None", "None has no order"),
        ("dialect in ()", "is an empty list"),
        ("text == 'a'; duration > 1", "; at character 12: write and"),
        ("(x := 3) > 1", "= at character 5: write =="),
        ("duration > 1\x00", "cannot be read"),
        ("duration > " + "9" * 5000, "cannot be read"),
        ("(" * 300 + "duration" + ")" * 300 + " > 1", "cannot be read"),
        ("not " * 60 + "duration > 1", "levels deep"),
        ("not " * 100_000 + "duration > 1", "cannot be read"),
    ],
)
def test_what_is_not_allowed_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Condition.parse(text)
    assert said in str(caught.value)
    assert "--where" in str(caught.value)


def test_all_wrong_places_are_named_at_once() -> None:
    with pytest.raises(InputError, match="len") as caught:
        Condition.parse("len(text) > 3 and dialect or duration + 1 < 2")
    for part in ("len(text) at character 1", "dialect at character 19", "duration + 1 at character 30", "allowed are"):
        assert part in str(caught.value)


def test_names_are_those_of_the_values() -> None:
    condition = Condition.parse("b > 1 and 'x' in a and b < 3 and misc['c d'] in ('y', 'z') and a != 'w'")
    assert condition.names == ("b", "a", "c d")
    assert condition.literals == (("c d", "y"), ("c d", "z"), ("a", "w"))


def utterance(i: int, **misc: str | int | float) -> Utterance:
    return Utterance(f"u{i}", Path(f"/data/clip{i}.wav"), "خمسة 5", "amal", f"line {i}", seconds=0.5 * i, misc=misc)


UTTERANCES = [utterance(i, dialect=("Najdi", "Hijazi", "Khaliji")[i % 3], age=20 + i) for i in range(1, 25)]
UTTERANCES += [utterance(30, gender="female")]


def test_an_utterance_has_these_values() -> None:
    values = values_of_utterance(utterance(3, dialect="Najdi", text="not the text", snr="31.5"))
    expected = {"utterance_id": "u3", "speaker": "amal", "text": "خمسة 5", "duration": 1.5, "file": "clip3.wav"}
    assert dict(values) == expected | {"characters": 8, "dialect": "Najdi", "snr": "31.5"}, "5 is spelled: خمسه"
    assert len(values) == 8 and values.get("gender") is None
    in_table = replace(utterance(1), audio=Cell(Path("train.parquet"), "audio", 7, "train-7.wav"))
    assert values_of_utterance(in_table)["file"] == "train-7.wav"


def test_a_record_has_these_values() -> None:
    example = VoiceCloningExample("أهلا", AudioContent("a.wav"), "خمسة 5", AudioContent("clips/b.wav", duration=4.0))
    record = example.record("s1", "amal", 3.5, {"dialect": "Najdi"})
    values = values_of_record(record)
    chosen = ("sample_id", "speaker", "text", "duration", "characters", "file", "dialect")
    assert [values[name] for name in chosen] == ["s1", "amal", "خمسة 5", 3.5, 8, "b.wav", "Najdi"]
    kept = keep_where([record], Condition.parse("characters == 8 and dialect == 'Najdi'"), values_of_record)
    assert kept.kept == [record]
    del record["misc"]["duration"]
    assert values_of_record(record)["duration"] == 4.0
    with pytest.raises(InputError, match="a record cannot be read"):
        values_of_record({"messages": []})


def test_what_is_kept_is_counted_and_a_value_that_is_nowhere_is_named() -> None:
    kept = keep_where(UTTERANCES, Condition.parse("dialect in ('Najdi', 'Hijazzi') and duration > 1"))
    assert [u.utterance_id for u in kept.kept] == ["u3", "u6", "u9", "u12", "u15", "u18", "u21", "u24"]
    assert len(kept.left_out) == 17
    assert kept.facts == [
        "--where dialect in ('Najdi', 'Hijazzi') and duration > 1: keeps 8 of 25, leaves out 17 (1 of them because a "
        "value is missing)",
        "--where: no dialect is 'Hijazzi'; there are 'Hijazi' (8), 'Khaliji' (8), 'Najdi' (8); missing 1 times",
    ]


def test_a_name_that_none_has_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(InputError) as caught:
        keep_where(UTTERANCES, Condition.parse("dialct == 'Najdi' or dialect == Najdi"))
    assert "dialct: no such value" in str(caught.value) and "Najdi: no such value; a text is written in quotes: 'Najdi'"
    assert "there are age, characters, dialect, duration, file, gender, speaker, text, utterance_id" in str(
        caught.value
    )


def test_a_condition_that_keeps_nothing_is_refused_with_the_values_that_exist() -> None:
    with pytest.raises(InputError) as caught:
        keep_where(
            UTTERANCES, Condition.parse("dialect == 'najdi' and duration > 1 and utterance_id != 'x' and age < 1")
        )
    for part in (
        "keeps none of 25",
        "dialect: 'Hijazi' (8), 'Khaliji' (8), 'Najdi' (8); missing 1 times",
        "duration: 25 different numbers from 0.5 to 15",
        "and 15 other ones",
    ):
        assert part in str(caught.value)
    assert keep_where([], Condition.parse("dialect == 'x'")).kept == []


def test_build_keeps_what_the_condition_is_true_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = clips_form(tmp_path / "source"), tmp_path / "out"
    command = ["build", str(source), "--output_dir", str(out), "--eval_share", "0", "--where"]
    assert main([*command, f"speaker in ('{SPEAKERS[0]}', 'badr') and duration > 0.22"]) == 0
    said, summary = capsys.readouterr(), json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert {r["speaker"] for r in records_of(out)} == {SPEAKERS[0], "badr"}
    assert len(records_of(out)) == 2 * (CLIPS_EACH - 1) == summary["utterances"]
    assert sorted(summary["left_out"]["by_where"]) == sorted(
        [f"{SPEAKERS[0]}/0", "badr/0", *(f"dina/{i}" for i in range(CLIPS_EACH))]
    )
    assert summary["settings"]["where"].startswith("speaker in (")
    assert "keeps 6 of 12, leaves out 6" in said.out and "left out, by where (6)" in said.err
    for wrong, reason in (
        ("speaker = 'badr'", "write =="),
        ("speakr == 'badr'", "there are characters"),
        ("", "empty"),
    ):
        assert main([*command, wrong, "--overwrite"]) == 1
        assert reason in capsys.readouterr().err
    assert len(records_of(out)) == 6
