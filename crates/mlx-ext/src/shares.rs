//! Vectorized exponentials of logits.

/// Below this, eˣ counts as zero: it is less than the smallest normal number.
const LOWEST: f64 = -708.0;

/// Writes e^((logit − highest) · `inverse_temperature`) of every logit to `shares`, with a relative error below 1e-12.
///
/// NaN and numbers below the smallest normal one become zero.
///
/// # Panics
///
/// Panics when the lengths differ, or in debug builds when a logit is above `highest`.
pub fn shares(logits: &[f32], highest: f32, inverse_temperature: f64, shares: &mut [f64]) {
    assert_eq!(logits.len(), shares.len(), "one share per logit");
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has these instructions.
            return unsafe { wide(logits, highest, inverse_temperature, shares) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has these instructions.
            return unsafe { narrow(logits, highest, inverse_temperature, shares) };
        }
    }
    plain(logits, highest, inverse_temperature, shares);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
fn wide(logits: &[f32], highest: f32, inverse_temperature: f64, shares: &mut [f64]) {
    plain(logits, highest, inverse_temperature, shares);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrow(logits: &[f32], highest: f32, inverse_temperature: f64, shares: &mut [f64]) {
    plain(logits, highest, inverse_temperature, shares);
}

/// The loop, which compilers turn into vector instructions.
#[inline(always)]
fn plain(logits: &[f32], highest: f32, inverse_temperature: f64, shares: &mut [f64]) {
    let highest = f64::from(highest);
    for (share, &logit) in shares.iter_mut().zip(logits) {
        *share = exp((f64::from(logit) - highest) * inverse_temperature);
    }
}

/// Returns the sum of the shares of all logits that are at least `lowest`, in any order of adding.
///
/// # Panics
///
/// Panics when the lengths differ.
pub fn sum_of_shares(logits: &[f32], shares: &[f64], lowest: f32) -> f64 {
    assert_eq!(logits.len(), shares.len(), "one share per logit");
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has these instructions.
            return unsafe { wide_sum(logits, shares, lowest) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has these instructions.
            return unsafe { narrow_sum(logits, shares, lowest) };
        }
    }
    plain_sum(logits, shares, lowest)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
fn wide_sum(logits: &[f32], shares: &[f64], lowest: f32) -> f64 {
    plain_sum(logits, shares, lowest)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrow_sum(logits: &[f32], shares: &[f64], lowest: f32) -> f64 {
    plain_sum(logits, shares, lowest)
}

/// The loop, which compilers turn into vector instructions: sums of every 16th share.
#[inline(always)]
fn plain_sum(logits: &[f32], shares: &[f64], lowest: f32) -> f64 {
    const LANES: usize = 16;
    // A mask of bits and not a choice, which compilers turn into a branch for every number.
    let kept =
        |logit: f32, share: f64| f64::from_bits(share.to_bits() & u64::from(logit >= lowest).wrapping_neg());
    let mut sums = [0.0; LANES];
    let (logits, shares) = (logits.chunks_exact(LANES), shares.chunks_exact(LANES));
    let rest = logits.remainder().iter().zip(shares.remainder());
    let rest: f64 = rest.map(|(&logit, &share)| kept(logit, share)).sum();
    for (logits, shares) in logits.zip(shares) {
        let terms: [f64; LANES] = std::array::from_fn(|lane| kept(logits[lane], shares[lane]));
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += term;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Returns eˣ for x ≤ 0: 2ⁿ · eʳ with a polynomial for eʳ, |r| ≤ ln 2 / 2.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// Added to a number below 2⁵¹, leaves it rounded in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts; the first has trailing zeros, so that n times it is exact.
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const INVERSE_FACTORIALS: [f64; 13] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let is_normal = x > LOWEST;
    let x = if is_normal { x } else { 0.0 };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut sum = INVERSE_FACTORIALS[0];
    for &coefficient in &INVERSE_FACTORIALS[1..] {
        sum = sum * r + coefficient;
    }
    sum = sum * r + 1.0;
    // The lowest bits of `shifted` are n; the exponent of 2ⁿ is n + 1023.
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    if is_normal { sum * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_close_to_those_of_the_standard_library() {
        let logits: Vec<f32> = (0..100_000).map(|i| 3.0 - (i as f32) * (i as f32) * 8e-8).collect();
        let mut ours = vec![0.0; logits.len()];
        for temperature in [0.1, 0.8, 1.0, 3.0] {
            shares(&logits, 3.0, 1.0 / temperature, &mut ours);
            for (&logit, &share) in logits.iter().zip(&ours) {
                let x = (f64::from(logit) - 3.0) / temperature;
                let expected = if x > LOWEST { x.exp() } else { 0.0 };
                assert!((share - expected).abs() <= 1e-12 * expected, "e^{x}: {share} and {expected}");
            }
        }
        let mut odd = [1.0; 3];
        shares(&[f32::NAN, f32::NEG_INFINITY, 2.0], 2.0, 1.0, &mut odd);
        assert_eq!(odd, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn shares_from_a_logit_on_are_summed() {
        for count in [0, 5, 16, 1000, 4099] {
            let logits: Vec<f32> = (0..count).map(|i| ((i * 37) % 101) as f32 / 8.0).collect();
            let shares: Vec<f64> = (0..count).map(f64::from).collect();
            for lowest in [f32::NEG_INFINITY, 3.0, 3.0_f32.next_up(), 100.0] {
                let inside = logits.iter().zip(&shares).filter(|&(&logit, _)| logit >= lowest);
                let expected: f64 = inside.map(|(_, share)| share).sum();
                let found = sum_of_shares(&logits, &shares, lowest);
                assert!((found - expected).abs() <= 1e-9 * expected, "{count}, {lowest}");
            }
        }
    }
}
