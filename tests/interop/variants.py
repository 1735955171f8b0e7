"""Variants of config.json and of PEFT's adapter_config.json against transformers and PEFT.

    variants.py PROGRAMS [configs|adapters|windows] [NAME…]

Every variant is a small model with random weights. Those marked `runs` are settings that published models use: their
losses must be within 1e-3 nats of transformers'. The others must be as close, or be refused with a hint.
Prints one line for each variant, then how many ran, were refused and failed; exits with 1 when one failed.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from ours import Programs, read_rows
from safetensors.numpy import load_file
from texts import write_text
from transformers import AutoConfig, AutoModelForCausalLM
from variants_adapters import ADAPTERS
from variants_configs import CONFIGS, WINDOWS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1e-3
# Greedy answers: longer than every window, from prompts that are longer and shorter than it.
ANSWER_TOKENS = 24
PROMPT_LENGTHS = (2, 9, 40, 90)
TOKENIZERS = {"gemma2": "gemma2", "gemma3_text": "gemma2", "gemma3": "gemma2"}
SPLIT = {"max_tokens": 200, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}


class Bench:
    def __init__(self, programs: str, work: Path):
        self.work = work
        self.programs = Programs(Path(programs).resolve(), work / "store")
        self.datasets = {}
        self.ran = self.refused = self.failed = 0
        write_text(work / "rows.jsonl")

    def golden(self, family: str) -> Path:
        return ROOT / "tests/golden" / TOKENIZERS.get(family, "llama")

    def dataset(self, family: str) -> Path:
        golden = self.golden(family)
        if golden not in self.datasets:
            self.datasets[golden] = self.programs.run(
                "prepare-data", SPLIT, tokenizer=golden, data=self.work / "rows.jsonl"
            )
        return self.datasets[golden]

    def folder(self, name: str, config: dict, seed: int) -> Path:
        """Writes a model whose config.json is exactly `config`, with weights large enough for every setting to show."""
        folder = self.work / name
        folder.mkdir()
        golden = self.golden(config["model_type"])
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(golden / file, folder / file)
        (folder / "config.json").write_text(json.dumps(config))
        made = folder / "made"
        model = random_model(folder, seed)
        model.save_pretrained(made)
        for file in made.glob("*.safetensors"):
            shutil.copy(file, folder / file.name)
        shutil.rmtree(made)
        return folder

    def losses(self, model: Path, family: str, adapters: Path | None = None) -> list[list[float]]:
        imported = self.programs.run("import-model", model_dir=model)
        settings = {"token_losses": True, "generated_rows": 1, "max_tokens": 1}
        flags = {"model": f"it={imported}", "dataset": self.dataset(family)}
        if adapters:
            flags["adapters"] = f"tuned={adapters}"
        scored = self.programs.run("evaluate", settings, **flags)
        name = "tuned" if adapters else "it"
        return [row["losses"][name] for row in read_rows(scored / "data/token_losses.jsonl")]

    def reference(self, model, family: str) -> list[list[float]]:
        tensors = load_file(self.dataset(family) / "data/tokens/test.safetensors")
        cuts = tensors["offsets"][1:-1].astype(np.int64)
        rows = []
        for tokens, trained in zip(
            np.split(tensors["tokens"].astype(np.int64), cuts), np.split(tensors["trained"], cuts), strict=True
        ):
            tokens = torch.from_numpy(tokens)
            with torch.no_grad():
                logits = model(tokens[None, :-1], use_cache=False).logits[0].float()
            losses = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none").tolist()
            rows.append([loss for loss, counts in zip(losses, trained[1:], strict=True) if counts])
        return rows

    def greedy(self, name: str, folder: Path, family: str) -> None:
        """Compares greedy answers to the first tokens of test rows, in one batch, with the reference's, one by one."""
        tensors = load_file(self.dataset(family) / "data/tokens/test.safetensors")
        rows = np.split(tensors["tokens"].astype(np.int64), tensors["offsets"][1:-1].astype(np.int64))
        longest = sorted(rows, key=len)[-len(PROMPT_LENGTHS) :]
        prompts = [row[:length].tolist() for row, length in zip(longest, PROMPT_LENGTHS, strict=True)]
        asked = self.work / "asked.jsonl"
        asked.write_text("".join(json.dumps({"prompt_tokens": prompt}) + "\n" for prompt in prompts))
        command = [self.programs.folder / "generate", "--model", folder, "--input", asked, "--token-ids"]
        done = subprocess.run([*command, "--max-tokens", str(ANSWER_TOKENS)], capture_output=True, text=True)
        if done.returncode:
            self.failed += 1
            print(f"{name:34} generate: {done.stderr.strip()} FAIL", flush=True)
            return
        ours = [json.loads(line)["generated_ids"] for line in done.stdout.splitlines()]
        model = load(folder)
        theirs, leads = zip(*(answer(model, prompt) for prompt in prompts), strict=True)
        fine = ours == list(theirs)
        self.ran += fine
        self.failed += not fine
        count = sum(map(len, theirs))
        print(f"{name:34} greedy {count} tokens, closest lead {min(leads):.1e} {'ok' if fine else 'FAIL'}", flush=True)

    def line(self, name: str, must_run: bool, ours, reference) -> None:
        """Compares losses; `ours` and `reference` are functions."""
        try:
            expected = reference()
        except Exception as error:  # noqa: BLE001: a setting that the reference refuses as well
            expected, reason = None, str(error).splitlines()[0][:80]
        try:
            got = ours()
        except RuntimeError as error:
            text = str(error)
            fine = not must_run and "hint:" in text and "failed with 65" in text
            self.refused += fine
            self.failed += not fine
            said = next((line for line in text.splitlines() if "error:" in line), text)
            print(f"{name:34} refused {'ok' if fine else 'FAIL'}  {said[-110:]}", flush=True)
            return
        if expected is None:
            self.failed += 1
            print(f"{name:34} ran, but the reference refuses it: {reason} FAIL", flush=True)
            return
        worst = max(abs(a - b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=True))
        fine = worst <= LIMIT
        self.ran += fine
        self.failed += not fine
        print(f"{name:34} {worst:9.1e} {'ok' if fine else 'FAIL'}{'' if must_run else '  (may be refused)'}", flush=True)


def answer(model, prompt: list[int]) -> tuple[list[int], float]:
    """Returns the greedy answer without its end token, and the smallest lead of a token; every step reads the whole text again."""
    ends = model.config.eos_token_id
    tokens, lead = list(prompt), float("inf")
    while len(tokens) < len(prompt) + ANSWER_TOKENS:
        with torch.no_grad():
            best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].float().topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        if int(best.indices[0]) in ends:
            break
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt) :], lead


def load(folder: Path):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    scale = getattr(model.get_input_embeddings(), "embed_scale", None)
    if scale is not None and "gemma3" in model.config.model_type:
        # Gemma 3 scales its embeddings by a bfloat16, whatever it computes in; transformers only when in bfloat16.
        scale.copy_(scale.bfloat16())
    return model


def random_model(folder: Path, seed: int):
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.tie_weights()
    return model


def configs(bench: Bench, wanted: list[str], table: dict, greedy: bool = False) -> None:
    for seed, (name, (must_run, config)) in enumerate(table.items()):
        if wanted and name not in wanted:
            continue
        family = config["model_type"]
        try:
            folder = bench.folder(name, config, seed)
        except Exception as error:  # noqa: BLE001: transformers cannot make it
            # The weights of the plain model, so that our own refusal is still seen.
            base = {k: v for k, v in BASE_OF[family].items()}
            shutil.rmtree(bench.work / name, ignore_errors=True)
            folder = bench.folder(name, base, seed)
            (folder / "config.json").write_text(json.dumps(config))
            print(f"{name:34} transformers: {str(error).splitlines()[0][:90]}")
        bench.line(name, must_run, lambda: bench.losses(folder, family), lambda: bench.reference(load(folder), family))
        if greedy:
            bench.greedy(name, folder, family)
        shutil.rmtree(folder)


def adapters(bench: Bench, wanted: list[str]) -> None:
    import peft

    for seed, (name, (must_load, family, make)) in enumerate(ADAPTERS.items()):
        if wanted and name not in wanted:
            continue
        folder = bench.folder(f"base-{name}", copy.deepcopy(BASE_OF[family]), 7)
        out = bench.work / f"adapter-{name}"
        torch.manual_seed(seed)
        try:
            make(lambda: load(folder), out)
        except Exception as error:  # noqa: BLE001: one variant must not hide the others
            bench.failed += 1
            print(f"{name:34} cannot be made: {type(error).__name__}: {error} FAIL")
            continue
        read = out / "original" if (out / "original").exists() else out
        reference = lambda: bench.reference(peft.PeftModel.from_pretrained(load(folder), read).eval(), family)
        expected = out / "expected.json"
        if expected.exists():
            # What the model computed before it was saved: the base is part of it.
            rows = json.loads(expected.read_text())
            reference = lambda: rows
        bench.line(name, must_load, lambda: bench.losses(folder, family, out), reference)
        shutil.rmtree(folder)


BASE_OF = {config["model_type"]: config for name, (_, config) in CONFIGS.items() if name.endswith("-plain")}


def main() -> int:
    kinds = sys.argv[2:3] or ["configs", "windows", "adapters"]
    with tempfile.TemporaryDirectory(prefix="variants-") as scratch:
        bench = Bench(sys.argv[1], Path(scratch))
        if "configs" in kinds:
            configs(bench, sys.argv[3:], CONFIGS)
        if "windows" in kinds:
            configs(bench, sys.argv[3:], WINDOWS, greedy=True)
        if "adapters" in kinds:
            adapters(bench, sys.argv[3:])
    print(f"{bench.ran} ran, {bench.refused} refused, {bench.failed} failed")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
