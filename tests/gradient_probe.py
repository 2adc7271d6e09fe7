"""Run under python or torchrun: one optimizer step's loss and gradients of given micro-batches, dealt to the ranks.

gradient_probe.py OUTPUT.pt MICRO_BATCHES.json FLAG ...
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.process_group import leave_process_group
from voice_cloning.training.batches import StepBatches, count_labels
from voice_cloning.training.config import parse_arguments


def main(output: Path, micro_batches: list[list[int]], flags: list[str]) -> None:
    trainer = ArabicVoiceCloningDistributedTrainer(*parse_arguments(flags, ""))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.components.optimizer.parameters:  # LoRA B starts at 0, which hides the gradient of A
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    run, ranks = trainer.components, trainer.ranks
    assert run.model.get_base_model().label_layers is not None, "the ranks are compared on the fused layers"
    captured = []
    run.optimizer.step = lambda rate: captured.append(ranks.sum(run.optimizer.gradients).clone()) or torch.zeros(())
    mine = micro_batches[ranks.rank :: ranks.world_size]
    collated = tuple(run.data.collator([run.data.train_dataset[i] for i in indices]) for indices in mine)
    counts = ranks.sum(count_labels(collated, run.num_codebooks))
    sums = trainer._optimizer_step(StepBatches(0, tuple(map(tuple, mine)), collated, 0), counts)
    sums = ranks.sum(sums[:, :-1].sum(dim=0).double())
    if ranks.is_main:
        means = sums / counts
        sizes = [parameter.numel() for parameter in run.optimizer.parameters]
        torch.save({"loss": means[0] + means[1:].mean(), "gradients": captured[0].split(sizes)}, output)
    leave_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3:])
