"""Speed and memory of glmcore beside its peers.

    python -m benchmarks                      everything (most of an hour on two cores)
    python -m benchmarks --only iris cold     these problems and measures; the rest stays
    python -m benchmarks --quick              small data, into a trial folder
    python -m benchmarks --only many-bootstraps --quick    one of the comparisons, quickly

writes ``benchmarks/results.json``, ``benchmarks/figures/`` and the section "Speed" of the README.
Run it on a machine that does nothing else.

**Peers.**  ``python -m pip install -e '.[bench]'`` installs those that share our dependencies.
glmnet needs ``Rscript`` and the R package (Debian: ``r-cran-glmnet``).  adelie needs NumPy 1 and
so an environment of its own, whose Python the variable ``BENCHMARK_ADELIE_PYTHON`` names.  A peer
that is missing is named in the results.

**Time to a gap** (``race``).  Each tool climbs a ladder of its own tolerances from NumPy arrays;
its time is that of the first rung with ``(F - F*) / F* <= 1e-6``.  F is computed in float64 NumPy
(``objective``), F* by a slow float64 solver with a duality gap of at most 1e-8 (``reference``).
Those that arrive run in turns, each in another order: the median of five runs, of three if they
take more than 2 s; in each turn half a second of other runs comes first, and the time of a fit
below 0.1 s is the median of five.  BLAS has one thread where X has less than 1 MB: more wait for
each other there.  Of a tool's solvers the fastest counts.

**Paths** (``path``) and **many models** (``many``) are judged in the same way, every answer of them
for itself, but against the best answer of all tools.  ``grid`` searches for a strength with folds.

**Cold starts** (``cold``) and **peak memory** (``memory``) are those of fresh processes.  ``floor``
compares a solver step with two reads of X, ``reuse`` counts compilations and times ``update``.

**Beyond memory and machine.**  ``streams`` times online learners, ``out-of-core`` a pass over a file
of 8 GB that it makes in the folder for temporary files (``TMPDIR``), ``two-processes`` two processes
of one core each beside one.  ``robustness`` repeats what the fuzzers and the killed fit count.

**On a GPU.**  ``SCIPY_ARRAY_API=1 python -m benchmarks.gpu`` compares fits on the device with those
of tools that run there, torch among them, and needs the GPU builds of JAX and torch.

Who adds a problem writes a line in ``problems``; who adds a peer writes an adapter in ``peers``.
"""
