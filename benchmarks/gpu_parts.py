"""Runs the parts of ``on_gpu.sh`` in order of worth, each with a deadline, and writes each result when it exists.

    benchmarks/on_gpu.sh [--only tests,step] [--out FILE] [--layers 28] [--seconds 480] [--list]

The file has one JSON object a line. A line with ``result`` holds what a command printed; a line with ``state`` is the
end of a part. The errors of all commands are in a file beside it, whose name ends in ``.log``. A part that fails or
runs out of time leaves the reason, and the next one begins. The exit status is 0 if all parts are done, else 1.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).resolve().parents[1]
NULL_CUDA = "NULLCUDA_SO"
REASON_LINES, REASON_WIDTH = 3, 300
"""Last lines of a failed command that its reason repeats, and the most characters of each."""
DONE, FAILED, LATE, STOPPED, LEFT_OUT = "done", "failed", "out of time", "stopped", "not begun"
"""States of a part at its end."""
MOST_SECONDS = 480


@dataclass(frozen=True)
class Part:
    """Commands that answer one question.

    Attributes:
        name: what ``--only`` calls it.
        purpose: what is measured.
        seconds: the deadline of each command.
        commands: arguments of the interpreter, as a shell would split them.
    """

    name: str
    purpose: str
    seconds: int
    commands: tuple[str, ...]


def all_parts(layers: int) -> tuple[Part, ...]:
    """All parts, the most useful first. ``layers`` is that of the released model's size, or fewer for a trial."""
    step = f"-m benchmarks.full_size_step --layers {layers} --each 512 --samples"
    return (
        Part("tests", "the GPU tests", 120, ("-m pytest -q -s -m gpu -p tests.gpu_outcomes tests",)),
        Part(
            "step",
            "a step at 2,048 positions: nothing recomputed, the FFN recomputed",
            45,
            (f"{step} 4 --recompute none", f"{step} 4 --recompute ffn"),
        ),
        Part(
            "speed",
            "the step beside transformers' class with PEFT",
            90,
            (
                f"-m benchmarks.training_speed --model released --dtype bfloat16 --layers {layers} "
                "--samples 16 --rounds 3",
            ),
        ),
        Part(
            "resume",
            "two steps after a resume against the same two without",
            45,
            (f"-m benchmarks.gpu_resume --layers {layers}",),
        ),
        Part(
            "generation",
            "milliseconds per column, for 1 and for 16 samples",
            75,
            (f"-m benchmarks.gpu_generation --layers {layers} --batch 1 16",),
        ),
        Part(
            "long",
            "a step at 4,096 and at 8,192 positions",
            45,
            (f"{step} 8 --recompute ffn", f"{step} 16 --recompute ffn"),
        ),
        Part("nf4", "a step at 2,048 positions with 4-bit weights", 60, (f"{step} 4 --recompute none --quantise nf4",)),
        Part("encode", "clips encoded per second, and how busy the device is", 45, ("-m benchmarks.gpu_encode",)),
    )


class Results:
    """The file of results. Each line is written to the end, so that it stays when the machine is taken away."""

    def __init__(self, path: Path, log: IO[str]) -> None:
        self.path, self.log = path, log
        self.device = "null CUDA: counts and memory, no times" if NULL_CUDA in os.environ else "GPU"
        self.states: dict[str, str] = {}

    def write(self, part: str, **fields: Any) -> None:
        """Add a line, and show it."""
        line = json.dumps({"part": part, **fields, "device": self.device})
        with self.path.open("a", encoding="utf-8") as file:
            print(line, file=file, flush=True)
            os.fsync(file.fileno())
        print(line, flush=True)

    def end(self, part: str, state: str, **fields: Any) -> None:
        """Add the line that ends a part."""
        self.states[part] = state
        self.write(part, state=state, **fields)


def json_objects(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """JSON objects among the lines of an output, each as soon as it is whole; it begins and ends a line."""
    held = ""
    for line in lines:
        if line.startswith("{"):
            held = ""
        elif not held:
            continue
        held += line
        try:
            found = json.loads(held)
        except json.JSONDecodeError:  # it is not whole yet, or is none
            continue
        yield found
        held = ""


def run_command(command: str, seconds: float, log: IO[str], found: Callable[[dict[str, Any]], None]) -> str | None:
    """Run one command, and hand over each JSON object that it prints.

    Returns:
        Why it failed, or None. The reason of a command that was stopped at its deadline is ``LATE``.
    """
    print(f"\n== {command}", file=log, flush=True)
    start = Path(log.name).stat().st_size
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        process_group=0,  # the processes that it starts end with it
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        end_group(process)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        for result in json_objects(_copied(process.stdout, log)):
            found(result)
        status = process.wait()
    finally:
        timer.cancel()
        end_group(process)
    if late.is_set():
        return LATE
    return None if status == 0 else f"exit status {status}: {_last_lines(log, start)}"


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended
    process.wait()


def _copied(lines: Iterable[str], log: IO[str]) -> Iterator[str]:
    """The lines, each of which is also written to the log."""
    for line in lines:
        print(line, end="", file=log, flush=True)
        yield line


def _last_lines(log: IO[str], start: int) -> str:
    """The end of what a command printed, which begins at a byte of the log."""
    with open(log.name, "rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return " | ".join([line[:REASON_WIDTH] for line in lines if line][-REASON_LINES:]) or "it said nothing"


def run_part(part: Part, results: Results, end: float) -> None:
    """Run the commands of a part until it is done or the time of all parts is over."""
    began, reasons, is_late = time.monotonic(), [], True
    for command in part.commands:
        seconds = max(0.0, min(part.seconds, end - time.monotonic()))
        reason = run_command(
            command,
            seconds,
            results.log,
            lambda result, command=command: results.write(part.name, command=command, result=result),
        )
        if reason is not None:
            is_late = is_late and reason == LATE
            reasons.append(f"{command}: {reason}" + (f" after {seconds:.0f} s" if reason == LATE else ""))
    fields: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    if reasons:
        fields["reason"] = reasons
    results.end(part.name, DONE if not reasons else LATE if is_late else FAILED, **fields)


def run_parts(parts: Sequence[Part], results: Results, seconds: float) -> None:
    """Run all parts. Those for which no time is left get a line too, and so do all when this process is stopped."""
    end = time.monotonic() + seconds
    begun = 0
    try:
        for part in parts:
            if time.monotonic() >= end:
                break
            begun += 1
            run_part(part, results, end)
        reason = f"the {seconds:g} seconds of all parts are over"
    except (KeyboardInterrupt, SystemExit):  # SIGTERM is turned into the latter
        reason = "the script was stopped"
        raise
    finally:
        for number, part in enumerate(parts):
            if part.name not in results.states:
                results.end(part.name, STOPPED if number < begun else LEFT_OUT, reason=reason)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags, and end the program for those that cannot be followed."""
    names = [part.name for part in all_parts(1)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"Parts to run, with commas between them: {','.join(names)}.")
    parser.add_argument("--list", action="store_true", help="Print the parts, and run none.")
    parser.add_argument("--out", type=Path, help="The file of results, which is added to; default: on_gpu.jsonl.")
    parser.add_argument("--layers", type=int, default=28, help="Layers of the model; fewer for a trial.")
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="The time of all parts together.")
    args = parser.parse_args(arguments)
    wanted = args.only.split(",") if args.only else names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"--only {','.join(unknown)}: no such part; there are {','.join(names)}")
    if args.layers < 1 or args.seconds <= 0:
        parser.error("--layers must be at least 1, and --seconds above 0")
    args.parts = [part for part in all_parts(args.layers) if part.name in wanted]
    args.out = args.out or Path(os.environ.get("OUT", ".")) / "on_gpu.jsonl"
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, and list their ends."""
    args = parse_arguments(arguments)
    if args.list:
        for part in args.parts:
            print(f"{part.name:11} {part.purpose} (at most {part.seconds} s a command, {len(part.commands)})")
        return 0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.with_suffix(".log").open("a", encoding="utf-8") as log:
        results = Results(args.out, log)
        run_parts(args.parts, results, args.seconds)
    print(f"\nresults: {args.out}; errors: {args.out.with_suffix('.log')}")
    for name, state in results.states.items():
        print(f"{name:11} {state}")
    return 0 if set(results.states.values()) == {DONE} else 1


if __name__ == "__main__":
    sys.exit(main())
