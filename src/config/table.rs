//! A TOML table as a section of the configuration: typed values with their positions.
//!
//! Must not quote a value: a message names the expected form.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{did_you_mean, shown};
use super::renamed::{new_name, old_name};
use super::source::{ConfigSource, Diagnostics, SourceLocation};

/// A table.
#[derive(Clone, Copy)]
pub(super) struct Table<'d> {
    /// Position of its header.
    pub(super) place: SourceLocation<'d>,
    section: &'static str,
    name: Option<&'d str>,
    map: &'d DeTable<'d>,
}

/// A string with its position.
#[derive(Clone, Copy)]
pub(super) struct TextValue<'d> {
    pub(super) value: &'d str,
    pub(super) place: SourceLocation<'d>,
}

impl<'d> Table<'d> {
    /// The root of a file's tree.
    pub(super) fn root(source: &'d ConfigSource, tree: &'d DeTable<'d>) -> Self {
        Self::new(source.place(0, 0), "", None, tree)
    }

    pub(super) const fn new(
        place: SourceLocation<'d>,
        section: &'static str,
        name: Option<&'d str>,
        map: &'d DeTable<'d>,
    ) -> Self {
        Self {
            place,
            section,
            name,
            map,
        }
    }

    /// The file of the table.
    pub(super) const fn source(&self) -> &'d ConfigSource {
        self.place.source
    }

    /// The last part of its header: `crm` of `[apps.crm]`.
    pub(super) fn name(&self) -> TextValue<'d> {
        TextValue {
            value: self.name.unwrap_or_default(),
            place: self.place,
        }
    }

    /// A key and its value; the former name of a renamed key is accepted.
    fn get_key_value(
        &self,
        key: &str,
    ) -> Option<(&'d Spanned<DeString<'d>>, &'d Spanned<DeValue<'d>>)> {
        let map: &'d DeTable<'d> = self.map;
        map.get_key_value(key)
            .or_else(|| map.get_key_value(old_name(key)?))
    }

    fn get(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get_key_value(key).is_some()
    }

    /// A string whose errors are reported elsewhere.
    pub(super) fn peek(&self, key: &str) -> Option<&'d str> {
        self.get(key)?.get_ref().as_str()
    }

    pub(super) fn is_integer(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| integer(value.get_ref()).is_some())
    }

    /// Position of a key.
    pub(super) fn place_of(&self, key: &str) -> Option<SourceLocation<'d>> {
        self.get_key_value(key).map(|(key, _)| self.at(key.span()))
    }

    /// The keys in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = TextValue<'d>> {
        self.map.iter().map(|(key, _)| TextValue {
            value: key.get_ref(),
            place: self.at(key.span()),
        })
    }

    /// Reports unknown keys.
    pub(super) fn only(&self, report: &mut Diagnostics, known: &[&[&'static str]]) {
        for key in self.keys() {
            let mut known = known.iter().flat_map(|keys| keys.iter().copied());
            if let Some(new) =
                new_name(key.value).filter(|new| known.clone().any(|key| key == *new))
            {
                let old = key.value;
                if self.map.contains_key(new) {
                    report.problem(
                        key.place,
                        format!("`{old}` was renamed to `{new}`, and both are there {self}"),
                    );
                } else {
                    report.warning(key.place, format!("`{old}` was renamed to `{new}`"));
                }
            } else if !known.clone().any(|known| known == key.value) {
                let hint = did_you_mean(key.value, &mut known);
                report.problem(
                    key.place,
                    format!("unknown key {} {self}{hint}", shown(key.value)),
                );
            }
        }
    }

    /// A string; the report names the expected value.
    pub(super) fn text_as(
        &self,
        report: &mut Diagnostics,
        key: &str,
        expected: &str,
    ) -> Option<TextValue<'d>> {
        let value = self.get(key)?;
        let place = self.at(value.span());
        if let DeValue::String(text) = value.get_ref() {
            return Some(TextValue { value: text, place });
        }
        report.problem(place, format!("`{key}` must be {expected}"));
        None
    }

    /// A non-empty string.
    pub(super) fn text(&self, report: &mut Diagnostics, key: &str) -> Option<TextValue<'d>> {
        let text = self.text_as(report, key, "a string in quotes")?;
        if text.value.trim().is_empty() {
            report.problem(text.place, format!("`{key}` is empty"));
            return None;
        }
        Some(text)
    }

    /// A required string.
    pub(super) fn required(&self, report: &mut Diagnostics, key: &str) -> Option<TextValue<'d>> {
        if !self.has(key) {
            report.missing(self.place, format!("`{key}` is missing {self}"));
        }
        self.text(report, key)
    }

    /// A boolean.
    pub(super) fn boolean(&self, report: &mut Diagnostics, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be true or false, without quotes"),
            );
        }
        boolean
    }

    /// An integer in a range.
    pub(super) fn integer(
        &self,
        report: &mut Diagnostics,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = self.get(key)?;
        let number = integer(value.get_ref()).filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = range.into_inner();
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    /// A number in a range that excludes 0.
    pub(super) fn number(&self, report: &mut Diagnostics, key: &str, most: f64) -> Option<f64> {
        let value = self.get(key)?;
        let number = match value.get_ref().as_float() {
            Some(float) => float.as_str().parse().ok(),
            None => integer(value.get_ref()).map(|number| number as f64),
        };
        let number = number.filter(|number| *number > 0.0 && *number <= most);
        if number.is_none() {
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be a number above 0, at most {most}"),
            );
        }
        number
    }

    /// A list of strings; with `or_one`, also a single string.
    pub(super) fn texts(
        &self,
        report: &mut Diagnostics,
        key: &str,
        or_one: bool,
    ) -> Option<Vec<TextValue<'d>>> {
        let value = self.get(key)?;
        let text = |value: &'d Spanned<DeValue<'d>>| {
            let place = self.at(value.span());
            value
                .get_ref()
                .as_str()
                .filter(|text| !text.trim().is_empty())
                .map(|value| TextValue { value, place })
        };
        let texts = match value.get_ref().as_array() {
            Some(list) => list.iter().map(text).collect::<Option<Vec<_>>>(),
            None if or_one => text(value).map(|text| vec![text]),
            None => None,
        };
        if texts.is_none() {
            let one = if or_one { "a string or " } else { "" };
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be {one}a list of strings, none of them empty"),
            );
        }
        texts
    }

    /// An integer or a list of them.
    pub(super) fn integers(
        &self,
        report: &mut Diagnostics,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<Vec<i64>> {
        let value = self.get(key)?;
        let number = |value: &DeValue<'_>| integer(value).filter(|number| range.contains(number));
        let numbers = match value.get_ref().as_array() {
            Some(list) => list
                .iter()
                .map(|value| number(value.get_ref()))
                .collect::<Option<Vec<_>>>(),
            None => number(value.get_ref()).map(|number| vec![number]),
        };
        if numbers.is_none() {
            let (least, most) = (range.start(), range.end());
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be a whole number from {least} to {most}, or a list of them"),
            );
        }
        numbers
    }

    /// A subtable, for messages under this section.
    pub(super) fn table(
        &self,
        report: &mut Diagnostics,
        key: &str,
        section: &'static str,
    ) -> Option<Table<'d>> {
        let (key, value) = self.get_key_value(key)?;
        let place = self.at(key.span());
        let Some(map) = value.get_ref().as_table() else {
            report.problem(place, format!("{} must be a table", shown(key.get_ref())));
            return None;
        };
        Some(Table {
            place,
            section,
            name: self.name,
            map,
        })
    }

    /// Subtables by name: `[apps.crm]`, `[apps.shop]`.
    pub(super) fn tables(&self, report: &mut Diagnostics) -> Vec<Table<'d>> {
        let named = self.map.iter().map(|(key, value)| {
            (
                key.get_ref(),
                self.at(key.span()),
                value.get_ref().as_table(),
            )
        });
        named
            .filter_map(|(name, place, map)| {
                let name: &'d str = name;
                if map.is_none() {
                    report.problem(place, format!("{} {self} must be a table", shown(name)));
                }
                Some(Table {
                    place,
                    section: self.section,
                    name: Some(name),
                    map: map?,
                })
            })
            .collect()
    }

    /// A list of tables.
    pub(super) fn list_of_tables(
        &self,
        report: &mut Diagnostics,
        key: &str,
        section: &'static str,
    ) -> Vec<Table<'d>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let tables = value.get_ref().as_array().and_then(|list| {
            let row = |value: &'d Spanned<DeValue<'d>>| {
                let place = self.at(value.span());
                value.get_ref().as_table().map(|map| Table {
                    place,
                    section,
                    name: None,
                    map,
                })
            };
            list.iter().map(row).collect::<Option<Vec<_>>>()
        });
        if tables.is_none() {
            report.problem(
                self.at(value.span()),
                format!("`{key}` must be a list of tables: {section}"),
            );
        }
        tables.unwrap_or_default()
    }

    fn at(&self, span: std::ops::Range<usize>) -> SourceLocation<'d> {
        self.place.source.place(span.start, span.end)
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// For the end of a sentence: `in [apps.crm]`.
impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.section, self.name) {
            ("", _) => f.write_str("at the top level"),
            (section, None) if section.starts_with('[') => write!(f, "in {section}"),
            (section, None) => write!(f, "in [{section}]"),
            (section, Some(name)) if section.starts_with('[') => {
                write!(f, "in {section} of {}", shown(name))
            }
            (section, Some(name)) => write!(f, "in [{section}.{}]", shown(name).trim_matches('`')),
        }
    }
}
