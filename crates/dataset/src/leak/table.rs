//! Some rows under test, ready to be compared with training rows that stream past.

use super::Settings;
use super::fingerprint::Fingerprint;
use super::report::{Best, Kind};

/// Rows under test with the runs of words of their sides, in sorted lists.
///
/// A run of a side takes 16 to 24 bytes; while the table is made, up to 40.
#[derive(Debug)]
pub(super) struct Table {
    /// Every run that occurs, once, sorted.
    runs: Vec<u64>,
    /// Where in `runs` those begin whose first bits are so much.
    buckets: Vec<u32>,
    bucket_shift: u32,
    /// Where in `postings` the sides of each run begin.
    starts: Vec<u32>,
    /// Sides, run by run.
    postings: Vec<u32>,
    /// The row of each side, counted within the table.
    row_of_side: Vec<u32>,
    /// Hashes of whole rows with their rows, sorted.
    whole: Vec<(u64, u32)>,
    rows: u32,
}

/// What fills a [`Table`].
#[derive(Debug, Default)]
pub(super) struct Builder {
    entries: Vec<(u64, u32)>,
    row_of_side: Vec<u32>,
    whole: Vec<(u64, u32)>,
}

impl Builder {
    pub(super) fn add(&mut self, print: &Fingerprint) {
        let row = self.whole.len() as u32;
        self.whole.push((print.whole, row));
        for runs in &print.sides {
            let side = self.row_of_side.len() as u32;
            self.row_of_side.push(row);
            self.entries.extend(runs.iter().map(|&run| (run, side)));
        }
    }

    /// How many runs there are, those of each side counted.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn rows(&self) -> usize {
        self.whole.len()
    }

    pub(super) fn build(self) -> Table {
        let Self { mut entries, row_of_side, mut whole } = self;
        entries.sort_unstable();
        whole.sort_unstable();
        let (mut runs, mut starts) = (Vec::new(), Vec::new());
        for (index, &(run, _)) in entries.iter().enumerate() {
            if runs.last() != Some(&run) {
                runs.push(run);
                starts.push(index as u32);
            }
        }
        starts.push(entries.len() as u32);
        let postings = entries.iter().map(|&(_, side)| side).collect();
        drop(entries);
        let bits = (runs.len() as u64 | 1).ilog2().clamp(1, 24);
        let bucket_shift = 64 - bits;
        let mut buckets = vec![0; (1 << bits) + 1];
        for &run in &runs {
            buckets[(run >> bucket_shift) as usize + 1] += 1;
        }
        let mut total = 0;
        for bucket in &mut buckets {
            total += *bucket;
            *bucket = total;
        }
        let rows = whole.len() as u32;
        Table { runs, buckets, bucket_shift, starts, postings, row_of_side, whole, rows }
    }
}

impl Table {
    pub(super) fn rows(&self) -> usize {
        self.rows as usize
    }

    fn find(&self, run: u64) -> Option<u32> {
        let bucket = (run >> self.bucket_shift) as usize;
        let (start, end) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        let place = self.runs[start..end].binary_search(&run).ok()?;
        Some((start + place) as u32)
    }

    fn sides_of(&self, run: u32) -> &[u32] {
        let run = run as usize;
        &self.postings[self.starts[run] as usize..self.starts[run + 1] as usize]
    }

    pub(super) fn comparison(&self, settings: Settings) -> Comparison<'_> {
        let frequency = vec![0; self.runs.len()];
        let best = vec![None; self.rows()];
        Comparison {
            table: self,
            settings,
            frequency,
            limit: f64::INFINITY,
            counted: Vec::new(),
            best,
            hits: Vec::new(),
            sides: Vec::new(),
        }
    }
}

/// One table and what is known of the training rows: first how often they have each run, then who agrees most.
pub(super) struct Comparison<'a> {
    table: &'a Table,
    settings: Settings,
    /// How many training rows have each run.
    frequency: Vec<u32>,
    /// A run that more training rows have than this is common.
    limit: f64,
    /// How many runs of each side are not common.
    counted: Vec<u32>,
    best: Vec<Option<Best>>,
    hits: Vec<u32>,
    sides: Vec<u32>,
}

impl Comparison<'_> {
    /// First pass: counts the runs of a training row.
    pub(super) fn count(&mut self, train: &Fingerprint) {
        self.hits.clear();
        self.hits.extend(train.sides.iter().flatten().filter_map(|&run| self.table.find(run)));
        self.hits.sort_unstable();
        self.hits.dedup();
        for &run in &self.hits {
            self.frequency[run as usize] += 1;
        }
    }

    fn is_common(&self, run: u32) -> bool {
        f64::from(self.frequency[run as usize]) > self.limit
    }

    /// Ends the first pass over `train_rows` rows.
    pub(super) fn counted(&mut self, train_rows: u32) {
        self.limit = (f64::from(train_rows) * self.settings.common).max(20.0);
        self.counted = self.sides_with(|comparison, run| !comparison.is_common(run));
    }

    /// How many runs of each side are `wanted`.
    fn sides_with(&self, wanted: impl Fn(&Self, u32) -> bool) -> Vec<u32> {
        let mut counts = vec![0; self.table.row_of_side.len()];
        for run in (0..self.table.runs.len() as u32).filter(|&run| wanted(self, run)) {
            for &side in self.table.sides_of(run) {
                counts[side as usize] += 1;
            }
        }
        counts
    }

    /// Second pass: compares training row `number` with all rows; tells whether one of them occurs in it.
    pub(super) fn compare(&mut self, number: u32, train: &Fingerprint) -> bool {
        let mut found = false;
        let from = self.table.whole.partition_point(|&(whole, _)| whole < train.whole);
        for &(_, row) in self.table.whole[from..].iter().take_while(|&&(whole, _)| whole == train.whole) {
            found = true;
            note(&mut self.best[row as usize], (Kind::Exact, 1000, Some(number)));
        }
        for runs in &train.sides {
            let (mut hits, mut common) = (std::mem::take(&mut self.hits), 0);
            hits.clear();
            hits.extend(runs.iter().filter_map(|&run| self.table.find(run)));
            self.sides.clear();
            for &run in &hits {
                if self.is_common(run) {
                    common += 1;
                } else {
                    self.sides.extend(self.table.sides_of(run));
                }
            }
            self.hits = hits;
            self.sides.sort_unstable();
            for same in self.sides.chunk_by(|a, b| a == b) {
                let (side, count) = (same[0] as usize, same.len());
                let all = self.counted[side];
                let share = count as f64 / f64::from(all);
                let kind = if count == all as usize || count == runs.len() - common {
                    Kind::Contained
                } else if share >= self.settings.overlap {
                    Kind::Overlap
                } else {
                    continue;
                };
                found = true;
                let row = self.table.row_of_side[side] as usize;
                note(&mut self.best[row], (kind, per_mille(share), Some(number)));
            }
        }
        found
    }

    /// Ends the second pass: what each row agrees with most. A row whose text only all training rows together have
    /// is an overlap with none of them.
    pub(super) fn finish(mut self) -> Vec<Option<Best>> {
        let seen = self.sides_with(|comparison, run| {
            comparison.frequency[run as usize] > 0 && !comparison.is_common(run)
        });
        let mut together = vec![0; self.table.rows()];
        for (side, (&seen, &all)) in
            seen.iter().zip(&self.counted).enumerate().filter(|(_, (_, all))| **all > 0)
        {
            let share = f64::from(seen) / f64::from(all);
            if share >= self.settings.overlap {
                let most: &mut u32 = &mut together[self.table.row_of_side[side] as usize];
                *most = per_mille(share).max(*most);
            }
        }
        for (best, share) in self.best.iter_mut().zip(together) {
            if best.is_none() && share > 0 {
                *best = Some((Kind::Overlap, share, None));
            }
        }
        self.best
    }
}

/// Keeps the plainest kind, of it the largest share, and of those the first row.
fn note(best: &mut Option<Best>, found: Best) {
    let (kind, share, _) = found;
    let better = |&(kept, most, _): &Best| (kind, u32::MAX - share) < (kept, u32::MAX - most);
    if best.as_ref().is_none_or(better) {
        *best = Some(found);
    }
}

fn per_mille(share: f64) -> u32 {
    (share * 1000.0).round() as u32
}
