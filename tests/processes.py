"""The command line in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = str(Path(__file__).parent)
CODE = "import sys; from deepviz.cli import main; main()"


def in_a_process(*arguments, **options):
    """A command that has ended."""
    environment = in_environment(options.pop("env", {}))
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], env=environment, timeout=90, check=False, **options
    )


def in_environment(given):
    """The environment of a process that finds this package and these tests; None takes a variable away."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, TESTS]), **given}
    return {name: value for name, value in environment.items() if value is not None}


def started(*arguments, **options):
    """A command that runs."""
    environment = in_environment(options.pop("env", {}))
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def stopped_after(process, path, number=signal.SIGTERM):
    """Send a signal once this file is there; the exit code, stdout and stderr."""
    for _ in range(1200):
        if Path(path).exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err
