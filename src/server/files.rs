//! the pid file and the ports file

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::files::{self, Access, Links};
use crate::base::go::system_reason;
use crate::base::world;
use crate::log::CORE;

/// Before the umask takes its part, as the reference's.
const PID_FILE_MODE: u32 = 0o660;

/// What a ports file lists; absent members are left out (spec harnesses, ports file).
#[derive(Debug, Default, Serialize)]
pub struct Ports {
    /// URLs for clients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<String>,
    /// URLs of the monitoring pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitoring: Vec<String>,
    /// URLs for routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<String>,
}

/// URLs under which a listener is reached; one a local address if it listens everywhere.
#[must_use]
pub fn urls(scheme: &str, host: &str, port: u16) -> Vec<String> {
    let url = |host: &str| format!("{scheme}://{}", super::pages::display_address(host, port));
    if matches!(host, "0.0.0.0" | "::" | "") {
        return local_addresses().iter().map(|address| url(&address.to_string())).collect();
    }
    vec![url(host)]
}

/// The machine's own addresses, loopback included, in the kernel's order.
#[must_use]
pub fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
    });
    addresses.collect()
}

/// The machine's name, as the holder record shows it.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}

fn open_error(path: &Path, error: &io::Error) -> String {
    format!("open {}: {}", path.display(), system_reason(error))
}

/// The files that this process leaves for tools.
#[derive(Debug, Default)]
pub struct Files {
    ports: Ports,
    ports_file: Option<PathBuf>,
}

impl Files {
    /// None yet; what a ports file would list.
    #[must_use]
    pub fn new(ports: Ports) -> Self {
        Self { ports, ports_file: None }
    }

    /// Writes the pid file: the decimal number without a line end; nobody removes it.
    ///
    /// # Errors
    /// When it cannot be written, in the reference's words.
    pub fn write_pid(path: &Path) -> Result<(), String> {
        let write = || {
            let mut file = files::open_to_write(path, Access::Replace(PID_FILE_MODE))?;
            file.write_all(std::process::id().to_string().as_bytes())
        };
        write().map_err(|error| open_error(path, &error))
    }

    /// Whether a pid file could be written.
    ///
    /// # Errors
    /// As [`Files::write_pid`].
    pub fn check_pid(path: &Path) -> Result<(), String> {
        world::may_write(path).map_err(|error| open_error(path, &error))
    }

    /// Writes `<folder>/<program>_<pid>.ports`, removed by [`Files::remove`].
    ///
    /// # Errors
    /// When it cannot be written, in the reference's words.
    pub fn write_ports(&mut self, folder: &Path) -> Result<(), String> {
        let path = folder.join(format!("{}_{}.ports", program_name(), std::process::id()));
        let named = |reason: String| format!("({}): {reason}", path.display());
        let document = serde_json::to_vec(&self.ports).map_err(|error| named(error.to_string()))?;
        let write = || {
            let mut file = files::open(&path, Access::Replace(0o666), Links::Refused)?;
            file.write_all(&document)
        };
        write().map_err(|error| named(open_error(&path, &error)))?;
        self.ports_file = Some(path);
        Ok(())
    }

    /// Removes the ports file.
    pub fn remove(&mut self) {
        if let Some(path) = self.ports_file.take()
            && let Err(error) = fs::remove_file(&path)
        {
            let (path, reason) = (path.display(), system_reason(&error));
            log::error!(target: CORE, "Error cleaning up ports file {path}: remove {path}: {reason}");
        }
    }
}

/// The name that this executable was called by.
fn program_name() -> String {
    let executable = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    executable.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pid_file_is_nothing_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "an older and longer text").unwrap();
        Files::write_pid(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        fs::remove_file(&path).unwrap();
        Files::write_pid(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o607, 0o600, "{mode:o}");
        let error = Files::write_pid(&folder.path().join("none/pid")).unwrap_err();
        assert!(error.ends_with("none/pid: no such file or directory"), "{error}");
    }
}
