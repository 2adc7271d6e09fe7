"""Test the export of adapters: merged in either layout, renamed for transformers' class, and their model cards."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL, TRANSFORMERS, to_transformers_name
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig
from tests.native_oracle import native_logits, native_model, random_sample, tiny_config
from tests.training_runs import trainer
from tools import merge_adapter as tool
from voice_cloning import __version__
from voice_cloning.adapters import merge
from voice_cloning.adapters.export import TARGETS, Adapter, apply_adapter, read_adapter
from voice_cloning.adapters.logit_comparison import (
    Logits,
    computing_in,
    differences,
    fixed_batch,
    our_logits,
    transformers_logits,
)
from voice_cloning.adapters.model_card import merged_card, read_facts, write_checkpoint_card

TOLERANCE = 2e-5
"""The largest allowed difference between two fp32 logits of the same model."""
EVERY_GROUP = list(TARGET_GROUPS)
VARIANTS = [{}, {"use_rslora": True}, {"use_dora": True}]


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a short run with adapters on every group of modules. Return its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    subject = trainer(demo, folder, learning_rate=1e-2, lora_targets=EVERY_GROUP)
    return subject.train().checkpoint


@pytest.fixture(scope="module")
def reference(demo: Path, trained: Path) -> Logits:
    """Compute the logits of base + adapter in fp32, loaded by PEFT."""
    model = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(demo / "model"), trained).eval()
    return our_logits(model, fixed_batch(model.get_base_model().config))


@pytest.fixture(scope="module")
def native_base(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the demo's model in the transformers layout."""
    folder = tmp_path_factory.mktemp("native") / "base"
    model = HiggsAudioModel.from_pretrained(demo / "model")
    save_checkpoint(model, model.config, folder, TRANSFORMERS)
    return folder


def arguments(demo: Path, adapter: Path, output: Path, layout: str, *more: str) -> list[str]:
    paths = ["--model_path", str(demo / "model"), "--adapter", str(adapter), "--output", str(output)]
    return [*paths, "--layout", layout, *more]


def rename(adapter: Path, output: Path, layout: str) -> Path:
    flags = ["--adapter", str(adapter), "--output", str(output), "--layout", layout, "--adapter_only"]
    assert tool.main(flags) == 0
    return output


def assert_close(one: Logits, other: Logits) -> None:
    for head, difference in differences(one, other).items():
        assert difference.largest <= TOLERANCE, f"{head}: {difference}"


def native(folder: Path) -> HiggsAudioV2ForConditionalGeneration:
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, use_text_head=True, dtype="auto").eval()


def random_adapter(folder: Path, model: HiggsAudioModel, **settings: object) -> Path:
    """Save an adapter for ``model`` with random weights (and changed DoRA magnitudes) with PEFT."""
    config = HiggsAudioLoRATrainingConfig(**{"lora_rank": 4, "lora_targets": EVERY_GROUP, **settings}).to_peft()
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif "lora_" in name:
                parameter.copy_(0.03 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def tiny_model(folder: Path) -> HiggsAudioModel:
    """Save a random model whose norms differ from one another."""
    model = HiggsAudioModel(tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    save_checkpoint(model, model.config, folder, ORIGINAL)
    return model


# -- the adapter on transformers' class --------------------------------------------------------------------------------


def test_a_trained_adapter_gives_transformers_class_our_logits(
    trained: Path, native_base: Path, reference: Logits, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = rename(trained, tmp_path / "renamed", TRANSFORMERS)
    assert "build transformers' class with use_text_head=True" in capsys.readouterr().out
    wrapped = PeftModel.from_pretrained(native(native_base), renamed).eval()
    config = HiggsAudioModel.from_pretrained(demo / "model").config
    found = transformers_logits(wrapped.get_base_model(), config, fixed_batch(config))
    assert_close(found, reference)
    untrained = transformers_logits(native(native_base), config, fixed_batch(config))
    assert all(difference.largest > 1 for difference in differences(untrained, reference).values())


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_every_kind_of_adapter_gives_the_oracle_our_logits(tmp_path: Path, variant: dict[str, object]) -> None:
    torch.manual_seed(0)
    tiny_model(tmp_path / "base")
    ours, theirs = (HiggsAudioModel.from_pretrained(tmp_path / "base") for _ in range(2))
    batch = ArabicVoiceCloningTrainingCollator.from_config(ours.config)(
        [random_sample(7, 20, 12), random_sample(3, 4, 5), random_sample(9, 1, 30)]
    )
    adapter = random_adapter(tmp_path / "adapter", HiggsAudioModel.from_pretrained(tmp_path / "base"), **variant)
    renamed = rename(adapter, tmp_path / "renamed", TRANSFORMERS)
    ours = PeftModel.from_pretrained(ours, adapter).eval()
    theirs = PeftModel.from_pretrained(native_model(theirs), renamed).eval()
    with torch.no_grad():
        output = ours(**vars(batch), output_logits=True)
        found = native_logits(
            theirs, ours.get_base_model().config, batch, output.expanded_input_ids, output.attention_mask
        )
    mask = output.attention_mask.bool()
    torch.testing.assert_close(output.audio_logits, found.audio_CKV, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(output.logits[mask], found.text_BSV[mask], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_renaming_there_and_back_changes_no_bit(tmp_path: Path, variant: dict[str, object]) -> None:
    settings = {**variant, "lora_targets": ["heads", "attention", "audio_embeddings"]}
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"), **settings)
    there = rename(adapter, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    renamed = load_file(there / "adapter_model.safetensors")
    assert len(renamed) == len(before) and not renamed.keys() & before.keys()
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (adapter, back)]
    for config in configs:
        for name in ("base_model_name_or_path", "revision"):
            config.pop(name)
    assert configs[0] == configs[1]


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], r".*\.layers\.[01]\..*v_proj"])
def test_foreign_target_modules_become_the_modules_that_have_tensors(tmp_path: Path, targets: object) -> None:
    """The adapter was made on transformers' class. In our class it adapts exactly the same modules."""
    theirs = native_model(tiny_model(tmp_path / "base"))
    wrapped = get_peft_model(theirs, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    wrapped.save_pretrained(tmp_path / "foreign")
    renamed = rename(tmp_path / "foreign", tmp_path / "renamed", ORIGINAL)
    ours = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base"), renamed)
    adapted = {to_transformers_name(name) for name in read_adapter(renamed).modules}
    assert adapted == {
        n.split(".lora_")[0].removeprefix("base_model.model.") for n in wrapped.state_dict() if "lora_" in n
    }
    assert len([name for name, _ in ours.named_modules() if name.endswith("lora_A.default")]) == len(adapted)


def test_both_tables_of_groups_name_the_same_modules() -> None:
    names = [name for name, _ in HiggsAudioModel(tiny_config()).named_modules()]
    assert TARGETS[TRANSFORMERS].keys() == TARGETS[ORIGINAL].keys()
    for group, pattern in TARGETS[ORIGINAL].items():
        ours = [name for name in names if re.fullmatch(pattern, name)]
        assert ours
        theirs = [name for name, _ in native_model(HiggsAudioModel(tiny_config())).named_modules()]
        found = {name for name in theirs if re.fullmatch(TARGETS[TRANSFORMERS][group], name)}
        assert found == {to_transformers_name(name) for name in ours}


# -- merged ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_merged_in_float32_has_the_logits_of_base_and_adapter(
    trained: Path, reference: Logits, demo: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    assert tool.main(arguments(demo, trained, output, layout)) == 0
    printed = capsys.readouterr().out
    assert f"written: {output}" in printed
    assert ("read by transformers' class" in printed) == (layout == TRANSFORMERS)
    config = HiggsAudioModel.from_pretrained(demo / "model").config
    if layout == TRANSFORMERS:
        found = transformers_logits(native(output), config, fixed_batch(config))
    else:
        stored, base = (load_file(folder / "model.safetensors") for folder in (output, demo / "model"))
        assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in base.items()}
        found = our_logits(HiggsAudioModel.from_pretrained(output), fixed_batch(config))
    assert_close(found, reference)
    text = "\u0645\u0631\u062d\u0628\u0627 <|audio_out_bos|>"
    ids = AutoTokenizer.from_pretrained(demo / "model")(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(output)(text)["input_ids"] == ids
    assert {path.name for path in output.iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors", "run.json"),
        *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    }


def test_an_adapter_and_a_base_may_be_in_either_layout(
    trained: Path, demo: Path, native_base: Path, tmp_path: Path
) -> None:
    renamed = rename(trained, tmp_path / "renamed", TRANSFORMERS)
    for name, base, adapter in (("a", native_base, renamed), ("b", demo / "model", trained)):
        (tmp_path / name).mkdir()
        merge.merge(read_adapter(adapter), base, tmp_path / name, ORIGINAL)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    given = {name for name, value in one.items() if value is not None}
    assert given == {name for name, value in other.items() if value is not None}
    assert all(torch.equal(one[name], other[name]) for name in given)


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_every_kind_of_adapter_merges(tmp_path: Path, variant: dict[str, object]) -> None:
    """``merge`` compares logits itself. This test compares the weights with those of PEFT's merge."""
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"), **variant)
    (tmp_path / "out").mkdir()
    lines = merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", TRANSFORMERS)
    assert len(lines) == 3
    wrapped = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base"), adapter)
    merged = HiggsAudioModel.from_pretrained(tmp_path / "out").state_dict()
    base = HiggsAudioModel.from_pretrained(tmp_path / "base").state_dict()
    for name, weight in wrapped.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-6)
        adapted = any(re.fullmatch(f"({pattern}).weight", name) for pattern in TARGET_GROUPS.values())
        assert torch.equal(merged[name], base[name]) != adapted


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_a_model_merged_in_bfloat16_differs_only_by_rounding(
    tmp_path: Path, stored: torch.dtype, variant: dict[str, object]
) -> None:
    model = tiny_model(tmp_path / "fp32")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(stored)
    save_checkpoint(model, model.config, tmp_path / "base", ORIGINAL)
    adapter = random_adapter(tmp_path / "adapter", HiggsAudioModel.from_pretrained(tmp_path / "base"), **variant)
    (tmp_path / "out").mkdir()
    merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", TRANSFORMERS, torch.bfloat16)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}

    batch = fixed_batch(model.config)
    exact, rounded = (
        our_logits(
            PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=dtype), adapter), batch
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    merged = our_logits(HiggsAudioModel.from_pretrained(tmp_path / "out"), batch)
    own = differences(rounded, exact)
    for head, difference in differences(merged, exact).items():
        assert 0 < difference.row_rms < 1.5 * own[head].row_rms
    # The sum is rounded once: the weight is exactly the fp32 sum, converted to bf16.
    whole = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=torch.float32), adapter)
    for name, weight in whole.merge_and_unload().state_dict().items():
        assert torch.equal(tensors[to_transformers_name(name)], weight.to(torch.bfloat16))


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_computing_in_a_type_equals_loading_in_that_type(tmp_path: Path, held: torch.dtype) -> None:
    model = tiny_model(tmp_path / "fp32")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    save_checkpoint(model, model.config, tmp_path / "base", ORIGINAL)
    adapter = read_adapter(random_adapter(tmp_path / "adapter", model))
    subject = apply_adapter(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=held), adapter)
    batch = fixed_batch(model.config)
    for dtype in (torch.float32, torch.bfloat16):
        with computing_in(subject, dtype):
            found = our_logits(subject, batch)
        loaded = apply_adapter(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=dtype), adapter)
        assert all(difference.largest == 0 for difference in differences(found, our_logits(loaded, batch)).values())
    frozen = [p.dtype for name, p in subject.named_parameters() if "lora_" not in name]
    assert set(frozen) == {held}


def test_the_fixed_batch_is_always_the_same_and_has_both_kinds_of_clips() -> None:
    one, other = (vars(fixed_batch(tiny_config())) for _ in range(2))
    given = {name for name, value in one.items() if value is not None}
    assert given == {name for name, value in other.items() if value is not None}
    assert all(torch.equal(one[name], other[name]) for name in given)
    assert len(one["audio_in_ids_start"]) == len(one["audio_out_ids_start"]) == 4
    assert len(set(one["attention_mask"].sum(dim=1).tolist())) == 4


# -- errors ------------------------------------------------------------------------------------------------------------


def fails(demo: Path, adapter: Path, output: Path, layout: str = TRANSFORMERS, *more: str) -> str:
    """Run the tool. It must fail and leave no file. Return its error message."""
    before = sorted(output.parent.iterdir())
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert tool.main(arguments(demo, adapter, output, layout, *more)) == 1
    assert sorted(output.parent.iterdir()) == before
    return said.getvalue()


def forget_one_module(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    """A faulty merge that leaves out the update of one of 33 modules."""
    with torch.no_grad():
        model.get_base_model().layers[1].audio_mlp.up_proj.lora_B.default.weight.zero_()
    return MERGE(model, dtype)


def forget_the_scale(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] = 1.0
    return MERGE(model, dtype)


MERGE = merge.merge_adapter


@pytest.mark.parametrize(
    ("wrong", "layout", "dtype"),
    [
        (forget_one_module, TRANSFORMERS, "float32"),
        (forget_one_module, ORIGINAL, "bfloat16"),
        (forget_the_scale, TRANSFORMERS, "bfloat16"),
    ],
)
def test_a_wrong_merge_fails_and_leaves_nothing(
    trained: Path,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[..., HiggsAudioModel],
    layout: str,
    dtype: str,
) -> None:
    monkeypatch.setattr(merge, "merge_adapter", wrong)
    said = fails(demo, trained, tmp_path / "out", layout, "--torch_dtype", dtype)
    assert (
        "error: the merged model differs from base + adapter; it is not kept\n  text logits, read by HiggsAudioModel"
        in said
    )
    assert ("audio logits, read by transformers' class" in said) == (layout == TRANSFORMERS)


def test_a_tensor_that_is_written_wrongly_is_found(
    trained: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(model: HiggsAudioModel, *args: object) -> None:
        state = model.state_dict()
        first, second = (f"layers.0.{name}layernorm.weight" for name in ("audio_input_", "audio_post_attention_"))
        state[first] = state[second] * 1.01
        save_checkpoint(state, *args)

    monkeypatch.setattr(merge, "save_checkpoint", swap)
    assert "audio logits, read by HiggsAudioModel" in fails(demo, trained, tmp_path / "out")


def test_ctrl_c_leaves_nothing(
    trained: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(folder: Path, *_: object) -> None:
        assert (folder / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "_verify", interrupted)
    assert tool.main(arguments(demo, trained, tmp_path / "out", ORIGINAL)) == 130
    assert "interrupted; no file is left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_remains_of_a_killed_merge_are_replaced(trained: Path, demo: Path, tmp_path: Path) -> None:
    (tmp_path / ".writing-out").mkdir()
    (tmp_path / ".writing-out" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "out").mkdir()
    assert tool.main(arguments(demo, trained, tmp_path / "out", ORIGINAL)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def no_weights_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HiggsAudioModel, "from_pretrained", None)


def test_a_nonempty_output_folder_is_refused(trained: Path, demo: Path, tmp_path: Path, no_weights_read: None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "already exists; give a new folder" in fails(demo, trained, tmp_path / "out")
    assert "already exists; give a new folder" in fails(demo, trained, tmp_path / "out", ORIGINAL, "--adapter_only")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert tool.main(arguments(demo, trained, tmp_path / "no" / "out", ORIGINAL)) == 1


def edited(
    adapter: Path, folder: Path, tensors: dict[str, torch.Tensor | None] | None = None, **config: object
) -> Path:
    """Copy an adapter with changed settings and tensors (None removes a tensor)."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    weights = folder / "adapter_model.safetensors"
    found = {**load_file(weights), **(tensors or {})}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, weights)
    return folder


def test_an_adapter_of_another_model_is_refused_with_every_tensor(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    layer = "base_model.model.layers.0.self_attn.q_proj"
    changes = {
        f"{layer}.lora_A.weight": torch.zeros(16, 64),
        f"{layer}.lora_B.weight": None,
        "base_model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(16, 128),
    }
    adapter = edited(trained, tmp_path / "adapter", changes)
    message = [
        "was trained on another model (3):",
        "layers.0.self_attn.q_proj.lora_A.weight: has shape (16, 64), the model needs (16, 128)",
        "layers.0.self_attn.q_proj.lora_B.weight: missing from adapter_model.safetensors",
        "layers.7.self_attn.q_proj.lora_A.weight: the model has no such module, or target_modules does not name it",
    ]
    (tmp_path / "into").mkdir()
    for more in ([], ["--adapter_only"]):
        said = fails(demo, adapter, tmp_path / "into" / "out", TRANSFORMERS, *more)
        assert all(line in said for line in message)


def test_an_adapter_whose_targets_the_model_lacks_is_refused(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    adapter = edited(trained, tmp_path / "adapter", target_modules=r"layers\.\d+\.cross_attn")
    said = fails(demo, adapter, tmp_path / "out")
    assert "the adapter does not fit" in said and "cross_attn" in said


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments .'of_a_later_peft'")
@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({}, {"peft_type": "LOHA"}, "has peft_type 'LOHA'; it must be LORA"),
        (
            {},
            {"bias": "all", "rank_pattern": {"q_proj": 3}, "init_lora_weights": "pissa", "of_a_later_peft": True},
            r"settings that this project does not support \(4\):\n  bias is 'all', not 'none'"
            r"\n  rank_pattern is {'q_proj': 3}, not {}\n"
            "  of_a_later_peft is True, not None\n"
            "  init_lora_weights is 'pissa', which changes the base's weights",
        ),
        (
            {"base_model.model.layers.0.mlp.up_proj.lora_A.weight": torch.full((16, 128), float("nan"))},
            {},
            "layers.0.mlp.up_proj.lora_A.weight: not finite",
        ),
        ({"layers.0.weight": torch.zeros(1)}, {}, "layers.0.weight: not the name of a tensor of a LoRA adapter"),
        (
            {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(16, 128)},
            {},
            "tensors of both layouts in one checkpoint",
        ),
    ],
)
def test_an_unsupported_or_damaged_adapter_is_refused(
    trained: Path,
    demo: Path,
    tmp_path: Path,
    no_weights_read: None,
    tensors: dict[str, torch.Tensor],
    config: dict[str, object],
    message: str,
) -> None:
    adapter = edited(trained, tmp_path / "adapter", tensors, **config)
    assert re.search(message, fails(demo, adapter, tmp_path / "out"))


def test_a_folder_without_an_adapter_or_with_a_damaged_one_is_refused(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    assert "no adapter_config.json and no adapter_model.safetensors in it" in fails(demo, tmp_path, tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = shutil.copytree(trained, tmp_path / f"cut {name}")
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        said = fails(demo, folder, tmp_path / "out")
        assert name in said and "fetch it again" in said


def test_an_invalid_run_json_is_refused(trained: Path, demo: Path, tmp_path: Path, no_weights_read: None) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    for content, message in (("{", "run.json: not JSON"), ("[]", "run.json: does not describe a training run")):
        (adapter / "run.json").write_text(content)
        assert message in fails(demo, adapter, tmp_path / "out")


def test_a_layout_that_cannot_hold_the_model_is_refused_before_its_weights_are_read(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    model = shutil.copytree(demo / "model", tmp_path / "fast_forward" / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "audio_dual_ffn_layers": [0, 2]}))
    said = fails(tmp_path / "fast_forward", trained, tmp_path / "out")
    assert "export the original layout" in said and "audio_dual_ffn_layers leaves out some" in said


def test_too_little_disk_space_is_reported_before_the_weights_are_read(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    assert "GB are needed, 0.0 GB are free" in fails(demo, trained, tmp_path / "out")


def test_flags_that_do_not_go_together_end_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--adapter", str(tmp_path), "--output", str(tmp_path / "out"), "--layout", "original"]
    for flags, message in (
        (needed, "--model_path is needed to merge"),
        ([*needed, "--adapter_only", "--torch_dtype", "bfloat16"], "--torch_dtype is for merging only"),
    ):
        with pytest.raises(SystemExit) as end:
            tool.main(flags)
        assert end.value.code == 2 and message in capsys.readouterr().err


# -- cards -------------------------------------------------------------------------------------------------------------


def front_matter(card: str) -> dict[str, object]:
    """Parse the front matter with the hub's library."""
    return ModelCard(card).data.to_dict()


def assert_contains_no_path(folder: Path, *secrets: Path) -> None:
    for path in folder.glob("*"):
        if path.suffix in (".md", ".json"):
            text = path.read_text(encoding="utf-8")
            assert not [secret for secret in secrets if str(secret) in text], path.name


def run_code(card: str, this: Path, base: Path) -> dict[str, object]:
    """Run the code block of the card after inserting the folders."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    code = code.replace("path/to/this/folder", str(this)).replace("path/to/the/base/model", str(base))
    names: dict[str, object] = {}
    exec(code, names)
    return names


def test_the_card_of_a_checkpoint_describes_its_training(demo: Path, trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    fields = front_matter(card)
    assert fields["library_name"] == "peft" and fields["language"] == ["ar"] and "base_model" not in fields
    assert {"lora", "voice-cloning", "text-to-speech"} <= set(fields["tags"])
    run = json.loads((trained / "run.json").read_text())
    lines = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line][-1]
    evaluation = [line for line in lines if "eval_loss" in line][-1]
    for part in (
        "- training: `train_chatml_samples.json`: 16 samples, 16 clips, ",
        "- evaluation: `val_chatml_samples.json`: 4 samples, 4 clips, ",
        "- prompt_style: `voice_clone`",
        "- r: 16\n- lora_alpha: 32.0\n",
        "- targets: attention, text_mlp, audio_mlp, heads, audio_embeddings",
        "- learning_rate: 0.01\n",
        "- optimizer steps: 6 of 6",
        f"- last training, at step 6: loss {training['loss']:.4f}, ",
        f"- last evaluation, at step 6: eval_loss {evaluation['eval_loss']:.4f}, ",
        f"- best eval_loss so far: {min(line.get('eval_loss', 99) for line in lines):.4f} at step ",
        f"- peft {run['versions']['peft']}\n",
        f"the trainer's commit: `{run['git_commit']}`",
        "see the base model's licence",
        "**Clone a voice only with the consent of its owner.**",
        "Arabic is not on that list",
        f"local folder `model` (fingerprint of its configuration and file sizes: `{run['identity']['model']}`)",
    ):
        assert part in card
    assert str(demo) not in card and str(trained.parent) not in card
    model = run_code(card, trained, demo / "model")["model"]
    assert type(model.get_base_model()) is HiggsAudioModel


def test_the_card_of_an_earlier_checkpoint_has_the_facts_of_its_step(trained: Path) -> None:
    card = (trained.parent / "checkpoint-000003" / "README.md").read_text(encoding="utf-8")
    assert "- optimizer steps: 3 of 6" in card
    assert "- last training, at step 2: loss" in card
    assert "last evaluation" not in card and "best eval_loss" not in card


def test_a_base_from_the_hub_is_named_with_its_revision(trained: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(trained, tmp_path / "run" / "checkpoint-000006")
    run = json.loads((adapter / "run.json").read_text())
    hub = "bosonai/higgs-audio-v2-generation-3B-base"
    run["flags"]["model_path"], revision = hub, run["flags"]["model_revision"]
    (adapter / "run.json").write_text(json.dumps(run))
    edited_config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**edited_config, "base_model_name_or_path": hub, "revision": revision})
    )
    for layout in LAYOUTS:
        card = (rename(adapter, tmp_path / layout, layout) / "README.md").read_text(encoding="utf-8")
        assert front_matter(card)["base_model"] == hub
        assert front_matter(card)["base_model_relation"] == "adapter"
        assert f"Base model: `{hub}`, revision `{revision}`." in card
        assert (f'from_pretrained("{hub}", revision="{revision}"' in card) == (layout == ORIGINAL)
        card = merged_card(read_facts(adapter), {"r": 16}, hub, revision, "0123", layout, ["equal"])
        assert front_matter(card)["base_model_relation"] == "finetune"
        assert f"Base model: `{hub}`, revision `{revision}`." in card and "\n- equal\n" in card
        config = json.loads((tmp_path / layout / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == hub
        assert config["revision"] == (revision if layout == ORIGINAL else None)


def test_an_export_contains_no_path_and_the_code_of_its_card_runs(
    trained: Path, demo: Path, native_base: Path, tmp_path: Path
) -> None:
    for layout, base in ((ORIGINAL, demo / "model"), (TRANSFORMERS, native_base)):
        renamed = rename(trained, tmp_path / f"adapter {layout}", layout)
        assert_contains_no_path(renamed, demo, trained.parent, tmp_path)
        card = (renamed / "README.md").read_text(encoding="utf-8")
        assert ("use_text_head=True" in card) == (layout == TRANSFORMERS)
        assert run_code(card, renamed, base)["model"].peft_config["default"].r == 16
        assert {path.name for path in renamed.iterdir()} == {
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "run.json")
        }

        merged = tmp_path / f"merged {layout}"
        assert tool.main(arguments(demo, trained, merged, layout)) == 0
        assert_contains_no_path(merged, demo, trained.parent, tmp_path)
        card = (merged / "README.md").read_text(encoding="utf-8")
        assert "- optimizer steps: 6 of 6" in card and "- merged, read by HiggsAudioModel, compared with base" in card
        assert front_matter(card).get("library_name") == ("transformers" if layout == TRANSFORMERS else None)
        names = run_code(card, merged, demo)
        assert type(names["model"]).__name__ in ("HiggsAudioModel", "HiggsAudioV2ForConditionalGeneration")
        assert len(names["tokenizer"]) == 736


def test_facts_survive_two_exports(trained: Path, tmp_path: Path) -> None:
    there = rename(trained, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    assert read_facts(back) == read_facts(trained)
    assert read_facts(back)["flags"]["prompt_style"] == "voice_clone"


@pytest.mark.parametrize("version", ["0.2.0", None])
def test_cards_name_the_versions_of_the_trainer_and_of_the_export(
    trained: Path, tmp_path: Path, version: str | None
) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    run = {**json.loads((adapter / "run.json").read_text()), "version": version}
    if version is None:  # as in runs of older releases
        del run["version"]
    (adapter / "run.json").write_text(json.dumps(run))
    write_checkpoint_card(adapter, adapter.parent)
    there = rename(adapter, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    merged = merged_card(read_facts(adapter), {"r": 16}, "base", None, "0123", ORIGINAL, [], __version__)
    for card, is_export in (
        ((adapter / "README.md").read_text(encoding="utf-8"), False),
        ((there / "README.md").read_text(encoding="utf-8"), True),
        ((back / "README.md").read_text(encoding="utf-8"), True),
        (merged, True),
    ):
        assert card.count("- the trainer's version: 0.2.0\n") == (version is not None)
        assert ("the trainer's version" in card) == (version is not None)
        assert (f"- exported with version: {__version__}\n" in card) == is_export


def test_the_card_of_an_adapter_of_unknown_origin_has_no_guesses(tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"))
    card = (rename(adapter, tmp_path / "renamed", TRANSFORMERS) / "README.md").read_text(encoding="utf-8")
    assert "Base model: not recorded." in card
    assert "## Training data" not in card and "## Results" not in card
    assert isinstance(read_adapter(adapter), Adapter)
    assert "- r: 4\n" in card


def test_an_adapter_with_infinite_logits_is_refused(tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"))
    weights = adapter / "adapter_model.safetensors"
    save_file({name: 1e30 * tensor for name, tensor in load_file(weights).items()}, weights)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="base . adapter has logits that are not finite"):
        merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", ORIGINAL)
