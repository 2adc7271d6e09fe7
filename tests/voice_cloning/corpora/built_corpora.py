"""Builds a corpus in a test, and returns what it says."""

from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.voice_cloning.corpora.source_forms import records_of
from voice_cloning.corpora.build import build_data


def built(source: Path, out: Path, **flags: Any) -> tuple[list[dict[str, Any]], str]:
    """Build without an evaluation file; return the records and what was said."""
    said: list[str] = []
    build_data(source, out, eval_share=0, announce=said.append, **flags)
    return records_of(out), said[0]


def refusal(source: Path, out: Path, **flags: Any) -> str:
    """Return the message of a build that is refused and writes nothing."""
    with pytest.raises(InputError) as caught:
        build_data(source, out, eval_share=0, announce=lambda _: None, **flags)
    assert not out.exists(), "nothing is written"
    return str(caught.value)
