"""Compare generation with the original's greedy runs and with slow references, for single prompts and batches."""

import json

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel, generation
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from boson_multimodal.model.higgs_audio.generation import (
    NOT_ENDING,
    HiggsAudioGenerationOutput,
    SamplingConfig,
    TokenSampler,
    codes_of_columns,
    force_delay,
)
from lora_config import HiggsAudioLoRATrainingConfig
from tests.goldens import GOLDEN_DIR, meta, needs_golden, tensors
from tests.native_oracle import AUDIO_IN, AUDIO_OUT, tiny_config

BOS, EOS, K = 32, 33, 8
RUNS = ("eos_single_gt0", "eos_single_gt0_withref", "no_eos_40", "eos_cb0_withref")
GREEDY = {"do_sample": False, "max_new_tokens": 40}


@pytest.fixture(scope="module")
def golden_model() -> HiggsAudioModel:
    model = HiggsAudioModel(HiggsAudioConfig.from_dict(meta("g2_fast_forward_all")["config"]))
    model.load_state_dict(tensors("g2_fast_forward_all.state_dict"), strict=True)
    return model.eval()


@pytest.fixture
def model() -> HiggsAudioModel:
    """Build a random model with large logits. With near ties, rounding would decide greedy choices."""
    model = HiggsAudioModel(tiny_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return model


def prompt_of(run: str) -> dict[str, Tensor]:
    stored = tensors(f"g8_gen_{run}")
    return {name.removeprefix("in."): value for name, value in stored.items() if name.startswith("in.")}


def batch_of(prompts: list[dict[str, Tensor]], pads_left: bool = False) -> dict[str, Tensor]:
    """Join prompts of one row each to a batch."""
    side = "left" if pads_left else "right"
    rows = [p["input_ids"][0] for p in prompts]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=481, padding_side=side)
    mask = pad([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    batch = {"input_ids": ids, "attention_mask": mask}
    for name in ("audio_in_ids", "audio_out_ids"):
        codes = [p[name] for p in prompts if name in p]
        if codes:
            lengths = torch.tensor([c.shape[1] for c in codes])
            batch |= {name: torch.cat(codes, dim=1), f"{name}_start": lengths.cumsum(0) - lengths}
    return batch


def random_prompts() -> list[dict[str, Tensor]]:
    """Make three prompts of different lengths: a reference as <|AUDIO|>, one as an earlier turn, and none."""
    prompts = []
    for text, slots in ((12, [AUDIO_IN]), (3, []), (7, [AUDIO_OUT])):
        ids = [480, *torch.randint(0, 480, (text,)).tolist(), *slots, 489, 493]
        prompt = {"input_ids": torch.tensor([ids])}
        for slot in slots:
            name = "audio_in_ids" if slot == AUDIO_IN else "audio_out_ids"
            prompt |= {name: torch.randint(0, 32, (K, 9)), f"{name}_start": torch.tensor([0])}
        prompts.append(prompt)
    return prompts


# -- the original's answers -------------------------------------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize("run", RUNS)
def test_greedy_columns_equal_the_original(run: str, golden_model: HiggsAudioModel) -> None:
    stored = tensors(f"g8_gen_{run}")
    output = golden_model.generate(**prompt_of(run), **GREEDY)
    (columns,) = output.audio_sequences
    assert torch.equal(columns, stored["out.audio_sequences.0"])
    assert torch.equal(output.sequences, stored["out.sequences"])
    assert torch.equal(codes_of_columns(columns, 32), stored["out.decoded_codes"])
    assert output.ended == [run != "no_eos_40"]


@needs_golden
def test_every_golden_run_is_tested() -> None:
    index = json.loads((GOLDEN_DIR / "g8_gen_index.json").read_text(encoding="utf-8"))
    assert set(index["runs"]) == set(RUNS)


@needs_golden
@pytest.mark.parametrize("pads_left", [False, True], ids=["pads right", "pads left"])
def test_a_batch_of_the_goldens_equals_the_single_runs(golden_model: HiggsAudioModel, pads_left: bool) -> None:
    output = golden_model.generate(**batch_of([prompt_of(run) for run in RUNS], pads_left), **GREEDY)
    assert output.audio_sequence_samples == [0, 1, 2, 3]
    for run, columns, sequence in zip(RUNS, output.audio_sequences, output.sequences, strict=True):
        stored = tensors(f"g8_gen_{run}")
        wanted = stored["out.sequences"][0]
        assert torch.equal(columns, stored["out.audio_sequences.0"])
        assert torch.equal(sequence[: len(wanted)], wanted) and (sequence[len(wanted) :] == 481).all()


# -- alone and in batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_the_speech_of_a_prompt_does_not_depend_on_its_batch(model: HiggsAudioModel, do_sample: bool) -> None:
    prompts, seeds = random_prompts(), [5, 6, 7]
    settings = {"max_new_tokens": 30, "do_sample": do_sample}
    together = model.generate(**batch_of(prompts), seed=seeds, **settings)
    assert together.audio_sequence_samples == [0, 1, 2]
    for prompt, seed, columns in zip(prompts, seeds, together.audio_sequences, strict=True):
        alone = model.generate(**prompt, seed=seed, **settings)
        assert torch.equal(alone.audio_sequences[0], columns)


def test_a_seed_gives_the_same_speech_twice_and_another_seed_other_speech(model: HiggsAudioModel) -> None:
    prompt = random_prompts()[0]
    first, second, other = (model.generate(**prompt, seed=s, max_new_tokens=30).audio_sequences[0] for s in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)
    torch.manual_seed(11)
    unseeded = model.generate(**prompt, max_new_tokens=30).audio_sequences[0]
    torch.manual_seed(11)
    assert torch.equal(unseeded, model.generate(**prompt, max_new_tokens=30).audio_sequences[0])


@torch.no_grad()
def test_the_cached_columns_are_those_of_forward_without_a_cache(model: HiggsAudioModel) -> None:
    """Generate greedily without a cache: run the whole sequence again for every column."""
    prompt = random_prompts()[0]
    (found,) = model.generate(**prompt, do_sample=False, max_new_tokens=12).audio_sequences
    columns = torch.full((K, 1), BOS)
    for column in range(1, 12):
        ids = torch.cat([prompt["input_ids"], torch.tensor([[AUDIO_OUT]])], dim=1)
        whole = {**prompt, "input_ids": ids, "audio_out_ids": columns, "audio_out_ids_start": torch.tensor([0])}
        drawn = model(**whole).audio_logits[-1].argmax(-1)
        assert (drawn[:column] != EOS).all(), "no codebook may draw eos in this test"
        drawn[column:] = BOS
        columns = torch.cat([columns, drawn[:, None]], dim=1)
    assert torch.equal(found, columns)


def test_the_prompt_runs_once_and_each_head_only_where_it_is_needed(model: HiggsAudioModel) -> None:
    """After the prompt, each column runs one position per sample. Audio mode does not call the text head."""
    rows: dict[str, list[int]] = {"layer": [], "text_lm_head": [], "audio_lm_head": []}
    model.layers[0].register_forward_pre_hook(lambda _, args: rows["layer"].append(args[0].shape[0]))
    for name in ("text_lm_head", "audio_lm_head"):
        head = getattr(model.audio_decoder_proj, name)
        head.register_forward_pre_hook(lambda _, args, name=name: rows[name].append(args[0].shape[0]))
    model.generate(**batch_of(random_prompts()), do_sample=False, max_new_tokens=6)
    # Positions: the text of each prompt, the columns of two references, and three further ids in each prompt.
    assert rows["layer"] == [(12 + 3 + 7) + 2 * 9 + 3 * 3, 3, 3, 3, 3, 3]
    assert rows["text_lm_head"] == []
    assert rows["audio_lm_head"] == [3] * 6


def test_a_model_under_peft_generates(model: HiggsAudioModel) -> None:
    prompt = random_prompts()[0]
    plain = model.generate(**prompt, do_sample=False, max_new_tokens=12).audio_sequences[0]
    wrapped = get_peft_model(model, HiggsAudioLoRATrainingConfig(lora_rank=4).to_peft()).eval()
    fresh = wrapped.generate(**prompt, do_sample=False, max_new_tokens=12).audio_sequences[0]
    assert torch.equal(fresh, plain), "a fresh adapter changes nothing"
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
    adapted = wrapped.generate(**prompt, do_sample=False, max_new_tokens=12).audio_sequences[0]
    assert not torch.equal(adapted, plain)


# -- text mode --------------------------------------------------------------------------------------------------------


def test_text_comes_first_where_the_prompt_does_not_open_audio(model: HiggsAudioModel) -> None:
    """The text head is set so that the last token decides the next: a word, <|audio_out_bos|> or <|eot_id|>."""
    said = {100: 101, 101: 493, 200: 201, 201: 489}
    head = model.audio_decoder_proj.text_lm_head
    embedding = torch.zeros(512, 64)
    for index, token in enumerate(said):
        embedding[token, index] = 1.0
    with torch.no_grad():
        model.embed_tokens.weight.copy_(embedding)
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        head.weight.zero_()
        for index, token in enumerate(said.values()):
            head.weight[token, index] = 1.0
    prompts = [{"input_ids": torch.tensor([[480, 5, 100]])}, {"input_ids": torch.tensor([[480, 200]])}]
    output = model.generate(**batch_of(prompts), do_sample=False, max_new_tokens=9)
    assert output.sequences.tolist() == [[480, 5, 100, 101, 493, AUDIO_OUT], [480, 200, 201, 489, 481, 481]]
    assert output.audio_sequence_samples == [0]
    # Nine new tokens: two of text, and seven columns, of which the first is all bos.
    assert output.audio_sequences[0].shape == (K, 7) and (output.audio_sequences[0][:, 0] == BOS).all()
    assert output.ended == [False, True]


# -- the delay pattern ------------------------------------------------------------------------------------------------


def slow_columns(drawn_CK: list[list[int]]) -> list[list[int]]:
    """Slow reference: apply the rules of SPEC section 5 literally. Stop at the end of the segment."""
    columns, ending = [], None
    for j, drawn in enumerate(drawn_CK):
        column = list(drawn)
        for k in range(K):
            if k >= j:
                column[k] = BOS
        if ending is not None:
            first, following = ending
            following += 1
            for k in range(first + following):
                column[k] = EOS
            ending = (first, following)
        elif EOS in column:
            ending = (column.index(EOS), 0)
            for k in range(ending[0]):
                column[k] = EOS
        columns.append(column)
        if ending is not None and ending[1] == K - 1 - ending[0]:
            break
    return columns


@pytest.mark.parametrize("eos_chance", [0.0, 0.02, 0.3])
def test_forcing_equals_the_slow_reference(eos_chance: float) -> None:
    lengths = []
    for _ in range(40):
        drawn_CK = torch.randint(0, BOS, (30, K))
        drawn_CK[torch.rand(30, K) < eos_chance] = EOS
        remaining, found = torch.tensor([NOT_ENDING]), []
        for j, drawn in enumerate(drawn_CK):
            column, remaining = force_delay(drawn[None], torch.tensor([j]), remaining, BOS, EOS)
            found.append(column[0].tolist())
            if remaining.item() == 0:
                break
        assert found == slow_columns(drawn_CK.tolist())
        lengths.append(len(found))
    assert max(lengths) == 30 if eos_chance == 0.0 else min(lengths) < 30


def test_codes_of_columns_undoes_what_the_collator_does() -> None:
    codes = torch.randint(0, 32, (K, 11))
    assert torch.equal(codes_of_columns(build_audio_columns(codes, BOS, EOS, True), 32), codes)
    stray = codes.clone()
    stray[2, 5] = BOS
    clamped = codes_of_columns(build_audio_columns(stray, BOS, EOS, True), 32)
    assert clamped[2, 5] == 31 and clamped.max() < 32
    assert codes_of_columns(torch.full((K, 8), BOS), 32).shape == (K, 0)


# -- sampling ---------------------------------------------------------------------------------------------------------


def slow_distribution(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Slow reference: compute the probabilities of one row token by token."""
    scores = (logits.double() / config.temperature).tolist()
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = order[: config.top_k] if config.top_k else order
    weights = {i: torch.tensor(scores[i], dtype=torch.float64).exp().item() for i in kept}
    total = sum(weights.values())
    reached, chosen = 0.0, []
    for i in kept:
        if reached >= config.top_p * total:
            break
        chosen.append(i)
        reached += weights[i]
    probabilities = torch.zeros(len(scores), dtype=torch.float64)
    for i in chosen:
        probabilities[i] = weights[i] / reached
    return probabilities


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.6, "top_k": 5, "top_p": 1.0},
        {"temperature": 1.4, "top_k": 0, "top_p": 0.7},
        {"temperature": 1.0, "top_k": 6, "top_p": 0.9},
    ],
)
def test_draws_follow_the_slow_distribution(settings: dict[str, float]) -> None:
    """Draw half a million times from one row: only kept tokens, and frequencies within five standard errors."""
    config, draws = SamplingConfig(**settings), 500_000
    logits = 2.0 * torch.randn(12)
    sampler = TokenSampler(config, [1], torch.device("cpu"))
    tokens = sampler.tokens(logits.expand(1, draws, 12), [0])
    found = torch.bincount(tokens.flatten(), minlength=12).double() / draws
    wanted = slow_distribution(logits, config)
    assert (found[wanted == 0] == 0).all()
    assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / draws).sqrt()).all()


def test_repetition_aware_sampling_equals_the_slow_reference() -> None:
    """Codes that repeat too often in the window are drawn again, with the next noise. All others stay."""
    config = SamplingConfig(top_k=3, top_p=1.0, ras_win_len=4, ras_win_max_num_repeat=2)
    plain = SamplingConfig(top_k=3, top_p=1.0, ras_win_len=None)
    redrawn = 0
    for seed in range(60):
        logits, history = 3.0 * torch.randn(2, K, 34), torch.randint(0, 3, (2, K, 4))
        logits[:, :, :3] += 6.0  # the window contains these three only
        samplers = [TokenSampler(c, [seed, seed + 100], torch.device("cpu")) for c in (config, plain)]
        found = samplers[0].columns(logits, history, [0, 1])
        first = samplers[1].columns(logits, history, [0, 1])
        for sample in range(2):
            noise = torch.empty(K, 34).exponential_(generator=samplers[1].generators[sample])
            for k in range(K):
                code = first[sample, k].item()
                if history[sample, k].tolist().count(code) >= 2:
                    code = (logits[sample, k].softmax(-1) / noise[k]).argmax().item()
                    redrawn += 1
                assert found[sample, k].item() == code
    assert redrawn > 100


def test_the_window_holds_the_segments_last_columns(model: HiggsAudioModel) -> None:
    """The history that the sampler gets for each column holds the columns that were written before it."""
    seen: list[Tensor] = []

    class Watcher(TokenSampler):
        def columns(self, logits_AKV: Tensor, history_AKW: Tensor, samples: list[int]) -> Tensor:
            seen.append(history_AKW.clone())
            return super().columns(logits_AKV, history_AKW, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "TokenSampler", Watcher)
        output = model.generate(**random_prompts()[1], max_new_tokens=14, ras_win_len=5, seed=0)
    (columns,) = output.audio_sequences
    padded = torch.cat([torch.full((K, 5), -1), columns], dim=1)
    for j, history in enumerate(seen):
        assert torch.equal(history[0], padded[:, j : j + 5])


# -- types and wrong input --------------------------------------------------------------------------------------------


def test_bfloat16_generates(model: HiggsAudioModel) -> None:
    output = model.to(torch.bfloat16).generate(**batch_of(random_prompts()), max_new_tokens=12, seed=1)
    assert len(output.audio_sequences) == 3
    assert all(0 <= c.min() and c.max() <= EOS for c in output.audio_sequences)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be a number above 0"),
        ({"top_k": -1, "top_p": 1.5}, "top_k is -1.*\n.*top_p is 1.5; it must be above 0 and at most 1"),
        ({"ras_win_len": 0}, "ras_win_len is 0; it must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"seed": [1, 2]}, "seed holds 2 numbers for 1 samples"),
        ({"attention_mask": torch.zeros(1, 6).long()}, r"input_ids\[0\] holds no valid token"),
    ],
)
def test_wrong_settings_are_refused(model: HiggsAudioModel, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**{**random_prompts()[1], **settings})


def test_a_model_in_training_mode_is_refused(model: HiggsAudioModel) -> None:
    with pytest.raises(ValueError, match="call eval"):
        model.train().generate(**random_prompts()[1])


def test_the_output_names_its_parts(model: HiggsAudioModel) -> None:
    output = model.generate(**random_prompts()[1], max_new_tokens=3, seed=0)
    assert isinstance(output, HiggsAudioGenerationOutput)
    assert output.sequences.shape == (1, 7) and output.audio_sequences[0].shape == (K, 3)
