"""The comparison of recipes: its mixtures, its ledger, its rule, and that it goes on where it was stopped."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import what_one_hears
from benchmarks.spoken_words import Answer
from benchmarks.what_one_hears import RECIPES, Ledger, Mixture, Recipe, Row, main, mixed_records, order_of, table
from tests.goldens import SHARED_DIR

DATA = SHARED_DIR / "speaks"
needs_words = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/speaks is absent")
ROW = Row("a", 42, 3000, 300, 0.5, 0.4, 1.0, 0.99, 1.02, 3.4)


def record(name: str, voice: str) -> dict[str, Any]:
    messages = [{"content": f"{name} {part}"} for part in ("reference text", "reference", "text", "target")]
    misc = {"sample_id": name, "words": [name], "ref_transcript": f"{name} reference text"}
    return {"messages": messages, "start_index": 3, "speaker": voice, "misc": misc}


NEW = [record(f"new{number}", str(number % 2)) for number in range(6)]
BASE = [record(f"base{number}", str(number % 3)) for number in range(9)]


def test_a_mixture_holds_all_new_samples_and_so_many_of_the_base() -> None:
    names = [found["misc"]["sample_id"] for found in mixed_records(Mixture(base=4), NEW, BASE)]
    assert names[:6] == [found["misc"]["sample_id"] for found in NEW]
    assert len(names) == 10 and len(set(names)) == 10
    assert names == [found["misc"]["sample_id"] for found in mixed_records(Mixture(base=4), NEW, BASE)]
    assert set(names) < {found["misc"]["sample_id"] for found in mixed_records(Mixture(base=5), NEW, BASE)}


def test_trained_references_begin_at_the_first_answer() -> None:
    found = mixed_records(Mixture(trains_reference=True), NEW, BASE)
    assert [record["start_index"] for record in found] == [1] * 6
    assert [record["start_index"] for record in NEW] == [3] * 6


def test_a_new_pairing_takes_the_reference_of_another_sample_of_the_voice() -> None:
    found = mixed_records(Mixture(pairings=3), NEW, BASE)
    assert len({record["misc"]["sample_id"] for record in found}) == 18
    assert Counter(record["messages"][3]["content"] for record in found) == {f"new{n} target": 3 for n in range(6)}
    voices = {record["misc"]["sample_id"]: record["speaker"] for record in NEW}
    for paired in found[6:]:
        text, clip, _, target = (message["content"].split()[0] for message in paired["messages"])
        assert text == clip != target and voices[clip] == paired["speaker"] == voices[target]
        assert paired["misc"]["ref_transcript"] == f"{clip} reference text" and paired["misc"]["words"] == [target]


def test_more_samples_of_the_base_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="wants 10 samples of base.json, which holds 9"):
        mixed_records(Mixture(base=10), NEW, BASE)


def test_the_rule_asks_for_every_aim() -> None:
    """What is more than reached in one aim makes up for nothing."""
    met, more = order_of(ROW), order_of(replace(ROW, new=0.6))
    assert met[0] == more[0] == 1.0 and more > met
    for missed in (replace(ROW, new=0.4, old=0.9), replace(ROW, old=0.1, new=0.9), replace(ROW, ended=0.5, new=0.9)):
        assert order_of(missed) < met


def test_a_table_has_the_best_recipe_first_and_means_of_seeds() -> None:
    rows = [replace(ROW, recipe="worse", new=0.1), ROW, replace(ROW, seed=43, new=0.6)]
    best, worse = table(rows)[2:]
    assert best == "| a | 3000 | 2 | 55.0% | 40.0% | 100.0% | 99.0% | 1.02 | 3.400 | 50.0%/40.0%, 60.0%/40.0% |"
    assert worse.startswith("| worse | 3000 | 1 | 10.0% |")


def test_the_ledger_reads_what_it_wrote_and_names_a_foreign_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.tsv")
    rows = [replace(ROW, step=1500), ROW, replace(ROW, seed=43, new=1 / 3)]
    for row in rows:
        ledger.add(row)
    assert ledger.rows() == rows and ledger.last_rows() == rows[1:]
    with ledger.path.open("a") as file:
        file.write("a\tb\n")
    with pytest.raises(ValueError, match=r"ledger.tsv: a line is not of this program"):
        ledger.rows()


class FakeRuns:
    """Takes the place of training and of speaking. The recipe ``good`` says every word."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.judged: list[str] = []

    def train(self, recipe: Recipe, seed: int, run: Path, args: object) -> None:
        self.trained.append(run.name)
        for step in (2, 4):
            (run / f"checkpoint-{step:06d}").mkdir(parents=True, exist_ok=True)
        (run / "run.json").touch()
        losses = [{"step": 2, "eval_loss": 3.0}, {"step": 4, "eval_loss": 3.5}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))

    def judge(self, checkpoint: Path, args: object) -> dict[str, list[Answer]]:
        self.judged.append(f"{checkpoint.parent.name}/{int(checkpoint.name[-6:])}")
        is_good = checkpoint.parent.name.startswith("good") and checkpoint.name.endswith("4")
        return {kind: [Answer(is_good, True, True, 1.0)] * 3 for kind in ("new", "old")}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    runs = FakeRuns()
    monkeypatch.setattr(what_one_hears, "train", runs.train)
    monkeypatch.setattr(what_one_hears, "judge_checkpoint", runs.judge)
    monkeypatch.setattr(what_one_hears, "RECIPES", {"bad": Recipe(Mixture()), "good": Recipe(Mixture())})
    return runs


def test_all_recipes_are_screened_and_the_best_gets_three_seeds(
    fake: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output_dir", str(tmp_path)]
    assert main(words) == 0
    assert fake.trained == ["bad-42", "good-42", "good-43", "good-44"]
    assert len(fake.judged) == 8 and fake.judged[:2] == ["bad-42/2", "bad-42/4"]
    last, by_loss = capsys.readouterr().out.split("Checkpoints that the evaluation loss chooses:")
    assert "| good | 4 | 3 | 100.0% |" in last and "| good | 2 | 3 | 0.0% |" in by_loss
    assert main(words) == 0
    assert len(fake.judged) == 8  # nothing is judged twice


def test_the_number_of_runs_is_limited(fake: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", str(tmp_path), "--runs", "3"]) == 1
    assert fake.trained == ["bad-42", "good-42", "good-43"]
    assert "3 runs have begun, and --runs is 3; good-44 would be more" in capsys.readouterr().err


def test_an_unknown_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", str(tmp_path), "--recipes", "other"]) == 1
    assert f"--recipes other: unknown; the recipes are {', '.join(RECIPES)}" in capsys.readouterr().err


@pytest.mark.slow
@needs_words
def test_a_recipe_is_trained_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(Mixture(base=10, trains_reference=True, pairings=2), "--lora_targets attention", steps=6)
    monkeypatch.setattr(what_one_hears, "QUICK", {"tiny": recipe})
    monkeypatch.setattr(what_one_hears, "QUICK_WORDS", 2)
    assert main(["--data", str(DATA), "--output_dir", str(tmp_path), "--quick"]) == 0
    (row,) = Ledger(tmp_path / "ledger.tsv").last_rows()
    assert (row.recipe, row.seed, row.step, row.words) == ("tiny", 42, 6, 4)
    assert row.eval_loss > 0 and row.length_ratio > 0
    assert "| tiny | 6 | 1 |" in capsys.readouterr().out
