"""Systems on which the project does not work are refused with the reason."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_windows_is_refused_with_the_way_out() -> None:
    code = "import sys; sys.platform = 'win32'; import boson_multimodal"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].startswith("ImportError: Windows is not supported")
    assert "use WSL2" in result.stderr
