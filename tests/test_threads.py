"""Fits at the same time, in processes of their own: what hangs there fails here.

The data are wide and have classes enough for stacks of matrices that jaxlib would share out
among the threads of XLA's pool.
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SETUP = """
import faulthandler
from concurrent.futures import ThreadPoolExecutor
import jax, numpy as np, glmcore
from glmcore_sklearn import ClassifierGLM
faulthandler.dump_traceback_later(110, exit=True)
rng = np.random.default_rng(0)
X, y = rng.standard_normal((4096, 65)).astype(np.float32), rng.integers(0, 10, 4096)
model = glmcore.GLM(glmcore.Categorical(10), glmcore.Ridge(0.01))
"""
IN_THREADS = """
shared = ClassifierGLM(10, regularizer_strength=0.01).fit(X, y)
proba = shared.predict_proba(X)

def check(_):
    own = ClassifierGLM(10, regularizer_strength=0.01).fit(X, y)
    np.testing.assert_allclose(own.coef_, shared.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shared.predict_proba(X), proba, rtol=1e-6)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(check, range(12)))
"""
LANES = """
glmcore.cores.n_cores = lambda: 4
own, labels = rng.standard_normal((32, 512, 65)).astype(np.float32), rng.integers(0, 10, (32, 4096))
weights = rng.multinomial(4096, np.full(4096, 1 / 4096), 32).astype(np.float32)
fits = {
    "features": jax.vmap(lambda X, y: glmcore.fit(model, X, y))(own, labels[:, :512]),
    "labels": jax.vmap(lambda y: glmcore.fit(model, X, y))(labels),
    "weights": jax.vmap(lambda w: glmcore.fit(model, X, y, sample_weight=w))(weights),
}
assert all(found.converged.all() for found in fits.values()), fits
"""
ON_EIGHT_DEVICES = """
Xs, ys, weight = glmcore.shard_rows(X, y)
assert len(Xs.devices()) == 8
for _ in range(3):
    assert glmcore.fit(model, Xs, ys, sample_weight=weight).converged
"""


def run(program, flags=""):
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program],
        capture_output=True, text=True, env=variables, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_threads_give_the_results_of_one():
    run(IN_THREADS)


@pytest.mark.slow
def test_lanes_on_more_cores_than_there_are():
    run(LANES)


@pytest.mark.slow
def test_eight_devices_of_a_machine_with_fewer_cores():
    run(ON_EIGHT_DEVICES, "--xla_force_host_platform_device_count=8")
