//! The connection of every rank to rank 0, beside MLX's: who is alive, and when a run begins, continues and ends.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ranks::ending::Ending;
use crate::ranks::wire::Message;

/// Time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// Silence after which a rank counts as stalled.
const SILENCE: Duration = Duration::from_secs(6);
/// Time for a connection to one address, and for a greeting.
const GREETING: Duration = Duration::from_secs(3);
/// Time that rank 0 gives the others to answer that they know of the ending.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time in which all ranks must have connected.
pub(super) const JOIN: Duration = Duration::from_mins(1);

/// What rank 0 tells the others, so that they can connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitation {
    pub(super) hosts: Vec<String>,
    pub(super) port: u16,
    pub(super) token: u64,
}

/// Called when the process must end, because a rank is lost or has failed.
pub(super) type OnEnd = Box<dyn Fn(Ending) + Send + Sync>;

/// This rank's side of the connections.
pub(super) struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    rank: usize,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Rank 0 is connected to all others, and they only to it.
    peers: Vec<Peer>,
    on_end: OnEnd,
}

struct Peer {
    rank: usize,
    stream: TcpStream,
    /// Held while a message is written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The exchange that each rank has reached: its number, and what it is.
    at: Vec<(u64, String)>,
    /// Number of the exchange that all ranks have reached.
    go: u64,
    begun: bool,
    ended: Option<u8>,
    /// Number of ranks that have answered to the ending.
    answered: usize,
    /// The main thread only waits for an ending.
    idle: bool,
    /// The ranks are no longer needed by each other.
    released: bool,
    /// Why the ranks are stopping.
    stopping: Option<String>,
    /// Last time at which this process was seen to run, and last time at which it had been suspended.
    ticked: Option<Instant>,
    woke: Option<Instant>,
}

impl Peer {
    /// Sends a message; a broken connection is noticed by the thread that reads it.
    fn send(&self, message: &Message) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = (&self.stream).write_all(format!("{message}\n").as_bytes());
    }
}

/// Opens the port of rank 0.
pub(super) fn listen(hosts: Vec<String>, token: u64) -> Result<(TcpListener, Invitation)> {
    let listener = TcpListener::bind(("0.0.0.0", 0))?;
    let port = listener.local_addr()?.port();
    Ok((listener, Invitation { hosts, port, token }))
}

impl Control {
    /// Waits until all other ranks have connected to this one, which is rank 0.
    pub(super) fn accept(listener: &TcpListener, token: u64, size: usize, on_end: OnEnd) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let (begun, mut found) = (Instant::now(), Vec::<Option<TcpStream>>::new());
        found.resize_with(size, || None);
        while found.iter().skip(1).any(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some(rank) = greeted(&stream, token).filter(|&rank| rank > 0 && rank < size) {
                        found[rank] = Some(stream);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error.into()),
            }
            if begun.elapsed() > JOIN {
                let missing = found.iter().skip(1).position(Option::is_none).unwrap_or_default() + 1;
                return Err(unreachable(format!("rank {missing} of {size} did not connect to rank 0")));
            }
        }
        let peers = found.into_iter().enumerate().filter_map(|(rank, stream)| Some((rank, stream?)));
        Self::start(0, size, peers.collect(), on_end)
    }

    /// Connects to rank 0.
    pub(super) fn connect(invitation: &Invitation, rank: usize, size: usize, on_end: OnEnd) -> Result<Self> {
        let begun = Instant::now();
        while begun.elapsed() < JOIN {
            for host in &invitation.hosts {
                let addresses = (host.as_str(), invitation.port).to_socket_addrs();
                for address in addresses.into_iter().flatten() {
                    if let Some(stream) = welcomed(address, rank, invitation.token) {
                        return Self::start(rank, size, vec![(0, stream)], on_end);
                    }
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        let hosts = invitation.hosts.join(", ");
        Err(unreachable(format!("rank {rank} cannot reach rank 0 at {hosts}, port {}", invitation.port)))
    }

    fn start(rank: usize, size: usize, peers: Vec<(usize, TcpStream)>, on_end: OnEnd) -> Result<Self> {
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (rank, stream) in peers {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(GREETING))?;
            readers.push((rank, stream.try_clone()?));
            writers.push(Peer { rank, stream, writing: Mutex::new(()) });
        }
        let state = Mutex::new(State { at: vec![(0, String::new()); size], ..State::default() });
        let shared = Arc::new(Shared { rank, size, state, changed: Condvar::new(), peers: writers, on_end });
        for (peer, stream) in readers {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("rank {peer}")).spawn(move || shared.read(peer, &stream))?;
        }
        let ticking = Arc::downgrade(&shared);
        thread::Builder::new().name("alive".to_owned()).spawn(move || {
            while let Some(shared) = ticking.upgrade() {
                shared.tick();
                drop(shared);
                thread::sleep(BEAT);
            }
        })?;
        Ok(Self { shared })
    }

    /// Waits until every rank is ready for exchange `number`, which is `what` on all of them.
    ///
    /// # Errors
    ///
    /// Fails when the ranks are stopping, and when a rank is ready for another exchange.
    pub(super) fn ready(&self, number: u64, what: &str) -> Result<()> {
        let shared = &self.shared;
        if shared.rank > 0 {
            shared.send(&Message::At { exchange: number, what: what.to_owned() });
            return shared.wait(|state| match state.ended {
                _ if state.go >= number => Some(Ok(())),
                // Rank 0 needed no help after all.
                Some(_) => Some(Err(Error::Ranks { reason: "the run has ended on rank 0".to_owned() })),
                None => None,
            })?;
        }
        shared.lock().at[0] = (number, what.to_owned());
        let other = shared.wait(|state| {
            let is_ready = state.at.iter().all(|(at, _)| *at >= number);
            is_ready.then(|| state.at.iter().position(|(_, theirs)| theirs != what))
        })?;
        if let Some(rank) = other {
            let reason = format!("rank {rank} does not do the same as rank 0; do their settings differ?");
            return Err(Error::Ranks { reason });
        }
        shared.send(&Message::Go(number));
        Ok(())
    }

    /// Tells the other ranks that there is work.
    pub(super) fn begin(&self) {
        self.shared.send(&Message::Begin);
    }

    /// Waits until rank 0 has work; returns the exit code if the run ends without any.
    pub(super) fn wait_for_begin(&self) -> Result<Option<u8>> {
        self.shared.lock().idle = true;
        let found = self.shared.wait(|state| match (state.begun, state.ended) {
            (_, Some(code)) => Some(Some(code)),
            (true, None) => Some(None),
            (false, None) => None,
        });
        self.shared.lock().idle = false;
        found
    }

    /// Waits until rank 0 has ended, and returns its exit code.
    pub(super) fn wait_for_end(&self) -> Result<u8> {
        self.shared.lock().idle = true;
        let code = self.shared.wait(|state| state.ended)?;
        self.shared.send(&Message::Bye);
        Ok(code)
    }

    /// Returns the exit code of rank 0, if it has ended.
    pub(super) fn ended(&self) -> Option<u8> {
        self.shared.lock().ended
    }

    /// Says that rank 0 can do the rest alone.
    pub(super) fn release(&self) {
        self.shared.lock().released = true;
    }

    /// Tells the other ranks that the run has ended.
    pub(super) fn end(&self, code: u8) {
        self.release();
        self.shared.send(&Message::End(code));
        // A message may be lost if this process closes the connection before it is read.
        let others = self.shared.size - 1;
        self.wait_at_most(FAREWELL, |state| state.answered >= others);
    }

    /// Makes the other ranks stop, because this one has failed.
    pub(super) fn fail(&self, code: u8, reason: &str) {
        let mut state = self.shared.lock();
        let first = state.stopping.replace(reason.to_owned()).is_none();
        state.released = true;
        drop(state);
        if first {
            self.shared.send(&Message::Stop { code, reason: reason.to_owned() });
        }
    }

    /// Waits for another rank to end this process, at most `limit`.
    pub(super) fn wait_for_stop(&self, limit: Duration) {
        self.wait_at_most(limit, |state| state.stopping.is_some());
    }

    fn wait_at_most(&self, limit: Duration, is_over: impl Fn(&State) -> bool) {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        while let (false, Some(left)) = (is_over(&state), end.checked_duration_since(Instant::now())) {
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: &Message) {
        self.peers.iter().for_each(|peer| peer.send(message));
    }

    /// Waits until `found` returns a value.
    fn wait<T>(&self, mut found: impl FnMut(&State) -> Option<T>) -> Result<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&state) {
                return Ok(value);
            }
            if let Some(reason) = &state.stopping {
                return Err(Error::Ranks { reason: reason.clone() });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn tick(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.ticked.is_some_and(|before| now - before > 3 * BEAT) {
            state.woke = Some(now);
        }
        state.ticked = Some(now);
        drop(state);
        self.send(&Message::Alive);
    }

    /// Returns whether this process itself was suspended, so that the silence of another means nothing.
    fn was_suspended(&self) -> bool {
        let state = self.lock();
        state.ticked.is_some_and(|at| at.elapsed() > 3 * BEAT)
            || state.woke.is_some_and(|at| at.elapsed() < SILENCE)
    }

    /// Reads the messages of a rank until it is gone.
    fn read(&self, peer: usize, stream: &TcpStream) {
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        loop {
            match lines.read_line(&mut line) {
                Ok(0) => return self.lose(peer, "its process has ended"),
                Ok(_) => {
                    if let Some(message) = Message::parse(&line) {
                        self.receive(peer, message);
                    }
                    line.clear();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !self.was_suspended() {
                        return self.lose(peer, &format!("no sign of life for {} s", SILENCE.as_secs()));
                    }
                }
                Err(_) => return self.lose(peer, "its connection broke"),
            }
        }
    }

    fn receive(&self, peer: usize, message: Message) {
        let mut state = self.lock();
        match message {
            Message::At { exchange, what } => state.at[peer] = (exchange, what),
            Message::Go(number) => state.go = number,
            Message::Begin => state.begun = true,
            Message::End(code) => state.ended = Some(code),
            Message::Bye => state.answered += 1,
            Message::Stop { code, .. } if state.idle => state.ended = Some(code),
            Message::Stop { code, reason } => {
                drop(state);
                return self.stop(code, &reason, Some(peer));
            }
            Message::Hello { .. } | Message::Welcome | Message::Alive => return,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the run on all ranks, because `peer` is gone.
    fn lose(&self, peer: usize, why: &str) {
        let state = self.lock();
        if state.released || state.ended.is_some() || state.stopping.is_some() {
            return;
        }
        drop(state);
        self.stop(1, &format!("rank {peer} of {} is lost: {why}", self.size), Some(peer));
    }

    /// Ends this process, after telling all ranks except `source`.
    fn stop(&self, code: u8, reason: &str, source: Option<usize>) {
        let mut state = self.lock();
        if state.stopping.is_some() {
            return;
        }
        state.stopping = Some(reason.to_owned());
        drop(state);
        self.changed.notify_all();
        let message = Message::Stop { code, reason: reason.to_owned() };
        for peer in self.peers.iter().filter(|peer| Some(peer.rank) != source) {
            peer.send(&message);
        }
        (self.on_end)(Ending { code, reason: reason.to_owned() });
    }
}

/// Reads the greeting of a new connection and answers it; returns the rank.
fn greeted(stream: &TcpStream, token: u64) -> Option<usize> {
    stream.set_nonblocking(false).ok()?;
    let Message::Hello { rank, token: given } = first_message(stream)? else { return None };
    if given != token {
        return None;
    }
    (&*stream).write_all(format!("{}\n", Message::Welcome).as_bytes()).ok()?;
    Some(rank)
}

/// Connects to an address and greets; `None` if nobody or another program answers.
fn welcomed(address: SocketAddr, rank: usize, token: u64) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, GREETING).ok()?;
    (&stream).write_all(format!("{}\n", Message::Hello { rank, token }).as_bytes()).ok()?;
    (first_message(&stream)? == Message::Welcome).then_some(stream)
}

/// Reads one line, byte by byte, so that nothing after it is lost.
fn first_message(stream: &TcpStream) -> Option<Message> {
    stream.set_read_timeout(Some(GREETING)).ok()?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 100 {
        let mut byte = [0];
        std::io::Read::read_exact(&mut &*stream, &mut byte).ok()?;
        line.push(byte[0]);
    }
    Message::parse(std::str::from_utf8(&line).ok()?)
}

fn unreachable(reason: String) -> Error {
    Error::Ranks { reason }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Connects `size` ranks of one process; returns each with the endings that it was told.
    fn connected(size: usize) -> Vec<(Control, Receiver<Ending>)> {
        let (listener, invitation) = listen(vec!["127.0.0.1".to_owned()], 7).expect("a port");
        let on_end = || {
            let (sender, receiver) = channel();
            let on_end: OnEnd = Box::new(move |ending| drop(sender.send(ending)));
            (on_end, receiver)
        };
        let others: Vec<_> = (1..size)
            .map(|rank| {
                let (invitation, (on_end, endings)) = (invitation.clone(), on_end());
                thread::spawn(move || {
                    (Control::connect(&invitation, rank, size, on_end).expect("it connects"), endings)
                })
            })
            .collect();
        let (first, endings) = on_end();
        let first = Control::accept(&listener, 7, size, first).expect("all connect");
        std::iter::once((first, endings))
            .chain(others.into_iter().map(|other| other.join().expect("no panic")))
            .collect()
    }

    #[test]
    fn nobody_goes_on_before_all_are_ready() {
        let ranks = connected(3);
        thread::scope(|scope| {
            for round in 1..20 {
                let ready: Vec<_> =
                    ranks.iter().map(|(rank, _)| scope.spawn(move || rank.ready(round, "sum"))).collect();
                assert!(ready.into_iter().all(|ready| ready.join().expect("no panic").is_ok()));
            }
        });
        let [first, early, slow] = [&ranks[0].0, &ranks[1].0, &ranks[2].0];
        thread::scope(|scope| {
            let early = scope.spawn(|| early.ready(20, "sum"));
            let first = scope.spawn(|| first.ready(20, "sum"));
            thread::sleep(Duration::from_millis(50));
            assert!(!early.is_finished() && !first.is_finished());
            slow.ready(20, "sum").expect("all are ready");
        });
    }

    #[test]
    fn a_rank_that_does_something_else_is_named() {
        let ranks = connected(3);
        thread::scope(|scope| {
            for (rank, what) in [(1, "sum [2]"), (2, "gather [2]")] {
                let control = &ranks[rank].0;
                scope.spawn(move || control.ready(1, what).is_err());
            }
            let error = ranks[0].0.ready(1, "sum [2]").expect_err("rank 2 differs");
            assert!(error.to_string().contains("rank 2"), "{error}");
            ranks[0].0.fail(1, "they differ");
        });
    }

    #[test]
    fn a_lost_rank_is_named_to_all_others() {
        let ranks = connected(4);
        let gone = &ranks[2].0.shared.peers[0].stream;
        gone.shutdown(std::net::Shutdown::Both).expect("it is open");
        for rank in [0, 1, 3] {
            let ending = ranks[rank].1.recv_timeout(Duration::from_secs(2)).expect("it is told");
            assert_eq!(ending.code, 1);
            assert!(ending.reason.starts_with("rank 2 of 4 is lost"), "{}", ending.reason);
            // Also if the run itself notices it before the process has ended.
            assert_eq!(ranks[rank].0.ready(1, "sum").expect_err("the run ends").to_string(), ending.reason);
        }
    }

    #[test]
    fn silence_counts_as_loss() {
        let (listener, invitation) = listen(vec!["127.0.0.1".to_owned()], 7).expect("a port");
        let silent = thread::spawn(move || {
            let address = SocketAddr::from(([127, 0, 0, 1], invitation.port));
            let stream = welcomed(address, 1, 7).expect("it is welcome");
            thread::sleep(SILENCE + GREETING);
            drop(stream);
        });
        let (sender, endings) = channel();
        let on_end: OnEnd = Box::new(move |ending| drop(sender.send(ending)));
        let _control = Control::accept(&listener, 7, 2, on_end).expect("it connects");
        let ending = endings.recv_timeout(Duration::from_secs(10)).expect("it is noticed in time");
        assert!(ending.reason.contains("rank 1 of 2") && ending.reason.contains("no sign of life"));
        silent.join().expect("no panic");
    }

    #[test]
    fn a_failed_rank_ends_the_others_with_its_code() {
        let ranks = connected(3);
        ranks[1].0.fail(74, "no space left");
        for rank in [0, 2] {
            let ending = ranks[rank].1.recv_timeout(Duration::from_secs(2)).expect("it is told");
            assert_eq!((ending.code, ending.reason.as_str()), (74, "no space left"));
        }
    }

    #[test]
    fn a_run_begins_and_ends_on_all_ranks() {
        let ranks = connected(2);
        let ((first, none), (other, nothing)) = (&ranks[0], &ranks[1]);
        first.begin();
        assert_eq!(other.wait_for_begin().expect("it begins"), None);
        thread::scope(|scope| {
            let waits = scope.spawn(|| other.wait_for_end());
            let begun = Instant::now();
            first.end(0);
            assert!(begun.elapsed() < FAREWELL);
            assert_eq!(waits.join().expect("no panic").expect("it ends"), 0);
        });
        other.shared.peers[0].stream.shutdown(std::net::Shutdown::Both).expect("it is open");
        thread::sleep(Duration::from_millis(50));
        assert!(none.try_recv().is_err() && nothing.try_recv().is_err());

        let ranks = connected(2);
        let [first, other] = [&ranks[0].0, &ranks[1].0];
        thread::scope(|scope| {
            let waits = scope.spawn(|| other.wait_for_begin());
            thread::sleep(Duration::from_millis(20));
            first.fail(75, "locked");
            assert_eq!(waits.join().expect("no panic").expect("it ends"), Some(75));
        });
    }

    #[test]
    fn strangers_are_not_let_in() {
        let (listener, invitation) = listen(vec!["127.0.0.1".to_owned()], 7).expect("a port");
        let address = SocketAddr::from(([127, 0, 0, 1], invitation.port));
        let stranger = thread::spawn(move || welcomed(address, 1, 8).is_some());
        let rank = {
            let invitation = invitation.clone();
            thread::spawn(move || Control::connect(&invitation, 1, 2, Box::new(|_| {})).is_ok())
        };
        assert!(Control::accept(&listener, 7, 2, Box::new(|_| {})).is_ok());
        assert!(!stranger.join().expect("no panic") && rank.join().expect("no panic"));
    }
}
