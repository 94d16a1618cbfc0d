//! Log of install events: a line and a count for each, and one line for many rejections of one kind. Must not log a secret.

use crate::daemon::context::Context;
use crate::daemon::install::refusals::FoldedRefusals;
use crate::domain::install::Outcome;

/// Loggable result of one event. Must not contain a secret.
pub(crate) struct LogContext<'t> {
    pub(crate) app: &'t str,
    pub(crate) outcome: Outcome,
    /// The host that the event names. It is not verified.
    pub(crate) host: Option<&'t str>,
    pub(crate) source: Option<std::net::IpAddr>,
    pub(crate) reason: &'t str,
}

impl LogContext<'_> {
    /// Logs an event that should have contained a grant: other ignored events are common, and logged at debug level.
    pub(crate) fn log_at_info(&self, shared: &Context) {
        self.log_result(shared);
        let Self {
            app,
            outcome,
            host,
            source,
            reason,
        } = *self;
        let domain = host.map(|host| refreshd_secrets::mask::mask(host, &[]));
        let (word, source) = (outcome.as_str(), source.map(tracing::field::display));
        tracing::warn!(target: "refreshd::install", app, outcome = word, domain, source, "an event of {app} was left alone: {reason}");
    }

    pub(crate) fn log_result(&self, shared: &Context) {
        let Self {
            app,
            outcome,
            host,
            source,
            reason,
        } = *self;
        shared.metrics.install(app, outcome);
        let is_refusal = matches!(
            outcome,
            Outcome::Forged | Outcome::Replayed | Outcome::Unverified | Outcome::Malformed
        );
        if is_refusal
            && !shared
                .refusals
                .has_line(shared.clock, (app, outcome, reason))
        {
            return;
        }
        let domain = host.map(|host| refreshd_secrets::mask::mask(host, &[]));
        let (word, source) = (outcome.as_str(), source.map(tracing::field::display));
        match outcome {
            Outcome::Ignored => {
                tracing::debug!(target: "refreshd::install", app, outcome = word, domain, source, "an event of {app} was left alone: {reason}");
            }
            Outcome::Stored | Outcome::Resumed | Outcome::Uninstalled => {
                tracing::info!(target: "refreshd::install", app, outcome = word, domain, source, "{reason}");
            }
            Outcome::FreshAlready | Outcome::OtherUser => {
                tracing::info!(target: "refreshd::install", app, outcome = word, domain, source, "a notice of {app} changed nothing ({word}): {reason}");
            }
            Outcome::Forged
            | Outcome::Replayed
            | Outcome::Unverified
            | Outcome::Malformed
            | Outcome::TooMany
            | Outcome::NotStored => {
                tracing::warn!(target: "refreshd::install", app, outcome = word, domain, source, "a notice of {app} was refused ({word}): {reason}");
            }
        }
    }
}

/// Logs the summaries of rejections without a line of their own.
pub(crate) fn log_results(shared: &Context, all: bool) {
    for FoldedRefusals {
        app,
        outcome,
        reason,
        count,
    } in shared.refusals.due(shared.clock, all)
    {
        tracing::warn!(target: "refreshd::install", app, outcome, count, "{count} more notices of {app} were refused ({outcome}): {reason}");
    }
}
