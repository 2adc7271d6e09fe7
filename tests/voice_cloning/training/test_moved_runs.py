"""A run goes on with another number of processes: its steps are the same, and what changes is said or refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.errors import InputError
from boson_multimodal.seeds import seed_of
from tests.checkpoint_folders import edit_json
from tests.simulated_ranks import SimulatedTrainer, Step, simulated
from tests.training_runs import command, flags, metrics, run
from voice_cloning.run.identity import differences_of_runs
from voice_cloning.training.batch_planning import StepOrigin
from voice_cloning.training.checkpoints import (
    CHECKSUMS,
    DROPOUT_SEEDS,
    ORIGIN,
    RUN_FILE,
    STATE_FILE,
    DamageError,
    read_run,
    read_state,
    write_checksums,
)
from voice_cloning.training.division import Division

FOUR: dict[str, Any] = {
    "max_tokens_per_batch": 330,
    "max_steps": None,
    "num_train_epochs": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "lora_targets": ["attention", "audio_mlp"],
}
"""Two epochs of eleven micro-batches, in three steps each."""
SAME_STEPS = [(4, 1), (2, 2), (1, 4)]
"""(processes, accumulation)."""


@pytest.fixture(scope="module", params=[0.0, 0.1])
def of_four(request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulatedTrainer:
    """A run on four processes to its end."""
    out = tmp_path_factory.mktemp("four") / "out"
    subject = simulated(demo, out, 4, 1, **FOUR, lora_dropout=request.param)
    subject.train()
    return subject


def copy_at(subject: SimulatedTrainer, step: int, folder: Path) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(subject.config.output_dir, folder)
    for path in folder.glob("checkpoint-*"):
        if int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)
    return folder


def assert_same_step(found: Step, wanted: Step) -> None:
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-6, atol=0)
    assert (found.gradients - wanted.gradients).norm() <= 1e-5 * wanted.gradients.norm()
    assert_same_plan(found, wanted)


def assert_same_plan(found: Step, wanted: Step) -> None:
    assert found.samples == wanted.samples and torch.equal(found.label_counts, wanted.label_counts)


def test_a_run_of_four_processes_goes_on_with_two_and_then_with_one(
    demo: Path, of_four: SimulatedTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FOUR | {"lora_dropout": of_four.lora_config.lora_dropout}
    out = copy_at(of_four, 2, tmp_path / "out")
    with caplog.at_level(logging.INFO):
        two = simulated(demo, out, 2, 2, **settings)
    assert "goes on with 2 processes with 2 micro-batches a step; before, it had 4 processes with 1" in caplog.text
    two.train_to(4)
    assert_same_step(two.steps[0], of_four.steps[2])
    copy = copy_at(two, 4, tmp_path / "copy")
    one, not_moved = simulated(demo, out, 1, 4, **settings), simulated(demo, copy, 2, 2, **settings)
    one.train()
    not_moved.train()
    assert_same_step(one.steps[0], not_moved.steps[0])
    for found, wanted in zip(two.steps + one.steps, of_four.steps[2:], strict=True):
        assert_same_plan(found, wanted)
    assert read_run(out)["identity"]["world_size"] == 1
    assert len({tuple(step.samples) for step in of_four.steps}) == 6 and sum(map(bool, of_four.steps[0].samples)) == 4


# -- runs that an earlier release began --------------------------------------------------------------------------------


def as_of_earlier_release(folder: Path) -> Path:
    """Take out of a run's checkpoints what says by which rule dropout is seeded."""
    for checkpoint in folder.glob("checkpoint-*"):
        edit_json(checkpoint / STATE_FILE, lambda state: (state.pop(DROPOUT_SEEDS), state.pop(CHECKSUMS)))
        write_checksums(checkpoint)
    return folder


def test_an_earlier_run_keeps_its_rule_on_the_same_number_of_processes(
    demo: Path, of_four: SimulatedTrainer, tmp_path: Path
) -> None:
    settings = FOUR | {"lora_dropout": of_four.lora_config.lora_dropout}
    earlier = simulated(demo, as_of_earlier_release(copy_at(of_four, 2, tmp_path / "out")), 4, 1, **settings)
    assert earlier.components.state.division == Division(4, 1, dropout_by_rank=True)
    earlier.train_to(4)
    saved = tmp_path / "out" / "checkpoint-000004"
    assert read_state(saved)[DROPOUT_SEEDS] == "rank" and Division.of_checkpoint(saved).dropout_by_rank
    other_dropout = not torch.equal(earlier.steps[0].gradients, of_four.steps[2].gradients)
    assert other_dropout == (settings["lora_dropout"] > 0)
    assert_same_plan(earlier.steps[0], of_four.steps[2])


def test_an_earlier_run_with_dropout_moves_only_if_that_is_allowed(
    demo: Path, of_four: SimulatedTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FOUR | {"lora_dropout": of_four.lora_config.lora_dropout}
    out = as_of_earlier_release(copy_at(of_four, 2, tmp_path / "out"))
    before = (out / RUN_FILE).read_bytes()
    if settings["lora_dropout"]:
        with pytest.raises(InputError, match=r"(?s)world_size: was 4, is 2.*Start 4 processes, or .*from step 3 on"):
            simulated(demo, out, 2, 2, **settings)
        assert (out / RUN_FILE).read_bytes() == before
        settings["allow_other_world_size"] = True
    with caplog.at_level(logging.INFO):
        moved = simulated(demo, out, 2, 2, **settings)
    assert "dropout is seeded by the number of the micro-batch in the step from here on" in caplog.text
    assert moved.components.state.division == Division(2, 2)
    moved.components.opened.directory.close()


def test_the_rule_of_earlier_releases_gives_their_seeds() -> None:
    for world, accumulation in [*SAME_STEPS, (1, 1), (3, 2)]:
        earlier, now = Division(world, accumulation, dropout_by_rank=True), Division(world, accumulation)
        for index in range(accumulation):
            for rank in range(world):
                number = index * world + rank
                assert earlier.dropout_seed(42, 3, 1200, number) == seed_of(42, 3, 1200, index, rank)
                assert now.dropout_seed(42, 3, 1200, number) == Division().dropout_seed(42, 3, 1200, number)
                assert world > 1 or now.dropout_seed(42, 3, 1200, number) == seed_of(42, 3, 1200, index, rank)


# -- steps of another size ---------------------------------------------------------------------------------------------


def identity(world_size: int, accumulation: int, **flags: Any) -> dict[str, Any]:
    return {"flags": {"gradient_accumulation_steps": accumulation, "seed": 1, **flags}, "world_size": world_size}


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (
            (4, 1),
            (2, 1),
            "world_size: was 4, is 2; flags.gradient_accumulation_steps: was 1, is 1. A step had 4 micro-",
        ),
        ((4, 1), (2, 1), "and would have 2: give --gradient_accumulation_steps 2, or give --allow_other_world_size"),
        ((1, 4), (4, 4), "would have 16: give --gradient_accumulation_steps 1, or"),
        ((4, 3), (5, 2), "5 processes cannot share 12; start 1, 2, 3, 4, 6 or 12 processes with --gradient_acc"),
        ((1, 1), (2, 1), "2 processes cannot share 1; start 1 process with"),
    ],
)
def test_another_size_is_refused_with_both_numbers_and_the_remedy(
    was: tuple[int, int], now: tuple[int, int], message: str
) -> None:
    (found,) = differences_of_runs(identity(*was), identity(*now), allow_other_world_size=False)
    assert message in found
    assert differences_of_runs(identity(*was), identity(*now), allow_other_world_size=True) == []


def test_a_move_excuses_nothing_else() -> None:
    for allowed in (False, True):
        assert differences_of_runs(identity(4, 1), identity(2, 2, seed=2), allowed) == ["flags.seed: was 1, is 2"]
        same_processes = differences_of_runs(identity(2, 1), identity(2, 2), allowed)
        assert same_processes == ["flags.gradient_accumulation_steps: was 1, is 2"]
    damaged = differences_of_runs({**identity(4, 1), "world_size": "4"}, identity(2, 2), True)
    assert damaged == ["world_size: was '4', is 2; flags.gradient_accumulation_steps: was 1, is 2"]


@pytest.mark.parametrize("of_four", [0.0], indirect=True)
def test_steps_of_another_size_go_on_behind_the_last_micro_batch(
    demo: Path, of_four: SimulatedTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = copy_at(of_four, 2, tmp_path / "out")
    before = (out / RUN_FILE).read_bytes()
    with pytest.raises(InputError, match=r"(?s)world_size: was 4, is 3.*3 processes cannot share 4"):
        simulated(demo, out, 3, 1, **FOUR, lora_dropout=0.0)
    assert (out / RUN_FILE).read_bytes() == before
    with caplog.at_level(logging.INFO):
        three = simulated(demo, out, 3, 1, **FOUR, lora_dropout=0.0, allow_other_world_size=True)
    assert "From step 3 on, a step has 3 micro-batches instead of 4; the run has 7 steps now" in caplog.text
    three.train_to(5)
    checkpoint = out / "checkpoint-000004"
    assert read_state(checkpoint)[ORIGIN] == {"step": 2, "epoch": 0, "micro_batch": 8}
    assert Division.of_checkpoint(checkpoint) == Division(3, 1, StepOrigin(2, 0, 8))
    again = simulated(demo, out, 3, 1, **FOUR, lora_dropout=0.0)
    assert again.train().finished
    assert torch.equal(again.steps[0].gradients, three.steps[2].gradients)
    taken, wanted = (
        [batch for step in steps for batch in step.samples if batch]
        for steps in (of_four.steps[:2] + three.steps[:2] + again.steps, of_four.steps)
    )
    assert taken == wanted and len(again.steps) == 3


@pytest.mark.parametrize("of_four", [0.0], indirect=True)
def test_a_damaged_division_is_found(of_four: SimulatedTrainer, tmp_path: Path) -> None:
    checkpoint = copy_at(of_four, 2, tmp_path / "out") / "checkpoint-000002"
    sound = read_state(checkpoint)
    for name, value in [
        (DROPOUT_SEEDS, "ranks"),
        (ORIGIN, {"step": 3, "epoch": 0, "micro_batch": 0}),
        (ORIGIN, {"step": 1, "epoch": -1, "micro_batch": 0}),
        (ORIGIN, {"step": 1, "epoch": 0}),
        (ORIGIN, [1, 0, 0]),
    ]:
        (checkpoint / STATE_FILE).write_text(json.dumps({**sound, name: value}), encoding="utf-8")
        with pytest.raises(DamageError, match=f"{name} is "):
            read_state(checkpoint)


# -- processes that torchrun starts ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_processes_of_torchrun_resume_each_others_checkpoints(demo: Path, tmp_path: Path, dropout: float) -> None:
    """Four processes, then two, then one without torchrun."""
    before, lines = None, []
    for processes, accumulation, start in [(4, 1, 0), (2, 2, 2), (None, 4, 4)]:
        out = tmp_path / f"from-{start}"
        if before is not None:
            shutil.copytree(before, out)
            for step in range(start + 1, 7):
                shutil.rmtree(out / f"checkpoint-{step:06d}", ignore_errors=True)
        settings = {**FOUR, "eval_data_path": None, "lora_dropout": dropout}
        words = flags(demo, out, **settings, gradient_accumulation_steps=accumulation)
        result = run(command(words, processes))
        assert result.returncode == 0, result.stderr
        assert before is None or f"at step {start} of 6" in result.stderr
        found = {line["step"]: line for line in metrics(out)}
        assert list(found) == [1, 2, 3, 4, 5, 6]
        if before is not None:
            first, not_moved = found[start + 1], lines[-1][start + 1]
            assert first["loss"] == pytest.approx(not_moved["loss"], rel=1e-6)
            assert first["grad_norm"] == pytest.approx(not_moved["grad_norm"], rel=1e-5)
            assert first["learning_rate"] == not_moved["learning_rate"]
        before = out
        lines.append(found)


CHAOTIC_STEPS = 120
T_99 = 4.604
"""The 99.5 % quantile of Student's t with 4 degrees of freedom: 99 % of a sixth run of the same kind as five others lie
within ``T_99 * sd * sqrt(1 + 1 / 5)`` of their mean."""


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_moved_run_ends_within_the_spread_of_runs_whose_epsilon_differs_by_a_hair(
    demo: Path, tmp_path: Path, dropout: float
) -> None:
    """Training is chaotic: a sum in another order and a hair of ``adam_epsilon`` both lead to another end."""
    how: dict[str, Any] = {"max_tokens_per_batch": 330, "max_steps": CHAOTIC_STEPS, "logging_steps": CHAOTIC_STEPS}
    how |= {"save_steps": CHAOTIC_STEPS // 3, "learning_rate": 4e-3, "warmup_steps": 10, "lora_dropout": dropout}
    how |= {"lora_targets": ["attention", "audio_mlp", "text_mlp", "heads", "audio_embeddings"]}
    how |= {"lora_rank": 64, "lora_alpha": 128}

    def final_loss(name: str, *parts: tuple[int, int], **settings: Any) -> float:
        for number, (world_size, accumulation) in enumerate(parts, start=1):
            subject = simulated(demo, tmp_path / name, world_size, accumulation, **how, **settings)
            subject.train_to(CHAOTIC_STEPS * number // len(parts))
        assert subject.components.state.step == CHAOTIC_STEPS
        return subject.steps[-1].loss.item()

    alike = torch.tensor(
        [final_loss(f"{hairs}", (4, 1), adam_epsilon=1e-8 * (1 + 1e-5 * hairs)) for hairs in (-2, -1, 0, 1, 2)]
    )
    moved = final_loss("moved", *SAME_STEPS)
    spread = T_99 * alike.std().item() * (1 + 1 / len(alike)) ** 0.5
    print(f"dropout {dropout}: {alike.tolist()}, moved {moved}, spread {spread}")
    assert alike.std().item() > 1e-6, "the runs did not part: the test says nothing"
    assert abs(moved - alike.mean().item()) <= spread
