//! The nearest of several names to a mistyped one, for "did you mean".

/// Number of typing mistakes between a word and a candidate, without regard to case; `None` if there are more than one in
/// three characters.
#[must_use]
pub fn distance(word: &str, candidate: &str) -> Option<usize> {
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    let distance = strsim::osa_distance(&word, &candidate.to_lowercase());
    (distance <= limit).then_some(distance)
}

/// The nearest candidate; the first in alphabetical order of several.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(word, candidate)?, candidate)))
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean NAME?`, or nothing.
#[must_use]
pub fn hint<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    nearest(word, candidates)
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_found_and_another_is_not() {
        let names = ["acme", "acme-news", "globex"];
        for (word, found) in [
            ("acm", Some("acme")),
            ("amce", Some("acme")),
            ("ACME", Some("acme")),
            ("acme-nwes", Some("acme-news")),
            ("globx", Some("globex")),
            ("initech", None),
            ("a", None),
        ] {
            assert_eq!(nearest(word, names), found, "{word}");
        }
    }
}
