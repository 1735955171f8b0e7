"""mlx-lm's side: one task in a process of its own, so that its time and memory can be measured. usage: mlx_peer.py JOB.json

The job names a `task` and an `out` file for the result. Rows, targets, batches and initial adapters are given; everything else
is mlx-lm as it is installed.
"""

import json
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import mlx_lm
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.generate import batch_generate, generate_step
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train as train_loop
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

# As in mlx-lm's own batches: inputs are padded to a multiple of this many tokens.
PAD_TO = 32


class Batches:
    """The given batches in the given order, padded as by mlx-lm; remembers when each was asked for."""

    def __init__(self, rows: list[dict], batches: list[list[int]]):
        self.rows, self.batches = rows, batches
        self.asked: list[float] = []
        self.padded = 0

    def __call__(self, **_):
        while True:
            for batch in self.batches:
                self.asked.append(time.monotonic())
                tokens, targets = self.padded_batch([self.rows[index] for index in batch])
                yield mx.array(tokens), mx.array(targets)

    def padded_batch(self, rows: list[dict]):
        longest = max(len(row["tokens"]) for row in rows)
        width = 1 + PAD_TO * -(-longest // PAD_TO)
        tokens = np.zeros((len(rows), width), np.int32)
        for row, line in zip(rows, tokens):
            line[: len(row["tokens"])] = row["tokens"]
        self.padded += len(rows) * (width - 1)
        # mlx-lm counts from the first number to the second; it would also count one token after the row.
        return tokens, [(row["first"], row["last"]) for row in rows]


class Reports:
    """Receives a report after every step."""

    def __init__(self):
        self.ended: list[float] = []
        self.losses: list[float] = []

    def on_train_loss_report(self, report: dict) -> None:
        self.ended.append(time.monotonic())
        self.losses.append(report["train_loss"])

    def on_val_loss_report(self, report: dict) -> None:
        pass


def prepare(model, job: dict) -> None:
    """Freezes the model but for what is trained, as `mlx_lm.lora` does."""
    model.freeze()
    if job["adapters"]:
        config = json.loads((Path(job["adapters"]) / "adapter_config.json").read_text(encoding="utf-8"))
        linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"])
        model.load_weights(str(Path(job["adapters"]) / "adapters.safetensors"), strict=False)
    else:
        for layer in model.layers[-job["layers"] :]:
            layer.unfreeze()


def train(job: dict) -> dict:
    model, _ = mlx_lm.load(job["model"])
    prepare(model, job)
    loaded = time.monotonic()
    data = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    batches, reports = Batches(data["rows"], data["batches"]), Reports()
    settings = TrainingArgs(
        batch_size=len(data["batches"][0]),
        iters=job["steps"],
        steps_per_report=1,
        steps_per_save=10**9,
        max_seq_length=1 << 20,
        adapter_file=str(Path(job["out"]).with_suffix(".safetensors")),
        grad_checkpoint=job.get("checkpointing", False),
    )
    optimizer = optim.Adam(learning_rate=job["learning_rate"], bias_correction=True)
    rows = [None] * len(data["rows"])
    train_loop(model, optimizer, rows, None, settings, default_loss, batches, reports)
    count = job["steps"]
    padded = sum(
        len(batch) * PAD_TO * -(-max(len(data["rows"][index]["tokens"]) for index in batch) // PAD_TO)
        for batch in (data["batches"] * count)[:count]
    )
    starts = batches.asked[:count]
    return {
        "first_step_seconds": starts[0] - loaded,
        "start_to_first_step_seconds": starts[0] - job["started"],
        "losses": reports.losses,
        "padded_tokens": padded,
        "step_seconds": [end - start for start, end in zip(starts, reports.ended)],
        "peak_device_bytes": mx.get_peak_memory(),
    }


def generate(job: dict) -> dict:
    model, tokenizer = mlx_lm.load(job["model"])
    mx.eval(model.parameters())
    sampler = make_sampler(temp=1.0, top_p=job["top_p"]) if job["top_p"] else make_sampler(temp=0.0)
    mx.random.seed(0)
    started = time.monotonic()
    if len(job["prompts"]) == 1:
        prompt = mx.array(job["prompts"][0])
        steps = generate_step(prompt, model, max_tokens=job["tokens"], sampler=sampler)
        tokens = [[int(token) for token, _ in steps]]
    else:
        answers = batch_generate(
            model, tokenizer, job["prompts"], max_tokens=job["tokens"], sampler=sampler, return_token_ids=True
        )
        tokens = answers.token_ids
    return {"seconds": time.monotonic() - started, "tokens": tokens}


def fuse(job: dict) -> dict:
    """Merges adapters and writes the model, as `mlx_lm.fuse` does."""
    model, tokenizer, config = mlx_lm.load(job["model"], adapter_path=job["adapters"], return_config=True)
    fused = [(name, module.fuse()) for name, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))
    mlx_lm.utils.save(Path(job["folder"]), job["model"], model, tokenizer, config, donate_model=False)
    return {}


def mean_loss(model, rows: list[dict]) -> float:
    """Returns the mean loss over all targets, in batches of mlx-lm's default size."""
    batches, total, count = Batches(rows, []), 0.0, 0
    for at in range(0, len(rows), 4):
        tokens, targets = batches.padded_batch(rows[at : at + 4])
        loss, counted = default_loss(model, mx.array(tokens), mx.array(targets))
        total += (loss * counted).item()
        count += counted.item()
    return total / count


def validate(job: dict) -> dict:
    rows = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))["rows"]
    model, _ = mlx_lm.load(job["model"])
    base = mean_loss(model, rows)
    load_adapters(model, job["adapters"])
    return {"losses": [base, mean_loss(model, rows)]}


def evaluate(job: dict) -> dict:
    rows = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))["rows"]
    model, tokenizer = mlx_lm.load(job["model"])
    loss = mean_loss(model, rows)
    prompts = [row["tokens"][: row["first"]] for row in rows[: job["answers"]]]
    answers = batch_generate(model, tokenizer, prompts, max_tokens=job["tokens"], return_token_ids=True)
    return {"losses": [loss], "answers": answers.token_ids}


def speed(job: dict) -> dict:
    """Returns the speed of the matrix product, and the BLAS libraries in this process."""
    size = job["size"]
    a, b = (mx.random.normal((size, size)).astype(getattr(mx, job["dtype"])) for _ in range(2))
    mx.eval(a, b)
    best = float("inf")
    for _ in range(job["repeats"]):
        started = time.monotonic()
        mx.eval(a @ b)
        best = min(best, time.monotonic() - started)
    maps = Path("/proc/self/maps")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "blas" in line} if maps.exists() else set()
    return {"gflops": 2 * size**3 / best / 1e9, "libraries": sorted(Path(path).name for path in loaded)}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["backend"] == "cpu":
        mx.set_default_device(mx.cpu)
    tasks = {task.__name__: task for task in (train, generate, fuse, validate, evaluate, speed)}
    Path(job["out"]).write_text(json.dumps(tasks[job["task"]](job)), encoding="utf-8")


if __name__ == "__main__":
    main()
