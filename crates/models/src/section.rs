//! Sections of a model, for processes that run them one after another.

use std::ops::Range;

/// A section of a model: consecutive blocks. The first section also has the token embedding, the last one the last norm and the head
/// (which is the token embedding again if they are tied).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Number of the section, counted from 0.
    pub index: usize,
    /// Number of sections.
    pub count: usize,
}

impl Section {
    /// The whole model.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Returns the blocks of the section in a model of `layers` blocks; the numbers of blocks of two sections differ by at most one.
    pub fn blocks(self, layers: usize) -> Range<usize> {
        self.index * layers / self.count..(self.index + 1) * layers / self.count
    }

    /// Returns whether this is the last section, which has the head.
    pub fn is_last(self) -> bool {
        self.index + 1 == self.count
    }

    /// Returns whether the section has the layer or tensor of a name, in a model of `layers` blocks.
    pub(crate) fn has(self, name: &str, layers: usize, has_tied_head: bool) -> bool {
        match block_of(name) {
            Some(block) => self.blocks(layers).contains(&block),
            None if name.contains("embed_tokens") => self.index == 0 || self.is_last() && has_tied_head,
            None => self.is_last(),
        }
    }
}

/// Returns the index of the block that a layer or tensor is in.
fn block_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_in_one_section() {
        for layers in [1, 4, 7, 28] {
            for count in 1..=layers {
                let sections = || (0..count).map(|index| Section { index, count });
                let blocks: Vec<usize> = sections().flat_map(|section| section.blocks(layers)).collect();
                assert_eq!(blocks, (0..layers).collect::<Vec<_>>());
                assert!(
                    sections().all(|section| !section.blocks(layers).is_empty()),
                    "{layers} blocks, {count} sections"
                );
                for name in (0..layers).map(|block| format!("model.layers.{block}.mlp.up_proj.weight")) {
                    assert_eq!(
                        sections().filter(|section| section.has(&name, layers, true)).count(),
                        1,
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn embedding_and_head_are_at_the_ends() {
        let sections = [0, 1, 2].map(|index| Section { index, count: 3 });
        let with = |name: &str, is_tied| sections.map(|section| section.has(name, 6, is_tied));
        assert_eq!(with("model.embed_tokens.weight", false), [true, false, false]);
        assert_eq!(with("language_model.model.embed_tokens.weight", true), [true, false, true]);
        assert_eq!(with("model.norm.weight", true), [false, false, true]);
        assert_eq!(with("lm_head.lora_a", false), [false, false, true]);
        assert_eq!(with("language_model.model.layers.2", true), [false, true, false]);
    }
}
