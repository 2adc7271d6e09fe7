"""Test the model cards of checkpoints and exports."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL, TRANSFORMERS
from tests.exported_adapters import arguments, random_adapter, rename, tiny_model
from tools import merge_adapter as tool
from voice_cloning import __version__
from voice_cloning.adapters.export import Adapter, read_adapter
from voice_cloning.adapters.model_card import merged_card, read_facts, write_checkpoint_card
from voice_cloning.training.evaluation_words import percent


def front_matter(card: str) -> dict[str, object]:
    """Parse the front matter with the hub's library."""
    return ModelCard(card).data.to_dict()


def assert_contains_no_path(folder: Path, *secrets: Path) -> None:
    for path in folder.glob("*"):
        if path.suffix in (".md", ".json"):
            text = path.read_text(encoding="utf-8")
            assert not [secret for secret in secrets if str(secret) in text], path.name


def run_code(card: str, this: Path, base: Path) -> dict[str, object]:
    """Run the code block of the card after inserting the folders."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    code = code.replace("path/to/this/folder", str(this)).replace("path/to/the/base/model", str(base))
    names: dict[str, object] = {}
    exec(code, names)
    return names


def test_the_card_of_a_checkpoint_describes_its_training(demo: Path, trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    fields = front_matter(card)
    assert fields["library_name"] == "peft" and fields["language"] == ["ar"] and "base_model" not in fields
    assert {"lora", "voice-cloning", "text-to-speech"} <= set(fields["tags"])
    run = json.loads((trained / "run.json").read_text())
    lines = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line][-1]
    evaluation = [line for line in lines if "eval_loss" in line][-1]
    for part in (
        "- training: `train_chatml_samples.json`: 16 samples, 16 clips, ",
        "- evaluation: `val_chatml_samples.json`: 4 samples, 4 clips, ",
        "- prompt_style: `voice_clone`",
        "- r: 16\n- lora_alpha: 32.0\n",
        "- targets: attention, text_mlp, audio_mlp, heads, audio_embeddings",
        "- learning_rate: 0.01\n",
        "- optimizer steps: 6 of 6",
        f"- last training, at step 6: loss {training['loss']:.4f}, ",
        f"- last evaluation, at step 6: eval_loss {evaluation['eval_loss']:.4f}, ",
        f"- best eval_loss so far: {min(line.get('eval_loss', 99) for line in lines):.4f} at step ",
        f"- peft {run['versions']['peft']}\n",
        f"the trainer's commit: `{run['git_commit']}`",
        "see the base model's licence",
        "**Clone a voice only with the consent of its owner.**",
        "Arabic is not on that list",
        f"local folder `model` (fingerprint of its configuration and file sizes: `{run['identity']['model']}`)",
    ):
        assert part in card
    assert str(demo) not in card and str(trained.parent) not in card
    model = run_code(card, trained, demo / "model")["model"]
    assert type(model.get_base_model()) is HiggsAudioModel


def test_the_figures_of_spoken_clips_are_a_table_of_the_card(trained: Path, tmp_path: Path) -> None:
    """Speech may be due at another step than the evaluation, and lines of spoken samples lie between."""
    run = shutil.copytree(trained.parent, tmp_path / "run")
    speech = {"spoken_clips": 64, "spoken_stop_rate": 63 / 64, "spoken_length_ratio": 1.06}
    speech |= {"spoken_length_ratio_p5": 0.8, "spoken_length_ratio_p95": 1.4, "spoken_repeated_share": 0.125}
    speech |= {"spoken_characters_per_second": 14.08, "true_characters_per_second": 13.2, "spoken_seconds": 3.0}
    lines = [
        {"step": 4, **speech, "spoken_stop_rate": 0.1},
        {"step": 5, **speech},
        {"step": 5, "sample": "a", "text": "\u0646\u0639\u0645", "ended": True, "loss": 9.0, "eval_loss": 9.0},
        {"step": 7, **speech, "spoken_stop_rate": 0.2},
    ]
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    checkpoint = run / trained.name
    write_checkpoint_card(checkpoint, run)
    evaluation = [line for line in map(json.loads, (trained.parent / "metrics.jsonl").open()) if "eval_loss" in line][
        -1
    ]
    there = rename(checkpoint, tmp_path / "there", TRANSFORMERS)
    for card in ((checkpoint / "README.md").read_text(), (there / "README.md").read_text()):
        figures = card[card.index("| figure") :]
        rows = [line.split(" | ")[:2] for line in figures.splitlines() if line.startswith("| ")]
        assert rows == [
            ["| figure", "value"],
            ["| codes of the first codebook that are right", percent(evaluation["eval_accuracy_codebook_0"])],
            ["| ends of the first codebook that are right", percent(evaluation["eval_accuracy_end_codebook_0"])],
            ["| clips that ended by themselves", "98 %"],
            ["| length ratio to the true clip", "1.06 (0.80 to 1.40)"],
            ["| repeated frames", "12 %"],
            ["| speed", "14.1 characters/s (data 13.2)"],
        ]
        assert "Clips spoken: 64, at step 5.\n\n| figure |" in card
        assert f"- last evaluation, at step 6: eval_loss {evaluation['eval_loss']:.4f}, eval_text_loss " in card
        assert "accuracy" not in card and "9.0000" not in card


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [
        ("speech", {"step": 5}, "results.speech.spoken_clips is null; it must be a number"),
        (
            "speech",
            {"step": 5, "spoken_clips": 3, "spoken_stop_rate": "1"},
            'spoken_stop_rate is "1"; it must be a number',
        ),
        ("training", {"step": 5, "loss": 10**400}, f"results.training.loss is 1{'0' * 199}; it must be a number"),
        ("speech", [], "results.speech is []; it must be an object"),
        (
            "evaluation",
            {"step": 5, "eval_accuracy_end": None},
            "results.evaluation.eval_accuracy_end is null; it must be",
        ),
    ],
)
def test_damaged_figures_of_an_export_are_named(
    trained: Path, tmp_path: Path, kind: str, record: object, problem: str
) -> None:
    there = rename(trained, tmp_path / "there", TRANSFORMERS)
    run = json.loads((there / "run.json").read_text())
    run["results"][kind] = record
    (there / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match=re.escape(problem)):
        read_facts(there)


def test_the_card_of_an_earlier_checkpoint_has_the_facts_of_its_step(trained: Path) -> None:
    card = (trained.parent / "checkpoint-000003" / "README.md").read_text(encoding="utf-8")
    assert "- optimizer steps: 3 of 6" in card
    assert "- last training, at step 2: loss" in card
    assert "last evaluation" not in card and "best eval_loss" not in card


def test_a_base_from_the_hub_is_named_with_its_revision(trained: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(trained, tmp_path / "run" / "checkpoint-000006")
    run = json.loads((adapter / "run.json").read_text())
    hub = "bosonai/higgs-audio-v2-generation-3B-base"
    run["flags"]["model_path"], revision = hub, run["flags"]["model_revision"]
    (adapter / "run.json").write_text(json.dumps(run))
    edited_config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**edited_config, "base_model_name_or_path": hub, "revision": revision})
    )
    for layout in LAYOUTS:
        card = (rename(adapter, tmp_path / layout, layout) / "README.md").read_text(encoding="utf-8")
        assert front_matter(card)["base_model"] == hub
        assert front_matter(card)["base_model_relation"] == "adapter"
        assert f"Base model: `{hub}`, revision `{revision}`." in card
        assert (f'from_pretrained("{hub}", revision="{revision}"' in card) == (layout == ORIGINAL)
        card = merged_card(read_facts(adapter), {"r": 16}, hub, revision, "0123", layout, ["equal"])
        assert front_matter(card)["base_model_relation"] == "finetune"
        assert f"Base model: `{hub}`, revision `{revision}`." in card and "\n- equal\n" in card
        config = json.loads((tmp_path / layout / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == hub
        assert config["revision"] == (revision if layout == ORIGINAL else None)


def test_an_export_contains_no_path_and_the_code_of_its_card_runs(
    trained: Path, demo: Path, native_base: Path, tmp_path: Path
) -> None:
    for layout, base in ((ORIGINAL, demo / "model"), (TRANSFORMERS, native_base)):
        renamed = rename(trained, tmp_path / f"adapter {layout}", layout)
        assert_contains_no_path(renamed, demo, trained.parent, tmp_path)
        card = (renamed / "README.md").read_text(encoding="utf-8")
        assert ("use_text_head=True" in card) == (layout == TRANSFORMERS)
        assert run_code(card, renamed, base)["model"].peft_config["default"].r == 16
        assert {path.name for path in renamed.iterdir()} == {
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "run.json")
        }

        merged = tmp_path / f"merged {layout}"
        assert tool.main(arguments(demo, trained, merged, layout)) == 0
        assert_contains_no_path(merged, demo, trained.parent, tmp_path)
        card = (merged / "README.md").read_text(encoding="utf-8")
        assert "- optimizer steps: 6 of 6" in card and "- merged, read by HiggsAudioModel, compared with base" in card
        assert front_matter(card).get("library_name") == ("transformers" if layout == TRANSFORMERS else None)
        names = run_code(card, merged, demo)
        assert type(names["model"]).__name__ in ("HiggsAudioModel", "HiggsAudioV2ForConditionalGeneration")
        assert len(names["tokenizer"]) == 736


def test_facts_survive_two_exports(trained: Path, tmp_path: Path) -> None:
    there = rename(trained, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    assert read_facts(back) == read_facts(trained)
    assert read_facts(back)["flags"]["prompt_style"] == "voice_clone"


@pytest.mark.parametrize("version", ["0.2.0", None])
def test_cards_name_the_versions_of_the_trainer_and_of_the_export(
    trained: Path, tmp_path: Path, version: str | None
) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    run = {**json.loads((adapter / "run.json").read_text()), "version": version}
    if version is None:  # as in runs of older releases
        del run["version"]
    (adapter / "run.json").write_text(json.dumps(run))
    write_checkpoint_card(adapter, adapter.parent)
    there = rename(adapter, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    merged = merged_card(read_facts(adapter), {"r": 16}, "base", None, "0123", ORIGINAL, [], __version__)
    for card, is_export in (
        ((adapter / "README.md").read_text(encoding="utf-8"), False),
        ((there / "README.md").read_text(encoding="utf-8"), True),
        ((back / "README.md").read_text(encoding="utf-8"), True),
        (merged, True),
    ):
        assert card.count("- the trainer's version: 0.2.0\n") == (version is not None)
        assert ("the trainer's version" in card) == (version is not None)
        assert (f"- exported with version: {__version__}\n" in card) == is_export


def test_the_card_of_an_adapter_of_unknown_origin_has_no_guesses(tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"))
    card = (rename(adapter, tmp_path / "renamed", TRANSFORMERS) / "README.md").read_text(encoding="utf-8")
    assert "Base model: not recorded." in card
    assert "## Training data" not in card and "## Results" not in card
    assert isinstance(read_adapter(adapter), Adapter)
    assert "- r: 4\n" in card


def test_one_path_without_a_card_has_one_line_and_wrong_records_are_named(trained: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(trained, tmp_path / "run" / trained.name)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert card.count("No licence is known of the training data `train_chatml_samples.json`: ") == 1
    run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    for wrong, problem in (
        ("CC0", 'data.training.licences is "CC0"; it must be a list'),
        (["CC0", None], r"data.training.licences\[1\] is null; it must be a text"),
    ):
        run["data"]["training"]["licences"] = wrong
        (checkpoint / "run.json").write_text(json.dumps(run))
        with pytest.raises(InputError, match=problem):
            read_facts(checkpoint)
