//! Compiles MLX's C interface against a prebuilt MLX and links both.
//!
//! `native/fetch.sh` puts the sources and the library into the folder named by `ASHLAR_NATIVE`
//! (default: `.native` at the workspace root); `ASHLAR_BACKEND` (`cpu`, `metal`, `cuda`) picks the library.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    println!("cargo:rerun-if-env-changed=ASHLAR_NATIVE");
    println!("cargo:rerun-if-env-changed=ASHLAR_BACKEND");
    println!("cargo:rerun-if-changed=native/format.h");
    println!("cargo:rerun-if-changed=native/host.cpp");
    println!("cargo:rerun-if-changed=native/array_over.cpp");
    let native = env::var_os("ASHLAR_NATIVE").map_or_else(|| manifest.join("../../.native"), PathBuf::from);
    let backend = env::var("ASHLAR_BACKEND").unwrap_or_else(|_| default_backend().to_owned());
    let mlx = native.join(format!("mlx-{backend}")).join("mlx");
    let mlx_c = native.join("mlx-c");
    for needed in [&mlx.join("include"), &mlx_c.join("mlx/c")] {
        assert!(
            needed.is_dir(),
            "`{}` is missing\nhint: run `make native BACKEND={backend}` (or crates/mlx-sys/native/fetch.sh {backend})",
            needed.display()
        );
    }
    // `native/fetch.sh` replaces both folders when a pin changes.
    println!("cargo:rerun-if-changed={}", mlx.join("include/mlx/version.h").display());
    println!("cargo:rerun-if-changed={}", mlx_c.display());
    compile_mlx_c(&manifest, &mlx, &mlx_c);
    link_mlx(&mlx, &backend);
}

fn default_backend() -> &'static str {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") { "metal" } else { "cpu" }
}

#[expect(clippy::disallowed_methods, reason = "a build script has no use for another dependency")]
fn compile_mlx_c(manifest: &Path, mlx: &Path, mlx_c: &Path) {
    let mut sources: Vec<PathBuf> = std::fs::read_dir(mlx_c.join("mlx/c"))
        .expect("checked above")
        .map(|entry| entry.expect("readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    sources.sort();
    sources.push(manifest.join("native/array_over.cpp"));
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .warnings(false)
        .opt_level(2)
        .flag("-include")
        .flag(manifest.join("native/format.h").to_str().expect("the checkout's path is UTF-8"))
        .include(mlx_c)
        .include(mlx.join("include"))
        .files(sources)
        .file(manifest.join("native/host.cpp"))
        .compile("mlxc");
}

fn link_mlx(mlx: &Path, backend: &str) {
    let lib = mlx.join("lib").canonicalize().expect("the wheel has a lib folder");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    // Dependents that build a program themselves can read these as DEP_MLX_LIB and DEP_MLX_INCLUDE.
    println!("cargo:lib={}", lib.display());
    println!("cargo:include={}", mlx.join("include").display());
    println!("cargo:rustc-env=ASHLAR_BACKEND={backend}");
    println!("cargo:rustc-env=ASHLAR_MLX_VERSION={}", version(&mlx.join("include/mlx/version.h")));
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        for framework in ["Foundation", "Metal", "Accelerate"] {
            println!("cargo:rustc-link-lib=framework={framework}");
        }
    }
}

/// Returns the version that MLX's header `path` declares.
#[expect(clippy::disallowed_methods, reason = "a build script has no use for another dependency")]
fn version(path: &Path) -> String {
    let header = std::fs::read_to_string(path).expect("the wheel has its header with the version");
    let part = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define MLX_VERSION_{name} ")));
        line.unwrap_or_else(|| panic!("`{}` has no MLX_VERSION_{name}", path.display())).trim().to_owned()
    };
    [part("MAJOR"), part("MINOR"), part("PATCH")].join(".")
}
