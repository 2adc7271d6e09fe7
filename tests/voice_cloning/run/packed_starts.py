"""Starts of training up to its packed data, without a model, on files with a cache of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from boson_multimodal.sample_dataset import SampleDataset
from tests.training_runs import flags
from voice_cloning.run.data import encode_and_pack, load_run_data
from voice_cloning.run.report import data_lines
from voice_cloning.training.config import parse_arguments


@dataclass(frozen=True)
class Start:
    """What a start did.

    Attributes:
        dataset: the training data that it ends with.
        was_found: whether the data were found as prepared before.
        lines: what it said about the data.
        fingerprint: of the data that it began with.
    """

    dataset: SampleDataset
    was_found: bool
    lines: list[str]
    fingerprint: str

    @property
    def ids(self) -> list[str]:
        return [self.dataset.sample_id(index) for index in range(len(self.dataset))]


def start(demo: Path, path: Path, cache: Path, **settings: Any) -> Start:
    """Start training on a file, with a code cache of its own and the tokenizer and codec of the demo."""
    where = {"data_path": path, "eval_data_path": None, "code_cache_dir": cache, "prompt_style": "as_written"}
    config, dataset_config, *_ = parse_arguments(flags(demo, path.parent / "out", **{**where, **settings}), "")
    data = load_run_data(config, dataset_config, demo / "model")
    lines, begun_with = data_lines(data, dataset_config), data.train_dataset
    packed = encode_and_pack(data, torch.device("cpu"))
    was_found = isinstance(begun_with, PreparedDataset)
    return Start(packed.train_dataset, was_found, lines, begun_with.fingerprint())


def again(demo: Path, files: Path, **settings: Any) -> Start:
    """Start on ``data.json`` of a folder that holds its cache too."""
    return start(demo, files / "data.json", **{"cache": files / "cache", **settings})


def folders(cache: Path) -> list[Path]:
    """The folders of prepared data in a cache."""
    return sorted(path for path in (cache / "prepared").iterdir() if path.is_dir())
