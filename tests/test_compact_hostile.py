"""A file that is damaged, foreign, too new or hostile is refused with the reason, before anything is made of it."""

from __future__ import annotations

import copy
import json
import pickle
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compact_files import resealed, small_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import rpg_bench
from rpg_bench import InvalidInput
from rpg_bench.compact import container
from rpg_bench.compact.load import loaded


def unpacked() -> tuple[dict[str, Any], dict[str, Any]]:
    description, tensors = container.unpacked(small_file(), "file")
    return copy.deepcopy(description), {name: tensor.copy() for name, tensor in tensors.items()}


def refused(content: bytes) -> str:
    """The error that loading these bytes ends with: one line."""
    with pytest.raises(InvalidInput) as caught:
        loaded(*container.unpacked(content, "file"))
    message = str(caught.value)
    assert message.startswith("file: ")
    assert "\n" not in message
    return message


def test_every_bit_is_under_the_checksum() -> None:
    whole = small_file()
    for position in [*range(0, 400), *range(400, len(whole), 37)]:
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        with pytest.raises(InvalidInput, match=r"^file: [^\n]*$"):
            container.unpacked(bytes(altered), "file")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300)
def test_mutated_files_are_refused(seed: int) -> None:
    """Ten of each seed: bytes that are changed, cut out or put in, most of them in the header, and short files."""
    random = np.random.RandomState(seed)
    for _ in range(10):
        whole = bytearray(small_file())
        for _ in range(random.randint(1, 5)):
            where = int(random.randint(min(len(whole), random.choice([10, 3000, 10**9])))) if whole else 0
            kind = random.choice(["set", "cut", "insert", "end"], p=[0.5, 0.2, 0.2, 0.1])
            if kind == "set":
                whole[where : where + 1] = random.bytes(1)
            elif kind == "cut":
                del whole[where : where + random.randint(1, 100)]
            elif kind == "insert":
                whole[where:where] = random.bytes(random.randint(1, 30))
            else:
                del whole[where:]
        if bytes(whole) != small_file():
            with pytest.raises(InvalidInput, match=r"^file: [^\n]*$"):
                container.unpacked(bytes(whole), "file")


@given(st.binary(max_size=300))
@settings(max_examples=1000)
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^file: "):
        container.unpacked(content, "file")
    header = len(content).to_bytes(8, "little") + b"{" + content
    with pytest.raises(InvalidInput, match=r"^file: "):
        container.unpacked(header, "file")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["none", "rpg_local", "snip", "vit_huge_patch14_224", "resnet18", "../../etc/passwd"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in nested containers."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


@given(st.data())
@settings(max_examples=100)
def test_a_sealed_file_that_says_something_else_is_refused_or_harmless(data: st.DataObject) -> None:
    """The checksum is right: whoever writes a file can compute it."""
    description, tensors = unpacked()
    path = data.draw(st.sampled_from(places(description)))
    holder: Any = description
    for key in path[:-1]:
        holder = holder[key]
    before = holder[path[-1]]
    holder[path[-1]] = data.draw(anything)
    try:
        content = resealed(description, tensors)
    except (TypeError, ValueError):
        return
    reason = None
    try:
        loaded(*container.unpacked(content, "file"))
    except InvalidInput as error:
        reason = str(error)
    if reason is not None:
        assert reason.startswith("file: ")
        assert "\n" not in reason
    else:  # what does not matter to the network, or the same
        free = ("written_by", "recipe.data", "recipe.run", "recipe.mean", "recipe.std", "recipe.classes", "recipe.dof")
        same = holder[path[-1]] == before
        name = ".".join(map(str, path))
        harmless = ("recipe.backbone", "recipe.sharing", "recipe.image_size", "parts.", "weights", "format", "sha256")
        assert same or name.startswith((*free, *harmless)), name


@given(st.data())
@settings(max_examples=50)
def test_sealed_tensors_of_another_size_are_refused(data: st.DataObject) -> None:
    description, tensors = unpacked()
    name = data.draw(st.sampled_from([*tensors, "free.8", "free.index", "survivors", "free.scales", "odd/../name"]))
    length = data.draw(st.integers(0, 6000))
    old = tensors.get(name)
    if old is not None and len(old) == length:
        return
    tensors[name] = np.zeros(length, np.uint8 if old is None else old.dtype)
    if old is not None or (name in ("free.8", "free.scales") and length):
        refused(resealed(description, tensors))


def test_reasons() -> None:
    whole = small_file()
    assert "is truncated" in refused(whole[:-5])
    assert "is truncated" in refused(whole[:200])
    assert "bytes behind its end" in refused(whole + b"x")
    assert "its bytes are not those of its checksum" in refused(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is no .safetensors file" in refused(b"")
    assert "is no .safetensors file" in refused(b"PK\x03\x04" + whole)
    assert "of something else" in refused(save({"weight": np.zeros(3, np.float32)}))
    assert "of something else" in refused(save({"weight": np.zeros(3, np.float32)}, metadata={"format": "pt"}))


def test_a_later_format_is_named() -> None:
    description, tensors = unpacked()
    message = refused(resealed({**description, "format": 2}, tensors))
    assert message == "file: file is of format 2; this version of rpg_bench reads up to 1: upgrade it"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"file: .*nothing.safetensors cannot be read: No such file"):
        rpg_bench.load(tmp_path / "nothing.safetensors")
    with pytest.raises(InvalidInput, match=r"file: .* cannot be read: Is a directory"):
        rpg_bench.load(tmp_path)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_no_file_of_ours_and_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InvalidInput, match=r"is no .safetensors file"):
        rpg_bench.load(tmp_path / "file.safetensors")
    assert not Path("executed").exists()


HUGE = 2**62


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]},
        {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [5000, 1], "data_offsets": [0, 20000]},
        {"dtype": "F64", "shape": [5000], "data_offsets": [0, 40000]},
        {"dtype": ["F32"], "shape": [5000], "data_offsets": [0, 20000]},
        {"dtype": "F32", "shape": "5000", "data_offsets": {"0": 1}},
        "ring",
    ],
)
def test_a_hostile_entry_of_the_header_allocates_nothing(entry: Any) -> None:
    whole = small_file()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["free.32"] = entry
    text = json.dumps(header).encode()
    tracemalloc.start()
    refused(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":NaN}', b"{" + b"9" * 10_000, b'{"a":1e999}']
)
def test_odd_json_is_refused(text: bytes) -> None:
    refused(len(text).to_bytes(8, "little") + text)


# What a recipe may ask for and must not get: memory, time, files.
HOSTILE = [
    ({"name": "resnet18", "options": {"channels": [60_000] * 4}}, "needs more memory"),
    ({"name": "resnet18", "options": {"layers": [60_000] * 4}}, "more than 20,000 modules|needs more memory"),
    ({"name": "vit_tiny_patch16_224", "stem": None, "options": {"embed_dim": 60_000}}, "needs more memory"),
    ({"name": "vit_tiny_patch16_224", "stem": None, "options": {"depth": 60_000}}, "20,000 modules|needs more memory"),
    (
        {"name": "swin_tiny_patch4_window7_224", "stem": None, "options": {"window_size": 4000}},
        "more memory|says slots",
    ),
    ({"name": "resnet18", "options": {"channels": [2**40] * 4}}, "cannot be"),
    ({"name": "resnet18", "options": {"pretrained": True}}, "is not allowed"),
    ({"name": "resnet18", "options": {"checkpoint_path": "/etc/passwd"}}, "is not allowed"),
    ({"name": "resnet18", "options": {"pretrained_cfg": {"file": "/etc/passwd"}}}, "is not allowed"),
    ({"name": "resnet18", "options": {"features_only": True}}, "is not allowed"),
    ({"name": "hf-hub:somebody/something", "stem": None}, "unknown"),
    ({"name": "local-dir:/tmp", "stem": None}, "unknown"),
    ({"name": "os.system", "stem": None}, "unknown"),
    ({"name": "resnet18", "options": {"block": "os.system"}}, "cannot"),
    ({"name": "resnet18", "options": {"norm_layer": "no_such_layer"}}, "cannot"),
]


@pytest.mark.parametrize(("backbone", "reason"), HOSTILE)
def test_a_hostile_recipe_is_refused_quickly(backbone: dict[str, Any], reason: str) -> None:
    import resource

    description, tensors = unpacked()
    description["recipe"]["backbone"] |= backbone
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(resealed(description, tensors))
    assert re.search(reason, message), message
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # KiB


def test_a_network_larger_than_allowed_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"file: its network has .* numbers; allowed: 0 to 1,000"):
        loaded(*container.unpacked(small_file(), "file"), largest=1000)


def test_parameters_are_rationed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them may be small."""
    from torch import nn

    from rpg_bench.compact import ration

    monkeypatch.setattr(ration, "_SPARE_PARAMETERS", 1000)
    with ration.rationed(10_000):
        nn.Sequential(*(nn.Linear(30, 30) for _ in range(20)))
    with (
        pytest.raises(InvalidInput, match="needs more memory than the numbers in the file say"),
        ration.rationed(10_000),
    ):
        nn.Sequential(*(nn.Linear(30, 30) for _ in range(30)))


def test_a_network_that_this_machine_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from rpg_bench.compact.load import BYTES_WHILE_BUILT, LARGEST_NETWORK, largest_here

    assert 0 < largest_here() <= LARGEST_NETWORK
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": BYTES_WHILE_BUILT, "SC_PHYS_PAGES": 1000}.__getitem__)
    with pytest.raises(InvalidInput, match=r"file: its network has .* numbers; allowed: 0 to 1,000"):
        loaded(*container.unpacked(small_file(), "file"))
    loaded(*container.unpacked(small_file(), "file"), largest=LARGEST_NETWORK)


def test_a_network_of_other_weights_is_refused_before_its_tables_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from rpg_bench.compact import build

    description, tensors = unpacked()
    monkeypatch.setattr(build, "share", lambda *_, **__: pytest.fail("it was shared"))
    description["weights"] += 1000
    assert re.search(r"it says slots of 364,264 weights, .* has 363,264", refused(resealed(description, tensors)))
