"""Turns runs into medians, ratios and checks, and writes the page."""

import time
from statistics import median

import floor
from bars import Bar, bars
from measure import read_json
from programs import Result
from shapes import shape
from workloads import ASHLAR, FLOOR, Generation, Stage, Start, Training

# The first losses of all programs agree this well, or they do not start from the same place; on a GPU they compute in bfloat16.
SAME_START = 1e-3
SAME_START_ON_GPU = 3e-2
# Workloads whose final losses must agree, and how well.
COMPARED = ("W1", "W3", "W4")
SAME_END = 1e-3


def rows_of(path, workload: Training) -> list[list[dict]]:
    """Returns the rows of each step."""
    data = read_json(path)
    batches = (data["batches"] * workload.steps)[: workload.steps]
    return [[data["rows"][index] for index in batch] for batch in batches]


def trained_tokens(rows: list[dict]) -> int:
    return sum(row["last"] - row["first"] + 1 for row in rows)


def real_tokens(rows: list[dict]) -> int:
    return sum(len(row["tokens"]) - 1 for row in rows)


def training(workload: Training, steps: list[list[dict]], runs: dict[str, list[Result]], gflops: dict) -> dict:
    """Returns the medians of a training workload by program, with the floor."""
    found = {program: training_medians(steps, results) for program, results in runs.items()}
    if gflops:
        found[FLOOR] = floor_of(workload, steps, max(gflops.values()))
    for values in found.values():
        compare(values, found[ASHLAR], found.get(FLOOR))
    return found


def floor_of(workload: Training, steps: list[list[dict]], gflops: float) -> dict:
    """Returns the least time of the steps at `gflops`."""
    config = shape(workload.model.shape)
    layers = min(workload.layers, config["num_hidden_layers"])
    flops = [floor.training_flops(config, rows, layers, workload.lora) for rows in steps]
    seconds = [count / gflops / 1e9 for count in flops]
    trained = sum(map(trained_tokens, steps))
    return {
        "flops": sum(flops),
        "gflops": gflops,
        "step_seconds": seconds,
        "tokens_per_second": trained / sum(seconds),
        "trained_tokens": trained,
        "wall_seconds": sum(seconds),
    }


def training_medians(steps: list[list[dict]], results: list[Result]) -> dict:
    count = len(results[0].step_seconds)
    seconds = [median(result.step_seconds[step] for result in results) for step in range(count)]
    total = median(sum(result.step_seconds) for result in results)
    rows = sum(steps[:count], [])
    trained, real = trained_tokens(rows), real_tokens(rows)
    losses = results[-1].losses
    return {
        "cpu_seconds": median(result.cpu_seconds for result in results),
        "first_loss": losses[0],
        "loss": losses[-1],
        "losses": losses,
        "padded_tokens_per_second": results[0].padded_tokens / total,
        "peak_bytes": int(median(result.peak_bytes for result in results)),
        "real_tokens_per_second": real / total,
        "runs": len(results),
        "step_seconds": seconds,
        "steps": count,
        "steps_seconds": total,
        "tokens_per_second": trained / total,
        "trained_tokens": trained,
        "wall_seconds": median(result.wall_seconds for result in results),
    } | ({"limit": results[0].limit} if results[0].limit != "none" else {})


def compare(values: dict, ours: dict, least: dict | None) -> None:
    """Adds ratios over the steps that both programs took."""
    count = min(len(values["step_seconds"]), len(ours["step_seconds"]))
    own = sum(values["step_seconds"][:count])
    values["ours_is_faster_by"] = own / sum(ours["step_seconds"][:count])
    values["share_of_floor"] = sum(least["step_seconds"][:count]) / own if least else None
    if "peak_bytes" in values:
        values["our_share_of_memory"] = ours["peak_bytes"] / values["peak_bytes"]
    if "losses" in values:
        values["loss_difference"] = abs(values["losses"][count - 1] - ours["losses"][count - 1])
        values["first_loss_difference"] = abs(values["losses"][0] - ours["losses"][0])


def generation(workload: Generation, greedy: dict, sampled: dict) -> dict:
    """Returns the medians of a generation workload by program; tokens per second without loading, with the prompt."""
    found = {}
    for program in greedy:
        rates = lambda results: [sum(map(len, result.tokens)) / result.seconds for result in results]
        found[program] = {
            "cpu_seconds": median(result.cpu_seconds for result in greedy[program]),
            "peak_bytes": int(median(result.peak_bytes for result in greedy[program])),
            "runs": len(greedy[program]),
            "same_tokens_as_ashlar": same_tokens(greedy[program][0], greedy[ASHLAR][0]),
            "tokens": workload.steps_of(program),
            "tokens_per_second": median(rates(greedy[program])),
            "top_p_tokens_per_second": median(rates(sampled[program])) if sampled[program] else None,
            "wall_seconds": median(result.wall_seconds for result in greedy[program]),
        }
    for values in found.values():
        values["ours_is_faster_by"] = found[ASHLAR]["tokens_per_second"] / values["tokens_per_second"]
        values["our_share_of_memory"] = found[ASHLAR]["peak_bytes"] / values["peak_bytes"]
    return found


def same_tokens(one: Result, other: Result) -> float:
    """Returns the share of greedy tokens that agree, up to the shorter answer."""
    pairs = [pair for left, right in zip(one.tokens, other.tokens) for pair in zip(left, right)]
    return sum(left == right for left, right in pairs) / len(pairs)


def stage(workload: Stage, rows: list[dict], runs: dict[str, list[Result]]) -> dict:
    """Returns the medians of a stage by program; tokens are the targets scored and the tokens generated."""
    scored = sum(row["last"] - row["first"] + 1 for row in rows) * {"fuse": 0, "validate": 2, "evaluate": 1}[workload.stage]
    tokens = scored + workload.answers * workload.tokens
    found = {}
    for program, results in runs.items():
        wall = median(result.wall_seconds for result in results)
        found[program] = {
            "cpu_seconds": median(result.cpu_seconds for result in results),
            "peak_bytes": int(median(result.peak_bytes for result in results)),
            "runs": len(results),
            "tokens_per_second": tokens / wall if tokens else None,
            "wall_seconds": wall,
        }
        if results[0].losses:
            found[program] |= {"loss": results[0].losses[-1], "losses": results[0].losses}
    ours = found[ASHLAR]
    for values in found.values():
        values["ours_is_faster_by"] = values["wall_seconds"] / ours["wall_seconds"]
        values["our_share_of_memory"] = ours["peak_bytes"] / values["peak_bytes"]
        if "losses" in values:
            values["first_loss_difference"] = abs(values["losses"][0] - ours["losses"][0])
            values["loss_difference"] = abs(values["loss"] - ours["loss"])
    return found


def checks(results: dict, on_gpu: bool) -> list[tuple[str, bool]]:
    """Returns the statements about losses that must hold, each with whether it does."""
    found, same_start = [], SAME_START_ON_GPU if on_gpu else SAME_START
    for name, programs in results.items():
        others = {program: values for program, values in programs.items() if "loss_difference" in values and program != ASHLAR}
        if not others:
            continue
        worst = max(others, key=lambda program: others[program]["first_loss_difference"])
        difference = others[worst]["first_loss_difference"]
        text = f"{name}: the first loss of all programs is the same within {same_start:g}; largest difference {difference:.1e} ({worst})"
        found.append((text, difference <= same_start))
        if name in COMPARED:
            worst = max(others, key=lambda program: others[program]["loss_difference"])
            difference = others[worst]["loss_difference"]
            text = f"{name}: the last loss of all programs is the same within {SAME_END:g}; largest difference {difference:.1e} ({worst})"
            found.append((text, difference <= SAME_END))
    return found


def training_line(result: Result) -> str:
    return (
        f"{len(result.step_seconds)} steps in {sum(result.step_seconds):.1f} s, wall {result.wall_seconds:.1f} s, "
        f"CPU {result.cpu_seconds:.1f} s, peak {gigabytes(result.peak_bytes)}, loss {result.losses[0]:.4f} to {result.losses[-1]:.4f}"
    )


def generation_line(result: Result) -> str:
    tokens = sum(map(len, result.tokens))
    return f"{tokens} tokens in {result.seconds:.1f} s, {tokens / result.seconds:.1f} tokens/s, peak {gigabytes(result.peak_bytes)}"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def page(settings, results: dict, workloads: dict, gflops: dict, machine: str) -> str:
    """Returns the whole page as Markdown."""
    mode = "`make bench QUICK=1`: fewer steps and shorter rows" if settings.quick else "`make bench`"
    speeds = ", ".join(f"{program} {speed:.0f}" for program, speed in gflops.items())
    parts = [
        "# Benchmarks",
        f"Written by {mode} on {time.strftime('%Y-%m-%d')}. Machine: {machine}; backend {settings.backend}, "
        f"{settings.threads} threads for every program, median of {settings.repeats} alternating runs. "
        f"Matrix products in this run, GFLOP/s: {speeds}. `tests/bench/README.md` describes workloads, programs and columns.",
    ]
    if found := bars(results, workloads):
        parts += ["## Bars", bar_rows(found)]
    if verdicts := checks(results, settings.on_gpu):
        lines = [[text, "pass" if holds else "**FAIL**"] for text, holds in verdicts]
        parts += ["## Checks", table(["check", "result"], lines)]
    kinds = {Training: training_rows, Generation: generation_rows, Start: start_rows, Stage: stage_rows}
    for name, programs in results.items():
        parts += [f"## {name}: {workloads[name].title}", kinds[type(workloads[name])](programs)]
        if "limit" in programs[ASHLAR]:
            parts.append(f"Memory limit: {programs[ASHLAR]['limit']}.")
    return "\n\n".join(parts) + "\n"


def bar_rows(found: list[Bar]) -> str:
    verdicts = {True: "pass", False: "**missed**", None: "not run"}
    lines = []
    for bar in found:
        value = "" if bar.value is None else f"{bar.value:.2f}{bar.unit}"
        bound = f"{'≤' if bar.at_most else '≥'} {bar.bound:g}{bar.unit}"
        lines.append([bar.workload, bar.text, value, bound, verdicts[bar.holds]])
    return table(["workload", "ours", "measured", "bar", "result"], lines)


def start_rows(programs: dict) -> str:
    head = ["program", "`--help`", "start to first step", "loading to first step", "pipeline with nothing to do"]
    lines = []
    for program, values in programs.items():
        noop = f"{values['noop_seconds']:.2f} s" if "noop_seconds" in values else ""
        times = [values["help_seconds"], values["start_to_first_step_seconds"], values["first_step_seconds"]]
        lines.append([program, *(f"{seconds:.3f} s" for seconds in times), noop])
    return table(head, lines)


def stage_rows(programs: dict) -> str:
    lines = []
    for program, values in programs.items():
        rate = f"{values['tokens_per_second']:.1f}" if values["tokens_per_second"] else ""
        loss = f"{values['loss']:.5f}" if "loss" in values else ""
        ratios = [f"{values['ours_is_faster_by']:.2f}×", f"{values['our_share_of_memory']:.2f}×"]
        lines.append([program, rate, f"{values['wall_seconds']:.1f} s", gigabytes(values["peak_bytes"]), loss, *ratios])
    return table(["program", "tok/s", "wall", "peak", "loss", "ours / it", "our memory"], lines)


def training_rows(programs: dict) -> str:
    head = ["program", "steps", "trained tok/s", "real", "padded", "step", "wall", "peak", "loss", "share of floor", "ours / it", "our memory"]
    lines = []
    for program, values in programs.items():
        step = sum(values["step_seconds"]) / len(values["step_seconds"])
        measured = program != FLOOR
        lines.append(
            [
                program,
                str(values["steps"]) if measured else "",
                f"{values['tokens_per_second']:.1f}",
                f"{values['real_tokens_per_second']:.1f}" if measured else "",
                f"{values['padded_tokens_per_second']:.1f}" if measured else "",
                f"{step:.2f} s",
                f"{values['wall_seconds']:.1f} s" if measured else "",
                gigabytes(values["peak_bytes"]) if measured else "",
                f"{values['loss']:.5f}" if measured else "",
                f"{100 * values['share_of_floor']:.0f} %" if values["share_of_floor"] else "",
                f"{values['ours_is_faster_by']:.2f}×",
                f"{values['our_share_of_memory']:.2f}×" if measured else "",
            ]
        )
    return table(head, lines)


def generation_rows(programs: dict) -> str:
    head = ["program", "tokens", "greedy tok/s", "top-p tok/s", "wall", "peak", "same tokens", "ours / it", "our memory"]
    lines = [
        [
            program,
            str(values["tokens"]),
            f"{values['tokens_per_second']:.1f}",
            f"{values['top_p_tokens_per_second']:.1f}" if values["top_p_tokens_per_second"] else "",
            f"{values['wall_seconds']:.1f} s",
            gigabytes(values["peak_bytes"]),
            f"{100 * values['same_tokens_as_ashlar']:.0f} %",
            f"{values['ours_is_faster_by']:.2f}×",
            f"{values['our_share_of_memory']:.2f}×",
        ]
        for program, values in programs.items()
    ]
    return table(head, lines)


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
