"""Files of arrays, uncompressed ``.npz``: written whole or not at all, read without trusting a byte."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

VERSION = 1
# No objects, no structures, nothing of size zero, no times in steps of zero.
DTYPE = re.compile(r"[<>|](?:[biufcSU][1-9][0-9]*|[mM]8(?:\[(?:[1-9][0-9]*)?[A-Za-z]+\])?)")
# What NumPy writes, word for word. Its own reader evaluates the header as a Python literal, and may warn.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '([^']+)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n)",
    re.DOTALL,
)


class Refused(ValueError):
    """A reason not to load a file, in words for its user."""


def full_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    module = getattr(named, "__module__", None)
    return named.__qualname__ if module in (None, "builtins") else f"{module}.{named.__qualname__}"


def typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused(f"its content is damaged: {full_name(type(value))} in place of {full_name(kind)}")
    return value


def with_suffix(path: str | os.PathLike) -> Path:
    name = os.fspath(path)
    return Path(name if name.endswith(".npz") else f"{name}.npz")


def new_header(format: str) -> dict:
    libraries = {"python": platform.python_version()}
    for name in ("numpy", "jax", "glmcore"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    return {"format": format, "version": VERSION, "libraries": libraries}


def to_document(node: Any) -> np.ndarray:
    # Unescaped, with surrogatepass: the one way in which two lone halves of a surrogate pair do not join up.
    text = json.dumps(node, ensure_ascii=False, allow_nan=False)
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def check_folder(path: Path) -> None:
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot save '{path}': there is no directory '{folder}'")


def write_atomically(path: Path, members: Mapping[str, np.ndarray]) -> None:
    target = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
    check_folder(path)
    temporary = target.with_name(f".glmcore-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:  # its mode follows the umask, unlike that of tempfile
            if target.exists():
                shutil.copymode(target, temporary)
            np.savez(stream, **members)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # where the system can, the new name outlasts a power cut
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator["_Archive"]:
    """Open an archive; whatever fails on its content is a `ValueError` that begins with its name."""
    file = with_suffix(path)
    if not file.exists() and Path(path).exists():  # renamed by hand
        file = Path(path)
    with open(file, "rb") as stream:
        try:
            yield _Archive(stream)
        except Refused as error:
            raise ValueError(f"cannot load '{file}': {error}") from error
        except Exception as error:  # on hostile bytes zipfile, json and NumPy raise nearly anything
            reason = f"it is damaged, or glmcore did not write it ({type(error).__name__}: {error})"
            raise ValueError(f"cannot load '{file}': {reason}") from error


class _Archive:
    """The members of an archive. Each can be read once, so that they never need more memory than the file has bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        if stream.read(4) != b"PK\x03\x04":
            raise Refused("it is not an .npz archive")
        self.zip = zipfile.ZipFile(stream)
        infos = self.zip.infolist()
        self.members = {info.filename: info for info in infos}
        if len(self.members) < len(infos):
            raise Refused("it holds two members of the same name")
        if sum(info.compress_size for info in infos) > stream.seek(0, os.SEEK_END):
            raise Refused("its members claim more bytes than it has")

    def read(self, name: str) -> np.ndarray:
        info = self.members.pop(f"{name}.npy", None)
        if info is None:
            raise Refused(f"its member {name!r} is absent or used twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused(f"its member {name!r} is compressed, which glmcore never does")
        return _parse_npy(self.zip.read(info))  # compares the checksum, too

    def document(self, name: str) -> Any:
        text = self.read(name).tobytes().decode("utf-8", "surrogatepass")
        return json.loads(text, parse_int=_parse_int)

    def header(self, format: str) -> dict:
        """Which format and which libraries wrote the file; a later format is refused."""
        if "header.npy" not in self.members:
            raise Refused("glmcore did not write it (it has no header)")
        header = typed(self.document("header"), dict)
        if header.get("format") != format:
            found = str(header.get("format"))[:40]
            raise Refused(f"its header says {found!r} in place of {format!r}: glmcore did not write it, or for another use")
        if typed(header["version"], int) < 1:
            raise Refused("there is no format of its version")
        for version in typed(header["libraries"], dict).values():
            typed(version, str)
        if header["version"] > VERSION:
            writer = header["libraries"].get("glmcore", "a later version")
            raise Refused(f"glmcore {writer} wrote it in the newer format {header['version']}; upgrade glmcore")
        return header

    def check_all_read(self) -> None:
        if self.members:
            raise Refused(f"it holds members that its content does not use: {sorted(self.members)[:3]}")


def _parse_int(text: str) -> int:
    if len(text) > 20:  # more than 64 bits: not ours, and slow
        raise Refused("it holds a number of too many digits")
    return int(text)


def _parse_npy(data: bytes) -> np.ndarray:
    header = _NPY_HEADER.match(data)
    if header is None or int.from_bytes(header[1], "little") != len(header[2]):
        raise Refused("a member is not an array that glmcore writes")
    dtype = parse_dtype(header[3].decode("ascii"))
    shape = tuple(_parse_int(size.strip()) for size in header[5].decode("ascii").split(",") if size.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - header.end():
        raise Refused(f"an array of shape {shape} and dtype {dtype} is not as long as its member")
    order = "F" if header[4] == b"True" else "C"
    return valid(np.ndarray(shape, dtype, data, header.end(), order=order).copy(order="K"))


def parse_dtype(text: str) -> np.dtype:
    if not DTYPE.fullmatch(text) or np.dtype(text).str != text:
        raise Refused(f"it holds an array of dtype {text!r}, which glmcore does not write")
    return np.dtype(text)


def valid(array: np.ndarray) -> np.ndarray:
    """Refuse the bits that are no value of their dtype; NumPy itself would stumble over them later."""
    limits = {"b": (np.uint8, 1), "U": (array.dtype.str[0] + "u4", 0x10FFFF)}
    if array.dtype.kind in limits and array.size:
        bits, limit = limits[array.dtype.kind]
        if array.ravel(order="K").view(bits).max() > limit:
            raise Refused(f"an array of dtype {array.dtype} holds what is no such value")
    return array
