//! one thing that is wrong or left over, and the list of them, which is bounded file by file

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Findings of one file that are told one by one.
const TOLD_MAX: u64 = 50;

/// Files whose checksums all differ, from which on another polynomial is the likelier reason.
const FAILING_MIN: u64 = 2;

pub(super) const OTHER_RULES: &str = "it was likely written with another -file_crc_poly, or by something that \
                           makes none: look again with --crc-poly or --no-crc";

/// What nothing can be said of.
const UNREAD: &str = "it was not looked at: look again as a user who may read it";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Something of acknowledged data is missing or cannot be read.
    Damage,
    /// This user may not read it: nothing is known of it.
    Unread,
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
    /// Files whose first record has the checksum that it should, and those where it has another.
    fitting: u64,
    failing: u64,
}

impl Findings {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            all: Vec::new(),
            counts: BTreeMap::new(),
            fitting: 0,
            failing: 0,
        }
    }

    /// The file at `path` cannot be read. What this user may not read may be whole.
    pub fn unreadable(&mut self, path: &Path, error: &io::Error, means: &'static str) {
        let is_refused = error.kind() == io::ErrorKind::PermissionDenied;
        let (weight, means) =
            if is_refused { (Weight::Unread, UNREAD) } else { (Weight::Damage, means) };
        self.add(weight, (path, None), error.to_string(), means);
    }

    /// How many files this user may not read.
    pub fn unread_count(&self) -> usize {
        self.all.iter().filter(|found| found.weight == Weight::Unread).count()
    }

    /// How the checksum of the first record of a file is.
    pub fn first_checksum(&mut self, is_fitting: bool) {
        let count = if is_fitting { &mut self.fitting } else { &mut self.failing };
        *count += 1;
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

    /// Whether the first record of every file has another checksum than it should: that is no
    /// damage, which comes to one file or another.
    fn is_by_other_rules(&self) -> bool {
        self.fitting == 0 && FAILING_MIN <= self.failing
    }

    /// In the order in which they were found, with a word on those that are too many.
    pub fn all(mut self) -> Vec<Finding> {
        if self.is_by_other_rules() {
            let what = "the checksum of the first record differs in every file".to_owned();
            let file = PathBuf::new();
            let hint =
                Finding { weight: Weight::Damage, file, offset: None, what, means: OTHER_RULES };
            self.all.retain(|found| found.weight == Weight::Unread);
            self.all.insert(0, hint);
            return self.all;
        }
        for ((file, weight), count) in self.counts {
            if let Some(more) = count.checked_sub(TOLD_MAX).filter(|more| *more != 0) {
                let (what, means) = (format!("{more} more of this kind"), "as those above");
                self.all.push(Finding { weight, file, offset: None, what, means });
            }
        }
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what this user may not read may be whole, and is not called damaged.
    #[test]
    fn what_may_not_be_read_is_no_damage() {
        let mut findings = Findings::new(Path::new("/store"));
        let path = Path::new("/store/orders/subs.dat");
        findings.unreadable(path, &io::ErrorKind::PermissionDenied.into(), "lost");
        findings.unreadable(path, &io::ErrorKind::UnexpectedEof.into(), "lost");
        assert_eq!(findings.unread_count(), 1);
        let found = findings.all();
        let weights: Vec<Weight> = found.iter().map(|it| it.weight).collect();
        assert_eq!(weights, [Weight::Unread, Weight::Damage]);
        assert_eq!((found[0].means, found[1].means), (UNREAD, "lost"));
    }
}
