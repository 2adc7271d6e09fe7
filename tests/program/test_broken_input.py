"""A user's mistakes: each is refused before any weight is loaded, and the message says how to correct it.

The message names the file, the sample or line, the field, the value found there, and what would be right.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from transformers import PreTrainedTokenizerBase

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from boson_multimodal import checkpoints
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_config
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, noise, record, text, write_clip, write_records
from tests.training_runs import trainer
from voice_cloning.run import data as run_data
from voice_cloning.training.config import DistributedTrainingConfig, parse_arguments

SAMPLE_ID = "voice_7_take_03"
Record = dict[str, Any]
Change = Callable[[Record], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound clips ref.wav and tgt.wav, and clips that are broken in one way each."""
    folder = tmp_path_factory.mktemp("broken")
    write_clip(folder / "ref.wav", seconds=0.4, seed=1)
    write_clip(folder / "tgt.wav", seconds=0.6, seed=2)
    (folder / "garbage.wav").write_bytes(bytes(range(256)) * 8)
    (folder / "headerless.raw").write_bytes(bytes(2000))
    soundfile.write(folder / "no_samples.wav", np.zeros(0), 24_000)
    soundfile.write(folder / "blink.wav", noise(0.004), 24_000)
    soundfile.write(folder / "odd_rate.wav", noise(0.4), 44_101)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = noise(0.4)
        samples[100] = value
        soundfile.write(folder / f"{name}.wav", samples, 24_000, subtype="FLOAT")
    return folder


@pytest.fixture
def refusal(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Writes records beside the clips, constructs the dataset, and returns the message it is refused with."""

    def refuse(records: Any, suffix: str = ".json", **settings: Any) -> str:
        path = write_records(folder / f"data{suffix}", records)
        with pytest.raises(InputError) as caught:
            load(path, tokenizer, make_cache(tmp_path), **settings)
        message = str(caught.value)
        assert str(path) in message, "names the file"
        return message

    return refuse


def sound_record(sample_id: str = SAMPLE_ID) -> Record:
    return record(sample_id, audio("ref.wav"), audio("tgt.wav"))


def test_the_record_that_the_tests_break_is_sound(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = write_records(folder / "sound.json", [sound_record()])
    for style in ("as_written", "voice_clone"):
        assert len(load(path, tokenizer, make_cache(tmp_path), prompt_style=style)) == 1


# -- records ---------------------------------------------------------------------------------------------------------


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


# -- files -----------------------------------------------------------------------------------------------------------


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


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub cannot be reached, and nothing is in its local cache; the ids that were asked for."""
    asked = []

    def unreachable(repo_id: str, **_: Any) -> None:
        asked.append(repo_id)
        raise checkpoints.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(checkpoints, "snapshot_download", unreachable)
    return asked


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "./no_such_folder", "no_such_folder", "~nobody-here/model", "a/b/c"]
)
def test_a_model_path_that_is_not_there_is_refused_without_asking_the_hub(path: str, offline: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(path, None, "--model_path", ())
    assert str(caught.value) == (
        f"--model_path {path}: no such folder; give a checkpoint's folder or a hub id OWNER/NAME"
    )
    assert not offline


def test_a_hub_that_cannot_be_reached_is_named(offline: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint("bosonai/some-model", "main", "--model_path", ())
    assert offline == ["bosonai/some-model"]
    message = str(caught.value)
    assert message.startswith("--model_path bosonai/some-model: no such folder, not in the local hub cache")
    assert "download it first and give its folder" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no config.json in it; give the folder of a checkpoint"),
        ("{ oops", "its config.json is not JSON"),
        ("[]", "its config.json does not hold a JSON object"),
    ],
)
def test_a_folder_without_a_readable_configuration_is_refused(
    content: str | None, expected: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(str(tmp_path), None, "--model_path", ())
    assert str(caught.value).startswith(f"--model_path {tmp_path}: ") and expected in str(caught.value)


def test_a_file_as_model_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="no config.json in it"):
        resolve_checkpoint(str(path), None, "--model_path", ())


def test_a_model_in_the_place_of_the_codec_is_refused(demo: Path) -> None:
    with pytest.raises(InputError) as caught:
        codec_config(demo / "model")
    assert str(caught.value).startswith(
        f"{demo / 'model'}: config.json has model_type 'higgs_audio', not 'higgs_audio_v2"
    )
    assert "--audio_tokenizer_revision" in str(caught.value)


def test_a_checkpoint_without_weights_or_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(str(tmp_path), None, "--model_path", ("tokenizer.json", "*.safetensors"))
    assert str(caught.value) == (
        f"--model_path {tmp_path}: no tokenizer.json and no *.safetensors in it; give a whole checkpoint"
    )


# -- settings --------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_listed_together_each_with_what_would_be_right() -> None:
    with pytest.raises(InputError) as caught:
        DistributedTrainingConfig(
            data_path="",
            output_dir="out",
            max_steps=0,
            learning_rate=float("nan"),
            adam_beta2=1.0,
            lr_scheduler_type="linear",
            torch_dtype="float16",
            weight_decay=-0.1,
            report_to=["carrier pigeon"],
        )
    heading, *lines = str(caught.value).splitlines()
    assert heading == "wrong settings (8):"
    listed = {line.split()[0]: line for line in lines}
    for name, value, right in (
        ("data_path", "is empty", "give a path"),
        ("max_steps", "is 0", "at least 1"),
        ("learning_rate", "is nan", "a number above 0"),
        ("adam_beta2", "is 1.0", "in [0, 1)"),
        ("lr_scheduler_type", "is 'linear'", "one of ['cosine', 'constant']"),
        ("torch_dtype", "is float16", "use bfloat16"),
        ("weight_decay", "is -0.1", "at least 0"),
        ("report_to", "is ['carrier pigeon']", "some of"),
    ):
        assert value in listed[name] and right in listed[name], name


def test_wrong_dataset_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"prompt_style is 'clone'; it must be one of \['as_written', 'voice_clone'\]"):
        ArabicVoiceCloningDatasetConfig(prompt_style="clone")
    with pytest.raises(InputError, match="max_positions_per_sample is 0; it must be at least 1"):
        ArabicVoiceCloningDatasetConfig(max_positions_per_sample=0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("learning_rte: 1\nseed: 3\nbatchsize: 2\n", "unknown names (2):\n  learning_rte\n  batchsize"),
        ("- seed\n", "must hold pairs (name: value)"),
        ("seed: [1\n", "not YAML"),
        (None, "no such file"),
    ],
)
def test_a_wrong_yaml_file_is_refused(content: str | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        parse_arguments(["--data_path", "a.json", "--output_dir", "out", "--config", str(path)], "")
    assert str(caught.value).startswith(f"--config {path}: ") and expected in str(caught.value)


# -- before any weight is loaded -------------------------------------------------------------------------------------


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a clip is encoded or a weight is loaded."""

    def touched(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("touched")

    for owner, name in (
        (program, "load_base_model"),
        (run_data, "load_higgs_audio_tokenizer"),
        (program.HiggsAudioModel, "from_pretrained"),
        (ArabicVoiceCloningDataset, "encode_missing"),
        (HiggsAudioTokenizer, "encode"),
    ):
        monkeypatch.setattr(owner, name, touched)


def test_broken_data_is_refused_before_any_weight_is_loaded(no_weights: None, demo: Path, tmp_path: Path) -> None:
    """Both files are checked, so that one start shows all that is wrong."""
    train = write_records(tmp_path / "train.json", [record("train_1", audio("gone.wav"), audio("gone_too.wav"))])
    val = write_records(tmp_path / "val.jsonl", [record("val_1", audio("missing.wav"), audio("missing_too.wav"))])
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "out", data_path=train, eval_data_path=val)
    message = str(caught.value)
    for path, sample_id, clip in ((train, "train_1", "gone.wav"), (val, "val_1", "missing.wav")):
        assert str(path) in message and f"{sample_id}: messages[1].content[1].audio_url: {tmp_path / clip}" in message
    assert not (tmp_path / "out").exists()


def test_a_model_path_that_is_not_there_is_refused_before_the_data_is_read(
    no_weights: None, demo: Path, tmp_path: Path
) -> None:
    data_path = tmp_path / "train.json"
    data_path.write_text("never read")
    with pytest.raises(InputError, match="--model_path /no/such/model: no such folder"):
        trainer(demo, tmp_path / "out", model_path="/no/such/model", data_path=data_path)
