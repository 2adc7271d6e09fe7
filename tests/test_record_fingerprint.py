"""The digest by which a resumed run checks that its data are the same. If it changed, no older run could resume.

The digests below come from the code of an older release. The test depends on no demo, no trained tokenizer and no
library that writes audio files.
"""

import re
import struct
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.chatml_files import audio, load, make_cache, record, text, write_records

SPECIAL = re.compile(r"(<\|[A-Za-z_]+\|>)")
IDS_OF_SPECIAL_TOKENS = {"<|AUDIO|>": 501, "<|AUDIO_OUT|>": 502, "<|audio_bos|>": 503, "<|audio_out_bos|>": 504}


class ByteTokenizer:
    """One token for each byte and one for each special token."""

    def encode(self, words: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        ids: list[int] = []
        for part in SPECIAL.split(words):
            ids += [self.convert_tokens_to_ids([part])[0]] if SPECIAL.fullmatch(part) else part.encode()
        return ids

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [IDS_OF_SPECIAL_TOKENS.get(token, 600 + len(token)) for token in tokens]


def write_ramp(path: Path, samples: int, step: int) -> None:
    """A 24 kHz WAV whose bytes are the same wherever it is written."""
    values = [(i * step) % 2000 - 1000 for i in range(samples)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(struct.pack(f"<{samples}h", *values))


def fixed_records() -> list[dict[str, Any]]:
    """A plain sample; one with cut clips and no id; one with more turns, a recipient and a speaker."""
    cut = record("unused", audio("ref.wav", offset=0.1, duration=0.2), audio("tgt.wav", duration=0.3), start_index=None)
    del cut["misc"]
    conversation = record("three turns", audio("ref.wav"), audio("tgt.wav", offset=0.25), start_index=2, speaker="amal")
    conversation["messages"][2:2] = [
        {"role": "assistant", "content": [text("نعم")], "recipient": "tool"},
        {"role": "user", "content": "وبعد؟"},
    ]
    return [record("plain", audio("ref.wav"), audio("tgt.wav")), cut, conversation]


@pytest.mark.parametrize(("style", "digest"), [("as_written", "9a8db053c9ee0445"), ("voice_clone", "2efe074e4652ad3d")])
def test_the_fingerprint_of_fixed_records_is_that_of_older_releases(style: str, digest: str, tmp_path: Path) -> None:
    write_ramp(tmp_path / "ref.wav", 9_600, 7)
    write_ramp(tmp_path / "tgt.wav", 14_640, 11)
    path = write_records(tmp_path / "data.json", fixed_records())
    tokenizer: Any = ByteTokenizer()
    dataset = load(path, tokenizer, make_cache(tmp_path / "cache"), prompt_style=style)
    assert [r.sample_id for r in dataset.records] == ["plain", "record 1", "three turns"]
    assert dataset.fingerprint() == digest
