"""What the program loads when it starts and trains."""

import json
import sys
from pathlib import Path

from tests.training_runs import PROGRAM, flags, run

CODE = """
import json, runpy, sys
from pathlib import Path

report, program, *arguments = sys.argv[1:]
sys.argv = [program, *arguments]
try:
    runpy.run_path(program, run_name="__main__")
finally:
    Path(report).write_text(json.dumps(sorted(sys.modules)))
"""


def test_training_loads_neither_librosa_nor_numba(demo: Path, tmp_path: Path) -> None:
    """In a whole run: clips are encoded, two steps and evaluations are made, a checkpoint is written."""
    report, out = tmp_path / "modules.json", tmp_path / "out"
    arguments = flags(demo, out, code_cache_dir=tmp_path / "codes", max_steps=2, eval_steps=1, save_steps=2)
    result = run([sys.executable, "-c", CODE, str(report), str(PROGRAM), *arguments])
    assert result.returncode == 0, result.stderr
    assert (out / "metrics.jsonl").is_file() and any((tmp_path / "codes").iterdir())
    loaded = {name.split(".")[0] for name in json.loads(report.read_text())}
    assert {"torch", "torchaudio", "transformers"} <= loaded
    assert not {"librosa", "numba", "sklearn"} & loaded
