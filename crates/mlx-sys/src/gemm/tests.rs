use super::*;

/// Numbers without a pattern, between -0.5 and 0.5.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// The other order of a row-major matrix `[rows, columns]`.
fn turned(matrix: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// Sums one number of a product as the module promises.
fn sum(level: Level, terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    let terms: Vec<_> = terms.collect();
    let fused = level != Level::Plain || cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    let add = |sum: f32, &(a, b): &(f32, f32)| if fused { a.mul_add(b, sum) } else { a * b + sum };
    let sums = terms.chunks(SUM_BLOCK).map(|block| block.iter().fold(0.0, add));
    sums.reduce(|a, b| a + b).unwrap_or(0.0)
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn every_sum_is_taken_in_the_promised_order() {
    let shapes = [
        [1, 5, 3],
        [1, 1000, 300],
        [2, 96, 16],
        [4, 65, 525],
        [5, 64, 530],
        [6, 40, 5],
        [7, 128, 257],
        [3, 33, 300],
        [8, 530, 70],
        [9, 17, 513],
        [17, 100, 513],
        [40, 64, 256],
        [600, 48, 20],
        [29, 301, 601],
    ];
    for (level, [m, n, k]) in
        Level::available().into_iter().flat_map(|level| shapes.map(|shape| (level, shape)))
    {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (a_turned, b_turned) = (turned(&a, [m, k]), turned(&b, [k, n]));
        let before = numbers(m * n, 3);
        let lefts = [Strided::new(&a, [m, k], k, false), Strided::new(&a_turned, [m, k], m, true)];
        let rights = [Strided::new(&b, [k, n], n, false), Strided::new(&b_turned, [k, n], k, true)];
        for (left, right, add) in [(0, 0, false), (0, 1, false), (1, 0, true), (1, 1, true)] {
            let mut out = before.clone();
            let output = Output::new(&mut out, n);
            product_at(level, Shape { m, n, k }, &lefts[left], &rights[right], output, add);
            for (index, (found, before)) in out.iter().zip(&before).enumerate() {
                let (row, column) = (index / n, index % n);
                let terms = (0..k).map(|term| (a[row * k + term], b[term * n + column]));
                if add {
                    // The blocks are added one by one to what is there.
                    let terms: Vec<_> = terms.collect();
                    let blocks = terms.chunks(SUM_BLOCK).map(|block| sum(level, block.iter().copied()));
                    let expected = blocks.fold(*before, |sum, block| sum + block);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{level:?} {m} {n} {k} {left} {right}");
                } else {
                    let expected = sum(level, terms);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{level:?} {m} {n} {k} {left} {right}");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_nor_on_threads() {
    // Large enough for several threads in both shapes, and several rounds of rows in the first.
    for [m, n, k] in [[1100, 320, 700], [20, 4096, 512]] {
        let (a, b) = (numbers(m * k, 5), numbers(k * n, 6));
        let left = Strided::new(&a, [m, k], k, false);
        let run = |threads: usize| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
            let mut out = vec![0.0; m * n];
            for transposed in [false, true] {
                let right = Strided::new(&b, [k, n], if transposed { k } else { n }, transposed);
                pool.install(|| {
                    product(Shape { m, n, k }, &left, &right, Output::new(&mut out, n), transposed)
                });
            }
            out
        };
        let all = run(1);
        for threads in [2, 3, 7] {
            assert!(bits(&run(threads)) == bits(&all), "{threads} threads");
        }
        for rows in [1, 4, 9, 17] {
            let mut few = vec![0.0; rows * n];
            for transposed in [false, true] {
                let left = Strided::new(&a[k..], [rows, k], k, false);
                let right = Strided::new(&b, [k, n], if transposed { k } else { n }, transposed);
                product(Shape { m: rows, n, k }, &left, &right, Output::new(&mut few, n), transposed);
            }
            assert!(bits(&few) == bits(&all[n..(1 + rows) * n]), "{rows} of {m} rows");
        }
    }
}

#[test]
fn empty_extents_give_zeros_or_nothing() {
    let mut out = [7.0_f32; 6];
    let empty = Strided::new(&[], [2, 0], 1, false);
    product(
        Shape { m: 2, n: 3, k: 0 },
        &empty,
        &Strided::new(&[], [0, 3], 3, false),
        Output::new(&mut out, 3),
        true,
    );
    assert_eq!(out, [7.0; 6]);
    product(
        Shape { m: 2, n: 3, k: 0 },
        &empty,
        &Strided::new(&[], [0, 3], 3, false),
        Output::new(&mut out, 3),
        false,
    );
    assert_eq!(out, [0.0; 6]);
    let none = Strided::new(&[], [0, 4], 4, false);
    let right = numbers(12, 1);
    product(
        Shape { m: 0, n: 3, k: 4 },
        &none,
        &Strided::new(&right, [4, 3], 3, false),
        Output::new(&mut [], 3),
        false,
    );
}

#[test]
fn words_are_transposed_at_every_level() {
    let words: Vec<u32> = (0..40 * 50).map(|index: u32| index.wrapping_mul(2_654_435_761)).collect();
    for level in Level::available() {
        let mut out = vec![0; 37 * 40];
        transpose_words(level, &words, 50, [33, 37], &mut out, 40);
        for (row, column) in (0..33).flat_map(|row| (0..37).map(move |column| (row, column))) {
            assert_eq!(out[column * 40 + row], words[row * 50 + column], "{level:?}");
        }
    }
}

/// Rounds to `bfloat16`, to the nearest and to even.
#[cfg(target_arch = "x86_64")]
fn rounded(number: f32) -> f32 {
    let bits = number.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rounded_factors_give_the_sums_of_their_rounded_numbers() {
    if !Factors::Bfloat16.is_available() {
        return;
    }
    let (level, factors) = (Level::detect(), Factors::Bfloat16);
    for [m, n, k] in [[1, 5, 3], [3, 33, 300], [8, 530, 70], [17, 100, 513], [600, 48, 21], [29, 301, 601]] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let b_turned = turned(&b, [k, n]);
        let left = Strided::new(&a, [m, k], k, false);
        let mut outs = vec![vec![1.0; m * n]; 2];
        for (out, transposed) in outs.iter_mut().zip([false, true]) {
            let data = if transposed { &b_turned } else { &b };
            let right = Strided::new(data, [k, n], if transposed { k } else { n }, transposed);
            product_with(level, factors, Shape { m, n, k }, &left, &right, Output::new(out, n), false);
        }
        assert!(bits(&outs[0]) == bits(&outs[1]), "layouts differ");
        for (index, found) in outs[0].iter().enumerate() {
            let (row, column) = (index / n, index % n);
            let term = |term: usize| {
                f64::from(rounded(a[row * k + term])) * f64::from(rounded(b[term * n + column]))
            };
            let expected: f64 = (0..k).map(term).sum();
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{m} {n} {k}: {found} {expected}");
        }
        // A row alone gives the same bits.
        let row = m / 2;
        let alone = Strided::new(&a[row * k..][..k], [1, k], k, false);
        let right = Strided::new(&b, [k, n], n, false);
        let mut out = vec![0.0; n];
        product_with(level, factors, Shape { m: 1, n, k }, &alone, &right, Output::new(&mut out, n), false);
        assert!(bits(&out) == bits(&outs[0][row * n..][..n]), "{m} {n} {k}: another row");
    }
}

/// Speed of both kinds of factors: `cargo test --release -p mlx-sys speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints speed"]
fn speed_of_rounded_factors() {
    let [m, n, k] = [512, 2048, 2048];
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let left = Strided::new(&a, [m, k], k, false);
    let right = Strided::new(&b, [k, n], n, false);
    let mut out = vec![0.0; m * n];
    for factors in [Factors::Float32, Factors::Bfloat16].into_iter().filter(|factors| factors.is_available())
    {
        let start = std::time::Instant::now();
        for _ in 0..20 {
            product_with(
                Level::detect(),
                factors,
                Shape { m, n, k },
                &left,
                &right,
                Output::new(&mut out, n),
                false,
            );
        }
        println!(
            "{factors:?}: {:.0} GFLOP/s",
            40.0 * (m * n * k) as f64 / start.elapsed().as_secs_f64() / 1e9
        );
    }
}

/// Shapes of a step with 95 targets among 170 tokens of Gemma 3 270M: the head and a feed-forward matrix, each forward and
/// to its inputs.
#[test]
#[ignore = "prints speed"]
fn speed_of_a_step() {
    for ([m, n, k], transposed) in [
        ([2048, 2048, 2048], false),
        ([95, 262_144, 640], true),
        ([95, 640, 262_144], false),
        ([95, 640, 8192], false),
        ([170, 2048, 640], true),
        ([170, 640, 2048], false),
        ([170, 640, 2048], true),
        ([170, 2048, 640], false),
    ] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let left = Strided::new(&a, [m, k], k, false);
        let right = Strided::new(&b, [k, n], if transposed { k } else { n }, transposed);
        let mut out = vec![0.0; m * n];
        let times = 1 + 3_000_000_000 / (m * n * k);
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            let start = std::time::Instant::now();
            (0..times).for_each(|_| {
                product(Shape { m, n, k }, &left, &right, Output::new(&mut out, n), false);
            });
            best = best.min(start.elapsed().as_secs_f64() / times as f64);
        }
        let work = 2.0 * (m * n * k) as f64;
        println!(
            "{m} {n} {k} transposed={transposed}: {:.1} ms, {:.0} GFLOP/s",
            best * 1e3,
            work / best / 1e9
        );
    }
}
