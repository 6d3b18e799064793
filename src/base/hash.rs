//! Hash maps for tables that are looked into for each message.

use std::collections::HashMap;

/// A hash map with a quick hash, whose secrets differ from table to table, because keys come from
/// outside. Its order differs from run to run, as that of every hash map: logic never iterates over
/// it.
pub type QuickMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
