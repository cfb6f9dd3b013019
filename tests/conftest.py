"""Strictness for every test: shapes are checked, ranks do not grow silently, warnings are errors."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import tempfile

# What is computed is tested, how fast is not: programs are compiled in a third of the time.
if "GLMCORE_TEST_OPTIMIZED" not in os.environ:
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")  # XLA aborts where it knows no such flag
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# The shape annotations of the core are executed here and nowhere else.
jaxtyping.install_import_hook("glmcore", "beartype.beartype")

# An example may compile: few of them, no deadlines, the same ones every time.
hypothesis.settings.register_profile(
    "glmcore", deadline=None, max_examples=20, derandomize=True, database=None, print_blob=False
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "glmcore"))


def pytest_configure(config):
    """The workers of a session compile a program once, and not again after their caches are cleared."""
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="programs-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("sklearn.callback") is None:  # before scikit-learn 1.9
        for item in items:
            if item.name.endswith("TakesCallbacks.set_callbacks"):
                item.add_marker(pytest.mark.skip)


#: Every compiled program takes several of a process's mappings, of which Linux allows 65530; XLA
#: aborts where there is no more.
_MANY_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > _MANY_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Float64, in JAX's local context: the global setting stays the user's."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """The dtype that the test computes in."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


class Programs:
    """Counts what JAX traces and compiles, or finds in the session's folder, while it is watched."""

    def __init__(self):
        self.events = []

    def __enter__(self):
        self.events.clear()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event, duration, **_):
        if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
            self.events.append(event)

    @property
    def compiled(self):
        return sum(event.endswith("backend_compile_duration") for event in self.events)

    @property
    def traced(self):
        return sum(event.endswith("jaxpr_trace_duration") for event in self.events)


@pytest.fixture
def programs():
    """``with programs: ...`` and then ``programs.compiled``, ``programs.traced``."""
    return Programs()
