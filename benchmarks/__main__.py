"""Run the benchmarks: python -m benchmarks [--only NAME ...] [--tools TOOL ...] [--quick]"""

import argparse
import tempfile
import warnings
from pathlib import Path

from benchmarks import (
    cold,
    figure,
    floor,
    grid,
    many,
    memory,
    out_of_core,
    path,
    report,
    results,
    reuse,
    robustness,
    streams,
    two_processes,
)
from benchmarks.peers import PEERS
from benchmarks.problems import LARGE, problems
from benchmarks.race import BUDGET, QUICK_BUDGET, race

FOLDER = Path(__file__).parent
TOOLS = list(dict.fromkeys(peer.name for peer in PEERS))
#: What is measured besides the problems, and what it is called in the results.
MEASURES = (
    *("cold", "updates", "compilations", "memory", "steps", "grids"),
    *("streams", "out-of-core", "two-processes", "robustness"),
)


def arguments(names):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choices = [*names, *MEASURES, *path.PATHS, *many.BATCHES]
    parser.add_argument(
        "--only",
        nargs="+",
        default=choices,
        choices=choices,
        metavar="NAME",
        help=f"these problems and measures; the others keep their figures: {', '.join(choices)}",
    )
    parser.add_argument(
        "--tools",
        nargs="+",
        default=TOOLS,
        choices=TOOLS,
        metavar="TOOL",
        help=f"only these race, and nothing but a trial folder is written: {', '.join(TOOLS)}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less of everything (a fiftieth of the synthetic rows, ten strengths of a path, a tenth "
        "of many models) and no patience; nothing but a trial folder is written",
    )
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each (default: 5)")
    options = parser.parse_args()
    options.all_anew = options.only == choices
    return options


def measure(name, table, options):
    """One of ``MEASURES``."""
    if name == "cold":
        return cold.cold_starts(table["iris"], options.repeat)
    if name == "updates":
        return reuse.updates(table["iris"], options.repeat)
    if name == "compilations":
        return reuse.compilations(table["iris"])
    if name == "memory":
        return memory.peaks(options.quick)
    if name == "grids":
        return grid.grids(options.repeat, options.quick)
    if name == "robustness":
        return robustness.robustness(options.quick)
    if name == "streams":
        return streams.streams(options.quick)
    if name == "out-of-core":
        return out_of_core.out_of_core(options.quick)
    if name == "two-processes":
        return two_processes.two_processes(options.quick, options.repeat)
    return {large: floor.step_beside_floor(table[large], options.repeat) for large in LARGE}


def main():
    warnings.simplefilter("ignore")  # of fits that have not converged: the gap is what counts
    table = {problem.name: problem for problem in problems()}
    options = arguments(table)
    table = {problem.name: problem for problem in problems(options.quick)}
    trial = options.quick or options.tools != TOOLS
    folder = Path(tempfile.mkdtemp(prefix="benchmarks")) if trial else FOLDER
    found = results.load(folder / "results.json", options.all_anew)
    budget = QUICK_BUDGET if options.quick else BUDGET
    peers = [peer for peer in PEERS if peer.name in options.tools]
    for name in options.only:
        print(name, flush=True)
        if name in table:
            found["problems"][name] = race(table[name], peers, options.repeat, budget)
        elif name in path.PATHS:
            found.setdefault("paths", {})[name] = path.path(name, options.repeat, options.quick)
        elif name in many.BATCHES:
            found.setdefault("many", {})[name] = many.many(name, options.repeat, options.quick)
        else:
            found[name] = measure(name, table, options)
        results.save(folder / "results.json", found)
    figure.draw(folder / "figures" / "time_to_gap.svg", found, options.tools, list(table))
    if trial:
        print(report.render(found, options.tools, list(table)), f"\n\nwritten to {folder}")
    else:
        told = results.with_gpu(found, FOLDER / "gpu.json")
        report.write(FOLDER.parent / "README.md", told, options.tools, list(table))


if __name__ == "__main__":
    main()
