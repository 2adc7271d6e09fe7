"""Store which of the encoded clips are silent, because codes do not show it."""

from collections.abc import Mapping
from pathlib import Path

from boson_multimodal.audio_processing.packed_store import PackedStore


class SilenceNotes:
    """One byte for each clip, 1 for a silent one, in a :class:`PackedStore`; the key is that of the clip's codes.

    Clips that an earlier release encoded have no note. If the folder is not writable (a read-only cache) or the disk is
    full, notes are missing; nothing else is lost.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._store = PackedStore(folder, lambda payload: payload in (b"\0", b"\1"))
        except OSError:  # a read-only cache of an earlier release: nothing is known of its clips
            self._store = None
        self._is_writable = self._store is not None

    def of(self, key: str) -> bool | None:
        """Return whether the clip of a key is silent; None if there is no note."""
        note = None if self._store is None else self._store.read(bytes.fromhex(key))
        return None if note is None else note == b"\1"

    def write(self, silent: Mapping[str, bool]) -> None:
        """Store whether clips are silent, by their keys."""
        for key, is_silent in silent.items():
            if not self._is_writable:
                return
            try:
                self._store.write(bytes.fromhex(key), bytes([is_silent]))
            except OSError:  # No further write is tried: each would create a log.
                self._is_writable = False

    def seal(self) -> None:
        """See :meth:`PackedStore.seal`."""
        if self._store is not None:
            self._store.seal()

    def compact(self) -> None:
        """See :meth:`PackedStore.compact`."""
        if self._store is not None:
            self._store.compact()
