"""A code cache as release 0.1.0 wrote it, byte by byte.

This module is frozen, and it imports nothing of the program: what it writes stays what users have on their disks,
whatever the program becomes. Releases may write other forms, but they read this one, and never encode its clips again.
"""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32


def entry(key: bytes, payload: bytes) -> bytes:
    """Return an entry of a pack or log."""
    head = struct.pack("<4s32sII", b"HAe1", key, len(payload), crc32(payload))
    return head + struct.pack("<I", crc32(head)) + payload


def log(entries: Mapping[bytes, bytes]) -> bytes:
    """Return the log of a process that was killed while it wrote one more entry."""
    return b"".join(entry(*each) for each in entries.items()) + entry(b"k" * 32, b"payload")[:51]


def pack(entries: Mapping[bytes, bytes]) -> bytes:
    """Return a pack: entries, their index, a footer."""
    content, records = b"", []
    for key, payload in entries.items():
        records.append(struct.pack("<32sQI", key, len(content), len(payload)))
        content += entry(key, payload)
    footer = struct.pack("<8sQQ", b"HAindex1", len(content), len(records))
    return content + b"".join(sorted(records)) + footer + struct.pack("<I", crc32(footer))


def codec_identity(codec: Path) -> str:
    """Return the name of the folder of a codec's codes."""
    weights = sorted(codec.glob("*.safetensors")) or [codec / "model.pth"]
    digest = hashlib.sha256()
    for path in (codec / "config.json", *weights):
        digest.update(f"{path.name}:".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def clip_key(clip: Path) -> bytes:
    """Return the key of a whole clip's codes."""
    content = hashlib.sha256(clip.read_bytes()).hexdigest()
    return hashlib.sha256(f"{content}:0.0:None".encode()).digest()


def write_cache(folder: Path, codec: Path, codes: Mapping[Path, list[list[int]]]) -> None:
    """Write a cache of 8 x T codes by clip: the first half in a pack, the others in the log of a killed process."""
    contents = {}
    for clip in codes:
        found = clip.stat()
        version = hashlib.sha256(f"0:{clip.absolute()}".encode()).digest()
        content = hashlib.sha256(clip.read_bytes()).digest()
        contents[version] = struct.pack("<Qq32s", found.st_size, found.st_mtime_ns, content)
    kinds = {
        "content_hashes": contents,
        "silence": {clip_key(clip): b"\0" for clip in codes},
        codec_identity(codec): {
            clip_key(clip): struct.pack("<II", 8, len(rows[0]))
            + b"".join(struct.pack("<h", c) for r in rows for c in r)
            for clip, rows in codes.items()
        },
    }
    for number, (name, entries) in enumerate(kinds.items()):
        place, half = folder / name, len(entries) // 2
        place.mkdir(parents=True)
        (place / f"{number:032x}.pack").write_bytes(pack(dict(list(entries.items())[:half])))
        (place / f"{number + 16:032x}.log").write_bytes(log(dict(list(entries.items())[half:])))
    (folder / codec_identity(codec) / "config.json").write_bytes((codec / "config.json").read_bytes())
