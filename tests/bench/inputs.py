"""Makes what the programs read: model folders, datasets, rows for the peers, initial adapters. Everything is kept and reused."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import measure
import rows
from measure import Failed, read_json, write_json
from workloads import PROMPT_TOKENS, Generation, Model, Stage, Training

HERE = Path(__file__).parent
# The learning rate of the step that only exports adapters: too small to change them.
NO_LEARNING = 1e-30


def interpreter(name: str) -> Path:
    """Returns the Python that has the packages of requirements-NAME.txt."""
    given = os.environ.get("BENCH_PYTHON")
    return Path(given or f".venv-bench/{name}/bin/python").absolute()


class Inputs:
    """Inputs in one folder, each made once; a changed recipe makes it again."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.store = folder / "store"

    def stage(self, name: str, *arguments, settings: dict | None = None) -> Path:
        """Runs one of our stages on the store and returns its artifact."""
        command = [self.programs / name, "--store", self.store, *arguments]
        for key, value in (settings or {}).items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        return Path(measure.run(command).stdout.strip())

    def script(self, name: str, job: dict) -> None:
        """Runs a Python file of this folder in a process of its own: this one has to stay small."""
        path = write_json(self.folder / "jobs" / f"{Path(name).stem}.json", job)
        measure.run([interpreter("inputs"), HERE / name, path])

    def model(self, model: Model) -> Path:
        """Returns the artifact of a model."""
        corpus = rows.write_corpus(self.folder / "corpus.txt")
        job = {"shape": model.shape, "dtype": model.dtype, "bits": model.bits, "seed": 0}
        recipe = [job, *(text_of(HERE / name) for name in ("model_folder.py", "shapes.py", "shapes.json"))]
        stamp, mark = self.folder / "models" / f"{model.name}.json", digest(recipe)
        if stamp.exists() and read_json(stamp)["recipe"] == mark and Path(read_json(stamp)["artifact"]).exists():
            return Path(read_json(stamp)["artifact"])
        print(f"making the model {model.name}", file=sys.stderr)
        out = self.folder / "models" / model.name
        shutil.rmtree(out, ignore_errors=True)
        self.script("model_folder.py", job | {"corpus": str(corpus), "out": str(out)})
        artifact = self.stage("import-model", "--model-dir", out)
        # The store has its copy, with the same bytes.
        shutil.rmtree(out)
        write_json(stamp, {"artifact": str(artifact), "recipe": mark})
        return artifact

    def dataset(self, name: str, workload: Training) -> Path:
        """Returns the artifact of the workload's rows."""
        count = max(workload.steps, 2) * workload.batch
        if workload.tokens:
            found = rows.texts(count, workload.tokens)
            settings = {"max_tokens": workload.tokens, "on_too_long": "truncate"}
        else:
            found = rows.chats(count, workload.batch, workload.words)
            settings = {"max_tokens": 512, "on_too_long": "error"}
        folder = self.folder / "data" / name
        rows.write(folder / "rows.jsonl", found)
        rows.write(folder / "other.jsonl", rows.chats(2, 1, 20))
        files = {"train": ["rows.jsonl"], "validation": ["other.jsonl"], "test": ["other.jsonl"]}
        settings |= files | {"split.by": "files", "on_leak": "allow", "loss_on": "completions"}
        tokenizer = self.model(workload.model)
        return self.stage("prepare-data", "--tokenizer", tokenizer, "--data", folder, settings=settings)

    def peer_rows(self, name: str, workload: Training, dataset: Path) -> Path:
        """Writes tokens, targets and batches for the peers, from our own dataset."""
        out = self.folder / "data" / name / "peers.json"
        self.script("peer_rows.py", {"dataset": str(dataset), "split": "train", "batch": workload.batch, "out": str(out)})
        return out

    def scored_dataset(self, name: str, workload: Stage) -> Path:
        """Returns the artifact of rows to score: its validation and test splits."""
        folder = self.folder / "data" / name
        rows.write(folder / "rows.jsonl", rows.chats(workload.rows, 1, workload.words))
        rows.write(folder / "other.jsonl", rows.chats(2, 1, 20))
        files = {"train": ["other.jsonl"], "validation": ["rows.jsonl"], "test": ["rows.jsonl"]}
        settings = files | {"max_tokens": 512, "on_too_long": "error", "split.by": "files", "on_leak": "allow"}
        return self.stage("prepare-data", "--tokenizer", self.model(workload.model), "--data", folder, settings=settings)

    def scored_rows(self, name: str, dataset: Path) -> Path:
        out = self.folder / "data" / name / "peers.json"
        self.script("peer_rows.py", {"dataset": str(dataset), "split": "test", "batch": 1, "out": str(out)})
        return out

    def order(self, name: str, dataset: Path) -> Path:
        """Writes a loss for each row that makes our curriculum take the rows in the order of the file."""
        stored = (dataset / "data/rows/train.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [{"id": json.loads(line)["id"], "loss": index} for index, line in enumerate(stored)]
        return rows.write(self.folder / "data" / name / "order.jsonl", losses)

    def trained_adapters(self, model: Model) -> tuple[Path, Path]:
        """Returns adapters that change the model, as if trained."""
        workload = Training("", model, 2, 16, words=20)
        return self.adapters("trained", workload, self.dataset("trained", workload), 0.01)

    def adapters(self, name: str, workload: Training, dataset: Path, spread: float = 0.0) -> tuple[Path, Path]:
        """Returns the initial adapters of our `train`, written for mlx-lm and for PEFT; B has the given spread."""
        out = self.folder / "adapters" / name
        recipe = digest([workload.model.name, workload.layers, spread])
        if (out / "recipe").exists() and text_of(out / "recipe") == recipe:
            return out / "mlx", out / "peft"
        model = self.model(workload.model)
        settings = shared_settings(workload) | {
            "batch_size": 1,
            "learning_rate": NO_LEARNING,
            "steps": 1,
        }
        run = self.stage("train", "--model", model, "--dataset", dataset, settings=settings)
        exported = next((run / "data/checkpoints").iterdir()) / "adapters"
        job = {"ours": str(exported), "mlx": str(out / "mlx"), "peft": str(out / "peft"), "spread": spread}
        self.script("adapters.py", job)
        (out / "recipe").write_text(recipe, encoding="utf-8")
        return out / "mlx", out / "peft"

    def prompts(self, workload: Generation) -> list[list[int]]:
        """Returns prompts of the same number of tokens each, the first tokens of texts."""
        texts = Training("", workload.model, workload.prompts, 1, tokens=PROMPT_TOKENS)
        dataset = self.dataset("prompts", texts)
        found = read_json(self.peer_rows("prompts", texts, dataset))["rows"][: workload.prompts]
        if any(len(row["tokens"]) != PROMPT_TOKENS for row in found):
            raise Failed(f"the prompts do not all have {PROMPT_TOKENS} tokens")
        return [row["tokens"] for row in found]


def shared_settings(workload: Training) -> dict:
    """Returns the settings of `train` that make it compute what the peers compute."""
    settings = {
        "fine_tune_type": "lora" if workload.lora else "full",
        "num_layers": workload.layers,
        "rank": 8,
        "alpha": 16,
        "dropout": 0,
        "optimizer": "adam",
        "weight_decay": 0,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_gradient_norm": 0,
        "report_every": 1,
    }
    return settings | ({"gradient_checkpointing": True} if workload.checkpointing else {})


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
