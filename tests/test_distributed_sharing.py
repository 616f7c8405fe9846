"""DistributedDataParallel trains shared models as one process would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from rpg_bench import share

PROCESSES = 2
SCHEMES = {"none": None, "rpg_global": 200, "rpg_local": 200}
TIMEOUT_SECONDS = 90


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3), nn.Tanh()]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 6 * 6, 5))


def batch() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def steps(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Train two steps; return the gradients of the second, and the parameters after it."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = {}
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        name = name.removeprefix("module.")
        found[f"gradient of {name}"] = parameter.grad.detach()
        found[name] = parameter.detach()
    for name, buffer in model.named_buffers():
        found[name.removeprefix("module.")] = buffer
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    for scheme, dof in SCHEMES.items():
        # Each process starts its private weights differently: rank 0 must win.
        model = DistributedDataParallel(share(network(seed=rank), scheme, dof))
        torch.save(steps(model, batch().chunk(PROCESSES)[rank]), f"{folder}/{scheme}_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(2 * TIMEOUT_SECONDS)
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    context: Any = start_processes(work, (str(tmp_path),), PROCESSES, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
    try:
        assert context.join(timeout=TIMEOUT_SECONDS) or context.join(timeout=TIMEOUT_SECONDS / 2), "it hangs"
    finally:
        for process in context.processes:
            process.kill()
    for scheme, dof in SCHEMES.items():
        expected = steps(share(network(seed=0), scheme, dof), batch())
        for rank in range(PROCESSES):
            found = torch.load(tmp_path / f"{scheme}_{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, msg=f"{scheme}, process {rank}: {name} differs")
