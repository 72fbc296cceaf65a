//! Golden vectors: the bytes of every message, in hexadecimal, against silent changes of the wire.

use crate::samples;
use lockstep_base::digest::hex;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::Data;
use lockstep_mesh::frame::{Channel, Frame, FrameDecoder};
use lockstep_mesh::message::Message;
use std::fmt::Write;

/// Compares with `golden/<name>.txt`, or rewrites it under `LOCKSTEP_BLESS=1`.
pub(crate) fn check(name: &str, got: &str) {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    if std::env::var_os("LOCKSTEP_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, got).expect("a golden file can be written");
        return;
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (number, (got, expected)) in got.lines().zip(expected.lines()).enumerate() {
        assert_eq!(got, expected, "{}:{} (LOCKSTEP_BLESS=1 rewrites it)", path.display(), number + 1);
    }
    assert_eq!(got.lines().count(), expected.lines().count(), "lines of {}", path.display());
}

/// A frame's header and payload; its padding as a count.
fn describe(frame: &Frame) -> String {
    let bytes = frame.to_bytes();
    let end = 8 + frame.payload.len();
    assert!(bytes[end..].iter().all(|byte| *byte == 0));
    format!("{} {} +{}", hex(&bytes[..8]), hex(&bytes[8..end]), bytes.len() - end)
}

#[test]
fn control_messages() {
    let mut text = String::from("# name header payload +padding\n");
    for message in samples::messages() {
        writeln!(text, "{} {}", message.name(), describe(&message.to_frame())).expect("a String");
    }
    check("messages.txt", &text);
}

#[test]
fn data_frames() {
    let mut text = String::from("# kind header payload +padding\n");
    for data in samples::data() {
        let frame = data.to_frame();
        writeln!(text, "{:?} {}", frame.kind, describe(&frame)).expect("a String");
    }
    check("data.txt", &text);
}

#[test]
fn error_codes() {
    let mut text = String::from("# number name\n");
    for (code, number) in Code::ALL {
        assert_eq!(code.number(), *number);
        writeln!(text, "{number} {code:?}").expect("a String");
    }
    check("codes.txt", &text);
}

/// What the golden files say is also read back.
#[test]
fn every_sample_reads_back() {
    let mut control = FrameDecoder::new(Channel::Control);
    let mut stage = FrameDecoder::new(Channel::Stage);
    for message in samples::messages() {
        control.push(&message.to_frame().to_bytes());
        let frame = control.next_frame().unwrap().unwrap();
        assert_eq!(Message::from_bytes(&frame.payload), Ok(message));
    }
    for data in samples::data() {
        stage.push(&data.to_frame().to_bytes());
        let frame = stage.next_frame().unwrap().unwrap();
        assert_eq!(Data::from_frame(&frame), Ok(data));
    }
    assert_eq!((control.finish(), stage.finish()), (Ok(()), Ok(())));
}
