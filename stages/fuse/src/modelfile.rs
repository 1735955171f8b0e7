//! `Modelfile`: how Ollama runs a GGUF file.

use std::fmt::Write as _;
use std::path::Path;

use failure::Result;
use serde_json::Value;

use crate::json::read_json;

/// Writes `Modelfile` beside the GGUF file `name` in `out`, for the model in `folder`.
///
/// Ollama takes the chat template from the file; answers end before any of the model's end tokens.
pub(crate) fn write(folder: &Path, name: &str, out: &Path) -> Result<()> {
    let mut text = format!("# ollama create my-model -f Modelfile\nFROM ./{name}\nPARAMETER temperature 0\n");
    for stop in stops(folder)? {
        let _ = writeln!(text, "PARAMETER stop {}", Value::String(stop));
    }
    Ok(fs_err::write(out.join("Modelfile"), text)?)
}

/// Returns the texts of the tokens that end an answer, each once.
fn stops(folder: &Path) -> Result<Vec<String>> {
    let optional = |name: &str| read_json(&folder.join(name)).unwrap_or(Value::Null);
    let (settings, tokenizer) =
        (optional("tokenizer_config.json"), read_json(&folder.join("tokenizer.json"))?);
    let text_of = |id: &Value| {
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let found = added.filter(|token| token["id"] == *id).find_map(|token| token["content"].as_str());
        found.map(str::to_owned)
    };
    let own = settings["eos_token"].as_str().or_else(|| settings["eos_token"]["content"].as_str());
    let mut stops: Vec<String> = own.map(str::to_owned).into_iter().collect();
    for config in [optional("generation_config.json"), optional("config.json")] {
        let ids = match &config["eos_token_id"] {
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        stops.extend(ids.iter().filter_map(text_of));
    }
    let mut seen = Vec::new();
    stops.retain(|stop| {
        !stop.is_empty() && !seen.contains(stop) && {
            seen.push(stop.clone());
            true
        }
    });
    Ok(stops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_modelfile_names_the_file_and_every_end_token_once() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let put = |name: &str, value: Value| {
            fs_err::write(folder.path().join(name), value.to_string()).expect("written");
        };
        let token = |id: u32, content: &str| json!({ "id": id, "content": content });
        put("tokenizer.json", json!({ "added_tokens": [token(1, "<end>"), token(2, "<\"turn\">")] }));
        put("tokenizer_config.json", json!({ "eos_token": "<end>" }));
        put("config.json", json!({ "eos_token_id": [1, 2] }));
        write(folder.path(), "model-q8_0.gguf", folder.path()).expect("the file is written");
        let text = fs_err::read_to_string(folder.path().join("Modelfile")).expect("the file is there");
        assert_eq!(
            text,
            "# ollama create my-model -f Modelfile\nFROM ./model-q8_0.gguf\nPARAMETER temperature 0\n\
             PARAMETER stop \"<end>\"\nPARAMETER stop \"<\\\"turn\\\">\"\n"
        );
    }
}
