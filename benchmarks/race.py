"""Time to a gap: every tool climbs its own ladder of tolerances, and those that arrive are timed
in turns on the same data."""

import dataclasses
import gc
import random
import statistics
import time

from threadpoolctl import threadpool_limits

from benchmarks.floor import two_reads
from benchmarks.objective import relative_gap
from benchmarks.peers import NotInstalled, Peer, Rung
from benchmarks.reference import reference

#: Relative objective gap that a fit has to reach.
GAP = 1e-6
#: A ladder ends at a rung that takes longer (seconds), in a trial and otherwise.
QUICK_BUDGET, BUDGET = 1.0, 30.0
#: A ladder ends where this many rungs bring nothing.
PATIENCE = 4
#: A solver that takes this many times longer than its tool's fastest one is not timed again.
HOPELESS = 3.0
#: Fits longer than this (seconds) are timed three times and need no warm-up in every turn.
LONG = 2.0
#: Seconds of rest between tools, in which the idle threads of the last one stop spinning, and
#: seconds of fits before those that are timed: after another tool the first are slower.
REST, WARM_UP = 0.1, 0.5
#: Fits shorter than this (seconds) are timed so many times in a turn, whose median counts.
SHORT, IN_A_ROW = 0.1, 5
#: Bytes of X up to which BLAS has one thread.
SMALL_BYTES = 2**20


@dataclasses.dataclass
class Entry:
    """How one peer did on one problem; what the results hold of it.

    ``seconds`` is the median of ``times`` and None for a peer that has no time; ``why`` then says
    why.  ``ladder`` has tolerance, gap, seconds (of a single run) and steps of every rung.
    """

    tool: str
    solver: str
    version: str = ""
    why: str = ""
    tolerance: str = ""
    gap: float | None = None
    n_iter: int | None = None
    seconds: float | None = None
    times: list = dataclasses.field(default_factory=list)
    ladder: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Runner:
    """An entry that arrived, and the rung it arrived on."""

    entry: Entry
    rung: Rung
    first: float

    @property
    def long(self) -> bool:
        return self.first > LONG

    def turn(self):
        """Timed runs, after some that are not."""
        gc.collect()
        time.sleep(REST)
        if not self.long:
            warm_up(self.rung.run)
        runs = IN_A_ROW if self.first < SHORT else 1
        self.entry.times.append(statistics.median(timed(self.rung.run)[1] for _ in range(runs)))


def warm_up(run) -> None:
    """``run`` for half a second, and at least once."""
    start = time.perf_counter()
    run()
    while time.perf_counter() - start < WARM_UP:
        run()


def timed(run):
    """The fit that ``run`` gives and its seconds, by its own clock if it has one."""
    start = time.perf_counter()
    fit = run()
    seconds = time.perf_counter() - start
    return fit, seconds if fit.seconds is None else fit.seconds


def race(problem, peers: list[Peer], repeat: int, budget: float = BUDGET) -> dict:
    """All ``peers`` on one problem, as a dictionary for the results.

    Parameters
    ----------
    problem : Problem
    peers : list of Peer
    repeat : int
        Timed runs of each peer; three of fits that are ``LONG``.
    budget : float
        Seconds after which no tighter rung is tried.
    """
    task = problem.load()
    best = reference(task)
    entries, runners = [], {}
    with blas_threads_for(task.X):
        for peer in peers:
            entry = _entry(peer, task, arrived=runners)
            entries.append(entry)
            if entry.why:
                continue
            runner = _climb(peer, entry, task, best.objective, budget)
            if runner:
                runners[peer.label] = runner
            arrived = f"{runner.first:.3g} s at {entry.tolerance}" if runner else entry.why
            print(f"  {peer.label}: {arrived}", flush=True)
        _take_turns(_worth_timing(runners.values()), repeat)
    for entry in entries:
        if entry.times:
            entry.seconds = statistics.median(entry.times)
    return {
        "shape": [*task.X.shape, task.n_classes],
        "penalty": task.penalty,
        "strength": task.strength,
        "objective": best.objective,
        "duality_gap": best.duality_gap,
        "two_reads_s": two_reads(task.X, repeat),
        "entries": [dataclasses.asdict(entry) for entry in entries],
    }


def blas_threads_for(X):
    """A context with one thread of BLAS where a model's ``X`` is small: on few cores more wait
    for each other, and scikit-learn takes many times longer."""
    return threadpool_limits(1 if X.nbytes <= SMALL_BYTES else None, user_api="blas")


def _entry(peer, task, arrived) -> Entry:
    """An entry that says why the peer does not run, if it does not."""
    entry = Entry(peer.name, peer.solver)
    try:
        entry.version = peer.version()
    except NotInstalled as missing:
        entry.why = str(missing)
        return entry
    entry.why = peer.applies(task)
    if peer.instead_of in arrived:
        entry.why = f"not needed: {peer.instead_of} reached the gap"
    return entry


def _climb(peer, entry, task, best, budget) -> Runner | None:
    """Up the ladder to the first rung that is good enough: the fastest, since they get slower."""
    for count, rung in enumerate(peer.fits(task)):
        try:
            fit, seconds = timed(rung.run)
            if count == 0 and seconds < 5 * LONG:  # it may have compiled, or started threads
                fit, seconds = timed(rung.run)
        except RuntimeError as failed:
            entry.why = entry.why or f"failed: {failed}"
            break
        gap = relative_gap(task, fit.coef, fit.intercept, best)
        entry.ladder.append([rung.tolerance, gap, seconds, fit.n_iter])
        if gap <= GAP:
            entry.why, entry.tolerance = "", rung.tolerance
            entry.gap, entry.n_iter, entry.times = gap, fit.n_iter, [seconds]
            return Runner(entry, rung, seconds)
        entry.gap = gap if entry.gap is None else min(entry.gap, gap)
        entry.why = f"gap not reached: {entry.gap:.0e}"
        if seconds > budget or _stuck([row[1] for row in entry.ladder]):
            break
    return None


def _stuck(gaps) -> bool:
    """Whether the last ``PATIENCE`` rungs improved nothing by a tenth."""
    before, last = gaps[:-PATIENCE], gaps[-PATIENCE:]
    return bool(before) and min(last) > 0.9 * min(before)


def _worth_timing(runners) -> list[Runner]:
    fastest = {}
    for runner in runners:
        tool = runner.entry.tool
        fastest[tool] = min(runner.first, fastest.get(tool, runner.first))
    return [r for r in runners if r.first <= HOPELESS * fastest[r.entry.tool]]


def _take_turns(runners, repeat):
    for runner in runners:
        runner.entry.times.clear()
    for turn in range(repeat):
        # Each in another order: whoever follows a heavy one is slower.
        for runner in random.Random(turn).sample(runners, len(runners)):
            if turn < 3 or not runner.long:
                runner.turn()
