"""From records to tables. Reads records and experiment files alone: no data, no device, seconds.

records.py      the records of finished runs, and why others are left out
experiments.py  the runs that an experiment file asks for
summary.py      mean, spread and number of runs
markdown.py     rows to text
schemes_digits.py ...  one module per table; `TABLES` in command.py lists them
"""
