"""The flat AdamW beside AdamW on separate parameters: its updates, its views, and its file."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from boson_multimodal.process_group import Ranks
from tests.null_cuda import needs_null_cuda, report_of
from voice_cloning.training.checkpoints import OPTIMIZER_FILE
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.optimizer import AdapterOptimizer

SHAPES = [(4, 24), (16, 4), (4, 7), (3, 4), (1, 5)]
RATE = 2e-4


def config(**overrides: float) -> DistributedTrainingConfig:
    settings = {"weight_decay": 0.1, "max_grad_norm": 0.0, **overrides}
    return DistributedTrainingConfig(data_path="none", output_dir="none", **settings)


def parameters() -> list[nn.Parameter]:
    """Trained parameters, with a frozen one between them."""
    generator = torch.Generator().manual_seed(3)
    trained = [nn.Parameter(0.05 * torch.randn(shape, generator=generator)) for shape in SHAPES]
    return [*trained[:2], nn.Parameter(torch.ones(9), requires_grad=False), *trained[2:]]


def trained(model: list[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in model if parameter.requires_grad]


def accumulate(model: list[nn.Parameter], step: int) -> None:
    """Add gradients of two micro-batches, as autograd does."""
    for micro_batch in range(2):
        generator = torch.Generator().manual_seed(100 * step + micro_batch)
        for parameter in trained(model):
            gradient = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def separate_adamw(model: list[nn.Parameter], settings: DistributedTrainingConfig) -> torch.optim.AdamW:
    """AdamW as earlier releases had it: the parameters apart, and no fused kernel."""
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(
        trained(model), lr=RATE, betas=betas, eps=settings.adam_epsilon, weight_decay=settings.weight_decay
    )


def separate_step(model: list[nn.Parameter], adamw: torch.optim.AdamW, step: int, limit: float) -> float:
    accumulate(model, step)
    norm = nn.utils.clip_grad_norm_(trained(model), limit or float("inf"))
    adamw.step()
    adamw.zero_grad()
    return norm.item()


def assert_close(model: list[nn.Parameter], other: list[nn.Parameter]) -> None:
    for one, two in zip(model, other, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=1e-6, atol=1e-7 * RATE)


@pytest.mark.parametrize("limit", [0.0, 1.0], ids=["not clipped", "clipped"])
@pytest.mark.parametrize("order", [None, [3, 0, 4, 2, 1]], ids=["model's order", "another order"])
def test_updates_are_those_of_adamw_on_separate_parameters(order: list[int] | None, limit: float) -> None:
    settings = config(max_grad_norm=limit)
    reference, model = parameters(), parameters()
    adamw = separate_adamw(reference, settings)
    wanted = order and [trained(model)[number] for number in order]
    optimizer = AdapterOptimizer(model, settings, Ranks(), wanted)
    for step in range(12):
        before = optimizer.values.clone()
        accumulate(model, step)
        norm = optimizer.step(RATE)
        assert norm.item() == pytest.approx(separate_step(reference, adamw, step, limit), rel=1e-6)
        assert not optimizer.gradients.any() and not torch.equal(optimizer.values, before)
    assert_close(model, reference)


def test_parameters_and_gradients_are_views_in_the_given_order() -> None:
    model = parameters()
    before = [parameter.detach().clone() for parameter in model]
    order = [trained(model)[number] for number in (2, 4, 1, 0, 3)]
    optimizer = AdapterOptimizer(model, config(), Ranks(), order)
    assert all(torch.equal(one, two) for one, two in zip(model, before, strict=True))
    assert all(isinstance(parameter, nn.Parameter) and parameter.is_leaf for parameter in model)
    assert [id(parameter) for parameter in optimizer.parameters] == [id(parameter) for parameter in order]

    numbers = torch.arange(optimizer.values.numel(), dtype=torch.float32)
    optimizer.values.copy_(numbers)
    optimizer.gradients.copy_(-numbers)
    in_order = torch.cat([parameter.detach().flatten() for parameter in order])
    assert torch.equal(in_order, numbers)
    assert torch.equal(torch.cat([parameter.grad.flatten() for parameter in order]), -numbers)
    with torch.no_grad():
        model[0].copy_(torch.full(SHAPES[0], 7.0))
    assert (optimizer.values == 7).sum() == model[0].numel() + 1  # one of the numbers is 7
    assert torch.equal(model[2].detach(), torch.ones(9)) and model[2].grad is None


@pytest.mark.parametrize(
    "wrong", [[0, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 0]], ids=["one less", "twice", "more"]
)
def test_an_order_that_is_not_one_of_the_trained_parameters_is_refused(wrong: list[int]) -> None:
    model = parameters()
    with pytest.raises(ValueError, match="must hold each of the 5 trained ones once"):
        AdapterOptimizer(model, config(), Ranks(), [trained(model)[number] for number in wrong])


def test_parameters_that_are_not_fp32_are_refused() -> None:
    model = [*parameters(), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    with pytest.raises(ValueError, match=r"are torch\.bfloat16, torch\.float32; they must all be torch\.float32"):
        AdapterOptimizer(model, config(), Ranks())


@dataclass(frozen=True)
class TwoRanks(Ranks):
    """This process as rank 1 of two whose gradients are equal; rank 0 has zeros as weights."""

    calls: list[tuple[str, int]] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        self.calls.append(("sum", tensor.numel()))
        return tensor.mul_(2)

    def broadcast(self, tensor: Tensor) -> None:
        self.calls.append(("broadcast", tensor.numel()))
        tensor.zero_()


def test_ranks_exchange_one_buffer_at_the_start_and_one_in_each_step() -> None:
    model, ranks = parameters(), TwoRanks(local_rank=1, rank=1, world_size=2)
    optimizer = AdapterOptimizer(model, config(), ranks)
    weights = sum(parameter.numel() for parameter in trained(model))
    assert ranks.calls == [("broadcast", weights)]
    assert not any(parameter.any() for parameter in trained(model))
    accumulate(model, 0)
    summed = 2 * optimizer.gradients.norm()
    assert torch.equal(optimizer.step(RATE), summed)
    assert ranks.calls == [("broadcast", weights), ("sum", weights)]


# -- the file ------------------------------------------------------------------------------------------------------


def file_of_separate_adamw(folder: Path, steps: int) -> tuple[list[nn.Parameter], torch.optim.AdamW]:
    """Train as earlier releases did, and write their file."""
    model = parameters()
    adamw = separate_adamw(model, config())
    for step in range(steps):
        separate_step(model, adamw, step, 0.0)
    torch.save(adamw.state_dict(), folder / OPTIMIZER_FILE)
    return model, adamw


def trained_optimizer(steps: int, order: list[int] | None = None) -> tuple[list[nn.Parameter], AdapterOptimizer]:
    model = parameters()
    wanted = order and [trained(model)[number] for number in order]
    optimizer = AdapterOptimizer(model, config(), Ranks(), wanted)
    for step in range(steps):
        accumulate(model, step)
        optimizer.step(RATE)
    return model, optimizer


@pytest.mark.parametrize("order", [None, [3, 0, 4, 2, 1]], ids=["model's order", "another order"])
def test_the_file_has_the_form_and_the_size_of_separate_adamw(tmp_path: Path, order: list[int] | None) -> None:
    for name in ("separate", "flat"):
        (tmp_path / name).mkdir()
    file_of_separate_adamw(tmp_path / "separate", 3)
    trained_optimizer(3, order)[1].save(tmp_path / "flat")
    wanted, found = (torch.load(tmp_path / name / OPTIMIZER_FILE, weights_only=True) for name in ("separate", "flat"))
    assert found["param_groups"] == wanted["param_groups"]
    assert list(found["state"]) == list(wanted["state"]) == list(range(5))
    tensors = []
    for number, shape in enumerate(SHAPES):
        one, two = found["state"][number], wanted["state"][number]
        assert list(one) == list(two) == ["step", "exp_avg", "exp_avg_sq"]
        assert one["step"].shape == () and one["step"] == two["step"] == 3
        assert one["exp_avg"].shape == one["exp_avg_sq"].shape == shape
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=0)
        tensors += list(one.values())
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    sizes = [(tmp_path / name / OPTIMIZER_FILE).stat().st_size for name in ("separate", "flat")]
    assert sizes[1] <= sizes[0]


def test_a_file_of_separate_adamw_is_continued_and_the_other_way_round(tmp_path: Path) -> None:
    """An earlier release resumes from the file of this one too; its steps are counted once for each parameter."""
    reference, adamw = file_of_separate_adamw(tmp_path, 4)
    model, optimizer = trained_optimizer(0, [3, 0, 4, 2, 1])
    optimizer.load(tmp_path)
    with torch.no_grad():
        for one, two in zip(model, reference, strict=True):
            one.copy_(two)
    for step in (4, 5):
        separate_step(reference, adamw, step, 0.0)
        accumulate(model, step)
        optimizer.step(RATE)
    assert_close(model, reference)

    optimizer.save(tmp_path)
    back = separate_adamw(reference, config())
    back.load_state_dict(torch.load(tmp_path / OPTIMIZER_FILE, weights_only=True))
    for step in (6, 7):
        separate_step(reference, back, step, 0.0)
        accumulate(model, step)
        optimizer.step(RATE)
    assert_close(model, reference)


@pytest.mark.parametrize("order", [None, [3, 0, 4, 2, 1]], ids=["model's order", "another order"])
def test_a_loaded_state_continues_bit_for_bit_in_any_order(tmp_path: Path, order: list[int] | None) -> None:
    model, optimizer = trained_optimizer(4)
    optimizer.save(tmp_path)
    resumed, other = trained_optimizer(0, order)
    other.load(tmp_path)
    with torch.no_grad():
        for one, two in zip(resumed, model, strict=True):
            one.copy_(two)
    for step in (4, 5, 6):
        for each, its_optimizer in ((model, optimizer), (resumed, other)):
            accumulate(each, step)
            its_optimizer.step(RATE)
    assert all(torch.equal(one, two) for one, two in zip(resumed, model, strict=True))


# -- on a GPU ------------------------------------------------------------------------------------------------------

UPDATE_ON_CUDA = """
import tempfile, warnings
from pathlib import Path
import torch
from boson_multimodal.process_group import Ranks
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.optimizer import AdapterOptimizer

def optimizer():
    parameters = [torch.nn.Parameter(torch.zeros(16, 96, device="cuda")) for _ in range(200)]
    return AdapterOptimizer(parameters, DistributedTrainingConfig(data_path="none", output_dir="none"), Ranks())

def update(subject):
    subject.step(2e-4)
    cuda.reset()
    torch.cuda.set_sync_debug_mode("error")
    subject.step(1e-4)
    torch.cuda.set_sync_debug_mode("default")
    counts = cuda.read()
    return {name: counts[name] for name in ("launches", "syncs", "d2h", "h2d", "mallocs")}

fresh = optimizer()
found = {"fresh": update(fresh)}
with tempfile.TemporaryDirectory() as folder:
    fresh.save(Path(folder))
    resumed = optimizer()
    resumed.load(Path(folder))
found["resumed"] = update(resumed)
report(found)
"""


@pytest.mark.slow
@needs_null_cuda
def test_an_update_on_a_gpu_is_a_few_launches_and_waits_for_nothing_after_a_resume_too() -> None:
    found = report_of(UPDATE_ON_CUDA)
    assert found["resumed"] == found["fresh"]
    assert 0 < found["fresh"].pop("launches") <= 10
    assert found["fresh"] == {"syncs": 0, "d2h": 0, "h2d": 0, "mallocs": 0}
