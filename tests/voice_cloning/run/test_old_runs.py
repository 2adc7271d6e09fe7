"""Test that the same command resumes runs of older code bit for bit, even if defaults and flags have changed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from boson_multimodal.flags import THE_DEFAULT, facts_of, flag
from lora_config import HiggsAudioLoRATrainingConfig
from tests.checkpoint_folders import edit_json
from tests.old_runs.command import COMMAND
from tests.training_runs import adapter, assert_same_adapter, metrics
from voice_cloning.training import config as training_config
from voice_cloning.training.checkpoints import read_state
from voice_cloning.training.config import DistributedTrainingConfig, flag_fields

OLD_RUN = Path(__file__).parents[2] / "old_runs" / "before_0_1"
FLAGS_OF_0_1 = set(
    "data_path output_dir eval_data_path model_path model_revision audio_tokenizer_path audio_tokenizer_revision "
    "whisper_processor_path whisper_processor_revision num_train_epochs max_steps max_tokens_per_batch batch_size "
    "gradient_accumulation_steps learning_rate lr_scheduler_type warmup_steps weight_decay adam_beta1 adam_beta2 "
    "adam_epsilon max_grad_norm torch_dtype gradient_checkpointing seed logging_steps eval_steps save_steps "
    "save_total_limit resume overwrite init_adapter report_to prompt_style text_normalisation code_cache_dir codes "
    "drop_invalid max_positions_per_sample lora_rank lora_alpha lora_dropout lora_targets use_rslora use_dora "
    "text_weight audio_weight".split()
)


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the old run, make the copy the current folder, and return the run's folder."""
    shutil.copytree(OLD_RUN, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def train(words: str) -> program.TrainingSummary:
    """Train with a command line."""
    arguments = program.parse_arguments(words.split(), "")
    return program.ArabicVoiceCloningDistributedTrainer(*arguments).train()


def uninterrupted(folder: str) -> Path:
    """Train the same run from its start with the current code, and return its folder."""
    words = COMMAND.replace("--output_dir run", f"--output_dir {folder}")
    assert train(f"{words} --prompt_style as_written --num_scored_samples 0").finished
    return Path(folder)


def assert_resumed(run: Path, whole: Path) -> None:
    """Check that the resumed run ends with exactly the weights of the uninterrupted run.

    This machine may round differently from the one that made the old run. Then the checkpoints of step 3 differ by
    rounding, and the last checkpoints may too.
    """
    third, last = "checkpoint-000003", "checkpoint-000006"
    begun, today = adapter(OLD_RUN / "run" / third), adapter(whole / third)
    assert begun.keys() == today.keys()
    if all(torch.equal(begun[name], today[name]) for name in begun):
        assert_same_adapter(run / last, whole / last)
        assert_same_metrics(metrics(run), metrics(whole))
    for name, tensor in adapter(whole / last).items():
        torch.testing.assert_close(adapter(run / last)[name], tensor, rtol=1e-3, atol=1e-5)


def assert_same_metrics(resumed: list[dict[str, float]], whole: list[dict[str, float]]) -> None:
    """Compare two files of metrics. Lines of the older code may lack metrics that were added later."""
    old_lines = len(metrics(OLD_RUN / "run"))
    assert len(resumed) == len(whole) and resumed[old_lines:] == whole[old_lines:]
    for old, new in zip(resumed[:old_lines], whole, strict=False):
        assert old == {name: new[name] for name in old}


def test_the_same_command_resumes_a_run_of_the_code_before_0_1(old_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = uninterrupted("whole")
    caplog.clear()
    with caplog.at_level("INFO"):
        summary = train(COMMAND)
    assert (summary.step, summary.finished) == (6, True)
    assert "from the run that is resumed: --prompt_style as_written, --num_scored_samples 0" in caplog.text
    assert_resumed(old_run, whole)


def test_an_old_run_goes_on_with_patience(old_run: Path) -> None:
    """Its state does not count evaluations: it has waited for none. Its best one has no speech."""
    with pytest.raises(InputError, match="num_scored_samples is 0; fewer than 32 samples cannot decide"):
        train(f"{COMMAND} --keep_best_by stop_rate")
    best = read_state(old_run / "checkpoint-000003")["best"]
    summary = train(f"{COMMAND} --patience 1")
    found = {line["step"]: line["eval_loss"] for line in metrics(old_run) if "eval_loss" in line and line["step"] > 3}
    ends_at_4 = found[4] >= best["eval_loss"]
    assert (summary.finished, summary.ended_early, summary.step) == (True, ends_at_4, 4 if ends_at_4 else 6)
    assert read_state(summary.checkpoint).get("ended_early", False) == ends_at_4


@dataclass(kw_only=True)
class LaterTrainingConfig(DistributedTrainingConfig):
    """A later release. One flag has another default, and the default of a new flag is not the old behaviour."""

    adam_beta2: float = flag(0.99, "changed default")
    shrink: float = flag(0.5, "added flag", before=1.0)


def test_a_run_resumes_after_a_default_changed_and_a_flag_was_added(
    old_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = uninterrupted("whole")
    classes = (LaterTrainingConfig, *training_config.CONFIG_CLASSES[1:])
    monkeypatch.setattr(training_config, "CONFIG_CLASSES", classes)
    fresh = program.parse_arguments(COMMAND.replace("--output_dir run", "--output_dir new").split(), "")[0]
    assert (fresh.adam_beta2, fresh.shrink) == (0.99, 0.5)
    with caplog.at_level("INFO"):
        resumed = program.parse_arguments(COMMAND.split(), "")[0]
    assert (resumed.adam_beta2, resumed.shrink) == (0.95, 1.0)
    assert "--adam_beta2 0.95, --shrink 1.0" in caplog.text
    assert train(COMMAND).finished
    assert_resumed(old_run, whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--adam_beta2 0.99", "flags.adam_beta2: was 0.95, is 0.99"),
        ("--prompt_style voice_clone", "flags.prompt_style: was 'as_written', is 'voice_clone'"),
        ("--shrink 0.5", "flags.shrink: was 1.0, is 0.5"),
    ],
)
def test_a_flag_that_is_given_must_agree_with_the_run(
    old_run: Path, monkeypatch: pytest.MonkeyPatch, more: str, message: str
) -> None:
    classes = (LaterTrainingConfig, *training_config.CONFIG_CLASSES[1:])
    monkeypatch.setattr(training_config, "CONFIG_CLASSES", classes)
    with pytest.raises(InputError, match=message):
        train(f"{COMMAND} {more}")


def test_flags_of_a_single_call_are_never_taken_from_the_run(old_run: Path) -> None:
    run = (old_run / "run.json").read_text(encoding="utf-8")
    run = run.replace('"overwrite": false', '"overwrite": true').replace('"resume": "auto"', '"resume": "none"')
    (old_run / "run.json").write_text(run, encoding="utf-8")
    config = program.parse_arguments(COMMAND.split(), "")[0]
    assert (config.overwrite, config.resume) == (False, "auto")


def test_a_run_that_is_overwritten_gives_no_values(old_run: Path) -> None:
    assert program.parse_arguments([*COMMAND.split(), "--overwrite"], "")[1].prompt_style == "voice_clone"
    assert program.parse_arguments([*COMMAND.split(), "--resume", "none"], "")[1].prompt_style == "voice_clone"


def test_a_named_checkpoint_gives_its_values(old_run: Path) -> None:
    words = COMMAND.replace("--output_dir run", "--output_dir other").split()
    _, data, lora, _ = program.parse_arguments([*words, "--resume", "run/checkpoint-000002"], "")
    assert data.prompt_style == "as_written"
    assert lora == HiggsAudioLoRATrainingConfig(lora_rank=2, lora_dropout=0.1)


def test_a_damaged_record_is_named(old_run: Path) -> None:
    for folder in (old_run, old_run / "checkpoint-000002", old_run / "checkpoint-000003"):
        (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="run.json: does not hold the flags of a run .* --overwrite"):
        program.parse_arguments(COMMAND.split(), "")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", "run.json: values of a wrong type .*\n  learning_rate is 'fast'"),
        ("lora_targets", ["attention", 3], "run.json: values of a wrong type .*\n  lora_targets is"),
        ("drop_invalid", 1, "run.json: values of a wrong type .*\n  drop_invalid is 1"),
        ("seed", True, "run.json: values of a wrong type .*\n  seed is True"),
        ("lora_rank", None, "run.json: values of a wrong type .*\n  lora_rank is None"),
        ("lora_rank", -4, "run.json: lora_rank is -4; it must be at least 1"),
    ],
)
def test_recorded_flags_of_a_wrong_kind_are_named(old_run: Path, name: str, value: object, message: str) -> None:
    edit_json(old_run / "run.json", lambda found: found["flags"].update({name: value}))
    words = COMMAND.split()
    if f"--{name}" in words:  # only flags that are not given come from the run
        at = words.index(f"--{name}")
        del words[at : at + 2]
    with pytest.raises(InputError, match=message):
        program.parse_arguments(words, "")


def test_a_damaged_record_is_replaced_by_that_of_the_newest_checkpoint(
    old_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (old_run / "run.json").write_text("{", encoding="utf-8")
    (old_run / "checkpoint-000003" / "run.json").write_bytes(b"")
    whole = uninterrupted("whole")
    caplog.clear()
    assert train(COMMAND).finished
    assert "run.json: not JSON" in caplog.text and "checkpoint-000003/run.json: empty" in caplog.text
    assert "the flags are taken from run/checkpoint-000002/run.json" in caplog.text
    assert "checkpoint-000002 is taken instead of checkpoint-000003; steps that are trained again: 1" in caplog.text
    assert_resumed(old_run, whole)


def test_each_flag_added_later_has_a_value_for_older_runs() -> None:
    """A new flag needs an explicit ``before``, even if it is the default, so that its author makes a decision."""
    added = {name: found for name, found in flag_fields().items() if name not in FLAGS_OF_0_1}
    silent = [name for name, found in added.items() if facts_of(found).before is THE_DEFAULT]
    assert not silent, f"{silent}: give before=, the value that describes releases without the flag"
