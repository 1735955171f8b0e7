//! What all decoders do with their blocks: run one after the other, keeping what the gradient needs or not.

use crate::attention::Context;
use crate::layers::{Layer, Visit, Weight};
use mlx_ext::Result;
use mlx_rs::Array;

/// One of the equal parts that a decoder is made of.
pub(crate) trait Block: Visit + Clone + 'static {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array>;
}

/// Runs `h` through all blocks; with `recompute`, a block's inner values are computed again for the gradient.
pub(crate) fn run<B: Block>(
    blocks: &[B],
    mut h: Array,
    mut context: Context<'_>,
    recompute: bool,
) -> Result<Array> {
    for (index, block) in blocks.iter().enumerate() {
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
