"""Broken files of records are refused: the message names the file and the line, and lists all offenders at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, write_records
from tests.program.sound_records import SAMPLE_ID, sound_record


def refused_file(path: Path, tokenizer: PreTrainedTokenizerBase, content: bytes | None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(path, tokenizer, make_cache(path.parent / "cache"))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


BROKEN_FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("a.json", None, "no such file; give a ChatML .json or .jsonl"),
    "not UTF-8": ("a.json", "صوت".encode("cp1256"), "not readable as UTF-8 text"),
    "empty": ("a.json", b"", "line 1, column 1"),
    "not JSON": ("a.json", b'[\n {"messages": []},\n {"messages": oops}\n]', "line 3, column 15"),
    "cut short": ("a.json", b'[\n {"messages": [\n', "line 3, column 1"),
    "an object": ("a.json", b'{"messages": []}', "holds a JSON dict; a .json file is a list of samples"),
    "an empty list": ("a.json", b"[]", "holds no sample; a .json file is a list of samples"),
    "no line": (
        "a.jsonl",
        b"\n\n",
        "holds no sample; a .json file is a list of samples, a .jsonl file has one sample per line",
    ),
    "a list in .jsonl form": ("a.jsonl", b"[\n1\n]\n", "line 1, column 2"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_refused(name: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    file, content, expected = BROKEN_FILES[name]
    assert expected in refused_file(tmp_path / file, tokenizer, content)


def test_every_bad_line_of_a_jsonl_is_listed(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    good = json.dumps(sound_record())
    lines = [good, "{oops", "", good, '{"messages": [}', good]
    message = refused_file(tmp_path / "a.jsonl", tokenizer, "\n".join(lines).encode())
    assert message.splitlines()[0] == f"{tmp_path / 'a.jsonl'}: not JSON (2):"
    assert [line.split(":")[0] for line in message.splitlines()[1:]] == ["  line 2, column 2", "  line 5, column 15"]


def test_a_folder_as_data_path_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    assert "Is a directory" in refused_file(tmp_path, tokenizer, None)


def test_all_offenders_of_a_file_are_listed_at_once(refusal: Callable[..., str]) -> None:
    wrong_role, wrong_clip, wrong_twice = (sound_record(f"sample_{i}") for i in range(3))
    wrong_role["messages"][0]["role"] = "narrator"
    wrong_clip["messages"][2]["content"][1]["audio_url"] = "gone.wav"
    for turn in (1, 2):
        wrong_twice["messages"][turn]["content"][1] = audio("garbage.wav")
    message = refusal([wrong_role, sound_record(), wrong_clip, wrong_twice])
    heading, *offenders = message.splitlines()
    assert heading.endswith("invalid samples (--drop_invalid leaves them out) (4):")
    assert [line.split(": ")[:2] for line in offenders] == [
        ["  sample_0", "messages[0].role"],
        ["  sample_1", "messages[2].content[1].audio_url"],
        ["  sample_2", "messages[1].content[1].audio_url"],
        ["  sample_2", "messages[2].content[1].audio_url"],
    ]


@pytest.mark.parametrize("count", [20, 25])
def test_twenty_offenders_are_listed_and_the_rest_counted(count: int, refusal: Callable[..., str]) -> None:
    broken = [sound_record(f"sample_{i:02d}") for i in range(count)]
    for r in broken:
        r["messages"][0]["role"] = "narrator"
    heading, *lines = refusal(broken).splitlines()
    assert f"({count}):" in heading
    assert [line.split(":")[0].strip() for line in lines[:20]] == [f"sample_{i:02d}" for i in range(20)]
    assert lines[20:] == ([] if count == 20 else ["  ... and 5 more"])


def test_dropped_samples_are_counted(folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    broken = [sound_record(), sound_record(), sound_record()]
    broken[0]["messages"][0]["role"] = "narrator"
    broken[2]["messages"][2]["content"][1]["audio_url"] = "garbage.wav"
    path = write_records(folder / "drop.json", [sound_record("first"), *broken, sound_record("last")])
    dataset = load(path, tokenizer, make_cache(tmp_path), drop_invalid=True)
    assert [r.sample_id for r in dataset.records] == ["first", SAMPLE_ID, "last"]
    assert len(dataset) == 3 and dataset.num_dropped == 2


def test_dropping_every_sample_is_an_error_that_says_why(refusal: Callable[..., str]) -> None:
    broken = sound_record()
    broken["messages"][0]["role"] = "narrator"
    message = refusal([broken], drop_invalid=True)
    assert "none of its 1 samples is valid" in message and f"{SAMPLE_ID}: messages[0].role: 'narrator'" in message
