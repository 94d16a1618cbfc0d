//! Findings about one portal: the escalation steps that it has reached, and the cause that it shares with other portals.
//! Must not decide who is notified.

use std::collections::BTreeMap;

use crate::domain::dispute::Dispute;
use crate::domain::escalation::{
    Step, Trigger, lasting_action, reached_at, reason, refresh_end_of, severity_of, still_notified,
};
use crate::domain::hint::HintContext;
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Phase, Portal};
use crate::domain::refresh_warning;
use crate::domain::refresh_warning::STEPS;
use crate::domain::settings::OWN_APP;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::finding::{DEFAULT_LIFETIME, Finding, GroupKey, ReachedStep};
use refreshd_alerting::message::MessageSubject;
use refreshd_time::Timestamp;
use refreshd_token_client::provider::{Class, host_of};
use refreshd_token_client::token::Access;

/// Step for findings outside the escalation that need a person: a pair that is not on disk, a state that cannot be written.
const PERSON_STEP: &str = "person";
/// Suffix of the incident key of disputed installs.
const INSTALL: &str = "install";
/// Suffix of the incident key of refresh tokens that end by themselves.
const REFRESH_END: &str = "refresh-end";

/// Inputs besides the portal itself.
#[derive(Clone, Copy, Debug)]
pub struct FindingContext<'a> {
    /// The escalation steps in force.
    pub ladder: &'a [Step],
    /// The apps with a refused client, and since when.
    pub refused: &'a BTreeMap<String, Timestamp>,
    /// Current time.
    pub now: Timestamp,
}

/// The finding about a portal that has notified steps; `None` if there is none.
#[must_use]
pub fn of_portal(portal: &Portal, context: FindingContext<'_>) -> Option<Finding> {
    let FindingContext {
        ladder,
        refused,
        now,
    } = context;
    let name = &portal.name;
    if let Some(column) = portal.unreadable {
        let reason = format!(
            "what the state has of it cannot be understood ({column}); it is left alone, the others go on"
        );
        let action = |name: &str| {
            format!(
                "put a good state back, or authorize it anew: refreshd authorize {name}, or give it up: refreshd forget {name}"
            )
        };
        return Some(Finding {
            key: format!("portal/{name}/unreadable"),
            reached: vec![person_step(ladder, "unreadable")],
            group: Some(daemon_group("unreadable")),
            action: action(name.as_str()),
            action_for_all: action("PORTAL"),
            reason,
            ..blank(Some(name), now)
        });
    }
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref();
    let kind = portal.kind();
    let notified = |step: &&Step| grant.notified.contains(&step.key);
    if !ladder.iter().any(|step| notified(&step)) {
        return None;
    }
    // For an imported grant that was not renewed yet, the notified steps of the previous grant are neither new nor resolved.
    let is_so = |step: &&Step| reached_at(step.when, grant, now).is_some_and(|at| at <= now);
    let person = ladder.iter().any(|step| step.when == Trigger::NeedsPerson)
        && grant.status.phase.escalates_to_person();
    let reached: Vec<_> = ladder
        .iter()
        .filter(|step| notified(step) && is_so(step))
        // The remaining lifetime is part of the notice that a person is needed.
        .filter(|step| !person || step.when == Trigger::NeedsPerson)
        .map(|step| ReachedStep {
            id: if step.when == Trigger::NeedsPerson {
                format!("{}@{}", step.key, cause(grant))
            } else {
                step.key.clone()
            },
            severity: severity_of(step, grant, now),
            notify: step.notify.clone(),
        })
        .collect();
    let app = &settings.app;
    let any = any_portal();
    Some(Finding {
        key: format!("portal/{name}"),
        subject: MessageSubject::Portal(name.to_string()),
        group: group(grant, kind, app, refused),
        reached,
        reason: if kind == Kind::ClientChanged {
            "its client or server changed in the configuration, and its grant is kept from the new one"
                .to_owned()
        } else {
            match portal
                .waits()
                .filter(|_| !grant.status.phase.needs_person())
            {
                Some(waits) => format!("{}; it {waits}", reason(grant, now)),
                None => reason(grant, now),
            }
        },
        action: if kind == Kind::ClientChanged {
            changed(name.as_str())
        } else {
            lasting_action(HintContext::of(name, Some(settings)).at(grant), grant, now)
        },
        action_for_all: if kind == Kind::ClientChanged {
            changed("PORTAL")
        } else {
            lasting_action(
                HintContext {
                    portal: &any,
                    domain: None,
                    ..HintContext::of(name, Some(settings))
                },
                grant,
                now,
            )
        },
        since: grant
            .status
            .phase
            .since()
            .or(grant.status.renew_at)
            .unwrap_or(now)
            .min(now),
        expires_at: access.map(|access| access.expires_at),
        lifetime: access
            .map(Access::lifetime)
            .filter(|life| !life.is_zero())
            .unwrap_or(DEFAULT_LIFETIME),
        portal: Some(name.to_string()),
        is_of_group: is_client_refusal(grant, app, refused),
    })
}

/// Returns whether a refusal is attributed to the app's client: it is refused for all, or no other portal has succeeded since.
fn is_client_refusal(grant: &Grant, app: &str, refused: &BTreeMap<String, Timestamp>) -> bool {
    let problem = grant.status.phase.problem();
    problem.is_some_and(|problem| {
        problem.class == Class::ClientRejected
            && (refused.contains_key(app) || problem.works_for.is_none())
    })
}

/// The finding about a refresh token that ends by itself, if notified; `None` if there is none.
#[must_use]
pub fn of_refresh_end(portal: &Portal, context: FindingContext<'_>) -> Option<Finding> {
    let FindingContext {
        ladder,
        refused: _,
        now,
    } = context;
    let name = &portal.name;
    let settings = portal.settings.as_ref()?;
    let grant = portal
        .grant
        .as_ref()
        .filter(|grant| portal.binding == Some(grant.bound_to))?;
    let end = refresh_end_of(grant)?;
    let still = still_notified(grant, now);
    let first = STEPS
        .iter()
        .find(|step| still.iter().any(|notified| notified == step.key))?;
    // Problems for the operator go to the channels of that step.
    let notify = ladder
        .iter()
        .find(|step| step.when == Trigger::NeedsPerson)
        .and_then(|step| step.notify.clone());
    let reached = STEPS
        .iter()
        .filter(|step| still.iter().any(|notified| notified == step.key))
        .map(|step| ReachedStep {
            id: step.key.to_owned(),
            severity: step.severity,
            notify: notify.clone(),
        });
    let app = &settings.app;
    let group = GroupKey {
        key: format!("app/{app}/{REFRESH_END}"),
        subject: MessageSubject::App(app.clone()),
        always: false,
    };
    Some(Finding {
        key: format!("portal/{name}/{REFRESH_END}"),
        group: (!app.starts_with(OWN_APP)).then_some(group),
        reached: reached.collect(),
        reason: refresh_warning::reason(end, now),
        action: refresh_warning::action(end, name.as_str()),
        action_for_all: refresh_warning::action(end, "PORTAL"),
        since: refresh_warning::reached_at(end, first)
            .unwrap_or(now)
            .min(now),
        expires_at: grant.tokens.access.as_ref().map(|access| access.expires_at),
        lifetime: DEFAULT_LIFETIME,
        ..blank(Some(name), now)
    })
}

/// The finding about a disputed install; `None` once an operator has accepted it.
#[must_use]
pub fn of_dispute(dispute: &Dispute, ladder: &[Step], now: Timestamp) -> Option<Finding> {
    let Dispute {
        portal,
        app,
        user,
        since,
        is_accepted,
        ..
    } = dispute;
    let group = GroupKey {
        key: format!("app/{app}/{INSTALL}"),
        subject: MessageSubject::App(app.clone()),
        always: false,
    };
    (!is_accepted).then(|| Finding {
        key: format!("portal/{portal}/{INSTALL}"),
        group: Some(group),
        // Another user is a new finding.
        reached: vec![person_step(ladder, &format!("{INSTALL}-{user}"))],
        reason: dispute.reason(),
        action: dispute.action(portal.as_str()),
        action_for_all: "refreshd install list, then for each: refreshd install accept PORTAL, or refreshd install refuse PORTAL"
            .to_owned(),
        since: (*since).min(now),
        ..blank(Some(portal), now)
    })
}

/// Returns whether the key is of an incident about a disputed install.
#[must_use]
pub fn is_dispute(key: &str) -> bool {
    key.rsplit('/').next() == Some(INSTALL)
}

/// Returns whether the key is of an incident about refresh tokens that end by themselves.
#[must_use]
pub fn is_refresh_end(key: &str) -> bool {
    key.rsplit('/').next() == Some(REFRESH_END)
}

/// A step outside the configured escalation, notified like one that needs a person.
#[must_use]
pub fn person_step(ladder: &[Step], cause: &str) -> ReachedStep {
    let step = ladder.iter().find(|step| step.when == Trigger::NeedsPerson);
    ReachedStep {
        id: format!("{PERSON_STEP}@{cause}"),
        severity: step.map_or(Severity::Critical, |step| step.severity),
        notify: step.and_then(|step| step.notify.clone()),
    }
}

/// Group of findings that are caused by this machine.
#[must_use]
pub fn daemon_group(cause: &str) -> GroupKey {
    GroupKey {
        key: format!("daemon/{cause}"),
        subject: MessageSubject::Daemon,
        always: false,
    }
}

/// An empty finding about a portal or the daemon itself.
#[must_use]
pub fn blank(portal: Option<&PortalName>, now: Timestamp) -> Finding {
    Finding::blank(portal.map(PortalName::as_str), now)
}

/// The class of the failure; for a grant in doubt, the class of its replay's failure.
fn cause(grant: &Grant) -> &'static str {
    match &grant.status.phase {
        Phase::InDoubt { problem, .. } => problem.class.as_str(),
        phase => phase.kind().as_str(),
    }
}

/// The shared cause. A missing right or a refusal for one portal is that portal's alone.
fn group(
    grant: &Grant,
    kind: Kind,
    app: &str,
    refused: &BTreeMap<String, Timestamp>,
) -> Option<GroupKey> {
    let of_app = |cause: Option<&str>| {
        let key = cause.map_or_else(
            || format!("app/{app}"),
            |cause| format!("app/{app}/{cause}"),
        );
        let subject = MessageSubject::App(app.to_owned());
        (!app.starts_with(OWN_APP)).then_some(GroupKey {
            key,
            subject,
            always: cause.is_none(),
        })
    };
    let phase = &grant.status.phase;
    let class = phase.problem().map(|problem| problem.class);
    // While one portal probes a refused client, the others wait, and are overdue for that reason only.
    let waits = refused.contains_key(app) && !phase.needs_person();
    match class {
        _ if kind == Kind::ClientChanged => of_app(Some(kind.as_str())),
        _ if is_client_refusal(grant, app, refused) => of_app(None),
        // The client works for other portals: the refusal concerns this portal.
        Some(Class::ClientRejected) => of_app(Some(Class::ClientRejected.as_str())),
        _ if waits => of_app(None),
        _ if phase.needs_person() || class == Some(Class::Blocked) => of_app(Some(cause(grant))),
        None => Some(daemon_group("overdue")),
        Some(_) => {
            let host = host_of(&grant.token_url).unwrap_or("the authorization server");
            Some(GroupKey {
                key: format!("server/{host}"),
                subject: MessageSubject::Server(host.to_owned()),
                always: false,
            })
        }
    }
}

fn changed(name: &str) -> String {
    format!("change it back, or authorize the new client: refreshd authorize {name}")
}

/// Placeholder for each portal of a group in the operator's task.
fn any_portal() -> PortalName {
    PortalName::parse("PORTAL").unwrap_or_else(|_| unreachable!("it is a name"))
}

#[cfg(test)]
#[path = "finding_tests.rs"]
mod tests;
