//! A model with its tokenizer, and prompts as tokens.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use dataset::TextTokenizer;
use models::{GenerationOptions, LoadOptions, Model};
use serde_json::{Value, json};
use stage::{bad_input, hint};

use crate::{Args, folders, timing};

/// What answers.
pub(crate) struct Engine {
    /// The model with its adapters, if there are any.
    pub(crate) model: Model,
    /// The model without them, where both are wanted.
    pub(crate) base: Option<Model>,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) options: GenerationOptions,
    system: Option<String>,
    raw: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Messages(Vec<Value>),
    Tokens(Vec<u32>),
}

impl Engine {
    pub(crate) fn open(args: &Args) -> Result<Self> {
        let folder = folders::model(&args.model, &args.store).context("opening the model")?;
        let adapters = args.adapters.as_deref().map(|adapters| folders::adapters(adapters, &args.store));
        let adapters = adapters.transpose().context("opening the adapters")?;
        let tokenizer = TextTokenizer::open(&folder).map_err(bad_input).context("opening the tokenizer")?;
        if args.chat && tokenizer.chat_template().is_none() {
            let error = anyhow!("the model has no chat template");
            return Err(bad_input(hint(error, "use an instruction-tuned model, or `--raw --prompt`")));
        }
        let backend = mlx_ext::init(&mlx_ext::Options::with_max_gigabytes(args.max_memory))?;
        let options = LoadOptions::on(&backend, args.dtype);
        let mut model = Model::load(&folder, &options).map_err(bad_input).context("loading the model")?;
        let base = args.compare.then(|| model.clone());
        if let Some(adapters) = adapters {
            load_adapters(&mut model, &adapters)?;
        }
        let options = GenerationOptions {
            max_tokens: args.max_tokens,
            stop: tokenizer.eos().to_vec(),
            batch_size: args.batch_size,
        };
        let raw = args.raw || tokenizer.chat_template().is_none();
        if raw && !args.raw {
            timing::tell("the model has no chat template: prompts are continued as they are");
        }
        let system = args.system.as_deref().map(dataset::text::normalize);
        Ok(Self { model, base, tokenizer, options, system, raw })
    }

    /// The tokens that the model reads before its answer.
    pub(crate) fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) if self.raw => self.plain(text)?,
            Prompt::Text(text) => {
                let message = json!({"role": "user", "content": dataset::text::normalize(text)});
                self.tokenizer.apply(&self.conversation(&[message]), true)?
            }
            Prompt::Messages(messages) => self.tokenizer.apply(&self.conversation(messages), true)?,
        };
        if tokens.is_empty() {
            return Err(anyhow!("the prompt is empty"));
        }
        let size = self.model.vocabulary() as u32;
        match tokens.iter().find(|&&token| token >= size) {
            Some(token) => Err(anyhow!("token {token} is not one of the model's {size}")),
            None => Ok(tokens),
        }
    }

    /// Plain text as the tokenizer puts it, left open for more.
    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(&dataset::text::normalize(text), true)?;
        while tokens.last().is_some_and(|token| self.tokenizer.eos().contains(token)) {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// `messages` after the system's, unless they bring their own.
    pub(crate) fn conversation(&self, messages: &[Value]) -> Vec<Value> {
        let has_own = messages.first().is_some_and(|message| message["role"] == "system");
        let system = self.system.iter().filter(|_| !has_own);
        let system = system.map(|text| json!({"role": "system", "content": text}));
        system.chain(messages.iter().cloned()).collect()
    }
}

fn load_adapters(model: &mut Model, folder: &Path) -> Result<()> {
    tuner::load_adapters(model, folder).map_err(bad_input).context("loading the adapters")?;
    Ok(())
}
