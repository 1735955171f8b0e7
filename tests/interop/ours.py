"""Our side: the stage programs, run as by a user."""

import json
import os
import subprocess
from pathlib import Path


class Programs:
    """The stage programs of one folder, with a temporary store."""

    def __init__(self, folder: Path, store: Path):
        self.folder = folder
        self.environment = os.environ | {"ASHLAR_STORE": str(store)}

    def run(self, stage: str, settings: dict | None = None, **inputs) -> Path:
        """Runs one stage and returns its artifact; `inputs` are flags, repeated for a list."""
        command = [self.folder / stage]
        for flag, values in inputs.items():
            for value in values if isinstance(values, list) else [values]:
                command += [f"--{flag.replace('_', '-')}", value]
        for key, value in (settings or {}).items():
            # A TOML value is written as a JSON value here: the two agree on texts, numbers, switches and lists.
            command += ["--set", f"{stage}.{key}={json.dumps(value)}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{stage} failed with {done.returncode}: {done.stderr.strip()}")
        return Path(done.stdout.strip())

    def generate(self, model: Path, rows: Path, count: int) -> list[list[int]]:
        """Returns the greedy tokens that `generate` writes for each row, computed in float32."""
        command = [self.folder / "generate", "--model", model, "--input", rows, "--max-tokens", str(count)]
        command += ["--token-ids", "--dtype", "float32", "--raw"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"generate failed with {done.returncode}: {done.stderr.strip()}")
        return [json.loads(line)["generated_ids"] for line in done.stdout.splitlines()]


def last_checkpoint(train: Path) -> Path:
    """Returns the adapters of the last checkpoint of a run."""
    return max((train / "data/checkpoints").iterdir()) / "adapters"


def read_json(path: Path):
    return json.loads(path.read_text())


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
