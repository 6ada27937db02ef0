"""Mutations of file contents for fuzz_files.py: of bytes, and of the structure of each format.

Each mutation takes a random generator and the bytes of a file and returns other bytes. Mutations of
a structure repair what would hide them: checksums of zip members, digests of model files.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from fusedmlp.io.parameter_files import signed_document

if TYPE_CHECKING:
    from random import Random

EXTREMES = (0, 1, 2, 64, 65, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def flip(rng: Random, content: bytes) -> bytes:
    """Change one to four bytes, mostly near the start or the end."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if found:
            near = rng.choice((len(found), min(len(found), 64)))
            position = rng.randrange(near) * rng.choice((1, 1, -1))
            found[position] = rng.choice((found[position] ^ (1 << rng.randrange(8)), 0, 255))
    return bytes(found)


def cut(rng: Random, content: bytes) -> bytes:
    """Truncate, or remove a range."""
    start = rng.randint(0, len(content))
    end = rng.choice((len(content), rng.randint(start, len(content))))
    return content[:start] + content[end:]


def splice(rng: Random, content: bytes) -> bytes:
    """Copy a range of the file to another place, over what is there or between."""
    start = rng.randint(0, len(content))
    part = content[start : start + rng.choice((1, 4, 16, 200))]
    target = rng.randint(0, len(content))
    return content[:target] + part + content[target + rng.choice((0, len(part))) :]


def overwrite(rng: Random, content: bytes) -> bytes:
    """Put an extreme number of one to eight bytes at any place."""
    n_bytes, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    value = (rng.choice(EXTREMES) % 256**n_bytes).to_bytes(n_bytes, order)
    position = rng.randint(0, len(content))
    return content[:position] + value + content[position + n_bytes :]


BYTES = (flip, cut, splice, overwrite)


def idx(rng: Random, content: bytes) -> bytes:
    """Change the header of an IDX file: type, number of dimensions, dimensions."""
    if content[:2] == b"\x1f\x8b":
        try:
            return gzip.compress(idx(rng, gzip.decompress(content)), 1, mtime=0)
        except (OSError, EOFError, zlib.error):
            return flip(rng, content)
    n = rng.choice((0, 1, 2, 3, 4, 64, 65, 255))
    dimensions = [rng.choice((*EXTREMES, 3, 12)) % 2**32 for _ in range(n)]
    kind = rng.choice((8, 9, 11, 12, 13, 14, content[2] if len(content) > 2 else 0))
    return struct.pack(f">HBB{n}I", 0, kind, n, *dimensions) + content[rng.choice((8, 16)) :]


def npy(rng: Random, content: bytes) -> bytes:
    """Change the header of an ``.npy`` file as text, and its length where that still is right."""
    end = content.find(b"\n")
    if end < 10:
        return flip(rng, content)
    text = content[10:end]
    match rng.randrange(5):
        case 0:  # a dimension
            dimension = str(rng.choice((*EXTREMES, -1, -(2**63), 10**40, "True", "1.5", "'a'")))
            text = re.sub(rb"\((\d+)", b"(" + dimension.encode(), text, count=1)
        case 1:  # the type
            kinds = (
                "<f2",
                ">f8",
                "<f16",
                "<c8",
                "|O",
                "S0",
                "<U9",
                "V3",
                "|b1",
                "M8[s]",
                "3f8",
                "x",
            )
            text = re.sub(rb"'[<>|]\w+'", repr(rng.choice(kinds)).encode(), text)
            if not rng.randrange(4):
                text = re.sub(rb"'[<>|]\w+'", b"[('a','<f8'),('b','O')]", text)
        case 2:  # more dimensions
            text = text.replace(b"(", b"(" + b"1, " * rng.choice((1, 30, 63, 64, 90)), 1)
        case 3:  # nesting
            text = text.replace(
                b"(", rng.choice((b"(", b"-", b"[")) * rng.choice((9, 200, 5000)), 1
            )
        case _:
            text = rng.choice(BYTES)(rng, text)
    if rng.randrange(4):
        text = text.ljust(118)
    return content[:8] + struct.pack("<H", len(text) % 2**16) + text + content[end:]


def zip_members(rng: Random, content: bytes) -> bytes:
    """Write the archive anew, with a changed member and right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # noqa: BLE001 - a mutation before this one broke it
        return flip(rng, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice(METHODS)) as archive:
        for name, member in members:
            if rng.randrange(2):
                member = rng.choice((npy, npy, *BYTES))(rng, member)
            archive.writestr(zipfile.ZipInfo(name), member, rng.choice((None, *METHODS)))
    return buffer.getvalue()


_ZIP_FIELDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((6, 2), (8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)),
    b"PK\x05\x06": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}
"""Positions and sizes of the fields of local headers, of the directory and of its end."""

_SAME_FIELD = {6: 8, 8: 10, 14: 16, 18: 20, 22: 24, 26: 28, 28: 30}
"""Positions in a local header, and those of the same fields in the directory."""


def zip_fields(rng: Random, content: bytes) -> bytes:
    """Set a field of a zip header to an extreme, or in both of the places that have it."""
    found = bytearray(content)
    signature = rng.choice(list(_ZIP_FIELDS))
    places = [match.start() for match in re.finditer(re.escape(signature), content)]
    if not places:
        return flip(rng, content)
    number = rng.randrange(len(places))
    offset, size = rng.choice(_ZIP_FIELDS[signature])
    value = (rng.choice((*EXTREMES, rng.randrange(2000))) % 256**size).to_bytes(size, "little")
    found[places[number] + offset : places[number] + offset + size] = value
    entries = [match.start() for match in re.finditer(re.escape(b"PK\x01\x02"), content)]
    if signature == b"PK\x03\x04" and offset in _SAME_FIELD and number < len(entries):
        start = entries[number] + _SAME_FIELD[offset]
        if rng.randrange(2):
            found[start : start + size] = value
    return bytes(found)


def _json_value(rng: Random) -> object:
    deep: object = "[" * rng.choice((3, 2000)) + "]"
    return rng.choice(
        (
            *(None, True, False, "", "x", "softmax", [], {}, [[]], {"a": 1}, deep, "x" * 5000),
            *(
                -1,
                0,
                0.5,
                1e308,
                float("nan"),
                float("inf"),
                10**30,
                10**400 if rng.randrange(2) else 3,
            ),
            *(rng.choice(EXTREMES), [rng.choice(EXTREMES)] * rng.choice((1, 2, 70)), ["a", None]),
        )
    )


def json_document(rng: Random, document: object) -> object:
    """Replace, remove or swap a part of a JSON document."""
    if isinstance(document, dict) and document and rng.randrange(8):
        key = rng.choice(list(document))
        choice = rng.randrange(10)
        if choice == 0:
            return {name: value for name, value in document.items() if name != key}
        if choice == 1:
            other = rng.choice(list(document))
            return document | {key: document[other], other: document[key]}
        if choice == 2:
            return document | {rng.choice(("extra", "slot0.weights.0")): document[key]}
        return document | {key: json_document(rng, document[key])}
    if isinstance(document, list) and document and rng.randrange(8):
        index = rng.randrange(len(document))
        return [*document[:index], json_document(rng, document[index]), *document[index + 1 :]]
    return _json_value(rng)


def json_text(rng: Random, content: bytes) -> bytes:
    """Change a file that is JSON."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return flip(rng, content)
    if not rng.randrange(50):
        return b"[" * 100_000
    return json.dumps(json_document(rng, document)).encode()


def safetensors(rng: Random, content: bytes) -> bytes:
    """Change the outer header, the header of this package, or the arrays; repair the digest."""
    import numpy as np
    from safetensors.numpy import load, save

    try:
        length = struct.unpack("<Q", content[:8])[0]
        outer = json.loads(content[8 : 8 + length])
        metadata = outer["__metadata__"]
        header = json.loads(metadata["fusedmlp"])
        header.pop("sha256", None)
        arrays = load(content)
    except Exception:  # noqa: BLE001 - a mutation before this one broke it
        return flip(rng, content)
    choice = rng.randrange(6)
    if choice == 0:
        text = json.dumps(json_document(rng, outer)).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    if choice == 1:
        one, other = rng.choice(list(arrays)), rng.choice(list(arrays))
        arrays[one], arrays[other] = arrays[other], arrays[one]
    elif choice == 2 and all(array.size for array in arrays.values()):
        name = rng.choice(list(arrays))
        array = arrays[name] = arrays[name].astype("f4")
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(
            (float("nan"), float("inf"), -1e30, 1e38, -1.0, 0.0)
        )
    elif choice == 3:
        name = rng.choice(list(arrays))
        kind = rng.choice(("f2", "f4", "f8", "i8", "u1"))
        with np.errstate(invalid="ignore", over="ignore"):
            changed = arrays[name].T.copy(), arrays[name][:1], arrays[name].astype(kind)
        arrays[name] = rng.choice(changed)
    else:
        header = json_document(rng, header)
    document = json.dumps(header)
    if isinstance(header, dict) and rng.randrange(8):
        document = signed_document(header, arrays)
    return save(arrays, metadata={"fusedmlp": document if rng.randrange(40) else "[" * 50_000})


_CELLS = (
    "",
    "nan",
    "inf",
    "-1e999",
    "1e308",
    '"',
    '""',
    '"a,b"',
    "\0",
    "1_0",
    "\u0661",
    "0x10",
    " ",
    "é",
    "x" * 300,
)


def csv_text(rng: Random, content: bytes) -> bytes:
    """Change cells, separators and lines of a table, or its encoding."""
    lines = content.decode("utf-8", "replace").split("\n")
    row = rng.randrange(len(lines))
    cells = lines[row].split(",")
    column = rng.randrange(len(cells))
    match rng.randrange(6):
        case 0 | 1:
            cells[column] = rng.choice((*_CELLS, *map(str, EXTREMES)))
        case 2:
            del cells[column]
        case 3:
            cells.insert(column, cells[column])
        case 4:
            lines.insert(row, rng.choice((lines[row], "", ",", "#", '"')))
        case _:
            encoding = rng.choice(("utf-8-sig", "utf-16", "utf-32"))
            return "\n".join(lines).encode(encoding)
    lines[row] = rng.choice((",", ",", ",", ";", "\t", "\r")).join(cells)
    return "\n".join(lines).encode()
