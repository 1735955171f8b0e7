//! A model with its tokenizer, and prompts as tokens.

use std::path::Path;

use dataset::{Date, TemplateSettings, TextTokenizer};
use failure::{Failure, Kind};
use models::{GenerationOptions, LoadOptions, Model};
use outputs::{ChatSettings, Document as _};
use serde_json::{Value, json};
use stage::{Context as _, Error, Result};

use crate::args::Args;
use crate::folders;

/// The loaded model with everything needed to answer.
pub(crate) struct Engine {
    /// The model, with its adapters if any.
    pub(crate) model: Model,
    /// With `--compare`, the model without adapters.
    pub(crate) base: Option<Model>,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) options: GenerationOptions,
    /// Text of the system message.
    system: Option<String>,
    /// Whether texts are continued without the chat template.
    raw: bool,
}

/// Prompt before tokenizing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Messages {
        messages: Vec<Value>,
        /// JSON schemas of functions that the model may call.
        tools: Option<Value>,
    },
    Tokens(Vec<u32>),
}

/// Reason why a prompt has no usable tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    #[error("the prompt is empty")]
    Empty,
    #[error("token {token} is not one of the model's {vocabulary}")]
    UnknownToken { token: u32, vocabulary: u32 },
    #[error(transparent)]
    Text(#[from] dataset::Error),
}

impl Failure for PromptError {
    fn kind(&self) -> Kind {
        match self {
            Self::Empty | Self::UnknownToken { .. } => Kind::BadInput,
            Self::Text(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::UnknownToken { .. } => None,
            Self::Text(error) => error.hint(),
        }
    }
}

impl Engine {
    /// Loads the model, its adapters and its tokenizer.
    pub(crate) fn open(args: &Args) -> Result<Self> {
        let folder = folders::model(&args.model, &args.store).context("opening the model")?;
        let adapters = args.adapters.as_deref().map(|adapters| folders::adapters(adapters, &args.store));
        let adapters = adapters.transpose().context("opening the adapters")?;
        let settled = adapters.as_deref().map_or(Ok(ChatSettings::default()), chat_settings)?;
        let mut arguments = settled.template_arguments;
        arguments.extend(args.template_arguments.clone().unwrap_or_default());
        let settings = TemplateSettings { date: Date::parse(&settled.template_date), arguments };
        let tokenizer = TextTokenizer::open_with(&folder, &settings).context("opening the tokenizer")?;
        if args.chat && tokenizer.chat_template().is_none() {
            return Err(Error::bad_input("the model has no chat template")
                .hinted("use an instruction-tuned model, or `--raw --prompt`"));
        }
        let backend =
            mlx_ext::init(&mlx_ext::Options::for_model(args.memory.max_memory, &args.unpack.unpack))?;
        let mut model =
            Model::load(&folder, &LoadOptions::on(&backend, args.dtype)).context("loading the model")?;
        let base = args.compare.then(|| model.clone());
        if let Some(adapters) = adapters {
            load_adapters(&mut model, &adapters)?;
        }
        let options = GenerationOptions {
            max_tokens: args.max_tokens,
            stop: tokenizer.eos().iter().copied().chain(settled.end_tokens).collect(),
            batch_size: args.batch_size,
        };
        let raw = args.raw || tokenizer.chat_template().is_none();
        if raw && !args.raw {
            tracing::info!("the model has no chat template: prompts are continued as they are");
        }
        let system = args.system.clone();
        Ok(Self { model, base, tokenizer, options, system, raw })
    }

    /// Returns the tokens that the model reads before its answer.
    pub(crate) fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, PromptError> {
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) if self.raw => self.plain(text)?,
            Prompt::Text(text) => {
                let message = json!({"role": "user", "content": text});
                self.tokenizer.apply(&self.conversation(&[message]), true)?
            }
            Prompt::Messages { messages, tools } => {
                self.tokenizer.apply_with_tools(&self.conversation(messages), tools.clone(), true)?
            }
        };
        if tokens.is_empty() {
            return Err(PromptError::Empty);
        }
        let vocabulary = self.model.vocabulary() as u32;
        match tokens.iter().find(|&&token| token >= vocabulary) {
            Some(&token) => Err(PromptError::UnknownToken { token, vocabulary }),
            None => Ok(tokens),
        }
    }

    /// Tokenizes plain text without an end token.
    fn plain(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let mut tokens = self.tokenizer.encode(text, true)?;
        while tokens.last().is_some_and(|token| self.tokenizer.eos().contains(token)) {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// Puts the system message before `messages`, unless they start with one.
    pub(crate) fn conversation(&self, messages: &[Value]) -> Vec<Value> {
        let has_own = messages.first().is_some_and(|message| message["role"] == "system");
        let system = self.system.iter().filter(|_| !has_own);
        let system = system.map(|text| json!({"role": "system", "content": text}));
        system.chain(messages.iter().cloned()).collect()
    }
}

/// Reads what training has settled about chats, from a folder of adapters.
fn chat_settings(adapters: &Path) -> Result<ChatSettings> {
    let file = adapters.join(ChatSettings::FILE);
    if file.is_file() { Ok(ChatSettings::read(&file)?) } else { Ok(ChatSettings::default()) }
}

fn load_adapters(model: &mut Model, folder: &Path) -> Result<()> {
    tuner::load_adapters(model, folder).context("loading the adapters")?;
    Ok(())
}
