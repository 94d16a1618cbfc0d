//! The columns of a grant, written in one place: a statement uses the groups that it changes.
//!
//! `portal` and `candidate` name these columns alike. Must not read: see `rows`.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value};

use super::error::StateError;
use super::rows::to_json;
use crate::domain::portal::{GrantStatus, Phase};
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::refresh_end::RefreshEnd;
use refreshd_token_client::token::{Access, Credential, Details, Tokens, Validity};

/// Columns to write with their values. Each is bound by its own name: the parameter of `phase` is `:phase`.
pub(super) struct Columns<'v> {
    /// Milliseconds by which every time is moved: see `RenewalRecord::claim`.
    moved: i64,
    values: Vec<(&'static str, ToSqlOutput<'v>)>,
}

impl<'v> Columns<'v> {
    /// No columns yet; every time in later ones moves by `moved` milliseconds, as the clock did.
    pub(super) const fn moved(moved: i64) -> Self {
        Self {
            moved,
            values: Vec::new(),
        }
    }

    /// All that [`Self::tokens`] and [`Self::status`] write.
    pub(super) fn grant(
        self,
        tokens: &'v Tokens,
        status: &GrantStatus,
    ) -> Result<Self, StateError> {
        let validity = &tokens.validity;
        self.tokens(tokens)?.validity(validity).status(status)
    }

    /// The credential and the access token.
    pub(super) fn tokens(self, tokens: &'v Tokens) -> Result<Self, StateError> {
        let (refresh, fingerprint) = stored(&tokens.credential);
        let fingerprint = fingerprint.map(|fingerprint| fingerprint.bytes().to_vec());
        self.text(":refresh_token", Some(refresh))
            .owned(":fingerprint", fingerprint)
            .access(tokens.access.as_ref(), &tokens.details)
    }

    /// The access token, and the server's information about it.
    pub(super) fn access(
        self,
        access: Option<&'v Access>,
        details: &Details,
    ) -> Result<Self, StateError> {
        let columns = self
            .text(":access_token", access.map(|access| access.token.expose()))
            .text(":token_type", access.map(|access| &*access.token_type))
            .moment(":issued_at", access.map(|access| access.issued_at))
            .moment(":expires_at", access.map(|access| access.expires_at));
        Ok(columns.owned(":details", Some(to_json(details)?)))
    }

    fn validity(self, validity: &'v Validity) -> Self {
        let Validity { refresh, notice } = validity;
        let (ends_at, since, motion) = match refresh {
            Some(RefreshEnd { at, since, motion }) => {
                (Some(*at), Some(*since), Some(motion.as_str()))
            }
            None => (None, None, None),
        };
        self.moment(":refresh_expires_at", ends_at)
            .moment(":refresh_since", since)
            .text(":refresh_motion", motion)
            .text(":notice", notice.as_deref())
    }

    /// The phase, and the due time of the grant.
    pub(super) fn status(self, status: &GrantStatus) -> Result<Self, StateError> {
        let GrantStatus {
            phase,
            renew_at,
            next_attempt_at,
        } = status;
        let columns = self.phase(phase)?.moment(":renew_at", *renew_at);
        Ok(columns.moment(":next_attempt_at", *next_attempt_at))
    }

    /// The phase; every variant is destructured completely, so that a new field cannot be forgotten.
    pub(super) fn phase(self, phase: &Phase) -> Result<Self, StateError> {
        let (attempt, while_in_doubt) = match phase {
            Phase::Retrying {
                attempt,
                since: _,
                problem: _,
            }
            | Phase::InDoubt {
                attempt,
                since: _,
                problem: _,
            }
            | Phase::ClientRejected {
                attempt,
                since: _,
                problem: _,
            }
            | Phase::Blocked {
                attempt,
                since: _,
                problem: _,
            } => (*attempt, false),
            Phase::NeedsAuthorization {
                since: _,
                problem: _,
                while_in_doubt,
            } => (0, *while_in_doubt),
            Phase::Fresh
            | Phase::Gone {
                since: _,
                problem: _,
            }
            | Phase::OldState {
                since: _,
                problem: _,
            } => (0, false),
        };
        let problem = phase.problem().map(to_json).transpose()?;
        Ok(self
            .text(":phase", Some(phase.kind().as_str()))
            .owned(":attempt", Some(i64::from(attempt)))
            .moment(":since", phase.since())
            .owned(":problem", problem)
            .owned(":while_in_doubt", Some(while_in_doubt)))
    }

    pub(super) fn moment(self, column: &'static str, at: Option<Timestamp>) -> Self {
        let at = at.map(|at| at.shifted(self.moved).millis());
        self.owned(column, at)
    }

    fn text(mut self, column: &'static str, text: Option<&'v str>) -> Self {
        let text = text.map_or(ToSqlOutput::from(rusqlite::types::Null), ToSqlOutput::from);
        self.values.push((column, text));
        self
    }

    fn owned<T: Into<Value>>(mut self, column: &'static str, value: Option<T>) -> Self {
        let value = value.map_or(Value::Null, Into::into);
        self.values.push((column, ToSqlOutput::Owned(value)));
        self
    }

    /// `phase = :phase, attempt = :attempt`, as after `SET`.
    pub(super) fn assignments(&self) -> String {
        self.list(|parameter, column| format!("{column} = {parameter}"))
    }

    /// `phase, attempt`, as after `INSERT INTO`.
    pub(super) fn names(&self) -> String {
        self.list(|_, column| column.to_owned())
    }

    /// `:phase, :attempt`, as after `VALUES`.
    pub(super) fn parameters(&self) -> String {
        self.list(|parameter, _| parameter.to_owned())
    }

    fn list(&self, item: impl Fn(&str, &str) -> String) -> String {
        let items = self.values.iter();
        let items = items.map(|(name, _)| item(name, name.trim_start_matches(':')));
        items.collect::<Vec<_>>().join(", ")
    }

    /// The parameters of a statement: those of these columns, and its `others`.
    pub(super) fn with<'s>(
        &'s self,
        others: &[(&'static str, &'s dyn ToSql)],
    ) -> Vec<(&'static str, &'s dyn ToSql)> {
        let own = self.values.iter();
        own.map(|(name, value)| (*name, value as &dyn ToSql))
            .chain(others.iter().copied())
            .collect()
    }
}

/// A credential's column and its fingerprint. The client's own credential is stored as the empty text, which is no refresh token.
pub(super) fn stored(credential: &Credential) -> (&str, Option<Fingerprint>) {
    match credential {
        Credential::Refresh(token) => (token.expose(), Some(token.fingerprint())),
        Credential::Client => ("", None),
    }
}
