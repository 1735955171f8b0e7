//! What enters the head of a model at every target, kept in a file, and how far two models differ there.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use failure::Result;
use fs_err::File;
use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::{Array, Dtype};
use models::Model;

/// Number of logits of one model that are compared at a time, approximately.
const COMPARED_LOGITS: usize = 1 << 22;

/// Hidden states at the targets of a split, `[N, D]`. They are in a file, because they may need more memory than a model.
pub(crate) struct States {
    /// A file without a name: it is gone with this value.
    file: File,
    dtype: Dtype,
    width: i32,
    count: usize,
}

impl States {
    /// Makes an empty list; its file is in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        Ok(Self { file: files::temporary(folder)?, dtype: Dtype::Float32, width: 0, count: 0 })
    }

    /// Returns the type of the states.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Appends states `[n, D]`.
    pub(crate) fn push(&mut self, states: &Array) -> tuner::Result<()> {
        (self.dtype, self.width) = (states.dtype(), states.dim(1));
        self.count += states.dim(0) as usize;
        let file = &mut self.file;
        Ok(mlx_ext::with_bytes(states, |bytes| file.write_all(bytes))??)
    }

    /// Reads the next `rows` states.
    fn next(&mut self, rows: usize) -> Result<Array> {
        let bytes_per_number = if self.dtype == Dtype::Float32 { 4 } else { 2 };
        let mut bytes = vec![0; rows * self.width as usize * bytes_per_number];
        self.file.read_exact(&mut bytes)?;
        Ok(mlx_ext::array_from_bytes(&bytes, &[rows as i32, self.width], self.dtype)?)
    }
}

/// A head and the states that enter it.
pub(crate) struct Outputs<'a> {
    /// The head.
    pub(crate) head: Model,
    /// The states.
    pub(crate) states: &'a mut States,
}

impl Outputs<'_> {
    /// Returns the next `rows` logarithms of probabilities, `[rows, V]`, `f32`.
    fn next(&mut self, rows: usize) -> Result<Array> {
        let logits = self.head.logits(&self.states.next(rows)?)?;
        let normalized = || {
            let logits = logits.as_dtype(Dtype::Float32)?;
            logits.subtract(logits.logsumexp_axis(-1, true)?)
        };
        Ok(normalized().map_err(models::Error::from)?)
    }
}

/// How far the next-token distributions of two models differ, as means over the targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Divergence {
    /// Kullback-Leibler divergence from the reference, in nats.
    pub(crate) kl: f64,
    /// Share of the targets at which both find the same token most probable.
    pub(crate) same_top_token: f64,
}

/// Compares a model with a reference on the same targets.
pub(crate) fn divergence(mut reference: Outputs<'_>, mut model: Outputs<'_>) -> Result<Divergence> {
    reference.states.file.rewind()?;
    model.states.file.rewind()?;
    let count = reference.states.count;
    let step = (COMPARED_LOGITS / reference.head.vocabulary().max(1) as usize).max(1);
    let (mut kl, mut same) = (0.0, 0);
    for start in (0..count).step_by(step) {
        let rows = step.min(count - start);
        let (p, q) = (reference.next(rows)?, model.next(rows)?);
        let compared = || {
            let divergences = p.exp()?.multiply(p.subtract(&q)?)?.sum_axis(-1, false)?;
            let agree = argmax_axis(&p, -1, false)?.eq(argmax_axis(&q, -1, false)?)?;
            let agree = agree.as_dtype(Dtype::Float32)?;
            mlx_rs::transforms::eval([&divergences, &agree])?;
            Ok::<_, mlx_rs::error::Exception>((divergences, agree))
        };
        let (divergences, agree) = compared().map_err(models::Error::from)?;
        kl += divergences.as_slice::<f32>().iter().map(|&value| f64::from(value)).sum::<f64>();
        same += agree.as_slice::<f32>().iter().filter(|&&agree| agree > 0.0).count();
    }
    // Rounding can make the divergence of equal models slightly negative.
    let mean = |sum: f64| sum / count.max(1) as f64;
    Ok(Divergence { kl: mean(kl).max(0.0), same_top_token: mean(same as f64) })
}
