"""Rows for training and scoring."""

import json
from pathlib import Path

TEXT = Path(__file__).resolve().parents[2] / "data/haw-eng/fornander_aligned.jsonl"
ROWS = 40
WORDS = 8


def write_text(out: Path) -> None:
    """Returns rows of the Fornander text, cut to a few words each."""
    cut = lambda text: " ".join(text.split()[:WORDS])
    rows = []
    for line in TEXT.read_text().splitlines()[:ROWS]:
        row = json.loads(line)
        prompt = f"Translate the Hawaiian text to English: {cut(row['haw'])}"
        rows.append({"prompt": prompt, "completion": cut(row["eng"])})
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
