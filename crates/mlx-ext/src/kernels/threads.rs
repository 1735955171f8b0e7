//! Rows of an output shared between threads.

use std::ops::Range;

/// Number of elements below which a second thread does not pay.
const PARALLEL_FROM: usize = 1 << 15;

/// Calls `body` for ranges of rows, with the parts of `outputs` that belong to them, on all threads.
///
/// Each output has the same number of elements in every row. The ranges depend on the machine, so a row's result must
/// not depend on its neighbours. `cost` is the number of elements that a row reads and writes.
pub(crate) fn for_rows<const N: usize>(
    rows: usize,
    cost: usize,
    outputs: [&mut [f32]; N],
    body: &(impl Fn(Range<usize>, [&mut [f32]; N]) + Sync),
) {
    #[cfg(test)]
    if let Some(pool) = tests::forced() {
        return pool.install(|| for_rows_here(rows, cost, outputs, body));
    }
    for_rows_here(rows, cost, outputs, body);
}

fn for_rows_here<const N: usize>(
    rows: usize,
    cost: usize,
    outputs: [&mut [f32]; N],
    body: &(impl Fn(Range<usize>, [&mut [f32]; N]) + Sync),
) {
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * cost < PARALLEL_FROM {
        if rows > 0 {
            body(0..rows, outputs);
        }
        return;
    }
    // A few ranges per thread even out threads of unequal speed.
    let grain = rows.div_ceil(4 * threads).max(PARALLEL_FROM / 4 / cost.max(1)).max(1);
    split(0..rows, grain, outputs, body);
}

fn split<const N: usize>(
    rows: Range<usize>,
    grain: usize,
    outputs: [&mut [f32]; N],
    body: &(impl Fn(Range<usize>, [&mut [f32]; N]) + Sync),
) {
    let count = rows.len();
    if count <= grain {
        return body(rows, outputs);
    }
    let half = count / 2;
    let mut rest = Vec::with_capacity(N);
    let first = outputs.map(|output| {
        let (first, second) = output.split_at_mut(output.len() / count * half);
        rest.push(second);
        first
    });
    let Ok(second) = <[&mut [f32]; N]>::try_from(rest) else { unreachable!("one part per output") };
    let middle = rows.start + half;
    rayon::join(
        || split(rows.start..middle, grain, first, body),
        || split(middle..rows.end, grain, second, body),
    );
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use rayon::{ThreadPool, ThreadPoolBuilder};

    use super::*;

    static FORCED: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

    pub(crate) fn forced() -> Option<Arc<ThreadPool>> {
        FORCED.lock().expect("no panic while locked").clone()
    }

    /// Returns the results of `run` on 1, 2 and 4 threads.
    pub(crate) fn on_each_thread_count<T>(run: impl Fn() -> T) -> Vec<T> {
        let run_on = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            *FORCED.lock().expect("no panic while locked") = Some(Arc::new(pool));
            let result = run();
            *FORCED.lock().expect("no panic while locked") = None;
            result
        };
        [1, 2, 4].map(run_on).into()
    }

    #[test]
    fn every_row_is_visited_once_with_its_own_part() {
        for rows in [0, 1, 7, 1000] {
            let (mut numbers, mut squares) = (vec![0.0_f32; rows * 64], vec![0.0_f32; rows]);
            for_rows(rows, 64, [&mut numbers, &mut squares], &|range, [numbers, squares]| {
                assert_eq!(numbers.len(), range.len() * 64);
                for (index, row) in range.enumerate() {
                    numbers[index * 64..][..64].iter_mut().for_each(|x| *x += row as f32);
                    squares[index] += (row * row) as f32;
                }
            });
            for row in 0..rows {
                assert!(numbers[row * 64..][..64].iter().all(|&x| x == row as f32));
                assert_eq!(squares[row], (row * row) as f32);
            }
        }
    }
}
