//! What a command was asked for, on stdout: whole, or the exit code says that it is not.

use std::io::{self, Write};
use std::process::ExitCode;

/// Writes what was asked for, and gives `code`; a failure if it could not be written, and the
/// reason on stderr. Who has read enough and closes a pipe has what it wanted.
#[must_use]
pub(super) fn end(text: &[u8], code: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "stanby: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
        Ok(()) | Err(_) => code,
    }
}

/// The same of a line.
#[must_use]
pub(super) fn end_line(text: &str, code: ExitCode) -> ExitCode {
    end(format!("{text}\n").as_bytes(), code)
}
