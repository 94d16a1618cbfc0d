//! Past rotations of a grant's refresh token by its renewals: a renewal without a new one has another meaning
//! if each previous one brought one.
//!
//! Stored within the fingerprint of the kind of request that obtained the newest pair, which no import and no other kind
//! of request has: so it ends by itself if the grant or its request changes.

use refreshd_secrets::Fingerprint;

/// Effect of the renewals of one kind on a grant's refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotations {
    /// No renewal brought a new one so far.
    Unknown,
    /// Each renewal brought a new one since the first that did.
    Always,
    /// Some brought none after others did.
    Sometimes,
}

impl Rotations {
    const ALL: [Self; 3] = [Self::Unknown, Self::Always, Self::Sometimes];

    /// The fingerprint to store for a kind of request.
    #[must_use]
    pub fn marked(self, kind: &Fingerprint) -> Fingerprint {
        let word: &[u8] = match self {
            // As earlier versions stored it.
            Self::Unknown => return Fingerprint::from_bytes(*kind.bytes()),
            Self::Always => b"always",
            Self::Sometimes => b"sometimes",
        };
        Fingerprint::of(&[kind.bytes(), word].concat())
    }

    /// Reads a stored fingerprint; `None` if another kind of request obtained the pair, or none did.
    #[must_use]
    pub fn read(stored: Option<&Fingerprint>, kind: &Fingerprint) -> Option<Self> {
        let stored = stored?;
        Self::ALL
            .into_iter()
            .find(|rotations| rotations.marked(kind) == *stored)
    }

    /// After one more renewal.
    #[must_use]
    pub const fn after(self, rotated: bool) -> Self {
        match (self, rotated) {
            (Self::Sometimes, _) | (Self::Always, false) => Self::Sometimes,
            (Self::Unknown | Self::Always, true) => Self::Always,
            (Self::Unknown, false) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_that_rotated_each_time_is_told_from_one_that_rotates_at_times_or_never() {
        let after = |renewals: &[bool]| {
            renewals
                .iter()
                .fold(Rotations::Unknown, |so_far, rotated| so_far.after(*rotated))
        };
        assert_eq!(after(&[false, false]), Rotations::Unknown);
        assert_eq!(after(&[true, true]), Rotations::Always);
        assert_eq!(after(&[true, false, true]), Rotations::Sometimes);
    }

    #[test]
    fn it_is_read_back_for_the_same_kind_of_request_only() {
        let kind = Fingerprint::of(b"kind");
        for rotations in Rotations::ALL {
            let stored = rotations.marked(&kind);
            assert_eq!(Rotations::read(Some(&stored), &kind), Some(rotations));
            assert_eq!(
                Rotations::read(Some(&stored), &Fingerprint::of(b"another")),
                None
            );
        }
        assert_eq!(
            Rotations::read(Some(&kind), &kind),
            Some(Rotations::Unknown)
        );
    }
}
