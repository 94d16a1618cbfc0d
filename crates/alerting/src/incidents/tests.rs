//! Notifications of outages, minute by minute: each once, grouped, and with a resolution.

use std::collections::BTreeMap;

use super::finding::DEFAULT_LIFETIME;
use super::reconcile::Incidents;
use super::*;
use crate::message::MessageSubject;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + seconds)
}

fn reached(step: &str, severity: Severity) -> ReachedStep {
    ReachedStep {
        id: step.into(),
        severity,
        notify: None,
    }
}

/// Steps of the built-in ladder up to this one.
fn up_to(last: &str) -> Vec<ReachedStep> {
    use Severity::{Critical, Error, Notice, Warning};
    let ladder = [
        ("failed", Notice),
        ("overdue", Warning),
        ("late", Error),
        ("expiring", Critical),
        ("expired", Critical),
    ];
    let end = ladder.iter().position(|(step, _)| *step == last).unwrap();
    ladder[..=end]
        .iter()
        .map(|(step, severity)| reached(step, *severity))
        .collect()
}

fn dead() -> Vec<ReachedStep> {
    vec![reached("person@needs-authorization", Severity::Critical)]
}

fn finding(portal: &str, reached: Vec<ReachedStep>, group: &str) -> Finding {
    Finding {
        key: format!("portal/{portal}"),
        subject: MessageSubject::Portal(portal.into()),
        group: Some(GroupKey {
            key: group.into(),
            subject: MessageSubject::Server("oauth".into()),
            always: group == "app/crm",
        }),
        reached,
        reason: "a renewal failed".into(),
        action: format!("refreshd renew {portal}"),
        action_for_all: "refreshd renew PORTAL".into(),
        since: at(0),
        expires_at: Some(at(HOUR)),
        lifetime: DEFAULT_LIFETIME,
        portal: Some(portal.into()),
        is_of_group: group == "app/crm",
    }
}

/// Incidents with the channels `ops` and `pager`.
#[derive(Default)]
struct IncidentRun {
    incidents: Incidents,
    silenced: BTreeSet<String>,
    next: Option<Timestamp>,
}

impl IncidentRun {
    /// Reconciles these findings; the notifications as `EVENT SEVERITY SUBJECT -> CHANNELS`.
    fn step(&mut self, seconds: i64, findings: impl IntoIterator<Item = Finding>) -> Vec<String> {
        let mut reconciler = Reconciler::new(&self.incidents, 10, at(seconds));
        for finding in findings {
            let silenced = finding
                .portal
                .as_ref()
                .is_some_and(|portal| self.silenced.contains(portal));
            reconciler.add(finding, silenced);
        }
        let endings = reconciler
            .unseen()
            .into_iter()
            .map(|key| (key, "it is well again".to_owned()));
        let endings: BTreeMap<_, _> = endings.collect();
        let channels = vec!["ops".to_owned(), "pager".to_owned()];
        let decision = reconciler.decide(
            &AlertRules {
                group_threshold: 10,
                channels,
                now: at(seconds),
            },
            &endings,
        );
        // Through the stored form, as after a restart.
        for incident in decision.changed {
            let stored = serde_json::to_string(&incident).unwrap();
            self.incidents
                .insert(incident.key.clone(), serde_json::from_str(&stored).unwrap());
        }
        decision
            .forgotten
            .iter()
            .for_each(|key| drop(self.incidents.remove(key)));
        self.next = decision.next;
        let line = |notification: &Notification| {
            let Notification { message, to } = notification;
            let to: Vec<_> = to.iter().map(|(name, _)| name.as_str()).collect();
            let (event, severity) = (message.event.as_str(), message.severity.as_str());
            format!(
                "{event} {severity} {} -> {}",
                message.affected(),
                to.join(" ")
            )
        };
        decision.notifications.iter().map(line).collect()
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn an_outage_of_one_portal_is_told_step_by_step_and_its_end_once() {
    let mut watch = IncidentRun::default();
    let acme = |last| [finding("acme", up_to(last), "server/oauth")];
    assert_eq!(
        watch.step(0, acme("failed")),
        NOTHING,
        "a notice is for the log"
    );
    assert_eq!(
        watch.step(12 * MINUTE, acme("overdue")),
        ["opened warning acme -> ops pager"]
    );
    assert_eq!(watch.step(13 * MINUTE, acme("overdue")), NOTHING);
    assert_eq!(
        watch.step(28 * MINUTE, acme("late")),
        ["raised error acme -> ops pager"]
    );
    assert_eq!(
        watch.step(34 * MINUTE, acme("expiring")),
        ["raised critical acme -> ops pager"]
    );
    assert_eq!(
        watch.step(40 * MINUTE, acme("expired")),
        ["raised critical acme -> ops pager"]
    );
    assert_eq!(
        watch.step(45 * MINUTE, []),
        ["resolved critical acme -> ops pager"]
    );
    assert_eq!(watch.step(46 * MINUTE, []), NOTHING);
}

#[test]
fn a_failure_that_is_only_logged_ends_without_a_word() {
    let mut watch = IncidentRun::default();
    watch.step(0, [finding("acme", up_to("failed"), "server/oauth")]);
    assert_eq!(watch.step(60, []), NOTHING);
}

#[test]
fn a_dead_grant_is_told_once_and_again_after_one_two_four_hours() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    let mut sent = Vec::new();
    for minute in 0..40 * 60 {
        if !watch.step(minute * MINUTE, acme()).is_empty() {
            sent.push(minute);
        }
    }
    assert_eq!(
        sent,
        [0, 60, 180, 420, 900, 1860],
        "at 0, 1, 3, 7, 15 and 31 hours"
    );
    assert_eq!(watch.next, Some(at((1860 + 1440) * MINUTE)), "then daily");
}

#[test]
fn another_thing_to_do_is_news() {
    let mut watch = IncidentRun::default();
    let blocked = vec![reached("person@blocked", Severity::Critical)];
    watch.step(0, [finding("acme", blocked, "app/crm/blocked")]);
    let sent = watch.step(
        MINUTE,
        [finding("acme", dead(), "app/crm/needs-authorization")],
    );
    assert_eq!(sent, ["raised critical acme -> ops pager"]);
}

#[test]
fn two_hundred_portals_that_fail_together_are_one_message_a_step() {
    let mut watch = IncidentRun::default();
    let all = |last| {
        (0..200).map(move |n| finding(&format!("portal-{n:03}"), up_to(last), "server/oauth"))
    };
    assert_eq!(
        watch.step(0, all("overdue")),
        ["opened warning 200 portals at oauth -> ops pager"]
    );
    let message = &watch.incidents["server/oauth"].latest;
    assert_eq!((message.portals.len(), message.count), (20, 200));
    assert_eq!(message.action.as_deref(), Some("refreshd renew PORTAL"));
    // One portal is late before the others; they are one incident all the same.
    let one_late =
        all("overdue")
            .skip(1)
            .chain([finding("portal-000", up_to("late"), "server/oauth")]);
    assert_eq!(
        watch.step(60, one_late),
        ["raised error 200 portals at oauth -> ops pager"]
    );
    assert_eq!(watch.step(120, all("late")), NOTHING);
    assert_eq!(
        watch.step(180, []),
        ["resolved error 200 portals at oauth -> ops pager"]
    );
}

#[test]
fn those_that_were_told_of_by_themselves_are_not_told_of_again_when_many_follow() {
    let mut watch = IncidentRun::default();
    let all = |count: usize, last| {
        (0..count)
            .map(move |n| finding(&format!("portal-{n:02}"), up_to(last), "server/oauth"))
            .collect::<Vec<_>>()
    };
    assert_eq!(watch.step(0, all(2, "overdue")).len(), 2);
    assert_eq!(
        watch.step(60, all(12, "overdue")),
        ["opened warning 12 portals at oauth -> ops pager"]
    );
    assert_eq!(
        watch.step(120, all(12, "late")),
        ["raised error 12 portals at oauth -> ops pager"]
    );
    let over = watch.step(180, []);
    assert_eq!(
        over.len(),
        3,
        "a channel that received the opening receives the resolution: {over:?}"
    );
}

#[test]
fn when_few_are_left_they_are_told_of_by_themselves() {
    let mut watch = IncidentRun::default();
    let all = |count: usize| {
        (0..count).map(|n| {
            finding(
                &format!("portal-{n:02}"),
                dead(),
                "app/crm/needs-authorization",
            )
        })
    };
    assert_eq!(watch.step(0, all(12)).len(), 1);
    assert_eq!(watch.step(60, all(5)), NOTHING, "half of ten: still one");
    assert_eq!(watch.step(120, all(2)), NOTHING, "it may be about to end");
    assert_eq!(watch.next, Some(at(720)));
    let sent = watch.step(720, all(2));
    let expected = [
        "opened critical portal-00 -> ops pager",
        "opened critical portal-01 -> ops pager",
        "resolved critical 12 portals at oauth -> ops pager",
    ];
    assert_eq!(sent, expected);
}

#[test]
fn an_outage_that_ends_for_one_portal_after_the_other_ends_once() {
    let mut watch = IncidentRun::default();
    let left = |count: usize| {
        (0..count).map(|n| finding(&format!("portal-{n:03}"), up_to("overdue"), "server/oauth"))
    };
    assert_eq!(watch.step(0, left(200)).len(), 1);
    for (minute, count) in [(1, 90), (2, 30), (3, 4), (4, 3), (5, 1)] {
        assert_eq!(
            watch.step(minute * MINUTE, left(count)),
            NOTHING,
            "{count} are left"
        );
    }
    assert_eq!(
        watch.step(6 * MINUTE, []),
        ["resolved warning 200 portals at oauth -> ops pager"]
    );
}

#[test]
fn what_is_the_apps_fault_is_one_incident_from_the_first_portal_on() {
    let mut watch = IncidentRun::default();
    let rejected = || vec![reached("person@client-rejected", Severity::Critical)];
    let mut first = finding("acme", rejected(), "app/crm");
    first.group.as_mut().unwrap().subject = MessageSubject::App("crm".into());
    assert_eq!(
        watch.step(0, [first.clone()]),
        ["opened critical app crm -> ops pager"]
    );
    let mut second = finding("globex", up_to("overdue"), "app/crm");
    second.group.clone_from(&first.group);
    assert_eq!(watch.step(60, [first, second]), NOTHING);
}

#[test]
fn a_portal_that_flaps_pages_once() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    assert_eq!(watch.step(0, acme()), ["opened critical acme -> ops pager"]);
    assert_eq!(watch.step(60, []), ["resolved critical acme -> ops pager"]);
    for round in 1..20 {
        assert_eq!(watch.step(60 + round * 300, acme()), NOTHING);
        assert_eq!(watch.step(120 + round * 300, []), NOTHING);
    }
}

#[test]
fn what_comes_back_and_stays_is_told_again_after_a_while_and_says_how_often() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    watch.step(0, acme());
    watch.step(60, []);
    assert_eq!(watch.step(120, acme()), NOTHING);
    assert_eq!(
        watch.next,
        Some(at(120 + 600)),
        "a sixth of the token's hour"
    );
    assert_eq!(watch.step(719, acme()), NOTHING);
    assert_eq!(
        watch.step(720, acme()),
        ["opened critical acme -> ops pager"]
    );
    let latest = &watch.incidents["portal/acme"].latest;
    assert!(
        latest.reason.ends_with("(it has come back once)"),
        "{}",
        latest.reason
    );
    assert_eq!(watch.step(800, []), ["resolved critical acme -> ops pager"]);
}

#[test]
fn what_comes_back_worse_is_told_at_once() {
    let mut watch = IncidentRun::default();
    watch.step(0, [finding("acme", up_to("overdue"), "server/oauth")]);
    watch.step(60, []);
    assert_eq!(
        watch.step(120, [finding("acme", up_to("overdue"), "server/oauth")]),
        NOTHING
    );
    let sent = watch.step(
        121,
        [finding("acme", dead(), "app/crm/needs-authorization")],
    );
    assert_eq!(sent, ["opened critical acme -> ops pager"]);
}

/// Found by a simulated month: the first failure of the second outage had the final severity of the first outage.
#[test]
fn what_comes_back_is_as_loud_as_it_is_and_not_as_it_was() {
    let mut watch = IncidentRun::default();
    let acme = |last| [finding("acme", up_to(last), "server/oauth")];
    watch.step(0, acme("expired"));
    assert_eq!(watch.step(60, []), ["resolved critical acme -> ops pager"]);
    assert_eq!(watch.step(120, acme("failed")), NOTHING);
    assert_eq!(
        watch.step(1200, acme("failed")),
        NOTHING,
        "a notice is for the log"
    );
    assert_eq!(
        watch.step(1260, acme("overdue")),
        ["opened warning acme -> ops pager"]
    );
    assert_eq!(watch.step(1320, []), ["resolved warning acme -> ops pager"]);
    assert_eq!(watch.step(1380, acme("failed")), NOTHING);
    assert_eq!(
        watch.step(1440, []),
        NOTHING,
        "the return was not notified yet"
    );
}

#[test]
fn what_comes_back_hours_later_is_another_problem() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    watch.step(0, acme());
    watch.step(60, []);
    assert_eq!(
        watch.step(60 + 2 * HOUR, acme()),
        ["opened critical acme -> ops pager"]
    );
    watch.step(3 * HOUR, []);
    watch.step(6 * HOUR, []);
    assert!(
        watch.incidents.is_empty(),
        "and is forgotten some time after its end"
    );
}

#[test]
fn what_is_silenced_is_told_afterwards_if_it_lasts_and_its_end_all_the_same() {
    let mut watch = IncidentRun::default();
    let acme = |last| [finding("acme", up_to(last), "server/oauth")];
    watch.step(0, acme("overdue"));
    watch.silenced.insert("acme".into());
    assert_eq!(watch.step(2 * HOUR, acme("late")), NOTHING);
    watch.silenced.clear();
    assert_eq!(
        watch.step(2 * HOUR + 1, acme("late")),
        ["raised error acme -> ops pager"]
    );
    watch.silenced.insert("acme".into());
    assert_eq!(
        watch.step(3 * HOUR, []),
        ["resolved error acme -> ops pager"]
    );
    let globex = || [finding("globex", dead(), "app/crm/needs-authorization")];
    watch.silenced.insert("globex".into());
    assert_eq!(watch.step(4 * HOUR, globex()), NOTHING);
    assert_eq!(watch.step(5 * HOUR, []), NOTHING, "it was not notified yet");
}

#[test]
fn what_somebody_has_taken_on_is_not_repeated_until_it_gets_worse() {
    let mut watch = IncidentRun::default();
    let acme = |last| [finding("acme", up_to(last), "server/oauth")];
    watch.step(0, acme("overdue"));
    let incident = watch.incidents.get_mut("portal/acme").unwrap();
    let notification = incident.acknowledge(at(60)).unwrap();
    assert_eq!(
        (notification.message.event, notification.to.len()),
        (Event::Acknowledged, 2)
    );
    assert_eq!(watch.step(9 * HOUR, acme("overdue")), NOTHING);
    assert_eq!(
        watch.step(9 * HOUR + 1, acme("late")),
        ["raised error acme -> ops pager"]
    );
    assert_eq!(
        watch.step(10 * HOUR + 1, acme("late")),
        ["repeated error acme -> ops pager"]
    );
}

#[test]
fn a_step_with_a_list_is_told_to_those_alone_and_the_end_to_all_who_were_told() {
    let mut watch = IncidentRun::default();
    let to = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let quiet = ReachedStep {
        notify: to(&[]),
        ..reached("overdue", Severity::Warning)
    };
    let loud = ReachedStep {
        notify: to(&["pager", "gone"]),
        ..reached("late", Severity::Error)
    };
    assert_eq!(
        watch.step(0, [finding("acme", vec![quiet.clone()], "server/oauth")]),
        NOTHING
    );
    let sent = watch.step(60, [finding("acme", vec![quiet, loud], "server/oauth")]);
    assert_eq!(sent, ["opened error acme -> pager"]);
    assert_eq!(watch.step(120, []), ["resolved error acme -> pager"]);
}

#[test]
fn a_broken_channel_is_told_to_the_others() {
    let mut watch = IncidentRun::default();
    let broken = Finding {
        key: "channel/ops".into(),
        subject: MessageSubject::Channel("ops".into()),
        group: None,
        portal: None,
        ..finding("acme", vec![reached("broken", Severity::Error)], "")
    };
    assert_eq!(
        watch.step(0, [broken]),
        ["opened error channel ops -> pager"]
    );
}

#[test]
fn a_clock_that_was_set_back_does_not_silence_what_lasts() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    watch.step(1_000_000, acme());
    watch.step(0, acme());
    assert_eq!(
        watch.step(HOUR, acme()),
        ["repeated critical acme -> ops pager"]
    );
}

/// Found by a simulated month: an end recorded last night seemed to be recent, and a dead grant was held back as
/// flapping.
#[test]
fn an_end_that_lies_ahead_is_no_recent_one() {
    let mut watch = IncidentRun::default();
    let acme = || [finding("acme", dead(), "app/crm/needs-authorization")];
    watch.step(1_000_000, acme());
    watch.step(1_000_060, []);
    assert_eq!(watch.step(0, acme()), ["opened critical acme -> ops pager"]);
}

#[test]
fn each_message_of_an_incident_has_a_number_and_its_severities() {
    let mut watch = IncidentRun::default();
    watch.step(0, [finding("acme", up_to("overdue"), "server/oauth")]);
    watch.step(60, [finding("acme", up_to("late"), "server/oauth")]);
    watch.step(120, []);
    let latest = &watch.incidents["portal/acme"].latest;
    assert_eq!((latest.number, latest.since), (3, at(0)));
    assert_eq!(
        latest.levels,
        [(Severity::Warning, at(0)), (Severity::Error, at(60))]
    );
}

#[test]
fn a_refusal_that_turns_out_to_be_the_clients_ends_the_portals_own_incident() {
    let mut watch = IncidentRun::default();
    let own = || finding("acme", dead(), "app/crm/client-rejected");
    assert_eq!(
        watch.step(0, [own()]),
        ["opened critical acme -> ops pager"]
    );
    let sent = watch.step(60, [finding("acme", dead(), "app/crm")]);
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(
        sent.iter()
            .any(|sent| sent.starts_with("resolved critical acme")),
        "{sent:?}"
    );
    assert!(
        sent.iter().any(|sent| sent.starts_with("opened critical")),
        "{sent:?}"
    );
}
