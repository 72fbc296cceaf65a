//! A request alone: what it refuses to begin, and what it does not believe.

use crate::samples::id;
use lockstep_base::Digest;
use lockstep_base::keys::CompactSignature;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::{Part, PartError};
use lockstep_base::receipt::WireReceipt;
use lockstep_mesh::code::Code;
use lockstep_mesh::limits::{CLOSE_TIMEOUT_MS, OPEN_TIMEOUT_MS, PROGRESS_TIMEOUT_MS, STALL_PROBE_MS};
use lockstep_mesh::message::{Fault, Message, MessageError, Token};
use lockstep_mesh::receipts::ReceiptError;
use lockstep_mesh::route::{
    Effect, Event, Failure, Input, Reason, Route, RouteConfig, RouteError, RouteStage,
};

pub(crate) const TASK: Digest = Digest([5; 32]);

pub(crate) fn stage(n: u8, range: core::ops::Range<u32>) -> RouteStage {
    RouteStage { node: id(n), address: format!("peer {n}"), part: Part::layers(range, 6) }
}

pub(crate) fn config() -> RouteConfig {
    RouteConfig {
        task: TASK,
        secret: TaskSecret([6; 32]),
        owner: id(9),
        model_root: Digest([7; 32]),
        opset: "toy-0".into(),
        n_layers: 6,
        vocab: 100,
        context: 700,
        parameters: Parameters::greedy(8),
        sampler_seed: Digest::ZERO,
        prompt: vec![1; 40],
        full_trace: false,
        logprobs: None,
        audit_class: Digest::ZERO,
        adapter: Digest::ZERO,
        provable: false,
        answered: Vec::new(),
        stages: vec![stage(1, 0..2), stage(2, 2..4), stage(3, 4..6)],
    }
}

/// Law: a request that cannot be served is refused before anything is sent.
#[test]
fn bad_requests_are_refused() {
    let refused = |change: fn(&mut RouteConfig)| {
        let mut config = config();
        change(&mut config);
        Route::new(config).expect_err("refused")
    };
    assert_eq!(refused(|c| c.stages.clear()), RouteError::Parts(PartError::Count { got: 0 }));
    let gap = PartError::Gap { stage: 1, got: 4, expected: 2 };
    assert_eq!(refused(|c| drop(c.stages.remove(1))), RouteError::Parts(gap));
    let same = RouteError::SameNode { node: id(1), first: 0, second: 2 };
    assert_eq!(refused(|c| c.stages[2].node = id(1)), same);
    assert_eq!(refused(|c| c.prompt.clear()), RouteError::Prompt { got: 0, context: 700 });
    assert_eq!(refused(|c| c.prompt = vec![1; 701]), RouteError::Prompt { got: 701, context: 700 });
    assert_eq!(refused(|c| c.prompt[3] = 100), RouteError::Token { token: 100, position: 3, vocab: 100 });
    assert_eq!(refused(|c| c.parameters.max_tokens = 0), RouteError::NoTokens);
    let limit = |field, got, limit| RouteError::Parameters(MessageError::Limit { field, got, limit });
    assert_eq!(refused(|c| c.logprobs = Some(21)), limit("logprobs", 21, 20));
    let long = |c: &mut RouteConfig| (c.provable, c.context, c.parameters.max_tokens) = (true, 2000, 1500);
    assert_eq!(refused(long), limit("provable positions", 1539, 1023));
    assert_eq!(
        refused(|c| c.answered = vec![3, 100]),
        RouteError::Token { token: 100, position: 41, vocab: 100 }
    );
    assert_eq!(refused(|c| c.answered = vec![3; 8]), RouteError::Answered { got: 8, limit: 8 });
    assert_eq!(refused(|c| c.stages[1].address = "x".repeat(513)), limit("next address", 513, 512));
}

pub(crate) fn opened() -> Route {
    let mut route = Route::new(config()).expect("a good request");
    let effects = route.handle(0, Input::Start);
    assert_eq!(effects.len(), 3);
    for stage in 0..3 {
        route.handle(0, Input::Message { stage, message: Message::Opened { task: TASK } });
    }
    route
}

/// The failure that `input` leads to, at time `now_ms`, where nobody can take a stage's place.
fn failure(route: &mut Route, now_ms: u64, input: Input) -> Failure {
    let mut effects = route.handle(now_ms, input);
    let replace = effects.iter().find_map(|effect| match effect {
        Effect::Replace { stage, tried } => Some((*stage, tried.clone())),
        _ => None,
    });
    if let Some((stage, tried)) = replace {
        assert_eq!(tried, [id(stage as u8 + 1)], "the node that is lost");
        effects.extend(route.handle(now_ms, Input::Replacement { stage, with: None }));
    }
    let cancels = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Message { message: Message::Cancel { .. }, .. }));
    assert!(cancels.count() >= 2, "the other stages are cancelled: {effects:?}");
    assert!(route.is_over());
    match effects.last() {
        Some(Effect::Event(Event::Failed(failure))) => failure.clone(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

pub(crate) fn token(position: u32, token: u32) -> Message {
    Message::Token(Token { task: TASK, branch: 0, position, token, logprobs: None })
}

/// Law: a stage that says what it cannot know, or what is not its to say, is named.
#[test]
fn stages_are_not_believed() {
    let receipt = |span| {
        let receipt = WireReceipt {
            stage: 1,
            flags: 0,
            span,
            out_root: Digest::ZERO,
            state_root: Digest::ZERO,
            commit_out: Digest::ZERO,
            signature: CompactSignature([0; 64]),
        };
        Message::Receipt { task: TASK, receipt }
    };
    let cases = [
        (2, token(39, 5)),
        (2, token(41, 5)),
        (2, token(40, 100)),
        (1, token(40, 5)),
        (0, Message::Closed { task: TASK }),
        (0, Message::Opened { task: TASK }),
        (0, Message::Progress { task: TASK, computed: 1, received: 0 }),
        (0, Message::Progress { task: TASK, computed: 0, received: 41 }),
        (0, Message::Cancel { task: TASK }),
        (1, receipt(1)),
        (0, receipt(0)),
    ];
    for (stage, message) in cases {
        let failure = failure(&mut opened(), 0, Input::Message { stage, message: message.clone() });
        assert_eq!((failure.stage, failure.node), (Some(stage), Some(id(stage as u8 + 1))), "{message:?}");
        assert!(matches!(failure.reason, Reason::Unexpected { .. } | Reason::Receipt(_)), "{failure}");
    }
    // Position 40 was not sent, so the span 32..64 is not complete.
    let mut route = opened();
    let failure = failure(&mut route, 0, Input::Message { stage: 1, message: receipt(1) });
    assert_eq!(failure.reason, Reason::Receipt(ReceiptError::Span { stage: 1, got: 1, expected: 0 }));
}

/// Law: other tasks' messages, and anything after the end, change nothing.
#[test]
fn what_is_not_ours_is_ignored() {
    let mut route = opened();
    let other = Message::Closed { task: Digest::ZERO };
    assert!(route.handle(0, Input::Message { stage: 0, message: other }).is_empty());
    assert!(route.handle(0, Input::Message { stage: 99, message: token(40, 5) }).is_empty());
    failure(&mut route, 0, Input::Cancel);
    assert!(route.handle(0, Input::Message { stage: 2, message: token(40, 5) }).is_empty());
    assert!(route.handle(0, Input::Tick).is_empty());
}

/// Law: a stage may blame itself or a neighbour, nobody else.
#[test]
fn blame_reaches_neighbours_only() {
    for (by, blamed, named) in
        [(1, Some(2), 2), (1, Some(0), 0), (1, Some(1), 1), (0, Some(2), 0), (2, None, 2)]
    {
        let fault = Fault::new(Some(TASK), Code::Shape, blamed, "rows of 3 values");
        let failure = failure(&mut opened(), 0, Input::Message { stage: by, message: Message::Error(fault) });
        assert_eq!(failure.stage, Some(named));
        assert!(
            matches!(failure.reason, Reason::Remote { code: Code::Shape, by: reporter, .. } if reporter == by)
        );
    }
}

/// Law: silence ends in every phase, and names the stage that is behind.
#[test]
fn silence_is_named() {
    let mut route = Route::new(config()).expect("a good request");
    route.handle(0, Input::Start);
    route.handle(0, Input::Message { stage: 0, message: Message::Opened { task: TASK } });
    assert!(route.handle(OPEN_TIMEOUT_MS - 1, Input::Tick).is_empty());
    assert_eq!(failure(&mut route, OPEN_TIMEOUT_MS, Input::Tick).stage, Some(1));

    let mut route = opened();
    let probes = route.handle(STALL_PROBE_MS, Input::Tick);
    assert_eq!(probes.len(), 3);
    assert!(
        probes.iter().all(|probe| matches!(probe, Effect::Message { message: Message::Probe { .. }, .. }))
    );
    assert!(route.handle(STALL_PROBE_MS + 1, Input::Tick).is_empty(), "one probe at a time");
    for (stage, computed) in [(0, 40), (1, 10), (2, 8)] {
        let message = Message::Progress { task: TASK, computed, received: 40 };
        route.handle(STALL_PROBE_MS, Input::Message { stage, message });
    }
    let failed = failure(&mut route, STALL_PROBE_MS + PROGRESS_TIMEOUT_MS, Input::Tick);
    assert_eq!(failed.stage, Some(2), "the one that is least far");

    let mut route = opened();
    for _ in 0..8 {
        let position = route_position(&route);
        route.handle(0, Input::Message { stage: 2, message: token(position, 5) });
    }
    assert_eq!(failure(&mut route, CLOSE_TIMEOUT_MS, Input::Tick).stage, Some(2), "it is closed first");
}

/// Prompt and answer so far are one past the last position that was sent.
fn route_position(route: &Route) -> u32 {
    route.tokens().len() as u32
}

/// Law: a lost stage is named in every phase.
#[test]
fn a_lost_stage_is_named() {
    let mut fresh = Route::new(config()).expect("a good request");
    fresh.handle(0, Input::Start);
    for mut route in [fresh, opened()] {
        let failure = failure(&mut route, 0, Input::PeerLost { stage: 1, text: "reset".into() });
        assert_eq!(failure.stage, Some(1));
        assert_eq!(failure.to_string(), format!("stage 1 ({}): lost: reset", id(2)));
    }
}

/// Law: neither prompt nor answer is in what a log could print.
#[test]
fn contents_are_not_in_debug_texts() {
    let secret_token = 54_321;
    let mut config = config();
    (config.vocab, config.prompt) = (60_000, vec![secret_token; 3]);
    let mut route = Route::new(config.clone()).expect("a good request");
    let effects = route.handle(0, Input::Start);
    let opened = (0..3)
        .flat_map(|stage| route.handle(0, Input::Message { stage, message: Message::Opened { task: TASK } }));
    let opened: Vec<Effect> = opened.collect();
    let batch = opened.iter().any(|effect| matches!(effect, Effect::Data(_)));
    assert!(batch, "the prompt went out");
    let text = format!("{config:?} {route:?} {effects:?} {opened:?} {:?}", token(3, secret_token));
    assert!(!text.contains("54321"), "{text}");
}

/// Law: a token comes with as many alternatives as were asked for, or as the vocabulary has.
#[test]
fn alternatives_are_counted() {
    use lockstep_mesh::message::{Alternative, Logprobs};
    for (count, fits) in [(None, false), (Some(2), false), (Some(3), true), (Some(5), false)] {
        let mut config = config();
        (config.vocab, config.logprobs) = (3, Some(5));
        let mut route = Route::new(config).expect("a good request");
        route.handle(0, Input::Start);
        for stage in 0..3 {
            route.handle(0, Input::Message { stage, message: Message::Opened { task: TASK } });
        }
        let logprobs = count.map(|count| Logprobs {
            chosen: 0,
            max: 0,
            weight_sum: 1,
            frac: 0,
            top: vec![Alternative { token: 0, logit: 0 }; count],
        });
        let token = Token { task: TASK, branch: 0, position: 40, token: 2, logprobs };
        route.handle(0, Input::Message { stage: 2, message: Message::Token(token) });
        assert_eq!(!route.is_over(), fits, "{count:?} alternatives");
    }
}
