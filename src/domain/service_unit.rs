//! The unit of the service, as `systemctl show` and `systemctl cat` print it or its file says it: who it runs as, which credentials
//! and variables it has, and what its sandbox lets it see and write.
//!
//! Must not know more of the language of units than what decides these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A unit's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceUnit {
    /// By key, in order; an empty value takes back those before it.
    values: BTreeMap<String, Vec<String>>,
}

/// A credential of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitCredential {
    /// `LoadCredential=`: from this file.
    File(PathBuf),
    /// `LoadCredential=` without a path: from a credential store.
    Store,
    /// From an encrypted file, or from the unit itself.
    Opaque,
}

/// What the sandbox makes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// As outside.
    Open,
    /// It is not there. With the setting.
    Hidden(&'static str),
    /// It can be read only. With the setting.
    ReadOnly(&'static str),
}

/// Settings with which paths inside are others than outside.
const OTHER_PATHS: [&str; 6] = [
    "RootDirectory",
    "RootImage",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "ExtensionDirectories",
];

impl ServiceUnit {
    /// Parses lines of `Key=Value`; others are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let joined = text.replace("\\\n", " ");
        for line in joined.lines() {
            let line = line.trim();
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let key = key.trim();
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
                continue;
            }
            let value = value.trim();
            let of_key = values.entry(key.to_owned()).or_default();
            if value.is_empty() {
                of_key.clear();
            } else {
                of_key.push(value.to_owned());
            }
        }
        Self { values }
    }

    /// The value that counts of a key that has one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.last().map(String::as_str)
    }

    /// The words of a list, of all its lines.
    #[must_use]
    pub fn words(&self, key: &str) -> Vec<String> {
        let lines = self.values.get(key).into_iter().flatten();
        lines.flat_map(|line| words(line)).collect()
    }

    /// Variables of `Environment=`.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let words = self.words("Environment").into_iter();
        words
            .filter_map(|word| {
                let (name, value) = word.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// Files of `EnvironmentFile=`, in order.
    #[must_use]
    pub fn environment_files(&self) -> Vec<PathBuf> {
        let lines = self
            .values
            .get("EnvironmentFile")
            .into_iter()
            .chain(self.values.get("EnvironmentFiles"))
            .flatten();
        lines
            .map(|line| line.split(" (ignore_errors=").next().unwrap_or(line))
            .map(|line| PathBuf::from(line.trim_start_matches('-')))
            .collect()
    }

    /// The credentials by name.
    #[must_use]
    pub fn credentials(&self) -> BTreeMap<String, UnitCredential> {
        let mut found = BTreeMap::new();
        let lines = |key: &str| self.values.get(key).into_iter().flatten().cloned();
        for key in [
            "SetCredential",
            "SetCredentialEncrypted",
            "LoadCredentialEncrypted",
        ] {
            for line in lines(key) {
                let name = line.split(':').next().unwrap_or_default().to_owned();
                found.insert(name, UnitCredential::Opaque);
            }
        }
        for line in lines("LoadCredential") {
            let (name, from) = match line.split_once(':') {
                Some((name, path)) if path.starts_with('/') => {
                    (name.to_owned(), UnitCredential::File(path.into()))
                }
                Some((name, _)) => (name.to_owned(), UnitCredential::Store),
                None => (line, UnitCredential::Store),
            };
            found.insert(name, from);
        }
        found
    }

    /// Patterns of `ImportCredential=`.
    #[must_use]
    pub fn imported_credentials(&self) -> Vec<String> {
        self.words("ImportCredential")
    }

    /// The file that the service is started with, if its command line names one.
    #[must_use]
    pub fn configuration(&self) -> Option<PathBuf> {
        let line = self.value("ExecStart")?;
        let line = line.split_once("argv[]=").map_or(line, |(_, line)| line);
        let line = line.split(" ; ").next().unwrap_or(line);
        let mut words = words(line).into_iter();
        while let Some(word) = words.next() {
            if word == "--config" || word == "-c" {
                return words.next().map(PathBuf::from);
            }
            if let Some(path) = word.strip_prefix("--config=") {
                return Some(path.into());
            }
        }
        None
    }

    /// The directories that systemd makes for it and gives to its user.
    #[must_use]
    pub fn own_directories(&self) -> Vec<PathBuf> {
        [
            ("StateDirectory", "/var/lib"),
            ("RuntimeDirectory", "/run"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
        ]
        .into_iter()
        .flat_map(|(key, below)| {
            self.words(key)
                .into_iter()
                .map(move |name| Path::new(below).join(name.split(':').next().unwrap_or_default()))
        })
        .collect()
    }

    /// What its sandbox makes of an absolute path. Unknown is open: a wrong refusal is worse than none.
    #[must_use]
    pub fn sandbox(&self, path: &Path) -> Sandbox {
        if OTHER_PATHS.iter().any(|key| self.value(key).is_some()) {
            return Sandbox::Open;
        }
        let is = |key: &str, values: &[&str]| {
            self.value(key).is_some_and(|value| values.contains(&value))
        };
        const ON: [&str; 4] = ["yes", "true", "1", "on"];
        let below = |roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
        let listed = |key: &str| {
            let paths = self.words(key).into_iter();
            let mut paths = paths.map(|path| PathBuf::from(path.trim_start_matches(['-', '+'])));
            paths.any(|root| path.starts_with(root))
        };
        let homes = ["/home", "/root", "/run/user"];
        if below(&homes) && (is("ProtectHome", &ON) || is("ProtectHome", &["tmpfs"])) {
            return Sandbox::Hidden("ProtectHome=");
        }
        if below(&["/tmp", "/var/tmp"])
            && (is("PrivateTmp", &ON) || is("PrivateTmp", &["disconnected"]))
        {
            return Sandbox::Hidden("PrivateTmp=");
        }
        if listed("InaccessiblePaths") {
            return Sandbox::Hidden("InaccessiblePaths=");
        }
        let is_own = self
            .own_directories()
            .iter()
            .any(|own| path.starts_with(own));
        if is_own || listed("ReadWritePaths") {
            return Sandbox::Open;
        }
        if listed("ReadOnlyPaths") {
            return Sandbox::ReadOnly("ReadOnlyPaths=");
        }
        if below(&homes) && is("ProtectHome", &["read-only"]) {
            return Sandbox::ReadOnly("ProtectHome=");
        }
        let system = if is("ProtectSystem", &["strict"]) {
            !below(&["/dev", "/proc", "/sys"])
        } else if is("ProtectSystem", &["full"]) {
            below(&["/usr", "/boot", "/efi", "/etc"])
        } else {
            is("ProtectSystem", &ON) && below(&["/usr", "/boot", "/efi"])
        };
        if system {
            Sandbox::ReadOnly("ProtectSystem=")
        } else {
            Sandbox::Open
        }
    }
}

/// Splits at white space outside of quotes, and takes the quotes away.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', _) => {
                let escaped = chars.next().unwrap_or('\\');
                word.get_or_insert_default().push(escaped);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../deploy/refreshd.service");

    #[test]
    fn the_shipped_unit_is_understood() {
        let unit = ServiceUnit::parse(SHIPPED);
        assert_eq!(unit.value("User"), Some("refreshd"));
        assert_eq!(
            unit.configuration().as_deref(),
            Some(Path::new("/etc/refreshd/refreshd.toml"))
        );
        assert_eq!(
            unit.own_directories(),
            [Path::new("/var/lib/refreshd"), Path::new("/run/refreshd")]
        );
        let sandbox = |path: &str| unit.sandbox(Path::new(path));
        assert_eq!(sandbox("/var/lib/refreshd/state.db"), Sandbox::Open);
        assert_eq!(sandbox("/run/refreshd/tokens"), Sandbox::Open);
        assert_eq!(sandbox("/srv/tokens"), Sandbox::ReadOnly("ProtectSystem="));
        assert_eq!(sandbox("/root/crm.secret"), Sandbox::Hidden("ProtectHome="));
        assert_eq!(sandbox("/tmp/crm.secret"), Sandbox::Hidden("PrivateTmp="));
        assert!(unit.credentials().is_empty(), "comments are none");
    }

    #[test]
    fn drop_ins_add_to_lists_and_take_them_back() {
        let unit = ServiceUnit::parse(
            "[Service]\nUser=refreshd\nLoadCredential=one:/etc/one\nLoadCredential=\nLoadCredential=two:/etc/two\n\
             LoadCredential=three\nSetCredential=four:xyz\nEnvironment=A=b \"C=d e\"\nEnvironment='F=\"g\"'\nUser=other\n\
             ReadWritePaths=/srv/a -/srv/b\nEnvironmentFile=-/etc/default/x\n",
        );
        assert_eq!(unit.value("User"), Some("other"));
        let credentials = unit.credentials();
        assert_eq!(
            credentials.keys().collect::<Vec<_>>(),
            ["four", "three", "two"]
        );
        assert_eq!(credentials["two"], UnitCredential::File("/etc/two".into()));
        assert_eq!(credentials["three"], UnitCredential::Store);
        let variables = unit.variables();
        assert_eq!(
            [&variables["A"], &variables["C"], &variables["F"]],
            ["b", "d e", "\"g\""]
        );
        assert_eq!(unit.environment_files(), [Path::new("/etc/default/x")]);
    }

    #[test]
    fn what_systemctl_shows_is_understood() {
        let unit = ServiceUnit::parse(
            "ExecStart={ path=/usr/bin/refreshd ; argv[]=/usr/bin/refreshd run --config /srv/r.toml ; ignore_errors=no ; pid=0 }\n\
             EnvironmentFiles=/etc/default/x (ignore_errors=yes)\nSupplementaryGroups=adm mail\nImportCredential=\"refreshd.*\"\n\
             ProtectSystem=strict\nReadWritePaths=/srv/a -/srv/b\nUser=\n",
        );
        assert_eq!(unit.configuration(), Some("/srv/r.toml".into()));
        assert_eq!(unit.environment_files(), [Path::new("/etc/default/x")]);
        assert_eq!(unit.words("SupplementaryGroups"), ["adm", "mail"]);
        assert_eq!(unit.imported_credentials(), ["refreshd.*"]);
        assert_eq!(unit.value("User"), None);
        assert_eq!(unit.sandbox(Path::new("/srv/b/c")), Sandbox::Open);
        let elsewhere = ServiceUnit::parse("ProtectSystem=strict\nBindPaths=/a:/b\n");
        assert_eq!(elsewhere.sandbox(Path::new("/b")), Sandbox::Open);
    }
}
