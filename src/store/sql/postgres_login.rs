//! How a session with PostgreSQL begins: hosts in turn, passwords from a file, what it is set to.

use std::error::Error;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};

use crate::base::files;
use crate::base::go;
use crate::base::world;
use crate::store::sql::dialect::{Failure, SqlError};
use crate::store::sql::dsn::{Primary, Security, Source, Watched};
use crate::store::sql::postgres::{failure, reason};
use crate::store::sql::postgres_tls::Connector;
use crate::store::sql::texts;

/// How long one of several hosts may take to give a session.
const LOGIN_MAX: Duration = Duration::from_secs(5);
/// Name of a session where the source gives it none.
const APPLICATION_NAME: &str = "stanby";
/// Compat: a file of passwords that others may use is passed over, by these bits of its mode.
const SHARED_MODE: u32 = 0x77;

/// Bytes of a file of passwords.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// The last warning of the server that nobody has taken.
pub(super) type Warning = Arc<Mutex<Option<String>>>;

/// A session that has begun.
pub(super) struct Login {
    pub(super) client: Client,
    /// Reads and writes the socket.
    pub(super) connection: JoinHandle<()>,
    pub(super) warning: Warning,
    pub(super) host: Watched,
    /// After how many promotions; 0 where it was not asked.
    timeline: u64,
}

/// Why a host gave no session.
type Refused = (Failure, String);

/// Begins a session with the first host that gives one. Of several that take writes the one that
/// was promoted last counts: the others are former primaries that nobody has stopped.
///
/// # Errors
/// [`SqlError`] with what each of the hosts said.
pub(super) async fn log_in(source: &Source, call_timeout: Duration) -> Result<Login, SqlError> {
    let hosts = source.hosts(world::instant());
    let count = u32::try_from(hosts.len()).unwrap_or(1);
    let mut longest =
        source.connect_timeout.map_or(call_timeout, |it| it.min(call_timeout)) / count;
    if count > 1 {
        longest = longest.min(LOGIN_MAX);
    }
    let (mut failure, mut reasons) = (Failure::Unreachable, Vec::new());
    let mut newest: Option<Login> = None;
    for (host, port) in hosts {
        if newest.is_some() && source.seen.is_hung(&host, port, world::instant()) {
            break;
        }
        let config = config(source, &host, port, longest);
        let watched = source.seen.watch(&host, port, call_timeout);
        let refused = match tokio::time::timeout(longest, connect(source, &config, watched)).await {
            Ok(Ok(login)) if count == 1 || !source.needs_writable => return Ok(login),
            Ok(Ok(login)) => {
                if newest.as_ref().is_none_or(|newest| newest.timeline < login.timeline) {
                    newest = Some(login);
                }
                continue;
            }
            Ok(Err((class, why))) => {
                failure = class;
                why
            }
            Err(_) => {
                source.seen.hung(&host, port, world::instant());
                texts::of_dial(&shown(&host, port), port, io::ErrorKind::TimedOut, "")
            }
        };
        reasons.push(if count == 1 { refused } else { format!("{host}:{port}: {refused}") });
    }
    newest.ok_or_else(|| SqlError::of_connection(failure, source, &reasons.join("; ")))
}

async fn connect(source: &Source, config: &Config, host: Watched) -> Result<Login, Refused> {
    let refused = |error: tokio_postgres::Error| (failure(&error), refusal(&error, config));
    let warning = Warning::default();
    let shared = Arc::clone(&warning);
    let (client, connection) = if source.tls.security == Security::Off {
        let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
        (client, tokio::spawn(attend(connection, shared)))
    } else {
        let connector = Connector::new(&source.tls);
        let connector =
            connector.map_err(|error| (Failure::Unreachable, texts::of_call(&error)))?;
        let (client, connection) = config.connect(connector).await.map_err(refused)?;
        (client, tokio::spawn(attend(connection, shared)))
    };
    let mut timeline = 0;
    if !source.more_hosts.is_empty()
        && source.needs_writable
        && let Some(primary) = primary(&client).await
    {
        timeline = primary.timeline;
        source.seen.primary(primary).map_err(|why| (Failure::Unreachable, why))?;
    }
    Ok(Login { client, connection, warning, host, timeline })
}

/// Which primary this is; `None` where it does not tell.
async fn primary(client: &Client) -> Option<Primary> {
    let asked = "SELECT CAST(system_identifier AS text), \
                 LEFT(pg_walfile_name(pg_current_wal_insert_lsn()), 8) FROM pg_control_system()";
    let rows = client.query_typed(asked, &[]).await.ok()?;
    let row = rows.first()?;
    let timeline: &str = row.try_get(1).ok()?;
    let timeline = u64::from_str_radix(timeline, 16).ok()?;
    Some(Primary { system: row.try_get(0).ok()?, timeline })
}

/// Why there is no session with this host.
fn refusal(error: &tokio_postgres::Error, config: &Config) -> String {
    let source = error.source();
    // The library gives the call that failed no name but this one.
    let is_dial = error.to_string() == "error connecting to server";
    let port = config.get_ports().first().copied().unwrap_or(0);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => String::new(),
    };
    match source.and_then(|source| source.downcast_ref::<io::Error>()).filter(|_| is_dial) {
        Some(why) => texts::of_dial(&shown(&host, port), port, why.kind(), &why.to_string()),
        None if source.is_some_and(|it| it.to_string() == "password missing") => {
            // Compat: an empty one is sent there.
            let user = go::quote(config.get_user().unwrap_or_default());
            format!("pq: password authentication failed for user {user}")
        }
        None if error.is_closed() => "EOF".to_owned(),
        None => reason(error),
    }
}

/// A host, or the socket in this folder.
fn shown(host: &str, port: u16) -> String {
    if host.starts_with('/') { format!("{host}/.s.PGSQL.{port}") } else { host.to_owned() }
}

fn config(source: &Source, host: &str, port: u16, timeout: Duration) -> Config {
    let parameter = |name: &str| {
        source.parameters.iter().find(|(key, _)| key == name).map(|(_, it)| it.as_str())
    };
    let is_clear = source.tls.security == Security::Off;
    let mut config = Config::new();
    config
        .host(host)
        .port(port)
        .dbname(&source.database)
        .application_name(parameter("application_name").unwrap_or(APPLICATION_NAME))
        .connect_timeout(timeout)
        .ssl_mode(if is_clear { SslMode::Disable } else { SslMode::Require });
    let options = options(source);
    // A pooler between us and the server refuses a parameter that it does not know, be it empty.
    if !options.is_empty() {
        config.options(options);
    }
    if source.needs_writable {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    let user = source.user.clone().or_else(system_user);
    if let Some(user) = &user {
        config.user(user);
    }
    let from_file = || {
        let path = source.password_file.as_ref().filter(|path| is_private(path))?;
        let text = String::from_utf8(files::read(path, FILE_LEN_MAX).ok()?).ok()?;
        let user = user.as_deref().unwrap_or_default();
        password(&text, [host, &port.to_string(), &source.database, user])
    };
    if let Some(password) = source.password.clone().or_else(from_file) {
        config.password(password);
    }
    config
}

/// Who this process runs as, as the Go driver asks first.
fn system_user() -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map(|user| user.name)
}

/// The command line of the session: the source's own, then each parameter, so that the server
/// refuses those that it does not know.
fn options(source: &Source) -> String {
    let escaped = |text: &str| {
        let mut escaped = String::with_capacity(text.len());
        for letter in text.chars() {
            if letter == '\\' || letter.is_ascii_whitespace() {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        escaped
    };
    let mut options = source.options.clone();
    for (key, value) in &source.parameters {
        if key != "application_name" {
            options.push_str(&format!(" -c {}={}", escaped(key), escaped(value)));
        }
    }
    options
}

/// What a session is set to. The server must give up too: a statement that waits there keeps the
/// session's locks, and so does a transaction whose owner stands still. The shorter time counts,
/// ours or that of the source. A server that says nothing of a commit that it did not wait for
/// cannot be trusted with one.
pub(super) fn settings(source: &Source, call_timeout: Duration) -> String {
    let (whole, half) = (call_timeout.as_millis().max(1), (call_timeout.as_millis() / 2).max(1));
    let times = [
        ("statement_timeout", whole),
        ("lock_timeout", half),
        ("idle_in_transaction_session_timeout", whole),
    ];
    let shorter = times.map(|(name, ours)| {
        format!(
            "set_config('{name}', LEAST(NULLIF(EXTRACT(EPOCH FROM \
             current_setting('{name}')::interval) * 1000, 0), {ours})::bigint::text, false)"
        )
    });
    let mut settings = format!(
        "SELECT {}, set_config('client_min_messages', CASE \
         WHEN current_setting('client_min_messages') IN ('error', 'fatal', 'panic') \
         THEN 'warning' ELSE current_setting('client_min_messages') END, false)",
        shorter.join(", ")
    );
    if !source.says("synchronous_commit") {
        settings.push_str(
            ", set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
             WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
        );
    }
    settings
}

/// Keeps the connection going, and the last warning in `warning`. It is there before the answer to
/// the statement that it belongs to.
async fn attend<S, T>(mut connection: Connection<S, T>, warning: Warning)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && notice.severity() == "WARNING"
        {
            let text = match notice.detail() {
                Some(detail) => format!("{}: {detail}", notice.message()),
                None => notice.message().to_owned(),
            };
            *warning.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }
}

/// Whether a file of passwords is there and used.
fn is_private(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & SHARED_MODE == 0)
}

/// Says so if there is a file of passwords that cannot be used.
pub(super) fn password_file_warning(source: &Source) -> Option<String> {
    let path = source.password_file.as_ref().filter(|_| source.password.is_none())?;
    let is_left_out = path.exists() && !is_private(path);
    is_left_out.then(|| {
        let path = path.display();
        format!("the passwords of {path} are not used: others may read it, run: chmod 600 {path}")
    })
}

/// The password of the first line that fits `whom`: host, port, database, user.
fn password(text: &str, whom: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields: [String; 5] = fields(line).try_into().ok()?;
        let [.., password] = &fields;
        let is_socket = whom[0].starts_with('/');
        let fits = |index: usize| {
            let field = fields[index].as_str();
            let is_local = index == 0 && field == "localhost" && is_socket;
            field == "*" || field == whom[index] || is_local
        };
        (0..4).all(fits).then(|| password.clone())
    })
}

/// Fields between colons, with a backslash before what is meant as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let taken = match letter {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => letters.next(),
            other => Some(other),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(taken);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::store::sql::dialect::Driver;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# mine\nbad line\nh:5432:other:me:no\nh:*:d:me:a\\:b\\\\\n*:*:*:*:last\n\
                    localhost:*:*:me:local\n";
        assert_eq!(password(text, ["h", "5432", "d", "me"]).as_deref(), Some("a:b\\"));
        assert_eq!(password(text, ["x", "1", "y", "z"]).as_deref(), Some("last"));
        let local = "localhost:*:*:me:local\n";
        assert_eq!(password(local, ["/run", "5432", "d", "me"]).as_deref(), Some("local"));
        assert_eq!(password(local, ["h", "5432", "d", "me"]), None);
    }

    #[test]
    fn a_file_of_passwords_that_others_may_read_is_not_used_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        fs::write(&path, "*:*:*:*:x").unwrap();
        let file = path.to_str().unwrap().to_owned();
        let variable = |name: &str| (name == "PGPASSFILE").then(|| file.clone());
        let source = Source::parse(Driver::Postgres, "dbname=d", &variable).unwrap();
        for (mode, is_used) in [(0o644, false), (0o660, false), (0o600, true), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_private(&path), is_used, "{mode:o}");
            assert_eq!(password_file_warning(&source).is_none(), is_used, "{mode:o}");
        }
    }

    #[test]
    fn parameters_go_to_the_server_behind_the_sources_options() {
        let text = r"dbname=d options='-c geqo=off' search_path='a, b' application_name=x";
        let source = Source::parse(Driver::Postgres, text, &|_| None).unwrap();
        assert_eq!(options(&source), r"-c geqo=off -c search_path=a,\ b");
        let source = Source::parse(Driver::Postgres, "dbname=d", &|_| None).unwrap();
        let config = config(&source, "h", 5432, Duration::from_secs(1));
        assert_eq!(config.get_options(), None, "a pooler refuses what it does not know");
    }

    #[test]
    fn a_session_is_not_asynchronous_unless_the_source_says_so() {
        let says = |text: &str| {
            let source = Source::parse(Driver::Postgres, text, &|_| None).unwrap();
            settings(&source, Duration::from_secs(1)).contains("synchronous_commit")
        };
        assert!(says("dbname=d"));
        assert!(!says("dbname=d synchronous_commit=off"));
        assert!(!says("dbname=d options='--synchronous-commit=off'"));
    }
}
