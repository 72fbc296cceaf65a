//! A hub that lies: about sizes, hashes, names and places.

use std::fs;

use lockstep_hub::{HubError, Settings, Token, limits};

use crate::server::{COMMIT, Reply, Repo, Request, Server, content, fetch, files_below, settings};

/// The error of a fetch of `repo` where `edit` may change every reply.
fn refused(repo: Repo, edit: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> HubError {
    let server = Server::start(move |request, _| edit(request, repo.reply(request)));
    let cache = tempfile::tempdir().unwrap();
    let outside = cache.path().join("inside");
    let error = fetch(settings(&server, &outside), "o/m").unwrap_err();
    for file in files_below(cache.path()) {
        assert!(file.starts_with(&format!("inside/o--m/{COMMIT}/")), "{file} was written");
        assert!(!file.ends_with("model.safetensors"), "{file} has its name, but is wrong");
    }
    error
}

fn is_weights(request: &Request) -> bool {
    request.path.ends_with("/model.safetensors")
}

#[test]
fn wrong_bytes_are_deleted_and_named() {
    let error = refused(Repo::single(), |request, mut reply| {
        if is_weights(request) {
            reply.body[123] ^= 1;
        }
        reply
    });
    match &error {
        HubError::Hash { file, kind: "SHA-256", got, expected } => {
            assert_eq!((file.as_str(), got.len(), expected.len()), ("model.safetensors", 64, 64));
            assert_ne!(got, expected);
            assert!(error.to_string().contains(expected.as_str()), "{error}");
        }
        other => panic!("{other}"),
    }
    let error = refused(Repo::single(), |request, mut reply| {
        if request.path.ends_with("config.json") {
            reply.body = b"[]".to_vec();
        }
        reply
    });
    assert!(matches!(&error, HubError::Hash { kind: "git blob id", .. }), "{error}");
}

#[test]
fn sizes_that_differ_from_the_listing_are_refused() {
    for len in [0, 199_999, 200_001, 400_000] {
        let error = refused(Repo::single(), move |request, mut reply| {
            if is_weights(request) {
                reply.body.resize(len, 0);
            }
            reply
        });
        match error {
            HubError::Size { got, expected, .. } => assert_eq!((got, expected), (len as u64, 200_000)),
            other => panic!("{len}: {other}"),
        }
    }
    // Without a stated length: longer is refused as soon as it is seen, shorter is a broken connection.
    let without_length = |len: usize| {
        refused(Repo::single(), move |request, mut reply| {
            if is_weights(request) {
                reply.body.resize(len, 0);
                (reply.no_length, reply.status) = (true, 200);
                reply.headers.clear();
            }
            reply
        })
    };
    assert!(matches!(without_length(5_000_000), HubError::Size { .. }));
    // A server that never gets further makes the client give up.
    let error = without_length(1_000);
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    let error =
        refused(
            Repo::single(),
            |request, reply| {
                if is_weights(request) { reply.with("X-Linked-Size", 7) } else { reply }
            },
        );
    assert!(matches!(error, HubError::Size { got: 7, .. }), "{error}");
    let error = refused(Repo::single(), |request, reply| {
        let tag = format!("\"{}\"", "0".repeat(64));
        if is_weights(request) { reply.with("X-Linked-Etag", tag) } else { reply }
    });
    assert!(error.to_string().contains("X-Linked-Etag"), "{error}");
}

#[test]
fn ranges_that_do_not_continue_the_part_are_refused() {
    for range in [
        "bytes 0-199999/200000",
        "bytes 49999-199999/200000",
        "bytes 50000-300000/200000",
        "bytes 50000-199999/300000",
        "bytes 50000-49999/200000",
        "bytes */200000",
        "words",
    ] {
        let error = refused(Repo::single(), move |request, reply| {
            if !is_weights(request) {
                return reply;
            }
            if request.header("range").is_none() {
                return reply.cut(50_000);
            }
            let mut lie = Reply::new(206, &content(200_000, 6)[50_000..]);
            lie = lie.with("Content-Range", range);
            lie
        });
        assert!(matches!(error, HubError::Answer { .. } | HubError::Size { .. }), "{range}: {error}");
    }
}

#[test]
fn names_that_leave_the_folder_are_never_used() {
    let evil = [
        "../evil.json",
        "/etc/evil",
        "a/../../evil",
        "..\\evil",
        "C:evil",
        "a//b",
        "./evil",
        "evil\n",
        "config.json.part",
        "",
    ];
    // In a listing they are passed over: nothing there is asked for by such a name.
    let mut repo = Repo::single();
    for name in evil {
        repo.add(name, b"evil".to_vec(), false);
    }
    let server = Server::start(move |request, _| repo.reply(request));
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(settings(&server, cache.path()), "o/m").unwrap();
    assert_eq!(files_below(&fetched.path), ["config.json", "model.safetensors"]);
    assert!(server.requests().iter().all(|request| !request.path.contains("evil")));
    // In an index they are refused.
    for shard in evil.into_iter().chain(["sub/x.safetensors", "config.json", "x.bin"]) {
        let mut repo = Repo::default();
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string().into_bytes();
        repo.add("config.json", b"{}".to_vec(), false).add("model.safetensors.index.json", index, false);
        let error = refused(repo, |_, reply| reply);
        assert!(matches!(error, HubError::Path { .. }), "{shard:?}: {error}");
    }
    let mut repo = Repo::default();
    let index = br#"{"weight_map": {"a": "absent.safetensors"}}"#.to_vec();
    repo.add("config.json", b"{}".to_vec(), false).add("model.safetensors.index.json", index, false);
    assert!(matches!(refused(repo, |_, reply| reply), HubError::NoFile { .. }));
}

#[test]
fn commits_and_hashes_are_hexadecimal() {
    for sha in ["main", "../../../../tmp", "", &"g".repeat(40), &"A".repeat(40), &"a".repeat(41)] {
        let body = serde_json::json!({ "sha": sha }).to_string();
        let error = refused(Repo::single(), move |request, reply| {
            if request.path.contains("/revision/") { Reply::new(200, body.as_str()) } else { reply }
        });
        assert!(matches!(error, HubError::Answer { .. }), "{sha}: {error}");
    }
    let error = refused(Repo::single(), |request, reply| {
        let tree = r#"[{"type":"file","path":"config.json","size":2,"oid":"none"}]"#;
        if request.path.contains("/tree/") { Reply::new(200, tree) } else { reply }
    });
    assert!(error.to_string().contains("git blob id"), "{error}");
}

#[test]
fn answers_of_the_api_are_bounded_and_checked() {
    for body in ["", "{", "[1]", "{\"sha\": 3}", "<html>"] {
        let error = refused(Repo::single(), move |_, _| Reply::new(200, body));
        assert!(matches!(error, HubError::Answer { .. }), "{body}: {error}");
    }
    let error = refused(Repo::single(), |_, _| {
        let mut reply = Reply::new(200, vec![b' '; limits::MAX_API_BYTES as usize + 10]);
        reply.no_length = true;
        reply
    });
    assert!(matches!(error, HubError::TooLarge { .. }), "{error}");
    // Half an answer is a broken connection.
    let error = refused(Repo::single(), |_, reply| reply.cut(3));
    assert!(matches!(error, HubError::Network { attempts: 3, .. }), "{error}");
    let many: Vec<_> = (0..=limits::MAX_FILES)
        .map(|i| serde_json::json!({"type": "file", "path": format!("f{i}"), "size": 0, "oid": "0".repeat(40)}))
        .collect();
    let tree = serde_json::Value::from(many).to_string();
    let error = refused(Repo::single(), move |request, reply| {
        if request.path.contains("/tree/") { Reply::new(200, tree.as_str()) } else { reply }
    });
    assert!(matches!(error, HubError::TooLarge { .. }), "{error}");
}

#[test]
fn sizes_beyond_the_limits_are_refused_before_a_byte_is_fetched() {
    for (path, size) in [("model.safetensors", limits::MAX_FILE_BYTES + 1), ("config.json", 1 << 30)] {
        let error = refused(Repo::single(), move |request, reply| {
            if !request.path.contains("/tree/") {
                return reply;
            }
            let mut tree: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            for entry in tree.as_array_mut().unwrap().iter_mut().filter(|entry| entry["path"] == path) {
                match entry.get_mut("lfs") {
                    Some(lfs) => lfs["size"] = size.into(),
                    None => entry["size"] = size.into(),
                }
            }
            Reply::new(200, tree.to_string())
        });
        assert!(matches!(error, HubError::TooLarge { .. }), "{path}: {error}");
    }
}

#[test]
fn a_listing_in_pages_is_followed_on_the_same_host_only() {
    let repo = Repo::single();
    let server = Server::start(move |request, _| {
        let host = request.header("host").unwrap();
        let tree = repo.tree();
        let all = tree.as_array().unwrap();
        if request.path.contains("/tree/") && !request.path.contains("cursor") {
            let next = format!("<http://{host}{}&cursor=x>; rel=\"next\"", request.path);
            return Reply::new(200, serde_json::json!([all[0]]).to_string()).with("Link", next);
        }
        if request.path.contains("cursor=x") {
            return Reply::new(200, serde_json::json!(all[1..]).to_string());
        }
        repo.reply(request)
    });
    let cache = tempfile::tempdir().unwrap();
    fetch(settings(&server, cache.path()), "o/m").unwrap();
    let error = refused(Repo::single(), |request, reply| match request.path.contains("/tree/") {
        true => reply.with("Link", "<http://127.0.0.1:9/steal>; rel=\"next\""),
        false => reply,
    });
    assert!(matches!(error, HubError::Redirect { .. }), "{error}");
    let error = refused(Repo::single(), |request, reply| match request.path.contains("/tree/") {
        true => {
            let host = request.header("host").unwrap().to_owned();
            Reply::new(200, "[]").with("Link", format!("<http://{host}{}>; rel=\"next\"", request.path))
        }
        false => reply,
    });
    assert!(matches!(&error, HubError::TooLarge { what, .. } if what.contains("pages")), "{error}");
}

#[test]
fn redirects_lead_to_http_and_end() {
    for to in
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "", "//127.0.0.1/x", "http://user@127.0.0.1/x", "x y"]
    {
        let error = refused(Repo::single(), move |request, reply| match is_weights(request) {
            true => Reply::new(302, "").with("Location", to),
            false => reply,
        });
        assert!(matches!(error, HubError::Redirect { .. }), "{to}: {error}");
    }
    let error = refused(Repo::single(), |request, reply| match is_weights(request) {
        true => Reply::new(302, "").with("Location", &request.path),
        false => reply,
    });
    assert!(matches!(error, HubError::Redirect { .. }), "{error}");
}

#[test]
fn a_token_is_not_sent_in_clear_over_a_network() {
    let cache = tempfile::tempdir().unwrap();
    let token = Some(Token::new("hf_secret").unwrap());
    for endpoint in ["http://192.0.2.1", "http://hub.example"] {
        let settings =
            Settings { endpoint: endpoint.into(), token: token.clone(), ..Settings::new(cache.path()) };
        assert!(matches!(fetch(settings, "o/m"), Err(HubError::Endpoint { .. })), "{endpoint}");
    }
    for endpoint in ["", "ftp://x", "hub.example", "https://user:pw@hub.example", "https://hub.example?x=1"] {
        let settings = Settings { endpoint: endpoint.into(), ..Settings::new(cache.path()) };
        assert!(matches!(fetch(settings, "o/m"), Err(HubError::Endpoint { .. })), "{endpoint}");
    }
    assert!(fs::read_dir(cache.path()).unwrap().next().is_none());
}
