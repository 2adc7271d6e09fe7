"""The form of prepared data, beside which the packed codes are measured."""

from pathlib import Path

import numpy as np

from benchmarks.data_preparation import SHARD, Shard, lost_of, random_codes


def test_a_shard_gives_the_codes_back_and_notices_each_changed_byte(tmp_path: Path) -> None:
    """A changed byte of the codes loses a clip, one of the header or the index loses the file."""
    codes, place = dict(random_codes(4, shortest=1, longest=1)), tmp_path / "shard"
    place.mkdir()
    Shard.write(place / SHARD, codes)
    content = (place / SHARD).read_bytes()
    shard = Shard(place / SHARD)
    assert all(np.array_equal(shard.read(key).numpy(), found) for key, found in codes.items())
    index, lost = len(content) - sum(found.nbytes for found in codes.values()), {}
    for byte in range(0, len(content), 7):
        changed = bytearray(content)
        changed[byte] ^= 0x10
        (place / SHARD).unlink()  # a mapped file must not change
        (place / SHARD).write_bytes(changed)
        lost[byte] = lost_of(place, codes)
    assert {lost[byte] for byte in lost if byte < index} == {4}
    assert {lost[byte] for byte in lost if byte >= index} == {1}
