"""Reads a training artifact's event file with TensorBoard and holds it against its metrics. usage: check.py ARTIFACT"""

import json
import sys
from pathlib import Path

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RENAMED = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "tokens_per_second": "speed/tokens_per_second",
    "active_bytes": "memory/active_bytes",
    "peak_bytes": "memory/peak_bytes",
    "resident_bytes": "memory/resident_bytes",
}
NEEDED = {
    "loss/train",
    "loss/validation",
    "learning_rate",
    "gradient_norm",
    "speed/tokens_per_second",
    "memory/active_bytes",
}


def scalars(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{key}/")
        elif key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + RENAMED.get(key, key), value


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


artifact = Path(sys.argv[1])
wanted = {}
for line in lines(artifact / "data" / "metrics.jsonl") + lines(artifact / "telemetry" / "timing.jsonl"):
    for tag, value in scalars(line):
        # Event files hold 32-bit floats.
        wanted.setdefault(tag, []).append((line["step"], float(numpy.float32(value))))

events = EventAccumulator(str(artifact / "telemetry"), size_guidance={"scalars": 0})
events.Reload()
shown = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

missing = NEEDED - shown.keys()
different = sorted(tag for tag in wanted.keys() | shown.keys() if wanted.get(tag) != shown.get(tag))
for tag in different:
    print(f"{tag}: TensorBoard shows {shown.get(tag)}, expected {wanted.get(tag)}", file=sys.stderr)
if missing:
    print(f"TensorBoard does not show {sorted(missing)}", file=sys.stderr)
if missing or different:
    sys.exit(1)
points = sum(len(series) for series in shown.values())
print(f"TensorBoard shows the same {points} points in {len(shown)} curves")
