//! Tokenizers of strangers: what would panic, take all memory or differ from run to run is refused or contained.
//!
//! The crate `tokenizers` trusts `tokenizer.json`: it indexes tables by numbers of the file, expands text without a limit, and
//! drops merges at random if asked to. This module checks what can be checked before it reads the file, and turns a panic
//! during its work into an error.

mod deadline;
mod extent;
mod growth;
mod model;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

pub(crate) use deadline::{SHORT_BYTES, Stop, in_time, time_limit};
use extent::Extent;
use growth::{Growth, check_decoder, check_template, steps};
use model::Model;

/// Most steps of a tokenizer before and after its model. Published ones have about ten.
const MAX_STEPS: usize = 256;
/// Maximum number of JSON values in a `tokenizer.json`, checked before its memory is estimated. A vocabulary of 262,144 tokens with its merges
/// has two million.
const MAX_VALUES: usize = 10_000_000;
/// Maximum memory of an open tokenizer in bytes, by the estimates below. Published ones stay below a third of it.
const MAX_MEMORY: usize = 1 << 30;
/// Estimated memory of a JSON value, of a byte of text, of a byte in the automaton that finds added tokens, and of a node in the
/// tree of the pieces of a `Unigram` model.
const VALUE_MEMORY: usize = 150;
const TEXT_MEMORY: usize = 4;
const ADDED_MEMORY: usize = 64;
const NODE_MEMORY: usize = 340;
/// Maximum number of JSON values, and of bytes of text, in the steps before and after the model. The table of a `Precompiled`
/// normalizer has half a megabyte.
const MAX_STEP_VALUES: usize = 100_000;
const MAX_STEP_BYTES: usize = 16 << 20;

/// The sizes of the parts of a `tokenizer.json`.
#[derive(Deserialize)]
struct Sizes {
    #[serde(default)]
    added_tokens: Extent,
    #[serde(default)]
    normalizer: Extent,
    #[serde(default)]
    pre_tokenizer: Extent,
    #[serde(default)]
    post_processor: Extent,
    #[serde(default)]
    decoder: Extent,
    #[serde(default)]
    model: Model,
}

impl Sizes {
    /// Fails when a part would take far more memory than those of published tokenizers.
    fn check(&self) -> Result<(), String> {
        let mut steps = Extent::default();
        for part in [self.normalizer, self.pre_tokenizer, self.post_processor, self.decoder] {
            steps.add(part);
        }
        if steps.values > MAX_STEP_VALUES || steps.bytes > MAX_STEP_BYTES {
            let mebibytes = MAX_STEP_BYTES >> 20;
            return Err(format!(
                "its steps before and after the model have more than {MAX_STEP_VALUES} values or {mebibytes} MiB of text"
            ));
        }
        if self.added_tokens.values.saturating_add(self.model.extent.values) > MAX_VALUES {
            return Err(format!("its vocabulary has more than {MAX_VALUES} values"));
        }
        model::check_added_tokens(self.added_tokens)?;
        self.model.check()
    }

    /// Fails when the tokenizer would take too much memory. `growth` is the factor by which the normalizer makes added tokens
    /// longer, and `nodes` the size of the tree of pieces.
    fn check_memory(&self, growth: usize, nodes: usize) -> Result<(), String> {
        let Self { added_tokens, model, .. } = self;
        let values = (added_tokens.values + model.extent.values) * VALUE_MEMORY;
        let text = model.extent.bytes * TEXT_MEMORY;
        let added = added_tokens.bytes.saturating_mul(growth).saturating_mul(ADDED_MEMORY);
        let memory = added.saturating_add(values + text + nodes * NODE_MEMORY);
        if memory > MAX_MEMORY {
            return Err(format!(
                "its vocabulary would take about {} MiB of memory, and at most {} MiB are supported",
                memory >> 20,
                MAX_MEMORY >> 20
            ));
        }
        Ok(())
    }
}

/// The steps of a `tokenizer.json` before and after its model.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

impl Steps {
    /// Returns the factor by which the normalizer makes a text longer.
    ///
    /// # Errors
    ///
    /// Fails when there are too many steps, when they make a text many times longer, and when they panic on some texts.
    fn check(&self) -> Result<usize, String> {
        let parts = [&self.normalizer, &self.pre_tokenizer, &self.post_processor, &self.decoder];
        if parts.map(steps).iter().sum::<usize>() > MAX_STEPS {
            return Err(format!("it has more than {MAX_STEPS} steps before and after the model"));
        }
        let mut growth = Growth::default();
        growth.add(&self.normalizer)?;
        let normalized = growth.most_times();
        growth.add_after(&self.pre_tokenizer)?;
        Growth::default().add(&self.post_processor)?;
        Growth::default().add(&self.decoder)?;
        check_template(&self.post_processor)?;
        check_decoder(&self.decoder)?;
        Ok(normalized)
    }
}

/// Reads a `tokenizer.json`.
///
/// # Errors
///
/// Returns the reason when the crate `tokenizers` cannot read the file, when tokenization is random, when a text or answer would become
/// many times longer, when a long word would take very long or a short token would panic, and when the tokenizer would need far
/// more memory than published ones.
pub fn open_tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    let sizes: Sizes = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    sizes.check()?;
    let steps: Steps = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let nodes = if sizes.model.is_unigram { model::count_nodes(bytes)? } else { 0 };
    sizes.check_memory(steps.check()?, nodes)?;
    contained(|| Tokenizer::from_bytes(bytes).map_err(|error| error.to_string()))
}

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and makes an error of a panic in it, which is not printed.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_CONTAINED.with(Cell::get) {
                print(panic);
            }
        }));
    });
    let outer = IS_CONTAINED.with(|contained| contained.replace(true));
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.with(|contained| contained.set(outer));
    result.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it gave up");
        let message: String = message.chars().take(200).collect();
        Err(format!("the tokenizer cannot handle this: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    fn opened(normalizer: &Value, dropout: &Value) -> Result<Tokenizer, String> {
        let file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "model": {"type": "BPE", "dropout": dropout, "unk_token": null, "vocab": {"a": 0, "b": 1}, "merges": []},
        });
        open_tokenizer(file.to_string().as_bytes())
    }

    fn charsmap(tree: &[u32], texts: &str) -> Value {
        let mut bytes = (tree.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(tree.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts.bytes());
        json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)})
    }

    #[test]
    fn what_would_break_is_refused_with_a_reason() {
        let replace = |pattern: &str, content: String| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
        let eight: Vec<Value> = (0..8).map(|_| replace("a", "a".repeat(100))).collect();
        for (normalizer, reason) in [
            (replace("", "x".into()), "an empty text"),
            (replace("a", "x".repeat(1 << 20)), "times as long"),
            (json!({"type": "Sequence", "normalizers": eight}), "times as long"),
            (json!({"tqpe": "Sequence", "normalizers": eight}), "times as long"),
            (
                json!({"type": "Sequence", "normalizers": [replace("a", "aaaaaaaaa".into()), replace("a", "aaaaaaaaa".into())]}),
                "times as long",
            ),
            (
                json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y".repeat(99)}),
                "times as long",
            ),
            (json!({"type": "Prepend", "prepend": ""}), "adds an empty text"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "!"}), "not base64"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode([255, 255, 255, 127])}),
                "wrong length",
            ),
            (charsmap(&[0; 8], ""), "points outside itself"),
            (charsmap(&[u32::MAX; 256], ""), "points outside itself"),
        ] {
            let error = opened(&normalizer, &Value::Null).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let long = charsmap(&[0; 256], &("y".repeat(1000) + "\0"));
        let nested = |inner: Value| json!({"type": "Sequence", "normalizers": vec![inner; 20]});
        for (normalizer, reason) in
            [(long, "times as long"), (nested(nested(json!({"type": "NFKD"}))), "more than 256 steps")]
        {
            let error = opened(&normalizer, &Value::Null).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let error = opened(&Value::Null, &json!(0.1)).map(|_| ()).unwrap_err();
        assert!(error.contains("at random"), "{error}");
    }

    #[test]
    fn templates_that_repeat_a_text_are_refused() {
        let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
        let many = vec![piece.clone(); 1000];
        let pair = json!([piece, {"Sequence": {"id": "B", "type_id": 0}}]);
        let token = json!({"X": {"id": "X", "ids": vec![0; 1000], "tokens": vec!["X"; 1000]}});
        for template in [
            json!({"type": "TemplateProcessing", "single": many, "pair": pair, "special_tokens": {}}),
            json!({"type": "TemplateProcessing", "single": [], "pair": pair, "special_tokens": token}),
            json!({"type": "Sequence", "processors": [{"single": many, "pair": pair, "special_tokens": {}}]}),
        ] {
            let file = json!({
                "version": "1.0", "added_tokens": [], "post_processor": template,
                "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
            });
            let error = open_tokenizer(file.to_string().as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains("more than 256 pieces"), "{error}");
        }
    }

    /// Opens a tokenizer with this decoder and `max_input_chars_per_word`.
    fn decoding(decoder: &Value, longest: &Value) -> Result<Tokenizer, String> {
        let file = json!({
            "version": "1.0", "added_tokens": [], "decoder": decoder,
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": longest, "vocab": {"[UNK]": 0, "a": 1},
            },
        });
        open_tokenizer(file.to_string().as_bytes())
    }

    #[test]
    fn decoders_and_long_words_are_limited() {
        let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(60)});
        let twice = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, replace, replace]});
        let strip =
            |start: u32, stop: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
        let within = json!({"type": "Sequence", "decoders": [strip(1, 1)]});
        for (decoder, longest, reason) in [
            (&twice, 100, "times as long"),
            (&strip(0, 2), 100, "`stop` is 2"),
            (&within, 100, "`stop` is 1"),
            (&Value::Null, 1_000_000_000_000_u64, "at most 200"),
        ] {
            let error = decoding(decoder, &json!(longest)).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, strip(1, 0),
        ]});
        let metaspace =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        for decoder in [
            llama,
            metaspace,
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        ] {
            decoding(&decoder, &json!(100)).unwrap();
        }
    }

    /// Returns the reason why a tokenizer with these fields is refused.
    fn refusal(fields: &Value) -> String {
        let mut file = json!({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
        });
        file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        open_tokenizer(file.to_string().as_bytes()).map(|_| ()).unwrap_err()
    }

    #[test]
    fn steps_that_make_a_text_longer_together_are_refused() {
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let replace =
            |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        // Each round makes three letters of one.
        let round = [
            json!({"type": "NFD"}),
            replace("\u{308}", "\u{390}"),
            replace("\u{301}", "\u{390}"),
            replace("ι", "\u{390}"),
        ];
        let long = "a".repeat(1000);
        let mut more = replace("a", &long);
        more["normalizers"] = json!([{"type": "NFC"}]);
        let mut prepending = replace("a", "b");
        prepending["prepend"] = json!(long);
        for fields in [
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![byte_level; 30]}}),
            json!({"normalizer": {"type": "Sequence", "normalizers": vec![round; 20].concat()}}),
            json!({"normalizer": more}),
            json!({"normalizer": prepending}),
            json!({
                "normalizer": replace("a", &"a".repeat(60)),
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![
                    json!({"type": "Metaspace", "replacement": "▁"}); 4
                ]},
            }),
            json!({"decoder": {"type": "Sequence", "decoders": vec![json!({"type": "WordPiece", "prefix": "", "cleanup": true}); 9]}}),
        ] {
            let reason = refusal(&fields);
            assert!(reason.contains("times as long"), "{reason}: {fields:.200}");
        }
        for fields in [
            json!({"normalizer": [long]}),
            json!({"decoder": [{"String": "a"}, long]}),
            json!({"normalizer": {"type": "Sequence", "normalizers": [[long]]}}),
            json!({"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {"X": ["X", vec![0; 1000], vec!["X"; 1000]]}}}),
        ] {
            let reason = refusal(&fields);
            assert!(reason.contains("is not an object"), "{reason}: {fields:.200}");
        }
        for decoder in [
            json!({"type": "BPEDecoder", "suffix": ""}),
            json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "", "cleanup": true}),
        ] {
            let reason = refusal(&json!({"decoder": decoder}));
            assert!(reason.contains("is empty"), "{reason}");
        }
    }

    #[test]
    fn models_with_huge_parts_are_refused() {
        let bpe = |name: &str, value: Value| {
            let mut model = json!({"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []});
            model[name] = value;
            json!({"model": model})
        };
        let (long, piece) = ("x".repeat(5000), "x".repeat(600));
        let added = json!({"id": 1, "content": long, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        for (fields, reason) in [
            (bpe("continuing_subword_prefix", json!(long)), "has 5000 bytes"),
            (bpe("end_of_word_suffix", json!(long)), "has 5000 bytes"),
            (bpe("unk_token", json!(long)), "has 5000 bytes"),
            (bpe("vocab", json!({&long: 0})), "a token has 5000 bytes"),
            (json!({"added_tokens": [added]}), "a token has 5000 bytes"),
            (
                json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [piece, 0.0]], "byte_fallback": false}}),
                "a token has 600 bytes",
            ),
            (bpe("max_input_chars_per_word", json!(1e12)), "at most 200"),
            (bpe("other", json!(vec![0; 10_000_000])), "more than 10000000 values"),
            (json!({"normalizer": {"type": "NFC", "other": vec![0; 100_000]}}), "more than 100000 values"),
            (json!({"decoder": {"type": "Fuse", "other": "x".repeat(17 << 20)}}), "16 MiB of text"),
        ] {
            let error = refusal(&fields);
            assert!(error.contains(reason), "{reason}: {error}");
        }
        // Of a setting that is there twice, the library takes the last.
        let twice = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "dropout": 0.1, "dropout": null, "vocab": {"a": 0}, "merges": []}}"#;
        assert!(open_tokenizer(twice.as_bytes()).map(|_| ()).unwrap_err().contains("at random"));
    }

    #[test]
    fn vocabularies_that_would_take_all_memory_are_refused() {
        let unigram = |pieces: Vec<String>| {
            let vocabulary: Vec<Value> = pieces.iter().map(|piece| json!([piece, -1.0])).collect();
            json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": false}})
        };
        let token = |number: usize, content: String| json!({"id": number, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true});
        // The first letters differ, so that pieces share few nodes.
        let pieces = |count: usize, length: usize| -> Vec<String> {
            (0..count).map(|number| format!("{number:x<length$}")).collect()
        };
        let added = |texts: Vec<String>| -> Vec<Value> {
            texts.into_iter().enumerate().map(|(number, text)| token(number + 1, text)).collect()
        };
        let longer = json!({"type": "Replace", "pattern": {"String": "x"}, "content": "y".repeat(60)});
        for fields in [
            unigram(pieces(20_000, 200)),
            json!({"added_tokens": added(pieces(5000, 4000))}),
            json!({"added_tokens": added(pieces(1000, 400)), "normalizer": longer}),
        ] {
            let reason = refusal(&fields);
            assert!(reason.contains("MiB of memory"), "{reason}");
        }
        // As many nodes as the vocabulary of XLM-RoBERTa may have, and the added tokens of Gemma and of models of speech.
        for (fields, nodes) in [
            (unigram(pieces(100_000, 24)), 2_000_000..2_100_000),
            (json!({"added_tokens": added(pieces(65_000, 12))}), 0..1),
            (json!({"added_tokens": added(pieces(12_000, 22)), "normalizer": {"type": "NFC"}}), 0..1),
        ] {
            let mut file = json!({
                "version": "1.0", "added_tokens": [],
                "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
            });
            file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let file = file.to_string();
            let sizes: Sizes = serde_json::from_str(&file).unwrap();
            let steps: Steps = serde_json::from_str(&file).unwrap();
            let found = if sizes.model.is_unigram { model::count_nodes(file.as_bytes()).unwrap() } else { 0 };
            assert!(nodes.contains(&found), "{found}");
            sizes.check().unwrap();
            sizes.check_memory(steps.check().unwrap(), found).unwrap();
        }
    }

    #[test]
    fn the_steps_of_published_tokenizers_are_opened() {
        // The longest replacement of the published tables has 33 bytes.
        let precompiled = charsmap(&[0; 256], &("y".repeat(33) + "\0"));
        let spaces =
            |content: &str| json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content});
        let quotes = json!({"type": "Replace", "pattern": {"String": "``"}, "content": "\""});
        let metaspace =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let split =
            json!({"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false});
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
        let (words, lower) = (json!({"type": "WhitespaceSplit"}), json!({"type": "Lowercase"}));
        let (nfkd, nfc) = (json!({"type": "NFKD"}), json!({"type": "NFC"}));
        for (name, normalizers, pre_tokenizers) in [
            (
                "XLNet",
                json!([quotes, nfkd, {"type": "StripAccents"}, lower, precompiled, spaces(" ")]),
                json!([words, metaspace]),
            ),
            (
                "T5",
                json!([precompiled, {"type": "Strip", "strip_left": false, "strip_right": true}, spaces("▁")]),
                json!([metaspace]),
            ),
            ("BERT", json!([bert]), json!([{"type": "BertPreTokenizer"}])),
            ("Qwen", json!([nfc]), json!([split, byte_level])),
            ("CLIP", json!([nfc, spaces(" "), lower]), json!([split, byte_level])),
        ] {
            let file = json!({
                "version": "1.0", "added_tokens": [],
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
                "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
            });
            open_tokenizer(file.to_string().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn what_is_common_is_opened() {
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]});
        for normalizer in [Value::Null, json!({"type": "NFC"}), llama, charsmap(&[0; 256], "x\0")] {
            opened(&normalizer, &Value::Null).unwrap();
            opened(&normalizer, &json!(0.0)).unwrap();
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let error = contained(|| -> Result<(), String> { panic!("index 7 is out of range") }).unwrap_err();
        assert!(error.ends_with("index 7 is out of range"), "{error}");
        assert_eq!(contained(|| Ok(1)), Ok(1));
    }
}
