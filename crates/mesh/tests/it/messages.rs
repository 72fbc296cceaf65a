//! Control messages: one encoding, limits by name, nothing panics.

use crate::samples::{TASK, cases, messages, open};
use lockstep_base::cbor::CborError;
use lockstep_base::limits::CONTEXT_MAX;
use lockstep_base::params::Parameters;
use lockstep_base::receipt_file::ServedLeaf;
use lockstep_mesh::code::Code;
use lockstep_mesh::limits::{ADDRESS_MAX, CONTROL_PAYLOAD_MAX, ERROR_TEXT_MAX, LEAVES_PAGE_BYTES};
use lockstep_mesh::message::{
    Alternative, Fault, Hello, Leaves, Logprobs, Message, MessageError, NextHop, Open, Token,
};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn garbage_is_no_message(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::from_bytes(&bytes) {
            prop_assert_eq!(message.to_bytes(), bytes);
        }
    }

    /// Bytes changed, cut or added: refused, or another message in its one encoding.
    #[test]
    fn changed_messages_are_refused_or_others(
        which in 0usize..17,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        tail in vec(any::<u8>(), 0..4),
        whole: bool,
    ) {
        let mut bytes = messages()[which].to_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
            bytes.extend(tail);
        }
        if let Ok(message) = Message::from_bytes(&bytes) {
            prop_assert_eq!(message.to_bytes(), bytes);
        }
    }
}

/// Long integer forms and indefinite lengths say the same and are refused all the same.
#[test]
fn other_encodings_of_a_message_are_refused() {
    let honest = Message::Close { task: TASK, end: 7 }.to_bytes();
    // [6, [task, 7]] with 7 as a two-byte integer.
    let mut long = honest[..honest.len() - 1].to_vec();
    long.extend_from_slice(&[0x18, 7]);
    let error = Message::from_bytes(&long).unwrap_err();
    assert!(matches!(error, MessageError::Cbor(CborError::NotCanonical { .. })), "{error}");
    let mut tail = honest;
    tail.push(0);
    assert!(Message::from_bytes(&tail).is_err());
}

/// A hostile length costs no memory.
#[test]
fn announced_lengths_are_not_believed() {
    // [12, [[task, 0, 0, 1, array of 2^32 - 1 leaves]]]
    let mut bytes = vec![0x82, 12, 0x81, 0x85, 0x58, 32];
    bytes.extend_from_slice(&TASK.0);
    bytes.extend_from_slice(&[0, 0, 1, 0x9a, 0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(Message::from_bytes(&bytes), Err(MessageError::Cbor(_))));
}

#[test]
fn limits_are_named() {
    let with = |change: fn(&mut Open)| {
        let mut open = open();
        change(&mut open);
        Message::Open(Box::new(open))
    };
    let parameters = |parameters| {
        let mut open = open();
        open.parameters = Some(parameters);
        Message::Open(Box::new(open))
    };
    let greedy = || Parameters::greedy(1);
    let top = vec![Alternative { token: 0, logit: 0 }; 21];
    let logprobs = Some(Logprobs { chosen: 0, max: 0, weight_sum: 0, frac: 0, top });
    let leaf = ServedLeaf { position: 0, layer: 0, op: 0, chunk: 0, bytes: vec![0; 2049] };
    let cases = [
        (Message::Hello(Hello { versions: vec![1; 17], agent: String::new() }), "versions"),
        (Message::Hello(Hello { versions: vec![1], agent: "x".repeat(129) }), "agent"),
        (with(|open| open.opset = "x".repeat(33)), "opset"),
        (with(|open| open.positions = CONTEXT_MAX + 1), "positions"),
        (with(|open| open.logprobs = Some(21)), "logprobs"),
        (
            with(|open| {
                open.next =
                    Some(NextHop { address: "x".repeat(ADDRESS_MAX + 1), ..open.next.clone().unwrap() });
            }),
            "next address",
        ),
        (parameters(Parameters { temperature_q16: (16 << 16) + 1, ..greedy() }), "temperature"),
        (parameters(Parameters { top_p_q16: 65_537, ..greedy() }), "top_p"),
        (parameters(Parameters { stop_tokens: vec![0; 65], ..greedy() }), "stop_tokens"),
        (parameters(Parameters { stop: vec![String::new(); 17], ..greedy() }), "stop"),
        (parameters(Parameters { stop: vec!["x".repeat(1025)], ..greedy() }), "a stop text"),
        (Message::Token(Token { task: TASK, branch: 0, position: 0, token: 0, logprobs }), "top"),
        (
            Message::Leaves(Leaves { task: TASK, first_token: 0, page: 0, pages: 1, leaves: vec![leaf] }),
            "bytes of a leaf",
        ),
        (Message::Error(Fault { task: None, code: Code::Busy, stage: None, text: "x".repeat(1025) }), "text"),
    ];
    for (message, expected) in cases {
        match Message::from_bytes(&message.to_bytes()) {
            Err(MessageError::Limit { field, got, limit }) => {
                assert_eq!(field, expected);
                assert!(got > limit);
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn fault_texts_are_cut_between_characters() {
    let fault = Fault::new(None, Code::Busy, None, &"é".repeat(ERROR_TEXT_MAX));
    assert_eq!(fault.text, "é".repeat(ERROR_TEXT_MAX / 2));
}

/// A node's text is shown to people: it cannot steer their terminal, and what we say has none either.
#[test]
fn fault_texts_steer_no_terminal() {
    let text = "\u{1b}[2Jall is well\r\n";
    let hostile = Fault { task: None, code: Code::Busy, stage: None, text: text.into() };
    let read = Message::from_bytes(&Message::Error(hostile).to_bytes());
    assert!(matches!(read, Err(MessageError::Control { field: "text" })), "{read:?}");
    let said = Message::Error(Fault::new(None, Code::Busy, None, text));
    assert_eq!(Message::from_bytes(&said.to_bytes()), Ok(said));
}

/// The largest page of leaves that a node sends fits into a message.
#[test]
fn a_full_page_of_leaves_fits() {
    let tiny = ServedLeaf { position: u32::MAX, layer: u16::MAX, op: 255, chunk: u32::MAX, bytes: vec![1] };
    let leaves = Leaves {
        task: TASK,
        first_token: u32::MAX,
        page: u32::MAX,
        pages: u32::MAX,
        leaves: vec![tiny; LEAVES_PAGE_BYTES / 25],
    };
    let bytes = Message::Leaves(leaves).to_bytes();
    assert!(bytes.len() <= CONTROL_PAYLOAD_MAX, "{} bytes", bytes.len());
}
