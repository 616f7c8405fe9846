"""The command `python -m rpg_bench.benchmarks`."""

from rpg_bench.host import prepare_host

if __name__ == "__main__":
    prepare_host()  # as training does, and like there before torch is imported
    from rpg_bench.benchmarks.command import main

    main()
