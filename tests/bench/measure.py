"""Runs a program and measures it from outside: wall time from its start, peak resident memory, output."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MINUTES = 60


class Failed(Exception):
    """A program that was measured has failed; the text says which and why."""


@dataclass
class Ran:
    """One finished process."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str
    # Lines of stderr with the seconds from the start of the process to their arrival.
    lines: list[tuple[float, str]]

    def arrival(self, part: str) -> float | None:
        """Returns the seconds from the start to the first line of stderr that contains `part`."""
        return next((at for at, line in self.lines if part in line), None)


def run(command: list, environment: dict[str, str] | None = None, limit: float = 60 * MINUTES, prepare=None) -> Ran:
    """Runs `command` to its end.

    `peak_bytes` is the kernel's record for this process (`ru_maxrss`), so this program itself must stay small: Linux counts the
    memory of the parent that a child shares until it starts its own program.
    """
    started = time.monotonic()
    child = subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=prepare,
        start_new_session=True,
    )
    lines: list[tuple[float, str]] = []
    out: list[str] = []
    readers = [
        threading.Thread(target=lambda: lines.extend((time.monotonic() - started, line.rstrip()) for line in child.stderr)),
        threading.Thread(target=lambda: out.append(child.stdout.read())),
    ]
    timer = threading.Timer(limit, os.killpg, (child.pid, signal.SIGKILL))
    for thread in [*readers, timer]:
        thread.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except KeyboardInterrupt:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    wall = time.monotonic() - started
    for reader in readers:
        reader.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = "\n".join(line for _, line in lines[-8:]) or "it printed nothing"
        ended = f"was ended by signal {-child.returncode}" if child.returncode < 0 else f"failed with {child.returncode}"
        raise Failed(f"`{Path(command[0]).name}` {ended} after {wall:.0f} s: {said}")
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return Ran(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, out[0], lines)


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return path
