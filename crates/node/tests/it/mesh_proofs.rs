//! Nodes prove their own stages of an answer that they served: the proofs are one file that verifies, receipts commit to what it is about, and a node that lied is
//! named (docs/claims/proofs.md).

use crate::cli::{Serving, json, run, stderr};
use crate::http::{get, post};
use crate::mesh_cli::NodeProcess;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_proof::file::{AnswerFile, Claimed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// A folder, and three nodes of the embedded model.
struct Swarm {
    folder: tempfile::TempDir,
    nodes: Vec<NodeProcess>,
}

impl Swarm {
    fn new(more: [&[&str]; 3]) -> Swarm {
        let folder = tempfile::tempdir().expect("a folder");
        let layers = ["0..1", "1..2", "2..4"];
        let start = |(layers, more): (&str, &[&str])| {
            NodeProcess::start(folder.path(), &[&["--layers", layers][..], more].concat())
        };
        let nodes = layers.into_iter().zip(more).map(start).collect();
        Swarm { folder, nodes }
    }

    fn proving() -> Swarm {
        Swarm::new([&["--prove"]; 3])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path").to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.folder.path(), args)
    }

    fn ask(&self, more: &[&str]) -> Output {
        let mut args = vec!["ask"];
        self.nodes.iter().for_each(|node| args.extend(["--node", &node.address]));
        args.extend(["--prompt", "Once upon a time", "--max-tokens", "6"]);
        args.extend(more);
        self.run(&args)
    }
}

fn receipts(path: &Path) -> ReceiptFile {
    ReceiptFile::from_bytes(&std::fs::read(path).expect("a file")).expect("receipts")
}

fn proof(path: &Path) -> AnswerFile {
    AnswerFile::from_bytes(&std::fs::read(path).expect("a file")).expect("a proof")
}

/// Drawn tokens, with the model and with a key: the roots between the proofs are those that the closing receipts carry, and `verify` computes them again.
#[test]
fn nodes_prove_what_they_served() {
    let swarm = Swarm::proving();
    let [signed, proved, key, keyed] =
        ["a.receipts", "a.proof", "a.key", "b.proof"].map(|name| swarm.text(name));
    let sampling = ["--temperature", "0.9", "--top-p", "0.9", "--seed", "4"];
    let answer = swarm.ask(&[&sampling[..], &["--proof", &proved, "--receipts", &signed]].concat());
    assert!(answer.status.success(), "{}", stderr(&answer));
    assert!(stderr(&answer).contains("by 3 nodes, verified"), "{}", stderr(&answer));
    let verified = json(&swarm.run(&["verify-proof", &proved, "--json"]));
    let text = String::from_utf8(answer.stdout).expect("UTF-8");
    assert_eq!(
        (&verified["verified"], &verified["text"]),
        (&json!(true), &json!(text.trim_end_matches('\n')))
    );

    let (file, receipts) = (proof(Path::new(&proved)), receipts(Path::new(&signed)));
    assert!(matches!(file.claimed, Claimed::Sampled(sampling) if sampling.seed == receipts.sampler_seed));
    assert_eq!((&file.tokens, file.ends()), (&receipts.tokens, vec![1, 2, 4]));
    for (stage, record) in file.stages.iter().zip(&receipts.stages) {
        let closing = &record.receipts.last().expect("a closing receipt").receipt;
        assert!(closing.provable());
        assert_eq!(stage.leaving.unwrap_or_default(), closing.commit_out.0);
    }
    assert!(swarm.run(&["verify", &signed]).status.success());
    // A commitment to other rows is a fault that re-execution finds: see the audits of the runtime. Here: a file that was changed convicts nobody.
    let mut changed = receipts;
    changed.stages[0].receipts.last_mut().expect("one").receipt.commit_out.0[0] ^= 1;
    std::fs::write(swarm.path("c.receipts"), changed.to_bytes()).expect("write");
    assert!(!swarm.run(&["verify", &swarm.text("c.receipts")]).status.success());

    // The key's stages are those of Part::split, so nodes of other parts are told.
    json(&swarm.run(&["proof-key", "--stages", "2", "--out", &key, "--json"]));
    let told = swarm.ask(&["--temperature", "0", "--proof", &keyed, "--proof-key", &key]);
    assert!(stderr(&told).contains("the key has stages that end at [2, 4]"), "{}", stderr(&told));
}

/// For who has a key and no weights: the nodes commit to their weights, or open what was kept.
#[test]
fn nodes_prove_for_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (kept, key, proved) = (text("kept"), text("a.key"), text("a.proof"));
    let made = ["proof-key", "--stages", "2", "--keep", &kept, "--out", &key, "--json"];
    json(&run(folder.path(), &made));
    let first = NodeProcess::start(folder.path(), &["--layers", "0..2", "--prove"]);
    let second = NodeProcess::start(folder.path(), &["--layers", "2..4", "--prove", "--kept", &kept]);
    let ask =
        ["ask", "--node", &first.address, "--node", &second.address, "--prompt", "Once", "--max-tokens", "3"];
    let wanted = ["--temperature", "0", "--proof", &proved, "--proof-key", &key];
    let answer = run(folder.path(), &[&ask[..], &wanted].concat());
    assert!(answer.status.success(), "{}", stderr(&answer));
    let verified = json(&run(folder.path(), &["verify-proof", &proved, "--key", &key, "--json"]));
    assert_eq!((&verified["verified"], &verified["completion_tokens"]), (&json!(true), &json!(3)));
}

/// A node that flips one bit has no proof of what it signed: it is named, and no file is written. One that proves nothing is named before anything is asked.
#[test]
fn liars_have_no_proofs() {
    let notes = tempfile::tempdir().expect("a folder");
    let note = notes.path().join("lie.txt");
    let drill = ["--prove", "--drill", note.to_str().expect("a path")];
    let swarm = Swarm::new([&["--prove"], &drill, &["--prove"]]);
    let out = swarm.text("lie.proof");
    // A bit that is rounded away changes nothing that leaves the stage: such an answer has a proof, and is right.
    let said = (0..12).find_map(|_| {
        let answer = swarm.ask(&["--temperature", "0", "--proof", &out]);
        if answer.status.success() {
            json(&swarm.run(&["verify-proof", &out, "--json"]));
            std::fs::remove_file(&out).expect("the file that was written");
            return None;
        }
        Some(stderr(&answer))
    });
    let said = said.expect("one of 12 flipped bits changes what leaves the stage");
    assert!(!swarm.path("lie.proof").exists(), "{said}");
    assert!(said.contains("stage 1 (0x") && said.contains("the proof of stage 1 does not hold"), "{said}");

    let silent = Swarm::new([&["--prove"], &[], &["--prove"]]);
    let answer = silent.ask(&["--proof", &out]);
    assert!(answer.stdout.is_empty(), "nothing is asked");
    assert!(stderr(&answer).contains("proves nothing: start it with --prove"), "{}", stderr(&answer));
}

/// The API over a route: the answer is kept, its proof is made by the nodes when it is asked for.
#[test]
fn a_gateway_serves_proofs_of_its_nodes() {
    let swarm = Swarm::proving();
    let mut args = vec!["gateway", "--proofs", "--listen", "127.0.0.1:0"];
    swarm.nodes.iter().for_each(|node| args.extend(["--node", &node.address]));
    let serving = Serving::command(swarm.folder.path(), &args);
    let model = get(serving.address(), "/v1/models").json()["data"][0]["id"].clone();
    let body = |max_tokens: u32| json!({ "model": model, "prompt": "Once upon a time", "max_tokens": max_tokens, "lockstep": { "proof": "on-request" } });
    let refused = post(serving.address(), "/v1/completions", &body(500));
    assert!(
        refused.status == 400 && refused.text().contains("leaves room for max_tokens"),
        "{}",
        refused.text()
    );
    let answer: Value = post(serving.address(), "/v1/completions", &body(4)).json();
    let id = answer["lockstep"]["choices"][0]["proof"]["id"].as_str().expect("an id").to_owned();
    let response = loop {
        let response = get(serving.address(), &format!("/v1/proofs/{id}"));
        if response.status != 202 {
            break response;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(response.status, 200, "{}", response.text());
    std::fs::write(swarm.path("api.proof"), &response.body).expect("write");
    let verified = json(&swarm.run(&["verify-proof", &swarm.text("api.proof"), "--json"]));
    assert_eq!((&verified["verified"], &verified["text"]), (&json!(true), &answer["choices"][0]["text"]));
}
