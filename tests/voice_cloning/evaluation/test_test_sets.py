"""Every form of a test set becomes the same kind of items, and everything that is wrong with one is listed at once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.data_types import TextContent
from boson_multimodal.errors import InputError
from boson_multimodal.prompt_template import PromptTemplate
from tests.chatml_files import audio, record, write_clip, write_records
from voice_cloning.evaluation.test_sets import OUR_SENTENCES, TestSet, read_test_set
from voice_cloning.speech.requests import check_references

HELLO, WELL, LATE, THANKS = "صباح الخير", "كيف حالك", "تأخر الوقت", "شكرا جزيلا"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("amal", "omar", "noor", "true"):
        write_clip(tmp_path / "clips" / f"{name}.wav", 0.2)
    return tmp_path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "text": WELL, "reference": "clips/amal.wav", "reference_text": HELLO, **fields}


def speaking(name: str, speaker: str | None, clip: str, target: str = "clips/true.wav", **misc: Any) -> dict[str, Any]:
    named = record(name, audio(clip), audio(target), speaker=speaker)
    named["misc"] |= misc
    return named


def problems_of(path: Path, **settings: Any) -> list[str]:
    with pytest.raises(InputError) as error:
        read_test_set(path, "voice_clone", **settings)
    return [line.strip() for line in str(error.value).splitlines()]


def prompt_of(found: TestSet, number: int) -> tuple[list[str], list[str | None]]:
    """The texts of a prompt, and its clips."""
    item = found.items[number]
    texts = [part.text for message in item.request.pieces[0].sample.messages for part in message.content
             if isinstance(part, TextContent)]  # fmt: skip
    return texts, [clip.audio_url for clip in item.request.references()]


def test_chatml_records_have_recordings_speakers_and_dialects(folder: Path) -> None:
    records = [speaking("a", "amal", "clips/amal.wav", dialect="gulf"), speaking("b", None, "clips/omar.wav")]
    path = write_records(folder / "set.json", records)
    found = read_test_set(path, "voice_clone")
    first, second = found.items
    assert (found.name, found.kind) == ("set.json", "chatml")
    assert (first.name, first.text, first.speaker, first.dialect) == ("a", WELL, "amal", "gulf")
    assert (first.reference.audio_url, first.recording.audio_url) == ("clips/amal.wav", "clips/true.wav")
    assert (first.reference_text, first.base_dir) == (HELLO, folder)
    assert second.speaker is None and second.dialect is None
    assert HELLO in prompt_of(found, 0)[0]


def test_of_several_references_the_last_is_the_voice_and_none_has_a_known_text(folder: Path) -> None:
    several = speaking("a", "amal", "clips/amal.wav", ref_transcript=HELLO)
    several["messages"][1]["content"].insert(2, audio("clips/omar.wav"))
    path = write_records(folder / "set.json", [several])
    (item,) = read_test_set(path, "as_written").items
    assert (item.reference.audio_url, item.reference_text) == ("clips/omar.wav", None)
    with pytest.raises(InputError, match="a: it has no reference, or not one reference whose text is known"):
        read_test_set(OUR_SENTENCES, "as_written", references=path)


@pytest.mark.parametrize("style", ["voice_clone", "as_written"])
def test_a_manifest_may_name_speaker_dialect_kind_and_recording(folder: Path, style: str) -> None:
    further = {"speaker": "amal", "dialect": "gulf", "recording": "clips/true.wav", "kind": "question"}
    long = f"{WELL}؟ " * 40
    path = write_records(folder / "set.jsonl", [entry("a", **further), entry("b", text=long)])
    found = read_test_set(path, style)
    first, second = found.items
    assert found.kind == "manifest"
    assert (first.speaker, first.dialect, first.kind) == ("amal", "gulf", "question")
    assert (first.reference.audio_url, first.recording.audio_url) == ("clips/amal.wav", "clips/true.wav")
    assert len(second.request.pieces) > 1 and second.text == long.strip() and second.recording is None


def test_a_seed_tts_list_is_read_with_and_without_recordings(folder: Path) -> None:
    write_clip(folder / "wavs" / "b.wav", 0.2)
    path = write(
        folder / "meta.lst",
        f"a|{HELLO}|clips/amal.wav|{WELL}|clips/true.wav",
        f"b|{HELLO}|clips/omar.wav|{LATE}",
        f"c.wav|{HELLO}|clips/noor.wav|{THANKS}\r",
    )
    found = read_test_set(path, "voice_clone")
    assert [(i.name, i.text, i.reference.audio_url) for i in found.items] == [
        ("a", WELL, "clips/amal.wav"),
        ("b", LATE, "clips/omar.wav"),
        ("c", THANKS, "clips/noor.wav"),
    ]
    assert [i.recording and i.recording.audio_url for i in found.items] == ["clips/true.wav", "wavs/b.wav", None]
    assert found.kind == "list" and found.notes == ("recordings: 1 of 2 lines have one in wavs/",)
    assert check_references([item.request for item in found.items])[1] == []


@pytest.mark.parametrize("place", ["text/arabic.txt", "arabic.txt"])
def test_a_minimax_list_finds_clips_and_their_texts_in_the_folder_of_voices(folder: Path, place: str) -> None:
    write_clip(folder / "speaker" / "arabic" / "arabic_female" / "common_1.mp3", 0.2)
    write_clip(folder / "speaker" / "arabic" / "arabic_male" / "common_2.mp3", 0.2)
    write(folder / "speaker" / "prompt_text.txt", f"common_1.mp3|{HELLO}", f"common_2.mp3|{LATE}")
    path = write(folder / place, f"arabic_female|{WELL}", "", f"arabic_male|{THANKS}", f"arabic_female|{LATE}")
    found = read_test_set(path, "voice_clone")
    assert [(i.name, i.text, i.speaker) for i in found.items] == [
        ("arabic_female_1", WELL, "arabic_female"),
        ("arabic_male_3", THANKS, "arabic_male"),
        ("arabic_female_4", LATE, "arabic_female"),
    ]
    assert [i.reference_text for i in found.items] == [HELLO, LATE, HELLO]
    assert check_references([item.request for item in found.items])[1] == []


@pytest.mark.parametrize("mark", ["\t", "|"])
def test_a_list_with_named_columns_may_have_references_of_its_own(folder: Path, mark: str) -> None:
    path = write(
        folder / "set.tsv",
        mark.join(["text", "reference", "reference_text", "speaker", "dialect", "recording"]),
        mark.join([WELL, "clips/amal.wav", HELLO, "amal", "gulf", "clips/true.wav"]),
        mark.join([LATE, "clips/omar.wav", HELLO, "omar", "", ""]),
    )
    found = read_test_set(path, "voice_clone")
    assert [(i.name, i.speaker, i.dialect) for i in found.items] == [
        ("line_2", "amal", "gulf"),
        ("line_3", "omar", None),
    ]
    assert found.items[0].recording.audio_url == "clips/true.wav" and "line_2" in found.notes[0]


def test_a_prompt_template_takes_its_fields_from_the_set(folder: Path) -> None:
    """Of a list with columns, and of sentences without references; what lacks a field is named, with its line."""
    texts = {name: f"{{{name}}}" for name in ("reference_text", "target_text")}
    parts = {"system": "{speaker} {dialect} {scene}", **texts, "defaults": {"scene": "A room"}}
    template = PromptTemplate.read(json.dumps(parts))
    voice = [folder / "clips/amal.wav", HELLO]
    path = write(
        folder / "set.tsv",
        "\t".join(["text", "reference", "reference_text", "speaker", "dialect", "scene"]),
        *("\t".join(map(str, [WELL, *voice, "amal", *fields])) for fields in (("gulf", "A street"), ("najdi", ""))),
    )
    items = read_test_set(path, template).items
    systems = [item.request.pieces[0].sample.messages[0].content[0].text for item in items]
    assert systems == ["amal gulf A street", "amal najdi A room"]
    path.write_text(path.read_text(encoding="utf-8").replace("najdi", ""), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 3, line_3: dialect: missing, and the prompt template uses \{dialect\}"):
        read_test_set(path, template)
    references = write_records(folder / "voices.json", [speaking("a", "amal", "clips/amal.wav")])
    ours = read_test_set(OUR_SENTENCES, template, references=references)
    first = ours.items[0]
    assert first.request.pieces[0].sample.messages[0].content[0].text == f"amal {first.dialect} A room"
    bare = write(folder / "bare.tsv", "text", WELL)
    with pytest.raises(InputError, match="dialect: missing, and the prompt template uses"):
        read_test_set(bare, template, references=references)
    assert read_test_set(bare, template.with_defaults({"dialect": "gulf"}), references=references).items


def test_our_sentences_are_spoken_by_speakers_in_turn_after_each_of_their_clips(folder: Path) -> None:
    references = write_records(
        folder / "voices.json",
        [
            speaking("a", "amal", "clips/amal.wav"),
            speaking("b", "amal", "clips/amal.wav"),
            speaking("c", "amal", "clips/true.wav"),
            speaking("d", "omar", "clips/omar.wav"),
        ],
    )
    found = read_test_set(OUR_SENTENCES, "voice_clone", references=references)
    assert found.kind == "sentences" and len(found.items) == 100
    assert [(i.speaker, i.reference.audio_url) for i in found.items[:5]] == [
        ("amal", "clips/amal.wav"),
        ("omar", "clips/omar.wav"),
        ("amal", "clips/true.wav"),
        ("omar", "clips/omar.wav"),
        ("amal", "clips/amal.wav"),
    ]
    assert {i.base_dir for i in found.items} == {folder} and not any(i.recording for i in found.items)
    assert Counter(i.dialect for i in found.items)["gulf"] == 10 and found.items[-1].kind == "long"
    texts, clips = prompt_of(found, 1)
    assert HELLO in texts and found.items[1].text in texts and clips == ["clips/omar.wav"]
    assert found.notes == ("voices: 2 speakers in turn, 3 clips of voices.json",)


def test_where_no_speaker_is_named_each_shared_clip_counts_as_one(folder: Path) -> None:
    references = write_records(folder / "m.json", [entry("a"), entry("b", reference="clips/omar.wav")])
    found = read_test_set(OUR_SENTENCES, "voice_clone", references=references)
    assert Counter(i.speaker for i in found.items) == {"amal": 50, "omar": 50}
    assert any(note.startswith("speakers: none is named") for note in found.notes)
    alone = read_test_set(references, "voice_clone", references=references)
    assert [i.speaker for i in alone.items] == [None, None] and "left aside" in alone.notes[0]


def test_sentences_of_a_json_file_may_take_voices_too(folder: Path) -> None:
    write_records(folder / "m.json", [entry("a")])
    (folder / "texts").mkdir()
    path = write_records(folder / "texts" / "set.json", [{"id": "x", "text": WELL, "recording": "../clips/true.wav"}])
    (item,) = read_test_set(path, "voice_clone", references=folder / "m.json").items
    assert item.reference.audio_url == "clips/amal.wav"
    assert (item.base_dir / item.recording.audio_url).samefile(folder / "clips" / "true.wav")


def test_texts_are_normalised_as_asked(folder: Path) -> None:
    path = write_records(folder / "m.json", [entry("a", text=f"{WELL} 3")])
    assert read_test_set(path, "voice_clone").items[0].text == f"{WELL} 3"
    (item,) = read_test_set(path, "voice_clone", "speech").items
    assert item.text == item.request.pieces[0].text == f"{WELL} ثلاثة"


def test_all_problems_of_a_list_are_listed_at_once(folder: Path) -> None:
    path = write(
        folder / "set.tsv",
        "id\ttext\treference\treference_text\tmood\trecording",
        f"a\t{WELL}\tclips/amal.wav\t{HELLO}\tglad\tclips/true.wav",
        f"a\t{WELL}\tclips/amal.wav\t{HELLO}\t\t",
        f"b\t\tclips/amal.wav\t{HELLO}\t\t",
        f"c\t . ! \tclips/amal.wav\t{HELLO}\t\t",
        f"d\t{WELL}\t\t\t\t",
        f"e\t{WELL}",
        f"../f\t{WELL}\tclips/amal.wav\t{HELLO}\t\t",
        f"g\t{WELL}\tclips/gone.wav\t{HELLO}\t\tclips/lost.wav",
        f"h\t<|AUDIO|>{WELL}\tclips/gone.wav\t{HELLO}\t\t",
    )
    heading, *found = problems_of(path)
    assert heading == f"{path}: not usable as a test set ({len(found)}):"
    wanted = [
        "line 1: column 'mood' is unknown; known are ['id', 'text',",
        "line 3, a: id: another entry has the same id",
        "line 4, b: text: missing",
        "line 5, c: text: '. !' has no words",
        "line 6, d: reference: missing",
        "line 6, d: reference_text: missing",
        "line 7: 2 fields; line 1 names 6 columns",
        "line 8, ../f: id: '../f'; it becomes a file name",
        "line 10, h: text: '<|AUDIO|>",
    ]
    assert len(found) == len(wanted), found
    for start in wanted:
        assert any(problem.startswith(start) for problem in found), start


def test_problems_of_records_and_entries_are_listed_together(folder: Path) -> None:
    empty = speaking("empty", "amal", "clips/amal.wav")
    empty["messages"][2]["content"][0]["text"] = " ... "
    path = write_records(
        folder / "set.json",
        [
            speaking("fine", "amal", "clips/amal.wav"),
            speaking("gone", "amal", "clips/gone.wav"),
            empty,
            entry("mood", mood="glad"),
            entry("number", dialect=7),
            "just text",
        ],
    )
    _, *found = problems_of(path)
    wanted = [
        "empty: text: '...' has no words",
        "mood: mood: unknown key; known are ['id', 'text', 'reference', 'reference_text', 'speaker',",
        "number: dialect: 7; it must be a string",
        "entry 5: is str",
    ]
    assert len(found) == len(wanted), found
    for start in wanted:
        assert any(problem.startswith(start) for problem in found), start


def test_clips_need_not_be_files_where_codes_may_stand_for_them(folder: Path) -> None:
    path = write_records(folder / "set.json", [speaking("a", "amal", "gone.wav", target="lost.wav")])
    (item,) = read_test_set(path, "voice_clone").items
    assert (item.reference.audio_url, item.recording.audio_url) == ("gone.wav", "lost.wav")


def test_sentences_without_any_voice_say_what_gives_one(folder: Path) -> None:
    _, only = problems_of(OUR_SENTENCES)
    assert only.startswith("its sentences have no references; name a set whose clips give the voices (--references")
    _, only = problems_of(OUR_SENTENCES, references=OUR_SENTENCES)
    assert only == f"{OUR_SENTENCES}: its sentences have no references, so they give no voice"
    untold = speaking("untold", "amal", "clips/amal.wav")
    untold["messages"][1]["content"] = [audio("clips/amal.wav")]
    references = write_records(folder / "voices.json", [untold, entry("bad", reference="")])
    path = write(folder / "set.tsv", "id\ttext", f"a\t{WELL}", "b\t")
    _, *found = problems_of(path, references=references)
    assert found[0] == "line 3, b: text: missing"
    assert [problem.split(": ")[1] for problem in found[1:]] == ["untold", "bad"], found


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([WELL, LATE], "a list of sentences starts with the names of its columns"),
        (["id\twords", f"a\t{WELL}"], "a list of sentences starts with the names of its columns"),
        ([""], "holds no line"),
        (["id\ttext"], "holds only the names of its columns"),
    ],
)
def test_files_that_are_no_list_are_refused(folder: Path, lines: list[str], words: str) -> None:
    assert words in problems_of(write(folder / "set.txt", *lines))[0]


def test_a_file_that_is_not_there_or_not_text_is_named(folder: Path) -> None:
    assert "set.tsv: no such file" in problems_of(folder / "set.tsv")[0]
    assert "not readable as UTF-8 text" in problems_of(folder / "clips" / "amal.wav")[0]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (None, "prompt_text.txt: no such file; it says, as file|text, what is said in each clip"),
        ("b.wav|x", "line 1: prompt_text.txt has no text for a.wav, the clip of voice 'amal'"),
        (f"a.wav|{HELLO}", "line 2: voice 'omar' has no clip in"),
    ],
)
def test_voices_of_a_list_that_cannot_be_had_are_named(folder: Path, texts: str | None, wanted: str) -> None:
    write_clip(folder / "speaker" / "amal" / "a.wav", 0.2)
    if texts:
        write(folder / "speaker" / "prompt_text.txt", texts)
    path = write(folder / "set.txt", f"amal|{WELL}", f"omar|{WELL}", "one|two|three")
    found = problems_of(path)
    assert any(wanted in problem for problem in found), found
    assert any(problem.startswith("line 3: 3 fields; a line has 4 or 5") for problem in found)


def test_a_list_of_voices_without_their_folder_says_where_it_is_looked_for(folder: Path) -> None:
    found = problems_of(write(folder / "lists" / "set.txt", f"amal|{WELL}", f"omar|{WELL}"))
    assert "lines like voice|text need the clips of the voices in a folder 'speaker' beside the list" in found
