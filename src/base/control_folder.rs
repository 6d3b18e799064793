//! Where the control sockets of servers lie unless the configuration names a place.

use std::path::{Path, PathBuf};

/// Of servers that run as root, and of those that a service manager gives this folder.
const OF_SYSTEM: &str = "/run/stanby";

/// Folders for control sockets on this machine, best first: the service manager's
/// (`RUNTIME_DIRECTORY`), the system's, the user's (`XDG_RUNTIME_DIR`), and one that any user can
/// have. A server makes its socket in the first that it may use; a command looks into all.
#[must_use]
pub fn candidates(variable: impl Fn(&str) -> Option<String>, user_id: u32) -> Vec<PathBuf> {
    let absolute = |text: &str| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    let given = variable("RUNTIME_DIRECTORY");
    let given = given.iter().flat_map(|list| list.split(':')).filter_map(absolute);
    let own = variable("XDG_RUNTIME_DIR").as_deref().and_then(absolute);
    let mut folders: Vec<PathBuf> = given.collect();
    folders.push(PathBuf::from(OF_SYSTEM));
    folders.extend(own.map(|folder| folder.join("stanby")));
    folders.push(Path::new("/tmp").join(format!("stanby-{user_id}")));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_manager_gives_comes_first() {
        let set = |name: &str| match name {
            "RUNTIME_DIRECTORY" => Some("relative:/run/a:/run/b".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            _ => None,
        };
        let found = candidates(set, 7);
        let expected = ["/run/a", "/run/b", "/run/stanby", "/run/user/7/stanby", "/tmp/stanby-7"];
        assert_eq!(found, expected.map(PathBuf::from));
        let bare = candidates(|_| None, 7);
        assert_eq!(bare, ["/run/stanby", "/tmp/stanby-7"].map(PathBuf::from));
    }
}
