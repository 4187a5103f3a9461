"""Scripts that run as several processes at once, each told its rank."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

END = """
import os

os._exit(0)  # all is asserted; at the end of the interpreter gloo's threads now and then abort
"""


def run(script: str, *arguments: object, count: int = 2) -> None:
    """Run a script in `count` processes; `sys.argv` holds the rank and the arguments."""
    command = [sys.executable, "-c", textwrap.dedent(script) + END]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*command, str(rank), *map(str, arguments)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in running:
            process.kill()
