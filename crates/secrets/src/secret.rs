//! Secret types: redacted in `Debug`, without `Display`, zeroized on drop. `expose` is easy to search for.
//!
//! Must not grow a way to print, compare loosely or serialise a secret by accident.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// Wraps a non-empty secret without surrounding white space; `None` if nothing is left.
            #[must_use]
            pub fn new(text: &str) -> Option<Self> {
                let text = text.trim();
                (!text.is_empty()).then(|| Self(SecretString::from(text)))
            }

            /// The secret itself. Pass it to the one place that needs it, never to a log, an error or `format!`.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret!(
    /// A bearer token that readers of the token files use (RFC 6750).
    AccessToken
);
secret!(
    /// The single-use token for the next pair (RFC 6749 section 6). Never leaves the state and the token request.
    RefreshToken
);
secret!(
    /// An OAuth client's secret (RFC 6749 section 2.3.1).
    ClientSecret
);

secret!(
    /// The code in the redirect after an authorization: single use, valid for half a minute at some providers (RFC 6749
    /// section 4.1.2).
    AuthorizationCode
);
secret!(
    /// Proof that the client exchanging a code requested it (RFC 7636 section 4.1).
    CodeVerifier
);
secret!(
    /// The code with which a device polls until the user has entered the user code (RFC 8628 section 3.2).
    DeviceCode
);

secret!(
    /// Proof that an event comes from an installation of an app: the same in all of its events, and otherwise secret.
    ApplicationToken
);
secret!(
    /// Secret of an alert channel: an address, a key, a password.
    ChannelSecret
);
secret!(
    /// Address of a proxy, which may hold a user and a password.
    ProxyAddress
);

/// Body of a reply that may contain tokens: any bytes.
pub struct ReplyBody(SecretBox<[u8]>);

impl ReplyBody {
    /// Wraps the bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretBox::new(bytes.into_boxed_slice()))
    }

    /// The bytes, for the reader of replies, for the state, or for an operator who requested them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.expose().len()
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyBody({} bytes)", self.length())
    }
}

impl RefreshToken {
    /// SHA-256 of the token: recognises a token without storing it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.expose().as_bytes())
    }
}

impl AccessToken {
    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.expose().as_bytes(), other.expose().as_bytes())
            .is_ok()
    }
}

impl ApplicationToken {
    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.expose().as_bytes(), other.expose().as_bytes())
            .is_ok()
    }
}

impl ProxyAddress {
    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.expose().as_bytes(), other.expose().as_bytes())
            .is_ok()
    }
}

/// A SHA-256 digest. Distinguishes secrets without being one; prints as its first eight hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// The 32 bytes, for storage.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Digest from stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A number in [0, 1) that depends on the digest only.
    #[must_use]
    pub fn unit(&self) -> f64 {
        let [a, b, c, d, ..] = self.0;
        f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(4)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_blind_and_white_space_is_not_part_of_a_secret() {
        let token = RefreshToken::new(" 5bad2d67006e\n").unwrap();
        assert_eq!(format!("{token:?}"), "RefreshToken(…)");
        assert_eq!(token.expose(), "5bad2d67006e");
        assert!(AccessToken::new(" \n").is_none());
    }

    #[test]
    fn application_tokens_are_compared_as_a_whole() {
        let token = |text| ApplicationToken::new(text).unwrap();
        assert!(token("51856fef").is(&token("51856fef")));
        assert!(!token("51856fef").is(&token("51856fee")));
        assert!(!token("51856fef").is(&token("51856fe")));
    }

    #[test]
    fn a_fingerprint_tells_tokens_apart() {
        let one = RefreshToken::new("one").unwrap().fingerprint();
        assert_eq!(one, RefreshToken::new("one").unwrap().fingerprint());
        assert_ne!(one, RefreshToken::new("two").unwrap().fingerprint());
        assert_eq!(one.to_string(), "7692c3ad");
        assert!((0.0..1.0).contains(&one.unit()));
    }
}
