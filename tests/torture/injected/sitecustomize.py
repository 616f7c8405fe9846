"""Imported by Python before the command: traces the process and lets it fail where the environment says."""

import os

if "TORTURE" in os.environ:
    import json

    from torture import faults

    faults.install(json.loads(os.environ.pop("TORTURE")))  # not for processes that this one starts
