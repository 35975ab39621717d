"""Output of the launcher: progress, answers, where to connect, a living status line."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.common.progress import RESTART
from services.local.process import Process
from services.local.tour import Told
from sightline.types import SessionInfo, SessionStats

PLAIN_S = 10.0  # between two status lines where the output is no terminal
WORTH_S = 2.0  # shorter waits are not told of where the output is no terminal
_PASSING = ("starting", "stopping")
GOOD, BAD = "green", "red"


class Show:
    """The user's console. On a terminal it draws; elsewhere it writes plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._states: dict[str, tuple[str, float]] = {}
        self._started_s = time.monotonic()
        self._live: Live | None = None
        self._running = False
        self._last_plain_s = 0.0
        self._words: dict[str, str] = {}
        self._spinner = Spinner("dots", style="cyan")

    def page(self, address: str) -> None:
        """The first thing that is told."""
        self.console.print(Text.assemble(("page  ", "bold"), address), soft_wrap=True)
        self.line("It fills as the parts of the suite come up.", "dim")

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A line with a moving counter while something is waited for; elsewhere the text once,
        where the wait is worth it."""
        if not self.console.is_terminal:
            began_s = time.monotonic()
            yield
            if time.monotonic() - began_s > WORTH_S:
                self.line(f"{text}: {time.monotonic() - began_s:.0f} s", "dim")
            return
        spinner = _Counter(text)
        with Live(spinner, console=self.console, refresh_per_second=8, transient=True):
            yield

    # --- processes ---------------------------------------------------------------------------

    def process(self, process: Process, state: str) -> None:
        """Tell what happens to a process: rows of the progress display, or a line each."""
        now = time.monotonic()
        first = self._states.get(process.name, ("", now))[1]
        self._states[process.name] = (state, now if state == "starting" else first)
        if self._live is not None and not self._running:
            return  # drawn with the rest
        if state not in _PASSING and (process.address or state not in ("ready", "stopped")):
            self.line(f"{process.name}: {state}{self._detail(process, state)}")

    def progress(self, process: Process, words: str) -> None:
        """Tell how far a process is that is starting."""
        self._words[process.name] = words
        now = time.monotonic()
        if self._live is None and now - self._last_plain_s >= PLAIN_S:
            self._last_plain_s = now
            self.line(f"{process.name}: {words}")

    def starting(self) -> None:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._progress,  # drawn anew each time, so that counters move
                refresh_per_second=8,
                transient=False,
            )
            self._live.start()

    def started(self) -> None:
        """Everything serves, or something failed: the progress display stays as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _detail(self, process: Process, state: str) -> str:
        if state != "ready":
            return ""
        seconds = time.monotonic() - self._states[process.name][1]
        where = f", {process.address}" if process.address else ""
        return f" after {seconds:.1f} s{where}"

    def _progress(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (state, since_s) in self._states.items():
            if state == "starting":
                mark: Spinner | Text = self._spinner
                words = self._words.get(name, "starting")
                note = Text(f"{words} · {time.monotonic() - since_s:.0f} s", style="dim")
            elif state == "ready":
                mark, note = Text("✓", style=GOOD), Text("ready", style=GOOD)
            else:
                mark, note = Text("✗", style=BAD), Text(state, style=BAD)
            table.add_row(mark, name, note)
        return table

    # --- lines -------------------------------------------------------------------------------

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def failure(self, message: str, lines: Sequence[str]) -> None:
        self.line(message, f"bold {BAD}")
        for text in lines:
            self.line(f"  {text}", "dim")

    def complaint(self, text: str) -> None:
        self.line(text, "yellow")

    # --- the three questions -----------------------------------------------------------------

    def question(self, question: str, position_s: float | None) -> None:
        when = "" if position_s is None else f"{position_s:5.1f} s  "
        self.console.print(Text.assemble((when, "dim"), (question, "bold")))
        self.console.print(" " * (len(when) + 2), end="")

    def piece(self, text: str) -> None:
        self.console.print(Text(text, style="cyan"), end="", soft_wrap=True)

    def answered(self, told: Told) -> None:
        times = f"   first token {told.first_token_ms:.0f} ms, all {told.total_ms:.0f} ms"
        verdict = Text()
        if told.right is not None:
            verdict = Text("   right" if told.right else f"   truth: {told.truth}")
            verdict.stylize(GOOD if told.right else BAD)
        self.console.print(Text.assemble((times, "dim"), verdict), soft_wrap=True)

    # --- where to connect, and how it goes ----------------------------------------------------

    def addresses(self, rows: Sequence[tuple[str, str]], commands: Sequence[str]) -> None:
        """Tell where to connect, and what to type; whole lines, so that they can be copied."""
        self.console.print()
        for name, address in rows:
            self.console.print(Text.assemble((f"{name:6}", "bold"), address), soft_wrap=True)
        self.console.print()
        for command in commands:
            self.line(f"  {command}", "cyan")
        self.console.print()

    def running(self) -> None:
        """Show a status line from now on."""
        self._running = True
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def status(self, sessions: Sequence[SessionInfo]) -> None:
        if self._live is not None:
            line = Text(" · ".join(_status(sessions)), "dim", no_wrap=True, overflow="ellipsis")
            self._live.update(line, refresh=True)
        elif self._running and time.monotonic() - self._last_plain_s >= PLAIN_S:
            self._last_plain_s = time.monotonic()
            self.line(" · ".join(_status(sessions)))

    def away(self) -> None:
        """The gateway does not answer just now."""
        if self._live is not None:
            self._live.update(Text("the gateway does not answer", style="yellow"), refresh=True)

    def close(self) -> None:
        self._running = False
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Counter:
    """A text with the seconds since it came."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._began_s = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 1))
        waited = f"{self._text} · {time.monotonic() - self._began_s:.0f} s"
        row.add_row(self._spinner, Text(waited, style="dim"))
        return row


_FLAGS = {
    "worker_unavailable": f"the model is restarting, {RESTART}",
    "unfamiliar_picture": (
        "I see a picture unlike those I was trained on; load another model: docs/models.md"
    ),
}


def _status(sessions: Sequence[SessionInfo]) -> list[str]:
    """Figures over all sessions: rates add up, latencies are those of the slowest."""
    stats: list[SessionStats] = [info.stats for info in sessions]
    busy = [each for each in stats if each.frames_processed]
    dropped = sum(sum(each.dropped.values()) for each in stats)
    p50 = max((each.frame_latency_p50_ms for each in busy), default=0.0)
    p95 = max((each.frame_latency_p95_ms for each in busy), default=0.0)
    hits = min((each.kv_hit_ratio for each in busy), default=1.0)
    degraded = sorted({flag for each in stats for flag in each.degraded})
    return [
        f"{sum(each.fps_in for each in stats):.1f} fps in, "
        f"{sum(each.fps_processed for each in stats):.1f} processed, {dropped} dropped",
        f"frames p50 {p50:.0f} p95 {p95:.0f} ms",
        f"KV hits {hits * 100:.0f} %",
        *(_FLAGS.get(flag, flag.replace("_", " ")) for flag in degraded),
    ]
