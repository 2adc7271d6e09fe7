"""The matrix products that a training step cannot do without, and how fast this machine can compute them.

What is needed: valid positions only, no padding; the forward pass, the gradients of inputs, and the adapter's products;
heads only at rows with a label; in the last layer, keys and values of all positions, everything else only of those that
predict a label; in the first layer, no gradient of the input of q, k and v, which nothing trained made. A recomputed
product is not counted again. Products of attention scores are not counted.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.loss import next_audio_labels, next_text_labels
from boson_multimodal.model.higgs_audio.packing import pack_batch, segment_lengths

TRIALS = 5
RUNS_PER_TRIAL = {"cpu": 1, "cuda": 20}
"""A trial on a GPU has many runs, so that the host's launches do not limit it."""


@dataclass(frozen=True)
class Product:
    """(rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns


Products = Counter[Product]
"""How often each product is computed."""


@dataclass(frozen=True)
class BatchRows:
    """Numbers of positions of a micro-batch.

    Attributes:
        text, audio: positions that take the text FFN and the audio FFN.
        predicting_text, predicting_audio: those of them that predict a label of either head.
        text_labels, audio_labels: positions that predict a label of the text head, and of the audio head.
    """

    text: int
    audio: int
    predicting_text: int
    predicting_audio: int
    text_labels: int
    audio_labels: int


def rows_of(batch: HiggsAudioBatchInput, config: HiggsAudioConfig) -> BatchRows:
    """Count the positions of a micro-batch whose references are given as codes."""
    lengths = (
        segment_lengths(codes.shape[1], starts)
        for codes, starts in (
            (batch.audio_in_ids, batch.audio_in_ids_start),
            (batch.audio_out_ids, batch.audio_out_ids_start),
        )
    )
    packed = pack_batch(
        batch.input_ids,
        batch.attention_mask,
        *lengths,
        batch.label_ids,
        config.audio_in_token_idx,
        config.audio_out_token_idx,
    )
    is_target = packed.input_ids_N == config.audio_out_token_idx
    is_audio = is_target | (packed.input_ids_N == config.audio_in_token_idx)
    text_label = next_text_labels(packed.label_ids_N, packed.position_ids_N) != IGNORE_INDEX
    audio_label = torch.zeros_like(is_target)
    audio_label[is_target] = (next_audio_labels(batch.label_audio_ids) != IGNORE_INDEX).any(dim=1)
    predicts = text_label | audio_label
    counts = (~is_audio, is_audio, predicts & ~is_audio, predicts & is_audio, text_label, audio_label)
    return BatchRows(*(int(mask.sum()) for mask in counts))


def needed_products(config: HiggsAudioConfig, rows: BatchRows, rank: int) -> Products:
    """The products of one micro-batch; those with the same input are one product. All layers have adapters of LoRA."""
    text, count = config.text_config, Products()
    width, head_dim = text.hidden_size, text.head_dim
    query, keys = text.num_attention_heads * head_dim, 2 * text.num_key_value_heads * head_dim
    layers = text.num_hidden_layers
    for layer in range(layers):
        is_first, is_last = layer == 0, layer == layers - 1
        everywhere = rows.text + rows.audio
        text_rows, audio_rows = rows.text, rows.audio
        if is_last:
            text_rows, audio_rows = rows.predicting_text, rows.predicting_audio
            count += _linear(text_rows + audio_rows, width, (query,), rank, is_first)
            count += _linear(everywhere, width, (keys // 2,) * 2, rank, is_first)
        else:
            count += _linear(everywhere, width, (query, keys // 2, keys // 2), rank, is_first)
        count += _linear(text_rows + audio_rows, query, (width,), rank)
        for ffn_rows, inner in (
            (text_rows, text.intermediate_size),
            (audio_rows, config.audio_ffn_intermediate_size),
        ):
            count += _linear(ffn_rows, width, (inner, inner), rank)
            count += _linear(ffn_rows, inner, (width,), rank)
    audio_logits = config.audio_num_codebooks * config.codebook_rows
    count += _base(rows.text_labels, width, text.vocab_size) + _base(rows.audio_labels, width, audio_logits)
    return Products({product: times for product, times in count.items() if product.flops})


def _base(rows: int, inner: int, columns: int, is_first: bool = False) -> Products:
    """A frozen matrix: the forward pass, and the gradient of its input."""
    forward = Products([Product(rows, inner, columns)])
    return forward if is_first else forward + Products([Product(rows, columns, inner)])


def _linear(rows: int, inner: int, outputs: tuple[int, ...], rank: int, is_first: bool = False) -> Products:
    """Frozen matrices that share their input, as one product, and the adapter of each."""
    ranks = rank * len(outputs)
    count = _base(rows, inner, sum(outputs), is_first)
    count[Product(rows, inner, ranks)] += 1  # input times A
    count[Product(ranks, rows, inner)] += 1  # gradient of A
    if not is_first:
        count[Product(rows, ranks, inner)] += 1  # gradient of the input, through A
    for output in outputs:
        count[Product(rows, rank, output)] += 1  # times B
        count[Product(rank, rows, output)] += 1  # gradient of B
        count[Product(rows, output, rank)] += 1  # gradient of the adapter's hidden state
    return count


def total_flops(products: Products) -> int:
    return sum(product.flops * times for product, times in products.items())


def best_seconds(products: Products, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of all products, each with the fastest backend for its shape, in the best of some trials."""
    return sum(times * _best_of(_runs(product, device, dtype), device) for product, times in products.items())


def _runs(product: Product, device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """One product by each backend, with either layout of the second factor."""
    left = torch.randn(product.rows, product.inner, device=device, dtype=dtype)
    right = torch.randn(product.columns, product.inner, device=device, dtype=dtype)
    straight = right.t().contiguous()
    runs = [lambda: torch.mm(left, right.t()), lambda: torch.mm(left, straight)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        runs.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    return runs


def _best_of(runs: Iterable[Callable[[], Tensor]], device: torch.device) -> float:
    best, times = float("inf"), RUNS_PER_TRIAL[device.type]
    for run in runs:
        run()
        for _ in range(TRIALS):
            synchronize(device)
            began = time.perf_counter()
            for _ in range(times):
                run()
            synchronize(device)
            best = min(best, (time.perf_counter() - began) / times)
    return best


def synchronize(device: torch.device) -> None:
    """Wait for the device's work, so that a clock on the host tells its end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
