"""Higgs Audio v2: the model, its ChatML prompts and its codec. Knows nothing of trainers, datasets, Arabic or LoRA."""
