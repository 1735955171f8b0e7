//! What all decoders are: an embedding, equal blocks one after the other, and a last norm.

use crate::attention::{Context, Input};
use crate::layers::{Embedding, Layer, Visit, Weight, join};
use crate::model::{Builder, Decoder, Pass};
use mlx_ext::Result;
use mlx_rs::Array;
use std::ops::Range;

/// One of the equal parts that a decoder is made of.
pub(crate) trait Block: Visit + Clone + 'static {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array>;
}

/// A norm over the last axis: `x [B, L, D]`, `weight [D]`, epsilon.
pub(crate) type Norm = fn(&Array, &Array, f32) -> Result<Array>;

/// A decoder made of blocks of one kind.
#[derive(Clone)]
pub(crate) struct Backbone<B> {
    embed_tokens: Embedding,
    /// What the embeddings are multiplied by.
    embedding_scale: Option<f32>,
    layers: Vec<B>,
    norm: Array,
    normalize: Norm,
    eps: f32,
    /// How many positions local blocks see.
    window: Option<i32>,
}

impl<B: Block> Backbone<B> {
    /// Loads a decoder of `vocabulary` rows by `width`, without a window; `block` makes the block of an index and a path.
    pub(crate) fn load(
        builder: &Builder<'_>,
        (vocabulary, width): (i32, i32),
        layers: usize,
        block: impl Fn(usize, &str) -> Result<B, String>,
        (normalize, eps): (Norm, f32),
    ) -> Result<Self, String> {
        let path = join(builder.prefix, "model");
        let layer = |index| block(index, &join(&path, &format!("layers.{index}")));
        Ok(Self {
            embed_tokens: builder.embedding(&join(&path, "embed_tokens"), vocabulary, width),
            embedding_scale: None,
            layers: (0..layers).map(layer).collect::<Result<_, String>>()?,
            norm: builder.norm(&join(&path, "norm"), width),
            normalize,
            eps,
            window: None,
        })
    }

    /// Lets local blocks see only so many positions.
    pub(crate) fn windowed(self, window: Option<i32>) -> Self {
        Self { window, ..self }
    }

    /// Multiplies embeddings by `scale`.
    pub(crate) fn scaled(self, scale: f32) -> Self {
        Self { embedding_scale: Some(scale), ..self }
    }

    /// Token ids `[B, L]` → what enters the first block, `[B, L, D]`.
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

    fn hidden(&self, input: Input<'_>, pass: Pass<'_>) -> Result<Array> {
        let (first, h) = match pass.from {
            Some((block, states)) => (block, states.clone()),
            None => (0, self.embed(input.tokens)?),
        };
        let context = Context::new(input, self.window)?;
        let h = run(&self.layers, first..self.layers.len(), h, context, pass.recompute)?;
        (self.normalize)(&h, &self.norm, self.eps)
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

impl<B: Block> Visit for Backbone<B> {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "embed_tokens"), Layer::Embedding(&mut self.embed_tokens));
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.visit(&join(path, &format!("layers.{index}")), visitor);
        }
        visitor(&join(path, "norm"), Layer::Norm(&mut self.norm));
    }
}

/// Runs `h` through the blocks of a range; with `recompute`, a block's inner values are computed again for the gradient.
fn run<B: Block>(
    blocks: &[B],
    range: Range<usize>,
    mut h: Array,
    mut context: Context<'_>,
    recompute: bool,
) -> Result<Array> {
    for index in range {
        let block = &blocks[index];
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
    // What a closure captures has no gradient: all that may train goes in as an argument.
    let mut inputs = vec![h.clone()];
    each_that_may_train(&mut block, &mut |array| inputs.push(array.clone()));
    let function = mlx_ext::checkpoint(move |inputs| {
        let mut block = block.clone();
        let mut values = inputs[1..].iter();
        each_that_may_train(&mut block, &mut |array| {
            *array = values.next().expect("as many as were collected").clone();
        });
        Ok(vec![block.forward(&inputs[0], index, &mut context.without_cache())?])
    })?;
    Ok(function.call(&inputs)?.swap_remove(0))
}

/// Calls `visitor` on every array of `part` that some kind of fine-tuning may train.
pub(crate) fn each_that_may_train(part: &mut dyn Visit, visitor: &mut dyn FnMut(&mut Array)) {
    part.visit("", &mut |_, layer| match layer {
        Layer::Norm(weight) => visitor(weight),
        Layer::Linear(linear) => match (&mut linear.adapter, &mut linear.weight) {
            (Some(adapter), _) => {
                visitor(&mut adapter.a);
                visitor(&mut adapter.b);
                adapter.magnitude.as_mut().into_iter().for_each(&mut *visitor);
            }
            (None, Weight::Dense(weight)) => {
                visitor(weight);
                linear.bias.as_mut().into_iter().for_each(&mut *visitor);
            }
            (None, Weight::Quantized(_)) => {}
        },
        Layer::Embedding(embedding) => {
            if let Weight::Dense(weight) = &mut embedding.weight {
                visitor(weight);
            }
        }
    });
}
