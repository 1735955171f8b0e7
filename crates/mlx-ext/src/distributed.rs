//! Groups of processes that exchange arrays through MLX's own backends.

use std::ffi::CStr;

use mlx_rs::{Array, Stream};
use mlx_sys::mlx_distributed_group;

use crate::error::{Result, check, install_handler};

/// A way in which MLX connects processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP connections between neighbours.
    Ring,
    /// Open MPI, loaded when it is first used.
    Mpi,
    /// NVIDIA's library for GPUs.
    Nccl,
    /// RDMA over Thunderbolt, between Macs.
    Jaccl,
}

impl Transport {
    /// Returns MLX's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Mpi => "mpi",
            Self::Nccl => "nccl",
            Self::Jaccl => "jaccl",
        }
    }

    fn as_c_str(self) -> &'static CStr {
        match self {
            Self::Ring => c"ring",
            Self::Mpi => c"mpi",
            Self::Nccl => c"nccl",
            Self::Jaccl => c"jaccl",
        }
    }

    /// Returns whether two ranks can pass an array to each other; MLX has no such operation on CUDA.
    pub fn passes_arrays(self) -> bool {
        self != Self::Nccl
    }

    /// Returns whether MLX of this build has it and its library can be loaded.
    pub fn is_available(self) -> bool {
        if self == Self::Mpi {
            name_mpi_library();
        }
        // SAFETY: a NUL-terminated name that lives for the length of the call.
        unsafe { mlx_sys::mlx_distributed_is_available(self.as_c_str().as_ptr()) }
    }
}

/// A group of processes, each of which is a rank.
pub struct Group {
    handle: mlx_distributed_group,
    transport: Transport,
}

impl Group {
    /// Joins the group that the environment describes, and waits for the other processes.
    ///
    /// # Errors
    ///
    /// Fails when MLX cannot use the transport or reach another process.
    pub fn join(transport: Transport) -> Result<Self> {
        install_handler();
        if transport == Transport::Mpi {
            name_mpi_library();
        }
        // SAFETY: an empty handle, which the call fills; the name lives for the length of the call.
        let (handle, status) = unsafe {
            let mut handle = mlx_sys::mlx_distributed_group_new();
            let status = mlx_sys::mlx_distributed_init(&raw mut handle, true, transport.as_c_str().as_ptr());
            (handle, status)
        };
        check(status)?;
        Ok(Self { handle, transport })
    }

    /// Returns how the processes are connected.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the number of this process, counted from 0.
    pub fn rank(&self) -> usize {
        // SAFETY: a live group.
        unsafe { mlx_sys::mlx_distributed_group_rank(self.handle) as usize }
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        // SAFETY: a live group.
        unsafe { mlx_sys::mlx_distributed_group_size(self.handle) as usize }
    }

    /// Returns the arrays of all ranks, joined along the first axis in the order of the ranks. All must have one shape.
    ///
    /// # Errors
    ///
    /// Fails when MLX refuses the operation; a lost connection is noticed when the result is evaluated.
    pub fn all_gather(&self, array: &Array) -> Result<Array> {
        // SAFETY: live handles.
        self.call(|out, stream| unsafe {
            mlx_sys::mlx_distributed_all_gather(out, array.as_ptr(), self.handle, stream)
        })
    }

    /// Returns the sum of the arrays of all ranks, added in an order that depends on the transport.
    ///
    /// # Errors
    ///
    /// As [`Group::all_gather`].
    pub fn all_sum(&self, array: &Array) -> Result<Array> {
        // SAFETY: live handles.
        self.call(|out, stream| unsafe {
            mlx_sys::mlx_distributed_all_sum(out, array.as_ptr(), self.handle, stream)
        })
    }

    /// Returns `array`; evaluating the result sends it to rank `to`.
    ///
    /// # Errors
    ///
    /// As [`Group::all_gather`].
    pub fn send(&self, array: &Array, to: usize) -> Result<Array> {
        // SAFETY: live handles.
        self.call(|out, stream| unsafe {
            mlx_sys::mlx_distributed_send(out, array.as_ptr(), to as i32, self.handle, stream)
        })
    }

    /// Returns an array with the shape and type of `like`; evaluating it receives it from rank `from`.
    ///
    /// # Errors
    ///
    /// As [`Group::all_gather`].
    pub fn receive(&self, like: &Array, from: usize) -> Result<Array> {
        // SAFETY: live handles.
        self.call(|out, stream| unsafe {
            mlx_sys::mlx_distributed_recv_like(out, like.as_ptr(), from as i32, self.handle, stream)
        })
    }

    /// Returns the array that `operation` writes to its first argument, computed on the stream that it gets.
    fn call(
        &self,
        operation: impl FnOnce(*mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> i32,
    ) -> Result<Array> {
        let stream = self.stream();
        // SAFETY: the new array is written by the operation and then becomes ours.
        unsafe {
            let mut out = mlx_sys::mlx_array_new();
            let status = operation(&raw mut out, stream.as_ptr());
            let out = Array::from_ptr(out);
            check(status).map(|()| out)
        }
    }

    /// Only NCCL exchanges arrays on a GPU; the others have no operations there.
    fn stream(&self) -> Stream {
        match self.transport {
            Transport::Nccl => Stream::thread_local_or_default(),
            Transport::Ring | Transport::Mpi | Transport::Jaccl => Stream::cpu(),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        unsafe { mlx_sys::mlx_distributed_group_free(self.handle) };
    }
}

/// Variable with the file name of Open MPI's library.
const MPI_LIBRARY: &str = "MLX_MPI_LIBNAME";

/// Makes MLX load the versioned library if the name without a version, which MLX tries, belongs to a package for developers
/// that is not installed.
fn name_mpi_library() {
    if cfg!(target_os = "macos") || std::env::var_os(MPI_LIBRARY).is_some() {
        return;
    }
    let names = [c"libmpi.so", c"libmpi.so.40"];
    let found = names.into_iter().find(|name| {
        // SAFETY: a NUL-terminated name; the library stays loaded, as MLX will load it.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        !library.is_null()
    });
    if let Some(name) = found.and_then(|name| name.to_str().ok()) {
        // SAFETY: called at the start of the program; its only other thread waits for signals and reads no variable.
        unsafe { std::env::set_var(MPI_LIBRARY, name) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_needs_no_library_and_an_environment() {
        assert!(Transport::Ring.is_available());
        let error = Group::join(Transport::Ring).err().expect("no variable names the ranks");
        assert!(error.to_string().contains("MLX_HOSTFILE"), "{error}");
    }
}
