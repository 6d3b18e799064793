//! The forms of sources that people have, and what each parameter becomes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;

mod answers;

fn parse(driver: Driver, text: &str) -> Source {
    Source::parse(driver, text, &|_| None).unwrap()
}

fn why(driver: Driver, text: &str) -> String {
    Source::parse(driver, text, &|_| None).unwrap_err().to_string()
}

fn with(variables: &[(&str, &str)], text: &str) -> Result<Source, SourceError> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Source::parse(Driver::Postgres, text, &variable)
}

fn parameters(source: &Source) -> Vec<(&str, &str)> {
    source.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn the_mysql_forms_of_the_go_documentation_are_read() {
    let source = parse(Driver::Mysql, "nss:password@/nss_db");
    assert_eq!(source.to_string(), "mysql://nss@127.0.0.1:3306/nss_db");
    assert_eq!(source.password.as_deref(), Some("password"));
    let text = "nss:p@s/s@tcp(10.0.0.1:3307)/nss_db?readTimeout=5s&writeTimeout=1m1.5s";
    let source = parse(Driver::Mysql, text);
    assert_eq!(source.to_string(), "mysql://nss@10.0.0.1:3307/nss_db");
    assert_eq!(source.password.as_deref(), Some("p@s/s"));
    assert_eq!(source.call_timeout, Some(Duration::from_secs(5)));
    assert_eq!(parse(Driver::Mysql, "u@unix(/run/my.sock)/db").host, "/run/my.sock");
    let source = parse(Driver::Mysql, "u:a@b@tcp([::1]:99)/db?tls=skip-verify");
    assert_eq!((source.host.as_str(), source.port), ("::1", 99));
    assert_eq!(source.password.as_deref(), Some("a@b"));
    assert_eq!(source.tls.security, Security::Encrypted);
    let url = why(Driver::Mysql, "mysql://u:secret@h:1/db");
    let expected = "default addr for network 'h:1' unknown (write user:password@tcp(host:port)";
    assert!(url.contains(expected), "{url}");
}

#[test]
fn each_parameter_of_the_mysql_driver_is_applied_or_refused() {
    let of = |parameters: &str| parse(Driver::Mysql, &format!("u@/db?{parameters}"));
    for (value, security) in [
        ("true", Security::Full),
        ("1", Security::Full),
        ("False", Security::Off),
        ("preferred", Security::Preferred),
        ("Skip-Verify", Security::Encrypted),
        ("skip-verify&allowFallbackToPlaintext=true", Security::Preferred),
    ] {
        assert_eq!(of(&format!("tls={value}")).tls.security, security, "{value}");
    }
    let source = of("sql_mode=%27ANSI%27&wait_timeout=600&parseTime=true&loc=Europe%2FBerlin");
    assert_eq!(parameters(&source), [("sql_mode", "'ANSI'"), ("wait_timeout", "600")]);
    assert!(source.says("wait_timeout") && !source.says("autocommit"));
    let source = of("charset=utf8mb4,utf8&collation=utf8mb4_bin&maxAllowedPacket=1024&timeout=2s");
    let Switches { charsets, collation, packet_bytes_max, .. } = &source.switches;
    assert_eq!((charsets.len(), collation.as_deref()), (2, Some("utf8mb4_bin")));
    assert_eq!(*packet_bytes_max, Some(1024));
    assert_eq!(source.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(of("foo&allowNativePasswords=false").warnings.len(), 2);
    for (wrong, part) in [
        ("parseTime=yes", "invalid bool value: yes"),
        ("tls=custom", "unknown config name: custom"),
        ("compress=true", "not implemented"),
        ("serverPubKey=k", "unknown server pub key name: k"),
        ("readTimeout=5", "time: missing unit in duration \"5\""),
        ("a%20b=1", "invalid parameter"),
    ] {
        assert!(why(Driver::Mysql, &format!("u@/db?{wrong}")).contains(part), "{wrong}");
    }
}

#[test]
fn the_postgres_forms_of_the_go_documentation_are_read() {
    let text = "dbname=nss_db readTimeout=5s writeTimeout=250ms sslmode=disable";
    let source = parse(Driver::Postgres, text);
    assert_eq!(source.to_string(), "postgres://localhost:5432/nss_db");
    assert_eq!(source.call_timeout, Some(Duration::from_millis(250)));
    let text = "user=postgres password='it''s' host=10.0.0.1 port=5433 sslmode=disable";
    assert!(Source::parse(Driver::Postgres, text, &|_| None).is_err());
    let text = r"user = me password='it\'s a' host= 10.0.0.1 port=5433 sslmode=disable";
    let source = parse(Driver::Postgres, text);
    assert_eq!(source.to_string(), "postgres://me@10.0.0.1:5433/me");
    assert_eq!(source.password.as_deref(), Some("it's a"));
    let text = "postgres://me:p%2Fw@h:1/db?sslmode=verify-full&readTimeout=5s";
    let source = parse(Driver::Postgres, text);
    assert_eq!(source.to_string(), "postgres://me@h:1/db");
    assert_eq!((source.tls.security, source.tls.authorities), (Security::Full, None));
    assert_eq!(source.call_timeout, Some(Duration::from_secs(5)));
}

#[test]
fn run_time_parameters_of_postgres_are_kept_for_the_server() {
    let text = "dbname=d search_path=a,b statement_timeout=5s app.key='x y' connect_timeout=3 \
                options='-c geqo=off' fallback_application_name=f binary_parameters=yes";
    let source = parse(Driver::Postgres, text);
    let expected = [
        ("app.key", "x y"),
        ("application_name", "f"),
        ("search_path", "a,b"),
        ("statement_timeout", "5s"),
    ];
    assert_eq!(parameters(&source), expected);
    assert_eq!(source.options, "-c geqo=off");
    assert_eq!(source.connect_timeout, Some(Duration::from_secs(3)));
    assert!(source.says("geqo") && source.says("search_path"));
    let url = "postgres://h/d?application_name=my+app&search_path=a%2Cb&sslmode=disable";
    let expected = [("application_name", "my app"), ("search_path", "a,b")];
    assert_eq!(parameters(&parse(Driver::Postgres, url)), expected);
    for (wrong, part) in [
        ("client_encoding=latin1", "client_encoding must be absent"),
        ("datestyle=German", "datestyle must be absent"),
        ("sslmode=prefer", "unsupported sslmode \"prefer\""),
        ("sslmode=allow", "unsupported sslmode \"allow\""),
        ("binary_parameters=1", "unrecognized value"),
        ("connect_timeout=3s", "connect_timeout"),
        ("host=a,b port=1,2,3", "3 port(s) for 2 host(s)"),
        ("target_session_attrs=standby", "target_session_attrs"),
    ] {
        assert!(why(Driver::Postgres, wrong).contains(part), "{wrong}");
    }
}

#[test]
fn several_hosts_of_postgres_are_all_known() {
    for text in ["host=a,b port=1,2 dbname=d", "postgres://a:1,b:2/d"] {
        let source = parse(Driver::Postgres, text);
        assert_eq!(source.hosts(Instant(0)), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert!(source.needs_writable);
        assert_eq!(source.to_string(), "postgres://a:1,b:2/d");
    }
    let source = parse(Driver::Postgres, "host=a,b target_session_attrs=any");
    assert_eq!(source.hosts(Instant(0))[1], ("b".to_owned(), 5432));
    assert!(!source.needs_writable);
}

#[test]
fn the_environment_says_what_the_source_does_not() {
    let variables = [
        ("PGHOST", "h"),
        ("PGPORT", "7"),
        ("PGAPPNAME", "mine"),
        ("PGOPTIONS", "-c geqo=off"),
        ("PGTZ", "UTC"),
        ("PGSSLMODE", "verify-ca"),
        ("HOME", "/h/me"),
        ("SSL_CERT_FILE", "/ca.pem"),
        ("SSL_CERT_DIR", "/one:/two"),
    ];
    let source = with(&variables, "dbname=d port=8").unwrap();
    assert_eq!(source.to_string(), "postgres://h:8/d");
    assert_eq!(parameters(&source), [("application_name", "mine"), ("timezone", "UTC")]);
    assert_eq!(
        (source.options.as_str(), source.tls.security),
        ("-c geqo=off", Security::Authority)
    );
    assert_eq!(source.password_file, Some(PathBuf::from("/h/me/.pgpass")));
    assert_eq!(source.tls.system.file, Some(PathBuf::from("/ca.pem")));
    assert_eq!(source.tls.system.folders, [PathBuf::from("/one"), PathBuf::from("/two")]);
    let source = with(&[("PGPASSFILE", "/p"), ("HOME", "/h")], "dbname=d").unwrap();
    assert_eq!(source.password_file, Some(PathBuf::from("/p")));
    let error = with(&[("PGSERVICE", "s")], "dbname=d").unwrap_err();
    assert!(error.to_string().contains("setting PGSERVICE not supported"), "{error}");
}

#[test]
fn passwords_are_never_shown() {
    for (driver, text) in [
        (Driver::Mysql, "nss:secret@/db"),
        (Driver::Postgres, "user=a password=secret sslmode=disable"),
        (Driver::Postgres, "user=a sslinline=true sslcert=c sslkey=secret"),
    ] {
        let source = parse(driver, text);
        assert!(!format!("{source} {source:?} {:?}", source.tls).contains("secret"));
    }
    let error = Source::parse(Driver::Mysql, "nss:secret@tcp(h:p)/db", &|_| None);
    assert!(!error.unwrap_err().to_string().contains("secret"));
    let error = Source::parse(Driver::Postgres, "user=a password=hush secret", &|_| None);
    assert!(!error.unwrap_err().to_string().contains("secret"));
}

#[test]
fn several_hosts_for_mysql_are_tried_in_their_order() {
    let source = parse(Driver::Mysql, "u:p@tcp(a:1,[::1]:2,c)/db");
    let hosts = [("a".to_owned(), 1), ("::1".to_owned(), 2), ("c".to_owned(), 3306)];
    assert_eq!(source.hosts(Instant(0)), hosts);
    assert_eq!(source.to_string(), "mysql://u@a:1,::1:2,c:3306/db");
    for (wrong, part) in [
        ("tcp(a:1,)", "an empty address among several"),
        ("tcp(,b:2)", "an empty address among several"),
        ("tcp(a:1,b:x)", "unknown port"),
        ("tcp6(a:1,b)", "missing port in address"),
    ] {
        let text = why(Driver::Mysql, &format!("u:secret@{wrong}/db"));
        assert!(text.contains(part) && !text.contains("secret"), "{wrong}: {text}");
    }
}
