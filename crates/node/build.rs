//! Says whether there is a model to embed: the very first build of the tool that makes it has none.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(lockstep_default_model)");
    println!("cargo:rerun-if-changed=assets/default.lockstep");
    if std::path::Path::new("assets/default.lockstep").is_file() {
        println!("cargo:rustc-cfg=lockstep_default_model");
    }
}
