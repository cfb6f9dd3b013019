"""Who imports whom: the core knows nothing of the face, nothing imports upwards, no circles."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import glmcore

ROOT = pathlib.Path(__file__).parent.parent
CORE = sorted((ROOT / "glmcore").rglob("*.py"))
FACE = sorted((ROOT / "glmcore_sklearn").rglob("*.py"))

#: From the ground up: a module may import from floors below its own, and from its own floor
#: (which the test of circles then keeps in order).
FLOORS = [
    {"status", "tree", "rounding", "factors", "rows", "staging", "sweeps", "npz", "jit", "remembering", "warn"},
    {"params", "padding", "sharding", "identity", "cores"},
    {"observations", "penalties"},
    {"coordinates"},
    {"centring"},
    {"problem"},
    {"dense"},
    {"least_norm", "solvers"},
    {"model"},
    {"checks", "implicit", "scores", "results"},
    {"checkpoint", "progress"},
    {"host_loop"},
    {"programs", "lockstep"},
    {"lanes", "path_programs"},
    {"lane_hessians"},
    {"lane_fits"},
    {"many"},
    {"solve"},
    {"path", "reading", "resampling"},
    {"survey"},
    {"streamed"},
    {"batches"},
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(module, imported names) of every import in a file, also of those inside functions."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, [alias.name for alias in node.names]


def within_core(path):
    """Modules of the core that a file imports, ``from glmcore import x`` resolved to glmcore.x."""
    names = {module_name(p) for p in CORE}
    for module, imported in imports(path):
        if module in names:
            submodules = {f"{module}.{name}" for name in imported} & names
            yield from submodules or {module}


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_the_core_knows_no_face(path):
    roots = {module.split(".")[0] for module, _ in imports(path)}
    assert not roots & {"sklearn", "glmcore_sklearn", "pandas", "matplotlib"}


@pytest.mark.parametrize("path", FACE, ids=module_name)
def test_the_face_uses_public_names_only(path):
    for module, names in imports(path):
        assert not module.startswith("glmcore."), f"{module} is not public: import from glmcore"
        if module == "glmcore":
            private = set(names) - set(glmcore.__all__)
            assert not private, f"{private} are not public names of glmcore"
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "glmcore":
            assert node.attr in glmcore.__all__, f"glmcore.{node.attr} is not public"


def test_there_are_no_circles():
    graph = {module_name(path): set(within_core(path)) for path in CORE}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_nothing_imports_upwards(path):
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}

    def height(module):
        room = module.split(".")[1]
        assert room in floor, f"give {module} a floor in FLOORS"
        return floor[room]

    if module_name(path) == "glmcore":
        return
    for module in within_core(path):
        assert module != "glmcore", "a module of the core imports the package from inside"
        assert height(module) <= height(module_name(path)), f"{path.name} imports {module}"


def test_what_no_fit_needs_is_not_imported():
    code = "import sys, glmcore, glmcore_sklearn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"optax", "matplotlib", "tqdm", "sklearn.metrics", "sklearn.pipeline"} & set(done.stdout.split())


def test_the_core_sets_nothing_global():
    for path in CORE:
        text = path.read_text()
        assert "config.update" not in text and "enable_x64(" not in text, path
