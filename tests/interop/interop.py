"""Compares adapters and fused models with mlx-lm, both ways. usage: interop.py PROGRAMS [CASE…]

A case is a model folder: every one in tests/golden, and data/models/demo. Prints one line a check,
`family what ours theirs difference ok|FAIL`, then how many passed; exits with 1 when one failed.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import theirs
from ours import Programs, last_checkpoint, read_json, read_rows
from mlx.utils import tree_flatten
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "data/haw-eng/fornander_aligned.jsonl"

# The largest difference of two losses, in nats per target.
LOSS = 1e-3

ROWS = 40
WORDS = 8
ANSWERS = 6
ANSWER_TOKENS = 16

# Strong enough that an adapter which was not loaded shows in the loss.
TRAIN = {"steps": 4, "warmup_steps": 0, "learning_rate": 1e-2, "rank": 4, "alpha": 8.0, "checkpoint_every": 4}

# What our trainer makes: settings of `train`.
OURS = {
    "lora": {},
    "dora": {"fine_tune_type": "dora"},
    "full-last-1": {"fine_tune_type": "full", "num_layers": 1},
    "lora-keys": {"num_layers": 2, "keys": ["mlp.down_proj", "self_attn.o_proj"], "rank_stabilized": True},
    "lora-head": {"lm_head": True, "dropout": 0.1},
}
# What mlx-lm's trainer makes: its settings.
KEYS = {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["mlp.down_proj", "lm_head"]}
THEIRS = {
    "lora": {},
    "dora-last-2": {"fine_tune_type": "dora", "num_layers": 2},
    "full-last-1": {"fine_tune_type": "full", "num_layers": 1},
    "lora-keys": {"lora_parameters": KEYS},
}


class Table:
    """The result lines of one family."""

    def __init__(self):
        self.lines: list[str] = []
        self.passed = self.failed = self.characters = 0

    def line(self, family: str, what: str, ours, theirs, difference, fine: bool) -> None:
        self.passed += fine
        self.failed += not fine
        show = lambda value: f"{value:.6f}" if isinstance(value, float) else str(value)
        mark = "ok" if fine else "FAIL"
        self.lines.append(f"{family:16} {what:56} {show(ours):>9} {show(theirs):>9} {difference:8.1e} {mark}")

    def loss(self, family: str, what: str, ours: float, theirs: float) -> None:
        difference = abs(ours - theirs)
        self.line(family, what, ours, theirs, difference, difference <= LOSS)

    def rows(self, family: str, what: str, ours: theirs.Losses, other: theirs.Losses) -> None:
        """Compares the losses of single rows and shows the largest difference."""
        differences = np.abs(ours.rows() - other.rows())
        row = differences.argmax()
        fine = bool(differences[row] <= LOSS)
        self.line(family, what, float(ours.rows()[row]), float(other.rows()[row]), differences[row], fine)

    def differs(self, family: str, what: str, base: theirs.Losses, tuned: theirs.Losses) -> None:
        """Requires that the adapter changes losses, so that one that was not loaded is noticed."""
        difference = np.abs(base.rows() - tuned.rows()).mean()
        self.line(family, what, base.mean(), tuned.mean(), difference, bool(difference > LOSS))

    def texts(self, family: str, what: str, ours: list[str], theirs: list[str]) -> None:
        """Shows the lengths of the answers and the number that differ."""
        different = sum(a != b for a, b in zip(ours, theirs, strict=True))
        lengths = [sum(map(len, texts)) for texts in (ours, theirs)]
        self.characters += min(lengths)
        self.line(family, what, *lengths, different, not different)

    def written(self, family: str) -> None:
        """Requires some text: equal answers that are only spaces prove nothing."""
        self.line(family, "characters of all answers", self.characters, self.characters, 0, self.characters > 0)

    def skipped(self, family: str, what: str, reason: str) -> None:
        self.lines.append(f"{family:16} {what:56} skipped: {reason}")

    def broken(self, family: str, what: str, error: Exception) -> None:
        self.lines.append(f"{family}: {what}: {type(error).__name__}: {error}")
        self.line(family, what, "-", "-", float("nan"), False)


class Case:
    """One base model and everything made from it."""

    def __init__(self, folder: Path, text: Path, work: Path, programs: Programs, table: Table):
        self.family, self.work, self.programs, self.table = folder.name, work / folder.name, programs, table
        config = read_json(folder / "config.json")
        quantization = config.get("quantization", {})
        self.quantized = bool(quantization)
        layers = [quantization, *(layer for layer in quantization.values() if isinstance(layer, dict))]
        self.bits = {layer["bits"] for layer in layers if "bits" in layer}
        self.model = programs.run("import-model", model_dir=folder)
        settings = {"max_tokens": 400, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}
        self.dataset = programs.run("prepare-data", settings, tokenizer=self.model, data=text)
        self.validation = theirs.Split(self.dataset, "validation")
        self.test = theirs.Split(self.dataset, "test")
        theirs.write_chats(self.dataset, self.work / "chats")
        # Fused models by name: their artifacts, scored together at the end, and what they should score, if known.
        self.fused: dict[str, tuple[Path, theirs.Losses | None]] = {}
        self.stored = theirs.stored_type(self.model / "data/model")
        base = theirs.load(self.model / "data/model")
        self.tied = not any("lm_head" in name for name, _ in tree_flatten(base.parameters()))
        self.base = theirs.losses(base, self.validation)

    def guarded(self, what: str, check) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001: whatever it is, the other checks go on
            self.table.broken(self.family, what, error)

    def run(self) -> None:
        for name, settings in OURS.items():
            if self.possible(f"our {name} adapters", settings):
                self.guarded(f"our {name}", partial(self.our_adapters, name, settings))
        for name, settings in THEIRS.items():
            if self.possible(f"mlx-lm's {name} adapters", settings):
                self.guarded(f"mlx-lm's {name}", partial(self.their_adapters, name, settings))
        self.guarded("evaluate", self.fused_models)
        self.table.written(self.family)

    def possible(self, what: str, settings: dict) -> bool:
        """Returns whether both sides support this base; reports the reason if not."""
        kind = settings.get("fine_tune_type", "lora")
        reason = None
        if kind == "full" and self.quantized:
            reason = "packed weights do not train"
        elif kind == "dora" and any(32 % bits for bits in self.bits):
            reason = "mlx-lm's DoRA takes layers of 3, 5 and 6 bits to be narrower than they are"
        elif settings.get("lm_head") and self.tied:
            reason = "the head is the embedding"
        if reason:
            self.table.skipped(self.family, what, reason)
        return not reason

    def our_adapters(self, name: str, settings: dict) -> None:
        """Our trainer → mlx-lm's loader; our trainer → mlx-lm's fuse → our loader; our fuse → mlx-lm."""
        inputs = {"model": self.model, "dataset": self.dataset}
        run = self.programs.run("train", TRAIN | settings, **inputs)
        scores = read_json(self.programs.run("validate", train=run, **inputs) / "data/losses.json")
        base, tuned = (row_losses(point["rows"]) for point in scores["checkpoints"])
        if name == "lora":
            self.table.loss(self.family, "base", scores["checkpoints"][0]["loss"], self.base.mean())
        adapters = last_checkpoint(run)
        loaded = theirs.load(self.model / "data/model", adapters)
        loss = theirs.losses(loaded, self.validation).mean()
        self.table.loss(self.family, f"our {name} adapters", scores["checkpoints"][1]["loss"], loss)
        self.table.differs(self.family, f"our {name} adapters change the base", base, tuned)
        self.fuse(f"our {name}", adapters, loaded)
        if name == "lora":
            out = self.work / "fused-by-mlx-lm"
            theirs.fuse(self.model / "data/model", adapters, out)
            self.fused["our lora, fused by mlx-lm"] = (self.programs.run("import-model", model_dir=out), None)

    def their_adapters(self, name: str, settings: dict) -> None:
        """mlx-lm's trainer → our loader, through `fuse`."""
        adapters = self.work / f"adapters-{name}"
        theirs.train(self.model / "data/model", self.work / "chats", adapters, settings)
        loaded = theirs.load(self.model / "data/model", adapters)
        tuned = theirs.losses(loaded, self.validation)
        self.table.differs(self.family, f"mlx-lm's {name} adapters change the base", self.base, tuned)
        self.fuse(f"mlx-lm's {name}", adapters, loaded)

    def fuse(self, name: str, adapters: Path, loaded) -> None:
        validation = theirs.losses(loaded, self.validation).mean()
        if self.stored != theirs.mx.float32:
            # A fused model is stored as its base is: that loss is not a difference between the two programs.
            theirs.work_in(loaded, self.stored)
        test = theirs.losses(loaded, self.test)
        for quantized in ["dequantize", "requantize"] if self.quantized else ["dequantize"]:
            settings = {"quantized": quantized, "max_loss_increase": 1.0}
            fused = self.programs.run(
                "fuse", settings, model=self.model, adapters=adapters, dataset=self.dataset
            )
            cost = read_json(fused / "data/fuse.json")
            label = f"{name}, {quantized}d" if self.quantized else name
            self.table.loss(self.family, f"{label}: adapters in fuse", cost["adapter_loss"], validation)
            # Packing again loses something by itself: there the adapter's loss says nothing about the fused model's.
            self.fused[f"{label}, fused"] = (fused, None if quantized == "requantize" else test)

    def fused_models(self) -> None:
        """Compares our evaluation of every fused model with mlx-lm's."""
        names = {f"m{number}": name for number, name in enumerate(self.fused)}
        # As plain folders: the models come from adapters and bases of several runs.
        models = [f"{short}={self.fused[name][0]}/data/model" for short, name in names.items()]
        settings = {"generated_rows": ANSWERS, "max_tokens": ANSWER_TOKENS}
        scored = self.programs.run("evaluate", settings, model=models, dataset=self.dataset)
        scores = read_json(scored / "data/metrics.json")["models"]
        rows = read_rows(scored / "data/predictions.jsonl")
        tokenizer = AutoTokenizer.from_pretrained(self.model / "data/tokenizer")
        decode = lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True)
        stop = read_json(self.model / "data/tokenizer/ids.json")["eos"]
        for short, name in names.items():
            artifact, with_adapters = self.fused[name]
            loaded = theirs.load(artifact / "data/model")
            loss = theirs.losses(loaded, self.test).mean()
            self.table.loss(self.family, name, scores[short]["loss"], loss)
            if with_adapters:
                fused = row_losses([row["losses"][short] for row in rows])
                self.table.rows(self.family, f"{name}, worst row, adapters", fused, with_adapters)
            answers = [row["predictions"][short] for row in rows if short in row["predictions"]]
            written = theirs.answers(loaded, self.test.prompts[:ANSWERS], decode, stop, ANSWER_TOKENS)
            self.table.texts(self.family, f"{name}, greedy answers", answers, written)


def row_losses(rows: list[dict]) -> theirs.Losses:
    return theirs.Losses([row["loss"] for row in rows], [row["tokens"] for row in rows])


def write_text(out: Path) -> None:
    """A few rows of the Fornander text, cut to a few words each."""
    cut = lambda text: " ".join(text.split()[:WORDS])
    rows = []
    for line in TEXT.read_text().splitlines()[:ROWS]:
        row = json.loads(line)
        prompt = f"Translate the Hawaiian text to English: {cut(row['haw'])}"
        rows.append({"prompt": prompt, "completion": cut(row["eng"])})
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def folders(names: list[str]) -> list[Path]:
    golden = sorted(path.parent for path in ROOT.glob("tests/golden/*/config.json"))
    demo = [path.parent for path in ROOT.glob("data/models/demo/model.safetensors")]
    found = demo + golden
    known = {folder.name: folder for folder in found}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown case `{unknown[0]}`; known are {', '.join(known)}")
    return [known[name] for name in names] or found


def check(work: Path, programs: Path, folder: Path) -> Table:
    """Runs one case in a separate process, because MLX keeps state."""
    table = Table()
    try:
        Case(folder, work / "rows.jsonl", work, Programs(programs, work / "store"), table).run()
    except Exception as error:  # noqa: BLE001: one family must not hide the others
        table.broken(folder.name, "base", error)
    return table


def main() -> int:
    passed = failed = 0
    # A fresh interpreter for each worker, never a fork of one that has threads.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="interop-") as scratch,
        ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 4), mp_context=context) as workers,
    ):
        work = Path(scratch)
        write_text(work / "rows.jsonl")
        for table in workers.map(partial(check, work, Path(sys.argv[1])), folders(sys.argv[2:])):
            print("\n".join(table.lines), flush=True)
            passed, failed = passed + table.passed, failed + table.failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
