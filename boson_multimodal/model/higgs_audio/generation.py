"""Generate speech from a prompt: one column of K codes at a time, with the delay pattern and a key-value cache.

After ``<|audio_out_bos|>``, column 0 is all bos, and column j < K has bos in codebooks >= j. The first column in which
a codebook draws eos begins the end. Let i be the first codebook with eos in it. In that column, codebooks below i are
also set to eos. Then K - 1 - i more columns follow; the m-th of them has eos in codebooks < i + m. ``<|audio_eos|>`` is
added after the last column. Example for K = 3: codebook 1 draws eos in column 4, so one more column follows::

    column      0    1    2    3    4    5
    k = 0      bos   a1   a2   a3  eos  eos
    k = 1      bos  bos   b1   b2  eos  eos
    k = 2      bos  bos  bos   c1   c2   c3

Sources: the generation loop of Boson's release; VALL-E 2 (arXiv:2406.05370) for repetition-aware sampling.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import revert_delay_pattern
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from boson_multimodal.model.higgs_audio.transfer import to_device

NOT_ENDING = -1
"""The value of ``remaining`` for a segment in which no codebook has drawn eos yet."""


class SpeakingModel(Protocol):
    """The interface of the model for generation. A protocol avoids a circular import of ``modeling_higgs_audio``."""

    config: HiggsAudioConfig
    device: torch.device
    training: bool
    layers: nn.ModuleList
    audio_decoder_proj: nn.Module

    def last_hidden_states(self, cache: KeyValueCache, **inputs: Tensor | None) -> Tensor:
        """Return (B, D) after the final norm at the last position of each sample, and fill the cache."""
        ...


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is sampled from its logits.

    Attributes:
        do_sample: sample; if False, take the largest logit and ignore the other settings.
        temperature: the logits are divided by it.
        top_k: keep only the k largest logits; 0 keeps all.
        top_p: of these, keep only the smallest set whose probabilities reach p; 1.0 keeps all.
        ras_win_len, ras_win_max_num_repeat: repetition-aware sampling. A code that occurs at least
            ``ras_win_max_num_repeat`` times in its codebook's last ``ras_win_len`` columns is sampled again from the
            softmax of the raw logits. ``ras_win_len`` None turns it off.

    Raises:
        InputError: listing every value that is out of range.
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.95
    ras_win_len: int | None = 7
    ras_win_max_num_repeat: int = 2

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 < self.temperature < float("inf"):
            problems.append(f"temperature is {self.temperature}; it must be a number above 0")
        if self.top_k < 0:
            problems.append(f"top_k is {self.top_k}; it must be at least 1, or 0 to keep all")
        if not 0.0 < self.top_p <= 1.0:
            problems.append(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        for name in ("ras_win_len", "ras_win_max_num_repeat"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}; it must be at least 1")
        raise_if_any("wrong sampling settings", problems)


@dataclass(frozen=True)
class HiggsAudioGenerationOutput:
    """The result of ``HiggsAudioModel.generate``, on the device of ``input_ids``.

    Attributes:
        sequences: (B, S) token ids, padded on the right: the prompt and the generated tokens, with one
            ``<|AUDIO_OUT|>`` per audio segment.
        audio_sequences: delayed code columns (K, C) of each generated segment, in order of samples. The first column
            is all bos. ``codes_of_columns`` converts them to codes.
        audio_sequence_samples: the index of the sample of each segment.
        ended: for each sample, whether ``<|audio_eos|>`` or ``<|eot_id|>`` was generated within ``max_new_tokens``.
    """

    sequences: Tensor
    audio_sequences: list[Tensor]
    audio_sequence_samples: list[int]
    ended: list[bool]


def codes_of_columns(columns_KC: Tensor, codebook_size: int) -> Tensor:
    """Convert (K, C) generated columns to (K, C - K - 1) codes for the codec.

    The delay is undone, and the bos and eos frames are dropped. A bos or eos inside the segment is replaced by the
    largest code, as in the original. If the segment has no end, its last frame is dropped in place of the eos frame.
    """
    num_codebooks, columns = columns_KC.shape
    if columns < num_codebooks + 1:
        return columns_KC[:, :0]
    return revert_delay_pattern(columns_KC)[:, 1:-1].clamp(max=codebook_size - 1)


class TokenSampler:
    """Samples tokens. Every sample has its own random generator, so its tokens do not depend on the rest of the batch.

    Args:
        seeds: one seed per sample.
    """

    def __init__(self, config: SamplingConfig, seeds: Sequence[int], device: torch.device) -> None:
        self.config = config
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.warpers = LogitsProcessorList()
        if config.temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k > 0:
            self.warpers.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(config.top_p))

    def tokens(self, logits_ARV: Tensor, samples: Sequence[int]) -> Tensor:
        """Return (A, R) tokens for the (A, R, V) logits of the A samples whose indices are ``samples``."""
        if not self.config.do_sample:
            return logits_ARV.argmax(-1)
        logits_ARV = logits_ARV.float()
        warped = self.warpers(None, logits_ARV.flatten(0, 1)).view_as(logits_ARV)
        return self._draw(warped, samples)

    def columns(self, logits_AKV: Tensor, history_AKW: Tensor, samples: Sequence[int]) -> Tensor:
        """Return (A, K) codes. Codes that occur too often in the last W columns are sampled again."""
        codes_AK = self.tokens(logits_AKV, samples)
        if not self.config.do_sample or self.config.ras_win_len is None:
            return codes_AK
        again_AK = self._draw(logits_AKV.float(), samples)
        repeats_AK = (history_AKW == codes_AK[..., None]).sum(-1)
        return torch.where(repeats_AK >= self.config.ras_win_max_num_repeat, again_AK, codes_AK)

    def _draw(self, logits_ARV: Tensor, samples: Sequence[int]) -> Tensor:
        """Sample from the softmax as argmax(p / exponential noise), which needs no synchronisation with the device."""
        noise = torch.empty_like(logits_ARV)
        for row, sample in zip(noise, samples, strict=True):
            row.exponential_(generator=self.generators[sample])
        return (logits_ARV.softmax(-1) / noise).argmax(-1)


def force_delay(
    codes_AK: Tensor, column_A: Tensor, remaining_A: Tensor, bos_id: int, eos_id: int
) -> tuple[Tensor, Tensor]:
    """Apply the delay pattern to sampled codes, as described in the module's docstring.

    Args:
        codes_AK: (A, K) codes as sampled, for one column of each of A segments.
        column_A: the index of that column in its segment.
        remaining_A: the number of columns after the previous one if a codebook has drawn eos, else ``NOT_ENDING``.

    Returns:
        The column, and ``remaining_A`` after it; 0 means that the column is the last one.
    """
    num_codebooks = codes_AK.shape[1]
    codebook = torch.arange(num_codebooks, device=codes_AK.device)
    codes_AK = codes_AK.masked_fill(codebook >= column_A[:, None], bos_id)
    ending = remaining_A != NOT_ENDING
    codes_AK = codes_AK.masked_fill(ending[:, None] & (codebook < num_codebooks - remaining_A[:, None]), eos_id)
    is_eos = codes_AK == eos_id
    first_eos = is_eos.int().argmax(dim=1)
    begins = ~ending & is_eos.any(dim=1)
    codes_AK = codes_AK.masked_fill(begins[:, None] & (codebook < first_eos[:, None]), eos_id)
    remaining_A = torch.where(ending, remaining_A - 1, remaining_A)
    return codes_AK, torch.where(begins, num_codebooks - 1 - first_eos, remaining_A)


class Decoding:
    """The state of B samples during generation: whether each one generates text or audio, and its tokens and codes.

    The host knows the length and mode of each sample; codes stay on the device. Only one flag per sample and column is
    copied to the host: whether the segment has ended.

    Args:
        prompts: token ids of each sample, without padding.
        max_new_tokens: the most text tokens and audio columns of a sample.

    Attributes:
        num_columns: how many columns each sample has.
        ended: whether each sample has ended by itself.
    """

    def __init__(
        self, model: SpeakingModel, prompts: list[list[int]], sampler: TokenSampler, max_new_tokens: int
    ) -> None:
        self.config = model.config
        self.heads = model.audio_decoder_proj
        self.device = model.device
        self.sampler = sampler
        self.tokens = [list(prompt) for prompt in prompts]
        self.in_audio = [prompt[-1] == self.config.audio_out_bos_token_id for prompt in prompts]
        self.ended = [False] * len(prompts)
        self.num_columns = [0] * len(prompts)
        shape = (len(prompts), self.config.audio_num_codebooks, max_new_tokens)
        self.columns_BKC = torch.full(shape, self.config.audio_stream_eos_id, device=self.device)
        self.remaining_B = torch.full((len(prompts),), NOT_ENDING, device=self.device)

    def write(self, hidden_BD: Tensor) -> None:
        """Add a token or a column to each sample that has not ended. ``hidden_BD`` is that of the last positions."""
        running = [sample for sample, ended in enumerate(self.ended) if not ended]
        audio = [sample for sample in running if self.in_audio[sample]]
        text = [sample for sample in running if not self.in_audio[sample]]
        if text:
            self._write_text(hidden_BD, text)
        if audio:
            self._write_columns(hidden_BD, audio)

    def next_inputs(self) -> dict[str, Tensor]:
        """Return the next inputs: the last token or column of each sample, or a dummy column if it has ended."""
        ids, audio = [], []
        for sample, ended in enumerate(self.ended):
            is_column = self.in_audio[sample] or ended
            ids.append([self.config.audio_out_token_idx if is_column else self.tokens[sample][-1]])
            if is_column:
                audio.append(sample)
        inputs = {"input_ids": torch.tensor(ids)}
        if audio:
            rows, column_A = self._places(audio, -1)
            inputs["audio_out_ids"] = self.columns_BKC[rows, :, column_A].T
            inputs["audio_out_ids_start"] = torch.arange(len(audio))
        return inputs

    def so_far(self, sample: int) -> tuple[Tensor, int | None]:
        """Return the (K, C) columns of a sample so far, on the host, and the number of all once an end is drawn."""
        num_columns = self.num_columns[sample]
        remaining = int(self.remaining_B[sample])
        in_all = None if remaining == NOT_ENDING else num_columns + remaining
        return self.columns_BKC[sample, :, :num_columns].cpu(), in_all

    def _write_text(self, hidden_BD: Tensor, samples: list[int]) -> None:
        logits = self.heads.text_lm_head(hidden_BD[self._places(samples)[0]])
        drawn = self.sampler.tokens(logits[:, None], samples).squeeze(1).tolist()
        for sample, token in zip(samples, drawn, strict=True):
            self.tokens[sample].append(token)
            self.in_audio[sample] = token == self.config.audio_out_bos_token_id
            self.ended[sample] = token in (self.config.audio_eos_token_id, self.config.eot_token_id)

    def _write_columns(self, hidden_BD: Tensor, samples: list[int]) -> None:
        config, (rows, column_A) = self.config, self._places(samples)
        logits = self.heads.audio_lm_head(hidden_BD[rows])
        logits_AKV = logits.view(len(samples), config.audio_num_codebooks, config.codebook_rows)
        codes_AK = self.sampler.columns(logits_AKV, self._history(rows, column_A), samples)
        codes_AK, remaining_A = force_delay(
            codes_AK, column_A, self.remaining_B[rows], config.audio_stream_bos_id, config.audio_stream_eos_id
        )
        self.columns_BKC[rows, :, column_A] = codes_AK
        self.remaining_B[rows] = remaining_A
        for sample, is_last in zip(samples, (remaining_A == 0).tolist(), strict=True):
            if self.num_columns[sample] == 0:
                self.tokens[sample].append(config.audio_out_token_idx)
            self.num_columns[sample] += 1
            if is_last:
                self.tokens[sample].append(config.audio_eos_token_id)
                self.ended[sample] = True

    def _history(self, rows: Tensor, column_A: Tensor) -> Tensor:
        """Return the (A, K, W) columns before the next one, with -1 (not a code) before the segment's start."""
        window = self.sampler.config.ras_win_len or 0
        position_AW = column_A[:, None] + torch.arange(-window, 0, device=self.device)
        held = self.columns_BKC[rows[:, None], :, position_AW.clamp(min=0)].transpose(1, 2)
        return held.masked_fill(position_AW[:, None] < 0, -1)

    def _places(self, samples: list[int], shift: int = 0) -> Tensor:
        """Return (2, A), by one copy to the device: each sample's row, and the index of its next column plus shift."""
        columns = [self.num_columns[sample] + shift for sample in samples]
        return to_device(torch.tensor([samples, columns]), self.device)


@torch.no_grad()
def decoding_steps(
    model: SpeakingModel,
    sampling: SamplingConfig,
    *,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    max_new_tokens: int,
    seed: int | Sequence[int] | None,
    **conditioning: Tensor | None,
) -> Iterator[Decoding]:
    """The loop of generation: yield the state of all samples, always the same object, after each token or column.

    Whoever stops early ends the generation. The arguments are described at ``HiggsAudioModel.generate``.
    """
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [row[mask].tolist() for row, mask in zip(input_ids.cpu(), valid.bool().cpu(), strict=True)]
    seeds = _seeds(seed, len(prompts))
    _check(model, prompts, max_new_tokens)
    state = Decoding(model, prompts, TokenSampler(sampling, seeds, model.device), max_new_tokens)
    cache = KeyValueCache(len(model.layers), len(prompts))
    inputs = {"input_ids": input_ids.cpu(), "attention_mask": valid.cpu(), **conditioning}
    for step in range(max_new_tokens):
        if step > 0:
            inputs = state.next_inputs()
        state.write(model.last_hidden_states(cache, **inputs))
        yield state
        if all(state.ended):
            break


@torch.no_grad()
def generate(
    model: SpeakingModel, sampling: SamplingConfig, *, input_ids: Tensor, **settings: Any
) -> HiggsAudioGenerationOutput:
    """Run :func:`decoding_steps` to the end. The arguments are described at ``HiggsAudioModel.generate``."""
    (state,) = deque(decoding_steps(model, sampling, input_ids=input_ids, **settings), maxlen=1)  # the last one
    speaking = [sample for sample, count in enumerate(state.num_columns) if count]
    rows = [torch.tensor(tokens) for tokens in state.tokens]
    sequences = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id)
    columns_BKC = state.columns_BKC.to(input_ids.device)  # one wait for the device, not one per segment
    return HiggsAudioGenerationOutput(
        sequences=sequences.to(input_ids.device),
        audio_sequences=[columns_BKC[sample, :, : state.num_columns[sample]] for sample in speaking],
        audio_sequence_samples=speaking,
        ended=state.ended,
    )


def _seeds(seed: int | Sequence[int] | None, num_samples: int) -> list[int]:
    """Return one seed per sample. If ``seed`` is None, draw them from torch's global generator."""
    if seed is None:
        return torch.randint(2**63 - 1, (num_samples,)).tolist()
    seeds = [seed] * num_samples if isinstance(seed, int) else list(seed)
    if len(seeds) != num_samples:
        raise InputError(f"seed holds {len(seeds)} numbers for {num_samples} samples; give one each, or one for all")
    return seeds


def _check(model: SpeakingModel, prompts: list[list[int]], max_new_tokens: int) -> None:
    problems = [f"input_ids[{i}] holds no valid token" for i, prompt in enumerate(prompts) if not prompt]
    if max_new_tokens < 1:
        problems.append(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if model.training:
        problems.append("the model is in training mode, where dropout would distort the speech; call eval() first")
    if not model.config.use_delay_pattern:
        problems.append("config.json has use_delay_pattern false; only models with the delay pattern can generate")
    raise_if_any("HiggsAudioModel.generate", problems)
