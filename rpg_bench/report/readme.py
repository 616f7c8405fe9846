"""Tables that the README shows, kept equal to the records: the text between two marks is written by `make tables`.

<!-- table: NAME -->
...
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rpg_bench.report import accuracy_vs_dof, rpg_lors, schemes_digits
from rpg_bench.report.markdown import markdown_table
from rpg_bench.report.page import Table
from rpg_bench.report.records import Records

TABLES: Mapping[str, Callable[[Records], Table]] = {
    "accuracy": accuracy_vs_dof.at_a_glance,
    "digits": schemes_digits.resnet_at_a_glance,
    "digits-deit": schemes_digits.deit_at_a_glance,
    "spending": rpg_lors.at_a_glance,
}
_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(text: str, records: Records) -> str:
    """The README with its tables made anew.

    Raises:
        KeyError: a mark names no table.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}{markdown_table(TABLES[found[2]](records))}\n{found[3]}", text)
