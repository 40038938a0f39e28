"""The machine that a benchmark runs on."""

import os
import platform
import sys


def cpu_name() -> str:
    """The processor's name as Linux gives it, or as Python does on another system."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":")[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def warn_if_busy() -> None:
    if (load := os.getloadavg()[0]) > 0.5:
        print(
            f"The machine is busy, its load is {load:.1f}: times and ratios may be far off",
            file=sys.stderr,
        )
