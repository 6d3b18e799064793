//! Where files lie, and so what is gone with them.

use std::collections::BTreeMap;

use super::content::Loss;
use super::{Change, Node, State};
use crate::testing::harm::{self, Harm, Held};

/// Where a file lies, or lay when the power was there last.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: usize,
    /// Empty for the root.
    folder_name: Vec<u8>,
    name: Vec<u8>,
}

impl State {
    /// By file.
    pub(super) fn places(&self) -> BTreeMap<usize, Place> {
        let mut folder_names: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut places = BTreeMap::new();
        let entries = |is_durable: bool| {
            let folders = self.nodes.iter().enumerate().filter_map(move |(number, node)| {
                let Node::Folder(names) = node else { return None };
                Some((number, if is_durable { &names.durable } else { &names.names }))
            });
            folders.flat_map(|(folder, names)| {
                names.iter().map(move |(name, node)| (folder, name, *node))
            })
        };
        for (folder, name, node) in entries(false).chain(entries(true)) {
            if self.is_folder(node) {
                folder_names.entry(node).or_insert_with(|| name.clone());
            } else {
                let (folder_name, name) = (Vec::new(), name.clone());
                places.entry(node).or_insert(Place { folder, folder_name, name });
            }
        }
        for place in places.values_mut() {
            place.folder_name = folder_names.get(&place.folder).cloned().unwrap_or_default();
        }
        places
    }

    fn bytes(&self, node: usize) -> &[u8] {
        match &self.nodes[node] {
            Node::File(file) => &file.bytes,
            Node::Folder(_) => &[],
        }
    }

    /// What lies in a file; of a slice both what its data and what its index says.
    fn held(&self, place: &Place, node: usize) -> Vec<Held> {
        let Place { folder, folder_name, name } = place;
        let beside =
            harm::partner(name).and_then(|name| Some((self.find(*folder, &name).ok()?, name)));
        let held = |name: &[u8], node| Held::of(folder_name, name, self.bytes(node), 0);
        let beside = beside.map(|(node, name)| held(&name, node));
        [held(name, node)].into_iter().chain(beside).collect()
    }

    /// What a file holds can no longer be relied on.
    pub(super) fn harm(&mut self, node: usize) {
        let place = self.places().remove(&node);
        let held = place.map(|place| self.held(&place, node));
        let held = held.into_iter().flatten();
        self.harms.extend(held.map(|held| Harm { is_deceit: true, held }));
    }

    /// What is gone as a change of names is.
    pub(super) fn undone(&self, change: &Change, places: &BTreeMap<usize, Place>) -> Vec<Harm> {
        let is_deceit = change.is_promised;
        let mut nodes = Vec::new();
        for (folder, name, target) in &change.edits {
            nodes.extend(target);
            if let (Node::Folder(names), true) = (&self.nodes[*folder], is_deceit) {
                nodes.extend(names.durable.get(name));
            }
        }
        let is_in = |place: &Place| nodes.contains(&place.folder);
        let files = places.iter().filter(|(node, place)| nodes.contains(node) || is_in(place));
        let held = files.flat_map(|(node, place)| self.held(place, *node));
        let held = held.filter(|held| is_deceit || matches!(held, Held::Messages(..)));
        held.map(|held| Harm { is_deceit, held }).collect()
    }

    /// What is gone of a file with the power.
    pub(super) fn lost(&self, place: &Place, node: usize, loss: &Loss) -> Vec<Harm> {
        let left_out = if loss.is_promised { 0 } else { loss.kept };
        let before = Held::of(&place.folder_name, &place.name, &loss.before, left_out);
        if !loss.is_promised {
            let is_message = matches!(before, Held::Messages(..));
            return is_message
                .then_some(Harm { is_deceit: false, held: before })
                .into_iter()
                .collect();
        }
        let after = self.held(place, node);
        let held = after.into_iter().chain([before]);
        held.map(|held| Harm { is_deceit: true, held }).collect()
    }
}
