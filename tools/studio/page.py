"""The page of the studio, made with Gradio: what stands on it, and what its buttons do."""

import html
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from boson_multimodal.circumstances import MAY_HAVE_A_NAME, named
from tools.studio.job import FIELDS, MOST_SEEDS, SETTINGS, Take, Wishes, check, read_reference, speak
from tools.studio.systems import StoppedError, Systems
from voice_cloning.adapters.export import LARGEST_SCALE
from voice_cloning.adapters.model_card import CONSENT

TITLE = "Try a voice"
EXPLAINED = {
    "greedy": "always take the most probable code; the settings beside it are ignored",
    "temperature": "above 0; higher is livelier",
    "top_k": "0 keeps all",
    "top_p": "above 0, at most 1",
    "ras_win_len": "window of repetition-aware sampling; 0 turns it off",
    "ras_win_max_num_repeat": "repeats that are allowed in the window",
    "retries": "further attempts, with other seeds, where speech does not end",
    "slowest_letters_per_second": "slower speech does not end; lower it for recitation",
    "letters_per_piece": "longer texts are cut",
}
STYLE = """
#reference_text textarea, #text textarea { font-size: 1.3em; line-height: 1.8; }
#messages { min-height: 2em; }
.take audio { width: 100%; display: block; margin: 0.3em 0; }
.take p { margin: 0.2em 0; }
.take .warning { font-weight: bold; }
"""


class Page:
    """The page: a Gradio application over the systems.

    Args:
        gradio: the module; it is imported where the folder for its files is set (``server.py``).
        defaults: what stands in the fields at first.
        folder: the folder for what is spoken.
    """

    def __init__(self, gradio: Any, systems: Systems, defaults: Wishes, folder: Path) -> None:
        self.gradio = gradio
        self.systems = systems
        self.defaults = defaults
        self.folder = folder
        self._numbers = itertools.count(1)
        self._running_since: float | None = None
        with gradio.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            self._lay_out()
            self._connect()
        self.blocks.queue(default_concurrency_limit=1, api_open=False)

    # -- what stands on the page -----------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        gr = self.gradio
        gr.Markdown(f"# {TITLE}\n\n{CONSENT}")
        with gr.Row():
            with gr.Column():
                self.reference = gr.Audio(
                    label="Reference: a clip of the voice, best 3 to 10 s",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    elem_id="reference",
                )
                self.reference_text = self._arabic("reference_text", "What the reference says, word for word", 2)
            with gr.Column():
                self.text = self._arabic("text", "What to say", 6)
                self.chosen = gr.CheckboxGroup(
                    self.systems.names, value=list(self.defaults.systems), label="Who speaks", elem_id="systems"
                )
        self.settings = self._settings()
        with gr.Row():
            self.speak_button = gr.Button("Speak", variant="primary", elem_id="speak")
            self.stop_button = gr.Button("Stop", elem_id="stop")
        self.messages = gr.Markdown(self._greeting(), elem_id="messages")
        self.cells: dict[tuple[str, int], Any] = {}
        with gr.Row():
            for number, name in enumerate(self.systems.names):
                with gr.Column(min_width=260):
                    gr.Markdown(f"### {escaped(name)}", elem_id=f"system-{number}")
                    for row in range(MOST_SEEDS):
                        self.cells[name, row] = gr.HTML("", padding=False, elem_id=f"take-{number}-{row}")

    def _arabic(self, field: str, label: str, lines: int) -> Any:
        value = getattr(self.defaults, field)
        return self.gradio.Textbox(value, label=label, lines=lines, max_lines=12, rtl=True, elem_id=field)

    def _settings(self) -> list[Any]:
        """Return the inputs for the seeds, the scale and ``SETTINGS``, in this order."""
        gr = self.gradio
        with gr.Row():
            seeds = gr.Textbox(
                self.defaults.seeds,
                label="Seeds",
                info=f"1 to {MOST_SEEDS}: 0, 1, 2",
                elem_id="seeds",
                interactive=True,
            )
            scale = gr.Slider(
                0.0,
                LARGEST_SCALE,
                self.defaults.scale,
                step=0.05,
                label="Adapter scale",
                info="1 is as trained; less weakens an adapter that was trained too far",
                visible=self.systems.has_adapters,
                elem_id="scale",
            )
        inputs = [seeds, scale]
        with gr.Accordion("Sampling", open=False), gr.Row():
            for name in SETTINGS:
                value, info = getattr(self.defaults, name), EXPLAINED[name]
                if isinstance(value, bool):
                    inputs.append(gr.Checkbox(value, label=name, info=info))
                else:
                    inputs.append(gr.Number(value, label=name, info=info, min_width=180, elem_id=name))
        return inputs

    def _greeting(self) -> str:
        dictation = self.systems.dictation
        heard = "" if dictation is None else f" {escaped(dictation.name)} writes down what it says."
        return f"Give a reference.{heard} What is made here is gone when the studio ends: download what you keep."

    # -- what the buttons do ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        gr = self.gradio
        inputs = [self.reference, self.reference_text, self.text, self.chosen, *self.settings]
        outputs = [self.messages, *self.cells.values()]
        # One queue for all that computes: its members run one after the other.
        queued = {"concurrency_id": "one job", "concurrency_limit": 1, "api_visibility": "private"}
        told = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        self.speak_button.click(self._announce, None, self.messages, **told).then(
            self._speak, inputs, outputs, show_progress_on=self.messages, **queued
        )
        self.stop_button.click(self._stop, None, self.messages, **told)
        if self.systems.dictation is not None:
            given = [self.reference.upload, self.reference.stop_recording]
            written = [self.messages, self.reference_text]
            gr.on(given, self._announce, None, self.messages, **told).then(
                self._write_down, self.reference, written, show_progress_on=self.reference_text, **queued
            )

    def _announce(self) -> str:
        """Say at once whether another job runs, before this one waits in the queue."""
        if self._running_since is None:
            return "The job begins."
        seconds = time.monotonic() - self._running_since
        return f"Another job has been running for {seconds:.0f} s; there is one at a time. This one waits for its end."

    def _stop(self) -> Any:
        """Stop the speech, which then says so itself. A message from here could come after it and take its place."""
        if self._running_since is None:
            return "Nothing is being spoken."
        self.systems.stop()
        return self.gradio.skip()

    def _speak(self, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from self._as_job(self._spoken(Wishes(**dict(zip(FIELDS, values, strict=True)))))

    def _write_down(self, reference: str | None) -> Iterator[dict[Any, Any]]:
        yield from self._as_job(self._written_down(reference))

    def _as_job(self, updates: Iterator[dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
        """Pass on the updates of a job, and turn what ends it early into a message."""
        self._running_since = time.monotonic()
        self.systems.go_on()
        try:
            yield from updates
        except StoppedError:
            yield {self.messages: "**Stopped.** What was spoken before stays."}
        except MAY_HAVE_A_NAME as error:
            message = named(error)
            if message is None:
                raise
            yield {self.messages: as_markdown(message)}
        finally:
            self._running_since = None

    def _spoken(self, wishes: Wishes) -> Iterator[dict[Any, Any]]:
        job = check(wishes, self.systems)
        folder = self.folder / f"job_{next(self._numbers)}"
        folder.mkdir()
        rows = {seed: row for row, seed in enumerate(job.settings)}
        hints = "".join(f"\n\n{hint}" for hint in job.hints)
        # Every update holds the whole state: where they come fast, the browser may leave out all but the last one.
        state = {**dict.fromkeys(self.cells.values(), ""), self.messages: f"Speaking: 1 of {len(job)}.{hints}"}
        yield state
        failed = 0
        for done, take in enumerate(speak(job, self.systems, folder), 1):
            failed += bool(take.warnings)
            wrong = f" **{failed} with a warning.**" if failed else ""
            progress = f"Speaking: {done + 1} of {len(job)}." if done < len(job) else f"Done: {done} spoken.{wrong}"
            cell = self.cells[take.system, rows[take.seed]]
            state = {**state, cell: html_of(take), self.messages: progress + hints}
            yield state

    def _written_down(self, reference: str | None) -> Iterator[dict[Any, Any]]:
        """Fill in what the reference says."""
        if reference is None:
            return
        name = escaped(self.systems.dictation.name)
        heard = self.systems.write_down(read_reference(reference))
        said = f"{name} has written down what the reference says. Correct it: a wrong text spoils the speech."
        yield {self.reference_text: heard, self.messages: said if heard else f"{name} has heard no words."}


def html_of(take: Take) -> str:
    """Return a speech as HTML: its player, a link that saves it, and a line about it."""
    facts = [f"{take.seconds:.2f} s", f"{take.letters_per_second:.1f} letters per second"]
    facts += [f"attempt {take.attempts}"] if take.attempts > 1 else []
    lines = [f"<p>seed {take.seed}: {', '.join(facts)}</p>"]
    lines += [f'<p class="warning">Warning: {html.escape(warning)}</p>' for warning in take.warnings]
    if take.path is not None:
        source = html.escape(f"gradio_api/file={quote(str(take.path))}")
        name = html.escape(take.path.name)
        lines.append(f'<audio controls preload="metadata" src="{source}"></audio>')
        lines.append(f'<a href="{source}" download="{name}">Download {name}</a>')
    return f'<div class="take">{"".join(lines)}</div>'


def as_markdown(message: str) -> str:
    """Return an error message of several lines, of which the indented ones are a list, as Markdown."""
    lines = [
        f"- {escaped(line.strip())}" if line.startswith(" ") else f"{escaped(line)}\n" for line in message.splitlines()
    ]
    return "**Error.** " + "\n".join(lines)


def escaped(text: str) -> str:
    """Return a text as Markdown that shows it as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
