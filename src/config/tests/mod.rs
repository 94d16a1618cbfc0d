//! Tests of the configuration: a folder with files, loaded as the daemon loads them.

mod bad;
mod channels;
mod good;
mod install;
mod leaks;
mod network;
mod providers;
mod shipped;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::values::words;
use super::{ConfigErrors, Environment, Loaded, load};
use refreshd_alerting::channel::ChannelKind;

/// A valid app and portal, for tests of other sections.
const ACME: &str = "[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'local.1'\nclient_secret_env = 'CRM'\n\
                    [portals.acme]\napp = 'crm'\n";

/// A temporary folder and an environment.
struct Rig {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let credentials = folder.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let credentials = credentials.to_str().unwrap();
        let environment = Environment::of([
            ("CRM", "s3cr3t"),
            ("EMPTY", " "),
            ("CREDENTIALS_DIRECTORY", credentials),
        ]);
        Self {
            folder,
            environment,
        }
    }

    /// Writes a file with a mode.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own files need not be written whole"
    )]
    fn file(&self, name: &str, mode: u32, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn load(&self, text: &str) -> Result<Loaded, ConfigErrors> {
        load(&self.file("main.toml", 0o640, text), &self.environment)
    }

    /// The problems, with paths relative to the folder.
    fn problems(&self, text: &str) -> String {
        let problems = self.load(text).expect_err("no problem was found");
        problems
            .to_string()
            .replace(&format!("{}/", self.path().display()), "")
    }
}

/// The problems of a single main file.
fn problems(text: &str) -> String {
    Rig::new().problems(text)
}

/// A main file that must be valid.
fn loaded(text: &str) -> Loaded {
    Rig::new()
        .load(text)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The text without the list of the kinds of channels, which grows.
fn without_kinds(text: &str) -> String {
    let kinds: Vec<_> = words::<ChannelKind>()
        .map(|kind| format!("`{kind}`"))
        .collect();
    text.replace(&kinds.join(", "), "KINDS")
}
