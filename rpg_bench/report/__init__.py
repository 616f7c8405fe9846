"""From records to tables and figures. Reads records and experiment files alone: no data, no device, seconds.

records.py      the records of finished runs, and why others are left out
experiments.py  the runs that an experiment file asks for
published.py    what was published, with its sources
page.py         text, tables and plots before they are written; Markdown, CSV, LaTeX, PDF and PNG each have a file
cases.py, contrasts.py, budget_lines.py, effects.py, fit.py   what pages are made of
accuracy_vs_dof.py ...  one module per page; `PAGES` in command.py lists them
"""
