//! `stanby check` over stores of the Go server, whole and damaged.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::collection;
use proptest::prelude::*;
use stanby::base::random::Random;
use stanby::store::check::{self, Report, Rules, Weight};

fn look(root: &Path) -> Report {
    check::directory(root, Rules::default(), &mut |_| ()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A store with durables, clients and several channels, as the Go server left it.
fn recorded() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores/b-durables"), &root);
    (folder, root)
}

/// Files with records, but for those that have none.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "dat" || it == "idx")
                && fs::metadata(&path).unwrap().len() > 4
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

#[test]
fn a_store_as_the_go_server_left_it_is_whole() {
    let (_folder, root) = recorded();
    let report = look(&root);
    assert!(!report.is_damaged() && report.findings.is_empty(), "{report:?}");
    assert!(report.messages > 0 && report.subscriptions > 0 && report.clients > 0, "{report:?}");
}

/// Goal: a bit that flips anywhere in a file with checksums is never passed over, and the look
/// changes nothing.
#[test]
fn a_flipped_bit_is_seen_wherever_it_is() {
    let (_folder, root) = recorded();
    let files = files(&root);
    let mut random = Random::new(20_231_122);
    for _ in 0..400 {
        let file = &files[below(&mut random, files.len())];
        let whole = fs::read(file).unwrap();
        let at = below(&mut random, whole.len());
        let bit = random.below(8);
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        fs::write(file, &flipped).unwrap();
        let report = look(&root);
        let is_seen = report.findings.iter().any(|found| file.ends_with(&found.file));
        assert!(is_seen, "bit {bit} of byte {at} of {}: {report:?}", file.display());
        assert_eq!(fs::read(file).unwrap(), flipped, "it is as it was");
        fs::write(file, whole).unwrap();
    }
}

/// Goal: what is missing at the end of one file is seen by the other, or inside a record.
#[test]
fn a_cut_is_seen_wherever_it_leaves_a_trace() {
    let (_folder, root) = recorded();
    let files = files(&root);
    let mut random = Random::new(7);
    for _ in 0..200 {
        let file = &files[below(&mut random, files.len())];
        let whole = fs::read(file).unwrap();
        let len = below(&mut random, whole.len());
        fs::write(file, &whole[..len]).unwrap();
        let report = look(&root);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let is_alone = name == "subs.dat" || name == "clients.dat";
        let is_seen = !report.findings.is_empty() || report.start_fails.is_some();
        // A file of its own that ends behind a whole record leaves none: the page says so.
        assert!(is_seen || is_alone, "{len} bytes of {}: {report:?}", file.display());
        fs::write(file, whole).unwrap();
    }
}

#[test]
fn a_file_that_is_gone_is_named_with_what_it_means() {
    for (gone, weight) in [
        ("clients.dat", Weight::Damage),
        ("server.dat", Weight::Damage),
        ("orders/subs.dat", Weight::Damage),
        ("orders/msgs.1.dat", Weight::Damage),
        ("orders/msgs.1.idx", Weight::Mended),
    ] {
        let (_folder, root) = recorded();
        fs::remove_file(root.join(gone)).unwrap();
        let report = look(&root);
        let stem = Path::new(gone).with_extension("");
        let found = report.findings.iter().find(|found| found.file.with_extension("") == stem);
        assert_eq!(found.map(|found| found.weight), Some(weight), "{gone}: {report:?}");
    }
}

#[test]
fn the_command_says_by_its_exit_code_how_a_store_is() {
    let (folder, root) = recorded();
    let run = |path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_stanby")).arg("check").arg(path).output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = run(&root);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing is damaged") && text.contains("no look at files can find"));
    let file = root.join("orders/msgs.1.dat");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, text) = run(&root);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("orders/msgs.1.dat, byte 4: corrupted data"), "{text}");
    let (code, text) = run(folder.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no store in it"), "{text}");
    let (code, text) = run(&folder.path().join("none"));
    assert_eq!(code, Some(1), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Goal: no bytes under any of the names make the look fail.
    #[test]
    fn nonsense_is_looked_through(
        parts in collection::vec((0_usize..6, collection::vec(any::<u8>(), 0..200)), 1..6),
        has_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let channel = ["c/subs.dat", "c/msgs.1.dat", "c/msgs.1.idx", "c/msgs.2.dat"];
        let names = [&["server.dat", "clients.dat"][..], &channel].concat();
        fs::create_dir(folder.path().join("c")).unwrap();
        for (name, bytes) in parts {
            let header: &[u8] = if has_header { &[1, 0, 0, 0] } else { &[] };
            fs::write(folder.path().join(names[name]), [header, &bytes].concat()).unwrap();
        }
        let report = check::directory(folder.path(), Rules::default(), &mut |_| ());
        prop_assert!(report.is_ok());
    }
}
