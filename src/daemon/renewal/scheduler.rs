//! The renewal loop: queries the state for due renewals, claims them, and runs each claim to its end.
//!
//! Must not cancel an exchange that has begun. Memory contains only what is in flight. The loop itself feeds the watchdog,
//! so a loop that hangs is restarted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::adapters::state::{Claims, StateError};
use crate::adapters::systemd;
use crate::daemon::configured::token_urls;
use crate::daemon::context::Context;
use crate::daemon::grants::unreadable_state::report_unreadable;
use crate::daemon::http::descriptors;
use crate::daemon::renewal::execute::{ClaimedGrant, exchange};
use crate::daemon::renewal::inherited;
use crate::daemon::renewal::state_health;
use crate::domain::budget::{Budget, Limits, share_out};
use crate::domain::error_chain::error_chain;
use refreshd_time::Timestamp;
use refreshd_time::clock::{CLOCK_STEP_MILLIS, ClockReading, MAX_SLEEP, Tick};
use refreshd_token_client::provider::host_of;

/// With a backlog, claims are batched up to at least this share of the concurrency: one fsync for many.
const CLAIM_SHARE: usize = 4;
/// Minimum wait for the rate's budget, for the same reason.
const MIN_WAIT: Duration = Duration::from_millis(20);
/// Minimum interval of watchdog messages to systemd: a burst would fill its socket, and a full one blocks.
const MIN_WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a failed access to the state is retried.
const STATE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Renews until `stop`, then waits for the requests that were sent.
pub async fn run(shared: Arc<Context>, stop: CancellationToken) {
    let mut renewer = Scheduler {
        budgets: BTreeMap::new(),
        exhausted: BTreeMap::new(),
        limits: shared.config().renewal.limits,
        exchanges: JoinSet::new(),
        in_flight: BTreeMap::new(),
        backlog: false,
        wake_at: shared.clock.now(),
        watchdog_fed_at: None,
        clock_before: shared.clock.reading(),
        max_connections: descriptors::for_requests(shared.carry.inherited()),
        turn: 0,
        shared,
    };
    for copy in inherited::unstored(&renewer.shared) {
        renewer
            .exchanges
            .spawn(inherited::store_one(Arc::clone(&renewer.shared), copy));
    }
    renewer.serve(&stop).await;
    renewer.drain().await;
}

struct Scheduler {
    shared: Arc<Context>,
    budgets: BTreeMap<String, Budget>,
    /// Servers whose budget was spent at the last look, and since when.
    exhausted: BTreeMap<String, Timestamp>,
    limits: Limits,
    exchanges: JoinSet<Option<Timestamp>>,
    in_flight: BTreeMap<Id, String>,
    backlog: bool,
    wake_at: Timestamp,
    watchdog_fed_at: Option<Tick>,
    clock_before: ClockReading,
    /// Maximum number of requests in flight to all servers together, by the limit of open files.
    max_connections: usize,
    /// Rotates the server with which the distribution begins.
    turn: usize,
}

impl Scheduler {
    async fn serve(&mut self, stop: &CancellationToken) {
        let ping =
            systemd::watchdog_interval().map_or(MAX_SLEEP, |interval| interval.min(MAX_SLEEP));
        loop {
            self.shared.health.progress();
            self.feed_watchdog();
            self.watch_clock().await;
            self.claim().await;
            let sleep = self.wake_at.until(self.shared.clock.now()).min(ping);
            let enough = self.enough_to_claim();
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = shared.due.notified() => {}
                () = self.finished(enough), if !self.exchanges.is_empty() => {}
                () = shared.clock.sleep(sleep) => {}
            }
        }
    }

    fn feed_watchdog(&mut self) {
        let clock = self.shared.clock;
        if self
            .watchdog_fed_at
            .is_none_or(|at| clock.elapsed(at) >= MIN_WATCHDOG_INTERVAL)
        {
            systemd::alive();
            self.watchdog_fed_at = Some(clock.tick());
        }
    }

    /// Returns when enough exchanges have ended to make another claim worth its fsync, or when one of them must be retried
    /// before the next iteration: others may hang until their timeout.
    async fn finished(&mut self, enough: usize) {
        let (mut ended, wake_at) = (0, self.wake_at);
        while ended < enough
            && (self.backlog || self.wake_at == wake_at)
            && let Some(done) = self.exchanges.join_next_with_id().await
        {
            self.end(done);
            ended += 1;
        }
    }

    fn enough_to_claim(&self) -> usize {
        if self.backlog {
            (self.limits.concurrency / CLAIM_SHARE).max(1)
        } else {
            usize::MAX
        }
    }

    fn end(&mut self, done: Result<(Id, Option<Timestamp>), JoinError>) {
        let id = match done {
            Ok((id, next)) => {
                self.wake_at = next.map_or(self.wake_at, |next| next.min(self.wake_at));
                id
            }
            Err(error) => {
                // The claim stays: the grant is in doubt, and the next start replays the request.
                tracing::error!(%error, "a renewal ended by a bug; its grant is in doubt until refreshd restarts");
                error.id()
            }
        };
        if let Some(budget) = self
            .in_flight
            .remove(&id)
            .and_then(|url| self.budgets.get_mut(&url))
        {
            budget.finish();
        }
    }

    async fn claim(&mut self) {
        while let Some(done) = self.exchanges.try_join_next_with_id() {
            self.end(done);
        }
        let now = self.shared.clock.now();
        self.follow_limits(now);
        let mut capacity = Vec::new();
        for (url, budget) in &mut self.budgets {
            let free = budget.available(now);
            if free > 0 {
                capacity.push((url.clone(), free));
            }
        }
        let wanted: usize = capacity.iter().map(|(_, free)| free).sum();
        let connections = self.max_connections.saturating_sub(self.in_flight.len());
        self.turn = self.turn.wrapping_add(1);
        share_out(&mut capacity, connections, self.turn);
        self.wake_at = now + MAX_SLEEP;
        let claims = match self.claim_due(now, capacity.clone()).await {
            Ok(claims) => claims,
            Err(error) => {
                self.wake_at = now + STATE_RETRY_AFTER;
                return state_health::write_failed(&self.shared, &error);
            }
        };
        claims.unreadable.iter().for_each(report_unreadable);
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        for claimed in claims.portals.into_iter().filter_map(ClaimedGrant::from) {
            let url = claimed.token_url().to_owned();
            self.count_wait(&url, &claimed, now);
            *taken.entry(url.clone()).or_default() += 1;
            let task = self
                .exchanges
                .spawn(exchange(Arc::clone(&self.shared), claimed));
            self.in_flight.insert(task.id(), url);
        }
        for (url, count) in &taken {
            if let Some(budget) = self.budgets.get_mut(url) {
                budget.start(*count);
            }
        }
        let full = |(url, free): &(String, usize)| taken.get(url) == Some(free);
        // Where less was taken than could be, nothing waits.
        let idle =
            |(url, free): &(String, usize)| taken.get(url).copied().unwrap_or_default() < *free;
        for (url, _) in capacity.iter().filter(|server| idle(server)) {
            self.exhausted.remove(url);
        }
        for (url, _) in capacity.iter().filter(|server| full(server)) {
            self.exhausted.entry(url.clone()).or_insert(now);
        }
        self.backlog = wanted > connections
            || capacity.iter().any(full)
            || self.budgets.len() > capacity.len();
        if let Some(next) = claims.next {
            self.wake_at = self.wake_at.min(next);
        }
        if self.backlog {
            let refill = self.budgets.values().filter_map(Budget::refill_in).min();
            if let Some(refill) = refill {
                self.wake_at = self.wake_at.min(now + refill.max(MIN_WAIT));
            }
        }
    }

    /// Counts how long a claimed request was due while its server's budget was spent.
    fn count_wait(&self, url: &str, claimed: &ClaimedGrant, now: Timestamp) {
        let due = claimed.grant.status.next_attempt_at;
        let Some((since, due)) = self.exhausted.get(url).zip(due) else {
            return;
        };
        let waited = now.since(due.max(*since));
        if let (Some(server), false) = (host_of(url), waited.is_zero()) {
            self.shared.metrics.budget_wait(server, waited);
        }
    }

    /// Claims what is due. If nothing is due, nothing is written, and the disk may have to be probed.
    async fn claim_due(
        &self,
        now: Timestamp,
        capacity: Vec<(String, usize)>,
    ) -> Result<Claims, StateError> {
        let claims = self.shared.state.claim_due(now, capacity).await?;
        if claims.portals.is_empty() && claims.unreadable.is_empty() {
            state_health::probe_if_stale(&self.shared).await?;
        } else {
            state_health::write_succeeded(&self.shared);
        }
        Ok(claims)
    }

    /// Maintains one budget for each authorization server of the configuration in force.
    fn follow_limits(&mut self, now: Timestamp) {
        let config = self.shared.config();
        let limits = config.renewal.limits;
        let urls = token_urls(&config);
        if limits != self.limits {
            self.limits = limits;
            self.budgets
                .values_mut()
                .for_each(|budget| budget.set_limits(limits));
        }
        self.budgets
            .retain(|url, _| urls.contains(url) || self.in_flight.values().any(|busy| busy == url));
        self.exhausted
            .retain(|url, _| self.budgets.contains_key(url));
        for url in urls {
            if !self.budgets.contains_key(&url) {
                if let Some(server) = host_of(&url) {
                    self.shared.metrics.init_server(server);
                }
                self.budgets.insert(url, Budget::new(limits, now));
            }
        }
    }

    /// Adjusts stored times after a step back of the wall clock, which must not make a token look younger than it is.
    async fn watch_clock(&mut self) {
        let now = self.shared.clock.reading();
        let step = now.step_since(self.clock_before);
        self.clock_before = now;
        if step <= -CLOCK_STEP_MILLIS {
            tracing::warn!(
                step_seconds = step / 1000,
                "the wall clock was set back; every stored time is moved with it"
            );
            match self.shared.state.shift_times(step).await {
                Ok(()) => self
                    .shared
                    .health
                    .unpublished(self.shared.publisher.sweep().await),
                Err(error) => {
                    // Retried at once: the step is detected again until it was handled.
                    self.clock_before = now.before_step(step);
                    tracing::error!(error = %error_chain(&error), "cannot move the stored times");
                }
            }
        } else if step >= CLOCK_STEP_MILLIS {
            tracing::warn!(step_seconds = step / 1000, "the wall clock jumped ahead");
        }
    }

    /// Finishes the requests that were sent, whatever their timeout is.
    async fn drain(&mut self) {
        if !self.exchanges.is_empty() {
            tracing::info!(
                in_flight = self.exchanges.len(),
                "finishing the renewals under way"
            );
        }
        while let Some(done) = self.exchanges.join_next_with_id().await {
            self.end(done);
        }
    }
}
