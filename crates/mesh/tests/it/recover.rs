//! Another node in the place of a lost one, message by message (protocol.md, 7).

use crate::route::{TASK, config, opened, stage, token};
use crate::samples::id;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::{Data, Values};
use lockstep_mesh::limits::{MENDS_MAX, REPLACEMENTS_MAX};
use lockstep_mesh::message::Message;
use lockstep_mesh::route::{Effect, Event, Input, Reason, Route, RouteStage};

fn say(route: &mut Route, stage: u16, message: Message) -> Vec<Effect> {
    route.handle(0, Input::Message { stage, message })
}

fn lose(route: &mut Route, stage: u16) -> Vec<Effect> {
    route.handle(0, Input::PeerLost { stage, text: "reset".into() })
}

fn replace(route: &mut Route, at: u16, with: RouteStage) -> Vec<Effect> {
    route.handle(0, Input::Replacement { stage: at, with: Some(with) })
}

/// The messages among `effects`.
fn messages(effects: &[Effect]) -> Vec<(u16, Message)> {
    let message = |effect: &Effect| match effect {
        Effect::Message { stage, message } => Some((*stage, message.clone())),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

/// Law: the new node is opened and held, both of its neighbours are joined to it, and what was sent is sent again.
#[test]
fn a_stage_in_the_middle_is_replaced() {
    let mut route = opened();
    let lost = lose(&mut route, 1);
    assert_eq!(lost, [Effect::Replace { stage: 1, tried: vec![id(2)] }]);
    assert!(say(&mut route, 1, Message::Opened { task: TASK }).is_empty(), "the old node has no say");
    let effects = replace(&mut route, 1, stage(8, 2..4));
    let Some((1, Message::Open(open))) = messages(&effects).pop() else { panic!("{effects:?}") };
    assert!(open.held, "nothing goes on yet");
    assert_eq!((open.previous, open.next.expect("a next stage").node), (id(1), id(3)));
    assert!(effects.contains(&Effect::Event(Event::Replaced { stage: 1, lost: id(2), by: id(8) })));

    let effects = say(&mut route, 1, Message::Opened { task: TASK });
    let rewire = |previous| Message::Rewire { task: TASK, previous };
    assert_eq!(messages(&effects), [(2, rewire(id(8))), (1, rewire(id(1)))]);
    let rewired = |previous, received| Message::Rewired { task: TASK, previous, received };
    assert!(say(&mut route, 2, rewired(id(2), 40)).is_empty(), "an answer to another question");
    let order = |route: &mut Route, stage, previous, received| match messages(&say(
        route,
        stage,
        rewired(previous, received),
    ))
    .pop()
    {
        Some((to, Message::Resend { next, from, until, .. })) => (to, next.node, from, until),
        other => panic!("expected an order, got {other:?}"),
    };
    assert_eq!(order(&mut route, 2, id(8), 40), (1, id(3), Some(40), u32::MAX));
    assert_eq!(order(&mut route, 1, id(1), 0), (0, id(8), Some(0), u32::MAX));
    // The answer goes on.
    let effects = say(&mut route, 2, token(40, 5));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Event(Event::Token { token: 5, .. }))));
}

/// Law: the gateway sends the first stage's tokens again, and samples where it sampled before.
#[test]
fn the_first_stage_is_replaced() {
    let mut route = opened();
    say(&mut route, 2, token(40, 5));
    lose(&mut route, 0);
    replace(&mut route, 0, stage(8, 0..2));
    let effects = say(&mut route, 0, Message::Opened { task: TASK });
    let [Effect::Data(Data::Batch(batch))] = &effects[1..] else { panic!("{effects:?}") };
    assert_eq!((batch.position, batch.count, batch.sample_from), (0, 41, 39));
    assert!(matches!(&batch.values, Values::Tokens(tokens) if tokens[40] == 5));
}

/// Law: a new last stage must give the tokens that were given; the user sees none of them twice.
#[test]
fn the_last_stage_gives_the_same_tokens_again() {
    for (again, same) in [(5, true), (6, false)] {
        let mut route = opened();
        say(&mut route, 2, token(40, 5));
        lose(&mut route, 2);
        replace(&mut route, 2, stage(8, 4..6));
        say(&mut route, 2, Message::Opened { task: TASK });
        let effects = say(&mut route, 2, token(40, again));
        let failure = effects.iter().find_map(|effect| match effect {
            Effect::Event(Event::Failed(failure)) => Some(failure.clone()),
            _ => None,
        });
        match failure {
            None => assert!(same && effects.is_empty(), "{effects:?}"),
            Some(failure) => {
                let reason = Reason::Diverged { position: 40, got: 6, expected: 5 };
                assert_eq!((same, failure.stage, failure.reason), (false, Some(2), reason));
            }
        }
    }
}

/// Law: who cannot serve the part, or serves another stage already, takes no place; and there is an end to it.
#[test]
fn not_everybody_can_take_a_place() {
    for with in [stage(8, 0..2), stage(3, 2..4), stage(1, 2..4)] {
        let mut route = opened();
        lose(&mut route, 1);
        let effects = replace(&mut route, 1, with);
        assert!(matches!(effects.last(), Some(Effect::Event(Event::Failed(_)))), "{effects:?}");
    }
    let mut route = opened();
    for _ in 0..REPLACEMENTS_MAX {
        lose(&mut route, 1);
        replace(&mut route, 1, stage(8, 2..4));
    }
    assert!(!route.is_over());
    lose(&mut route, 1);
    assert!(route.is_over());
}

/// Law: neighbours that lose each other are joined again, not for ever.
#[test]
fn neighbours_are_joined_again() {
    let mut route = opened();
    for _ in 0..MENDS_MAX {
        let lost = Message::Lost { task: TASK, peer: id(3), code: Code::PeerLost };
        let effects = say(&mut route, 1, lost.clone());
        assert_eq!(messages(&effects), [(2, Message::Rewire { task: TASK, previous: id(2) })]);
        assert!(say(&mut route, 1, lost).is_empty(), "it is known");
        let effects = say(&mut route, 2, Message::Rewired { task: TASK, previous: id(2), received: 30 });
        assert!(matches!(messages(&effects)[..], [(1, Message::Resend { from: Some(30), .. })]));
    }
    let stranger = Message::Lost { task: TASK, peer: id(8), code: Code::PeerLost };
    assert!(say(&mut route, 2, stranger).is_empty(), "who is no neighbour, or none any more, is not missed");
    let lost = Message::Lost { task: TASK, peer: id(2), code: Code::PeerLost };
    let effects = say(&mut route, 2, lost);
    assert!(effects.contains(&Effect::Replace { stage: 1, tried: vec![id(2)] }), "{effects:?}");
}

/// Law: a stage says how much arrived of what was sent, and no more.
#[test]
fn more_than_was_sent_did_not_arrive() {
    let mut route = opened();
    lose(&mut route, 1);
    replace(&mut route, 1, stage(8, 2..4));
    say(&mut route, 1, Message::Opened { task: TASK });
    let effects = say(&mut route, 2, Message::Rewired { task: TASK, previous: id(8), received: 41 });
    assert!(
        matches!(effects.last(), Some(Effect::Event(Event::Failed(failure))) if failure.stage == Some(2))
    );
}

/// Law: known tokens of an answer are prefilled like a prompt, sampled again, and compared.
#[test]
fn a_route_may_begin_with_known_tokens() {
    let mut config = config();
    config.answered = vec![5, 6];
    let mut route = Route::new(config).expect("a good request");
    route.handle(0, Input::Start);
    let mut effects = Vec::new();
    for stage in 0..3 {
        effects = say(&mut route, stage, Message::Opened { task: TASK });
    }
    let Some(Effect::Data(Data::Batch(batch))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((batch.count, batch.sample_from), (42, 39));
    assert!(say(&mut route, 2, token(40, 5)).is_empty());
    assert!(say(&mut route, 2, token(41, 6)).is_empty());
    let effects = say(&mut route, 2, token(42, 7));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Event(Event::Token { token: 7, .. }))));
}
