//! A portion of the checked rows, ready to be compared with training rows that stream past.

use std::cmp::Reverse;
use std::collections::HashSet;

use outputs::LeakKind;

use super::findings::Match;
use super::fingerprint::Fingerprint;
use super::settings::Settings;
use super::short::Meaning;

/// Nothing that fewer training rows have is common.
const LEAST_LIMIT: f64 = 20.0;
/// Share of the training rows above which their whole prompt is a fixed one.
const COMMON_PROMPT: f64 = 0.25;

/// Checked rows with the shingles of their sides, in sorted lists.
///
/// A shingle of a side takes 16 to 24 bytes, and up to 40 while the table is built.
#[derive(Debug)]
pub(super) struct Table {
    /// Hashes of all shingles, sorted and without duplicates. Elsewhere a shingle is an index into this list.
    shingles: Vec<u64>,
    /// Index of the first shingle for each value of the leading bits of its hash.
    buckets: Vec<u32>,
    bucket_shift: u32,
    /// Index into `postings` of the first side of each shingle.
    starts: Vec<u32>,
    /// Sides that have a shingle, shingle by shingle.
    postings: Vec<u32>,
    /// Row of each side, counted within the table.
    row_of_side: Vec<u32>,
    /// Hashes of whole rows, sorted.
    whole: Vec<KeyOfRow>,
    /// Hashes of whole prompts and answers, sorted.
    keys: Vec<KeyOfRow>,
    rows: u32,
}

/// A hash of a row's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KeyOfRow {
    hash: u64,
    row: u32,
}

/// A shingle of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    shingle: u64,
    side: u32,
}

/// Collects rows for a [`Table`].
#[derive(Debug, Default)]
pub(super) struct Builder {
    entries: Vec<Entry>,
    row_of_side: Vec<u32>,
    whole: Vec<KeyOfRow>,
    keys: Vec<KeyOfRow>,
}

impl Builder {
    pub(super) fn add(&mut self, fingerprint: &Fingerprint) {
        let row = self.whole.len() as u32;
        self.whole.push(KeyOfRow { hash: fingerprint.whole, row });
        self.keys.extend(fingerprint.keys.offered().map(|hash| KeyOfRow { hash, row }));
        for shingles in &fingerprint.sides {
            let side = self.row_of_side.len() as u32;
            self.row_of_side.push(row);
            self.entries.extend(shingles.iter().map(|&shingle| Entry { shingle, side }));
        }
    }

    /// Returns the number of shingles, counted once per side, and of keys.
    pub(super) fn entries(&self) -> usize {
        self.entries.len() + self.keys.len()
    }

    pub(super) fn rows(&self) -> usize {
        self.whole.len()
    }

    pub(super) fn build(self) -> Table {
        let Self { mut entries, row_of_side, mut whole, mut keys } = self;
        entries.sort_unstable();
        whole.sort_unstable();
        keys.sort_unstable();
        let (mut shingles, mut starts) = (Vec::new(), Vec::new());
        for (index, &Entry { shingle, .. }) in entries.iter().enumerate() {
            if shingles.last() != Some(&shingle) {
                shingles.push(shingle);
                starts.push(index as u32);
            }
        }
        starts.push(entries.len() as u32);
        let postings = entries.iter().map(|entry| entry.side).collect();
        drop(entries);
        let bits = (shingles.len() as u64 | 1).ilog2().clamp(1, 24);
        let bucket_shift = 64 - bits;
        let mut buckets = vec![0; (1 << bits) + 1];
        for &shingle in &shingles {
            buckets[(shingle >> bucket_shift) as usize + 1] += 1;
        }
        let mut total = 0;
        for bucket in &mut buckets {
            total += *bucket;
            *bucket = total;
        }
        let rows = whole.len() as u32;
        Table { shingles, buckets, bucket_shift, starts, postings, row_of_side, whole, keys, rows }
    }
}

impl Table {
    pub(super) fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Returns the index of the shingle with the given hash.
    fn find(&self, hash: u64) -> Option<u32> {
        let bucket = (hash >> self.bucket_shift) as usize;
        let (start, end) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        let index = self.shingles[start..end].binary_search(&hash).ok()?;
        Some((start + index) as u32)
    }

    /// Returns the sides that have a shingle.
    fn sides_of(&self, shingle: u32) -> &[u32] {
        let shingle = shingle as usize;
        &self.postings[self.starts[shingle] as usize..self.starts[shingle + 1] as usize]
    }

    /// Returns the rows whose whole text has the given hash.
    fn rows_equal_to(&self, hash: u64) -> impl Iterator<Item = u32> {
        with_hash(&self.whole, hash).1.iter().map(|whole| whole.row)
    }

    pub(super) fn comparison(&self, settings: Settings) -> Comparison<'_> {
        Comparison {
            table: self,
            settings,
            frequency: vec![0; self.shingles.len()],
            key_frequency: vec![0; self.keys.len()],
            seen: HashSet::new(),
            limit: f64::INFINITY,
            prompt_limit: f64::INFINITY,
            counted: Vec::new(),
            best: vec![None; self.rows()],
            hits: Vec::new(),
            sides: Vec::new(),
        }
    }
}

/// Compares a table with training rows in two passes: the first counts shingles, the second finds the best matches.
pub(super) struct Comparison<'a> {
    table: &'a Table,
    settings: Settings,
    /// Number of training rows that have each shingle.
    frequency: Vec<u32>,
    /// Number of training rows that want the key at each index.
    key_frequency: Vec<u32>,
    /// Hashes of the training rows counted so far.
    seen: HashSet<u64>,
    /// A shingle is common if more training rows than this have it.
    limit: f64,
    /// A whole prompt is common if more training rows than this have it.
    prompt_limit: f64,
    /// Number of shingles of each side that are not common.
    counted: Vec<u32>,
    /// Best match of each row so far.
    best: Vec<Option<Match>>,
    hits: Vec<u32>,
    sides: Vec<u32>,
}

impl Comparison<'_> {
    /// Counts the shingles of a training row, in the first pass. Rows with the same text count once.
    pub(super) fn count(&mut self, train: &Fingerprint) {
        if !self.seen.insert(train.whole) {
            return;
        }
        for (_, key) in train.keys.wanted() {
            let (first, found) = with_hash(&self.table.keys, key);
            if !found.is_empty() {
                self.key_frequency[first] += 1;
            }
        }
        self.hits.clear();
        self.hits.extend(train.sides.iter().flatten().filter_map(|&shingle| self.table.find(shingle)));
        self.hits.sort_unstable();
        self.hits.dedup();
        for &shingle in &self.hits {
            self.frequency[shingle as usize] += 1;
        }
    }

    fn is_common(&self, shingle: u32) -> bool {
        f64::from(self.frequency[shingle as usize]) > self.limit
    }

    /// Ends the first pass.
    pub(super) fn finish_counting(&mut self) {
        let rows = self.seen.len() as f64;
        self.seen = HashSet::new();
        self.limit = (rows * self.settings.common).max(LEAST_LIMIT);
        self.prompt_limit = (rows * self.settings.common.max(COMMON_PROMPT)).max(LEAST_LIMIT);
        self.counted = self.count_per_side(|shingle| !self.is_common(shingle));
    }

    /// Returns how many shingles of each side are `wanted`.
    fn count_per_side(&self, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut counts = vec![0; self.table.row_of_side.len()];
        for shingle in (0..self.table.shingles.len() as u32).filter(|&shingle| wanted(shingle)) {
            for &side in self.table.sides_of(shingle) {
                counts[side as usize] += 1;
            }
        }
        counts
    }

    /// Compares training row `number` with all rows, in the second pass; returns whether one of them occurs in it.
    pub(super) fn compare(&mut self, number: u32, train: &Fingerprint) -> bool {
        let mut found = false;
        for row in self.table.rows_equal_to(train.whole) {
            found = true;
            let exact = Match { kind: LeakKind::Exact, per_mille: 1000, train_row: Some(number) };
            keep_better(&mut self.best[row as usize], exact);
        }
        for (meaning, key) in train.keys.wanted() {
            let (first, rows) = with_hash(&self.table.keys, key);
            let limit = if meaning == Meaning::Prompt { self.prompt_limit } else { self.limit };
            if rows.is_empty() || f64::from(self.key_frequency[first]) > limit {
                continue;
            }
            found = true;
            let kind = match meaning {
                Meaning::Prompt | Meaning::Answer => LeakKind::Side,
                Meaning::Pair | Meaning::Edge => LeakKind::Contained,
            };
            for &KeyOfRow { row, .. } in rows {
                let equal = Match { kind, per_mille: 1000, train_row: Some(number) };
                keep_better(&mut self.best[row as usize], equal);
            }
        }
        for shingles in &train.sides {
            let (mut hits, mut common) = (std::mem::take(&mut self.hits), 0);
            hits.clear();
            hits.extend(shingles.iter().filter_map(|&shingle| self.table.find(shingle)));
            self.sides.clear();
            for &shingle in &hits {
                if self.is_common(shingle) {
                    common += 1;
                } else {
                    self.sides.extend(self.table.sides_of(shingle));
                }
            }
            self.hits = hits;
            self.sides.sort_unstable();
            for same in self.sides.chunk_by(|a, b| a == b) {
                let (side, count) = (same[0] as usize, same.len());
                let all = self.counted[side];
                let share = count as f64 / f64::from(all);
                let kind = if count == all as usize || count == shingles.len() - common {
                    LeakKind::Contained
                } else if share >= self.settings.overlap {
                    LeakKind::Overlap
                } else {
                    continue;
                };
                found = true;
                let row = self.table.row_of_side[side] as usize;
                let partial = Match { kind, per_mille: per_mille(share), train_row: Some(number) };
                keep_better(&mut self.best[row], partial);
            }
        }
        found
    }

    /// Ends the second pass and returns the best match of each row.
    ///
    /// A row whose text occurs only in all training rows together is an overlap without a training row.
    pub(super) fn finish(mut self) -> Vec<Option<Match>> {
        let seen =
            self.count_per_side(|shingle| self.frequency[shingle as usize] > 0 && !self.is_common(shingle));
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
        for (best, per_mille) in self.best.iter_mut().zip(together) {
            if best.is_none() && per_mille > 0 {
                *best = Some(Match { kind: LeakKind::Overlap, per_mille, train_row: None });
            }
        }
        self.best
    }
}

/// Returns the entries of a sorted list with the given hash, and the index of the first.
fn with_hash(list: &[KeyOfRow], hash: u64) -> (usize, &[KeyOfRow]) {
    let first = list.partition_point(|key| key.hash < hash);
    let count = list[first..].iter().take_while(|key| key.hash == hash).count();
    (first, &list[first..first + count])
}

/// Replaces `best` if `found` is of a more certain kind, or of the same kind with a larger share.
fn keep_better(best: &mut Option<Match>, found: Match) {
    let rank = |matched: Match| (matched.kind, Reverse(matched.per_mille));
    if best.is_none_or(|best| rank(found) < rank(best)) {
        *best = Some(found);
    }
}

fn per_mille(share: f64) -> u32 {
    (share * 1000.0).round() as u32
}
