//! `lockstep eval-suite`: models in our formats and llama.cpp's, and what could not be had.

use crate::cli::{json, lockstep};

#[test]
fn small_models_are_judged_and_public_ones_are_not_run() {
    let Some(data) = std::env::var_os("LOCKSTEP_DATA") else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "LOCKSTEP_DATA is not set");
        eprintln!("SKIP small_models_are_judged_and_public_ones_are_not_run: LOCKSTEP_DATA is not set");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let mut command = lockstep(home.path());
    command.arg("eval-suite").arg("--data").arg(data).args(["--model", "absent=/nowhere", "--tokens", "200"]);
    command.args(["--generated", "0", "--calibration-tokens", "200", "--json"]);
    let suite = json(&command.output().unwrap());
    let models = suite["models"].as_array().expect("models");
    let find =
        |name: &str| models.iter().find(|m| m["model"] == name).unwrap_or_else(|| panic!("{name}: {suite}"));
    for name in ["stories260K", "BabyLlama"] {
        let formats = &find(name)["formats"];
        for format in ["int8", "int4", "q8_0", "q4_0"] {
            let kl =
                formats[format]["mean_kl"].as_f64().unwrap_or_else(|| panic!("{name} {format}: {suite}"));
            assert!(kl > 0.0 && kl < 0.5, "{name} {format}: {kl}");
        }
        assert!(formats.get("q4_k_m").is_none(), "256 does not divide the widths of {name}: {suite}");
        let kl = |format: &str| formats[format]["mean_kl"].as_f64().unwrap();
        assert!(kl("int8") < kl("int4"), "{name}: {suite}");
    }
    for name in ["absent", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "meta-llama/Llama-3.2-1B"] {
        assert!(find(name)["not_run"].as_str().is_some_and(|reason| !reason.is_empty()), "{suite}");
    }
}
