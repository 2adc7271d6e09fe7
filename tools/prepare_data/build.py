"""Make ChatML files for training from clips and their texts.

    python -m tools.prepare_data build SOURCE --output_dir DIR [--eval_share 0.05] [--references_per_target 1]

SOURCE has one of these forms; it is detected, unless --format names it:
  clips        a folder of NAME.wav (.flac, .ogg, .mp3, ...) with NAME.txt beside it; the speaker is the folder's name
  ljspeech     metadata.csv of id|text|normalised text, and wavs/; a list without a header may also name the speakers
  table        a CSV, TSV or JSON-lines file with named columns, such as a NeMo manifest, or a folder with such files of
               the same columns; columns offset and duration (or start and end) are cuts, channel is a channel. SADA,
               MASC, Common Voice, ArVoice and the Arabic Speech Corpus are told by their columns
  audiofolder  folders such as train/ and test/, each with a metadata.jsonl or .csv and the clips that it names
  huggingface  a folder that datasets' save_to_disk wrote, or one of Parquet files (needs pyarrow); ClArTTS, Casablanca
               and copies of the corpora above are told by what they hold
  webdataset   tar archives of KEY.wav (.flac, .mp3, ...) with KEY.txt or KEY.json
  kaldi        wav.scp, text and utt2spk, with or without segments

The command first says what it took for what: form, columns, delimiter, encoding, utterances, voices, hours, and two
samples. --dry_run stops there. What does not add up stops it; nothing is written then.

Each utterance becomes a target, with another utterance of its speaker as the reference. DIR gets
train_chatml_samples.json, val_chatml_samples.json, build_summary.json, and README.md, a card with the licence. It also
gets clips/ if SOURCE is a data set that holds the audio itself. The same command again changes nothing; files with
other content need --overwrite.
"""

import argparse
import sys
from pathlib import Path

from boson_multimodal.errors import LISTED_OFFENDERS, visible
from voice_cloning.corpora.build import SPLITS_BY, SUMMARY_FILE, TRAIN_FILE, VAL_FILE, build_data
from voice_cloning.corpora.sources import FORMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="where the files are written")
    parser.add_argument("--format", default="auto", choices=["auto", *FORMS], help="form of SOURCE; auto detects it")
    parser.add_argument("--audio_column", metavar="NAME", help="column of the audio files; by default a usual name")
    parser.add_argument("--text_column", metavar="NAME", help="column of the texts; by default a usual name")
    parser.add_argument(
        "--speaker_from",
        metavar="WHAT",
        help="the column of the speakers (its number, for a list without a header); one for a single voice; folder for "
        "the clip's folder (the default for clips); name for the part of the clip's name before the first _ or -; "
        "video for the id of the video; file for the audio file; column for the column with a usual name; cluster to "
        "group the clips by voice, which is a guess (docs/voices.md; it needs Resemblyzer)",
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="keep the utterances that it is true of: \"dialect in ('Najdi', 'Hijazi') and duration > 1\"; names are "
        "duration (seconds), characters, speaker, text, utterance_id, file, and the columns kept in misc",
    )
    parser.add_argument(
        "--references_per_target", type=int, default=1, metavar="N", help="samples made of each target (default 1)"
    )
    parser.add_argument(
        "--split_by",
        choices=SPLITS_BY,
        help="each speaker (default) or utterance (for a public corpus of one voice) is on one side",
    )
    parser.add_argument(
        "--eval_share", type=float, default=0.05, metavar="X", help="share of utterances for evaluation (default 0.05)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for the choice of pairs and sides (default 0)"
    )
    parser.add_argument(
        "--drop_invalid",
        action="store_true",
        help="leave out entries that cannot be used, and list all of them in build_summary.json",
    )
    parser.add_argument(
        "--encoding", metavar="NAME", help="encoding of texts and tables, such as cp1256 (default UTF-8)"
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="the licence of the data; it comes before that of a corpus that is known"
    )
    parser.add_argument("--dry_run", action="store_true", help="say what was taken for what, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace files with other content in DIR")


def run(flags: argparse.Namespace) -> int:
    """Build the data and print what was written and what was left out. Returns the exit status."""
    settings = {name: value for name, value in vars(flags).items() if name not in ("verb", "format")}
    summary = build_data(form=flags.format, **settings)
    if flags.dry_run:
        print("--dry_run: nothing was written")
        return 0
    for name, side in (("train", TRAIN_FILE), ("val", VAL_FILE)):
        found = summary[name]
        if found["samples"]:
            print(
                f"{flags.output_dir / side}: {found['samples']} samples of {found['speakers']} speaker(s), "
                f"{found['hours']:.2f} h; {found['references_outside_3_to_10_s']} references outside 3 to 10 s"
            )
    for reason, names in summary["left_out"].items():
        if names:
            shown = ", ".join(names[:LISTED_OFFENDERS])
            more = f" and {len(names) - LISTED_OFFENDERS} more" if len(names) > LISTED_OFFENDERS else ""
            print(f"left out, {reason.replace('_', ' ')} ({len(names)}): {visible(shown)}{more}", file=sys.stderr)
    for reason, places in summary["left_aside"].items():
        print(f"left aside, {reason}: {len(places)}", file=sys.stderr)
    if any(summary["left_out"].values()) or summary["left_aside"]:
        print(f"all that was left out is in {flags.output_dir / SUMMARY_FILE}", file=sys.stderr)
    return 0
