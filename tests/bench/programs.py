"""Runs the programs on a workload and reads what they report about themselves."""

import json
import re
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import measure
from inputs import HERE, Inputs, interpreter, shared_settings
from limits import Limit, limited
from measure import Failed, Ran, read_json, write_json
from workloads import ASHLAR, GATHERED, MLX_LM, MEMORY_LIMIT, OPENBLAS, RESIDENT, STOCK, TOP_P, Generation, Training

LEARNING_RATE = {True: 1e-4, False: 1e-5}
# Our trainer pads inputs to a multiple of this many tokens.
PAD_TO, PAD_TO_ON_GPU = 8, 128


def padded_tokens(data: dict, steps: int, pad_to: int) -> int:
    """Returns the positions that our trainer computes in the first steps."""
    longest = lambda batch: max(len(data["rows"][index]["tokens"]) for index in batch) - 1
    return sum(len(batch) * pad_to * -(-longest(batch) // pad_to) for batch in data["batches"][:steps])


@dataclass
class Result:
    """What one run of one program measured."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    # Of training: the loss and duration of each step, and the number of positions computed.
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    padded_tokens: int = 0
    # Seconds from the end of loading, and from the start of the process, to the first step.
    first_step_seconds: float = 0.0
    start_to_first_step_seconds: float = 0.0
    # How its memory was limited.
    limit: str = "none"
    # Of generation: seconds without loading, and the tokens of each answer.
    seconds: float = 0.0
    tokens: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, ran: Ran, **more):
        return cls(ran.wall_seconds, ran.cpu_seconds, ran.peak_bytes, **more)


class Programs:
    """All programs, each with as many threads as there are cores."""

    def __init__(self, inputs: Inputs, threads: int, backend: str, openblas: Path | None):
        self.inputs, self.threads, self.backend, self.openblas = inputs, threads, backend, openblas
        self.runs = inputs.folder / "runs"
        self.gflops: dict[str, float] = {}

    def environment(self, program: str) -> dict[str, str]:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        found = {name: str(self.threads) for name in names}
        # The kernels that MLX compiles while it runs are kept here.
        temporary = self.inputs.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        found["TMPDIR"] = str(temporary)
        if program == OPENBLAS:
            found["LD_PRELOAD"] = str(self.openblas)
        return found

    def peer(self, program: str, job: dict, name: str) -> tuple[Ran, dict]:
        """Runs one task of a peer; returns the measurement and its own report."""
        out = self.runs / f"{name}-{program}.out.json"
        script, python = ("mlx_peer.py", "mlx-lm") if program in MLX_LM else ("torch_peer.py", "torch")
        job = job | {"backend": self.backend, "out": str(out), "started": time.monotonic(), "threads": self.threads}
        path = write_json(self.runs / f"{name}-{program}.json", job)
        out.unlink(missing_ok=True)
        ran = measure.run([interpreter(python), HERE / script, path], self.environment(program))
        return ran, read_json(out)

    def speed(self, program: str) -> dict:
        """Returns the speed of the program's matrix product."""
        size = 8192 if self.backend != "cpu" else 512 if program == STOCK else 2048
        dtype = "float32" if self.backend == "cpu" else "bfloat16"
        job = {"task": "speed", "size": size, "dtype": dtype, "repeats": 3}
        _, report = self.peer(program, job, "speed")
        self.gflops[program] = report["gflops"]
        return report

    # Training.

    def train(self, program: str, name: str, workload: Training) -> Result:
        dataset = self.inputs.dataset(name, workload)
        model = self.inputs.model(workload.model)
        if program in (ASHLAR, RESIDENT):
            return self.train_ours(name, workload, model, dataset, program == RESIDENT)
        mlx, peft = self.inputs.adapters(name, workload, dataset) if workload.lora else (None, None)
        adapters = mlx if program in MLX_LM else peft
        job = {
            "task": "train",
            "model": str(model / "data/model"),
            "rows": str(self.inputs.peer_rows(name, workload, dataset)),
            "adapters": adapters and str(adapters),
            "layers": workload.layers,
            "steps": workload.steps_of(program),
            "learning_rate": LEARNING_RATE[workload.lora],
            "checkpointing": workload.checkpointing,
            "dtype": workload.model.dtype,
            "gathered_head": program == GATHERED,
        }
        ran, report = self.peer(program, job, name)
        if self.backend != "cpu":
            ran.peak_bytes = report["peak_device_bytes"]
        return Result.of(
            ran,
            losses=report["losses"],
            step_seconds=report["step_seconds"],
            padded_tokens=report["padded_tokens"],
            first_step_seconds=report["first_step_seconds"],
            start_to_first_step_seconds=report["start_to_first_step_seconds"],
        )

    def train_ours(self, name: str, workload: Training, model: Path, dataset: Path, resident: bool) -> Result:
        out = self.runs / f"{name}-ashlar"
        shutil.rmtree(out, ignore_errors=True)
        settings = shared_settings(workload) | {
            "batch_size": workload.batch,
            "curriculum": "loss",
            "learning_rate": LEARNING_RATE[workload.lora],
            "steps": workload.steps,
        }
        if self.backend == "cpu":
            settings["pad_to"] = PAD_TO
        command = [self.inputs.programs / "train", "--store", self.inputs.store, "--out", out, "--model", model]
        command += ["--dataset", dataset, "--losses", self.inputs.order(name, dataset), "-v"]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        if resident:
            command += ["--set", "unpack=resident"]
        with limited(MEMORY_LIMIT) if workload.limited and not resident else nullcontext(Limit("none")) as limit:
            ran = measure.run([*limit.prefix, *command], self.environment(ASHLAR), prepare=limit.prepare)
        lines = [json.loads(line) for line in (out / "data/metrics.jsonl").read_text().splitlines()]
        losses = [line["train_loss"] for line in lines if "train_loss" in line]
        reports = [json.loads(line) for line in next(out.rglob("timing.jsonl")).read_text().splitlines()]
        timing = [report["seconds"] for report in reports]
        if self.backend == "cpu":
            self.note_speed(ran)
        else:
            ran.peak_bytes = max(report["peak_bytes"] for report in reports)
        shutil.rmtree(out)
        data = read_json(self.inputs.peer_rows(name, workload, dataset))
        padded = padded_tokens(data, workload.steps, PAD_TO if self.backend == "cpu" else PAD_TO_ON_GPU)
        seconds = [end - start for start, end in zip([0.0, *timing], timing)]
        loaded, reported = ran.arrival("training "), ran.arrival(f" 1/{workload.steps} ")
        if loaded is None or reported is None:
            raise Failed("`train -v` no longer reports when it has loaded and when it has taken a step")
        begun = reported - seconds[0]
        return Result.of(
            ran,
            losses=losses,
            step_seconds=seconds,
            padded_tokens=padded,
            first_step_seconds=max(begun - loaded, 0.0),
            limit=limit.how,
            start_to_first_step_seconds=begun,
        )

    def note_speed(self, ran: Ran) -> None:
        """Notes the speed of the matrix product that `train -v` reports."""
        for _, line in ran.lines:
            if found := re.search(r"matrix product: (\d+) GFLOP/s", line):
                self.gflops[ASHLAR] = max(self.gflops.get(ASHLAR, 0.0), float(found[1]))

    def scalar_peak_bytes(self) -> int:
        """Returns the peak of our program with a model of a few megabytes: what MLX itself occupies."""
        command = [self.inputs.programs / "generate", "--model", "data/models/demo", "--prompt", "a", "--max-tokens", "1"]
        return measure.run(command, self.environment(ASHLAR)).peak_bytes

    # Generation.

    def generate(self, program: str, name: str, workload: Generation, top_p: bool) -> Result:
        model = self.inputs.model(workload.model)
        prompts, tokens = self.inputs.prompts(workload), workload.steps_of(program)
        if program == ASHLAR:
            result = self.generate_ours(name, model, prompts, tokens, top_p)
        else:
            job = {
                "task": "generate",
                "model": str(model / "data/model"),
                "prompts": prompts,
                "tokens": tokens,
                "top_p": TOP_P if top_p else None,
            }
            ran, report = self.peer(program, job, name)
            result = Result.of(ran, seconds=report["seconds"], tokens=report["tokens"])
        short = [len(answer) for answer in result.tokens if len(answer) != tokens]
        if short:
            raise Failed(f"{program} wrote an answer of {short[0]} tokens, not {tokens}")
        return result

    def generate_ours(self, name: str, model: Path, prompts: list, tokens: int, top_p: bool) -> Result:
        asked, answered = self.runs / f"{name}-prompts.jsonl", self.runs / f"{name}-answers.jsonl"
        asked.parent.mkdir(parents=True, exist_ok=True)
        asked.write_text("".join(json.dumps({"prompt_tokens": prompt}) + "\n" for prompt in prompts))
        command = [self.inputs.programs / "generate", "--model", model, "--input", asked, "--output", answered]
        command += ["--token-ids", "--max-tokens", tokens, "--batch-size", len(prompts), "-v"]
        command += ["--temperature", 1, "--top-p", TOP_P] if top_p else []
        ran = measure.run(command, self.environment(ASHLAR))
        found = next((re.search(r"tokens in ([\d.]+) s", line) for _, line in ran.lines if "rows" in line), None)
        if not found:
            raise Failed("`generate -v` printed no time")
        rows = [json.loads(line) for line in answered.read_text().splitlines()]
        return Result.of(ran, seconds=float(found[1]), tokens=[row["generated_ids"] for row in rows])
