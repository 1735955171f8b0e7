//! Starting a program on several ranks: over a ring on one machine or in network namespaces, or with `mpirun`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testutil::{Program, Ran};

/// Longer than any run of a test, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Processes that share a run, with their streams in files.
pub(crate) struct Ranks {
    children: Vec<Child>,
    folder: PathBuf,
}

/// What the ranks have printed, and how they ended.
pub(crate) struct Ended {
    /// Of each rank.
    pub(crate) ran: Vec<Ran>,
    /// From the call until the last one had ended.
    pub(crate) took: Duration,
}

impl Ranks {
    /// Starts a ring of processes, each made by `program` for its number.
    pub(crate) fn ring(folder: &Path, size: usize, program: impl Fn(usize) -> Program) -> Result<Self> {
        let addresses = (0..size).map(|_| Ok(format!("127.0.0.1:{}", free_port()?)));
        Self::ring_at(folder, &addresses.collect::<Result<Vec<_>>>()?, program)
    }

    /// Starts a ring of processes at the given addresses.
    pub(crate) fn ring_at(
        folder: &Path,
        addresses: &[String],
        program: impl Fn(usize) -> Program,
    ) -> Result<Self> {
        fs_err::create_dir_all(folder)?;
        let hosts = folder.join("hosts.json");
        let lists: Vec<[&String; 1]> = addresses.iter().map(|address| [address]).collect();
        fs_err::write(&hosts, serde_json::to_string(&lists)?)?;
        let children = (0..addresses.len()).map(|rank| {
            let mut program = program(rank);
            program.env("MLX_HOSTFILE", &hosts).env("MLX_RANK", rank.to_string());
            into_files(&mut program, folder, rank)?;
            Ok(program.spawn())
        });
        Ok(Self { children: children.collect::<Result<_>>()?, folder: folder.to_owned() })
    }

    /// Starts `mpirun` with `size` ranks of a program; it is the only child, with the streams of all ranks.
    pub(crate) fn mpi(folder: &Path, size: usize, program: &Path, arguments: &[String]) -> Result<Self> {
        fs_err::create_dir_all(folder)?;
        let mut run = mpirun_of(size, program, arguments);
        into_files(&mut run, folder, 0)?;
        Ok(Self { children: vec![run.spawn()], folder: folder.to_owned() })
    }

    /// Returns the processes that `mpirun` has started.
    pub(crate) fn started_by_mpi(&self) -> Result<Vec<Pid>> {
        let found = Program::new("pgrep").args(["-P", &self.children[0].id().to_string()]).run();
        let ids = found.stdout.lines().map(|id| Pid::from_raw(id.parse()?).context("a process has an id"));
        ids.collect()
    }

    /// Sends a signal to a rank; an error if it has ended.
    pub(crate) fn signal(&self, rank: usize, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.children[rank].id().cast_signed()).context("a child has an id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Returns what a rank has printed to stderr so far.
    pub(crate) fn said(&self, rank: usize) -> String {
        fs_err::read_to_string(self.folder.join(format!("{rank}.stderr"))).unwrap_or_default()
    }

    /// Returns the peak of a running rank's resident memory, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_memory(&self, rank: usize) -> Result<u64> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.children[rank].id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Waits until a rank has printed a text, or has ended.
    pub(crate) fn wait_for(&mut self, rank: usize, text: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.said(rank).contains(text) && self.children[rank].try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "rank {rank} never said `{text}`:\n{}", self.said(rank));
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Returns whether rank 0 has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.children[0].try_wait()?.is_some())
    }

    /// Waits until all ranks have ended, except `without`.
    pub(crate) fn wait_without(&mut self, without: &[usize]) -> Result<Ended> {
        let begun = Instant::now();
        for rank in (0..self.children.len()).filter(|rank| !without.contains(rank)) {
            while self.children[rank].try_wait()?.is_none() {
                if begun.elapsed() > PATIENCE {
                    let said: Vec<String> = (0..self.children.len()).map(|rank| self.said(rank)).collect();
                    self.kill();
                    anyhow::bail!("rank {rank} goes on for ever:\n{}", said.join("\n---\n"));
                }
                sleep(Duration::from_millis(5));
            }
        }
        let took = begun.elapsed();
        let mut ran = Vec::new();
        for (rank, child) in self.children.iter_mut().enumerate() {
            let Some(status) = child.try_wait()? else { continue };
            let read = |stream: &str| fs_err::read_to_string(self.folder.join(format!("{rank}.{stream}")));
            ran.push(Ran { stdout: read("stdout")?, stderr: read("stderr")?, ..status.into() });
        }
        Ok(Ended { ran, took })
    }

    /// Waits until all ranks have ended.
    pub(crate) fn wait(&mut self) -> Result<Ended> {
        self.wait_without(&[])
    }

    fn kill(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ended {
    /// Returns the path that rank 0 printed; the others must have printed nothing.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        for (rank, ran) in self.ran.iter().enumerate().skip(1) {
            ensure!(ran.code == Some(0), "rank {rank}: {ran:?}");
            ensure!(ran.stdout.is_empty(), "rank {rank} printed {}", ran.stdout);
        }
        Ok(self.ran[0].path())
    }
}

/// Runs a program on `size` ranks with `mpirun`; the streams of all ranks are joined.
pub(crate) fn mpirun(folder: &Path, size: usize, program: &Path, arguments: &[String]) -> Result<Ran> {
    fs_err::create_dir_all(folder)?;
    Ok(mpirun_of(size, program, arguments).run())
}

fn mpirun_of(size: usize, program: &Path, arguments: &[String]) -> Program {
    let mut run = Program::new("mpirun");
    run.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    run.args(["--oversubscribe", "-n", &size.to_string()]).arg(program).args(arguments);
    run
}

/// Returns whether `mpirun` can be started.
pub(crate) fn has_mpirun() -> bool {
    let mut found = std::process::Command::new("mpirun");
    found.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    found.status().is_ok_and(|status| status.success())
}

/// Network namespaces with an address each, joined by a bridge; removed when dropped.
pub(crate) struct Namespaces {
    names: Vec<String>,
    bridge: String,
}

impl Namespaces {
    /// Makes `count` namespaces, with connections as slow as `tc` can make them here; fails with the reason on a machine that cannot.
    pub(crate) fn new(count: usize) -> Result<Self, String> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        // The devices of a deleted namespace stay for a moment, so no name is used twice. Names have at most 15 characters.
        let id = format!("{}{}", std::process::id() % 100_000, MADE.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("ash{id}");
        let made = Self { names: (0..count).map(|rank| format!("ash{id}-{rank}")).collect(), bridge };
        let bridge = made.bridge.as_str();
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&["link", "set", bridge, "up"])?;
        for (rank, name) in made.names.iter().enumerate() {
            let (outer, inner) = (format!("{bridge}o{rank}"), format!("{bridge}i{rank}"));
            ip(&["netns", "add", name])?;
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner])?;
            ip(&["link", "set", &inner, "netns", name])?;
            ip(&["link", "set", &outer, "master", bridge, "up"])?;
            ip(&["-n", name, "addr", "add", &format!("{}/24", address(rank)), "dev", &inner])?;
            ip(&["-n", name, "link", "set", &inner, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            if let Err(reason) = limit(name, &inner) {
                println!("skipped: no limit of the connection: {reason}");
            }
        }
        Ok(made)
    }

    /// Returns the address of a rank, with a port.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.names.len()).map(|rank| format!("{}:5000", address(rank))).collect()
    }

    /// Returns a program that runs in the namespace of a rank.
    pub(crate) fn program(&self, rank: usize, path: &Path) -> Program {
        let mut program = Program::new("ip");
        program.args(["netns", "exec", &self.names[rank]]).arg(path);
        program
    }

    /// Cuts the connection of a rank.
    pub(crate) fn cut(&self, rank: usize) -> Result<(), String> {
        ip(&["link", "set", &format!("{}o{rank}", self.bridge), "down"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "delete", name]);
        }
        let _ = ip(&["link", "delete", &self.bridge]);
    }
}

/// Limits what a device sends to 1 Gbit/s, with a delay if the kernel has one.
fn limit(namespace: &str, device: &str) -> Result<(), String> {
    let add = |queue: &[&str]| {
        let tc = ["netns", "exec", namespace, "tc", "qdisc", "add", "dev", device, "root"];
        ip(&[&tc[..], queue].concat())
    };
    add(&["netem", "delay", "1ms", "rate", "1gbit"])
        .or_else(|_| add(&["tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"]))
}

fn address(rank: usize) -> String {
    format!("10.77.0.{}", rank + 1)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let mut command = std::process::Command::new("ip");
    let output = command.args(arguments).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("`ip`: {error}")),
    }
}

fn into_files(program: &mut Program, folder: &Path, rank: usize) -> Result<()> {
    let file = |stream: &str| fs_err::File::create(folder.join(format!("{rank}.{stream}")));
    program.command().stdout(file("stdout")?.into_parts().0).stderr(file("stderr")?.into_parts().0);
    Ok(())
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
