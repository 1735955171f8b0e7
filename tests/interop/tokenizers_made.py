"""Trains tokenizers of every kind that GGUF supports; texts that distinguish them."""

import json
import shutil
from pathlib import Path

from texts import TEXT
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SIZE = 384
CASES_OF_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CASES_OF_ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "Aloha kākou, e nā hoa!",
    " a space first",
    "two  spaces,   three",
    "trailing space ",
    "line\nbreaks\n\n\nand\ttabs\r\n",
    "ʻOkina and kahakō: Hawaiʻi, Kāneʻohe",
    "numbers 1 12 123 1234 12345 3.14159",
    "It's we'll THEY'VE don't I'M",
    "日本語 と 한국어 и русский",
    "emoji 🙂🏽‍🦱 and 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "symbols !@#$%^&*()[]{}<>~`|\\\"'",
    "x",
    "",
    "e\u0301 decomposed, é composed",
    "\u00a0no-break\u2003em space",
    "a▁b ▁ c",
]


def byte_level(splitter):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "special_tokens": ["<s>", "</s>"]}


def regex(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def pieces(steps, decoder):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoder
    return tokenizer, {"special_tokens": ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]}


REPLACE = normalizers.Replace(" ", "▁")
FUSED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
KINDS = {
    "gpt-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama-3": lambda: byte_level(regex(WORDS % r"\p{N}{1,3}")),
    "qwen-2": lambda: byte_level(regex(WORDS % r"\p{N}")),
    "smollm": lambda: byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "llama-2": lambda: pieces(
        [normalizers.Prepend("▁"), REPLACE], decoders.Sequence([*FUSED, decoders.Strip(" ", 1, 0)])
    ),
    "gemma": lambda: pieces([REPLACE], decoders.Sequence(FUSED)),
}


def make(kind: str, base: Path, out: Path) -> Tokenizer:
    """Writes the model `base` with a tokenizer of this kind and returns the tokenizer."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("expected*"))
    tokenizer, settings = KINDS[kind]()
    rows = [json.loads(line) for line in TEXT.read_text().splitlines()[:300]]
    is_pieces = kind in ("llama-2", "gemma")
    lines = [row[name] for row in rows for name in ("haw", "eng")]
    if is_pieces:
        # Marks of words stay where they are; characters that are rare become bytes.
        settings |= {"limit_alphabet": 40}
        lines = [word for line in lines for word in line.split()]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, **settings))
    ids = {name: tokenizer.token_to_id(name) for name in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.save(str(out / "tokenizer.json"))
    config = json.loads((out / "config.json").read_text())
    config |= {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": None}
    (out / "config.json").write_text(json.dumps(config))
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (out / "tokenizer_config.json").write_text(json.dumps(kept | {"chat_template": template}))
    return tokenizer
