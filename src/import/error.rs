//! Why nodes are not imported, or not whole, and what to do then.

use crate::import::members::NoChoice;
use crate::import::messages::ReadError;
use crate::import::node::NodeError;
use crate::import::raft_log::LogError;
use crate::site::new_store::NewStoreError;

/// Why nothing, or not all, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A node cannot be read.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No node can be chosen.
    #[error(transparent)]
    NoChoice(#[from] NoChoice),
    /// A log was given for the store of another node.
    #[error(
        "{one} and {other} have the same Raft log {log}: give each store the log path of its own \
         node"
    )]
    SameLog {
        /// The first node.
        one: String,
        /// The second one.
        other: String,
        /// The file.
        log: String,
    },
    /// Too few nodes.
    #[error(
        "{given} of {all} members were given, which is no majority: what was acknowledged after \
         the last entry of {name} ({index}, of term {term}) may be on {absent} alone, and would be \
         missing. Give more nodes, or take what there is with --force"
    )]
    Minority {
        /// How many members were given.
        given: usize,
        /// How many there are.
        all: usize,
        /// The best node.
        name: String,
        /// Its last entry.
        index: u64,
        /// And its term.
        term: u64,
        /// IDs of the others.
        absent: String,
    },
    /// The log that counts.
    #[error("{path}: {source}{notices}")]
    Log {
        /// Which file.
        path: String,
        /// Why.
        source: Box<LogError>,
        /// What else was found on that node.
        notices: String,
    },
    /// A log that seems to be another node's.
    #[error(
        "{store} is the store of node {id:?}, and {log}, which was given with it, has the name of \
         node {named:?}: give --store and --log-path in the same order, or take them as they were \
         given with --force"
    )]
    Swapped {
        /// The store.
        store: String,
        /// Of which node it is.
        id: String,
        /// The log.
        log: String,
        /// Of which node that seems to be.
        named: String,
    },
    /// Nodes have the same entry, and not with the same content.
    #[error(
        "{what}. Leave that node out if the others are a majority of the members, or take what \
         {chosen} has with --force"
    )]
    Difference {
        /// Which entry, in which files.
        what: String,
        /// The node whose log counts.
        chosen: String,
    },
    /// An entry of the log that counts does not fit to those before it.
    #[error(
        "{what}. Leave this node out if the others are a majority of the members, or read it as a \
         server does with --force: messages may be missing then{notices}"
    )]
    Doubt {
        /// Which one, in which file, and why.
        what: String,
        /// What else was found on that node.
        notices: String,
    },
    /// Stores have messages that the log does not know.
    #[error(
        "{what}. Such messages may have been acknowledged, so either the log of {chosen} or a \
         store is damaged. Leave that node out if the others are a majority of the members, or \
         take what there is with --force: of channels that the log has, all messages"
    )]
    Unexplained {
        /// Which ones.
        what: String,
        /// The node whose log counts.
        chosen: String,
    },
    /// Messages are on no node.
    #[error(
        "messages are missing on all nodes that were given: {0}. Give more nodes, or take what \
         there is with --force: empty messages will stand in for them"
    )]
    Missing(String),
    /// Messages that should be there cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new store.
    #[error(transparent)]
    Target(#[from] NewStoreError),
    /// The new store, when something was written to it.
    #[error("{0}; the new store is not complete, and no server takes it: remove it")]
    BrokenOff(Box<ImportError>),
}
