//! The part of Go's template language that people use with `--format`:
//! fields, pipelines, `range`, `if`, `with`, variables, and docker's own
//! functions. Pure: a template and a JSON value give a text.
//!
//! Be aware:
//! - A field that the value doesn't have is an error where the value is a row
//!   of a table. In free JSON (`inspect`) it is one only when it is printed:
//!   docker's structures know which fields may be left out, JSON doesn't.
//! - Source: the documentation of Go's text/template and docker's formatting
//!   page.

mod eval;
mod parse;

use serde_json::Value;
use thiserror::Error;

pub use eval::Missing;

/// Rows as Go writes them in JSON: three characters that mean something to a
/// browser are escaped.
#[must_use]
pub fn go_json(rows: &Value) -> String {
    let text = rows.to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Why a template is wrong or can't be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("template: {0}")]
pub struct TemplateError(pub(crate) String);

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parse::Node>,
    missing: Missing,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// When the text is not of the language's supported part.
    pub fn parse(text: &str, missing: Missing) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(text)?, missing })
    }

    /// Applies the template to a value.
    ///
    /// # Errors
    /// When a field is missing (see [`Missing`]) or a function gets what it
    /// can't use.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, value, self.missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str, value: &Value) -> Result<String, TemplateError> {
        Template::parse(text, Missing::NoValue)?.render(value)
    }

    #[test]
    fn what_people_write() {
        let v = json!({"Name": "/web", "N": 3, "F": 1.5, "Yes": true, "Empty": null,
            "Net": {"Networks": {"a": {"IP": "1.2.3.4"}, "b": {"IP": "5.6.7.8"}}},
            "List": ["x", "y"], "Ports": {"80/tcp": [{"HostPort": "8080"}]}});
        for (template, want) in [
            ("{{.Name}}", "/web"),
            ("a {{ .N }} b", "a 3 b"),
            ("{{.F}} {{.Yes}}", "1.5 true"),
            ("{{json .List}}", r#"["x","y"]"#),
            ("{{range .Net.Networks}}{{.IP}} {{end}}", "1.2.3.4 5.6.7.8 "),
            ("{{range $k, $v := .Net.Networks}}{{$k}}={{$v.IP}};{{end}}", "a=1.2.3.4;b=5.6.7.8;"),
            ("{{index .List 1}}", "y"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{if .Yes}}y{{else}}n{{end}}", "y"),
            ("{{if .Empty}}y{{else if eq .N 3}}three{{else}}n{{end}}", "three"),
            ("{{if and .Yes (not .Empty)}}both{{end}}", "both"),
            ("{{with .Empty}}x{{else}}none{{end}}", "none"),
            ("{{len .List}} {{join .List \",\"}}", "2 x,y"),
            ("{{upper .Name}} {{lower \"ABC\"}} {{title \"abc\"}}", "/WEB abc Abc"),
            ("{{.Name | json}}", "\"/web\""),
            ("{{printf \"%s-%d\" .Name .N}}", "/web-3"),
            ("{{println .N}}", "3\n"),
            ("{{.List}}", "[x y]"),
            ("{{.Net.Networks.a}}", "map[IP:1.2.3.4]"),
            ("{{- .N -}} x", "3x"),
            ("{{/* nothing */}}z", "z"),
            ("{{$x := .N}}{{$x}}", "3"),
            ("{{.Net.Networks.a.Nope}}", "<no value>"),
            ("{{if .Nope}}y{{else}}n{{end}}", "n"),
            ("{{index .Net.Networks.a \"Nope\"}}|", "|"),
            ("{{split \"a,b\" \",\"}}", "[a b]"),
            ("{{truncate .Name 2}}|{{pad .N 1 1}}", "/w| 3 "),
            ("{{range $i, $e := .List}}{{$i}}{{$e}}{{end}}", "0x1y"),
            ("{{range .Empty}}x{{else}}empty{{end}}", "empty"),
        ] {
            assert_eq!(render(template, &v).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn wrong_templates_say_why() {
        for text in [
            "{{",
            "{{.A",
            "{{if .A}}",
            "{{end}}",
            "{{nosuch .A}}",
            "{{else}}",
            "{{.A | }}",
            "{{\"x}}",
        ] {
            assert!(Template::parse(text, Missing::NoValue).is_err(), "{text}");
        }
        assert!(render("{{.Nope}}", &json!({"N": 1})).is_err());
        let strict = Template::parse("{{.Nope}}", Missing::Error).unwrap();
        assert!(strict.render(&json!({})).unwrap_err().to_string().contains("Nope"));
    }

    #[test]
    fn rows_are_gos() {
        let row = json!({"N": null, "A": "<a>", "List": [{"A": "&"}]});
        let render = |text: &str| Template::parse(text, Missing::Error).unwrap().render(&row);
        assert_eq!(render("{{.N}} {{json .A}}").unwrap(), r#"<nil> "<a>""#);
        assert_eq!(render("{{json .List}}").unwrap(), r#"[{"A":"\u0026"}]"#);
    }
}
