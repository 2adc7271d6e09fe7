"""The advice after a lack of memory is followed: the words are taken from the message, and the run goes on."""

import json
import random
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal import memory_remedies
from boson_multimodal.cards import CardMemory
from boson_multimodal.errors import NamedError
from boson_multimodal.memory_remedies import WHAT_HELPS, Remedy
from tests.training_runs import assert_same_adapter, flags
from tools.prepare_data.__main__ import main as prepare_data
from voice_cloning.run import data as run_data
from voice_cloning.run import memory_advice
from voice_cloning.run.components import OpenedDirectory, Placement
from voice_cloning.run.memory_advice import NextStart, Sizes, encoding_memory, loading_memory
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.losses import NonFiniteLossError

GPU = torch.device("cuda", 0)
Fits = Callable[[ArabicVoiceCloningDistributedTrainer, int], bool]
"""Whether a micro-batch of so many positions fits."""


def remedies(message: str) -> dict[str, list[str]]:
    """Return the words of each remedy in a message by its text; an empty list for one without words."""
    lines = message.partition(WHAT_HELPS)[2].splitlines()[1:]
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("  - "):
            text = line.removeprefix("  - ")
            found[text] = []
        else:
            found[text] = shlex.split(line)
    return found


def advised(message: str, beginning: str) -> list[str]:
    """Return the words of the one remedy whose words begin so."""
    (words,) = (words for words in remedies(message).values() if words[:1] == [beginning])
    return words


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fits], None]:
    """Return a function that limits what fits: a forward pass of more fails as on a full GPU."""
    forward = ArabicVoiceCloningDistributedTrainer._training_step

    def limit(fits: Fits) -> None:
        def limited(self: ArabicVoiceCloningDistributedTrainer, batch: HiggsAudioBatchInput) -> Any:
            starts = [s for s in (batch.audio_in_ids_start, batch.audio_out_ids_start) if s is not None]
            columns = [c for c in (batch.audio_in_ids, batch.audio_out_ids) if c is not None]
            positions = int(batch.attention_mask.sum()) - sum(map(len, starts)) + sum(c.shape[1] for c in columns)
            if not fits(self, positions):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, batch)

        monkeypatch.setattr(ArabicVoiceCloningDistributedTrainer, "_training_step", limited)

    return limit


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Return a function that runs the program, which must fail for want of memory, and returns the message."""

    def run(words: list[str]) -> str:
        capsys.readouterr()
        assert program.main(words) == 1
        message = capsys.readouterr().err
        assert "error: out of GPU memory (CUDA out of memory. Tried to allocate 2.00 GiB) " in message
        return message

    return run


def settings(demo: Path, out: Path, **overrides: Any) -> list[str]:
    short = {"max_steps": 3, "save_steps": 1, "logging_steps": 1, "eval_data_path": None}
    return flags(demo, out, **{**short, **overrides})


def test_more_recompute_resumes_whatever_else_the_command_says(
    demo: Path, tmp_path: Path, card: Callable[[Fits], None], failing: Callable[[list[str]], str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "a b"
    assert program.main(settings(demo, whole)) == 0
    card(lambda self, _: self.components.state.step < 2 or self.config.recompute == "layer")
    obstinate = ["--overwrite", "--resume", "none", "--gradient_checkpointing", "false"]
    message = failing(command := [*settings(demo, out), *obstinate])
    assert " in step 3 of 3." in message
    text = next(iter(remedies(message)))
    assert text.startswith(f"resume from {out / 'checkpoint-000002'}; compute each layer again")
    assert program.main([*command, *advised(message, "--recompute")]) == 0
    assert_same_adapter(whole / "checkpoint-000003", out / "checkpoint-000003")


def test_smaller_micro_batches_start_from_the_newest_adapter(
    demo: Path, tmp_path: Path, card: Callable[[Fits], None], failing: Callable[[list[str]], str]
) -> None:
    card(lambda self, positions: self.components.state.step < 1 or positions <= 256)
    out = tmp_path / "out"
    message = failing(command := settings(demo, out, recompute="layer", max_steps=2))
    assert "--recompute" not in message
    words = advised(message, "--max_tokens_per_batch")
    new = ["--init_adapter", str(out / "checkpoint-000001"), "--output_dir", str(tmp_path / "out-2")]
    assert words == ["--max_tokens_per_batch", "256", "--gradient_accumulation_steps", "2", *new]
    assert program.main([*command, *words]) == 0
    assert (tmp_path / "out-2" / "checkpoint-000002").is_dir()


def test_before_the_first_step_the_folder_is_used_again(
    demo: Path, tmp_path: Path, card: Callable[[Fits], None], failing: Callable[[list[str]], str]
) -> None:
    card(lambda _, positions: positions <= 256)
    message = failing(
        command := settings(demo, tmp_path / "out", max_steps=1, gradient_accumulation_steps=3, resume="none")
    )
    assert "begin at step 0 again; compute each layer again" in message
    words = advised(message, "--max_tokens_per_batch")
    assert words[4:] == ["--resume", "auto"]
    assert program.main([*command, *words]) == 0


def test_logged_steps_without_a_checkpoint_are_given_up_in_words(
    demo: Path, tmp_path: Path, card: Callable[[Fits], None], failing: Callable[[list[str]], str]
) -> None:
    card(lambda self, positions: self.components.state.step < 1 or positions <= 256)
    message = failing(command := settings(demo, tmp_path / "out", max_steps=2, save_steps=9))
    text = next(text for text, words in remedies(message).items() if words[:1] == ["--max_tokens_per_batch"])
    assert "No checkpoint was written yet: begin at step 0" in text
    assert (words := advised(message, "--max_tokens_per_batch"))[4:] == ["--overwrite"]
    assert program.main([*command, *words]) == 0


@pytest.fixture
def one_long(demo: Path, tmp_path: Path) -> Path:
    """Return a file of samples of which the first is much longer than the others."""
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))[:6]
    target = records[0]["misc"]["target_transcript"]
    for record in records:
        for content in (part for turn in record["messages"][1:] for part in turn["content"]):
            if content["type"] == "audio":
                content["audio_url"] = str(demo / content["audio_url"])
            elif record is records[0]:
                content["text"] = content["text"].replace(target, " ".join([target] * 30))
    path = tmp_path / "long.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [{"batch_size": 1}, {"max_tokens_per_batch": 400}])
def test_a_sample_that_alone_is_too_long_is_left_out(
    demo: Path,
    tmp_path: Path,
    one_long: Path,
    size: dict[str, int],
    card: Callable[[Fits], None],
    failing: Callable[[list[str]], str],
) -> None:
    card(lambda _, positions: positions <= 300)
    message = failing(command := settings(demo, tmp_path / "out", max_steps=4, data_path=one_long, **size))
    words = advised(message, "--max_positions_per_sample")
    assert "leave out the samples of more than" in message and "(1; the longest has" in message
    assert program.main([*command, *words]) == 0


def test_a_lack_of_memory_in_the_evaluation_advises_what_saves_there(
    demo: Path, tmp_path: Path, card: Callable[[Fits], None], failing: Callable[[list[str]], str]
) -> None:
    card(lambda self, positions: self.components.model.training or positions <= 340)
    command = settings(
        demo, tmp_path / "out", max_steps=1, batch_size=4, eval_data_path=demo / "val_chatml_samples.json"
    )
    message = failing(command)
    assert " in the evaluation after step 1." in message and "--recompute" not in message
    words = advised(message, "--batch_size")
    assert words[:4] == ["--batch_size", "2", "--gradient_accumulation_steps", "2"]
    assert program.main([*command, *words]) == 0


def test_clips_that_do_not_fit_the_gpu_are_encoded_on_the_cpu(demo: Path, tmp_path: Path, gpu: None) -> None:
    out, cache = tmp_path / "out", tmp_path / "a cache"
    command = settings(demo, out, max_steps=1, code_cache_dir=cache)
    config, dataset_config, *_ = program.parse_arguments(command, "")
    with pytest.raises(NamedError) as caught, encoding_memory(config, dataset_config, GPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. If reserved but unallocated ...")
    message = str(caught.value)
    place = f"while clips were encoded; those that are done stay in {cache}."
    assert f"(CUDA out of memory. Tried to allocate 2.00 GiB) {place}" in message
    no_gpu, python, *words = advised(message, "CUDA_VISIBLE_DEVICES=")
    assert (no_gpu, python, words[:3]) == ("CUDA_VISIBLE_DEVICES=", "python", ["-m", "tools.prepare_data", "encode"])
    assert prepare_data(words[2:]) == 0
    # Now the codec is not loaded, so its weights need not fit anything.
    with patch.object(run_data, "load_higgs_audio_tokenizer", None):
        assert program.main(command) == 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 24 GB of which other programs hold 9."""
    found = CardMemory("cuda:0 (RTX)", 24_000_000_000, 1_000_000_000, 14_000_000_000)
    monkeypatch.setattr(memory_remedies, "card_memory", lambda device: found if device.type == "cuda" else None)


def test_other_programs_on_the_card_are_shown_first(gpu: None) -> None:
    with (
        pytest.raises(NamedError) as caught,
        memory_remedies.naming_lack_of_memory(GPU, lambda: "in step 7 of 9", lambda: [Remedy("less", ("--less", "1"))]),
    ):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED in `cublasCreate`")
    assert str(caught.value).splitlines() == [
        "out of GPU memory (CUDA error: CUBLAS_STATUS_ALLOC_FAILED in `cublasCreate`) in step 7 of 9.",
        "cuda:0 (RTX) has 24.0 GB: 14.0 GB held by this process, 1.0 GB free, 9.0 GB held by other programs and by "
        "CUDA itself.",
        WHAT_HELPS,
        "  - end the other programs on this card (nvidia-smi names them), and start again",
        "  - less:",
        "      --less 1",
        "  - use a GPU with more memory",
    ]


def test_flags_that_save_gpu_memory_are_not_advised_where_the_machine_has_none_left(gpu: None) -> None:
    with (
        pytest.raises(NamedError) as caught,
        memory_remedies.naming_lack_of_memory(GPU, lambda: "in step 7 of 9", lambda: [Remedy("less", ("--less", "1"))]),
    ):
        raise MemoryError("Unable to allocate 7 TiB")
    assert str(caught.value).splitlines() == [
        "out of memory (Unable to allocate 7 TiB) in step 7 of 9.",
        WHAT_HELPS,
        "  - close other programs, or use a machine with more memory",
    ]


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: misaligned address"), NonFiniteLossError("out of memory")])
def test_other_errors_rise_as_they_are(error: RuntimeError) -> None:
    with (
        pytest.raises(type(error)) as caught,
        memory_remedies.naming_lack_of_memory(GPU, lambda: "here", lambda: []),
    ):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float32, ["--torch_dtype", "bfloat16"]),
        (torch.bfloat16, None),
    ],
)
def test_weights_that_do_not_fit_are_named_with_their_size(
    demo: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, words: list[str] | None
) -> None:
    monkeypatch.setattr(memory_advice, "has_bfloat16", lambda device: True)
    config, *_ = program.parse_arguments(settings(demo, tmp_path / "out"), "")
    data, opened = SimpleNamespace(model_folder=demo / "model"), OpenedDirectory(None, None)
    with pytest.raises(NamedError) as caught, loading_memory(config, opened, data, Placement(GPU, dtype)):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    size = sum(tensor.numel() for tensor in load_file(demo / "model" / "model.safetensors").values()) * dtype.itemsize
    name = str(dtype).removeprefix("torch.")
    assert f"while the weights were loaded; in {name} they alone take {size / 1e9:.1f} GB." in str(caught.value)
    assert [found[:2] for found in remedies(str(caught.value)).values() if found[:1] == ["--torch_dtype"]] == (
        [words] if words else []
    )


def dataset_of(lengths: list[int]) -> SimpleNamespace:
    """Samples that all epochs take alike."""
    dataset = SimpleNamespace(lengths=lengths, longest=max(lengths))
    dataset.of_epoch = lambda epoch: dataset
    return dataset


def some_sizes(seed: int) -> tuple[DistributedTrainingConfig, Sizes]:
    """Return random flags and lengths, as a run has them: no sample is longer than the budget."""
    rng = random.Random(seed)
    budget = rng.choice([300, 2048, 8192])
    lengths = tuple([rng.randint(20, rng.choice([60, budget])) for _ in range(rng.randint(1, 60))] for _ in range(2))
    size = {"batch_size": rng.randint(1, 9)} if rng.random() < 0.4 else {"max_tokens_per_batch": budget}
    config = DistributedTrainingConfig(
        data_path="d", output_dir="/nowhere/o", gradient_accumulation_steps=rng.randint(1, 4), **size
    )
    plan = TrainingPlan(lengths[0], config, world_size=1)
    train, evaluation = map(dataset_of, lengths)
    data = SimpleNamespace(parts=[train, evaluation], eval_dataset=evaluation)
    return config, Sizes.of_run(config, SimpleNamespace(plan=plan, data=data))


def value_of(words: Sequence[str], flag: str) -> int:
    return int(words[words.index(flag) + 1])


@pytest.mark.parametrize("seed", range(60))
def test_what_is_advised_is_smaller_holds_the_samples_and_keeps_the_step(seed: int) -> None:
    config, sizes = some_sizes(seed)
    start = NextStart(config, None)
    for remedy in memory_advice._smaller_micro_batches(start, sizes):
        steps = value_of(remedy.words, "--gradient_accumulation_steps")
        if config.batch_size is None:
            budget = value_of(remedy.words, "--max_tokens_per_batch")
            assert sizes.longest <= budget < sizes.fullest
            before, after = sizes.budget, budget
        else:
            before, after = config.batch_size, value_of(remedy.words, "--batch_size")
            assert 1 <= after < before
        assert abs(after * steps - before * config.gradient_accumulation_steps) <= after / 2 or steps == 1
    for remedy in memory_advice._without_longest_samples(start, sizes):
        limit = value_of(remedy.words, "--max_positions_per_sample")
        assert limit <= 0.75 * sizes.fullest and "--drop_invalid" in remedy.words
        assert all(min(lengths) <= limit for lengths in sizes.lengths) and limit < sizes.longest


CHECKPOINT = Path("EXPMT/a b/checkpoint-000100")


@pytest.mark.parametrize(
    ("flags_given", "checkpoint", "same_run", "another_run"),
    [
        ({}, CHECKPOINT, "", "--init_adapter 'EXPMT/a b/checkpoint-000100' --output_dir 'EXPMT/a b-2'"),
        ({"overwrite": True}, CHECKPOINT, "--overwrite false", "--init_adapter"),
        ({"resume": "none"}, CHECKPOINT, "--resume auto", "--init_adapter"),
        ({"resume": "EXPMT/a b/checkpoint-000050"}, CHECKPOINT, "--resume auto", "--resume auto"),
        ({"resume": "other/checkpoint-000050"}, Path("other/checkpoint-000050"), "", "--resume auto"),
        ({}, None, "", ""),
        ({"resume": "none"}, None, "--resume auto", "--resume auto"),
        ({"overwrite": True, "resume": "none"}, None, "", ""),
    ],
)
def test_the_same_command_goes_on_with_these_words(
    flags_given: dict[str, Any], checkpoint: Path | None, same_run: str, another_run: str
) -> None:
    start = NextStart(DistributedTrainingConfig(data_path="d", output_dir="EXPMT/a b", **flags_given), checkpoint)
    assert shlex.join(start.words_of_same_run()) == same_run
    assert another_run in shlex.join(start.another_run("less", "--less").words[1:])


def test_four_bits_are_advised_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DistributedTrainingConfig(data_path="d", output_dir="EXPMT/a")
    config.quantise = "none"
    installed = True
    monkeypatch.setattr(memory_advice.importlib.util, "find_spec", lambda name: object() if installed else None)
    (remedy,) = memory_advice._quantising(NextStart(config, CHECKPOINT), GPU)
    assert shlex.join(remedy.words).startswith("--quantise nf4 --init_adapter 'EXPMT/a b/checkpoint-000100' ")
    installed = False
    assert memory_advice._quantising(NextStart(config, CHECKPOINT), GPU) == []
    installed, config.quantise = True, "nf4"
    assert memory_advice._quantising(NextStart(config, CHECKPOINT), GPU) == []
