"""Runs on several data sets: a ChatML file and a folder of prepared data, with weights."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.prepared_folder import MANIFEST, read_manifest, write_manifest
from boson_multimodal.sample_dataset import SampleDataset
from tests.chatml_files import write_records
from tests.simulated_ranks import simulated
from tests.training_runs import assert_same_adapter, command, flags, metrics, run, trainer
from tests.voice_cloning.corpora.packed_data import pack, same_sample
from tests.voice_cloning.training.test_resume import crash_after
from voice_cloning.adapters.run_record import read_record
from voice_cloning.speech.adapter_run import turns_warning
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.data import check_data_files
from voice_cloning.training.epoch_samples import epoch_samples
from voice_cloning.training.joined_dataset import JoinedDataset

SETTINGS: dict[str, Any] = {
    "max_tokens_per_batch": 330,
    "max_steps": 8,
    "eval_data_path": None,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "save_steps": 3,
    "lora_targets": ["attention"],
}
WEIGHTS = [2, 8]
"""Of 16 samples, an epoch takes 3 of the file's 10, and 13 of the folder's 6."""


@pytest.fixture(scope="module")
def parts(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training data in two parts: each as a file with absolute paths of clips, and as a folder."""
    folder = tmp_path_factory.mktemp("parts")
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))
    for one in records:
        for message in one["messages"]:
            for content in message["content"] if isinstance(message["content"], list) else []:
                if content["type"] == "audio":
                    content["audio_url"] = str(demo / content["audio_url"])
    found = {}
    for name, own in (("new", records[:10]), ("base", records[10:])):
        found[f"{name}.json"] = write_records(folder / f"{name}.json", own)
        found[name] = folder / name
        how = {"prompt_style": "voice_clone", "code_cache_dir": str(demo / "code_cache")}
        pack(demo, folder / f"{name}.json", found[name], **how)
    return found


def paths(parts: dict[str, Path], *names: str) -> dict[str, list[Path]]:
    return {"data_path": [parts[name] for name in names]}


def mixture(parts: dict[str, Path], *names: str) -> dict[str, Any]:
    return {**SETTINGS, **paths(parts, *names), "data_weights": WEIGHTS}


def test_a_mixture_that_crashed_and_moved_ends_with_the_bits_of_one_that_did_not(
    demo: Path, parts: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on from a folder instead of the file, and without the weights, which its record holds."""
    with caplog.at_level(logging.INFO):
        whole = trainer(demo, tmp_path / "whole", **mixture(parts, "new.json", "base"))
    sizes = r"10 samples, 0 dropped as invalid, 0\.\d\d h; 18.8 % of an epoch, each sample 0.3 times"
    assert re.search(f"{parts['new.json']}: {sizes}", caplog.text)
    assert f"{parts['base']}: 6 samples, " in caplog.text and "81.2 % of an epoch, each sample 2.17 ti" in caplog.text
    assert "16 samples, 0 dropped" in caplog.text
    summary = whole.train()
    assert 3 < whole.components.plan.steps_per_epoch < 8
    crash_after(trainer(demo, tmp_path / "crashed", **mixture(parts, "new.json", "base")), 4)
    moved = {**SETTINGS, **paths(parts, "new", "base.json"), "code_cache_dir": demo / "code_cache"}
    with caplog.at_level(logging.INFO):
        again = trainer(demo, tmp_path / "crashed", **moved)
    assert again.components.state.step == 3 and "is resumed: --data_weights 2.0 8.0" in caplog.text
    assert again.train().finished
    assert_same_adapter(summary.checkpoint, tmp_path / "crashed" / summary.checkpoint.name)
    assert metrics(tmp_path / "crashed") == metrics(tmp_path / "whole")
    check_record_and_card(summary.checkpoint)
    check_refusals(demo, parts, tmp_path / "whole")
    recorded = json.loads((tmp_path / "whole" / "run.json").read_text(encoding="utf-8"))["flags"]
    assert recorded["data_path"] == [str(parts["new.json"]), str(parts["base"])]
    assert turns_warning(summary.checkpoint) is None


def check_record_and_card(checkpoint: Path) -> None:
    data = read_record(checkpoint / "run.json")["data"]["training"]
    counts = [(part["file"], part["samples"], part["samples_of_epoch"]) for part in data["parts"]]
    assert data["file"] == "new.json, base" and counts == [("new.json", 10, 3), ("base", 6, 13)]
    assert data["samples"] == 16 and data["clips"] == sum(part["clips"] for part in data["parts"])
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    for line in (
        r"- training: `new.json`: 10 samples, \d+ clips, .* clips; 18.8 % of an epoch, each sample 0.3 times",
        r"- training: `base`: 6 samples, \d+ clips, .* clips; 81.2 % of an epoch, each sample 2.17 times",
    ):
        assert len(re.findall(line, card)) == 1
    assert str(checkpoint.parents[1]) not in card


def check_refusals(demo: Path, parts: dict[str, Path], run_folder: Path) -> None:
    """Other weights, another order and other paths are another run."""
    both = mixture(parts, "new.json", "base")
    for changes, message in (
        ({"data_weights": [3, 7]}, r"flags.data_weights: was \[2.0, 8.0\], is \[3.0, 7.0\]"),
        (paths(parts, "base", "new.json"), "train_data.fingerprint: was"),
        ({**paths(parts, "base"), "data_weights": None}, r"flags.data_weights: was \[2.0, 8.0\], is None"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(demo, run_folder, **{**both, **changes})


def test_one_path_is_as_it_was(demo: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    """In the record too, which tools of earlier releases read; and one path with its weight is that path."""
    one = trainer(demo, tmp_path / "one", **SETTINGS, **paths(parts, "new"))
    recorded = json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))
    assert recorded["flags"]["data_path"] == str(parts["new"]) and recorded["flags"]["data_weights"] is None
    assert set(recorded["data"]["training"]) == {"file", "samples", "dropped", "clips", "hours"}
    alone = trainer(demo, tmp_path / "alone", **SETTINGS, **paths(parts, "new"), data_weights=[0.3])
    assert not isinstance(alone.components.data.train_dataset, JoinedDataset)
    for steps in zip(one.components.plan.steps_from(0), alone.components.plan.steps_from(0), strict=True):
        assert tuple(steps[0][1]) == tuple(steps[1][1])


def test_two_processes_take_the_steps_of_one_with_accumulation_and_one_goes_on_for_them(
    demo: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    settings = {**mixture(parts, "new", "base"), "lora_dropout": 0.1}
    two = simulated(demo, tmp_path / "two", 2, 1, **{**settings, "gradient_accumulation_steps": 1})
    two.train()
    shutil.copytree(tmp_path / "two", tmp_path / "moved")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "moved" / f"checkpoint-{step:06d}")
    one = simulated(demo, tmp_path / "moved", 1, 2, **settings)
    one.train()
    assert [step.samples for step in one.steps] == [step.samples for step in two.steps[3:]]
    first_epoch = two.steps[: two.components.plan.steps_per_epoch]
    times = Counter(index for step in first_epoch for batch in step.samples for index in batch)
    wanted = epoch_samples(one.components.data.train_dataset, seed=42).taken(0)
    assert len(first_epoch) < 8 and sorted(times.elements()) == wanted.tolist()
    assert sum(times[index] for index in range(10)) == 3 and sum(times.values()) == 16


def test_a_dry_run_says_what_an_epoch_takes(
    demo: Path, parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {**mixture(parts, "new.json", "base"), "dry_run": True, "gpu": "24"}
    assert program.main(flags(demo, tmp_path / "out", **how)) == 0
    out = capsys.readouterr().out
    assert f"{parts['new.json']}: 10 samples, 0 dropped as invalid" in out
    assert out.count(" in the longest sample; 81.2 % of an epoch, each sample 2.17 times") == 1


# -- the joined dataset ------------------------------------------------------------------------------------------------


def test_a_joined_dataset_is_its_parts_one_after_the_other(demo: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", **SETTINGS, **paths(parts, "new.json", "base"))
    joined = subject.components.data.train_dataset
    first, second = joined.parts
    assert len(joined) == 16 and joined.per_epoch == (10, 6) and joined.of_epoch(5) is joined
    for index in range(16):
        part, own = (first, index) if index < 10 else (second, index - 10)
        assert same_sample(joined[index], part[own])
        for ask in ("sample_id", "number", "speaker", "text_to_speak", "place"):
            assert getattr(joined, ask)(index) == getattr(part, ask)(own)
        assert joined.lengths[index] == part.lengths[own] and joined.sizes.positions[index] == part.lengths[own]
    names = joined.sample_ids([9, 10])
    assert names == f"{parts['new.json']}: {first.sample_id(9)}, {parts['base']}: {second.sample_id(0)}"
    with pytest.raises(IndexError):
        joined[16]
    assert subject.components.plan.total_steps > 0 and joined.shares()[0] == "62.5 % of an epoch, each sample 1 times"


class Drawn(SampleDataset):
    """Three samples that are longer in each epoch."""

    num_dropped, frames_per_second, data_path = 1, 25.0, Path("drawn")

    def __init__(self, epoch: int = 0) -> None:
        self.lengths = np.array([10, 20, 30], np.int32) + epoch
        self.sizes = type("Sizes", (), dict.fromkeys(("positions", "text_positions", "text_labels"), self.lengths))
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        return self.epoch, index

    def of_epoch(self, epoch: int) -> SampleDataset:
        return Drawn(epoch)

    sample_id = number = speaker = text_to_speak = fingerprint = summary = notes = encode_missing = None


Drawn.__abstractmethods__ = frozenset()


def test_parts_that_change_from_epoch_to_epoch_are_joined_in_each() -> None:
    joined = JoinedDataset([Drawn(), Drawn()], (2, 4))
    view = joined.of_epoch(7)
    assert view.lengths.tolist() == [17, 27, 37] * 2 and view[4] == (7, 1) and joined[4] == (0, 1)
    assert joined.of_epoch(7) is view and joined.of_epoch(8)[5] == (8, 2) and view.per_epoch == (2, 4)
    assert joined.num_dropped == 2


# -- wrong input -------------------------------------------------------------------------------------------------------


def refusal(demo: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        trainer(demo, out, **{**SETTINGS, **settings})
    assert not out.exists()
    return str(caught.value)


def test_all_files_that_are_missing_or_given_twice_are_named(
    demo: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    again = parts["new.json"].parent / "base" / ".." / "new.json"
    (tmp_path / "half").mkdir()
    given = [parts["new.json"], tmp_path / "none.json", tmp_path / "half", again, parts["base"], parts["base"]]
    found = refusal(demo, tmp_path / "out", data_path=given, eval_data_path=tmp_path / "val.json")
    assert "(5):" in found and f"--data_path {tmp_path / 'none.json'}: no such file" in found
    assert f"--data_path {tmp_path / 'half'}: a folder without manifest.json" in found
    assert f"--eval_data_path {tmp_path / 'val.json'}: no such file" in found
    assert f"--data_path {again}: is the same as {parts['new.json']}; give it once. A larger number in --" in found
    assert f"--data_path {parts['base']}: is the same as {parts['base']}; give it once" in found
    config = DistributedTrainingConfig(data_path=[str(parts["base"])] * 2, output_dir="o")
    with pytest.raises(InputError, match="is the same as"):
        check_data_files(config)


def test_invalid_records_of_all_files_are_named(demo: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    record = json.loads(parts["new.json"].read_text(encoding="utf-8"))[0]
    for name in ("one", "two"):
        broken = {**record, "misc": {**record["misc"], "sample_id": f"{name}_broken"}, "start_index": "x"}
        write_records(tmp_path / f"{name}.json", [record, broken])
    found = refusal(demo, tmp_path / "out", data_path=[tmp_path / "one.json", parts["base"], tmp_path / "two.json"])
    for name in ("one", "two"):
        assert f"{tmp_path / name}.json: invalid samples" in found and f"{name}_broken: start_index" in found


def test_the_same_samples_under_two_names_are_refused(demo: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    found = refusal(demo, tmp_path / "out", **paths(parts, "base", "new.json", "new"), data_weights=[1, 1, 0.001])
    assert f"{parts['new']}: its weight is 0.001; give it" in found, "all problems of all paths at once"
    assert f"{parts['new']}: holds the same samples as {parts['new.json']}; give it once" in found


def test_a_weight_that_gives_nothing_is_refused(demo: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    found = refusal(demo, tmp_path / "out", **paths(parts, "base", "new"), data_weights=[1, 0.001])
    assert f"  {parts['new']}: its weight is 0.001; give it 0.0673 or more, or leave the path out" in found


@pytest.mark.parametrize("change", [{"codec": "another"}, {"frames_per_second": 50}])
def test_folders_of_different_codecs_are_both_named(
    demo: Path, parts: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Also without the codec, with which each of them could be compared."""
    other = shutil.copytree(parts["base"], tmp_path / "other")
    manifest = read_manifest(other)
    codec = manifest["settings"]["codec"]
    manifest["settings"] |= change
    (other / MANIFEST).unlink()
    write_manifest(other, manifest)
    for given in ({"data_path": [parts["new"], other]}, {"data_path": parts["new"], "eval_data_path": other}):
        found = refusal(demo, tmp_path / "out", **given, audio_tokenizer_path="none/at_all")
        assert "the codes of the data are not of one codec" in found
        assert f"{parts['new']}: of codec {codec}, 25 frames per second" in found
        rate = change.get("frames_per_second", 25)
        assert f"{other}: of codec {change.get('codec', codec)}, {rate} frames per second" in found


# -- processes of torchrun ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_two_processes_train_from_folders_what_one_does_with_accumulation(
    demo: Path, parts: dict[str, Path], tmp_path: Path, dropout: float
) -> None:
    found = []
    for processes, accumulation in ((None, 2), (2, 1)):
        out = tmp_path / f"with-{accumulation}"
        settings = {**mixture(parts, "new", "base"), "eval_data_path": parts["base"], "lora_dropout": dropout}
        words = flags(demo, out, **{**settings, "gradient_accumulation_steps": accumulation, "max_steps": 3})
        result = run(command(words, processes))
        assert result.returncode == 0, result.stderr
        found.append(metrics(out))
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
    first, second = found[0][0], found[1][0]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-5)
