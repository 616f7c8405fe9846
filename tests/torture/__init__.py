"""Fault injection: training that is killed, damaged and starved at any point ends as if nothing had happened.

    make torture                           # at least 200 kills, on all cores
    make torture KILLS=50 SEED=3
    python -m torture --series 17 --seed 3 # one series again (from `tests/`)

A *series* is one run of the command that is disturbed round after round, and then completed by repeating the same
command; a *round* is one start. What a series does is a function of the seed and its number; the moment at which a
signal that is timed by the clock hits is not. Nothing in the package knows of this: what happens inside the process
is injected by `sitecustomize`, or after a fork of a process that has already imported what takes seconds.
"""
