//! The common structure of all decoders: an embedding, equal blocks in sequence, and a last norm.

use std::ops::Range;

use mlx_ext::Result;
use mlx_ext::host::{is_host, paced, uses_host};
use mlx_rs::Array;

use crate::attention::{Context, Input};
use crate::builder::Builder;
use crate::layers::{Embedding, Norm, NormKind};
use crate::module::{Layers, module, trainable_arrays};

/// A model without its head.
pub(crate) trait Decoder: Layers {
    /// Token ids → states that enter a block: `[B, L, D]`.
    fn entering(&self, input: Input<'_>, block: usize) -> Result<Array>;
    /// States at the start of a pass → states that enter block `end`: `[B, L, D]`.
    fn through(&self, input: Input<'_>, pass: Pass<'_>, end: usize) -> Result<Array>;
    /// Token ids → input of the head, after the last norm: `[B, L, D]`.
    fn hidden(&self, input: Input<'_>, pass: Pass<'_>) -> Result<Array>;
    /// Returns the token embedding, which a tied head reads.
    fn embedding(&self) -> &Embedding;
    /// Returns the token embedding, for changing.
    fn embedding_mut(&mut self) -> &mut Embedding;
    /// Returns the number of blocks.
    fn layer_count(&self) -> usize;
    /// Returns a copy that shares every array.
    fn boxed_clone(&self) -> Box<dyn Decoder>;
}

/// Settings of a forward pass that will be differentiated; it has no cache.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Whether to keep only the states between blocks for the backward pass and to compute the rest again.
    pub recompute: bool,
    /// Starting point; `None` starts at the tokens.
    pub from: Option<Start<'a>>,
}

/// Start of a pass in the middle of the model.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// Index of the first block to run.
    pub block: usize,
    /// States that enter the block, `[B, L, D]`, as [`Model::entering`](crate::Model::entering) returns them.
    pub states: &'a Array,
}

/// A decoder as an architecture builds it, with its settings for the head.
pub(crate) struct Built {
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) hidden_size: i32,
    pub(crate) vocabulary: i32,
    /// Whether the head reads the token embedding; `None` if that depends on whether `lm_head` exists.
    pub(crate) tied: Option<bool>,
    /// logits → cap · tanh(logits / cap).
    pub(crate) softcap: Option<f32>,
    /// logits → logits · scale.
    pub(crate) logit_scale: Option<f32>,
}

/// One of the equal blocks of a decoder.
pub(crate) trait Block: Layers + Clone + 'static {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array>;
}

/// Sizes and settings of a [`Backbone`].
pub(crate) struct BackboneArgs {
    pub(crate) vocab_size: i32,
    pub(crate) hidden_size: i32,
    pub(crate) layers: usize,
    /// Kind of the last norm.
    pub(crate) norm: NormKind,
    pub(crate) eps: f32,
    /// Number of tokens that local blocks see; `None` for all.
    pub(crate) window: Option<i32>,
    /// Factor of the embeddings.
    pub(crate) embedding_scale: Option<f32>,
}

/// Builds the block of an index.
type BuildBlock<'a, B> = &'a dyn Fn(&Builder<'_>, usize) -> Result<B, String>;

module! {
    /// A decoder made of blocks of one kind.
    pub(crate) struct Backbone<B: Block>(at, args: &BackboneArgs, block: BuildBlock<'_, B>) {
        embed_tokens: Embedding = Embedding::new(at, args.vocab_size, args.hidden_size),
        layers: Vec<B> = (0..args.layers)
            .map(|index| block(&at.at(&index.to_string()), index))
            .collect::<Result<_, String>>()?,
        norm: Norm = Norm::new(at, args.norm, &[args.hidden_size], args.eps),
    } with {
        window: Option<i32> = args.window,
        embedding_scale: Option<f32> = args.embedding_scale,
    }
}

impl<B: Block> Backbone<B> {
    /// Token ids `[B, L]` → states that enter the first block, `[B, L, D]`.
    fn embed(&self, tokens: &Array) -> Result<Array> {
        match self.embedding_scale {
            Some(scale) => self.embed_tokens.forward_scaled(tokens, scale),
            None => self.embed_tokens.forward(tokens),
        }
    }
}

impl<B: Block> Decoder for Backbone<B> {
    fn entering(&self, input: Input<'_>, block: usize) -> Result<Array> {
        let h = self.embed(input.tokens)?;
        run(&self.layers, 0..block, h, Context::new(input, self.window)?, false)
    }

    fn through(&self, input: Input<'_>, pass: Pass<'_>, end: usize) -> Result<Array> {
        let (first, h) = match pass.from {
            Some(start) => (start.block, start.states.clone()),
            None => (0, self.embed(input.tokens)?),
        };
        run(&self.layers, first..end, h, Context::new(input, self.window)?, pass.recompute)
    }

    fn hidden(&self, input: Input<'_>, pass: Pass<'_>) -> Result<Array> {
        self.norm.forward(&self.through(input, pass, self.layers.len())?)
    }

    fn embedding(&self) -> &Embedding {
        &self.embed_tokens
    }

    fn embedding_mut(&mut self) -> &mut Embedding {
        &mut self.embed_tokens
    }

    fn layer_count(&self) -> usize {
        self.layers.len()
    }

    fn boxed_clone(&self) -> Box<dyn Decoder> {
        Box::new(self.clone())
    }
}

/// Runs `h` through a range of blocks. With `recompute`, values inside a block are computed again for the gradient.
fn run<B: Block>(
    blocks: &[B],
    range: Range<usize>,
    mut h: Array,
    mut context: Context<'_>,
    recompute: bool,
) -> Result<Array> {
    for index in range {
        let block = &blocks[index];
        // Models without operations of their own on this device do not get ahead of completed work either.
        if !uses_host(&h) && is_host() {
            h = paced(&h)?;
        }
        h = if recompute {
            recomputed(block, &h, index, context.without_cache())?
        } else {
            block.forward(&h, index, &mut context)?
        };
    }
    context.finish();
    Ok(h)
}

fn recomputed<B: Block>(block: &B, h: &Array, index: usize, context: Context<'static>) -> Result<Array> {
    let mut block = block.clone();
    // Arrays captured by a closure get no gradient, so everything trainable is an argument.
    let mut inputs = vec![h.clone()];
    inputs.extend(trainable_arrays(&mut block).into_iter().map(|array| array.clone()));
    let function = mlx_ext::checkpoint(move |inputs| {
        let mut block = block.clone();
        for (array, value) in trainable_arrays(&mut block).into_iter().zip(&inputs[1..]) {
            *array = value.clone();
        }
        Ok(vec![block.forward(&inputs[0], index, &mut context.without_cache())?])
    })?;
    Ok(function.call(&inputs)?.swap_remove(0))
}
