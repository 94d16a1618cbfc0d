//! When an operator's `renew` is carried out. Must not let a loop of commands become a storm.

use std::time::Duration;

use super::portal::{Grant, Phase};
use refreshd_time::Timestamp;
use refreshd_token_client::renew_every::spacing;

/// An operator may try a failing grant again after this time.
const MANUAL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What an operator's `renew` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManualRenewal {
    /// It is carried out from this moment on: now, or a few seconds after the last try.
    From(Timestamp),
    /// It was renewed less than a tenth of its life ago and is left alone until then.
    FreshUntil(Timestamp),
}

/// Decides about an operator's `renew`, so that no loop of commands becomes a storm.
#[must_use]
pub fn manual_renewal(grant: &Grant, now: Timestamp) -> ManualRenewal {
    // One that was taken in and not tried yet is due, however young its token is. A try ahead of now is of another clock.
    let Some(tried_at) = grant.tried_at.filter(|tried_at| *tried_at <= now) else {
        return ManualRenewal::From(now);
    };
    let access = grant.tokens.access.as_ref();
    let pause = access.map_or(MANUAL_RETRY_AFTER, |access| {
        spacing(access.lifetime()).min(MANUAL_RETRY_AFTER)
    });
    match (&grant.standing.phase, access) {
        (Phase::Fresh, Some(access)) if now < access.issued_at + spacing(access.lifetime()) => {
            ManualRenewal::FreshUntil(access.issued_at + spacing(access.lifetime()))
        }
        _ => ManualRenewal::From(now.max(tried_at + pause)),
    }
}
