"""A folder of prepared data: shards of samples, shards of clips, and a manifest, which is written last.

    manifest.json               what the folder holds, how it was made, and the shards with their checksums
    samples-00000.safetensors   token ids, labels, the numbers of the clips, ids, texts
    clips-00000.safetensors     codes; each clip once

Without its manifest a folder is not whole, and nothing is read from it. Nothing in it changes afterwards.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from boson_multimodal.errors import InputError, call_for_each, raise_if_any
from boson_multimodal.prepared_data.shard_files import Shard
from boson_multimodal.whole_files import write_whole

MANIFEST = "manifest.json"
FORM = 1
"""The form of the folder. A folder of another form is refused."""
CHECKSUM_FIELD = "checksum"
MISSING = object()
NO_TEMPLATE = "none"
"""The setting ``prompt_template`` of data without one."""
SETTINGS_BEFORE = {"prompt_template": NO_TEMPLATE}
"""The value of each setting that a folder may lack."""
AS_WRITTEN_TURNS = "as_written_turns"
"""The field that says whether the first record has the turns of prompt style ``as_written``. It may be missing."""
READS_BEFORE_RELEASE = 128
"""So many reads keep their pages mapped. A read maps about 100 kB, because the system maps pages around it."""


class ShardTable:
    """Shards one after the other, as one table of rows."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self._ends = list(accumulate(map(len, shards)))
        self._reads = 0

    @classmethod
    def open(cls, folder: Path, entries: Sequence[Mapping[str, str]]) -> "ShardTable":
        """Open the shards that a manifest names.

        Raises:
            InputError: if shards are missing or damaged. It names each one.
        """
        return cls(call_for_each(lambda entry: Shard(folder / entry["file"], entry["index_crc32"]), entries))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def fixed(self, name: str) -> np.ndarray:
        """Return the entries of a fixed column for all rows."""
        return np.concatenate([shard.fixed[name] for shard in self.shards])

    def sizes(self, name: str) -> np.ndarray:
        """Return (rows,) the number of elements of each row of a ragged column."""
        return np.concatenate([shard.sizes(name) for shard in self.shards])

    def place(self, row: int) -> tuple[Shard, int]:
        """Return the shard of a row, and the number of the row in it, to read the row now."""
        self._reads += 1
        if self._reads % READS_BEFORE_RELEASE == 0:
            for shard in self.shards:
                shard.release()
        number = bisect_right(self._ends, row)
        return self.shards[number], row - (self._ends[number - 1] if number else 0)

    def read(self, name: str, row: int) -> np.ndarray:
        """Return a row of a ragged column; see :meth:`Shard.read`."""
        shard, own = self.place(row)
        return shard.read(name, own)

    def read_text(self, name: str, row: int) -> str:
        """Return the text of a row; see :meth:`Shard.read`."""
        shard, own = self.place(row)
        return shard.read_text(name, own)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest, which makes a folder whole.

    Raises:
        OSError: if it cannot be written.
    """
    whole = {"form": FORM, **content}
    text = json.dumps({**whole, CHECKSUM_FIELD: _checksum(whole)}, indent=1)
    write_whole(folder / MANIFEST, text.encode(), durable=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder.

    Raises:
        InputError: if it is missing or damaged, or of another form.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no {MANIFEST}, so this is no prepared data, or its packing did not end; "
            "start tools.prepare_data pack again"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); pack the data again") from error
    if not isinstance(content, dict) or content.pop(CHECKSUM_FIELD, None) != _checksum(content):
        raise InputError(f"{path}: damaged: its checksum differs; pack the data again")
    if content["form"] != FORM:
        raise InputError(f"{path}: has form {content['form']}; this release reads form {FORM}: pack the data again")
    return content


def settings_of_folder(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a manifest holds: without those that have the value of folders that lack them."""
    return {name: value for name, value in settings.items() if SETTINGS_BEFORE.get(name, MISSING) != value}


def refuse_other_settings(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, tuple[Any, str]]) -> None:
    """Check that a folder was made as this run needs it.

    Args:
        found: the settings of the folder.
        wanted: the value that each setting must have and the flag or file it comes from; a value of None takes any.

    Raises:
        InputError: listing each difference.
    """
    found = {**SETTINGS_BEFORE, **found}
    differ = [
        f"{name} is {found.get(name)!r} in the folder and {value!r} by {origin}"
        for name, (value, origin) in wanted.items()
        if value is not None and found.get(name) != value
    ]
    raise_if_any(f"{folder}: was prepared for another run; give what it was made with, or pack the data again", differ)


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{crc32(json.dumps(content, sort_keys=True).encode()):08x}"
