//! Times attention and its gradient, by this crate and by plain MLX, on shapes of small models: a row of a table for each.
//!
//! `cargo run --release -p mlx-ext --example attention [SHAPE] [TOKENS…]`; shapes: `gemma`, `llama`, `window`.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use mlx_ext::kernels::Attention;
use mlx_ext::{Options, Result, matmul_gflops, value_and_grad};
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::{Array, random, transforms};

/// A layer of attention.
struct Shape {
    name: &'static str,
    heads: i32,
    key_value_heads: i32,
    width: i32,
    window: Option<usize>,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "gemma", heads: 4, key_value_heads: 1, width: 256, window: None },
    Shape { name: "window", heads: 4, key_value_heads: 1, width: 256, window: Some(512) },
    Shape { name: "llama", heads: 12, key_value_heads: 12, width: 64, window: None },
];

impl Shape {
    /// Returns the number of multiplications and additions of a forward pass and its gradient: two products, then five.
    fn flops(&self, tokens: i32) -> f64 {
        let window = self.window.unwrap_or(usize::MAX);
        let pairs: usize = (1..=tokens as usize).map(|seen| seen.min(window)).sum();
        14.0 * pairs as f64 * f64::from(self.heads * self.width)
    }

    fn inputs(&self, tokens: i32) -> Result<Vec<Array>> {
        let heads = |heads: i32| -> Result<Array> {
            let made = random::normal::<f32>(&[1, tokens, heads, self.width], None, None, None)?;
            made.eval()?;
            Ok(made.transpose_axes(&[0, 2, 1, 3])?)
        };
        Ok(vec![heads(self.heads)?, heads(self.key_value_heads)?, heads(self.key_value_heads)?])
    }

    /// Returns seconds of a forward pass with its gradient: the fastest of several.
    fn seconds(&self, tokens: i32, attend: impl Fn(&[Array]) -> Result<Array>) -> Result<f64> {
        let inputs = self.inputs(tokens)?;
        let weights = random::normal::<f32>(&[1, tokens, self.heads * self.width], None, None, None)?;
        weights.eval()?;
        let mut best = f64::INFINITY;
        let start = Instant::now();
        let mut runs = 0;
        while runs < 3 || start.elapsed().as_secs_f64() < 1.0 {
            let begin = Instant::now();
            let loss = |inputs: &[Array]| Ok(vec![attend(inputs)?.multiply(&weights)?.sum(None)?]);
            let (values, gradients) = value_and_grad(loss, &inputs, 3)?;
            transforms::eval(values.iter().chain(&gradients))?;
            best = best.min(begin.elapsed().as_secs_f64());
            runs += 1;
        }
        Ok(best)
    }

    fn plain(&self, inputs: &[Array]) -> Result<Array> {
        let tokens = inputs[0].dim(2);
        let scale = (self.width as f32).powf(-0.5);
        let places = Array::from_iter(0..tokens, &[tokens]);
        let reach = places.add(Array::from_int(self.window.map_or(tokens, |window| window as i32)))?;
        let (queries, keys) = (places.reshape(&[-1, 1])?, places.reshape(&[1, -1])?);
        let near = queries.lt(&reach.reshape(&[1, -1])?)?.logical_and(keys.le(&queries)?)?;
        let mask = match self.window {
            Some(_) => ScaledDotProductAttentionMask::Array(&near),
            None => ScaledDotProductAttentionMask::Causal,
        };
        let out = fast::scaled_dot_product_attention(&inputs[0], &inputs[1], &inputs[2], scale, mask, None)?;
        Ok(out.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, tokens, -1])?)
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    mlx_ext::init(&Options::default())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |shape: &Shape| arguments.first().is_none_or(|name| name == shape.name);
    let mut lengths: Vec<i32> =
        arguments.iter().skip(1).map(|text| text.parse()).collect::<std::result::Result<_, _>>()?;
    if lengths.is_empty() {
        lengths = vec![128, 256, 512, 1024, 2048, 4096];
    }
    let peak = matmul_gflops()?;
    let mut out = std::io::stdout();
    writeln!(out, "GEMM: {peak:.0} GFLOP/s\n")?;
    writeln!(
        out,
        "| shape | tokens | plain MLX, ms | kernel, ms | ratio | GFLOP/s | share of GEMM |\n| --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for shape in SHAPES.iter().filter(|shape| wanted(shape)) {
        for &tokens in &lengths {
            let kernel = Attention {
                scale: (shape.width as f32).powf(-0.5),
                cap: None,
                window: shape.window,
                first: None,
            };
            let new = shape.seconds(tokens, |inputs| kernel.call(&inputs[0], &inputs[1], &inputs[2]))?;
            let old = shape.seconds(tokens, |inputs| shape.plain(inputs))?;
            let speed = shape.flops(tokens) / new / 1e9;
            writeln!(
                out,
                "| {} | {tokens} | {:.2} | {:.2} | {:.1} | {speed:.0} | {:.0} % |",
                shape.name,
                old * 1e3,
                new * 1e3,
                old / new,
                100.0 * speed / peak
            )?;
        }
    }
    Ok(())
}
