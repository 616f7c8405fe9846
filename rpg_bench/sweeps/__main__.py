"""The command `python -m rpg_bench.sweeps`."""

from rpg_bench.sweeps.command import main

main()
