"""Writes the rows of a dataset for the peers. usage: peer_rows.py JOB.json

The job names `dataset` (an artifact of prepare-data), `split`, `batch` and `out`. A row has `tokens`, and the `first` and `last` index of the
tokens that count.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tensors = load_file(Path(job["dataset"]) / f"data/tokens/{job['split']}.safetensors")
    cuts = tensors["offsets"][1:-1].astype(np.int64)
    rows = []
    for tokens, trained in zip(np.split(tensors["tokens"], cuts), np.split(tensors["trained"], cuts)):
        # The first token has nothing before it and never counts.
        counted = np.flatnonzero(trained[1:]) + 1
        first, last = int(counted[0]), int(counted[-1])
        if len(counted) != last - first + 1:
            raise SystemExit("error: the targets of a row are not contiguous")
        rows.append({"tokens": tokens.tolist(), "first": first, "last": last})
    size = job["batch"]
    batches = [list(range(at, min(at + size, len(rows)))) for at in range(0, len(rows), size)]
    Path(job["out"]).write_text(json.dumps({"rows": rows, "batches": batches}), encoding="utf-8")


if __name__ == "__main__":
    main()
