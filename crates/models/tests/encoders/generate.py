"""Makes tiny random encoders and the vectors that transformers gives for some rows; see README.md beside this file."""

import json
import pathlib

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, NomicBertConfig, NomicBertModel, XLMRobertaConfig, XLMRobertaModel

ROWS = [[2, 7, 8, 9, 3], [2, 3], [2, 11, 12, 13, 14, 15, 16, 17, 18, 3], [2, 7, 8, 9, 3], [2, 20, 21, 3], [2, 30, 3]]
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 48}


WORDS = "[PAD] <pad> [CLS] [SEP] [UNK] the chief went to sea a canoe of island and slept ka moku o ke alii i hele".split()


def write_tokenizer(folder):
    """Writes a tokenizer of whole words, with the tokens that begin and end every text."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def write(name, model, mode, normalize):
    folder = pathlib.Path(__file__).parent / name
    model = model.eval()
    with torch.no_grad():
        # Fresh biases are zero and fresh norms are one, which would hide mistakes.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    if normalize:
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": False}))
    write_tokenizer(folder)
    vectors = []
    with torch.no_grad():
        for row in ROWS:
            hidden = model(torch.tensor([row])).last_hidden_state[0]
            vector = hidden[0] if mode == "cls" else hidden.mean(0)
            vectors.append((torch.nn.functional.normalize(vector, dim=0) if normalize else vector).tolist())
    (folder / "expected.json").write_text(json.dumps({"rows": ROWS, "vectors": vectors}))


def main():
    torch.manual_seed(5)
    write("bert", BertModel(BertConfig(**SIZES, max_position_embeddings=16)), "mean", True)
    config = XLMRobertaConfig(**SIZES, max_position_embeddings=18, type_vocab_size=1, pad_token_id=1)
    write("xlm-roberta", XLMRobertaModel(config), "cls", False)
    write("nomic-bert", NomicBertModel(NomicBertConfig(**SIZES, max_position_embeddings=16)), "mean", True)


if __name__ == "__main__":
    main()
