"""Which recipe of a fine-tuning is best, by what is heard and not by the loss? A table of recipes on a small model.

    OMP_NUM_THREADS=1 python -m benchmarks.what_one_hears --output_dir FOLDER
    OMP_NUM_THREADS=1 python -m benchmarks.what_one_hears --output_dir FOLDER --quick     # about 20 minutes on one core

The folder of --data holds a small model of the Higgs form that speaks 20 Arabic words, data for 20 new words (new),
data of the words that it knows (base), and a word recogniser (see ``spoken_words.py``). Each recipe trains an adapter
as a user does, by the program in a process of its own. Its checkpoints are then asked for single words in voices that
nothing was trained on. A recipe is what ``RECIPES`` says: a mixture of data, and flags of the program.

Every recipe is screened with one seed. The best by the stated rule (:func:`order_of`) are trained with three. The same
command goes on after a stop: trained runs and judged checkpoints are kept. FOLDER gets

- ``data/``: the mixtures;
- ``RECIPE-SEED/``: the run of a recipe with a seed;
- ``ledger.tsv``: a line for each judged checkpoint.

Two calls with other --recipes may work in one folder at the same time.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.spoken_words import Answer, judge, load_model, load_recogniser, read_requests, speak
from benchmarks.spoken_words import parse_arguments as spoken_words_arguments
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import write_whole
from voice_cloning.training.checkpoints import checkpoint_step, named_checkpoints
from voice_cloning.training.metrics import METRICS_FILE, read_metrics_lines

PROGRAM = Path(__file__).resolve().parents[1] / "arabic_voice_cloning_distributed_trainer.py"
EVERYTHING = "attention audio_mlp text_mlp heads audio_embeddings"
COMMON = (
    "--prompt_style as_written --audio_tokenizer_path no_codec --report_to none --save_total_limit 0 "
    "--lora_rank 64 --lora_alpha 64 --learning_rate 2e-3"
)
"""Flags of every recipe; those of the recipe come later, so they win."""


@dataclass(frozen=True)
class Mixture:
    """What is trained on.

    Attributes:
        base: how many samples of the base's own data are added to all samples of new words.
        trains_reference: whether the reference clip of each sample is trained too, and not the target clip alone.
        pairings: how often each target is taken, each time with a reference of another sample of the same voice.
    """

    base: int = 0
    trains_reference: bool = False
    pairings: int = 1

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"base{self.base}{'-references' * self.trains_reference}-x{self.pairings}"


@dataclass(frozen=True)
class Recipe:
    """A mixture, and the flags that differ from ``COMMON``."""

    mixture: Mixture
    flags: str = f"--lora_targets {EVERYTHING}"
    steps: int = 3000


SHORT = 900
RECIPES = {
    "new_only": Recipe(Mixture(), steps=SHORT),
    "new_slow": Recipe(Mixture(), f"--lora_targets {EVERYTHING} --learning_rate 1e-3", SHORT),
    "new_constant": Recipe(Mixture(), f"--lora_targets {EVERYTHING} --lr_scheduler_type constant", SHORT),
    "new_rank16": Recipe(Mixture(), f"--lora_targets {EVERYTHING} --lora_rank 16 --lora_alpha 16", SHORT),
    "new_layers": Recipe(Mixture(), "--lora_targets attention audio_mlp text_mlp", SHORT),
    "new_dropout": Recipe(Mixture(), f"--lora_targets {EVERYTHING} --lora_dropout 0.1", SHORT),
    "new_kl": Recipe(Mixture(), f"--lora_targets {EVERYTHING} --base_kl_weight 0.3", SHORT),
    "mix4000": Recipe(Mixture(base=4000)),
    "mix2000": Recipe(Mixture(base=2000)),
    "mix1000": Recipe(Mixture(base=1000)),
    "mix1000_dropout": Recipe(Mixture(base=1000), f"--lora_targets {EVERYTHING} --lora_dropout 0.1"),
    "mix1000_rank16": Recipe(Mixture(base=1000), f"--lora_targets {EVERYTHING} --lora_rank 16 --lora_alpha 16"),
    "both1000_dropout": Recipe(
        Mixture(base=1000, trains_reference=True), f"--lora_targets {EVERYTHING} --lora_dropout 0.1"
    ),
    "both1000": Recipe(Mixture(base=1000, trains_reference=True)),
    "both2000": Recipe(Mixture(base=2000, trains_reference=True)),
    "pair1000": Recipe(Mixture(base=1000, trains_reference=True, pairings=3)),
}
"""The recipes, of which docs/recipes.md says what was found. Those on new words alone differ from ``new_only`` in one
thing each. Add a line to try another."""
QUICK = {
    "new_only": Recipe(Mixture(), steps=400),
    "both2000": Recipe(Mixture(base=2000, trains_reference=True), steps=400),
}
"""The recipes of --quick."""
SEEDS = (42, 43, 44)
WANTED_NEW, WANTED_OLD, WANTED_ENDED = 0.45, 0.35, 0.99
"""What is aimed at: shares of words understood, and of clips that end by themselves."""
SETS = {"new": "dev_ask_new", "old": "dev_ask_old"}
QUICK_WORDS = 60
EVALUATIONS = 6
"""Evaluations and checkpoints of a run."""


@dataclass(frozen=True)
class Row:
    """A line of the ledger: what a checkpoint says.

    Attributes:
        recipe, seed, step: of the checkpoint.
        words: of new and of old words, that were asked for.
        new, old: shares of words that the recogniser understands.
        ended, stopped: shares of clips that end by themselves (see ``spoken_words.py``).
        length_ratio: median length of the clips over that of the recordings.
        eval_loss: the loss on samples of new words in these voices.
    """

    recipe: str
    seed: int
    step: int
    words: int
    new: float
    old: float
    ended: float
    stopped: float
    length_ratio: float
    eval_loss: float


COLUMNS = {column.name: column.type for column in fields(Row)}
"""The columns of the ledger, and the type of each."""


# -- data --------------------------------------------------------------------------------------------------------------


def mixed_records(mixture: Mixture, new: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of a mixture.

    Raises:
        InputError: if there are not so many samples of the base's data.
    """
    if mixture.base > len(base):
        raise InputError(f"a mixture wants {mixture.base} samples of base.json, which holds {len(base)}")
    shuffled = list(base)
    random.Random(0).shuffle(shuffled)
    records = [*new, *shuffled[: mixture.base]]
    records = [*records, *(record for seed in range(1, mixture.pairings) for record in paired_anew(records, seed))]
    return [{**record, "start_index": 1} for record in records] if mixture.trains_reference else records


def paired_anew(records: Sequence[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield each record with the reference, its text and its clip, of another record of the same voice."""
    by_voice: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_voice.setdefault(record["speaker"], []).append(record)
    draw = random.Random(seed)
    for record in records:
        other = draw.choice([found for found in by_voice[record["speaker"]] if found is not record])
        misc = {
            **record["misc"],
            "sample_id": f"{record['misc']['sample_id']}_p{seed}",
            "ref_transcript": other["misc"]["ref_transcript"],
        }
        yield {**record, "messages": other["messages"][:2] + record["messages"][2:], "misc": misc}


def write_mixture(mixture: Mixture, data: Path, folder: Path) -> Path:
    """Write the file of a mixture unless it exists, and return its path."""
    path = folder / f"{mixture.name}.json"
    if not path.exists():
        new, base = (json.loads((data / f"{name}.json").read_text(encoding="utf-8")) for name in ("new", "base"))
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(mixed_records(mixture, new, base), ensure_ascii=False).encode())
    return path


# -- one run -----------------------------------------------------------------------------------------------------------


def train(recipe: Recipe, seed: int, run: Path, args: argparse.Namespace) -> None:
    """Train a recipe with a seed, or go on with it. A finished run is left as it is.

    Raises:
        InputError: if the program fails. Its messages lie in ``RUN.log``.
    """
    data = args.data
    every = max(1, recipe.steps // EVALUATIONS)
    words = [
        *("--data_path", write_mixture(recipe.mixture, data, args.output_dir / "data")),
        *("--eval_data_path", data / "new_val.json", "--model_path", data / "base_model", "--output_dir", run),
        *("--codes", *(data / f"{name}.safetensors" for name in ("new", "base", "new_val"))),
        *("--seed", seed, "--max_steps", recipe.steps, "--eval_steps", every, "--save_steps", every),
        *COMMON.split(),
        *recipe.flags.split(),
    ]
    log = run.with_suffix(".log")
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run([sys.executable, PROGRAM, *map(str, words)], stdout=file, stderr=file).returncode
    if status != 0:
        raise InputError(f"the training of {run.name} ended with exit status {status}; see {log}")


def evaluation_losses(run: Path) -> dict[int, float]:
    """Return the evaluation loss of each evaluated step of a run."""
    records = (record for _, record in read_metrics_lines(run / METRICS_FILE).sound)
    return {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}


def steps_to_judge(run: Path) -> list[int]:
    """Return the last step of a finished run, and before it the step of the lowest evaluation loss, if it is another.

    The program keeps a checkpoint of both.
    """
    losses = evaluation_losses(run)
    last = max(checkpoint_step(path) for path in named_checkpoints(run))
    return sorted({min(losses, key=losses.__getitem__), last})


def judge_checkpoint(checkpoint: Path, args: argparse.Namespace) -> dict[str, list[Answer]]:
    """Ask a checkpoint for the words of each set, and judge what it says."""
    recogniser = load_recogniser(args.data)
    model = load_model(args.data / "base_model", str(checkpoint))
    asked = spoken_words_arguments(["--data", str(args.data)])
    asked.words = args.words
    answers = {}
    for kind, name in SETS.items():
        requests = read_requests(args.data / f"{name}.json", model.config, asked)
        pairs = zip(requests, speak(model, requests), strict=True)
        answers[kind] = [judge(request, spoken, model.config, recogniser) for request, spoken in pairs]
    return answers


def row_of(recipe: str, seed: int, step: int, answers: dict[str, list[Answer]], eval_loss: float) -> Row:
    """Return the ledger's line of a checkpoint. The clips of both sets count alike."""
    every = [*answers["new"], *answers["old"]]
    ratios = sorted(answer.length_ratio for answer in every)
    return Row(
        recipe=recipe,
        seed=seed,
        step=step,
        words=len(every),
        new=fmean(answer.understood for answer in answers["new"]),
        old=fmean(answer.understood for answer in answers["old"]),
        ended=fmean(answer.ended for answer in every),
        stopped=fmean(answer.stopped for answer in every),
        length_ratio=ratios[len(ratios) // 2],
        eval_loss=eval_loss,
    )


# -- ledger ------------------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """The judged checkpoints of a folder.

    Attributes:
        path: ``ledger.tsv``.
    """

    path: Path

    def rows(self) -> list[Row]:
        """Read the lines, also those that another process has added.

        Raises:
            InputError: if a line is none of this program.
        """
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        try:
            return [Row(**{name: read(line[name]) for name, read in COLUMNS.items()}) for line in lines]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: a line is not of this program ({error}); remove the file") from error

    def add(self, row: Row) -> None:
        """Append a line."""
        line = "\t".join(str(getattr(row, name)) for name in COLUMNS) + "\n"
        heading = "" if self.path.exists() else "\t".join(COLUMNS) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(heading + line)

    def last_rows(self) -> list[Row]:
        """Return the line of the last step of each run."""
        last: dict[tuple[str, int], Row] = {}
        for row in sorted(self.rows(), key=lambda row: row.step):
            last[row.recipe, row.seed] = row
        return list(last.values())


def order_of(row: Row) -> tuple[float, float]:
    """The rule that orders recipes, larger is better: how far the worst of the three aims is met; then the words.

    An aim that is more than met counts as met, so that nothing can make up for what is missed.
    """
    met = (row.new / WANTED_NEW, row.old / WANTED_OLD, row.ended / WANTED_ENDED)
    return min(1.0, *met), row.new + row.old


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table in Markdown: each recipe's mean over its seeds; new/old words of each seed."""
    by_recipe: dict[str, list[Row]] = {}
    for row in rows:
        by_recipe.setdefault(row.recipe, []).append(row)
    means = {name: mean_row(found) for name, found in by_recipe.items()}
    lines = [
        "| recipe | step | seeds | new words | old words | ended | stopped | length ratio | eval loss | each seed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in sorted(means, key=lambda name: order_of(means[name]), reverse=True):
        mean, found = means[name], by_recipe[name]
        each = ", ".join(f"{row.new:.1%}/{row.old:.1%}" for row in sorted(found, key=lambda row: row.seed))
        cells = [f"{value:.1%}" for value in (mean.new, mean.old, mean.ended, mean.stopped)]
        numbers = f"{mean.length_ratio:.2f} | {mean.eval_loss:.3f}"
        lines.append(f"| {name} | {mean.step} | {len(found)} | {' | '.join(cells)} | {numbers} | {each} |")
    return lines


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean over the seeds of a recipe."""
    first = rows[0]
    names = ("new", "old", "ended", "stopped", "length_ratio", "eval_loss")
    means = {name: fmean(getattr(row, name) for row in rows) for name in names}
    return Row(first.recipe, first.seed, first.step, first.words, **means)


# -- all runs ----------------------------------------------------------------------------------------------------------


def make_runs(recipes: dict[str, Recipe], seeds: Sequence[int], ledger: Ledger, args: argparse.Namespace) -> None:
    """Train and judge each recipe with each seed, as far as that has not been done.

    Raises:
        InputError: before a run that would be one too many for --runs.
    """
    for name, recipe in recipes.items():
        for seed in seeds:
            run = args.output_dir / f"{name}-{seed}"
            begun = [path for path in args.output_dir.glob("*-*") if (path / "run.json").exists()]
            if run not in begun and len(begun) >= args.runs:
                raise InputError(f"{len(begun)} runs have begun, and --runs is {args.runs}; {run.name} would be more")
            print(f"{run.name}: training", flush=True)
            train(recipe, seed, run, args)
            judged = {(row.recipe, row.seed, row.step) for row in ledger.rows()}
            for step in steps_to_judge(run):
                if (name, seed, step) not in judged:
                    answers = judge_checkpoint(run / f"checkpoint-{step:06d}", args)
                    ledger.add(row_of(name, seed, step, answers, evaluation_losses(run)[step]))
                    print(f"{run.name}: {ledger.rows()[-1]}", flush=True)


def compare(args: argparse.Namespace) -> int:
    """Screen the recipes, train the best with every seed, and print the table. Returns the exit status."""
    every = QUICK if args.quick else RECIPES
    if unknown := [name for name in args.recipes or () if name not in every]:
        raise InputError(f"--recipes {' '.join(unknown)}: unknown; the recipes are {', '.join(every)}")
    recipes = {name: every[name] for name in args.recipes or every}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(args.output_dir / "ledger.tsv")
    make_runs(recipes, SEEDS[:1], ledger, args)
    if not args.quick:
        screened = [row for row in ledger.last_rows() if row.seed == SEEDS[0] and row.recipe in recipes]
        best = sorted(screened, key=order_of, reverse=True)[: args.finals]
        make_runs({row.recipe: recipes[row.recipe] for row in best}, SEEDS[1:], ledger, args)
    wanted = [row for row in ledger.rows() if row.recipe in recipes]
    last = [row for row in ledger.last_rows() if row.recipe in recipes]
    print("\n".join(["", "Last checkpoints:", "", *table(last)]))
    print("\n".join(["", "Checkpoints that the evaluation loss chooses:", "", *table(chosen_by_loss(wanted))]))
    return 0


def chosen_by_loss(rows: Sequence[Row]) -> list[Row]:
    """Return the line of each run whose evaluation loss is the lowest."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row.recipe, row.seed
        if key not in best or row.eval_loss < best[key].eval_loss:
            best[key] = row
    return list(best.values())


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/speaks"), help="Folder of model, data and judge.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of the runs and the ledger.")
    parser.add_argument("--recipes", nargs="+", help="Names of recipes; by default all.")
    parser.add_argument("--finals", type=int, default=1, help="How many recipes get three seeds; 0: none.")
    parser.add_argument("--runs", type=int, default=40, help="The most runs in the folder.")
    parser.add_argument("--quick", action="store_true", help="Few recipes, few steps, few words, one seed.")
    args = parser.parse_args(arguments)
    args.words = QUICK_WORDS if args.quick else None
    if args.runs < 1 or args.finals < 0:
        parser.error(f"--runs is {args.runs} and --finals is {args.finals}; they must be at least 1 and 0")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare recipes. Returns the exit status."""
    return run_command(lambda: compare(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
