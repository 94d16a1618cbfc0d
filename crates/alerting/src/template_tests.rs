//! Rendered templates, and errors of those that cannot be rendered.

use super::*;

fn made(source: &str, content_type: &str) -> String {
    Template::new(source, content_type)
        .render(&samples()[0], "host-1", None, SAMPLE_TIME)
        .unwrap()
}

fn fault(source: &str) -> String {
    Template::new(source, "application/json")
        .check()
        .unwrap_err()
        .to_string()
}

#[test]
fn values_are_escaped_for_what_is_made() {
    let json = made(
        "{\"t\": {{ reason }}, \"p\": {{ portals }}, \"u\": {{ url }}}",
        "application/json; v=1",
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["t"], samples()[0].reason);
    assert_eq!(
        (&json["p"][0], &json["u"]),
        (&"acme".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        made("<p>{{ reason }}", "text/html").matches("<b>").count(),
        0
    );
    assert_eq!(made("{{ name }} {{ event }}", "text/plain"), "acme opened");
    assert_eq!(
        made(
            "m={{ reason|urlencode }}",
            "application/x-www-form-urlencoded"
        )
        .matches(' ')
        .count(),
        0
    );
}

/// A documented variable that is missing would be an error at the start of every daemon that uses it.
#[test]
fn every_name_is_there() {
    let value = names(&samples()[0], "host-1", Some("https://x/"), SAMPLE_TIME);
    for name in VARIABLES {
        assert!(!value.get_attr(name).unwrap().is_undefined(), "{name}");
    }
    let all: String = VARIABLES
        .iter()
        .map(|name| format!("{{{{ {name} }}}},"))
        .collect();
    Template::new(&format!("[{all}0]"), "application/json")
        .check()
        .unwrap();
    assert_eq!(value.try_iter().unwrap().count(), VARIABLES.len());
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_without_the_template() {
    let json = "what it makes of a sample is no JSON: expected `,` or `}` at line 1 column 9 of that; values come with \
                their quotation marks: write {{ title }} and not \"{{ title }}\"";
    for (source, expected) in [
        (
            "{{ title",
            "line 1: syntax error: unexpected end of input, expected end of variable block",
        ),
        (
            "\n{% if firing %}\n",
            "line 2: syntax error: unexpected end of input, expected end of block",
        ),
        ("1\n{{ titel }}", "line 2: unknown name titel"),
        (
            "{% if event == 'never' %}{{ secretive }}{% endif %}",
            "line 1: unknown name secretive",
        ),
        (
            "{{ title|loud }}",
            "line 1: unknown filter: filter loud is unknown",
        ),
        ("{{ title.colour }}", "line 1: undefined value"),
        ("{{ title + 1 }}", "line 1: invalid operation"),
        ("{{ \"Hunter2\"|int }}", "line 1: invalid operation"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "line 1: it takes too many steps",
        ),
        (
            "{{ 'x' * 600000 }}",
            "line 1: it makes more than 524288 bytes",
        ),
        ("{\"t\": \"{{ title }}\"}", json),
    ] {
        let found = fault(source);
        assert!(found.contains(expected), "{source:?}: {found}");
        assert!(!found.contains("Hunter2"), "{found}");
    }
}

#[test]
fn a_template_is_blind_in_debug() {
    let shown = format!(
        "{:?}",
        Template::new("{\"token\": \"Hunter2\"}", "application/json")
    );
    assert_eq!(shown, "Template(application/json)");
}

#[test]
fn what_no_check_could_know_does_not_keep_an_alert_from_leaving() {
    assert_eq!(made("[{{ nobody.knows }}]", "text/plain"), "[]");
}
