//! Test utilities shared by all crates: programs, temporary workspaces, golden cases, a model hub and
//! encrypted servers on localhost, damaged weight files, and the table of tolerances.
//!
//! For tests only: no program is built with it. Helpers prepare input and show outcomes; a test states the law.
//!
//! ```
//! use testutil::{Program, Sandbox};
//!
//! let sandbox = Sandbox::new();
//! sandbox.write("rows.txt", "one\n");
//! let ran = sandbox.program("cat").arg("rows.txt").run();
//! assert_eq!(ran.succeeded(), "one\n");
//! assert_eq!(Program::new("false").run().failed(1), "");
//! ```

pub mod files;
pub mod hostile;
mod http;
pub mod hub;
mod program;
mod sandbox;
pub mod strace;
pub mod tls;
pub mod tolerance;

pub use files::{golden, golden_dir, workspace_root};
pub use program::{Program, Ran, built_programs, filtered};
pub use sandbox::{SMALL_SETTINGS, Sandbox, trees};
