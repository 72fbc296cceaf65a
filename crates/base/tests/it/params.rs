//! receipts.md, section 5: parameters, seeds and draws.

use crate::golden::{Calls, cases, counting};
use lockstep_base::Digest;
use lockstep_base::cbor;
use lockstep_base::digest::hex;
use lockstep_base::params::{ONE_Q16, Parameters, TEMPERATURE_MAX_Q16, client_seed, draw, network_seed};
use proptest::prelude::*;

fn shown(parameters: &Parameters) -> [String; 6] {
    let join = |list: Vec<String>| format!("[{}]", list.join(","));
    [
        parameters.temperature_q16.to_string(),
        parameters.top_k.to_string(),
        parameters.top_p_q16.to_string(),
        parameters.max_tokens.to_string(),
        join(parameters.stop_tokens.iter().map(u32::to_string).collect()),
        join(parameters.stop.iter().map(|text| hex(text.as_bytes())).collect()),
    ]
}

#[test]
fn parameters_seeds_and_draws_are_the_golden_ones() {
    let mut calls = Calls::default();
    let rich = Parameters {
        temperature_q16: 52_429,
        top_k: 40,
        top_p_q16: 62_259,
        max_tokens: 70_000,
        stop_tokens: vec![2, 300, 70_000],
        stop: vec!["\n\n".into(), "Ende ä".into()],
    };
    for parameters in [Parameters::greedy(0), Parameters::greedy(128), rich] {
        let arguments = shown(&parameters);
        let arguments: Vec<&dyn ToString> = arguments.iter().map(|text| text as &dyn ToString).collect();
        calls.call("parameters", &arguments, &hex(&cbor::encode(&parameters)));
        calls.call("parameters_digest", &arguments, &parameters.digest());
    }
    for (seed, choice) in [(0, 0), (42, 0), (42, 1), (u64::MAX, u32::MAX)] {
        calls.call("client_seed", &[&seed, &choice], &client_seed(seed, choice));
    }
    let (task, beacon) = (Digest(counting(0)), Digest(counting(32)));
    for choice in [0, 1] {
        calls.call("network_seed", &[&task, &beacon, &choice], &network_seed(&task, &beacon, choice));
    }
    let seed = client_seed(42, 0);
    for position in [0, 1, 255, 256, 32_767, u32::MAX] {
        calls.call("draw", &[&seed, &position], &draw(&seed, position));
    }
    calls.check("params");
}

fn any_parameters() -> impl Strategy<Value = Parameters> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let stops = (prop::collection::vec(any::<u32>(), 0..4), prop::collection::vec(".{0,5}", 0..4));
    (numbers, stops).prop_map(|((temperature_q16, top_k, top_p_q16, max_tokens), (stop_tokens, stop))| {
        Parameters { temperature_q16, top_k, top_p_q16, max_tokens, stop_tokens, stop }
    })
}

#[test]
fn greedy_keeps_every_candidate() {
    let greedy = Parameters::greedy(9);
    assert_eq!((greedy.temperature_q16, greedy.top_k, greedy.top_p_q16), (0, 0, ONE_Q16));
}

#[test]
fn parameters_beyond_the_arithmetic_are_refused() {
    let refused = |parameters: Parameters| parameters.validate().map_err(|e| (e.field, e.got, e.limit));
    let hottest = Parameters { temperature_q16: TEMPERATURE_MAX_Q16, ..Parameters::greedy(1) };
    assert_eq!(hottest.validate(), Ok(()));
    let hotter = Parameters { temperature_q16: u32::MAX, ..Parameters::greedy(1) };
    assert_eq!(refused(hotter), Err(("temperature_q16", u32::MAX, TEMPERATURE_MAX_Q16)));
    let more = Parameters { top_p_q16: ONE_Q16 + 1, ..Parameters::greedy(1) };
    assert_eq!(refused(more), Err(("top_p_q16", ONE_Q16 + 1, ONE_Q16)));
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn parameters_survive_their_encoding(parameters in any_parameters()) {
        let bytes = cbor::encode(&parameters);
        prop_assert_eq!(cbor::decode::<Parameters>("parameters", &bytes), Ok(parameters));
    }

    #[test]
    fn other_parameters_have_another_digest(a in any_parameters(), b in any_parameters()) {
        prop_assert_eq!(a == b, a.digest() == b.digest());
    }

    #[test]
    fn seeds_of_clients_and_of_the_network_never_meet(seed: u64, choice: u32, task: [u8; 32], beacon: [u8; 32]) {
        let client = client_seed(seed, choice);
        prop_assert_ne!(client, network_seed(&Digest(task), &Digest(beacon), choice));
        prop_assert_ne!(client, client_seed(seed, choice ^ 1));
        prop_assert_ne!(client, client_seed(seed ^ 1, choice));
        prop_assert_ne!(draw(&client, choice), draw(&client, choice ^ 1));
    }
}
