//! Records that the state has refused so far, as bytes that survive the process: written by one process and read by the next,
//! or by another version of it.
//!
//! Must not be read partially: a single changed byte invalidates all of it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::candidates::{CandidateOutcome, RecordCandidate};
use super::grant_store::NewGrant;
use super::rows::phase_of;
use crate::domain::candidate::TokenPair;
use crate::domain::kept_reply::{ReplyTo, SentToken, UnreadableReply};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, GrantStatus, Kind, Phase};
use crate::domain::record::RenewalRecord;
use crate::domain::renewal::Renewed;
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken, ReplyBody};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::token::{Access, Credential, Details, Generation, Tokens, Validity};

/// Prefix; a space, the format's number, a space, the checksum in base64 and a newline follow, then JSON.
const MAGIC: &str = "refreshd-unsaved";
/// Number of the format. It increases if the meaning of a field changes, or if a reader must know a new one.
const FORMAT: u32 = 1;

/// Records to carry over.
#[derive(Debug)]
pub enum Unsaved<'u> {
    /// The pair of a claimed renewal, and the grant that was sent for it.
    Renewal(&'u RenewalRecord, &'u Renewed, SentToken),
    /// The pair that verified a claimed candidate.
    Candidate(&'u RecordCandidate, &'u Renewed),
    /// A grant that the server has just issued, and the portal's grant at that time.
    Grant(&'u NewGrant, SentToken),
    /// An unreadable response.
    Reply(&'u PortalName, &'u UnreadableReply),
    /// A superseded pair, and its time of receipt.
    Aside(&'u PortalName, &'u TokenPair, Timestamp),
}

/// The pair of a renewal or of a candidate, to be recorded.
#[derive(Debug)]
pub struct CarriedPair {
    /// The app.
    pub app: String,
    /// See `RenewalRecord::claim`.
    pub claim: (ClaimId, Timestamp),
    /// The pair.
    pub renewed: Box<Renewed>,
    /// See `RenewalRecord::bought_by`.
    pub bought_by: Option<Fingerprint>,
    /// Time of receipt.
    pub now: Timestamp,
}

/// A carried record.
#[derive(Debug)]
pub struct Carried {
    /// Its portal.
    pub portal: PortalName,
    /// Its content.
    pub load: Load,
}

/// See [`Unsaved`].
#[derive(Debug)]
pub enum Load {
    /// The pair of a claimed renewal, and the grant that was sent for it.
    Renewal(CarriedPair, SentToken),
    /// The pair that verified a claimed candidate.
    Candidate(CarriedPair),
    /// A grant that the server has just issued, and the portal's grant at that time.
    Grant(Box<NewGrant>, SentToken),
    /// An unreadable response.
    Reply(Arc<UnreadableReply>),
    /// A superseded pair, and its time of receipt.
    Aside(Arc<TokenPair>, Timestamp),
}

/// Reason for which bytes cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyDamage {
    /// Another program wrote them.
    #[error("it is not refreshd's")]
    Foreign,
    /// Another version of this program wrote it.
    #[error("it is of format {0}, this version of refreshd reads format {FORMAT}")]
    Format(u32),
    /// A part is missing or changed.
    #[error("it is damaged: its checksum is wrong")]
    Checksum,
    /// A bug, since its checksum is valid.
    #[error("its content is unknown to this version of refreshd")]
    Unclear,
}

impl Unsaved<'_> {
    /// The bytes; they contain secrets.
    #[must_use]
    pub fn encode(&self) -> ReplyBody {
        // The only possible error is a map with keys that are no text, and there is none.
        let json = serde_json::to_vec(&Form::of(self)).unwrap_or_default();
        let sum = STANDARD.encode(Fingerprint::of(&json).bytes());
        let mut bytes = format!("{MAGIC} {FORMAT} {sum}\n").into_bytes();
        bytes.extend_from_slice(&json);
        drop(ReplyBody::new(json));
        ReplyBody::new(bytes)
    }
}

impl Carried {
    /// Parses the bytes.
    ///
    /// # Errors
    /// [`CopyDamage`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CopyDamage> {
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(CopyDamage::Foreign)?;
        let (head, json) = (&bytes[..end], &bytes[end + 1..]);
        let head = std::str::from_utf8(head).map_err(|_| CopyDamage::Foreign)?;
        let mut words = head.split(' ');
        let (magic, format, sum) = (words.next(), words.next(), words.next());
        let format = format
            .and_then(|format| format.parse().ok())
            .filter(|_| magic == Some(MAGIC));
        match format.ok_or(CopyDamage::Foreign)? {
            FORMAT => {}
            other => return Err(CopyDamage::Format(other)),
        }
        let right = STANDARD.encode(Fingerprint::of(json).bytes());
        if sum != Some(right.as_str()) || words.next().is_some() {
            return Err(CopyDamage::Checksum);
        }
        // serde_json's own error may quote a value.
        let form: Form = serde_json::from_slice(json).map_err(|_| CopyDamage::Unclear)?;
        form.read().ok_or(CopyDamage::Unclear)
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    portal: String,
    load: LoadForm,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LoadForm {
    Renewal(PairForm, SentForm),
    Candidate(PairForm),
    Grant(Box<GrantForm>, SentForm),
    Reply(ReplyForm),
    Aside(AsideForm),
}

#[derive(Serialize, Deserialize)]
struct PairForm {
    app: String,
    claim: (i64, i64),
    tokens: TokensForm,
    status: StandingForm,
    identity: Option<String>,
    token_url: Option<String>,
    renamed_from: Option<String>,
    bought_by: Option<Digest>,
    now: i64,
}

#[derive(Serialize, Deserialize)]
struct GrantForm {
    tokens: TokensForm,
    status: StandingForm,
    identity: Option<String>,
    bound_to: Digest,
    token_url: String,
    proven: Option<String>,
    now: i64,
}

#[derive(Serialize, Deserialize)]
struct SentForm {
    generation: u64,
    token: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
struct TokensForm {
    access: Option<AccessForm>,
    /// `None`: the client's own credentials.
    refresh: Option<Shown<RefreshToken>>,
    details: Details,
    /// Expiry of the refresh token, since when it is known, and the effect of renewals on it.
    refresh_end: Option<(i64, i64, String)>,
    notice: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct AccessForm {
    token: Shown<AccessToken>,
    token_type: String,
    issued_at: i64,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct StandingForm {
    phase: Kind,
    attempt: u32,
    since: Option<i64>,
    problem: Option<Problem>,
    doubtful: bool,
    renew_at: Option<i64>,
    act_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct ReplyForm {
    at: i64,
    /// `None`: it answers an authorization.
    answers: Option<SentForm>,
    status: u16,
    content_type: Option<String>,
    content_encoding: Option<String>,
    whole: bool,
    body: String,
}

#[derive(Serialize, Deserialize)]
struct AsideForm {
    access: Option<Shown<AccessToken>>,
    refresh: Option<Shown<RefreshToken>>,
    identity: Option<String>,
    now: i64,
}

/// An exposed secret.
struct Shown<T>(T);

macro_rules! shown {
    ($secret:ident) => {
        impl Serialize for Shown<$secret> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.expose())
            }
        }

        impl<'de> Deserialize<'de> for Shown<$secret> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let secret = $secret::new(&text);
                drop(ReplyBody::new(text.into_bytes()));
                secret
                    .map(Self)
                    .ok_or_else(|| serde::de::Error::custom("an empty secret"))
            }
        }
    };
}

shown!(AccessToken);
shown!(RefreshToken);

/// A fingerprint in base64.
#[derive(Serialize, Deserialize)]
struct Digest(String);

impl Digest {
    fn of(fingerprint: &Fingerprint) -> Self {
        Self(STANDARD.encode(fingerprint.bytes()))
    }

    fn read(&self) -> Option<Fingerprint> {
        STANDARD
            .decode(&self.0)
            .ok()?
            .try_into()
            .ok()
            .map(Fingerprint::from_bytes)
    }
}

/// `Some(None)` for an absent value; `None` for an unreadable one.
fn read_digest(digest: Option<&Digest>) -> Option<Option<Fingerprint>> {
    digest.map_or(Some(None), |digest| digest.read().map(Some))
}

const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

impl Form {
    fn of(unsaved: &Unsaved<'_>) -> Self {
        let (portal, load) = match unsaved {
            Unsaved::Renewal(record, renewed, sent) => {
                let RenewalRecord {
                    portal,
                    app,
                    claim,
                    bought_by,
                    now,
                    ..
                } = record;
                let pair = PairForm::of(app, *claim, renewed, bought_by.as_ref(), *now);
                (portal, LoadForm::Renewal(pair, SentForm::of(sent)))
            }
            Unsaved::Candidate(record, renewed) => {
                let RecordCandidate {
                    portal,
                    app,
                    claim,
                    outcome: _,
                    now,
                } = record;
                (
                    portal,
                    LoadForm::Candidate(PairForm::of(app, *claim, renewed, None, *now)),
                )
            }
            Unsaved::Grant(grant, sent) => (
                &grant.portal,
                LoadForm::Grant(Box::new(GrantForm::of(grant)), SentForm::of(sent)),
            ),
            Unsaved::Reply(portal, reply) => (*portal, LoadForm::Reply(ReplyForm::of(reply))),
            Unsaved::Aside(
                portal,
                TokenPair {
                    access,
                    refresh,
                    identity,
                },
                now,
            ) => {
                let (access, refresh) = (access.clone().map(Shown), refresh.clone().map(Shown));
                let aside = AsideForm {
                    access,
                    refresh,
                    identity: identity.clone(),
                    now: now.millis(),
                };
                (*portal, LoadForm::Aside(aside))
            }
        };
        Self {
            portal: portal.to_string(),
            load,
        }
    }

    fn read(self) -> Option<Carried> {
        let portal = PortalName::parse(&self.portal).ok()?;
        let load = match self.load {
            LoadForm::Renewal(pair, sent) => Load::Renewal(pair.read()?, sent.read()?),
            LoadForm::Candidate(pair) => Load::Candidate(pair.read()?),
            LoadForm::Grant(grant, sent) => {
                Load::Grant(Box::new(grant.read(&portal)?), sent.read()?)
            }
            LoadForm::Reply(reply) => Load::Reply(Arc::new(reply.read()?)),
            LoadForm::Aside(AsideForm {
                access,
                refresh,
                identity,
                now,
            }) => {
                let (access, refresh) = (access.map(|shown| shown.0), refresh.map(|shown| shown.0));
                Load::Aside(
                    Arc::new(TokenPair {
                        access,
                        refresh,
                        identity,
                    }),
                    at(now),
                )
            }
        };
        Some(Carried { portal, load })
    }
}

impl PairForm {
    fn of(
        app: &str,
        claim: (ClaimId, Timestamp),
        renewed: &Renewed,
        bought_by: Option<&Fingerprint>,
        now: Timestamp,
    ) -> Self {
        let Renewed {
            tokens,
            status,
            identity,
            token_url,
            renamed_from,
        } = renewed;
        Self {
            app: app.to_owned(),
            claim: (claim.0.0, claim.1.millis()),
            tokens: TokensForm::of(tokens),
            status: StandingForm::of(status),
            identity: identity.clone(),
            token_url: token_url.clone(),
            renamed_from: renamed_from.clone(),
            bought_by: bought_by.map(Digest::of),
            now: now.millis(),
        }
    }

    fn read(self) -> Option<CarriedPair> {
        let Self {
            app,
            claim,
            tokens,
            status,
            identity,
            token_url,
            renamed_from,
            bought_by,
            now,
        } = self;
        let (tokens, status) = (tokens.read(), status.read()?);
        Some(CarriedPair {
            app,
            claim: (ClaimId(claim.0), at(claim.1)),
            renewed: Box::new(Renewed {
                tokens,
                status,
                identity,
                token_url,
                renamed_from,
            }),
            bought_by: read_digest(bought_by.as_ref())?,
            now: at(now),
        })
    }
}

impl GrantForm {
    fn of(grant: &NewGrant) -> Self {
        let NewGrant {
            portal: _,
            tokens,
            identity,
            bound_to,
            token_url,
            status,
            proven,
            now,
        } = grant;
        Self {
            tokens: TokensForm::of(tokens),
            status: StandingForm::of(status),
            identity: identity.clone(),
            bound_to: Digest::of(bound_to),
            token_url: token_url.clone(),
            proven: proven.clone(),
            now: now.millis(),
        }
    }

    fn read(self, portal: &PortalName) -> Option<NewGrant> {
        let Self {
            tokens,
            status,
            identity,
            bound_to,
            token_url,
            proven,
            now,
        } = self;
        Some(NewGrant {
            portal: portal.clone(),
            tokens: tokens.read(),
            identity,
            bound_to: bound_to.read()?,
            token_url,
            status: status.read()?,
            proven,
            now: at(now),
        })
    }
}

impl SentForm {
    fn of(sent: &SentToken) -> Self {
        Self {
            generation: sent.generation.0,
            token: sent.token.as_ref().map(Digest::of),
        }
    }

    fn read(&self) -> Option<SentToken> {
        Some(SentToken {
            generation: Generation(self.generation),
            token: read_digest(self.token.as_ref())?,
        })
    }
}

impl TokensForm {
    fn of(tokens: &Tokens) -> Self {
        let Tokens {
            access,
            credential,
            details,
            validity: Validity { refresh, notice },
        } = tokens;
        let access = access.clone().map(
            |Access {
                 token,
                 token_type,
                 issued_at,
                 expires_at,
             }| AccessForm {
                token: Shown(token),
                token_type,
                issued_at: issued_at.millis(),
                expires_at: expires_at.millis(),
            },
        );
        let end = |RefreshEnd { at, since, motion }: RefreshEnd| {
            (at.millis(), since.millis(), motion.as_str().to_owned())
        };
        Self {
            access,
            refresh: credential.refresh().cloned().map(Shown),
            details: details.clone(),
            refresh_end: refresh.map(end),
            notice: notice.clone(),
        }
    }

    fn read(self) -> Tokens {
        let Self {
            access,
            refresh,
            details,
            refresh_end,
            notice,
        } = self;
        let access = access.map(
            |AccessForm {
                 token,
                 token_type,
                 issued_at,
                 expires_at,
             }| Access {
                token: token.0,
                token_type,
                issued_at: at(issued_at),
                expires_at: at(expires_at),
            },
        );
        let end = |(ends, since, motion): (i64, i64, String)| RefreshEnd {
            at: at(ends),
            since: at(since),
            motion: Motion::parse(&motion),
        };
        Tokens {
            access,
            credential: refresh.map_or(Credential::Client, |shown| Credential::Refresh(shown.0)),
            details,
            validity: Validity {
                refresh: refresh_end.map(end),
                notice,
            },
        }
    }
}

impl StandingForm {
    fn of(status: &GrantStatus) -> Self {
        let GrantStatus {
            phase,
            renew_at,
            next_attempt_at: act_at,
        } = status;
        let doubtful = matches!(
            phase,
            Phase::NeedsAuthorization {
                while_in_doubt: true,
                ..
            }
        );
        Self {
            phase: phase.kind(),
            attempt: phase.attempt(),
            since: phase.since().map(Timestamp::millis),
            problem: phase.problem().cloned(),
            doubtful,
            renew_at: renew_at.map(Timestamp::millis),
            act_at: act_at.map(Timestamp::millis),
        }
    }

    fn read(self) -> Option<GrantStatus> {
        let Self {
            phase,
            attempt,
            since,
            problem,
            doubtful,
            renew_at,
            act_at,
        } = self;
        let phase = phase_of(phase, attempt, since.map(at).zip(problem), doubtful)?;
        Some(GrantStatus {
            phase,
            renew_at: renew_at.map(at),
            next_attempt_at: act_at.map(at),
        })
    }
}

impl ReplyForm {
    fn of(reply: &UnreadableReply) -> Self {
        let UnreadableReply {
            at,
            answers,
            status,
            content_type,
            content_encoding,
            whole,
            body,
        } = reply;
        let answers = match answers {
            ReplyTo::Renewal(sent) | ReplyTo::WithoutRefresh(sent) => Some(SentForm::of(sent)),
            ReplyTo::Authorization => None,
        };
        Self {
            at: at.millis(),
            answers,
            status: *status,
            content_type: content_type.clone(),
            content_encoding: content_encoding.clone(),
            whole: *whole,
            body: STANDARD.encode(body.expose()),
        }
    }

    fn read(self) -> Option<UnreadableReply> {
        let Self {
            at: came,
            answers,
            status,
            content_type,
            content_encoding,
            whole,
            body,
        } = self;
        let answers = match answers {
            Some(sent) => ReplyTo::Renewal(sent.read()?),
            None => ReplyTo::Authorization,
        };
        let body = ReplyBody::new(STANDARD.decode(body).ok()?);
        Some(UnreadableReply {
            at: at(came),
            answers,
            status,
            content_type,
            content_encoding,
            whole,
            body,
        })
    }
}

impl<'u> Unsaved<'u> {
    /// The part of a candidate's record that must not be lost with the process, if any.
    #[must_use]
    pub fn of_candidate(record: &'u RecordCandidate) -> Option<Self> {
        match &record.outcome {
            CandidateOutcome::Proved(renewed) => Some(Self::Candidate(record, renewed)),
            CandidateOutcome::Another(pair) => Some(Self::Aside(&record.portal, pair, record.now)),
            CandidateOutcome::Refused | CandidateOutcome::Waits(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "carried_tests.rs"]
mod tests;
