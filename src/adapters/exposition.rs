//! Formats in which `/metrics` is served: OpenMetrics 1.0.0 to those that accept it, the Prometheus text format 0.0.4 to
//! everybody else. Older scrapers and `promtool check metrics` reject the types `info` and `unknown`.

use std::collections::HashMap;

/// Format of a metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Text,
}

impl ExpositionFormat {
    /// Selects the format by the header `Accept` of a request (RFC 9110 section 12.5.1). OpenMetrics must be named and be at
    /// least as welcome as a text: `*/*` does not ask for it.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: HashMap<_, _> = parts.filter_map(|part| part.split_once('=')).collect();
            let weight = match parameters.get("q") {
                Some(weight) => weight.parse().unwrap_or(0.0),
                None => 1.0,
            };
            match kind.as_str() {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" => text = text.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts a page in OpenMetrics to this format. Samples are the same in both; families differ in name and type.
    #[must_use]
    pub fn convert(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Text => as_text(&page),
        }
    }
}

fn as_text(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    // In OpenMetrics a family's HELP precedes its TYPE, by which its name is decided.
    let mut help = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            (line.strip_prefix("# TYPE ")).and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                out.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain;q=0.5, Application/OpenMetrics-Text; version=0.0.1; q=0.5",
        ] {
            let format = ExpositionFormat::accepted(Some(accept));
            assert_eq!(format, ExpositionFormat::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain",
            "text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
        ] {
            let format = ExpositionFormat::accepted(Some(accept));
            assert_eq!(format, ExpositionFormat::Text, "{accept}");
        }
        assert_eq!(ExpositionFormat::accepted(None), ExpositionFormat::Text);
    }

    #[test]
    fn families_get_the_names_of_their_samples() {
        let page = "# HELP a Counted # things.\n# TYPE a counter\na_total{x=\"# y\"} 1\n\
                    # HELP b About.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c_seconds Time.\n# TYPE c_seconds unknown\n# UNIT c_seconds seconds\nc_seconds 2\n\
                    # HELP d D.\n# TYPE d histogram\nd_bucket{le=\"1.0\"} 1\n# EOF\n";
        assert_eq!(
            ExpositionFormat::Text.convert(page.to_owned()),
            "# HELP a_total Counted # things.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n\
             # HELP b_info About.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
             # HELP c_seconds Time.\n# TYPE c_seconds untyped\nc_seconds 2\n\
             # HELP d D.\n# TYPE d histogram\nd_bucket{le=\"1.0\"} 1\n"
        );
        assert_eq!(ExpositionFormat::OpenMetrics.convert(page.to_owned()), page);
    }
}
