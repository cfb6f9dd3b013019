"""From results to the tables of the README; nothing in them is typed by hand."""

import statistics
from pathlib import Path

from benchmarks.many import BATCHES
from benchmarks.path import PATHS
from benchmarks.race import GAP

FIGURE = "![Time to the gap, a row a problem, a mark a tool](benchmarks/figures/time_to_gap.svg)"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
#: The tool that ratios are relative to.
OURS = "glmcore.fit"


def write(readme: Path, results: dict, tools: list[str], names: list[str]):
    """Replace what stands between the markers of ``readme``.

    Raises
    ------
    ValueError
        If the markers are not there.
    """
    text = readme.read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{readme} has no lines {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{render(results, tools, names)}\n{END}{after}")


def render(results: dict, tools: list[str], names: list[str]) -> str:
    """All tables, for the problems of ``names`` that have results, in this order."""
    races = {name: results["problems"][name] for name in names if name in results["problems"]}
    picture = FIGURE if races else ""
    parts = [_setting(results["machine"]), _times(races, tools), picture, _steps(races, tools)]
    parts += [_paths(results), _many(results), _grids(results)]
    parts += [_first_and_again(results, tools), _floor(results)]
    parts += [_streams(results), _out_of_core(results), _two_processes(results), _gpu(results)]
    parts.append(_robustness(results))
    parts.append(_missing(results["machine"], tools))
    return "\n\n".join(part for part in parts if part)


def fastest(race: dict, tool: str) -> dict:
    """The fastest entry of a tool, else the one with the smallest gap, else any; {} without one."""
    entries = [entry for entry in race["entries"] if entry["tool"] == tool]
    in_time = [entry for entry in entries if entry["seconds"] is not None]
    if in_time:
        return min(in_time, key=lambda entry: entry["seconds"])
    tried = [entry for entry in entries if entry["gap"] is not None]
    return min(tried, key=lambda entry: entry["gap"]) if tried else _last_word(entries)


def duration(seconds: float) -> str:
    """Two significant digits with a unit.

    >>> duration(0.0021731), duration(0.4849), duration(12.34)
    ('2.2 ms', '480 ms', '12 s')
    """
    value, unit = (seconds * 1e3, "ms") if seconds < 1 else (seconds, "s")
    return f"{_two_digits(value)} {unit}"


def _two_digits(value):
    """A number without exponent: ``0.034``, ``3.4``, ``34``, ``3400``."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}"


def _last_word(entries):
    """A failed entry rather than one that does not apply."""
    failed = [entry for entry in entries if entry["why"].startswith("failed")]
    return (failed or entries or [{}])[0]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _setting(machine) -> str:
    versions = ", ".join(f"{tool} {said}" for tool, said in machine["versions"].items() if said[:1].isdigit())
    return f"{machine['cpu']}, {machine['cores']} cores, JAX on {machine['backend'].upper()}; {versions}."


def _times(races, tools) -> str:
    if not races:
        return ""
    rows = []
    for name, race in races.items():
        ours = fastest(race, OURS).get("seconds")
        cells = [_time(fastest(race, tool), ours) for tool in tools]
        sparse = race["penalty"].replace(" ", "-") in name
        title = name if sparse else f"{name}, {race['penalty']}"
        rows.append([title, *cells, duration(race["two_reads_s"])])
    head = f"Time to a relative objective gap of {GAP:.0e}, warm (in brackets: times that of `{OURS}`):"
    return head + "\n\n" + _table(["", *tools, "two reads of X"], rows)


def _time(entry, ours) -> str:
    if entry.get("seconds") is not None:
        ratio = entry["seconds"] / ours if ours and entry["tool"] != OURS else None
        return duration(entry["seconds"]) + (f" ({_two_digits(ratio)}×)" if ratio else "")
    why = entry.get("why", "")
    if why.startswith(("gap", "failed")):
        return why
    return "not installed" if entry and not entry["version"] else "–"


def _steps(races, tools) -> str:
    if not races:
        return ""

    def cell(entry):
        if entry.get("seconds") is None or entry["n_iter"] is None:
            return "–"
        return f"{entry['n_iter']} {entry['solver']}".strip()

    rows = [[name, *(cell(fastest(race, tool)) for tool in tools)] for name, race in races.items()]
    head = (
        "Steps of these fits, as each tool counts them (each passes over X at least once forward "
        "and once back), and the fastest solver of tools that have several:"
    )
    return head + "\n\n" + _table(["", *tools], rows)


def _paths(results) -> str:
    """Regularisation paths, in the order of the table."""
    found = results.get("paths", {})
    if not found:
        return ""
    rows = []
    for name in filter(found.get, PATHS):
        entries = found[name]["tools"]
        ours = entries["glmcore"]
        cells = [_beside(entries.get(tool), ours) for tool in ("glmnet", "adelie")]
        title = name.removeprefix("path-")
        rows.append([title, duration(ours["seconds"]), duration(ours["cold"]), *cells])
    head = (
        f"Paths of 100 strengths, to a hundredth of the first one: time in which all answers are within {GAP:.0e} "
        "of the best known ones, or the last try of a tool that does not get there and the gap that remains:"
    )
    return head + "\n\n" + _table(["", "glmcore", "its first run", "glmnet", "adelie"], rows)


def _many(results) -> str:
    """Many models by one vmap or one estimator."""
    found = results.get("many", {})
    if not found:
        return ""
    rows = []
    for name in filter(found.get, BATCHES):
        ours, size = found[name]["glmcore"], "×".join(map(str, found[name]["shape"][1:]))
        make, _, fitted = BATCHES[name]
        title = f"{found[name]['shape'][0]} {make.__name__} of {size}, one {fitted.__name__}"
        cells = [duration(ours["seconds"]), duration(ours["cold"]), _beside(found[name]["scikit-learn"], ours)]
        rows.append([title, *cells])
    head = (
        f"Many Ridge models, by one `jax.vmap` of `{OURS}` or one `ClassifierPopulationGLM` beside a loop of fits, all "
        f"within {GAP:.0e} of the better one:"
    )
    return head + "\n\n" + _table(["", "glmcore", "its first run", "scikit-learn"], rows)


def _grids(results) -> str:
    """Searches for a strength."""
    rows = []
    for name, found in sorted(results.get("grids", {}).items()):
        ours, theirs = found["glmcore"], found["scikit-learn"]
        cells = [f"{duration(theirs[key])} ({_two_digits(theirs[key] / ours[key])}×)" for key in ("cold", "seconds")]
        rows.append(
            [name, duration(ours["cold"]), cells[0], duration(ours["seconds"]), cells[1], f"{ours['C']:.2g}", f"{theirs['C']:.2g}"]
        )
    if not rows:
        return ""
    head = (
        "20 values of C in 5 folds of the digits by log-loss, with `n_jobs=2`: two processes of scikit-learn, two threads of "
        "ours:"
    )
    columns = ["", "first run", "scikit-learn", "later", "scikit-learn", "C", "scikit-learn"]
    return head + "\n\n" + _table(columns, rows)


def _beside(entry, ours) -> str:
    """Time of a tool and how many times ours it is, or what gap was left after that time."""
    if entry is None:
        return "–"
    ratio = _two_digits(entry["seconds"] / ours["seconds"])
    left = f"gap {entry['gap']:.0e} after " if entry["gap"] > GAP else ""
    return f"{left}{duration(entry['seconds'])} ({ratio}×)"


def _first_and_again(results, tools) -> str:
    """Cold starts, updates, compilations and memory, one row each."""
    rows = []
    for key, title, form in [
        ("cold", "fresh process: import, fit iris, predict", duration),
        ("updates", "one step of `update` on iris", duration),
        ("compilations", "programs compiled by 20 fits of 90 to 130 rows", str),
    ]:
        if key in results:
            rows.append([title, *(_cell(results[key], tool, form) for tool in tools)])
            if key == "cold":
                cached = {name.split(",")[0]: took for name, took in results[key].items() if "cache" in name}
                title = "the same with JAX's cache of compiled programs on disk"
                rows.append([title, *(_cell(cached, tool, form) for tool in tools)])
    return _table(["", *tools], rows + _memory(results, tools)) if rows or "memory" in results else ""


def _cell(found, tool, form) -> str:
    value = found.get(tool, "–")
    return value if isinstance(value, str) else form(value)


def _memory(results, tools):
    """The least of each tool's solvers, in copies of X and of an n x K array."""
    if "memory" not in results:
        return []
    found, rows = results["memory"], []
    for key, what in [("x_bytes", "copies of X"), ("predictor_bytes", "arrays of n × K")]:
        cells = []
        for tool in tools:
            peaks = [v for label, v in found.items() if label.startswith(f"{tool} ") or label == tool]
            numbers = [peak for peak in peaks if not isinstance(peak, str)]
            cells.append(f"{min(numbers) / found[key]:.1f}" if numbers else (peaks or ["–"])[0])
        rows.append([f"peak memory of a fit of 1000000x20x3 besides X, in {what}", *cells])
    return rows


def _floor(results) -> str:
    rows = [
        [
            name,
            duration(found["step_s"]),
            duration(found["two_reads_s"]),
            f"{found['step_s'] / found['two_reads_s']:.1f}×",
            f"{found['bytes_per_s'] / 1e9:.0f} GB/s",
        ]
        for name, found in sorted(results.get("steps", {}).items())
        if found["step_s"]
    ]
    if not rows:
        return ""
    header = ["", "one step of `glmcore.LBFGS`", "two reads of X", "ratio", "read at"]
    return "What the memory bus allows:\n\n" + _table(header, rows)


def _streams(results) -> str:
    rows = []
    for size, learners in results.get("streams", {}).items():
        slowest = learners["SGDClassifier.partial_fit"]["seconds"]
        for name, found in learners.items():
            speed = slowest / found["seconds"]
            cells = [duration(found["seconds"]), f"{_two_digits(speed)}×", f"{found['log_loss']:.4f}", found["setting"]]
            rows.append([f"`{name}`, {size} rows", *cells])
    if not rows:
        return ""
    head = "One pass over a stream of 500 000 rows, 100 features and 5 classes, in batches:"
    return head + "\n\n" + _table(["", "a batch", "speed", "held-out log-loss", "the best setting tried"], rows)


def _out_of_core(results) -> str:
    if "out-of-core" not in results:
        return ""
    found = results["out-of-core"]
    shape, passes = "x".join(map(str, found["shape"])), found["first_passes_s"] + found["passes_s"]
    rows = [
        ["passes", str(len(passes))],
        ["the fit", duration(found["seconds"])],
        ["the first pass", duration(found["first_passes_s"][0])],
        ["a later pass", duration(statistics.median(found["passes_s"]))],
        ["the file read by `cat`", duration(found["cat_s"])],
        ["relative objective gap", f"{found['gap']:.0e}"],
        ["anonymous resident memory", f"{found['anonymous_bytes'] / 1e9:.2f} GB"],
    ]
    size = f"{found['bytes'] / 1e9:.1f} GB"
    head = f"`glmcore.fit_batches` on a memory map of {size} ({shape}, ridge), cached by the system:"
    return head + "\n\n" + _table(["", ""], rows)


def _two_processes(results) -> str:
    if "two-processes" not in results:
        return ""
    found = results["two-processes"]
    one, two, shape = found["one"], found["two"], "x".join(map(str, found["shape"]))
    rows = [
        [title, duration(one[key]), duration(two[key]), f"{_two_digits(two[key] / one[key])}×"]
        for key, title in (("step_s", "a step of `glmcore.LBFGS`"), ("fit_s", "a fit"))
    ]
    what = f"{shape}, objectives {found['objective_apart']:.0e} apart, coefficients {found['coef_apart']:.0e}"
    head = f"Two processes of one core each, talking by gloo, beside one of one core ({what}):"
    return head + "\n\n" + _table(["", "one process", "two", "ratio"], rows)


def _gpu(results) -> str:
    """What ``benchmarks.gpu`` found, on a machine of its own."""
    if "gpu" not in results:
        return ""
    found, rows = results["gpu"], []
    for name, race in found["fits"].items():
        tools = dict(race["tools"])
        ours = tools.pop(OURS)
        cells = [_time(entry | {"tool": tool}, ours["seconds"]) for tool, entry in tools.items()]
        rows.append([name, duration(ours["seconds"]), duration(ours["first"]), *cells, duration(race["read_s"])])
    head = (
        f"On one {found['device']}, JAX {found['jax']}, ridge, data on the device, times to a relative objective gap of "
        f"{GAP:.0e} as above:"
    )
    fits = _table(["", OURS, "its first run", *tools, "one read of X"], rows)
    rows = []
    for name, batch in found["many"].items():
        ours, theirs = batch["glmcore"], batch["scikit-learn"]
        lanes, *size = map(str, batch["shape"])
        ratio = _two_digits(theirs["seconds"] / ours["seconds"])
        loop = f"{duration(theirs['seconds'])} ({ratio}×)"
        rows.append([f"{lanes} {name} of {'×'.join(size)}", duration(ours["seconds"]), duration(ours["first"]), loop])
    loop = "scikit-learn's loop on the host, from some"
    return f"{head}\n\n{fits}\n\n{_table(['', 'one `jax.vmap`', 'its first run', loop], rows)}"


def _robustness(results) -> str:
    said = results.get("robustness", [])
    return f"What `python -m tests.fuzz` and the test that kills a fit found: {'; '.join(said)}." if said else ""


def _missing(machine, tools) -> str:
    versions = machine["versions"]
    missing = [versions[tool] for tool in tools if not versions[tool][:1].isdigit()]
    return f"Not measured: {'; '.join(missing)}." if missing else ""
