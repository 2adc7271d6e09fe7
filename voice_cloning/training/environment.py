"""The versions with which a run was trained, for its ``run.json``."""

import importlib.metadata
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from voice_cloning import __version__

RECORDED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "torchaudio", "soundfile", "numpy")
OPTIONAL_PACKAGES = ("bitsandbytes",)


def environment(project: Path) -> dict[str, Any]:
    """Return the versions of this program, its packages and Python, and the commit of ``project`` if it has one."""
    try:
        command = ["git", "-C", str(project), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or not a checkout
        commit = None
    packages = [*RECORDED_PACKAGES, *(name for name in OPTIONAL_PACKAGES if find_spec(name) is not None)]
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "version": __version__,
        "versions": versions,
        "python": platform.python_version(),
        "git_commit": commit,
    }
