"""What became of sweeps, and what to do about it. Reads files alone, without torch: seconds at most.

plan.py     what a sweep asked for, written when it starts
states.py   the state of each run, from its record, lease, checkpoints, progress and failure
past.py     how long runs take, from the records of their kind
disk.py     what runs take of the disk, and will take
table.py    the states for people, once or live
retry.py    runs again what failed
clean.py    removes what no finished record needs
job_files.py  what Slurm jobs left, for clean
command.py  python -m rpg_bench.sweeps status|list|retry|clean, its exit codes and its JSON
"""
