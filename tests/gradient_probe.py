"""Run under python or torchrun: one optimizer step's loss and gradients of given micro-batches, dealt to the ranks.

gradient_probe.py OUTPUT.pt MICRO_BATCHES.json FLAG ...
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from voice_cloning.training.config import parse_arguments


def main(output: Path, micro_batches: list[list[int]], flags: list[str]) -> None:
    trainer = ArabicVoiceCloningDistributedTrainer(*parse_arguments(flags, ""))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.trainable:  # LoRA B starts at 0, which hides the gradient of A
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    captured = []
    trainer.optimizer.step = lambda: captured.append(trainer.gradients.clone())
    mine = micro_batches[trainer.rank :: trainer.world_size]
    batches = [trainer.collator([trainer.train_dataset[i] for i in indices]) for indices in mine]
    counts, _ = trainer._count_labels(batches, stop=False)
    sums = trainer._optimizer_step(0, batches, counts)[:, :-1].sum(dim=0).double()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(sums)
        torch.distributed.barrier()
    if trainer.is_main:
        means = sums / counts
        sizes = [parameter.numel() for parameter in trainer.trainable]
        torch.save({"loss": means[0] + means[1:].mean(), "gradients": captured[0].split(sizes)}, output)
    if trainer.world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3:])
