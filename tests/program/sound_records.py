"""A sound record, for tests to break."""

from typing import Any

from tests.chatml_files import audio, record

SAMPLE_ID = "voice_7_take_03"
Record = dict[str, Any]


def sound_record(sample_id: str = SAMPLE_ID) -> Record:
    return record(sample_id, audio("ref.wav"), audio("tgt.wav"))
