"""Run the benchmarks that want a GPU: SCIPY_ARRAY_API=1 python -m benchmarks.gpu [--quick]

Fits of large data on the device, beside the tools that fit on a GPU, and 100 000 models by one
``jax.vmap``, beside a loop of scikit-learn's on the host's processor.  Data are made on the device.
What is found goes into ``gpu.json``, and into the README the next time that ``benchmarks`` runs.
"""

import argparse
import functools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import glmcore
from benchmarks.objective import objective
from benchmarks.peers.base import NotInstalled, installed
from benchmarks.problems import CORRELATION, SIGNAL, Task
from benchmarks.race import GAP

FOLDER = Path(__file__).parent
STRENGTH = 1e-3
#: Rows, features and classes of a fit.
FITS = ((10_000_000, 100, 5), (60_000, 784, 10))
#: Models, and the rows, features and classes of each; whether its features are its own.
LANES = 100_000
MANY = {"separate": ((500, 20, 3), True), "targets": ((5000, 40, 3), False)}
#: Models of a batch that scikit-learn fits.
SAMPLE = 20
#: Blocks of rows in which the objective is evaluated in float64.
BLOCKS = 10
#: A ladder ends at a rung that takes longer (seconds).
BUDGET = 10.0


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def synthetic(n: int, p: int, n_classes: int, key):
    """As :func:`benchmarks.problems.synthetic`."""
    features, coefs, noise = jax.random.split(key, 3)
    with jax.default_matmul_precision("highest"):
        apart = jnp.abs(jnp.arange(p)[:, None] - jnp.arange(p)[None, :])
        mix = jnp.linalg.cholesky(CORRELATION ** apart.astype(jnp.float32)).T
        X = jax.random.normal(features, (n, p)) @ mix
        return X, _labels(X, n_classes, coefs, noise)


def _labels(X, n_classes, coefs, noise):
    coef = SIGNAL * jax.random.normal(coefs, (X.shape[1], n_classes)) / np.sqrt(X.shape[1])
    eta = jnp.matmul(X, coef, precision="highest")
    return jnp.argmax(eta + jax.random.gumbel(noise, eta.shape), axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def synthetic_batch(shape: tuple, own: bool, keys):
    """Data sets of their own, or labels of their own for the same features."""
    if own:
        return jax.lax.map(lambda key: synthetic(*shape, key), keys, batch_size=1000)
    X, _ = synthetic(*shape, keys[0])
    y = jax.lax.map(lambda key: _labels(X, shape[2], *jax.random.split(key)), keys, batch_size=1000)
    return X, y


@jax.jit
def _sums(X, y, coef, intercept):
    def block(rows):
        X, y = rows
        log_proba = jax.nn.log_softmax(X.astype(coef.dtype) @ coef + intercept)
        proba = jnp.exp(log_proba)
        residual = proba - jax.nn.one_hot(y, intercept.size, dtype=coef.dtype)
        nll = -jnp.sum(jnp.take_along_axis(log_proba, y[:, None], axis=1))
        return nll, -jnp.sum(proba * log_proba), X.astype(coef.dtype).T @ residual

    blocks = (X.reshape(BLOCKS, -1, X.shape[1]), y.reshape(BLOCKS, -1))
    return jax.tree.map(lambda parts: jnp.sum(parts, axis=0) / len(y), jax.lax.map(block, blocks))


def objective_and_bound(X, y, coef, intercept) -> tuple[float, float]:
    """The objective in float64, and the dual one, which is below every optimum."""
    with jax.enable_x64(True):
        coef, intercept = (jnp.asarray(np.asarray(a, np.float64)) for a in (coef, intercept))
        nll, entropy, gradient = _sums(X, y, coef, intercept)
        value = nll + STRENGTH / 2 * jnp.sum(coef**2)
        return float(value), float(entropy - jnp.sum(gradient**2) / (2 * STRENGTH))


def _model(n_classes):
    return glmcore.GLM(glmcore.Categorical(n_classes), glmcore.Ridge(STRENGTH))


def _fit(n_classes, X, y):
    return glmcore.fit(_model(n_classes), X, y)


def _glmcore(X, y, n_classes) -> Iterator[tuple]:
    yield "default", lambda: jax.block_until_ready(_fit(n_classes, X, y).params)


def _torch(X, y, n_classes) -> Iterator[tuple]:
    """L-BFGS as a user of torch would call it."""
    import torch

    X, y = torch.from_dlpack(X), torch.from_dlpack(y).long()

    def run(steps):
        coef = torch.zeros(X.shape[1], n_classes, device=X.device, requires_grad=True)
        intercept = torch.zeros(n_classes, device=X.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [coef, intercept], max_iter=steps, max_eval=10 * steps, history_size=10,
            tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
        )

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(X @ coef + intercept, y)
            loss = loss + STRENGTH / 2 * (coef**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return coef.detach().cpu().numpy(), intercept.detach().cpu().numpy()

    run(1)
    for steps in (15, 20, 25, 30, 40, 60, 80, 120):
        yield f"{steps} steps", functools.partial(run, steps)


def _scikit_learn(X, y, n_classes) -> Iterator[tuple]:
    """Its L-BFGS on torch's arrays."""
    import sklearn
    import torch
    from sklearn.linear_model import LogisticRegression

    X, y = torch.from_dlpack(X), torch.from_dlpack(y).long()

    def run(tol):
        with sklearn.config_context(array_api_dispatch=True):
            found = LogisticRegression(C=1 / (STRENGTH * len(y)), tol=tol, max_iter=1000).fit(X, y)
        return found.coef_.T.cpu().numpy(), found.intercept_.cpu().numpy()

    for tol in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6):
        yield f"tol={tol:.0e}", functools.partial(run, tol)


def _nemos(X, y, n_classes) -> Iterator[tuple]:
    from benchmarks.peers.nemos import estimator

    def run(tol):
        found = estimator(Task(X, y, n_classes, "ridge", STRENGTH), "LBFGS", tol).fit(X, y)
        return np.asarray(found.coef_), np.asarray(found.intercept_)

    for tol in (1e-3, 1e-4, 1e-5, 1e-6):
        yield f"tol={tol:.0e}", functools.partial(run, tol)


#: What a tool is called, the distributions that it needs, and its ladder of settings.
TOOLS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "glmcore.fit": (("jax",), _glmcore),
    "torch.optim.LBFGS": (("torch",), _torch),
    "scikit-learn on torch": (("scikit-learn", "torch"), _scikit_learn),
    "nemos": (("nemos",), _nemos),
}


def fits(shape: tuple, repeat: int) -> dict:
    """Seconds to the gap of every tool, and of a step of ours and of a read of X."""
    n, p, n_classes = shape
    X, y = jax.block_until_ready(synthetic(n, p, n_classes, jax.random.key(0)))
    with jax.enable_x64(True):
        exact = _fit(n_classes, X.astype(np.float64), y).params
    best, bound = objective_and_bound(X, y, *exact)
    tools = {name: _race(name, X, y, n_classes, best, repeat) for name in TOOLS}
    return {
        "shape": shape,
        "steps": int(_fit(n_classes, X, y).n_iter),
        "read_s": X.nbytes / copy_speed(X),
        "duality_gap": (best - bound) / best,
        "tools": tools,
    }


def _race(name, X, y, n_classes, best, repeat) -> dict:
    distributions, ladder = TOOLS[name]
    try:
        entry = {"version": ", ".join(map(installed, distributions))}
    except NotInstalled as missing:
        return {"version": "", "why": str(missing)}
    for setting, run in ladder(X, y, n_classes):
        took, found = _timed(run)
        entry.setdefault("first", took)
        entry |= {"setting": setting, "gap": (objective_and_bound(X, y, *found)[0] - best) / best}
        if entry["gap"] <= GAP or took > BUDGET:
            break
    if entry["gap"] <= GAP:
        entry["seconds"] = statistics.median(_timed(run)[0] for _ in range(repeat))
    print(f"  {name}: {entry}", flush=True)
    return entry


def copy_speed(X) -> float:
    """Bytes a second, read and written, of a copy of X."""
    double = jax.jit(lambda x: 2 * x)
    jax.block_until_ready(double(X))
    times = [_timed(lambda: jax.block_until_ready([double(X) for _ in range(3)]))[0] for _ in range(3)]
    return 3 * 2 * X.nbytes / statistics.median(times)


def many(name: str, lanes: int, repeat: int) -> dict:
    """Seconds of all models by one vmap and of a loop of scikit-learn's, from ``SAMPLE`` of them."""
    shape, own = MANY[name]
    X, y = synthetic_batch(shape, own, jax.random.split(jax.random.key(0), lanes))
    fit = jax.jit(jax.vmap(functools.partial(_fit, shape[2]), in_axes=(0 if own else None, 0)))
    first, result = _timed(lambda: jax.block_until_ready(fit(X, y)))
    seconds = statistics.median(
        _timed(lambda: jax.block_until_ready(fit(X, y)))[0] for _ in range(repeat)
    )
    times, gaps = zip(*(_one_lane(X[i] if own else X, y[i], *(leaf[i] for leaf in result.params))
                        for i in range(0, lanes, max(1, lanes // SAMPLE))))  # fmt: skip
    found = {
        "shape": (lanes, *shape),
        "glmcore": {"seconds": seconds, "first": first, "gap": max(gaps)},
        "scikit-learn": {"seconds": lanes * statistics.median(times)},
    }
    print(f"  {found}", flush=True)
    return found


def _one_lane(X, y, coef, intercept) -> tuple[float, float]:
    """Seconds of scikit-learn's fastest solver for such a model, and our gap to its tightest fit."""
    from sklearn.linear_model import LogisticRegression

    X, y = np.asarray(X), np.asarray(y)
    C = 1 / (STRENGTH * len(y))
    seconds, _ = _timed(lambda: LogisticRegression(C=C, solver="newton-cholesky").fit(X, y))
    tight = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10).fit(X.astype(np.float64), y)
    task = Task(X, y, len(tight.intercept_), "ridge", STRENGTH)
    best = objective(task, tight.coef_.T, tight.intercept_)
    return seconds, (objective(task, coef, intercept) - best) / best


def _timed(run):
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def main():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory too
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a thousandth of it, on any device; nothing is written"
    )
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each (default: 5)")
    options = parser.parse_args()
    if jax.default_backend() != "gpu" and not options.quick:
        parser.exit(1, f"JAX runs on {jax.default_backend().upper()} here, not on a GPU\n")
    device, less = jax.devices()[0], 1000 if options.quick else 1
    found = {"device": device.device_kind, "jax": jax.__version__, "fits": {}, "many": {}}
    for n, p, n_classes in FITS:
        name = f"{n}x{p}x{n_classes}"
        print(name, flush=True)
        shape = (max(n // less, 2000), p, n_classes)
        found["fits"][name] = fits(shape, options.repeat)
    for name in MANY:
        print(name, flush=True)
        found["many"][name] = many(name, LANES // less, options.repeat)
    if not options.quick:
        (FOLDER / "gpu.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
