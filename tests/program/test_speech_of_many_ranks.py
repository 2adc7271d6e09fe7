"""The program under torchrun: two processes speak what one speaks, and write the same files."""

from pathlib import Path
from typing import Any

import pytest

from tests.spoken_runs import sample_lines
from tests.training_runs import command, flags, run, trainer


@pytest.mark.slow
def test_two_ranks_write_the_samples_of_one(demo: Path, tmp_path: Path) -> None:
    """The adapter does not change: two processes add gradients in another order than one."""
    settings: dict[str, Any] = {
        "eval_data_path": demo / "train_chatml_samples.json",
        "num_scored_samples": 4,
        "num_samples": 2,
        "max_steps": 1,
        "max_tokens_per_batch": 256,
        "learning_rate": 1e-30,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    subject = trainer(demo, one, **settings)
    assert len(subject.components.speech.batches) == 2, "there is work for two"
    subject.train()
    result = run(command(flags(demo, two, **settings), 2))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("speech took ") == result.stderr.count("speech: 4 of 16 ") == 1
    assert sample_lines(two) == sample_lines(one) and len(sample_lines(one)) == 4
    files = {path.relative_to(one): path.read_bytes() for path in (one / "samples").rglob("*.wav")}
    assert len(files) == 6
    assert {path.relative_to(two): path.read_bytes() for path in (two / "samples").rglob("*.wav")} == files
