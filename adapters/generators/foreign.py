"""Running somebody else's program: its own process, its own interpreter, a time limit.

The program's standard input is a pipe that stays open and empty. A worker of ours at the other end
watches it: when this process dies, by whatever signal, the pipe closes and the worker ends, even in
the middle of hours of sampling.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from matterloop.loop.errors import PluginFailedError, UsageError

GROUP = "matterloop.generators"
_TAIL_LINES, _TAIL_CHARACTERS = 4, 600


class GeneratorTimeoutError(PluginFailedError):
    """A generator's program did not finish in time and was stopped."""

    def __init__(self, name: str, timeout_s: float) -> None:
        super().__init__(
            GROUP,
            name,
            f"its program did not finish within {timeout_s:g} s and was stopped; ask for fewer"
            " crystals or raise the setting `timeout_s`",
        )


def run_foreign(
    command: Sequence[str], *, name: str, folder: Path, timeout_s: float, threads: int
) -> None:
    """Run a program in `folder` and wait for it.

    Parameters
    ----------
    command
        Program and arguments.
    name
        The plugin's name, for messages.
    timeout_s
        Seconds of wall time after which the program and its children are killed.
    threads
        What ``OMP_NUM_THREADS`` and its kin are set to.

    Raises
    ------
    UsageError
        If there is no such program.
    GeneratorTimeoutError
        If it takes too long.
    PluginFailedError
        If it ends with an error; the message holds the last lines that it wrote.
    """
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=_environment(command[0], threads),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"The generator {name!r} cannot start {command[0]!r}: {error.strerror}.",
                "a program that exists and may be run",
                "correct the generator's settings, or install the program",
            ) from error
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise GeneratorTimeoutError(name, timeout_s) from None
        finally:
            _end(process)
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise PluginFailedError(GROUP, name, f"its program ended with {how}: {_tail(log)}")


def _environment(program: str, threads: int) -> dict[str, str]:
    environment = dict(os.environ)
    if program != sys.executable:
        # They name this interpreter's packages; another one must not see them.
        for variable in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(variable, None)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[variable] = str(threads)
    return environment


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    text = " / ".join([line for line in lines if line][-_TAIL_LINES:])
    return text[-_TAIL_CHARACTERS:] or "it wrote nothing"
