//! Frames: one encoding, any pieces, named errors, bounded memory.

use crate::samples::{TASK, cases};
use lockstep_mesh::data::{Batch, Data, DataError, Values};
use lockstep_mesh::frame::{Channel, Frame, FrameDecoder, FrameError, Kind, padded_len};
use lockstep_mesh::inbound::Inbound;
use lockstep_mesh::limits::{CONTROL_PAYLOAD_MAX, DATA_PAYLOAD_MAX, FRAME_GRID};
use proptest::collection::vec;
use proptest::prelude::*;

/// Everything that a decoder says about `bytes` that arrive in pieces of the given sizes.
fn decode(channel: Channel, bytes: &[u8], pieces: &[usize]) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new(channel);
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let size = sizes.next().expect("endless").clamp(1, rest.len());
        decoder.push(&rest[..size]);
        rest = &rest[size..];
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, decoder.finish())
}

fn any_kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(&Kind::ALL[1..3])
}

proptest! {
    #![proptest_config(cases(256))]

    /// Frames come out as they went in, whatever the pieces; lengths are on the grid.
    #[test]
    fn pieces_do_not_matter(
        payloads in vec((any_kind(), vec(any::<u8>(), 0..3000)), 0..5),
        pieces in vec(1usize..1500, 0..20),
    ) {
        let frames: Vec<Frame> = payloads.into_iter().map(|(kind, payload)| Frame { kind, payload }).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        prop_assert_eq!(bytes.len() % FRAME_GRID, 0);
        prop_assert_eq!(decode(Channel::Stage, &bytes, &pieces), (frames, Ok(())));
    }

    /// Any bytes give frames or a named error, never a panic, and the same for all pieces.
    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 0..4000), pieces in vec(1usize..100, 0..20)) {
        for channel in Channel::ALL {
            let whole = decode(channel, &bytes, &[]);
            prop_assert_eq!(decode(channel, &bytes, &pieces), whole);
        }
    }

    /// One flipped bit in header or padding is refused or changes what is read; nothing panics.
    #[test]
    fn a_flipped_bit_shows(payload in vec(any::<u8>(), 0..100), at in 0usize..1024 * 8) {
        let frame = Frame { kind: Kind::Tokens, payload };
        let mut bytes = frame.to_bytes();
        bytes[at / 8] ^= 1 << (at % 8);
        prop_assert_ne!(decode(Channel::Stage, &bytes, &[]), (vec![frame], Ok(())));
    }

    /// What a data frame accepts, it encodes to the same bytes.
    #[test]
    fn data_frames_have_one_encoding(
        kind in proptest::sample::select(&Kind::ALL[..]),
        words in (0u32..3, 0u32..300, 0u32..130, 0u32..400),
        values in vec(any::<u8>(), 0..2000),
    ) {
        let mut payload = TASK.0.to_vec();
        let words = [words.0, words.1, words.2, words.3];
        words.iter().for_each(|word| payload.extend_from_slice(&word.to_be_bytes()));
        payload.extend_from_slice(&values);
        let frame = Frame { kind, payload };
        if let Ok(data) = Data::from_frame(&frame) {
            prop_assert_eq!(data.to_frame(), frame);
        }
    }

    /// Well-formed batches read back.
    #[test]
    fn batches_read_back(count in 1u32..129, width in 1usize..40, position in 0u32..40_000, skip in 0u32..129, tokens: bool) {
        let values = if tokens {
            Values::Tokens((0..count).collect())
        } else {
            Values::Rows((0..count as i32 * width as i32).map(|v| v - 100).collect())
        };
        let sample_from = position + skip.min(count);
        let data = Data::Batch(Batch { task: TASK, branch: 0, position, count, sample_from, values });
        prop_assert_eq!(Data::from_frame(&data.to_frame()), Ok(data));
    }

    /// A whole stream of any bytes never panics and keeps saying the same error.
    #[test]
    fn inbound_streams_refuse_garbage(bytes in vec(any::<u8>(), 0..3000)) {
        for channel in Channel::ALL {
            let mut inbound = Inbound::new(channel);
            inbound.push(&bytes);
            while let Ok(Some(_)) = inbound.next_incoming() {}
            let error = inbound.next_incoming();
            prop_assert_eq!(inbound.next_incoming(), error);
        }
    }
}

fn header(version: u8, kind: u8, reserved: u16, length: u32) -> Vec<u8> {
    let mut bytes = vec![version, kind];
    bytes.extend_from_slice(&reserved.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// Each error by name, as soon as the header is there: no byte of the payload is waited for.
#[test]
fn headers_are_judged_at_once() {
    let (control, data) = (CONTROL_PAYLOAD_MAX as u32, DATA_PAYLOAD_MAX as u32);
    let cases = [
        (header(2, 1, 0, 0), FrameError::Version { got: 2 }),
        (header(0, 1, 0, 0), FrameError::Version { got: 0 }),
        (header(1, 0, 0, 0), FrameError::Kind { got: 0 }),
        (header(1, 9, 0, 0), FrameError::Kind { got: 9 }),
        (header(1, 1, 0x0100, 0), FrameError::Reserved { got: 0x0100 }),
        (header(1, 2, 0, 0), FrameError::Channel { kind: Kind::Tokens, channel: Channel::Control }),
        (
            header(1, 1, 0, control + 1),
            FrameError::TooLong {
                kind: Kind::Control,
                got: CONTROL_PAYLOAD_MAX + 1,
                limit: CONTROL_PAYLOAD_MAX,
            },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(Channel::Control, &bytes, &[]), (Vec::new(), Err(error)));
    }
    let long =
        FrameError::TooLong { kind: Kind::Activations, got: data as usize + 1, limit: DATA_PAYLOAD_MAX };
    assert_eq!(decode(Channel::Stage, &header(1, 3, 0, data + 1), &[]), (Vec::new(), Err(long)));
    assert!(FrameError::Version { got: 2 }.to_string().contains("expected one of [1]"));
}

#[test]
fn padding_is_zero() {
    let mut bytes = Frame { kind: Kind::Tokens, payload: vec![7; 10] }.to_bytes();
    bytes[18] = 1;
    assert_eq!(decode(Channel::Stage, &bytes, &[]).1, Err(FrameError::Padding { at: 18, got: 1 }));
    assert_eq!((padded_len(0), padded_len(1016), padded_len(1017)), (1024, 1024, 2048));
}

#[test]
fn a_stream_that_ends_inside_a_frame_says_so() {
    let bytes = Frame { kind: Kind::Tokens, payload: vec![7; 2000] }.to_bytes();
    for (cut, expected) in [(3, FRAME_GRID), (8, 2048), (2047, 2048)] {
        let error = FrameError::Incomplete { got: cut, expected };
        assert_eq!(decode(Channel::Stage, &bytes[..cut], &[]), (Vec::new(), Err(error)));
    }
}

#[test]
fn unknown_protocols_name_the_known_ones() {
    let error = Channel::of_protocol("/lockstep/stage/2").unwrap_err().to_string();
    assert!(error.contains("/lockstep/stage/1") && error.contains("/lockstep/control/1"), "{error}");
    for channel in Channel::ALL {
        assert_eq!(Channel::of_protocol(channel.protocol()), Ok(channel));
    }
}

/// Each refusal of a data frame by name.
#[test]
fn data_errors_say_got_and_expected() {
    let frame = |kind, words: [u32; 4], values: usize| {
        let mut payload = TASK.0.to_vec();
        words.iter().for_each(|word| payload.extend_from_slice(&word.to_be_bytes()));
        payload.resize(payload.len() + values, 0);
        Data::from_frame(&Frame { kind, payload })
    };
    assert_eq!(frame(Kind::Tokens, [0, 0, 0, 0], 0), Err(DataError::Count { got: 0 }));
    assert_eq!(frame(Kind::Tokens, [0, 0, 129, 0], 516), Err(DataError::Count { got: 129 }));
    let end = DataError::End { position: u32::MAX, count: 1 };
    assert_eq!(frame(Kind::Tokens, [0, u32::MAX, 1, u32::MAX], 4), Err(end));
    let before = DataError::SampleFrom { got: 4, first: 5, end: 7 };
    assert_eq!(frame(Kind::Tokens, [0, 5, 2, 4], 8), Err(before));
    let behind = DataError::SampleFrom { got: 8, first: 5, end: 7 };
    assert_eq!(frame(Kind::Tokens, [0, 5, 2, 8], 8), Err(behind));
    assert!(matches!(frame(Kind::Tokens, [0, 5, 2, 5], 7), Err(DataError::Values { got: 7, count: 2, .. })));
    assert!(matches!(frame(Kind::Activations, [0, 5, 2, 5], 0), Err(DataError::Values { .. })));
    assert!(matches!(frame(Kind::Activations, [0, 5, 2, 5], 12), Err(DataError::Values { .. })));
    assert!(matches!(frame(Kind::Activations, [0, 5, 1, 5], 65_540), Err(DataError::Values { .. })));
    assert!(matches!(frame(Kind::Truncate, [0, 5, 0, 5], 1), Err(DataError::Values { .. })));
    assert_eq!(frame(Kind::Control, [0, 5, 1, 5], 4), Err(DataError::Kind { got: Kind::Control }));
    let short = Data::from_frame(&Frame { kind: Kind::Tokens, payload: vec![0; 47] });
    assert_eq!(short, Err(DataError::Header { got: 47 }));
}
