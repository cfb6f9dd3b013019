"""The raw numbers: on which machine, with which versions, kept in ``results.json``."""

import json
import os
import platform
from pathlib import Path

import jax

from benchmarks.peers import PEERS, NotInstalled
from benchmarks.peers.base import installed


def machine() -> dict:
    """Processor, cores, JAX's backend, and the versions of all tools (or why there is none)."""
    versions = {"Python": platform.python_version()}
    versions |= {name: installed(name) for name in ("jax", "numpy", "scipy")}
    for peer in PEERS:
        try:
            versions[peer.name] = peer.version()
        except NotInstalled as missing:
            versions[peer.name] = str(missing)
    backend = jax.default_backend()
    return {"cpu": _cpu(), "cores": os.cpu_count(), "backend": backend, "versions": versions}


def _cpu() -> str:
    """The processor's name, as Linux knows it, else its architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load(path: Path, all_anew: bool) -> dict:
    """What ``path`` holds, if it was measured on this machine with these versions: figures from
    elsewhere must not stand beside ours, and make way only where all are measured anew.  A tool
    that was missing may be there now."""
    here = machine()
    if not path.exists():
        return {"machine": here, "problems": {}}
    found = json.loads(path.read_text())
    others = _differences(found["machine"], here)
    if not others:
        return found | {"machine": here}
    if not all_anew:
        raise SystemExit(
            f"{path} was measured with {', '.join(others)}. Leave --only out to measure all anew, "
            "or remove the file."
        )
    return {"machine": here, "problems": {}}


def with_gpu(found: dict, path: Path) -> dict:
    """``found`` and what ``benchmarks.gpu`` left in ``path``: another machine's, and told as such."""
    return found | {"gpu": json.loads(path.read_text())} if path.exists() else found


def _differences(before: dict, here: dict) -> list[str]:
    then, now = ({**told, **told["versions"]} for told in (before, here))
    missing = [tool for tool, said in before["versions"].items() if not said[:1].isdigit()]
    return [
        f"{name} {told} (here {now.get(name)})"
        for name, told in then.items()
        if name not in ("versions", *missing) and told != now.get(name)
    ]


def save(path: Path, results: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
