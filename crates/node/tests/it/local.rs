//! Generation in this process: seeds, limits, cancellation.

use crate::support::{config, tiny, token};
use lockstep_base::params::{ONE_Q16, Parameters};
use lockstep_node::service::{FailureKind, FinishReason, GenerateEvent, GenerateRequest};

fn request(prompt: Vec<u32>, max_tokens: u32) -> GenerateRequest {
    let mut request = GenerateRequest::new(
        prompt,
        Parameters { temperature_q16: ONE_Q16, ..Parameters::greedy(max_tokens) },
    );
    request.seed = Some(11);
    request
}

fn prompt(length: usize) -> Vec<u32> {
    std::iter::once(1).chain("once upon a time there was a".chars().map(token)).cycle().take(length).collect()
}

/// All events of an answer: tokens with positions, then how it ended.
fn run(request: GenerateRequest) -> (Vec<(u32, u32)>, GenerateEvent) {
    let mut events = tiny().generate(request);
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().expect("an answer ends with an event") {
            GenerateEvent::Token { token, position, .. } => tokens.push((position, token)),
            GenerateEvent::Stage(_) => {}
            last => return (tokens, last),
        }
    }
}

fn reason(event: &GenerateEvent) -> Option<FinishReason> {
    match event {
        GenerateEvent::Done(done) => Some(done.reason),
        _ => None,
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
    let (first, _) = run(request(prompt(20), 24));
    assert_eq!(first.len(), 24);
    assert_eq!(first.iter().map(|(position, _)| *position).collect::<Vec<_>>(), (20..44).collect::<Vec<_>>());
    assert_eq!(run(request(prompt(20), 24)).0, first);
    let mut other = request(prompt(20), 24);
    other.seed = Some(12);
    assert_ne!(run(other).0, first);
    let mut choice = request(prompt(20), 24);
    choice.choice = 1;
    assert_ne!(run(choice).0, first, "choices differ in their draws");
}

/// The chunks of a long prompt do not show in the answer: its end, fed as a new prompt's last
/// chunk, gives what one token more of the same sequence gives.
#[test]
fn an_answer_goes_on_as_its_own_prompt() {
    let (first, _) = run(request(prompt(130), 20));
    let longer: Vec<u32> =
        prompt(130).into_iter().chain(first[..10].iter().map(|(_, token)| *token)).collect();
    let (second, _) = run(request(longer, 10));
    assert_eq!(second, first[10..]);
}

#[test]
fn prompt_and_answer_together_fit_the_context() {
    let context = config().context as usize;
    let (tokens, end) = run(request(prompt(context - 3), 50));
    assert_eq!((tokens.len(), reason(&end)), (3, Some(FinishReason::Length)));
}

#[test]
fn a_stop_token_ends_the_answer_and_is_its_last_token() {
    let (free, _) = run(request(prompt(20), 12));
    let mut stopped = request(prompt(20), 12);
    let at = free.iter().position(|(_, token)| *token == free[7].1).expect("it is there");
    stopped.parameters.stop_tokens = vec![free[7].1];
    let (tokens, end) = run(stopped);
    assert_eq!((tokens.as_slice(), reason(&end)), (&free[..=at], Some(FinishReason::Stop)));
}

#[test]
fn bad_prompts_are_refused_with_what_was_expected() {
    let context = config().context as usize;
    let cases = [(Vec::new(), "at least 1"), (prompt(context), "at most 159"), (vec![9999], "tokens below")];
    for (prompt, expected) in cases {
        let (tokens, end) = run(request(prompt, 4));
        let GenerateEvent::Failed(failure) = end else { panic!("accepted, expected {expected:?}") };
        assert_eq!((tokens.len(), failure.kind), (0, FailureKind::Invalid));
        assert!(failure.message.contains(expected), "{failure}, expected {expected:?}");
    }
}

#[test]
fn the_end_signal_ends_an_answer_with_done() {
    let ended = request(prompt(20), 100);
    ended.end.set();
    let (tokens, end) = run(ended);
    assert_eq!((tokens.len(), reason(&end)), (1, Some(FinishReason::Stop)));
}

#[test]
fn distributions_come_only_when_asked_for() {
    let mut asked = request(prompt(20), 3);
    asked.top_logprobs = Some(2);
    let mut events = tiny().generate(asked);
    let mut seen = 0;
    while let Some(event) = events.blocking_recv() {
        let GenerateEvent::Token { distribution, .. } = event else { continue };
        let distribution = distribution.expect("it was asked for");
        assert_eq!(distribution.top.len(), 2);
        assert!(
            distribution.top[0].1 >= distribution.top[1].1 && distribution.largest == distribution.top[0].1
        );
        seen += 1;
    }
    assert_eq!(seen, 3);
}
