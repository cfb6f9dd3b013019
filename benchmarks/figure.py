"""The picture: time to the gap, a row a problem, a mark a tool."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.race import GAP
from benchmarks.report import duration, fastest

#: Colour (Okabe & Ito, told apart by colour-blind readers) and shape of each tool.
MARKS = {
    "glmcore.fit": {"color": "#D55E00", "marker": "o", "markersize": 7},
    "ClassifierGLM": {"color": "#D55E00", "marker": "o", "markersize": 13, "fillstyle": "none"},
    "scikit-learn": {"color": "#0072B2", "marker": "s", "markersize": 7},
    "scikit-learn-intelex": {"color": "#56B4E9", "marker": "D", "markersize": 7},
    "nemos": {"color": "#009E73", "marker": "^", "markersize": 8},
    "glmnet": {"color": "#CC79A7", "marker": "v", "markersize": 8},
    "adelie": {"color": "#E69F00", "marker": "P", "markersize": 8},
}
#: Drawn over the others, which they may hide only in part.
OURS = ("glmcore.fit", "ClassifierGLM")
FLOOR = {"color": "black", "marker": "|", "markersize": 14, "markeredgewidth": 2}
STYLE = {"svg.hashsalt": "benchmarks", "font.size": 10, "axes.axisbelow": True}


def draw(path: Path, results: dict, tools: list[str], names: list[str]):
    """Write the picture of all problems of ``names`` that have results to ``path``."""
    races = {name: results["problems"][name] for name in names if name in results["problems"]}
    if not races:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.5, 1.7 + 0.42 * len(races)), layout="constrained")
        for row, race in enumerate(races.values()):
            _row(axes, row, race, tools)
        _label(axes, races)
        _legend(figure, tools)
        machine = results["machine"]
        figure.suptitle(
            f"Time to a relative objective gap of {GAP:.0e}, warm, NumPy arrays in "
            f"({machine['cpu']}, {machine['cores']} cores)",
            fontsize=11,
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
        plt.close(figure)


def _row(axes, row, race, tools):
    entries = {tool: fastest(race, tool) for tool in tools}
    times = {tool: e["seconds"] for tool, e in entries.items() if e.get("seconds") is not None}
    axes.plot(race["two_reads_s"], row, linestyle="none", **FLOOR)
    if times:
        axes.plot([min(times.values()), max(times.values())], [row, row], color="0.85", zorder=0)
    for tool, seconds in times.items():
        on_top = 4 if tool in OURS else 3
        axes.plot(seconds, row, linestyle="none", zorder=on_top, **MARKS[tool])
    missed = [tool for tool, e in entries.items() if e.get("why", "").startswith("gap")]
    if missed:
        text = f"gap not reached: {', '.join(missed)}"
        where = axes.get_yaxis_transform()
        axes.text(0.995, row + 0.38, text, transform=where, ha="right", fontsize=7, color="0.4")


def _label(axes, races):
    axes.set_xscale("log")
    axes.set_xlabel("time of one fit")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _tick(seconds)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(races)), [_name(name, race) for name, race in races.items()])
    axes.set_ylim(len(races) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _name(name, race) -> str:
    """``digits 1797×64×10, lasso 0.05``: what was fitted."""
    data, _, fraction = name.partition(f"-{race['penalty'].replace(' ', '-')}-")
    shape = "×".join(f"{size:,}".replace(",", "\u2009") for size in race["shape"])
    data = "" if data[0].isdigit() else f"{data} "
    return f"{data}{shape}, {race['penalty']} {fraction}".rstrip()


def _tick(seconds) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return duration(seconds).replace(".0 ", " ")


def _legend(figure, tools):
    marks = {tool: MARKS[tool] for tool in tools} | {"two reads of X": FLOOR}
    handles = [
        plt.Line2D([], [], linestyle="none", label=label, **mark) for label, mark in marks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
