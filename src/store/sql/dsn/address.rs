//! `host:port` as the Go server's network package reads it.

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Name or number without brackets; empty = this machine.
    pub host: String,
    /// A port of 0 is no default: nobody listens there.
    pub port: u16,
}

/// Names of ports that people write; others are numbers.
const SERVICES: [(&str, u16); 3] = [("mysql", 3306), ("postgresql", 5432), ("postgres", 5432)];

/// An address of the `network`; `default` is the port of one that names none.
///
/// # Errors
/// What a Go program says when it connects there.
pub(super) fn parse(network: &str, text: &str, default: Option<u16>) -> Result<Address, String> {
    let joined = match (split(text), default) {
        (Err(_), Some(port)) => join(text, &port.to_string()),
        (_, _) => text.to_owned(),
    };
    let (host, port) =
        split(&joined).map_err(|reason| format!("dial {network}: address {joined}: {reason}"))?;
    let port = number(port).map_err(|reason| format!("dial {network}: {reason}"))?;
    Ok(Address { host: host.to_owned(), port })
}

/// Host and port together.
pub(super) fn join(host: &str, port: &str) -> String {
    if host.contains([':', '%']) { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const TOO_MANY: &str = "too many colons in address";

/// Host and port apart.
pub(super) fn split(text: &str) -> Result<(&str, &str), &'static str> {
    let missing = "missing port in address";
    let colon = text.rfind(':').ok_or(missing)?;
    let (host, behind_open, behind_close) = if let Some(rest) = text.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or("missing ']' in address")?;
        if behind.rfind(':') != Some(0) {
            return Err(if behind.starts_with(':') { TOO_MANY } else { missing });
        }
        (host, rest, behind)
    } else {
        let host = &text[..colon];
        if host.contains(':') {
            return Err(TOO_MANY);
        }
        (host, text, text)
    };
    if behind_open.contains('[') {
        return Err("unexpected '[' in address");
    }
    if behind_close.contains(']') {
        return Err("unexpected ']' in address");
    }
    Ok((host, &text[colon + 1..]))
}

fn number(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text.is_empty() {
        return Ok(0);
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let service = SERVICES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        return match service {
            Some((_, port)) => Ok(*port),
            None => Err(format!("lookup tcp/{text}: unknown port")),
        };
    }
    let unsigned = if text.starts_with('-') && digits != "0" { "" } else { digits };
    unsigned.parse().map_err(|_| format!("address {text}: invalid port"))
}

/// How a Go program names what it cannot connect to.
pub(in crate::store::sql) fn shown(host: &str, port: u16) -> String {
    if host.starts_with('/') {
        return format!("dial unix {host}");
    }
    // The usual name of this machine is the only one that need not be asked for.
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    format!("dial tcp {}", join(host, &port.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_connected_to_is_named_as_by_go() {
        assert_eq!(shown("localhost", 5), "dial tcp 127.0.0.1:5");
        assert_eq!(shown("::1", 5), "dial tcp [::1]:5");
        assert_eq!(shown("/run/x", 5), "dial unix /run/x");
    }
}
