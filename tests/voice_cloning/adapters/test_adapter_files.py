"""Test that every field and tensor of an adapter is checked before PEFT sees it; also with mutated files."""

import json
import math
import random
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from tests.exported_adapters import VARIANTS, random_adapter, tiny_model
from tests.fuzzing import LONGEST_SECONDS, MUTATIONS, check_bounds, mutated, run_apart
from voice_cloning.adapters.adapter_files import incomplete_modules
from voice_cloning.adapters.export import Adapter, read_adapter
from voice_cloning.speech.speaking_model import fitting_adapter

Edit = Callable[[Path], Any]
SECONDS_OF_A_HUNDRED = 120.0
"""A hundred readings take one second where nothing else runs."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/ and adapter/, an adapter of rank 4 on every group of modules."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("made")
    random_adapter(folder / "adapter", tiny_model(folder / "base"))
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(made / "adapter", tmp_path / "adapter")


def edit(adapter: Path, **fields: Any) -> None:
    """Change fields of the settings; ``...`` removes one."""
    path = adapter / ADAPTER_CONFIG_FILE
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def refusal(adapter: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_adapter(adapter)
    message = str(caught.value)
    assert message.startswith(f"--adapter {adapter}: ")
    return message


ODD_VALUES = [None, "4", "", [], {}, [1], {"a": 1}, math.nan, math.inf, -1, 0, 0.5, True, 10**400, "\ud800"]
RIGHT = {
    "r": (lambda v: type(v) is int and v == 4, "a whole number from 1"),
    "lora_alpha": (lambda v: v == 0.5, "a number above 0"),
    "lora_dropout": (lambda v: type(v) in (int, float) and 0 <= v <= 1, "a number from 0 to 1"),
    "use_rslora": (lambda v: isinstance(v, bool), "true or false"),
    "use_dora": (lambda v: isinstance(v, bool), "true or false"),
    "target_modules": (lambda v: isinstance(v, str) and v != "", "a pattern, or a list of names of modules"),
    "base_model_name_or_path": (lambda v: v is None or isinstance(v, str), "a name or null"),
    "revision": (lambda v: v is None or isinstance(v, str), "a name or null"),
}
"""Field -> which of the odd values are right, and what the message asks for."""


@pytest.mark.parametrize("field", RIGHT)
def test_a_wrong_value_of_a_field_is_refused_with_what_is_right(adapter: Path, field: str) -> None:
    is_right, right = RIGHT[field]
    refused = 0
    for value in ODD_VALUES:
        edit(adapter, **{field: value})
        if is_right(value):
            read_adapter(adapter)
            continue
        message, refused = refusal(adapter), refused + 1
        assert "adapter_config.json" in message and field in message
        assert f"it must be {right}" in message, message
    assert refused >= 9


def test_a_missing_field_is_named_only_if_it_decides_what_the_adapter_computes(adapter: Path) -> None:
    edit(adapter, r=..., lora_alpha=..., target_modules=...)
    message = refusal(adapter)
    assert "fields with wrong values (3):" in message
    assert "lora_alpha is missing; it must be a number above 0" in message
    edit(
        adapter,
        r=4,
        lora_alpha=8,
        target_modules=["q_proj"],
        use_dora=...,
        use_rslora=...,
        lora_dropout=...,
        revision=...,
    )
    assert read_adapter(adapter).config.use_dora is False


@pytest.mark.parametrize("pattern", ["(layers", "[", "*a", r"layers\.(?<x>a)", "a{2,1}", "a{99999999999}", "(?P<é>"])
def test_a_broken_pattern_is_refused(adapter: Path, pattern: str) -> None:
    edit(adapter, target_modules=pattern)
    assert f"target_modules is {json.dumps(pattern, ensure_ascii=False)}, which is not a pattern (" in refusal(adapter)


@pytest.mark.parametrize(
    "field",
    "bias modules_to_save rank_pattern alpha_pattern layers_to_transform layers_pattern exclude_modules loftq_config "
    "fan_in_fan_out megatron_config layer_replication lora_bias target_parameters trainable_token_indices eva_config "
    "init_lora_weights of_a_later_peft".split(),
)
def test_settings_beyond_plain_lora_are_refused_whatever_they_hold(adapter: Path, field: str) -> None:
    unset = {field: json.loads((adapter / ADAPTER_CONFIG_FILE).read_text()).get(field)}
    for value in ("x", ["x"], {"x": 1}, {"x": None}, 7, -1.5, math.nan):
        edit(adapter, **{field: value})
        message = refusal(adapter)
        assert f"settings that this project does not support (1):\n  {field} is " in message
    edit(adapter, **unset)
    read_adapter(adapter)


def test_fields_that_change_nothing_may_hold_anything(adapter: Path) -> None:
    before = read_adapter(adapter)
    for field in "auto_mapping peft_version inference_mode task_type".split():
        for value in ODD_VALUES:
            edit(adapter, **{field: value})
            assert read_adapter(adapter).config == before.config


@pytest.mark.parametrize("kind", [None, "LOHA", "lora", 3, ["LORA"], {}])
def test_another_kind_of_adapter_is_refused(adapter: Path, kind: Any) -> None:
    edit(adapter, peft_type=kind)
    assert f"has peft_type {kind!r}; it must be LORA" in refusal(adapter)


DAMAGES: dict[str, tuple[str, Edit, str]] = {
    "not utf-8": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b'{"r": "\xff"}'), "is not JSON ("),
    "cut": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(p.read_bytes()[:100]), "is not JSON ("),
    "empty": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b""), "is not JSON ("),
    "deep": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b"[" * 100_000), "is not JSON ("),
    "long number": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b'{"r": ' + b"9" * 5000 + b"}"), "is not JSON ("),
    "twice": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b'{"r": 4, "r": 8}'), "is not JSON (it has 'r' twice)"),
    "list": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b"[]"), "does not hold a JSON object"),
    "null": (ADAPTER_CONFIG_FILE, lambda p: p.write_bytes(b"null"), "does not hold a JSON object"),
    "no file": (ADAPTER_CONFIG_FILE, Path.unlink, "no adapter_config.json in it"),
    "folder": (ADAPTER_CONFIG_FILE, lambda p: (p.unlink(), p.mkdir()), "no adapter_config.json in it"),
    "tensors cut": (ADAPTER_FILE, lambda p: p.write_bytes(p.read_bytes()[:-1]), "is damaged ("),
    "tensors empty": (ADAPTER_FILE, lambda p: p.write_bytes(b""), "is damaged ("),
    "tensors garbage": (ADAPTER_FILE, lambda p: p.write_bytes(bytes(range(256)) * 8), "is damaged ("),
    "tensors not there": (ADAPTER_FILE, Path.unlink, "no adapter_model.safetensors in it"),
    "tensors a folder": (ADAPTER_FILE, lambda p: (p.unlink(), p.mkdir()), "no adapter_model.safetensors in it"),
    "older format": (
        ADAPTER_FILE,
        lambda p: p.rename(p.with_suffix(".bin")),
        "holds adapter_model.bin and no adapter_m",
    ),
    "no tensors": (ADAPTER_FILE, lambda p: save_file({}, p), "holds no tensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(adapter: Path, damage: str) -> None:
    name, change, message = DAMAGES[damage]
    change(adapter / name)
    found = refusal(adapter)
    assert name in found and message in found


def test_a_byte_order_mark_is_no_damage(adapter: Path) -> None:
    before, path = read_adapter(adapter), adapter / ADAPTER_CONFIG_FILE
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_adapter(adapter).config == before.config


def test_a_folder_name_that_the_system_refuses(tmp_path: Path) -> None:
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))


LAYER = "base_model.model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.int32), "has type torch.int32; it must be float32, bfloat16, float16 or float64"),
        (lambda t: t.to(torch.float8_e4m3fn), "has type torch.float8_e4m3fn; it must be"),
        (lambda t: t > 0, "has type torch.bool; it must be"),
        (lambda t: t * math.nan, "not finite"),
        (lambda t: t / 0, "not finite"),
    ],
)
def test_a_tensor_that_holds_no_weights_is_named(adapter: Path, change: Callable[..., Any], message: str) -> None:
    tensors = load_file(adapter / ADAPTER_FILE)
    name = f"{LAYER}.lora_A.weight"
    save_file({**tensors, name: change(tensors[name])}, adapter / ADAPTER_FILE)
    assert f"{ADAPTER_FILE} (1):\n  {name}: {message}" in refusal(adapter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_weights_are_read(adapter: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(adapter / ADAPTER_FILE).items()}
    save_file(tensors, adapter / ADAPTER_FILE)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_adapter(adapter).tensors.items())


def test_a_rank_that_the_tensors_do_not_have_is_refused(adapter: Path) -> None:
    edit(adapter, r=8)
    assert "adapter_config.json has r 8, but the rank of the tensors in adapter_model.safetensors is 4" in refusal(
        adapter
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_without_a_model_incomplete_modules_are_found(tmp_path: Path, variant: dict[str, Any]) -> None:
    found = read_adapter(random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"), **variant))
    assert incomplete_modules(found.tensors, found.config) == []
    embeddings = "base_model.model.audio_codebook_embeddings"
    for name, tensor, problem in (
        (f"{LAYER}.lora_B.weight", None, "layers.0.mlp.up_proj.lora_B.weight: missing"),
        (f"{embeddings}.lora_embedding_A", None, "audio_codebook_embeddings.lora_embedding_A: missing"),
        (
            f"{LAYER}.lora_embedding_A",
            torch.ones(4, 4),
            "layers.0.mlp.up_proj.lora_A.weight: the settings ask for none",
        ),
        (f"{LAYER}.lora_A.weight", torch.ones(3, 64), "has shape (3, 64), dimension 0 must be r, 4"),
        (f"{LAYER}.lora_B.weight", torch.ones(4), "has shape (4,), dimension 1 must be r, 4"),
    ):
        changed = {n: t for n, t in {**found.tensors, name: tensor}.items() if t is not None}
        assert any(problem in line for line in incomplete_modules(changed, found.config)), problem
    asked = {**found.tensors, f"{LAYER}.lora_magnitude_vector": torch.ones(128)}
    assert bool(incomplete_modules(asked, found.config)) != bool(variant.get("use_dora"))


# -- mutated files ---------------------------------------------------------------------------------------------------


def slow_reader(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """The tensors of a safetensors file, read as its specification says: type, shape and bytes by name."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    return {n: (h["dtype"], h["shape"], data[slice(*h["data_offsets"])]) for n, h in header.items()}


def agrees(adapter: Adapter, folder: Path) -> list[str]:
    """Return where an adapter differs from what its files say."""
    settings = json.loads((folder / ADAPTER_CONFIG_FILE).read_bytes().decode("utf-8-sig"))
    if isinstance(settings["target_modules"], list):  # PEFT makes a set of it
        settings["target_modules"] = set(settings["target_modules"])
    problems = [
        f"{name}: {getattr(adapter.config, name)!r} for {settings[name]!r}"
        for name in ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules")
        if name in settings and getattr(adapter.config, name) != settings[name]
    ]
    stored = slow_reader((folder / ADAPTER_FILE).read_bytes())
    if stored.keys() != adapter.tensors.keys():
        problems.append(f"names: {stored.keys() ^ adapter.tensors.keys()}")
    for name, (_, shape, content) in stored.items():
        tensor = adapter.tensors.get(name, torch.empty(0)).contiguous()
        if list(tensor.shape) != shape or tensor.view(torch.uint8).numpy().tobytes() != content:
            problems.append(name)
    return problems


def read_and_compare(folder: Path, config: HiggsAudioConfig) -> list[str]:
    """Read an adapter as every command does, and compare it with its files."""
    problems = agrees(read_adapter(folder), folder)
    fitting_adapter(folder, config)
    return problems


def read_each(folder: Path, config: HiggsAudioConfig, damaged: list[tuple[str, bytes]]) -> list[list[str] | None]:
    """Read an adapter with each of some damaged files in turn. Return the problems of each; None if it was refused."""
    results: list[list[str] | None] = []
    for name, content in damaged:
        before, started = (folder / name).read_bytes(), time.monotonic()
        (folder / name).write_bytes(content)
        try:
            results.append(read_and_compare(folder, config))
        except InputError:
            results.append(None)
        except Exception as error:
            error.add_note(f"{name} holds {content!r}")
            raise
        if (seconds := time.monotonic() - started) > LONGEST_SECONDS:
            raise TimeoutError(f"{seconds:.0f} s, where {name} holds {content!r}")
        (folder / name).write_bytes(before)
    return results


@pytest.mark.parametrize("mutations", MUTATIONS)
def test_a_mutated_adapter_is_read_as_it_stands_or_refused(made: Path, adapter: Path, mutations: int) -> None:
    """A process reads a hundred: its peak of memory is that of the largest."""
    generator, config = random.Random(2026), HiggsAudioConfig.from_pretrained(made / "base")
    files = [(name, (adapter / name).read_bytes()) for name in (ADAPTER_CONFIG_FILE, ADAPTER_FILE)]
    untouched = run_apart(read_each, adapter, config, files, seconds=SECONDS_OF_A_HUNDRED)
    check_bounds(untouched, untouched, "untouched")
    assert untouched.value == [[], []]
    results: list[list[str] | None] = []
    for _ in range(mutations // 100):
        chosen = [generator.choice(files) for _ in range(100)]
        damaged = [(name, mutated(content, generator)) for name, content in chosen]
        outcome = run_apart(read_each, adapter, config, damaged, seconds=SECONDS_OF_A_HUNDRED)
        check_bounds(outcome, untouched, "a hundred mutations")
        results += outcome.value
    assert len(results) == mutations and all(not problems for problems in results)
    assert results.count(None) > mutations / 4 and results.count([]) > 0


@pytest.mark.parametrize("mutations", MUTATIONS)
def test_a_mutated_field_is_read_as_it_stands_or_refused(made: Path, adapter: Path, mutations: int) -> None:
    """The file stays JSON, so that the mutation reaches the checks of the fields."""
    generator, config = random.Random(7), HiggsAudioConfig.from_pretrained(made / "base")
    path = adapter / ADAPTER_CONFIG_FILE
    right = json.loads(path.read_text())
    values = [*ODD_VALUES, *right.values(), ["q_proj", "v_proj"], "all-linear", "q_proj", ".*", ["layers.0"], [""], 4.0]
    read = 0
    for number in range(mutations):
        fields = {generator.choice(list(right)): generator.choice(values) for _ in range(generator.randint(1, 2))}
        path.write_text(json.dumps({**right, **fields}))
        try:
            problems = read_and_compare(adapter, config)
        except InputError:
            continue
        assert problems == [], f"mutation {number}: {fields}"
        read += 1
    assert 0 < read < mutations / 2


def test_the_slow_reader_reads_what_the_library_writes(adapter: Path) -> None:
    stored = slow_reader((adapter / ADAPTER_FILE).read_bytes())
    for name, tensor in load_file(adapter / ADAPTER_FILE).items():
        kind, shape, content = stored[name]
        assert kind == "F32" and np.array_equal(np.frombuffer(content, "<f4").reshape(shape), tensor.numpy())
    assert all(re.match(r"base_model\.model\.", name) for name in stored)
