//! Summaries of all portals: for the log, each hour, and for the service manager.

use std::time::Duration;

use strum::VariantArray as _;

use crate::adapters::state::StateError;
use crate::daemon::context::Context;
use crate::daemon::log_limits::Totals;
use crate::domain::error_chain::error_chain;
use crate::domain::portal::Kind;
use refreshd_time::human;

/// Number of portals of each kind, in one line.
///
/// # Errors
/// [`StateError`].
pub(crate) async fn portals(shared: &Context) -> Result<String, StateError> {
    let census = shared.state.census(shared.clock.now()).await?;
    let total = census.total();
    let others = Kind::VARIANTS
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Fresh && census.of(*kind) > 0);
    let mut text = format!("{} of {total} portals fresh", census.of(Kind::Fresh));
    for kind in others {
        text.push_str(&format!(", {} {}", census.of(kind), kind.as_str()));
    }
    if census.overdue > 0 {
        text.push_str(&format!(", {} overdue", census.overdue));
    }
    Ok(text)
}

/// Logs due summaries; all of them at the end.
pub(crate) async fn log_due(shared: &Context, is_end: bool) {
    if let Some(totals) = shared.log_limits.tend(shared.clock.now(), is_end)
        && let Err(error) = log_totals(shared, totals).await
    {
        tracing::error!(error = %error_chain(&error), "the state of the portals cannot be read for the summary");
    }
}

async fn log_totals(shared: &Context, totals: Totals) -> Result<(), StateError> {
    let Totals {
        since,
        renewed,
        failed,
        slowest,
    } = totals;
    let now = shared.clock.now();
    let portals = portals(shared).await?;
    let next = shared.state.next_renewal().await?;
    let next_text = next
        .as_ref()
        .map(|(at, portal)| format!("; next: {portal} in {}", human(at.until(now))))
        .unwrap_or_default();
    let slowest_text = slowest
        .as_ref()
        .map(|(took, portal)| format!("; slowest: {portal}, {} ms", took.as_millis()))
        .unwrap_or_default();
    let span = human(Duration::from_secs(now.since(since).as_secs()));
    let slowest_ms = slowest.map(|(took, _)| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let next = next.map(|(at, _)| tracing::field::display(at));
    tracing::info!(
        target: "refreshd::summary", renewed, failed, slowest_ms, next_renewal = next,
        "in {span}: {renewed} renewed, {failed} attempts failed; {portals}{next_text}{slowest_text}"
    );
    Ok(())
}
