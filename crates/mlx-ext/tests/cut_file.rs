//! A file that is cut while it is mapped ends the process with an error that names it.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use mlx_ext::MappedFile;
use mlx_rs::Dtype;

/// Set in the process that cuts the file.
const FILE: &str = "ASHLAR_TEST_CUT_FILE";

/// Maps the file, cuts it, and reads it.
fn cut(path: &Path) {
    let count = 1 << 16;
    fs_err::write(path, vec![0; 4 * count + 8]).expect("a file can be written");
    let array = MappedFile::open(path).expect("it exists").array(8, &[count as i32], Dtype::Float32);
    let array = array.expect("it is long enough");
    fs_err::OpenOptions::new().write(true).open(path).expect("it exists").set_len(0).expect("it can be cut");
    let sum = array.sum(None).expect("a sum").item_exact::<f32>();
    unreachable!("the sum {sum} of nothing");
}

#[test]
fn a_file_that_is_cut_while_it_is_used_is_named() {
    if let Some(path) = std::env::var_os(FILE) {
        return cut(Path::new(&path));
    }
    let path = std::env::temp_dir().join(format!("ashlar-cut-{}", std::process::id()));
    let program = std::env::current_exe().expect("a test is a program");
    let output = Command::new(program)
        .args(["--exact", "a_file_that_is_cut_while_it_is_used_is_named", "--nocapture"])
        .env(FILE, &path)
        .output()
        .expect("the test can be started again");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let expected = format!(
        "error: `{}` was cut or became unreadable while it was in use\nhint: put the file back and run the same \
         command again\n",
        path.display()
    );
    assert!(message.ends_with(&expected), "{message}");
    fs_err::remove_file(path).expect("made above");
}
