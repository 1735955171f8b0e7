//! An error message, instead of a silent death, when a mapped file is cut while it is in use.
//!
//! Reading a page behind the end of a mapped file raises `SIGBUS`. The handler looks the address up in the list of mapped
//! files; if it is in one, it prints the error and ends the process with exit code 1. Other bus errors go on to the handler
//! that was there before.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// A mapped range. Entries are never freed: the handler may walk the list at any moment.
#[derive(Debug)]
pub(crate) struct Watched {
    start: usize,
    length: usize,
    /// What to print, prepared in advance because a signal handler must not allocate.
    message: String,
    mapped: AtomicBool,
    next: *const Watched,
}

// SAFETY: `next` points to an entry that is never freed or changed; the other fields are plain or atomic.
unsafe impl Sync for Watched {}

/// The newest entry.
static NEWEST: AtomicPtr<Watched> = AtomicPtr::new(std::ptr::null_mut());
/// The action for `SIGBUS` before ours.
static EARLIER: OnceLock<libc::sigaction> = OnceLock::new();

impl Watched {
    /// Marks the range as no longer mapped.
    pub(crate) fn forget(&self) {
        self.mapped.store(false, Ordering::Release);
    }
}

/// Watches the range where `path` is mapped.
pub(crate) fn watch(start: usize, length: usize, path: &Path) -> &'static Watched {
    EARLIER.get_or_init(install);
    let message = format!(
        "error: `{}` was cut or became unreadable while it was in use\nhint: put the file back and run the same command \
         again\n",
        path.display()
    );
    let mapped = AtomicBool::new(true);
    let entry = Box::leak(Box::new(Watched { start, length, message, mapped, next: std::ptr::null() }));
    let mut newest = NEWEST.load(Ordering::Acquire);
    loop {
        entry.next = newest;
        match NEWEST.compare_exchange_weak(newest, entry, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return entry,
            Err(other) => newest = other,
        }
    }
}

/// Installs the handler and returns the action before it.
fn install() -> libc::sigaction {
    // SAFETY: both structs are plain data, for which zeros are valid; the handler has the signature of `SA_SIGINFO`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut earlier: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, &raw mut earlier);
        earlier
    }
}

/// Prints the error of the file at the faulting address. Calls only functions that are safe in a signal handler.
extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `info`; entries of the list are never freed.
    unsafe {
        let address = (*info).si_addr() as usize;
        let mut next: *const Watched = NEWEST.load(Ordering::Acquire);
        while let Some(entry) = next.as_ref() {
            let inside = address.wrapping_sub(entry.start) < entry.length;
            if inside && entry.mapped.load(Ordering::Acquire) {
                libc::write(2, entry.message.as_ptr().cast(), entry.message.len());
                libc::_exit(1);
            }
            next = entry.next;
        }
        // Not ours: the instruction faults again, under the earlier action.
        if let Some(earlier) = EARLIER.get() {
            libc::sigaction(libc::SIGBUS, earlier, std::ptr::null_mut());
        }
    }
}
