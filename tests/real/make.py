#!/usr/bin/env python3
"""Write references for `make test-real`: tokens, greedy answers and a loss. usage: make.py MODEL.gguf OUT

The weights are dequantized by the `gguf` package and computed by transformers in float32. Texts are split and merged by a plain
implementation of byte-level BPE over the vocabulary of the file. Nothing here uses Ashlar.
"""
import json
import random
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from jinja2 import Environment
from transformers import LlamaConfig, LlamaForCausalLM

ANSWER_TOKENS = 32
PROMPTS = [
    "What is the capital of France?", "Name three colours.", "What is 7 plus 5?", "Write one sentence about the sea.",
    "Who wrote Romeo and Juliet?", "Translate to French: good morning.", "What do bees make?", "Is the sun a star?",
    "List two planets.", "What is the opposite of hot?", "How many days are in a week?", "Complete: roses are red,",
    "What is water made of?", "Give a synonym for happy.", "Which animal says meow?", "What is Python?",
    "Explain gravity in one sentence.", "What colour is the sky?", "Say hello in Spanish.", "What is a noun?",
]
SCRIPTS = {
    "latin": "abcdefghijklmnopqrstuvwxyzāēīōūʻéèñüßçøåŁžč", "greek": "αβγδεζηθικλμνξοπρστυφχψωάέή", "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяї",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "hebrew": "אבגדהוזחטיכלמנסעפצקרשת", "devanagari": "अआइईउकखगघचजटडतदनपबमयरलवसहािीुे",
    "thai": "กขคงจชซดตทนบปพมยรลวสหอะาิีุเแโ", "hangul": "가나다라마바사아자차카타파하한글말을", "kana": "あいうえおかきくけこアイウエオカキクケコ",
    "han": "中文字天地人山水火木金土日月年", "digits": "0123456789٠١٢३४５６", "signs": "!?.,;:'\"()[]{}<>+-*/=_#@&%$€→✓😀👩‍🚀",
}
CONTRACTIONS = ["don't", "I'm", "we'll", "they've", "it's", "she'd", "you're", "O'Neil", "DON'T"]


def byte_letters():
    """Returns the letter of each byte in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + index) for index, byte in enumerate(others)}}


class Tokenizer:
    """Byte-level BPE that takes single digits apart, as SmolLM2's tokenizer does."""

    words = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, fields):
        tokens = fields["tokenizer.ggml.tokens"].contents()
        kinds = fields["tokenizer.ggml.token_type"].contents()
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.tokens = tokens
        special = sorted((token for token, kind in zip(tokens, kinds) if kind in (3, 4)), key=len, reverse=True)
        self.special = regex.compile("(" + "|".join(map(regex.escape, special)) + ")")
        merges = fields["tokenizer.ggml.merges"].contents()
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.letters = byte_letters()

    @lru_cache(maxsize=None)
    def merged(self, word):
        parts = list(word)
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, 1 << 30), index) for index, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]

    def encode(self, text):
        found = []
        for index, part in enumerate(self.special.split(text)):
            if index % 2:
                found.append(self.ids[part])
                continue
            for chunk in regex.split(r"(\p{N})", part):
                for word in self.words.findall(chunk):
                    found += self.merged("".join(self.letters[byte] for byte in word.encode()))
        return found

    def decode(self, ids):
        bytes_of = {letter: byte for byte, letter in self.letters.items()}
        return b"".join(bytes(bytes_of[letter] for letter in self.tokens[id]) for id in ids).decode(errors="replace")


def texts():
    """Returns 500 texts: rows of the aligned corpus, words of many scripts, and mixtures of them with white space."""
    rows = [json.loads(line) for line in open(Path(__file__).parents[2] / "data/haw-eng/fornander_aligned.jsonl")]
    rows = [row for row in rows if row.get("kind") == "prose"]
    found = []
    for row in random.sample(rows, 70):
        found += [row["haw"][:300], row["eng"][:300]]
    for letters in SCRIPTS.values():
        for _ in range(15):
            words = ["".join(random.choices(letters, k=random.randint(1, 8))) for _ in range(random.randint(1, 10))]
            found.append(" ".join(words))
    while len(found) < 500:
        parts = []
        for _ in range(random.randint(1, 12)):
            letters = random.choice(list(SCRIPTS.values()))
            parts.append(random.choice(CONTRACTIONS) if random.random() < 0.2 else "".join(random.choices(letters, k=random.randint(1, 6))))
            parts.append(random.choice([" ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "", " \n "]))
        found.append("".join(parts))
    return found


def load(reader):
    """Returns the model in float32."""
    field = lambda key: reader.fields[f"llama.{key}"].contents()
    heads, keys = field("attention.head_count"), field("attention.head_count_kv")
    config = LlamaConfig(
        hidden_size=field("embedding_length"), num_hidden_layers=field("block_count"), intermediate_size=field("feed_forward_length"),
        num_attention_heads=heads, num_key_value_heads=keys, vocab_size=field("vocab_size"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"), max_position_embeddings=field("context_length"), tie_word_embeddings=True)
    config.rope_parameters = {"rope_type": "default", "rope_theta": field("rope.freq_base")}
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm"}
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    weights = {}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        name = outer.get(tensor.name)
        if name is None:
            _, block, layer, part = tensor.name.split(".")
            name = f"model.layers.{block}.{names[layer]}.{part}"
            if layer in ("attn_q", "attn_k"):
                count = heads if layer == "attn_q" else keys
                rows = values.shape[0]
                values = values.reshape(count, rows // count // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)
        weights[name] = torch.tensor(values)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("rotary" in name for name in missing), (missing, unexpected)
    return model


@torch.no_grad()
def answer(model, prompt, ends):
    """Returns the most likely continuation, token by token, and the smallest lead of a chosen token over the next best."""
    found, lead, cache, tokens = [], float("inf"), None, prompt
    while len(found) < ANSWER_TOKENS:
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        token = int(best.indices[0])
        if token in ends:
            break
        lead = min(lead, float(best.values[0] - best.values[1]))
        found.append(token)
        tokens = [token]
    return found, lead


def main(path, out):
    random.seed(11)
    torch.manual_seed(0)
    reader = GGUFReader(path)
    tokenizer = Tokenizer(reader.fields)
    model = load(reader)
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(reader.fields["tokenizer.chat_template"].contents())
    ends = {reader.fields["tokenizer.ggml.eos_token_id"].contents(), 0}
    answers = []
    for prompt in PROMPTS:
        text = template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)
        ids, lead = answer(model, tokenizer.encode(text), ends)
        answers.append({"prompt": prompt, "tokens": ids, "answer": tokenizer.decode(ids), "lead": round(lead, 5)})
        print(prompt, "→", answers[-1]["answer"], f"({lead:.4f})")
    with open(Path(out) / "answers.jsonl", "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
    with open(Path(out) / "tokens.jsonl", "w") as file:
        for text in texts():
            file.write(json.dumps({"text": text, "tokens": tokenizer.encode(text)}, ensure_ascii=False, separators=(",", ":")) + "\n")


main(sys.argv[1], sys.argv[2])
