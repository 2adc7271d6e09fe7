"""Short runs that speak: a very small model whose clips are codes, without a codec."""

from pathlib import Path
from typing import Any

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.training_runs import flags, metrics, trainer

TINY = Path(__file__).parent / "old_runs" / "before_0_1"
SAMPLES = 7
"""In the evaluation data, which are those of training."""
SPOKEN: dict[str, Any] = {
    "data_path": TINY / "train.json",
    "eval_data_path": TINY / "train.json",
    "codes": TINY / "codes.safetensors",
    "model_path": TINY / "model",
    "audio_tokenizer_path": "no_codec",
    "prompt_style": "as_written",
    "max_tokens_per_batch": None,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "lora_rank": 2,
    "num_scored_samples": 5,
}


def spoken_flags(output_dir: Path, **overrides: Any) -> list[str]:
    """Six steps; 5 of 7 samples are spoken at steps 4 and 6."""
    return flags(TINY, output_dir, **{**SPOKEN, "code_cache_dir": output_dir.parent / "code_cache", **overrides})


def spoken_trainer(output_dir: Path, **overrides: Any) -> ArabicVoiceCloningDistributedTrainer:
    """A trainer of such a run."""
    return trainer(TINY, output_dir, **{**SPOKEN, "code_cache_dir": output_dir.parent / "code_cache", **overrides})


def sample_lines(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of spoken samples in metrics.jsonl."""
    return [line for line in metrics(output_dir) if "sample" in line]
