//! Messages and data that several tests use: one of every kind.

use lockstep_base::Digest;
use lockstep_base::keys::{CompactSignature, NodeId, NodeKey};
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt::WireReceipt;
use lockstep_base::receipt_file::ServedLeaf;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::{Batch, Data, Values};
use lockstep_mesh::message::{
    Alternative, Fault, Hello, Info, Leaves, Logprobs, Message, NextHop, Open, ProofPage, Prove, Token,
};
use proptest::test_runner::{Config, RngSeed};

/// Properties run the same cases everywhere; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` choose others.
pub(crate) fn cases(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// The task of all samples.
pub(crate) const TASK: Digest = Digest([0x11; 32]);

pub(crate) fn key(n: u8) -> NodeKey {
    NodeKey::from_bytes(&[n; 32]).expect("a small number is a key")
}

pub(crate) fn id(n: u8) -> NodeId {
    key(n).id()
}

/// An `Open` for the middle one of three stages.
pub(crate) fn open() -> Open {
    Open {
        task: TASK,
        stage: 1,
        part: Part::layers(2..4, 6),
        model_root: Digest([0x22; 32]),
        opset: "lockstep-1".into(),
        secrets: TaskSecret([0x33; 32]).stage(1),
        parameters_digest: Parameters::greedy(8).digest(),
        parameters: None,
        sampler_seed: Digest([0x44; 32]),
        positions: 100,
        full_trace: true,
        logprobs: Some(5),
        audit_class: Digest::ZERO,
        previous: id(1),
        next: Some(NextHop { node: id(3), address: "/ip4/127.0.0.1/tcp/4003".into() }),
        adapter: Digest([0x88; 32]),
        provable: false,
        held: false,
    }
}

/// One message of every kind.
pub(crate) fn messages() -> Vec<Message> {
    let receipt = WireReceipt {
        stage: 2,
        flags: 3,
        span: 5,
        out_root: Digest([0x55; 32]),
        state_root: Digest([0x66; 32]),
        commit_out: Digest::ZERO,
        signature: CompactSignature([0x77; 64]),
    };
    let provable = WireReceipt { flags: 7, commit_out: Digest([0x99; 32]), ..receipt.clone() };
    let logprobs = Logprobs {
        chosen: -5,
        max: 900,
        weight_sum: 1 << 40,
        frac: 12,
        top: vec![Alternative { token: 3, logit: 900 }, Alternative { token: 70_000, logit: -70_000 }],
    };
    let last = Open {
        stage: 2,
        part: Part::layers(4..6, 6),
        parameters: Some(Parameters {
            stop_tokens: vec![2],
            stop: vec!["\n\n".into()],
            ..Parameters::greedy(8)
        }),
        logprobs: None,
        full_trace: false,
        next: None,
        adapter: Digest::ZERO,
        provable: true,
        ..open()
    };
    vec![
        Message::Hello(Hello { versions: vec![1], agent: "lockstep/0.1.0".into() }),
        Message::Info(Box::new(Info {
            versions: vec![1, 2],
            agent: "lockstep/0.1.0".into(),
            public_key: key(2).public(),
            model_root: Digest([0x22; 32]),
            opset: "lockstep-1".into(),
            model: "tiny".into(),
            part: Part::layers(2..4, 6),
            n_layers: 6,
            d_model: 256,
            vocab: 512,
            context: 1024,
            tasks_max: 64,
            tasks_open: 3,
            adapters: vec![Digest([0x88; 32]), Digest([0x99; 32])],
            proves: true,
        })),
        Message::Open(Box::new(open())),
        Message::Open(Box::new(last)),
        Message::Opened { task: TASK },
        Message::Token(Token { task: TASK, branch: 0, position: 41, token: 7, logprobs: None }),
        Message::Token(Token { task: TASK, branch: 0, position: 41, token: 7, logprobs: Some(logprobs) }),
        Message::Receipt { task: TASK, receipt },
        Message::Receipt { task: TASK, receipt: provable },
        Message::Close { task: TASK, end: 77 },
        Message::Closed { task: TASK },
        Message::Cancel { task: TASK },
        Message::Probe { task: TASK },
        Message::Progress { task: TASK, computed: 64, received: 70 },
        Message::Rewire { task: TASK, previous: id(4) },
        Message::Rewired { task: TASK, previous: id(4), received: 70 },
        Message::Resend {
            task: TASK,
            next: NextHop { node: id(5), address: "/ip4/127.0.0.1/tcp/4005".into() },
            from: Some(64),
            until: 576,
        },
        Message::Resend {
            task: TASK,
            next: NextHop { node: id(5), address: "/ip4/127.0.0.1/tcp/4005".into() },
            from: None,
            until: u32::MAX,
        },
        Message::Lost { task: TASK, peer: id(4), code: Code::PeerLost },
        Message::LeavesRequest { task: TASK, first_token: 32, page: 0 },
        Message::Leaves(Leaves {
            task: TASK,
            first_token: 32,
            page: 0,
            pages: 1,
            leaves: vec![
                ServedLeaf { position: 32, layer: 2, op: 7, chunk: 0, bytes: vec![1, 2, 3] },
                ServedLeaf { position: 32, layer: 2, op: 22, chunk: 1, bytes: Vec::new() },
            ],
        }),
        Message::Error(Fault::new(
            Some(TASK),
            Code::Position,
            Some(1),
            "data begin at position 7, expected 6",
        )),
        Message::Error(Fault::new(None, Code::Malformed, None, "frame version 9")),
        Message::Prove(Box::new(Prove {
            task: TASK,
            tokens: vec![1, 2, 70_000],
            generated: 2,
            parameters: Parameters::greedy(8),
            weights: Some(Digest([0xaa; 32])),
        })),
        Message::ProofRequest { task: TASK, page: 1 },
        Message::Proof(ProofPage { task: TASK, page: 1, pages: 2, bytes: vec![4, 5, 6] }),
    ]
}

/// One data frame of every kind.
pub(crate) fn data() -> Vec<Data> {
    let batch = |values, count, sample_from| {
        Data::Batch(Batch { task: TASK, branch: 0, position: 40, count, sample_from, values })
    };
    vec![
        batch(Values::Tokens(vec![1, 2, 70_000]), 3, 42),
        batch(Values::Rows(vec![1, -1, (1 << 29) - 1, 1 - (1 << 29)]), 2, 42),
        Data::Truncate { task: TASK, branch: 0, position: 33 },
    ]
}
