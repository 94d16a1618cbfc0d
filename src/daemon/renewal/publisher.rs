//! Brings the token files in line with the state, on a thread of its own.
//!
//! Level-triggered: a message names a portal, the newest durable pair is read when its turn comes, so an older pair
//! never overwrites a newer one. What cannot be written is kept in mind, tried again, and said once. Files are touched by
//! other threads ([`FileWriters`]), whose calls may hang. Must not decide about renewals: they go on while a directory cannot
//! be written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::adapters::published_token::{PublishedTraces, traces};
use crate::adapters::state::{
    Disk, StateError, {PortalCursor, ReadConnection},
};
use crate::adapters::token_files::{FileError, Published, TokenFiles};
use crate::daemon::alerts::{Condition, Conditions, ReadBy};
use crate::daemon::renewal::file_failures::{FileFailures, FileTask};
use crate::daemon::renewal::file_writers::FileWriters;
use crate::daemon::renewal::generation_notes::GenerationNotes;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Portal};
use crate::domain::rollback::keeps_token_files;
use crate::domain::settings::Settings;
use crate::domain::token_format::TokenFormat;
use refreshd_token_client::token::{Access, Details, Generation, Tokens};

/// Sends portals to the publisher. Cheap to clone; the thread ends when every handle is gone.
#[derive(Clone)]
pub struct Publisher {
    orders: UnboundedSender<PublishCommand>,
}

/// A pair that was recorded a moment ago.
#[derive(Clone, Debug)]
pub struct KnownPair {
    /// Of which settings.
    pub settings: Settings,
    /// Which pair.
    pub generation: Generation,
    /// The pair.
    pub tokens: Tokens,
}

/// What whoever asks knows of a portal: it is published where the state cannot be read back.
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
    /// The pair that has just been recorded; nothing of a portal without settings, which has no token files.
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
    Look(PortalName, oneshot::Sender<PublishedTraces>),
}

impl Publisher {
    /// One that publishes nothing: of whoever only looks.
    pub(crate) fn none() -> Self {
        Self {
            orders: unbounded_channel().0,
        }
    }

    /// Publishes a portal's newest durable pair, or removes its files. Returns how many portals' files fail now.
    pub async fn publish(&self, portal: &PortalName) -> u64 {
        self.publish_knowing(portal, KnownState::Nothing).await
    }

    /// The same, with what is known of it should the state not be readable.
    pub async fn publish_knowing(&self, portal: &PortalName, newest: KnownState) -> u64 {
        self.order(|done| PublishCommand::Portal(portal.clone(), newest, done))
            .await
    }

    /// Does so for every portal.
    pub async fn sweep(&self) -> u64 {
        self.order(PublishCommand::Sweep).await
    }

    /// Does so for those that failed before; for every portal, if somebody took the directory away.
    pub async fn tend(&self) -> u64 {
        self.order(PublishCommand::Tend).await
    }

    /// What there is of a portal's token files; `None` if that cannot be seen now.
    pub async fn look(&self, portal: &PortalName) -> Option<PublishedTraces> {
        let (found, wait) = oneshot::channel();
        let order = PublishCommand::Look(portal.clone(), found);
        self.orders.send(order).ok()?;
        wait.await.ok()
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<u64>) -> PublishCommand) -> u64 {
        let (done, wait) = oneshot::channel();
        if self.orders.send(order(done)).is_err() {
            return 0;
        }
        wait.await.unwrap_or_default()
    }
}

/// The thread's part.
pub struct PublisherThread {
    orders: UnboundedReceiver<PublishCommand>,
    view: ReadConnection,
    files: FileWriters,
    /// The directory whose files were all looked at.
    swept: Option<(u64, u64)>,
    generations: GenerationNotes,
    unpublished: FileFailures,
    unread: UnreadPortals,
    conditions: Arc<Conditions>,
}

/// What could not be read of the state.
#[derive(Default)]
struct UnreadPortals {
    portals: BTreeSet<PortalName>,
    /// A sweep did not get to its end.
    is_sweep_due: bool,
    /// The newest pairs that were published without it.
    published: BTreeMap<PortalName, Generation>,
}

/// Names the provider of an app.
pub type ProviderOf<'a> = &'a (dyn Fn(&str) -> String + Send + Sync);

/// A way to write a portal's files.
type Write = fn(&TokenFiles, &Published<'_>, &[TokenFormat]) -> Result<(), FileError>;

/// Makes both parts.
#[must_use]
pub fn publisher(
    view: ReadConnection,
    files: FileWriters,
    generations: GenerationNotes,
    unpublished: FileFailures,
    conditions: Arc<Conditions>,
) -> (Publisher, PublisherThread) {
    let (sender, orders) = unbounded_channel();
    (
        Publisher { orders: sender },
        PublisherThread {
            orders,
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
    /// Serves until every handle is gone.
    pub fn run(mut self, provider_of: ProviderOf<'_>) {
        while let Some(order) = self.orders.blocking_recv() {
            let done = self.carry_out(order, provider_of);
            self.answer(done);
        }
        self.generations.finish();
        self.unpublished.say_left();
    }

    /// As [`Self::run`] in a task, on a disk that is not the machine's.
    pub async fn serve(mut self, provider_of: ProviderOf<'_>, disk: Arc<dyn Disk>) {
        while let Some(order) = self.orders.recv().await {
            disk.around_files().await;
            let done = self.carry_out(order, provider_of);
            disk.around_files().await;
            self.answer(done);
        }
    }

    fn answer(&self, done: Option<oneshot::Sender<u64>>) {
        if let Some(done) = done {
            // Whoever asked may have gone; the files are written all the same.
            let _ = done.send(self.unpublished.failing().len() as u64);
        }
    }

    /// Does it, and gives back whom to tell how many files fail.
    fn carry_out(
        &mut self,
        order: PublishCommand,
        provider_of: ProviderOf<'_>,
    ) -> Option<oneshot::Sender<u64>> {
        let done = match order {
            PublishCommand::Look(name, found) => {
                if let Some(traces) = self.look(&name) {
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
        self.unpublished.say();
        Some(done)
    }

    fn look(&mut self, portal: &PortalName) -> Option<PublishedTraces> {
        let (sender, found) = mpsc::channel();
        let name = portal.clone();
        let look = move |files: &TokenFiles| {
            let _ = sender.send(traces(files, &name));
            Ok(None)
        };
        self.files.run(Some(portal), look).ok()?;
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

    /// Publishes what is known of a portal that cannot be read.
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
                // Orders of one portal may overtake each other.
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

    /// Has the record of generations written anew where somebody took it away: it is what tells a lost state from a new one.
    fn keep_generations(&mut self) {
        self.generations.check();
        // A record that was put there with another state is that one's.
        if !self.generations.is_displaced() || self.conditions.is_active(Condition::Displaced) {
            return;
        }
        let mut all = BTreeMap::new();
        // What cannot be read of the state is as it was noted.
        let mut listing = PortalCursor::default();
        while let Some(Ok(page)) = self.view.next_page(&mut listing) {
            for portal in page {
                let newest = portal
                    .grant
                    .as_ref()
                    .map(|grant| grant.generation)
                    .or(portal.lost);
                if newest.is_some() || portal.unreadable.is_none() {
                    all.insert(portal.name, newest);
                }
            }
        }
        self.generations.rewrite(all);
    }

    fn tend(&mut self, provider_of: ProviderOf<'_>) {
        self.keep_generations();
        // Of a directory that hangs nobody knows that it is another.
        let same = self.swept.is_none()
            || self
                .identity()
                .map_or(true, |identity| identity == self.swept);
        if same {
            let failing = self.unpublished.failing().keys();
            let again: BTreeSet<_> = failing.chain(&self.unread.portals).cloned().collect();
            for name in again {
                self.publish_by_name(&name, KnownState::Nothing, provider_of, TokenFiles::publish);
            }
            if self.unread.is_sweep_due {
                self.sweep(provider_of);
            }
            // Without a directory all of them had failed.
            if self.unpublished.failing().is_empty()
                && let Ok(identity) = self.identity()
            {
                self.swept = identity;
            }
        } else {
            tracing::warn!(
                "the token directory was removed or replaced by somebody; every file is written again"
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

    /// Which directory there is now.
    fn identity(&mut self) -> Result<Option<(u64, u64)>, FileError> {
        self.files.run(None, |files| Ok(files.identity()))
    }

    /// Told once, from memory.
    fn unreadable(&self, error: &StateError) {
        self.conditions.reads(ReadBy::Publisher, Err(error));
    }

    fn readable(&mut self, portal: &PortalName) {
        self.unread.published.remove(portal);
        if self.unread.portals.remove(portal) {
            self.all_readable();
        }
    }

    fn all_readable(&self) {
        if self.unread.portals.is_empty() && !self.unread.is_sweep_due {
            self.conditions.reads(ReadBy::Publisher, Ok(()));
        }
    }
}

/// What is to be published of a portal, if anything: files go when a grant is gone or not configured any more.
fn wanted(portal: &Portal) -> Option<(&Settings, &Grant, &Access)> {
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref()?;
    (portal.kind() != Kind::Gone).then_some((settings, grant, access))
}
