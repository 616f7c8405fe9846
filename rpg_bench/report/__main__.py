"""The command `python -m rpg_bench.report`."""

from rpg_bench.report.command import main

main()
