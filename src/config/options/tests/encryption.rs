//! Encryption at rest, as the reference was measured to understand its options

use super::*;
use crate::base::encryption::{Cipher, Secret, StoreKey};
use crate::config::draft::KEY_VARIABLE;

const REQUIRED: &str = "encryption key required";
const UNSUPPORTED: &str = "encryption cipher not supported";

/// What a start comes to, with this key in the environment.
fn outcome(line: &str, file: &str, variable: &[u8]) -> Result<Option<StoreKey>, String> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let loaded = with_file(file, |world| {
        let secret = |name: &str| (name == KEY_VARIABLE).then(|| variable.to_vec());
        let World { read, variable, cores, secret: _ } = *world;
        load(Program::Streaming, &args, &World { read, variable, cores, secret: &secret })
    });
    match loaded {
        Ok(Request::Serve(config)) => match config.start_error {
            None => Ok(config.streaming.encryption),
            Some(StartError::Streaming(text)) => Err(text),
            Some(other) => panic!("{other:?}"),
        },
        other => panic!("{line:?}, {file:?}: {other:?}"),
    }
}

fn key(given: &[u8], cipher: &str) -> Option<StoreKey> {
    let cipher = Cipher::named(cipher).unwrap();
    Some(StoreKey::of(&Secret::new(given.to_vec()), cipher))
}

/// Goal: what asks for encryption, and whose key counts, is as measured with the Go server.
#[test]
fn encryption_is_asked_for_as_the_reference_is() {
    let none = Ok(None);
    let with = |given: &str| Ok(key(given.as_bytes(), ""));
    let fails = |text: &str| Err(text.to_owned());
    for (line, file, variable, expected) in [
        ("", "", "", none.clone()),
        ("", "", "v", none.clone()),
        ("-encryption_cipher foo", "", "", none.clone()),
        ("-encrypt=false", "", "v", none.clone()),
        ("-encrypt", "", "", fails(REQUIRED)),
        ("-encrypt -encryption_cipher foo", "", "", fails(UNSUPPORTED)),
        ("-encrypt -encryption_cipher foo", "", "v", fails(UNSUPPORTED)),
        ("-encryption_cipher foo -encryption_key k", "", "", fails(UNSUPPORTED)),
        ("-encrypt", "", "v", with("v")),
        ("-encryption_key k", "", "", with("k")),
        ("-encryption_key k -encrypt=false", "", "", with("k")),
        ("-encryption_key k", "", "v", with("v")),
        ("-encryption_key=", "", "v", none.clone()),
        ("--encrypt=t -encryption_key k", "", "", with("k")),
        ("-c f.conf", "streaming { encrypt: true, encryption_key: k }", "", with("k")),
        ("-c f.conf", "streaming { encryption_key: k }", "", with("k")),
        ("-c f.conf", "streaming { encryption_key: k }", "v", with("v")),
        ("-c f.conf", "encryption_key: k", "", with("k")),
        ("-c f.conf", "streaming { encrypt: false, encryption_key: k }", "", with("k")),
        ("-c f.conf", "streaming { encryption_key: k, encrypt: false }", "", with("k")),
        ("-c f.conf -encrypt=false", "streaming { encryption_key: k }", "", with("k")),
        ("-c f.conf -encryption_key=", "streaming { encryption_key: k }", "", with("k")),
        ("-c f.conf -encryption_key f", "streaming { encryption_key: k }", "", with("k")),
        ("-c f.conf -encryption_key f", "streaming { encrypt: false }", "", with("f")),
        ("-c f.conf -encrypt", "streaming { encrypt: false }", "", fails(REQUIRED)),
        ("-c f.conf -encrypt=false", "streaming { encrypt: true }", "", none.clone()),
    ] {
        assert_eq!(outcome(line, file, variable.as_bytes()), expected, "{line:?} {file:?}");
    }
}

#[test]
fn a_cipher_is_chosen_by_name() {
    for (line, cipher) in [
        ("-encryption_key k -encryption_cipher aes", "AES"),
        ("-encryption_key k -encryption_cipher ChaCha", "CHACHA"),
    ] {
        assert_eq!(outcome(line, "", b""), Ok(key(b"k", cipher)));
    }
    let file = "streaming { encryption_key: k, encryption_cipher: chacha }";
    assert_eq!(outcome("-c f.conf", file, b""), Ok(key(b"k", "CHACHA")));
    let line = "-c f.conf -encryption_cipher AES";
    assert_eq!(outcome(line, file, b""), Ok(key(b"k", "AES")), "the flag counts");
}

/// Goal: a key is any bytes, and one that came here damaged is refused instead of being used.
#[test]
fn a_key_may_be_any_bytes() {
    assert_eq!(outcome("-encrypt", "", b"\xff\x00"), Ok(key(b"\xff\x00", "")));
    let args: Vec<String> = ["-c", "f.conf"].map(str::to_owned).to_vec();
    let read = |_: &Path| Ok(b"encryption_key: \"\xff\"".to_vec());
    let (variable, secret) = (|_: &str| None, |_: &str| None);
    let world = World { read: &read, variable: &variable, secret: &secret, cores: 1 };
    let Ok(Request::Serve(config)) = load(Program::Streaming, &args, &world) else {
        panic!("no server")
    };
    assert_eq!(config.streaming.encryption, key(b"\xff", ""));
    let refused = outcome("-encryption_key a\u{fffd}", "", b"").unwrap_err();
    assert!(refused.starts_with("encryption_key: a key that is not UTF-8"), "{refused}");
    assert_eq!(outcome("-encryption_key a\u{fffd}", "", b"v"), Ok(key(b"v", "")));
}

#[test]
fn an_error_names_the_place_that_asks() {
    let place = |line, file| outcome(line, file, b"").unwrap_err();
    let file = "streaming {\nencrypt: true }";
    assert_eq!(place("-c f.conf", file), format!("{REQUIRED} (f.conf:2:1)"));
    let file = "streaming { encryption_key: k\nencryption_cipher: foo }";
    assert_eq!(place("-c f.conf", file), format!("{UNSUPPORTED} (f.conf:2:1)"));
    let text = "parameter \"encryption_key\" value is expected to be string, got int64";
    let error = error_of(Program::Streaming, "-c f.conf", "streaming { encryption_key: 1234 }");
    assert!(error.ends_with(text) && !error.contains("1234"), "{error}");
}

/// Goal: arguments are kept for a reload, by which the key stays; theirs goes, and no other word.
#[test]
fn arguments_are_kept_without_a_key() {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (line, expected) in [
        ("-encryption_key k -p 1", "-encryption_key  -p 1"),
        ("-p 1 --encryption_key=k=k", "-p 1 --encryption_key="),
        (
            "-encrypt -encryption_key k -encryption_key l",
            "-encrypt -encryption_key  -encryption_key ",
        ),
        ("-cid -encryption_key -c k", "-cid -encryption_key -c k"),
        ("-encryption_key", "-encryption_key"),
        ("word -encryption_key k", "word -encryption_key k"),
        ("-unknown -encryption_key k", "-unknown -encryption_key k"),
    ] {
        let kept = crate::config::Arguments::without_keys(Program::Streaming, words(line));
        assert_eq!(kept.0, words(expected), "{line}");
    }
}

#[test]
fn a_configuration_is_shown_without_its_key() {
    let config = config_of("-encryption_key hush");
    assert!(!format!("{config:?}").contains("hush"));
    assert!(!format!("{:?}", config.streaming.encryption).contains("hush"));
}
