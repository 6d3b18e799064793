//! Setting up a machine: which Rust is taken, and what is said where none can be had.
//!
//! `tests/support/setup.sh` runs with a PATH of small programs that answer like a machine of some
//! kind; what it called is in a file.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// What programs of the system the script itself needs.
const TOOLS: [&str; 9] = ["bash", "cat", "cut", "dirname", "env", "head", "id", "sed", "sort"];

/// A machine, as far as the script can see it.
#[derive(Default)]
struct Machine<'a> {
    /// The version of the `rustc` that is there.
    rust: Option<&'a str>,
    /// Whether rustup is there, with a toolchain of `rustup_brings` at hand.
    has_rustup: bool,
    rustup_brings: Option<&'a str>,
    /// What Debian has of `rustc-web` and `rustc`; installing it brings it.
    rustc_web: Option<&'a str>,
    rustc: Option<&'a str>,
}

struct Outcome {
    is_ready: bool,
    output: String,
    calls: String,
}

impl Machine<'_> {
    fn set_up(&self) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let (bin, calls) = (folder.path().join("bin"), folder.path().join("calls"));
        fs::create_dir(&bin).unwrap();
        fs::write(&calls, "").unwrap();
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
            symlink(found.iter().find(|path| path.exists()).unwrap(), bin.join(tool)).unwrap();
        }
        let note = format!("echo \"${{0##*/}} $*\" >>{}\n", calls.display());
        let program = |name: &str, body: &str| {
            let path = bin.join(name);
            fs::write(&path, format!("#!{}/bash\n{note}{body}\n", bin.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let bring = |version: &str| {
            format!(
                "for name in rustc cargo; do printf '#!{bin}/bash\\necho $0 {version} | sed \
                 \"s|.*/||\"\\n' >{bin}/$name.new; done; {bin}/env chmod 755 {bin}/*.new; \
                 for name in rustc cargo; do {bin}/env mv {bin}/$name.new {bin}/$name; done",
                bin = bin.display()
            )
        };
        for tool in ["chmod", "mv"] {
            symlink(Path::new("/bin").join(tool), bin.join(tool)).unwrap();
        }
        if let Some(version) = self.rust {
            program("rustc", &format!("echo rustc {version}"));
            program("cargo", &format!("echo cargo {version}"));
        }
        if self.has_rustup {
            let brings = self.rustup_brings.map_or("exit 1".to_owned(), bring);
            program("rustup", &format!("case $1 in toolchain) {brings} ;; esac"));
        }
        let web = self.rustc_web.map_or("exit 100".to_owned(), bring);
        let plain = self.rustc.map_or("exit 100".to_owned(), bring);
        let install = format!("case \"$*\" in *rustc-web*) {web} ;; *' rustc '*) {plain} ;; esac");
        program("apt-get", &install);
        let candidate = |version: Option<&str>| match version {
            Some(version) => format!("echo '  Candidate: {version}+dfsg1-1~deb12u2'"),
            None => "echo '  Candidate: (none)'".to_owned(),
        };
        let (web, plain) = (candidate(self.rustc_web), candidate(self.rustc));
        program("apt-cache", &format!("case $2 in rustc-web) {web} ;; rustc) {plain} ;; esac"));
        program("curl", "exit 6");
        program("sudo", "exec \"$@\"");
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/setup.sh");
        let output = Command::new(bin.join("bash"))
            .args(["-c", ". \"$0\" && install_rust"])
            .arg(setup)
            .env_clear()
            .env("PATH", &bin)
            .env("HOME", folder.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        Outcome {
            is_ready: output.status.success(),
            output: String::from_utf8_lossy(&text).into_owned(),
            calls: fs::read_to_string(&calls).unwrap(),
        }
    }
}

#[test]
fn a_rust_that_is_new_enough_is_taken_as_it_is() {
    let outcome = Machine { rust: Some("1.95.0"), ..Machine::default() }.set_up();
    assert!(outcome.is_ready, "{}", outcome.output);
    assert!(!outcome.calls.contains("apt-get"), "{}", outcome.calls);
}

#[test]
fn without_rust_debians_is_installed_before_any_installer_is_asked() {
    for rust in [None, Some("1.63.0")] {
        let machine = Machine { rust, rustc_web: Some("1.96.0"), ..Machine::default() };
        let outcome = machine.set_up();
        assert!(outcome.is_ready, "{}", outcome.output);
        assert!(outcome.calls.contains("rustc-web cargo-web rustfmt-web"), "{}", outcome.calls);
        assert!(!outcome.calls.contains("curl"), "{}", outcome.calls);
    }
}

#[test]
fn a_newer_debian_brings_its_plain_packages() {
    let outcome = Machine { rustc: Some("1.90.0"), ..Machine::default() }.set_up();
    assert!(outcome.is_ready, "{}", outcome.output);
    assert!(
        outcome.calls.contains("install -y -q --no-install-recommends --no-remove rustc cargo")
    );
}

#[test]
fn a_rustup_that_is_there_brings_a_toolchain_and_keeps_its_default() {
    let machine = Machine {
        rust: Some("1.70.0"),
        has_rustup: true,
        rustup_brings: Some("1.95.0"),
        ..Machine::default()
    };
    let outcome = machine.set_up();
    assert!(outcome.is_ready, "{}", outcome.output);
    assert!(outcome.calls.contains("rustup toolchain install stable"), "{}", outcome.calls);
    assert!(!outcome.calls.contains("rustup default"), "{}", outcome.calls);
    assert!(!outcome.calls.contains("apt-get"), "{}", outcome.calls);
}

#[test]
fn where_no_rust_can_be_had_one_line_says_which_is_needed_and_how_to_get_it() {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    for (rust, found) in [(None, "none was found"), (Some("1.63.0"), "1.63.0 was found")] {
        for has_rustup in [false, true] {
            let machine = Machine { rust, has_rustup, rustc: Some("1.63.0"), ..Machine::default() };
            let outcome = machine.set_up();
            assert!(!outcome.is_ready);
            let last = outcome.output.lines().last().unwrap_or_default();
            assert!(last.starts_with(&format!("Rust {needed} or newer is needed")), "{last}");
            assert!(last.contains(found) && last.contains("rustc-web"), "{last}");
        }
    }
}
