//! Keys of features that are not there, with values that ask for nothing

use super::*;

/// What nats-streaming-server 0.25.6 does: it starts with each of these, as if the line were not
/// there; and with those that follow it does something, or it refuses them itself.
#[test]
fn a_key_is_refused_for_what_its_value_asks_for_and_not_for_its_name() {
    for line in [
        "accounts {}",
        "accounts []",
        "leafnodes {}",
        "leaf {}",
        "leafnodes { port: 0 }",
        "gateway {}",
        "gateway { port: 0 }",
        "mqtt {}",
        "mqtt { port: 0 }",
        "websocket {}",
        "ws {}",
        "ws { port: 0 }",
        "mappings {}",
        "maps {}",
        "jetstream: off",
        "jetstream: disabled",
        "jetstream { enabled: false }",
        "ocsp: false",
        "ocsp_cache: false",
        "system_account: \"\"",
        "system: \"\"",
        "trusted_keys: []",
        "resolver: MEMORY",
        "account_resolver: MEMORY",
        "resolver_preload {}",
        "resolver_tls {}",
        "resolver_pinned_accounts: []",
        "default_js_domain {}",
        "prof_port: 0",
        "streaming { encryption_cipher: AES }",
        "streaming { encryption_cipher: FOO }",
        "streaming { encrypt: false }",
        "streaming { partitioning: false }",
    ] {
        let config = file_config(&format!("port: 1\n{line}"));
        assert_eq!(config, file_config("port: 1"), "{line}");
    }
    for line in [
        "accounts { A { users: [] } }",
        "leafnodes { port: 7422 }",
        "gateway { name: A }",
        "leafnodes { remotes: [] }",
        "mqtt { port: 1883 }",
        "websocket { port: -1 }",
        "mappings { a: b }",
        "jetstream {}",
        "jetstream: enabled",
        "jetstream { enabled: true }",
        "ocsp {}",
        "ocsp: true",
        "system_account: S",
        "trusted_keys: \"\"",
        "resolver: \"\"",
        "resolver: URL(\"http://a\")",
        "operator: \"\"",
        "operator: []",
        "prof_port: 1",
        "streaming { encrypt: true }",
        "streaming { encryption_key: a }",
    ] {
        let error = error_of(Program::Streaming, "-c f.conf", line);
        assert!(error.contains("is not supported by stanby yet"), "{line}: {error}");
    }
}
