"""The card beside training data keeps its licence on the way through normalise, pack and a run."""

import json
import shutil
from pathlib import Path

import pytest

from tests.chatml_files import audio, record, write_clip, write_records
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.card_licences import DATA_CARD, DataLicence, licences_beside
from voice_cloning.corpora.known_corpora import CASABLANCA, CLARTTS, MASC, SADA, SADA_COPY, licence_facts, recognise

STATED = "- licence: a contract of 2025, as you state it"


def write_card(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / DATA_CARD
    card.write_text(
        "\n".join(["# Training data", "", "## Licence", "", *lines, "", "## Content", ""]), encoding="utf-8"
    )
    return card


@pytest.mark.parametrize(
    ("corpus", "stated", "forbids"),
    [
        (SADA, None, True),
        (CASABLANCA, None, True),
        (CLARTTS, None, False),
        (MASC, None, False),
        (SADA, "a contract of 2025", False),
        (None, "cc-by-nc-4.0", True),
        (None, "CC BY-NC 4.0", True),
        (None, "Creative Commons Attribution NonCommercial", True),
        (None, "for non-commercial research", True),
        (None, "research only", True),
        (None, "commercial use is not allowed", True),
        (None, "CC BY-SA 4.0 of Voices Inc. in Once", False),
    ],
)
def test_the_licence_of_a_built_card_is_read(tmp_path: Path, corpus: object, stated: str | None, forbids: bool) -> None:
    card = write_card(tmp_path, *(f"- {fact}" for fact in licence_facts(corpus, stated)))
    (found,) = licences_beside(card.with_name("train.json"))
    assert found.forbids_commercial_use == forbids
    assert (stated or corpus.licence) in found.text and (corpus is None or found.text.startswith(f"{corpus.name}: "))
    assert corpus is not MASC or found.text.endswith(f"; {MASC.note}")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("---\nlanguage: ar\nlicense: cc-by-nc-4.0\n---\n# Data\n", [DataLicence("cc-by-nc-4.0")]),
        ('\ufefflicense: "mit"\r\n', [DataLicence("mit")]),
        ("* **Licence:** CC0 1.0\n", [DataLicence("CC0 1.0")]),
        ("# A\n- corpus: X\n- licence: L\n\n# B\n- licence: L\n", [DataLicence("L", "X"), DataLicence("L")]),
        ("# A\n- licence: L\n\n# A\n- licence: L\n", [DataLicence("L")]),
        ("\n".join(f"- {fact}" for fact in licence_facts(None)), []),
        ("## Licence\n\nlicense:\nThe licence of the source also holds.\n", []),
        ("", []),
    ],
)
def test_licences_of_other_cards_are_read(tmp_path: Path, content: str, wanted: list[DataLicence]) -> None:
    (tmp_path / DATA_CARD).write_text(content, encoding="utf-8", newline="")
    assert licences_beside(tmp_path / "train.json") == licences_beside(tmp_path) == wanted


def test_a_card_in_another_encoding_stops_no_run_and_a_folder_is_no_card(tmp_path: Path) -> None:
    (tmp_path / DATA_CARD).write_bytes("# \u0635\u0648\u062a\nlicence: CC BY 4.0\n".encode("cp1256"))
    assert [found.licence for found in licences_beside(tmp_path)] == ["CC BY 4.0"]
    (tmp_path / "other" / DATA_CARD).mkdir(parents=True)
    assert licences_beside(tmp_path / "other" / "train.json") == []


def test_normalise_carries_the_card_along_and_changes_nothing_a_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = write_card(tmp_path / "in", STATED)
    for name in ("a.wav", "b.wav"):
        write_clip(tmp_path / "in" / name)
    file = write_records(tmp_path / "in" / "train.json", [record("s0", audio("a.wav"), audio("b.wav"))])
    words = ["normalise", str(file), "--output_dir", str(tmp_path / "out")]
    assert main(words) == 0
    out = tmp_path / "out" / DATA_CARD
    assert out.read_text(encoding="utf-8").startswith(card.read_text(encoding="utf-8").rstrip())
    assert "## Normalised" in out.read_text(encoding="utf-8") and "digits `spell`" in out.read_text(encoding="utf-8")
    assert [found.licence for found in licences_beside(out)] == ["a contract of 2025, as you state it"]
    times = {path: path.stat().st_mtime_ns for path in out.parent.iterdir()}
    assert main(words) == 0 and times == {path: path.stat().st_mtime_ns for path in out.parent.iterdir()}
    out.write_text("my notes", encoding="utf-8")
    assert main(words) == 1 and DATA_CARD in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "my notes"
    (tmp_path / "in" / "texts.txt").write_text("\u0646\u0639\u0645\n", encoding="utf-8")
    assert main(["normalise", str(tmp_path / "in" / "texts.txt"), "--output_dir", str(tmp_path / "texts")]) == 0
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["texts.txt"]


def test_pack_copies_the_card_into_the_folder_which_may_move(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "in"
    data.mkdir()
    records = json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8"))
    for one in records:
        for message in one["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "audio":
                    part["audio_url"] = str(demo / part["audio_url"])
    write_records(data / "val.json", records)
    words = ["pack", str(data / "val.json"), "--output_dir", str(tmp_path / "packed"), "--num_workers", "1"]
    words += ["--model_path", str(demo / "model"), "--codec", str(demo / "audio_tokenizer")]
    words += ["--code_cache_dir", str(demo / "code_cache")]
    assert main(words) == 0
    assert not (tmp_path / "packed" / DATA_CARD).exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*") if path.is_file()}
    card = write_card(data, STATED)
    for _ in range(2):  # a folder of an earlier release gets the card, and then nothing changes
        assert main(words) == 0 and DATA_CARD not in capsys.readouterr().out
        assert (tmp_path / "packed" / DATA_CARD).read_bytes() == card.read_bytes()
        assert times == {path: path.stat().st_mtime_ns for path in times}
    moved = shutil.move(tmp_path / "packed", tmp_path / "elsewhere")
    assert [found.licence for found in licences_beside(Path(moved))] == ["a contract of 2025, as you state it"]
    shutil.move(moved, tmp_path / "packed")
    write_card(data, "- licence: CC BY 4.0")
    before = (tmp_path / "packed" / DATA_CARD).read_bytes()
    assert main(words) == 0 and f"{DATA_CARD} stays; it differs from" in capsys.readouterr().out
    assert (tmp_path / "packed" / DATA_CARD).read_bytes() == before


def test_a_copy_of_sada_that_kept_two_columns_is_a_guess_and_said_to_be_one() -> None:
    assert recognise(["Audio", "cleaned_text", "speaker"]) is SADA_COPY
    assert recognise(["audio", "text"]) is None
    facts = "\n".join(licence_facts(SADA_COPY))
    assert "probably a copy of SADA" in facts and "no commercial use" in facts and "--licence" in facts
