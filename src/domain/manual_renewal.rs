//! Decides when an operator's `renew` is executed. Must not allow a loop of commands to flood the server.

use std::time::Duration;

use super::portal::{Grant, Phase};
use refreshd_time::Timestamp;
use refreshd_token_client::renew_every::spacing;

/// Minimum wait after an attempt.
const MANUAL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Decision on an operator's `renew`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManualRenewal {
    /// Executed from this time on: now, or a few seconds after the last attempt.
    From(Timestamp),
    /// Renewed less than a tenth of its lifetime ago; not renewed again before this time.
    FreshUntil(Timestamp),
}

/// Decides on an operator's `renew`.
#[must_use]
pub fn manual_renewal(grant: &Grant, now: Timestamp) -> ManualRenewal {
    // A grant without an attempt is due, however young its token is. An attempt in the future is of another clock.
    let Some(tried_at) = grant.tried_at.filter(|tried_at| *tried_at <= now) else {
        return ManualRenewal::From(now);
    };
    let access = grant.tokens.access.as_ref();
    let pause = access.map_or(MANUAL_RETRY_AFTER, |access| {
        spacing(access.lifetime()).min(MANUAL_RETRY_AFTER)
    });
    match (&grant.status.phase, access) {
        (Phase::Fresh, Some(access)) if now < access.issued_at + spacing(access.lifetime()) => {
            ManualRenewal::FreshUntil(access.issued_at + spacing(access.lifetime()))
        }
        _ => ManualRenewal::From(now.max(tried_at + pause)),
    }
}
