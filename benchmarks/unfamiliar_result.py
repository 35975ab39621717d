"""Tables, targets and plot of what is withheld about unfamiliar pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Result, Table, Target
from benchmarks.samples import Ratio
from services.inference_worker.kv.look import FAMILIAR

OWN = ("its own world", "its own world as video")
FOREIGN = ("real clips", "previews", "photographs", "generated")
LEAST_WRONG, MOST_RIGHT = 0.95, 0.02  # shares that are withheld
MOST_COST = 1.03  # times a step without the score


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer, or a condition that was said to hold."""

    kind: str
    right: bool
    strangeness: float

    @property
    def withheld(self) -> bool:
        return self.strangeness > FAMILIAR


@dataclass(slots=True)
class Group:
    """All that was said about pictures of one origin."""

    statements: list[Statement] = field(default_factory=list)

    def withheld(self, *, right: bool, watch: bool | None = None) -> float | None:
        """Share of the right or wrong statements that is withheld; None where there are none."""
        of = [
            each.withheld
            for each in self.statements
            if each.right == right and (watch is None or (each.kind == "watch") == watch)
        ]
        return sum(of) / len(of) if of else None

    def count(self, *, right: bool) -> int:
        return sum(each.right == right for each in self.statements)


def result_of(groups: Mapping[str, Group], cost: Ratio, dtype: str, device: str) -> Result:
    rows = [
        (
            name,
            str(group.count(right=True)),
            _share(group.withheld(right=True)),
            str(group.count(right=False)),
            _share(group.withheld(right=False)),
            _share(group.withheld(right=False, watch=True)),
        )
        for name, group in groups.items()
    ]
    targets = [
        *_targets(groups, FOREIGN, "wrong", LEAST_WRONG),
        *_targets(groups, OWN, "right", MOST_RIGHT),
        Target("a step with the score, times one without", cost.median, MOST_COST),
    ]
    missing = [name for name in FOREIGN if name not in groups]
    return Result(
        name="unfamiliar",
        tables=[
            Table(
                "Statements about pictures, and how many are withheld",
                ("pictures", "right", "withheld", "wrong", "withheld", "of watches"),
                rows,
            )
        ],
        targets=targets,
        figures={"groups": {name: _figures(group) for name, group in groups.items()}, "cost": cost},
        draw=lambda figure: _draw(figure, groups),
        dtype=dtype,
        device=device,
        notes=[
            "right or wrong: of its own world as the examination marks it (of video all counts as "
            "right); of real things whatever names a thing is wrong, unless the label says so",
            *([f"not here: {', '.join(missing)}"] if missing else []),
        ],
    )


def _targets(
    groups: Mapping[str, Group], names: Iterable[str], kind: str, limit: float
) -> list[Target]:
    right = kind == "right"
    shares = {name: groups[name].withheld(right=right) for name in names if name in groups}
    return [
        Target(f"{kind} statements withheld, {name}", share, limit, at_least=not right)
        for name, share in shares.items()
        if share is not None
    ]


def _figures(group: Group) -> dict[str, Any]:
    return {
        "right": group.count(right=True),
        "wrong": group.count(right=False),
        "right_withheld": group.withheld(right=True),
        "wrong_withheld": group.withheld(right=False),
        "strangeness": [each.strangeness for each in group.statements],
    }


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _draw(figure: Any, groups: Mapping[str, Group]) -> None:
    axes = figure.subplots()
    names = list(groups)
    for name in names:
        values = sorted(each.strangeness for each in groups[name].statements)
        shares = [number / len(values) for number in range(1, len(values) + 1)]
        axes.plot(values, shares, label=name, linestyle="-" if name in OWN else "--")
    axes.axvline(FAMILIAR, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("strangeness; what lies to the right of 1 is withheld")
    axes.set_ylabel("share of statements below")
    axes.legend(fontsize="small")
