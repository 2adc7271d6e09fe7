"""What fits on cards of several sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from voice_cloning.training.gpu_cards import CONTEXT_BYTES, GB
from voice_cloning.training.memory_estimate import TrainedModel

CARD_SIZES = (8, 12, 16, 24, 40, 80)
"""Memory of common cards, in GB."""


@dataclass(frozen=True)
class TableRow:
    """What a card holds.

    Attributes:
        card: its memory in GB.
        available: bytes of it that the allocator can get.
        model: the model and its adapter.
        recompute: the level.
        positions: the most positions of a micro-batch; 0 if the longest sample does not fit.
    """

    card: int
    available: int
    model: TrainedModel
    recompute: str
    positions: int


def table_rows(models: Sequence[TrainedModel], longest: int, sizes: Sequence[int] = CARD_SIZES) -> Iterator[TableRow]:
    """Yield what each card holds with each model and level of recompute, for samples of at most ``longest``."""
    for card in sizes:
        available = int(card * GB) - CONTEXT_BYTES
        for model in models:
            for level in model.levels:
                budget = model.largest_budget(available, level, longest)
                yield TableRow(card, available, model, level, budget if budget >= longest else 0)
