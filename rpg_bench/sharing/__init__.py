"""Sharing schemes: networks whose weights are generated from few degrees of freedom.

model = share(timm.create_model("resnet18"), "rpg_global", dof="36k")
print(dof_report(model))
plain = materialize(model)
"""

from rpg_bench.sharing import (  # noqa: F401  (each registers its scheme)
    hashed,
    lors,
    lors_adaptive,
    lowrank,
    none,
    pruning,
    recurrent,
    rigl,
    rpg_global,
    rpg_local,
    rpg_lors,
    tied,
)
from rpg_bench.sharing.api import materialize, plan_for, share, sharing_of
from rpg_bench.sharing.blueprint import Blueprint
from rpg_bench.sharing.narrower import narrow
from rpg_bench.sharing.report import DofReport, dof_report
from rpg_bench.sharing.scheme import SCHEMES, Scheme, Sharing, get_scheme, register

__all__ = [
    "SCHEMES",
    "Blueprint",
    "DofReport",
    "Scheme",
    "Sharing",
    "dof_report",
    "get_scheme",
    "materialize",
    "narrow",
    "plan_for",
    "register",
    "share",
    "sharing_of",
]
