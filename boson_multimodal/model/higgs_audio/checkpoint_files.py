"""Read a checkpoint's safetensors files directly into the model's tensors, and write checkpoints.

The files are read, not memory-mapped, for two reasons. A mapped page counts as the process's memory once it is touched,
so loading fp32 files as bf16 through maps peaks at three times the model's size. And weights that are copies can be
changed in place.
"""

import copy
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio.checkpoint_layouts import (
    COMPUTED,
    LAYOUTS,
    ORIGINAL,
    detect_layout,
    key_of,
    role_of,
    to_original_config,
    to_transformers_config,
    to_transformers_name,
)
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""The types that stored weights may have, by their names in safetensors."""

SAMPLING = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 0.95,
    "ras_win_len": 7,
    "ras_win_max_num_repeat": 2,
}
"""The release's default sampling settings, with the names that transformers' ``generate`` reads."""

CHUNK_BYTES = 16 * 2**20
"""The size of the buffer for weights that are converted or copied to a device. Loading needs no other extra memory."""

HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor's bytes.

    Attributes:
        file, key: the file, and the tensor's name in it.
        dtype: safetensors' name of the tensor's type, such as ``BF16``.
        shape: the tensor's sizes.
        start: the offset of the tensor's first byte in the file.
    """

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """List every tensor of a checkpoint folder. Only the headers of the files are read.

    ``model.safetensors`` takes precedence over an index, as in transformers. The released repository has both: a single
    file in the transformers layout, and older shards in the original layout.

    Raises:
        InputError: listing each file that is missing, truncated or unreadable, and each tensor that the index names
            but its file does not contain.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    problems: list[str] = []
    if single.exists():
        weight_map, names = None, [single.name]
    elif index.exists():
        weight_map = _weight_map(index)
        names = sorted(set(weight_map.values()))
    else:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
        raise InputError(
            f"{folder}: neither {WEIGHTS_FILE} nor {INDEX_FILE} in it (but {others or 'no weights at all'}); give a "
            "folder with one of them"
        )
    shards = {}
    for name in names:
        try:
            shards[name] = _read_header(folder / name)
        except FileNotFoundError:
            problems.append(f"{name}: named in {INDEX_FILE}, but missing")
        except InputError as error:
            problems.append(f"{name}: {error}")
    if weight_map is not None:
        problems += _index_against_shards(weight_map, shards)
    raise_if_any(f"{folder}: its weight files are damaged or incomplete; fetch them again", problems)
    return {key: tensor for shard in shards.values() for key, tensor in shard.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """Read the index: tensor name -> file name."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{index}: not JSON ({error}); fetch it again") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{index}: has no weight_map of tensor to file; fetch it again")
    return weight_map


def _index_against_shards(weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, StoredTensor]]) -> list[str]:
    """Return each difference between the index and the readable shards."""
    return [
        f"{name}: {INDEX_FILE} says that it holds {key}, but it does not"
        for key, name in weight_map.items()
        if name in shards and key not in shards[name]
    ] + [
        f"{name}: holds {key}, which {INDEX_FILE} has in {weight_map.get(key, 'no file')}"
        for name, shard in shards.items()
        for key in shard
        if weight_map.get(key) != name
    ]


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """List the tensors of one file.

    The file consists of 8 bytes with the length of the header, the header as JSON, and the tensors' bytes.

    Raises:
        InputError: if the file is truncated or damaged. The message does not contain the file's name.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        header_length = int.from_bytes(handle.read(HEADER_LENGTH_BYTES), "little")
        start = HEADER_LENGTH_BYTES + header_length
        if size < start:
            raise InputError(f"truncated, or not a safetensors file: it has {size} bytes, its header needs {start}")
        try:
            entries = json.loads(handle.read(header_length))
            entries.pop("__metadata__", None)
            tensors = {key: _stored_tensor(file, key, entry, start) for key, entry in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"its header is not a safetensors header ({error!r})") from error
    end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != end:
        raise InputError(f"truncated or damaged: it has {size} bytes, its header says {end}")
    return tensors


def _stored_tensor(file: Path, key: str, entry: Mapping[str, Any], data_start: int) -> StoredTensor:
    """Convert one entry of a header. Raise ``ValueError`` if its number of bytes does not match its shape."""
    begin, end = entry["data_offsets"]
    tensor = StoredTensor(file, key, entry["dtype"], tuple(entry["shape"]), data_start + begin)
    if tensor.dtype in DTYPES and end - begin != math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize:
        raise ValueError(f"{key}: {end - begin} bytes for shape {tensor.shape} in {tensor.dtype}")
    return tensor


def check_fit(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, Tensor], heading: str
) -> dict[str, tuple[StoredTensor, ...]]:
    """Return where each tensor of the model is stored: as one piece, or as two halves of its rows.

    Args:
        stored: the result of :func:`stored_tensors`.
        wanted: the model's state dict. It may be on the meta device.
        heading: the first words of the error message.

    Raises:
        InputError: listing the tensors that are missing, are unexpected, or have a wrong shape or type.
    """
    try:
        layout = detect_layout(stored)
    except InputError as error:
        raise InputError(f"{heading}: {error}") from error
    pieces: dict[str, dict[int | None, StoredTensor]] = {name: {} for name in wanted}
    offenders = []
    for key, tensor in stored.items():
        role = role_of(key, layout)
        if role is not None and role.name in wanted:
            pieces[role.name][role.half] = tensor
        elif not key.endswith(COMPUTED):
            offenders.append(f"{key}: unexpected")
    for name, target in wanted.items():
        problem = _misfit(pieces[name], tuple(target.shape))
        if problem:
            offenders.append(f"{key_of(name, layout)}: {problem}")
    raise_if_any(heading, sorted(offenders))
    return {name: tuple(found[half] for half in (None, 0, 1) if half in found) for name, found in pieces.items()}


def _misfit(pieces: Mapping[int | None, StoredTensor], shape: tuple[int, ...]) -> str | None:
    """Return why the pieces do not make up a tensor of this shape, or None if they do."""
    if not pieces:
        return "missing"
    if set(pieces) not in ({None}, {0, 1}):
        return f"stored as {' and '.join(piece.key for piece in pieces.values())}; store it whole or as two halves"
    odd = [piece for piece in pieces.values() if piece.dtype not in DTYPES]
    if odd:
        return f"stored as {odd[0].dtype}; the type of weights must be one of {', '.join(DTYPES)}"
    shapes = [piece.shape for piece in pieces.values()]
    joins = len(shapes) == 1 or all(found[1:] == shape[1:] for found in shapes)
    found = shapes[0] if len(shapes) == 1 else (sum(rows for rows, *_ in shapes), *shapes[0][1:])
    if not joins or found != shape:
        return f"has shape {found if joins else ' and '.join(map(str, shapes))}, not {shape}"
    return None


def read_weights(
    fitting: Mapping[str, Sequence[StoredTensor]],
    wanted: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[str, Tensor]]:
    """Read the model's tensors from the files, one after the other, in ``dtype`` on ``device``.

    In addition to the tensors that the caller keeps, memory holds one buffer of :data:`CHUNK_BYTES`.

    Yields:
        Name and tensor.

    Raises:
        InputError: if a file has become shorter after its header was read.
    """
    buffer = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for name, pieces in fitting.items():
        weight = torch.empty(wanted[name].shape, dtype=dtype, device=device)
        rows = weight.split([piece.shape[0] for piece in pieces]) if len(pieces) > 1 else [weight]
        for target, piece in zip(rows, pieces, strict=True):
            _read_into(target.view(-1), piece, buffer)
        yield name, weight


def _read_into(target: Tensor, piece: StoredTensor, buffer: Tensor) -> None:
    """Fill a flat tensor chunk by chunk: directly if it is on the CPU in the stored type, else through ``buffer``."""
    dtype = DTYPES[piece.dtype]
    direct = target.dtype == dtype and target.device.type == "cpu"
    landing = buffer.view(dtype)
    with piece.file.open("rb", buffering=0) as handle:
        handle.seek(piece.start)
        for chunk in target.split(landing.numel()):
            read = chunk if direct else landing[: chunk.numel()]
            _read_exactly(handle, read, piece)
            if not direct:
                chunk.copy_(read)


def _read_exactly(handle: Any, target: Tensor, piece: StoredTensor) -> None:
    view = memoryview(target.view(torch.uint8).numpy())
    while view:
        count = handle.readinto(view)
        if not count:
            raise InputError(f"{piece.file}: ended inside {piece.key}; fetch it again")
        view = view[count:]


def weights_dtype(
    dtype: str | torch.dtype | None, config: HiggsAudioConfig, stored: Iterable[StoredTensor]
) -> torch.dtype:
    """Return the type of the weights.

    ``"auto"`` and None stand for the type in the config; if the config has none, for that of the first stored weight.

    Raises:
        InputError: if ``dtype`` is not a floating point type of torch.
    """
    if dtype in ("auto", None):
        dtype = config.dtype or next(DTYPES[tensor.dtype] for tensor in stored if tensor.dtype in DTYPES)
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype {dtype!r}: not a floating point type of torch, such as bfloat16")
    return found


def single_device(device_map: str | torch.device | dict[str, Any] | None) -> torch.device:
    """Return the single device of a ``device_map``.

    Raises:
        InputError: if the map names parts of the model or several devices.
    """
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise InputError(f"device_map {device_map}: the model must be on one device; give it, or {{'': device}}")
        device_map = device_map[""]
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def save_checkpoint(
    weights: nn.Module | Mapping[str, Tensor],
    config: HiggsAudioConfig,
    folder: str | Path,
    layout: str = ORIGINAL,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write weights, ``config.json`` and ``generation_config.json`` in either layout. The values do not change.

    transformers loads the transformers layout without this project:
    ``HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, use_text_head=True)``. Without ``use_text_head`` it
    silently ignores the text head.

    Args:
        weights: the model, or its complete state dict with our names.
        max_shard_size: the largest file, in bytes or as a string like ``"5GB"``. Larger models are written to several
            files and an index.

    Raises:
        InputError: if the layout cannot represent parts of the model, or its weights are quantised. Nothing has been
            written then.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is not one of {LAYOUTS}")
    if getattr(weights, "is_loaded_in_4bit", False):
        raise InputError("the weights are quantised, which no layout has; load the model without quantise to save it")
    state = weights.state_dict() if isinstance(weights, nn.Module) else dict(weights)
    config = copy.deepcopy(config)
    config.dtype = next(iter(state.values())).dtype
    generation = {"pad_token_id": config.pad_token_id, "bos_token_id": config.text_config.bos_token_id}
    if layout == ORIGINAL:
        fields = to_original_config(config)
        generation |= {"eos_token_id": config.text_config.eos_token_id}
    else:
        fields = to_transformers_config(config)
        state = {to_transformers_name(name): tensor for name, tensor in state.items()}
        generation |= {"eos_token_id": config.eot_token_id, **SAMPLING}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config.json", fields), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
    for file in folder.glob("*.safetensors"):  # safetensors lets only the owner read its files
        file.chmod((folder / "config.json").stat().st_mode)
