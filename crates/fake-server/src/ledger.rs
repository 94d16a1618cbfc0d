//! Records of the fake server: portals, their grants, and every pair of tokens of each grant.
//!
//! Must not judge a request: `authority` does. Keeps the last [`HISTORY`] pairs of a grant.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::mint::Mint;
use refreshd_time::Timestamp;

/// Pairs kept of one grant; an older token counts as never issued.
const HISTORY: usize = 1000;
/// Access tokens kept of one pair, where renewals do not rotate.
const ACCESSES: usize = 100;
/// Lifetime encoded in a refresh token; it is not enforced, as it may not be at Bitrix24.
const REFRESH_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// Default owner of a grant.
pub(super) const USER_ID: u64 = 1;

/// A portal; [`Ledger::portal`] finds it by any of its names.
#[derive(Debug)]
pub(super) struct FakePortal {
    pub(super) domain: String,
    pub(super) member_id: String,
    pub(super) installed: bool,
    pub(super) newest_grant: Option<usize>,
    pub(super) renewals: u64,
    pub(super) requests: u64,
    /// Permits one replay of a token whose reply was delivered: the test killed its client.
    pub(super) replay_allowed: bool,
    /// Last time that such a token was presented and answered: a dead grant may be retried later.
    pub(super) answered_replay: Option<(PairIndex, Timestamp)>,
}

/// A chain of pairs, from one authorization.
#[derive(Debug)]
pub(super) struct IssuedGrants {
    pub(super) portal: usize,
    pub(super) client_id: String,
    pub(super) user_id: u64,
    pub(super) revoked: bool,
    pub(super) flights: Vec<InFlight>,
    first: u64,
    pairs: VecDeque<IssuedPair>,
}

/// One generation of a grant.
#[derive(Debug)]
pub(super) struct IssuedPair {
    pub(super) access: Arc<str>,
    pub(super) refresh: Arc<str>,
    pub(super) expires_at: Timestamp,
    pub(super) lifetime: Duration,
    /// Set when the refresh token was exchanged for the next pair.
    pub(super) spent: Option<SpentToken>,
    accesses: VecDeque<Arc<str>>,
}

/// Record of a spent refresh token.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpentToken {
    pub(super) at: Timestamp,
    /// The reply with the next pair was sent completely: the client knows the next token.
    pub(super) delivered: bool,
    /// Neither a fault nor a replay was involved.
    pub(super) clean: bool,
}

/// A request without a response.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: u64,
    /// Arrival of another request for the same grant.
    pub(super) overlapped_at: Option<Timestamp>,
}

/// Position of a refresh token in the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairIndex {
    pub(super) grant: usize,
    pub(super) number: u64,
}

#[derive(Debug)]
struct Issued {
    grant: usize,
    expires_at: Timestamp,
    dead: bool,
}

/// State of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Valid.
    Good,
    /// Spent, and the reply with the next pair was sent completely.
    Spent,
    /// Spent, and the reply was lost.
    SpentUndelivered,
    /// Its grant is dead, or its portal has no such application.
    Revoked,
    /// Never issued, or too long ago.
    Unknown,
}

/// State of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedAccess {
    /// Host of its portal, by the newest name.
    pub domain: String,
    /// Expiry.
    pub expires_at: Timestamp,
    /// True if no newer one was issued for its grant.
    pub current: bool,
    /// True if it was revoked before its expiry.
    pub revoked: bool,
}

/// Records of all portals.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) mint: Mint,
    pub(super) portals: Vec<FakePortal>,
    pub(super) grants: Vec<IssuedGrants>,
    names: HashMap<String, usize>,
    refreshes: HashMap<Arc<str>, PairIndex>,
    accesses: HashMap<Arc<str>, Issued>,
}

impl IssuedGrants {
    pub(super) fn newest(&self) -> u64 {
        (self.first + self.pairs.len() as u64).saturating_sub(1)
    }

    pub(super) fn pair(&self, number: u64) -> Option<&IssuedPair> {
        self.pairs
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn pair_mut(&mut self, number: u64) -> Option<&mut IssuedPair> {
        self.pairs
            .get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Record of the spending of that pair's refresh token; `None` while it is unspent.
    pub(super) fn spent(&self, number: u64) -> Option<SpentToken> {
        self.pair(number)?.spent
    }

    pub(super) fn spent_mut(&mut self, number: u64) -> Option<&mut SpentToken> {
        self.pair_mut(number)?.spent.as_mut()
    }
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            mint: Mint::new(seed),
            portals: Vec::new(),
            grants: Vec::new(),
            names: HashMap::new(),
            refreshes: HashMap::new(),
            accesses: HashMap::new(),
        }
    }

    /// Portal that has or had this host.
    pub(super) fn portal(&self, domain: &str) -> Option<usize> {
        self.names.get(domain).copied()
    }

    /// Portal with this host, created if it is unknown.
    pub(super) fn portal_or_new(&mut self, domain: &str) -> usize {
        if let Some(portal) = self.portal(domain) {
            return portal;
        }
        self.portals.push(FakePortal {
            domain: domain.to_owned(),
            member_id: self.mint.hex(32),
            installed: false,
            newest_grant: None,
            renewals: 0,
            requests: 0,
            replay_allowed: false,
            answered_replay: None,
        });
        self.names.insert(domain.to_owned(), self.portals.len() - 1);
        self.portals.len() - 1
    }

    /// Renames a portal; the old name still refers to it.
    pub(super) fn rename(&mut self, domain: &str, new_domain: &str) {
        if let Some(portal) = self.portal(domain) {
            new_domain.clone_into(&mut self.portals[portal].domain);
            self.names.insert(new_domain.to_owned(), portal);
        }
    }

    /// Creates a grant with its first pair.
    pub(super) fn grant(
        &mut self,
        portal: usize,
        (client_id, user_id): (&str, u64),
        lifetime: Duration,
        now: Timestamp,
    ) -> PairIndex {
        let grant = self.grants.len();
        self.grants.push(IssuedGrants {
            portal,
            client_id: client_id.to_owned(),
            user_id,
            revoked: false,
            flights: Vec::new(),
            first: 0,
            pairs: VecDeque::new(),
        });
        self.portals[portal].newest_grant = Some(grant);
        self.add_pair(grant, lifetime, now)
    }

    /// Spends the latest refresh token of a grant and returns the position of the next.
    pub(super) fn rotate(
        &mut self,
        grant: usize,
        spent: SpentToken,
        lifetime: Duration,
        old_dies: bool,
    ) -> PairIndex {
        let newest = self.grants[grant].newest();
        if let Some(pair) = self.grants[grant].pair_mut(newest) {
            pair.spent = Some(spent);
        }
        self.portals[self.grants[grant].portal].renewals += 1;
        if old_dies {
            self.end_access(grant);
        }
        self.add_pair(grant, lifetime, spent.at)
    }

    /// Issues a new access token for the latest refresh token.
    pub(super) fn reissue(
        &mut self,
        grant: usize,
        lifetime: Duration,
        old_dies: bool,
        now: Timestamp,
    ) {
        if old_dies {
            self.end_access(grant);
        }
        let access = self.new_access(grant, lifetime, now);
        let newest = self.grants[grant].newest();
        let Some(pair) = self.grants[grant].pair_mut(newest) else {
            return;
        };
        pair.access = access.clone();
        pair.expires_at = now + lifetime;
        pair.lifetime = lifetime;
        pair.accesses.push_back(access);
        if pair.accesses.len() > ACCESSES
            && let Some(oldest) = pair.accesses.pop_front()
        {
            self.accesses.remove(&oldest);
        }
    }

    pub(super) fn refresh(&self, token: &str) -> Option<PairIndex> {
        self.refreshes.get(token).copied()
    }

    pub(super) fn access(&self, token: &str) -> Option<IssuedAccess> {
        let issued = self.accesses.get(token)?;
        let grant = &self.grants[issued.grant];
        let portal = &self.portals[grant.portal];
        let newest = grant.pair(grant.newest())?;
        Some(IssuedAccess {
            domain: portal.domain.clone(),
            expires_at: issued.expires_at,
            current: &*newest.access == token,
            revoked: issued.dead || grant.revoked || !portal.installed,
        })
    }

    /// Grant and expiry of an access token; `None` if it is unknown or no longer valid.
    pub(super) fn grant_of_access(&self, token: &str) -> Option<(&IssuedGrants, Timestamp)> {
        let issued = self.accesses.get(token).filter(|issued| !issued.dead)?;
        Some((&self.grants[issued.grant], issued.expires_at))
    }

    fn end_access(&mut self, grant: usize) {
        let grant = &self.grants[grant];
        for token in grant
            .pair(grant.newest())
            .iter()
            .flat_map(|pair| &pair.accesses)
        {
            if let Some(issued) = self.accesses.get_mut(token) {
                issued.dead = true;
            }
        }
    }

    fn new_access(&mut self, grant: usize, lifetime: Duration, now: Timestamp) -> Arc<str> {
        let expires_at = now + lifetime;
        let access = self.mint.token(
            expires_at,
            self.grants[grant].portal,
            grant,
            self.grants[grant].user_id,
        );
        self.accesses.insert(
            access.clone(),
            Issued {
                grant,
                expires_at,
                dead: false,
            },
        );
        access
    }

    fn add_pair(&mut self, grant: usize, lifetime: Duration, now: Timestamp) -> PairIndex {
        let access = self.new_access(grant, lifetime, now);
        let refresh = self.mint.token(
            now + REFRESH_LIFETIME,
            self.grants[grant].portal,
            grant,
            self.grants[grant].user_id,
        );
        let books = &mut self.grants[grant];
        books.pairs.push_back(IssuedPair {
            accesses: [access.clone()].into(),
            access,
            refresh: refresh.clone(),
            expires_at: now + lifetime,
            lifetime,
            spent: None,
        });
        if books.pairs.len() > HISTORY
            && let Some(oldest) = books.pairs.pop_front()
        {
            books.first += 1;
            self.refreshes.remove(&oldest.refresh);
            oldest.accesses.iter().for_each(|access| {
                self.accesses.remove(access);
            });
        }
        let place = PairIndex {
            grant,
            number: books.newest(),
        };
        self.refreshes.insert(refresh, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_do_not_grow_without_end() {
        let mut books = Ledger::new(1);
        let portal = books.portal_or_new("acme.bitrix24.com");
        let first = books.grant(
            portal,
            ("local.1", USER_ID),
            Duration::from_secs(60),
            Timestamp::default(),
        );
        let token = books.grants[0].pair(first.number).unwrap().refresh.clone();
        let spent = SpentToken {
            at: Timestamp::default(),
            delivered: true,
            clean: true,
        };
        for _ in 0..HISTORY - 1 {
            books.rotate(0, spent, Duration::from_secs(60), false);
        }
        assert_eq!(books.refresh(&token), Some(first));
        books.rotate(0, spent, Duration::from_secs(60), false);
        assert_eq!(books.refresh(&token), None);
        (0..ACCESSES + 5)
            .for_each(|_| books.reissue(0, Duration::from_secs(60), false, Timestamp::default()));
        assert_eq!(
            (books.refreshes.len(), books.accesses.len()),
            (HISTORY, HISTORY - 1 + ACCESSES)
        );
        assert_eq!(books.grants[0].newest(), HISTORY as u64);
        assert!(books.grants[0].pair(0).is_none() && books.grants[0].spent(1).is_some());
    }
}
