"""Runs a process under a memory limit without swap: a control group of version 2 or 1, or `systemd-run`."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class Limit:
    """A memory limit: how it is enforced, what to put before a command, and what the child does before it starts."""

    def __init__(self, how: str, prefix: list[str] = (), prepare=None):
        self.how, self.prefix, self.prepare = how, list(prefix), prepare


@contextmanager
def limited(count: int):
    """Gives a limit of `count` bytes; one that says so if this machine offers none."""
    for folder, files in [
        (ROOT, {"memory.max": count, "memory.swap.max": 0}),
        (ROOT / "memory", {"memory.limit_in_bytes": count, "memory.swappiness": 0}),
    ]:
        group = folder / f"ashlar-bench-{os.getpid()}"
        if not make(group, files):
            continue
        name = next(iter(files))
        try:
            yield Limit(f"control group, `{name}` = {count}", prepare=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        finally:
            group.rmdir()
        return
    scope = ["systemd-run", "--user", "--scope", "--quiet", "-p", f"MemoryMax={count}", "-p", "MemorySwapMax=0"]
    if shutil.which(scope[0]) and not subprocess.run([*scope, "true"], capture_output=True).returncode:
        yield Limit(f"`systemd-run`, MemoryMax = {count}", scope)
        return
    yield Limit("not enforced: this machine lets us make no control group")


def make(group: Path, files: dict[str, int]) -> bool:
    """Makes a control group with the given limits; returns whether that worked. Only the first file is required."""
    try:
        group.mkdir()
    except OSError:
        return False
    for number, (name, value) in enumerate(files.items()):
        try:
            if not (group / name).exists():
                raise OSError
            (group / name).write_text(str(value))
        except OSError:
            if number == 0:
                group.rmdir()
                return False
    return True
