"""Tests of the filter: each rule drops what was planted for it and nothing else; bounds, names, models, both sides."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from tests.sample_copies import reference, target
from tests.tools.test_check import say
from tests.voice_cloning.data_check.filtered_data import (
    CLEAN,
    PLANTED,
    WORDS,
    Hearing,
    clean_records,
    dropped,
    kept_ids,
    pair,
    planted_records,
    run_filter,
    write_source,
)
from voice_cloning.data_check import filter as filter_module
from voice_cloning.data_check import kept_measures
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.filter_rules import CHOOSABLE, RULES, Bounds, bounds_of, chosen_rules
from voice_cloning.data_check.voice_rules import VoiceCheck
from voice_cloning.speech.speaker_embedding import Calibration, SpeakerEmbedding

CLEAN_IDS = [f"clean{number}" for number in range(CLEAN)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of faultless records and records with each defect, filtered once into ``out``."""
    folder = tmp_path_factory.mktemp("filtered")
    records = clean_records(folder) + planted_records(folder)
    run_filter([write_source(folder, records)], folder / "out")
    return folder


@pytest.fixture
def measured(source: Path, tmp_path: Path) -> Path:
    """A folder that holds the measures of ``source`` already, and nothing else."""
    shutil.copytree(source / "out" / "measures", tmp_path / "out" / "measures")
    return tmp_path / "out"


def rules_of(lines: Iterable[dict[str, Any]], sample_id: str) -> set[str]:
    return {line["rule"] for line in lines if line["sample_id"] == sample_id}


# -- each rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["target", "reference"])
@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_drops_its_sample_and_names_the_clip(defect: str, side: str, source: Path) -> None:
    own = [line for line in dropped(source / "out") if line["sample_id"] == f"{side} {defect}"]
    assert PLANTED[defect] in {line["rule"] for line in own}
    assert {(line["clip"], Path(line["audio"]).name.startswith(defect)) for line in own} == {(side, True)}
    for line in own:
        assert (line["value"] is None) == (line["rule"] == "errors")
        assert line["file"] == str(source / "train.json") and line["text"] and line["detail"]


def test_faultless_samples_are_kept_in_order(source: Path) -> None:
    assert kept_ids(source / "out" / "train.json") == CLEAN_IDS


def test_what_is_kept_has_no_finding_of_the_rules(source: Path) -> None:
    report = check_files([source / "out" / "train.json"], source / "report", num_workers=1, speaker_model="none")
    assert (report["errors"], report["warnings"]) == ([], [])


@pytest.mark.parametrize("rule", sorted(set(PLANTED.values())))
def test_a_rule_alone_drops_its_own_and_without_it_they_stay(rule: str, source: Path, measured: Path) -> None:
    alone = run_filter([source / "train.json"], measured, rules=[rule], dry_run=True)
    others = run_filter([source / "train.json"], measured, without=[rule], dry_run=True)
    assert [r["rule"] for r in alone["rules"]] == [rule] and rule not in [r["rule"] for r in others["rules"]]
    ids = {line["sample_id"] for line in dropped(source / "out") if line["rule"] == rule}
    only = {i for i in ids if rules_of(dropped(source / "out"), i) == {rule}}
    (counted,) = alone["rules"]
    assert counted["samples"] == counted["alone"] == alone["samples"] - alone["kept"] == len(ids)
    assert others["samples"] - others["kept"] == 2 * len(PLANTED) - len(only)


def test_repeated_samples_and_contradictions_are_dropped(tmp_path: Path) -> None:
    records = clean_records(tmp_path, 4)
    again, other = (json.loads(json.dumps(records[at])) for at in (0, 1))
    again["misc"]["sample_id"], other["misc"]["sample_id"] = "again", "other text"
    say(other, "ثمانية سبعة ستة خمسة أربعة ثلاثة", " ".join(WORDS[:6]))
    run_filter([write_source(tmp_path, [*records, again, other])], tmp_path / "out")
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean2", "clean3"]
    lines = dropped(tmp_path / "out")
    assert [(line["sample_id"], line["rule"], line["clip"]) for line in lines] == [
        ("clean1", "conflicting_transcripts", "target"),
        ("again", "duplicates", "target"),
        ("other text", "conflicting_transcripts", "target"),
    ]


def test_evaluation_samples_with_a_voice_or_utterance_of_training_are_dropped(tmp_path: Path) -> None:
    train = clean_records(tmp_path, 3)
    unseen, seen, same = (pair(tmp_path, name, seed) for name, seed in (("unseen", 300), ("seen", 310), ("same", 320)))
    unseen["speaker"], same["speaker"] = "new", "newer"
    target(same).update(target(train[0]))
    say(same, train[0]["messages"][2]["content"][0]["text"], same["messages"][1]["content"][0]["text"])
    files = [write_source(tmp_path, train), write_source(tmp_path, [unseen, seen, same], "val.jsonl")]
    summary = run_filter(files, tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out" / "val.jsonl").read_text("utf-8").splitlines()]
    assert [made["misc"]["sample_id"] for made in kept] == ["unseen"]
    assert {(line["sample_id"], line["kind"]) for line in dropped(tmp_path / "out")} == {
        ("seen", "speaker_in_train_and_eval"),
        ("same", "utterance_in_train_and_eval"),
    }
    assert [(file["side"], file["kept"], file["samples"]) for file in summary["files"]] == [
        ("train", 3, 3),
        ("eval", 1, 3),
    ]
    assert "any speech: 6 clips have no band" in summary["files"][0]["letters_per_second"]["from"]


def test_a_malformed_record_is_dropped_and_its_neighbours_are_not(tmp_path: Path) -> None:
    records = clean_records(tmp_path, 2)
    records[0]["messages"][2]["role"] = "speaker"
    silent = json.loads(json.dumps(records[1]))
    silent["misc"]["sample_id"] = "no text"
    say(silent, " ", " ".join(WORDS[:6]))
    run_filter([write_source(tmp_path, [silent, *records, "no record"])], tmp_path / "out")
    kinds = {(line["sample_id"], line["kind"]) for line in dropped(tmp_path / "out")}
    assert kinds == {
        ("no text", "missing_text"),
        ("clean0", "malformed_record"),
        ("record 3", "malformed_record"),
    }
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean1"]


def test_a_reference_of_another_voice_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = clean_records(tmp_path, 6)
    for made in records:
        made["speaker"] = "one"
    other = Path(reference(records[2])["audio_url"]).name

    def embed(clips: list[Clip], *_: Any) -> dict[Clip, SpeakerEmbedding]:
        vectors = {True: np.eye(4, dtype="f4")[0], False: np.eye(4, dtype="f4")[1]}
        return {clip: SpeakerEmbedding(vectors[Path(clip.source).name == other], 4.0) for clip in clips}

    monkeypatch.setattr(kept_measures, "embed_clips", embed)
    monkeypatch.setattr(filter_module, "plan_voice_check", lambda *_: VoiceCheck("stub", Calibration(0.5)))
    path = write_source(tmp_path, records)
    run_filter([path], tmp_path / "out")
    (line,) = dropped(tmp_path / "out")
    assert (line["sample_id"], line["rule"], line["clip"]) == ("clean2", "reference_of_another_voice", "reference")
    assert (Path(line["audio"]).name, line["value"], line["bound"]) == (other, 0.0, 0.5)
    monkeypatch.setattr(kept_measures, "embed_clips", lambda *_: pytest.fail("the voices are kept"))
    assert run_filter([path], tmp_path / "out")["kept"] == 5


def test_no_sample_is_dropped_for_the_sake_of_one_that_is_dropped(tmp_path: Path) -> None:
    train = clean_records(tmp_path, 3)
    broken = json.loads(json.dumps(train[0]))
    broken["misc"]["sample_id"] = "first of a pair"
    reference(broken)["audio_url"] = "none.wav"
    alone = pair(tmp_path, "other voice", 330, target="missing", speaker="new")
    val = pair(tmp_path, "val", 340, speaker="new")
    files = [write_source(tmp_path, [broken, *train, alone]), write_source(tmp_path, [val], "val.json")]
    run_filter(files, tmp_path / "out")
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean1", "clean2"]
    assert kept_ids(tmp_path / "out" / "val.json") == ["val"]


# -- the recogniser --------------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> tuple[Path, Hearing]:
    """A file of six samples whose clips all have other lengths, and a recogniser that hears their texts."""
    records, texts = [], {}
    for number in range(6):
        made = pair(tmp_path, f"s{number}", 400 + 2 * number)
        target(made)["duration"] = 3.5 + number / 100
        reference(made)["duration"] = 3.8 + number / 100
        user, assistant = made["messages"][1]["content"], made["messages"][2]["content"]
        texts[round(24_000 * (3.5 + number / 100))] = assistant[0]["text"]
        texts[round(24_000 * (3.8 + number / 100))] = user[0]["text"]
        records.append(made)
    return write_source(tmp_path, records), Hearing(texts)


def test_texts_that_the_recogniser_does_not_hear_are_dropped(told: tuple[Path, Hearing], tmp_path: Path) -> None:
    path, hearing = told
    hearing.texts[round(24_000 * 3.52)] = "هذا كلام آخر تماما"  # of a target
    hearing.texts[round(24_000 * 3.84)] = ""  # of a reference
    hearing.texts[round(24_000 * 3.51)] += " نعم"  # a few characters more
    run_filter([path], tmp_path / "out", recogniser=hearing)
    lines = dropped(tmp_path / "out")
    assert [(line["sample_id"], line["rule"], line["clip"]) for line in lines] == [
        ("s2", "transcript", "target"),
        ("s4", "transcript", "reference"),
    ]
    assert lines[0]["value"] > 0.5 and "هذا كلام آخر تماما" in lines[0]["detail"]
    assert (lines[1]["value"], lines[1]["bound"]) == (1.0, 0.3)
    assert hearing.heard == 12


def test_nothing_is_recognised_twice_and_another_recogniser_hears_all(
    told: tuple[Path, Hearing], tmp_path: Path
) -> None:
    path, hearing = told
    hearing.texts[round(24_000 * 3.51)] += " نعم"
    for bound, kept in ((0.3, 6), (0.01, 5), (0.3, 6)):
        summary = run_filter([path], tmp_path / "out", recogniser=hearing, bounds=Bounds(max_cer=bound), overwrite=True)
        assert (summary["kept"], hearing.heard) == (kept, 12)
    run_filter([path], tmp_path / "out", recogniser=hearing, recogniser_version="2", overwrite=True)
    assert hearing.heard == 24


def test_a_recogniser_that_returns_too_few_texts_is_refused(told: tuple[Path, Hearing], tmp_path: Path) -> None:
    path, hearing = told
    hearing.transcribe = lambda clips: ["نعم"]
    with pytest.raises(InputError, match="--asr hearing: returned 1 results for 8 clips"):
        run_filter([path], tmp_path / "out", recogniser=hearing)


# -- names and bounds ------------------------------------------------------------------------------------------------


def test_rules_that_are_none_are_all_named() -> None:
    with pytest.raises(InputError, match=r"(?s)\(3\).*--rules SNR: .*mean snr\?.*--rules nois: .*--without levels"):
        chosen_rules(["SNR", "nois", "length"], ["levels"])
    with pytest.raises(InputError, match="no rule is left"):
        chosen_rules(["snr"], ["snr"])
    assert chosen_rules(["level", "snr"]) == ("snr", "level")
    assert chosen_rules(None, ["errors"]) == CHOOSABLE[1:] == tuple(RULES)[2:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_snr": float("nan")}, "--min_snr nan: must be from 0 to 120"),
        ({"min_snr": -1.0}, "--min_snr -1: must be from 0 to 120"),
        ({"target_seconds": [5.0, 5.0]}, "--target_seconds 5 5: the first must be below the second"),
        ({"min_bandwidth": 16_000.0}, "--min_bandwidth 16000: must be from 0 to 12000"),
        ({"max_cer": 0.1}, "--max_cer: a bound of the rule transcript, which does not apply"),
    ],
)
def test_a_bound_that_cannot_be_is_named(given: dict[str, Any], message: str) -> None:
    rules = chosen_rules(None, ["transcript"])
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        bounds_of(given, rules)


def test_all_wrong_bounds_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)\(2\).*--min_level 3.*--max_cer -1"):
        Bounds(min_level=3.0, max_cer=-1.0)


def test_a_value_at_its_bound_is_kept(source: Path, measured: Path) -> None:
    (line,) = [line for line in dropped(source / "out") if line["sample_id"] == "target short"]
    bounds = Bounds(target_seconds=(line["value"], 30.0))
    summary = run_filter([source / "train.json"], measured, rules=["length"], bounds=bounds, dry_run=True)
    assert summary["rules"][0]["samples"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ["transcript"]}, "--rules transcript: cannot be applied: no recogniser is given"),
        ({"rules": ["snr"], "recogniser": Hearing({})}, "--asr hearing: the rule transcript does not apply"),
        ({"rules": ["reference_of_another_voice"]}, "--rules reference_of_another_voice: cannot be applied"),
    ],
)
def test_a_rule_without_its_model_is_refused_if_it_was_named(
    settings: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_filter([source / "train.json"], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
