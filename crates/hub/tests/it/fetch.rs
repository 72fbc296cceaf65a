//! What is fetched, from whom, and who learns the token.

use std::fs;
use std::time::Duration;

use lockstep_hub::{Hub, HubError, Settings, Token};

use crate::server::{COMMIT, Reply, Repo, Server, content, fetch, files_below, ranged, settings, sha256};

#[test]
fn a_sharded_model_is_fetched_whole_and_nothing_else() {
    let repo = Repo::sharded();
    let expected = repo.clone();
    let server = Server::start(move |request, _| repo.reply(request));
    let cache = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let hub = Hub::new(settings(&server, cache.path())).unwrap();
    let model = "o/m".parse().unwrap();
    let fetched = hub
        .fetch(&model, &mut |progress| seen.push((progress.file.to_owned(), progress.done, progress.total)))
        .unwrap();
    assert_eq!(fetched.path, cache.path().join("o--m").join(COMMIT));
    assert_eq!(
        files_below(&fetched.path),
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    for file in files_below(&fetched.path) {
        assert_eq!(fs::read(fetched.path.join(&file)).unwrap(), expected.file(&file).unwrap().1, "{file}");
    }
    assert_eq!((fetched.downloaded, fetched.commit.as_str()), (fetched.total, COMMIT));
    let (_, done, total) = seen.last().unwrap();
    assert_eq!((*done, *total), (fetched.total, fetched.total));
    assert!(seen.windows(2).all(|pair| pair[0].1 <= pair[1].1), "progress goes forward");
    assert!(seen.iter().any(|(file, _, _)| file == "model-00002-of-00002.safetensors"));
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));

    // Again: the files are verified, not fetched.
    let again = hub.fetch(&model, &mut |_| {}).unwrap();
    assert_eq!((again.downloaded, again.total, again.path), (0, fetched.total, fetched.path));
    assert_eq!(server.requests_for("/resolve/").len(), 5);
}

#[test]
fn a_damaged_file_in_the_cache_is_fetched_again() {
    let repo = Repo::single();
    let server = Server::start(move |request, _| repo.reply(request));
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    let path = fetched.path.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    for bad in [&damaged[..], &whole[..1_000]] {
        fs::write(&path, bad).unwrap();
        assert_eq!(fetch(settings(&server, cache.path()), "o/m").unwrap().downloaded, 200_000);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn one_gguf_file_can_be_asked_for() {
    let mut repo = Repo::default();
    repo.add("q/model Q8.gguf", content(1_000, 1), true).add("big.gguf", content(2_000, 2), true);
    let server = Server::start(move |request, _| {
        let mut request = request.clone();
        request.path = request.path.replace("%20", " ");
        repo.reply(&request)
    });
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m:q/model Q8.gguf").unwrap();
    assert!(fetched.path.ends_with("q/model Q8.gguf"));
    assert_eq!(fs::read(&fetched.path).unwrap(), content(1_000, 1));
    assert_eq!(files_below(cache.path()).len(), 1);
    let error = fetch(settings(&server, cache.path()), "o/m:small.gguf").unwrap_err();
    assert!(matches!(&error, HubError::NoFile { file, .. } if file == "small.gguf"), "{error}");
    let error = fetch(settings(&server, cache.path()), "o/m").unwrap_err().to_string();
    assert!(error.contains("big.gguf") && error.contains("':'"), "{error}");
}

#[test]
fn a_model_without_readable_weights_is_refused_by_what_it_has() {
    let mut repo = Repo::default();
    repo.add("config.json", b"{}".to_vec(), false).add("pytorch_model.bin", content(10, 1), true);
    let server = Server::start(move |request, _| repo.reply(request));
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(settings(&server, cache.path()), "o/m").unwrap_err().to_string();
    assert!(error.contains("pickled .bin"), "{error}");
    assert_eq!(files_below(cache.path()).len(), 0);
}

/// The token goes to the endpoint; the place that it redirects to never sees it.
#[test]
fn a_redirect_to_another_host_carries_no_token() {
    let large = content(200_000, 6);
    let elsewhere = Server::start({
        let large = large.clone();
        move |request, _| ranged(request, &large, "\"elsewhere\"")
    });
    let target = format!("{}/blob?signature=x", elsewhere.url());
    let repo = Repo::single();
    let server = Server::start(move |request, _| match request.path.ends_with("/model.safetensors") {
        true => Reply::new(302, "")
            .with("Location", &target)
            .with("X-Linked-Size", 200_000)
            .with("X-Linked-Etag", format!("\"{}\"", sha256(&large))),
        false => repo.reply(request),
    });
    let cache = tempfile::tempdir().unwrap();
    let token = Token::new("hf_secret").unwrap();
    assert!(!format!("{token:?}").contains("secret"));
    let with_token = Settings { token: Some(token), ..settings(&server, cache.path()) };
    assert!(!format!("{with_token:?}").contains("secret"));
    let fetched = fetch(with_token, "o/m").unwrap();
    assert_eq!(fs::read(fetched.path.join("model.safetensors")).unwrap(), content(200_000, 6));
    let own = server.requests();
    assert!(own.len() >= 4 && own.iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    let other = elsewhere.requests();
    assert_eq!(other.len(), 1);
    assert!(other.iter().all(|request| request.header("authorization").is_none()), "{other:?}");
}

#[test]
fn a_redirect_on_the_same_host_keeps_the_token() {
    let repo = Repo::single();
    let server = Server::start(move |request, _| {
        let mut request = request.clone();
        match request.path.strip_prefix("/moved") {
            None if request.path.ends_with("config.json") => {
                return Reply::new(307, "").with("Location", format!("/moved{}", request.path));
            }
            None => {}
            Some(path) => request.path = path.to_owned(),
        }
        repo.reply(&request)
    });
    let cache = tempfile::tempdir().unwrap();
    let token = Some(Token::new("hf_secret").unwrap());
    fetch(Settings { token, ..settings(&server, cache.path()) }, "o/m").unwrap();
    let moved = server.requests_for("/moved");
    assert_eq!(moved.len(), 1);
    assert!(moved.iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn statuses_become_errors_that_say_what_to_do() {
    for (status, expected) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such model"), (418, "418")] {
        let server = Server::start(move |_, _| Reply::new(status, "no"));
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(settings(&server, cache.path()), "o/m").unwrap_err().to_string();
        assert!(error.contains(expected), "{status}: {error}");
        assert_eq!(server.requests().len(), 1, "waiting does not mend {status}");
    }
}

#[test]
fn a_busy_server_is_asked_again_and_a_broken_one_only_so_often() {
    for status in [429, 503] {
        let repo = Repo::single();
        let server = Server::start(move |request, before| match before {
            0 | 1 => Reply::new(status, "later").with("Retry-After", 0),
            _ => repo.reply(request),
        });
        let cache = tempfile::tempdir().unwrap();
        fetch(settings(&server, cache.path()), "o/m").unwrap();
        assert_eq!(server.requests_for("/revision/").len(), 3);
    }
    let server = Server::start(|_, _| Reply::new(500, "no"));
    let cache = tempfile::tempdir().unwrap();
    match fetch(settings(&server, cache.path()), "o/m").unwrap_err() {
        HubError::Network { attempts: 3, reason, .. } => assert!(reason.contains("500"), "{reason}"),
        other => panic!("{other}"),
    }
    assert_eq!(server.requests().len(), 3);
    // Nobody listens there.
    let nobody = Settings { endpoint: "http://127.0.0.1:9".into(), ..settings(&server, cache.path()) };
    assert!(matches!(fetch(nobody, "o/m"), Err(HubError::Network { attempts: 3, .. })));
}

#[test]
fn a_server_that_falls_silent_does_not_hold_the_client() {
    let repo = Repo::single();
    let server = Server::start(move |request, before| {
        let mut reply = repo.reply(request);
        if before == 0 && request.path.ends_with("model.safetensors") {
            (reply.cut, reply.silence) = (Some(1_000), Some(Duration::from_secs(3_600)));
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(fetched.path.join("model.safetensors")).unwrap(), content(200_000, 6));
    assert_eq!(server.requests_for("model.safetensors").len(), 2);
}
