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
    ] {
        let error = error_of(Program::Streaming, "-c f.conf", line);
        assert!(error.contains("is not supported by stanby yet"), "{line}: {error}");
    }
}

#[test]
fn a_list_of_permissions_that_is_empty_allows_everything_but_beside_answers() {
    let allowed = |text: &str| {
        let users =
            format!("authorization {{ users: [ {{ user: a, permissions: {{ {text} }} }} ] }}");
        let permissions =
            file_config(&users).core.auth.users[0].permissions.clone().unwrap_or_default();
        (permissions.publish.allow, permissions.subscribe.allow)
    };
    for text in [
        "publish: []",
        "publish: { allow: [] }",
        "publish: { allow: [], deny: [x] }",
        "publish: { deny: [] }",
        "publish: {}",
        "import: []",
        "pub: []",
        "subscribe: []",
        "subscribe: { allow: [] }",
    ] {
        assert_eq!(allowed(text), (None, None), "{text}");
    }
    for text in ["allow_responses: true", "publish: [], allow_responses: true"] {
        assert_eq!(allowed(text), (Some(Vec::new()), None), "{text}");
    }
    let of_routes = |text: &str| {
        let cluster = format!("cluster {{ port: 6222, permissions {{ {text} }} }}");
        let cluster = file_config(&cluster).core.cluster.clone().unwrap();
        cluster.permissions.map(|found| (found.publish.allow, found.subscribe.allow))
    };
    for text in ["import: []", "export: []", "export: { allow: [] }"] {
        assert_eq!(of_routes(text), Some((None, None)), "{text}");
    }
}
