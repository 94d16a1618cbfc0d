//! What a start looks for before anything is sent: grants that are older than their traces, and rows that cannot be
//! understood. Both are held, and said.
//!
//! Must not send, and must not keep the daemon from starting: the other portals go on.

use std::path::Path;

use super::announce::{Subject, announce};
use super::publisher::chain;
use crate::adapters::generations::{Generations, Noted};
use crate::adapters::published::published;
use crate::adapters::state::{State, StateError};
use crate::adapters::token_files::TokenFiles;
use crate::domain::escalation::{Announcement, Severity};
use crate::domain::name::PortalName;
use crate::domain::old_state::{Trace, hold};
use crate::domain::portal::Portal;
use crate::domain::time::Timestamp;

/// Portals read at a time.
const PAGE: usize = 500;
/// Portals named in one message.
const NAMED: usize = 5;

/// Holds what must not be sent, and returns the record of generations, in line with the state.
///
/// # Errors
/// [`StateError`].
pub async fn look(
    state: &State,
    files: &TokenFiles,
    path: &Path,
    now: Timestamp,
) -> Result<Generations, StateError> {
    for row in state.hold_unnamed().await? {
        tracing::error!(row, "a row of the state has no portal's name; it is left alone");
    }
    let mut generations = Generations::beside(path);
    let before = generations.read();
    let Held { noted, old, unreadable } = hold_all(state, files, &before, now).await?;
    unreadable.iter().for_each(say_unreadable);
    if !old.is_empty() {
        say_old(path, &old);
    }
    if noted != before
        && let Err(error) = generations.replace(&noted)
    {
        tracing::warn!(error = %chain(&error), "an old state will not be noticed: its generations are not noted");
    }
    Ok(generations)
}

/// Holds the same in a copy of the state, for whoever only looks: nothing is told or written.
///
/// # Errors
/// [`StateError`].
pub async fn hold_in_copy(
    state: &State,
    files: &TokenFiles,
    path: &Path,
    now: Timestamp,
) -> Result<(), StateError> {
    state.hold_unnamed().await?;
    hold_all(state, files, &Generations::beside(path).read(), now).await.map(|_| ())
}

/// What is held.
struct Held {
    /// The newest generation of each portal.
    noted: Noted,
    /// Older than their traces.
    old: Vec<PortalName>,
    unreadable: Vec<Portal>,
}

async fn hold_all(
    state: &State,
    files: &TokenFiles,
    before: &Noted,
    now: Timestamp,
) -> Result<Held, StateError> {
    let mut all = Held { noted: Noted::new(), old: Vec::new(), unreadable: Vec::new() };
    let Held { noted, old, unreadable: not_understood } = &mut all;
    let mut after = None;
    loop {
        let page = state.page(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for portal in page {
            if portal.unreadable.is_some() {
                state.hold_unreadable(portal.name.clone()).await?;
                not_understood.push(portal.clone());
            }
            let Portal { name, grant, unreadable, .. } = portal;
            let known = before.get(&name).copied();
            let Some(grant) = grant else {
                // A row that is not understood must not lose the trace of what it was.
                noted.extend(unreadable.and(known).map(|known| (name, known)));
                continue;
            };
            let trace = Trace { noted: known, published: published(files, &name) };
            let mut generation = grant.generation;
            if let Some(held) = hold(&grant, trace, now) {
                generation = held.generation;
                state.hold_old(name.clone(), grant.generation, held).await?;
                old.push(name.clone());
            }
            noted.insert(name, generation);
        }
    }
    Ok(all)
}

/// Once for all; what each portal needs is said by the ladder.
fn say_old(state: &Path, old: &[PortalName]) {
    let mut names: Vec<_> = old.iter().take(NAMED).map(PortalName::as_str).collect();
    if old.len() > NAMED {
        names.push("…");
    }
    let state = state.display();
    let announcement = Announcement {
        step: "old-state".to_owned(),
        severity: Severity::Critical,
        reason: format!(
            "the state {state} is older than what it published, as after a restored backup; nothing is sent for {} of \
             its portals, whose refresh tokens are probably spent: {}",
            old.len(),
            names.join(", ")
        ),
        action: "if there is a newer state, stop refreshd and put that back; if not, refreshd status says what each portal needs"
            .to_owned(),
        remaining: None,
    };
    announce(Subject::Daemon, &announcement);
}

/// Says which portal it is, and what to do.
pub fn say_unreadable(portal: &Portal) {
    let announcement = Announcement {
        step: "unreadable".to_owned(),
        severity: Severity::Critical,
        reason: format!(
            "what the state has of it cannot be understood ({}); it is left alone, the others go on",
            portal.unreadable.unwrap_or("row")
        ),
        action: super::view::action_for(portal),
        remaining: None,
    };
    announce(Subject::Portal(&portal.name), &announcement);
}
