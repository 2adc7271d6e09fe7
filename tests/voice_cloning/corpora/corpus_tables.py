"""Small made copies of the Arabic corpora that come as tables and lists, with their true columns, names and types.

Every corpus has at least two speakers with three clips of 0.6 to 1.5 s each, except the one of a single voice.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.chatml_files import noise, write_clip
from tests.voice_cloning.corpora.corpus_truth import CorpusTruth

Cells = Mapping[str, Any]

SADA_COLUMNS = (
    *("FileName", "ShowName", "FullFileLength", "SegmentID", "SegmentLength", "SegmentStart", "SegmentEnd"),
    *("SpeakerAge", "SpeakerGender", "SpeakerDialect", "Speaker", "Environment", "GroundTruthText", "ProcessedText"),
)
SEVERAL = "More than 1 speaker اكثر من متحدث"
"""What SADA writes in every column about the speaker if a segment has several."""
MASC_COLUMNS = ("video_id", "start", "end", "duration", "text", "type", "file_path")
COMMON_VOICE_COLUMNS = (
    *("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes"),
    *("age", "gender", "accents", "variant", "locale", "segment"),
)
ARVOICE_COLUMNS = ("normalized_wav", "original_wav", "speaker_id", "transcription")
CLIP_SECONDS = (0.7, 0.9, 1.2, 1.4)


@dataclass(frozen=True)
class TableTruth(CorpusTruth):
    """What is true of a corpus of tables.

    Attributes:
        speaker_of: text -> speaker, of all utterances that are to be used.
        misc: text -> some of what ``misc`` must hold about the utterance.
        left_aside: number of rows that are no single voice.
    """

    speaker_of: Mapping[str, str] = field(default_factory=dict)
    misc: Mapping[str, Cells] = field(default_factory=dict)
    left_aside: int = 0


def _truth(source: Path, speaker_of: Cells, seconds: float, misc: Cells | None = None, aside: int = 0) -> TableTruth:
    speakers = len(set(speaker_of.values()))
    return TableTruth(source, len(speaker_of), speakers, seconds / 3600, (), speaker_of, misc or {}, aside)


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Cells], delimiter: str = ",") -> Path:
    """Write a table as Python's csv module does, which pandas does too. With tabs nothing is quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(
            file, list(columns), delimiter=delimiter, quoting=quoting, quotechar=None if delimiter == "\t" else '"',
            lineterminator="\n", restval="",
        )  # fmt: skip
        writer.writeheader()
        writer.writerows(rows)
    return path


def rewrite(path: Path, line: int, old: str, new: str) -> None:
    """Change one line of a table, counted from 1."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines), encoding="utf-8")


def sada(folder: Path) -> TableTruth:
    """Write three tables, and episodes in two folders: labels of speakers repeat from episode to episode."""
    episodes = {  # file: show, table, dialect
        "batch_1/6k_SBA_107_0": ("طاش ما طاش", "train", "Najdi"),
        "batch_1/6k_SBA_107_1": ("طاش ما طاش", "test", "Najdi"),
        "batch_2/6k_v_SBA3_2455_3": ("من الآخر", "valid", "Hijazi"),
    }
    tables: dict[str, list[Cells]] = {"train": [], "valid": [], "test": []}
    speaker_of, misc, total, aside = {}, {}, 0.0, 0
    for number, (name, (show, table, dialect)) in enumerate(episodes.items()):
        rows, start = [], 0.5
        who = ["Speaker1متحدث", "Speaker2متحدث"] * 4 if number == 0 else ["Speaker1متحدث"] * 4
        for i, speaker in enumerate([*who, SEVERAL, "Unknown"] if number == 0 else who):
            seconds = CLIP_SECONDS[i // 2 % 4] if number == 0 else CLIP_SECONDS[i % 4]
            text = f"وش رايك، نروح البحر رقم {'و' * (10 * number + i + 1)}؟"
            about = dict.fromkeys(("SpeakerAge", "SpeakerGender", "SpeakerDialect"), SEVERAL)
            if speaker != SEVERAL:
                about = {"SpeakerAge": "Adult -- بالغ", "SpeakerGender": "Male", "SpeakerDialect": dialect}
            end = round(start + seconds, 3)
            row = {"FileName": f"{name}.wav", "ShowName": show, "SegmentStart": start, "SegmentEnd": end, **about}
            base = Path(name).name
            row["SegmentID"] = f"{base}-seg_{start:.3f}-{end:.3f}".replace(".", "_")
            row |= {"SegmentLength": seconds, "Speaker": speaker, "Environment": "Clean -- نظيف"}
            row |= {"GroundTruthText": text, "ProcessedText": text.replace("،", "").replace("؟", "")}
            rows.append(row)
            start = round(end + 0.25, 3)
            if speaker in (SEVERAL, "Unknown"):
                aside += 1
            else:
                speaker_of[text] = f"{name}/{speaker}"
                total += seconds
                misc[text] = {"dialect": dialect, "gender": "Male", "age": "Adult -- بالغ", "split": table}
                misc[text] |= {"environment": "Clean -- نظيف", "show": show}
        length = start + 0.5
        write_clip(folder / f"{name}.wav", length, rate=16_000, seed=number)
        tables[table] += [row | {"FullFileLength": length} for row in rows]
    for table, rows in tables.items():
        write_table(folder / f"{table}.csv", SADA_COLUMNS, rows)
    return _truth(folder, speaker_of, total, misc, aside)


VIDEOS = ("OGqz9G-JO0E", "zvf3_No6-Kg")


def masc(folder: Path, whole_videos: bool = False) -> TableTruth:
    """Write the tables of two splits and clips as their archives hold them; or the sound of whole videos."""
    speaker_of, misc, total = {}, {}, 0.0
    for number, (video, split) in enumerate(zip(VIDEOS, ("train", "dev"), strict=True)):
        rows = []
        for i, seconds in enumerate(CLIP_SECONDS):
            start = round(2.0 * i + (0.25 if whole_videos else 770.6), 3)
            text = f"اللهم بارك لنا في هذا اليوم {'ن' * (4 * number + i + 1)}"
            clip = f"{number}{i}7edeceb-5349-4210-89ad-8c3e91e54062_{video}.wav"
            row = {"video_id": video, "start": start, "end": round(start + seconds, 3), "duration": seconds}
            rows.append(row | {"text": text, "type": "cn"[number], "file_path": clip})
            if not whole_videos:
                write_clip(folder / "audio" / split / clip, seconds, rate=16_000, seed=10 * number + i)
            speaker_of[text] = video
            misc[text] = {"type": "cn"[number], "split": split}
            total += seconds
        columns = MASC_COLUMNS
        if whole_videos:
            write_clip(folder / "audio" / split / f"{video}.wav", 8.0, rate=16_000, seed=number)
            columns, rows = columns[:-1], [{k: row[k] for k in columns[:-1]} for row in rows]
        write_table(folder / "transcript" / split / f"{split}.csv", columns, rows)
    return _truth(folder, speaker_of, total, misc)


MASC_VIDEO_COLUMNS = (
    *("video_id", "category", "video_duration", "channel_id", "country", "dialect", "gender", "transcript_duration"),
)


def masc_subtitles(folder: Path) -> TableTruth:
    """Write MASC as its archive holds it: lists of videos, their subtitles, and the sound of whole videos."""
    speaker_of, misc, total = {}, {}, 0.0
    for number, (video, subset) in enumerate(zip(VIDEOS, ("clean_train", "noisy_train"), strict=True)):
        row = {
            "video_id": video,
            "category": "Education",
            "video_duration": 10.0,
            "channel_id": "UC1dVfl5-I98WX3yCy8IJQMg",
        }
        row |= {"country": "Jordan", "dialect": "Jordanian", "gender": "male"}
        write_table(folder / "subsets" / f"{subset}.csv", MASC_VIDEO_COLUMNS, [row])
        write_clip(folder / "audios" / f"{video}.wav", 10.0, rate=16_000, seed=number)
        cues = ["WEBVTT", "Kind: captions", "Language: ar", ""]
        for i, seconds in enumerate(CLIP_SECONDS):
            start = 0.5 + 2 * i
            words = f"صباح الخير يا أصدقائي {'ن' * (4 * number + i + 1)}"
            first, last = words.rsplit(" ", 1)
            cues += [f"{i + 1}"] if number else []
            hour = "00:" if number else ""
            cues += [
                f"{hour}00:{start:06.3f} --> {hour}00:{start + seconds:06.3f} align:start",
                f"<c>{first}</c>",
                last,
                "",
            ]
            speaker_of[words] = video
            misc[words] = {"split": subset, "dialect": "Jordanian", "country": "Jordan", "gender": "male"}
            total += seconds
        (folder / "subtitles").mkdir(parents=True, exist_ok=True)
        (folder / "subtitles" / f"{video}.ar.vtt").write_text("\n".join(cues), encoding="utf-8")
    return _truth(folder, speaker_of, total, misc)


def common_voice(folder: Path) -> TableTruth:
    """Write a release: tables of all kinds, and clips as MP3."""
    release = folder / "cv-corpus-21.0-2025-03-14" / "ar"
    (release / "clips").mkdir(parents=True)
    clients = [f"{number:x}" * 128 for number in (10, 11, 12)]
    tables: dict[str, list[Cells]] = {name: [] for name in ("validated", "train", "dev", "test")}
    speaker_of, misc, total = {}, {}, 0.0
    for number, client in enumerate(clients):
        for i, seconds in enumerate(CLIP_SECONDS):
            name = f"common_voice_ar_{19000000 + 10 * number + i}.mp3"
            soundfile.write(release / "clips" / name, noise(seconds, 48_000, seed=10 * number + i), 48_000)
            text = f"أين يسكن صديقك {'ا' * (4 * number + i + 1)}؟"
            row = {"client_id": client, "path": name, "sentence_id": f"{10 * number + i:064x}", "sentence": text}
            row |= {"up_votes": 2 + i, "down_votes": number % 2, "locale": "ar"}
            if number == 0:
                row |= {"age": "twenties", "gender": "male_masculine", "accents": "لهجة مصرية"}
                misc[text] = {"age": "twenties", "gender": "male_masculine", "accent": "لهجة مصرية"}
            misc.setdefault(text, {})["up_votes"] = 2 + i
            tables["validated"].append(row)
            tables[("train", "dev", "test")[number]].append(row)
            speaker_of[text] = client
            total += seconds
    no_clips = [{**row, "path": f"absent_{i}.mp3"} for i, row in enumerate(tables["train"])]
    for name, rows in {**tables, "other": no_clips, "invalidated": no_clips}.items():
        write_table(release / f"{name}.tsv", COMMON_VOICE_COLUMNS, rows, "\t")
    ids = [row["path"] for row in tables["validated"]]
    write_table(release / "clip_durations.tsv", ("clip", "duration[ms]"), [{"clip": name} for name in ids], "\t")
    write_table(release / "reported.tsv", ("sentence_id", "sentence", "locale", "reason"), [], "\t")
    for name in ("validated_sentences", "unvalidated_sentences"):
        write_table(release / f"{name}.tsv", ("sentence_id", "sentence", "sentence_domain", "source"), [], "\t")
    return _truth(release, speaker_of, total, misc)


BUCKWALTER = {
    "waraj~aHa Alt~aqoriyru": "وَرَجَّحَ التَّقْرِيرُ",
    "kamaA yatimu AlHuSuwlu": "كَمَا يَتِمُ الحُصُولُ",
    "<iDaAfapF <ilaY *alika": "إِضَافَةً إِلَى ذَلِكَ",
    "wa>aDaAfa Al$~ayxu": "وَأَضَافَ الشَّيخُ",
    "maA huwa ra>oyuka": "مَا هُوَ رَأْيُكَ",
}
"""A text as the Arabic Speech Corpus writes it -> the same text in Arabic letters."""


def halabi(folder: Path) -> TableTruth:
    """Write the Arabic Speech Corpus: quoted pairs of a clip's name, which holds two spaces, and a Buckwalter text."""
    corpus = folder / "arabic-speech-corpus"
    lines, speaker_of, total = [], {}, 0.0
    for i, (written, text) in enumerate(BUCKWALTER.items()):
        name = f"ARA NORM  {2 + i:04d}.wav"
        seconds = CLIP_SECONDS[i % 4]
        write_clip(corpus / "wav" / name, seconds, rate=48_000, seed=i)
        lines.append((name, written))
        speaker_of[text] = "arabic-speech-corpus"
        total += seconds
        for kind in ("lab", "textgrid"):
            (corpus / kind).mkdir(exist_ok=True)
            (corpus / kind / Path(name).with_suffix(f".{kind}").name).write_text("0 100 sil\n", encoding="utf-8")
    for kind, change in (("orthographic", str), ("phonetic", lambda text: " ".join(text.replace(" ", "")))):
        written = "".join(f'"{name}" "{change(text)}"\n' for name, text in lines)
        (corpus / f"{kind}-transcript.txt").write_text(written, encoding="utf-8")
    return _truth(corpus, speaker_of, total)


def arvoice(folder: Path) -> TableTruth:
    """Write two tables of ArVoice, whose rows name two files: as recorded, and of one level."""
    tables: dict[str, list[Cells]] = {"train": [], "test": []}
    speaker_of, misc, total = {}, {}, 0.0
    for number, (speaker, split) in enumerate((("fem1", "train"), ("male1", "train"), ("fem2", "test"))):
        for i, seconds in enumerate(CLIP_SECONDS[:3]):
            name = f"{speaker}_{i:04d}.wav"
            wave = noise(seconds, 44_100, seed=10 * number + i)
            for column, level in (("original_wav", 1.0), ("normalized_wav", 0.5)):
                (folder / column).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / column / name, (level * wave).astype(np.float32), 44_100)
            text = f"ذَهَبَ الوَلَدُ إِلَى السُّوقِ {'ا' * (3 * number + i + 1)}"
            files = {column: f"{column}/{name}" for column in ("normalized_wav", "original_wav")}
            tables[split].append({**files, "speaker_id": speaker, "transcription": text})
            speaker_of[text] = speaker
            misc[text] = {"split": split}
            total += seconds
    for split, rows in tables.items():
        write_table(folder / f"{split}.tsv", ARVOICE_COLUMNS, rows, "\t")
    return _truth(folder, speaker_of, total, misc)


CORPORA = {
    "sada": sada,
    "masc": masc,
    "masc_subtitles": masc_subtitles,
    "common_voice": common_voice,
    "halabi": halabi,
    "arvoice": arvoice,
}
