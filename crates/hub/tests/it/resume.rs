//! Downloads that break and go on.

use std::fs;
use std::path::Path;

use lockstep_hub::{HubError, Retry, Settings};

use crate::server::{COMMIT, Reply, Repo, Server, content, fetch, files_below, settings};

const LEN: usize = 200_000;

/// Breaks the first `faults` answers with the large file after 50,000 bytes each.
fn breaking(faults: usize) -> Server {
    let repo = Repo::single();
    Server::start(move |request, before| {
        let reply = repo.reply(request);
        match request.path.ends_with("model.safetensors") && before < faults {
            true => reply.cut(50_000),
            false => reply,
        }
    })
}

fn once(server: &Server, cache: &Path) -> Settings {
    let retry = Retry { attempts: 1, ..Retry::default() };
    Settings { retry, ..settings(server, cache) }
}

fn weights(cache: &Path, end: &str) -> std::path::PathBuf {
    cache.join("o--m").join(COMMIT).join(format!("model.safetensors{end}"))
}

fn start_of(range: &str) -> usize {
    range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let server = breaking(3);
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(weights(cache.path(), "")).unwrap(), content(LEN, 6));
    let requests = server.requests_for("model.safetensors");
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].header("range"), None);
    let starts: Vec<usize> = requests[1..].iter().map(|r| start_of(r.header("range").unwrap())).collect();
    assert_eq!(starts, [50_000, 100_000, 150_000]);
    assert!(requests[1..].iter().all(|r| r.header("if-range").is_some_and(|tag| tag.starts_with('"'))));
    assert_eq!(fetched.downloaded, fetched.total, "no byte came twice");
    assert_eq!(files_below(cache.path()).len(), 2, "no part is left");
}

/// The process ends in the middle; the next one asks for the rest only.
#[test]
fn a_second_run_goes_on_from_the_part_of_the_first() {
    let server = breaking(1);
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(once(&server, cache.path()), "o/m").unwrap_err();
    assert!(matches!(&error, HubError::Network { .. }) && error.to_string().contains("kept"), "{error}");
    assert_eq!(fs::read(weights(cache.path(), ".part")).unwrap(), content(LEN, 6)[..50_000]);
    assert!(!weights(cache.path(), "").exists());
    let before = server.sent();
    let fetched = fetch(once(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(weights(cache.path(), "")).unwrap(), content(LEN, 6));
    assert_eq!(fetched.downloaded, LEN as u64 - 50_000);
    assert!(server.sent() - before < LEN as u64, "the server sent {} bytes again", server.sent() - before);
}

/// `If-Range` with a tag that the server no longer has: it sends the whole, and the part begins anew.
#[test]
fn a_file_that_changed_at_the_server_begins_anew() {
    let server = breaking(1);
    let cache = tempfile::tempdir().unwrap();
    fetch(once(&server, cache.path()), "o/m").unwrap_err();
    fs::write(weights(cache.path(), ".part"), vec![7; 60_000]).unwrap();
    fs::write(weights(cache.path(), ".part.etag"), "\"of-another-file\"").unwrap();
    let fetched = fetch(once(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fetched.downloaded, LEN as u64);
    assert_eq!(fs::read(weights(cache.path(), "")).unwrap(), content(LEN, 6));
}

/// A part of something else under the right tag: only the hash can tell.
#[test]
fn a_part_that_is_wrong_is_found_by_the_hash_and_deleted() {
    let server = breaking(1);
    let cache = tempfile::tempdir().unwrap();
    fetch(once(&server, cache.path()), "o/m").unwrap_err();
    fs::write(weights(cache.path(), ".part"), vec![7; 60_000]).unwrap();
    let error = fetch(once(&server, cache.path()), "o/m").unwrap_err();
    assert!(matches!(&error, HubError::Hash { kind: "SHA-256", .. }), "{error}");
    assert_eq!(files_below(cache.path()).len(), 1, "{:?}", files_below(cache.path()));
    fetch(once(&server, cache.path()), "o/m").unwrap();
}

#[test]
fn parts_that_are_too_long_or_whole_are_no_trouble() {
    for (part, downloaded) in [(content(LEN, 6), 0), (vec![1; LEN + 1], LEN as u64)] {
        let server = breaking(1);
        let cache = tempfile::tempdir().unwrap();
        fetch(once(&server, cache.path()), "o/m").unwrap_err();
        fs::write(weights(cache.path(), ".part"), part).unwrap();
        let fetched = fetch(once(&server, cache.path()), "o/m").unwrap();
        assert_eq!(fetched.downloaded, downloaded);
        assert_eq!(fs::read(weights(cache.path(), "")).unwrap(), content(LEN, 6));
    }
}

/// A server without ranges sends all of it each time; that works too, if it ever gets through.
#[test]
fn a_server_without_ranges_works() {
    let repo = Repo::single();
    let server = Server::start(move |request, before| {
        let mut plain = request.clone();
        plain.headers.remove("range");
        let reply = repo.reply(&plain);
        match request.path.ends_with("model.safetensors") && before == 0 {
            true => reply.cut(50_000),
            false => reply,
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fetched.downloaded, fetched.total + 50_000);
}

#[test]
fn a_range_that_cannot_be_begins_anew() {
    let repo = Repo::single();
    let server =
        Server::start(move |request, before| match (request.path.ends_with("model.safetensors"), before) {
            (true, 0) => repo.reply(request).cut(50_000),
            (true, 1) => Reply::new(416, ""),
            _ => repo.reply(request),
        });
    let cache = tempfile::tempdir().unwrap();
    fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(server.requests_for("model.safetensors")[2].header("range"), None);
}

/// Two processes would write one part.
#[test]
fn a_part_that_another_process_writes_is_left_alone() {
    let server = breaking(1);
    let cache = tempfile::tempdir().unwrap();
    fetch(once(&server, cache.path()), "o/m").unwrap_err();
    let other = fs::File::open(weights(cache.path(), ".part")).unwrap();
    other.lock().unwrap();
    assert!(matches!(fetch(once(&server, cache.path()), "o/m"), Err(HubError::Busy { .. })));
    other.unlock().unwrap();
    fetch(once(&server, cache.path()), "o/m").unwrap();
}

#[test]
fn an_empty_file_is_a_file() {
    let mut repo = Repo::single();
    repo.add("tokenizer_config.json", Vec::new(), false);
    let server = Server::start(move |request, _| repo.reply(request));
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fs::metadata(fetched.path.join("tokenizer_config.json")).unwrap().len(), 0);
}
