"""Workload E1: texts per second of a sentence encoder, ours beside PyTorch. usage: encoder.py PROGRAMS

The network has the shape of all-MiniLM-L6-v2 (6 layers of 384) with random weights; the texts are rows of the Fornander collection with
the tokenizer of the demo model, at most 256 tokens. Ours is `evaluate --encoder` on many texts minus the same on few, so that starting
and loading do not count. PyTorch encodes the same tokens as sentence-transformers does: sorted by length, 32 together, padded. Each is
the best of some repetitions, taken in turn. Writes `target/bench/encoder.json`. Run it through `run.sh`, in the environment of PyTorch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

MANY, FEW = (320, 64) if os.environ.get("QUICK", "") not in ("", "0") else (1600, 320)
REPEATS = int(os.environ.get("REPEATS") or 3)
BATCH = 32
MAX_TOKENS = 256
TEXT = Path("data/haw-eng/fornander_aligned.jsonl")
TOKENIZER = Path("data/models/demo/tokenizer.json")


def texts() -> list[str]:
    rows = [json.loads(line) for line in TEXT.read_text().splitlines()]
    made = list(dict.fromkeys(row[side] for row in rows if row["kind"] == "prose" for side in ("eng", "haw")))
    return made[:: len(made) // (MANY + 1)][:MANY]


def encoder(folder: Path) -> BertModel:
    torch.manual_seed(1)
    shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertModel(shape).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    return model


def ours(programs: Path, folder: Path, texts: list[str], work: Path) -> float:
    """Returns the seconds of a whole run; half of the texts are answers, half are references."""
    file = work / f"{len(texts)}.jsonl"
    pairs = zip(texts[::2], texts[1::2])
    file.write_text("\n".join(json.dumps({"id": str(i), "prediction": a, "reference": b}) for i, (a, b) in enumerate(pairs)))
    settings = ["metrics=[]", "subgroups=[]", "resamples=100", f"encoder_batch_size={BATCH}"]
    command = [programs / "evaluate", "--predictions", f"x={file}", "--encoder", folder, "--force", "--store", work / "store"]
    for setting in settings:
        command += ["--set", setting]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.monotonic() - start


def theirs(model: BertModel, tokenizer: Tokenizer, texts: list[str]) -> float:
    """Returns the seconds for all texts, with the model loaded."""
    start = time.monotonic()
    rows = sorted((tokenizer.encode(text.strip()).ids[:MAX_TOKENS] for text in texts), key=len)
    with torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            longest = max(map(len, batch))
            tokens = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            torch.nn.functional.normalize(pooled, dim=1)
    return time.monotonic() - start


def main() -> None:
    programs = Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    all_texts = texts()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = work / "encoder"
        model = encoder(folder)
        theirs(model, tokenizer, all_texts[:BATCH])
        best = {"ashlar many": 1e9, "ashlar few": 1e9, "torch": 1e9}
        for _ in range(REPEATS):
            best["ashlar many"] = min(best["ashlar many"], ours(programs, folder, all_texts, work))
            best["ashlar few"] = min(best["ashlar few"], ours(programs, folder, all_texts[:: MANY // FEW], work))
            best["torch"] = min(best["torch"], theirs(model, tokenizer, all_texts))
    rates = {
        "ashlar": (MANY - FEW) / (best["ashlar many"] - best["ashlar few"]),
        "torch": MANY / best["torch"],
    }
    out = Path("target/bench/encoder.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"workload": "E1", "texts": MANY, "texts_per_second": rates, "ratio": rates["ashlar"] / rates["torch"]}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"E1 encoder: {rates['ashlar']:.1f} texts/s, PyTorch {rates['torch']:.1f}, ratio {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
