//! The file store over a disk of which every operation fails once, or stops while others go on.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "what was run is printed")]

#[path = "support/fault_cases.rs"]
mod fault_cases;
#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/store_life.rs"]
mod store_life;
#[path = "support/stores.rs"]
mod stores;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use tempfile::TempDir;

use stanby::base::epoch::Predecessor;
use stanby::base::random::Random;
use stanby::store::file::{self, FileOptions};
use stanby::testing::disk::{Fault, FaultDisk, Faults, Operation, Plan, Site};

use fault_cases::{go_through, is_full, outcome_of};
use store_life::{Life, Step, client, mounted_life, options, reserved_life, whole_life, wide_life};

/// A folder in memory where the machine has such, as no test here takes the power away.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// One way of running the life.
#[derive(Clone, Copy, Debug)]
struct Variant {
    can_sync_filesystem: bool,
    has_archive: bool,
    /// Whether a channel is a mount; then it is a shorter life.
    has_mount: bool,
}

const PLAIN: Variant = Variant { can_sync_filesystem: false, has_archive: false, has_mount: false };
const TOGETHER: Variant = Variant { can_sync_filesystem: true, ..PLAIN };
const MOUNTED: Variant = Variant { has_mount: true, ..TOGETHER };

impl Variant {
    fn options(self, root: &Path) -> FileOptions {
        let mut options = options(root);
        if self.has_archive {
            options.slice_archive_script = Some("/bin/true".into());
        }
        options
    }

    fn life(self, root: &Path) -> (Life, Arc<Faults>) {
        let mount = self.has_mount.then_some(b"mnt".as_slice());
        let disk = Faults::with_mount(self.can_sync_filesystem, mount);
        (Life::new(root, Arc::clone(&disk), self.options(root)), disk)
    }

    fn steps(self) -> Vec<Step> {
        if self.has_mount { mounted_life() } else { whole_life() }
    }

    /// The operations of a run without any fault.
    fn operations(self) -> Vec<Operation> {
        let root = in_memory();
        let (mut life, disk) = self.life(root.path());
        disk.begin(Plan::Smooth);
        life.live(&self.steps());
        assert_eq!((life.refused_count, life.down_count), (0, 0), "nothing fails by itself");
        let operations = disk.operations();
        finish(life, root.path());
        operations
    }
}

/// The last member has everything, and leaves files that follow the rules of the format.
fn finish(mut life: Life, root: &Path) {
    life.take_over(Predecessor::Gone).unwrap();
    life.live(&[Step::Read, Step::Wait(1), Step::Read]);
    assert!(life.close());
    let found = format_checker::read_store(root);
    let model = life.model.lock().unwrap();
    let names: BTreeSet<&String> = model.channels.keys().collect();
    assert_eq!(found.channels.keys().collect::<BTreeSet<_>>(), names);
    for folder in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            for file in fs::read_dir(folder).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                let prefixes = ["removed.", "deleted.", "purged.", "emptied."];
                let is_left = prefixes.iter().any(|prefix| name.starts_with(prefix));
                assert!(!is_left, "{name} was left");
            }
        }
    }
}

/// Goal: whichever operation of the disk fails, and however: what was answered is there, once; what
/// was refused is not; and the files are whole.
#[test]
fn every_fault_of_the_disk_is_survived() {
    let mut cases = Vec::new();
    for variant in [PLAIN, TOGETHER, MOUNTED] {
        let operations = variant.operations();
        for (number, operation) in operations.iter().enumerate() {
            let once = Fault::of(*operation).into_iter().map(|fault| Plan::Once(number, fault));
            cases.extend(once.map(|plan| (variant, plan)));
            for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EMFILE] {
                if operation.errors().contains(&errno) {
                    cases.push((variant, Plan::From(number, errno)));
                }
            }
        }
    }
    let test = ("file_store_disk", "every_fault_of_the_disk_is_survived");
    go_through(test, cases, |(variant, plan)| {
        let root = in_memory();
        let (mut life, disk) = variant.life(root.path());
        disk.begin(*plan);
        life.live(&variant.steps());
        disk.mend();
        let ending = match (life.down_count, life.refused_count) {
            _ if !disk.was_faulty() => "not reached",
            (0, 0) => "nobody noticed",
            (0, _) => "refused",
            (_, 0) => "stepped down",
            (_, _) => "refused, and stepped down",
        };
        finish(life, root.path());
        ending.to_owned()
    });
}

/// What the successor does while the former active is stopped.
#[derive(Clone, Copy, Debug)]
enum Successor {
    /// It takes over, and the former one goes on before this operation of that.
    TakesOver(usize),
    /// It only looks.
    Reads,
    /// It writes to everything that is there, and makes what was being made.
    Writes,
    /// It deletes everything, and makes it anew.
    Replaces,
}

/// Stops the first member before one operation, lets a second one take over and work, lets the
/// first one go on, and looks what the second and a third one find.
fn stop_and_go_on(steps: &[Step], number: usize, successor: Successor) -> bool {
    let root = in_memory();
    let (mut former, disk) = PLAIN.life(root.path());
    disk.begin(Plan::Stop(number));
    let mut second = former.other("b", Faults::new(false));
    let told = Arc::clone(&former.model);
    let steps = steps.to_vec();
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    let thread = thread::spawn(move || {
        let result = outcome_of(|| former.live(&steps));
        ended.store(true, Ordering::SeqCst);
        (former, result)
    });
    if !disk.wait_until_stopped(|| is_over.load(Ordering::SeqCst)) {
        thread.join().unwrap().1.unwrap();
        return false;
    }
    second.model = Arc::new(told.lock().unwrap().clone().into());
    second.model.lock().unwrap().has_late_one = true;
    let go_on = || {
        disk.go_on();
        let (former, result) = thread.join().unwrap();
        result.unwrap();
        former
    };
    let former = if let Successor::TakesOver(number) = successor {
        let (former, met) = meet(second, number, go_on);
        second = met;
        former
    } else {
        second.take_over(Predecessor::Replaced).unwrap();
        work(&mut second, successor);
        go_on()
    };
    for payload in &former.late_acks {
        assert!(second.model.lock().unwrap().kept.contains(payload), "{payload} was acked late");
    }
    second.live(&[Step::Read]);
    work(&mut second, Successor::Writes);
    second.live(&[Step::Read]);
    assert_eq!((second.refused_count, second.down_count), (0, 0), "the successor is not disturbed");
    drop(former);
    finish(second, root.path());
    true
}

/// The second member takes over, and the first one goes on in the middle of that.
fn meet(mut second: Life, number: usize, go_on: impl FnOnce() -> Life) -> (Life, Life) {
    let disk = Faults::new(false);
    second.stand_on(Arc::clone(&disk));
    disk.begin(Plan::Stop(number));
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    let thread = thread::spawn(move || {
        let result = outcome_of(|| second.take_over(Predecessor::Replaced).unwrap());
        ended.store(true, Ordering::SeqCst);
        (second, result)
    });
    disk.wait_until_stopped(|| is_over.load(Ordering::SeqCst));
    let former = go_on();
    disk.go_on();
    let (second, result) = thread.join().unwrap();
    result.unwrap();
    (former, second)
}

fn work(life: &mut Life, successor: Successor) {
    const NAMES: [&str; 5] = ["foo", "bar", "aged", "baz", "qux"];
    let publish = |count| Step::Publish(NAMES.map(|name| (name, count)).to_vec());
    match successor {
        Successor::Reads | Successor::TakesOver(_) => life.live(&[Step::Read]),
        Successor::Writes => {
            life.live(&[publish(2), Step::Register(vec![client("successor's")])]);
            life.live(&[Step::Wait(1), publish(4), Step::Read]);
        }
        Successor::Replaces => {
            life.live(&NAMES.map(Step::Delete));
            life.live(&[publish(1), Step::Register(vec![client("successor's")]), Step::Read]);
        }
    }
}

/// How often a former active goes on in the middle of the take-over, for each of its operations,
/// and about how many operations a take-over is.
const MET: usize = 2;
const TAKE_OVER_OPERATIONS: u64 = 200;

/// Goal: nothing that a former active does, after it was stopped before any operation, changes what
/// its successor reads, nor what the one after that finds.
#[test]
fn a_former_active_changes_nothing_whatever_it_was_about_to_do() {
    let steps = whole_life();
    let operations = PLAIN.operations();
    let successors = [Successor::Reads, Successor::Writes, Successor::Replaces];
    let mut cases = Vec::new();
    for number in 0..operations.len() {
        cases.extend(successors.map(|successor| (number, successor)));
        let mut random = Random::new(number as u64);
        for _ in 0..MET {
            let at = usize::try_from(random.below(TAKE_OVER_OPERATIONS)).unwrap();
            cases.push((number, Successor::TakesOver(at)));
        }
    }
    let test = "a_former_active_changes_nothing_whatever_it_was_about_to_do";
    let test = ("file_store_disk", test);
    go_through(test, cases, |(number, successor)| {
        let was_stopped = stop_and_go_on(&steps, *number, *successor);
        if was_stopped { format!("{:?}", operations[*number]) } else { "not reached".to_owned() }
    });
}

/// Methods of the contract as they are called, and the receivers of other methods of the same name.
const METHODS: [&str; 22] = [
    "allocate",
    "append",
    "create_folder",
    "create_root",
    "describe",
    "folder",
    "identity",
    "list",
    "open",
    "open_root",
    "read_at",
    "remove_folder",
    "rename",
    "rename_into",
    "rename_new",
    "size",
    "stamp",
    "sync",
    "sync_filesystem",
    "truncate",
    "unlink",
    "watch",
];
const OF_OTHERS: [&str; 29] = [
    "Self::folder(",
    "adoption.sync(",
    "adoption.watch(",
    "bytes.truncate(",
    "channel.append(",
    "channel.folder()",
    "dead.truncate(",
    "fresh.sync()",
    "head.truncate(",
    "log.append(",
    "made.sync()",
    "messages.slices.truncate(",
    "place.rename(",
    "replacement.sync()",
    "self.append(ctx",
    "self.folder()",
    "self.known).watch(",
    "self.open(&",
    "self.open(index_name",
    "self.open(SUBS",
    "self.output.read_at(",
    "self.sync()",
    "self.sync(ctx",
    "self.truncate(",
    "self.unlink(",
    "staging.append(",
    "tail.data.append(",
    "tail.index.append(",
    "write(true).open(",
];

/// A place in the source where a method of the contract is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    file: String,
    /// Where its expression begins, and where the method's name stands.
    lines: (u32, u32),
    function: String,
    method: &'static str,
}

/// Files that are made by one call, for many reasons: each creation up to this operation fails.
const NEW_FILES_FOLLOWED: usize = 250;

/// What leads to all that the store does after a fault.
const FAULTS_FOLLOWED: [Fault; 5] = [
    Fault::Refused(Errno::EIO),
    Fault::Refused(Errno::ESTALE),
    Fault::Refused(Errno::EMFILE),
    Fault::Refused(Errno::ENOSPC),
    Fault::Short(Errno::ENOSPC),
];

/// All calls of the contract in the room, as its source says.
fn calls() -> Vec<Call> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/file");
    let mut calls = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let disks = ["disk.rs", "overlay.rs", "watch.rs", "format_tests.rs"];
        if !disks.contains(&file.as_str()) && file.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            calls_in(&file, text.split("#[cfg(test)]").next().unwrap(), &mut calls);
        }
    }
    calls
}

fn calls_in(file: &str, text: &str, calls: &mut Vec<Call>) {
    let (mut function, mut begin) = (String::new(), 0);
    // The end of a planted bug, which no program has.
    let mut planted_until: Option<String> = None;
    for (number, line) in (1_u32..).zip(text.lines()) {
        let code = line.trim();
        if let Some(end) = &planted_until {
            if line == end {
                planted_until = None;
            }
            continue;
        }
        if code.starts_with("if planted::is(") && code.ends_with('{') {
            let indent = line.len() - line.trim_start().len();
            planted_until = Some(format!("{}}}", " ".repeat(indent)));
            continue;
        }
        if let Some((head, rest)) = code.split_once("fn ")
            && (head.is_empty() || head.starts_with("pub"))
        {
            function = rest.split(['(', '<']).next().unwrap().to_owned();
        }
        if !code.starts_with('.') {
            begin = number;
        }
        let mut code = code.to_owned();
        for other in OF_OTHERS {
            code = code.replace(other, "");
        }
        for method in METHODS {
            if !code.starts_with("//") && code.contains(&format!(".{method}(")) {
                let (file, function) = (file.to_owned(), function.clone());
                calls.push(Call { file, lines: (begin, number), function, method });
            }
        }
    }
}

/// A life of which the operations are looked at from its second part on.
struct Followed {
    variant: Variant,
    before: Vec<Step>,
    steps: Vec<Step>,
}

impl Followed {
    fn all() -> Vec<Self> {
        let archive = Variant { has_archive: true, ..PLAIN };
        let [before, steps] = reserved_life();
        let mut all = vec![Self { variant: PLAIN, before, steps }];
        let whole = [PLAIN, TOGETHER, archive, MOUNTED].map(|variant| (variant, variant.steps()));
        let of = |(variant, steps)| Self { variant, before: Vec::new(), steps };
        all.extend(whole.into_iter().chain([(TOGETHER, wide_life())]).map(of));
        all
    }

    /// Its operations, and where each was called.
    fn live(&self, plan: Plan) -> Vec<(Operation, Option<Site>)> {
        let root = in_memory();
        let (mut life, disk) = self.variant.life(root.path());
        life.live(&self.before);
        disk.record_sites();
        disk.begin(plan);
        // What goes wrong here is a failure of the test before.
        let _ = outcome_of(|| life.live(&self.steps));
        if self.variant.has_archive && plan == Plan::Smooth {
            let mut options = options(root.path());
            options.truncate_bad_eof = true;
            let disk = FaultDisk(Arc::clone(&disk));
            file::prepare_on(&disk, &options).unwrap();
            let server = file::peek_server_on(&disk, &options).unwrap();
            options.root = root.path().join("new");
            file::begin_on(&disk, &options, &server).unwrap();
            assert_eq!(file::peek_server_on(&disk, &options), Some(server));
        }
        disk.operations().into_iter().zip(disk.sites()).collect()
    }

    /// What may lead to all that is done in it after a fault.
    fn plans(&self, operations: &[(Operation, Option<Site>)]) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, (operation, site)) in operations.iter().enumerate() {
            let is_new_file = *operation == Operation::OpenNew && number < NEW_FILES_FOLLOWED;
            if seen.insert(site) || is_new_file {
                let faults = Fault::of(*operation).into_iter();
                let faults = faults.filter(|fault| FAULTS_FOLLOWED.contains(fault));
                plans.extend(faults.map(|fault| Plan::Once(number, fault)));
            }
            // Where files are set aside, what is made takes them, or gives them up.
            let has_reserve = !self.before.is_empty();
            plans.extend((is_new_file && has_reserve).then_some(Plan::From(number, Errno::ENOSPC)));
        }
        plans
    }
}

/// Goal: each place where the store calls the disk is one that these tests have failed at least
/// once; which are not is printed.
#[test]
fn every_call_of_the_disk_is_reached() {
    if !is_full() {
        println!("the calls of the disk are gone through with STANBY_FAULTS=full");
        return;
    }
    let mut missed = calls();
    let count = missed.len();
    let mut reach = |operations: &[(Operation, Option<Site>)]| {
        let sites: BTreeSet<&Site> =
            operations.iter().filter_map(|(_, site)| site.as_ref()).collect();
        let is_at = |call: &Call, line| sites.contains(&(call.file.clone(), line, call.method));
        missed.retain(|call| !(call.lines.0..=call.lines.1).any(|line| is_at(call, line)));
        missed.len()
    };
    let lives = Followed::all();
    let mut plans = Vec::new();
    for life in &lives {
        let operations = life.live(Plan::Smooth);
        reach(&operations);
        plans.extend(life.plans(&operations).into_iter().map(|plan| (life, plan)));
    }
    let plan_count = plans.len();
    let needed = plans.into_iter().position(|(life, plan)| reach(&life.live(plan)) == 0);
    println!("{count} calls of the disk; {needed:?} of {plan_count} faults were needed");
    assert!(missed.is_empty(), "{} calls of the disk were not reached: {missed:#?}", missed.len());
}

/// Goal: the document of the room gives a reason for each operation that changes something.
#[test]
fn every_change_of_the_disk_has_its_reason_written_down() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/file-store.md");
    let text = fs::read_to_string(path).unwrap();
    let changes = [
        "create_folder",
        "create_root",
        "remove_folder",
        "rename",
        "rename_into",
        "rename_new",
        "truncate",
        "unlink",
        "allocate",
    ];
    for call in calls().iter().filter(|call| changes.contains(&call.method)) {
        let row = format!("| `{}` `{}` | `{}` |", call.file, call.function, call.method);
        assert!(text.contains(&row), "docs/file-store.md has no row \"{row}\"");
    }
}
