//! Names of models and files, and settings from the environment.

use std::path::Path;

use lockstep_hub::{HubError, ModelRef, RepoPath, Settings, Token};

#[test]
fn names_of_models() {
    let model: ModelRef = "owner/name-1.5_x@refs/pr/3:sub/a.Q4_K_M.gguf".parse().unwrap();
    assert_eq!(
        (model.name(), model.revision(), model.short_name()),
        ("owner/name-1.5_x", "refs/pr/3", "name-1.5_x")
    );
    assert_eq!(model.file().map(RepoPath::as_str), Some("sub/a.Q4_K_M.gguf"));
    let model: ModelRef = "gpt2".parse().unwrap();
    assert_eq!((model.name(), model.revision(), model.file()), ("gpt2", "main", None));
    assert_eq!(model.to_string(), "gpt2@main");
    for bad in [
        "",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "../b",
        "a/..",
        "a b/c",
        "a/b@",
        "a/b@..",
        "a/b@x y",
        "a/b:config.json",
        "a/b:",
        "a/b:../x.gguf",
        "a/b?x",
        "a/b#x",
        "http://x/y",
        &"a".repeat(200),
    ] {
        let error = bad.parse::<ModelRef>().unwrap_err();
        assert!(matches!(error, HubError::ModelName { .. } | HubError::Path { .. }), "{bad:?}: {error}");
    }
}

#[test]
fn paths_stay_below_their_folder() {
    let folder = Path::new("cache");
    for (path, encoded) in [("a.json", "a.json"), ("a/b c%.gguf", "a/b%20c%25.gguf"), ("ä+.x", "%C3%A4%2B.x")]
    {
        let path = RepoPath::new(path).unwrap();
        assert!(path.under(folder).starts_with(folder));
        assert_eq!(path.encoded(), encoded);
    }
    for bad in
        ["..", "a/..", "/a", "a/", "a\\b", "a:b", "a\0b", "a\u{7f}", "a.", "a /b", " a", "x.PART", "x.etag"]
    {
        assert!(RepoPath::new(bad).is_err(), "{bad:?}");
    }
    assert!(RepoPath::new(&"a".repeat(513)).is_err());
}

#[test]
fn settings_come_from_the_environment() {
    let env = |pairs: &'static [(&'static str, &'static str)]| {
        move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let settings = Settings::from_env(None, env(&[("HOME", "/h")])).unwrap();
    assert_eq!(settings.cache, Path::new("/h/.cache/lockstep/hub"));
    assert_eq!((settings.endpoint.as_str(), settings.token), ("https://huggingface.co", None));
    let all =
        &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_TOKEN", "hf_a"), ("HF_ENDPOINT", "https://m/")];
    let settings = Settings::from_env(None, env(all)).unwrap();
    assert_eq!(settings.cache, Path::new("/x/lockstep/hub"));
    assert_eq!(
        (settings.endpoint.as_str(), settings.token),
        ("https://m", Some(Token::new("hf_a").unwrap()))
    );
    assert_eq!(Settings::from_env(Some(Path::new("c")), env(&[])).unwrap().cache, Path::new("c"));
    assert!(matches!(Settings::from_env(None, env(&[])), Err(HubError::NoCache)));
    for bad in ["hf a", "hf\n", "ä"] {
        // A trailing line end is what a file gives; anything inside is not a token.
        assert_eq!(Token::new(bad).is_err(), bad != "hf\n", "{bad:?}");
    }
}
