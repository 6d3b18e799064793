//! one thing that is wrong or left over, and the list of them, which is bounded file by file

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Findings of one file that are told one by one.
const TOLD_MAX: u64 = 50;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Something of acknowledged data is missing or cannot be read.
    Damage,
    /// A start puts it right, and nothing that was acknowledged is lost by it.
    Mended,
    /// To be known.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// In which file, below the directory.
    pub file: PathBuf,
    /// At which byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What it is.
    pub what: String,
    /// What it means for clients.
    pub means: &'static str,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Findings {
    root: PathBuf,
    all: Vec<Finding>,
    counts: BTreeMap<(PathBuf, Weight), u64>,
}

impl Findings {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), all: Vec::new(), counts: BTreeMap::new() }
    }

    /// One more, of the file at `path`.
    pub fn add(
        &mut self,
        weight: Weight,
        (path, offset): (&Path, Option<u64>),
        what: String,
        means: &'static str,
    ) {
        let file = path.strip_prefix(&self.root).unwrap_or(path).to_owned();
        let count = self.counts.entry((file.clone(), weight)).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            self.all.push(Finding { weight, file, offset, what, means });
        }
    }

    /// In the order in which they were found, with a word on those that are too many.
    pub fn all(mut self) -> Vec<Finding> {
        for ((file, weight), count) in self.counts {
            if let Some(more) = count.checked_sub(TOLD_MAX).filter(|more| *more != 0) {
                let (what, means) = (format!("{more} more of this kind"), "as those above");
                self.all.push(Finding { weight, file, offset: None, what, means });
            }
        }
        self.all
    }
}
