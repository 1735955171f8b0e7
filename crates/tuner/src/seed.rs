//! Seeds for everything random, derived from the purpose, so that resuming does not need any random state.

use mlx_rs::Array;
use sha2::{Digest, Sha256};

/// Derives 64 bits from the run's seed, a purpose, and numbers such as step and layer.
pub(crate) fn derive(seed: u64, purpose: &str, numbers: &[u64]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((purpose.len() as u64).to_le_bytes());
    hash.update(purpose.as_bytes());
    for number in numbers {
        hash.update(number.to_le_bytes());
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Derives a key for MLX's random functions from the same.
pub(crate) fn key(seed: u64, purpose: &str, numbers: &[u64]) -> mlx_ext::Result<Array> {
    Ok(mlx_rs::random::key(derive(seed, purpose, numbers))?)
}

#[cfg(test)]
mod tests {
    use super::derive;

    #[test]
    fn seeds_are_pinned_and_depend_on_every_argument() {
        assert_eq!(derive(42, "dropout", &[1, 2]), 12_015_168_555_693_667_936);
        let others =
            [derive(43, "dropout", &[1, 2]), derive(42, "order", &[1, 2]), derive(42, "dropout", &[2, 1])];
        assert!(others.iter().all(|&other| other != derive(42, "dropout", &[1, 2])));
    }
}
