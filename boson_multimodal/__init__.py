"""Higgs Audio v2: the model, its ChatML prompts and its codec. Knows nothing of trainers, datasets, Arabic or LoRA."""

import logging
import sys

if sys.platform == "win32":
    raise ImportError("Windows is not supported: file locks and process groups work otherwise there; use WSL2")

# PEFT imports bitsandbytes wherever it is installed. On CPUs with AVX512-BF16, each command would warn at its start
# that a kernel of another package is missing. It is not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
