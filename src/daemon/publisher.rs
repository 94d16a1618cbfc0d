//! Brings the token files in line with the state, on a thread of its own.
//!
//! Level-triggered: a message names a portal, the newest durable pair is read when its turn comes, so an older pair
//! never overwrites a newer one. What cannot be written is kept in mind, tried again, and said once. Must not decide
//! about renewals: they go on while a directory cannot be written.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

use super::announce::{Subject, announce};
use crate::adapters::generations::Generations;
use crate::adapters::state::{StateError, View};
use crate::adapters::token_files::{FileError, Format, Published, TokenFiles};
use crate::domain::escalation::{Announcement, Severity};
use crate::domain::name::PortalName;
use crate::domain::old_state::leaves_files;
use crate::domain::portal::{Kind, Portal};
use crate::domain::token::Generation;

/// Portals read at a time in a sweep.
const PAGE: usize = 500;

/// Sends portals to the publisher. Cheap to clone; the thread ends when every handle is gone.
#[derive(Clone)]
pub struct Publisher {
    orders: Sender<Order>,
}

enum Order {
    Portal(PortalName, oneshot::Sender<u64>),
    Sweep(oneshot::Sender<u64>),
    Retry(oneshot::Sender<u64>),
}

impl Publisher {
    /// Publishes a portal's newest durable pair, or removes its files. Returns how many portals' files fail now.
    pub async fn publish(&self, portal: &PortalName) -> u64 {
        self.order(|done| Order::Portal(portal.clone(), done)).await
    }

    /// Does so for every portal.
    pub async fn sweep(&self) -> u64 {
        self.order(Order::Sweep).await
    }

    /// Does so for those that failed before.
    pub async fn retry(&self) -> u64 {
        self.order(Order::Retry).await
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<u64>) -> Order) -> u64 {
        let (done, wait) = oneshot::channel();
        if self.orders.send(order(done)).is_err() {
            return 0;
        }
        wait.await.unwrap_or_default()
    }
}

/// The thread's part.
pub struct PublisherThread {
    orders: Receiver<Order>,
    view: View,
    files: TokenFiles,
    generations: Generations,
    unnoted: bool,
    failing: BTreeSet<PortalName>,
}

/// Names the provider of an app.
type ProviderOf<'a> = &'a (dyn Fn(&str) -> String + Send + Sync);

/// A way to write a portal's files.
type Write = fn(&TokenFiles, &Published<'_>, &[Format]) -> Result<(), FileError>;

/// Makes both parts.
#[must_use]
pub fn publisher(view: View, files: TokenFiles, generations: Generations) -> (Publisher, PublisherThread) {
    let (sender, orders) = channel();
    (
        Publisher { orders: sender },
        PublisherThread { orders, view, files, generations, unnoted: false, failing: BTreeSet::new() },
    )
}

impl PublisherThread {
    /// Serves until every handle is gone.
    pub fn run(mut self, provider_of: ProviderOf<'_>) {
        while let Ok(order) = self.orders.recv() {
            let done = match order {
                Order::Portal(name, done) => {
                    self.publish_by_name(&name, provider_of, TokenFiles::replace);
                    done
                }
                Order::Sweep(done) => {
                    self.sweep(provider_of);
                    done
                }
                Order::Retry(done) => {
                    for name in self.failing.clone() {
                        self.publish_by_name(&name, provider_of, TokenFiles::publish);
                    }
                    done
                }
            };
            // Whoever asked may have gone; the files are written all the same.
            let _ = done.send(self.failing.len() as u64);
        }
    }

    fn publish_by_name(&mut self, name: &PortalName, provider_of: ProviderOf<'_>, write: Write) {
        match self.view.portal(name) {
            Ok(Some(portal)) => {
                self.publish(&portal, provider_of, write);
                if portal.unreadable.is_none() {
                    self.note_generation(name, portal.grant.as_ref().map(|grant| grant.generation));
                }
            }
            Ok(None) => {
                self.note_generation(name, None);
                let removed = self.files.remove(name);
                self.note(name, removed);
            }
            Err(error) => self.unreadable(&error),
        }
    }

    fn sweep(&mut self, provider_of: ProviderOf<'_>) {
        if let Err(error) = self.files.prepare() {
            tracing::error!(error = %chain(&error), "the token directory is not usable");
        }
        let mut after = None;
        loop {
            let page = match self.view.page(after.as_ref(), PAGE) {
                Ok(page) => page,
                Err(error) => return self.unreadable(&error),
            };
            for portal in &page {
                self.publish(portal, provider_of, TokenFiles::publish);
            }
            match page.last() {
                Some(last) => after = Some(last.name.clone()),
                None => return,
            }
        }
    }

    fn publish(&mut self, portal: &Portal, provider_of: ProviderOf<'_>, write: Write) {
        if portal.unreadable.is_some() || portal.grant.as_ref().is_some_and(leaves_files) {
            return;
        }
        let done = match wanted(portal) {
            Some((settings, grant, access)) => {
                let provider = provider_of(&settings.app);
                let formats: Vec<_> =
                    settings.formats.iter().filter_map(|name| Format::parse(name)).collect();
                write(
                    &self.files,
                    &Published {
                        portal: &portal.name,
                        provider: &provider,
                        access,
                        generation: grant.generation,
                        details: &grant.tokens.details,
                    },
                    &formats,
                )
            }
            None => self.files.remove(&portal.name),
        };
        self.note(&portal.name, done);
    }

    /// Outside the state, for the day on which an old one is restored.
    fn note_generation(&mut self, portal: &PortalName, generation: Option<Generation>) {
        let noted = self.generations.note(portal, generation);
        let failed = noted.is_err();
        if let (Err(error), false) = (noted, self.unnoted) {
            tracing::warn!(error = %chain(&error), "an old state may not be noticed: its generations are not noted");
        }
        self.unnoted = failed;
    }

    fn note(&mut self, portal: &PortalName, done: Result<(), FileError>) {
        match done {
            Ok(()) => {
                if self.failing.remove(portal) {
                    let reason = "the token files are written again".to_owned();
                    say(portal, "resolved", Severity::Notice, reason, "none");
                }
            }
            Err(error) => {
                if self.failing.insert(portal.clone()) {
                    let reason = format!("readers do not get the new token: {}", chain(&error));
                    let action = "make the token directory writable for refreshd, or free space; it is retried by itself";
                    say(portal, "unpublished", Severity::Critical, reason, action);
                }
            }
        }
    }

    fn unreadable(&self, error: &StateError) {
        tracing::error!(error = %chain(error), "cannot read the state to publish token files");
    }
}

/// What is to be published of a portal, if anything: files go when a grant is gone or not configured any more.
fn wanted(
    portal: &Portal,
) -> Option<(&crate::domain::settings::Settings, &crate::domain::portal::Grant, &crate::domain::token::Access)>
{
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref()?;
    (portal.kind() != Kind::Gone).then_some((settings, grant, access))
}

fn say(portal: &PortalName, step: &str, severity: Severity, reason: String, action: &str) {
    let announcement = Announcement {
        step: step.to_owned(),
        severity,
        reason,
        action: action.to_owned(),
        remaining: None,
        notify: Vec::new(),
    };
    announce(Subject::Portal(portal), &announcement);
}

/// An error and its sources, once each.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
