//! The key of a run: settings, inputs and numerics by content.

use std::collections::BTreeMap;

use artifact::{Key, KeyMaterial};
use failure::Result;

use crate::config::{self, Config};
use crate::input::Input;

/// Key of a run, and the parts of its name.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) stage: &'static str,
    pub(crate) key: Key,
    pub(crate) material: KeyMaterial,
    pub(crate) slug: String,
}

impl Identity {
    /// Computes the key; `stop_at` is set for a segment.
    pub(crate) fn new<C: Config>(
        config: &C,
        inputs: &BTreeMap<String, Input>,
        numerics: &BTreeMap<String, String>,
        stop_at: Option<&str>,
    ) -> Result<Self> {
        let mut material = KeyMaterial::new(C::STAGE, C::VERSION, config::to_material(config)?);
        material.inputs = inputs.iter().map(|(role, input)| (role.clone(), input.content)).collect();
        material.numerics.clone_from(numerics);
        material.segment = stop_at.map(str::to_owned);
        let key = material.key()?;
        Ok(Self { stage: C::STAGE, key, material, slug: clean_slug(&config.slug()) })
    }
}

/// Replaces the characters that a slug cannot hold.
fn clean_slug(text: &str) -> String {
    let clean = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' }
    };
    let slug: String = text.chars().map(clean).take(40).collect();
    if slug.is_empty() { "default".to_owned() } else { slug }
}
