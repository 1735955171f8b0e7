"""Compares fused folders, PEFT adapters and GGUF files with the libraries they are for. usage: full.py PROGRAMS [CASE…]

transformers and peft compute on a CPU in float32; llama.cpp is asked too where `llama_cpp` is installed. Prints one
line a check, then how many passed; exits with 1 when one failed.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf_check
import numpy as np
import peft
import tokenizers_made
import torch
from ours import Programs, last_checkpoint, read_json, read_rows
from safetensors.numpy import load_file
from texts import write_text
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
# The largest difference of two losses, in nats per target, and of two logits.
LOSS = LOGITS = 1e-3
CASES = ["llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3_text"]
TRAIN = {"steps": 4, "warmup_steps": 0, "learning_rate": 5e-3, "rank": 4, "alpha": 8.0, "checkpoint_every": 4}
ANSWER_TOKENS = 16


class Table:
    def __init__(self):
        self.passed = self.failed = 0

    def line(self, case: str, what: str, value: float, fine: bool) -> None:
        self.passed += fine
        self.failed += not fine
        print(f"{case:14} {what:58} {value:9.1e} {'ok' if fine else 'FAIL'}", flush=True)

    def close(self, case: str, what: str, ours: float, theirs: float, limit: float = LOSS) -> None:
        self.line(case, what, abs(ours - theirs), abs(ours - theirs) <= limit)

    def broken(self, case: str, what: str, error: Exception) -> None:
        print(f"{case}: {what}: {type(error).__name__}: {error}")
        self.line(case, what, float("nan"), False)


def load(folder: Path):
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    scale = getattr(loaded.get_input_embeddings(), "embed_scale", None)
    if scale is not None:
        # Gemma scales its embeddings by a bfloat16, whatever it computes in; transformers only when in bfloat16.
        scale.copy_(scale.bfloat16())
    return loaded.eval()


def loss(model, dataset: Path, split: str) -> float:
    """Returns the mean cross-entropy in nats per target."""
    tensors = load_file(dataset / f"data/tokens/{split}.safetensors")
    cuts = tensors["offsets"][1:-1].astype(np.int64)
    total, count = 0.0, 0
    for tokens, trained in zip(np.split(tensors["tokens"].astype(np.int64), cuts), np.split(tensors["trained"], cuts)):
        tokens, counts = torch.from_numpy(tokens), torch.from_numpy(trained[1:].astype(np.float32))
        with torch.no_grad():
            logits = model(tokens[None, :-1]).logits[0].float()
        losses = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / count


class Case:
    def __init__(self, name: str, work: Path, programs: Programs, table: Table):
        self.name, self.work, self.programs, self.table = name, work / name, programs, table
        self.work.mkdir()
        self.golden = ROOT / "tests/golden" / name
        self.model = programs.run("import-model", model_dir=self.golden)
        settings = {"max_tokens": 400, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}
        self.dataset = programs.run("prepare-data", settings, tokenizer=self.model, data=work / "rows.jsonl")

    def fuse(self, adapters: Path, **settings) -> Path:
        return self.programs.run("fuse", settings, model=self.model, adapters=adapters, dataset=self.dataset)

    def run(self) -> None:
        self.base_logits()
        for kind in ["lora", "dora"]:
            settings = TRAIN | {"fine_tune_type": kind, "num_layers": 2 if kind == "dora" else 0}
            trained = self.programs.run("train", settings, model=self.model, dataset=self.dataset)
            gguf = {"gguf": "f16"} if kind == "lora" else {"gguf": "q8_0"}
            fused = self.fuse(last_checkpoint(trained), peft=True, **gguf)
            self.fused(kind, fused)
            self.peft(kind, fused)
            self.gguf(kind, fused)
        self.foreign_peft()

    def base_logits(self) -> None:
        """Compares with the golden logits, as our tests do."""
        expected = load_file(self.golden / "expected.safetensors")
        tokens = torch.from_numpy(expected["input_ids"].astype(np.int64))
        with torch.no_grad():
            logits = load(self.model / "data/model")(tokens).logits.numpy()
        difference = float(np.abs(logits - expected["logits"]).max())
        self.table.line(self.name, "base: golden logits against transformers", difference, difference <= LOGITS)

    def fused(self, kind: str, fused: Path) -> None:
        scored = self.programs.run(
            "evaluate", {"generated_rows": 4, "max_tokens": ANSWER_TOKENS}, model=f"it={fused}", dataset=self.dataset
        )
        ours = read_json(scored / "data/metrics.json")["models"]["it"]["loss"]
        model = load(fused / "data/model")
        self.table.close(self.name, f"fused {kind}: loss against transformers", ours, loss(model, self.dataset, "test"))
        tokenizer = AutoTokenizer.from_pretrained(fused / "data/model")
        tensors = load_file(self.dataset / "data/tokens/test.safetensors")
        offsets, prompts = tensors["offsets"].astype(int), tensors["prompt_lengths"].astype(int)
        stop = read_json(self.model / "data/tokenizer/ids.json")["eos"]
        differing = 0
        rows = [row for row in read_rows(scored / "data/predictions.jsonl") if "it" in row["predictions"]]
        for number, row in enumerate(rows):
            prompt = torch.from_numpy(tensors["tokens"][offsets[number] :][: prompts[number]].astype(np.int64))[None]
            written = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER_TOKENS, do_sample=False,
                eos_token_id=stop, pad_token_id=0,
            )
            text = tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
            differing += text.strip() != row["predictions"]["it"].strip()
        self.table.line(self.name, f"fused {kind}: greedy answers that differ", differing, not differing and len(rows) > 0)

    def peft(self, kind: str, fused: Path) -> None:
        """Our adapters in PEFT, and again as PEFT saves them."""
        ours = read_json(fused / "data/fuse.json")["adapter_loss"]
        base = load(self.model / "data/model")
        plain = loss(base, self.dataset, "validation")
        tuned = peft.PeftModel.from_pretrained(base, fused / "data/peft")
        theirs = loss(tuned, self.dataset, "validation")
        self.table.close(self.name, f"our {kind} adapters in peft", ours, theirs)
        self.table.line(self.name, f"our {kind} adapters change the base", abs(plain - theirs), abs(plain - theirs) > 10 * LOSS)
        again = self.work / f"peft-{kind}"
        tuned.save_pretrained(again)
        back = read_json(self.fuse(again) / "data/fuse.json")["adapter_loss"]
        self.table.close(self.name, f"our {kind} adapters, saved by peft, back in fuse", ours, back)

    def foreign_peft(self) -> None:
        """Adapters made by PEFT: rank-stabilized, on some layers, without zeros."""
        torch.manual_seed(1)
        settings = peft.LoraConfig(
            r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2],
            init_lora_weights=False, task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(load(self.model / "data/model"), settings).eval()
        theirs = loss(model, self.dataset, "validation")
        out = self.work / "made-by-peft"
        model.save_pretrained(out)
        ours = read_json(self.fuse(out, max_loss_increase=1.0) / "data/fuse.json")["adapter_loss"]
        self.table.close(self.name, "adapters made by peft in fuse", ours, theirs)

    def gguf(self, kind: str, fused: Path) -> None:
        (file,) = (fused / "data/gguf").glob("*.gguf")
        count = gguf_check.compare(fused / "data/model", file)
        self.table.line(self.name, f"{file.name}: tensors equal through gguf", count, count > 0)
        if not gguf_check.has_llama_cpp():
            return
        model = load(fused / "data/model")
        tensors = load_file(self.dataset / "data/tokens/test.safetensors")
        prompt = tensors["tokens"][: int(tensors["prompt_lengths"][0])].astype(int).tolist()
        written = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0,
        )
        expected = written[0, len(prompt) :].tolist()
        got = gguf_check.greedy(file, prompt, ANSWER_TOKENS)
        differing = sum(a != b for a, b in zip(expected, got, strict=True))
        self.table.line(self.name, f"{file.name}: greedy tokens that differ in llama.cpp", differing, not differing)
        text = AutoTokenizer.from_pretrained(fused / "data/model").decode(prompt)
        ids = gguf_check.tokenize(file, text)
        self.table.line(self.name, f"{file.name}: prompt tokenized the same by llama.cpp", len(ids), ids == prompt)


def check_tokenizer(kind: str, work: Path, programs: Programs, table: Table) -> None:
    """Checks that llama.cpp tokenizes texts like the tokenizer of the GGUF file."""
    case = f"{kind} texts"
    folder = work / f"tokenizer-{kind}"
    tokenizer = tokenizers_made.make(kind, ROOT / "tests/golden/llama", folder)
    model = programs.run("import-model", model_dir=folder)
    settings = {"max_tokens": 400, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}
    dataset = programs.run("prepare-data", settings, tokenizer=model, data=work / "rows.jsonl")
    trained = programs.run("train", TRAIN | {"steps": 1, "checkpoint_every": 1}, model=model, dataset=dataset)
    inputs = {"model": model, "adapters": last_checkpoint(trained), "dataset": dataset}
    fused = programs.run("fuse", {"gguf": "q8_0"}, **inputs)
    (file,) = (fused / "data/gguf").glob("*.gguf")
    read = gguf_check.open_model(file)
    rows = [row[name] for row in read_rows(work / "rows.jsonl") for name in ("prompt", "completion")]
    texts = tokenizers_made.TEXTS + rows
    differing = 0
    for text in texts:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        got = read.tokenize(text.encode(), add_bos=False, special=False)
        if expected != got:
            differing += 1
            print(f"{case}: {text!r}: expected {expected}, llama.cpp {got}")
    table.line(case, f"{len(texts)} texts that llama.cpp reads otherwise", differing, not differing)
    first = read.tokenize(b"x", add_bos=True, special=False)[0]
    table.line(case, "first token that llama.cpp adds", first, first == tokenizer.token_to_id("<s>"))


def main() -> int:
    table = Table()
    with tempfile.TemporaryDirectory(prefix="interop-full-") as scratch:
        work = Path(scratch)
        write_text(work / "rows.jsonl")
        for name in [name for name in sys.argv[2:] or CASES if name not in tokenizers_made.KINDS]:
            try:
                Case(name, work, Programs(Path(sys.argv[1]), work / "store"), table).run()
            except Exception as error:  # noqa: BLE001: one family must not hide the others
                table.broken(name, "stopped", error)
        kinds = tokenizers_made.KINDS if gguf_check.has_llama_cpp() else {}
        for kind in [kind for kind in kinds if kind in sys.argv[2:] or not sys.argv[2:]]:
            try:
                check_tokenizer(kind, work, Programs(Path(sys.argv[1]), work / "store"), table)
            except Exception as error:  # noqa: BLE001: as above
                table.broken(kind, "stopped", error)
    print(f"{table.passed} passed, {table.failed} failed")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
