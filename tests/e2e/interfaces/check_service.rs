//! `refreshd check --service`: judged as the unit's user, with the command that mends each thing. As root only: others return.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{CommandOutput, Rig, mode};
use crate::interfaces::{calm, contains};

/// A user of every Debian that is no refreshd.
const USER: &str = "daemon";
const ID: u32 = 1;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is there");
}

fn give(path: &Path) {
    chown(path, Some(ID), Some(ID)).expect("root");
}

/// A rig whose systemd has a unit with these settings; `None` unless this is root.
fn service(unit: &str) -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let rig = calm(["acme"]);
    set_mode(&rig.path(""), 0o755);
    fs::create_dir(rig.path("bin")).expect("a directory");
    has_unit(&rig, unit);
    for name in ["state", "tokens", "run"] {
        fs::create_dir(rig.path(name)).expect("a directory");
        give(&rig.path(name));
    }
    rig.write_config();
    configure(&rig, &rig.config.to_string());
    chown(rig.path("crm.secret"), None, Some(ID)).expect("root");
    set_mode(&rig.path("crm.secret"), 0o640);
    Some(rig)
}

/// The paths of a machine: the state and the socket have directories of their own.
fn configure(rig: &Rig, text: &str) {
    let text = text
        .replace("\"state.db\"", "\"state/state.db\"")
        .replace("\"control.sock\"", "\"run/control.sock\"");
    rig.secret("refreshd.toml", &text);
    chown(rig.path("refreshd.toml"), None, Some(ID)).expect("root");
    set_mode(&rig.path("refreshd.toml"), 0o640);
}

fn has_unit(rig: &Rig, unit: &str) {
    let credentials = unit.lines().filter(|line| line.contains("Credential"));
    let credentials: Vec<_> = credentials.collect();
    let shown = unit.lines().filter(|line| !line.contains("Credential"));
    let shown: Vec<_> = shown.collect();
    let script = format!(
        "#!/bin/sh\ncase $1 in\nshow) cat <<'END'\nLoadState=loaded\nUser={USER}\nGroup={USER}\n{}\nEND\n;;\n\
         cat) cat <<'END'\n[Service]\nUser={USER}\n{}\nEND\n;;\n*) exit 1 ;;\nesac\n",
        shown.join("\n"),
        credentials.join("\n")
    );
    program(rig, "systemctl", &script);
}

fn program(rig: &Rig, name: &str, script: &str) {
    rig.secret(&format!("bin/{name}"), script);
    set_mode(&rig.path(format!("bin/{name}")), 0o755);
}

fn check(rig: &Rig, arguments: &[&str]) -> CommandOutput {
    let mut command = rig.command(["check", "--service"]);
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        rig.path("bin").display()
    );
    CommandOutput::run(
        command
            .args(arguments)
            .env("PATH", path)
            .stdin(Stdio::null()),
    )
}

/// Does what each line says behind its last colon.
fn mend(said: &str) {
    for line in said
        .lines()
        .filter(|line| line.contains("the user daemon cannot"))
    {
        let (_, remedy) = line.rsplit_once(": ").expect("a remedy");
        let done = Command::new("/bin/sh").args(["-ec", remedy]).status();
        assert!(done.expect("a shell").success(), "{remedy}");
    }
}

#[test]
fn valid_setup_passes_as_the_service_user() {
    let Some(rig) = service("") else { return };
    let ran = check(&rig, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &["no problems for refreshd.service as user daemon, group daemon; 1 portal, 1 app"],
    );
    assert!(!ran.stderr.contains("warning"), "{ran:?}");
}

#[test]
fn unusable_files_are_reported_with_owner_mode_and_a_working_command() {
    let Some(rig) = service("") else { return };
    fs::create_dir(rig.path("portals.d")).expect("a directory");
    set_mode(&rig.path("portals.d"), 0o700);
    rig.secret("hooli.refresh", "a token of hooli's");
    rig.secret(
        "portals.d/hooli.toml",
        "[portals.hooli]\napp = \"crm\"\ndomain = \"hooli.bitrix24.com\"\nrefresh_token_file = \"../hooli.refresh\"\n",
    );
    let text = format!("include = [\"portals.d/*.toml\"]\n{}", rig.config);
    configure(&rig, &text);
    chown(rig.path("refreshd.toml"), Some(0), Some(0)).expect("root");
    chown(rig.path("crm.secret"), Some(0), Some(0)).expect("root");
    set_mode(&rig.path("crm.secret"), 0o600);
    chown(rig.path("tokens"), Some(0), Some(0)).expect("root");
    set_mode(&rig.path("tokens"), 0o755);
    rig.secret("state/state.db", "");
    chown(rig.path("state/state.db"), Some(0), Some(0)).expect("root");
    // A backup of the administrator's is no file of the daemon's.
    rig.secret("state/state.db.bak", "");
    chown(rig.path("state/state.db.bak"), Some(0), Some(0)).expect("root");
    // As root without the switch all is well: that is what misleads.
    assert_eq!(rig.run(["check"]).code, Some(0));
    let ran = check(&rig, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
    let path = |name: &str| rig.path(name).display().to_string();
    contains(
        &ran.stderr,
        &[
            &format!(
                "the user daemon cannot read {} (root:root, mode 0600): chgrp daemon {0} && chmod 640 {0}",
                path("crm.secret")
            ),
            &format!(
                "cannot read {} (root:root, mode 0640)",
                path("refreshd.toml")
            ),
            &format!(
                "it cannot enter {} (root:root, mode 0700): chgrp daemon {0} && chmod g+rx {0}",
                path("portals.d")
            ),
            &format!(
                "cannot read {} (root:root, mode 0600)",
                path("hooli.refresh")
            ),
            &format!(
                "cannot write to {} (root:root, mode 0755): chown daemon:daemon {0} && chmod 751 {0}",
                path("tokens")
            ),
            &format!(
                "cannot change {} (root:root, mode 0600): chown daemon:daemon {0} && chmod 600 {0}",
                path("state/state.db")
            ),
        ],
    );
    assert!(!ran.stderr.contains(".bak"), "{ran:?}");
    // Where it is named.
    let line = text
        .lines()
        .position(|line| line.contains("\"crm.secret\""))
        .expect("it is there")
        + 1;
    contains(&ran.stderr, &[&format!("refreshd.toml:{line}:")]);
    let told = check(&rig, &["--json"]);
    let told: Value =
        serde_json::from_str(&told.stdout).unwrap_or_else(|_| panic!("no JSON: {told:?}"));
    assert_eq!((&told["ok"], &told["version"]), (&false.into(), &1.into()));
    let errors = told["findings"].as_array().expect("a list").iter();
    let errors = errors.filter(|finding| finding["severity"] == "error");
    assert!(errors.count() >= 6, "{told}");
    // What is said is enough; what lies behind what was in the way comes next.
    mend(&ran.stderr);
    let next = check(&rig, &[]);
    assert_eq!(next.code, Some(78), "{next:?}");
    contains(
        &next.stderr,
        &["portals.d/hooli.toml (root:root, mode 0600)"],
    );
    mend(&next.stderr);
    let mended = check(&rig, &[]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert_eq!(mode(&rig.path("crm.secret")), 0o640);
}

#[test]
fn inaccessible_parent_directory_is_reported_once() {
    let Some(rig) = service("") else { return };
    set_mode(&rig.path(""), 0o700);
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(&ran.stderr, &["refreshd: 1 problem in the configuration"]);
    contains(
        &ran.stderr,
        &["it cannot enter", " (root:root, mode 0700): chgrp daemon "],
    );
}

#[test]
fn credentials_and_variables_come_from_the_unit() {
    let Some(rig) = service("") else { return };
    let text = rig.config.to_string();
    let with = |key: &str| {
        configure(
            &rig,
            &text.replace("client_secret_file = \"crm.secret\"", key),
        );
    };
    with("client_secret_credential = \"crm\"");
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "`client_secret_credential`: the unit has no credential of that name",
            "LoadCredential=NAME:FILE",
        ],
    );
    let secret = rig.path("crm.secret");
    // systemd reads it as root.
    chown(&secret, Some(0), Some(0)).expect("root");
    set_mode(&secret, 0o600);
    has_unit(&rig, &format!("LoadCredential=crm:{}", secret.display()));
    assert_eq!(check(&rig, &[]).code, Some(0));
    has_unit(&rig, "LoadCredential=crm:/nonexistent/crm");
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(
        &ran.stderr,
        &["/nonexistent/crm, from which systemd takes it, cannot be read"],
    );
    has_unit(&rig, "LoadCredentialEncrypted=crm:/nonexistent/crm");
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &["only systemd can read (not checked)"]);
    with("client_secret_env = \"CRM_SECRET\"");
    assert_eq!(check(&rig, &[]).code, Some(78));
    has_unit(&rig, "Environment=CRM_SECRET=aSecretOfTheUnit0123456789");
    assert_eq!(check(&rig, &[]).code, Some(0));
    rig.secret(
        "variables",
        "# of the unit\nCRM_SECRET=aSecretOfTheUnit0123456789\n",
    );
    has_unit(
        &rig,
        &format!(
            "EnvironmentFiles={} (ignore_errors=no)",
            rig.path("variables").display()
        ),
    );
    assert_eq!(check(&rig, &[]).code, Some(0));
}

#[test]
fn sandbox_restrictions_are_reported_with_their_setting() {
    let Some(rig) = service("ProtectSystem=strict\n") else {
        return;
    };
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    let tokens = rig.path("tokens");
    let tokens = tokens.display();
    contains(
        &ran.stderr,
        &[&format!(
            "token_dir: refreshd.service cannot write to {tokens} (ProtectSystem=): systemctl edit refreshd, and write \
             [Service] and ReadWritePaths={tokens}"
        )],
    );
    has_unit(
        &rig,
        &format!(
            "ProtectSystem=strict\nReadWritePaths={}",
            rig.path("").display()
        ),
    );
    assert_eq!(check(&rig, &[]).code, Some(0));
    has_unit(&rig, "PrivateTmp=yes");
    let ran = check(&rig, &[]);
    // Where temporary files are elsewhere nothing is hidden.
    if rig.path("").starts_with("/tmp") {
        assert_eq!(ran.code, Some(78), "{ran:?}");
        contains(
            &ran.stderr,
            &["crm.secret is not there for refreshd.service (PrivateTmp=)"],
        );
    }
}

#[test]
fn shipped_unit_is_used_without_systemd_and_a_missing_account_is_reported() {
    let Some(rig) = service("") else { return };
    for name in ["systemctl", "id"] {
        program(&rig, name, "#!/bin/sh\nexit 1\n");
    }
    let ran = check(&rig, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "judged by the unit that the packages install",
            "there is no user refreshd",
            "systemd-sysusers refreshd.conf",
        ],
    );
}
