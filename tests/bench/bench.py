"""Measures our programs beside mlx-lm and PyTorch on the same inputs. usage: bench.py PROGRAMS

Run it through `run.sh`, which installs the peers. Writes `target/bench/results.json` and `target/bench/benchmarks.md`, and after a
complete run `docs/benchmarks.md`. This process uses only Python's own modules, so that it stays small.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import floor
import measure
import report
import stages
from inputs import HERE, Inputs, interpreter
from measure import Failed, write_json
from programs import Programs, Result
from shapes import shape
from workloads import (
    ASHLAR,
    FULL,
    GATHERED,
    MLX_LM,
    OPENBLAS,
    PYTORCH,
    QUICK,
    RESIDENT,
    STOCK,
    TORCH,
    Generation,
    Stage,
    Start,
    Training,
    on_gpu,
)

FOLDER = Path("target/bench")
REPEATS = 3


def main() -> int:
    # Both end the program that is being measured, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        settings = Settings(Path(sys.argv[1]))
        bench = Bench(settings)
        bench.check_peers()
        for name, workload in settings.workloads.items():
            bench.measure(name, workload)
            bench.write()
        return bench.finish()
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def interrupt(*_) -> None:
    raise KeyboardInterrupt


class Settings:
    """What the variables ask for."""

    def __init__(self, programs: Path):
        self.programs = programs
        self.quick = os.environ.get("QUICK", "") not in ("", "0")
        self.backend = os.environ.get("BACKEND") or "cpu"
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.repeats = int(os.environ.get("REPEATS") or (1 if self.quick else REPEATS))
        self.on_gpu = self.backend != "cpu"
        on_cpu = QUICK if self.quick else FULL
        known = self.known = on_gpu(5 if self.quick else 20) if self.on_gpu else on_cpu
        wanted = (os.environ.get("WORKLOADS") or " ".join(known)).replace(",", " ").split()
        if unknown := [name for name in wanted if name not in known]:
            raise Failed(f"there is no workload `{unknown[0]}`; there are {', '.join(known)}")
        self.workloads = {name: known[name] for name in wanted}
        self.peers = self.wanted_peers()
        everyone = self.peers == [*MLX_LM, *PYTORCH]
        self.complete = list(self.workloads) == list(known) and everyone and not self.quick and not self.on_gpu

    def wanted_peers(self) -> list[str]:
        """Returns the peers; `mlx-lm` stands for both of its forms, and so does `torch`."""
        wanted = os.environ.get("PEERS", "mlx-lm" if self.on_gpu else "mlx-lm torch").split()
        known = [*MLX_LM, *PYTORCH]
        if unknown := [name for name in wanted if name not in [*known, "none"]]:
            raise Failed(f"there is no peer `{unknown[0]}`; there are mlx-lm, torch, or none")
        found = set(wanted)
        found |= set(MLX_LM) if STOCK in wanted else set()
        found |= set(PYTORCH) if TORCH in wanted else set()
        if self.on_gpu or not sys.platform.startswith("linux"):
            found.discard(OPENBLAS)
        return [name for name in known if name in found]


class Bench:
    """One run over all workloads."""

    def __init__(self, settings: Settings):
        self.settings = settings
        openblas = build_openblas() if OPENBLAS in settings.peers else None
        self.inputs = Inputs(settings.programs, FOLDER)
        self.programs = Programs(self.inputs, settings.threads, settings.backend, openblas)
        self.started = time.monotonic()
        self.results: dict[str, dict] = {}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", file=sys.stderr, flush=True)

    def check_peers(self) -> None:
        """Measures the matrix product of every peer, and makes sure that OpenBLAS really is in front.

        This also loads everything that the peers import once, so that no measurement waits for the disk.
        """
        for program in self.settings.peers:
            if program != GATHERED:
                found = self.programs.speed(program)
                self.say(f"{program}: matrix product {found['gflops']:.1f} GFLOP/s, {', '.join(found['libraries'])}")
        if OPENBLAS in self.settings.peers and self.programs.gflops[OPENBLAS] < 20:
            raise Failed("mlx-lm does not use the OpenBLAS that is put in front of its own library")

    def measure(self, name: str, workload) -> None:
        """Runs all programs alternately and keeps the medians."""
        programs = [ASHLAR, *self.settings.peers]
        match workload:
            case Training(limited=True):
                self.training(name, workload, [ASHLAR, *self.resident(name, workload)])
            case Training():
                ours = [RESIDENT] if self.settings.on_gpu and workload.model.bits else []
                self.training(name, workload, [ASHLAR, *ours, *(p for p in self.settings.peers if workload.steps_of(p))])
            case Generation():
                self.generation(name, workload, [p for p in programs if workload.steps_of(p) and p != GATHERED])
            case Start():
                first = replace(self.settings.known[workload.first_step], steps=1, words=12)
                self.results[name] = stages.start(self.programs, workload, self.settings.peers, first)
            case Stage():
                left_out = [STOCK] if workload.stage == "validate" else [STOCK, GATHERED]
                left_out += [OPENBLAS, GATHERED] if self.settings.quick else []
                self.stage(name, workload, [p for p in programs if p not in left_out])

    def resident(self, name: str, workload: Training) -> list[str]:
        """Returns our program with an unpacked base, if there are the time and the memory for it."""
        if self.settings.quick:
            return []
        needed = floor.stored_bytes(shape(workload.model.shape), 4) + 2e9
        if available_memory() > needed:
            return [RESIDENT]
        self.say(f"{name} {RESIDENT}: left out, because it needs {report.gigabytes(needed)} of available memory")
        return []

    def rounds(self, workload, programs: list[str]):
        """Iterates over the runs of all programs in turn; a program that is slow enough to be cut short runs once."""
        cut = dict(getattr(workload, "fewer", ()))
        for number in range(1 if getattr(workload, "limited", False) else self.settings.repeats):
            yield from (program for program in programs if number == 0 or program not in cut)

    def training(self, name: str, workload: Training, programs: list[str]) -> None:
        runs: dict[str, list[Result]] = {program: [] for program in programs}
        for program in self.rounds(workload, programs):
            result = self.programs.train(program, name, workload)
            runs[program].append(result)
            self.say(f"{name} {program}: {report.training_line(result)}")
        data = report.rows_of(self.inputs.peer_rows(name, workload, self.inputs.dataset(name, workload)), workload)
        self.results[name] = report.training(workload, data, runs, self.programs.gflops)
        if name == "W2":
            self.results[name][ASHLAR]["scalar_peak_bytes"] = self.programs.scalar_peak_bytes()

    def generation(self, name: str, workload: Generation, programs: list[str]) -> None:
        greedy: dict[str, list[Result]] = {program: [] for program in programs}
        sampled: dict[str, list[Result]] = {program: [] for program in programs}
        for program in self.rounds(workload, programs):
            for top_p, runs in ((False, greedy), (True, sampled)):
                if top_p and program in dict(workload.fewer):
                    continue
                result = self.programs.generate(program, name, workload, top_p)
                runs[program].append(result)
                how = "top-p" if top_p else "greedy"
                self.say(f"{name} {program}, {how}: {report.generation_line(result)}")
        self.results[name] = report.generation(workload, greedy, sampled)

    def stage(self, name: str, workload: Stage, programs: list[str]) -> None:
        runs: dict[str, list[Result]] = {program: [] for program in programs}
        stage_runs = stages.StageRuns(self.programs)
        for program in self.rounds(workload, programs):
            result = stage_runs.run(program, name, workload)
            runs[program].append(result)
            self.say(f"{name} {program}: wall {result.wall_seconds:.1f} s, peak {report.gigabytes(result.peak_bytes)}")
        rows = self.inputs.scored_rows(name, self.inputs.scored_dataset(name, workload))
        self.results[name] = report.stage(workload, measure.read_json(rows)["rows"], runs)

    def write(self) -> None:
        write_json(FOLDER / "results.json", self.results)

    def finish(self) -> int:
        text = report.page(self.settings, self.results, self.settings.workloads, self.programs.gflops, machine(self.settings))
        (FOLDER / "benchmarks.md").write_text(text, encoding="utf-8")
        if self.settings.complete:
            Path("docs/benchmarks.md").write_text(text, encoding="utf-8")
        self.say(f"wrote {FOLDER / 'results.json'} and {'docs' if self.settings.complete else FOLDER}/benchmarks.md")
        print(text)
        broken = [text for text, holds in report.checks(self.results, self.settings.on_gpu) if not holds]
        if broken:
            print("\n".join(f"error: does not hold: {text}" for text in broken), file=sys.stderr)
        return 1 if broken else 0


def build_openblas() -> Path:
    """Compiles the library that gives OpenBLAS the names that MLX calls; returns its path."""
    where = "import scipy_openblas32 as found; print(found.get_lib_dir(), found.get_library(), sep='\\n')"
    folder, library = measure.run([interpreter("mlx-lm"), "-c", where]).stdout.splitlines()
    out = (FOLDER / "libopenblas-plain.so").resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", out, HERE / "openblas.c"]
    command += [f"-L{folder}", f"-l{library}", f"-Wl,-rpath,{folder}"]
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"the C compiler `{compiler}` does not run: {error.strerror}") from None
    if done.returncode:
        raise Failed(f"the library in front of OpenBLAS does not compile: {done.stderr.strip()}")
    return out


def available_memory() -> float:
    """Returns the memory in bytes that a new process may have."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.8
    return next(float(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))


def machine(settings: Settings) -> str:
    """Returns the processor, its cores and memory in one line, and the GPU if it is used."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in lines}
        name = fields.get("model name", name)
        if "model" in fields:
            name += f" (family {fields['cpu family']}, model {fields['model']})"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    card = ""
    if settings.backend == "cuda":
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            card = ", " + subprocess.run(asked, capture_output=True, text=True).stdout.strip().replace(", ", ", driver ")
        except OSError:
            card = ", GPU unknown (no nvidia-smi)"
    return f"{name.strip()}, {os.cpu_count()} cores, {memory:.0f} GB{card}"


if __name__ == "__main__":
    sys.exit(main())
