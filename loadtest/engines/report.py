"""The engine bench as a page: every cell, its ratios and its share of the machine's peak. Knows figures only."""

from collections.abc import Callable, Iterable
from itertools import product

from loadtest.engines import torch_contender
from loadtest.engines.bench import Contender, Figures
from loadtest.tables import markdown

NOT_RUNTIMES = {"auto", "openvino f32", *torch_contender.NAMES}
EAGER = "torch eager"
WITHIN = 1.10

_TIMES = """\
Median over the rounds, in brackets the least and the largest; then the share of torch's matrix-multiply rate in the
contender's precision (auto: in the better one)."""
_COSTS = """\
Memory: what a process with the model on that runtime has grown by, its library included. Start: from the first import
to one image answered by every stage; `auto` chooses in it, a later start does not. Difference: largest of a probability
from the first contender's, on synthetic images."""


def render(figures: Figures) -> str:
    """The report without its title."""
    parts = [
        _method(figures),
        "## Time of one launch, ms",
        _TIMES,
        _times(figures),
        "## Ratios",
        _ratios(figures),
        *_verdicts(figures),
        "## Memory, start-up, answers",
        _COSTS,
        _costs(figures),
        *_not_run(figures),
    ]
    return "\n\n".join(parts)


def _method(figures: Figures) -> str:
    plan = figures.plan
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in figures.product_rates.items())
    return (
        f"Model {figures.model}; {plan.threads} thread(s) on cpu {','.join(map(str, plan.cpus))}; {plan.rounds} rounds "
        f"of {plan.seconds:g} s per contender and cell, contenders taking turns, each in a process of its own. "
        f"Matrix products reach {rates or '(torch is not here to measure them)'} on these threads."
    )


def _cells(figures: Figures) -> Iterable[tuple[str, int]]:
    return product(figures.multiply_adds, figures.plan.batches)


def _times(figures: Figures) -> str:
    rows = [
        [stage, str(batch), *(_time(figures, one, stage, batch) for one in figures.contenders.values())]
        for stage, batch in _cells(figures)
    ]
    names = [f"{one.name} ({one.precision})" for one in figures.contenders.values()]
    return markdown(["Stage", "Batch", *names], rows)


def _time(figures: Figures, one: Contender, stage: str, batch: int) -> str:
    cell = one.cells[stage][batch]
    written = f"{cell.median_ns / 1e6:.3f} ({cell.least_ns / 1e6:.3f}–{cell.most_ns / 1e6:.3f})"
    share = share_of_peak(figures, one, stage, batch)
    return written if share is None else f"{written} {100 * share:.0f} %"


def share_of_peak(figures: Figures, one: Contender, stage: str, batch: int) -> float | None:
    """Share of the matrix-multiply rate at two operations per multiply-add; None where either is not known."""
    rates = [rate for name, rate in figures.product_rates.items() if name in one.precision.split("+")]
    multiply_adds = figures.multiply_adds[stage]
    if not rates or multiply_adds is None:
        return None
    return 2e9 * multiply_adds * batch / one.cells[stage][batch].median_ns / max(rates)


def runtimes_of(figures: Figures) -> list[Contender]:
    """The service's own runtimes, one by one."""
    return [one for name, one in figures.contenders.items() if name not in NOT_RUNTIMES]


def fastest(contenders: Iterable[Contender], stage: str, batch: int) -> float | None:
    """Nanoseconds of the fastest; None of nobody."""
    return min((one.cells[stage][batch].median_ns for one in contenders), default=None)


def ratios(figures: Figures, stage: str, batch: int) -> dict[str, float]:
    """Of one cell, by name; above 1 is in the service's favour, but for the first, which is best at 1."""
    auto = figures.contenders.get("auto")
    found: dict[str, float] = {}
    if auto is not None:
        ours = auto.cells[stage][batch].median_ns
        best = fastest(runtimes_of(figures), stage, batch)
        found |= {} if best is None else {"auto / best runtime": ours / best}
        for name, one in figures.contenders.items():
            if name in torch_contender.NAMES:
                found[f"{name} / auto"] = one.cells[stage][batch].median_ns / ours
    ours_all = [
        one
        for name, one in figures.contenders.items()
        if name != "auto" and name not in torch_contender.NAMES
    ]
    exact = fastest((one for one in ours_all if one.precision == "f32"), stage, batch)
    rounded = fastest((one for one in ours_all if one.precision == "bf16"), stage, batch)
    if exact is not None and rounded is not None:
        found["best f32 / best bf16"] = exact / rounded
    return found


def _ratios(figures: Figures) -> str:
    by_cell = {cell: ratios(figures, *cell) for cell in _cells(figures)}
    names = list(next(iter(by_cell.values()), {}))
    rows = [
        [stage, str(batch), *(f"{found[name]:.2f}" for name in names)]
        for (stage, batch), found in by_cell.items()
    ]
    return markdown(["Stage", "Batch", *names], rows)


def _verdicts(figures: Figures) -> list[str]:
    """What the project asks of itself, met or not."""
    eager = f"{EAGER} / auto"
    asked: list[tuple[str, Callable[[int], bool], str, float]] = [
        ("auto / best runtime", lambda _batch: True, "at most", WITHIN),
        (eager, lambda batch: batch >= 16, "at least", 1.8),
        (eager, lambda batch: batch == 1, "at least", 2.0),
        ("best f32 / best bf16", lambda batch: batch >= 16, "at least", 1.6),
    ]
    lines = []
    for name, counts, sense, bound in asked:
        values = [
            found[name]
            for stage, batch in _cells(figures)
            if counts(batch) and name in (found := ratios(figures, stage, batch))
        ]
        if not values:
            continue
        worst = max(values) if sense == "at most" else min(values)
        met = worst <= bound if sense == "at most" else worst >= bound
        where = ", ".join(str(b) for b in figures.plan.batches if counts(b))
        lines.append(
            f"- {name} at batch {where}: {worst:.2f} in the worst cell, asked: {sense} {bound:g}: "
            f"{'met' if met else '**not met**'}"
        )
    return ["\n".join(lines)] if lines else []


def _costs(figures: Figures) -> str:
    rows = [
        [
            one.name,
            f"{one.memory_bytes / 1e6:.0f}",
            f"{one.start_s:.2f}",
            f"{one.difference:.1e}",
            "; ".join(f"{stage}: {remark}" for stage, remark in one.remarks.items()) or "–",
        ]
        for one in figures.contenders.values()
    ]
    return markdown(["Contender", "Memory MB", "Start s", "Difference", "Chosen, by batch"], rows)


def _not_run(figures: Figures) -> list[str]:
    if not figures.not_run:
        return []
    return ["Not run:", "\n".join(f"- {name}: {reason}" for name, reason in figures.not_run.items())]
