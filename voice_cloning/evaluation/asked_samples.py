"""Which evaluation samples are spoken during training: with which seeds, up to which length, in which batches.

Nothing here depends on the step, the number of processes or the clock, so that all evaluations of a run ask for the
same.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from boson_multimodal.sample_dataset import SampleDataset
from boson_multimodal.seeds import seed_of
from voice_cloning.speech.requests import LONGEST_ID_BYTES
from voice_cloning.speech.sample_prompts import cut_at_target

LONGEST_IN_TRUE_CLIPS = 3
"""A clip that is this many times as long as the true clip is a runaway: it is cut off and counts as not ended."""
LARGEST_BATCH = 16
"""Samples of a batch. 64 samples make at least four batches, which several processes can divide among them."""
SEEDS = 2**32
UNSAFE_IN_FILE_NAMES = '/\\:*?"<>|'


@dataclass(frozen=True)
class AskedSample:
    """An evaluation sample that is spoken.

    Attributes:
        index: of the sample in the dataset.
        sample_id: its id.
        file_name: the id as a file name without suffix, of no other sample of the dataset.
        speaker: who speaks the true clip, as the record says; None if it does not say so.
        text: what is to be spoken.
        seed: of the draws.
        prompt_positions: sequence positions of the prompt, at most.
        most_columns: the cap: columns of codes in which the clip must end.
        true_frames: T of the true clip.
    """

    index: int
    sample_id: str
    file_name: str
    speaker: str | None
    text: str
    seed: int
    prompt_positions: int
    most_columns: int
    true_frames: int


def ask_samples(dataset: SampleDataset, model_config: HiggsAudioConfig, count: int, seed: int) -> list[AskedSample]:
    """Return ``count`` samples of an encoded dataset, or all if it has fewer, in the order of :func:`spread_order`."""
    indices = range(len(dataset))
    names = file_names([dataset.sample_id(index) for index in indices])
    asked = []
    for index in spread_order([dataset.speaker(index) for index in indices], seed)[:count]:
        frames = cut_at_target(dataset[index], model_config).target_KT.shape[1]
        columns = [
            columns_of(number * frames, model_config.audio_num_codebooks, model_config.use_delay_pattern)
            for number in (1, LONGEST_IN_TRUE_CLIPS)
        ]
        prompt = int(dataset.lengths[index]) - columns[0]
        room = max(1, model_config.text_config.max_position_embeddings - prompt)
        asked.append(
            AskedSample(
                index=index,
                sample_id=dataset.sample_id(index),
                file_name=names[index],
                speaker=dataset.speaker(index),
                text=dataset.text_to_speak(index),
                seed=seed_of(seed, dataset.number(index)) % SEEDS,
                prompt_positions=prompt,
                most_columns=min(columns[1], room),
                true_frames=frames,
            )
        )
    return asked


def spread_order(speakers: Sequence[str | None], seed: int) -> list[int]:
    """Return the indices of all samples, so that the first N of them are spread over the speakers.

    First comes one sample of each speaker, then a second one of each who has two, and so on; the seed decides which.
    A larger N only adds samples. Samples without a speaker count as those of one speaker.
    """
    drawn = sorted(range(len(speakers)), key=lambda index: seed_of(seed, index))
    seen: dict[str | None, int] = defaultdict(int)
    turns = {}
    for index in drawn:
        turns[index] = seen[speakers[index]]
        seen[speakers[index]] += 1
    return sorted(drawn, key=turns.__getitem__)


def file_names(ids: Sequence[str]) -> list[str]:
    """Return a file name without suffix for each id, all different, also on file systems that ignore case.

    Characters that some file system refuses become ``_``. A name that another id has taken gets a number.
    """
    names, taken, numbers = [], set(), defaultdict(lambda: 1)
    for sample_id in ids:
        safe = "".join(c if c.isprintable() and c not in UNSAFE_IN_FILE_NAMES else "_" for c in sample_id)
        safe = "_" + safe[1:] if safe.startswith(".") else safe
        name = safe = safe.encode()[:LONGEST_ID_BYTES].decode(errors="ignore")
        while name.casefold() in taken:
            numbers[safe.casefold()] += 1
            name = f"{safe}-{numbers[safe.casefold()]}"
        taken.add(name.casefold())
        names.append(name)
    return names


def speech_batches(samples: Sequence[AskedSample], budget: int) -> list[list[AskedSample]]:
    """Return the samples in batches that are spoken at once: those with similar caps together.

    Args:
        budget: the most positions of a batch's key-value cache (:func:`cache_positions`). A sample that needs more is
            alone in its batch.
    """
    batches: list[list[AskedSample]] = []
    for sample in sorted(samples, key=lambda sample: (sample.most_columns, sample.index)):
        grown = [*batches[-1], sample] if batches else []
        if grown and len(grown) <= LARGEST_BATCH and cache_positions(grown) <= budget:
            batches[-1] = grown
        else:
            batches.append([sample])
    return batches


def cache_positions(batch: Sequence[AskedSample]) -> int:
    """Return the positions of the key-value cache if no clip of a batch ends. Each sample has a row of the longest."""
    longest = max(sample.prompt_positions for sample in batch) + max(sample.most_columns for sample in batch)
    return len(batch) * longest
