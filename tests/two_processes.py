"""One of two processes on loopback, for tests/test_sharding.py: ``RANK PORT CHECKPOINT``."""

import json
import os
import signal
import sys

import jax
import numpy as np

N, P, K, FIRST = 3001, 6, 3, 1000


def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, P)).astype(np.float32)
    return X, np.argmax(X @ rng.standard_normal((P, K)) + rng.gumbel(size=(N, K)), axis=1)


def main(rank, port, checkpoint):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank, heartbeat_timeout_seconds=10)
    import glmcore

    X, y = data()
    rows = slice(FIRST) if rank == 0 else slice(FIRST, N)
    Xs, ys, weight = glmcore.shard_rows(X[rows], y[rows])
    model = glmcore.GLM(glmcore.Categorical(K), glmcore.Ridge(0.01))
    result = glmcore.fit(model, Xs, ys, sample_weight=weight)
    log_proba = glmcore.local_rows(model.log_proba(result.params, Xs), len(y[rows]))
    lasso = glmcore.GLM(glmcore.Categorical(K), glmcore.Lasso(1e-4))

    def fit(maxiter, *callbacks):
        solver = glmcore.ProximalGradient(maxiter=maxiter)
        return glmcore.fit(lasso, Xs, ys, solver=solver, sample_weight=weight, callback=callbacks)

    keep, steps = glmcore.Checkpoint(checkpoint, every=2), []
    interrupted = fit(5, keep)
    resumed = fit(1000, keep, lambda progress: steps.append(progress.n_iter))
    whole = fit(1000, lambda progress: None)
    report = {
        "processes": jax.process_count(),
        "devices": len(Xs.devices()),
        "coef": np.asarray(result.params.coef).tolist(),
        "log_proba": log_proba.tolist(),
        "steps": [int(interrupted.n_iter), steps[0], int(resumed.n_iter), int(whole.n_iter)],
        "lasso": [np.asarray(result.params.coef).tolist() for result in (resumed, whole)],
        "repr": repr(whole),
    }
    print(json.dumps(report), flush=True)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        while True:
            glmcore.fit(model, Xs, ys, sample_weight=weight)
    except jax.errors.JaxRuntimeError as error:
        print(json.dumps(f"lost: {error}"), flush=True)
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
