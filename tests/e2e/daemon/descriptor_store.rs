//! A pair that could not be stored when its process ended: the service manager's descriptor store carries it over.
//!
//! A limit of the file size that still leaves room for memory files simulates the full disk.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use refreshd::adapters::sealed::seal;
use refreshd_fake_server::Fault;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::Value;

use crate::common::authorizing::{Authorizing, free_address};
use crate::common::service_manager::{FULL, ServiceManager, Start};
use crate::common::{CLIENT_ID, Daemon, Portal, Rig, SOON, eventually, message_contains};

/// A portal that renews on request only: a tenth of its token's life after the last renewal at the earliest.
fn calm(portal: &str) -> Rig {
    let minute = Duration::from_secs(60);
    let mut rig = Rig::with_lifetime([portal], minute);
    rig.config.app().renew_every = Duration::from_secs(40);
    rig.grant(portal);
    rig
}

/// Such a portal and a daemon that holds a pair which the disk refused.
fn unsaved(start: &Start<'_>) -> (Rig, ServiceManager, Daemon, Value) {
    unsaved_of(calm("acme"), start)
}

fn unsaved_of(rig: Rig, start: &Start<'_>) -> (Rig, ServiceManager, Daemon, Value) {
    let manager = ServiceManager::new(&rig);
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    let daemon = manager.launch(&rig, start);
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    daemon.limit_file_size(Some(FULL));
    let event = daemon.wait_for_step("acme", "unsaved");
    let stored = usize::from(start.room != Some("0"));
    eventually("a copy, if any is kept", SOON, || {
        manager.names().len() == stored
    });
    (rig, manager, daemon, event)
}

fn text<'t>(event: &'t Value, key: &str) -> &'t str {
    event[key].as_str().unwrap_or_default()
}

/// Asserts that the grant is alive: another renewal succeeds, and the server saw no violation.
#[track_caller]
fn is_alive(rig: &Rig, daemon: Daemon, generation: u64) {
    rig.wait_for_generation("acme", generation);
    eventually("a token that works", SOON, || rig.has_working_token("acme"));
    let sent = rig.renewals("acme");
    eventually("a renewal by hand", SOON * 2, || {
        assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
        rig.renewals("acme") > sent
    });
    rig.wait_for_generation("acme", generation + 1);
    eventually("a token that works", SOON, || rig.has_working_token("acme"));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unsaved_pair_survives_the_process() {
    let (rig, manager, daemon, event) = unsaved(&Start::default());
    assert!(
        text(&event, "reason")
            .contains("the service manager has a copy, which a crash or a restart does not lose"),
        "{event}"
    );
    assert!(
        !text(&event, "action").contains("do not stop or kill"),
        "{event}"
    );
    let names = manager.names();
    assert!(
        matches!(names.as_slice(), [name] if name.starts_with("pair-acme-")),
        "{names:?}"
    );
    assert!(
        manager
            .received()
            .iter()
            .any(|message| message.contains("FDPOLL=0")),
        "{:?}",
        manager.received()
    );
    daemon.kill9();

    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("where it came from", |event| {
        message_contains(event, "kept since the last process is in the state now")
    });
    daemon.wait_for_outcome("acme", "renewed");
    rig.wait_for_generation("acme", 2);
    assert_eq!(rig.requests("acme"), 1, "nothing was sent again");
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 2);
}

#[test]
fn still_full_disk_after_restart_loses_nothing() {
    let (rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    let names = manager.names();
    for _ in 0..2 {
        let full = Start {
            longest_file: Some(FULL),
            ..Start::default()
        };
        let daemon = manager.launch(&rig, &full);
        daemon.wait_for_step("acme", "unsaved");
        daemon.wait_for("the daemon to be ready", |event| {
            message_contains(event, "is ready")
        });
        assert!((rig.metric("refreshd_tokens_unsaved") - 1.0).abs() < 0.1);
        assert_eq!(manager.names(), names, "the same copy, under the same name");
        daemon.kill9();
    }
    let full = Start {
        longest_file: Some(FULL),
        ..Start::default()
    };
    let daemon = manager.launch(&rig, &full);
    daemon.wait_for_step("acme", "unsaved");
    daemon.limit_file_size(None);
    daemon.wait_for_step("acme", "resolved");
    rig.wait_for_generation("acme", 2);
    assert_eq!(rig.requests("acme"), 1, "nothing was sent again");
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 2);
}

#[test]
fn pair_is_released_once_stored() {
    let (rig, manager, daemon, _) = unsaved(&Start::default());
    let copies = manager.copies();
    daemon.limit_file_size(None);
    rig.wait_for_generation("acme", 2);
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    daemon.kill9();

    // As if the process had ended between the two.
    let [(name, copy)] = <[_; 1]>::try_from(copies).expect("one");
    manager.keep(&name, copy.try_clone().expect("a descriptor"));
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "is in the state already")
    });
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 2);

    // A copy that is older than the grant.
    manager.keep(&name, copy);
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "the grant was replaced or forgotten since")
    });
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 3);
}

#[test]
fn later_manual_changes_take_precedence() {
    for forget in [true, false] {
        let (rig, manager, daemon, _) = unsaved(&Start::default());
        daemon.kill9();
        assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
        if !forget {
            assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
        }
        let before = rig.generation("acme");
        let daemon = manager.launch(&rig, &Start::default());
        daemon.wait_for("the log line", |event| {
            message_contains(event, "the grant was replaced or forgotten since")
        });
        daemon.wait_for("the daemon to be ready", |event| {
            message_contains(event, "is ready")
        });
        eventually("nothing is kept", SOON, || manager.names().is_empty());
        if forget {
            assert_eq!((rig.generation("acme"), rig.requests("acme")), (0, 1));
            daemon.stop();
        } else {
            is_alive(&rig, daemon, before);
        }
        rig.no_violations();
    }
}

#[test]
fn unconfigured_portal_still_gets_its_pair() {
    let (mut rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    let acme = std::mem::take(&mut rig.config.portals);
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "is in the state now")
    });
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    assert_eq!(rig.generation("acme"), 0, "and no file");
    daemon.stop();
    rig.config.portals = acme;
    let daemon = rig.start();
    assert_eq!(rig.requests("acme"), 1, "nothing was sent again");
    is_alive(&rig, daemon, 2);
}

#[test]
fn unusable_descriptors_are_harmless() {
    let (rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    let sealed = |bytes: &[u8]| seal("test", bytes).expect("a sealed file");
    let good = manager.bytes();
    let mut tampered = good.clone();
    *tampered.last_mut().expect("a byte") ^= 1;
    let mut open = File::from(
        memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .expect("a file in memory"),
    );
    open.write_all(&good).expect("a file in memory");
    let huge = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("a file in memory");
    File::from(huge.try_clone().expect("a descriptor"))
        .set_len(1 << 40)
        .expect("a sparse file");
    fcntl_add_seals(
        &huge,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )
    .expect("seals");
    manager.keep("pair-acme-tampered", sealed(&tampered));
    manager.keep("pair-acme-cut", sealed(&good[..good.len() / 2]));
    manager.keep("pair-acme-open", open);
    manager.keep("pair-acme-huge", huge);
    manager.keep("pair-null", File::open("/dev/null").expect("a device"));
    manager.keep("another", sealed(&good));
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for_outcome("acme", "renewed");
    for name in [
        "pair-acme-tampered",
        "pair-acme-cut",
        "pair-acme-open",
        "pair-acme-huge",
        "pair-null",
        "another",
    ] {
        daemon.wait_for(name, |event| {
            event["name"] == name && message_contains(event, "is not used and not kept")
        });
    }
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 2);
}

#[test]
fn pair_of_another_version_is_left_in_place() {
    let (rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    rig.server.allow_replay(&crate::common::domain("acme"));
    let good = String::from_utf8(manager.bytes()).expect("text");
    let [(name, _)] = <[_; 1]>::try_from(manager.copies()).expect("one");
    let manager = {
        drop(manager);
        std::fs::remove_file(rig.path("manager.sock")).expect("its socket");
        ServiceManager::new(&rig)
    };
    let other = good.replacen("refreshd-unsaved 1 ", "refreshd-unsaved 2 ", 1);
    manager.keep(
        &name,
        seal("test", other.as_bytes()).expect("a sealed file"),
    );
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "it is of format 2")
    });
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    assert_eq!(manager.names(), [name]);
    daemon.stop();
}

#[test]
fn unrelated_descriptors_are_left_alone() {
    let (rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    rig.server.allow_replay(&crate::common::domain("acme"));
    let daemon = manager.launch(
        &rig,
        &Start {
            to_it: false,
            ..Start::default()
        },
    );
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    assert_eq!(manager.names().len(), 1);
    daemon.stop();
}

#[test]
fn missing_descriptor_store_is_not_relied_on() {
    for (room, stored) in [(Some("0"), 0), (None, 1)] {
        let (rig, manager, daemon, event) = unsaved(&Start {
            room,
            ..Start::default()
        });
        assert!(
            text(&event, "action").contains("do not stop or kill refreshd"),
            "{event}"
        );
        assert_eq!(
            text(&event, "reason").contains("does not say whether it keeps it"),
            stored == 1,
            "{event}"
        );
        assert!(!text(&event, "reason").contains("does not lose"), "{event}");
        eventually("a copy, or none", SOON, || manager.names().len() == stored);
        daemon.limit_file_size(None);
        is_alive(&rig, daemon, 2);
    }
}

#[test]
fn child_programs_inherit_no_pair() {
    let (mut rig, manager, daemon, _) = unsaved(&Start::default());
    daemon.kill9();
    rig.config.more = "[channels.script]\nkind = 'command'\n\
        command = ['/bin/sh', '-c', 'ls -l /proc/self/fd >descriptors; env >environment']\n"
        .to_owned();
    let daemon = manager.launch(&rig, &Start::default());
    rig.wait_for_generation("acme", 2);
    assert_eq!(rig.run(["alert", "test", "script"]).code, Some(0));
    let read = |name: &str| std::fs::read_to_string(rig.path(name)).expect("the program wrote it");
    assert!(
        read("descriptors").contains(" 0 -> ") && !read("descriptors").contains("refreshd-unsaved"),
        "{}",
        read("descriptors")
    );
    assert!(
        !read("environment").contains("LISTEN_"),
        "{}",
        read("environment")
    );
    is_alive(&rig, daemon, 2);
}

#[test]
fn candidate_pair_survives_the_process() {
    let rig = calm("acme");
    let manager = ServiceManager::new(&rig);
    let daemon = manager.launch(&rig, &Start::default());
    rig.wait_for_generation("acme", 2);
    let renewals = rig.renewals("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    rig.start_import("acme", &rig.install("acme"));
    eventually("the request has left", SOON, || {
        rig.renewals("acme") > renewals
    });
    daemon.limit_file_size(Some(FULL));
    daemon.wait_for_step("acme", "unsaved");
    eventually("a copy", SOON, || manager.names().len() == 1);
    daemon.kill9();

    let sent = rig.requests("acme");
    let daemon = manager.launch(&rig, &Start::default());
    rig.wait_for_generation("acme", 3);
    assert_eq!(rig.requests("acme"), sent, "nothing was sent again");
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 3);
}

#[test]
fn authorized_grant_survives_the_process() {
    let mut rig = calm("acme");
    let address = free_address();
    let redirect = format!("http://{address}/oauth/callback");
    rig.authorizes_here();
    rig.server.set_redirect(CLIENT_ID, &redirect);
    let portal = rig.config.portal("acme");
    portal.refresh_token_file = false;
    portal
        .more
        .push_str(&format!("redirect_uri = \"{redirect}\"\n"));
    let manager = ServiceManager::new(&rig);
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    let waiting = Authorizing::spawn(rig.command(["authorize", "acme"]));
    let sent_to = rig.redirect_of(&waiting.url());
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    std::thread::scope(|scope| {
        let browser = scope.spawn(|| rig.browse(&sent_to));
        eventually("the request has left", SOON, || rig.requests("acme") == 1);
        daemon.limit_file_size(Some(FULL));
        daemon.wait_for_step("acme", "unsaved");
        eventually("a copy", SOON, || manager.names().len() == 1);
        daemon.kill9();
        assert_ne!(
            browser.join().expect("a browser").0,
            200,
            "the page does not report success"
        );
    });
    assert_ne!(waiting.end().code, Some(0));

    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "is the portal's grant now")
    });
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    rig.wait_for_generation("acme", 1);
    assert_eq!(rig.requests("acme"), 1, "nothing was sent again");
    is_alive(&rig, daemon, 1);
}

#[test]
fn unreadable_response_survives_the_process() {
    let mut rig = calm("acme");
    rig.config.timeout = Duration::from_secs(3);
    rig.fail(
        "acme",
        Fault::Drip {
            every: Duration::from_millis(20),
        },
        1,
    );
    rig.server.allow_replay(&crate::common::domain("acme"));
    let manager = ServiceManager::new(&rig);
    let daemon = manager.launch(&rig, &Start::default());
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    daemon.limit_file_size(Some(FULL));
    let event = daemon.wait_for_step("acme", "unsaved");
    assert!(
        text(&event, "reason").starts_with("a reply that could not be read is not on disk"),
        "{event}"
    );
    eventually("a copy", SOON, || manager.names().len() == 1);
    daemon.kill9();

    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "could not be read: it is in the state now")
    });
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    eventually("it is shown", SOON, || {
        !rig.status("acme")["unread_replies"].is_null()
    });
    daemon.stop();
}

#[test]
fn pair_is_used_though_a_command_ended_its_claim() {
    let mut rig = calm("acme");
    rig.config.portals.push(Portal::new("other", "crm"));
    let (rig, manager, daemon, _) = unsaved_of(rig, &Start::default());
    daemon.kill9();
    // Any command that changes the state first cleans up after an ended process.
    assert_eq!(rig.run(["forget", "other", "--yes"]).code, Some(0));
    assert_eq!(rig.status("acme")["phase"], "in-doubt");
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for_step("acme", "resolved");
    rig.wait_for_generation("acme", 2);
    assert_eq!(rig.requests("acme"), 1, "nothing was sent again");
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 2);
}

#[test]
fn with_the_state_missing_the_pair_waits_for_the_right_one() {
    let rig = calm("acme");
    let manager = ServiceManager::new(&rig);
    let daemon = manager.launch(&rig, &Start::default());
    rig.wait_for_generation("acme", 2);
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    std::thread::scope(|scope| {
        // The last call waits in vain.
        scope.spawn(|| {
            while rig.renewals("acme") < 2 {
                rig.run(["renew", "acme"]);
            }
        });
        eventually("a request under way", SOON * 2, || {
            rig.renewals("acme") == 2
        });
        daemon.limit_file_size(Some(FULL));
        daemon.wait_for_step("acme", "unsaved");
        eventually("a copy", SOON, || manager.names().len() == 1);
        daemon.kill9();
    });
    // As if its volume were not mounted.
    let take = |part: &'static str| {
        let bytes = std::fs::read(rig.path(part)).expect("a part of the state");
        std::fs::remove_file(rig.path(part)).expect("a part of the state");
        (part, bytes)
    };
    let away = ["state.db", "state.db-wal"].map(take);
    let daemon = manager.launch(&rig, &Start::default());
    daemon.wait_for("the log line", |event| {
        message_contains(event, "the pair stays where it is")
    });
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    assert_eq!(manager.names().len(), 1);
    daemon.stop();
    away.iter()
        .for_each(|(part, bytes)| rig.secret_bytes(part, bytes));
    let daemon = manager.launch(&rig, &Start::default());
    rig.wait_for_generation("acme", 3);
    assert_eq!(rig.requests("acme"), 2, "nothing was sent again");
    eventually("nothing is kept", SOON, || manager.names().is_empty());
    is_alive(&rig, daemon, 3);
}
