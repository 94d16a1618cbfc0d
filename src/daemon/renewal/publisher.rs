//! Publishes the token files according to the state, on a thread of its own.
//!
//! Level-triggered: a message names a portal, and the newest durable pair is read when the message is handled, so an older
//! pair never overwrites a newer one. A failed write is remembered, retried, and logged once. Files are accessed by other
//! threads ([`FileWriters`]), whose calls may hang. Must not decide about renewals: they go on while a directory cannot be
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::adapters::published_token::{PublishedTraces, traces};
use crate::adapters::state::{
    Disk, StateError, {PortalCursor, ReadConnection},
};
use crate::adapters::token_files::{FileError, Published, TokenFiles};
use crate::daemon::alerts::{Condition, Conditions, StateReader};
use crate::daemon::renewal::file_failures::{FileFailures, FileTask};
use crate::daemon::renewal::file_writers::FileWriters;
use crate::daemon::renewal::generation_notes::GenerationNotes;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Lost, Portal};
use crate::domain::rollback::keeps_token_files;
use crate::domain::settings::Settings;
use crate::domain::token_format::TokenFormat;
use refreshd_token_client::token::{Access, Details, Generation, Tokens};

/// Handle of the publisher. Cheap to clone; the thread ends when every handle is dropped.
#[derive(Clone)]
pub struct Publisher {
    commands: UnboundedSender<PublishCommand>,
}

/// A pair that was just recorded.
#[derive(Clone, Debug)]
pub struct KnownPair {
    /// Settings of the portal.
    pub settings: Settings,
    /// Generation of the pair.
    pub generation: Generation,
    /// The pair.
    pub tokens: Tokens,
}

/// The caller's knowledge of a portal, published if the state cannot be read back.
#[derive(Clone, Debug)]
pub enum KnownState {
    /// Nothing.
    Nothing,
    /// This pair is its newest.
    Pair(Box<KnownPair>),
    /// It has no grant any more.
    NoGrant,
}

impl KnownState {
    /// The pair that was just recorded; nothing for a portal without settings, which has no token files.
    pub(crate) fn pair(
        settings: Option<&Settings>,
        generation: Generation,
        tokens: &Tokens,
    ) -> Self {
        settings.map_or(Self::Nothing, |settings| {
            Self::Pair(Box::new(KnownPair {
                settings: settings.clone(),
                generation,
                tokens: tokens.clone(),
            }))
        })
    }
}

enum PublishCommand {
    Portal(PortalName, KnownState, oneshot::Sender<u64>),
    Sweep(oneshot::Sender<u64>),
    Tend(oneshot::Sender<u64>),
    Inspect(PortalName, oneshot::Sender<PublishedTraces>),
}

impl Publisher {
    /// A publisher that publishes nothing: for read-only commands.
    pub(crate) fn none() -> Self {
        Self {
            commands: unbounded_channel().0,
        }
    }

    /// Publishes a portal's newest durable pair, or removes its files. Returns the number of portals whose files fail now.
    pub async fn publish(&self, portal: &PortalName) -> u64 {
        self.publish_knowing(portal, KnownState::Nothing).await
    }

    /// As [`Self::publish`], with the pair to publish if the state cannot be read.
    pub async fn publish_knowing(&self, portal: &PortalName, newest: KnownState) -> u64 {
        self.send(|done| PublishCommand::Portal(portal.clone(), newest, done))
            .await
    }

    /// Publishes every portal.
    pub async fn sweep(&self) -> u64 {
        self.send(PublishCommand::Sweep).await
    }

    /// Publishes portals that failed before; every portal, if the directory was removed or replaced.
    pub async fn tend(&self) -> u64 {
        self.send(PublishCommand::Tend).await
    }

    /// Traces in a portal's token files; `None` if they cannot be read now.
    pub async fn inspect(&self, portal: &PortalName) -> Option<PublishedTraces> {
        let (found, wait) = oneshot::channel();
        let command = PublishCommand::Inspect(portal.clone(), found);
        self.commands.send(command).ok()?;
        wait.await.ok()
    }

    async fn send(&self, command: impl FnOnce(oneshot::Sender<u64>) -> PublishCommand) -> u64 {
        let (done, wait) = oneshot::channel();
        if self.commands.send(command(done)).is_err() {
            return 0;
        }
        wait.await.unwrap_or_default()
    }
}

/// The thread's part.
pub struct PublisherThread {
    commands: UnboundedReceiver<PublishCommand>,
    view: ReadConnection,
    files: FileWriters,
    /// Identity of the directory that was swept.
    swept: Option<(u64, u64)>,
    generations: GenerationNotes,
    unpublished: FileFailures,
    unread: UnreadPortals,
    conditions: Arc<Conditions>,
}

/// Portals that could not be read from the state.
#[derive(Default)]
struct UnreadPortals {
    portals: BTreeSet<PortalName>,
    /// Whether a sweep was incomplete.
    is_sweep_due: bool,
    /// The newest pairs that were published without the state.
    published: BTreeMap<PortalName, Generation>,
}

/// Function that returns the provider of an app.
pub type ProviderOf<'a> = &'a (dyn Fn(&str) -> String + Send + Sync);

/// Function that writes a portal's files.
type Write = fn(&TokenFiles, &Published<'_>, &[TokenFormat]) -> Result<(), FileError>;

/// Creates both parts.
#[must_use]
pub fn publisher(
    view: ReadConnection,
    files: FileWriters,
    generations: GenerationNotes,
    unpublished: FileFailures,
    conditions: Arc<Conditions>,
) -> (Publisher, PublisherThread) {
    let (sender, commands) = unbounded_channel();
    (
        Publisher { commands: sender },
        PublisherThread {
            commands,
            view,
            files,
            swept: None,
            generations,
            unpublished,
            unread: UnreadPortals::default(),
            conditions,
        },
    )
}

impl PublisherThread {
    /// Serves until every handle is dropped.
    pub fn run(mut self, provider_of: ProviderOf<'_>) {
        while let Some(command) = self.commands.blocking_recv() {
            let done = self.execute(command, provider_of);
            self.answer(done);
        }
        self.generations.finish();
        self.unpublished.log_remaining();
    }

    /// As [`Self::run`] in a task, on a simulated disk.
    pub async fn serve(mut self, provider_of: ProviderOf<'_>, disk: Arc<dyn Disk>) {
        while let Some(command) = self.commands.recv().await {
            disk.around_files().await;
            let done = self.execute(command, provider_of);
            disk.around_files().await;
            self.answer(done);
        }
    }

    fn answer(&self, done: Option<oneshot::Sender<u64>>) {
        if let Some(done) = done {
            // The caller may have disconnected; the files are written anyway.
            let _ = done.send(self.unpublished.failing().len() as u64);
        }
    }

    /// Executes a command, and returns the channel for the number of failing portals.
    fn execute(
        &mut self,
        command: PublishCommand,
        provider_of: ProviderOf<'_>,
    ) -> Option<oneshot::Sender<u64>> {
        let done = match command {
            PublishCommand::Inspect(name, found) => {
                if let Some(traces) = self.inspect(&name) {
                    let _ = found.send(traces);
                }
                return None;
            }
            PublishCommand::Portal(name, newest, done) => {
                self.publish_by_name(&name, newest, provider_of, TokenFiles::replace);
                done
            }
            PublishCommand::Sweep(done) => {
                self.sweep(provider_of);
                done
            }
            PublishCommand::Tend(done) => {
                self.tend(provider_of);
                done
            }
        };
        self.generations.tend();
        self.unpublished.log();
        Some(done)
    }

    fn inspect(&mut self, portal: &PortalName) -> Option<PublishedTraces> {
        let (sender, found) = mpsc::channel();
        let name = portal.clone();
        let inspect = move |files: &TokenFiles| {
            // Without a descriptor nothing is known.
            if let Ok(found) = traces(files, &name) {
                let _ = sender.send(found);
            }
            Ok(None)
        };
        self.files.run(Some(portal), inspect).ok()?;
        found.try_recv().ok()
    }

    fn publish_by_name(
        &mut self,
        name: &PortalName,
        newest: KnownState,
        provider_of: ProviderOf<'_>,
        write: Write,
    ) {
        let read = self.view.portal(name);
        if read.is_ok() {
            self.readable(name);
        }
        match read {
            Ok(Some(portal)) => {
                self.publish(&portal, provider_of, write);
                let is_lost = portal.grant.is_none() && portal.lost.is_some();
                if portal.unreadable.is_none() && !is_lost {
                    let newest = portal.grant.as_ref().map(|grant| grant.generation);
                    self.generations.note(name, newest);
                }
            }
            Ok(None) => {
                self.remove(name);
                self.generations.note(name, None);
            }
            Err(error) => {
                self.unread.portals.insert(name.clone());
                self.unreadable(&error);
                self.publish_known(name, newest, provider_of, write);
            }
        }
    }

    /// Publishes the known pair of a portal that cannot be read.
    fn publish_known(
        &mut self,
        name: &PortalName,
        newest: KnownState,
        provider_of: ProviderOf<'_>,
        write: Write,
    ) {
        match newest {
            KnownState::Nothing => {}
            KnownState::NoGrant => {
                self.unread.published.remove(name);
                self.remove(name);
            }
            KnownState::Pair(recent) => {
                let KnownPair {
                    settings,
                    generation,
                    tokens,
                } = *recent;
                // Commands of one portal may overtake each other.
                let is_newest = self
                    .unread
                    .published
                    .get(name)
                    .is_none_or(|published| *published <= generation);
                let Some(access) = tokens.access.as_ref().filter(|_| is_newest) else {
                    return;
                };
                self.unread.published.insert(name.clone(), generation);
                self.write(
                    name,
                    &settings,
                    generation,
                    (access, &tokens.details),
                    provider_of,
                    write,
                );
                self.generations.note(name, Some(generation));
            }
        }
    }

    /// Rewrites the record of generations if it was removed or replaced: without it, a lost state looks like a new one.
    fn restore_generations(&mut self) {
        self.generations.check();
        // A record that was put there with another state belongs to that one.
        if !self.generations.is_displaced() || self.conditions.is_active(Condition::Displaced) {
            return;
        }
        let mut all = BTreeMap::new();
        // Unreadable portals keep their recorded generation.
        let mut listing = PortalCursor::default();
        while let Some(Ok(page)) = self.view.next_page(&mut listing) {
            for portal in page {
                let newest = portal
                    .grant
                    .as_ref()
                    .map(|grant| grant.generation)
                    .or(portal.lost.and_then(Lost::generation));
                if newest.is_some() || portal.unreadable.is_none() {
                    all.insert(portal.name, newest);
                }
            }
        }
        self.generations.rewrite(all);
    }

    fn tend(&mut self, provider_of: ProviderOf<'_>) {
        self.restore_generations();
        // A directory that hangs is not treated as replaced.
        let same = self.swept.is_none()
            || self
                .identity()
                .map_or(true, |identity| identity == self.swept);
        if same {
            let failing = self.unpublished.failing().keys();
            let retried: BTreeSet<_> = failing.chain(&self.unread.portals).cloned().collect();
            for name in retried {
                self.publish_by_name(&name, KnownState::Nothing, provider_of, TokenFiles::publish);
            }
            if self.unread.is_sweep_due {
                self.sweep(provider_of);
            }
            // Without the directory all of them would have failed.
            if self.unpublished.failing().is_empty()
                && let Ok(identity) = self.identity()
            {
                self.swept = identity;
            }
        } else {
            tracing::warn!(
                "the token directory was removed or replaced; every file is written again"
            );
            self.sweep(provider_of);
        }
    }

    fn sweep(&mut self, provider_of: ProviderOf<'_>) {
        if let Err(error) = self.files.run(None, |files| files.prepare().map(|()| None)) {
            tracing::error!(error = %error_chain(&error), "the token directory is not usable");
        }
        self.swept = self.identity().unwrap_or_default();
        let mut listing = PortalCursor::default();
        while let Some(page) = self.view.next_page(&mut listing) {
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    self.unread.is_sweep_due = true;
                    return self.unreadable(&error);
                }
            };
            for portal in &page {
                self.publish(portal, provider_of, TokenFiles::publish);
            }
        }
        self.unread.is_sweep_due = false;
        self.all_readable();
    }

    fn publish(&mut self, portal: &Portal, provider_of: ProviderOf<'_>, write: Write) {
        let may_be_meant =
            portal.settings.is_none() && self.conditions.is_active(Condition::Incomplete);
        if portal.unreadable.is_some() || keeps_token_files(portal) || may_be_meant {
            return;
        }
        match wanted(portal) {
            Some((settings, grant, access)) => self.write(
                &portal.name,
                settings,
                grant.generation,
                (access, &grant.tokens.details),
                provider_of,
                write,
            ),
            None => self.remove(&portal.name),
        }
    }

    fn write(
        &mut self,
        portal: &PortalName,
        settings: &Settings,
        generation: Generation,
        (access, details): (&Access, &Details),
        provider_of: ProviderOf<'_>,
        write: Write,
    ) {
        let (name, provider) = (portal.clone(), provider_of(&settings.app));
        let (access, details) = (access.clone(), details.clone());
        let formats = settings.formats.clone();
        let done = self.files.run(Some(portal), move |files| {
            let published = Published {
                portal: &name,
                provider: &provider,
                access: &access,
                generation,
                details: &details,
            };
            write(files, &published, &formats).map(|()| None)
        });
        self.unpublished
            .note(portal, FileTask::Write, done.map(drop));
    }

    fn remove(&mut self, portal: &PortalName) {
        let name = portal.clone();
        let removed = self.files.run(Some(portal), move |files| {
            files.remove(&name).map(|()| None)
        });
        self.unpublished
            .note(portal, FileTask::Remove, removed.map(drop));
    }

    /// Identity of the present directory.
    fn identity(&mut self) -> Result<Option<(u64, u64)>, FileError> {
        self.files.run(None, |files| Ok(files.identity()))
    }

    /// Reports from memory, once, that the state cannot be read.
    fn unreadable(&self, error: &StateError) {
        self.conditions.reads(StateReader::Publisher, Err(error));
    }

    fn readable(&mut self, portal: &PortalName) {
        self.unread.published.remove(portal);
        if self.unread.portals.remove(portal) {
            self.all_readable();
        }
    }

    fn all_readable(&self) {
        if self.unread.portals.is_empty() && !self.unread.is_sweep_due {
            self.conditions.reads(StateReader::Publisher, Ok(()));
        }
    }
}

/// Token to publish, if any: files are removed when a grant is gone or not configured any more.
fn wanted(portal: &Portal) -> Option<(&Settings, &Grant, &Access)> {
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref()?;
    (portal.kind() != Kind::Gone).then_some((settings, grant, access))
}
