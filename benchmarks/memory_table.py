"""Print, as a table in Markdown, what fits on cards of common sizes: the released model, its default adapter, bf16.

    python -m benchmarks.memory_table [--longest 600] [--rank 16]

No GPU is needed. The figures are estimates, which tests hold within 5 % of torch's allocator at the released size.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.training.memory_estimate import RELEASED_MODEL, TrainedModel
from voice_cloning.training.memory_table import TableRow, table_rows

QUANTISE = ("none", "nf4")


def markdown(rows: Sequence[TableRow]) -> list[str]:
    """Return the lines of the table: a row for each card, a column for each pair of flags."""
    columns = list(dict.fromkeys((row.model.quantise, row.recompute) for row in rows))
    heads = [f"`--quantise {quantise} --recompute {recompute}`" for quantise, recompute in columns]
    lines = ["| GPU | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for card in dict.fromkeys(row.card for row in rows):
        found = {(row.model.quantise, row.recompute): row.positions for row in rows if row.card == card}
        cells = [f"{found[column]:,}" if found[column] else "-" for column in columns]
        lines.append(f"| {card} GB | " + " | ".join(cells) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=600, help="Positions of the longest sample, which must fit.")
    parser.add_argument("--rank", type=int, default=16, help="Rank of the adapter.")
    args = parser.parse_args(arguments)
    lora = HiggsAudioLoRATrainingConfig(lora_rank=args.rank)
    models = [TrainedModel(RELEASED_MODEL, lora, torch.bfloat16, quantise) for quantise in QUANTISE]
    print("\n".join(markdown(list(table_rows(models, args.longest)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
