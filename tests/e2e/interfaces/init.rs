//! `refreshd init`: what it writes passes the check and has its owner and modes; nothing is overwritten, and bad answers write nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use refreshd::adapters::token_files::write_whole;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::common::{CommandOutput, SOON, eventually, mode};
use crate::interfaces::contains;

const ID: &str = "local.55d32b338a90f0.23817";
const SECRET: &str = "c1ientSecret0OfTheTests0123456789";

/// A directory in which there is a secret, and no configuration yet.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        place.file("given.secret", SECRET, 0o600);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        let directory = path.parent().expect("a directory");
        write_whole(directory, &path, text.as_bytes(), mode).expect("a file");
    }

    /// With programs of this machine's: those that are given first.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refreshd"));
        let path = format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path("bin").display()
        );
        command.env_clear().env("PATH", path).args(arguments);
        command.current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::run(self.command(arguments).stdin(Stdio::null()))
    }

    /// With what is needed, but for what comes last.
    fn init(&self, more: &[&str]) -> CommandOutput {
        let all = [
            "init",
            "--dir",
            "etc",
            "--client-id",
            ID,
            "--client-secret-file",
            "given.secret",
        ];
        self.run(&[&all[..], more].concat())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn check(&self) -> CommandOutput {
        self.run(&["check", "--config", "etc/refreshd.toml"])
    }
}

#[test]
fn configuration_from_options_passes_the_check() {
    let place = Place::new();
    let ran = place.init(&[
        "--portal",
        "acme=acme.bitrix24.com",
        "--portal",
        "globex=globex.bitrix24.com",
        "--token-dir",
        "/srv/to \"kens",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    let written = place.path("etc/refreshd.toml");
    contains(
        &ran.stderr,
        &[
            "/etc/bitrix24.secret: the client secret\n",
            "/etc/refreshd.toml: the configuration\n",
            "What to do next:\n  1. refreshd check --config ",
            &format!("refreshd authorize acme --config {}", written.display()),
            "refreshd import acme",
        ],
    );
    let text = place.read("etc/refreshd.toml");
    contains(
        &text,
        &[
            &format!("client_id = \"{ID}\"\n"),
            "[portals.\"acme\"]",
            "domain = \"globex.bitrix24.com\"",
            "# Consumers read TOKEN_DIR/PORTAL/token",
        ],
    );
    assert!(
        !text.contains(SECRET) && !ran.stderr.contains(SECRET),
        "{text}"
    );
    assert_eq!(place.read("etc/bitrix24.secret").trim(), SECRET);
    for file in ["etc/refreshd.toml", "etc/bitrix24.secret"] {
        assert_eq!(mode(&place.path(file)), 0o640, "{file}");
    }
    assert_eq!(mode(&place.path("etc")), 0o2750);
    assert_eq!(
        mode(&place.path("given.secret")),
        0o600,
        "it is not touched"
    );
    let checked = place.check();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    contains(
        &checked.stderr,
        &["no problems; 2 portals, 1 app", "/srv/to \"kens"],
    );
    // Of whatever provider.
    for (provider, portal) in [
        ("google", "mail"),
        ("x", "acme-news"),
        ("amocrm", "shop=shop.amocrm.ru"),
    ] {
        let place = Place::new();
        let ran = place.init(&["--provider", provider, "--portal", portal]);
        assert_eq!(ran.code, Some(0), "{provider}: {ran:?}");
        assert_eq!(place.check().code, Some(0), "{provider}");
    }
}

#[test]
fn files_written_as_root_are_readable_by_the_service() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("bin")).expect("a directory");
    let unit = "User=daemon\nGroup=daemon\nStateDirectory=refreshd\nRuntimeDirectory=refreshd";
    let script = format!(
        "#!/bin/sh\ncase $1 in show) printf 'LoadState=loaded\\n{}\\n' ;; cat) echo '[Service]' ;; esac\n",
        unit.replace('\n', "\\n")
    );
    place.file("bin/systemctl", &script, 0o755);
    let ran = place.init(&["--portal", "acme=acme.bitrix24.com"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let daemon = 1;
    for name in ["etc", "etc/refreshd.toml", "etc/bitrix24.secret"] {
        let found = fs::metadata(place.path(name)).expect("it is there");
        assert_eq!((found.uid(), found.gid()), (0, daemon), "{name}");
    }
    assert_eq!(mode(&place.path("etc")), 0o2750);
    let ran = place.run(&["check", "--service", "--config", "etc/refreshd.toml"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &["no problems for refreshd.service as user daemon, group daemon"],
    );
}

#[test]
fn existing_files_are_not_overwritten() {
    let place = Place::new();
    let portal = ["--portal", "acme=acme.bitrix24.com"];
    assert_eq!(place.init(&portal).code, Some(0));
    let before = place.read("etc/refreshd.toml");
    let ran = place.init(&["--portal", "other=other.bitrix24.com"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    contains(
        &ran.stderr,
        &["etc/refreshd.toml is there already, and nothing is overwritten"],
    );
    assert_eq!(place.read("etc/refreshd.toml"), before);
    // Neither is a secret.
    fs::remove_file(place.path("etc/refreshd.toml")).expect("it is there");
    place.file("given.secret", "another0Secret0OfTheTests01234567", 0o600);
    let ran = place.init(&portal);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    contains(
        &ran.stderr,
        &["bitrix24.secret is there already", "--client-secret-file"],
    );
    assert_eq!(place.read("etc/bitrix24.secret").trim(), SECRET);
    assert!(!place.path("etc/refreshd.toml").exists());
    // As it says: the one that is there is used where it is.
    let ran = place.run(&[
        "init",
        "--dir",
        "etc",
        "--client-id",
        ID,
        "--client-secret-file",
        "etc/bitrix24.secret",
        "--portal",
        "acme=acme.bitrix24.com",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(place.read("etc/bitrix24.secret").trim(), SECRET);
    assert_eq!(place.check().code, Some(0));
    // A link that leads nowhere is something, too.
    let place = Place::new();
    fs::create_dir(place.path("etc")).expect("a directory");
    std::os::unix::fs::symlink("/nonexistent/x", place.path("etc/refreshd.toml")).expect("a link");
    assert_eq!(place.init(&portal).code, Some(64));
}

#[test]
fn invalid_input_is_reported_and_nothing_is_written() {
    let place = Place::new();
    place.file(
        "quoted.secret",
        "\"c1ientSecret0OfTheTests0123456789\"",
        0o600,
    );
    place.file("empty.secret", "\n", 0o600);
    let with = |arguments: &[&str]| {
        let ran = place.run(&[&["init", "--dir", "etc"], arguments].concat());
        assert!(!place.path("etc").exists(), "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "");
        ran
    };
    let all = [
        ("--provider", "bitrix24"),
        ("--client-id", ID),
        ("--client-secret-file", "given.secret"),
        ("--portal", "acme=acme.bitrix24.com"),
    ];
    let but = |option: &str, value: Option<&'static str>| -> Vec<String> {
        let kept = all.iter().filter(|(name, _)| *name != option);
        let mut arguments: Vec<String> = kept
            .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
            .collect();
        if let Some(value) = value {
            arguments.extend([option.to_owned(), value.to_owned()]);
        }
        arguments
    };
    for (option, value, code, said) in [
        (
            "--provider",
            Some("bitrx24"),
            64,
            "unknown provider bitrx24; did you mean bitrix24?",
        ),
        ("--client-id", None, 64, "--client-id is missing"),
        (
            "--client-id",
            Some("${CLIENT_ID}"),
            64,
            "--client-id is a placeholder",
        ),
        (
            "--client-secret-file",
            None,
            64,
            "--client-secret-file is missing",
        ),
        (
            "--client-secret-file",
            Some("none.secret"),
            66,
            "none.secret cannot be read",
        ),
        (
            "--client-secret-file",
            Some("quoted.secret"),
            64,
            "stands in quotes",
        ),
        (
            "--client-secret-file",
            Some("empty.secret"),
            64,
            "the secret is empty",
        ),
        ("--portal", None, 64, "--portal is missing"),
        (
            "--portal",
            Some("acme"),
            64,
            "its host is missing, as in --portal acme=acme.bitrix24.com",
        ),
        (
            "--portal",
            Some("a/b=acme.bitrix24.com"),
            64,
            "--portal a/b=acme.bitrix24.com: a name holds '/'",
        ),
        (
            "--portal",
            Some("acme=https://acme.bitrix24.com/x"),
            64,
            "`domain`",
        ),
    ] {
        let arguments = but(option, value);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let ran = with(&arguments);
        assert_eq!(ran.code, Some(code), "{option} {value:?}: {ran:?}");
        contains(&ran.stderr, &["nothing was written: ", said]);
        assert!(!ran.stderr.contains("c1ient"), "a secret is shown: {ran:?}");
    }
    let twice = but("--portal", Some("ACME=other.bitrix24.com"));
    let twice: Vec<_> = twice.iter().map(String::as_str).collect();
    let ran = with(&[&twice[..], &["--portal", "acme=acme.bitrix24.com"]].concat());
    contains(&ran.stderr, &["--portal acme is given twice"]);
}

#[test]
fn secret_is_read_from_standard_input() {
    let place = Place::new();
    let stdin = File::open(place.path("given.secret")).expect("it is there");
    let arguments = [
        "init",
        "--dir",
        "etc",
        "--client-id",
        ID,
        "--client-secret-file",
        "-",
        "--portal",
        "acme=acme.bitrix24.com",
    ];
    let ran = CommandOutput::run(place.command(&arguments).stdin(stdin));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(place.read("etc/bitrix24.secret").trim(), SECRET);
}

/// A terminal, and what it shows.
struct Screen {
    keys: File,
    shown: Arc<Mutex<String>>,
    name: String,
}

impl Screen {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let mut reader = File::from(master);
        let keys = reader.try_clone().expect("a descriptor");
        let shown = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&shown);
        let listen = move || {
            let mut piece = [0; 1024];
            while let Ok(read @ 1..) = reader.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..read]).replace('\r', "");
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        };
        std::thread::Builder::new().spawn(listen).expect("a thread");
        Self {
            keys,
            shown,
            name: name.into_string().expect("ASCII"),
        }
    }

    fn open(&self) -> File {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(&self.name));
        opened.expect("a terminal")
    }

    fn shown(&self) -> String {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Types a line once this is asked.
    fn answer(&mut self, question: &str, line: &str) {
        eventually(question, SOON, || {
            self.shown().trim_end().ends_with(question.trim_end())
        });
        writeln!(self.keys, "{line}").expect("a terminal");
    }
}

#[test]
fn terminal_dialogue_hides_the_secret_and_needs_confirmation() {
    for is_confirmed in [true, false] {
        let place = Place::new();
        let mut screen = Screen::new();
        let mut command = place.command(&["init", "--dir", "etc"]);
        command
            .stdin(screen.open())
            .stdout(Stdio::null())
            .stderr(screen.open());
        let mut child = command.spawn().expect("the binary starts");
        drop(command);
        screen.answer("Provider [bitrix24]:", "");
        screen.answer("(client_id):", ID);
        screen.answer("Client secret (it is not shown):", SECRET);
        screen.answer("Name of the first portal:", "acme");
        screen.answer(
            "Host of acme, such as acme.example.com:",
            "acme.bitrix24.com",
        );
        screen.answer("(Enter: no more):", "");
        screen.answer("token files [/run/refreshd/tokens]:", "");
        screen.answer("[y/N]", if is_confirmed { "y" } else { "" });
        let status = eventually("its end", SOON, || child.try_wait().expect("a child"));
        let shown = screen.shown();
        assert!(!shown.contains(SECRET), "{shown}");
        contains(&shown, &["[portals.\"acme\"]", ID]);
        assert_eq!(
            status.code(),
            Some(if is_confirmed { 0 } else { 64 }),
            "{shown}"
        );
        assert_eq!(place.path("etc").exists(), is_confirmed);
        if is_confirmed {
            assert_eq!(place.read("etc/bitrix24.secret").trim(), SECRET);
            assert_eq!(place.check().code, Some(0));
        }
    }
}
