//! Generation with a key-value cache, for batches of prompts or turn by turn.

use std::collections::BTreeSet;
use std::thread::Builder;

use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::{Array, Dtype, transforms};

use crate::attention::Input;
use crate::cache::{Cache, PREFILL_TOKENS};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sampling::Sampling;

/// When to stop, and how many prompts to run together.
#[derive(Debug, Clone)]
pub struct GenerationOptions {
    /// Maximum number of new tokens per prompt.
    pub max_tokens: usize,
    /// Tokens that end a row; the result does not include them.
    pub stop: Vec<u32>,
    /// Number of prompts per batch.
    pub batch_size: usize,
}

/// Result for one prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generation {
    /// New tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Whether a stop token or the listener ended the row, rather than `max_tokens`.
    pub stopped: bool,
}

/// Answer of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Continue the row.
    Continue,
    /// End this row.
    EndRow,
    /// End all rows.
    EndAll,
}

/// Called with the prompt's index and each generated token.
type Listener<'a> = dyn FnMut(usize, u32) -> Flow + 'a;

/// Smallest vocabulary for which rows are sampled on several threads.
const SHARED_FROM: usize = 1 << 14;

/// Continues every prompt greedily: the most likely token, the first of equals.
///
/// # Errors
///
/// As [`generate_with`].
pub fn generate(model: &Model, prompts: &[Vec<u32>], options: &GenerationOptions) -> Result<Vec<Generation>> {
    generate_with(model, prompts, options, &Sampling::default(), &mut |_, _| Flow::Continue)
}

/// Continues every prompt; calls `listener` with each new token, except stop tokens.
///
/// Rows of similar length form a batch, padded on the left. Padding is masked, so batching changes results only by
/// rounding. A row that has ended leaves the batch. Results are in the order of the prompts.
///
/// # Errors
///
/// Fails when MLX does, and when no logit is finite.
pub fn generate_with(
    model: &Model,
    prompts: &[Vec<u32>],
    options: &GenerationOptions,
    sampling: &Sampling,
    listener: &mut Listener<'_>,
) -> Result<Vec<Generation>> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| (prompts[index].len(), index));
    let mut results = vec![Generation::default(); prompts.len()];
    for indices in order.chunks(options.batch_size.max(1)) {
        let batch: Vec<&[u32]> = indices.iter().map(|&index| prompts[index].as_slice()).collect();
        let width = batch.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        if width == 0 || options.max_tokens == 0 {
            continue;
        }
        let padding: Vec<i32> = batch.iter().map(|prompt| (width - prompt.len()) as i32).collect();
        let mut cache = Cache::new(model.layer_count(), Some(&padding));
        let logits = read(model, &padded(&batch, width), &mut cache)?;
        let mut rows = Rows::new(indices, &batch, sampling);
        rows.decode(model, &mut cache, logits, options, listener)?;
        for row in rows.done {
            results[row.index] = row.generation;
        }
        if rows.ended {
            break;
        }
    }
    Ok(results)
}

/// One row continued turn by turn; tokens that a prompt shares with earlier turns are not read again.
pub struct Conversation<'a> {
    model: &'a Model,
    cache: Cache,
    /// Tokens in the cache.
    tokens: Vec<u32>,
}

impl<'a> Conversation<'a> {
    /// Starts an empty conversation.
    pub fn new(model: &'a Model) -> Self {
        Self { model, cache: Cache::new(model.layer_count(), None), tokens: Vec::new() }
    }

    /// Returns the number of leading tokens of `prompt` that are in the cache.
    pub fn known(&self, prompt: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is read again, because its logits are not kept.
        shared.min(prompt.len().saturating_sub(1))
    }

    /// Continues `prompt`, which contains all earlier turns.
    ///
    /// # Errors
    ///
    /// As [`generate_with`].
    pub fn answer(
        &mut self,
        prompt: &[u32],
        options: &GenerationOptions,
        sampling: &Sampling,
        listener: &mut dyn FnMut(u32) -> Flow,
    ) -> Result<Generation> {
        if prompt.is_empty() || options.max_tokens == 0 {
            return Ok(Generation::default());
        }
        let known = self.known(prompt);
        self.cache.truncate(known as i32);
        self.tokens.truncate(known);
        let logits = read(self.model, &padded(&[&prompt[known..]], prompt.len() - known), &mut self.cache)?;
        let mut rows = Rows::new(&[0], &[prompt], sampling);
        rows.decode(self.model, &mut self.cache, logits, options, &mut |_, token| listener(token))?;
        let generation = rows.done.swap_remove(0).generation;
        self.tokens.extend(&prompt[known..]);
        self.tokens.extend(&generation.tokens);
        // The last token may not have been read yet.
        self.tokens.truncate(self.cache.length() as usize);
        Ok(generation)
    }
}

/// A row being decoded.
struct Row {
    /// Index of the prompt.
    index: usize,
    prompt_tokens: usize,
    /// Tokens of prompt and result, for the repetition penalty.
    seen: BTreeSet<u32>,
    generation: Generation,
}

/// The rows of one batch.
struct Rows<'a> {
    /// Rows that need more tokens, in the order of the cache.
    open: Vec<Row>,
    done: Vec<Row>,
    sampling: &'a Sampling,
    /// Whether the listener ended all rows.
    ended: bool,
}

impl<'a> Rows<'a> {
    fn new(indices: &[usize], prompts: &[&[u32]], sampling: &'a Sampling) -> Self {
        let rows = indices.iter().zip(prompts).map(|(&index, prompt)| Row {
            index,
            prompt_tokens: prompt.len(),
            seen: prompt.iter().copied().collect(),
            generation: Generation::default(),
        });
        Self { open: rows.collect(), done: Vec::new(), sampling, ended: false }
    }

    /// Generates tokens until all rows are done, starting with the logits `[B, V]` after the prompts.
    fn decode(
        &mut self,
        model: &Model,
        cache: &mut Cache,
        mut logits: Array,
        options: &GenerationOptions,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        loop {
            let next = self.choose(&logits, cache)?;
            // Indices and next tokens of the rows that stay.
            let (mut kept, mut tokens) = (Vec::new(), Vec::new());
            let rows = std::mem::take(&mut self.open);
            for (place, (mut row, token)) in rows.into_iter().zip(next).enumerate() {
                match row.take(token, options, listener) {
                    Flow::Continue => {
                        kept.push(place as i32);
                        tokens.push(token as i32);
                        self.open.push(row);
                        continue;
                    }
                    Flow::EndRow => {}
                    Flow::EndAll => self.ended = true,
                }
                self.done.push(row);
            }
            if self.ended || self.open.is_empty() {
                self.done.append(&mut self.open);
                return Ok(());
            }
            if kept.len() < logits.dim(0) as usize {
                cache.keep_rows(&kept)?;
            }
            logits = last_logits(model, &Array::from_slice(&tokens, &[tokens.len() as i32, 1]), cache)?;
        }
    }

    /// Chooses the next token of every row from logits `[B, V]`, and evaluates the cache together with them.
    fn choose(&self, logits: &Array, cache: &Cache) -> Result<Vec<u32>> {
        if self.sampling.is_argmax() {
            let next = argmax_axis(logits, -1, true)?;
            let chosen = logits.take_along_axis(&next, -1)?.as_type::<f32>()?;
            let next = next.as_type::<u32>()?;
            transforms::eval(cache.arrays().chain([&next, &chosen]))?;
            if chosen.as_slice::<f32>().iter().all(|logit| logit.is_finite()) {
                return Ok(next.as_slice::<u32>().to_vec());
            }
            // The chosen logit is not finite: check whether the whole row is unusable or only a few logits are.
        }
        let logits = logits.as_dtype(Dtype::Float32)?.contiguous()?;
        transforms::eval(cache.arrays().chain([&logits]))?;
        let width = logits.dim(-1) as usize;
        let rows: Vec<(&Row, &[f32])> =
            self.open.iter().zip(logits.as_slice::<f32>().chunks(width)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(rows.len());
        if threads < 2 || width < SHARED_FROM {
            return rows.iter().map(|(row, logits)| row.choose(self.sampling, logits)).collect();
        }
        std::thread::scope(|scope| {
            let work = |rows: &[(&Row, &[f32])]| -> Result<Vec<u32>> {
                rows.iter().map(|(row, logits)| row.choose(self.sampling, logits)).collect()
            };
            let (first, rest) = rows.split_at(rows.len().div_ceil(threads));
            let start = |rows| Builder::new().spawn_scoped(scope, move || work(rows)).map_err(|_| rows);
            let others: Vec<_> = rest.chunks(first.len()).map(start).collect();
            let mut tokens = work(first)?;
            for other in others {
                tokens.extend(match other {
                    Ok(thread) => thread.join().expect("choosing does not panic")?,
                    // The system allows no further threads.
                    Err(rows) => work(rows)?,
                });
            }
            Ok(tokens)
        })
    }
}

impl Row {
    /// Chooses the next token from the logits of the row, `[V]`.
    fn choose(&self, sampling: &Sampling, logits: &[f32]) -> Result<u32> {
        let position = self.generation.tokens.len();
        let token = sampling.choose(logits, &self.seen, self.index as u64, position as u64);
        token.ok_or(Error::NoProbabilities { tokens: self.prompt_tokens + position })
    }

    /// Appends a token, unless it stops the row.
    fn take(&mut self, token: u32, options: &GenerationOptions, listener: &mut Listener<'_>) -> Flow {
        if options.stop.contains(&token) {
            self.generation.stopped = true;
            return Flow::EndRow;
        }
        self.generation.tokens.push(token);
        self.seen.insert(token);
        let flow = listener(self.index, token);
        self.generation.stopped = flow == Flow::EndRow;
        let full = self.generation.tokens.len() == options.max_tokens;
        if full && flow == Flow::Continue { Flow::EndRow } else { flow }
    }
}

/// Returns token ids `[B, width]`, padded on the left.
fn padded(prompts: &[&[u32]], width: usize) -> Array {
    let mut flat = vec![0_i32; prompts.len() * width];
    for (row, prompt) in flat.chunks_mut(width).zip(prompts) {
        let start = width - prompt.len();
        row[start..].iter_mut().zip(*prompt).for_each(|(slot, &token)| *slot = token as i32);
    }
    Array::from_slice(&flat, &[prompts.len() as i32, width as i32])
}

/// Reads tokens `[B, L]` into the cache and returns the logits after the last ones, `[B, V]`, not evaluated yet.
fn read(model: &Model, tokens: &Array, cache: &mut Cache) -> Result<Array> {
    let width = tokens.dim(1) as usize;
    let mut start = 0;
    loop {
        let end = (start + PREFILL_TOKENS).min(width);
        let chunk = tokens.try_index((.., start as i32..end as i32))?;
        if end == width {
            return last_logits(model, &chunk, cache);
        }
        let hidden = model.hidden(Input::cached(&chunk, cache))?;
        transforms::eval(cache.arrays().chain([&hidden]))?;
        start = end;
    }
}

fn last_logits(model: &Model, tokens: &Array, cache: &mut Cache) -> Result<Array> {
    let hidden = model.hidden(Input::cached(tokens, cache))?;
    let last = hidden.try_index((.., -1, ..))?;
    Ok(model.logits(&last)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Model {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        let config = r#"{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
        fs_err::write(&path, config).expect("written");
        mlx_ext::init(&mlx_ext::Options::default()).expect("MLX starts");
        Model::random(&path, 3).expect("a model")
    }

    fn options(max_tokens: usize, batch_size: usize) -> GenerationOptions {
        GenerationOptions { max_tokens, stop: Vec::new(), batch_size }
    }

    fn warm() -> Sampling {
        Sampling { temperature: 0.8, top_p: 0.95, repetition_penalty: 1.1, seed: 7, ..Sampling::default() }
    }

    fn prompts() -> Vec<Vec<u32>> {
        vec![vec![5, 6, 7, 8, 9], vec![11], vec![3, 4, 5], vec![5, 6, 7, 8, 9]]
    }

    #[test]
    fn a_seed_gives_the_same_tokens_whatever_the_batch() -> Result<()> {
        let model = tiny();
        let with = |batch_size| {
            generate_with(&model, &prompts(), &options(12, batch_size), &warm(), &mut |_, _| Flow::Continue)
        };
        let alone = with(1)?;
        assert_eq!(alone, with(4)?);
        assert_eq!(alone, with(3)?);
        assert_ne!(alone[0], alone[3], "rows draw their own numbers");
        let last = Sampling { first_row: 3, ..warm() };
        let last =
            generate_with(&model, &prompts()[3..], &options(12, 1), &last, &mut |_, _| Flow::Continue)?;
        assert_eq!(last[0], alone[3]);
        Ok(())
    }

    #[test]
    fn rows_that_end_early_leave_the_batch_and_change_no_other_row() -> Result<()> {
        let model = tiny();
        let lengths = [3, 9, 1, 6];
        for sampling in [Sampling::default(), warm()] {
            let run = |batch_size| {
                let mut heard = [0; 4];
                let mut listen = |row: usize, _| {
                    heard[row] += 1;
                    if heard[row] == lengths[row] { Flow::EndRow } else { Flow::Continue }
                };
                generate_with(&model, &prompts(), &options(12, batch_size), &sampling, &mut listen)
            };
            let (alone, together) = (run(1)?, run(4)?);
            assert_eq!(alone, together);
            assert_eq!(together.iter().map(|row| row.tokens.len()).collect::<Vec<_>>(), lengths);
            // The first tokens of rows that nothing ends.
            let whole =
                generate_with(&model, &prompts(), &options(12, 4), &sampling, &mut |_, _| Flow::Continue)?;
            for (row, whole) in together.iter().zip(&whole) {
                assert_eq!(row.tokens, whole.tokens[..row.tokens.len()]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_listener_gets_every_token_and_ends_rows_or_all() -> Result<()> {
        let model = tiny();
        let mut heard = vec![Vec::new(); 4];
        let mut listen = |row: usize, token: u32| {
            heard[row].push(token);
            if row == 1 && heard[row].len() == 2 { Flow::EndRow } else { Flow::Continue }
        };
        let made = generate_with(&model, &prompts(), &options(5, 4), &warm(), &mut listen)?;
        let tokens: Vec<_> = made.iter().map(|row| row.tokens.clone()).collect();
        assert_eq!(tokens, heard);
        assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), [5, 2, 5, 5]);
        assert_eq!(made.iter().map(|row| row.stopped).collect::<Vec<_>>(), [false, true, false, false]);
        let one = generate_with(&model, &prompts(), &options(5, 1), &warm(), &mut |_, _| Flow::EndAll)?;
        assert_eq!(one.iter().map(|row| row.tokens.len()).sum::<usize>(), 1);
        Ok(())
    }

    #[test]
    fn a_conversation_equals_one_read_from_the_start() -> Result<()> {
        let model = tiny();
        let mut talk = Conversation::new(&model);
        let mut prompt = vec![1, 2, 3];
        for (turn, known) in [(vec![20, 21], 0), (vec![30], 7), (vec![31, 32, 33], 10)] {
            prompt.extend(turn);
            assert_eq!(talk.known(&prompt), known);
            let answer = talk.answer(&prompt, &options(3, 1), &warm(), &mut |_| Flow::Continue)?;
            let fresh = [prompt.clone()];
            let fresh = generate_with(&model, &fresh, &options(3, 1), &warm(), &mut |_, _| Flow::Continue)?;
            assert_eq!(answer, fresh[0]);
            prompt.extend(&answer.tokens);
            // A template may render a turn differently from the generated text.
            if known == 7 {
                let place = prompt.len() - 2;
                prompt[place] ^= 1;
            }
        }
        Ok(())
    }

    #[test]
    fn a_row_without_probabilities_is_an_error_however_tokens_are_chosen() -> Result<()> {
        mlx_ext::init(&mlx_ext::Options::default())?;
        let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
        let prompts: [&[u32]; 2] = [&[1, 2, 3], &[4]];
        for sampling in [Sampling::default(), warm()] {
            let choose = |second: [f32; 3]| {
                let rows = Rows::new(&[0, 1], &prompts, &sampling);
                let logits = Array::from_slice(&[[0.0, 9.0, 1.0], second].concat(), &[2, 3]);
                rows.choose(&logits, &Cache::new(0, None))
            };
            for broken in [[nan; 3], [low; 3], [0.0, f32::INFINITY, 0.0]] {
                let found = choose(broken);
                assert!(matches!(found, Err(Error::NoProbabilities { tokens: 1 })), "{broken:?}: {found:?}");
            }
            assert_eq!(choose([nan, low, 9.0])?, [1, 2]);
        }
        Ok(())
    }
}
