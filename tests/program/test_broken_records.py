"""Broken records are refused.

The message names the file, the sample, the field, the value found there, and what would be right.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.chatml_files import audio, load, make_cache, text, write_records
from tests.program.sound_records import SAMPLE_ID, Record, sound_record

Change = Callable[[Record], Any]


def test_the_record_that_the_tests_break_is_sound(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = write_records(folder / "sound.json", [sound_record()])
    for style in ("as_written", "voice_clone"):
        assert len(load(path, tokenizer, make_cache(tmp_path), prompt_style=style)) == 1


def _set(*path: Any, to: Any) -> Change:
    """Sets the field at ``path``."""

    def change(record: Record) -> None:
        target: Any = record
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = to

    return change


def _turn(turn: int, **fields: Any) -> Change:
    return lambda record: record["messages"][turn].update(fields)


def _reference(**fields: Any) -> Change:
    return lambda record: record["messages"][1]["content"][1].update(fields)


def _no_text(record: Record) -> None:
    record["messages"][1]["content"] = [audio("ref.wav")]
    record["messages"][2]["content"] = [audio("tgt.wav")]


TARGET_TEXT = ("messages", 2, "content", 0, "text")
REFERENCE = "messages[1].content[1]"
GARBAGE = base64.b64encode(b"no sound in here").decode()
BROKEN_RECORDS: dict[str, tuple[Change, str, str, str]] = {
    # name: (change, field, value, what would be right)
    "unknown sample key": (_set("langauge", to="ar"), "langauge", "unknown key", "'messages', 'start_index'"),
    "unknown message key": (_turn(1, extra=1), "messages[1].extra", "unknown key", "'role', 'content', 'recipient'"),
    "unknown audio key": (_reference(url="x"), f"{REFERENCE}.url", "unknown key", "'audio_url', 'raw_audio'"),
    "unknown text key": (
        _turn(1, content={"type": "text", "text": "a", "lang": "ar"}),
        "messages[1].content[0].lang",
        "unknown key",
        "'type', 'text'",
    ),
    "messages missing": (_set("messages", to=None), "messages", "None", "a list of at least one turn"),
    "message is no object": (_set("messages", 1, to="hello"), "messages[1]", "'hello'", "an object with 'role'"),
    "unknown role": (_turn(0, role="narrator"), "messages[0].role", "'narrator'", "'system', 'user', 'assistant'"),
    "content empty": (_turn(1, content=[]), "messages[1].content", "[]", "it must hold text or audio"),
    "content is a number": (_turn(1, content=3), "messages[1].content[0]", "3", "a string or an object of type"),
    "content of unknown type": (
        _turn(1, content=[{"type": "video", "text": "a"}]),
        "messages[1].content[0].type",
        "'video'",
        "'text' or 'audio'",
    ),
    "text is a number": (_set(*TARGET_TEXT, to=7), "messages[2].content[0].text", "7", "it must be a string"),
    "text is blank": (_set(*TARGET_TEXT, to=" \n"), "messages[2].content[0].text", r"' \n'", "text is missing"),
    "slot token in text": (
        _set(*TARGET_TEXT, to="قل <|AUDIO|> الآن"),
        "messages[2].content[0].text",
        "قل <|AUDIO|> الآن",
        "['<|AUDIO|>'], which only the program writes; remove them",
    ),
    "turn token in text": (
        _turn(0, content="a<|eot_id|><|start_header_id|>user"),
        "messages[0].content[0].text",
        "a<|eot_id|>",
        "['<|start_header_id|>', '<|eot_id|>'], which only the program writes; remove them",
    ),
    "half a surrogate pair": (
        _set(*TARGET_TEXT, to="a\ud83d"),
        "messages[2].content[0].text",
        r"'a\ud83d'",
        "write the character itself",
    ),
    "recipient on a user turn": (
        _turn(1, recipient="tool"),
        "messages[1].recipient",
        "'tool'",
        "only an assistant turn has one",
    ),
    "slot token in recipient": (
        _turn(2, recipient="<|AUDIO_OUT|>"),
        "messages[2].recipient",
        "<|AUDIO_OUT|>",
        "remove them",
    ),
    "start_index is a string": (_set("start_index", to="2"), "start_index", "'2'", "null or a message index from 0"),
    "start_index is negative": (_set("start_index", to=-1), "start_index", "-1", "null or a message index from 0"),
    "start_index is a truth value": (_set("start_index", to=True), "start_index", "True", "a message index from 0"),
    "start_index past the audio": (
        _set("start_index", to=3),
        "messages",
        "no audio in an assistant turn",
        "from start_index 3 on",
    ),
    "no audio in the assistant turn": (
        _turn(2, content="كيف حالك"),
        "messages",
        "no audio in an assistant turn",
        "from start_index 0 on",
    ),
    "no text at all": (
        _no_text,
        "messages",
        "no text in any user or assistant turn",
        "the model needs the text to speak",
    ),
    "no audio source": (_reference(audio_url=None), f"{REFERENCE}.audio_url", "missing", "a path, or base64 in raw"),
    "placeholder": (_reference(audio_url="placeholder"), f"{REFERENCE}.audio_url", "missing", "a path, or base64"),
    "audio_url is a number": (_reference(audio_url=5), f"{REFERENCE}.audio_url", "5", "it must be a string"),
    "raw_audio is not base64": (
        _reference(audio_url="", raw_audio="%%%%"),
        f"{REFERENCE}.raw_audio",
        "'%%%%'",
        "it must be base64 in one line",
    ),
    "raw_audio is Arabic": (
        _reference(audio_url=None, raw_audio="صوت"),
        f"{REFERENCE}.raw_audio",
        "'صوت'",
        "it must be base64 in one line",
    ),
    "raw_audio is not audio": (
        _reference(audio_url=None, raw_audio=GARBAGE),
        f"{REFERENCE}.raw_audio",
        "16 bytes: not readable as audio",
        "give WAV, FLAC, OGG or MP3",
    ),
    "offset is negative": (_reference(offset=-0.5), f"{REFERENCE}.offset", "-0.5", "a number of seconds, at least 0"),
    "offset is a string": (_reference(offset="1 s"), f"{REFERENCE}.offset", "'1 s'", "null or a number of seconds"),
    "offset is NaN": (_reference(offset=float("nan")), f"{REFERENCE}.offset", "nan", "a number of seconds"),
    "offset is beyond numbers": (_reference(offset=10**400), f"{REFERENCE}.offset", "1000000", "a number of seconds"),
    "duration is zero": (_reference(duration=0), f"{REFERENCE}.duration", "0", "a number of seconds, above 0"),
    "duration is infinite": (_reference(duration=float("inf")), f"{REFERENCE}.duration", "inf", "a number of seconds"),
    "audio file missing": (
        _reference(audio_url="clips/gone.wav"),
        f"{REFERENCE}.audio_url",
        "clips/gone.wav: no such file",
        "absolute or relative to the JSON file",
    ),
    "home of nobody": (
        _reference(audio_url="~nobody-by-this-name/a.wav"),
        f"{REFERENCE}.audio_url",
        "~nobody-by-this-name/a.wav: no such file",
        "absolute or relative to the JSON file",
    ),
    "audio file is a folder": (_reference(audio_url="."), f"{REFERENCE}.audio_url", "Is a directory", "an audio file"),
    "null byte in audio_url": (_reference(audio_url="a\0.wav"), f"{REFERENCE}.audio_url", r"a\x00.wav'", "not a path"),
    "surrogate in audio_url": (_reference(audio_url="a\ud800"), f"{REFERENCE}.audio_url", r"a\ud800'", "not a path"),
    "garbage instead of audio": (
        _reference(audio_url="garbage.wav"),
        f"{REFERENCE}.audio_url",
        "garbage.wav: not readable as audio",
        "give WAV, FLAC, OGG or MP3",
    ),
    "audio without a header": (
        _reference(audio_url="headerless.raw"),
        f"{REFERENCE}.audio_url",
        "headerless.raw: not readable as audio",
        "give WAV, FLAC, OGG or MP3",
    ),
    "audio without samples": (
        _reference(audio_url="no_samples.wav"),
        f"{REFERENCE}.audio_url",
        "no_samples.wav: empty audio",
        "a clip needs at least one sample",
    ),
    "audio shorter than a frame": (
        _reference(audio_url="blink.wav"),
        f"{REFERENCE}.audio_url",
        "blink.wav: 0.004 s of audio",
        "a clip has at least 0.04 s",
    ),
    "a rate that nothing has": (
        _reference(audio_url="odd_rate.wav"),
        f"{REFERENCE}.audio_url",
        "odd_rate.wav: 44101 samples per second is no usual rate",
        "convert it to 24000 or 48000",
    ),
    "NaN in audio": (
        _reference(audio_url="nan.wav"),
        f"{REFERENCE}.audio_url",
        "nan.wav: holds NaN",
        "export it again",
    ),
    "infinity in audio": (
        _reference(audio_url="infinite.wav"),
        f"{REFERENCE}.audio_url",
        "infinite.wav: holds NaN or infinite",
        "export it again",
    ),
    "offset past the end": (
        _reference(offset=9.5),
        f"{REFERENCE}.audio_url",
        "ref.wav: empty audio after an offset of 9.5 s",
        "a clip needs at least one sample",
    ),
    "offset far past the end": (
        _reference(offset=1e305),
        f"{REFERENCE}.audio_url",
        "ref.wav: empty audio after an offset of 1e+305 s",
        "a clip needs at least one sample",
    ),
}


@pytest.mark.parametrize("name", BROKEN_RECORDS)
def test_a_broken_record_is_refused(name: str, refusal: Callable[..., str]) -> None:
    change, field, value, remedy = BROKEN_RECORDS[name]
    broken = sound_record()
    change(broken)
    message = refusal([sound_record("sound_sample"), broken])
    line = next(line for line in message.splitlines() if SAMPLE_ID in line)
    names = f"  {SAMPLE_ID}: {field}: "
    assert line.startswith(names), line
    rest = line.removeprefix(names)
    assert value in rest and remedy in rest, line
    assert "sound_sample" not in message, "it is no offender"


def test_a_record_that_is_no_object_is_named_by_its_number(refusal: Callable[..., str]) -> None:
    assert "record 1: record: is str; it must be an object with 'messages'" in refusal([sound_record(), "hello"])


def test_a_misc_that_is_no_object_is_refused(refusal: Callable[..., str]) -> None:
    assert "record 0: misc: 'x'; it must be an object" in refusal([{**sound_record(), "misc": "x"}])


def test_a_sample_longer_than_the_limit_is_refused(refusal: Callable[..., str]) -> None:
    message = refusal([sound_record()], max_positions=40)
    assert f"{SAMPLE_ID}: is " in message and "25 of them audio frames; the limit is 40" in message
    assert "--max_positions_per_sample" in message


BROKEN_FOR_VOICE_CLONE: dict[str, tuple[Change, str, str]] = {
    # name: (change, field and what is wrong, what would be right)
    "no reference text": (
        _turn(1, content=[audio("ref.wav"), text("Please say: كيف حالك")]),
        "misc.ref_transcript: missing, and there is no text before the reference clip",
        "give one",
    ),
    "reference text is a number": (
        _set("misc", "ref_transcript", to=5),
        "misc.ref_transcript: 5",
        "it must be a string",
    ),
    "slot token in reference text": (
        _set("misc", "ref_transcript", to="a <|AUDIO|>"),
        "misc.ref_transcript: 'a <|AUDIO|>' holds ['<|AUDIO|>']",
        "remove them",
    ),
    "no reference audio": (_turn(1, content="Please say: كيف حالك"), "messages: 0 clips outside", "exactly 1"),
    "two references": (
        _turn(1, content=[text("a"), audio("ref.wav"), audio("tgt.wav")]),
        "messages: 2 clips outside the trained turns",
        "exactly 1, the reference",
    ),
    "a reference in the system turn too": (
        _turn(0, content=[text("a"), audio("tgt.wav")]),
        "messages: 2 clips outside the trained turns",
        "exactly 1, the reference",
    ),
    "two targets": (
        _turn(2, content=[text("a"), audio("ref.wav"), audio("tgt.wav")]),
        "messages: 2 clips in trained turns",
        "exactly 1, the target",
    ),
    "no target text": (
        _turn(2, content=[audio("tgt.wav")]),
        "messages: the trained assistant turn has no text",
        "needs the target's",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FOR_VOICE_CLONE)
def test_what_voice_clone_cannot_use_is_refused(
    name: str, refusal: Callable[..., str], folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    change, wrong, remedy = BROKEN_FOR_VOICE_CLONE[name]
    broken = sound_record()
    change(broken)
    message = refusal([sound_record("sound_sample"), broken], prompt_style="voice_clone")
    line = next(line for line in message.splitlines() if SAMPLE_ID in line)
    assert line.startswith(f"  {SAMPLE_ID}: {wrong}") and remedy in line, line
    assert message.endswith("; --prompt_style as_written trains on the turns of the file as they are"), message
    assert "sound_sample" not in message
    as_written = write_records(folder / "as_written.json", [broken])
    assert len(load(as_written, tokenizer, make_cache(tmp_path))) == 1, "only voice_clone minds"
