//! A drill by hand: whoever is at the input does something to the members, asks how many acks came,
//! and says when it is over.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::DrillError;
use super::load::Notes;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 4 * 1024;

/// What comes from the input of this program.
pub(crate) struct ByHand {
    is_over: Arc<AtomicBool>,
}

impl ByHand {
    /// Begins to read; each line is answered, beside the report, with the number of acks so far.
    pub(crate) fn start(notes: &Notes) -> Result<Self, DrillError> {
        let is_over = Arc::<AtomicBool>::default();
        let (over, notes) = (Arc::clone(&is_over), notes.clone());
        let read = move || {
            answer_all(&mut io::stdin().lock(), &mut io::stderr(), &notes);
            over.store(true, Ordering::Release);
        };
        // It may wait in a read for ever: the drill does not wait for it.
        let thread = thread::Builder::new().name("drill-input".to_owned()).spawn(read);
        drop(thread.map_err(DrillError::io("cannot start a thread"))?);
        Ok(Self { is_over })
    }

    /// Whether the input has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// Reads to the end; an input that fails has ended, and who hears no answer needs none.
fn answer_all(input: &mut impl Read, answers: &mut impl Write, notes: &Notes) {
    let mut chunk = [0; CHUNK_LEN];
    loop {
        let len = match input.read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        for _ in chunk[..len].iter().filter(|byte| **byte == b'\n') {
            let count = notes.ledger().ack_count;
            let _ = writeln!(answers, "{count} acks").and_then(|()| answers.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_answered_with_the_number_of_acks() {
        let notes = Notes::default();
        notes.ledger().ack_count = 7;
        let mut answers = Vec::new();
        let long = [vec![b'x'; CHUNK_LEN * 2], b"\n".to_vec()].concat();
        answer_all(
            &mut &[&b"\nhow many?\n"[..], &long, b"no end"].concat()[..],
            &mut answers,
            &notes,
        );
        assert_eq!(String::from_utf8_lossy(&answers), "7 acks\n7 acks\n7 acks\n");
    }
}
