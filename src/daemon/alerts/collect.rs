//! Collects findings: portals in an abnormal phase, conditions of this machine, failing channels. Read-only.

use std::collections::BTreeMap;

use crate::adapters::state::StateError;
use crate::config::Config;
use crate::daemon::alerts::conditions::StateReader;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use crate::domain::finding::{
    FindingContext, blank, is_dispute, is_refresh_end, of_dispute, of_portal, of_refresh_end,
};
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;
use refreshd_alerting::Collected;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::reconcile::Incidents;
use refreshd_alerting::incidents::{AlertRules, Finding, ReachedStep, Reconciler};
use refreshd_alerting::message::MessageSubject;
use refreshd_time::Timestamp;

/// Key of everything in the list of silences.
pub const EVERYTHING: &str = "*";

/// Collects all findings and reconciles them with the open incidents.
pub async fn collect(
    shared: &Context,
    config: &Config,
    incidents: &Incidents,
    rules: &AlertRules,
) -> Collected {
    let now = rules.now;
    let mut reconciler = Reconciler::new(incidents, rules.group_threshold, now);
    let (silences, mut failure) = match shared.state.silences().await {
        Ok(silences) => (silences, None),
        Err(error) => (BTreeMap::new(), Some(error)),
    };
    let silences: BTreeMap<_, _> = silences
        .into_iter()
        .filter(|(_, until)| *until > now)
        .collect();
    let silent = |finding: &Finding| {
        let of_portal = finding
            .portal
            .as_ref()
            .is_some_and(|portal| silences.contains_key(portal));
        of_portal || silences.contains_key(EVERYTHING)
    };
    if failure.is_none() {
        failure = portals(shared, config, now, &mut reconciler, &silent)
            .await
            .err();
    }
    match shared.state.open_disputes().await {
        Ok(disputes) => {
            for finding in disputes
                .iter()
                .filter_map(|dispute| of_dispute(dispute, &config.ladder, now))
            {
                let silent = silent(&finding);
                reconciler.add(finding, silent);
            }
        }
        Err(error) => failure = failure.or(Some(error)),
    }
    for finding in shared.conditions.findings(&config.ladder, now) {
        let silent = silent(&finding);
        reconciler.add(finding, silent);
    }
    for finding in channels(shared, config, now) {
        reconciler.add(finding, silences.contains_key(EVERYTHING));
    }
    let mut endings = BTreeMap::new();
    if failure.is_none() {
        for key in reconciler.unseen() {
            match ending(shared, config, &key, incidents, &reconciler).await {
                Ok(reason) => endings.extend(reason.map(|reason| (key, reason))),
                Err(error) => failure = Some(error),
            }
        }
    }
    let decision = reconciler.decide(rules, &endings);
    shared
        .conditions
        .reads(StateReader::Alerter, failure.as_ref().map_or(Ok(()), Err));
    Collected {
        decision,
        silent_until: silences.into_values().min(),
        failure: failure.map(|error| error_chain(&error)),
    }
}

async fn portals(
    shared: &Context,
    config: &Config,
    now: Timestamp,
    reconciler: &mut Reconciler<'_>,
    silent: &(dyn Fn(&Finding) -> bool + Sync),
) -> Result<(), StateError> {
    let refused = shared.state.refused_apps().await?;
    let context = FindingContext {
        ladder: &config.ladder,
        refused: &refused,
        now,
    };
    let mut pages = shared.state.troubled();
    while let Some(page) = pages.next().await? {
        let of_both = |portal| [of_portal(portal, context), of_refresh_end(portal, context)];
        for finding in page.portals.iter().flat_map(of_both).flatten() {
            let silent = silent(&finding);
            reconciler.add(finding, silent);
        }
    }
    Ok(())
}

/// Findings of channels that do not deliver.
fn channels(shared: &Context, config: &Config, now: Timestamp) -> Vec<Finding> {
    let broken = |channel: &refreshd_alerting::channel::Channel| {
        let name = &channel.name;
        let failing = shared.outboxes.outbox(name).queue().broken(now)?.clone();
        Some(Finding {
            key: format!("channel/{name}"),
            subject: MessageSubject::Channel(name.clone()),
            reached: vec![ReachedStep {
                id: "broken".to_owned(),
                severity: Severity::Error,
                notify: None,
            }],
            reason: format!(
                "this alert channel ({}) does not deliver: {}",
                channel.kind.as_str(),
                failing.why
            ),
            action: format!(
                "look at its address and its receiver, then: refreshd alert test {name}"
            ),
            since: failing.since,
            ..blank(None, now)
        })
    };
    config.channels.iter().filter_map(broken).collect()
}

/// Reason why an incident is resolved; `None` if it is not, though no finding of it is notified at present.
async fn ending(
    shared: &Context,
    config: &Config,
    key: &str,
    incidents: &Incidents,
    reconciler: &Reconciler<'_>,
) -> Result<Option<String>, StateError> {
    if let Some(reason) = shared.conditions.ending(key) {
        return Ok(Some(reason.to_owned()));
    }
    let Some(incident) = incidents.get(key) else {
        return Ok(None);
    };
    if let Some(other) = reconciler.moved_to(key) {
        return Ok(Some(format!(
            "the app's client is refused, not for this portal only: see the incident {other}"
        )));
    }
    let reason = match (&incident.latest.subject, key.matches('/').count()) {
        _ if is_refresh_end(key) && reconciler.left(key) == 0 => {
            "the refresh token does not end soon any more".to_owned()
        }
        _ if is_dispute(key) && reconciler.left(key) == 0 => {
            "a person has decided about the install, or the grant is another by now".to_owned()
        }
        (MessageSubject::Portal(name), 1) => return of_renewals(shared, name).await,
        (MessageSubject::Channel(name), _) => {
            let known = config.channels.iter().any(|channel| channel.name == *name);
            if known {
                "this alert channel delivers again"
            } else {
                "the configuration does not name it any more"
            }
            .to_owned()
        }
        _ => match reconciler.left(key) {
            0 if incident.latest.count > 0 => "the portals concerned are well again".to_owned(),
            0 => "it is over".to_owned(),
            left => format!("{left} of its portals are left, each with an incident of its own"),
        },
    };
    Ok(Some(reason))
}

/// Reason why the renewals of a portal are no incident any more.
async fn of_renewals(shared: &Context, name: &str) -> Result<Option<String>, StateError> {
    let unnamed = || {
        Ok(Some(
            "the configuration does not name it any more".to_owned(),
        ))
    };
    let Ok(name) = PortalName::parse(name) else {
        return unnamed();
    };
    let Some(portal) = shared.state.portal(name).await? else {
        return unnamed();
    };
    let reason = match portal.kind() {
        Kind::Fresh => "the token is fresh again",
        Kind::AwaitingAuthorization => "its grant was forgotten",
        Kind::Unconfigured => return unnamed(),
        // A new finding of this phase is about to be notified.
        Kind::Retrying
        | Kind::InDoubt
        | Kind::ClientRejected
        | Kind::Blocked
        | Kind::NeedsAuthorization
        | Kind::Gone
        | Kind::OldState
        | Kind::ClientChanged
        | Kind::Unreadable => return Ok(None),
    };
    Ok(Some(reason.to_owned()))
}
