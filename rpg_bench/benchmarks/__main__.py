"""The command `python -m rpg_bench.benchmarks`."""

from rpg_bench.benchmarks.command import main

if __name__ == "__main__":
    main()
