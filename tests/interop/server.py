"""Compares answers of `evaluate` with those of mlx_lm.server serving the same model. usage: server.py PROGRAMS

Fine-tunes and fuses data/models/demo, serves the fused model with mlx-lm, and evaluates it as a model and as an endpoint. Both
answer greedily, so the answers must be equal. Exits with 1 if one differs.
"""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ours import Programs, last_checkpoint, read_json, read_rows

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data/models/demo"
DATA = {
    "source": ["fornander_aligned.jsonl"], "prompt": "Translate: {haw}", "completion": "{eng}", "max_tokens": 192,
    "on_too_long": "drop", "on_leak": "allow", "max_rows.train": 64, "max_rows.validation": 8, "max_rows.test": 12,
}
TRAIN = {"steps": 12, "warmup_steps": 2, "learning_rate": 2e-3, "checkpoint_every": 12}
ANSWER_TOKENS = 24
# Seconds that the server may take to start.
PATIENCE = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"mlx_lm.server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).read()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("mlx_lm.server did not start in time")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(sys.argv[1]), Path(folder) / "store")
        base = programs.run("import-model", model_dir=MODEL)
        dataset = programs.run("prepare-data", DATA, tokenizer=base, data=ROOT / "data/haw-eng")
        trained = programs.run("train", TRAIN, model=base, dataset=dataset)
        fused = programs.run("fuse", model=base, adapters=last_checkpoint(trained), dataset=dataset)
        model, port = fused / "data/model", free_port()
        command = [sys.executable, "-m", "mlx_lm", "server", "--model", model, "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for(url, server)
            settings = {
                "max_tokens": ANSWER_TOKENS, "dtype": "float32", "endpoints.served.base_url": url,
                "endpoints.served.model": "default_model", "endpoints.served.concurrency": 2,
            }
            scored = programs.run("evaluate", settings, model=f"fused={fused}", dataset=dataset)
        finally:
            server.terminate()
            server.wait(30)
        rows = read_rows(scored / "data/predictions.jsonl")
        differ = [row for row in rows if row["predictions"]["fused"] != row["predictions"]["served"]]
        for row in differ[:3]:
            print(row["predictions"], file=sys.stderr)
        scores = read_json(scored / "data/metrics.json")["models"]
        failed = len(scores["served"].get("failed_rows", []))
        print(f"{len(rows) - len(differ)} of {len(rows)} answers of mlx_lm.server are equal, {failed} failed")
        return 1 if differ or failed else 0


if __name__ == "__main__":
    sys.exit(main())
