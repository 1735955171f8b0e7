"""Compares similarities of `evaluate --encoder` with transformers on 500 sentences in several scripts. usage: encoder.py PROGRAMS ENCODER

ENCODER is the folder of a sentence encoder, such as all-MiniLM-L6-v2. The same network, pooling and normalization run in
transformers; every cosine must agree within 1e-5, and must not depend on the batch size. Exits with 1 otherwise.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from ours import Programs, read_rows
from transformers import AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
SENTENCES = 500
SEED = 11
# Sentences of other scripts than Latin, from which longer ones are put together.
PARTS = [
    "今天天气很好。", "我们去夏威夷看大海。", "東京は夜の七時です。", "Мы плыли на лодке три дня.", "Завтра будет дождь.",
    "الطقس جميل اليوم", "ذهبنا إلى البحر", "הספר על השולחן", "नमस्ते दुनिया, आप कैसे हैं?", "สวัสดีชาวโลก", "안녕하세요, 반갑습니다.",
    "Η θάλασσα είναι ήρεμη.", "Ua hele ʻo Kāne i Hawaiʻi i ka pō.", "🌺 aloha 🏄🏽‍♀️", "naïve café, Ångström, ﬁne", "1,234.56 – 7/8 of $5",
]


def sentences() -> list[str]:
    source = random.Random(SEED)
    with open(ROOT / "data/haw-eng/fornander_aligned.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    made = []
    for index in range(SENTENCES):
        row = source.choice(rows)
        kind = index % 4
        if kind == 0:
            made.append(" ".join(row["eng"].split()[: source.randrange(1, 400)]))
        elif kind == 1:
            made.append(" ".join(row["haw"].split()[: source.randrange(1, 120)]))
        elif kind == 2:
            made.append(" ".join(source.choices(PARTS, k=source.randrange(1, 6))))
        else:
            made.append(source.choice(["", " ", "a", row["eng"][:40], source.choice(PARTS)]) + " " + source.choice(PARTS))
    return made


def vectors(folder: Path, texts: list[str]) -> torch.Tensor:
    """Mean or first-token pooling as the folder says, one text at a time, so that nothing is padded."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval().float()
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    rows = []
    with torch.no_grad():
        for text in texts:
            tokens = tokenizer(text.strip(), truncation=True, max_length=limit, return_tensors="pt")
            hidden = model(**tokens).last_hidden_state[0]
            rows.append(hidden.mean(0) if pooling["pooling_mode_mean_tokens"] else hidden[0])
    return torch.nn.functional.normalize(torch.stack(rows).double(), dim=1)


def main() -> int:
    encoder = Path(sys.argv[2])
    texts = sentences()
    pairs = list(zip(texts, texts[1:] + texts[:1]))
    theirs = vectors(encoder, texts)
    expected = (theirs * theirs.roll(-1, 0)).sum(1)
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(sys.argv[1]), Path(folder) / "store")
        file = Path(folder) / "pairs.jsonl"
        lines = [json.dumps({"id": str(row), "prediction": a, "reference": b}) for row, (a, b) in enumerate(pairs)]
        file.write_text("\n".join(lines))
        runs = []
        for batch_size in (1, 32, 200):
            settings = {"encoder_batch_size": batch_size, "metrics": [], "subgroups": [], "resamples": 100}
            scored = programs.run("evaluate", settings, predictions=f"x={file}", encoder=encoder)
            rows = read_rows(scored / "data/predictions.jsonl")
            runs.append([row["scores"]["similarity"]["x"] for row in rows])
    off = max(abs(ours - float(theirs)) for ours, theirs in zip(runs[0], expected))
    same = all(run == runs[0] for run in runs)
    print(f"{len(pairs)} cosines: largest difference {off:.1e}, {'the same' if same else 'NOT the same'} for every batch size")
    return 0 if off <= TOLERANCE and same else 1


if __name__ == "__main__":
    sys.exit(main())
