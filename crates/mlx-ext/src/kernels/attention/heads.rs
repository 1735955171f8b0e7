//! Tensors of heads, read where they are, and the keys that each query sees.

/// Queries, keys or values `[B, H, L, D]` in any memory order whose last axis is contiguous.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    data: &'a [f32],
    /// B, H, L, D.
    pub(super) shape: [usize; 4],
    /// Distance between neighbours along B, H and L, in elements.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// Describes heads in `data`, whose first element is that of the tensor.
    ///
    /// # Panics
    ///
    /// Panics if `data` is too short.
    pub(super) fn new(data: &'a [f32], shape: [usize; 4], strides: [usize; 3]) -> Self {
        if shape.iter().all(|&extent| extent > 0) {
            let last: usize =
                shape.iter().zip(strides).map(|(extent, stride)| (extent - 1) * stride).sum::<usize>();
            assert!(
                last + shape[3] <= data.len(),
                "{shape:?} with strides {strides:?} in {} numbers",
                data.len()
            );
        }
        Self { data, shape, strides }
    }

    /// Describes heads stored as `[B, L, H, D]`, the order in which linear maps write them.
    pub(super) fn by_token(data: &'a [f32], shape: [usize; 4]) -> Self {
        let [_, heads, length, width] = shape;
        Self::new(data, shape, [length * heads * width, width, heads * width])
    }

    /// Returns the vector of one head of one token.
    pub(super) fn row(&self, batch: usize, head: usize, token: usize) -> &'a [f32] {
        let start = batch * self.strides[0] + head * self.strides[1] + token * self.strides[2];
        &self.data[start..start + self.shape[3]]
    }

    /// Returns the address of the vector of a token, and the distance from there to that of the next token.
    pub(super) fn rows(&self, batch: usize, head: usize, token: usize) -> (*const f32, isize) {
        (self.row(batch, head, token).as_ptr(), self.strides[2] as isize)
    }
}

/// Sizes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) key_value_heads: usize,
    /// Query heads that share a key-value head.
    pub(super) group: usize,
    /// Queries of a row.
    pub(super) length: usize,
    /// Keys of a row: those of earlier tokens, and one of each query.
    pub(super) keys: usize,
    /// Width of a head.
    pub(super) width: usize,
}

impl Sizes {
    /// Reads the sizes of a call.
    ///
    /// # Panics
    ///
    /// Panics if the tensors do not fit together.
    pub(super) fn of(queries: &Heads<'_>, keys: &Heads<'_>, values: &Heads<'_>) -> Self {
        let [batch, heads, length, width] = queries.shape;
        let [_, key_value_heads, seen, _] = keys.shape;
        assert_eq!(keys.shape, [batch, key_value_heads, seen, width], "keys for the queries");
        assert_eq!(values.shape, keys.shape, "values for the keys");
        assert!(key_value_heads > 0 && heads.is_multiple_of(key_value_heads), "{heads} query heads");
        assert!(seen >= length, "{seen} keys for {length} queries");
        Self { batch, key_value_heads, group: heads / key_value_heads, length, keys: seen, width }
    }

    /// Returns the number of query heads.
    pub(super) fn heads(&self) -> usize {
        self.key_value_heads * self.group
    }

    /// Returns the number of keys before that of the first query.
    pub(super) fn past(&self) -> usize {
        self.keys - self.length
    }
}

/// Keys that a query sees: a run that ends with its own.
#[derive(Clone, Copy)]
pub(super) struct Visible<'a> {
    /// First key of the segment, or first key that is not padding, of each query: `[B or 1, L or 1]`.
    first: Option<(&'a [i32], [usize; 2])>,
    /// Number of keys that a query sees at most.
    window: usize,
    past: usize,
}

impl<'a> Visible<'a> {
    /// Describes what the queries of a call see.
    ///
    /// # Panics
    ///
    /// Panics if `first` does not fit the queries.
    pub(super) fn new(sizes: &Sizes, first: Option<(&'a [i32], [usize; 2])>, window: Option<usize>) -> Self {
        if let Some((data, [rows, columns])) = first {
            assert!(
                (rows == 1 || rows == sizes.batch) && (columns == 1 || columns == sizes.length),
                "first keys"
            );
            assert_eq!(data.len(), rows * columns, "first keys");
        }
        Self { first, window: window.unwrap_or(usize::MAX).max(1), past: sizes.past() }
    }

    /// Returns the first and the last key that a query sees; the first is behind the last if it sees none.
    pub(super) fn of(&self, batch: usize, query: usize) -> (usize, usize) {
        let last = self.past + query;
        let mut first = (last + 1).saturating_sub(self.window);
        if let Some((data, [rows, columns])) = self.first {
            let at = if rows == 1 { 0 } else { batch } * columns + if columns == 1 { 0 } else { query };
            first = first.max(data[at].max(0) as usize);
        }
        (first, last)
    }
}

/// A run of queries of all heads that share a key-value head: its rows are those of the first head, then the second…
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryBlock {
    pub(super) batch: usize,
    pub(super) key_value_head: usize,
    /// First query.
    pub(super) start: usize,
    /// Number of queries.
    pub(super) count: usize,
}

/// Most rows of a block of queries.
const ROWS: usize = 256;

/// Most queries of a block: more would waste work on keys after the query, fewer make small products.
const QUERIES: usize = 64;

impl QueryBlock {
    /// Returns the number of queries of all blocks but the last of a row.
    pub(super) fn length(sizes: &Sizes) -> usize {
        (ROWS / sizes.group).clamp(1, QUERIES)
    }

    /// Returns the number of blocks of one row and key-value head.
    pub(super) fn per_head(sizes: &Sizes) -> usize {
        sizes.length.div_ceil(Self::length(sizes))
    }

    /// Returns the block of an index, counted through rows, key-value heads and queries.
    pub(super) fn at(sizes: &Sizes, index: usize) -> Self {
        let (head, block) = (index / Self::per_head(sizes), index % Self::per_head(sizes));
        let start = block * Self::length(sizes);
        Self {
            batch: head / sizes.key_value_heads,
            key_value_head: head % sizes.key_value_heads,
            start,
            count: Self::length(sizes).min(sizes.length - start),
        }
    }

    /// Calls `visit` with the index of each row, its query head and its query.
    pub(super) fn for_each_row(&self, sizes: &Sizes, mut visit: impl FnMut(usize, usize, usize)) {
        for member in 0..sizes.group {
            for query in 0..self.count {
                visit(
                    member * self.count + query,
                    self.key_value_head * sizes.group + member,
                    self.start + query,
                );
            }
        }
    }

    /// Copies the rows of `heads`, each number multiplied by `factor`: `[rows, D]`.
    pub(super) fn gather(&self, sizes: &Sizes, heads: &Heads<'_>, factor: f32, rows: &mut [f32]) {
        self.for_each_row(sizes, |row, head, query| {
            let source = heads.row(self.batch, head, query);
            let target = &mut rows[row * sizes.width..][..sizes.width];
            target.iter_mut().zip(source).for_each(|(target, source)| *target = source * factor);
        });
    }
}

/// First and last visible key of every row of a block.
#[derive(Default)]
pub(super) struct Bounds {
    pub(super) first: Vec<i32>,
    pub(super) last: Vec<i32>,
}

/// Keys of a block of queries: those that some row sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Bounds {
    /// Fills the bounds of a block.
    pub(super) fn fill(&mut self, sizes: &Sizes, visible: &Visible<'_>, block: &QueryBlock) {
        self.first.clear();
        self.last.clear();
        for _ in 0..sizes.group {
            for query in block.start..block.start + block.count {
                let (first, last) = visible.of(block.batch, query);
                self.first.push(first as i32);
                self.last.push(last as i32);
            }
        }
    }

    /// Returns whether every row sees every key of a range.
    pub(super) fn all_see(&self, keys: KeyRange) -> bool {
        self.first.iter().all(|&first| first as usize <= keys.start)
            && self.last.iter().all(|&last| keys.end <= last as usize + 1)
    }
}

impl KeyRange {
    /// Returns the keys that the queries of a block see.
    pub(super) fn of(visible: &Visible<'_>, block: &QueryBlock) -> Self {
        let bounds = (block.start..block.start + block.count).map(|query| visible.of(block.batch, query));
        let seeing = bounds.filter(|(first, last)| first <= last);
        let (start, end) =
            seeing.fold((usize::MAX, 0), |(start, end), (first, last)| (start.min(first), end.max(last + 1)));
        Self { start: start.min(end), end }
    }

    /// Returns the part of the range in the block of an index, of blocks of `length` keys.
    pub(super) fn part(&self, block: usize, length: usize) -> Self {
        let start = self.start.max(block * length);
        Self { start, end: self.end.min((block + 1) * length).max(start) }
    }

    /// Returns the number of keys.
    pub(super) fn count(&self) -> usize {
        self.end - self.start
    }

    /// Returns the indices of the blocks of `length` keys that hold keys of the range.
    pub(super) fn blocks(&self, length: usize) -> std::ops::Range<usize> {
        if self.count() == 0 { 0..0 } else { self.start / length..self.end.div_ceil(length) }
    }
}
