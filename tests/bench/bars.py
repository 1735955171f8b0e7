"""The bars: what each workload must show, as numbers computed from the results of one run."""

from dataclasses import dataclass

from floor import stored_bytes
from shapes import shape
from workloads import ASHLAR, GATHERED, OPENBLAS, RESIDENT, TORCH, Stage, Training


@dataclass
class Bar:
    """One bar: `value` must be at least (or at most) `bound`; `None` if its programs did not run."""

    workload: str
    text: str
    value: float | None
    bound: float
    at_most: bool = False
    unit: str = "×"

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Results:
    """Results of one workload by program, with the ratios that bars are about."""

    def __init__(self, programs: dict):
        self.programs = programs

    def get(self, program: str, key: str):
        return self.programs.get(program, {}).get(key)

    def faster_than(self, *others: str) -> float | None:
        """Returns how many times faster we are than the fastest of `others`."""
        return min((value for other in others if (value := self.get(other, "ours_is_faster_by"))), default=None)

    def memory_of(self, *others: str) -> float | None:
        """Returns our memory as a share of that of the smallest of `others`."""
        return max((value for other in others if (value := self.get(other, "our_share_of_memory"))), default=None)


PYTORCH = (TORCH, GATHERED)
SPEED = {"W1": 3.3, "W2": 40, "W3": 4, "W4": 2, "W5": 4, "W6a": 2, "W6b": 2}
NOT_SLOWER = ("W3", "W4", "W5", "W9-fuse", "W9-validate", "W9-evaluate")


def bars(results: dict, workloads: dict) -> list[Bar]:
    """Returns all bars of the workloads that ran."""
    found = []
    for name, programs in results.items():
        found += bars_of(name, Results(programs), workloads[name])
    return found


def bars_of(name: str, found: Results, workload) -> list[Bar]:
    bars = []
    if name in SPEED:
        bars.append(Bar(name, "speed beside mlx-lm+openblas", found.faster_than(OPENBLAS), SPEED[name]))
    if name == "W1":
        bars.append(Bar(name, "speed beside the faster PyTorch", found.faster_than(*PYTORCH), 1.25))
        bars.append(Bar(name, "memory beside mlx-lm+openblas", found.memory_of(OPENBLAS), 0.55, at_most=True))
        bars.append(Bar(name, "share of the floor", found.get(ASHLAR, "share_of_floor"), 0.7, unit=""))
    if name == "W2":
        above = found.get(ASHLAR, "peak_bytes") - found.get(ASHLAR, "scalar_peak_bytes")
        bars.append(Bar(name, "peak above that of one scalar in MLX", above / 1e9, 0.6, at_most=True, unit=" GB"))
    if name == "W5":
        bars.append(Bar(name, "memory beside mlx-lm+openblas", found.memory_of(OPENBLAS), 0.25, at_most=True))
    if name.startswith("W6"):
        bars.append(Bar(name, "speed beside PyTorch", found.faster_than(TORCH), 1.3))
        ours = found.programs[ASHLAR]
        share = ours["top_p_tokens_per_second"] / ours["tokens_per_second"]
        bars.append(Bar(name, "top-p beside greedy", share, 0.9))
    if name in NOT_SLOWER:
        bars.append(Bar(name, "speed beside the faster PyTorch", found.faster_than(*PYTORCH), 1.0))
        bars.append(Bar(name, "memory beside the smaller PyTorch", found.memory_of(*PYTORCH), 0.7, at_most=True))
    if name == "W7":
        for key, text, bound in [
            ("noop_seconds", "a pipeline with nothing to do", 0.3),
            ("help_seconds", "the slowest `--help`", 0.05),
            ("first_step_seconds", "from loading to the first step", 1.0),
        ]:
            bars.append(Bar(name, text, found.get(ASHLAR, key), bound, at_most=True, unit=" s"))
    if isinstance(workload, Training) and workload.limited:
        bars.append(Bar(name, "peak", found.get(ASHLAR, "peak_bytes") / 1e9, 4.0, at_most=True, unit=" GB"))
        bars.append(Bar(name, "step time beside the unpacked base", slower(found), 1.2, at_most=True))
    if isinstance(workload, Stage):
        above = (found.get(ASHLAR, "peak_bytes") - stored_bytes(shape(workload.model.shape), 4)) / 1e9
        bars.append(Bar(name, "peak above the model's size", above, 0.7, at_most=True, unit=" GB"))
    return bars


def slower(found: Results) -> float | None:
    """Returns our time per step as a multiple of the time with the base unpacked."""
    resident = found.get(RESIDENT, "ours_is_faster_by")
    return 1 / resident if resident else None
