"""The figures of a report as text: Markdown to read, and one LaTeX table to print."""

from collections.abc import Iterable, Sequence

import numpy as np

from svd3d.metrics import published
from svd3d.metrics.catalog import METRICS
from svd3d.metrics.published import Published
from svd3d.metrics.report import Difference, MetricReport, Score, by_object, differences, predictions

SHOWN_EACH = 4
"""Objects shown of the worst, and of the best."""
NONE = "–"
"""In a cell that has no figure."""


def to_markdown(report: MetricReport) -> str:
    """All of the report but its pictures."""
    protocol, measured = report.protocol, report.protocol["measured"]
    lines = [
        f"# Scores under protocol `{protocol['name']}`",
        "",
        protocol["about"],
        "",
        f"{interval_text(report)} Protocol digest `{protocol['digest'][:16]}`.",
        "",
        *_markdown(scores(report)),
    ]
    if report.not_computed:
        lines += ["", "Not computed:", ""]
        lines += [f"- {_cell(name)}: {_cell(reason)}" for name, reason in report.not_computed.items()]
    if len(paired := paired_differences(report)) > 1:
        lines += ["", "## Paired differences", "", difference_text(report), "", *_markdown(paired)]
    if measured["objects"] > 1:
        lines += [
            "",
            "## Worst and best objects",
            "",
            extremes_text(report),
            "",
            *_markdown(extremes(report)),
        ]
    if report.costs:
        lines += ["", "## Time and memory", "", *_markdown(costs(report))]
    for table in published.tables(protocol["kind"]):
        lines += ["", f"## {table.name}", "", published_text(table), "", *_markdown(published_scores(table))]
    lines += ["", "## How each number is made", ""]
    lines += [f"- {name}: {text}" for name, text in protocol["definitions"].items()]
    lines += [f"- note: {_cell(note)}" for note in measured.get("notes", [])]
    return "\n".join(lines) + "\n"


def to_latex(report: MetricReport) -> str:
    """One table (packages `booktabs`; figures as in the Markdown): ours, then published ones of this kind.

    Published rows are those of the table that comes nearest to the protocol; their protocol stands in the
    second column.
    """
    near = [t for t in published.tables(report.protocol["kind"]) if t.like == report.protocol["name"]]
    names = list(dict.fromkeys([*metrics(report), *(metric for table in near for metric in table.metrics)]))
    own = f"{report.protocol['name']} {report.protocol['digest'][:8]}"
    lines = [
        f"% {report.protocol['name']}, digest {report.protocol['digest']}. {_plain(interval_text(report))}",
        r"\begin{tabular}{ll" + "r" * len(names) + "}",
        r"\toprule",
        _latex_row(["Method", "Protocol", *(_heading(name) for name in names)]),
        r"\midrule",
        *(
            _latex_row([method, own, *(figure(n, by[n]) if n in by else NONE for n in names)])
            for method, by in report.methods.items()
        ),
    ]
    for table in near:
        lines.append(r"\midrule")
        lines += [
            _latex_row([method, f"as published: {table.name}", *(by.get(name, NONE) for name in names)])
            for method, by in table.figures().items()
        ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def scores(report: MetricReport) -> list[list[str]]:
    """The scores as text, header first: one row per method, one column per metric."""
    names = metrics(report)
    return [
        ["method", *(_heading(name) for name in names)],
        *(
            [method, *(figure(name, by[name]) if name in by else NONE for name in names)]
            for method, by in report.methods.items()
        ),
    ]


def paired_differences(report: MetricReport) -> list[list[str]]:
    """The first prediction minus every other method, header first; an asterisk where 0 is left out."""
    names = metrics(report)
    rows = [["minus", *(_heading(name) for name in names)]]
    for other in report.methods:
        if other != _first(report):
            found = differences(report, _first(report), other)
            if found:
                cells = (_difference(name, found[name]) if name in found else NONE for name in names)
                rows.append([other, *cells])
    return rows


def extremes(report: MetricReport) -> list[list[str]]:
    """The worst and best objects by the first metric of the first method, from the worst on, header first."""
    metric, ranked = _ranked(report)
    shown = ranked if len(ranked) <= 2 * SHOWN_EACH else [*ranked[:SHOWN_EACH], *ranked[-SHOWN_EACH:]]
    return [
        ["object", _heading(metric)],
        *([name, f"{value:.{METRICS[metric].digits}f}"] for name, value in shown),
    ]


def extremes_text(report: MetricReport) -> str:
    """What the table of the worst and best objects says."""
    metric, ranked = _ranked(report)
    which = f"All {len(ranked)}"
    if len(ranked) > 2 * SHOWN_EACH:
        which = f"The {SHOWN_EACH} worst and the {SHOWN_EACH} best of {len(ranked)}"
    return f"{which} objects, from the worst to the best {metric} of {_first(report)}."


def _ranked(report: MetricReport) -> tuple[str, list[tuple[str, float]]]:
    metric, values = next(iter(by_object(report.rows)[_first(report)].items()))
    means = [(name, float(np.mean(found))) for name, found in values.items()]
    return metric, sorted(means, key=lambda mean: mean[1], reverse=not METRICS[metric].higher_is_better)


def _first(report: MetricReport) -> str:
    """The method that the others are compared with."""
    return next(iter([*predictions(report), *report.methods]))


def costs(report: MetricReport) -> list[list[str]]:
    """Time and memory, header first: one row per method, and one for scoring."""
    names = list(dict.fromkeys(name for cost in report.costs.values() for name in cost))
    rows = [[who, *(f"{cost[name]:.3g}" if name in cost else NONE for name in names)]
            for who, cost in report.costs.items()]  # fmt: skip
    return [["", *names], *rows]


def published_scores(table: Published) -> list[list[str]]:
    """A published table, header first; without units, which sources do not always state."""
    header = ["method", *(published.UNSTATED.get(name, name) for name in table.metrics)]
    return [header, *([method, *by.values()] for method, by in table.figures().items())]


def published_text(table: Published) -> str:
    """Where a published table is from and how it was measured."""
    return f"As published ({table.source}), protocol: {table.protocol}."


def metrics(report: MetricReport) -> list[str]:
    """The metrics that some method has."""
    return list(dict.fromkeys(metric for scores in report.methods.values() for metric in scores))


def figure(metric: str, score: Score) -> str:
    """A score as it stands in a table: mean [low, high].

    >>> figure("psnr", Score(20.126, (19.0, 21.25), 30, "dB", True))
    '20.13 [19.00, 21.25]'
    """
    digits = METRICS[metric].digits
    spread = f" [{score.ci95[0]:.{digits}f}, {score.ci95[1]:.{digits}f}]" if score.ci95 else ""
    return f"{score.mean:.{digits}f}{spread}"


def interval_text(report: MetricReport) -> str:
    """How many objects, and what the brackets are."""
    measured = report.protocol["measured"]
    count, over = measured["objects"], measured["interval_over"]
    if over == "nothing":
        return "One object, so there is no interval."
    n = ", ".join(
        map(str, sorted({score.n for scores in report.methods.values() for score in scores.values()}))
    )
    objects = "1 object" if count == 1 else f"{count} objects"
    return f"{objects}. Brackets: 95 % bootstrap interval of the mean over {over} (n = {n})."


def difference_text(report: MetricReport) -> str:
    """What the table of paired differences says."""
    over = report.protocol["measured"]["interval_over"].removesuffix("s")
    return (
        f"{_first(report)} minus each other method, {over} by {over}. "
        "An asterisk: the 95 % bootstrap interval leaves out 0."
    )


def _difference(metric: str, difference: Difference) -> str:
    digits = METRICS[metric].digits
    spread = ""
    if difference.ci95:
        spread = f" [{difference.ci95[0]:+.{digits}f}, {difference.ci95[1]:+.{digits}f}]"
    return f"{difference.mean:+.{digits}f}{spread}{' *' if difference.certain else ''}"


def _heading(metric: str) -> str:
    if metric in published.UNSTATED:
        return published.UNSTATED[metric]
    facts = METRICS[metric]
    return f"{metric} ({facts.unit}) {'↑' if facts.higher_is_better else '↓'}"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return ["| " + " | ".join(_cell(text) for text in row) + " |" for row in lines]


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split())


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "²": "$^2$", **{c: f"\\{c}" for c in "&%$#_"},
}  # fmt: skip
"""What LaTeX would read as something else."""


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join("".join(_LATEX.get(c, c) for c in _plain(cell)) for cell in cells) + r" \\"
