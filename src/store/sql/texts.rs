//! Why there is no session, in the words of the Go drivers, which people and tools look for.

use std::io;

use nix::errno::Errno;

use crate::base::certificate;
use crate::base::go;
use crate::store::sql::dsn::address;

/// What a failed call of the system, or of TLS on top of it, says.
pub(super) fn of_call(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (inner, error.kind()) {
        (Some(error), _) => certificate::text_of(error),
        (None, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => "i/o timeout".to_owned(),
        (None, io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
        (None, _) => go::system_reason(error),
    }
}

/// Why nobody could be reached there; `reason` is that of the library.
pub(super) fn of_dial(host: &str, port: u16, kind: io::ErrorKind, reason: &str) -> String {
    let number = reason.split_once("(os error ").and_then(|(_, rest)| rest.strip_suffix(')'));
    let number = number.and_then(|number| number.parse().ok());
    let dial = address::shown(host, port);
    match (kind, number) {
        (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => format!("{dial}: i/o timeout"),
        (_, Some(number)) => {
            let reason = Errno::from_raw(number).desc().to_lowercase();
            format!("{dial}: connect: {reason}")
        }
        (_, None) if reason.contains("lookup address") => {
            format!("dial tcp: lookup {host}: no such host")
        }
        (_, None) => format!("{dial}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_reached_is_said_in_gos_words() {
        let refused = io::Error::from_raw_os_error(111);
        let said = |host, error: &io::Error| of_dial(host, 5432, error.kind(), &error.to_string());
        let expected = "dial tcp 127.0.0.1:5432: connect: connection refused";
        assert_eq!(said("127.0.0.1", &refused), expected);
        assert_eq!(said("localhost", &refused), expected);
        let missing = io::Error::from_raw_os_error(2);
        let expected = "dial unix /run/s: connect: no such file or directory";
        assert_eq!(said("/run/s", &missing), expected);
        let late = io::Error::from(io::ErrorKind::TimedOut);
        assert_eq!(said("h", &late), "dial tcp h:5432: i/o timeout");
        let text = "failed to lookup address information: Name or service not known";
        let unknown = io::Error::other(text);
        assert_eq!(said("h", &unknown), "dial tcp: lookup h: no such host");
        assert_eq!(of_call(&io::Error::from_raw_os_error(104)), "connection reset by peer");
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let said = of_call(&io::Error::other(expired));
        assert!(said.ends_with("x509: certificate signed by unknown authority"), "{said}");
    }
}
