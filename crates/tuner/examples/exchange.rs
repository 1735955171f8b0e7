//! Times the exchange of gradients between ranks: a line of JSON per size on rank 0.
//!
//! Start it on every rank as `train` is started (`mpirun -n 2`, or `MLX_HOSTFILE` and `MLX_RANK`):
//! `cargo run --release -p tuner --example exchange [NUMBERS…]`. `tests/ranks/measure.sh` runs it in network namespaces.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use mlx_rs::Array;
use serde_json::json;
use tuner::Ranks;

/// Sizes of gradients in numbers, unless the command line gives others.
const SIZES: [usize; 4] = [65_536, 1 << 20, 5_000_000, 20_000_000];
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let ranks = Ranks::join(|ending| {
        let _ = writeln!(std::io::stderr(), "{}", ending.reason);
        std::process::exit(i32::from(ending.code));
    })?;
    let ranks = ranks.ok_or("start this on several ranks")?;
    let given = std::env::args().skip(1).map(|size| size.parse()).collect::<Result<Vec<usize>, _>>()?;
    for numbers in if given.is_empty() { SIZES.to_vec() } else { given } {
        let gradient = Array::from_slice(&vec![1.0_f32; numbers], &[numbers as i32]);
        let mut seconds = Vec::new();
        for round in 0..=ROUNDS {
            let begun = Instant::now();
            let sum = ranks.sum_gradient(&gradient)?;
            // The first round opens buffers.
            if round > 0 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
            assert_eq!(sum.as_slice::<f32>()[numbers - 1].to_bits(), (ranks.size() as f32).to_bits());
        }
        seconds.sort_by(f64::total_cmp);
        let record = json!({
            "ranks": ranks.size(), "numbers": numbers, "rounds": ROUNDS, "median_seconds": seconds[ROUNDS / 2],
        });
        if ranks.is_first() {
            writeln!(std::io::stdout(), "{record}")?;
        }
    }
    if ranks.is_first() {
        ranks.end(0);
    } else {
        ranks.wait_for_end()?;
    }
    Ok(())
}
