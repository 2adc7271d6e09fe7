"""The card of an adapter or of a merged model: what it is, what it was trained on and how, and how to load it.

What a card says comes from the files of a trainer's checkpoint. No path of the machine that trained is among it: of
files and folders only the last part of their names, and hub ids.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS
from lora_config import ADAPTER_CONFIG_FILE
from voice_cloning.training.run_directory import METRICS_FILE, RUN_FILE, STATE_FILE

CARD_FILE = "README.md"
TAGS = ("higgs-audio-v2", "text-to-speech", "voice-cloning", "arabic")
THIS_FOLDER, BASE_FOLDER = "path/to/this/folder", "path/to/the/base/model"

LORA_SETTINGS = "r lora_alpha lora_dropout use_rslora use_dora".split()
OPTIMIZER_SETTINGS = (
    "learning_rate lr_scheduler_type warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
    "max_tokens_per_batch batch_size gradient_accumulation_steps text_weight audio_weight seed"
).split()
UNTOLD_FLAGS = frozenset(
    "output_dir code_cache_dir codes logging_steps eval_steps save_steps save_total_limit resume overwrite "
    "report_to".split()
)
"""Flags that say nothing of the result."""
REPOSITORY_FLAGS = {"model_path": "model_revision", "audio_tokenizer_path": "audio_tokenizer_revision"}
"""Flags that may hold a hub id, and those that then hold its commit."""

CONSENT = (
    "It is meant to speak Arabic text in the voice of a short reference clip. Clone a voice only with the consent of "
    "the person it belongs to, and say of what you publish that it was synthesised."
)


def told_name(name: str) -> str:
    """A hub id as it is, of a path the last part."""
    return name if is_hub_id(name) else Path(name).name


def read_facts(adapter: Path, run_folder: Path | None = None) -> dict[str, Any]:
    """What an adapter's folder says of its training, without paths; empty where it says nothing.

    Args:
        adapter: a trainer's checkpoint, or a folder that holds such facts as its ``run.json``.
        run_folder: where ``metrics.jsonl`` lies; the folder around the checkpoint by default.

    Raises:
        InputError: if its ``run.json`` is not one.
    """
    if not (adapter / RUN_FILE).is_file():
        return {}
    try:
        run = json.loads((adapter / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{adapter / RUN_FILE}: not JSON ({error}); mend it, or take it away") from error
    if not isinstance(run, dict) or not isinstance(run.get("flags"), dict):
        raise InputError(f"{adapter / RUN_FILE}: says nothing of a training run; take it away")
    if "results" in run:
        return run
    settings = json.loads((adapter / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    flags = {name: _told(name, value) for name, value in run["flags"].items() if name not in UNTOLD_FLAGS}
    if settings.get("revision") is None:  # the trainer's mark of a base that it read from a folder
        flags["model_path"] = Path(flags.get("model_path", "")).name
    for name, revision in REPOSITORY_FLAGS.items():
        if not is_hub_id(flags.get(name, "")):
            flags[revision] = None
    identity = run.get("identity", {})
    facts = {
        "flags": flags,
        "data": run.get("data", {}),
        "results": _results(adapter, run_folder or adapter.resolve().parent),
        "torch_dtype": str(identity.get("torch_dtype", "")).removeprefix("torch."),
        "processes": identity.get("world_size"),
        "base_fingerprint": identity.get("model"),
    }
    return facts | {name: run.get(name) for name in ("versions", "python", "git_commit")}


def _told(name: str, value: Any) -> Any:
    """A flag's value as the card may tell it."""
    if not isinstance(value, str) or ("/" not in value and "\\" not in value):
        return value
    return told_name(value) if name in REPOSITORY_FLAGS else Path(value.replace("\\", "/")).name


def _results(checkpoint: Path, run_folder: Path) -> dict[str, Any]:
    """Steps, the best evaluation, and the last losses up to the checkpoint's step."""
    if not (checkpoint / STATE_FILE).is_file():
        return {}
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    results = {name: state[name] for name in ("step", "total_steps", "best")}
    metrics = run_folder / METRICS_FILE
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.is_file() else []
    for record in (json.loads(line) for line in lines if line.endswith("\n")):
        if record["step"] <= state["step"]:
            losses = {name: value for name, value in record.items() if name.endswith("loss")}
            results["evaluation" if "eval_loss" in losses else "training"] = {"step": record["step"], **losses}
    return results


def write_checkpoint_card(checkpoint: Path, run_folder: Path) -> None:
    """The card of a trainer's checkpoint, in place of PEFT's empty one."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    card = adapter_card(read_facts(checkpoint, run_folder), settings, ORIGINAL)
    (checkpoint / CARD_FILE).write_text(card, encoding="utf-8")


def adapter_card(facts: dict[str, Any], settings: dict[str, Any], layout: str, needs_text_head: bool = False) -> str:
    """The card of an adapter.

    Args:
        facts: of :func:`read_facts`.
        settings: of ``adapter_config.json``.
        layout: whose names the adapter has.
        needs_text_head: whether transformers' class must be built with its text head.
    """
    base = _base(facts, settings)
    about = "A LoRA adapter of Higgs Audio v2 for zero-shot Arabic voice cloning."
    if facts:
        about += " It learnt to predict every codebook and the end of every clip; the reference voice has no loss."
    names = "as in Boson's original release" if layout == ORIGINAL else "as in transformers' class"
    about += f" Its tensors are named {names}."
    return "\n".join(
        [
            *_front_matter(base, "peft", "adapter", ("lora",)),
            "# Higgs Audio v2: LoRA adapter for Arabic voice cloning",
            "",
            about,
            "",
            *_base_lines(base),
            *_section("How to load it", _adapter_code(base, layout, needs_text_head)),
            *_training_sections(facts, settings),
            *_closing_sections(facts),
        ]
    )


def merged_card(
    facts: dict[str, Any],
    settings: dict[str, Any],
    base_name: str,
    base_revision: str | None,
    base_fingerprint: str,
    layout: str,
    verification: list[str],
) -> str:
    """The card of a model that an adapter was merged into.

    Args:
        facts, settings: of the adapter, as for :func:`adapter_card`.
        base_name, base_revision, base_fingerprint: the base that it was merged into.
        verification: lines on how far its logits are from those of base and adapter.
    """
    base = _named_base(base_name, base_revision, base_fingerprint)
    library = "transformers" if layout == TRANSFORMERS else None
    return "\n".join(
        [
            *_front_matter(base, library, "finetune", ()),
            "# Higgs Audio v2 for Arabic voice cloning: adapter merged",
            "",
            f"Higgs Audio v2 with a LoRA adapter for zero-shot Arabic voice cloning merged into its weights, in the "
            f"{layout} layout.",
            "",
            *_base_lines(base),
            *_section("How to load it", _merged_code(layout)),
            *_section("Merging", [f"- {line}" for line in verification]),
            *_training_sections(facts, settings),
            *_closing_sections(facts),
        ]
    )


def _base(facts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The base that an adapter was trained on."""
    flags = facts.get("flags", {})
    name = flags.get("model_path") or settings.get("base_model_name_or_path")
    revision = flags.get("model_revision") if facts else settings.get("revision")
    return _named_base(name, revision, facts.get("base_fingerprint"))


def _named_base(name: str | None, revision: str | None, fingerprint: str | None) -> dict[str, Any]:
    hub = name is not None and is_hub_id(name)
    return {
        "name": name and told_name(name),
        "hub": hub,
        "revision": revision if hub else None,
        "fingerprint": fingerprint,
    }


def _front_matter(base: dict[str, Any], library: str | None, relation: str, tags: tuple[str, ...]) -> list[str]:
    """What the hub reads; the base is named only where it is on the hub."""
    fields: dict[str, Any] = {"base_model": base["name"], "base_model_relation": relation} if base["hub"] else {}
    if library is not None:
        fields["library_name"] = library
    fields |= {"language": ["ar"], "license": "other", "pipeline_tag": "text-to-speech", "tags": [*TAGS, *tags]}
    return ["---", yaml.safe_dump(fields, sort_keys=False).rstrip(), "---", ""]


def _base_lines(base: dict[str, Any]) -> list[str]:
    if base["name"] is None:
        return ["Base model: not recorded."]
    if base["hub"]:
        return [f"Base model: `{base['name']}`" + (f", revision `{base['revision']}`." if base["revision"] else ".")]
    known = (
        f" (fingerprint of its configuration and file sizes: `{base['fingerprint']}`)" if base["fingerprint"] else ""
    )
    return [f"Base model: a local folder `{base['name']}`{known}; its hub id was not recorded."]


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _adapter_code(base: dict[str, Any], layout: str, needs_text_head: bool) -> list[str]:
    name = base["name"] if base["hub"] else BASE_FOLDER
    revision = f', revision="{base["revision"]}"' if base["revision"] and layout == ORIGINAL else ""
    if layout == ORIGINAL:
        model_class = "HiggsAudioModel"
        source = "from boson_multimodal.model.higgs_audio import HiggsAudioModel  # of the trainer's repository"
        note = []
    else:
        model_class = "HiggsAudioV2ForConditionalGeneration"
        source = f"from transformers import {model_class}"
        revision += ", use_text_head=True" if needs_text_head else ""
        note = ["", "The base is needed in the transformers layout."]
        if needs_text_head:
            note[-1] += " The adapter changes the text head, which transformers' class has only with `use_text_head`."
    return [
        "```python",
        "import torch",
        "from peft import PeftModel",
        source,
        "",
        f'base = {model_class}.from_pretrained("{name}"{revision}, dtype=torch.bfloat16)',
        f'model = PeftModel.from_pretrained(base, "{THIS_FOLDER}").eval()',
        "```",
        *note,
    ]


def _merged_code(layout: str) -> list[str]:
    if layout == ORIGINAL:
        model_class, note = "HiggsAudioModel", []
        source = "from boson_multimodal.model.higgs_audio import HiggsAudioModel  # of the trainer's repository"
    else:
        model_class = "HiggsAudioV2ForConditionalGeneration"
        source = f"from transformers import {model_class}"
        note = ["", "`use_text_head=True` beside it loads the text head too, which training needs and speech does not."]
    return [
        "```python",
        "from transformers import AutoTokenizer",
        source,
        "",
        f'model = {model_class}.from_pretrained("{THIS_FOLDER}", dtype="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{THIS_FOLDER}")',
        "```",
        *note,
    ]


def _training_sections(facts: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    flags = facts.get("flags", {})
    targets = flags.get("lora_targets")
    lora = [f"- {name}: {settings[name]}" for name in LORA_SETTINGS if name in settings]
    lora += [f"- targets: {', '.join(targets)}" if targets else f"- target_modules: `{settings['target_modules']}`"]
    optimizer = [f"- {name}: {flags[name]}" for name in OPTIMIZER_SETTINGS if flags.get(name) is not None]
    if optimizer:
        optimizer.insert(0, "- AdamW; every mean is over all labels of an optimizer step")
    for name in ("torch_dtype", "processes"):
        if facts.get(name):
            optimizer.append(f"- {name}: {facts[name]}")
    return [
        *_section("Training data", _data_lines(facts)),
        *_section("Adapter", lora),
        *_section("Training", optimizer),
        *_section("Results", _result_lines(facts.get("results", {}))),
    ]


def _data_lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for part, data in facts.get("data", {}).items():
        if data is None:
            lines.append(f"- {part}: none")
            continue
        dropped = f", {data['dropped']} more dropped as invalid" if data["dropped"] else ""
        hours = data["hours"]
        length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} minutes"
        lines.append(
            f"- {part}: `{data['file']}`: {data['samples']} samples{dropped}, {data['clips']} clips, "
            f"{length} of audio with the reference clips"
        )
    style = facts.get("flags", {}).get("prompt_style")
    if style:
        lines.append(f"- prompt_style: `{style}`; prompt it the same way")
    normalisation = facts.get("flags", {}).get("text_normalisation", "none")
    if normalisation != "none":
        lines.append(f"- text_normalisation: `{normalisation}`; normalise what is to be spoken the same way")
    return lines


def _result_lines(results: dict[str, Any]) -> list[str]:
    if not results:
        return []
    lines = [f"- optimizer steps: {results['step']} of {results['total_steps']}"]
    for kind in ("training", "evaluation"):
        if kind in results:
            losses = [f"{name} {value:.4f}" for name, value in results[kind].items() if name != "step"]
            lines.append(f"- last {kind}, at step {results[kind]['step']}: {', '.join(losses)}")
    if results.get("best"):
        lines.append(f"- best eval_loss so far: {results['best']['eval_loss']:.4f} at step {results['best']['step']}")
    lines.append("- losses are cross entropies in nats: of the text, of the mean codebook, and their weighted sum")
    return lines


def _closing_sections(facts: dict[str, Any]) -> list[str]:
    versions = [f"- {name} {version}" for name, version in (facts.get("versions") or {}).items()]
    if facts.get("python"):
        versions.append(f"- Python {facts['python']}")
    if facts.get("git_commit"):
        versions.append(f"- the trainer's commit: `{facts['git_commit']}`")
    return [
        *_section("Use", [CONSENT]),
        *_section("Licence", ["That of the base model applies: see the base model's licence."]),
        *_section("Versions", versions),
        "",
    ]
