"""The licences of the training data are in run.json, in the log, and on all cards of a run, but not in its identity."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS
from tests.chatml_files import write_records
from tests.exported_adapters import rename
from tests.training_runs import trainer
from voice_cloning.adapters.model_card import merged_card, read_facts, write_checkpoint_card
from voice_cloning.adapters.run_record import read_record
from voice_cloning.corpora.card_licences import DATA_CARD
from voice_cloning.corpora.known_corpora import SADA, licence_facts

TEXT = "SADA (Saudi Audio Dataset for Arabic): CC BY-NC-SA 4.0, as its publisher names it; no commercial use; changed "
FORBIDDEN = "licences of training data forbid commercial use"


@pytest.fixture
def files(demo: Path, tmp_path: Path) -> list[Path]:
    """Two files with absolute paths of clips, the first with a card beside it."""
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))
    for one in records:
        for message in one["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "audio":
                    part["audio_url"] = str(demo / part["audio_url"])
    for name in ("known", "unknown"):
        (tmp_path / name).mkdir()
    facts = [f"- {fact}" for fact in licence_facts(SADA)]
    (tmp_path / "known" / DATA_CARD).write_text("\n".join(["## Licence", *facts, ""]), encoding="utf-8")
    own = (("known", records[:8]), ("unknown", records[8:]))
    return [write_records(tmp_path / name / f"{name}.json", some) for name, some in own]


def test_licences_reach_every_card_and_the_data_are_not_needed_for_it(
    demo: Path, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"eval_data_path": None, "max_steps": 1, "lora_targets": ["attention"], "data_path": files}
    run = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        checkpoint = trainer(demo, run, **settings).train().checkpoint
    (line,) = [message for message in caplog.messages if FORBIDDEN in message]
    assert f"{files[0]} ({TEXT}" in line and str(files[1]) not in line
    known, unknown = read_record(run / "run.json")["data"]["training"]["parts"]
    assert known["licences"][0].startswith(TEXT) and "licences" not in unknown
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    (files[0].parent / DATA_CARD).unlink()
    write_checkpoint_card(checkpoint, run)
    there = rename(checkpoint, tmp_path / "there", TRANSFORMERS)
    merged = merged_card(read_facts(there), {"r": 16}, "base", None, "0123", ORIGINAL, [])
    for text in (card, (checkpoint / "README.md").read_text(), (there / "README.md").read_text(), merged):
        section = text[text.index("## Licence\n") : text.index("## Versions")]
        assert f"- `known.json`: {TEXT}" in section and "see the base model's licence" in section
        assert section.count("No licence is known of the training data `unknown.json`: ") == 1
        assert str(tmp_path) not in text
    check_resumes(demo, files, run, settings)


def check_resumes(demo: Path, files: list[Path], run: Path, settings: dict[str, Any]) -> None:
    """With another card, or none, it is the same run. So it is if the record is of a release without licences."""

    def licences(**flags: object) -> list[list[str] | None]:
        assert trainer(demo, run, **settings, **flags).train().finished
        parts = read_record(run / "run.json")["data"]["training"]["parts"]
        return [part.get("licences") for part in parts]

    recorded = read_record(run / "run.json")["data"]["training"]["parts"][0]["licences"]
    assert licences() == licences(resume=run / "checkpoint-000001") == [recorded, None]
    card = files[0].parent / DATA_CARD
    card.write_text("licence: CC BY 4.0\n", encoding="utf-8")
    assert licences() == [["CC BY 4.0"], None]
    card.write_text("# Nothing is known\n", encoding="utf-8")
    assert licences() == [None, None]
    card.unlink()
    assert licences() == [None, None]
    other = json.loads((run / "run.json").read_text(encoding="utf-8"))
    other["data"]["training"]["parts"][0]["licences"] = ["of other data"]
    other["identity"]["train_data"]["fingerprint"] = "0"
    (run / "run.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(InputError, match=r"train_data\.fingerprint: was '0'"):
        licences()
    assert licences(overwrite=True) == [None, None]
