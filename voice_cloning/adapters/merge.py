"""Export an adapter to a folder: merge it into the model's weights and verify the result, or only rename it."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.checkpoints import is_hub_id, resolve_checkpoint
from boson_multimodal.constants import MODEL_REVISION
from boson_multimodal.errors import InputError, NamedError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint, stored_tensors, weights_dtype
from boson_multimodal.model.higgs_audio.checkpoint_layouts import (
    ORIGINAL,
    TRANSFORMERS,
    to_transformers_config,
)
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, check_quantisation
from boson_multimodal.whole_files import whole_folder
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from voice_cloning import __version__
from voice_cloning.adapters.adapter_files import incomplete_modules
from voice_cloning.adapters.export import Adapter, apply_adapter, check_fit, merge_adapter, read_adapter
from voice_cloning.adapters.logit_comparison import (
    Logits,
    computing_in,
    differences,
    fixed_batch,
    our_logits,
    transformers_logits,
)
from voice_cloning.adapters.model_card import CARD_FILE, adapter_card, merged_card, read_facts
from voice_cloning.adapters.prompt_record import form_of_flags, write_template
from voice_cloning.adapters.prompt_software import software_lines
from voice_cloning.adapters.served_prompt import sent_template
from voice_cloning.adapters.serving import (
    ONLY_HERE,
    REPLACED_FILES,
    check_tokenizer,
    find_codec,
    write_serving_files,
)
from voice_cloning.training.fingerprints import folder_fingerprint
from voice_cloning.training.run_directory import RUN_FILE

OUTPUT_DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""The files of the base's tokenizer. Those that exist are copied to the output, except ``REPLACED_FILES`` if the output
has the layout of transformers.
"""

FLOAT32_TOLERANCE = 1e-4
"""The largest allowed difference of an fp32 logit, relative to the head's largest: about 100 times rounding error."""
BFLOAT16_TOLERANCE = 2.0
"""The largest allowed difference in bf16 in 90 % of the rows (``Difference.row_rms``), as a multiple of bf16's error.

Two models that round independently differ by sqrt(2) times that error. The rounding of the merged weights adds to it:
``benchmarks.merge_rounding`` measures 1.4.
"""


class VerificationError(NamedError):
    """The logits of the written model differ from those of base + adapter."""


@dataclass(frozen=True)
class Reference:
    """The logits of base + adapter, not merged.

    Attributes:
        exact: computed in fp32.
        rounded: computed in the type of the output.
        base: the logits of the base alone, in fp32.
    """

    exact: Logits
    rounded: Logits
    base: Logits


def merge(
    adapter: Adapter,
    base_folder: Path,
    output: Path,
    layout: str,
    torch_dtype: torch.dtype | None = None,
    trained_on: str = NOT_QUANTISED,
) -> list[str]:
    """Write base + adapter as one model with its tokenizer to ``output``, and verify it.

    The adapter is always merged into the weights in full precision, also if it was trained on quantised ones.

    Args:
        adapter: an adapter in either layout.
        base_folder: a checkpoint of the model in either layout.
        output: an existing, empty folder.
        layout: the layout of the output.
        torch_dtype: the type of the output; None means the base's type.
        trained_on: the quantisation of the base's weights during the training of the adapter.

    Returns:
        The results of the verification as lines of text. If the adapter was trained on quantised weights, one of them
        says how far the merged model is from the adapter on those weights.

    Raises:
        InputError: if adapter, base and layout do not fit each other. It is raised before any weight is loaded.
        VerificationError: naming the logits that differ too much.
    """
    adapter = adapter.in_layout(ORIGINAL)
    config = HiggsAudioConfig.from_pretrained(base_folder)
    if layout == TRANSFORMERS:
        to_transformers_config(config)
    check_fit(adapter, config, f"the adapter does not fit {base_folder}")
    dtype, held_dtype = _dtypes(base_folder, config, torch_dtype)
    batch = fixed_batch(config)
    quantised = _quantised_logits(adapter, base_folder, config, batch, trained_on)
    print(f"loading the base ({held_dtype}) and computing its logits with the adapter")
    model = apply_adapter(HiggsAudioModel.from_pretrained(base_folder, dtype=held_dtype), adapter)
    reference = _reference(model, batch, dtype)
    print(f"merging, writing {dtype} in the {layout} layout")
    save_checkpoint(merge_adapter(model, dtype), config, output, layout)
    del model
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file() and not (layout == TRANSFORMERS and name in REPLACED_FILES):
            shutil.copyfile(base_folder / name, output / name)
    print("loading the output to verify it")
    lines, merged = _verify(output, layout, batch, reference, dtype)
    if trained_on != NOT_QUANTISED:
        shown = "not measured" if quantised is None else _by_head(differences(merged, quantised))
        lines.append(f"merged, compared with the adapter on {trained_on} weights, on which it was trained: {shown}")
    return lines


def _quantised_logits(
    adapter: Adapter, base_folder: Path, config: HiggsAudioConfig, batch: HiggsAudioBatchInput, quantise: str
) -> Logits | None:
    """Return the logits of the adapter on the quantised base, in fp32; None if that cannot be computed here."""
    if quantise == NOT_QUANTISED:
        return None
    try:
        check_quantisation(quantise, torch.device("cpu"), config, str(base_folder))
    except InputError as error:
        print(f"the adapter was trained on {quantise} weights, and its difference to them is not measured: {error}")
        return None
    print(f"loading the base ({quantise}), and computing its logits with the adapter that was trained on it")
    base = HiggsAudioModel.from_pretrained(base_folder, dtype=torch.float32, quantise=quantise)
    return our_logits(apply_adapter(base, adapter), batch)


def _dtypes(folder: Path, config: HiggsAudioConfig, wanted: torch.dtype | None) -> tuple[torch.dtype, torch.dtype]:
    """Return the type of the output, and a type in which the base's weights are held in memory without loss."""
    stored = stored_tensors(folder).values()
    dtype = wanted or weights_dtype("auto", config, stored)
    if dtype not in OUTPUT_DTYPES.values():
        raise InputError(f"{folder}: its weights are {dtype}; give --torch_dtype bfloat16 or float32")
    narrow = dtype == torch.bfloat16 and all(tensor.dtype == "BF16" for tensor in stored)
    return dtype, torch.bfloat16 if narrow else torch.float32


def _reference(model: torch.nn.Module, batch: HiggsAudioBatchInput, dtype: torch.dtype) -> Reference:
    with computing_in(model, torch.float32):
        exact = our_logits(model, batch)
        with model.disable_adapter():
            base = our_logits(model, batch)
    if any(difference.largest == float("inf") for difference in differences(exact, base).values()):
        raise InputError("base + adapter has logits that are not finite: did the training diverge?")
    if dtype == torch.float32:
        return Reference(exact, exact, base)
    with computing_in(model, dtype):
        return Reference(exact, our_logits(model, batch), base)


def _verify(
    folder: Path, layout: str, batch: HiggsAudioBatchInput, reference: Reference, dtype: torch.dtype
) -> tuple[list[str], Logits]:
    """Load the output with our class, and with transformers' if possible, and compare the logits.

    Returns:
        The results as lines of text; the logits that our class computes.
    """
    config = HiggsAudioConfig.from_pretrained(folder)
    found = {"HiggsAudioModel": our_logits(HiggsAudioModel.from_pretrained(folder), batch)}
    if layout == TRANSFORMERS and config.encode_audio_in_tokens:
        native = HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, use_text_head=True, dtype=dtype)
        found["transformers' class"] = transformers_logits(native.eval(), config, batch)
    short = str(dtype).removeprefix("torch.")
    own, effect = differences(reference.rounded, reference.exact), differences(reference.exact, reference.base)
    lines = [f"largest change of a logit by the adapter: {_by_head(effect)}"]
    if dtype != torch.float32:
        lines.append(f"rounding error, base + adapter in {short} compared with fp32: {_by_head(own)}")
    offenders = []
    for reader, logits in found.items():
        apart = differences(logits, reference.rounded)
        lines.append(f"merged, read by {reader}, compared with base + adapter, both in {short}: {_by_head(apart)}")
        for head, difference in apart.items():
            if dtype == torch.float32:
                measured, limit = difference.largest, FLOAT32_TOLERANCE * reference.exact.largest(head)
            else:
                measured, limit = difference.row_rms, BFLOAT16_TOLERANCE * own[head].row_rms
            if measured > limit or difference.largest == float("inf"):
                offenders.append(
                    f"{head} logits, read by {reader}: difference {difference}; rounding explains {limit:.3g}"
                )
    if offenders:
        raise VerificationError(
            "\n  ".join(["the merged model differs from base + adapter; it is not kept", *offenders])
        )
    return lines, found["HiggsAudioModel"]


def _by_head(found: dict[str, object]) -> str:
    return ", ".join(f"{head} {difference}" for head, difference in found.items())


@contextmanager
def new_output_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to ``output`` at the end. If an error occurs, remove it.

    Raises:
        InputError: if ``output`` exists and is not empty, or if its parent folder does not exist or is not writable.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"--output {output}: already exists; give a new folder")
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output {output}: the folder {output.absolute().parent} does not exist; create it first")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(whole_folder(output))
        except OSError as error:
            raise InputError(f"--output {output}: cannot be written ({error.strerror})") from error
        yield temporary


def export_merged(
    adapter_folder: Path,
    model_path: str,
    output: Path,
    layout: str,
    *,
    model_revision: str | None = None,
    torch_dtype: torch.dtype | None = None,
    codec_id: str | None = None,
    bundle_codec: Path | None = None,
) -> None:
    """Merge an adapter into its base, and write a model card and, in the layout of transformers, files for servers.

    Args:
        adapter_folder: a checkpoint of the trainer, in either layout.
        model_path: folder or hub id of the base.
        output: the folder to create.
        layout: the layout of the output.
        model_revision: the commit of a hub id; None means the commit that the adapter records.
        torch_dtype: the type of the output; None means the base's type.
        codec_id, bundle_codec: the codec that the files for servers name, and the folder of one that is copied; for
            the layout of transformers alone (:func:`find_codec`).

    Raises:
        InputError, VerificationError: the errors of :func:`merge`, :func:`check_tokenizer` and :func:`find_codec`.
    """
    adapter = read_adapter(adapter_folder)
    revision = model_revision or adapter.config.revision or MODEL_REVISION
    folder = resolve_checkpoint(model_path, revision, "--model_path", ("tokenizer.json", "*.safetensors"))
    facts, fingerprint = read_facts(adapter_folder), folder_fingerprint(folder)
    flags, codec = facts.get("flags", {}), None
    form = form_of_flags(flags)
    if layout == TRANSFORMERS:
        config = HiggsAudioConfig.from_pretrained(folder)
        check_tokenizer(folder, config, sent_template(form))
        codec = find_codec(folder, flags, config, codec_id, bundle_codec)
    with new_output_folder(output) as temporary:
        _require_space(temporary, folder, torch_dtype)
        trained_on = flags.get("quantise") or NOT_QUANTISED
        lines = merge(adapter, folder, temporary, layout, torch_dtype, trained_on)
        trained_base = facts.get("base_fingerprint")
        if trained_base not in (None, fingerprint):
            lines.append(
                f"the base has the fingerprint {fingerprint}, but the adapter was trained on {trained_base}: either "
                "another model, or the same model in another layout or type"
            )
        print("\n".join(lines))
        if codec is not None:
            print("\n".join(write_serving_files(folder, temporary, config, codec, sent_template(form))))
        if form is not None:
            print("\n".join(software_lines(form)))
        if flags.get("prompt_style") == "as_written":
            print(f"warning: {ONLY_HERE}", file=sys.stderr)
        base = model_path, revision if is_hub_id(model_path) else None, fingerprint
        card = merged_card(facts, _settings(adapter_folder), *base, layout, lines, __version__, codec)
        _write_card(temporary, card, facts)


def _require_space(place: Path, base_folder: Path, dtype: torch.dtype | None) -> None:
    """Raise ``InputError`` if the disk has too little space for the merged weights."""
    needed = 0
    for tensor in stored_tensors(base_folder).values():
        count = torch.Size(tensor.shape).numel()
        needed += count * (dtype.itemsize if dtype else 4 if tensor.dtype in ("F32", "F64") else 2)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(f"--output: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def export_adapter(
    adapter_folder: Path,
    output: Path,
    layout: str,
    *,
    model_path: str | None = None,
    model_revision: str | None = None,
) -> None:
    """Write only the adapter, with the names of a layout, and a model card. No path of this machine is written.

    Args:
        adapter_folder, output, layout, model_revision: as for :func:`export_merged`.
        model_path: folder or hub id of a base that the adapter must fit; None skips this check.

    Raises:
        InputError: if the adapter's tensors do not exist in the layout, or the adapter does not fit ``model_path``.
    """
    adapter = read_adapter(adapter_folder)
    renamed, facts = adapter.in_layout(layout), read_facts(adapter_folder)
    if model_path is not None:
        revision = model_revision or adapter.config.revision or MODEL_REVISION
        folder = resolve_checkpoint(model_path, revision, "--model_path", ())
        config = HiggsAudioConfig.from_pretrained(folder)
        check_fit(adapter.in_layout(ORIGINAL), config, f"--adapter {adapter_folder} does not fit {model_path}")
    else:
        offenders = incomplete_modules(adapter.tensors, adapter.config)
        raise_if_any(f"--adapter {adapter_folder}: {ADAPTER_FILE} and its settings do not agree", offenders)
    with new_output_folder(output) as temporary:
        renamed.write(temporary)
        card = adapter_card(facts, _settings(temporary), layout, renamed.needs_text_head, __version__)
        _write_card(temporary, card, facts)
    print(f"{len(renamed.tensors)} tensors renamed to the {layout} layout, values unchanged; logits are not compared")
    if renamed.needs_text_head and layout == TRANSFORMERS:
        print("the adapter changes the text head: build transformers' class with use_text_head=True")


def _settings(adapter: Path) -> dict[str, object]:
    return json.loads((adapter / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8-sig"))


def _write_card(folder: Path, card: str, facts: dict[str, object]) -> None:
    """Write the card, and the facts in it as ``run.json``, so that a later export of this folder has them too."""
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if facts:
        content = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (folder / RUN_FILE).write_text(content, encoding="utf-8")
        write_template(folder, facts.get("flags", {}))
