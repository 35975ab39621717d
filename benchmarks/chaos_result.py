"""Result of a storm of faults on a suite, and the report of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos_faults import GATEWAY, KINDS
from benchmarks.chaos_load import Differences
from benchmarks.report import Result, Table, Target
from benchmarks.samples import percentile
from services.inference_worker.config import WorkerConfig

WORKER_S, GATEWAY_S = 2.0, 5.0  # until there are answers again, by 95 of 100 faults
CALM = "no fault"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, or none. `recovery_s`: until a question about each session that it befell, asked
    in its moment, was answered, or given up."""

    kind: str
    recovery_s: float


@dataclass(slots=True)
class Storm:
    """Findings."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    questions: int = 0
    cancelled: int = 0
    restarted: int = 0
    kept_later: int = 0
    unanswered: list[str] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)
    sessions_gone: int = 0
    watches_gone: list[str] = field(default_factory=list)
    events: int = 0
    false_events: int = 0
    complaints: list[str] = field(default_factory=list)

    def recoveries_s(self, kind: str) -> list[float]:
        return [fault.recovery_s for fault in self.faults if fault.kind == kind]

    @property
    def counts(self) -> dict[str, int]:
        """Counts that must be zero."""
        return {
            "questions without an answer": len(self.unanswered),
            "turns lost": self.differences.lost,
            "turns doubled": self.differences.doubled,
            "histories that differ from what viewers read": self.differences.different,
            "sessions gone": self.sessions_gone,
            "watches gone": len(self.watches_gone),
            "false events of watches": self.false_events,
            "services that did not end in order": len(self.complaints),
        }


def result(storm: Storm) -> Result:
    names = [CALM, *(kind.name for kind in (*KINDS, *GATEWAY))]
    drawn_names = Counter(fault.kind for fault in storm.faults)
    rows = []
    targets = [Target(what, float(count), 0.0) for what, count in storm.counts.items()]
    moving = {kind.name for kind in KINDS if kind.moves}
    for name in names:
        if not (recoveries := storm.recoveries_s(name)):
            continue
        p50_s, p95_s = percentile(recoveries, 0.5), percentile(recoveries, 0.95)
        figures = (f"{p50_s:.2f}", f"{p95_s:.2f}", f"{max(recoveries):.2f}")
        rows.append((name, str(drawn_names[name]), *figures))
        if name in moving:
            targets.append(Target(f"{name}: answers again, p95", p95_s, WORKER_S, "s"))
        if name.startswith("gateway"):
            targets.append(Target(f"{name}: answers again, p95", p95_s, GATEWAY_S, "s"))
    totals = {
        "questions": storm.questions,
        "cancelled by their viewers": storm.cancelled,
        "begun anew after words were shown": storm.restarted,
        "stored after their end": storm.kept_later,
        "events of watches": storm.events,
        **storm.counts,
    }
    worker = WorkerConfig.from_env()
    return Result(
        name="chaos",
        tables=[
            Table(
                f"{len(storm.faults) // 2} faults, seed {storm.seed}: a question of that moment",
                ("fault", "times", "after s, p50", "p95", "most"),
                rows,
            ),
            Table("Of all that was said", ("", ""), [(what, str(n)) for what, n in totals.items()]),
        ],
        targets=targets,
        figures=asdict(storm),
        draw=lambda figure: _draw(figure, storm, [row[0] for row in rows]),
        dtype=worker.dtype,
        device=worker.device,
        notes=[
            f"{count} × {what}"
            for what, count in Counter([*storm.unanswered, *storm.watches_gone]).most_common(8)
        ]
        + storm.complaints,
    )


def _draw(figure: Any, storm: Storm, names: Sequence[str]) -> None:
    axes = figure.subplots()
    for place, name in enumerate(names):
        recoveries = sorted(storm.recoveries_s(name))
        axes.plot(recoveries, [place] * len(recoveries), "|", markersize=12)
    axes.axvline(WORKER_S, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds until a question asked in the moment of the fault was answered")
    axes.set_xlim(left=0)
