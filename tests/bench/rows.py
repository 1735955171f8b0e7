"""Chooses the rows of the benchmark from the text in `data/haw-eng`: the same rows for every program."""

import json
import random
from pathlib import Path

TEXT = Path("data/haw-eng/fornander_aligned.jsonl")
PROMPT = "Translate the Hawaiian text to English: "


def pairs() -> list[dict]:
    """Returns the clean pairs in a fixed random order: prose of moderate length, without the passages of a benchmark."""
    found = [json.loads(line) for line in TEXT.read_text(encoding="utf-8").splitlines()]
    found = [row for row in found if is_clean(row)]
    random.Random(1).shuffle(found)
    return found


def is_clean(row: dict) -> bool:
    return (
        row["kind"] == "prose"
        and 0.5 <= row["len_ratio"] <= 2
        and (row["name_overlap"] is None or row["name_overlap"] >= 0.5)
        and 5 <= len(row["haw"].split()) <= 120
        and row["eval10_row"] is None
    )


def chats(count: int, batch: int, words: int) -> list[dict]:
    """Returns `count` conversations with at most `words` words in each language.

    With `batch` above 1, rows of a batch have similar lengths, as all trainers arrange in some way.
    """
    fits = lambda row: max(len(row["haw"].split()), len(row["eng"].split())) <= words
    chosen = [row for row in pairs() if fits(row)][:count]
    if batch > 1:
        chosen.sort(key=lambda row: len(row["haw"]) + len(row["eng"]))
        batches = [chosen[at : at + batch] for at in range(0, count, batch)]
        random.Random(2).shuffle(batches)
        chosen = sum(batches, [])
    return [conversation(row) for row in chosen]


def conversation(row: dict) -> dict:
    messages = [{"role": "user", "content": PROMPT + row["haw"]}, {"role": "assistant", "content": row["eng"]}]
    return {"id": row["id"], "messages": messages}


def texts(count: int, words: int) -> list[dict]:
    """Returns `count` texts of at least `words` words, concatenated from pairs; they are cut to the same number of tokens."""
    found, source = [], iter(pairs())
    for number in range(count):
        text: list[str] = []
        while sum(len(part.split()) for part in text) < words:
            row = next(source)
            text += [row["haw"], row["eng"]]
        found.append({"id": f"text-{number}", "text": "\n".join(text)})
    return found


def write(path: Path, found: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


def write_corpus(path: Path) -> Path:
    """Writes the text that tokenizers are trained on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row['haw']}\n{row['eng']}\n" for row in pairs()), encoding="utf-8")
    return path
