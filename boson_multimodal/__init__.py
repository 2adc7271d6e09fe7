"""Higgs Audio v2: the model, its ChatML prompts and its codec. Knows nothing of trainers, datasets, Arabic or LoRA."""

import sys

if sys.platform == "win32":
    raise ImportError("Windows is not supported: file locks and process groups work otherwise there; use WSL2")
