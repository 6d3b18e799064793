//! Which node of a Raft cluster has everything that was committed, and whether that is certain.
//!
//! A committed entry is on a majority of the members. An election gives the lead to nobody whose
//! last entry stands behind that of a voter, so whoever has the last (term, index) of a majority
//! could have won it, and has each committed entry. Entries of its that were not committed yet may
//! stay, as a new leader commits them too: nobody was told that they failed for good.

use std::path::Path;

use crate::import::raft_log::{Member, Place};

/// What is known of one node that was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// As the operator named it.
    pub name: String,
    /// The cluster of its store.
    pub cluster: String,
    /// Its node ID.
    pub id: String,
    /// Its last entry, or the one at which its snapshot ends.
    pub last: Place,
    /// The members by the newest configuration that it has.
    pub members: Vec<Member>,
}

impl NodeFacts {
    fn is_voter(&self) -> bool {
        self.members.iter().any(|member| member.is_voter && member.id == self.id)
    }
}

/// The node whose log counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which of those that were given.
    pub index: usize,
    /// IDs of the members that were given, and of those that were not.
    pub present: Vec<String>,
    /// The others.
    pub absent: Vec<String>,
    /// Given nodes that are no members any more, by their place.
    pub strangers: Vec<usize>,
}

impl Choice {
    /// Whether each committed entry is certain to be in the log of the node.
    #[must_use]
    pub fn has_majority(&self) -> bool {
        self.absent.len() < self.present.len()
    }
}

/// Why no node can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// None was given.
    #[error("no node was given")]
    NoNode,
    /// Two of other clusters.
    #[error("{one} belongs to cluster {:?}, {other} to cluster {:?}", .clusters.0, .clusters.1)]
    Clusters {
        /// The first one.
        one: String,
        /// The second one.
        other: String,
        /// Their clusters.
        clusters: (String, String),
    },
    /// One of them twice, or a copy of it.
    #[error("{one} and {other} are the same node {id:?}: each counts once")]
    Twice {
        /// The first one.
        one: String,
        /// The second one.
        other: String,
        /// Its ID.
        id: String,
    },
    /// Nobody knows who the members are.
    #[error(
        "neither the log nor a snapshot of {0} says who the members of the cluster are: is the \
         folder \"snapshots\" beside the log missing, or empty?"
    )]
    NoMembers(String),
    /// Nobody is a member.
    #[error(
        "none of the given nodes is a member of its cluster any more: each was removed from it, \
         or never came to be one"
    )]
    NoMember,
}

/// A node that seems to have been given with the log of another one, and that one. A log has no
/// word of whose it is; where nodes have folders with their IDs, as in the Go server's default, its
/// path tells.
#[must_use]
pub fn swapped(nodes: &[NodeFacts], logs: &[&Path]) -> Option<(usize, usize)> {
    let names = |at: usize, other: usize| {
        let id = &nodes[other].id;
        logs[at].components().any(|part| part.as_os_str() == id.as_str())
    };
    let all = 0..nodes.len().min(logs.len());
    let is_own = |at: usize| names(at, at);
    let mut pairs = all.clone().flat_map(|at| all.clone().map(move |other| (at, other)));
    pairs.find(|(at, other)| !is_own(*at) && !is_own(*other) && names(*at, *other))
}

/// The node whose log counts.
///
/// # Errors
/// [`NoChoice`].
pub fn choose(nodes: &[NodeFacts]) -> Result<Choice, NoChoice> {
    let first = nodes.first().ok_or(NoChoice::NoNode)?;
    for (index, node) in nodes.iter().enumerate() {
        if node.cluster != first.cluster {
            let clusters = (first.cluster.clone(), node.cluster.clone());
            let (one, other) = (first.name.clone(), node.name.clone());
            return Err(NoChoice::Clusters { one, other, clusters });
        }
        if let Some(same) = nodes[..index].iter().find(|before| before.id == node.id) {
            let (one, other, id) = (same.name.clone(), node.name.clone(), node.id.clone());
            return Err(NoChoice::Twice { one, other, id });
        }
    }
    let newest = nodes.iter().rev().max_by_key(|node| node.last).unwrap_or(first);
    if newest.members.is_empty() {
        return Err(NoChoice::NoMembers(newest.name.clone()));
    }
    // Of equals the first. Who was removed may have a last entry that the others have not.
    let voters = nodes.iter().enumerate().filter(|(_, node)| node.is_voter()).rev();
    let (index, chosen) = voters.max_by_key(|(_, node)| node.last).ok_or(NoChoice::NoMember)?;
    let voters = chosen.members.iter().filter(|member| member.is_voter);
    let is_given = |id: &String| nodes.iter().any(|node| node.id == *id);
    let (present, absent) = voters.map(|member| member.id.clone()).partition(is_given);
    let is_member = |node: &NodeFacts| chosen.members.iter().any(|member| member.id == node.id);
    let strangers = (0..nodes.len()).filter(|index| !is_member(&nodes[*index])).collect();
    Ok(Choice { index, present, absent, strangers })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn node(id: &str, term: u64, index: u64, members: &str) -> NodeFacts {
        let member = |id: &str| Member { id: id.to_owned(), is_voter: true };
        NodeFacts {
            name: format!("node {id}"),
            cluster: "shop".to_owned(),
            id: id.to_owned(),
            last: Place { term, index },
            members: members.split_whitespace().map(member).collect(),
        }
    }

    #[test]
    fn the_last_term_counts_before_the_last_index() {
        let nodes = [node("a", 2, 900, "a b c"), node("b", 3, 20, "a b c")];
        let choice = choose(&nodes).unwrap();
        assert_eq!((choice.index, choice.has_majority()), (1, true));
        assert_eq!(choice.absent, ["c"]);
        let nodes = [node("a", 3, 20, "a b c"), node("b", 3, 20, "a b c")];
        assert_eq!(choose(&nodes).unwrap().index, 0, "of equals the first");
    }

    #[test]
    fn half_of_the_members_are_no_majority() {
        let nodes = [node("a", 2, 9, "a b c d"), node("b", 2, 9, "a b c d")];
        assert!(!choose(&nodes).unwrap().has_majority());
        assert!(!choose(&nodes[..1]).unwrap().has_majority());
        assert!(choose(&[node("a", 2, 9, "a")]).unwrap().has_majority());
        let nodes = [node("a", 2, 9, "a b c d"), node("b", 2, 9, ""), node("d", 2, 9, "")];
        assert!(choose(&nodes).unwrap().has_majority());
    }

    /// Goal: a member that only listens does not make a majority.
    #[test]
    fn only_voters_count() {
        let mut nodes = [node("a", 2, 9, "a b c"), node("b", 2, 9, "a b c")];
        for member in nodes.iter_mut().flat_map(|node| &mut node.members) {
            member.is_voter = member.id != "b";
        }
        let choice = choose(&nodes).unwrap();
        assert_eq!((choice.present.len(), choice.absent.len()), (1, 1));
        assert!(!choice.has_majority() && choice.strangers.is_empty());
    }

    #[test]
    fn who_was_removed_neither_counts_nor_is_chosen() {
        let nodes = [node("x", 9, 99, "a b c"), node("a", 2, 9, "a b c"), node("b", 2, 8, "a b c")];
        let choice = choose(&nodes).unwrap();
        assert_eq!((choice.index, choice.strangers), (1, vec![0]));
        assert_eq!(choose(&nodes[..1]), Err(NoChoice::NoMember));
    }

    #[test]
    fn the_same_node_twice_and_two_clusters_are_refused() {
        let mut nodes = [node("a", 2, 9, "a b c"), node("b", 2, 9, "a b c")];
        nodes[1].id = "a".to_owned();
        let said = choose(&nodes).unwrap_err().to_string();
        assert_eq!(said, "node a and node b are the same node \"a\": each counts once");
        nodes[1].cluster = "other".to_owned();
        let said = choose(&nodes).unwrap_err().to_string();
        assert_eq!(said, "node a belongs to cluster \"shop\", node b to cluster \"other\"");
        assert_eq!(choose(&[]), Err(NoChoice::NoNode));
        let nodes = [node("a", 2, 9, "")];
        assert_eq!(choose(&nodes), Err(NoChoice::NoMembers("node a".to_owned())));
    }
}
