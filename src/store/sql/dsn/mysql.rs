//! MySQL and MariaDB: the Go driver's form of a source.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Address};
use super::url::{Part, unescaped};
use super::{Identity, Pem, Security, Source, duration};
use crate::base::go;
use crate::store::sql::dialect::Driver;

/// Switches of the Go driver that say how it works inside: what they ask for is so here, or has no
/// meaning. Compat: their values are checked as there.
const MEANINGLESS: [&str; 7] = [
    "allowAllFiles",
    "checkConnLiveness",
    "clientFoundRows",
    "columnsWithAlias",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
];

/// Orders of characters in which a byte of one may be a quote: the Go driver puts no values into
/// statements there.
const UNSAFE_COLLATIONS: [&str; 11] = [
    "big5_chinese_ci",
    "sjis_japanese_ci",
    "gbk_chinese_ci",
    "big5_bin",
    "gb2312_bin",
    "gbk_bin",
    "sjis_bin",
    "cp932_japanese_ci",
    "cp932_bin",
    "gb18030_chinese_ci",
    "gb18030_bin",
];

/// How the form is written, for who has written another one.
const FORM: &str = "write user:password@tcp(host:port)/database";

/// What counts only when all of a source was read.
#[derive(Default)]
struct Read {
    tls: String,
    is_plain_allowed: bool,
    interpolates: bool,
    public_key: String,
    variables: BTreeMap<String, String>,
}

/// `[user[:password]@][protocol[(address)]]/dbname[?k=v&…]`. Compat: what the Go driver refuses is
/// refused in its words; pinned by `sources_mean_what_they_mean_to_the_go_drivers`.
pub(super) fn parse(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, String> {
    let mut source = Source::new(Driver::Mysql, 3306, variable);
    // Passwords may hold slashes; names of databases do not.
    let (head, tail) = text.rsplit_once('/').ok_or_else(|| {
        format!("invalid DSN: missing the slash separating the database name ({FORM})")
    })?;
    let (login, address) = head.rsplit_once('@').unwrap_or(("", head));
    if !login.is_empty() {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        source.user = Some(user.to_owned()).filter(|it| !it.is_empty());
        source.password = Some(password.to_owned()).filter(|it| !it.is_empty());
    }
    let (network, address) = network(address)?;
    let (database, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    database.clone_into(&mut source.database);
    let mut read = Read::default();
    for pair in parameters.split('&') {
        match pair.split_once('=') {
            Some((key, value)) => parameter(&mut source, &mut read, key, value)?,
            None if pair.is_empty() => {}
            // Compat: the Go driver passes over it.
            None => {
                source.warnings.push(format!("the parameter {pair:?} of the source has no value"));
            }
        }
    }
    let collation = source.switches.collation.as_deref().unwrap_or_default();
    if read.interpolates && UNSAFE_COLLATIONS.contains(&collation) {
        let text = "invalid DSN: interpolateParams can not be used with unsafe collations";
        return Err(text.to_owned());
    }
    // Without a login, what looks like an address may be one.
    let shown = if head.contains('@') { network } else { "…" };
    let address = match (network, address) {
        ("" | "tcp", "") => "127.0.0.1:3306",
        ("unix", "") => "/tmp/mysql.sock",
        (_, "") => return Err(format!("default addr for network '{shown}' unknown ({FORM})")),
        (_, address) => address,
    };
    source.tls.security = security(&read, &source)?;
    if !read.public_key.is_empty() {
        let name = &read.public_key;
        return Err(format!("invalid value / unknown server pub key name: {name}"));
    }
    match network {
        "unix" => address.clone_into(&mut source.host),
        "" | "tcp" | "tcp4" | "tcp6" => {
            let default = ["", "tcp"].contains(&network).then_some(3306);
            let network = if network.is_empty() { "tcp" } else { network };
            // Ours: several with commas. The Go driver has one.
            for (index, one) in address.split(',').enumerate() {
                if one.is_empty() && address.contains(',') {
                    return Err("an empty address among several".to_owned());
                }
                let Address { host, port } = address::parse(network, one, default)?;
                let host = if host.is_empty() { "127.0.0.1".to_owned() } else { host };
                match index {
                    0 => (source.host, source.port) = (host, port),
                    _ => source.more_hosts.push((host, port)),
                }
            }
        }
        _ => return Err(format!("dial {shown}: unknown network {shown} ({FORM})")),
    }
    source.parameters = read.variables.into_iter().collect();
    Ok(source)
}

/// The two parts of `protocol(address)`.
fn network(text: &str) -> Result<(&str, &str), String> {
    let Some((network, rest)) = text.split_once('(') else { return Ok((text, "")) };
    match rest.strip_suffix(')') {
        Some(address) => Ok((network, address)),
        None if rest.contains(')') => {
            Err("invalid DSN: did you forget to escape a param value?".to_owned())
        }
        None => {
            Err("invalid DSN: network address not terminated (missing closing brace)".to_owned())
        }
    }
}

fn parameter(source: &mut Source, read: &mut Read, key: &str, value: &str) -> Result<(), String> {
    let text = || unescaped(value, Part::Query);
    match key {
        "readTimeout" | "writeTimeout" => source.limit_calls(duration(value)?),
        "timeout" => {
            source.connect_timeout = Some(duration(value)?).filter(|it| *it > Duration::ZERO);
        }
        "tls" => {
            read.tls = match switch(value) {
                Ok(is_on) => is_on.to_string(),
                Err(_) if ["skip-verify", "preferred"].contains(&value.to_lowercase().as_str()) => {
                    value.to_lowercase()
                }
                Err(_) => {
                    let wrong = |error| format!("invalid value for TLS config name: {error}");
                    text().map_err(wrong)?
                }
            }
        }
        // Ours: the Go server has no way to name files.
        "sslrootcert" => source.tls.authorities = Some(Pem::File(PathBuf::from(text()?))),
        "sslcert" | "sslkey" => identify(source, key, PathBuf::from(text()?)),
        "allowFallbackToPlaintext" => read.is_plain_allowed = switch(value)?,
        "allowCleartextPasswords" => source.switches.allows_clear_password = switch(value)?,
        "allowOldPasswords" => source.switches.allows_old_password = switch(value)?,
        "allowNativePasswords" => {
            if !switch(value)? {
                let text = "allowNativePasswords=false of the source cannot be kept: a server that \
                            asks for mysql_native_password gets it";
                source.warnings.push(text.to_owned());
            }
        }
        "interpolateParams" => read.interpolates = switch(value)?,
        "maxAllowedPacket" => {
            let bytes = go::decimal_integer("Atoi", value)?;
            source.switches.packet_bytes_max = usize::try_from(bytes).ok().filter(|it| *it > 0);
        }
        "charset" => {
            let charsets = text()?;
            source.switches.charsets = charsets.split(',').map(word).collect::<Result<_, _>>()?;
        }
        "collation" => source.switches.collation = Some(word(value)?),
        // Times go as numbers; a zone of the session is `time_zone`.
        "loc" => drop(text()?),
        "compress" => return Err("compression not implemented yet".to_owned()),
        "strict" => {
            let text = "strict mode has been removed. See \
                        https://github.com/go-sql-driver/mysql/wiki/strict-mode";
            return Err(text.to_owned());
        }
        "serverPubKey" => {
            let wrong = |error| format!("invalid value for server pub key name: {error}");
            read.public_key = text().map_err(wrong)?;
        }
        key if MEANINGLESS.contains(&key) => drop(switch(value)?),
        // Compat: a variable of the session; the server refuses those that it does not know.
        key => drop(read.variables.insert(variable(key)?, text()?)),
    }
    Ok(())
}

fn security(read: &Read, source: &Source) -> Result<Security, String> {
    let security = match read.tls.as_str() {
        "true" => Security::Full,
        "" | "false" if source.tls.authorities.is_some() => Security::Full,
        "" | "false" => Security::Off,
        "skip-verify" if read.is_plain_allowed => Security::Preferred,
        "skip-verify" => Security::Encrypted,
        "preferred" => Security::Preferred,
        // Names of what a program has registered; the Go server registers none.
        _ => return Err(format!("invalid value / unknown config name: {}", read.tls)),
    };
    Ok(security)
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
