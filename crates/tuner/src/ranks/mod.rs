//! One run over several processes (ranks), each with its own device: MLX moves the arrays.
//!
//! Every rank computes the gradients of some of a step's batches. All ranks then get all of these gradients and add them in the
//! order of the batches, as one process would, so that the number of ranks changes no bit of the sum. With
//! `--shard-layers`, each rank instead runs some of the blocks of the model and exchanges states and their gradients with its
//! neighbours. A separate control connection detects a rank that is lost or has stalled, and stops all others.

mod control;
mod ending;
mod launch;
mod wire;

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mlx_ext::{Group, Transport};
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype, ops};
use models::Section;

use crate::error::{Error, Result};
use crate::ranks::control::{Control, Invitation, JOIN, OnEnd, listen};
use crate::ranks::launch::Launch;

pub use crate::ranks::ending::Ending;

/// Numbers that all ranks together exchange at one time: one GiB.
const NUMBERS_AT_A_TIME: usize = 1 << 28;
/// Words in the first exchange, which must hold the invitation.
const INVITATION_WORDS: usize = 2048;
/// Numbers before the gradients in what a rank sends: the signal to stop, then those of [`Contribution`].
const HEADER: usize = 4;
/// Time that a failed rank gives rank 0 to report the same failure.
const PRECEDENCE: Duration = Duration::from_secs(2);
/// Time in which rank 0 names a lost rank, after which MLX's own error must do.
const BLAME: Duration = Duration::from_secs(8);

/// The ranks of a run, seen from one of them.
pub struct Ranks {
    group: Group,
    control: Control,
    rank: usize,
    size: usize,
    exchanges: Cell<u64>,
    /// Signal that asked this process to stop; 0 for none.
    signal: Cell<i32>,
    /// Signal that all ranks know of.
    agreed: Cell<i32>,
}

/// What happens with the arrays of all ranks.
#[derive(Debug, Clone, Copy)]
enum Exchange {
    Gather,
    Sum,
}

/// Gradients of one batch of a step.
pub(crate) struct Contribution {
    /// Sum of the weighted losses.
    pub(crate) loss_sum: Array,
    /// Gradients, in the order of the parameters.
    pub(crate) gradients: Vec<Array>,
}

/// What is known about a batch before its gradients, on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Expected {
    pub(crate) weight: f64,
    pub(crate) targets: usize,
}

/// Transfer of an array between neighbours.
#[derive(Clone, Copy)]
pub(crate) struct Passage<'a> {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Describes the array; the same on all ranks.
    pub(crate) what: &'a str,
}

impl Ranks {
    /// Joins the ranks that the environment describes; `None` for a process on its own.
    ///
    /// `on_end` is called from another thread when this process must end at once.
    ///
    /// # Errors
    ///
    /// Fails when the environment is wrong, when MLX of this build cannot connect the ranks, and when one of them does not come.
    pub fn join(on_end: impl Fn(Ending) + Send + Sync + 'static) -> Result<Option<Self>> {
        let Some(launch) = launch::from_variables(&|name| std::env::var(name).ok())? else { return Ok(None) };
        let transport = launch.transport;
        if !transport.is_available() {
            return Err(Error::settings(
                format!("this run starts over `{}`, which is not available", transport.name()),
                match transport {
                    Transport::Mpi => "install Open MPI, or name its library in `MLX_MPI_LIBNAME`",
                    _ => "use a build for the devices of these ranks, or start them over `ring` or `mpi`",
                },
            ));
        }
        let on_end: Arc<dyn Fn(Ending) + Send + Sync> = Arc::new(on_end);
        let joined = limit_joining(Arc::clone(&on_end))?;
        tracing::debug!("joining the other ranks over `{}`", transport.name());
        let group = Group::join(transport)?;
        let (rank, size) = (group.rank(), group.size());
        if size < 2 {
            joined.store(true, Ordering::SeqCst);
            return Ok(None);
        }
        let control = connect(&group, &launch, Box::new(move |ending| on_end(ending)))?;
        joined.store(true, Ordering::SeqCst);
        let (exchanges, signal, agreed) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Ok(Some(Self { group, control, rank, size, exchanges, signal, agreed }))
    }

    /// Returns the number of this rank, counted from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns whether this is rank 0, which alone reads and writes the files of the run.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Fails unless all ranks give the same text.
    ///
    /// # Errors
    ///
    /// Names the first rank that differs from rank 0.
    pub fn agree(&self, what: &str, text: &str) -> Result<()> {
        let words = words_of(text.as_bytes());
        let count = words.len() as i32;
        let all = self.exchange(&Array::from_slice(&words, &[count]), Exchange::Gather)?;
        let all = all.as_slice::<u32>();
        match (1..self.size)
            .find(|rank| all[rank * words.len()..(rank + 1) * words.len()] != all[..words.len()])
        {
            Some(rank) => Err(Error::Ranks { reason: format!("rank {rank} has another {what} than rank 0") }),
            None => Ok(()),
        }
    }

    /// Returns the bytes that rank 0 gives; those of the other ranks are ignored.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    pub fn from_first(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let length = if self.is_first() { bytes.len() } else { 0 };
        let length = self.sum_words(&[length as u32, (length as u64 >> 32) as u32])?;
        let length = u64::from(length[0]) as usize | (u64::from(length[1]) as usize) << 32;
        let mut words = if self.is_first() { words_of(bytes) } else { Vec::new() };
        words.resize(length.div_ceil(4), 0);
        let words = self.sum_words(&words)?;
        Ok(words.iter().flat_map(|word| word.to_le_bytes()).take(length).collect())
    }

    /// Returns the sum of the words of all ranks. Exact where all but one of them are 0, whatever they encode.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    pub(crate) fn sum_words(&self, words: &[u32]) -> Result<Vec<u32>> {
        let mut padded = words.to_vec();
        // A ring cannot sum fewer numbers than it has ranks.
        padded.resize(words.len().max(self.size), 0);
        let array = Array::from_slice(&padded, &[padded.len() as i32]);
        let sum = self.exchange(&array, Exchange::Sum)?;
        Ok(sum.as_slice::<u32>()[..words.len()].to_vec())
    }

    /// Returns the `f32` array of rank 0, bit by bit; the other ranks give one of the same shape.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    pub(crate) fn array_from_first(&self, array: &Array) -> Result<Array> {
        if array.size() == 0 {
            return Ok(array.clone());
        }
        let flat = array.as_dtype(Dtype::Float32)?.reshape(&[-1])?;
        flat.eval()?;
        let mut words: Vec<u32> = flat.as_slice::<f32>().iter().map(|number| number.to_bits()).collect();
        if !self.is_first() {
            words.fill(0);
        }
        let words = self.sum_words(&words)?;
        let numbers: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        Ok(Array::from_slice(&numbers, array.shape()))
    }

    /// Tells the other ranks that there is work; called by rank 0.
    pub fn begin(&self) {
        self.control.begin();
    }

    /// Waits until rank 0 has work; returns the exit code if the run ends without any.
    ///
    /// # Errors
    ///
    /// Fails when the ranks are stopping.
    pub fn wait_for_begin(&self) -> Result<Option<u8>> {
        self.control.wait_for_begin()
    }

    /// Waits until rank 0 has ended, and returns its exit code.
    ///
    /// # Errors
    ///
    /// Fails when the ranks are stopping.
    pub fn wait_for_end(&self) -> Result<u8> {
        self.control.wait_for_end()
    }

    /// Returns the exit code of rank 0, if it has ended.
    pub fn ended(&self) -> Option<u8> {
        self.control.ended()
    }

    /// Says that training is over, so that rank 0 can do the rest without the others.
    pub fn release(&self) {
        self.control.release();
    }

    /// Tells the other ranks that the run has ended; called by rank 0.
    pub fn end(&self, code: u8) {
        self.control.end(code);
    }

    /// Makes the other ranks stop with `code`, because this one has failed.
    pub fn fail(&self, code: u8, reason: &str) {
        if !self.is_first() {
            // The same failure usually hits all ranks, and rank 0 describes it best.
            self.control.wait_for_stop(PRECEDENCE);
        }
        self.control.fail(code, reason);
    }

    /// Sets the signal that asked this process to stop; the other ranks learn of it in the next step.
    pub(crate) fn set_signal(&self, signal: i32) {
        self.signal.set(signal);
    }

    /// Exchanges the signals set by [`Ranks::set_signal`] between steps. A collective operation: every rank must call it.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    pub(crate) fn exchange_signals(&self) -> Result<()> {
        let mut signals = vec![0; self.size];
        signals[self.rank] = self.signal.get() as u32;
        let signals = self.sum_words(&signals)?;
        self.agreed.set(signals.into_iter().max().unwrap_or(0) as i32);
        Ok(())
    }

    /// Returns the signal that asked one of the ranks to stop, once all know of it.
    pub(crate) fn agreed_signal(&self) -> Option<i32> {
        Some(self.agreed.get()).filter(|&signal| signal != 0)
    }

    /// Returns whether this rank computes batch `index` of a step.
    pub(crate) fn has(&self, index: usize) -> bool {
        index % self.size == self.rank
    }

    /// Returns losses and gradients of all batches of a step, added in the order of the batches.
    ///
    /// `own` are those that [`Ranks::has`] assigns to this rank; `expected` describes all; `parameters` have the shapes of the
    /// gradients.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost, or computed something else than this one expects.
    pub(crate) fn sum_in_order(
        &self,
        own: &[Contribution],
        expected: &[Expected],
        parameters: &[Array],
    ) -> Result<Contribution> {
        let per_rank = expected.len().div_ceil(self.size);
        let numbers = parameters.iter().map(Array::size).sum::<usize>() + HEADER;
        let rows = self.rows(own, expected, per_rank, numbers)?;
        // Batch `index` is row `index / size` of rank `index % size`.
        let place = |index: usize| index % self.size * per_rank + index / self.size;
        let columns = (NUMBERS_AT_A_TIME / (per_rank * self.size)).max(HEADER);
        let mut sums = Vec::new();
        for start in (0..numbers).step_by(columns) {
            let end = (start + columns).min(numbers);
            let chunk = rows.try_index((.., start as i32..end as i32))?;
            let all = self.exchange(&chunk, Exchange::Gather)?;
            if start == 0 {
                self.check(&all, expected, &place, per_rank)?;
            }
            let mut sum = all.try_index(place(0) as i32)?;
            for index in 1..expected.len() {
                sum = sum.add(all.try_index(place(index) as i32)?)?;
            }
            sum.eval()?;
            sums.push(sum);
        }
        let sum = ops::concatenate(&sums, 0)?;
        let mut start = HEADER;
        let gradients = parameters.iter().map(|parameter| {
            let end = start + parameter.size();
            let gradient = sum.try_index(start as i32..end as i32)?.reshape(parameter.shape())?;
            start = end;
            Ok(gradient)
        });
        let gradients = gradients.collect::<Result<Vec<Array>>>()?;
        Ok(Contribution { loss_sum: sum.try_index(1)?, gradients })
    }

    /// Returns whether ranks can pass arrays to their neighbours.
    pub fn can_pass(&self) -> bool {
        self.group.transport().passes_arrays()
    }

    /// Returns the section of a model that this rank runs if the ranks share its blocks.
    pub fn section(&self) -> Section {
        Section { index: self.rank, count: self.size }
    }

    /// Returns the array that rank `from` will send to this one, with the shape and type of `like`. It is received by
    /// [`Ranks::pass`]; evaluating it before that would block.
    pub(crate) fn receiving(&self, like: &Array, from: usize) -> Result<Array> {
        Ok(self.group.receive(like, from)?)
    }

    /// Passes an array to a neighbour. A collective operation: every rank must call it, with the same `passage`.
    ///
    /// The sender gives the array, the receiver the one from [`Ranks::receiving`], and all others `None`.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost or makes a different call.
    pub(crate) fn pass(&self, passage: Passage<'_>, array: Option<&Array>) -> Result<()> {
        let Passage { from, to, what } = passage;
        if let (Some(array), true) = (array, self.rank == from) {
            array.eval()?;
        }
        self.await_all(&format!("Pass {from} {to} {what}"))?;
        match array {
            Some(array) if self.rank == from => self.evaluated(self.group.send(array, to)).map(|_| ()),
            Some(array) if self.rank == to => self.evaluated(Ok(array.clone())).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Merges numbers without rounding: each is set by one rank, and is 0.0 on the others.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    pub(crate) fn joined(&self, numbers: &[f32]) -> Result<Vec<f32>> {
        let mut joined = Vec::with_capacity(numbers.len());
        for chunk in numbers.chunks(NUMBERS_AT_A_TIME) {
            let words: Vec<u32> = chunk.iter().map(|number| number.to_bits()).collect();
            joined.extend(self.sum_words(&words)?.into_iter().map(f32::from_bits));
        }
        Ok(joined)
    }

    /// Returns the sum of one gradient per rank, exchanged as in a step with one batch per rank.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost.
    #[cfg(feature = "test-hooks")]
    pub fn sum_gradient(&self, gradient: &Array) -> Result<Array> {
        let own = Contribution { loss_sum: Array::from_f32(0.0), gradients: vec![gradient.clone()] };
        let expected = vec![Expected { weight: 1.0, targets: 1 }; self.size];
        Ok(self.sum_in_order(&[own], &expected, std::slice::from_ref(gradient))?.gradients.swap_remove(0))
    }

    /// Returns what this rank sends: one row per batch, filled up with zeros, `[per_rank, numbers]`, `f32`.
    fn rows(
        &self,
        own: &[Contribution],
        expected: &[Expected],
        per_rank: usize,
        numbers: usize,
    ) -> Result<Array> {
        let signal = self.signal.get() as f32;
        let expected = expected.iter().enumerate().filter(|(index, _)| self.has(*index));
        let mut rows = Vec::new();
        for (contribution, (_, expected)) in own.iter().zip(expected) {
            let counts = Array::from_slice(&[expected.weight as f32, expected.targets as f32], &[2]);
            let mut parts = vec![Array::from_slice(&[signal], &[1])];
            parts.push(contribution.loss_sum.as_dtype(Dtype::Float32)?.reshape(&[1])?);
            parts.push(counts);
            for gradient in &contribution.gradients {
                parts.push(gradient.as_dtype(Dtype::Float32)?.reshape(&[-1])?);
            }
            rows.push(ops::concatenate(&parts, 0)?.reshape(&[1, -1])?);
        }
        for _ in rows.len()..per_rank {
            let mut empty = vec![0.0_f32; numbers];
            empty[0] = signal;
            rows.push(Array::from_slice(&empty, &[1, numbers as i32]));
        }
        Ok(ops::concatenate(&rows, 0)?)
    }

    /// Reads the first numbers of all rows: signals, and what each rank knows about its batches.
    fn check(
        &self,
        all: &Array,
        expected: &[Expected],
        place: &dyn Fn(usize) -> usize,
        per_rank: usize,
    ) -> Result<()> {
        let header = all.try_index((.., 0..HEADER as i32))?.contiguous()?;
        header.eval()?;
        let header = header.as_slice::<f32>();
        let signals = (0..self.size).map(|rank| header[rank * per_rank * HEADER] as i32);
        self.agreed.set(signals.max().unwrap_or(0));
        for (index, expected) in expected.iter().enumerate() {
            let row = &header[place(index) * HEADER..][..HEADER];
            let same = row[2].to_bits() == (expected.weight as f32).to_bits()
                && row[3].to_bits() == (expected.targets as f32).to_bits();
            if !same {
                let reason =
                    format!("rank {} trained on other rows than rank {}", index % self.size, self.rank);
                return Err(Error::Ranks { reason });
            }
        }
        Ok(())
    }

    /// Exchanges an array once all ranks are ready for it, and returns the evaluated result.
    ///
    /// MLX waits for a connection by asking it again and again, so the ranks wait for each other before.
    fn exchange(&self, array: &Array, exchange: Exchange) -> Result<Array> {
        array.eval()?;
        self.await_all(&format!("{exchange:?} {:?}", array.shape()))?;
        self.evaluated(match exchange {
            Exchange::Gather => self.group.all_gather(array),
            Exchange::Sum => self.group.all_sum(array),
        })
    }

    /// Waits until all ranks are ready for the next exchange, which is `what` on all of them.
    fn await_all(&self, what: &str) -> Result<()> {
        let number = self.exchanges.get() + 1;
        self.exchanges.set(number);
        self.control.ready(number, what)
    }

    /// Waits for the result of an exchange.
    fn evaluated(&self, result: mlx_ext::Result<Array>) -> Result<Array> {
        let result = result.and_then(|result| Ok(result.eval().map(|()| result)?));
        if result.is_err() {
            // Rank 0 will say which rank is lost.
            self.control.wait_for_stop(BLAME);
        }
        Ok(result?)
    }
}

/// Connects this rank to rank 0, or rank 0 to the others.
fn connect(group: &Group, launch: &Launch, on_end: OnEnd) -> Result<Control> {
    let (rank, size) = (group.rank(), group.size());
    let token = RandomState::new().build_hasher().finish();
    let opened = (rank == 0).then(|| listen(own_hosts(launch), token)).transpose()?;
    let mut words = match &opened {
        Some((_, invitation)) => words_of(&serde_json::to_vec(invitation).expect("text is JSON")),
        None => Vec::new(),
    };
    words.resize(INVITATION_WORDS, 0);
    let words = group.all_sum(&Array::from_slice(&words, &[INVITATION_WORDS as i32]))?;
    words.eval()?;
    if let Some((listener, _)) = opened {
        return Control::accept(&listener, token, size, on_end);
    }
    let mut bytes: Vec<u8> = words.as_slice::<u32>().iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    let invitation: Invitation = serde_json::from_slice(&bytes).map_err(|error| Error::Ranks {
        reason: format!("the invitation of rank 0 cannot be read: {error}"),
    })?;
    Control::connect(&invitation, rank, size, on_end)
}

/// Returns names and addresses of this machine, those that the environment gives first.
fn own_hosts(launch: &Launch) -> Vec<String> {
    let mut hosts = launch.hosts.clone();
    let mut addresses: Vec<IpAddr> =
        if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|found| found.ip()).collect();
    // This machine's own address is of no use to others, and comes last.
    addresses.sort_by_key(IpAddr::is_loopback);
    hosts.extend(addresses.into_iter().filter(IpAddr::is_ipv4).map(|address| address.to_string()));
    hosts.truncate(64);
    hosts
}

/// Starts a thread that ends the process if the flag it returns is not set in time, because MLX waits for ever.
fn limit_joining(on_end: Arc<dyn Fn(Ending) + Send + Sync>) -> Result<Arc<AtomicBool>> {
    let joined = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&joined);
    std::thread::Builder::new().name("joining".to_owned()).spawn(move || {
        std::thread::sleep(JOIN);
        if !seen.load(Ordering::SeqCst) {
            let reason = format!("the other ranks did not come within {} s", JOIN.as_secs());
            on_end(Ending { code: 1, reason });
        }
    })?;
    Ok(joined)
}

/// Packs bytes into words, filled up with zeros.
fn words_of(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_packed_into_words() {
        assert_eq!(words_of(b"abcde"), [u32::from_le_bytes(*b"abcd"), u32::from(b'e')]);
        assert_eq!(words_of(b""), [0_u32; 0]);
    }

    #[test]
    fn this_machine_has_an_address() {
        let launch = Launch { transport: Transport::Ring, hosts: vec!["first".to_owned()] };
        let hosts = own_hosts(&launch);
        assert_eq!(hosts[0], "first");
        assert!(hosts.len() > 1, "{hosts:?}");
    }
}
