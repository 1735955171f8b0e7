//! Files mapped into memory, and arrays over them without a copy; arrays whose memory is written in place.
//!
//! A mapping is private and writable: MLX may reuse the memory of an array that nothing else holds, and what it writes
//! stays in this process. A page that was not written shows the file.
//!
//! Reading mapped memory is as safe as reading the file. Inputs of stages are hashed before a stage uses them, and the
//! artifact is published only if size and times of every input are the same afterwards (`stage::Run`), so a file that was
//! rewritten in between fails the run. A file that was cut has no pages to show; the kernel then raises `SIGBUS`, for
//! which [`crate::bus_error`] names the file and ends the process.

use std::ffi::c_void;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use mlx_rs::{Array, Dtype};

use crate::bus_error::{Watched, watch};
use crate::bytes::{array_from_bytes, check_size};
use crate::error::{Error, Result, check, install_handler};

/// Alignment of the data of an array without a copy, and the readable bytes in front of it.
const ALIGNMENT: usize = 8;

/// Bytes in front of the data of a copy, for its alignment to vectors.
const COPY_OFFSET: usize = 64;

/// Bytes that are copied at a time, so that a copy and the pages of the file are not both in memory.
const COPIED_AT_A_TIME: usize = 4 << 20;

/// A file mapped into memory.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    start: *mut u8,
    length: usize,
    /// `None` for memory without a file.
    watched: Option<&'static Watched>,
}

// SAFETY: the memory is not tied to a thread. Rust code only reads it, through `MappedFile::bytes`; MLX orders its own uses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl MappedFile {
    /// Maps the file at `path`, which must not be empty.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = fs_err::File::open(path)?;
        let length = file.metadata()?.len() as usize;
        // The system need not keep swap space for pages that are never written.
        let mut mapping = Mapping::new(length, libc::MAP_NORESERVE, file.as_raw_fd())?;
        mapping.watched = Some(watch(mapping.start as usize, length, path));
        Ok(Self(Arc::new(mapping)))
    }

    /// Returns the length of the file when it was mapped.
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Returns an array of `shape` and `dtype` over the bytes from `start` on: on a CPU without a copy if they are aligned, else
    /// over an aligned copy.
    ///
    /// At most one array may be made of any byte, because MLX may write to it.
    ///
    /// # Errors
    ///
    /// Fails when the file is too short for the shape.
    pub fn array(&self, start: usize, shape: &[i32], dtype: Dtype) -> Result<Array> {
        install_handler();
        let left = self.0.length.saturating_sub(start);
        let bytes = check_size(left, shape, dtype)?;
        let part = Part { mapping: Arc::clone(&self.0), start, bytes };
        let fits = mlx_sys::BACKEND == "cpu" && start >= ALIGNMENT && start.is_multiple_of(ALIGNMENT);
        if fits && let Some(array) = part.share(shape, dtype)? {
            return Ok(array);
        }
        if mlx_sys::BACKEND == "cpu"
            && let Ok(copy) = part.copied()
            && let Some(array) = copy.share(shape, dtype)?
        {
            return Ok(array);
        }
        // SAFETY: the range is inside the mapping, which `part` keeps; no other array is made of it.
        let data = unsafe { std::slice::from_raw_parts(self.0.start.add(start), bytes) };
        array_from_bytes(data, shape, dtype)
    }
}

/// Returns an array of `shape` and `dtype` whose elements `write` fills in as little-endian bytes in row-major order; before that
/// they are zero. The outer result is that of the allocation, the inner one that of `write`.
///
/// On a CPU there is only one copy of the elements, and its memory goes back to the system with the array. Arrays that are joined
/// from parts need twice as much, and the parts stay with the process.
///
/// # Errors
///
/// Fails when the memory cannot be allocated, and returns the error of `write`.
pub fn written_array<E>(
    shape: &[i32],
    dtype: Dtype,
    write: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
) -> Result<std::result::Result<Array, E>> {
    install_handler();
    let bytes = check_size(isize::MAX as usize - COPY_OFFSET, shape, dtype)?;
    let part = Part::without_file(bytes).map_err(|source| Error::NoMemory { bytes, source })?;
    // SAFETY: the range is inside the new mapping, to which nothing else refers.
    let memory = unsafe { std::slice::from_raw_parts_mut(part.mapping.start.add(part.start), bytes) };
    if let Err(error) = write(memory) {
        return Ok(Err(error));
    }
    if mlx_sys::BACKEND == "cpu"
        && let Some(array) = part.share(shape, dtype)?
    {
        return Ok(Ok(array));
    }
    array_from_bytes(memory, shape, dtype).map(Ok)
}

impl Mapping {
    /// Maps `length` private bytes: of a file, or of no file if `file` is -1.
    fn new(length: usize, flags: i32, file: i32) -> io::Result<Self> {
        let flags = flags | libc::MAP_PRIVATE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; the result is checked.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length, watched: None })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(watched) = self.watched {
            watched.forget();
        }
        // SAFETY: the mapping of `open`; nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// The bytes of one array in a mapping.
struct Part {
    mapping: Arc<Mapping>,
    start: usize,
    bytes: usize,
}

impl Part {
    /// Returns `bytes` zero bytes in memory without a file, aligned to vectors.
    fn without_file(bytes: usize) -> io::Result<Self> {
        let mapping = Mapping::new(COPY_OFFSET + bytes, libc::MAP_ANONYMOUS, -1)?;
        #[cfg(target_os = "linux")]
        // SAFETY: the new mapping; a refused wish changes nothing.
        unsafe {
            libc::madvise(mapping.start.cast(), mapping.length, libc::MADV_HUGEPAGE)
        };
        Ok(Self { mapping: Arc::new(mapping), start: COPY_OFFSET, bytes })
    }

    /// Returns an aligned copy of the bytes in memory without a file. The pages of the file are given back on the way.
    fn copied(&self) -> io::Result<Self> {
        let copy = Self::without_file(self.bytes)?;
        for first in (0..self.bytes).step_by(COPIED_AT_A_TIME) {
            let bytes = COPIED_AT_A_TIME.min(self.bytes - first);
            let piece = Self { mapping: Arc::clone(&self.mapping), start: self.start + first, bytes };
            // SAFETY: both ranges are inside their mappings, which do not overlap.
            unsafe {
                let from = self.mapping.start.add(piece.start);
                let to = copy.mapping.start.add(copy.start + first);
                std::ptr::copy_nonoverlapping(from, to, bytes);
            }
        }
        Ok(copy)
    }

    /// Returns an array over the bytes; `None` if this build of MLX cannot make one.
    fn share(&self, shape: &[i32], dtype: Dtype) -> Result<Option<Array>> {
        let payload = Box::into_raw(Box::new(Self { mapping: Arc::clone(&self.mapping), ..*self }));
        let mut result = mlx_sys::mlx_array { ctx: std::ptr::null_mut() };
        // SAFETY: the range is mapped, aligned, and has the mapping's first bytes in front (`MappedFile::array`). The payload
        // keeps the mapping until MLX releases it.
        let status = unsafe {
            mlx_sys::ashlar_array_over(
                &raw mut result,
                self.mapping.start.add(self.start).cast(),
                shape.as_ptr(),
                shape.len() as i32,
                u32::from(dtype) as mlx_sys::mlx_dtype,
                payload.cast(),
                release,
            )
        };
        if status == 0 {
            // SAFETY: the handle is ours to wrap.
            return Ok(Some(unsafe { Array::from_ptr(result) }));
        }
        // SAFETY: after a failure MLX does not keep the payload, which was a box.
        drop(unsafe { Box::from_raw(payload) });
        if status == 1 { check(status).map(|()| None) } else { Ok(None) }
    }
}

impl Drop for Part {
    /// Gives back the pages that belong to this part alone; they can be read from the file again. Pages without a file
    /// would lose their contents, which the array of a copy still needs: they go with their mapping.
    fn drop(&mut self) {
        if self.mapping.watched.is_none() {
            return;
        }
        // SAFETY: only reads a setting.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let first = self.start.next_multiple_of(page);
        let end = (self.start + self.bytes) / page * page;
        if first < end {
            // SAFETY: whole pages inside the mapping that no other array uses.
            unsafe { libc::madvise(self.mapping.start.add(first).cast(), end - first, libc::MADV_DONTNEED) };
        }
    }
}

/// Called by MLX, on any thread, when nothing uses the memory of an array any more.
unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: the box of `Part::share`, released once.
    drop(unsafe { Box::from_raw(payload.cast::<Part>()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the numbers 0, 1, 2 … after 16 bytes and maps the file.
    fn mapped(folder: &Path, count: usize) -> MappedFile {
        let path = folder.join("numbers");
        let mut bytes = vec![255; 16];
        bytes.extend((0..count).flat_map(|number| (number as f32).to_le_bytes()));
        fs_err::write(&path, bytes).expect("a file can be written");
        MappedFile::open(&path).expect("a file can be mapped")
    }

    fn folder() -> std::path::PathBuf {
        let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
        let folder = std::env::temp_dir().join(format!("ashlar-mapped-{}-{thread}", std::process::id()));
        fs_err::create_dir_all(&folder).expect("a folder can be made");
        folder
    }

    #[test]
    fn arrays_show_the_file_and_outlive_the_handle_and_the_name() -> Result<()> {
        let folder = folder();
        let file = mapped(&folder, 6);
        let aligned = file.array(16, &[2, 2], Dtype::Float32)?;
        let unaligned = file.array(36, &[1], Dtype::Float32)?;
        assert!(file.array(16, &[7], Dtype::Float32).is_err(), "the file has six numbers");
        drop(file);
        fs_err::remove_dir_all(folder).expect("made above");
        assert_eq!(aligned.as_slice::<f32>(), &[0.0, 1.0, 2.0, 3.0]);
        assert_eq!(unaligned.as_slice::<f32>(), &[5.0]);
        Ok(())
    }

    #[test]
    fn a_copy_of_unaligned_bytes_keeps_its_pages() -> Result<()> {
        let folder = folder();
        let count = 3 * 4096;
        let file = mapped(&folder, count);
        // Four bytes after the first number that is aligned to eight.
        let unaligned = file.array(20, &[count as i32 - 1], Dtype::Float32)?;
        drop(file);
        fs_err::remove_dir_all(folder).expect("made above");
        let numbers = unaligned.as_slice::<f32>();
        assert!(numbers.iter().enumerate().all(|(index, &number)| number == (index + 1) as f32));
        Ok(())
    }

    #[test]
    fn a_written_array_has_what_was_written_and_zeros_elsewhere() -> Result<()> {
        let array = written_array(&[2, 2], Dtype::Float32, |bytes| {
            bytes[4..8].copy_from_slice(&1.5_f32.to_le_bytes());
            bytes[12..].copy_from_slice(&(-2.0_f32).to_le_bytes());
            Ok::<_, Error>(())
        })??;
        let sum = array.add(Array::from_f32(1.0))?;
        assert_eq!(array.as_slice::<f32>(), &[0.0, 1.5, 0.0, -2.0]);
        assert_eq!(sum.as_slice::<f32>(), &[1.0, 2.5, 1.0, -1.0]);
        let empty = written_array(&[0, 4], Dtype::Bfloat16, |_| Ok::<_, Error>(()))??;
        assert_eq!(empty.shape(), &[0, 4]);
        Ok(())
    }

    #[test]
    fn an_array_that_cannot_be_written_is_an_error() -> Result<()> {
        let found = written_array(&[4], Dtype::Float32, |_| Err::<(), _>("no file"))?;
        assert_eq!(found.expect_err("nothing was written"), "no file");
        let too_large = written_array(&[i32::MAX; 4], Dtype::Float32, |_| Ok::<_, ()>(()));
        assert!(too_large.is_err());
        Ok(())
    }

    #[test]
    fn writing_in_place_stays_in_the_process_and_away_from_other_arrays() -> Result<()> {
        let folder = folder();
        let count = 3 * 4096;
        let file = mapped(&folder, count);
        let middle = file.array(16 + 4 * 4096, &[4096], Dtype::Float32)?;
        let last = file.array(16 + 8 * 4096, &[4096], Dtype::Float32)?;
        let mut value = middle;
        // The only holder: MLX computes in the same memory.
        for _ in 0..3 {
            value = value.add(Array::from_f32(1.0))?;
            value.eval()?;
        }
        assert_eq!(value.as_slice::<f32>()[..2], [4099.0, 4100.0]);
        // Dropping another array does not give back pages that the first one has written.
        drop(last);
        assert_eq!(value.as_slice::<f32>()[4095], 8194.0);
        drop((value, file));
        let again = MappedFile::open(&folder.join("numbers")).expect("it is still there");
        let again = again.array(16, &[count as i32], Dtype::Float32)?;
        assert_eq!(again.as_slice::<f32>()[4096], 4096.0, "the file is unchanged");
        fs_err::remove_dir_all(folder).expect("made above");
        Ok(())
    }
}
