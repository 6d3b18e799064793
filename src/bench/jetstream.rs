//! The stream that publishes of a JetStream run go to

use super::BenchError;
use super::connection::{Connection, Said};
use super::streaming::ACKS;

/// A stream in files that takes these subjects; it is made, and removed again.
pub(crate) struct Stream<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// What it takes.
    pub(crate) subjects: &'a [String],
}

impl Stream<'_> {
    /// Makes it.
    pub(crate) fn create(
        &self,
        connection: &mut Connection,
        inbox: &str,
    ) -> Result<(), BenchError> {
        let document = serde_json::json!({
            "name": self.name,
            "subjects": self.subjects,
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
        });
        let subject = format!("$JS.API.STREAM.CREATE.{}", self.name);
        ask(connection, "stream create request", &subject, (inbox, document.to_string().as_bytes()))
    }

    /// Removes it, with what is in it.
    pub(crate) fn remove(
        &self,
        connection: &mut Connection,
        inbox: &str,
    ) -> Result<(), BenchError> {
        let subject = format!("$JS.API.STREAM.DELETE.{}", self.name);
        ask(connection, "stream delete request", &subject, (inbox, b""))
    }
}

fn ask(
    connection: &mut Connection,
    request: &'static str,
    subject: &str,
    (inbox, document): (&str, &[u8]),
) -> Result<(), BenchError> {
    connection.publish(subject.as_bytes(), Some(&format!("{inbox}.stream")), document);
    let answer = connection.expect(request, |said| match said {
        Said::Message { sid: ACKS, payload, .. } => Some(payload.to_vec()),
        Said::Message { .. } | Said::Pong => None,
    })?;
    let document: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    match document.get("error").and_then(|error| error.get("description")) {
        None if document.is_object() => Ok(()),
        None => {
            let reason = "no JetStream answers here".to_owned();
            Err(BenchError::Refused { request, reason })
        }
        Some(reason) => {
            let reason = reason.as_str().unwrap_or_default().to_owned();
            Err(BenchError::Refused { request, reason })
        }
    }
}
