//! Whether what the nodes have fits together: their logs with each other, and their stores with the
//! log that counts. What does not is put into words here.

use crate::import::compare::{self, Difference};
use crate::import::course::{Course, Word};
use crate::import::members::Choice;
use crate::import::node::Node;

/// Compares the logs; gives what to say of the first entry that is not the same, and adds to
/// `notes` which logs could not be compared to their end.
pub(super) fn logs(nodes: &[Node], chosen: usize, notes: &mut Vec<String>) -> Option<String> {
    let logs: Vec<_> = nodes.iter().map(|node| &node.log).collect();
    let compared = compare::compare(&logs);
    // Who reads that log says what is wrong with it.
    for (at, error) in compared.unread.into_iter().filter(|(at, _)| *at != chosen) {
        let file = nodes[at].log_file.display();
        notes.push(format!("{file}: {error}: it was compared with the others up to there"));
    }
    compared.difference.map(|difference| shown(nodes, &difference))
}

fn shown(nodes: &[Node], difference: &Difference) -> String {
    let side = |side: &Vec<usize>| {
        let files = side.iter().map(|at| nodes[*at].log_file.display().to_string());
        files.collect::<Vec<_>>().join(" and ")
    };
    let sides: Vec<_> = difference.alike.iter().map(side).collect();
    let index = difference.index;
    format!(
        "entry {index} is not the same in {}, though it must be: one of these files is damaged",
        sides.join(" as in ")
    )
}

/// What stores have and the log has no word of.
#[derive(Debug, Default)]
pub(super) struct Unexplained {
    /// Where messages are concerned, which must have been acknowledged to be there.
    pub messages: Vec<String>,
    /// Channels without any.
    pub channels: Vec<String>,
}

/// Looks for it in the stores of all members: none of them takes what the log had not.
pub(super) fn stores(nodes: &[Node], choice: &Choice, course: &Course) -> Unexplained {
    let mut found = Unexplained::default();
    let is_member = |at: &usize| !choice.strangers.contains(at);
    for node in (0..nodes.len()).filter(is_member).map(|at| &nodes[at]) {
        let store = &node.facts.name;
        for (channel, number, state) in node.channels() {
            let last = state.last.get();
            match course.word(channel.as_bytes(), number) {
                Word::Gone => (),
                Word::UpTo(end) if last <= end => (),
                Word::UpTo(end) => found.messages.push(format!(
                    "channel {channel} ends with message {last} in {store}, and with {end} in the \
                     log"
                )),
                Word::Nothing if last == 0 => found.channels.push(format!(
                    "channel {channel} is in {store}, without messages, and the log has no word of \
                     it: it is left out"
                )),
                Word::Nothing => found.messages.push(format!(
                    "channel {channel} is in {store}, with messages up to {last}, and the log has \
                     no word of it"
                )),
            }
        }
    }
    found
}
