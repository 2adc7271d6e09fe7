"""Turn a lack of memory into a message that says what helps.

A message has one line for each remedy, and under it the words to add at the end of the same command, as here:

    out of GPU memory (CUDA out of memory. Tried to allocate 2.00 GiB ...) in step 121 of 400.
    cuda:0 (NVIDIA L4) has 23.6 GB: 21.9 GB held by this process, 1.2 GB free, 0.5 GB held by ...
    What helps, with the words to add at the end of the same command:
      - resume from EXPMT/a/checkpoint-000100; compute each layer again in the backward pass, which is slower:
          --recompute layer
      - use a GPU with more memory
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from boson_multimodal.cards import card_memory
from boson_multimodal.errors import NamedError
from boson_multimodal.memory_errors import Memory, memory_used_up, out_of_memory

WHAT_HELPS = "What helps, with the words to add at the end of the same command:"
NO_GPU = "CUDA_VISIBLE_DEVICES="
"""Put before a command, it hides all GPUs."""


@dataclass(frozen=True)
class Remedy:
    """Something that helps.

    Attributes:
        text: what it is and what it costs.
        words: what is added to the end of the same command; empty for a remedy outside the program.
        command: what else is given, as the text says.
    """

    text: str
    words: tuple[str, ...] = ()
    command: str | None = None

    def lines(self) -> list[str]:
        """Return the remedy as lines of a message."""
        shown = self.command or shlex.join(self.words)
        return [f"  - {self.text}:", f"      {shown}"] if shown else [f"  - {self.text}"]


@contextmanager
def naming_lack_of_memory(
    device: torch.device, where: Callable[[], str], remedies: Callable[[], Sequence[Remedy]]
) -> Iterator[None]:
    """Turn an error that says that memory is used up into a message with what helps.

    Args:
        device: the device of this process.
        where: returns what was being done; called after the error.
        remedies: returns what helps, best first; called after the error.

    Raises:
        NamedError: if memory is used up. Every other error rises as it is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        found, memory = out_of_memory(error), memory_used_up(error)
        if memory is None:
            raise
        lines = [f"{found} {where()}."]
        if device.type == "cuda" and memory is Memory.GPU:
            card = card_memory(device)
            lines += [] if card is None else [f"{card}."]
            others = [OTHER_PROGRAMS] if card is not None and card.is_shared else []
            shown = [*others, *remedies(), MORE_GPU_MEMORY]
        else:  # on a GPU the flags save its own memory, not that of the machine
            shown = [*([] if device.type == "cuda" else remedies()), MORE_MEMORY]
        lines += [WHAT_HELPS, *(line for remedy in shown for line in remedy.lines())]
        raise NamedError("\n".join(lines)) from error


OTHER_PROGRAMS = Remedy("end the other programs on this card (nvidia-smi names them), and start again")
MORE_GPU_MEMORY = Remedy("use a GPU with more memory")
MORE_MEMORY = Remedy("close other programs, or use a machine with more memory")


@contextmanager
def advising_cpu(where: str) -> Iterator[None]:
    """Name a lack of memory in the work of a command that can do it on a CPU too, and has no flag for that."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slower = Remedy("give the same command on the CPU, which is slower: put this before it", command=NO_GPU)
    with naming_lack_of_memory(device, lambda: where, lambda: [slower] if device.type == "cuda" else []):
        yield
