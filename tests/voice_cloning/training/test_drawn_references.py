"""Runs whose samples have another reference in each epoch."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.drawn_references import DrawnReferences
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from tests.training_runs import assert_same_adapter, flags, metrics, trainer
from tests.voice_cloning.corpora.packed_data import assert_same_data, pack
from tests.voice_cloning.corpora.spoken_corpus import SpokenCorpus, drawn
from voice_cloning.run.memory_flags import choose_memory_flags
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.batches import BatchLoader
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.epoch_samples import epoch_samples
from voice_cloning.training.memory_estimate import TrainedModel


@pytest.fixture(scope="module")
def packed(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples: of a speaker with clips, and of one whose clips are short."""
    corpus = SpokenCorpus(tmp_path_factory.mktemp("corpus"))
    for frames in (75, 80, 85, 90, 95, 100):
        corpus.add("clips", frames)
    for frames in (30, 40, 50, 35, 45, 55):
        corpus.add("short", frames)
    return corpus.pack(demo)


def test_a_run_that_was_stopped_in_its_second_epoch_goes_on_bit_for_bit(
    demo: Path, packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    how = {"data_path": packed, "eval_data_path": packed, "reference": "random"}
    how |= {"batch_size": 4, "max_steps": 5, "save_steps": 4, "eval_steps": 100}
    whole = trainer(demo, tmp_path / "whole", **how)
    data = whole.components.data
    assert isinstance(data.train_dataset, DrawnReferences) and type(data.eval_dataset) is PreparedDataset
    assert "12 of 12 samples draw one in the first epoch" in caplog.text
    plan = whole.components.plan
    assert plan.steps_per_epoch == 3, "so that step 4 is in the second epoch"
    epoch, fullest = plan.fullest()
    found = [(e, m) for e in range(3) for m in plan.epoch(e).micro_batches]
    assert plan.positions_of(fullest, epoch) == max(plan.positions_of(m, e) for e, m in found)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-000005")
    resumed = trainer(demo, tmp_path / "resumed", **how)
    assert resumed.components.state.step == 4
    resumed.train()
    assert_same_adapter(tmp_path / "resumed" / "checkpoint-000005", tmp_path / "whole" / "checkpoint-000005")
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "whole")
    with pytest.raises(InputError, match="flags.reference: was 'random', is 'file'"):
        trainer(demo, tmp_path / "resumed", **{**how, "reference": "file"})


def test_two_ranks_read_the_batches_of_one(demo: Path, packed: Path, tmp_path: Path) -> None:
    how = {"data_path": packed, "eval_data_path": None, "reference": "random"}
    run = trainer(demo, tmp_path / "run", **how).components
    samples = epoch_samples(run.data.train_dataset, 0)

    def plan(world_size: int, accumulation: int) -> TrainingPlan:
        sizes = {"max_tokens_per_batch": 512, "gradient_accumulation_steps": accumulation, "num_train_epochs": 3}
        return TrainingPlan(samples, DistributedTrainingConfig(data_path="a", output_dir="b", **sizes), world_size)

    one, two = plan(1, 2), plan(2, 1)
    of_one = BatchLoader(run.data.train_dataset, run.data.collator, 0)
    other = trainer(demo, tmp_path / "other", **how).components.data
    of_two = [BatchLoader(other.train_dataset, other.collator, rank) for rank in (0, 1)]
    lengths = []
    for (epoch, step), (same_epoch, same_step) in zip(one.steps_from(0), two.steps_from(0), strict=True):
        wanted = of_one.load(step, epoch).micro_batches
        found = [batch for loader in of_two for batch in loader.load(same_step, same_epoch).micro_batches]
        for batch, same in zip(wanted, found, strict=True):
            assert (batch is None) == (same is None)
            for name, value in vars(batch).items() if batch is not None else ():
                assert value is None or torch.equal(value, getattr(same, name))
        lengths.append(step.positions)
    assert len(set(lengths)) > 3, "references of other lengths in each epoch"


def test_data_that_cannot_be_drawn_from_are_refused(demo: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "run", reference="random")
    assert "train_chatml_samples.json: --reference random draws references from prepared data" in str(caught.value)
    assert "python -m tools.prepare_data pack" in str(caught.value)
    with pytest.raises(InputError, match="reference is random, and prompt_style is as_written: only the turns of"):
        ArabicVoiceCloningDatasetConfig(reference="random", prompt_style="as_written")
    with pytest.raises(InputError, match=r"reference is 'other'; it must be one of \['file', 'random'\]"):
        ArabicVoiceCloningDatasetConfig(reference="other")
    file, codes = packed.parent / "corpus.jsonl", packed.parent / "codes.safetensors"
    pack(demo, file, tmp_path / "old", prompt_style="voice_clone", codes=[str(codes)])  # as releases before did
    with pytest.raises(InputError, match="old: was packed without the groups .* pack the data again"):
        trainer(demo, tmp_path / "run", data_path=tmp_path / "old", reference="random")
    of_old, of_new = (
        trainer(demo, tmp_path / path.name, data_path=path, eval_data_path=None).components.data.train_dataset
        for path in (tmp_path / "old", packed)
    )
    assert type(of_new) is PreparedDataset
    assert_same_data(of_new, of_old)


def test_the_memory_of_a_run_holds_the_longest_draw(demo: Path, packed: Path, tmp_path: Path) -> None:
    how = {"data_path": packed, "eval_data_path": None, "reference": "random", "max_steps": None}
    trained = trainer(demo, tmp_path / "run", **how, num_train_epochs=5, max_tokens_per_batch="auto")
    run, data = trained.components, trained.components.data.train_dataset
    longest = max(int(data.of_epoch(epoch).lengths.max()) for epoch in range(5))
    assert int(data.lengths.max()) < longest <= data.longest <= trained.config.max_tokens_per_batch
    model = TrainedModel(run.data.model_config, replace(trained.lora_config, lora_dropout=0.0), torch.bfloat16)
    auto = replace(trained.config, max_tokens_per_batch="auto", recompute="layer")
    most = int(data.lengths.max())  # fits, but not what may be drawn
    small = next(a for a in range(10**7, 10**9, 10**6) if most <= model.largest_budget(a, "layer", most))
    with pytest.raises(InputError, match=rf"Give --max_positions_per_sample \d+, so (.|\n)*up to {data.longest} pos"):
        choose_memory_flags(auto, model, [data], 1, small)


def test_a_dry_run_counts_the_lengths_of_the_epochs(
    demo: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"data_path": packed, "eval_data_path": None, "reference": "random", "dry_run": True, "gpu": "24"}
    assert program.main(flags(demo, tmp_path / "run", **how, max_steps=None, num_train_epochs=4)) == 0
    text = capsys.readouterr().out
    data = drawn(packed, max_positions=512, seed=DistributedTrainingConfig.seed)
    lengths = [data.of_epoch(epoch).lengths for epoch in range(4)]
    in_words = f"{lengths[0].sum():,} positions in the first epoch, {lengths[0].max():,} in the longest sample"
    assert in_words in text and lengths[0].sum() != data.lengths.sum()
    config = DistributedTrainingConfig(data_path="a", output_dir="b", max_tokens_per_batch=512, num_train_epochs=4)
    plan = TrainingPlan(epoch_samples(data, 0), config, 1)
    fullest = max(plan.positions_of(m, epoch) for epoch in range(4) for m in plan.epoch(epoch).micro_batches)
    assert f"the fullest micro-batch: {fullest:,} positions" in text
    assert f"{plan.total_steps:,} optimizer steps" in text
    assert plan.total_steps == sum(len(plan.epoch(epoch)) for epoch in range(4))
