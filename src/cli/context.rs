//! The contexts of the `nats` tool: which servers, and as whom, under a name.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::connection::CommandError;
use crate::base::files;

/// What one says of what we can use; the tool writes empty texts for what is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    pub url: String,
    pub user: String,
    pub password: String,
    pub token: String,
    pub creds: String,
    pub nkey: String,
    pub cert: String,
    pub key: String,
    pub ca: String,
    /// A name in a store of keys that we do not read.
    pub nsc: String,
}

/// A variable of the environment, and a file's text.
pub(super) struct Surroundings<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// The files of this machine.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    files::read_text(path)
}

impl Context {
    /// The one of that name, else the one that `NATS_CONTEXT` names, else the one that is selected;
    /// an empty one where there is none.
    ///
    /// # Errors
    /// When it is not there, or cannot be used.
    pub(super) fn load(
        name: Option<&str>,
        around: &Surroundings<'_>,
    ) -> Result<Self, CommandError> {
        let named = name.map(str::to_owned).or_else(|| (around.variable)("NATS_CONTEXT"));
        let Some(folder) = folder(around) else {
            return match named {
                None => Ok(Self::default()),
                Some(name) => Err(wrong(Path::new(&name), "there is no home folder to look in")),
            };
        };
        let selected = || {
            let found = (around.read)(&folder.join("context.txt")).ok()?;
            let name = String::from_utf8(found).ok()?.trim().to_owned();
            (!name.is_empty()).then_some(name)
        };
        let Some(name) = named.or_else(selected) else { return Ok(Self::default()) };
        if name.contains(['/', '\\', '\0']) || name == ".." {
            return Err(wrong(Path::new(&name), "that is no name of a context"));
        }
        let path = folder.join("context").join(format!("{name}.json"));
        let text = (around.read)(&path).map_err(|error| wrong(&path, &error.to_string()))?;
        let found: Self =
            serde_json::from_slice(&text).map_err(|error| wrong(&path, &error.to_string()))?;
        if !found.nsc.is_empty() && found.creds.is_empty() {
            return Err(wrong(&path, "it takes its user from nsc: name a file with --creds"));
        }
        Ok(found.at_home(around))
    }

    /// Its files may begin with `~`.
    fn at_home(mut self, around: &Surroundings<'_>) -> Self {
        let home = (around.variable)("HOME");
        for file in [&mut self.creds, &mut self.nkey, &mut self.cert, &mut self.key, &mut self.ca] {
            if let (Some(rest), Some(home)) = (file.strip_prefix("~/"), &home) {
                *file = format!("{home}/{rest}");
            }
        }
        self
    }
}

/// A text of a context that is set.
pub(super) fn set(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn folder(around: &Surroundings<'_>) -> Option<PathBuf> {
    let config = (around.variable)("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from((around.variable)("HOME")?).join(".config")));
    Some(config?.join("nats"))
}

fn wrong(file: &Path, why: &str) -> CommandError {
    CommandError::File { file: file.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: Option<&str>, variables: &[(&str, &str)]) -> Result<Context, String> {
        let files = [
            ("/h/.config/nats/context.txt", "prod\n"),
            ("/h/.config/nats/context/prod.json", r#"{"url":"nats://p","creds":"~/c","x":1}"#),
            ("/h/.config/nats/context/keys.json", r#"{"nsc":"nsc://o/a/u"}"#),
            ("/h/.config/nats/context/bad.json", "{"),
            ("/x/nats/context/other.json", r#"{"user":"u","password":"w"}"#),
        ];
        let variable = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, text)| (*text).to_owned())
        };
        let read = |path: &Path| {
            let mut found = files.iter().filter(|(known, _)| Path::new(known) == path);
            let text = found.next().map(|(_, text)| text.as_bytes().to_vec());
            text.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let around = Surroundings { variable: &variable, read: &read };
        Context::load(name, &around).map_err(|error| error.to_string())
    }

    #[test]
    fn the_named_context_goes_before_the_selected_one() {
        let home = ("HOME", "/h");
        let selected = load(None, &[home]).expect("the selected one");
        assert_eq!((selected.url.as_str(), selected.creds.as_str()), ("nats://p", "/h/c"));
        let other = [home, ("XDG_CONFIG_HOME", "/x"), ("NATS_CONTEXT", "other")];
        let user = |found: Context| (found.user, found.password);
        assert_eq!(load(None, &other).map(user), Ok(("u".to_owned(), "w".to_owned())));
        assert_eq!(load(None, &[]), Ok(Context::default()));
        assert_eq!(load(None, &[("HOME", "/nobody")]), Ok(Context::default()));
    }

    #[test]
    fn a_context_that_is_of_no_use_is_named() {
        let home = [("HOME", "/h")];
        for (name, expected) in [
            ("none", "none.json: entity not found"),
            ("bad", "bad.json: EOF"),
            ("keys", "keys.json: it takes its user from nsc"),
            ("../x", "../x: that is no name of a context"),
        ] {
            let error = load(Some(name), &home).expect_err(name);
            assert!(error.contains(expected), "{error}");
        }
        assert!(load(Some("a"), &[]).expect_err("no home").contains("no home folder"));
    }
}
