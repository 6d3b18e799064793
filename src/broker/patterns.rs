//! A tree of subjects with wildcards.
//!
//! A node stands for tokens up to where other patterns branch off, so there are at most two nodes
//! for a pattern however many tokens it has. Nodes lie in one list and name each other by their
//! places: nothing here goes into itself, because how deep a subject is, strangers decide.

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::base::hash::QuickMap;

const ROOT: usize = 0;

#[derive(Debug)]
struct Node<T> {
    /// All tokens from the root to here. Those behind `start` are this node's own.
    path: Bytes,
    start: usize,
    parent: usize,
    /// What is behind this node, by the first token of its own.
    children: QuickMap<Bytes, usize>,
    /// What is kept for the pattern that ends here.
    here: T,
    /// What is kept for the pattern that goes on with `>`.
    rest: T,
}

impl<T> Node<T> {
    fn label(&self) -> &[u8] {
        &self.path[self.start..]
    }

    fn key(&self) -> Bytes {
        self.path.slice(self.start..self.start + first_token(self.label()).len())
    }
}

/// Something that can have nothing in it.
pub trait Content: Default {
    /// Whether it needs no place.
    fn is_empty(&self) -> bool;
}

/// Nodes that are to be visited, and the length of what matches up to there.
type Open = SmallVec<[(usize, usize); 16]>;

/// A search for the patterns that match a subject, done in portions. The tree may change between
/// two of them, so places in it are known by their tokens.
#[derive(Debug)]
pub struct Search {
    /// The subject.
    pub subject: Bytes,
    /// Where it goes on: tokens, and how much of the subject they match.
    left: Vec<(Bytes, usize)>,
    /// The tokens of patterns that match, and whether a `>` comes behind them.
    pub found: Vec<(Bytes, bool)>,
}

impl Search {
    /// One that has not begun.
    pub fn new(subject: &[u8]) -> Self {
        let subject = Bytes::copy_from_slice(subject);
        Self { subject, left: vec![(Bytes::new(), 0)], found: Vec::new() }
    }

    /// Whether all is found.
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}

/// A value for each pattern.
#[derive(Debug)]
pub struct Patterns<T> {
    nodes: Vec<Node<T>>,
    free: Vec<usize>,
}

impl<T: Content> Default for Patterns<T> {
    fn default() -> Self {
        Self { nodes: vec![node(Bytes::new(), 0, ROOT)], free: Vec::new() }
    }
}

fn node<T: Content>(path: Bytes, start: usize, parent: usize) -> Node<T> {
    let children = QuickMap::default();
    Node { path, start, parent, children, here: T::default(), rest: T::default() }
}

impl<T: Content> Patterns<T> {
    /// The value of a pattern; made if there is none.
    pub fn entry(&mut self, pattern: &[u8]) -> &mut T {
        let (path, is_rest) = split_rest(pattern);
        let mut at = ROOT;
        let mut done = 0;
        while done < path.len() {
            (at, done) = self.step(at, path, done);
        }
        let node = &mut self.nodes[at];
        if is_rest { &mut node.rest } else { &mut node.here }
    }

    /// Goes on by one node from `at`, which stands for the first `done` bytes of `path`; makes the
    /// node if there is none.
    fn step(&mut self, at: usize, path: &[u8], done: usize) -> (usize, usize) {
        let left = &path[done..];
        let Some(child) = self.nodes[at].children.get(first_token(left)).copied() else {
            let new = self.add(node(Bytes::copy_from_slice(path), done, at));
            self.adopt(at, new);
            return (new, path.len());
        };
        let label_len = self.nodes[child].label().len();
        let common = common_tokens_len(self.nodes[child].label(), left);
        if common == label_len {
            return (child, after(done + common));
        }
        // The child's tokens are the same up to here: a node in between stands for these.
        let middle = self.add(node(Bytes::copy_from_slice(&path[..done + common]), done, at));
        self.adopt(at, middle);
        let moved = &mut self.nodes[child];
        moved.start += common + 1;
        self.adopt(middle, child);
        (middle, after(done + common))
    }

    /// Puts a node behind another, in the place of the one that may be there.
    fn adopt(&mut self, parent: usize, child: usize) {
        self.nodes[child].parent = parent;
        let key = self.nodes[child].key();
        let children = &mut self.nodes[parent].children;
        // The key as well: the old one is a part of the memory of a node that may go.
        children.remove(&key);
        children.insert(key, child);
    }

    fn add(&mut self, node: Node<T>) -> usize {
        if let Some(place) = self.free.pop() {
            self.nodes[place] = node;
            return place;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node where the tokens of a pattern end.
    fn find(&self, path: &[u8]) -> Option<usize> {
        let mut at = ROOT;
        let mut done = 0;
        while done < path.len() {
            let left = &path[done..];
            let child = *self.nodes[at].children.get(first_token(left))?;
            let label = self.nodes[child].label();
            if common_tokens_len(label, left) < label.len() {
                return None;
            }
            done = after(done + label.len());
            at = child;
        }
        Some(at)
    }

    /// The value of a pattern, if there is a place for one.
    pub fn get(&self, pattern: &[u8]) -> Option<&T> {
        let (path, is_rest) = split_rest(pattern);
        let node = &self.nodes[self.find(path)?];
        Some(if is_rest { &node.rest } else { &node.here })
    }

    /// Changes the value of a pattern, and drops the nodes that nobody needs after it.
    pub fn change<R: Default>(&mut self, pattern: &[u8], act: impl FnOnce(&mut T) -> R) -> R {
        let (path, is_rest) = split_rest(pattern);
        let Some(at) = self.find(path) else { return R::default() };
        let node = &mut self.nodes[at];
        let done = act(if is_rest { &mut node.rest } else { &mut node.here });
        self.tidy(at);
        done
    }

    /// Drops a node without a value, and what is not needed without it.
    fn tidy(&mut self, mut at: usize) {
        while at != ROOT && self.nodes[at].here.is_empty() && self.nodes[at].rest.is_empty() {
            let (parent, key) = (self.nodes[at].parent, self.nodes[at].key());
            match self.nodes[at].children.len() {
                0 => {
                    let children = &mut self.nodes[parent].children;
                    children.remove(&key);
                    if children.is_empty() {
                        *children = QuickMap::default();
                    }
                    self.drop_node(at);
                    at = parent;
                }
                1 => {
                    let only = self.nodes[at].children.values().next().copied();
                    let Some(only) = only else { return };
                    let start = self.nodes[at].start;
                    self.nodes[only].start = start;
                    self.adopt(parent, only);
                    self.drop_node(at);
                    return;
                }
                _ => return,
            }
        }
    }

    fn drop_node(&mut self, at: usize) {
        self.nodes[at] = node(Bytes::new(), 0, ROOT);
        self.free.push(at);
    }

    /// Shows the values of all patterns that match a literal subject; says how many nodes it saw.
    /// They can be many though few match, two for each token again and again: it sees at most
    /// `most` of them, and says whether that was enough.
    pub fn matches<'a>(
        &'a self,
        subject: &[u8],
        most: u64,
        mut found: impl FnMut(&'a T),
    ) -> (u64, bool) {
        let mut open: Open = smallvec![(ROOT, 0)];
        let visited = self.walk(subject, &mut open, most, |node, is_rest| {
            found(if is_rest { &node.rest } else { &node.here });
        });
        (visited, open.is_empty())
    }

    /// Goes on with a search that is done in portions, by about `most` nodes; says how many it saw.
    pub fn go_on(&self, search: &mut Search, most: u64) -> u64 {
        let mut visited = 0;
        let Search { subject, left, found } = search;
        while visited < most {
            let Some((path, done)) = left.pop() else { break };
            visited += 1 + path.len() as u64 / 64;
            let Some(begin) = self.locate(&path, subject, done) else { continue };
            let mut open: Open = smallvec![begin];
            let most = most.saturating_sub(visited).max(1);
            visited += self.walk(subject, &mut open, most, |node, is_rest| {
                found.push((node.path.clone(), is_rest));
            });
            left.extend(open.iter().map(|(at, done)| (self.nodes[*at].path.clone(), *done)));
        }
        visited
    }

    /// The node that stands for the tokens of `path`, which match the first `done` bytes of
    /// `subject`, or for these and more that match too; and how far those match.
    fn locate(&self, path: &[u8], subject: &[u8], done: usize) -> Option<(usize, usize)> {
        let mut at = ROOT;
        let mut known = 0;
        while known < path.len() {
            let child = *self.nodes[at].children.get(first_token(&path[known..]))?;
            let label = self.nodes[child].label();
            let common = common_tokens_len(label, &path[known..]);
            if common < label.len() {
                if common < path.len() - known {
                    return None;
                }
                // Nobody needs a node of its own for `path` any more.
                let rest = label.get(common + 1..)?;
                let len = matched_len(rest, subject.get(done..)?)?;
                return Some((child, after(done + len)));
            }
            known = after(known + common);
            at = child;
        }
        Some((at, done))
    }

    /// Visits what is `open`, and what is behind it, as far as it matches; at most so many nodes.
    fn walk<'a>(
        &'a self,
        subject: &[u8],
        open: &mut Open,
        most: u64,
        mut found: impl FnMut(&'a Node<T>, bool),
    ) -> u64 {
        let mut visited = 0;
        while visited < most {
            let Some((at, done)) = open.pop() else { break };
            visited += 1;
            let node = &self.nodes[at];
            if done >= subject.len() {
                if !node.here.is_empty() {
                    found(node, false);
                }
                continue;
            }
            if !node.rest.is_empty() {
                found(node, true);
            }
            if node.children.is_empty() {
                continue;
            }
            let left = &subject[done..];
            let token = first_token(left);
            let keys = [Some(token), Some(&b"*"[..]).filter(|star| *star != token)];
            for key in keys.into_iter().flatten() {
                let Some(child) = node.children.get(key) else { continue };
                if let Some(len) = matched_len(self.nodes[*child].label(), left) {
                    open.push((*child, after(done + len)));
                }
            }
        }
        visited
    }

    /// What is kept for the pattern of these tokens, or for the one that goes on with `>`.
    pub fn at(&self, path: &[u8], is_rest: bool) -> Option<&T> {
        let node = &self.nodes[self.find(path)?];
        Some(if is_rest { &node.rest } else { &node.here })
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == self.free.len() + 1 && self.nodes[ROOT].rest.is_empty()
    }

    /// How many nodes there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

/// The tokens before a `>` at the end, and whether there is one.
fn split_rest(pattern: &[u8]) -> (&[u8], bool) {
    match pattern {
        [b'>'] => (b"", true),
        [path @ .., b'.', b'>'] => (path, true),
        path => (path, false),
    }
}

fn first_token(subject: &[u8]) -> &[u8] {
    match memchr::memchr(b'.', subject) {
        Some(at) => &subject[..at],
        None => subject,
    }
}

/// Where the token behind the one that ends at `end` begins; beyond the end behind the last one.
fn after(end: usize) -> usize {
    end + 1
}

/// The length of the whole tokens that both begin with.
fn common_tokens_len(left: &[u8], right: &[u8]) -> usize {
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let is_end = |side: &[u8]| side.get(same).is_none_or(|byte| *byte == b'.');
    if is_end(left) && is_end(right) {
        return same;
    }
    memchr::memrchr(b'.', &left[..same]).unwrap_or(0)
}

/// The length of the front of a literal `subject` that the tokens of `label` match.
fn matched_len(label: &[u8], subject: &[u8]) -> Option<usize> {
    let (mut at, mut found) = (0, 0);
    loop {
        let token = first_token(&label[at..]);
        let other = first_token(&subject[found..]);
        if token != b"*" && token != other {
            return None;
        }
        at += token.len();
        found += other.len();
        if at == label.len() {
            return Some(found);
        }
        if found == subject.len() {
            return None;
        }
        at += 1;
        found += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::thread;

    use super::*;

    impl Content for Vec<u32> {
        fn is_empty(&self) -> bool {
            self.is_empty()
        }
    }

    fn found(tree: &Patterns<Vec<u32>>, subject: &str) -> Vec<u32> {
        let mut all = Vec::new();
        let (_, is_whole) = tree.matches(subject.as_bytes(), u64::MAX, |values| all.extend(values));
        assert!(is_whole);
        all.sort_unstable();
        all
    }

    /// Goal: no depth that anybody can ask for needs more of the stack than another.
    #[test]
    fn half_a_million_tokens_fit_a_stack_of_64_kib() {
        let deep = || {
            let literal = vec!["a"; 500_000].join(".");
            let wild = format!("*.{literal}");
            let mut tree: Patterns<Vec<u32>> = Patterns::default();
            for (pattern, value) in [(&wild, 1), (&format!("{wild}.b"), 2), (&">".to_owned(), 3)] {
                tree.entry(pattern.as_bytes()).push(value);
            }
            assert_eq!(found(&tree, &format!("x.{literal}")), [1, 3]);
            assert_eq!(found(&tree, &format!("x.{literal}.b")), [2, 3]);
            assert_eq!(found(&tree, &format!("x.{literal}.c")), [3]);
            assert_eq!(tree.len(), 3, "nodes are few, however many tokens there are");
            tree.change(wild.as_bytes(), Vec::clear);
            assert_eq!(tree.len(), 2);
            drop(tree);
        };
        thread::Builder::new().stack_size(64 * 1024).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn nodes_are_split_and_joined_again() {
        let patterns = ["a.*.c", "a.*.d", "a.*", "a.>", "*", ">", "a.b.*.d.>", "*.b.c", "a.*.cd"];
        let mut tree: Patterns<Vec<u32>> = Patterns::default();
        for (pattern, value) in patterns.iter().zip(1..) {
            tree.entry(pattern.as_bytes()).push(value);
        }
        for (subject, expected) in [
            ("a", &[5, 6][..]),
            ("a.b", &[3, 4, 6]),
            ("a.b.c", &[1, 4, 6, 8]),
            ("a.b.cd", &[4, 6, 9]),
            ("a.b.x.d", &[4, 6]),
            ("a.b.x.d.y.z", &[4, 6, 7]),
            ("ab", &[5, 6]),
            ("x.b.c", &[6, 8]),
        ] {
            assert_eq!(found(&tree, subject), expected, "{subject}");
        }
        for pattern in patterns {
            assert!(!tree.get(pattern.as_bytes()).unwrap().is_empty(), "{pattern}");
            tree.change(pattern.as_bytes(), Vec::clear);
        }
        assert!(tree.is_empty());
    }

    /// Goal: a search in portions finds what is there from its begin to its end, whatever comes,
    /// goes, is split and joined meanwhile; and nothing twice.
    #[test]
    fn a_search_in_portions_bears_changes() {
        let subject = "a.b.a.b.a.b.a";
        let pattern = |number: usize| {
            let choice = |(at, token)| if number >> at & 1 == 0 { token } else { "*" };
            let tokens: Vec<&str> = subject.split('.').enumerate().map(choice).collect();
            let len = 2 + number % 6;
            let end = if number.is_multiple_of(3) || len < 7 { ".>" } else { "" };
            tokens[..len].join(".") + end
        };
        let all: std::collections::BTreeSet<String> = (0..128).map(pattern).collect();
        let (mut stay, mut change) = (Vec::new(), Vec::new());
        for (number, pattern) in all.into_iter().enumerate() {
            if number.is_multiple_of(3) { &mut change } else { &mut stay }.push(pattern);
        }
        assert!(stay.len() > 20 && change.len() > 10, "{} {}", stay.len(), change.len());
        for portion in 1..7 {
            let mut tree: Patterns<Vec<u32>> = Patterns::default();
            for pattern in stay.iter().chain(&change) {
                tree.entry(pattern.as_bytes()).push(1);
            }
            let expected = found(&tree, subject).len()
                - change
                    .iter()
                    .filter(|pattern| {
                        crate::base::subject::matches(pattern.as_bytes(), subject.as_bytes())
                    })
                    .count();
            let mut search = Search::new(subject.as_bytes());
            let mut portions = 0;
            while !search.is_done() {
                tree.go_on(&mut search, portion);
                let one = &change[portions * 7 % change.len()];
                if tree.get(one.as_bytes()).is_none_or(Vec::is_empty) {
                    tree.entry(one.as_bytes()).push(1);
                } else {
                    tree.change(one.as_bytes(), Vec::clear);
                }
                portions += 1;
                assert!(portions < 10_000);
            }
            let mut names: Vec<String> = search
                .found
                .iter()
                .map(|(path, is_rest)| {
                    String::from_utf8_lossy(path).into_owned() + if *is_rest { ".>" } else { "" }
                })
                .collect();
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "nothing twice");
            let staying = names.iter().filter(|name| stay.contains(name)).count();
            assert_eq!(staying, expected, "portions of {portion}");
            assert!(portions > 10);
        }
    }
}
