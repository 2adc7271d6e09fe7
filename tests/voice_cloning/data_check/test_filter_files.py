"""Tests of what the filter writes: records as they were, paths that lead to the clips, reasons, counts, the card."""

import base64
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from arabic_voice_cloning_dataset import read_json_records
from boson_multimodal.errors import InputError
from tests.sample_copies import reference, target
from tests.tools.test_check import say
from tests.voice_cloning.data_check.filtered_data import (
    clean_records,
    dropped,
    kept_ids,
    pair,
    run_filter,
    write_source,
)
from voice_cloning.corpora.normalise_files import with_paths
from voice_cloning.data_check import kept_measures
from voice_cloning.data_check.filter_files import record_texts
from voice_cloning.data_check.filter_rules import Bounds


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four faultless records and, between them, one whose target is short and noisy reference."""
    folder = tmp_path_factory.mktemp("source")
    records = clean_records(folder, 4)
    write_source(folder, [*records[:2], pair(folder, "bad", 500, target="short", reference="noisy"), *records[2:]])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- records and paths -----------------------------------------------------------------------------------------------

FORMS = {
    "indented.json": lambda records: json.dumps(records, indent=2),
    "one line.json": lambda records: json.dumps(records, ensure_ascii=False, separators=(",", ":")),
    "odd space.json": lambda records: "\ufeff \n[\t" + " ,\r\n".join(json.dumps(r) for r in records) + "\n ]\n\n",
    "lines.jsonl": lambda records: "\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in records),
}


@pytest.mark.parametrize("name", FORMS)
def test_kept_records_are_byte_equal_but_for_their_paths(name: str, source: Path, tmp_path: Path) -> None:
    records = json.loads((source / "train.json").read_text(encoding="utf-8"))
    for made in records:
        made["misc"] |= {"note": '\u2028 نص \\ " ]', "number": 1e3, "audio_url": "x.wav"}
        target(made)["audio_url"] = str(source / target(made)["audio_url"])  # an absolute path stays
    path = source / name
    path.write_text(FORMS[name](records), encoding="utf-8", newline="")
    run_filter([path], tmp_path / "out")
    before, after = record_texts(path), record_texts(tmp_path / "out" / name)
    moved = os.path.relpath(source, tmp_path / "out")
    kept = [text for text in before if '"bad"' not in text]
    assert len(kept) == len(after) == 4
    for text, written in zip(kept, after, strict=True):
        url = reference(json.loads(text))["audio_url"]
        assert written == text.replace(f'"{url}"', f'"{moved}/{url}"')
    for made in read_json_records(tmp_path / "out" / name):
        assert (tmp_path / "out" / reference(made)["audio_url"]).samefile(
            source / Path(reference(made)["audio_url"]).name
        )
    path.unlink()


def test_a_record_with_the_same_path_elsewhere_changes_only_its_clips(source: Path, tmp_path: Path) -> None:
    made = json.loads((source / "train.json").read_text(encoding="utf-8"))[0]
    made["misc"]["audio_url"] = reference(made)["audio_url"]
    path = source / "same path.json"
    path.write_text(json.dumps([made]), encoding="utf-8")
    run_filter([path], tmp_path / "out")
    (written,) = json.loads((tmp_path / "out" / "same path.json").read_text(encoding="utf-8"))
    assert written == with_paths(made, source, tmp_path / "out") and written["misc"] == made["misc"] != written
    path.unlink()


def test_random_json_lists_are_cut_into_the_texts_of_their_records(tmp_path: Path) -> None:
    rng = random.Random(0)

    def value(depth: int) -> Any:
        plain = [None, True, -0.5, 10**20, 'a]"[,{}\\', "نص\u2028"]
        if depth == 0 or rng.random() < 0.4:
            return rng.choice(plain)
        return (
            [value(depth - 1) for _ in range(rng.randrange(4))]
            if rng.random() < 0.5
            else {f"k{i}": value(depth - 1) for i in range(rng.randrange(4))}
        )

    for number in range(200):
        records = [value(3) for _ in range(rng.randrange(1, 5))]
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(records, indent=rng.choice([None, 0, 3]), ensure_ascii=rng.random() < 0.5), "utf-8")
        assert [json.loads(text) for text in record_texts(path)] == records


# -- reasons, counts, card -------------------------------------------------------------------------------------------


def test_each_reason_is_a_line_and_the_summary_counts_them(source: Path, tmp_path: Path) -> None:
    summary = run_filter([source / "train.json"], tmp_path / "out", least_clips=2)
    lines = dropped(tmp_path / "out")
    assert [(line["rule"], line["kind"], line["clip"], line["bound"]) for line in lines] == [
        ("length", "target_seconds", "target", 0.5),
        ("snr", "min_snr", "reference", 20.0),
    ]
    assert {line["sample_id"] for line in lines} == {"bad"} and lines[0]["text"] == "نعم"
    counts = {rule["rule"]: (rule["samples"], rule["alone"]) for rule in summary["rules"]}
    assert {name: count for name, count in counts.items() if count != (0, 0)} == {"length": (1, 0), "snr": (1, 0)}
    assert (summary["samples"], summary["kept"]) == (5, 4)
    assert summary["hours"] == pytest.approx(16.4 / 3600, abs=1e-6)
    assert summary["kept_hours"] == pytest.approx(16 / 3600, abs=1e-6)
    assert [(d["dialect"], d["kept"], d["samples"]) for d in summary["dialects"]] == [
        (None, 2, 3),
        ("Hijazi", 1, 1),
        ("Najdi", 1, 1),
    ]
    assert {s["speaker"]: (s["kept"], s["samples"]) for s in summary["speakers"]} == {
        "s0": (1, 1),
        "s1": (2, 2),
        "s2": (1, 2),
    }
    assert [s["speaker"] for s in summary["speakers_with_few_clips"]] == ["s2", "s0"]
    assert json.loads((tmp_path / "out" / "filter_summary.json").read_text(encoding="utf-8")) == summary


def test_without_dialects_none_are_counted(source: Path, tmp_path: Path) -> None:
    records = json.loads((source / "train.json").read_text(encoding="utf-8"))[2:]
    path = write_source(source, records, "plain.json")
    assert run_filter([path], tmp_path / "out")["dialects"] == []


def test_the_card_keeps_the_licence_and_says_what_was_done(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(source, folder)
    card = "---\nlicense: cc-by-nc-4.0\n---\n\n# صوت\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    run_filter([folder / "train.json"], tmp_path / "out")
    written = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert written.startswith(card.rstrip()) and "## Filtered" in written and "keeps 4 of 5 samples" in written
    assert str(tmp_path) not in written and str(folder) not in written, "a card holds no folder of this machine"
    other = tmp_path / "more" / "more.json"
    other.parent.mkdir()
    shutil.copy(write_source(folder, clean_records(folder, 1), "more.json"), other)
    for clip in folder.glob("10[01].wav"):
        shutil.copy(clip, other.parent)
    (other.parent / "README.md").write_text("license: cc-by-4.0", encoding="utf-8")
    run_filter([folder / "train.json", other], tmp_path / "both", without=["duplicates"])
    written = (tmp_path / "both" / "README.md").read_text(encoding="utf-8")
    assert card.rstrip() in written and "license: cc-by-4.0" in written and "keeps 1 of 1 samples" in written
    (folder / "README.md").unlink()
    run_filter([folder / "train.json"], tmp_path / "other")
    assert not (tmp_path / "other" / "README.md").exists()


# -- again -----------------------------------------------------------------------------------------------------------


def test_the_same_command_changes_nothing_and_another_needs_overwrite(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = source / "train.json", tmp_path / "out"
    run_filter([path], out)
    before, times = contents(out), {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    monkeypatch.setattr(kept_measures, "measure_file", lambda _: pytest.fail("the measures are kept"))
    run_filter([path], out)
    assert (contents(out), {p: p.stat().st_mtime_ns for p in out.rglob("*")}) == (before, times)
    loose = {"bounds": Bounds(target_seconds=(0.1, 30.0), min_snr=5.0)}
    with pytest.raises(InputError, match=r"(?s)other content.*--overwrite.*dropped.jsonl.*train.json"):
        run_filter([path], out, **loose)
    assert contents(out) == before
    assert run_filter([path], out, overwrite=True, **loose)["kept"] == 5
    assert kept_ids(out / "train.json") == ["clean0", "clean1", "bad", "clean2", "clean3"]
    assert (out / "dropped.jsonl").read_bytes() == b""


def test_a_dry_run_keeps_only_measures(source: Path, tmp_path: Path) -> None:
    dry = run_filter([source / "train.json"], tmp_path / "out", dry_run=True)
    assert list(contents(tmp_path / "out")) == ["measures/clips.jsonl"]
    assert run_filter([source / "train.json"], tmp_path / "out") == dry


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_stopped_filter_goes_on_and_ends_with_the_same_bytes(
    is_torn: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, whole = source / "train.json", tmp_path / "out", tmp_path / "whole"
    run_filter([path], whole)
    measured, calls = kept_measures.measure_file, []

    def measure(clips: list) -> list:
        if len(calls) == 6 and not (out / "resumed").exists():
            raise KeyboardInterrupt
        calls.append(clips)
        return measured(clips)

    monkeypatch.setattr(kept_measures, "measure_file", measure)
    with pytest.raises(KeyboardInterrupt):
        run_filter([path], out)
    kept = out / "measures" / "clips.jsonl"
    if is_torn:  # the last line was being written
        kept.write_bytes(kept.read_bytes()[:-100])
    (out / "resumed").touch()
    run_filter([path], out)
    (out / "resumed").unlink()
    assert len(calls) == 10 + is_torn
    after, wanted = contents(out), contents(whole)
    assert after.pop("measures/clips.jsonl") and wanted.pop("measures/clips.jsonl")
    assert after == wanted


def test_a_changed_clip_is_measured_again_and_a_moved_one_is_not(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source, tmp_path / "in")
    run_filter([tmp_path / "in" / "train.json"], tmp_path / "out")
    shutil.move(tmp_path / "in", tmp_path / "moved")
    (changed,) = (tmp_path / "moved").glob("short*.wav")
    shutil.copy(tmp_path / "moved" / "100.wav", changed)
    measured, calls = kept_measures.measure_file, []
    monkeypatch.setattr(kept_measures, "measure_file", lambda clips: calls.append(clips) or measured(clips))
    run_filter([tmp_path / "moved" / "train.json"], tmp_path / "out", overwrite=True)
    assert calls == []  # its new content was measured under another name
    changed.write_bytes(changed.read_bytes()[:44] + bytes(384_000))
    run_filter([tmp_path / "moved" / "train.json"], tmp_path / "out", overwrite=True)
    assert [[clip.source for clip in clips] for clips in calls] == [[changed]]


# -- wrong input -----------------------------------------------------------------------------------------------------


def test_if_nothing_is_left_the_rule_and_a_bound_that_keeps_half_are_named(source: Path, tmp_path: Path) -> None:
    path, bounds = source / "train.json", Bounds(min_snr=120.0)
    with pytest.raises(InputError, match=r"(?s)all 5 samples are dropped \(length 1, snr 5\).*rule snr drops") as error:
        run_filter([path], tmp_path / "out", bounds=bounds)
    assert list(contents(tmp_path / "out")) == ["measures/clips.jsonl"]
    bound = float(str(error.value).split("--min_snr ")[1].split()[0])
    assert run_filter([path], tmp_path / "out", bounds=Bounds(min_snr=bound), rules=["snr"])["kept"] == 3


@pytest.mark.parametrize("bounds", [Bounds(target_seconds=(10.0, 30.0)), Bounds(target_seconds=(0.1, 2.0))])
def test_a_range_that_keeps_half_is_named(bounds: Bounds, source: Path, tmp_path: Path) -> None:
    records = json.loads((source / "train.json").read_text(encoding="utf-8"))
    for made in records:
        target(made)["audio_url"] = str(source / target(made)["audio_url"])
        reference(made)["audio_url"] = str(source / reference(made)["audio_url"])
    path = write_source(tmp_path, [r for r in records if r["misc"]["sample_id"] != "bad"])
    with pytest.raises(InputError) as error:
        run_filter([path], tmp_path / "out", bounds=bounds)
    least, most = map(float, str(error.value).split("--target_seconds ")[1].split()[:2])
    wider = Bounds(target_seconds=(least, most))
    assert run_filter([path], tmp_path / "out", bounds=wider, rules=["length"])["kept"] >= 2


def test_names_that_would_be_overwritten_are_refused(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "in" / "train.json"
    other.parent.mkdir()
    shutil.copy(source / "train.json", other)
    with pytest.raises(InputError, match=r"(?s)\(2\).*another input has the name train.json too"):
        run_filter([source / "train.json", other], tmp_path / "out")
    with pytest.raises(InputError, match="would replace the input"):
        run_filter([other], other.parent)
    with pytest.raises(InputError, match="the filter itself writes filter_summary.json"):
        run_filter([other.with_name("filter_summary.json")], tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        run_filter([tmp_path / "none.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_base64_audio_and_cuts_are_filtered_like_files(source: Path, tmp_path: Path) -> None:
    records = clean_records(tmp_path, 2)
    raw = base64.b64encode((tmp_path / target(records[0])["audio_url"]).read_bytes()).decode()
    target(records[0]).update({"audio_url": "placeholder", "raw_audio": raw})
    target(records[1])["duration"] = 0.3
    say(records[1], "نعم", records[1]["messages"][1]["content"][0]["text"])
    run_filter([write_source(tmp_path, records)], tmp_path / "out")
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0"]
    (line,) = dropped(tmp_path / "out")
    assert (line["sample_id"], line["rule"], line["value"]) == ("clean1", "length", 0.3)
