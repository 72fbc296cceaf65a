//! The assembly file of the AArch64 kernel, assembled by Debian's cross compiler and run under
//! `qemu-aarch64` against the scalar specification, on machines of any kind. (On AArch64 itself the
//! kernel also stands in the law suite, as `neon`.)
//!
//! Needs `aarch64-linux-gnu-gcc` and `qemu-aarch64` (Debian: gcc-aarch64-linux-gnu,
//! libc6-dev-arm64-cross, qemu-user); `LOCKSTEP_PEERS=install` lets the test install them, `off` use
//! none.

use super::matrix::{Fill, Matrix};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];
const TOKENS: usize = 4;
const ROWS: usize = 4;

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn missing() -> Option<&'static str> {
    ["aarch64-linux-gnu-gcc", "qemu-aarch64"].into_iter().find(|tool| {
        let run = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        !run.is_ok_and(|status| status.success())
    })
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One panel and four tokens: the driver's input, and the sums that the specification gives.
fn case(format: WeightFormat, cols: usize, fills: [Fill; 2], seed: u64) -> (Vec<u8>, Vec<i32>) {
    let mut rng = SplitMix64::new(seed);
    let matrix = Matrix::new(format, ROWS, cols, fills[0], &mut rng);
    let x = fills[1].vector(TOKENS * cols, &mut rng);
    let bits = if format == WeightFormat::Int4 { 4 } else { 8 };
    let head = [bits, cols / 16, matrix.tables.len()];
    let mut input: Vec<u8> = head.iter().flat_map(|n| (*n as u32).to_le_bytes()).collect();
    input.extend_from_slice(&matrix.linear.codes);
    if format == WeightFormat::Int4 {
        input.extend_from_slice(&matrix.linear.table_ids);
        input.extend(matrix.tables.iter().flatten().map(|entry| *entry as u8));
    }
    input.extend(x.iter().map(|code| *code as u8));
    (input, matrix.dot_products(&x))
}

#[test]
fn assembly_agrees_with_the_specification() {
    let mode = std::env::var("LOCKSTEP_PEERS").unwrap_or_default();
    if mode == "off" {
        eprintln!("SKIP neon: LOCKSTEP_PEERS=off");
        return;
    }
    if missing().is_some() && mode == "install" {
        succeed(Command::new("apt-get").args(["install", "-y", "--no-install-recommends"]).args(PACKAGES));
    }
    if let Some(tool) = missing() {
        eprintln!("SKIP neon: {tool} is not installed (Debian: {})", PACKAGES.join(", "));
        return;
    }
    let folder = Folder(std::env::temp_dir().join(format!("lockstep-neon-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).expect("a folder for temporary files");
    let (root, program) = (Path::new(env!("CARGO_MANIFEST_DIR")), folder.0.join("driver"));
    let mut compile = Command::new("aarch64-linux-gnu-gcc");
    compile.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(&program);
    compile.arg(root.join("tests/it/kernels/neon.c")).arg(root.join("src/kernels/aarch64/dot.s"));
    succeed(&mut compile);

    let mut cases = Vec::new();
    let fills = [Fill::Uniform, Fill::Extremes, Fill::Bytes, Fill::Constant(-128), Fill::Constant(127)];
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        for cols in [32, 64, 96, 2048, 5632, 65_536] {
            for (i, fill) in fills.into_iter().enumerate() {
                let codes = fills[(i + cols / 32) % fills.len()];
                cases.push((
                    format!("{format:?} {cols} {fill:?} {codes:?}"),
                    case(format, cols, [fill, codes], i as u64),
                ));
            }
        }
    }
    // `-cpu max` has sdot.
    let mut child = Command::new("qemu-aarch64")
        .args(["-cpu", "max"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-aarch64 starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input: Vec<u8> = cases.iter().flat_map(|(_, (input, _))| input.clone()).collect();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the driver ends");
    writer.join().expect("the writer ends").expect("the driver reads everything");
    assert!(output.status.success(), "the driver: {}", output.status);
    let sums: Vec<i32> = output.stdout.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
    assert_eq!(sums.len(), cases.len() * 2 * TOKENS * ROWS, "sums of all cases");
    for ((name, (_, expected)), got) in cases.iter().zip(sums.chunks(2 * TOKENS * ROWS)) {
        assert_eq!(got[..TOKENS * ROWS], expected[..], "four tokens at once, {name}");
        assert_eq!(got[TOKENS * ROWS..], expected[..], "one token at a time, {name}");
    }
}
