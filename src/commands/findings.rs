//! Findings of `refreshd check`: printed line by line, or at the end as one JSON object.
//!
//! Must not be changed in its form: programs read it. A new key is no new version.

use std::path::Path;

use serde_json::json;

use super::connect::in_configuration;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::config::{Config, ConfigErrors, ConfigFinding, FindingSeverity};

/// Version of the JSON.
const VERSION: u32 = 1;

/// The findings so far.
pub(super) struct Findings {
    is_json: bool,
    found: Vec<ConfigFinding>,
    /// Numbers of portals and apps.
    counts: Option<(usize, usize)>,
}

impl Findings {
    pub(super) const fn new(is_json: bool) -> Self {
        Self {
            is_json,
            found: Vec::new(),
            counts: None,
        }
    }

    /// Notes what the configuration has.
    pub(super) fn count(&mut self, config: &Config) {
        self.counts = Some((config.portals.len(), config.apps.len()));
    }

    /// Tells one.
    pub(super) fn tell(&mut self, finding: ConfigFinding) {
        self.say(&finding.to_string());
        self.found.push(finding);
    }

    /// Tells one about this machine.
    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.tell(ConfigFinding::of_machine(FindingSeverity::Warning, message));
    }

    /// Tells what is no finding.
    pub(super) fn say(&self, text: &str) {
        if !self.is_json {
            terminal::eprintln(text);
        }
    }

    /// The problems of a configuration, as the error with which the command ends.
    pub(super) fn refuse(&mut self, problems: &ConfigErrors) -> CommandError {
        let errors = problems.0.iter();
        let found = errors.map(|problem| ConfigFinding::at(FindingSeverity::Error, problem));
        self.found.extend(found);
        CommandError::new(Exit::Configuration, in_configuration(problems))
    }

    /// The end of the command: as JSON, the result is printed here and an error is one more finding.
    pub(super) fn end(
        mut self,
        config: &Path,
        done: Result<Exit, CommandError>,
    ) -> Result<Exit, CommandError> {
        if !self.is_json {
            return done;
        }
        let exit = match &done {
            Ok(exit) => *exit,
            Err(error) => {
                let is_told = self
                    .found
                    .iter()
                    .any(|finding| finding.severity == FindingSeverity::Error);
                if !is_told {
                    let error = error.message();
                    self.found
                        .push(ConfigFinding::of_machine(FindingSeverity::Error, error));
                }
                error.exit()
            }
        };
        let body = json!({
            "version": VERSION,
            "ok": exit == Exit::Done,
            "config": config,
            "portals": self.counts.map(|(portals, _)| portals),
            "apps": self.counts.map(|(_, apps)| apps),
            "findings": self.found,
        });
        terminal::print(&(serde_json::to_string_pretty(&body).unwrap_or_default() + "\n"));
        Ok(exit)
    }
}
