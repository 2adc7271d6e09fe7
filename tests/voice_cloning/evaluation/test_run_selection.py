"""A checkpoint of a run is chosen by its speech, and the folder of the run and the cards say so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from lora_config import ADAPTER_FILE
from tests.voice_cloning.evaluation.judges import KnowsClips, settings_of
from tests.voice_cloning.speech.cloners import checkpoint_of, targets
from voice_cloning.adapters.model_card import CARD_FILE
from voice_cloning.adapters.selection_lines import read_selection, selection_lines
from voice_cloning.evaluation.evaluation import check_evaluation, evaluate
from voice_cloning.evaluation.retention import retention_part, retention_settings
from voice_cloning.evaluation.run_selection import run_checkpoints, selection_line
from voice_cloning.evaluation.speaking import ClipToSpeak

EARLY, LATE = "checkpoint-000040", "checkpoint-000080"


@pytest.fixture(scope="module")
def run(memorised: ArabicVoiceCloningDistributedTrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint that has learnt nothing and has the lower loss, and one that speaks from memory."""
    folder = tmp_path_factory.mktemp("chosen") / "run"
    for name in (EARLY, LATE):
        shutil.copytree(checkpoint_of(memorised), folder / name)
    weights = load_file(folder / EARLY / ADAPTER_FILE)
    unlearnt = {name: w * 0 if "lora_B" in name else w for name, w in weights.items()}
    save_file(unlearnt, folder / EARLY / ADAPTER_FILE)
    lines = [{"step": 40, "eval_loss": 1.0}, {"step": 80, "eval_loss": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_checkpoint_that_speaks_is_chosen_although_the_other_has_the_lower_loss(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, run: Path, tmp_path: Path
) -> None:
    records = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    texts = [record["misc"]["target_transcript"] for record in records]
    recogniser = KnowsClips(dict(zip(texts, targets(memorised), strict=True)))
    settings = settings_of(demo, tmp_path / "out", adapters=tuple(map(str, run_checkpoints(str(run)))))
    kept = evaluate(retention_settings(settings, demo / "four.json", None), recogniser=recogniser)
    report = evaluate(replace(settings, select=run), recogniser=recogniser, retention=retention_part(kept))
    assert report["selection"]["chosen"] == LATE and report["selection"]["by_eval_loss"] == EARLY
    assert "by loss: checkpoint-000040" in selection_line(report["selection"])
    assert [system["name"] for system in report["retention"]["systems"]] == ["base", EARLY, LATE]
    assert report["retention"]["systems"][1]["differences"]["wer_scoring"]["value"] == 0.0
    written = json.loads((run / "selection.json").read_text(encoding="utf-8"))
    assert (written["chosen"], written["folder"], written["recogniser"]) == (LATE, LATE, "knows-clips")
    assert written["retention"]["differences"].keys() == {EARLY, LATE}
    chosen, other = ((run / name / CARD_FILE).read_text(encoding="utf-8") for name in (LATE, EARLY))
    assert "- chosen as the best of 2 checkpoints by its speech on `four.json` (4 sentences)" in chosen
    assert "- WER 0.000 (" in chosen and "- change against the base on `four.json`: WER -" in chosen
    assert "- not chosen of 2 checkpoints" in other and str(tmp_path) not in chosen + other
    assert "sentences): better than checkpoint-000040 by WER, -1" in chosen
    assert "sentences): checkpoint-000080 is better by WER, -1" in other
    assert "- judged by recogniser `knows-clips`; intervals" in chosen and "adapter_scale" not in chosen


def test_a_checkpoint_that_is_removed_after_the_check_can_still_speak(demo: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    adapters = tuple(map(str, run_checkpoints(str(tmp_path / "run"))))
    settings = replace(settings_of(demo, tmp_path / "out", adapters=adapters), select=tmp_path / "run")
    checked = check_evaluation(settings)
    shutil.rmtree(tmp_path / "run" / EARLY)
    clip = ClipToSpeak(checked.requests[EARLY][0], 0)
    early, late = (clip.made_of(checked.cloners[name].identity(clip.request)) for name in (EARLY, LATE))
    assert early["adapter"] != late["adapter"]
    assert checked.cloners[EARLY].adapter_weights is not None


def test_a_damaged_choice_is_passed_over_on_a_card(run: Path, tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"checkpoints": 3}', '{"checkpoints": {"a": {"folder": "checkpoint-000040"}}}'):
        (tmp_path / "selection.json").write_text(content)
        assert read_selection(tmp_path, run / EARLY) is None
    assert read_selection(run.parent, run / EARLY) is None and selection_lines(None) == []


def test_a_run_without_a_choice_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--select .*no such folder"):
        run_checkpoints(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="0 checkpoints in it"):
        run_checkpoints(str(tmp_path))


def test_a_retention_set_needs_the_base(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--retention .*leave --no_base out"):
        retention_settings(settings_of(demo, tmp_path, base=False, adapters=("a",)), demo / "four.json", None)
