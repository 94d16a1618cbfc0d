//! Metrics, rendered in the OpenMetrics text format. `deploy/prometheus/metrics.txt` lists names and labels, which are stable.
//!
//! Must not take a label from an error's text: labels are closed enums and configured names. What the state knows is counted
//! on each scrape, so it cannot get stuck; what only the daemon knows is counted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use strum::VariantArray as _;

use super::state::Census;
use crate::domain::escalation::{OVERDUE_SHARE, overdue_at, refresh_end_of};
use crate::domain::install::Outcome;
use crate::domain::portal::{Kind, Portal};
use refreshd_alerting::{DeliveryResult, Severity};
use refreshd_time::Timestamp;
use refreshd_token_client::provider::Class;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RenewalLabels {
    provider: String,
    result: ResultLabel,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct ResultLabel(Option<Class>);

impl EncodeLabelValue for ResultLabel {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> std::fmt::Result {
        self.0.map_or("renewed", Class::as_str).encode(encoder)
    }
}

/// A gauge that other threads set.
type SharedGauge = Gauge<i64, AtomicI64>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// The daemon's own counters. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    renewals: Family<RenewalLabels, Counter>,
    duration: Histogram,
    lateness: Histogram,
    unsaved: SharedGauge,
    skew: Family<Vec<(&'static str, String)>, FloatGauge>,
    deliveries: Family<Vec<(&'static str, String)>, Counter>,
    installs: Family<Vec<(&'static str, String)>, Counter>,
    install_questions: Family<Vec<(&'static str, String)>, Counter>,
    budget_waits: Family<Vec<(&'static str, String)>, Counter>,
    budget_wait_seconds: Family<Vec<(&'static str, String)>, Counter<f64, AtomicU64>>,
    reload_successful: SharedGauge,
}

impl Metrics {
    /// Initializes the counters to zero, for each provider and result.
    #[must_use]
    pub fn new(providers: &[String]) -> Self {
        let mut registry = Registry::with_prefix("refreshd");
        let renewals = Family::<RenewalLabels, Counter>::default();
        registry.register(
            "renewals",
            "Renewals by provider and result",
            renewals.clone(),
        );
        let duration = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        registry.register(
            "renewal_duration_seconds",
            "Time from sending a token request to the end of its reply",
            duration.clone(),
        );
        let lateness = Histogram::new([0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0]);
        registry.register(
            "renewal_lateness_seconds",
            "Time from when a renewal was planned to when its new pair was published",
            lateness.clone(),
        );
        let unsaved = SharedGauge::default();
        registry.register(
            "tokens_unsaved",
            "Token pairs that could not be written to disk so far",
            unsaved.clone(),
        );
        let skew = Family::<Vec<(&'static str, String)>, FloatGauge>::default();
        registry.register(
            "clock_skew_seconds",
            "The authorization server's clock less this machine's, from the Date header",
            skew.clone(),
        );
        let deliveries = Family::<Vec<(&'static str, String)>, Counter>::default();
        registry.register(
            "alert_deliveries",
            "Deliveries of alerts by channel and result",
            deliveries.clone(),
        );
        let installs = Family::<Vec<(&'static str, String)>, Counter>::default();
        registry.register(
            "installs",
            "Install events by app and outcome",
            installs.clone(),
        );
        let install_questions = Family::<Vec<(&'static str, String)>, Counter>::default();
        registry.register(
            "install_questions",
            "Verification requests to authorization servers for install events",
            install_questions.clone(),
        );
        let budget_waits = Family::<Vec<(&'static str, String)>, Counter>::default();
        registry.register(
            "budget_waits",
            "Requests that were due and waited for the budget of their authorization server",
            budget_waits.clone(),
        );
        let budget_wait_seconds =
            Family::<Vec<(&'static str, String)>, Counter<f64, AtomicU64>>::default();
        registry.register(
            "budget_wait_seconds",
            "Time that these requests waited; its rate is how many wait at a time",
            budget_wait_seconds.clone(),
        );
        let reload_successful = SharedGauge::default();
        reload_successful.set(1);
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration in force is the newest one read",
            reload_successful.clone(),
        );
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running refreshd", build);
        let metrics = Self {
            registry: Arc::new(registry),
            renewals,
            duration,
            lateness,
            unsaved,
            skew,
            deliveries,
            installs,
            install_questions,
            budget_waits,
            budget_wait_seconds,
            reload_successful,
        };
        metrics.init_providers(providers);
        metrics
    }

    /// Initializes the counters of these providers.
    pub fn init_providers(&self, providers: &[String]) {
        for provider in providers {
            for result in std::iter::once(None).chain(Class::VARIANTS.iter().copied().map(Some)) {
                drop(self.renewals.get_or_create(&labels(provider, result)));
            }
        }
    }

    /// Initializes the counters of these channels.
    pub fn init_channels<'a>(&self, channels: impl IntoIterator<Item = &'a str>) {
        for channel in channels {
            for &result in DeliveryResult::VARIANTS {
                drop(
                    self.deliveries
                        .get_or_create(&delivery_labels(channel, result)),
                );
            }
        }
    }

    /// Initializes the counters of these apps' installs.
    pub fn init_installs<'a>(&self, apps: impl IntoIterator<Item = &'a str>) {
        for app in apps {
            drop(
                self.install_questions
                    .get_or_create(&vec![("app", app.to_owned())]),
            );
            for &outcome in Outcome::VARIANTS {
                drop(self.installs.get_or_create(&of_install(app, outcome)));
            }
        }
    }

    /// Initializes the counters of this authorization server.
    pub fn init_server(&self, server: &str) {
        let label = vec![("server", server.to_owned())];
        drop(self.budget_waits.get_or_create(&label));
        drop(self.budget_wait_seconds.get_or_create(&label));
    }

    /// Counts a request that waited for the budget of its authorization server.
    pub fn budget_wait(&self, server: &str, waited: Duration) {
        let label = vec![("server", server.to_owned())];
        self.budget_waits.get_or_create(&label).inc();
        self.budget_wait_seconds
            .get_or_create(&label)
            .inc_by(waited.as_secs_f64());
    }

    /// Counts the outcome of an install event.
    pub fn install(&self, app: &str, outcome: Outcome) {
        self.installs.get_or_create(&of_install(app, outcome)).inc();
    }

    /// Counts a verification request for an install event.
    pub fn install_verification(&self, app: &str) {
        self.install_questions
            .get_or_create(&vec![("app", app.to_owned())])
            .inc();
    }

    /// Counts the result of a delivery to a channel.
    pub fn delivery(&self, channel: &str, result: DeliveryResult) {
        self.deliveries
            .get_or_create(&delivery_labels(channel, result))
            .inc();
    }

    /// Counts one renewal; `None` is success.
    pub fn renewal(&self, provider: &str, result: Option<Class>, took: Duration) {
        self.renewals.get_or_create(&labels(provider, result)).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Records how late a renewal was published.
    pub fn lateness(&self, late: Duration) {
        self.lateness.observe(late.as_secs_f64());
    }

    /// Counts one more pair that is not on disk.
    pub fn unsaved_begins(&self) {
        self.unsaved.inc();
    }

    /// Counts one pair less that is not on disk.
    pub fn unsaved_ends(&self) {
        self.unsaved.dec();
    }

    /// Number of pairs that are not on disk.
    #[must_use]
    pub fn unsaved(&self) -> i64 {
        self.unsaved.get()
    }

    /// Records a server's clock skew; returns the previous value, 0 at first.
    pub fn skew(&self, server: &str, seconds: f64) -> f64 {
        self.skew
            .get_or_create(&vec![("server", server.to_owned())])
            .set(seconds)
    }

    /// Records the result of a reload.
    pub fn reloaded(&self, successful: bool) {
        self.reload_successful.set(i64::from(successful));
    }

    /// Returns whether the last reload was successful.
    #[must_use]
    pub fn last_reload_successful(&self) -> bool {
        self.reload_successful.get() == 1
    }

    /// All metrics as text. `portals` get series of their own.
    #[must_use]
    pub fn render(&self, snapshot: &MetricsSnapshot<'_>) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut out, &self.registry);
        let _ = encode_registry(&mut out, &snapshot.registry());
        let _ = encode_eof(&mut out);
        out
    }
}

fn delivery_labels(channel: &str, result: DeliveryResult) -> Vec<(&'static str, String)> {
    vec![
        ("channel", channel.to_owned()),
        ("result", result.as_str().to_owned()),
    ]
}

fn of_install(app: &str, outcome: Outcome) -> Vec<(&'static str, String)> {
    vec![
        ("app", app.to_owned()),
        ("result", outcome.as_str().to_owned()),
    ]
}

fn labels(provider: &str, result: Option<Class>) -> RenewalLabels {
    RenewalLabels {
        provider: provider.to_owned(),
        result: ResultLabel(result),
    }
}

/// Values of the state at a scrape.
pub struct MetricsSnapshot<'a> {
    /// Number of portals by kind; `None` while the state cannot be read.
    pub census: Option<&'a Census>,
    /// Portals with a series of their own.
    pub portals: &'a [Portal],
    /// Open incidents by severity.
    pub incidents: &'a [(Severity, u64)],
    /// Queued notifications of each channel: number, and time of the oldest.
    pub outbox: &'a [(String, usize, Option<Timestamp>)],
    /// Silences in force.
    pub silences: usize,
    /// Whether the state can be written.
    pub writable: bool,
    /// Whether the state can be read.
    pub readable: bool,
    /// Number of portals whose token files cannot be written.
    pub files_failing: u64,
    /// Number of dropped log lines.
    pub log_lines_dropped: u64,
}

impl MetricsSnapshot<'_> {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("refreshd");
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
            let gauge = SharedGauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        // Unknown values are left out: an old number would look current.
        if let Some(census) = self.census {
            let by_kind = Family::<Vec<(&str, &str)>, SharedGauge>::default();
            for &kind in Kind::VARIANTS {
                let count = i64::try_from(census.of(kind)).unwrap_or(i64::MAX);
                by_kind
                    .get_or_create(&vec![("phase", kind.as_str())])
                    .set(count);
            }
            registry.register("portals", "Portals by phase", by_kind);
            let help = "Grants whose last request has no known outcome";
            gauge(
                &mut registry,
                "claims_in_doubt",
                help,
                census.of(Kind::InDoubt),
            );
            let help = "Portals whose renewal is late by 30 % of the time it had";
            gauge(&mut registry, "portals_overdue", help, census.overdue);
            let silences = u64::try_from(self.silences).unwrap_or(u64::MAX);
            let help = "Silences in force";
            gauge(&mut registry, "silences_active", help, silences);
            self.per_portal(&mut registry);
        }
        let incidents = Family::<Vec<(&str, &str)>, SharedGauge>::default();
        for (severity, count) in self.incidents {
            let gauge = incidents.get_or_create(&vec![("severity", severity.as_str())]);
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        registry.register(
            "incidents_open",
            "Open incidents by their highest severity so far",
            incidents,
        );
        self.outbox(&mut registry);
        for (name, help, value) in [
            (
                "state_writable",
                "Whether the state can be written",
                u64::from(self.writable),
            ),
            (
                "state_readable",
                "Whether the state can be read",
                u64::from(self.readable),
            ),
            (
                "token_files_failing",
                "Portals whose token files cannot be written or removed",
                self.files_failing,
            ),
        ] {
            gauge(&mut registry, name, help, value);
        }
        let dropped = Counter::<u64>::default();
        dropped.inc_by(self.log_lines_dropped);
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because the reader was too slow or a write failed",
            dropped,
        );
        registry
    }

    fn outbox(&self, registry: &mut Registry) {
        let waiting = Family::<Vec<(&str, String)>, SharedGauge>::default();
        for (channel, count, _) in self.outbox {
            let gauge = waiting.get_or_create(&vec![("channel", channel.clone())]);
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        registry.register(
            "alert_outbox_messages",
            "Alerts queued for their channel",
            waiting,
        );
        let oldest = FloatGauge::default();
        let at = self
            .outbox
            .iter()
            .filter_map(|(_, _, oldest)| *oldest)
            .min();
        oldest.set(at.map_or(0.0, |at| at.millis() as f64 / 1000.0));
        let help = "Time of the oldest queued alert, 0 if none";
        registry.register("alert_outbox_oldest_timestamp_seconds", help, oldest);
    }

    fn per_portal(&self, registry: &mut Registry) {
        let family = || Family::<Vec<(&str, String)>, FloatGauge>::default();
        let (expiry, due, issued, refresh, overdue) =
            (family(), family(), family(), family(), family());
        // A portal that is not in the configuration is not renewed, and causes no alarm.
        for portal in self
            .portals
            .iter()
            .filter(|portal| portal.settings.is_some())
        {
            let label = vec![("portal", portal.name.as_str().to_owned())];
            let Some(grant) = &portal.grant else { continue };
            let set = |family: &Family<Vec<(&str, String)>, FloatGauge>, at: Option<Timestamp>| {
                if let Some(at) = at {
                    family
                        .get_or_create(&label)
                        .set(at.millis() as f64 / 1000.0);
                }
            };
            let access = grant.tokens.access.as_ref();
            set(&expiry, access.map(|access| access.expires_at));
            set(&issued, access.map(|access| access.issued_at));
            set(&due, grant.status.renew_at);
            set(&refresh, refresh_end_of(grant).map(|end| end.at));
            set(&overdue, overdue_at(grant, OVERDUE_SHARE));
        }
        registry.register(
            "token_expiry_timestamp_seconds",
            "When the published access token ends",
            expiry,
        );
        registry.register(
            "token_renewal_due_timestamp_seconds",
            "When the renewal is or was planned",
            due,
        );
        let help = "When the renewal counts as overdue: 30 % of the time that it has has passed";
        registry.register("token_overdue_timestamp_seconds", help, overdue);
        let help = "When the refresh token expires by itself, if the server reports it";
        registry.register("refresh_token_expiry_timestamp_seconds", help, refresh);
        registry.register(
            "token_issued_timestamp_seconds",
            "When the published access token was issued",
            issued,
        );
    }
}
