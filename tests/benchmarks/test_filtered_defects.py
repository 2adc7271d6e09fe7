"""Test of the benchmark of the filter: rows of its table, on real speech."""

from pathlib import Path

import pytest

from benchmarks.filtered_defects import HEARD_ROWS, ROWS, SIMULATED, Data, Simulated, filtered, spoken_in
from tests.goldens import needs_samples


@needs_samples
@pytest.mark.slow
def test_rows_count_what_was_caught_and_what_was_lost(tmp_path: Path) -> None:
    rows = {row.title: row for row in ROWS}
    measures = tmp_path / "measures"
    shown = [filtered(rows[title], measures, None) for title in ("nothing", "1 s of silence after", "a copy as MP3")]
    assert shown == [
        "| nothing | `errors` | 0 of 28 | 0 | 0 of 100 |",
        "| 1 s of silence after | `silence` | 28 of 28 | 0 | 0 of 100 |",
        "| a copy as MP3 | `duplicates` | 28 of 28 | 0 | 0 of 128 |",
    ]
    (tmp_path / "data").mkdir()
    recogniser = Simulated(spoken_in(Data(tmp_path / "data")), SIMULATED[0])
    text_twice = next(row for row in HEARD_ROWS if row.title == "the text twice")
    told = filtered(text_twice, measures, recogniser)
    assert told == "| the text twice | `transcript` | 28 of 28 | 0 | 0 of 100 |"
