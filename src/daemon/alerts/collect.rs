//! One look at all that is wrong: troubled portals from the state, this machine's conditions, channels that do not
//! deliver. Must not change anything.

use std::collections::BTreeMap;

use crate::adapters::state::StateError;
use crate::config::Config;
use crate::daemon::alerts::conditions::ReadBy;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use crate::domain::finding::{
    FindingContext, blank, is_newcomer, is_refresh_end, of_newcomer, of_portal, of_refresh_end,
};
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;
use refreshd_alerting::Collected;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::reconcile::Incidents;
use refreshd_alerting::incidents::{AlertRules, Finding, ReachedStep, Reconciler};
use refreshd_alerting::message::MessageSubject;
use refreshd_time::Timestamp;

/// Stands for everything in the list of silences.
pub const EVERYTHING: &str = "*";

/// Looks.
pub async fn collect(
    shared: &Context,
    config: &Config,
    incidents: &Incidents,
    rules: &AlertRules,
) -> Collected {
    let now = rules.now;
    let mut survey = Reconciler::new(incidents, rules.group_threshold, now);
    let (silences, mut failure) = match shared.state.silences().await {
        Ok(silences) => (silences, None),
        Err(error) => (BTreeMap::new(), Some(error)),
    };
    let silences: BTreeMap<_, _> = silences
        .into_iter()
        .filter(|(_, until)| *until > now)
        .collect();
    let silent = |trouble: &Finding| {
        let of_portal = trouble
            .portal
            .as_ref()
            .is_some_and(|portal| silences.contains_key(portal));
        of_portal || silences.contains_key(EVERYTHING)
    };
    if failure.is_none() {
        failure = portals(shared, config, now, &mut survey, &silent)
            .await
            .err();
    }
    match shared.state.open_disputes().await {
        Ok(newcomers) => {
            for trouble in newcomers
                .iter()
                .filter_map(|newcomer| of_newcomer(newcomer, &config.ladder, now))
            {
                let silent = silent(&trouble);
                survey.add(trouble, silent);
            }
        }
        Err(error) => failure = failure.or(Some(error)),
    }
    for trouble in shared.conditions.findings(&config.ladder, now) {
        let silent = silent(&trouble);
        survey.add(trouble, silent);
    }
    for trouble in channels(shared, config, now) {
        survey.add(trouble, silences.contains_key(EVERYTHING));
    }
    let mut endings = BTreeMap::new();
    if failure.is_none() {
        for key in survey.unseen() {
            match ending(shared, config, &key, incidents, &survey).await {
                Ok(reason) => endings.extend(reason.map(|reason| (key, reason))),
                Err(error) => failure = Some(error),
            }
        }
    }
    let decision = survey.decide(rules, &endings);
    shared
        .conditions
        .reads(ReadBy::Alerter, failure.as_ref().map_or(Ok(()), Err));
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
    survey: &mut Reconciler<'_>,
    silent: &(dyn Fn(&Finding) -> bool + Sync),
) -> Result<(), StateError> {
    let refused = shared.state.refused_apps().await?;
    let circumstances = FindingContext {
        ladder: &config.ladder,
        refused: &refused,
        now,
    };
    let mut pages = shared.state.troubled();
    while let Some(page) = pages.next().await? {
        let of_both = |portal| {
            [
                of_portal(portal, circumstances),
                of_refresh_end(portal, circumstances),
            ]
        };
        for trouble in page.portals.iter().flat_map(of_both).flatten() {
            let silent = silent(&trouble);
            survey.add(trouble, silent);
        }
    }
    Ok(())
}

/// Channels that deliver nothing.
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

/// Why an incident is over; `None` if it is not, though nothing of it is told at present.
async fn ending(
    shared: &Context,
    config: &Config,
    key: &str,
    incidents: &Incidents,
    survey: &Reconciler<'_>,
) -> Result<Option<String>, StateError> {
    if let Some(reason) = shared.conditions.ending(key) {
        return Ok(Some(reason.to_owned()));
    }
    let Some(incident) = incidents.get(key) else {
        return Ok(None);
    };
    if let Some(other) = survey.moved_to(key) {
        return Ok(Some(format!(
            "the app's client is refused, not for this portal only: see the incident {other}"
        )));
    }
    let reason = match (&incident.latest.subject, key.matches('/').count()) {
        _ if is_refresh_end(key) && survey.left(key) == 0 => {
            "the refresh token does not end soon any more".to_owned()
        }
        _ if is_newcomer(key) && survey.left(key) == 0 => {
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
        _ => match survey.left(key) {
            0 if incident.latest.count > 0 => "the portals concerned are well again".to_owned(),
            0 => "it is over".to_owned(),
            left => format!("{left} of its portals are left, which are told of one by one"),
        },
    };
    Ok(Some(reason))
}

/// Why a portal's renewals are no incident any more.
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
        // What it has reached is about to be told anew.
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
