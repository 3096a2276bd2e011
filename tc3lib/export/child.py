"""Run a Python program in a process of its own: a fresh one, without what this one has imported or patched."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tc3lib
from tc3lib.errors import Tc3Error


def run(arguments: Sequence[str | Path], what: str) -> None:
    """Run `python ARGUMENTS`.

    Raises:
        Tc3Error: It failed; the last line that it wrote is the reason.
    """
    ours, theirs = str(Path(tc3lib.__file__).parents[1]), os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ours, theirs] if theirs else [ours])},
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = lines[-1].strip()[:300] if lines else ""
        if done.returncode == -signal.SIGKILL:
            reason = "it was killed by signal 9, mostly because memory ran out"
        raise Tc3Error(f"{what} failed: {reason or f'status {done.returncode}'}")
