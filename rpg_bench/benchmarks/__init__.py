"""What sharing costs, measured: `make bench`, or `python -m rpg_bench.benchmarks [sections] [short=true]`.

Every figure is a ratio of two things measured in turn in one process on one machine, unless its unit
says otherwise. Each section writes one JSON file; a summary in Markdown is made from all of them.
"""
