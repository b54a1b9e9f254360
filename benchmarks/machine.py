"""The machine that figures are read on."""

import os
import platform
import re
from pathlib import Path


def machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0]}, Python {platform.python_version()}"
