"""Write the model card of an adapter or of a merged model: what it is, how it was trained, and how to load it.

The facts on a card come from the files of a trainer's checkpoint. A card contains no path of the training machine:
files and folders are named by the last part of their path, or by their hub id.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.flags import facts_of
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED
from boson_multimodal.prompt_template import PromptTemplate
from lora_config import ADAPTER_CONFIG_FILE
from voice_cloning.adapters.figure_table import figure_table, figures_of
from voice_cloning.adapters.licence_lines import licence_lines
from voice_cloning.adapters.prompt_record import TEMPLATE_FLAG, form_of_flags, write_template
from voice_cloning.adapters.prompt_software import software_table
from voice_cloning.adapters.run_record import check_results, read_json_object, read_record
from voice_cloning.adapters.selection_lines import read_selection, selection_lines
from voice_cloning.adapters.serving import ONLY_HERE, ServedCodec
from voice_cloning.adapters.serving_card import THIS_FOLDER, serving_lines
from voice_cloning.training.checkpoints import ENDED_EARLY, RUN_FILE, STATE_FILE
from voice_cloning.training.config import flag_fields
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.evaluation_words import BEST_BY, without_better
from voice_cloning.training.metrics import METRICS_FILE, read_metrics_lines
from voice_cloning.training.mixtures import share_words

CARD_FILE = "README.md"
TAGS = ("higgs-audio-v2", "text-to-speech", "voice-cloning", "arabic")
BASE_FOLDER = "path/to/the/base/model"

LORA_SETTINGS = "r lora_alpha lora_dropout use_rslora use_dora".split()
FLAG_FACTS = {name: facts_of(flag_field) for name, flag_field in flag_fields().items()}
TRAINING_SETTINGS = tuple(name for name, facts in FLAG_FACTS.items() if facts.card == "setting")
"""Flags that a card lists under "Training"."""
PRIVATE_FLAGS = frozenset(name for name, facts in FLAG_FACTS.items() if facts.card == "private")
"""Flags that do not affect the result of the training. They are not among the facts of a card."""
REPOSITORY_FLAGS = {name: facts.revision_flag for name, facts in FLAG_FACTS.items() if facts.revision_flag}
"""Flags that may be a hub id -> the flag with its commit."""

CONSENT = (
    "The model speaks Arabic text in the voice of a short reference clip. **Clone a voice only with the consent of its "
    "owner.** If you publish the speech, say that it is synthetic."
)
BASE_LICENCE = "The licence of the base model applies: see the base model's licence."
BASE_LANGUAGES = (
    "The released Higgs Audio v2 lists English, Chinese, German and Korean as its languages. Arabic is not on that "
    "list; it was added by the training described here. A newer Higgs model exists (Higgs TTS 3), but its licence is "
    "non-commercial."
)


def public_name(name: str) -> str:
    """Return a hub id unchanged, and only the last part of a path."""
    return name if is_hub_id(name) else Path(name).name


def read_facts(adapter: Path, run_folder: Path | None = None) -> dict[str, Any]:
    """Return the facts about the training of an adapter, without paths; an empty dict if there is no ``run.json``.

    Args:
        adapter: a trainer's checkpoint, or an exported folder whose ``run.json`` holds such facts.
        run_folder: the folder of ``metrics.jsonl``; by default the parent folder of the checkpoint.

    Raises:
        InputError: if ``run.json``, ``trainer_state.json`` or the metrics are not those of the trainer.
    """
    if not (adapter / RUN_FILE).is_file():
        return {}
    run = read_record(adapter / RUN_FILE)
    if "results" in run:
        return run
    settings = json.loads((adapter / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8-sig"))
    flags = {name: _public_value(name, value) for name, value in run["flags"].items() if name not in PRIVATE_FLAGS}
    if settings.get("revision") is None:  # The trainer records no revision for a base in a local folder.
        flags["model_path"] = Path(flags.get("model_path") or "").name
    for name, revision in REPOSITORY_FLAGS.items():
        if not is_hub_id(flags.get(name) or ""):
            flags[revision] = None
    identity = run.get("identity", {})
    facts = {
        "flags": flags,
        "data": run.get("data", {}),
        "results": _results(adapter, run_folder or adapter.resolve().parent, run["flags"].get("keep_best_by", BY_LOSS)),
        "torch_dtype": str(identity.get("torch_dtype", "")).removeprefix("torch."),
        "processes": identity.get("world_size"),
        "base_fingerprint": identity.get("model"),
    }
    return facts | {name: run.get(name) for name in ("version", "versions", "python", "git_commit")}


def _public_value(name: str, value: Any) -> Any:
    """Return the value of a flag without the path of its file or folder, or of each of them."""
    if name == TEMPLATE_FLAG:
        return value  # the content of the file
    if isinstance(value, list):
        return [_public_value(name, one) for one in value]
    if not isinstance(value, str) or ("/" not in value and "\\" not in value):
        return value
    return public_name(value) if name in REPOSITORY_FLAGS else Path(value.replace("\\", "/")).name


def _results(checkpoint: Path, run_folder: Path, keep_best_by: str) -> dict[str, Any]:
    """Return the steps, the best evaluation by ``keep_best_by``, and the last losses and figures up to this step.

    Damaged lines of metrics are passed over: a run that saves must not end because of them.
    """
    if not (checkpoint / STATE_FILE).is_file():
        return {}
    state = read_json_object((checkpoint / STATE_FILE).read_bytes(), f"{checkpoint / STATE_FILE}")
    results = {name: state.get(name) for name in ("step", "total_steps", "best")}
    check_results(results, f"{checkpoint / STATE_FILE}")
    if results["best"]:
        results["best"] = {name: results["best"][name] for name in ("step", "eval_loss")}
        if keep_best_by in BEST_BY and keep_best_by != BY_LOSS:
            results["best_by"] = keep_best_by
    if state.get(ENDED_EARLY):
        results[ENDED_EARLY] = True
    metrics = run_folder / METRICS_FILE
    for record in read_metrics_lines(metrics).numbers if metrics.is_file() else []:
        if record["step"] > results["step"]:
            continue
        of_step = {"step": record["step"]}
        losses = {name: value for name, value in record.items() if name.endswith("loss")}
        figures = figures_of(record)
        accuracies = {name: figures.pop(name) for name in list(figures) if name.startswith("eval_")}
        if "eval_loss" in losses:
            results["evaluation"] = of_step | losses | accuracies
        elif losses:
            results["training"] = of_step | losses
        if "spoken_clips" in figures:
            results["speech"] = of_step | figures
    if selection := read_selection(run_folder, checkpoint):
        results["selection"] = selection
    return results


def write_checkpoint_card(checkpoint: Path, run_folder: Path) -> None:
    """Write the card of a trainer's checkpoint, which replaces PEFT's empty card; and its prompt template, if any."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    facts = read_facts(checkpoint, run_folder)
    (checkpoint / CARD_FILE).write_text(adapter_card(facts, settings, ORIGINAL), encoding="utf-8")
    write_template(checkpoint, facts.get("flags", {}))


def adapter_card(
    facts: dict[str, Any],
    settings: dict[str, Any],
    layout: str,
    needs_text_head: bool = False,
    exporter_version: str | None = None,
) -> str:
    """Return the card of an adapter.

    Args:
        facts: the result of :func:`read_facts`.
        settings: the content of ``adapter_config.json``.
        layout: the layout of the adapter's names.
        needs_text_head: whether the adapter needs transformers' class with its text head.
        exporter_version: the version of this project that exported the adapter; None for a trainer's checkpoint.
    """
    base = _base(facts, settings)
    about = "A LoRA adapter of Higgs Audio v2 for zero-shot Arabic voice cloning."
    if facts:
        about += " It was trained on all codebooks and on the end of every clip. The reference clip had no loss."
    names = "of Boson's original release" if layout == ORIGINAL else "of transformers' class"
    about += f" Its tensors have the names {names}."
    return "\n".join(
        [
            *_front_matter(base, "peft", "adapter", ("lora",)),
            "# Higgs Audio v2: LoRA adapter for Arabic voice cloning",
            "",
            about,
            "",
            *_base_lines(base),
            *_section("Use", [CONSENT, "", BASE_LANGUAGES]),
            *_section("How to load it", _adapter_code(base, layout, needs_text_head, _quantise(facts))),
            *_training_sections(facts, settings),
            *_closing_sections(facts, exporter_version),
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
    exporter_version: str | None = None,
    codec: ServedCodec | None = None,
) -> str:
    """Return the card of a merged model.

    Args:
        facts, settings, exporter_version: as for :func:`adapter_card`.
        base_name, base_revision, base_fingerprint: the base into which the adapter was merged.
        verification: lines about the difference between its logits and those of base + adapter.
        codec: the codec that the files for servers name; None if there are no such files.
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
            *_section("Use", [CONSENT, "", BASE_LANGUAGES]),
            *_section("How to load it", _merged_code(layout)),
            *_section("How to serve it", [] if codec is None else serving_lines(codec, facts.get("flags", {}))),
            *_section("Merging", [f"- {line}" for line in verification]),
            *_training_sections(facts, settings),
            *_closing_sections(facts, exporter_version),
        ]
    )


def _base(facts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the base model of an adapter."""
    flags = facts.get("flags", {})
    name = flags.get("model_path") or settings.get("base_model_name_or_path")
    revision = flags.get("model_revision") if facts else settings.get("revision")
    return _named_base(name, revision, facts.get("base_fingerprint"))


def _named_base(name: str | None, revision: str | None, fingerprint: str | None) -> dict[str, Any]:
    hub = name is not None and is_hub_id(name)
    return {
        "name": name and public_name(name),
        "hub": hub,
        "revision": revision if hub else None,
        "fingerprint": fingerprint,
    }


def _front_matter(base: dict[str, Any], library: str | None, relation: str, tags: tuple[str, ...]) -> list[str]:
    """Return the metadata for the hub. The base is named only if it is on the hub."""
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


def _quantise(facts: dict[str, Any]) -> str:
    """Return the quantisation of the base's weights during the training."""
    return facts.get("flags", {}).get("quantise") or NOT_QUANTISED


def _adapter_code(base: dict[str, Any], layout: str, needs_text_head: bool, quantise: str) -> list[str]:
    name = base["name"] if base["hub"] else BASE_FOLDER
    revision = f', revision="{base["revision"]}"' if base["revision"] and layout == ORIGINAL else ""
    if layout == ORIGINAL:
        model_class = "HiggsAudioModel"
        source = "from boson_multimodal.model.higgs_audio import HiggsAudioModel  # from the trainer's repository"
        note = []
        if quantise != NOT_QUANTISED:
            note = [
                "",
                f"The adapter was trained on {quantise} weights. To get them, give `from_pretrained` the argument",
            ]
            note[-1] += f' `quantise="{quantise}"`. On weights in full precision, the logits are slightly different.'
    else:
        model_class = "HiggsAudioV2ForConditionalGeneration"
        source = f"from transformers import {model_class}"
        revision += ", use_text_head=True" if needs_text_head else ""
        note = ["", "The base must be in the transformers layout."]
        if needs_text_head:
            note[-1] += " The adapter changes the text head; transformers' class has it only with `use_text_head=True`."
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
        source = "from boson_multimodal.model.higgs_audio import HiggsAudioModel  # from the trainer's repository"
    else:
        model_class = "HiggsAudioV2ForConditionalGeneration"
        source = f"from transformers import {model_class}"
        note = [
            "",
            "With `use_text_head=True` it also loads the text head. Training needs the text head, speech does not.",
        ]
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
    optimizer = [f"- {name}: {flags[name]}" for name in TRAINING_SETTINGS if flags.get(name) is not None]
    if optimizer:
        optimizer.insert(0, "- AdamW; each loss is a mean over all labels of an optimizer step")
    for name in ("torch_dtype", "processes"):
        if facts.get(name):
            optimizer.append(f"- {name}: {facts[name]}")
    return [
        *_section("Training data", _data_lines(facts)),
        *_section("Which software can send the trained prompt", _software_lines(facts)),
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
        sets = data.get("parts", [data])
        total = sum(one.get("samples_of_epoch", 0) for one in sets)
        lines += [f"- {part}: {_data_words(one, total)}" for one in sets]
    style, form = facts.get("flags", {}).get("prompt_style"), form_of_flags(facts.get("flags", {}))
    if style:
        lines.append(f"- prompt_style: `{style}`; use the same style for prompts")
    if style == "as_written":
        lines.append(f"- {ONLY_HERE}")
    normalisation = facts.get("flags", {}).get("text_normalisation", "none")
    if normalisation != "none":
        lines.append(f"- text_normalisation: `{normalisation}`; normalise texts to be spoken in the same way")
    if isinstance(form, PromptTemplate):
        lines += ["- prompt template, which this project's commands take from the adapter's folder:", ""]
        lines += ["```json", json.dumps(json.loads(form.text()), indent=2, ensure_ascii=False), "```"]
    return lines


def _software_lines(facts: dict[str, Any]) -> list[str]:
    form = form_of_flags(facts.get("flags", {}))
    return [] if form is None else software_table(form)


def _data_words(data: dict[str, Any], total: int) -> str:
    """Return the size of a data set in words; for one of several also its share of the samples of an epoch."""
    dropped = f", {data['dropped']} more dropped as invalid" if data["dropped"] else ""
    hours = data["hours"]
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} minutes"
    share = f"; {share_words(data['samples_of_epoch'], data['samples'], total)}" if total and data["samples"] else ""
    return (
        f"`{data['file']}`: {data['samples']} samples{dropped}, {data['clips']} clips, "
        f"{length} of audio including the reference clips{share}"
    )


def _result_lines(results: dict[str, Any]) -> list[str]:
    if not results:
        return []
    lines = [f"- optimizer steps: {results['step']} of {results['total_steps']}"]
    if results.get(ENDED_EARLY):
        best = results.get("best")
        lines = [f"- optimizer steps: {results['step']}; {without_better(best and best['step'])} (`--patience`)"]
    for kind in ("training", "evaluation"):
        if kind in results:
            losses = [f"{name} {value:.4f}" for name, value in results[kind].items() if name.endswith("loss")]
            lines.append(f"- last {kind}, at step {results[kind]['step']}: {', '.join(losses)}")
    if results.get("best"):
        best, by = results["best"], results.get("best_by", BY_LOSS)
        if by == BY_LOSS:
            lines.append(f"- best eval_loss so far: {best['eval_loss']:.4f} at step {best['step']}")
        else:
            lines.append(f"- best so far by {BEST_BY[by]}: step {best['step']}, eval_loss {best['eval_loss']:.4f}")
    lines += selection_lines(results.get("selection"))
    lines.append(
        "- losses are cross entropies in nats: of the text, of the audio (mean over codebooks), and their weighted sum"
    )
    return lines + figure_table(results)


def _closing_sections(facts: dict[str, Any], exporter_version: str | None) -> list[str]:
    versions = [f"- the trainer's version: {facts['version']}"] if facts.get("version") else []
    if exporter_version is not None:
        versions.append(f"- exported with version: {exporter_version}")
    versions += [f"- {name} {version}" for name, version in (facts.get("versions") or {}).items()]
    if facts.get("python"):
        versions.append(f"- Python {facts['python']}")
    if facts.get("git_commit"):
        versions.append(f"- the trainer's commit: `{facts['git_commit']}`")
    return [
        *_section("Licence", [BASE_LICENCE, *licence_lines(facts.get("data", {}))]),
        *_section("Versions", versions),
        "",
    ]
