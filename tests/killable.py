"""A fit of many short steps that prints each, for tests/test_checkpoint.py to kill: ``FOLDER``.

Before it keeps a step it prints it with a question mark, for it may be killed between the two.
"""

import hashlib
import sys
import time

import numpy as np

import glmcore

STEPS, EVERY = 1000, 7


def run(callback):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)).astype(np.float32)
    model = glmcore.GLM(glmcore.Categorical(3), glmcore.Ridge(1e-4))
    solver = glmcore.SVRG(tol=0.0, maxiter=STEPS, stepsize=1e-4)
    return glmcore.fit(model, X, rng.integers(0, 3, 60), solver=solver, callback=callback)


def digest(result):
    return hashlib.sha256(np.asarray(result.params.coef).tobytes()).hexdigest()


def tell(progress):
    print(progress.n_iter, flush=True)
    time.sleep(0.01)


class Announced(glmcore.Checkpoint):
    def __call__(self, progress, *fit):
        print(f"{progress.n_iter}?", flush=True)
        super().__call__(progress, *fit)


if __name__ == "__main__":
    checkpoint = Announced(f"{sys.argv[1]}/run", every=EVERY)
    print(digest(run([checkpoint, tell])))
