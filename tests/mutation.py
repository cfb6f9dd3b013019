"""Files that are damaged a little."""

import random
import struct
import zipfile


def mutated(data: bytes, rng: random.Random) -> bytearray:
    """Up to four bytes changed, inserted or removed, or the end cut off."""
    data = bytearray(data)
    kind = rng.choice(["flip", "flip", "set", "insert", "remove", "cut", "swap"])
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "set":
            data[at] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        elif kind == "insert":
            data.insert(at, rng.randrange(256))
        elif kind == "remove":
            del data[at]
        else:
            other = rng.randrange(len(data))
            data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
    return data


def with_checksums(data: bytearray) -> bytearray:
    """Repair the checksums of the members, so that the mutation gets past the zip layer where it can."""
    directory = data.find(b"PK\x01\x02")
    while 0 <= directory <= len(data) - 46:
        size, start = struct.unpack_from("<20xI18xI", data, directory)
        if start + 30 <= len(data):
            name_length, extra_length = struct.unpack_from("<26xHH", data, start)
            begin = start + 30 + name_length + extra_length
            struct.pack_into("<I", data, directory + 16, zipfile.crc32(data[begin : begin + size]))
        directory = data.find(b"PK\x01\x02", directory + 4)
    return data
