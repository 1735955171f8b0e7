"""W7 and W9: cold starts, a pipeline with nothing to do, and the stages that hold a whole model."""

import os
import shutil
from pathlib import Path
from statistics import median

import measure
from inputs import Inputs, interpreter
from measure import Failed, read_json
from programs import Programs, Result
from workloads import ASHLAR, GATHERED, MLX_LM, Stage, Start

# The default pipeline, shortened.
SHORT = "prepare-data.max_rows.train=48 train.steps=4 train.batch_size=4 evaluate.generated_rows=2 evaluate.max_tokens=8"


def help_seconds(inputs: Inputs, repeats: int) -> dict[str, float]:
    """Returns the median time of `--help` for every program of ours."""
    names = sorted(path.name for parent in ("stages", "tools") for path in Path(parent).iterdir() if (path / "Cargo.toml").exists())
    times = lambda name: [measure.run([inputs.programs / name, "--help"]).wall_seconds for _ in range(repeats)]
    return {name: median(times(name)) for name in names}


def peer_help_seconds(program: str, repeats: int) -> float:
    """Returns the median time until a peer has loaded its modules, which is what its `--help` waits for."""
    if program in MLX_LM:
        command = [interpreter("mlx-lm"), "-m", "mlx_lm", "lora", "--help"]
    else:
        command = [interpreter("torch"), "-c", "import torch, transformers, peft"]
    return median(measure.run(command).wall_seconds for _ in range(repeats))


def noop_seconds(inputs: Inputs, repeats: int) -> float:
    """Runs the default pipeline once, shortened, then again with nothing to do; returns the median of the latter."""
    make = os.environ.get("MAKE") or "make"
    folder = (inputs.folder / "pipeline").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    command = [make, "--no-print-directory", "pipeline", f"BIN={inputs.programs}", f"STORE={folder / 'store'}", f"BUILD={folder / 'build'}", f"SET={SHORT}"]
    # The settings of the make that started this program must not reach the one it starts.
    clean = {name: "" for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")}
    runs = [measure.run(command, clean) for _ in range(repeats + 1)]
    if runs[1].stdout != runs[0].stdout:
        raise Failed("the second run of the pipeline printed another result")
    shutil.rmtree(folder)
    return median(run.wall_seconds for run in runs[1:])


def start(programs: Programs, workload: Start, peers: list[str], training) -> dict:
    """Returns the results of W7 by program."""
    inputs, found = programs.inputs, {}
    helps = help_seconds(inputs, workload.repeats)
    slowest = max(helps, key=helps.get)
    firsts = {program: programs.train(program, "start", training) for program in [ASHLAR, *peers]}
    for program, result in firsts.items():
        found[program] = {
            "first_step_seconds": result.first_step_seconds,
            "help_seconds": helps[slowest] if program == ASHLAR else peer_help_seconds(program, 1),
            "peak_bytes": result.peak_bytes,
            "start_to_first_step_seconds": result.start_to_first_step_seconds,
            "wall_seconds": result.wall_seconds,
        }
    found[ASHLAR] |= {"help_of_each_seconds": helps, "noop_seconds": noop_seconds(inputs, workload.repeats), "slowest_help": slowest}
    return found


class StageRuns:
    """Runs one stage of ours or the same work of a peer."""

    def __init__(self, programs: Programs):
        self.programs, self.inputs = programs, programs.inputs

    def run(self, program: str, name: str, workload: Stage) -> Result:
        model = self.inputs.model(workload.model)
        dataset = self.inputs.scored_dataset(name, workload)
        mlx, peft = self.inputs.trained_adapters(workload.model)
        out = (self.programs.runs / f"{name}-{program}").absolute()
        shutil.rmtree(out, ignore_errors=True)
        if program == ASHLAR:
            result = self.ours(workload, model, dataset, mlx, out)
        else:
            rows = self.inputs.scored_rows(name, dataset)
            job = {
                "task": workload.stage,
                "model": str(model / "data/model"),
                "adapters": str(mlx if program in MLX_LM else peft),
                "rows": str(rows),
                "answers": workload.answers,
                "tokens": workload.tokens,
                "folder": str(out),
                "gathered_head": program == GATHERED,
            }
            ran, report = self.programs.peer(program, job, name)
            result = Result.of(ran, losses=report.get("losses", []), tokens=report.get("answers", []))
        shutil.rmtree(out, ignore_errors=True)
        return result

    def ours(self, workload: Stage, model: Path, dataset: Path, adapters: Path, out: Path) -> Result:
        command = [self.inputs.programs / workload.stage, "--store", self.inputs.store, "--out", out, "--dataset", dataset]
        if workload.stage == "evaluate":
            command += ["--model", f"base={model}", "--set", f"generated_rows={workload.answers}"]
            command += ["--set", f"max_tokens={workload.tokens}"]
        else:
            command += ["--model", model, "--train" if workload.stage == "validate" else "--adapters", adapters]
        ran = measure.run(command, self.programs.environment(ASHLAR))
        return Result.of(ran, losses=self.losses(workload, out))

    def losses(self, workload: Stage, out: Path) -> list[float]:
        """Returns the losses that a stage wrote."""
        if workload.stage == "validate":
            return [point["loss"] for point in read_json(out / "data/losses.json")["checkpoints"]]
        if workload.stage == "evaluate":
            return [model["loss"] for model in models_of(read_json(out / "data/metrics.json"))]
        return []


def models_of(metrics: dict) -> list[dict]:
    models = metrics["models"]
    return list(models.values()) if isinstance(models, dict) else models
