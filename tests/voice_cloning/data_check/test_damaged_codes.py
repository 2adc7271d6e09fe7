"""Damaged files of codes: the check names what is wrong, or what it reads is sound."""

import random
from pathlib import Path

import pytest
from safetensors.numpy import load

from boson_multimodal.errors import InputError
from tests.fuzzing import MUTATIONS, check_bounds, mutated, run_apart
from tests.voice_cloning.data_check.coded_records import CodedData
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.coded_clips import open_codes

AT_ONCE = 20
"""Damaged files that one process reads, because its start takes longer than a check. They share the bounds of one."""
Found = dict[str, bytes] | str


def checked(files: list[Path], path: Path, contents: list[bytes]) -> list[Found]:
    """Check each content of a file of codes.

    Returns:
        For each, the message if it was refused, else the codes of the samples without an error, by clip name.
    """
    found: list[Found] = []
    for content in contents:
        path.write_bytes(content)
        try:
            report = check_files(files, path.parent / "out", codes=[path], num_workers=1)
        except InputError as error:
            found.append(str(error))
            continue
        refused = {sample_id for entry in report["errors"] for sample_id in entry["sample_ids"]}
        samples = [f"{side}{n}" for side, count in (("train", 6), ("val", 2)) for n in range(count)]
        names = [f"{sample_id}{kind}" for sample_id in samples if sample_id not in refused for kind in "rt"]
        found.append({name: read(path, name) for name in names})
    return found


def read(path: Path, name: str) -> bytes:
    """Return the codes of a clip as a trainer reads them."""
    codes = open_codes([path], None, None).files.find(None, name).codes_KT
    assert codes.shape[0] == 8 and codes.shape[1] > 0 and 0 <= codes.min() and codes.max() < 1024
    return codes.short().numpy().tobytes()


@pytest.mark.parametrize("mutations", MUTATIONS)
def test_damaged_codes_are_named_or_sound(mutations: int, tmp_path: Path) -> None:
    """The format has no checksum of the codes: a clip whose bytes were changed may have other codes in the range."""
    data = CodedData(tmp_path)
    files, path = data.write()
    content = path.read_bytes()
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    places = {name: content.index(codes.tobytes()) for name, codes in data.tensors.items()}
    untouched = run_apart(checked, files, path, [content])
    assert untouched.trace is None and len(untouched.value[0]) == 16
    generator = random.Random(0)
    damaged = [mutated(content, generator) for _ in range(mutations)]
    refused = clean = 0
    for first in range(0, mutations, AT_ONCE):
        contents = damaged[first : first + AT_ONCE]
        outcome = run_apart(checked, files, path, contents)
        check_bounds(outcome, untouched, f"mutations from {first} on")
        for number, (changed, found) in enumerate(zip(contents, outcome.value, strict=True), first):
            if isinstance(found, str):
                assert str(path) in found
                refused += 1
                continue
            clean += len(found) == 16
            for name, codes in found.items():
                own, start = data.tensors[name].tobytes(), places[name]
                is_touched = not changed.startswith(header) or changed[start : start + len(own)] != own
                wanted = load(changed)[name].tobytes() if is_touched else own
                assert codes == wanted, f"mutation {number}: {name}"
    assert refused > mutations / 4 and clean > 0
