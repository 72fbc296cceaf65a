//! Small networks of docs/spec/nets.md: every value of one example, node by node.

use super::file::{Fields, Out};
use super::ops::{matrix, scalar};
use lockstep_base::net::{Graph, Input, NET_OPSET, Net, Op, Shape, Window};
use lockstep_runtime::arith::RangeError;
use lockstep_runtime::net::{NetObserver, run};
use lockstep_runtime::observe::Values;

/// Writes every value down: `v1` is what node 0 gives.
struct Notes(Out);

impl NetObserver for Notes {
    fn output(&mut self, node: usize, _example: usize, values: Values<'_>) {
        let out = std::mem::take(&mut self.0);
        let key = format!("v{}", node + 1);
        self.0 = match values {
            Values::Codes8(x, step) => {
                out.list(&key, x).one(&format!("{key}.k"), step.k).one(&format!("{key}.f"), step.f)
            }
            Values::I32(x) => out.list(&key, x),
            other => panic!("{other:?} is no value of a network"),
        };
    }
}

fn node(words: &[String]) -> Op {
    let numbers: Vec<i64> = words[1..].iter().map(|word| word.parse().expect("a number")).collect();
    let at = |at: usize| numbers[at] as u32;
    let pads = |from: usize| [at(from), at(from + 1), at(from + 2), at(from + 3)];
    let window = |from: usize| Window {
        kernel: [at(from), at(from + 1)],
        strides: [at(from + 2), at(from + 3)],
        pads: pads(from + 4),
    };
    match words[0].as_str() {
        "pad" => Op::Pad { input: at(0), pads: pads(1) },
        "quantise" => Op::Quantise { input: at(0) },
        "linear" => Op::Linear { input: at(0), weights: at(1) },
        "conv" => Op::Conv { input: at(0), weights: at(1), window: window(2) },
        "relu" => Op::Relu { input: at(0) },
        "max_pool" => Op::MaxPool { input: at(0), window: window(1) },
        "flatten" => Op::Flatten { input: at(0) },
        "add" => Op::Add { left: at(0), right: at(1), frac: numbers[2] as i8 },
        op => panic!("unknown op {op}"),
    }
}

/// The network of fields `node0`, `node1`, ... and matrices `m0.`, `m1.`, ...
pub(super) fn compute(input: &Fields) -> Result<Out, RangeError> {
    let shape = input.list::<u32>("shape");
    let nodes = (0..).map_while(|at| {
        let key = format!("node{at}");
        input.has(&key).then(|| node(input.words(&key)))
    });
    let weights = (0..).map_while(|at| {
        let prefix = format!("m{at}.");
        input.has(&format!("{prefix}cols")).then(|| matrix(input, &prefix))
    });
    let graph = Graph {
        opset: NET_OPSET.into(),
        name: "golden".into(),
        input: Input {
            shape: Shape { height: shape[0], width: shape[1], channels: shape[2] },
            frac: input.one("F"),
            low: input.one("low"),
            high: input.one("high"),
        },
        nodes: nodes.collect(),
    };
    let net = Net::new(graph, weights.collect()).expect("a network of the specification");
    let mut notes = Notes(Out::default());
    run(&scalar(), &net, &input.list::<i32>("x"), &mut notes).expect("in bounds");
    Ok(notes.0)
}
