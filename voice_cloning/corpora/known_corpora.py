"""The public corpora of Arabic speech that are told by their columns, and what their licences allow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class KnownCorpus:
    """A public corpus.

    Attributes:
        name: its name.
        licence: the licence that its publisher names.
        commercial_use: whether the licence allows commercial use.
        source: where its publisher names the licence.
        note: what else is to be known about the licence; empty if nothing.
        one_voice: whether all of it is one voice, which no column names.
        labels_within_recordings: whether its labels of speakers are counted anew in each recording.
    """

    name: str
    licence: str
    commercial_use: bool
    source: str = ""
    note: str = ""
    one_voice: bool = False
    labels_within_recordings: bool = False

    @property
    def limits(self) -> str:
        """What the licence does not allow, in words; empty if its name shows no limit."""
        terms = self.licence.replace(" ", "-").split("-")
        limits = [] if self.commercial_use else ["no commercial use"]
        limits += ["changed versions must not be passed on"] if "ND" in terms else []
        limits += ["changed versions keep this licence"] if "SA" in terms else []
        return "; ".join(limits)


SADA = KnownCorpus(
    "SADA (Saudi Audio Dataset for Arabic)",
    "CC BY-NC-SA 4.0",
    commercial_use=False,
    source="https://www.kaggle.com/datasets/sdaiancai/sada2022",
    labels_within_recordings=True,
)
SADA_COPY = replace(
    SADA,
    name="probably a copy of SADA (Saudi Audio Dataset for Arabic), which has a column cleaned_text",
    note="if the data are others, state their licence with --licence",
)
CASABLANCA = KnownCorpus(
    "Casablanca", "CC BY-NC-ND 4.0", commercial_use=False, source="https://huggingface.co/datasets/UBC-NLP/Casablanca"
)
CLARTTS = KnownCorpus(
    "ClArTTS",
    "CC BY 4.0",
    commercial_use=True,
    source="https://huggingface.co/datasets/MBZUAI/ClArTTS",
    one_voice=True,
)
MASC = KnownCorpus(
    "MASC (Massive Arabic Speech Corpus)",
    "CC BY 4.0",
    commercial_use=True,
    source="https://ieee-dataport.org/open-access/masc-massive-arabic-speech-corpus",
    note="one copy of it names CC BY-NC 4.0 instead, and the speech is from videos of other people",
)
COMMON_VOICE = KnownCorpus(
    "Common Voice",
    "CC0 1.0",
    commercial_use=True,
    source="https://commonvoice.mozilla.org/datasets",
    note="its terms of use forbid to find out who a speaker is",
)
ARVOICE = KnownCorpus(
    "ArVoice",
    "CC BY 4.0",
    commercial_use=True,
    source="https://huggingface.co/datasets/MBZUAI/ArVoice",
    note="this holds for the parts from the Arabic Speech Corpus and from synthesis; the professional recordings have "
    "an agreement of their own, which may allow less",
)
ARVOICE_SYNTHESIS = "ar-XA-"
"""How the names of ArVoice's speakers begin that are voices of a synthesis."""
ARABIC_SPEECH_CORPUS = KnownCorpus(
    "Arabic Speech Corpus",
    "CC BY 4.0",
    commercial_use=True,
    source="https://en.arabicspeechcorpus.com",
    one_voice=True,
)

_TOLD_BY: tuple[tuple[KnownCorpus, tuple[str, ...]], ...] = (
    (SADA, ("segmentid", "showname", "speakerdialect")),
    (SADA, ("filename", "segmentstart", "segmentend", "groundtruthtext")),
    (SADA, ("filename", "segmentstart", "segmentend", "processedtext")),
    (SADA, ("text", "cleaned_text", "speaker_age", "speaker_gender", "speaker_dialect")),
    (SADA_COPY, ("audio", "cleaned_text")),
    (CASABLANCA, ("seg_id", "transcription", "gender", "duration")),
    *((MASC, ("video_id", "start", "end", text)) for text in ("text", "transcript", "transcription", "sentence")),
    (MASC, ("video_id", "video_duration", "transcript_duration")),
    (COMMON_VOICE, ("client_id", "sentence", "up_votes", "down_votes")),
    *((COMMON_VOICE, ("client_id", "path", "sentence", name)) for name in ("accent", "accents", "locale", "variant")),
    (ARVOICE, ("original_wav", "normalized_wav", "transcription")),
    (ARABIC_SPEECH_CORPUS, ("phonetic", "orthographic")),
)
"""Corpus and the columns that all must be there; case, underscores and spaces do not count."""


def recognise(header: Sequence[str]) -> KnownCorpus | None:
    """Return the public corpus that has these columns; None if it is none of those that are known.

    ClArTTS is not among them: its columns have the names of many data sets; ``arrow.py`` tells it by its rate.
    """
    names = set(map(_plain, header))
    return next((corpus for corpus, told_by in _TOLD_BY if names.issuperset(map(_plain, told_by))), None)


def is_table_of_common_voice(header: Sequence[str]) -> bool:
    """Return whether a table has the columns that all tables of clips have in a release of Common Voice."""
    return {"client_id", "path", "sentence"} <= {name.casefold() for name in header}


def _plain(name: str) -> str:
    return re.sub("[ _-]", "", name.casefold())


def licence_facts(corpus: KnownCorpus | None, stated: str | None = None, on_card: Sequence[str] = ()) -> list[str]:
    """Return what is known about the licence of the data, for the user.

    Args:
        corpus: the public corpus that the data are; None for any other data.
        stated: the licence that the user states; it comes before all others.
        on_card: the licences that the README of the source names; one that is not that of the corpus is told too.
    """
    facts = [f"corpus: {corpus.name}, told by its content"] if corpus else []
    if stated:
        return [*facts, f"licence: {stated}, as you state it"]
    if corpus is not None:
        limits = f"; {corpus.limits}" if corpus.limits else ""
        facts.append(f"licence: {corpus.licence}, as its publisher names it{limits}; read it at {corpus.source}")
        facts += [f"about this licence: {corpus.note}"] if corpus.note else []
    elif not on_card:
        return ["licence: none is known for these data; read it at their source, and state it with --licence"]
    others = [name for name in on_card if corpus is None or not _plain(name).startswith(_plain(corpus.licence))]
    return [*facts, *(f"licence: {name}, as the README of the source names it" for name in others)]
