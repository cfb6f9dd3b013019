"""The README's Python examples run as they are, and its shell blocks name the commands CI uses."""

import re
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("agg")

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NAMES = [
    "training_loop",
    "gradient",
    "estimator",
    "vmap",
    "population",
    "path",
    "streams",
    "sharding",
    "batches",
    "callback",
    "checkpoint",
    "displays",
]


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_example_runs(example):
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


def test_first_two_shell_blocks_are_one_line_each():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert "python -m glmcore_sklearn" in blocks[0]
    assert "python -m pytest" in blocks[1]
