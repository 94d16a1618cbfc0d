//! Programs that exit, fail, hang or leave children behind.

use std::os::unix::process::ExitStatusExt as _;

use super::super::samples::{SENDER, huge, message};
use super::*;

/// Runs a shell script as a channel.
async fn run(script: &str) -> Delivery {
    let command = ["/bin/sh", "-c", script].map(str::to_owned);
    send("ops", &command, Path::new("/"), &message(), SENDER).await
}

#[test]
fn every_variable_is_a_line_and_none_is_too_long() {
    let variables = environment(&huge(), SENDER);
    for (name, value) in &variables {
        assert!(
            !value.contains(char::is_control) && value.encode_utf16().count() <= MAX_VARIABLE,
            "{name}"
        );
    }
    let of = |name| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(
        (of("REFRESHD_SERVER"), of("REFRESHD_PORTAL")),
        (Some("oauth.example.org"), None)
    );
    assert_eq!(
        (of("REFRESHD_SEVERITY"), of("REFRESHD_COUNT")),
        (Some("critical"), Some("200000"))
    );
}

#[test]
fn an_exit_code_says_what_became_of_it() {
    let judge = |code: i32| judge(ExitStatus::from_raw(code << 8), "first\nlast\n");
    assert_eq!(judge(0), Delivery::Delivered("exit code 0: last".into()));
    assert_eq!(judge(65), Delivery::Rejected("exit code 65: last".into()));
    assert_eq!(judge(1), failed("exit code 1: last"));
    let Delivery::Failed { why, .. } = super::judge(ExitStatus::from_raw(9), "") else {
        panic!()
    };
    assert!(why.contains("signal: 9"), "{why}");
}

#[test]
fn a_program_that_may_not_be_started_says_what_is_needed() {
    let denied = cannot_start("/x", &io::Error::from_raw_os_error(13));
    assert!(
        denied.contains("drop-in refreshd.service.d/20-command-channel.conf"),
        "{denied}"
    );
    assert!(!cannot_start("/x", &io::Error::from_raw_os_error(2)).contains("drop-in"));
}

#[tokio::test]
async fn the_message_comes_on_standard_input_and_in_an_otherwise_empty_environment() {
    let json = "read -r json; echo \"$json\" | grep -q '\"reason\":\"the grant is dead: <invalid_grant> & more\"' || exit 1; ";
    let delivery = run(&format!(
        "{json} echo $REFRESHD_PORTAL; env | grep -v ^REFRESHD_ | cut -d= -f1 | sort | tr '\\n' ' '"
    ))
    .await;
    let Delivery::Delivered(output) = delivery else {
        panic!("{delivery:?}")
    };
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names = output
        .trim_start_matches("exit code 0: ")
        .split(' ')
        .filter(|name| !shells_own.contains(name));
    assert_eq!(names.collect::<Vec<_>>(), ["LANG", "PATH"], "{output}");
}

#[tokio::test]
async fn one_that_does_not_listen_or_says_too_much_is_no_problem() {
    assert_eq!(
        run("exec <&-; exit 0").await,
        Delivery::Delivered("exit code 0".into())
    );
    let talk = run("yes | head -c 1000000; yes | head -c 1000000 >&2; exit 3").await;
    assert_eq!(talk, failed("exit code 3: y"));
}

/// A child that the program leaves behind holds the pipes, and is killed.
#[tokio::test]
async fn nobody_waits_for_what_a_program_leaves_behind_and_it_ends() {
    let delivery = run("sleep 1000 & echo $!").await;
    let Delivery::Delivered(output) = delivery else {
        panic!("{delivery:?}")
    };
    let process: i32 = output.rsplit(' ').next().unwrap().parse().unwrap();
    gone(process).await;
}

/// Dropped at the time limit: all processes are killed.
#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "echo $$ >{0}/a; (echo $$; sleep 1000 & echo $! >{0}/b; wait) & wait",
        folder.path().display()
    );
    let clock = Clock::system();
    let hung = Box::pin(run(&script));
    let read = |name: &str| {
        std::fs::read_to_string(folder.path().join(name))
            .ok()?
            .trim()
            .parse::<i32>()
            .ok()
    };
    let both = async {
        loop {
            if let (Some(shell), Some(sleeper)) = (read("a"), read("b")) {
                return (shell, sleeper);
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    let processes = tokio::select! {
        delivery = hung => panic!("{delivery:?}"),
        processes = both => processes,
    };
    gone(processes.0).await;
    gone(processes.1).await;
}

/// Waits until a process has ended: it does not exist, or is a zombie.
async fn gone(process: i32) {
    let clock = Clock::system();
    let there = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let ended = clock.within(Duration::from_secs(10), async {
        while there() {
            clock.sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(ended.await.is_some(), "{process} is still there");
}
