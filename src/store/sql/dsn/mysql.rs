//! MySQL and MariaDB: the Go driver's form, or a `mysql://` URL.

use std::path::PathBuf;

use super::{Identity, Pem, Security, Source, duration, host_port, unescaped, unescaped_query};
use crate::store::sql::dialect::Driver;

/// Switches of the Go driver that say how it works inside: what they ask for is so here, or has no
/// meaning. Compat: their values are checked as there.
const MEANINGLESS: [&str; 8] = [
    "allowAllFiles",
    "checkConnLiveness",
    "clientFoundRows",
    "columnsWithAlias",
    "interpolateParams",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
];

/// `[user[:password]@][protocol[(address)]]/dbname[?k=v&…]`, or a `mysql://` URL.
pub(super) fn parse(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, String> {
    let mut source = Source::new(Driver::Mysql, 3306, variable);
    let scheme = ["mysql://", "mariadb://"].iter().find_map(|it| text.strip_prefix(it));
    let is_url = scheme.is_some();
    let rest = scheme.unwrap_or(text);
    // Passwords may hold slashes; names of databases do not.
    let (head, tail) = rest.rsplit_once('/').ok_or("missing the slash before the database name")?;
    let (database, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    source.database = unescaped(database)?;
    let (login, address) = head.rsplit_once('@').unwrap_or(("", head));
    let decoded = |text: &str| if is_url { unescaped(text) } else { Ok(text.to_owned()) };
    if !login.is_empty() {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        source.user = Some(decoded(user)?);
        source.password = Some(decoded(password)?).filter(|it| !it.is_empty());
    }
    let (protocol, address) = match address.split_once('(') {
        Some((protocol, rest)) => {
            (protocol, rest.strip_suffix(')').ok_or("missing ) behind the address")?)
        }
        None if is_url => ("tcp", address),
        None => (address, ""),
    };
    match protocol {
        "" | "tcp" if address.is_empty() => {}
        "" | "tcp" => host_port(&mut source, address)?,
        "unix" if address.is_empty() => "/tmp/mysql.sock".clone_into(&mut source.host),
        "unix" => address.clone_into(&mut source.host),
        other => return Err(format!("unknown protocol {other:?}")),
    }
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) => parameter(&mut source, key, value)?,
            // Compat: the Go driver passes over it.
            None => {
                source.warnings.push(format!("the parameter {pair:?} of the source has no value"))
            }
        }
    }
    Ok(source)
}

fn parameter(source: &mut Source, key: &str, value: &str) -> Result<(), String> {
    match key {
        "readTimeout" | "writeTimeout" => source.limit_calls(duration(key, value)?),
        "timeout" => {
            source.connect_timeout = Some(duration(key, value)?).filter(|it| !it.is_zero());
        }
        "tls" => source.tls.security = security(value, source)?,
        // Ours: the Go server has no way to name files.
        "sslrootcert" => {
            source.tls.security = Security::Full;
            source.tls.authorities = Some(Pem::File(PathBuf::from(unescaped_query(value)?)));
        }
        "sslcert" | "sslkey" => identify(source, key, PathBuf::from(unescaped_query(value)?)),
        "allowFallbackToPlaintext" => {
            if switch(value)? && source.tls.security == Security::Encrypted {
                source.tls.security = Security::Preferred;
            }
        }
        "allowCleartextPasswords" => source.switches.allows_clear_password = switch(value)?,
        "allowOldPasswords" => source.switches.allows_old_password = switch(value)?,
        "allowNativePasswords" => {
            if !switch(value)? {
                let text = "allowNativePasswords=false of the source cannot be kept: a server that \
                            asks for mysql_native_password gets it";
                source.warnings.push(text.to_owned());
            }
        }
        "maxAllowedPacket" => {
            let bytes: i64 =
                value.parse().map_err(|_| format!("invalid maxAllowedPacket {value:?}"))?;
            source.switches.packet_bytes_max = usize::try_from(bytes).ok().filter(|it| *it > 0);
        }
        "charset" => {
            let charsets = unescaped_query(value)?;
            source.switches.charsets = charsets.split(',').map(word).collect::<Result<_, _>>()?;
        }
        "collation" => source.switches.collation = Some(word(value)?),
        // Times go as numbers; a zone of the session is `time_zone`.
        "loc" => drop(unescaped_query(value)?),
        "compress" => return Err("compression not implemented yet".to_owned()),
        "strict" => return Err("strict mode has been removed".to_owned()),
        "serverPubKey" => {
            return Err(format!("invalid value / unknown server pub key name: {value}"));
        }
        key if MEANINGLESS.contains(&key) => drop(switch(value)?),
        // Compat: a variable of the session; the server refuses those that it does not know.
        key => source.parameters.push((variable(key)?, unescaped_query(value)?)),
    }
    Ok(())
}

fn security(value: &str, source: &Source) -> Result<Security, String> {
    let has_authorities = source.tls.authorities.is_some();
    Ok(match (switch(value), value.to_lowercase().as_str()) {
        (Ok(true), _) => Security::Full,
        (Ok(false), _) if has_authorities => Security::Full,
        (Ok(false), _) => Security::Off,
        (_, "skip-verify") => Security::Encrypted,
        (_, "preferred") => Security::Preferred,
        // Names of what a program has registered; the Go server registers none.
        (_, _) => return Err(format!("invalid value / unknown config name: {value}")),
    })
}

fn identify(source: &mut Source, key: &str, path: PathBuf) {
    let identity = source.tls.identity.get_or_insert_with(|| Identity {
        certificate: Pem::File(path.clone()),
        key: Pem::File(path.clone()),
        is_default: false,
    });
    let part = if key == "sslcert" { &mut identity.certificate } else { &mut identity.key };
    *part = Pem::File(path);
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("invalid bool value: {other}")),
    }
}

/// A name that goes into a statement as it is.
fn word(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_word = !text.is_empty()
        && text.chars().all(|it| it.is_ascii_alphanumeric() || it == '_' || it == '-');
    if is_word { Ok(text.to_owned()) } else { Err(format!("invalid character set {text:?}")) }
}

/// A variable's name, with `@@session.` before it if that is wanted.
fn variable(text: &str) -> Result<String, String> {
    let is_name =
        !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || "_.@".contains(it));
    if is_name { Ok(text.to_owned()) } else { Err(format!("invalid parameter {text:?}")) }
}
