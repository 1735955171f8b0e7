"""Compares every GGUF type that fuse writes, as our own reader imports it, with gguf (values) and llama.cpp (greedy tokens).

usage: quantized.py PROGRAMS [MODEL…]. Needs gguf, llama_cpp, numpy, safetensors, torch and transformers. `smollm2` takes the wheel from
`build/wheels`.

llama.cpp must give our greedy tokens, all of them, where it multiplies in float32. What its own kernels add is the rounding of inputs to 8
bits (`rounding.py`): it may move the logits by no more than `FACTOR` times what the same rounding does in transformers.
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from ours import Programs, last_checkpoint, read_json
from rounding import Row, distance, llama_logits, rounded_logits
from safetensors.numpy import load_file, save_file
from texts import write_text

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["q8_0", "q6_k", "q4_k_m", "q4_1", "q4_0"]
# Random models whose rows fill blocks of 256 values, by golden model; the last is real.
MODELS = ["llama", "qwen3", "gemma3_text", "smollm2"]
WIDTHS = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
PROMPTS, ANSWER_TOKENS = 6, 24
# Distance of two logits that counts as equal where both sides compute in float32.
TIE = 1e-3
# Largest ratio of llama.cpp's rounding to the same rounding in transformers, as root mean squares over the logits.
FACTOR = 1.5
TRAIN = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-3, "rank": 4, "alpha": 8.0, "checkpoint_every": 2}
DATA = {"max_tokens": 400, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}


def random_model(name: str, out: Path) -> Path:
    """Writes a random model of the architecture of a golden one, with its tokenizer."""
    golden = ROOT / "tests/golden" / name
    shutil.copytree(golden, out)
    config = read_json(out / "config.json") | WIDTHS
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = WIDTHS["head_dim"]
    (out / "config.json").write_text(json.dumps(config))
    narrow = read_json(golden / "config.json")
    heads = {key: WIDTHS[key] * WIDTHS["head_dim"] for key in ("num_attention_heads", "num_key_value_heads")}
    random = np.random.default_rng(1)

    def widened(tensor: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tensor.endswith(("q_norm.weight", "k_norm.weight")):
            return (WIDTHS["head_dim"],)
        if len(shape) == 1:
            return (WIDTHS["hidden_size"],)
        sizes = {"embed_tokens": (shape[0], 256), "lm_head": (shape[0], 256), "q_proj": (heads["num_attention_heads"], 256),
                 "k_proj": (heads["num_key_value_heads"], 256), "v_proj": (heads["num_key_value_heads"], 256),
                 "o_proj": (256, heads["num_attention_heads"]), "down_proj": (256, 512), "gate_proj": (512, 256), "up_proj": (512, 256)}
        return sizes[tensor.split(".")[-2]]

    neutral = 0.0 if "gemma" in narrow["model_type"] else 1.0
    tensors = {}
    for tensor, old in load_file(golden / "model.safetensors").items():
        shape = widened(tensor, old.shape)
        if len(shape) == 1:
            tensors[tensor] = np.full(shape, neutral, np.float32)
        else:
            tensors[tensor] = (random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def prompts(dataset: Path) -> list[list[int]]:
    tensors = load_file(dataset / "data/tokens/test.safetensors")
    starts, lengths = tensors["offsets"].astype(int), tensors["prompt_lengths"].astype(int)
    return [tensors["tokens"][start : start + length].astype(int).tolist() for start, length in zip(starts[:PROMPTS], lengths)]


def our_answers(programs: Programs, model: Path, asked: list[list[int]], work: Path) -> list[list[int]]:
    rows = work / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt_tokens": tokens}) + "\n" for tokens in asked))
    return programs.generate(model, rows, ANSWER_TOKENS)


@dataclass
class Comparison:
    tokens: int
    # Tokens that llama.cpp chooses as we do, with exact and with rounded inputs.
    equal: int
    equal_rounded: int
    # How far the logit of our token is behind that of llama.cpp's best one with exact inputs, at most.
    behind: float
    # What rounding does to the logits in llama.cpp and in transformers, as root mean squares.
    rounding: float
    expected: float

    def fine(self) -> bool:
        return self.tokens > 0 and self.behind <= TIE and self.rounding <= FACTOR * self.expected + TIE


def compare(file: Path, folder: Path, rows: list[Row]) -> Comparison:
    """Compares `rows`, our greedy answers from `file`, with llama.cpp; `folder` holds the file's values as floats."""
    ours = np.concatenate([answer for _, answer in rows])
    exact, rounded = llama_logits(file, rows, rounded=False), llama_logits(file, rows, rounded=True)
    return Comparison(
        tokens=len(ours),
        equal=int(np.sum(exact.argmax(-1) == ours)),
        equal_rounded=int(np.sum(rounded.argmax(-1) == ours)),
        behind=float(np.max(exact.max(-1) - exact[np.arange(len(ours)), ours])),
        rounding=distance(rounded, exact),
        expected=distance(rounded_logits(folder, file, rows), exact),
    )


def equal_values(folder: Path, file: Path) -> int:
    """Compares every tensor of an imported folder with that of its file, to the bit, and returns their number."""
    config = read_json(folder / "config.json")
    reader = gguf.GGUFReader(file)
    architecture = reader.get_field("general.architecture").contents()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    found = {tensor.name: tensor for tensor in reader.tensors}
    imported = {name: values for path in folder.glob("model*.safetensors") for name, values in load_file(path).items()}
    for name, stored in imported.items():
        short, part = name.rsplit(".", 1)
        tensor = found[f"{names.get_name(short)}.{part}"]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if architecture == "gemma3" and short.endswith("norm"):
            values = values - np.float32(1)
        if architecture == "llama" and short.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if short.endswith("q_proj") else "num_key_value_heads"]
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        if not np.array_equal(values, stored.astype(np.float32)):
            raise RuntimeError(f"`{name}` differs from `{file.name}`")
    return len(imported)


def check(name: str, work: Path, programs: Programs) -> int:
    """Prints a line for each type and returns how many failed."""
    work.mkdir()
    if name == "smollm2":
        model = programs.run("import-model", config=ROOT / "pipelines/models/smollm2-135m.toml")
    else:
        model = programs.run("import-model", model_dir=random_model(name, work / "base"))
    dataset = programs.run("prepare-data", DATA, tokenizer=model, data=work.parent / "rows.jsonl")
    trained = programs.run("train", TRAIN, model=model, dataset=dataset)
    asked, failed = prompts(dataset), 0
    for kind in KINDS:
        settings = {"gguf": kind, "max_loss_increase": 100.0}
        fused = programs.run("fuse", settings, model=model, adapters=last_checkpoint(trained), dataset=dataset)
        (export,) = read_json(fused / "data/fuse.json")["exports"]
        file = fused / "data" / export["path"]
        dequantized = programs.run("import-model", {"dequantize": True}, model_dir=file)
        values = equal_values(dequantized / "data/model", file)
        imported = programs.run("import-model", model_dir=file)
        answers = our_answers(programs, imported, asked, work)
        found = compare(file, dequantized / "data/model", list(zip(asked, answers, strict=True)))
        failed += not found.fine()
        print(
            f"{name:12} {kind:7} {values} tensors; of {found.tokens} tokens {found.equal} equal (behind {found.behind:.4f}), "
            f"{found.equal_rounded} with rounded inputs; rounding {found.rounding:.4f}, expected {found.expected:.4f}; "
            f"KL {export['kl_divergence']:.4f}, {export['bytes'] / 1e6:.1f} MB {'ok' if found.fine() else 'FAIL'}",
            flush=True,
        )
    return failed


def main() -> int:
    if (ROOT / "build/wheels").is_dir():
        os.environ.setdefault("ASHLAR_WHEELS", str(ROOT / "build/wheels"))
    failed = 0
    with tempfile.TemporaryDirectory(prefix="interop-quantized-") as scratch:
        work = Path(scratch)
        write_text(work / "rows.jsonl")
        for name in sys.argv[2:] or MODELS:
            failed += check(name, work / name, Programs(Path(sys.argv[1]), work / "store"))
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
