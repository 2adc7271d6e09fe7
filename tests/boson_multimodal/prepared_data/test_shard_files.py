"""A shard gives back what was written, and no damage to it goes unseen."""

from pathlib import Path

import numpy as np
import pytest

from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.shard_files import Ragged, Shard, write_shard

TEXTS = ["صباح الخير", "", "a\ud800"]


def write(path: Path) -> str:
    numbers = np.random.default_rng(0)
    codes = [numbers.integers(0, 1024, (8, frames)).astype(np.int16) for frames in (3, 5, 1)]
    return write_shard(
        path,
        {"frames": np.array([3, 5, 1], np.int32)},
        {"codes": Ragged.of(codes, np.int16), "text": Ragged.of_texts(TEXTS)},
    )


def read_all(path: Path) -> list[bytes]:
    shard = Shard(path)
    rows = range(len(shard))
    return [shard.fixed["frames"].tobytes()] + [
        shard.read(name, row).tobytes() for name in ("codes", "text") for row in rows
    ]


def test_a_shard_gives_back_what_was_written_and_equal_rows_make_equal_files(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert write(one) == write(other) == Shard(one).checksum
    assert one.read_bytes() == other.read_bytes()
    shard = Shard(one)
    assert len(shard) == 3 and shard.sizes("codes").tolist() == [24, 40, 8]
    assert [shard.read_text("text", row) for row in range(3)] == TEXTS
    assert shard.read("codes", 1).dtype == np.int16 and not shard.read("codes", 1).flags.writeable


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    write(path)
    whole, wanted = path.read_bytes(), read_all(path)
    header = int.from_bytes(whole[:8], "little")
    unseen = []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place // 3 % 8
        path.write_bytes(damaged)
        try:
            if read_all(path) != wanted:
                unseen.append(place)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert place < 8 + header, "only what the header says in other words, or not at all, may go on"
    assert not unseen


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "rows.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="rows.safetensors: missing, cut off or damaged"):
        Shard(path)


def test_a_damaged_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    write(path)
    content = path.read_bytes()
    place = content.index(Shard(path).read("codes", 1).tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    shard = Shard(path)
    assert shard.read("codes", 0).size == 24
    with pytest.raises(InputError, match="rows.safetensors: row 1, codes: damaged"):
        shard.read("codes", 1)


def test_another_shard_in_the_place_of_the_expected_one_is_refused(tmp_path: Path) -> None:
    checksum = write(tmp_path / "rows.safetensors")
    write_shard(tmp_path / "rows.safetensors", {"frames": np.array([1], np.int32)}, {})
    with pytest.raises(InputError, match="rows.safetensors: is another shard"):
        Shard(tmp_path / "rows.safetensors", checksum)
    with pytest.raises(ValueError, match="same number of rows"):
        write_shard(tmp_path / "odd.safetensors", {"a": np.zeros(2)}, {"b": Ragged.of_texts(["x"])})
