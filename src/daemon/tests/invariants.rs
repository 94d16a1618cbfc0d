//! Invariants of a simulation: checks of the server's accounting, the state and the token files against the guarantees of
//! the design. Must not change anything.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::adapters::state::{PortalCursor, ReadConnection};
use crate::daemon::tests::world::World;
use crate::domain::portal::{Kind, Phase, Portal};
use refreshd_fake_server::{Reuse, TokenState};
use refreshd_time::Timestamp;

/// Time for which server, portal and file may differ: a request, its record and its publication.
const ON_THE_WAY: Duration = Duration::from_secs(10);

/// Status of one portal in the simulation.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Time until which its failures are not the daemon's fault.
    pub excused_until: Timestamp,
    /// The server made a false statement about its grant, or it was uninstalled: it may be dead until a new grant is
    /// imported.
    pub condemned: bool,
    /// The daemon was killed, or could not write, between a reply and its record.
    pub cut_off: bool,
    /// The configuration does not name it.
    pub left_out: bool,
    /// Time at which its file was first seen with a token that the server had already replaced.
    outdated_since: Option<Timestamp>,
}

impl Record {
    /// Returns whether its file must be checked again soon.
    pub const fn is_suspect(&self) -> bool {
        self.outdated_since.is_some()
    }
}

/// Content of `token.json`.
struct File {
    token: String,
    generation: u64,
}

/// All portals of the state.
pub fn portals(world: &World) -> Result<BTreeMap<String, Portal>, String> {
    let view = ReadConnection::open(&world.place.path().join("state.db"))
        .map_err(|error| format!("{error:?}"))?;
    let (mut listing, mut portals) = (PortalCursor::default(), BTreeMap::new());
    while let Some(page) = view.next_page(&mut listing) {
        let page = page.map_err(|error| format!("{error:?}"))?;
        portals.extend(
            page.into_iter()
                .map(|portal| (portal.name.to_string(), portal)),
        );
    }
    Ok(portals)
}

/// Checks that the server saw no forbidden request: two daemons, or lost state, would cause one.
pub fn nothing_forbidden_was_sent(world: &World, clock_moved_at: Timestamp) -> Result<(), String> {
    // After a step of the clock a token may look old: then one additional renewal is allowed.
    let moved = world.truth.now().since(clock_moved_at) < Duration::from_secs(12 * 60);
    let bad = |violation: &&String| !(moved && violation.contains("renewed twice"));
    match world.sandbox.take_violations().iter().find(bad) {
        Some(violation) => Err(format!(
            "the server saw what a correct client never sends: {violation}"
        )),
        None => Ok(()),
    }
}

/// Checks that a dead grant has a cause other than the daemon.
pub fn dead_for_a_reason(
    world: &World,
    name: &str,
    portal: &Portal,
    record: &Record,
    reuse: Reuse,
) -> Result<bool, String> {
    let Some(grant) = &portal.grant else {
        return Ok(true);
    };
    if !matches!(
        portal.kind(),
        Kind::NeedsAuthorization | Kind::Gone | Kind::OldState
    ) {
        return Ok(false);
    }
    let fate = world.sandbox.fate(
        grant
            .tokens
            .credential
            .refresh()
            .map_or("", |token| token.expose()),
    );
    let grace = matches!(reuse, Reuse::Grace(_));
    let excused = match fate {
        TokenState::SpentUndelivered => !grace || record.condemned,
        TokenState::Spent => (!grace && record.cut_off) || record.condemned,
        TokenState::Revoked | TokenState::Good | TokenState::Unknown => record.condemned,
    };
    if excused {
        return Ok(true);
    }
    let phase: &Phase = &grant.status.phase;
    Err(format!(
        "{name}: a grant was lost ({fate:?}, generation {}, {phase:?})",
        grant.generation.0
    ))
}

/// Returns whether a restored portal's generations do not reveal that it is old: it was forgotten and imported again since.
pub fn is_another_grant(before: Option<&Portal>, after: Option<&Portal>) -> bool {
    let generation =
        |portal: Option<&Portal>| portal.and_then(|portal| Some(portal.grant.as_ref()?.generation));
    generation(after) >= generation(before)
}

/// Returns whether the stored refresh token is valid, so that the grant is not condemned any more.
pub fn is_alive(world: &World, portal: &Portal) -> bool {
    let refresh = portal.grant.as_ref().map(|grant| {
        grant
            .tokens
            .credential
            .refresh()
            .map_or("", |token| token.expose())
    });
    refresh.is_some_and(|refresh| world.sandbox.fate(refresh) == TokenState::Good)
}

/// Checks that nothing was published before it was durable. Most effective when the daemon has just been killed.
pub fn nothing_is_ahead(
    world: &World,
    name: &str,
    portal: &Portal,
    record: &Record,
) -> Result<(), String> {
    match read(world, name)? {
        Some(file) => published_is_durable(name, portal, &file, record),
        None => Ok(()),
    }
}

fn published_is_durable(
    name: &str,
    portal: &Portal,
    file: &File,
    record: &Record,
) -> Result<(), String> {
    // An old state may have been restored just now, and the daemon has not compared it yet.
    let Some(grant) = portal.grant.as_ref().filter(|_| !record.condemned) else {
        return Ok(());
    };
    let stored = grant.generation.0;
    if file.generation > stored {
        return Err(format!(
            "{name}: generation {} is published and {stored} is durable",
            file.generation
        ));
    }
    Ok(())
}

/// Checks what a reader of the token file gets now.
pub fn reader(
    world: &World,
    name: &str,
    portal: &Portal,
    record: &mut Record,
) -> Result<(), String> {
    let now = world.truth.now();
    let Some(file) = read(world, name)? else {
        record.outdated_since = None;
        let owed = portal.kind() == Kind::Fresh && now > record.excused_until && !record.left_out;
        return if owed {
            Err(format!("{name}: it is fresh and has no token file"))
        } else {
            Ok(())
        };
    };
    published_is_durable(name, portal, &file, record)?;
    let Some(known) = world.sandbox.knows_access(&file.token) else {
        return Err(format!(
            "{name}: the file holds a token that the server never issued"
        ));
    };
    let dead = !matches!(
        portal.kind(),
        Kind::Fresh | Kind::Retrying | Kind::InDoubt | Kind::ClientRejected | Kind::Blocked
    );
    if now <= record.excused_until || dead {
        record.outdated_since = None;
    } else if known.expires_at <= now {
        let ago = humantime::format_duration(now.since(known.expires_at));
        return Err(format!(
            "{name}: a reader met a token that had expired {ago} ago"
        ));
    } else if known.revoked {
        let since = *record.outdated_since.get_or_insert(now);
        if now.since(since) > ON_THE_WAY {
            return Err(format!(
                "{name}: the file holds a token that died at the server at {since} or before"
            ));
        }
    } else {
        record.outdated_since = None;
    }
    Ok(())
}

/// Checks, after a time without faults, that the portal is fresh and its newest refresh token is stored.
pub fn all_is_well(world: &World, name: &str, portal: &Portal) -> Result<(), String> {
    let grant = portal
        .grant
        .as_ref()
        .ok_or_else(|| format!("{name}: it has no grant at the end"))?;
    if portal.kind() != Kind::Fresh {
        return Err(format!("{name}: at the end it is {:?}", grant.status.phase));
    }
    let fate = world.sandbox.fate(
        grant
            .tokens
            .credential
            .refresh()
            .map_or("", |token| token.expose()),
    );
    if fate != TokenState::Good {
        return Err(format!(
            "{name}: the refresh token in the state is {fate:?} at the server"
        ));
    }
    let file =
        read(world, name)?.ok_or_else(|| format!("{name}: it has no token file at the end"))?;
    let stored = grant
        .tokens
        .access
        .as_ref()
        .map(|access| access.token.expose().to_owned());
    if Some(&file.token) != stored.as_ref() || file.generation != grant.generation.0 {
        return Err(format!("{name}: the file and the state differ at the end"));
    }
    Ok(())
}

/// Reads a token file, which must be complete or absent.
fn read(world: &World, name: &str) -> Result<Option<File>, String> {
    let path = world
        .place
        .path()
        .join("tokens")
        .join(name)
        .join("token.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(None);
    };
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("{name}: token.json is torn: {error}"))?;
    let token = json["access_token"].as_str().unwrap_or_default().to_owned();
    Ok(Some(File {
        token,
        generation: json["generation"].as_u64().unwrap_or_default(),
    }))
}
