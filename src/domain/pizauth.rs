//! Parser for `pizauth dump`: the accounts of pizauth with their tokens, in one encrypted file.
//!
//! The encryption protects nothing: its key is a constant of pizauth, so it is known here too.
//! Verified with version 1.1.0; versions since 0.2.2 declare the same layout: a nonce, then under ChaCha20-Poly1305
//! (RFC 8439) the numbers, texts and lists of `Dump` in little endian; each text, list and map is prefixed with its length
//! in 64 bits, each enum variant with its number.
//!
//! Must not reveal content of a dump other than account names, and must not trust a length in it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::zeroize::Zeroizing;

use refreshd_secrets::RefreshToken;

/// Key of every dump.
const KEY: [u8; 32] = [
    0x66, 0xa2, 0x47, 0xa8, 0x5e, 0x48, 0xcf, 0xec, 0xaa, 0xed, 0x9b, 0x36, 0xeb, 0xa9, 0x7d, 0x53,
    0x50, 0xd4, 0x28, 0x63, 0x75, 0x09, 0x7a, 0x44, 0xee, 0xff, 0xb9, 0xc4, 0x54, 0x6b, 0x65, 0xa3,
];

/// The supported version of the content.
const VERSION: u64 = 1;

/// One account of a dump.
#[derive(Debug, Clone)]
pub struct Account {
    /// Name in pizauth's configuration.
    pub name: String,
    /// The client that it is authorized for.
    pub client_id: String,
    /// Refresh token; `None` if the account was not authorized, or got none.
    pub refresh: Option<RefreshToken>,
}

/// Why a dump cannot be parsed. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// Another file, or altered, or truncated.
    #[error("it is neither text nor a whole dump of pizauth")]
    NotADump,
    /// From a later version of pizauth.
    #[error(
        "it is a dump of pizauth in version {0} of its format; only version {VERSION} can be read"
    )]
    Version(u64),
    /// Decrypted, but with an unexpected layout.
    #[error("it is a dump of pizauth, but not laid out as those of version 1.1.0")]
    Layout,
}

/// Why no account can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No account with that name.
    #[error("the dump of pizauth has no account {wanted}, only {}", names.join(", "))]
    Unknown {
        /// The requested name.
        wanted: String,
        /// Available names, sorted.
        names: Vec<String>,
    },
    /// Several accounts, and no name given.
    #[error("the dump of pizauth has several accounts; choose one with --account: {}", names.join(", "))]
    Several {
        /// Available names, sorted.
        names: Vec<String>,
    },
    /// No accounts.
    #[error("the dump of pizauth has no account")]
    Empty,
}

/// Decrypts a dump. The accounts are sorted by name.
///
/// # Errors
/// [`DumpError`].
pub fn open(dump: &[u8]) -> Result<Vec<Account>, DumpError> {
    let (nonce, sealed) = dump
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(DumpError::NotADump)?;
    let mut body = Zeroizing::new(sealed.to_vec());
    let key = UnboundKey::new(&CHACHA20_POLY1305, &KEY).map_err(|_| DumpError::NotADump)?;
    let plain = LessSafeKey::new(key)
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::empty(),
            &mut body,
        )
        .map_err(|_| DumpError::NotADump)?;
    read(plain)
}

/// The account with that name; without one, that with the portal's name, or the only one.
///
/// # Errors
/// [`ChoiceError`] lists the available names.
pub fn choose(
    accounts: Vec<Account>,
    wanted: Option<&str>,
    portal: &str,
) -> Result<Account, ChoiceError> {
    let names = accounts
        .iter()
        .map(|account| account.name.clone())
        .collect();
    let only = accounts.len() == 1 && wanted.is_none();
    let name = wanted.unwrap_or(portal);
    match accounts
        .into_iter()
        .find(|account| only || account.name == name)
    {
        Some(account) => Ok(account),
        None => Err(match wanted {
            _ if Vec::is_empty(&names) => ChoiceError::Empty,
            Some(wanted) => ChoiceError::Unknown {
                wanted: wanted.to_owned(),
                names,
            },
            None => ChoiceError::Several { names },
        }),
    }
}

fn read(plain: &[u8]) -> Result<Vec<Account>, DumpError> {
    let mut rest = DumpReader(plain);
    let version = rest.number().ok_or(DumpError::Layout)?;
    if version != VERSION {
        return Err(DumpError::Version(version));
    }
    let mut accounts = rest.list(DumpReader::account).ok_or(DumpError::Layout)?;
    if !rest.0.is_empty() {
        return Err(DumpError::Layout);
    }
    accounts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(accounts)
}

/// The remaining bytes. Each method consumes one value; `None` if it is missing.
struct DumpReader<'a>(&'a [u8]);

impl<'a> DumpReader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }

    fn option(&mut self) -> Option<Option<&'a str>> {
        match self.array()? {
            [0] => Some(None),
            [1] => self.text().map(Some),
            _ => None,
        }
    }

    /// No memory is reserved for the stated length: a list ends at the latest with the input.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..self.number()? {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn account(&mut self) -> Option<Account> {
        let name = self.text()?.to_owned();
        let _authorization_url = self.text()?;
        let _authorization_fields = self.list(|field| Some((field.text()?, field.text()?)))?;
        let client_id = self.text()?.to_owned();
        let _client_secret = self.option()?;
        let _redirect_uri = self.text()?;
        let _scopes = self.list(Self::text)?;
        let _token_url = self.text()?;
        let refresh = match u32::from_le_bytes(self.array()?) {
            0 => None,
            1 => {
                let _access_token = self.text()?;
                // Obtained at, expires at: seconds and nanoseconds.
                let _times: [u8; 24] = self.array()?;
                self.option()?.and_then(RefreshToken::new)
            }
            _ => return None,
        };
        Some(Account {
            name,
            client_id,
            refresh,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &[u8] = include_bytes!("../../tests/fixtures/pizauth-1.1.0.dump");

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let nonce = [7; NONCE_LEN];
        let mut body = plain.to_vec();
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).unwrap())
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
            .unwrap();
        [&nonce[..], &body].concat()
    }

    fn opened(dump: &[u8]) -> Vec<u8> {
        let (nonce, sealed) = dump.split_first_chunk::<NONCE_LEN>().unwrap();
        let mut body = sealed.to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).unwrap());
        key.open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::empty(),
            &mut body,
        )
        .unwrap()
        .to_vec()
    }

    #[test]
    fn a_dump_of_the_real_program_is_read_whole() {
        let accounts = open(DUMP).unwrap();
        let read: Vec<_> = accounts
            .iter()
            .map(
                |Account {
                     name,
                     client_id,
                     refresh,
                 }| {
                    (
                        name.as_str(),
                        client_id.as_str(),
                        refresh.as_ref().map(RefreshToken::expose),
                    )
                },
            )
            .collect();
        let ours = "local.55d32b338a90f0.23817";
        assert_eq!(
            read,
            [
                ("acme", ours, Some("5bad2d67-acme-refresh")),
                ("globex", "local.another", Some("5bad2d67-globex-refresh")),
                ("hooli", ours, None),
                ("initech", ours, None),
            ]
        );
        assert!(!format!("{accounts:?}").contains("5bad2d"));
    }

    #[test]
    fn a_dump_that_was_cut_or_altered_is_none() {
        for length in 0..DUMP.len() {
            assert_eq!(
                open(&DUMP[..length]).unwrap_err(),
                DumpError::NotADump,
                "{length}"
            );
        }
        for at in 0..DUMP.len() {
            let mut altered = DUMP.to_vec();
            altered[at] ^= 1;
            assert_eq!(open(&altered).unwrap_err(), DumpError::NotADump, "{at}");
        }
    }

    #[test]
    fn what_opens_and_is_laid_out_differently_is_refused() {
        let plain = opened(DUMP);
        assert_eq!(open(&sealed(&plain)).unwrap().len(), 4, "sealed as it was");
        for length in 0..plain.len() {
            assert_eq!(
                open(&sealed(&plain[..length])).unwrap_err(),
                DumpError::Layout,
                "{length}"
            );
        }
        assert_eq!(
            open(&sealed(&[&plain[..], b"\0"].concat())).unwrap_err(),
            DumpError::Layout
        );
        let mut later = plain.clone();
        later[0] = 2;
        assert_eq!(open(&sealed(&later)).unwrap_err(), DumpError::Version(2));
        // Excessive lengths, of the account list and of the first name.
        for at in [8, 16] {
            let mut long = plain.clone();
            long[at..at + 8].fill(0xff);
            assert_eq!(open(&sealed(&long)).unwrap_err(), DumpError::Layout, "{at}");
        }
    }

    #[test]
    fn the_account_is_the_one_named_or_the_portals_or_the_only_one() {
        let chosen =
            |accounts, wanted, portal| choose(accounts, wanted, portal).map(|account| account.name);
        let all = || open(DUMP).unwrap();
        let one = || all().into_iter().take(1).collect::<Vec<_>>();
        assert_eq!(chosen(all(), None, "globex").unwrap(), "globex");
        assert_eq!(chosen(all(), Some("acme"), "globex").unwrap(), "acme");
        assert_eq!(chosen(one(), None, "umbrella").unwrap(), "acme");
        assert_eq!(
            chosen(one(), Some("globex"), "globex").unwrap_err(),
            ChoiceError::Unknown {
                wanted: "globex".into(),
                names: vec!["acme".into()]
            }
        );
        let names = ["acme", "globex", "hooli", "initech"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(
            chosen(all(), None, "umbrella").unwrap_err(),
            ChoiceError::Several { names }
        );
        assert_eq!(
            chosen(Vec::new(), None, "acme").unwrap_err(),
            ChoiceError::Empty
        );
    }
}
