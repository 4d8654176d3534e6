//! From a tree and a value to a text.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::TemplateError;
use super::parse::{Command, Node, Pipeline, Term};

/// What a field that isn't there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A mistake: the rows of tables have a fixed set of fields.
    Error,
    /// `<no value>`: free JSON.
    NoValue,
}

fn error<T>(message: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(message.into()))
}

/// Renders `nodes` for `value`.
pub fn render(nodes: &[Node], value: &Value, missing: Missing) -> Result<String, TemplateError> {
    let mut scope = Scope { out: String::new(), variables: Vec::new(), root: value, missing };
    scope.variables.push((String::new(), value.clone()));
    scope.nodes(nodes, value)?;
    Ok(scope.out)
}

struct Scope<'a> {
    out: String,
    variables: Vec<(String, Value)>,
    root: &'a Value,
    missing: Missing,
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let depth = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(depth);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.check_present(pipeline, dot, &value)?;
                // Nothing in a row is a pointer to nothing in Go.
                let is_nil = value.is_null() && self.missing == Missing::Error;
                self.out.push_str(&if is_nil { "<nil>".to_owned() } else { show(&value) });
            }
            Node::Assign(name, pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(test, body, otherwise) => {
                let branch = if truth(&self.pipeline(test, dot)?) { body } else { otherwise };
                self.nodes(branch, dot)?;
            }
            Node::With(pipeline, body, otherwise) => {
                let value = self.pipeline(pipeline, dot)?;
                if truth(&value) {
                    self.nodes(body, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
            }
            Node::Range { variables, over, body, otherwise } => {
                let entries = entries(&self.pipeline(over, dot)?)?;
                if entries.is_empty() {
                    self.nodes(otherwise, dot)?;
                }
                for (key, value) in entries {
                    let depth = self.variables.len();
                    match variables.as_slice() {
                        [v] => self.variables.push((v.clone(), value.clone())),
                        [k, v] => {
                            self.variables.push((k.clone(), key));
                            self.variables.push((v.clone(), value.clone()));
                        }
                        _ => {}
                    }
                    self.nodes(body, &value)?;
                    self.variables.truncate(depth);
                }
            }
        }
        Ok(())
    }

    /// A bare field that isn't there is a typing mistake when it is printed;
    /// in a condition it is only false, since fields may be left out. In a map
    /// of texts, such as labels, any key may be missing.
    fn check_present(
        &self,
        pipeline: &Pipeline,
        dot: &Value,
        value: &Value,
    ) -> Result<(), TemplateError> {
        let [command] = pipeline.as_slice() else { return Ok(()) };
        let [Term::Field(path)] = command.as_slice() else { return Ok(()) };
        let Some((last, above)) = path.split_last() else { return Ok(()) };
        if self.missing == Missing::Error || value != "<no value>" {
            return Ok(());
        }
        match self.walk(dot, above)? {
            Value::Object(map)
                if !map.contains_key(last) && !map.values().all(Value::is_string) =>
            {
                error(format!(
                    "executing \"\" at <.{}>: map has no entry for key {last:?}",
                    path.join(".")
                ))
            }
            _ => Ok(()),
        }
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in pipeline {
            last = Some(self.command(command, last, dot)?);
        }
        last.map_or_else(|| error("empty command"), Ok)
    }

    fn command(
        &self,
        command: &Command,
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        match command.split_first() {
            Some((Term::Function(name), arguments)) => {
                let mut values =
                    arguments.iter().map(|t| self.term(t, dot)).collect::<Result<Vec<_>, _>>()?;
                values.extend(piped);
                match (name.as_str(), values.as_slice()) {
                    ("json", [rows @ (Value::Object(_) | Value::Array(_))])
                        if self.missing == Missing::Error =>
                    {
                        Ok(Value::from(super::go_json(rows)))
                    }
                    _ => call(name, &values),
                }
            }
            Some((term, [])) if piped.is_none() => self.term(term, dot),
            // The one method that rows have: `.Label "key"`.
            Some((Term::Field(path), [key])) if path.len() == 1 && path[0] == "Label" => {
                let key = show(&self.term(key, dot)?);
                // The row of headings says so.
                let is_heading = dot["Label"] == true;
                Ok(Value::from(if is_heading { key } else { label(&show(&dot["Labels"]), &key) }))
            }
            _ => error("can't give arguments to a value"),
        }
    }

    fn term(&self, term: &Term, dot: &Value) -> Result<Value, TemplateError> {
        match term {
            Term::Field(path) => self.walk(dot, path),
            Term::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                match found {
                    Some((_, value)) => self.walk(value, path),
                    None if name.is_empty() => self.walk(self.root, path),
                    None => error(format!("undefined variable \"${name}\"")),
                }
            }
            Term::Text(text) => Ok(Value::from(text.as_str())),
            Term::Integer(number) => Ok(Value::from(*number)),
            Term::Bool(b) => Ok(Value::from(*b)),
            Term::Nil => Ok(Value::Null),
            Term::Group(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                self.walk(&value, path)
            }
            Term::Function(name) => call(name, &[]),
        }
    }

    fn walk(&self, value: &Value, path: &[String]) -> Result<Value, TemplateError> {
        let mut value = value;
        for name in path {
            value = match value {
                Value::Object(map) => match (map.get(name), self.missing) {
                    (Some(v), _) => v,
                    (None, Missing::NoValue) => return Ok(Value::from("<no value>")),
                    (None, Missing::Error) => {
                        return error(format!(
                            "can't evaluate field {name}: the fields are {}",
                            names(map)
                        ));
                    }
                },
                Value::Null => return Ok(Value::from("<no value>")),
                _ => return error(format!("can't evaluate field {name} of {}", show(value))),
            };
        }
        Ok(value.clone())
    }
}

/// The value of a label in `a=1,b=2`. A comma is a part of a value when no
/// new label begins behind it.
fn label(labels: &str, key: &str) -> String {
    let mut found: Option<String> = None;
    for piece in labels.split(',') {
        match (piece.split_once('='), &mut found) {
            (Some((k, v)), None) if k == key => found = Some(v.to_owned()),
            (None, Some(value)) => {
                value.push(',');
                value.push_str(piece);
            }
            (_, Some(_)) => break,
            (_, None) => {}
        }
    }
    found.unwrap_or_default()
}

fn names(map: &Map<String, Value>) -> String {
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn entries(value: &Value) -> Result<Vec<(Value, Value)>, TemplateError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => {
            Ok(list.iter().enumerate().map(|(i, v)| (Value::from(i), v.clone())).collect())
        }
        Value::Object(map) => {
            let mut entries: Vec<_> =
                map.iter().map(|(k, v)| (Value::from(k.as_str()), v.clone())).collect();
            entries.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
            Ok(entries)
        }
        other => error(format!("range can't iterate over {}", show(other))),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty() && s != "<no value>",
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Prints a value as Go's `%v` does.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(k, _)| k.as_str());
            let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{k}:{}", show(v))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let wrong = || TemplateError(format!("wrong number of arguments for {name}"));
    let first = args.first();
    let text = |i: usize| args.get(i).map(show).ok_or_else(wrong);
    let number = |i: usize| {
        args.get(i)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| TemplateError(format!("{name}: argument {} must be a number", i + 1)))
    };
    Ok(match name {
        "json" => Value::from(first.ok_or_else(wrong)?.to_string()),
        "upper" => Value::from(text(0)?.to_uppercase()),
        "lower" => Value::from(text(0)?.to_lowercase()),
        "title" => Value::from(title(&text(0)?)),
        "len" => Value::from(length(first.ok_or_else(wrong)?)?),
        "index" => index(args)?,
        "join" => {
            let list: Vec<_> =
                entries(first.ok_or_else(wrong)?)?.iter().map(|e| show(&e.1)).collect();
            Value::from(list.join(&text(1)?))
        }
        "split" => text(0)?.split(text(1)?.as_str()).map(Value::from).collect::<Vec<_>>().into(),
        "truncate" => Value::from(text(0)?.chars().take(number(1)?).collect::<String>()),
        "pad" => {
            Value::from(format!("{}{}{}", " ".repeat(number(1)?), text(0)?, " ".repeat(number(2)?)))
        }
        "print" | "println" => {
            let joined = args.iter().map(show).collect::<Vec<_>>().join(" ");
            Value::from(if name == "println" { joined + "\n" } else { joined })
        }
        "printf" => Value::from(printf(&text(0)?, args.get(1..).unwrap_or_default())),
        "not" => Value::from(!truth(first.ok_or_else(wrong)?)),
        "and" => pick(args, false).ok_or_else(wrong)?,
        "or" => pick(args, true).ok_or_else(wrong)?,
        "eq" => Value::from(args.iter().skip(1).any(|v| same(first, v))),
        "ne" => Value::from(!same(first, args.get(1).ok_or_else(wrong)?)),
        "lt" => Value::from(compare(args)? == Ordering::Less),
        "le" => Value::from(compare(args)? != Ordering::Greater),
        "gt" => Value::from(compare(args)? == Ordering::Greater),
        "ge" => Value::from(compare(args)? != Ordering::Less),
        "table" => Value::from(""),
        other => return error(format!("function {other:?} not defined")),
    })
}

/// The first argument that decides `and` (a false one) or `or` (a true one).
fn pick(args: &[Value], wanted: bool) -> Option<Value> {
    args.iter().find(|v| truth(v) == wanted).or(args.last()).cloned()
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn length(value: &Value) -> Result<usize, TemplateError> {
    match value {
        Value::Null => Ok(0),
        Value::String(s) => Ok(s.len()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(map) => Ok(map.len()),
        other => error(format!("len of {}", show(other))),
    }
}

fn index(args: &[Value]) -> Result<Value, TemplateError> {
    let Some((first, keys)) = args.split_first() else {
        return error("wrong number of arguments for index");
    };
    let mut value = first;
    for key in keys {
        value = match (value, key) {
            (Value::Array(list), Value::Number(n)) => {
                let found = n.as_u64().and_then(|i| list.get(usize::try_from(i).ok()?));
                match found {
                    Some(v) => v,
                    None => return error(format!("index out of range: {n}")),
                }
            }
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(v) => v,
                // Go's zero value of a map of texts.
                None if map.values().all(Value::is_string) => return Ok(Value::from("")),
                None => return Ok(Value::from("<no value>")),
            },
            (Value::Null, _) => return error("index of untyped nil"),
            (value, key) => {
                return error(format!("can't index {} with {}", show(value), show(key)));
            }
        };
    }
    Ok(value.clone())
}

fn same(a: Option<&Value>, b: &Value) -> bool {
    a.is_some_and(|a| a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64()))
}

fn compare(args: &[Value]) -> Result<Ordering, TemplateError> {
    match args {
        [Value::Number(a), Value::Number(b)] => {
            Ok(a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal))
        }
        [Value::String(a), Value::String(b)] => Ok(a.cmp(b)),
        _ => error("these can't be compared"),
    }
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, with a width (negative: to the left).
fn printf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut width = String::new();
        while let Some(d) = chars.next_if(|c| *c == '-' || *c == '.' || c.is_ascii_digit()) {
            width.push(d);
        }
        let text = match chars.next() {
            Some('%') => "%".to_owned(),
            Some('q') => args.next().map(|v| format!("{:?}", show(v))).unwrap_or_default(),
            Some(_) => args.next().map(show).unwrap_or_default(),
            None => "%".to_owned(),
        };
        match width.parse::<i64>() {
            Ok(w) if w < 0 => out.push_str(&format!("{text:<0$}", w.unsigned_abs() as usize)),
            Ok(w) => out.push_str(&format!("{text:>0$}", w.unsigned_abs() as usize)),
            Err(_) => out.push_str(&text),
        }
    }
    out
}
