"""Reads the cards that `upload` pushes with huggingface_hub, as the hub's own tools do. usage: cards.py PROGRAMS

Trains on data/models/demo, writes every export, and uploads each to a hub on this machine that keeps what it receives. The metadata of
every card must be read without loss: datasets, tags, and the scores with their intervals. Exits with 1 if one is not.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from huggingface_hub import ModelCard
from ours import Programs, last_checkpoint, read_json

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data/models/demo"
DATA = {
    # The name of this file would be a number in YAML.
    "source": ["2024.jsonl"], "prompt": "Translate: {haw}", "completion": "{eng}", "max_tokens": 192,
    "on_too_long": "drop", "on_leak": "allow", "max_rows.train": 16, "max_rows.validation": 4, "max_rows.test": 4,
}
TRAIN = {"steps": 2, "warmup_steps": 1, "checkpoint_every": 2}
EXPORTS = {"peft": True, "gguf": "q8_0", "quantize.bits": 8, "quantize.group_size": 32, "max_loss_increase": 1.0}
SCORED = ("model", "quantized", "peft")
OUTPUTS = (*SCORED, "gguf")
METRICS = ("loss", "perplexity", "chrf", "bleu", "ter")


class Hub(BaseHTTPRequestHandler):
    """The requests of an upload. Files arrive in the commit; none goes to the storage of large files."""

    commits: dict[str, tuple[str, dict[str, bytes]]] = {}

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def repository(self):
        return "/".join(self.path.split("/")[3:5])

    def do_GET(self):  # noqa: N802
        commit, files = self.commits[self.repository()]
        if "/tree/" not in self.path:
            return self.answer({"sha": commit, "siblings": [{"rfilename": name} for name in files]})
        git = {name: hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for name, data in files.items()}
        self.answer([{"type": "file", "path": name, "size": len(data), "oid": git[name]} for name, data in files.items()])

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.commits.setdefault(f"{asked['organization']}/{asked['name']}", ("0" * 40, {}))
            return self.answer({})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": name, "uploadMode": "regular"} for name in names]})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        commit = hashlib.sha1(body).hexdigest()
        self.commits[self.repository()] = (commit, self.commits[self.repository()][1] | files)
        self.answer({"commitOid": commit})


def problems(output: str, text: str, datasets: list[str], scores: dict) -> list[str]:
    """Returns what huggingface_hub does not read from a card as it was meant."""
    data = ModelCard(text, ignore_metadata_errors=False).data
    expected = {"datasets": datasets, "pipeline_tag": "text-generation"}
    found = [f"{name} is {data.get(name)!r}, not {value!r}" for name, value in expected.items() if data.get(name) != value]
    if not data.library_name or not all(isinstance(tag, str) for tag in data.tags):
        found.append(f"library {data.library_name!r}, tags {data.tags!r}")
    if output not in SCORED:
        return found
    name = "fused_quantized" if output == "quantized" else "fused"
    read = {result.metric_type: result for result in data.eval_results}
    ours = {metric: scores["models"][name][metric] for metric in METRICS}
    for metric, value in ours.items():
        result = read.get(metric)
        if result is None or result.metric_value != value:
            found.append(f"{metric} is {result and result.metric_value}, not {value}")
        elif (result.dataset_type, result.dataset_split, result.task_type) != (datasets[0], "test", "text-generation"):
            found.append(f"{metric} is of {result.dataset_type!r}, {result.dataset_split!r}, {result.task_type!r}")
    chrf = read["chrf"].metric_args
    if not (chrf and chrf["low"] <= ours["chrf"] <= chrf["high"]):
        found.append(f"the interval of chrF is {chrf!r}")
    return found


def main() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    online = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_local", "HF_HUB_OFFLINE": "0"}
    failed = checked = 0
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(sys.argv[1]), Path(folder) / "store")
        data = Path(folder) / "data"
        data.mkdir()
        (data / "2024.jsonl").write_bytes((ROOT / "data/haw-eng/fornander_aligned.jsonl").read_bytes())
        base = programs.run("import-model", model_dir=MODEL)
        dataset = programs.run("prepare-data", DATA, tokenizer=base, data=data)
        trained = programs.run("train", TRAIN, model=base, dataset=dataset)
        adapters = last_checkpoint(trained)
        for datasets in (["jane/haw-eng", "0/1"], []):
            named = {"datasets": datasets} if datasets else {}
            fused = programs.run("fuse", EXPORTS | named, model=base, adapters=adapters, dataset=dataset)
            scored = programs.run("evaluate", {"generated_rows": 4, "max_tokens": 12}, model=f"fused={fused}", dataset=dataset)
            scores = read_json(scored / "data/metrics.json")
            for output in OUTPUTS:
                command = [Path(sys.argv[1]) / "upload", "--model", fused, "--output", output, "--id", f"jane/{output}"]
                more = ["--scores", scored] if output in SCORED else []
                subprocess.run([*command, *more], env=online, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                text = Hub.commits[f"jane/{output}"][1]["README.md"].decode()
                found = problems(output, text, datasets or ["2024"], scores)
                print(f"card of {output:10} {'with' if datasets else 'without'} datasets: {'; '.join(found) or 'ok'}")
                checked, failed = checked + 1, failed + bool(found)
    print(f"{checked - failed} passed, {failed} failed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
