"""Tests of the filter's rule ``where``: what a condition drops, what it hides from the other rules, what stops it."""

import json
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.sample_copies import target
from tests.tools.test_check import say
from tests.voice_cloning.data_check.filtered_data import (
    clean_records,
    dropped,
    kept_ids,
    pair,
    run_filter,
    write_source,
)
from voice_cloning.data_check import kept_measures
from voice_cloning.data_check.filter_rules import CHOOSABLE, chosen_rules

DIALECTS = ("Najdi", "Hijazi", "Najdi", None)
NAJDI = "dialect == 'Najdi'"


def with_dialects(records: list[dict[str, Any]], dialects: tuple[str | None, ...] = DIALECTS) -> list[dict[str, Any]]:
    for made, dialect in zip(records, dialects, strict=True):
        made["misc"] = {"sample_id": made["misc"]["sample_id"]} | ({} if dialect is None else {"dialect": dialect})
    return records


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four faultless records of the dialects above, and a short target of a Najdi and of an Egyptian."""
    folder = tmp_path_factory.mktemp("where")
    bad = [pair(folder, name, seed, target="short") for name, seed in (("bad", 500), ("other bad", 512))]
    records = [*with_dialects(clean_records(folder, 4)), *with_dialects(bad, ("Najdi", "Egyptian"))]
    write_source(folder, records)
    return folder


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return the records of ``source``, with absolute paths."""
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    for made in records:
        for clip in (target(made), made["messages"][1]["content"][1]):
            clip["audio_url"] = str(folder / clip["audio_url"])
    return records


# -- what is dropped -------------------------------------------------------------------------------------------------


def test_what_the_condition_leaves_out_is_dropped_and_counted(source: Path, tmp_path: Path) -> None:
    told: list[str] = []
    where = "dialect == 'Najdi'\n or dialect in ('Hijazi', 'Hijazzi') and speaker == 's9'"
    summary = run_filter([source / "train.json"], tmp_path / "out", where=where, announce=told.append)
    shown = where.replace("\n", " ")
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean2"]
    lines = dropped(tmp_path / "out")
    assert [(line["sample_id"], line["rule"], line["kind"]) for line in lines] == [
        ("clean1", "where", "where"),
        ("clean3", "where", "where"),
        ("bad", "length", "target_seconds"),
        ("other bad", "where", "where"),
    ]
    assert {line["detail"] for line in lines if line["rule"] == "where"} == {shown}
    assert all(line["text"] and not line["clip"] and line["value"] is None for line in lines if line["rule"] == "where")
    (facts,) = told
    assert f"--where {shown}: keeps 3 of 6, leaves out 3 (1 of them because a value is missing)" in facts
    assert "--where: no dialect is 'Hijazzi'; there are 'Najdi' (3), 'Hijazi' (1), 'Egyptian' (1)" in facts
    rule = summary["rules"][0]
    assert (rule["rule"], rule["bounds"], rule["samples"], rule["alone"]) == ("where", f"--where {shown}", 3, 3)
    assert summary["where"] == shown and rule["hours"] == pytest.approx(8.4 / 3600, abs=1e-6)
    assert summary["hours"] == pytest.approx(16.8 / 3600, abs=1e-6)
    assert summary["kept_hours"] == pytest.approx(8 / 3600, abs=1e-6)
    assert sum(speaker["samples"] for speaker in summary["speakers"]) == 6


def test_it_is_as_if_the_file_had_the_chosen_records_only(source: Path, tmp_path: Path) -> None:
    path = source / "train.json"
    records = [made for made in records_of(source) if made["misc"].get("dialect") == "Najdi"]
    alone = write_source(tmp_path, records)
    first, other = tmp_path / "where", tmp_path / "alone"
    summary, wanted = run_filter([path], first, where=NAJDI), run_filter([alone], other)
    assert kept_ids(first / "train.json") == kept_ids(other / "train.json")
    own = [line | {"file": ""} for line in dropped(first) if line["rule"] != "where"]
    assert own == [line | {"file": ""} for line in dropped(other)] != []
    assert summary["rules"][1:] == wanted["rules"] and "where" not in wanted
    few = [[(s["speaker"], s["kept"]) for s in made["speakers_with_few_clips"]] for made in (summary, wanted)]
    assert few[0] == few[1] != []
    assert summary["files"][0]["letters_per_second"] == wanted["files"][0]["letters_per_second"]


def test_no_sample_is_dropped_for_the_sake_of_one_that_the_condition_leaves_out(source: Path, tmp_path: Path) -> None:
    first, _, repeated, other = records_of(source)[:4]
    texts = first["messages"][2]["content"][0]["text"], first["messages"][1]["content"][0]["text"]
    for made in (repeated, other):
        target(made).update(target(first))
        say(made, *texts)
    say(other, "ثمانية سبعة ستة خمسة أربعة ثلاثة", other["messages"][1]["content"][0]["text"])
    first["misc"]["dialect"], other["misc"]["dialect"] = "Hijazi", "Egyptian"
    path = write_source(tmp_path, [first, repeated, other])
    run_filter([path], tmp_path / "out", where=NAJDI)
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean2"]
    assert {line["rule"] for line in dropped(tmp_path / "out")} == {"where"}


def test_a_voice_of_training_that_is_left_out_drops_no_evaluation_sample(source: Path, tmp_path: Path) -> None:
    train, left_out, _, val = records_of(source)[:4]
    val["misc"]["dialect"], val["speaker"] = "Najdi", left_out["speaker"]
    files = [write_source(tmp_path, [train, left_out]), write_source(tmp_path, [val], "val.json")]
    assert run_filter(files, tmp_path / "out", where=NAJDI)["kept"] == 2
    with pytest.raises(InputError, match=r"val.json: all 1 samples are dropped \(both_sides 1\)"):
        run_filter(files, tmp_path / "out")


def test_records_that_cannot_be_read_are_dropped_by_both_rules(source: Path, tmp_path: Path) -> None:
    good, odd, silent = records_of(source)[:3]
    odd["messages"][2]["role"] = "speaker"
    silent["messages"] = silent["messages"][:2]  # no target
    path, told = write_source(tmp_path, [odd, good, silent, "no record"]), []
    run_filter([path], tmp_path / "out", where="speaker is not None", announce=told.append)
    rules = [(line["sample_id"], line["rule"]) for line in dropped(tmp_path / "out")]
    assert set(rules) == {(name, rule) for name in ("clean1", "clean2", "record 3") for rule in ("where", "errors")}
    assert rules[:2] == [("clean1", "where"), ("clean1", "errors")]
    assert "keeps 1 of 1" in told[0] and "leaves out 3 more, which cannot be read or have no target clip" in told[0]
    run_filter([path], tmp_path / "without", where="speaker is not None", without=["errors"])
    assert kept_ids(tmp_path / "without" / "train.json") == ["clean0"]


def test_the_condition_can_be_the_only_rule(source: Path, tmp_path: Path) -> None:
    summary = run_filter([source / "train.json"], tmp_path / "out", where=NAJDI, without=CHOOSABLE)
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean2", "bad"]
    assert [rule["rule"] for rule in summary["rules"]] == ["where"]


def test_if_nothing_is_left_the_message_counts_what_the_condition_keeps(source: Path, tmp_path: Path) -> None:
    wanted = r"train.json: all 2 samples that --where keeps are dropped \(length 2\). The rule length drops most"
    with pytest.raises(InputError, match=wanted):
        run_filter([source / "train.json"], tmp_path / "out", where="text == 'نعم'")


# -- what stops it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "dialekt == 'Najdi'"}, r"(?s)there are .*dialect.*dialekt: no such value"),
        ({"where": "duration > 1"}, r"there are characters, dialect, file, sample_id, [^$]*duration: no such value"),
        ({"where": "dialect == 'najdi'"}, r"(?s)keeps none of 7; .*dialect: 'Najdi' \(3\).*missing 1 times"),
        ({"where": NAJDI}, r"(?s)val.json: --where .*: keeps none of 1; .*dialect: 'Gulf' \(1\)\nnothing is written"),
        ({"where": "dialect = 'Najdi'"}, "= at character 9: write =="),
        ({"where": ""}, "--where: is empty"),
        ({"where": NAJDI, "rules": ["where"]}, "--rules where: cannot be chosen: it applies if --where CONDITION"),
        ({"without": ["where"]}, "--without where: cannot be chosen"),
    ],
)
def test_a_wrong_condition_stops_before_any_clip_is_measured(
    settings: dict[str, Any], message: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (val,) = with_dialects(records_of(source)[:1], ("Gulf",))
    monkeypatch.setattr(kept_measures, "measure_file", lambda _: pytest.fail("a clip is measured"))
    with pytest.raises(InputError, match=message):
        run_filter([source / "train.json", write_source(tmp_path, [val], "val.json")], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_file_whose_records_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    path = write_source(tmp_path, ["no record"], "val.json")
    with pytest.raises(InputError, match=r"val.json: --where .*: keeps nothing; each record cannot be read"):
        run_filter([source / "train.json", path], tmp_path / "out", where=NAJDI)


def test_the_rule_is_first_and_no_rule_needs_to_be_left() -> None:
    assert chosen_rules(["snr", "length"], (), True) == ("where", "length", "snr")
    assert chosen_rules(None, CHOOSABLE, True) == ("where",)
    assert "where" not in chosen_rules(None)
