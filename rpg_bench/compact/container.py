"""The file as bytes: safetensors, with a description that is checked and a checksum of every byte.

    8 bytes      length of the header, little endian
    header       JSON: the tensors, each with one axis, and a description of what they are
    data         the tensors, one behind the other

The description is one JSON text under the metadata key `rpg_bench`. It holds `sha256`, the digest of the whole file
with these 64 digits as zeros. Reading takes Python and NumPy alone, allocates nothing that the file does not contain,
and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rpg_bench.errors import InvalidInput

FORMAT = 1
KEY = "rpg_bench"
LARGEST_HEADER = 1 << 20
LARGEST_FILE = 1 << 32
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "I64": np.dtype("<i8"),
}

_LENGTH = 8
_NO_DIGEST = "0" * 64

Tensors = Mapping[str, NDArray[Any]]


def packed(description: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The file of these tensors, each of one axis; the same bytes for the same content."""
    from safetensors.numpy import save

    text = json.dumps({"format": FORMAT, "sha256": _NO_DIGEST, **description}, separators=(",", ":"), allow_nan=False)
    content = save(dict(sorted(tensors.items())), metadata={KEY: text})
    digest = hashlib.sha256(content).hexdigest()
    place = content.index(_NO_DIGEST.encode())
    return content[:place] + digest.encode() + content[place + len(digest) :]


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The description and the tensors of a file.

    Raises:
        InvalidInput: there is no such file, or `unpacked` refuses it.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise InvalidInput(f"file: {path} has {size:,} bytes; at most {LARGEST_FILE:,} are read")
            # Until the header is that of a compact file, nothing else is read.
            head = file.read(_LENGTH + LARGEST_HEADER)
            _header(head, size, str(path))
            content = head + file.read()
    except OSError as error:
        raise InvalidInput(f"file: {path} cannot be read: {error.strerror}") from None
    return unpacked(content, str(path))


def unpacked(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The description and the tensors, as views of `content`, of the bytes of a file that errors call `name`.

    Raises:
        InvalidInput: it is no compact file, or one that is truncated, altered, or of a later version.
    """
    header, description, start = _header(content, len(content), name)
    stated = description.get("sha256")
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        raise InvalidInput(f"file: {name} has no checksum; it is damaged, or was not written by rpg_bench")
    if content.count(stated.encode(), 0, start) != 1:
        raise InvalidInput(f"file: {name} does not have its checksum in one place; it is damaged")
    place = content.index(stated.encode())
    digest = hashlib.sha256(content[:place] + _NO_DIGEST.encode())
    digest.update(memoryview(content)[place + len(stated) :])
    if digest.hexdigest() != stated:
        raise InvalidInput(f"file: {name} is damaged: its bytes are not those of its checksum; fetch or export it anew")
    tensors = {}
    for tensor, (kind, length, begin, end) in _entries(header, name).items():
        tensors[tensor] = np.frombuffer(content, TYPES[kind], length, start + begin)
        assert tensors[tensor].nbytes == end - begin
    return description, tensors


def _header(content: bytes, size: int, name: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The header and the description in it, and where the data starts; `size` is that of the whole file."""
    length = int.from_bytes(content[:_LENGTH], "little")
    if size < _LENGTH or length > LARGEST_HEADER or length < 2 or content[_LENGTH : _LENGTH + 1] != b"{":
        raise InvalidInput(f"file: {name} is no .safetensors file, or its beginning is damaged")
    start = _LENGTH + length
    if size < start:
        raise InvalidInput(f"file: {name} is truncated: {size:,} bytes, its header alone has {start:,}")
    header = _json(content[_LENGTH:start], f"file: {name} is damaged: its header")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise InvalidInput(
            f"file: {name} is a .safetensors file of something else; python -m rpg_bench.export format=compact makes "
            "what is read here"
        )
    description = _json(metadata[KEY].encode(), f"file: {name} is damaged: its description")
    version = description.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InvalidInput(f"file: {name} is damaged: {str(version)[:20]!r} is no version of the format")
    if version > FORMAT:
        raise InvalidInput(
            f"file: {name} is of format {str(version)[:20]}; this version of rpg_bench reads up to {FORMAT}: upgrade it"
        )
    data = max((entry[3] for entry in _entries(header, name).values()), default=0)
    if size != start + data:
        problem = "is truncated" if size < start + data else "has bytes behind its end"
        raise InvalidInput(f"file: {name} {problem}: {size:,} bytes, {start + data:,} expected")
    return header, description, start


def _entries(header: Mapping[str, Any], name: str) -> dict[str, tuple[str, int, int, int]]:
    """Type, length, begin and end of each tensor; they fill the data without gaps."""
    found: dict[str, tuple[str, int, int, int]] = {}
    for tensor, entry in header.items():
        if tensor == "__metadata__":
            continue
        wrong = InvalidInput(
            f"file: {name} is damaged: the header's entry {tensor[:40]!r} is not one of a compact file"
        )
        if not isinstance(entry, dict) or str(entry.get("dtype")) not in TYPES or len(tensor) > 40:
            raise wrong
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        for numbers, count in ((shape, 1), (offsets, 2)):
            if not isinstance(numbers, list) or len(numbers) != count:
                raise wrong
            if not all(type(number) is int and 0 <= number <= LARGEST_FILE for number in numbers):
                raise wrong
        assert shape is not None
        assert offsets is not None
        if offsets[1] - offsets[0] != shape[0] * TYPES[str(entry["dtype"])].itemsize:
            raise wrong
        found[tensor] = (str(entry["dtype"]), shape[0], offsets[0], offsets[1])
    end = 0
    for _, _, begin, stop in sorted(found.values(), key=lambda entry: entry[2:]):
        if begin != end:
            raise InvalidInput(f"file: {name} is damaged: its tensors do not follow one another")
        end = stop
    return found


def _json(text: bytes, what: str) -> dict[str, Any]:
    def constant(_: str) -> NoReturn:
        raise ValueError

    try:
        value: Any = json.loads(text.decode(), parse_constant=constant)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is no JSON object")
    return value
