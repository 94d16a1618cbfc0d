//! `refreshd reload`: what it changed, or every problem and no change; and what waits for a restart.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{CommandOutput, Daemon, Portal, Rig, SOON, eventually, message_contains};
use crate::interfaces::{calm, contains};

fn reload(rig: &Rig) -> CommandOutput {
    rig.write_config();
    rig.run(["reload"])
}

#[track_caller]
fn reload_json(rig: &Rig) -> (Option<i32>, Value) {
    rig.write_config();
    let ran = rig.run(["reload", "--json"]);
    assert_eq!(ran.stderr, "", "{ran:?}");
    let told = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}"));
    (ran.code, told)
}

#[test]
fn reload_reports_added_changed_and_dropped_portals() {
    let mut rig = calm(["acme", "globex"]);
    let daemon = rig.start();
    let ran = reload(&rig);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &["refreshd.toml: the configuration was reloaded; 2 portals"],
    );
    for word in ["added", "changed", "dropped", "other than before"] {
        assert!(!ran.stderr.contains(word), "nothing changed: {ran:?}");
    }
    rig.config.portals.push(Portal::new("initech", "crm"));
    rig.config.portal("acme").more = "renew_every = \"10m\"".to_owned();
    rig.config.remove("globex");
    let ran = reload(&rig);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "\nadded: initech\n",
            "\nchanged: acme\n",
            "\ndropped: globex\n",
        ],
    );
    assert_eq!(rig.status("initech")["phase"], "awaiting-authorization");
    // A portal that comes back is added, though the state may still know it. What an app says is every portal's.
    rig.config.portals.push(Portal::new("globex", "crm"));
    rig.config.app().more = "scope = [\"crm\"]".to_owned();
    rig.secret("crm.secret", "another secret of the client");
    let (code, told) = reload_json(&rig);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(
        (&told["version"], &told["reloaded"], &told["portals"]),
        (&json!(1), &json!(true), &json!(3))
    );
    assert_eq!(told["added"], json!({"count": 1, "names": ["globex"]}));
    assert_eq!(told["changed"], json!({"count": 0, "names": []}));
    assert_eq!(
        (&told["apps"], &told["restart"]),
        (&json!(["crm"]), &json!([]))
    );
    assert!(!told.to_string().contains("another secret"), "{told}");
    // Of many the first are named.
    let many: Vec<_> = (0..25).map(|at| format!("more-{at:02}")).collect();
    let portals = many.iter().map(|name| Portal::new(name, "crm"));
    rig.config.portals.extend(portals);
    let ran = reload(&rig);
    contains(
        &ran.stderr,
        &["\nadded: more-00, more-01, ", ", more-09 and 15 more\n"],
    );
    daemon.stop();
}

#[test]
fn invalid_configuration_is_reported_whole_and_changes_nothing() {
    let mut rig = calm(["acme"]);
    let daemon = rig.start();
    rig.config.remove("acme");
    rig.config.portals.push(Portal::new("globex", "crn"));
    rig.config.app().more = "client_secrt_file = \"x\"".to_owned();
    let ran = reload(&rig);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "refreshd: 2 problems in the configuration; nothing was changed, the old one stays in force\n",
            "refreshd.toml:",
            "did you mean `client_secret_file`?",
            "did you mean `crm`?",
        ],
    );
    let (code, told) = reload_json(&rig);
    assert_eq!((code, &told["reloaded"]), (Some(78), &json!(false)));
    let findings = told["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 2, "{told}");
    for finding in findings {
        assert_eq!(finding["severity"], "error");
        assert!(
            finding["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("refreshd.toml"))
                && finding["line"].as_u64() > Some(1)
                && finding["column"].as_u64() >= Some(1),
            "{finding}"
        );
    }
    assert_eq!(rig.get_json("/v1/configuration")["old_configuration"], true);
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    assert_eq!(rig.status("globex"), Value::Null);
    daemon.stop();
    // Without a daemon the problems are the answer as well.
    let ran = reload(&rig);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(&ran.stderr, &["2 problems", "did you mean `crm`?"]);
}

#[test]
fn reload_without_a_daemon_exits_69_with_an_instruction() {
    let rig = calm(["acme"]);
    let ran = reload(&rig);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "no daemon runs: nobody listens on ",
            "control.sock; start it with systemctl start refreshd",
        ],
    );
    assert!(!rig.path("state.db").exists(), "nothing is made");
    rig.start().stop();
    assert_eq!(reload(&rig).code, Some(69));
}

#[test]
fn keys_that_need_a_restart_are_reported_by_reload_and_check() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    let before = rig.config.to_string();
    let check = |rig: &Rig| rig.run(["check"]);
    rig.write_config();
    assert!(!check(&rig).stderr.contains("restart"));
    let old = rig.config.http.to_string();
    let text = before
        .replace(&old, "127.0.0.1:0")
        .replace("token_dir = \"tokens\"", "token_dir = \"elsewhere\"");
    let text = text.replace("format = \"json\"", "format = \"text\"");
    assert_ne!(text, before);
    rig.secret("refreshd.toml", &text);
    let listen =
        format!("[http] listen needs a restart: the daemon uses {old}, the file has 127.0.0.1:0");
    let ran = check(&rig);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            &format!("{listen} (warning)"),
            "token_dir needs a restart",
            "/elsewhere (warning)",
            "[log] format needs a restart: the daemon uses json, the file has text",
        ],
    );
    let ran = rig.run(["reload"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[&format!("{listen}: systemctl restart refreshd\n")],
    );
    assert_eq!(ran.stderr.matches("needs a restart").count(), 3, "{ran:?}");
    // The reload is done, and they still wait.
    assert!(check(&rig).stderr.contains(&listen));
    assert_eq!(rig.http("/livez").0, 200, "the old listener serves");
    daemon.stop();
    let daemon = Daemon::spawn(rig.command(["run"]));
    eventually("the new process", SOON, || {
        rig.run(["reload"]).code == Some(0)
    });
    assert!(!check(&rig).stderr.contains("restart"));
    drop(daemon);
}

/// Runs it with its standard error as the journal's, or as a file that the journal's variable does not mean.
fn refusal(rig: &Rig, command: &str, is_journal: bool) -> String {
    let path = rig.path("stderr");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    let file = file.expect("a file");
    let about = file.metadata().expect("a file");
    let inode = about.ino() + u64::from(!is_journal);
    let mut run: Command = rig.command([command]);
    let ended = run
        .env("JOURNAL_STREAM", format!("{}:{inode}", about.dev()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .expect("the binary starts");
    assert_eq!(ended.code(), Some(78));
    std::fs::read_to_string(path).expect("what it said")
}

#[test]
fn refused_start_has_error_priority_in_the_journal() {
    let mut rig = calm(["acme"]);
    rig.config.app().more = "client_secrt_file = \"x\"\nclient_idd = \"x\"".to_owned();
    rig.write_config();
    for command in ["run", "check"] {
        let said = refusal(&rig, command, true);
        assert!(
            said.lines().count() >= 3 && said.lines().all(|line| line.starts_with("<3>")),
            "{command}: {said}"
        );
        contains(
            &said,
            &["<3>refreshd: 2 problems", "did you mean `client_id`?"],
        );
        let said = refusal(&rig, command, false);
        assert!(!said.contains("<3>"), "{command}: {said}");
    }
}

#[test]
fn sighup_and_reload_command_are_both_executed() {
    let mut rig = calm(["acme"]);
    let daemon = rig.start();
    rig.config.portals.push(Portal::new("globex", "crm"));
    rig.write_config();
    let mark = daemon.mark();
    daemon.sighup();
    assert_eq!(rig.run(["reload"]).code, Some(0));
    let reloaded = |event: &Value| message_contains(event, "the configuration was reloaded");
    eventually("both", SOON, || {
        daemon.events_after(mark, reloaded).len() == 2
    });
    daemon.stop();
}
