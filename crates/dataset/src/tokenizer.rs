//! A tokenizer folder: `tokenizer.json` with its special tokens and chat templates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jinja::Date;
use outputs::{ChatSettings, Document as _};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::chat::Chat;
use crate::error::{Error, Result};
use crate::foreign;
use crate::hostile::{SHORT_BYTES, Stop, contained, in_time, open_tokenizer, time_limit};
use crate::message;
use crate::template::ChatTemplate;

/// Longest `tokenizer.json`, in bytes. The other files of its folder have the limit of settings.
const MAX_BYTES: u64 = 256 << 20;
/// Maximum total size of the chat templates in bytes; parsing takes about 100 times as much memory. Published ones have some ten thousand.
const MAX_TEMPLATE_BYTES: usize = 4 << 20;

/// The files of a tokenizer, besides those in the folder of [`TEMPLATES`] and the chat settings.
const FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    CHAT_TEMPLATE_JSON,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
    "ids.json",
];
/// Folder of the chat templates that have a name.
const TEMPLATES: &str = "additional_chat_templates";
/// File in which some repositories keep the chat template, although only image processors read it.
const CHAT_TEMPLATE_JSON: &str = "chat_template.json";

/// Converts text to tokens and back, as transformers does with the same folder.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    inner: Arc<Tokenizer>,
    bos: Option<u32>,
    eos: Vec<u32>,
    special: BTreeSet<u32>,
    /// Added tokens, whose text a template writes to control the model; the longest first.
    controls: Vec<Control>,
    templates: BTreeMap<String, ChatTemplate>,
    /// Chat settings from the folder's `chat.json`.
    chat_settings: ChatSettings,
}

/// An added token with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Control {
    text: String,
    token: u32,
}

/// The end of a turn: a control token in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// End of the token's text, in bytes.
    pub(crate) end: usize,
    pub(crate) token: u32,
}

/// Inputs of chat templates besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateSettings {
    /// Date that templates print as today's.
    pub date: Option<Date>,
    /// Arguments such as `enable_thinking`; they take precedence over those of the folder.
    pub arguments: Map<String, Value>,
}

/// Tokens of a text with their byte ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text; empty for tokens without text.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokens {
    /// Leaves out a first or last token without text that repeats the one beside it, which the text spells out.
    fn leave_out_doubles(&mut self) {
        let is_added = |&(start, end): &(usize, usize)| start == end;
        if let ([first, second, ..], [added, spelled, ..]) = (&*self.ids, &*self.offsets)
            && first == second
            && is_added(added)
            && !is_added(spelled)
        {
            self.ids.remove(0);
            self.offsets.remove(0);
        }
        if let ([.., second, last], [.., spelled, added]) = (&*self.ids, &*self.offsets)
            && last == second
            && is_added(added)
            && !is_added(spelled)
        {
            self.ids.pop();
            self.offsets.pop();
        }
    }
}

impl TextTokenizer {
    /// Opens the folder `path`.
    ///
    /// # Errors
    ///
    /// Fails when `tokenizer.json` is missing or broken, or a chat template does not parse.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &TemplateSettings::default())
    }

    /// Opens the folder `path`, with `settings` for its chat templates.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::open`].
    pub fn open_with(path: &Path, settings: &TemplateSettings) -> Result<Self> {
        let file = path.join("tokenizer.json");
        let bytes = files::read(&file, MAX_BYTES).map_err(Error::unreadable(&file))?;
        if tensors::is_lfs_pointer(&bytes) {
            return Err(foreign::lfs_pointer(&file));
        }
        let invalid = |reason: String| Error::Tokenizer { path: file.clone(), reason };
        let mut inner = open_tokenizer(&bytes).map_err(invalid)?;
        drop(bytes);
        // `prepare-data` truncates rows and batches pad them.
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        inner.with_padding(None);
        let config = read_json(&path.join("tokenizer_config.json"))?.unwrap_or_default();
        let special_tokens =
            special_tokens(&config, read_json(&path.join("special_tokens_map.json"))?.as_ref());
        let BoundaryTokens { bos, eos } = boundary_tokens(path, &inner, &special_tokens)?;
        let mut special: BTreeSet<u32> = inner
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, _)| id)
            .collect();
        special.extend(&eos);
        let mut variables: BTreeMap<String, Value> =
            special_tokens.into_iter().map(|(name, token)| (name, Value::String(token))).collect();
        let settled = chat_settings(path)?;
        let date = settings.date.or_else(|| Date::parse(&settled.template_date));
        variables.extend(settled.template_arguments.clone());
        variables.extend(settings.arguments.clone());
        let mut templates = BTreeMap::new();
        for TemplateSource { name, label, text } in template_sources(path, &config)? {
            templates.insert(name, ChatTemplate::new(&text, &label, variables.clone(), date)?);
        }
        let controls = controls(&inner, &eos);
        let (path, inner) = (path.to_owned(), Arc::new(inner));
        Ok(Self { path, inner, bos, eos, special, controls, templates, chat_settings: settled })
    }

    /// Returns the chat settings stored in the folder, such as that of a fused model. Its end tokens are included in
    /// [`TextTokenizer::eos`].
    pub fn chat_settings(&self) -> &ChatSettings {
        &self.chat_settings
    }

    /// Returns the tokens of `text`, with the special tokens that the tokenizer adds to every text if `add_special`.
    ///
    /// # Errors
    ///
    /// Fails when the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        Ok(self.encode_with_offsets(text, add_special)?.ids)
    }

    /// Returns the tokens of `text` with their byte ranges; see [`TextTokenizer::encode`]. A token that the tokenizer adds at
    /// an end is left out if the text has it there already.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Tokens> {
        let mut tokens = if text.len() <= SHORT_BYTES {
            contained(|| encode(&self.inner, text, add_special)).map_err(|reason| self.error(&reason))?
        } else {
            self.encode_in_time(text, add_special, time_limit(text.len()))?
        };
        if add_special {
            tokens.leave_out_doubles();
        }
        Ok(tokens)
    }

    fn encode_in_time(&self, text: &str, add_special: bool, limit: Duration) -> Result<Tokens> {
        let (inner, text) = (Arc::clone(&self.inner), text.to_owned());
        in_time(limit, move || encode(&inner, &text, add_special)).map_err(|stop| self.stopped(stop))
    }

    /// Returns the text of `tokens`, without special tokens if `skip_special`.
    ///
    /// # Errors
    ///
    /// Fails when the tokenizer cannot decode the tokens.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        let decode = move |inner: &Tokenizer, tokens: &[u32]| {
            inner.decode(tokens, skip_special).map_err(|error| error.to_string())
        };
        // A token has about four bytes.
        let bytes = tokens.len() * 4;
        if bytes <= SHORT_BYTES {
            return contained(|| decode(&self.inner, tokens)).map_err(|reason| self.error(&reason));
        }
        let (inner, tokens) = (Arc::clone(&self.inner), tokens.to_owned());
        in_time(time_limit(bytes), move || decode(&inner, &tokens)).map_err(|stop| self.stopped(stop))
    }

    /// Returns the end tokens. The first one is appended to plain text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Returns the token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns whether `token` is a control token rather than text.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// Returns the token that ends a turn with this text, if a control token does.
    ///
    /// The text ends with control tokens, perhaps with white space between them. Those with which `content` ends belong to
    /// the content. Of the others the turn ends with the first that ends answers, or the last if none does.
    pub(crate) fn ending(&self, text: &str, content: &str) -> Option<Ending> {
        let endings = self.controls_at_end(text);
        let own = self.controls_at_end(content);
        let is_content =
            own.len() < endings.len() && own.iter().zip(&endings).all(|(a, b)| a.token == b.token);
        let endings = if is_content { &endings[own.len()..] } else { &endings };
        let ends_answers = |ending: &&Ending| self.eos.contains(&ending.token);
        endings.iter().find(ends_answers).or(endings.last()).copied()
    }

    /// Returns the control tokens at the end of `text`, in their order.
    fn controls_at_end(&self, text: &str) -> Vec<Ending> {
        let mut found = Vec::new();
        let mut rest = text.trim_end();
        while let Some(control) = self.controls.iter().find(|control| rest.ends_with(&control.text)) {
            found.push(Ending { end: rest.len(), token: control.token });
            rest = rest[..rest.len() - control.text.len()].trim_end();
        }
        found.reverse();
        found
    }

    /// Returns whether `text` holds nothing but control tokens and white space.
    pub(crate) fn is_only_control(&self, text: &str) -> bool {
        let mut rest = text.trim_end();
        while let Some(control) = self.controls.iter().find(|control| rest.ends_with(&control.text)) {
            rest = rest[..rest.len() - control.text.len()].trim_end();
        }
        rest.is_empty()
    }

    /// Returns the end token with which `text` begins after white space, and the end of it.
    pub(crate) fn end_token_at_start(&self, text: &str) -> Option<Ending> {
        let rest = text.trim_start();
        let is_end =
            |control: &&Control| self.eos.contains(&control.token) && rest.starts_with(&control.text);
        let control = self.controls.iter().find(is_end)?;
        Some(Ending { end: text.len() - rest.len() + control.text.len(), token: control.token })
    }

    /// Returns the text of a control token.
    pub fn control_text(&self, token: u32) -> Option<&str> {
        self.controls.iter().find(|control| control.token == token).map(|control| control.text.as_str())
    }

    /// Returns the names of all control tokens.
    pub(crate) fn control_tokens(&self) -> Vec<String> {
        self.special.iter().filter_map(|&id| self.name_of(id)).filter(|name| !name.is_empty()).collect()
    }

    /// Returns the name of a token.
    pub(crate) fn name_of(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Returns the chat template for conversations without tools.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.templates.get("default")
    }

    /// Returns the chat template for a conversation with or without tools.
    pub fn chat_template_for(&self, tools: Option<&Value>) -> Option<&ChatTemplate> {
        tools.and_then(|_| self.templates.get("tool_use")).or_else(|| self.chat_template())
    }

    /// Returns the tokens of a rendered conversation. Only the template adds special tokens.
    ///
    /// # Errors
    ///
    /// Fails when there is no template or it refuses the conversation.
    pub fn apply(&self, messages: &[Value], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.apply_with_tools(messages, None, add_generation_prompt)
    }

    /// Returns the tokens of a rendered conversation in which the model may call `tools`, a list of JSON schemas or its text.
    ///
    /// # Errors
    ///
    /// Fails when there is no template or it refuses the conversation, and when `tools` is not a list of objects.
    pub fn apply_with_tools(
        &self,
        messages: &[Value],
        tools: Option<Value>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let tools = message::normalize_tools(tools).map_err(Error::from)?;
        let template = self.chat_template_for(tools.as_ref()).ok_or_else(|| self.no_template())?;
        let mut messages = messages.to_vec();
        message::normalize(&mut messages).map_err(Error::from)?;
        let chat = Chat::new(template, &messages, tools.as_ref())?;
        let text =
            if add_generation_prompt { chat.first(messages.len(), true)?.text } else { chat.full.text };
        self.encode(&text, false)
    }

    pub(crate) fn no_template(&self) -> Error {
        Error::File {
            path: self.path.clone(),
            reason: "the tokenizer has no chat template".into(),
            hint: "use an instruction-tuned model, put a `chat_template.jinja` into the tokenizer folder, \
                or use rows with `prompt` and `completion` or with `text`"
                .into(),
        }
    }

    fn stopped(&self, stop: Stop) -> Error {
        match stop {
            Stop::Failed(reason) => self.error(&reason),
            Stop::Endless(limit) => {
                Error::EndlessTokenizer { path: self.path.clone(), seconds: limit.as_secs() }
            }
        }
    }

    fn error(&self, reason: &str) -> Error {
        Error::Tokenizer { path: self.path.clone(), reason: reason.to_owned() }
    }
}

fn encode(inner: &Tokenizer, text: &str, add_special: bool) -> Result<Tokens, String> {
    let encoding = inner.encode(text, add_special).map_err(|error| error.to_string())?;
    Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match files::read_text(path, files::MAX_JSON_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unreadable(path)(error)),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let invalid = |reason| Error::Tokenizer { path: path.to_owned(), reason };
    let value: Value = serde_json::from_str(&text).map_err(|error| invalid(format!("not JSON: {error}")))?;
    if value.is_object() { Ok(Some(value)) } else { Err(invalid("not a table in braces".to_owned())) }
}

/// Returns what training has settled about chats with this tokenizer.
fn chat_settings(path: &Path) -> Result<ChatSettings> {
    let file = path.join(ChatSettings::FILE);
    let Some(value) = read_json(&file)? else { return Ok(ChatSettings::default()) };
    serde_json::from_value(value)
        .map_err(|error| Error::Tokenizer { path: file, reason: format!("not chat settings: {error}") })
}

/// Returns the added tokens and the end tokens with their texts, the longest first.
fn controls(inner: &Tokenizer, eos: &[u32]) -> Vec<Control> {
    let mut controls: Vec<Control> = inner
        .get_added_tokens_decoder()
        .iter()
        .map(|(&token, added)| Control { text: added.content.clone(), token })
        .collect();
    let known: BTreeSet<u32> = controls.iter().map(|control| control.token).collect();
    let others = eos.iter().filter(|token| !known.contains(token));
    controls.extend(others.filter_map(|&token| Some(Control { text: inner.id_to_token(token)?, token })));
    controls.retain(|control| !control.text.trim().is_empty());
    controls.sort_by_key(|control| (std::cmp::Reverse(control.text.len()), control.token));
    controls
}

/// Returns the named special tokens, which are variables in templates. In the files a token is a string or an object.
fn special_tokens(config: &Value, map: Option<&Value>) -> BTreeMap<String, String> {
    let mut tokens = BTreeMap::new();
    for source in [map, Some(config)].into_iter().flatten() {
        for (name, value) in source.as_object().into_iter().flatten() {
            let content = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            if let (true, Some(content)) = (name.ends_with("_token"), content) {
                tokens.insert(name.clone(), content.to_owned());
            }
        }
    }
    tokens
}

/// The tokens that begin and end a text.
struct BoundaryTokens {
    bos: Option<u32>,
    eos: Vec<u32>,
}

/// Reads the boundary tokens from `ids.json` if the folder has one, and otherwise from the Hugging Face files.
fn boundary_tokens(
    path: &Path,
    inner: &Tokenizer,
    special_tokens: &BTreeMap<String, String>,
) -> Result<BoundaryTokens> {
    let id_list = |value: Option<&Value>| -> Vec<u32> {
        let items = value.map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
        let numbers = items.unwrap_or_default().iter().filter_map(Value::as_u64);
        numbers.filter_map(|id| u32::try_from(id).ok()).collect()
    };
    let end_tokens = chat_settings(path)?.end_tokens;
    let with_end_tokens = |bos: Option<u32>, mut eos: Vec<u32>| {
        let new: Vec<u32> = end_tokens.iter().copied().filter(|token| !eos.contains(token)).collect();
        eos.extend(new);
        BoundaryTokens { bos, eos }
    };
    if let Some(ids) = read_json(&path.join("ids.json"))? {
        let bos = id_list(ids.get("bos")).first().copied();
        return Ok(with_end_tokens(bos, id_list(ids.get("eos"))));
    }
    let named = |name: &str| special_tokens.get(name).and_then(|token| inner.token_to_id(token));
    let mut eos: Vec<u32> = named("eos_token").into_iter().collect();
    let mut bos = named("bos_token");
    for file in ["generation_config.json", "config.json"] {
        let config = read_json(&path.join(file))?.unwrap_or_default();
        for id in id_list(config.get("eos_token_id")) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        bos = bos.or_else(|| id_list(config.get("bos_token_id")).first().copied());
    }
    Ok(with_end_tokens(bos, eos))
}

/// Checks that the chat templates of the tokenizer folder `path` parse, without opening the tokenizer.
///
/// # Errors
///
/// Fails when one does not; the error names it and its line.
pub fn check_templates(path: &Path) -> Result<()> {
    let config = read_json(&path.join("tokenizer_config.json"))?.unwrap_or_default();
    for TemplateSource { label, text, .. } in template_sources(path, &config)? {
        ChatTemplate::new(&text, &label, BTreeMap::new(), None)?;
    }
    Ok(())
}

/// A chat template in the tokenizer folder.
struct TemplateSource {
    /// `default`, `tool_use` or another name.
    name: String,
    /// File and name, for errors.
    label: String,
    text: String,
}

impl TemplateSource {
    fn new(name: &str, label: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), label: label.into(), text: text.into() }
    }
}

/// Returns the chat templates of a tokenizer folder by name; `default` is for conversations.
///
/// # Errors
///
/// Fails when a file cannot be read, and when `tokenizer_config.json` lists a template without a name or text.
pub fn chat_templates(folder: &Path) -> Result<BTreeMap<String, String>> {
    let config = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let sources = template_sources(folder, &config)?;
    Ok(sources.into_iter().map(|source| (source.name, source.text)).collect())
}

/// Returns the chat templates of a folder. As in transformers, those of `tokenizer_config.json` count only if there is no
/// separate file.
fn template_sources(path: &Path, config: &Value) -> Result<Vec<TemplateSource>> {
    // A template that writes nothing is none.
    let is_filled = |source: &TemplateSource| !source.text.trim().is_empty();
    let files: Vec<TemplateSource> = template_files(path)?.into_iter().filter(is_filled).collect();
    if !files.is_empty() {
        return Ok(files);
    }
    let mut sources = Vec::new();
    match config.get("chat_template") {
        Some(Value::String(source)) => {
            sources.push(TemplateSource::new("default", "tokenizer_config.json", source));
        }
        Some(Value::Array(list)) => {
            for entry in list {
                let field = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
                let (Some(name), Some(source)) = (field("name"), field("template")) else {
                    let reason =
                        "`chat_template` is a list, but an entry has no `name` or `template`".to_owned();
                    return Err(Error::Tokenizer { path: path.join("tokenizer_config.json"), reason });
                };
                let label = format!("tokenizer_config.json: {name}");
                sources.push(TemplateSource::new(&name, label, source));
            }
        }
        None | Some(Value::Null) => {}
        Some(other) => return Err(not_a_template(path, "tokenizer_config.json", other)),
    }
    if sources.is_empty()
        && let Some(processor) = read_json(&path.join(CHAT_TEMPLATE_JSON))?
    {
        match processor.get("chat_template") {
            Some(Value::String(text)) => {
                sources.push(TemplateSource::new("default", CHAT_TEMPLATE_JSON, text));
            }
            None | Some(Value::Null) => {}
            Some(other) => return Err(not_a_template(path, CHAT_TEMPLATE_JSON, other)),
        }
    }
    sources.retain(is_filled);
    check_length(path, &sources)?;
    Ok(sources)
}

/// Returns the error for a `chat_template` of another type.
fn not_a_template(path: &Path, file: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::Array(_) => "a list",
        _ => "a table",
    };
    Error::Tokenizer { path: path.join(file), reason: format!("`chat_template` is {kind}, expected a text") }
}

/// Fails if the chat templates of the tokenizer folder `path` are too long together.
fn check_length(path: &Path, sources: &[TemplateSource]) -> Result<()> {
    if sources.iter().map(|source| source.text.len()).sum::<usize>() > MAX_TEMPLATE_BYTES {
        let reason = format!("its chat templates have more than {} MiB in all", MAX_TEMPLATE_BYTES >> 20);
        return Err(Error::Tokenizer { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Returns the chat templates that are files of their own.
fn template_files(path: &Path) -> Result<Vec<TemplateSource>> {
    let mut sources = Vec::new();
    if let Some(source) = read_text(&path.join("chat_template.jinja"))? {
        sources.push(TemplateSource::new("default", "chat_template.jinja", source));
    }
    for stem in template_names(path)? {
        let label = format!("{TEMPLATES}/{stem}.jinja");
        if let Some(source) = read_text(&path.join(&label))? {
            sources.push(TemplateSource::new(&stem, label, source));
            check_length(path, &sources)?;
        }
    }
    Ok(sources)
}

/// Returns the names of the chat templates in the folder for them, sorted. Other files and folders there are not read; programs
/// leave hidden files of the same ending behind.
fn template_names(path: &Path) -> Result<Vec<String>> {
    let folder = path.join(TEMPLATES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let unreadable = Error::unreadable(&folder);
    let mut names = Vec::new();
    for entry in fs_err::read_dir(&folder).map_err(&unreadable)? {
        let file = entry.map_err(&unreadable)?.path();
        let name =
            file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja"));
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.starts_with('.'))
            && file.is_file()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the files in the folder `path` that belong to its tokenizer, relative to the folder. The folder may contain a whole
/// model. Settings of chats are not among them.
///
/// # Errors
///
/// Fails when the folder of the chat templates cannot be read.
pub fn tokenizer_files(path: &Path) -> Result<Vec<PathBuf>> {
    let files = FILES.map(PathBuf::from).into_iter();
    let templates = template_names(path)?.into_iter().map(|name| Path::new(TEMPLATES).join(name + ".jinja"));
    Ok(files.filter(|file| path.join(file).exists()).chain(templates).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Place;

    #[test]
    fn a_text_for_which_the_tokenizer_takes_too_long_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let split =
            json!({"type": "Split", "pattern": {"Regex": "a*?c|a"}, "behavior": "Isolated", "invert": false});
        let file = json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": split,
            "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []},
        });
        fs_err::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = TextTokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.encode(&"a".repeat(2000), false).unwrap(), [0; 2000]);
        let error =
            tokenizer.encode_in_time(&"a".repeat(30_000), false, Duration::from_millis(100)).unwrap_err();
        let error = error.at_row(Place { file: "rows.jsonl".into(), line: 7, column: None });
        let report = failure::Error::from(error).report();
        assert!(report.starts_with("error: rows.jsonl:7: tokenizer `"), "{report}");
        assert!(
            report.contains("it does not finish") && report.contains("hint: check the regular"),
            "{report}"
        );
    }
}
