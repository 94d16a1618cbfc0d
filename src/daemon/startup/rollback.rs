//! Detects a state that was rolled back or lost, before anything is sent: grants that are older than their traces or
//! missing though there are traces, and rows that cannot be parsed. All are quarantined and reported. A start checks all
//! portals, a reload those without a grant, and each first token is checked before it is sent.
//!
//! Must not send, and must not keep the daemon from starting: the other portals are renewed.

use std::collections::BTreeSet;
use std::path::Path;

use crate::adapters::generations::{Generations, RecordedGenerations};
use crate::adapters::published_token::{PublishedTraces, published, published_portals, traces};
use crate::adapters::state::{RESCUED, State, StateError, beside};
use crate::adapters::token_files::TokenFiles;
use crate::config::{App, Config};
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::alerts::{Condition, Conditions};
use crate::daemon::context::Context;
use crate::daemon::grants::unreadable_state::report_unreadable;
use crate::daemon::startup::first_token::token_of;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::EscalationNotice;
use crate::domain::name::{PortalName, some};
use crate::domain::portal::{Kind, Lost, Phase, Portal};
use crate::domain::rollback::{LostPortals, Trace, newest, quarantined};
use refreshd_alerting::Severity;
use refreshd_time::Timestamp;
use refreshd_token_client::quirks::GrantType;
use refreshd_token_client::token::Generation;

/// Traces of grants outside the state.
pub struct Traces {
    /// The record of generations, updated from the state.
    pub generations: Generations,
    /// Whether there are traces of unconfigured portals, and no grant that proves the state right.
    pub has_orphans: bool,
}

/// Quarantines grants that must not be sent, and returns the traces.
///
/// # Errors
/// [`StateError`].
pub async fn quarantine_rolled_back(
    state: &State,
    files: &TokenFiles,
    config: &Config,
    conditions: &Conditions,
    now: Timestamp,
) -> Result<Traces, StateError> {
    for row in state.quarantine_unnamed().await? {
        tracing::error!(
            row,
            "a row of the state has no portal's name; it is left alone"
        );
    }
    let path = &config.paths.state;
    let rescued = beside(path, RESCUED);
    if rescued.exists() {
        tracing::warn!(
            "{} holds what an earlier refreshd had in memory when another file replaced its state; if this state is the \
             right one, delete it: it holds grants",
            rescued.display()
        );
    }
    let mut generations = Generations::beside(path);
    let evidence = Evidence::of(path)?;
    let Quarantined {
        noted,
        old,
        lost,
        unreadable,
        has_orphans,
    } = quarantine_all(state, files, config, &evidence, now).await?;
    unreadable.iter().for_each(report_unreadable);
    if !old.is_empty() {
        report_rolled_back(path, &old);
    }
    if !lost.is_empty() {
        let damage = evidence.damage.as_deref();
        conditions.begin(Condition::Lost, reason_lost(path, &lost, damage));
    } else if let Some(damage) = &evidence.damage {
        tracing::warn!(
            "{}.generations is damaged ({damage}): if the state was restored from an old backup, that is not noticed for \
             every portal. It is written anew from the state",
            path.display()
        );
    }
    if (noted != evidence.noted || evidence.damage.is_some() || generations.is_cut_off())
        && let Err(error) = generations.replace(&noted)
    {
        tracing::warn!(error = %error_chain(&error), "an old state will not be noticed: its generations are not noted");
    }
    generations.open_existing();
    Ok(Traces {
        generations,
        has_orphans,
    })
}

/// Does the same in a copy of the state, for read-only commands: nothing is logged or written.
///
/// # Errors
/// [`StateError`].
pub async fn quarantine_in_snapshot(
    state: &State,
    files: &TokenFiles,
    config: &Config,
    now: Timestamp,
) -> Result<(), StateError> {
    state.quarantine_unnamed().await?;
    let evidence = Evidence::of(&config.paths.state)?;
    quarantine_all(state, files, config, &evidence, now)
        .await
        .map(|_| ())
}

/// Content of the record of generations.
struct Evidence {
    noted: RecordedGenerations,
    /// Reason why the record is incomplete.
    damage: Option<String>,
}

impl Evidence {
    fn of(state: &Path) -> Result<Self, StateError> {
        let read = Generations::beside(state).evidence();
        let (noted, damage) = read.map_err(unreadable_traces(state))?;
        Ok(Self { noted, damage })
    }
}

/// The recorded generations.
///
/// # Errors
/// [`StateError::Descriptors`].
pub fn recorded(config: &Config) -> Result<RecordedGenerations, StateError> {
    Evidence::of(&config.paths.state).map(|evidence| evidence.noted)
}

fn unreadable_traces(of: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = of.to_owned();
    |source| StateError::Descriptors { path, source }
}

/// Quarantined portals.
struct Quarantined {
    /// The newest generation of each portal.
    noted: RecordedGenerations,
    /// Older than their traces.
    old: Vec<PortalName>,
    /// Without a grant though there may have been one.
    lost: LostPortals,
    unreadable: Vec<Portal>,
    /// See [`Traces`].
    has_orphans: bool,
}

async fn quarantine_all(
    state: &State,
    files: &TokenFiles,
    config: &Config,
    evidence: &Evidence,
    now: Timestamp,
) -> Result<Quarantined, StateError> {
    let mut all = Quarantined {
        // A portal that the state does not know had its grant in a state that was lost: its trace stays until the portal is
        // known again.
        noted: evidence.noted.clone(),
        old: Vec::new(),
        lost: LostPortals::default(),
        unreadable: Vec::new(),
        has_orphans: false,
    };
    let Quarantined {
        noted,
        old,
        lost,
        unreadable: unparsed,
        has_orphans,
    } = &mut all;
    // Portals with a first token and no trace, where an unreadable part of the record may have held their trace.
    let (mut unsure, mut has_grants, mut has_old) = (Vec::new(), false, false);
    let mut orphans: BTreeSet<_> = evidence.noted.keys().collect();
    let mut pages = state.portals();
    while let Some(page) = pages.next().await? {
        for portal in page.portals {
            if portal.unreadable.is_some() {
                state.quarantine_unreadable(portal.name.clone()).await?;
                unparsed.push(portal.clone());
            }
            let known = noted.remove(&portal.name);
            if portal.settings.is_some() || portal.grant.is_some() {
                orphans.remove(&portal.name);
            }
            if portal.unreadable.is_none() && portal.grant.is_none() {
                let found = traces(files, &portal.name)
                    .map_err(unreadable_traces(&config.paths.token_dir))?;
                let traces = (known, found);
                if let Some(newest) = quarantine_lost(state, config, &portal, traces, now).await? {
                    noted.insert(portal.name.clone(), newest);
                    lost.lost.push(portal.name);
                } else if portal.settings.is_some() && portal.lost == Some(Lost::Doubt) {
                    lost.doubted.push(portal.name);
                } else if portal.settings.is_none() {
                    noted.extend(known.map(|known| (portal.name, known)));
                } else if evidence.damage.is_some() && has_first_token(&portal) {
                    unsure.push(portal);
                }
                continue;
            }
            let Portal {
                name,
                grant,
                unreadable,
                ..
            } = portal;
            let Some(grant) = grant else {
                // A row that cannot be parsed must keep its trace.
                noted.extend(unreadable.and(known).map(|known| (name, known)));
                continue;
            };
            has_grants |= grant.tokens.credential.refresh().is_some();
            has_old |= matches!(grant.status.phase, Phase::OldState { .. });
            let trace = Trace {
                noted: known,
                published: published(files, &name)
                    .map_err(unreadable_traces(&config.paths.token_dir))?,
            };
            let mut generation = grant.generation;
            if let Some(held) = quarantined(&grant, trace, now) {
                generation = held.generation;
                state
                    .quarantine_rolled_back(name.clone(), grant.generation, held)
                    .await?;
                old.push(name.clone());
            }
            noted.insert(name, generation);
        }
    }
    // A state that has grants, none of which is older than its traces, is the right one: a portal without a grant in it is
    // new.
    has_old |= !old.is_empty();
    let is_whole = has_grants && !has_old && lost.is_empty();
    for portal in unsure.into_iter().filter(|_| !is_whole) {
        let damaged = PublishedTraces {
            published: None,
            has_token: true,
        };
        if let Some(newest) = quarantine_lost(state, config, &portal, (None, damaged), now).await? {
            noted.insert(portal.name.clone(), newest);
            lost.lost.push(portal.name);
        }
    }
    *has_orphans =
        !has_grants && (!orphans.is_empty() || has_files_of_unknown(state, files, config).await?);
    if has_old || *has_orphans || !lost.is_empty() {
        let mut doubted = quarantine_doubted(state, config).await?;
        lost.doubted.append(&mut doubted);
    }
    Ok(all)
}

/// Returns whether there are token files of portals that the state does not know.
async fn has_files_of_unknown(
    state: &State,
    files: &TokenFiles,
    config: &Config,
) -> Result<bool, StateError> {
    for portal in published_portals(files) {
        let portal = portal.map_err(unreadable_traces(&config.paths.token_dir))?;
        if state.portal(portal).await?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Quarantines the portals without a grant and without a trace whose first token would be sent: a state that lacks other grants may
/// lack theirs, which had another name then.
async fn quarantine_doubted(state: &State, config: &Config) -> Result<Vec<PortalName>, StateError> {
    let (mut pages, mut doubted) = (state.portals(), Vec::new());
    while let Some(page) = pages.next().await? {
        let sends = |portal: &Portal| {
            is_new(portal) && has_first_token(portal) && !is_of_client(portal, config)
        };
        for portal in page.portals.into_iter().filter(sends) {
            if state.quarantine_doubted(portal.name.clone()).await? {
                doubted.push(portal.name);
            }
        }
    }
    Ok(doubted)
}

const fn is_new(portal: &Portal) -> bool {
    portal.unreadable.is_none() && portal.grant.is_none() && portal.lost.is_none()
}

fn has_first_token(portal: &Portal) -> bool {
    let settings = portal.settings.as_ref();
    settings.is_some_and(|settings| settings.refresh_token_file.is_some())
}

/// Status of a portal without a grant, by its traces outside the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewPortal {
    /// The portal is new: its first token may be sent.
    New,
    /// The portal had a grant: it is quarantined.
    Quarantined,
    /// Its token files cannot be inspected now.
    Uninspectable,
}

/// Checks a portal before its first token is sent. `noted` is the record of generations.
///
/// # Errors
/// [`StateError`].
pub async fn check_new_portal(
    shared: &Context,
    config: &Config,
    portal: &Portal,
    noted: &RecordedGenerations,
) -> Result<NewPortal, StateError> {
    if portal.grant.is_some() {
        return Ok(NewPortal::New);
    }
    let Some(found) = shared.publisher.inspect(&portal.name).await else {
        return Ok(NewPortal::Uninspectable);
    };
    let traces = (noted.get(&portal.name).copied(), found);
    let now = shared.clock.now();
    let held = quarantine_lost(&shared.state, config, portal, traces, now).await?;
    let held = held.is_some()
        || has_first_token(portal)
            && !is_of_client(portal, config)
            && is_doubtful(shared).await?
            && shared.state.quarantine_doubted(portal.name.clone()).await?;
    Ok(if held {
        NewPortal::Quarantined
    } else {
        NewPortal::New
    })
}

/// Returns whether the state lacks grants or has old ones, and the operator has not decided about them.
async fn is_doubtful(shared: &Context) -> Result<bool, StateError> {
    let census = shared.state.census(shared.clock.now()).await?;
    Ok(census.of(Kind::OldState) > 0
        || shared.has_orphaned_traces && !shared.state.holds_grants().await?)
}

/// Checks all portals without a grant after a reload, before their token files are removed.
///
/// # Errors
/// [`StateError`].
pub async fn check_new_portals(shared: &Context, config: &Config) -> Result<(), StateError> {
    let noted = recorded(config)?;
    let (mut pages, mut any_quarantined) = (shared.state.portals(), false);
    while let Some(page) = pages.next().await? {
        for portal in page.portals.iter().filter(|portal| is_new(portal)) {
            any_quarantined |=
                check_new_portal(shared, config, portal, &noted).await? == NewPortal::Quarantined;
        }
    }
    if any_quarantined {
        // Some of them came before the first one that is lost.
        quarantine_doubted(&shared.state, config).await?;
    }
    if any_quarantined {
        report_lost(shared).await?;
    }
    Ok(())
}

/// Reports all portals that have lost their grant.
///
/// # Errors
/// [`StateError`].
pub async fn report_lost(shared: &Context) -> Result<(), StateError> {
    let lost = shared.state.lost_portals().await?;
    let reason = reason_lost(&shared.config().paths.state, &lost, None);
    shared.conditions.begin(Condition::Lost, reason);
    Ok(())
}

/// Quarantines a portal without a grant of which there are traces outside the state; returns the newest generation then.
/// Client credentials are exempt: a grant that they obtain cannot be spent.
async fn quarantine_lost(
    state: &State,
    config: &Config,
    portal: &Portal,
    (noted, found): (Option<Generation>, PublishedTraces),
    now: Timestamp,
) -> Result<Option<Generation>, StateError> {
    let Some(settings) = &portal.settings else {
        return Ok(None);
    };
    if is_of_client(portal, config) {
        return Ok(None);
    }
    let PublishedTraces {
        published,
        has_token,
    } = found;
    let trace = Trace { noted, published };
    let until = trace
        .published
        .as_ref()
        .map(|published| published.access.expires_at);
    // A token is evidence even if it has no generation number.
    let unnumbered = || has_token.then_some(Generation(1));
    let newest = newest(&trace)
        .max(portal.lost.and_then(Lost::generation))
        .or_else(unnumbered);
    let Some(newest) = newest else {
        return Ok(None);
    };
    let app = config.apps.get(&settings.app);
    let spent = app.and_then(|app| token_of(settings.refresh_token_file.as_deref()?, app, now));
    let held = matches!(portal.lost, Some(Lost::Grant(_)))
        || state
            .quarantine_lost(portal.name.clone(), newest, spent, until)
            .await?;
    Ok(held.then_some(newest))
}

/// Returns whether a portal's grant is obtained by its client's own credentials.
fn is_of_client(portal: &Portal, config: &Config) -> bool {
    let by_client = |app: &App| app.profile.start == GrantType::ClientCredentials;
    let settings = portal.settings.as_ref();
    settings
        .and_then(|settings| config.apps.get(&settings.app))
        .is_some_and(by_client)
}

/// Ends the condition once no lost grant is left: each portal was authorized, imported or forgotten.
pub async fn tend(shared: &Context) {
    if shared.conditions.is_active(Condition::Lost)
        && shared.state.count_lost().await.is_ok_and(|lost| lost == 0)
    {
        shared.conditions.end(
            Condition::Lost,
            "no portal is left whose grant the state has lost",
        );
    }
}

fn reason_lost(state: &Path, portals: &LostPortals, damage: Option<&str>) -> String {
    let LostPortals { lost, doubted } = portals;
    let of_doubted = || {
        format!(
            "the first token of {} of its portals is not sent, which may be earlier portals under other names: {}",
            doubted.len(),
            some(doubted).join(", ")
        )
    };
    if lost.is_empty() {
        return format!(
            "the state {} lacks grants that there were before, or is older than what it published, as when its volume is not \
             mounted or a backup was restored; {}",
            state.display(),
            of_doubted()
        );
    }
    let damage = damage.map_or_else(String::new, |damage| {
        format!(
            " (or may have been: {}.generations is damaged, {damage})",
            state.display()
        )
    });
    let reason = format!(
        "the state {} has no grant for {} of its portals, though there were grants of them before{damage}, as when its volume \
         is not mounted; nothing is sent for them, their files stay as they are: {}",
        state.display(),
        lost.len(),
        some(lost).join(", ")
    );
    if doubted.is_empty() {
        reason
    } else {
        format!("{reason}; {}", of_doubted())
    }
}

/// Logged once for all portals; the escalation steps report what each portal needs.
fn report_rolled_back(state: &Path, old: &[PortalName]) {
    let names = some(old);
    let state = state.display();
    let notice = EscalationNotice {
        step: "old-state".to_owned(),
        severity: Severity::Critical,
        reason: format!(
            "the state {state} is older than what it published, as after a restored backup; nothing is sent for {} of \
             its portals, whose refresh tokens are probably spent: {}",
            old.len(),
            names.join(", ")
        ),
        action: "if there is a newer state, stop refreshd and put that back; if not, refreshd status shows the action for each portal"
            .to_owned(),
        remaining: None,
    };
    log_escalation(EscalationSubject::Daemon, &notice);
}
